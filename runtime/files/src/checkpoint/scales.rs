//! Weights of eight bits that were stored with scales, as ComfyUI, LightX2V and musubi-tuner write
//! them: which tensors are scales, and of what.
//!
//! A file says in one of several ways that it is quantised: by a marker, by a description beside each
//! layer, by one in its header, or only by having scales. Whatever it says, each weight of eight bits
//! must then have its scale, because without it the values are wrong by a factor of a thousand and
//! still look like weights. Formats that are not read are named. Nothing is decoded here: a scaled
//! weight is a derivation, computed where it is read. `formats.md §3.3`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::computed::usable;
use super::derivation::{Derivation, runs};
use super::encoding::Encoding;
use super::set::WeightSet;
use super::table::shorten;
use super::weight::{Made, Weight};
use crate::error::{Error, Result};

/// Ends of the names of scales: what follows the name of a layer.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];
/// The tensor that says that a file is quantised, whatever it holds.
const MARKER: &str = "scaled_fp8";
/// What only steers arithmetic that is not done here, or belongs to the tokenizer.
const ASIDE: [&str; 2] = [".scale_input", ".input_scale"];
/// The description of a layer.
const DESCRIPTION: &str = ".comfy_quant";
/// The description of all layers, in the header.
const DESCRIPTIONS: &str = "_quantization_metadata";
/// Factors for the inputs of a layer.
const SMOOTHING: &str = ".pre_quant_scale";
/// The tokenizer of a text encoder, as the bytes of a SentencePiece model.
pub const SPIECE: &str = "spiece_model";
/// Longest description of a layer, in bytes.
const LONGEST: u64 = 1 << 16;
/// Most scales of a weight that are looked at when a model is opened; what lies behind them is
/// looked at when it is read.
const LOOKED_AT: u64 = 1 << 18;

fn unread(what: impl Into<String>) -> Error {
    Error::input("E0335", what.into())
        .help("take a version of the model in BF16, F16, fp8 or scaled fp8, or in GGUF")
}

fn scale_error(what: impl Into<String>) -> Error {
    Error::input("E0336", what.into())
        .help("the file is incomplete or was converted wrongly: fetch or convert it again")
}

fn description_error(what: impl Into<String>) -> Error {
    Error::input("E0337", what.into())
        .help("the file is damaged, or of a newer kind: take another version of the model")
}

/// The name of a layer, where a name is that with an end.
fn layer_of<'n>(name: &'n str, ends: &[&str]) -> Option<&'n str> {
    ends.iter().find_map(|end| name.strip_suffix(end))
}

