//! Prompts that say what changes: elements, how alike they are, how a prompt is written from them,
//! and what is wrong with one that a person wrote (`prompts.md`).

pub mod aspects;
pub mod benchmark;
pub mod cache;
pub mod calibrate;
pub mod differ;
pub mod elements;
pub mod lexicon;
pub mod lint;
pub mod profile;
pub mod server;
pub mod similarity;
pub mod style;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Settings of describing and comparing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSettings {
    /// How texts are compared without a server.
    pub similarity: similarity::Similarity,
    /// The server that describes, by its name in `[llm]`.
    pub describe: Option<String>,
    /// The server that compares.
    pub compare: Option<String>,
    /// A file of questions with the answers that are wanted, or `built-in`.
    pub examples: Option<PathBuf>,
    /// How often a pair is compared; the median counts.
    pub votes: usize,
    /// Most pairs of a request.
    pub batch: usize,
}

impl Default for PromptSettings {
    fn default() -> Self {
        let similarity = similarity::Similarity::default();
        Self { similarity, describe: None, compare: None, examples: None, votes: 1, batch: 1 }
    }
}
