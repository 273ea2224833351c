//! References of every kind through the built-in model, and how each is brought to the target size.

use anyid_runtime::media::ReadOptions;
use anyid_runtime::media::standardise::{Reference, StandardiseOptions, read_reference};
use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use anyid_runtime::{Model, Pipeline, ReferenceSource, Request, Size};
use anyid_tests::devices;
use image::{DynamicImage, ImageFormat, RgbImage, Rgba, RgbaImage};
use std::path::{Path, PathBuf};

const SIZE: Size = Size { width: 96, height: 64, frames: 5 };

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("anyid-references-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Red above, blue below.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |_, y| {
        if y < height / 2 { image::Rgb([220, 20, 20]) } else { image::Rgb([20, 20, 220]) }
    })
}

fn save(path: &Path, image: impl Into<DynamicImage>, format: ImageFormat) {
    image.into().save_with_format(path, format).unwrap();
}

/// A JPEG with an EXIF orientation, inserted behind the start marker.
fn save_rotated_jpeg(path: &Path, orientation: u8) {
    save(path, picture(64, 32), ImageFormat::Jpeg);
    let plain = std::fs::read(path).unwrap();
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".to_vec();
    exif.extend([0, orientation, 0, 0, 0, 0, 0, 0]);
    let mut out = plain[..2].to_vec();
    out.extend([0xff, 0xe1]);
    out.extend((exif.len() as u16 + 2).to_be_bytes());
    out.extend(&exif);
    out.extend(&plain[2..]);
    std::fs::write(path, out).unwrap();
}

fn clip(path: &Path, frames: usize) {
    let (width, height) = (64, 48);
    let mut writer =
        VideoWriter::create(path, width, height, 24.0, &WriterOptions::default()).unwrap();
    for t in 0..frames {
        let level = (40 + 20 * t) as u8;
        writer.push(&vec![level; 3 * width * height]).unwrap();
    }
    writer.finish().unwrap();
}

fn read(path: &Path) -> Reference {
    let options = StandardiseOptions::new(SIZE.width, SIZE.height);
    read_reference(path, &options, &ReadOptions::default(), &mut |_| Ok(()))
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Colour at a position of frame 0.
fn pixel(reference: &Reference, x: usize, y: usize) -> [u8; 3] {
    let at = 3 * (y * reference.width + x);
    reference.frames[0][at..at + 3].try_into().unwrap()
}

fn near(a: [u8; 3], b: [u8; 3]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.abs_diff(b) < 40)
}

const RED: [u8; 3] = [220, 20, 20];
const BLUE: [u8; 3] = [20, 20, 220];
const BLACK: [u8; 3] = [0, 0, 0];

#[test]
fn portrait_and_landscape_are_padded_with_black() {
    let folder = Folder::new("pad");
    save(&folder.at("portrait.png"), picture(32, 64), ImageFormat::Png);
    let portrait = read(&folder.at("portrait.png"));
    assert_eq!(pixel(&portrait, 2, 32), BLACK, "bars at the sides");
    assert!(near(pixel(&portrait, 48, 8), RED) && near(pixel(&portrait, 48, 56), BLUE));
    save(&folder.at("landscape.webp"), picture(128, 32), ImageFormat::WebP);
    let landscape = read(&folder.at("landscape.webp"));
    assert_eq!(pixel(&landscape, 48, 2), BLACK, "bars above and below");
    assert!(near(pixel(&landscape, 4, 28), RED) && near(pixel(&landscape, 92, 40), BLUE));
}

#[test]
fn orientation_alpha_and_grey_are_understood() {
    let folder = Folder::new("kinds");
    save_rotated_jpeg(&folder.at("rotated.jpg"), 6);
    let rotated = read(&folder.at("rotated.jpg"));
    // Orientation 6 turns the picture clockwise: what was above is at the right.
    assert!(near(pixel(&rotated, 56, 32), RED), "{:?}", pixel(&rotated, 56, 32));
    assert!(near(pixel(&rotated, 40, 32), BLUE), "{:?}", pixel(&rotated, 40, 32));
    assert_eq!(pixel(&rotated, 2, 32), BLACK, "a portrait after turning");

    let clear =
        RgbaImage::from_fn(96, 64, |x, _| Rgba([200, 100, 50, if x < 48 { 0 } else { 255 }]));
    save(&folder.at("alpha.png"), clear, ImageFormat::Png);
    let alpha = read(&folder.at("alpha.png"));
    assert_eq!(pixel(&alpha, 10, 10), BLACK);
    assert_eq!(pixel(&alpha, 80, 10), [200, 100, 50]);

    let grey = image::GrayImage::from_pixel(96, 64, image::Luma([77]));
    save(&folder.at("grey.png"), grey, ImageFormat::Png);
    assert_eq!(pixel(&read(&folder.at("grey.png")), 50, 30), [77; 3]);
}

#[test]
fn clips_keep_4k_plus_1_frames() {
    let folder = Folder::new("clips");
    for (frames, kept) in [(1, 1), (3, 1), (5, 5), (7, 5), (9, 9), (12, 9)] {
        let path = folder.at(&format!("{frames}.mp4"));
        clip(&path, frames);
        assert_eq!(read(&path).frames.len(), kept, "{frames} frames");
    }
    let gif = folder.at("animated.gif");
    let mut encoder = image::codecs::gif::GifEncoder::new(std::fs::File::create(&gif).unwrap());
    let delay = image::Delay::from_numer_denom_ms(125, 1);
    let frames = (0..3u8).map(|i| {
        let image = RgbaImage::from_pixel(32, 32, Rgba([80 * i, 0, 0, 255]));
        image::Frame::from_parts(image, 0, 0, delay)
    });
    encoder.encode_frames(frames).unwrap();
    drop(encoder);
    // Three pictures of an eighth of a second are nine frames at 24 a second.
    assert_eq!(read(&gif).frames.len(), 9);
}

fn generate(references: Vec<ReferenceSource>) -> anyid_runtime::Result<usize> {
    let backend = devices::first_backend(2);
    let pipeline = Pipeline::new(Model::micro()?, backend);
    let request =
        Request { references, prompt: "waving".into(), size: SIZE, steps: 2, ..Request::default() };
    let mut frames = 0;
    pipeline.generate(&request, &mut |_| {}, &mut |video| {
        frames += video.shape()[1];
        Ok(())
    })?;
    Ok(frames)
}

#[test]
fn none_one_and_five_references_run_and_six_are_refused() {
    let folder = Folder::new("count");
    save(&folder.at("a.png"), picture(64, 64), ImageFormat::Png);
    clip(&folder.at("b.mp4"), 6);
    let files = |count: usize| -> Vec<ReferenceSource> {
        (0..count)
            .map(|i| ReferenceSource::File(folder.at(if i == 1 { "b.mp4" } else { "a.png" })))
            .collect()
    };
    for count in [0, 1, 2, 5] {
        assert_eq!(generate(files(count)).unwrap(), 5, "{count} references");
    }
    let error = generate(files(6)).unwrap_err();
    assert_eq!(error.code(), "E0903");
}
