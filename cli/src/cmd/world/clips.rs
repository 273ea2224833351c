//! Clips that a model makes for sets of the world, the flags that say how, and what the judge reads in
//! them.
//!
//! Evaluations and pairs have this in common: references are painted, the model makes a clip of them
//! and a prompt from the noise of a seed, and first and last frame are judged. A clip depends on model,
//! references, prompt, seed and flags alone, for any number of threads.

use super::coded;
use crate::args::PrecisionName;
use crate::progress::Progress;
use anyid_models::wan::Precision;
use anyid_runtime::adapter::{Tolerance, Wanted};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::media::color::{Rounding, planar_to_rgb, to_unit};
use anyid_runtime::pipeline::{decode_latents, encode_pixels};
use anyid_runtime::{
    Cancel, DType, Error, Event, Kind, Model, Pipeline, Receiver, ReferenceSource, Request, Result,
    Size, Tensor, TensorType,
};
use anyid_world::{Identity, Judge, MOST_SIDES, Painter, Reference, SIDE, Set, Verdict, View};
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The model that makes clips.
#[derive(Debug, Args)]
pub struct WeightArgs {
    /// Model folder [default: the built-in model].
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// An adapter (LoRA) for its transformer with its scale [default: 1]; may be given several times.
    #[arg(long = "lora", value_name = "PATH[:SCALE]", allow_hyphen_values = true)]
    pub adapters: Vec<String>,
}

impl WeightArgs {
    /// The model with its adapters.
    ///
    /// # Errors
    /// E0361 and others for what names no adapter.
    pub fn weights(&self) -> Result<Weights> {
        let adapters = crate::cmd::lora::wanted(&self.adapters)?;
        Ok(Weights { folder: self.model.clone(), adapters })
    }
}

/// How a model makes clips.
#[derive(Debug, Args)]
pub struct ClipArgs {
    /// Pixels of a side, a multiple of 48 that the model takes.
    #[arg(long, value_name = "N", default_value_t = 48, allow_negative_numbers = true)]
    pub size: usize,
    /// Frames of a clip; 1 for models of single pictures.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
    pub frames: usize,
    /// Sampling steps.
    #[arg(long, value_name = "N", default_value_t = 12, allow_negative_numbers = true)]
    pub steps: usize,
    /// Shift of the noise schedule [default: the model's].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,
    /// Guidance scale; 1 turns guidance off.
    #[arg(long, value_name = "G", default_value_t = 2.0, allow_negative_numbers = true)]
    pub guidance: f64,
    /// unipc, euler, dpmpp or lcm [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub solver: Option<String>,
    /// Arithmetic of the networks [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
}

impl ClipArgs {
    /// How each clip is made, without what is of its set.
    ///
    /// # Errors
    /// E091x for names of solvers.
    pub fn request(&self) -> Result<Request> {
        let solver = self.solver.as_deref();
        let solver =
            solver.map(|name| name.parse().map_err(|e: Error| e.at("--solver"))).transpose()?;
        Ok(Request {
            size: Size { width: self.size, height: self.size, frames: self.frames },
            steps: self.steps,
            shift: self.shift,
            guidance: self.guidance,
            solver,
            precision: self.precision.map(Into::into),
            ..Request::default()
        })
    }

    /// Refuses a size that frames of the world, or one of the models, cannot have, and says which both can.
    ///
    /// # Errors
    /// E0982 for the world, E0901 for a model.
    pub fn check_size<'m>(&self, models: impl IntoIterator<Item = &'m Model>) -> Result<()> {
        let (size, mut step) = (self.size, SIDE);
        let mut refused = Painter::new(size).err().map(coded);
        for model in models {
            let geometry = model.geometry();
            step = geometry.sides().into_iter().fold(step, least_common_multiple);
            let own = Size { width: size, height: size, frames: 1 };
            refused = refused.or(own.check(geometry).err());
        }
        let Some(error) = refused else { return Ok(()) };
        let near = (size / step).max(1) * step;
        let help = match Painter::new(near) {
            Ok(_) => format!("use {near}: world and model take multiples of {step}"),
            Err(_) => {
                let most = SIDE * MOST_SIDES;
                format!("world and model would take multiples of {step}, and at most {most}")
            }
        };
        Err(error.advised(help).at(format!("--size {size}")))
    }

    /// Refuses what a model cannot make.
    ///
    /// # Errors
    /// As [`Request::check`], naming the flags of sizes.
    pub fn check(&self, request: &Request, model: &Model) -> Result<()> {
        request.check(model).map_err(|error| match error.code() {
            "E0901" => error.at(format!("--size {}", self.size)),
            "E0902" => error.at(format!("--frames {}", self.frames)),
            _ => error,
        })
    }

    /// What decides the clips that a model makes.
    pub fn about(&self) -> Map<String, Value> {
        let precision = self.precision.map(|name| Precision::from(name).name());
        let about = json!({
            "size": self.size, "frames": self.frames, "steps": self.steps, "shift": self.shift,
            "guidance": self.guidance, "solver": self.solver, "precision": precision,
        });
        about.as_object().cloned().unwrap_or_default()
    }
}

