//! Adapters: read or refused with a code; what is read can be written in every dialect that has words
//! for it, and is the same again then.

use super::{corpus, refused, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::formats;
use crate::rng::Rng;
use anyid_runtime::adapter::{Adapter, Dialect, Modules, modules_by_name, write};
use anyid_runtime::files::Existing;
use anyid_tests::folders::Folder;

/// The target.
pub struct Adapters {
    folder: Folder,
    modules: Modules,
}

impl Adapters {
    /// The target.
    pub fn new() -> Self {
        Self { folder: Folder::new(), modules: modules_by_name() }
    }
}

const WORDS: [&str; 28] = [
    "F32",
    "BF16",
    "F16",
    "I64",
    "shape",
    "data_offsets",
    "__metadata__",
    "blocks.0.self_attn.q",
    "blocks.1.ffn.0",
    "head.head",
    "diffusion_model.",
    "transformer.",
    "base_model.model.",
    "lora_unet_",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_A.default.weight",
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_B.bias",
    ".alpha",
    ".dora_scale",
    ".diff_b",
    ".hada_w1_a",
    ".lokr_w1",
    "lora_adapter_metadata",
    "rank",
    "nan",
];

impl Target for Adapters {
    fn name(&self) -> &'static str {
        "adapter"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("adapter");
        let is_one = |bytes: &Vec<u8>| bytes.get(8) == Some(&b'{') && bytes.len() < 1 << 20;
        out.extend(shared("fixtures_extra/lora").into_iter().filter(is_one));
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        formats::change_header(rng, data, other, self.words());
    }

    fn run(&self, data: &[u8]) -> Outcome {
        self.folder.write("input.safetensors", data);
        let path = self.folder.path().join("input.safetensors");
        let mut adapter = match Adapter::open(&path, &self.modules) {
            Ok(adapter) => adapter,
            Err(error) => return refused(&error),
        };
        if let Err(error) = adapter.require_matches(true) {
            return refused(&error);
        }
        for dialect in Dialect::ALL {
            let to = self.folder.path().join(format!("written-{dialect}"));
            let written = write(&adapter, dialect, &self.modules, &to, Existing::Replace);
            match written {
                Ok(_) => {}
                // The writer compares what it has written: that must never differ.
                Err(error) if error.code() == "E0376" => return Err(error.to_string()),
                Err(error) => drop(refused(&error)?),
            }
        }
        Ok(Verdict::Taken)
    }
}