/// Whether a name is a word, perhaps behind a prefix.
fn is(name: &str, word: &str) -> bool {
    name.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// What belongs to other programs' formats of quantisation: an end of a name, and the format.
const FOREIGN: [(&str, &str); 7] = [
    (".weight_scale_2", "NVFP4"),
    (".qweight", "AWQ, GPTQ or SVDQuant"),
    (".wscales", "SVDQuant"),
    (".absmax", "bitsandbytes"),
    (".weight.quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes of eight bits"),
    (".weight_format", "bitsandbytes of eight bits"),
];

impl WeightSet {
    /// The same weights with the scales that they were stored with, as numbers; what only describes
    /// the quantisation is left out, and a set without any comes back unchanged.
    ///
    /// # Errors
    /// E0335 for a quantisation that is not read, E0336 for a scale that is missing, of another
    /// shape, not finite or not above zero, E0337 for a description that is damaged or contradicts
    /// the tensors; those of reading.
    pub fn unscaled(&self) -> Result<Self> {
        self.with_scales().map_err(|error| error.at(self.place()))
    }

    /// How many of the weights are values of few bits times scales.
    pub fn scaled_weights(&self) -> usize {
        self.iter().filter(|(_, weight)| matches!(weight.made, Made::Scaled(_))).count()
    }

    fn with_scales(&self) -> Result<Self> {
        let said = self.descriptions()?;
        let describes = |name: &str| {
            let ends = [SMOOTHING, DESCRIPTION].into_iter().chain(SCALES).chain(ASIDE);
            ends.into_iter().any(|end| name.ends_with(end)) || is(name, MARKER) || is(name, SPIECE)
        };
        for name in self.names() {
            if let Some((_, format)) = FOREIGN.iter().find(|(end, _)| name.ends_with(end)) {
                let name = shorten(name);
                return Err(unread(format!("`{name}` belongs to {format}, which is not read")));
            }
        }
        if said.is_empty() && !self.names().any(describes) {
            return Ok(self.clone());
        }
        let scaled: BTreeSet<&str> =
            self.names().filter_map(|name| layer_of(name, &SCALES)).collect();
        let marked = !said.is_empty() || !scaled.is_empty();
        let markers: Vec<&str> = self
            .names()
            .filter(|name| is(name, MARKER))
            .map(|name| name.strip_suffix(MARKER).unwrap_or_default())
            .collect();
        let mut out = Vec::new();
        let mut used = BTreeSet::new();
        for (name, weight) in self.iter() {
            let layer = name.strip_suffix(".weight");
            let Some(layer) = layer.filter(|_| !weight.shape.is_empty()) else {
                if !self.aside(name)? {
                    out.push((name.to_owned(), Derivation::tensor(name)));
                }
                continue;
            };
            let own = said.get(layer).map(String::as_str);
            let scale = self.scale_of(layer)?;
            agree(name, weight, own, scale.is_some())?;
            let whole = Derivation::tensor(name);
            let Some(scale) = scale else {
                let marked = marked || markers.iter().any(|prefix| name.starts_with(prefix));
                if is_eight(weight.encoding) && weight.shape.len() > 1 && marked {
                    let what =
                        format!("`{}` is {} without a scale", shorten(name), weight.encoding);
                    return Err(scale_error(format!("{what}, in a file that has scales")));
                }
                out.push((name.to_owned(), whole));
                continue;
            };
            self.fits(name, weight, &scale)?;
            out.push((name.to_owned(), whole.scaled(Derivation::tensor(&scale))));
            used.insert(scale);
        }
        // A scale of nothing is left over like any other tensor that no model has.
        out.retain(|(name, _)| !used.contains(name));
        if let Some(lost) = said.keys().find(|layer| self.tensor(&weight_of(layer)).is_none()) {
            let what = format!("a layer `{}` is described that is not there", shorten(lost));
            return Err(description_error(what));
        }
        self.derived(out)
    }

    /// The scale of a layer.
    fn scale_of(&self, layer: &str) -> Result<Option<String>> {
        let names = SCALES.map(|end| format!("{layer}{end}"));
        match names.each_ref().map(|name| self.tensor(name).is_some()) {
            [false, false] => Ok(None),
            [true, true] => {
                let layer = shorten(layer);
                Err(scale_error(format!("`{layer}` has two scales, of two kinds of files")))
            }
            [first, _] => Ok(names.into_iter().nth(usize::from(!first))),
        }
    }

    /// Compares a scale with the weight that it is of.
    fn fits(&self, name: &str, weight: &Weight, scale: &str) -> Result<()> {
        let found = self.tensor(scale).expect("its name is one of the set");
        let (short, shape) = (shorten(scale), &found.shape);
        if !found.encoding.is_float() {
            return Err(scale_error(format!("the scale `{short}` is {}", found.encoding)));
        }
        if runs(&weight.shape, shape).is_none() {
            let (name, of) = (shorten(name), &weight.shape);
            let what =
                format!("the scale `{short}` of shape {shape:?} does not fit `{name}` {of:?}");
            return Err(scale_error(what));
        }
        if found.elements() <= LOOKED_AT {
            usable(&self.values(scale)?, found, &self.files)?;
        }
        Ok(())
    }

    /// Whether a tensor has no part in the weights.
    ///
    /// # Errors
    /// E0335 for factors of inputs that change something.
    fn aside(&self, name: &str) -> Result<bool> {
        if layer_of(name, &[SMOOTHING]).is_some() {
            let values = self.tensor(name).is_some_and(|weight| weight.elements() <= LOOKED_AT);
            if !values || self.values(name)?.iter().any(|factor| *factor != 1.0) {
                let what = format!("`{}` scales the inputs of its layer", shorten(name));
                return Err(unread(format!("{what}, which is not done here")));
            }
            return Ok(true);
        }
        let aside = layer_of(name, &ASIDE).or(layer_of(name, &[DESCRIPTION])).is_some();
        Ok(aside || is(name, MARKER) || is(name, SPIECE))
    }

    /// The formats of layers that are described, by the names of the layers.
    fn descriptions(&self) -> Result<BTreeMap<String, String>> {
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        for (name, weight) in self.iter() {
            let Some(layer) = layer_of(name, &[DESCRIPTION]) else { continue };
            let (short, bytes) = (shorten(name), weight.bytes);
            if weight.encoding != Encoding::U8 || bytes > LONGEST {
                let what = format!("`{short}` is no text: {bytes} bytes of {}", weight.encoding);
                return Err(description_error(what));
            }
            let read = serde_json::from_slice(&self.contents(name)?);
            let value: Value =
                read.map_err(|fault| description_error(format!("`{short}` is not JSON: {fault}")))?;
            said.insert(layer.to_owned(), format_of(&value, layer)?);
        }
        let headers = self.files.iter().filter_map(|file| file.metadata().get(DESCRIPTIONS));
        for text in headers {
            let bad = |what: String| description_error(format!("`{DESCRIPTIONS}` {what}"));
            let read = serde_json::from_str(text);
            let value: Value = read.map_err(|fault| bad(format!("is not JSON: {fault}")))?;
            let layers = value["layers"].as_object();
            let layers = layers.ok_or_else(|| bad("describes no layers".to_owned()))?;
            for (layer, described) in layers {
                let format = format_of(described, layer)?;
                // Layers may go without the prefix that their tensors have.
                let full = self.layer_called(layer).unwrap_or_else(|| layer.clone());
                if said.get(&full).is_some_and(|other| *other != format) {
                    let what = format!("`{}` is described in two ways", shorten(layer));
                    return Err(description_error(what));
                }
                said.insert(full, format);
            }
        }
        Ok(said)
    }

    /// The layer of this name, whatever stands before it.
    fn layer_called(&self, layer: &str) -> Option<String> {
        let weight = weight_of(layer);
        let known = self.names().filter(|name| is(name, &weight));
        known
            .min_by_key(|name| name.len())
            .and_then(|name| name.strip_suffix(".weight").map(str::to_owned))
    }
}

fn weight_of(layer: &str) -> String {
    format!("{layer}.weight")
}

fn is_eight(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::F8E4M3 | Encoding::F8E5M2)
}

