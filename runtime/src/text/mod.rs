//! Prompts: cleaning as the reference does it, and tokenisation.
//!
//! [`clean`] gives the text that the reference pipelines pass to their tokenizer,
//! [`PromptTokenizer`] turns it into ids, and [`micro_tokenizer_json`] and
//! [`world_tokenizer_json`] are small built-in tokenizers. The text encoder itself is in the crate `anyid-models`.

mod badness;
mod clean;
mod code_pages;
mod entities;
mod micro;
mod mojibake;
mod pieces;
mod tokenizer;
mod words;

pub use clean::{basic_clean, clean, clean_without_ftfy, fix_text};
pub use entities::unescape;
pub use micro::micro_tokenizer_json;
pub use tokenizer::{Encoded, PromptTokenizer, Truncation};
pub use words::world_tokenizer_json;
