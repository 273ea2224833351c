//! A server that describes or compares: where it is, what it can do, and what it costs
//! (`prompts.md` §3.3).

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What answers a server is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// JSON of a schema.
    #[default]
    JsonSchema,
    /// Any JSON, with the schema in the text.
    JsonObject,
    /// Text, in which the first object is looked for.
    Text,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Where it is, up to `/v1`.
    pub base_url: String,
    /// The model that is asked for.
    pub model: String,
    /// The environment variable that has the key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// A file that has it, which only its owner may read.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// Seconds that an answer may take.
    #[serde(default)]
    pub timeout_s: Option<f64>,
    /// Requests a minute.
    #[serde(default)]
    pub rpm: Option<f64>,
    /// Tokens a minute.
    #[serde(default)]
    pub tpm: Option<f64>,
    /// Requests at a time.
    #[serde(default = "four")]
    pub concurrency: usize,
    /// The field that bounds an answer.
    #[serde(default = "max_tokens")]
    pub max_tokens_field: String,
    /// Most pictures of a request.
    #[serde(default = "eight")]
    pub max_images: usize,
    /// What answers it is asked for at first.
    #[serde(default)]
    pub response_format: Answer,
    /// Further fields of each request.
    #[serde(default)]
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// Price of a million tokens that are sent.
    #[serde(default)]
    pub price_in: Option<f64>,
    /// Price of a million tokens of answers.
    #[serde(default)]
    pub price_out: Option<f64>,
    /// The currency of prices.
    #[serde(default)]
    pub currency: Option<String>,
}

fn four() -> usize {
    4
}

fn eight() -> usize {
    8
}

fn max_tokens() -> String {
    "max_tokens".to_owned()
}