/// The format that a description names.
fn format_of(described: &Value, layer: &str) -> Result<String> {
    let format = described["format"].as_str().map(str::to_owned);
    format.ok_or_else(|| {
        description_error(format!("the description of `{}` names no format", shorten(layer)))
    })
}

/// Compares what a weight is with what is said about it.
fn agree(name: &str, weight: &Weight, said: Option<&str>, has_scale: bool) -> Result<()> {
    let (short, encoding) = (shorten(name), weight.encoding);
    let expected = match said {
        None => None,
        Some("float8_e4m3fn") => Some(Encoding::F8E4M3),
        Some("float8_e5m2") => Some(Encoding::F8E5M2),
        Some(format) => {
            let what = format!("`{short}` is quantised as {}", shorten(format));
            return Err(unread(format!("{what}, which is not read")));
        }
    };
    if expected.is_some_and(|expected| expected != encoding) {
        let format = said.unwrap_or_default();
        let what = format!("`{short}` is {encoding}, and its description says {format}");
        return Err(description_error(what));
    }
    if has_scale && !is_eight(encoding) {
        return Err(match encoding {
            Encoding::I8 => unread(format!("`{short}` is quantised to int8, which is not read")),
            Encoding::U8 => {
                unread(format!("`{short}` is packed in bytes, with a scale, which is not read"))
            }
            _ => scale_error(format!("`{short}` is {encoding} and has a scale all the same")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
