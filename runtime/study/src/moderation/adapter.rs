//! Running models that look at pictures, each by the contract of its kind.
//!
//! | kind | picture | model |
//! |---|---|---|
//! | `vit-binary` | resized straight to the side, no crop | `[N,3,S,S]` to logits `[N,classes]`, softmax |
//! | `clip-head` | shorter side resized, middle cut out | `[N,3,S,S]` to `[N,width]`, made unit length; a head `[N,width]` to `[N,1]` |
//! | `clip-concepts` | the same | the same, compared with embeddings by their cosine |
//!
//! Resizing is that of the Python library that the models were trained with: a filter that is widened
//! where pixels get fewer, on eight bits. Every model is run once when it is opened.

use super::{Activation, Adapter, Kind, Settings};
use crate::model::network::{Network, Tensor};
use crate::settings::Engine;
use anyid_files::error::unreadable;
use anyid_files::media::RgbFrame;
use anyid_files::{Error, Result, input};
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};
use serde::Deserialize;
use std::path::Path;

/// Largest file of concepts.
const LARGEST: u64 = 64 << 20;

/// Models that look at pictures.
pub struct Checker {
    settings: Settings,
    models: Vec<Opened>,
}

struct Opened {
    adapter: Adapter,
    model: Model,
    end: End,
}

const ABOUT: &str = "docs/safety.md says what models are expected and where they come from";

/// A network with the one input and the one output of it that are used.
struct Model {
    network: Network,
    input: String,
    output: String,
    /// The size of a row of the output.
    width: usize,
}

impl Model {
    /// Opens a file and compares it with what is expected; of `shape`, 0 is any size.
    fn open(
        path: &Path,
        what: &'static str,
        (input, shape): (&str, &[usize]),
        (output, width): (&str, usize),
    ) -> Result<Self> {
        let open = || {
            let network = Network::open(path, Engine::default(), what)?;
            network.input(Some(input), shape)?;
            network.has_outputs(&[output])?;
            Ok(Self { network, input: input.to_owned(), output: output.to_owned(), width })
        };
        open().map_err(|error: Error| error.advised(ABOUT))
    }

    /// One row.
    fn run(&self, shape: &[usize], data: Vec<f32>) -> Result<Vec<f32>> {
        let wanted: [(&str, &[usize]); 1] = [(&self.output, &[1, self.width])];
        let mut out = self.network.shaped(&self.input, Tensor::floats(shape, data), &wanted)?;
        Ok(out.swap_remove(0).data)
    }

    /// Runs it once, so that another model is found out when it is opened.
    fn tried(self, shape: &[usize]) -> Result<Self> {
        self.run(shape, vec![0.0; shape.iter().product()]).map_err(|error| error.advised(ABOUT))?;
        Ok(self)
    }
}

enum End {
    Softmax,
    Head(Model, Activation),
    Concepts(Vec<Concept>),
}

/// An embedding and the cosine from which on it counts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Concept {
    name: String,
    embedding: Vec<f32>,
    threshold: f32,
}

/// Says nothing of the models.
impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checker({})", self.models.len())
    }
}

fn wrong(path: &Path, what: impl Into<String>) -> Error {
    Error::input("E1113", what).at(path.display()).help(ABOUT)
}

impl Checker {
    /// Opens the models of `settings`.
    ///
    /// # Errors
    /// E0911 and E1208 for files that are not what their kind expects, E1113 for values that are none.
    pub fn open(settings: Settings) -> Result<Self> {
        let models = settings.adapters.iter().map(Opened::open).collect::<Result<_>>()?;
        Ok(Self { settings, models })
    }

    /// What was read.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How likely a picture shows what it should not, from 0 to 1: the largest value of all models.
    ///
    /// # Errors
    /// E1208 a model cannot be run, E1113 it gives what is no value.
    pub fn value(&self, frame: &RgbFrame) -> Result<f64> {
        let mut values = self.models.iter().map(|model| model.value(frame));
        values.try_fold(0.0, |most: f64, value| Ok(most.max(value?)))
    }
}

