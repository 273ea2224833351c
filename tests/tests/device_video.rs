//! Devices that compile kernels, under the whole runtime: a video by the tiny random networks has the frames
//! that the CPU gives it, in both precisions. Those are the ones of the list of `ANYID_DEVICES`, and the
//! emulated ones without it.

use anyid_ir::{DType, TensorType};
use anyid_models::wan::Precision;
use anyid_runtime::{Model, Pipeline, ReferenceSource, Request, Size};
use anyid_tests::close::absolute;
use anyid_tests::devices;
use anyid_tests::op_cases::noise;

const SIZE: Size = Size { width: 32, height: 32, frames: 5 };

/// Latents and pixels of a request with a picture, on a device.
fn generate(device: &str, precision: Precision) -> [Vec<f64>; 2] {
    let pipeline = Pipeline::new(
        Model::micro().unwrap_or_else(|e| panic!("{e}")),
        devices::backend(device, 2),
    );
    let picture = noise(TensorType::new(DType::F32, [3, 1, SIZE.height, SIZE.width]), 11);
    let request = Request {
        references: vec![ReferenceSource::Pixels(picture)],
        prompt: "smiling, in a garden".into(),
        size: SIZE,
        steps: 2,
        seed: 7,
        precision: Some(precision),
        text_tokens: Some(24),
        ..Request::default()
    };
    let mut pixels = Vec::new();
    let report = pipeline.generate(&request, &mut |_| {}, &mut |video| {
        pixels.extend(video.to_f64_vec());
        Ok(())
    });
    let report = report.unwrap_or_else(|e| panic!("{device}: {e}"));
    assert_eq!(pixels.len(), SIZE.frames * 3 * SIZE.height * SIZE.width, "{device}");
    [report.latents.to_f64_vec(), pixels]
}

/// The largest differences of latents and of frames.
fn apart(given: &[Vec<f64>; 2], wanted: &[Vec<f64>; 2]) -> [f64; 2] {
    [0, 1].map(|at| absolute(&given[at], &wanted[at]))
}

/// Frames lie between −1 and 1. In f32 the bound is that of the goldens of whole videos. In bf16 every sum
/// may fall to the other side of a tie, so the video is as near to that in f32 as the CPU's, within a
/// factor of 2.
#[test]
fn a_video_has_the_frames_that_the_cpu_gives_it() {
    let [exact, rounded] =
        [Precision::F32, Precision::Bf16].map(|precision| generate("cpu", precision));
    assert!(exact[1].iter().any(|v| v.abs() > 0.1), "there is something to see");
    let [latents, frames] = apart(&rounded, &exact);
    assert!(latents > 1e-4 && frames > 1e-4, "bf16 makes a difference: {latents} {frames}");
    let listed = devices::names().iter().copied().filter(|name| devices::is_slow(name));
    let mut all: Vec<&str> = listed.collect();
    if all.is_empty() {
        all.extend(devices::EMULATED);
    }
    for device in all {
        let found = apart(&generate(device, Precision::F32), &exact);
        println!("{device} f32: latents {:.1e}, frames {:.1e}", found[0], found[1]);
        assert!(found[1] <= 1e-4, "{device} f32: {found:?}");
        let found = apart(&generate(device, Precision::Bf16), &exact);
        println!("{device} bf16: {found:?}, the CPU: {:?}", [latents, frames]);
        let near = found[0] <= 2.0 * latents && found[1] <= 2.0 * frames;
        assert!(near, "{device} bf16: {found:?}, the CPU: {:?}", [latents, frames]);
    }
}
