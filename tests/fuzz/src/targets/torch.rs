//! Files of PyTorch: the archive, the pickle in it, and every tensor read.

use super::{corpus, refused, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_runtime::checkpoint::Checkpoint;

/// The target.
pub struct Torch;

/// Most bytes of a tensor of a small file.
const REPEATED: u64 = 1 << 20;

const WORDS: [&str; 16] = [
    "PK\x03\x04",
    "PK\x01\x02",
    "PK\x05\x06",
    "archive/data.pkl",
    "archive/data/0",
    "byteorder",
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "ctorch._utils\n_rebuild_tensor_v3\n",
    "ccollections\nOrderedDict\n",
    "ctorch\nFloatStorage\n",
    "cposix\nsystem\n",
    "storage",
    "(",
    "R",
    "Q",
    ".",
];

impl Target for Torch {
    fn name(&self) -> &'static str {
        "torch"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("torch");
        let small = |bytes: &Vec<u8>| bytes.starts_with(b"PK") && bytes.len() < 8 << 10;
        out.extend(shared("fixtures_extra/pth").into_iter().filter(small));
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::bytes(rng, data, self.words(), other);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let checkpoint = match Checkpoint::from_bytes(data.to_vec(), "input.pth") {
            Ok(checkpoint) => checkpoint,
            Err(error) => return refused(&error),
        };
        for (position, (name, tensor)) in checkpoint.iter().enumerate() {
            if checkpoint.tensor(name).is_none() {
                return Err(format!("{name} is there and not found"));
            }
            // A view may repeat elements, up to the size of the file or to this.
            if tensor.bytes > (data.len() as u64).max(REPEATED) {
                return Err(format!("{name} has more bytes than the file"));
            }
            if let Err(error) = checkpoint.contents(position) {
                return Err(format!("{name} cannot be read: {error}"));
            }
        }
        match checkpoint.fingerprint() {
            Ok(_) => Ok(Verdict::Taken),
            Err(error) => refused(&error),
        }
    }
}
