//! The targets.

mod adapter;
mod config;
mod gguf;
mod inscription;
mod ir;
mod kernel;
mod media;
mod plan;
mod programs;
mod recipe;
mod safetensors;
mod scaled;
mod spiece;
mod tokenizer;
mod torch;

use crate::engine::{Outcome, Target, Verdict};
use anyid_runtime::{Error, Kind};
use std::path::PathBuf;

/// All targets.
pub fn all() -> Vec<Box<dyn Target>> {
    vec![
        Box::new(ir::Ir::new()),
        Box::new(kernel::Kernels::new()),
        Box::new(plan::PlanFiles::new()),
        Box::new(safetensors::Safetensors),
        Box::new(config::Configs::new()),
        Box::new(tokenizer::Tokenizers::new()),
        Box::new(media::Media::pictures()),
        Box::new(media::Media::clips()),
        Box::new(recipe::Recipes::new()),
        Box::new(inscription::Inscriptions::new()),
        Box::new(adapter::Adapters::new()),
        Box::new(torch::Torch),
        Box::new(gguf::Gguf),
        Box::new(scaled::Scaled),
        Box::new(spiece::Spiece::new()),
    ]
}

/// The target of this name.
pub fn named(name: &str) -> Option<Box<dyn Target>> {
    all().into_iter().find(|target| target.name() == name)
}

/// The files of a folder of the corpus, by name.
pub fn corpus(folder: &str) -> Vec<Vec<u8>> {
    files(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(folder))
}

/// The files of a folder, by name; those of folders in it too.
fn files(folder: PathBuf) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut out = Vec::new();
    for path in paths {
        if path.is_dir() {
            out.extend(files(path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            out.push(bytes);
        }
    }
    out
}

/// The files of a folder of the tests.
fn shared(folder: &str) -> Vec<Vec<u8>> {
    files(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(folder))
}

/// An error that an input may give is a refusal; a fault of ours is none.
fn refused(error: &Error) -> Outcome {
    match error.kind() {
        Kind::Internal => Err(format!("an internal error: {error} ({})", error.code())),
        _ => Ok(Verdict::Refused(error.code().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Options, fuzz};

    /// Every target on its seeds and some changes of them.
    #[test]
    fn every_target_takes_its_seeds_and_some_changes_of_them() {
        for target in all() {
            let options = Options { runs: 500, seed: 7, ..Options::default() };
            let summary = fuzz(&*target, &options).unwrap_or_else(|failure| panic!("{failure}"));
            assert!(summary.taken > 20, "{} accepted {}", target.name(), summary.taken);
            assert!(!summary.refused.is_empty(), "{} refused nothing", target.name());
        }
    }
}