/// The smallest number that is a multiple of both.
fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut greatest, mut rest) = (a, b);
    while rest > 0 {
        (greatest, rest) = (rest, greatest % rest);
    }
    a / greatest.max(1) * b
}

/// A model with its adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Its folder; none for the built-in model.
    pub folder: Option<PathBuf>,
    /// Its adapters.
    pub adapters: Vec<Wanted>,
}

impl Weights {
    /// Opens the model with its adapters.
    ///
    /// # Errors
    /// E07xx and E03xx for the model, E036x for adapters.
    pub fn open(&self) -> Result<Model> {
        let model = match &self.folder {
            Some(folder) => Model::open(folder)?,
            None => Model::built_in()?,
        };
        model.with_adapters(&self.adapters, Tolerance::default())
    }
}

/// What decides the weights of a model with its adapters.
///
/// # Errors
/// Those of reading them.
pub fn prints(model: &Model) -> Result<Vec<String>> {
    let mut prints = model.fingerprints()?.to_vec();
    for (adapter, scale) in &model.adapters {
        prints.push(format!("{scale} * {}", hash_file(&adapter.path)?));
    }
    Ok(prints)
}

/// What a clip is made of.
pub struct Given {
    /// The pictures of each reference, `f32[3,T,H,W]` in [−1, 1].
    pub references: Vec<Tensor>,
    /// The prompt.
    pub prompt: String,
    /// The seed of the noise.
    pub seed: u64,
}

/// Warnings that were printed; each is said once.
pub struct Told(pub BTreeSet<String>);

impl Told {
    /// Prints those that are new.
    pub fn tell(&mut self, warnings: Vec<String>, progress: &mut Progress) {
        for warning in warnings {
            if !self.0.contains(&warning) {
                progress.warn(&warning);
                self.0.insert(warning);
            }
        }
    }
}

/// How clips are made and looked at.
pub struct Clips<'c> {
    /// The flags.
    pub made: &'c ClipArgs,
    /// How each clip is made, without what is of its set.
    pub request: &'c Request,
    /// Stops it within a clip.
    pub cancel: &'c Cancel,
}

impl Clips<'_> {
    /// The frames that the model makes, RGB bytes each. `warnings` gets what the model warns of.
    ///
    /// # Errors
    /// Those of [`Pipeline::generate_with`].
    pub fn make(
        &self,
        pipeline: &Pipeline,
        given: Given,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Vec<u8>>> {
        let references = given.references.into_iter().map(ReferenceSource::Pixels).collect();
        let (prompt, seed) = (given.prompt, given.seed);
        let request = Request { references, prompt, seed, ..self.request.clone() };
        let mut frames = Frames { size: self.made.size, rgb: Vec::new(), warnings: Vec::new() };
        pipeline.generate_with(&request, self.cancel, &mut frames)?;
        warnings.extend(frames.warnings);
        Ok(frames.rgb)
    }

    /// The judged frames of a set's true clip, as the model's autoencoder keeps them.
    ///
    /// # Errors
    /// E0981 for a clip that there is not, and those of the autoencoder.
    pub fn through(
        &self,
        pipeline: &Pipeline,
        set: &Set,
        painter: &mut Painter,
    ) -> Result<Vec<Vec<u8>>> {
        let (clip, world) = (set.group.clip(set.target).map_err(coded)?, set.group.world());
        let views = (0..self.made.frames).map(|frame| View::frame(frame, self.made.frames));
        let scenes =
            views.map(|view| painter.frame(&world.scene(&set.group.identity, &clip, view)));
        let pixels = planar(&scenes.collect::<Vec<_>>(), self.made.size);
        let (model, backend) = (pipeline.model(), pipeline.backend());
        let latents = encode_pixels(model, backend, &pixels)?;
        let mut frames = Frames { size: self.made.size, rgb: Vec::new(), warnings: Vec::new() };
        frames.frames(&decode_latents(model, backend, &latents)?)?;
        Ok(self.judged().into_iter().map(|at| frames.rgb[at].clone()).collect())
    }

    /// The frames that are judged: the first and the last.
    pub fn judged(&self) -> Vec<usize> {
        match self.made.frames {
            1 => vec![0],
            frames => vec![0, frames - 1],
        }
    }

    /// When these are seen, 0 to 1.
    pub fn times(&self) -> Vec<f32> {
        let time = |frame| View::frame(frame, self.made.frames).time();
        self.judged().into_iter().map(time).collect()
    }

    /// What the judge reads in the judged frames of a set's clip, which should show `identity`.
    ///
    /// # Errors
    /// As [`Judge::clip`].
    pub fn judge(
        &self,
        judge: &mut Judge,
        set: &Set,
        frames: &[Vec<u8>],
        identity: &Identity,
    ) -> Result<Verdict> {
        let clip = set.group.clip(set.target).map_err(coded)?;
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        judge.clip(&frames, self.made.size, &self.times(), identity, &clip).map_err(coded)
    }

    /// A painter of pictures of this size.
    ///
    /// # Errors
    /// E0982 for a size that the world is not painted in.
    pub fn painter(&self) -> Result<Painter> {
        Painter::new(self.made.size).map_err(coded)
    }

    /// Nothing, until the work is to stop.
    ///
    /// # Errors
    /// E1002 of kind `Interrupted` from then on.
    pub fn stopped(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(Error::new(Kind::Interrupted, "E1002", "interrupted between two clips")),
            false => Ok(()),
        }
    }
}

