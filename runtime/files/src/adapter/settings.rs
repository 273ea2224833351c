//! What an adapter says about its scale beside its tensors: PEFT's `adapter_config.json`, or the
//! same as text in the header of a file (`formats.md` §5).
//!
//! Ranks are only compared, never believed: the tensors have the last word, and a contradiction is
//! an error, since it would mean another scale. Whatever asks for another base weight or another
//! arithmetic than ours is refused.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use crate::checkpoint::{JsonFile, json};
use crate::error::{Error, Result};

/// Ranks and scales as the configuration has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    rank: Option<u64>,
    alpha: Option<f64>,
    rank_pattern: Vec<(Regex, u64)>,
    alpha_pattern: Vec<(Regex, f64)>,
    /// Whether alpha counts over the square root of the rank.
    pub(super) rslora: bool,
    /// Whether LoKr is scaled where both factors are whole, as PEFT does.
    pub(super) peft: bool,
}

/// The key of the header that diffusers writes.
pub(super) const HEADER_KEY: &str = "lora_adapter_metadata";

impl Settings {
    /// Those of `adapter_config.json`.
    ///
    /// # Errors
    /// E0367 for what is not supported, E0371 for a value that cannot be used, E0711 for one of the
    /// wrong type.
    pub(super) fn from_file(file: &JsonFile) -> Result<Self> {
        Self::from_map(&file.value, &file.path)
    }

    /// Those in the header of a file; keys may carry the name of the component.
    ///
    /// # Errors
    /// As [`Settings::from_file`], and E0371 for text that is no JSON object.
    pub(super) fn from_header(text: &str, path: &Path) -> Result<Self> {
        let fault = |what: String| {
            Error::input("E0371", format!("the header's `{HEADER_KEY}` {what}"))
                .at(path.display())
                .help("write the adapter again with the program that made it")
        };
        let value: Value =
            serde_json::from_str(text).map_err(|cause| fault(format!("is not JSON: {cause}")))?;
        let Value::Object(keys) = value else { return Err(fault("is not an object".to_owned())) };
        let own = keys.iter().map(|(key, value)| {
            let key = key.strip_prefix("transformer.").unwrap_or(key);
            (key.to_owned(), value.clone())
        });
        Self::from_map(&Value::Object(own.collect::<Map<String, Value>>()), path)
    }

    /// Those of a file that has neither: `rank` and `alpha` as decimal numbers in its header, or
    /// nothing, which means a scale of 1.
    ///
    /// # Errors
    /// E0368 for an alpha that is no scale, E0371 for text that is no number.
    pub(super) fn plain(metadata: &BTreeMap<String, String>, path: &Path) -> Result<Self> {
        let number = |key: &str| {
            let Some(text) = metadata.get(key) else { return Ok(None) };
            text.trim().parse::<f64>().map(Some).map_err(|_| {
                Error::input("E0371", format!("the header's `{key}` is \"{text}\", not a number"))
                    .at(path.display())
                    .help("write the adapter again with the program that made it")
            })
        };
        let (Some(rank), Some(alpha)) = (number("rank")?, number("alpha")?) else {
            return Ok(Self::default());
        };
        usable(alpha, "the header's `alpha`", path)?;
        let rank = (rank >= 1.0 && rank.fract() == 0.0).then_some(rank as u64);
        Ok(Self { rank, alpha: Some(alpha), ..Self::default() })
    }

    fn from_map(value: &Value, path: &Path) -> Result<Self> {
        refuse(value, path)?;
        let number = |key: &str| json::optional_f64(value, key, path);
        let alpha = match number("lora_alpha")? {
            None => number("alpha")?,
            given => given,
        };
        if let Some(alpha) = alpha {
            usable(alpha, "lora_alpha", path)?;
        }
        let mut settings = Self {
            rank: json::optional_u64(value, "r", path)?,
            alpha,
            rslora: json::optional_bool(value, "use_rslora", path)? == Some(true),
            peft: true,
            ..Self::default()
        };
        for (pattern, value) in patterns(value, "rank_pattern", path)? {
            let rank = value.as_u64().ok_or_else(|| {
                json::wrong_type("rank_pattern", &value, "non-negative integers", path)
            })?;
            settings.rank_pattern.push((pattern, rank));
        }
        for (pattern, value) in patterns(value, "alpha_pattern", path)? {
            let alpha = value
                .as_f64()
                .ok_or_else(|| json::wrong_type("alpha_pattern", &value, "numbers", path))?;
            usable(alpha, "alpha_pattern", path)?;
            settings.alpha_pattern.push((pattern, alpha));
        }
        Ok(settings)
    }

    /// Alpha of a module, by its name without prefix.
    pub(super) fn alpha(&self, module: &str) -> Option<f64> {
        first(&self.alpha_pattern, module).or(self.alpha)
    }

    /// Rank of a module, by its name without prefix.
    pub(super) fn rank(&self, module: &str) -> Option<u64> {
        first(&self.rank_pattern, module).or(self.rank)
    }
}

/// The value of the first pattern that fits, in the order of the file.
fn first<V: Copy>(patterns: &[(Regex, V)], module: &str) -> Option<V> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

/// A table of patterns: each is a regular expression for the end of a module's name.
fn patterns(value: &Value, key: &str, path: &Path) -> Result<Vec<(Regex, Value)>> {
    let table = match value.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(table)) => table,
        Some(other) => return Err(json::wrong_type(key, other, "an object", path)),
    };
    let rows = table.iter().map(|(pattern, value)| {
        let whole = Regex::new(&format!(r"^(.*\.)?({pattern})$")).map_err(|fault| {
            let what = format!("`{key}`: \"{pattern}\" is not a supported regular expression");
            Error::input("E0371", what)
                .at(path.display())
                .help("write the names of the modules in full")
                .caused_by(fault)
        })?;
        Ok((whole, value.clone()))
    });
    rows.collect()
}

