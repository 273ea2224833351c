//! Videos that show what a run has learned so far, made behind its checkpoints.
//!
//! The network is the one that is trained, with the values that it has at the moment: nothing is
//! loaded a second time but the decoder. Solver, schedule and guidance are those of `generate`, and
//! the start noise depends on the seed of the run alone, so that videos of one sample differ by what
//! was learned between them. A video that is there already is not made again.

use super::checkpoint::Position;
use super::dataset::{Dataset, Item};
use super::judging::{Judging, Right};
use super::learner::Learner;
use super::parameters::Values;
use super::settings::Settings;
use crate::checkpoint::write_error;
use crate::engine::Backend;
use crate::error::{Error, Kind as Fault, Result};
use crate::files::Existing;
use crate::media::color::{Rounding, planar_to_rgb};
use crate::media::writer::{VideoWriter, WriterOptions};
use crate::pipeline::{Cancel, Request, Size, decode_each, settings, tensor_f32};
use crate::sampling::{NoiseStream, first_non_finite, guidance};
use anyid_ir::Tensor;
use std::path::{Path, PathBuf};

/// Name of their folder in that of the run.
pub const SAMPLES: &str = "samples";

/// Whether videos are due at this moment.
pub fn is_due(settings: &Settings, position: &Position) -> bool {
    let (step, run) = (position.updates, &settings.run);
    let behind_update = position.samples == step * settings.train.batch;
    let due = step == settings.train.steps || step.is_multiple_of(run.checkpoint_every);
    run.samples > 0 && step > 0 && due && behind_update
}

/// The video of a sample behind update `step`, in `folder`.
pub fn video_path(folder: &Path, step: u64, id: &str) -> PathBuf {
    folder.join(format!("{step:06}-{id}.mp4"))
}

/// Samples of `data` whose videos are due at this moment and not there, by place, with their paths.
pub fn missing(settings: &Settings, position: &Position, data: &Dataset) -> Vec<(usize, PathBuf)> {
    let (step, run) = (position.updates, &settings.run);
    if !is_due(settings, position) {
        return Vec::new();
    }
    let items = data.items.iter().take(run.samples).enumerate();
    let folder = run.folder.join(SAMPLES);
    let paths = items.map(|(at, item)| (at, video_path(&folder, step, &item.id)));
    let paths: Vec<(usize, PathBuf)> = paths.collect();
    // A judge reads all of them or none: what it read is one file.
    let judged = run.judge.is_some();
    let read = !judged || Judging::path(&folder, step).exists();
    let all = judged && !(read && paths.iter().all(|(_, path)| path.exists()));
    paths.into_iter().filter(|(_, path)| all || !path.exists()).collect()
}

/// Samples with the values that a network has at the moment.
pub struct Sampler<'s, 'l> {
    /// The network.
    pub learner: &'s mut Learner<'l>,
    /// Its values.
    pub values: Values<'s>,
    /// The device.
    pub backend: &'s Backend,
    /// Says when to stop.
    pub cancel: &'s Cancel,
    /// What reads the videos.
    pub judging: Option<&'s mut Judging>,
}