/// A reference of a set as the network takes it, drawn of `identity`; black pictures of none.
///
/// # Errors
/// E0981 for a clip that there is not.
pub fn picture(
    set: &Set,
    reference: &Reference,
    identity: Option<&Identity>,
    painter: &mut Painter,
    size: usize,
) -> Result<Tensor> {
    let clip = set.group.clip(reference.clip).map_err(coded)?;
    let views = set.group.views(reference.clip, reference.form).map_err(coded)?;
    let pictures = views.into_iter().map(|view| match identity {
        Some(identity) => painter.frame(&set.group.world().scene(identity, &clip, view)),
        None => vec![0; painter.frame_bytes()],
    });
    Ok(planar(&pictures.collect::<Vec<_>>(), size))
}

/// What the networks are compiled for: pictures of each reference. Sets that agree in this come one
/// behind the other.
pub fn lengths(set: &Set) -> Vec<usize> {
    set.references.iter().map(|one| one.form.pictures()).collect()
}

/// Takes frames as they are decoded.
struct Frames {
    size: usize,
    rgb: Vec<Vec<u8>>,
    warnings: Vec<String>,
}

impl Receiver for Frames {
    fn event(&mut self, event: Event) {
        if let Event::Warning(warning) = event {
            self.warnings.push(warning);
        }
    }

    fn frames(&mut self, video: &Tensor) -> Result<()> {
        let values = video.as_f32().map_err(|e| Error::internal("E1009", e.to_string()))?;
        let count = video.shape()[1];
        for at in 0..count {
            let mut rgb = vec![0; self.size * self.size * 3];
            planar_to_rgb(values, count, at, self.size, self.size, Rounding::Nearest, &mut rgb);
            self.rgb.push(rgb);
        }
        Ok(())
    }
}

/// Pictures as the network takes them: `f32[3,T,H,W]` in [−1, 1].
fn planar(pictures: &[Vec<u8>], size: usize) -> Tensor {
    let shape = [3, pictures.len(), size, size];
    let mut tensor = Tensor::zeros(TensorType::new(DType::F32, shape));
    let values = tensor.as_f32_mut().expect("it is f32");
    let plane = size * size;
    for (channel, planes) in values.chunks_exact_mut(plane * pictures.len()).enumerate() {
        for (picture, plane) in pictures.iter().zip(planes.chunks_exact_mut(plane)) {
            for (pixel, value) in picture.chunks_exact(3).zip(plane) {
                *value = to_unit(pixel[channel]);
            }
        }
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_become_planes() {
        let pictures = [vec![0, 255, 51, 10, 20, 30, 1, 2, 3, 4, 5, 6], vec![255; 12]];
        let tensor = planar(&pictures, 2);
        let values = tensor.as_f32().unwrap();
        assert_eq!(tensor.shape(), [3, 2, 2, 2]);
        assert_eq!(values[..2], [to_unit(0), to_unit(10)]);
        assert_eq!(values[4..8], [1.0; 4]);
        assert_eq!(values[8], 1.0);
        assert_eq!(values[16], to_unit(51));
    }
}
