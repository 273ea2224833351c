//! GGUF files: the header, every tensor decoded, the lists beside them, and what a tokenizer makes of
//! those.

use super::{corpus, refused, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_models::wan::names::Component;
use anyid_runtime::checkpoint::{Checkpoint, WeightSet};
use anyid_runtime::text::PromptTokenizer;
use anyid_runtime::weights::ModelWeights;

/// The target.
pub struct Gguf;

const WORDS: [&str; 18] = [
    "GGUF",
    "general.alignment",
    "general.architecture",
    "comfy.gguf.orig_shape.w",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.precompiled_charsmap",
    "patch_embedding.weight",
    "blocks.0.self_attn.q.weight",
    "enc.blk.0.attn_rel_b.weight",
    "model.diffusion_model.",
    "\u{1}\0\0\0\0\0\0\0",
    "\u{8}\0\0\0",
    "\u{9}\0\0\0",
    "\u{c}\0\0\0",
    "\0\0\0\0\0\0\0\0",
];

/// Blocks of 32 elements, or of 256, and the bytes of each, by the number of the type.
const BLOCKS: [(u32, u64, usize); 15] = [
    (0, 1, 4),
    (1, 1, 2),
    (30, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (20, 32, 18),
    (23, 256, 136),
];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file of tensors of a type each, two rows of one block, with or without a tokenizer.
fn file(names: &[(&str, usize)], tokenizer: bool) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((names.len() as u64).to_le_bytes());
    out.extend(if tokenizer { 4u64 } else { 1 }.to_le_bytes());
    text(&mut out, "general.alignment");
    out.extend([4, 0, 0, 0, 32, 0, 0, 0]);
    if tokenizer {
        let list = |out: &mut Vec<u8>, key: &str, kind: u32| {
            text(out, key);
            out.extend([9, 0, 0, 0]);
            out.extend(kind.to_le_bytes());
            out.extend(4u64.to_le_bytes());
        };
        list(&mut out, "tokenizer.ggml.tokens", 8);
        ["</s>", "<unk>", "▁", "a"].iter().for_each(|piece| text(&mut out, piece));
        list(&mut out, "tokenizer.ggml.scores", 6);
        [0.0f32, 0.0, -1.0, -2.0].iter().for_each(|score| out.extend(score.to_le_bytes()));
        list(&mut out, "tokenizer.ggml.token_type", 5);
        [3i32, 2, 1, 1].iter().for_each(|kind| out.extend(kind.to_le_bytes()));
    }
    let mut offset = 0usize;
    for (name, ty) in names {
        let (number, elements, bytes) = BLOCKS[*ty];
        text(&mut out, name);
        out.extend(2u32.to_le_bytes());
        out.extend(elements.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(number.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset = (offset + 2 * bytes).next_multiple_of(32);
    }
    let data = out.len().next_multiple_of(32);
    out.resize(data, 0);
    out.extend((0..offset).map(|at| (at * 7) as u8));
    out
}

impl Target for Gguf {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("gguf");
        let all: Vec<(String, usize)> = (0..15).map(|at| (format!("t{at}"), at)).collect();
        let all: Vec<(&str, usize)> = all.iter().map(|(name, at)| (name.as_str(), *at)).collect();
        out.push(file(&all, false));
        for ty in 0..BLOCKS.len() {
            out.push(file(&[("w", ty), ("patch_embedding.weight", 0)], ty % 2 == 0));
        }
        out.push(file(&[("blocks.0.self_attn.q.weight", 7), ("patch_embedding.weight", 1)], false));
        out.push(file(&[("enc.blk.0.attn_rel_b.weight", 0)], true));
        let small = |bytes: &Vec<u8>| bytes.starts_with(b"GGUF") && bytes.len() < 8 << 10;
        out.extend(shared("fixtures_extra/gguf").into_iter().filter(small));
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::bytes(rng, data, self.words(), other);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let checkpoint = match Checkpoint::from_bytes(data.to_vec(), "input.gguf") {
            Ok(checkpoint) => checkpoint,
            Err(error) => return refused(&error),
        };
        let mut read = 0;
        for (position, (name, tensor)) in checkpoint.iter().enumerate() {
            if checkpoint.tensor(name).is_none() {
                return Err(format!("{name} is there and not found"));
            }
            read += tensor.bytes;
            if let Err(error) = checkpoint.contents(position) {
                return Err(format!("{name} cannot be read: {error}"));
            }
        }
        if read > data.len() as u64 {
            return Err(format!("{read} bytes of tensors in a file of {}", data.len()));
        }
        let set = match WeightSet::from_checkpoints(vec![checkpoint]) {
            Ok(set) => set,
            Err(error) => return refused(&error),
        };
        for name in set.names() {
            if let Err(error) = set.values(name) {
                refused(&error)?;
            }
        }
        for component in [Component::Dit, Component::Text] {
            match ModelWeights::recognise(&set, component) {
                Ok(weights) => {
                    let _ = weights.mostly_bf16();
                }
                Err(error) => drop(refused(&error)?),
            }
        }
        match PromptTokenizer::inside(&set, 64) {
            Ok(Some(tokenizer)) => {
                if let Err(error) = tokenizer.encode("a b ü", 16) {
                    refused(&error)?;
                }
                Ok(Verdict::Taken)
            }
            Ok(None) => Ok(Verdict::Taken),
            Err(error) => refused(&error),
        }
    }
}