impl Sampler<'_, '_> {
    /// Makes the videos of update `step`, of samples by place; `made` is told of each. Those that are
    /// left when `cancel` says to stop are not made, and then nothing is said of what the judge read.
    ///
    /// # Errors
    /// E1001 for a non-finite value, E0960 where the cache was changed, E101x where a video cannot
    /// be written.
    pub fn videos(
        &mut self,
        data: &Dataset,
        (step, wanted): (u64, Vec<(usize, PathBuf)>),
        made: &mut dyn FnMut(PathBuf),
    ) -> Result<Option<Right>> {
        for (at, path) in wanted {
            // Nothing that is learned depends on videos.
            let made_of = self.video(data, &data.items[at], &path).map_err(|error| {
                match (error.code(), error.place().is_some()) {
                    ("E1001", false) => error
                        .at(path.display())
                        .advised("set run.samples = 0, which leaves these videos out"),
                    _ => error,
                }
            });
            match made_of {
                Ok(true) => made(path),
                Ok(false) => return Ok(None),
                // Told to end while the file was open.
                Err(error) if error.kind() == Fault::Interrupted && self.cancel.is_cancelled() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let folder = self.learner.settings.run.folder.join(SAMPLES);
        self.judging.as_mut().map(|judging| judging.write(&folder, step)).transpose()
    }

    /// Makes the video of `item` at `path`; whether it was made, and `cancel` did not stop it.
    fn video(&mut self, data: &Dataset, item: &Item, path: &Path) -> Result<bool> {
        let Some(latents) = self.latents(data, item)? else { return Ok(false) };
        let folder = path.parent().expect("it is in a folder");
        std::fs::create_dir_all(folder).map_err(|fault| write_error(folder, fault))?;
        let Size { width, height, .. } = self.learner.settings.size();
        let options = WriterOptions { existing: Existing::Overwrite, ..WriterOptions::default() };
        let fps = self.learner.settings.video.fps;
        let mut writer = VideoWriter::create(path, width, height, fps, &options)?;
        let mut picture = vec![0u8; 3 * width * height];
        let mut first = Vec::new();
        decode_each((self.learner.model, self.backend, self.cancel), &latents, &mut |chunk| {
            let planes = chunk.as_f32().expect("frames are f32");
            let count = planes.len() / picture.len();
            for at in 0..count {
                planar_to_rgb(planes, count, at, height, width, Rounding::Truncate, &mut picture);
                writer.push(&picture)?;
                if first.is_empty() {
                    first.clone_from(&picture);
                }
            }
            Ok(())
        })?;
        if self.cancel.is_cancelled() {
            return Ok(false);
        }
        if let Some(judging) = &mut self.judging {
            judging.look(&item.id, [&first, &picture]).map_err(|error| match error.code() {
                "E1001" => error.at(path.display()).advised("name another run.judge, or none"),
                _ => error,
            })?;
        }
        writer.finish()?;
        Ok(true)
    }

    /// The sampling loop of `generate`; `None` where it was stopped.
    fn latents(&mut self, data: &Dataset, item: &Item) -> Result<Option<Tensor>> {
        let Learner { settings: run, model, .. } = *self.learner;
        let usual = Request { steps: run.run.sample_steps, ..Request::default() };
        let [frames, height, width] = run.size().latent(model.geometry());
        let shape = [model.dit.in_channels, frames, height, width];
        let mut values = vec![0f32; shape.iter().product()];
        NoiseStream::new(run.train.seed, NoiseStream::LATENTS).fill(0, &mut values);
        let scheduler = settings(model, &usual);
        let schedule = scheduler.schedule(usual.steps)?;
        let mut solver = scheduler.solver(&schedule, values.len())?;
        let branches = [data.condition(item, false)?, data.condition(item, true)?];
        let mut velocity = vec![0f32; values.len()];
        for step in 0..schedule.steps() {
            if self.cancel.is_cancelled() {
                return Ok(None);
            }
            let place = format!("the video of sample {}, sampling step {}", item.id, step + 1);
            let (latents, time) = (tensor_f32(shape, &values)?, schedule.timesteps[step]);
            let mut one = |branch: usize| {
                let given = (&latents, time, &branches[branch]);
                self.learner.network.velocity(given, self.values, &place)
            };
            let (conditional, null) = (one(0)?, one(1)?);
            guidance::mix(&conditional, &null, usual.guidance as f32, &mut velocity)?;
            solver.step(step, &mut values, &velocity)?;
            if first_non_finite(&values).is_some() {
                return Err(Error::input("E1001", format!("a non-finite value in {place}")));
            }
        }
        tensor_f32(shape, &values).map(Some)
    }
}
