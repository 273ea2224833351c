//! Safetensors files: the header, and every tensor read in every way.

use super::{corpus, refused};
use crate::engine::{Outcome, Target, Verdict};
use crate::formats;
use crate::rng::Rng;
use anyid_runtime::checkpoint::{Checkpoint, Derivation, WeightSet};

/// The target.
pub struct Safetensors;

const WORDS: [&str; 24] = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U64",
    "U32",
    "U16",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    "[",
    "]",
    "{}",
    "null",
    "\\u0000",
];

/// A file of tensors: type, shape and bytes of each.
fn file(tensors: &[(&str, &str, &[u64], usize)], metadata: bool) -> Vec<u8> {
    let (mut parts, mut end) = (Vec::new(), 0);
    if metadata {
        parts.push("\"__metadata__\":{\"format\":\"pt\",\"a\":\"b\"}".to_owned());
    }
    for (name, dtype, shape, bytes) in tensors {
        parts.push(format!(
            "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{end},{}]}}",
            end + bytes
        ));
        end += bytes;
    }
    let header = format!("{{{}}}", parts.join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.into_bytes());
    out.extend((0..end).map(|at| (at * 7) as u8));
    out
}

/// Makes weights of all tensors in every way, of which most are refused, and reads the others.
fn derive(set: &WeightSet) -> Result<(), String> {
    let names: Vec<&str> = set.names().collect();
    for (one, other) in names.iter().zip(names.iter().cycle().skip(1)) {
        let (a, b) = (Derivation::tensor(*one), Derivation::tensor(*other));
        for derivation in [
            a.clone().transposed(),
            a.clone().transposed().transposed(),
            a.clone().reshaped([1, set.tensor(one).map_or(0, |weight| weight.elements())]),
            Derivation::Concatenated(vec![a.clone(), b.clone()], 0),
            Derivation::Concatenated(vec![a.clone(), b.clone(), a.clone()], 1),
            a.clone().plus_low_rank(0.5, a.clone(), b.clone()),
            a.clone().plus_low_rank(0.5, b.clone().transposed(), a.clone()),
        ] {
            let made = set.derived([("w".to_owned(), derivation)]);
            if let Err(error) = made.and_then(|made| made.contents("w")) {
                refused(&error)?;
            }
        }
    }
    Ok(())
}

impl Target for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("safetensors");
        out.push(file(&[("a", "F32", &[2, 3], 24), ("b", "BF16", &[4], 8)], true));
        out.push(file(&[("x.0", "F16", &[1, 2, 2], 8), ("x.1", "I64", &[], 8)], false));
        out.push(file(
            &[("e", "U8", &[0], 0), ("f", "BOOL", &[3], 3), ("g", "F64", &[1], 8)],
            true,
        ));
        out.push(file(&[("q", "F8_E4M3", &[5], 5), ("r", "F8_E5M2", &[5], 5)], false));
        out.push(file(&[], true));
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        formats::change_header(rng, data, other, self.words());
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let checkpoint = match Checkpoint::from_bytes(data.to_vec(), "input.safetensors") {
            Ok(checkpoint) => checkpoint,
            Err(error) => return refused(&error),
        };
        let mut read = 0u64;
        for (position, (name, tensor)) in checkpoint.iter().enumerate() {
            if checkpoint.tensor(name).is_none() {
                return Err(format!("{name} is there and not found"));
            }
            read += tensor.bytes;
            let contents = match checkpoint.contents(position) {
                Ok(contents) => contents,
                Err(error) => return refused(&error),
            };
            let mut values = vec![0.0; tensor.elements() as usize];
            if let Err(error) = tensor.encoding.decode(&contents, &mut values) {
                refused(&error)?;
            }
        }
        if read > data.len() as u64 {
            return Err(format!("{read} bytes of tensors in a file of {}", data.len()));
        }
        if let Err(error) = checkpoint.fingerprint() {
            return refused(&error);
        }
        match WeightSet::from_checkpoints(vec![checkpoint]) {
            Ok(set) => {
                let _ = (set.total_bytes(), set.bytes_by_encoding());
                for name in set.names() {
                    if let Err(error) = set.contents(name) {
                        return refused(&error);
                    }
                }
                derive(&set)?;
                match set.fingerprint() {
                    Ok(_) => Ok(Verdict::Taken),
                    Err(error) => refused(&error),
                }
            }
            Err(error) => refused(&error),
        }
    }
}