/// Refuses an alpha of zero, or one that is no number.
pub(super) fn usable(alpha: f64, what: &str, path: &Path) -> Result<()> {
    if alpha.is_finite() && alpha != 0.0 {
        return Ok(());
    }
    Err(Error::input("E0368", format!("{what} is {alpha}, which cannot be a scale"))
        .at(path.display())
        .help("alpha is a number that is not 0; to switch an adapter off, leave it out"))
}

/// Ways of making the first factors that leave the base weights as they are.
const PLAIN_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Refuses what asks for another base weight or another arithmetic.
fn refuse(value: &Value, path: &Path) -> Result<()> {
    let refused = |what: String, why: &str| {
        Err(Error::input("E0367", what).at(path.display()).help(why.to_owned()))
    };
    let kind = json::optional_string(value, "peft_type", path)?;
    if let Some(kind) = kind.filter(|kind| !["LORA", "LOHA", "LOKR"].contains(&kind.as_str())) {
        return refused(
            format!("an adapter of the kind {kind}"),
            "LoRA, DoRA, LoHa and LoKr are known; merge it with PEFT and store the whole weights",
        );
    }
    if json::optional_bool(value, "fan_in_fan_out", path)? == Some(true) {
        return refused(
            "`fan_in_fan_out` is true: its factors are transposed".to_owned(),
            "train or save it with `fan_in_fan_out` false, which is right for linear layers",
        );
    }
    if let Some(bias) = json::optional_string(value, "bias", path)?.filter(|bias| bias != "none") {
        return refused(
            format!("`bias` is \"{bias}\": whole biases of the base would be replaced"),
            "merge it with PEFT and store the whole weights, or train it with bias \"none\"",
        );
    }
    for key in ["modules_to_save", "target_parameters"] {
        let filled = match value.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if filled {
            return refused(
                format!("`{key}` is not empty: the adapter holds more than factors"),
                "merge it with PEFT and store the whole weights",
            );
        }
    }
    match value.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if PLAIN_INITS.contains(&name.as_str()) => Ok(()),
        Some(other) => refused(
            format!("`init_lora_weights` is {other}: it was trained on changed base weights"),
            "convert it to a plain LoRA with PEFT (`path_initial_model_for_weight_conversion`)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(value: Value) -> Result<Settings> {
        Settings::from_map(&value, Path::new("adapter_config.json"))
    }

    #[test]
    fn patterns_match_the_end_of_a_name_and_the_first_one_wins() {
        let found = settings(json!({
            "r": 4, "lora_alpha": 8,
            "rank_pattern": {"^blocks\\.0\\.attn1\\.to_q": 5, "to_q": 6, "ffn.net.2": 7},
            "alpha_pattern": {"to_q": 2.5, "attn1.to_q": 9},
        }))
        .unwrap();
        assert_eq!(found.rank("blocks.0.attn1.to_q"), Some(5));
        assert_eq!(found.rank("blocks.1.attn1.to_q"), Some(6));
        assert_eq!(found.rank("blocks.1.attn1.add_to_q"), Some(4), "only whole parts of a name");
        assert_eq!(found.rank("ffn.net.2"), Some(7));
        assert_eq!(found.alpha("blocks.0.attn1.to_q"), Some(2.5));
        assert_eq!(found.alpha("blocks.0.attn1.to_k"), Some(8.0));
        let header = r#"{"transformer.r": 3, "transformer.use_rslora": true}"#;
        let found = Settings::from_header(header, Path::new("x")).unwrap();
        assert_eq!((found.rank("a"), found.alpha("a"), found.rslora), (Some(3), None, true));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for (value, code, word) in [
            (json!({"peft_type": "IA3"}), "E0367", "IA3"),
            (json!({"fan_in_fan_out": true}), "E0367", "transposed"),
            (json!({"bias": "all"}), "E0367", "biases"),
            (json!({"modules_to_save": ["head"]}), "E0367", "modules_to_save"),
            (json!({"target_parameters": {"a": 1}}), "E0367", "target_parameters"),
            (json!({"init_lora_weights": "pissa_niter_4"}), "E0367", "pissa"),
            (json!({"init_lora_weights": "olora"}), "E0367", "olora"),
            (json!({"lora_alpha": 0}), "E0368", "0"),
            (json!({"alpha_pattern": {"a": 0.0}}), "E0368", "alpha_pattern"),
            (json!({"r": "four"}), "E0711", "r"),
            (json!({"rank_pattern": 3}), "E0711", "rank_pattern"),
            (json!({"rank_pattern": {"a": 1.5}}), "E0711", "rank_pattern"),
            (json!({"alpha_pattern": {"a": "b"}}), "E0711", "alpha_pattern"),
            (json!({"rank_pattern": {"(": 3}}), "E0371", "("),
            (json!({"rank_pattern": {"(?!a)b": 3}}), "E0371", "regular expression"),
        ] {
            let error = settings(value.clone()).unwrap_err();
            assert_eq!(error.code(), code, "{value}: {error}");
            assert!(error.message().contains(word), "{error}");
            assert_eq!(error.place(), Some("adapter_config.json"));
            assert!(error.help_text().is_some());
        }
        for text in ["", "[]", "{"] {
            let error = Settings::from_header(text, Path::new("x")).unwrap_err();
            assert_eq!(error.code(), "E0371", "{error}");
        }
        for init in [json!(true), json!("gaussian"), json!("eva"), Value::Null] {
            assert!(settings(json!({"init_lora_weights": init, "bias": "none"})).is_ok());
        }
    }
}