impl Opened {
    fn open(adapter: &Adapter) -> Result<Self> {
        let Adapter { kind, model: path, size, width, .. } = adapter;
        let (output, last) = match kind {
            Kind::VitBinary => ("logits", adapter.labels.len()),
            Kind::ClipHead | Kind::ClipConcepts => ("image_embeds", *width),
        };
        let output = adapter.output.as_deref().unwrap_or(output);
        let input = (adapter.input.as_str(), &[0, 3, *size, *size][..]);
        let model = Model::open(path, "a model that looks at pictures", input, (output, last))?
            .tried(&[1, 3, *size, *size])?;
        let end = match (kind, &adapter.head, &adapter.concepts, adapter.activation) {
            (Kind::ClipHead, Some(head), _, Some(activation)) => {
                let [input, output] = &adapter.head_names;
                let what = "a head on embeddings of pictures";
                let head = Model::open(head, what, (input, &[0, *width]), (output, 1))?
                    .tried(&[1, *width])?;
                End::Head(head, activation)
            }
            (Kind::ClipConcepts, _, Some(path), _) => End::Concepts(concepts(path, *width)?),
            _ => End::Softmax,
        };
        let own = Self { adapter: adapter.clone(), model, end };
        // Two pictures as a trial: a head whose values need an activation leaves 0 to 1 here.
        for shade in [0u8, 255] {
            let data: Vec<u8> = (0..3 * 64 * 64).map(|at| shade ^ (at / 192 * 3) as u8).collect();
            own.value(&RgbFrame { width: 64, height: 64, data })?;
        }
        Ok(own)
    }

    fn value(&self, frame: &RgbFrame) -> Result<f64> {
        let Adapter { size, model: path, nsfw_index, .. } = &self.adapter;
        let input = self.prepared(frame);
        let out = self.model.run(&[1, 3, *size, *size], input)?;
        let value = match &self.end {
            End::Softmax => {
                let most = out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let parts: Vec<f64> = out.iter().map(|v| f64::from(v - most).exp()).collect();
                parts[*nsfw_index] / parts.iter().sum::<f64>()
            }
            End::Head(head, activation) => {
                let width = out.len();
                let value = head.run(&[1, width], unit(out))?[0];
                match activation {
                    Activation::None => f64::from(value),
                    Activation::Sigmoid => 1.0 / (1.0 + (-f64::from(value)).exp()),
                }
            }
            End::Concepts(concepts) => {
                let own = unit(out);
                let counts = |concept: &Concept| {
                    let cosine: f32 = own.iter().zip(&concept.embedding).map(|(a, b)| a * b).sum();
                    cosine >= concept.threshold
                };
                f64::from(u8::from(concepts.iter().any(counts)))
            }
        };
        match (0.0..=1.0).contains(&value) {
            true => Ok(value),
            false => {
                let what = format!("it gives {value}, which is not from 0 to 1");
                Err(wrong(path, what).advised("a head may need `activation = \"sigmoid\"`"))
            }
        }
    }

    /// The picture as the model takes it, red, green and blue one after the other.
    fn prepared(&self, frame: &RgbFrame) -> Vec<f32> {
        const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
        const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
        let size = self.adapter.size as u32;
        let picture =
            RgbImage::from_raw(frame.width as u32, frame.height as u32, frame.data.clone())
                .expect("a frame has three bytes a pixel");
        let (picture, mean, std) = match self.adapter.kind {
            Kind::VitBinary => {
                (resize(&picture, size, size, FilterType::Triangle), [0.5; 3], [0.5; 3])
            }
            Kind::ClipHead | Kind::ClipConcepts => {
                let (width, height) = picture.dimensions();
                let shorter = width.min(height);
                let longer = |side: u32| {
                    let side = u64::from(side) * u64::from(size) / u64::from(shorter);
                    u32::try_from(side).unwrap_or(u32::MAX).clamp(size, 64 * size)
                };
                let (wide, high) = (longer(width), longer(height));
                let whole = resize(&picture, wide, high, FilterType::CatmullRom);
                let (left, top) = ((wide - size) / 2, (high - size) / 2);
                (crop_imm(&whole, left, top, size, size).to_image(), CLIP_MEAN, CLIP_STD)
            }
        };
        let (mean, std) = (self.adapter.mean.unwrap_or(mean), self.adapter.std.unwrap_or(std));
        let plane = |channel: usize| {
            let value = move |pixel: &image::Rgb<u8>| {
                (f32::from(pixel.0[channel]) / 255.0 - mean[channel]) / std[channel]
            };
            picture.pixels().map(value).collect::<Vec<f32>>()
        };
        (0..3).flat_map(plane).collect()
    }
}

/// The same direction with length 1.
fn unit(values: Vec<f32>) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    values.into_iter().map(|v| v / length).collect()
}

fn concepts(path: &Path, width: usize) -> Result<Vec<Concept>> {
    let large = |limit| wrong(path, format!("it has more than {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
    let mut all: Vec<Concept> = serde_json::from_slice(&bytes)
        .map_err(|fault| wrong(path, format!("these are no concepts: {fault}")))?;
    for concept in &mut all {
        let finite = concept.embedding.iter().chain([&concept.threshold]).all(|v| v.is_finite());
        if concept.embedding.len() != width || !finite {
            let what = format!("the embedding of \"{}\" is not {width} numbers", concept.name);
            return Err(wrong(path, what));
        }
        concept.embedding = unit(std::mem::take(&mut concept.embedding));
    }
    match all.is_empty() {
        true => Err(wrong(path, "there are no concepts")),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests;
