//! The autoencoder in tiles: against diffusers' tiles (`reference/tiles.py`), and how far the result is
//! from that without tiles.

use anyid_ir::Tensor;
use anyid_runtime::media::ReadOptions;
use anyid_runtime::media::standardise::{StandardiseOptions, read_reference};
use anyid_runtime::pipeline::{Tiles, encode_in_tiles};
use anyid_runtime::{Backend, Model, Pipeline, Request, Size};
use anyid_tests::fixtures::{Tensors, json};
use std::path::Path;

const TILE: [usize; 2] = [192, 192];
/// Latents of a tile on a side.
const LATENTS: usize = 12;
/// Latents from the beginning of one tile to that of the next.
const STRIDE: usize = 8;
/// Latents that two tiles share.
const SHARED: usize = LATENTS - STRIDE;

fn decoded(pipeline: &Pipeline, latents: &Tensor, tile: Option<[usize; 2]>) -> Tensor {
    let [_, frames, rows, columns] = latents.shape().try_into().unwrap();
    let size = Size::of_latent([frames, rows, columns], pipeline.model().geometry());
    let tiles = Tiles { encoder: None, decoder: tile };
    let request = Request { latents: Some(latents.clone()), size, tiles, ..Request::default() };
    let mut video = vec![0f32; 3 * size.frames * size.width * size.height];
    let (area, mut seen) = (size.width * size.height, 0);
    let mut take = |part: &Tensor| {
        let (frames, values) = (part.shape()[1], part.as_f32().unwrap());
        for colour in 0..3 {
            let to = (colour * size.frames + seen) * area;
            video[to..to + frames * area]
                .copy_from_slice(&values[colour * frames * area..(colour + 1) * frames * area]);
        }
        seen += frames;
        Ok(())
    };
    pipeline.generate(&request, &mut |_| {}, &mut take).unwrap();
    assert_eq!(seen, size.frames);
    Tensor::from_f32([3, size.frames, size.height, size.width], &video).unwrap()
}

