//! Quantised safetensors files: scales and descriptions, and every weight that follows from them.

use super::{corpus, refused, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::formats;
use crate::rng::Rng;
use anyid_runtime::checkpoint::{Checkpoint, WeightSet};

/// The target.
pub struct Scaled;

const WORDS: [&str; 26] = [
    "a.weight",
    "a.scale_weight",
    "a.weight_scale",
    "a.weight_scale_2",
    "a.scale_input",
    "a.comfy_quant",
    "a.pre_quant_scale",
    "scaled_fp8",
    "spiece_model",
    "m.",
    "F8_E4M3",
    "F8_E5M2",
    "F32",
    "BF16",
    "I8",
    "U8",
    "[2,2]",
    "[2,1]",
    "[2,2,1]",
    "[2]",
    "[1]",
    "[]",
    "__metadata__",
    "_quantization_metadata",
    "{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":\\\"float8_e4m3fn\\\"}}}",
    "{\\\"layers\\\":{}}",
];

/// A file of a matrix of 2x2 in eight bits and other tensors: name, type, shape, bytes.
fn file(others: &[(&str, &str, &[u64], &[u8])], metadata: Option<&str>) -> Vec<u8> {
    let matrix = ("m.a.weight", "F8_E4M3", &[2u64, 2][..], &[0x38, 0x40, 0x3c, 0x30][..]);
    let (mut entries, mut data) = (Vec::new(), Vec::<u8>::new());
    if let Some(text) = metadata {
        let text = serde_json::json!({ "_quantization_metadata": text });
        entries.push(format!("\"__metadata__\":{text}"));
    }
    for (name, dtype, shape, bytes) in [matrix].iter().chain(others) {
        let end = data.len() + bytes.len();
        entries.push(format!(
            "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{},{end}]}}",
            data.len()
        ));
        data.extend(*bytes);
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.into_bytes());
    out.extend(data);
    out
}

impl Target for Scaled {
    fn name(&self) -> &'static str {
        "scaled"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let one = 0.5f32.to_le_bytes();
        let four: Vec<u8> = (1..5u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        let said = b"{\"format\": \"float8_e4m3fn\"}";
        let length = [said.len() as u64];
        let mut out = corpus("scaled");
        out.push(file(&[], None));
        out.push(file(
            &[("m.a.scale_weight", "F32", &[], &one), ("m.scaled_fp8", "F8_E4M3", &[0], &[])],
            None,
        ));
        out.push(file(
            &[
                ("m.a.weight_scale", "F32", &[2, 1], &four[..8]),
                ("m.a.comfy_quant", "U8", &length, said),
            ],
            None,
        ));
        out.push(file(
            &[
                ("m.a.scale_weight", "F32", &[2, 2, 1], &four),
                ("m.a.scale_input", "F32", &[], &one),
            ],
            None,
        ));
        let layers = r#"{"format_version":"1.0","layers":{"a":{"format":"float8_e4m3fn"}}}"#;
        out.push(file(&[("m.a.weight_scale", "F32", &[2], &four[..8])], Some(layers)));
        out.push(file(
            &[
                ("m.a.weight_scale", "F32", &[1], &one),
                ("m.a.pre_quant_scale", "F32", &[1], &1f32.to_le_bytes()),
            ],
            None,
        ));
        let small = |bytes: &Vec<u8>| bytes.len() < 8 << 10;
        out.extend(shared("fixtures_extra/comfy/bad").into_iter().filter(small));
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        formats::change_header(rng, data, other, self.words());
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let opened = Checkpoint::from_bytes(data.to_vec(), "input.safetensors");
        let set = match opened.and_then(|file| WeightSet::from_checkpoints(vec![file])) {
            Ok(set) => set,
            Err(error) => return refused(&error),
        };
        let scaled = match set.unscaled() {
            Ok(scaled) => scaled,
            Err(error) => return refused(&error),
        };
        if scaled.len() > set.len() {
            return Err(format!("{} weights of {} tensors", scaled.len(), set.len()));
        }
        for (name, weight) in scaled.iter() {
            match scaled.values(name) {
                Ok(values) if values.len() as u64 != weight.elements() => {
                    return Err(format!("{name}: {} values", values.len()));
                }
                Ok(_) => {}
                Err(error) => drop(refused(&error)?),
            }
        }
        Ok(Verdict::Taken)
    }
}
