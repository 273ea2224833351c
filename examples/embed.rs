//! A whole generation from another program: pictures and a prompt in, an mp4 out.

use anyid_runtime::media::color::{Rounding, planar_to_rgb};
use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use anyid_runtime::{Pipeline, ReferenceSource, Request, Size};
use std::path::Path;

/// Generates five frames with the built-in model; returns how many were written.
pub fn generate(reference: &Path, out: &Path) -> anyid_runtime::Result<usize> {
    let pipeline = Pipeline::built_in()?; // or Pipeline::open("Wan2.2-TI2V-5B-Diffusers")?
    let request = Request {
        references: vec![ReferenceSource::File(reference.to_path_buf())],
        prompt: "A close-up shot. The face is smiling. The head turns left.".into(),
        size: Size { width: 48, height: 48, frames: 5 },
        steps: 12,
        guidance: 2.0,
        ..Request::default()
    };
    let mut writer = VideoWriter::create(out, 48, 48, 24.0, &WriterOptions::default())?;
    let mut rgb = vec![0; 3 * 48 * 48];
    pipeline.generate(&request, &mut |event| eprintln!("{event:?}"), &mut |video| {
        let frames = video.shape()[1];
        let pixels = video.as_f32().expect("frames are f32");
        (0..frames).try_for_each(|t| {
            planar_to_rgb(pixels, frames, t, 48, 48, Rounding::Truncate, &mut rgb);
            writer.push(&rgb)
        })
    })?;
    Ok(writer.finish()?.frames)
}

#[allow(dead_code)]
fn main() -> anyid_runtime::Result<()> {
    let out = std::env::temp_dir().join("embed.mp4");
    let frames = generate(Path::new("examples/characters/first/portrait.png"), &out)?;
    println!("{frames} frames in {}", out.display());
    Ok(())
}
