//! Support of tests: faces and pictures that are what their colour says, and videos of plain frames.

use crate::identity::{Detectors, Encoder, Measure};
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_study::detect::{Faces, Identities};
use anyid_study::face::{Points, TEMPLATE};
use anyid_study::geometry::Rect;
use anyid_study::picture::Plane;
use anyid_study::records::Face;
use std::path::Path;

/// The colour of frames without a face.
pub const NOBODY: [u8; 3] = [0, 0, 0];

/// A frame of one colour.
pub fn plain(color: [u8; 3], width: usize, height: usize) -> RgbFrame {
    RgbFrame { width, height, data: color.repeat(width * height) }
}

/// A face at a place.
pub fn face(f: usize, area: Rect, score: f64) -> Face {
    let across = (area[2] - area[0]) / 112.0;
    let kps: Points = TEMPLATE.map(|[x, y]| [area[0] + x * across, area[1] + y * across]);
    Face { f, area, kps, score, blur: 0.0, luma: 0.0, extremes: 0.0, pose: None, embedding: None }
}

/// Finds one face that fills the middle of a frame, unless the frame is black.
pub struct Colours;

impl Faces for Colours {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let (width, height) = (image.width as f64, image.height as f64);
        let middle = 3 * (image.height / 2 * image.width + image.width / 2);
        let dark = image.data[middle..middle + 3].iter().all(|value| *value < 24);
        let area = [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height];
        Ok(if dark { Vec::new() } else { vec![face(f, area, 0.9)] })
    }
}

/// Says of a face how its colour differs from grey, one number a channel: colours are directions.
pub struct Directions;

impl Identities for Directions {
    fn embedding(&self, plane: &Plane, points: &Points) -> Result<Option<Vec<f32>>> {
        let [x, y] = points[2].map(|at| at.max(0.0) as usize);
        let (x, y) = (x.min(plane.width - 1), y.min(plane.height - 1));
        let at = 3 * (y * plane.width + x);
        // To steps of 32: files of videos change colours a little.
        let step = |value: &f32| ((value - 128.0) / 32.0).round();
        Ok(Some(plane.data[at..at + 3].iter().map(step).collect()))
    }
}

/// A measure with both, ArcFace alone.
pub fn measure(frames: usize) -> Measure {
    let arc = Encoder { encoder: Box::new(Directions), sha256: "a".repeat(64) };
    let detectors = Detectors::of(vec![Box::new(Colours)]);
    Measure::of(detectors, [Some(arc), None], Vec::new(), frames, "test")
}

/// Writes a video of plain frames.
pub fn video(path: &Path, colors: &[[u8; 3]]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = VideoWriter::create(path, 64, 64, 24.0, &WriterOptions::default()).unwrap();
    for color in colors {
        writer.push(&plain(*color, 64, 64).data).unwrap();
    }
    writer.finish().unwrap();
}

/// Writes a picture of one colour.
pub fn picture(path: &Path, color: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels = plain(color, 64, 64).data;
    image::save_buffer(path, &pixels, 64, 64, image::ExtendedColorType::Rgb8).unwrap();
}
