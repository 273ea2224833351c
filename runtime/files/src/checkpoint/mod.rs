//! Checkpoint files and model folders: reading, deriving weights from what is stored, and writing.
//!
//! A file is a table of named byte ranges with an encoding each (`table`, `encoding`), whatever its
//! format; a parser makes the table (`format`, `safetensors`, `torch` with `pickle`, `gguf`). Reading
//! goes `source` (bytes of a file by range) → `file` (one file and its table) → `set` (weights of one
//! or several files, by name) → `folder` (which files make up a model). What a weight is made of is
//! said by a `derivation`, and `weight` reads it; `scales` makes derivations of weights that were
//! stored with scales. Writing goes `writer` (safetensors, bounded memory; `gguf::write` for GGUF, with
//! `quantise`) → `output` (whole files or
//! none). Nothing here knows what a tensor means: names and shapes are compared with the manifests
//! that the caller brings.

mod blocks;
mod computed;
mod derivation;
mod digest;
mod encoding;
mod file;
pub mod folder;
mod format;
pub mod gguf;
mod index;
pub mod json;
mod pickle;
mod quantise;
mod safetensors;
mod scales;
mod set;
mod source;
mod table;
mod tensors;
mod torch;
mod weight;
pub mod writer;

pub use crate::output::{AtomicFile, write_error};
pub use derivation::Derivation;
pub use digest::hash_file;
pub use encoding::{Block, Encoding};
pub use file::Checkpoint;
pub use folder::{Component, DiffusersFolder, Layout, ModelFolder, OriginalFolder, WeightFiles};
pub use format::{Foreign, Format, foreign};
pub use json::{JsonFile, read_json};
pub use quantise::{LARGEST_E4M3, to_e4m3};
pub use scales::SPIECE;
pub use set::WeightSet;
pub use table::{Table, TensorRange};
pub use tensors::{read_tensors, writable, write_tensors, write_tensors_in};
pub use weight::Weight;
pub use writer::{
    SafetensorsWriter, TensorSink, TensorSpec, pytorch_metadata, save, save_in, write_sharded,
};

/// Joins up to ten items for a message and says how many there are in all when some are left out.
pub(crate) fn first_ten<T: AsRef<str>>(items: &[T]) -> String {
    let shown: Vec<&str> = items.iter().take(10).map(AsRef::as_ref).collect();
    let mut text = shown.join(", ");
    if items.len() > 10 {
        text.push_str(&format!(", … ({} in all)", items.len()));
    }
    text
}

/// A byte count as people read it (`9.31 GiB`), with the exact number for small ones.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" });
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {} ({bytes} bytes)", UNITS[unit])
}
