//! Both networks as generated files whose bits are known, and files that are something else.

use super::*;
use crate::testing::TempFolder;
use crate::tiny_onnx as tiny;

fn frame(width: usize, height: usize) -> RgbFrame {
    let value = |at: usize| {
        let (x, y) = (at / 3 % width, at / 3 / width);
        (130 + (x * 50 / width) + (y * 40 / height)) as u8
    };
    RgbFrame { width, height, data: (0..3 * width * height).map(value).collect() }
}

#[test]
fn bits_that_are_put_in_are_read_again() {
    let folder = TempFolder::new("seals");
    folder.write("e.onnx", tiny::seal(12.0));
    folder.write("d.onnx", tiny::unseal());
    let path = folder.write("v.toml", "embed = \"e.onnx\"\ndetect = \"d.onnx\"\n");
    let own = Networks::open(&path).unwrap();
    let message: Vec<bool> = (0..BITS).map(|at| at * at % 7 < 3).collect();
    for (width, height) in [(256, 256), (400, 320)] {
        let plain = frame(width, height);
        let delta = own.delta(&plain, &message).unwrap();
        let mut marked = plain.clone();
        own.settings().put(&delta, &mut marked.data, width, height);
        // At the edge, beside the black around a frame, more is hidden.
        let inner = |at: &usize| {
            let (x, y) = (at / 3 % width, at / 3 / width);
            (3..width - 3).contains(&x) && (3..height - 3).contains(&y)
        };
        let change = |at: usize| plain.data[at].abs_diff(marked.data[at]);
        let most = (0..plain.data.len()).filter(inner).map(change).max();
        assert!((2..40).contains(&most.unwrap()), "{most:?}");
        let read = own.bits(&marked).unwrap();
        let right = read.iter().zip(&message).filter(|(v, bit)| (**v > 0.0) == **bit).count();
        assert_eq!(right, BITS, "{width}x{height}");
    }
}

#[test]
fn other_networks_are_found_out_when_they_are_opened() {
    let folder = TempFolder::new("others");
    let path = folder.write("v.toml", "embed = \"e.onnx\"\ndetect = \"d.onnx\"\n");
    let code = |path: &Path| Networks::open(path).unwrap_err().code();
    assert_eq!(code(&path), "E0911");
    folder.write("e.onnx", tiny::unseal());
    folder.write("d.onnx", tiny::seal(1.0));
    assert_eq!(code(&path), "E1208");
    folder.write("e.onnx", tiny::seal(1.0));
    assert_eq!(code(&path), "E1208");
    folder.write("d.onnx", tiny::means(256, "bits", &[0.0; 9], &[0.0; 3]));
    assert_eq!(code(&path), "E1208");
    folder.write("d.onnx", tiny::unseal());
    assert!(Networks::open(&path).is_ok());
    folder.write("e.onnx", tiny::seal(f32::NAN));
    assert_eq!(code(&path), "E1208");
}
