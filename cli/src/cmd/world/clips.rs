//! Clips that a model makes for sets of the world, and what the judge reads in them.
//!
//! Evaluations and pairs have this in common: references are painted, the model makes a clip of them
//! and a prompt from the noise of a seed, and first and last frame are judged. A clip depends on model,
//! references, prompt, seed and flags alone, for any number of threads.

use super::args::ClipArgs;
use super::coded;
use crate::progress::Progress;
use anyid_runtime::adapter::{Tolerance, Wanted};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::media::color::{Rounding, planar_to_rgb, to_unit};
use anyid_runtime::{
    Cancel, DType, Error, Event, Kind, Model, Pipeline, Receiver, ReferenceSource, Request, Result,
    Tensor, TensorType,
};
use anyid_world::{Identity, Judge, Painter, Reference, Set, Verdict, View};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

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
            None => Model::micro()?,
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

/// How clips are made and looked at.
pub struct Clips<'c> {
    /// The flags.
    pub made: &'c ClipArgs,
    /// How each clip is made, without what is of its set.
    pub request: &'c Request,
    /// Stops it within a clip.
    pub cancel: &'c Cancel,
    /// Warnings that were printed; each is said once.
    pub told: RefCell<BTreeSet<String>>,
}

impl Clips<'_> {
    /// The frames that the model makes, RGB bytes each.
    ///
    /// # Errors
    /// Those of [`Pipeline::generate_with`].
    pub fn make(
        &self,
        pipeline: &Pipeline,
        given: Given,
        progress: &mut Progress,
    ) -> Result<Vec<Vec<u8>>> {
        let references = given.references.into_iter().map(ReferenceSource::Pixels).collect();
        let (prompt, seed) = (given.prompt, given.seed);
        let request = Request { references, prompt, seed, ..self.request.clone() };
        let mut frames = Frames { size: self.made.size, rgb: Vec::new(), warnings: Vec::new() };
        pipeline.generate_with(&request, self.cancel, &mut frames)?;
        for warning in frames.warnings {
            if self.told.borrow_mut().insert(warning.clone()) {
                progress.warn(&warning);
            }
        }
        Ok(frames.rgb)
    }

    /// The frames that are judged: the first and the last.
    pub fn judged(&self) -> Vec<usize> {
        match self.made.frames {
            1 => vec![0],
            frames => vec![0, frames - 1],
        }
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
        let view = |frame| View::frame(frame, self.made.frames).time();
        let times: Vec<f32> = self.judged().into_iter().map(view).collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        judge.clip(&frames, self.made.size, &times, identity, &clip).map_err(coded)
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