/// Largest difference of planes, at every so many rows and columns, of which `look` looks at those
/// that it is told the place of in latents.
fn worst(
    (given, steps, factor): (&Tensor, [usize; 2], usize),
    golden: &Tensor,
    look: &dyn Fn(usize, usize) -> bool,
) -> (f32, usize) {
    let [planes, frames, height, width] = given.shape().try_into().unwrap();
    let (given, golden) = (given.as_f32().unwrap(), golden.as_f32().unwrap());
    let (mut at, mut most, mut seen) = (0, 0f32, 0);
    for plane in 0..planes * frames {
        for row in (0..height).step_by(steps[0]) {
            for column in (0..width).step_by(steps[1]) {
                let difference = given[(plane * height + row) * width + column] - golden[at];
                at += 1;
                if look(row / factor, column / factor) {
                    most = most.max(difference.abs());
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(at, golden.len());
    (most, seen)
}

/// Each pixel as a square of eight.
fn larger(coarse: &Tensor) -> Tensor {
    let [planes, frames, height, width] = coarse.shape().try_into().unwrap();
    let values = coarse.as_f32().unwrap();
    let mut out = Vec::new();
    for line in values.chunks_exact(width) {
        let line: Vec<f32> = line.iter().flat_map(|value| [*value; 8]).collect();
        out.extend(std::iter::repeat_n(line, 8).flatten());
    }
    Tensor::from_f32([planes, frames, 8 * height, 8 * width], &out).unwrap()
}

#[test]
fn tiles_are_those_of_diffusers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = folder.join("fixtures_extra/tiles");
    let inputs = Tensors::open(&golden.join("inputs.safetensors"));
    let expected = Tensors::open(&golden.join("expected.safetensors"));
    assert_eq!(json(&golden.join("meta.json"))["tile"], TILE[0]);
    let model = Model::open(folder.join("fixtures/pipeline/base")).unwrap();
    let pipeline = Pipeline::new(model, Backend::open("cpu", 2).unwrap());
    for (case, [rows, columns]) in [("across", [12, 28]), ("down", [20, 12]), ("both", [20, 28])] {
        // Behind the last tile diffusers begins one more; corners are mixed otherwise there.
        let shared = |latent: usize, length: usize| {
            length > LATENTS && latent >= STRIDE && latent % STRIDE < SHARED
        };
        let own = |row: usize, column: usize| {
            (rows == LATENTS || row < rows - SHARED)
                && (columns == LATENTS || column < columns - SHARED)
                && !(shared(row, rows) && shared(column, columns))
        };
        let z = inputs.get(&format!("{case}.z"));
        for (tile, name) in [(None, "whole"), (Some(TILE), "tiled")] {
            let all = |_: usize, _: usize| true;
            let look: &dyn Fn(usize, usize) -> bool = if tile.is_some() { &own } else { &all };
            let video = decoded(&pipeline, z, tile);
            let golden = expected.get(&format!("{case}.{name}.decoded"));
            let (most, seen) = worst((&video, [7, 5], 16), golden, look);
            println!("{case} {name} decoded: {most:.2e} of {seen}");
            assert!(most < 3e-5 && seen > golden.elements() / 2, "{case} {name}: {most}");
            let pixels = larger(inputs.get(&format!("{case}.coarse")));
            let latent =
                encode_in_tiles(pipeline.model(), pipeline.backend(), &pixels, tile).unwrap();
            let golden = expected.get(&format!("{case}.{name}.latent"));
            let (most, seen) = worst((&latent, [1, 1], 1), golden, look);
            println!("{case} {name} encoded: {most:.2e} of {seen}");
            assert!(most < 3e-5 && seen > golden.elements() / 3, "{case} {name}: {most}");
        }
    }
}

/// The largest and the mean difference.
fn apart(a: &Tensor, b: &Tensor) -> [f64; 2] {
    let each = || a.as_f32().unwrap().iter().zip(b.as_f32().unwrap()).map(|(a, b)| (a - b).abs());
    let sum: f64 = each().map(f64::from).sum();
    [f64::from(each().fold(0.0, f32::max)), sum / a.elements() as f64]
}

#[test]
fn a_trained_autoencoder_in_tiles_is_close_to_one_without() {
    let pipeline = Pipeline::built_in().unwrap();
    let (model, backend) = (pipeline.model(), pipeline.backend());
    let side = 256;
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/astronaut.png");
    let options = StandardiseOptions::new(side, side);
    let read = read_reference(&picture, &options, &ReadOptions::default(), &mut |_| Ok(()));
    let frame = read.unwrap().frames.remove(0);
    let planes = (0..3).flat_map(|colour| frame.iter().skip(colour).step_by(3));
    let values: Vec<f32> = planes.map(|value| f32::from(*value) / 127.5 - 1.0).collect();
    let pixels = Tensor::from_f32([3, 1, side, side], &values).unwrap();
    let latent = encode_in_tiles(model, backend, &pixels, None).unwrap();
    let whole = decoded(&pipeline, &latent, None);
    // Largest and mean difference: of latents, whose deviation is about one, and of pixels in levels of
    // eight bits. Measured: 0.39, 0.010, 44 and 0.98; 0.39, 0.028, 69 and 1.9.
    for (tile, latents, levels) in
        [(176, [0.6, 0.015], [60.0, 1.5]), (96, [0.6, 0.04], [90.0, 2.8])]
    {
        let tiled = encode_in_tiles(model, backend, &pixels, Some([tile; 2])).unwrap();
        let encoded = apart(&latent, &tiled);
        let pixels = apart(&whole, &decoded(&pipeline, &latent, Some([tile; 2])));
        let pixels = pixels.map(|difference| 127.5 * difference);
        println!("tiles of {tile}: latents {encoded:?}, levels {pixels:?}");
        for (found, most) in encoded.into_iter().zip(latents).chain(pixels.into_iter().zip(levels))
        {
            assert!(found > 0.0 && found < most, "tiles of {tile}: {found}");
        }
    }
}
