//! The part of a recipe that most runs do not have: choices that the method itself does without, of
//! sampling and of the file.

use super::{HashedFile, file};
use crate::error::Error;
use crate::media::coding::{Codec, Coding, Pixels};
use crate::pipeline::Request;
use serde_json::{Value, json};

/// Choices of sampling and of the file; by default none of them is made, and none is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    /// What guidance leads away from, in place of the empty prompt.
    pub negative_prompt: Option<String>,
    /// Noise levels in place of those of the schedule.
    pub sigmas: Option<Vec<f64>>,
    /// Noise levels, lowest and highest, at which guidance is at work.
    pub guidance_interval: Option<[f64; 2]>,
    /// Threshold of the cache of steps.
    pub cache: Option<f64>,
    /// The first frame of the video.
    pub first_frame: Option<HashedFile>,
    /// Codec, quality and pixel format of the file.
    pub coding: Coding,
}

impl Choices {
    /// Those of a request, with the file of its first frame.
    pub(super) fn of(request: &Request, first_frame: Option<HashedFile>) -> Self {
        Self {
            negative_prompt: request.negative_prompt.clone(),
            sigmas: request.sigmas.clone(),
            guidance_interval: request.guidance_interval,
            cache: request.cache,
            first_frame,
            coding: Coding::default(),
        }
    }

    /// Adds those that are made to the object of a recipe.
    pub(super) fn add(&self, value: &mut Value) {
        if let Some(text) = &self.negative_prompt {
            value["negative_prompt"] = json!(text);
        }
        if let Some(levels) = &self.sigmas {
            value["sigmas"] = json!(levels);
        }
        if let Some(interval) = self.guidance_interval {
            value["guidance_interval"] = json!(interval);
        }
        if let Some(threshold) = self.cache {
            value["cache"] = json!(threshold);
        }
        if let Some(first) = &self.first_frame {
            value["first_frame"] = first.to_json();
        }
        if let Some(codec) = self.coding.codec {
            value["codec"] = json!(codec.name());
        }
        if let Some(quality) = self.coding.quality {
            value["quality"] = json!(quality);
        }
        if let Some(pixels) = self.coding.pixels {
            value["pix_format"] = json!(pixels.name());
        }
    }

    /// Those of the object of a recipe; `bad` makes the error of a key that is not what it should be.
    pub(super) fn read(value: &Value, bad: &dyn Fn(&str, &str) -> Error) -> Result<Self, Error> {
        let given = |key: &str| Some(&value[key]).filter(|value| !value.is_null());
        let numbers = |key: &str| {
            let list = |value: &Value| {
                value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>()
            };
            given(key).map(|value| list(value).ok_or_else(|| bad(key, "a list of numbers")))
        };
        let text = given("negative_prompt").map(|value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| bad("negative_prompt", "a text"))
        });
        let interval = numbers("guidance_interval").transpose()?.map(|list| {
            <[f64; 2]>::try_from(list).map_err(|_| bad("guidance_interval", "two numbers"))
        });
        let number = |value: &Value| value.as_f64().ok_or_else(|| bad("cache", "a number"));
        let codec = |value: &Value| {
            let known = value.as_str().and_then(Codec::named);
            known.ok_or_else(|| bad("codec", "a codec that this program knows"))
        };
        let pixels = |value: &Value| {
            let known = value.as_str().and_then(Pixels::named);
            known.ok_or_else(|| bad("pix_format", "a pixel format that this program knows"))
        };
        let quality = |value: &Value| {
            let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
            number.ok_or_else(|| bad("quality", "a whole number up to 255"))
        };
        let first = |value| file(value).ok_or_else(|| bad("first_frame", "a path with its sha256"));
        Ok(Self {
            negative_prompt: text.transpose()?,
            sigmas: numbers("sigmas").transpose()?,
            guidance_interval: interval.transpose()?,
            cache: given("cache").map(number).transpose()?,
            first_frame: given("first_frame").map(first).transpose()?,
            coding: Coding {
                codec: given("codec").map(codec).transpose()?,
                quality: given("quality").map(quality).transpose()?,
                pixels: given("pix_format").map(pixels).transpose()?,
            },
        })
    }
}
