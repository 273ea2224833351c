//! Frames of version 1 against those of the program in which the world was first made, and frames
//! of both versions against what they were: a world that changes is another world.

use anyid_world::{Clip, Identity, Painter, SIDE, View, World};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The pixels of an RGB picture, and its width.
fn picture(name: &str) -> (Vec<u8>, usize) {
    let file = std::io::BufReader::new(std::fs::File::open(golden(name)).expect("the picture"));
    let mut decoder = image_webp::WebPDecoder::new(file).expect("a WebP picture");
    assert!(!decoder.has_alpha() && !decoder.is_lossy());
    let mut pixels = vec![0; decoder.output_buffer_size().expect("a size")];
    decoder.read_image(&mut pixels).expect("pixels");
    (pixels, decoder.dimensions().0 as usize)
}

fn numbers<const N: usize>(value: &Value) -> [f32; N] {
    let list = value.as_array().expect("a list");
    assert_eq!(list.len(), N);
    std::array::from_fn(|at| list[at].as_f64().expect("a number") as f32)
}

/// What a line of `frames.jsonl` describes.
fn described(world: &World, line: &str) -> (Identity, Clip, View) {
    let value: Value = serde_json::from_str(line).expect("JSON");
    let classes = numbers::<11>(&value["identity"]).map(|class| class as u8);
    let width = value["width"].as_f64().expect("a number") as f32;
    let identity = Identity::new(classes, width).expect("classes");
    let classes = numbers::<10>(&value["clip"]).map(|class| class as u8);
    let clip = world.clip(classes, numbers(&value["shades"]), numbers(&value["wobble"]));
    let time = value["time"].as_f64().expect("a time") as f32;
    let view = match value["view"].as_str() {
        Some("frame") => View::Frame(time),
        Some("face") => View::Face(time),
        Some("portrait") => View::Portrait(time),
        other => panic!("{other:?} is no view"),
    };
    (identity, clip.expect("a clip"), view)
}

#[test]
fn frames_are_those_of_the_prototype() {
    let (pixels, width) = picture("frames.webp");
    let world = World::new(1).expect("version 1");
    let mut painter = Painter::new(SIDE).expect("a size");
    let lines = std::fs::read_to_string(golden("frames.jsonl")).expect("descriptions");
    let across = width / SIDE;
    let (mut frames, mut different) = (0, 0);
    for (number, line) in lines.lines().enumerate() {
        let (identity, clip, view) = described(&world, line);
        let frame = painter.frame(&world.scene(&identity, &clip, view));
        let (column, row) = (number % across, number / across);
        for y in 0..SIDE {
            let at = ((row * SIDE + y) * width + column * SIDE) * 3;
            let wanted = &pixels[at..at + SIDE * 3];
            for (x, (own, wanted)) in frame[y * SIDE * 3..].iter().zip(wanted).enumerate() {
                let apart = own.abs_diff(*wanted);
                assert!(apart <= 1, "frame {number}, ({}, {y}): {own} {wanted}: {line}", x / 3);
                different += u32::from(apart);
            }
        }
        frames += 1;
    }
    assert_eq!(frames, 200);
    // Rounding at the half, nothing more.
    assert!(different < 200, "{different} values differ by one level");
}

/// SHA-256 of what a closure paints.
fn hash(paint: impl Fn(&mut dyn FnMut(&[u8]))) -> String {
    let mut hash = Sha256::new();
    paint(&mut |frame| hash.update(frame));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_stay_what_they_are() {
    let of = |version: u32, size: usize| {
        hash(|add| {
            let world = World::new(version).expect("a version");
            let mut painter = Painter::new(size).expect("a size");
            for number in (0..60).chain(2_000_000..2_000_060) {
                let group = world.group(number).expect("a group");
                let clip = group.clip(number as usize % 5).expect("a clip");
                let time = number as f32 % 7.0 / 7.0;
                for view in [View::Frame(time), View::Face(time), View::Portrait(time)] {
                    add(&painter.frame(&world.scene(&group.identity, &clip, view)));
                }
            }
        })
    };
    let found = [of(1, SIDE), of(2, SIDE), of(2, SIDE * 3)];
    let known = [
        "7b3a8a7640f6c6405c132e4ad7d2228088e29dd4fe9d493922d47da147fcf3b4",
        "bb30d9900236c8c9c15ee6bb6e80d45d19c679c47475fda6adee327204784de1",
        "bd8ee120c4d690f2f97d25ec26260e156ded17d05b11c3c23d49d7310df4846d",
    ];
    assert_eq!(found, known);
}

#[test]
fn a_larger_frame_is_the_same_picture() {
    let world = World::new(2).expect("version 2");
    let group = world.group(5).expect("a group");
    let scene = world.scene(&group.identity, &group.clip(1).expect("a clip"), View::Frame(0.5));
    let small = Painter::new(SIDE).expect("a size").frame(&scene);
    let large = Painter::new(SIDE * 4).expect("a size").frame(&scene);
    let mut apart = 0.0;
    for (at, value) in small.iter().enumerate() {
        let (pixel, part) = (at / 3, at % 3);
        let (x, y) = (pixel % SIDE * 4, pixel / SIDE * 4);
        let inside = |dx, dy| f64::from(large[((y + dy) * SIDE * 4 + x + dx) * 3 + part]);
        let mean = (0..16).map(|at| inside(at % 4, at / 4)).sum::<f64>() / 16.0;
        apart += (mean - f64::from(*value)).abs();
    }
    apart /= small.len() as f64;
    assert!(apart < 3.0, "{apart} levels on average");
}
