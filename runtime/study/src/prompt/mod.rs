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
#[cfg(feature = "judge")]
pub mod server;
pub mod similarity;
pub mod style;

use serde::{Deserialize, Serialize};

/// Settings of describing and comparing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSettings {
    /// How texts are compared without a server.
    pub similarity: similarity::Similarity,
    /// The server that describes, by its name in `[llm]`.
    pub describe: Option<String>,
    /// The server that compares.
    pub compare: Option<String>,
}
