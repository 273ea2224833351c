//! Tokenizer files with prompts: the first line is the prompt, the rest is `tokenizer.json`, or
//! nothing for that of the built-in model.

use super::{corpus, refused};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_runtime::text::{PromptTokenizer, clean, micro_tokenizer_json};

/// The target.
pub struct Tokenizers {
    own: PromptTokenizer,
}

const WORDS: [&str; 44] = [
    "Unigram",
    "BPE",
    "WordPiece",
    "WordLevel",
    "Metaspace",
    "Precompiled",
    "Sequence",
    "Replace",
    "Regex",
    "String",
    "NFKC",
    "NFC",
    "Lowercase",
    "Strip",
    "Prepend",
    "Split",
    "ByteLevel",
    "TemplateProcessing",
    "unk_id",
    "byte_fallback",
    "vocab",
    "added_tokens",
    "special",
    "normalized",
    "prepend_scheme",
    "always",
    "never",
    "first",
    "true",
    "false",
    "null",
    "[]",
    "{}",
    "1e999",
    "</s>",
    "<pad>",
    "<unk>",
    "&amp;",
    "&#x1F600;",
    "&#0;",
    "Ã©",
    "â€™",
    "\u{202e}",
    "▁",
];

impl Tokenizers {
    /// The target.
    pub fn new() -> Self {
        let json = micro_tokenizer_json();
        let own = PromptTokenizer::parse(json.as_bytes(), "built in");
        Self { own: own.unwrap_or_else(|e| panic!("{e}")) }
    }
}

impl Target for Tokenizers {
    fn name(&self) -> &'static str {
        "tokenizer"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let prompts = [
            "a person walks along a beach at sunset",
            "Ein Mann mit Hut &amp; Mantel, &#8220;langsam&#8221;",
            "cafÃ© â€œquotedâ€\u{9d} tÃ©lÃ©vision",
            "一个人在雨中行走 — 慢镜头",
            "👩‍👩‍👧 emoji \u{fe0f} and e\u{301} combining \u{200b}zero",
            "<script>&lt;b&gt;&nbsp;&amp;amp;</script>",
            "",
        ];
        let mut out = corpus("tokenizer");
        out.extend(prompts.iter().map(|prompt| format!("{prompt}\n").into_bytes()));
        let json = small();
        out.extend(prompts.iter().take(3).map(|prompt| format!("{prompt}\n{json}").into_bytes()));
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        if rng.once_in(3) {
            mutate::bytes(rng, data, self.words(), other);
        } else {
            mutate::text(rng, data, self.words(), other);
        }
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
        let prompt = String::from_utf8_lossy(&data[..end]).into_owned();
        let json = data.get(end + 1..).unwrap_or_default();
        let theirs;
        let tokenizer = if json.is_empty() {
            &self.own
        } else {
            match PromptTokenizer::parse(json, "tokenizer.json") {
                Ok(tokenizer) => {
                    theirs = tokenizer;
                    &theirs
                }
                Err(error) => return refused(&error),
            }
        };
        let cleaned = clean(&prompt);
        if clean(&cleaned).len() > cleaned.len().saturating_mul(64) + 64 {
            return Err("cleaning again makes it much longer".to_owned());
        }
        for most in [512, 4] {
            let encoded = match tokenizer.encode(&cleaned, most) {
                Ok(encoded) => encoded,
                Err(error) => return refused(&error),
            };
            if encoded.ids.len() > most || encoded.ids.last() != Some(&tokenizer.end_id()) {
                return Err(format!("{} ids for at most {most}", encoded.ids.len()));
            }
            if encoded.ids.iter().any(|id| *id as usize >= tokenizer.id_limit()) {
                return Err("an id beyond the limit".to_owned());
            }
            if encoded.truncated_at.is_some_and(|at| at > cleaned.len()) {
                return Err("it is cut behind its end".to_owned());
            }
            let _ = encoded.truncation(&cleaned);
        }
        Ok(Verdict::Taken)
    }
}

/// A tokenizer of the usual form with few pieces.
fn small() -> String {
    let mut json: serde_json::Value =
        serde_json::from_str(&micro_tokenizer_json()).unwrap_or_default();
    if let Some(vocab) = json["model"]["vocab"].as_array_mut() {
        // Special pieces, some bytes and some words.
        let mut at = 0;
        vocab.retain(|_| {
            at += 1;
            at <= 40 || at > 400
        });
    }
    json["model"]["byte_fallback"] = false.into();
    json.to_string()
}
