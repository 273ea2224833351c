//! Makes the clips of an evaluation and has them judged.

use super::args::{Arm, Eval, Given, Weights};
use super::keep::Verdicts;
use crate::cmd::world::coded;
use crate::output::duration;
use crate::progress::{Progress, left};
use anyid_runtime::adapter::Tolerance;
use anyid_runtime::media::color::{Rounding, planar_to_rgb, to_unit};
use anyid_runtime::{
    Backend, Cancel, DType, Error, Event, Keep, Model, Pipeline, Receiver, ReferenceSource,
    Request, Result, Size, Tensor, TensorType,
};
use anyid_world::{
    Feature, Group, Identity, Judge, Painter, Part, Parts, Set, Trial, View, World, parts,
};
use std::time::Instant;

/// Name of the arm of the true clips.
pub const TRUTH: &str = "true clips";

/// The measure of what the primary of a trial hides.
pub const HIDDEN: &str = "hidden";

/// A set, and whom its references show in the arm `exchanged`.
pub struct Case {
    /// The set, with its differential prompt.
    pub set: Set,
    /// The person of the next set.
    pub other: Group,
    /// The trial that the set is of.
    pub trial: Option<Trial>,
}

/// What an evaluation works with.
pub struct Work<'w> {
    /// The flags.
    pub args: &'w Eval,
    /// How each clip is made.
    pub request: &'w Request,
    /// The sets.
    pub cases: &'w [Case],
    /// The device.
    pub backend: &'w Backend,
    /// Stops it within a clip.
    pub cancel: &'w Cancel,
}

/// Opens a model with its adapters.
///
/// # Errors
/// E07xx and E03xx for the model, E036x for adapters.
pub fn open(weights: &Weights) -> Result<Model> {
    let model = match &weights.folder {
        Some(folder) => Model::open(folder)?,
        None => Model::micro()?,
    };
    model.with_adapters(&weights.adapters, Tolerance::default())
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

impl Work<'_> {
    fn world(&self) -> World {
        self.args.set.world.version
    }

    /// Judges the true clips, and those that each arm makes, as far as they are not kept.
    ///
    /// # Errors
    /// Those of models and of [`Pipeline::generate_with`], E1002 when stopped, and those of
    /// [`Verdicts::put`].
    pub fn run(
        &self,
        arms: &[Arm],
        models: Vec<(Weights, Model)>,
        verdicts: &mut Verdicts,
        progress: &mut Progress,
    ) -> Result<()> {
        self.truth(verdicts, progress)?;
        for (weights, model) in models {
            let pipeline = Pipeline::new(model, self.backend.clone()).keep(Keep::Loaded);
            for arm in arms.iter().filter(|arm| arm.weights == weights) {
                self.arm(arm, &pipeline, verdicts, progress)?;
            }
        }
        Ok(())
    }

    /// Judges the true clips: the most that any arm can come to.
    fn truth(&self, verdicts: &mut Verdicts, progress: &mut Progress) -> Result<()> {
        let (mut judge, mut painter) = (Judge::new(self.world()), self.painter()?);
        progress.part(TRUTH);
        for (done, case) in (1..).zip(self.cases) {
            self.stopped()?;
            let group = &case.set.group;
            if verdicts.of(TRUTH, group.number()).is_none() {
                let clip = group.clip(case.set.target).map_err(coded)?;
                let view = |frame| View::frame(frame, self.args.frames);
                let scenes = self.judged().into_iter().map(|frame| {
                    painter.frame(&self.world().scene(&group.identity, &clip, view(frame)))
                });
                let frames: Vec<Vec<u8>> = scenes.collect();
                let found = self.judge(&mut judge, case, &frames, &group.identity)?;
                verdicts.put(TRUTH, group.number(), found)?;
            }
            self.tell(progress, done);
        }
        Ok(())
    }

    /// Makes and judges the clips of an arm. Sets with references of the same lengths come one behind
    /// the other, because the networks are compiled for those.
    fn arm(
        &self,
        arm: &Arm,
        pipeline: &Pipeline,
        verdicts: &mut Verdicts,
        progress: &mut Progress,
    ) -> Result<()> {
        let (mut judge, mut painter) = (Judge::new(self.world()), self.painter()?);
        let mut order: Vec<&Case> = self.cases.iter().collect();
        order.sort_by_key(|case| {
            let lengths = case.set.references.iter().map(|one| one.form.pictures());
            lengths.collect::<Vec<_>>()
        });
        progress.part(&arm.name);
        let begun = Instant::now();
        let mut made = 0u64;
        for (done, case) in (1..).zip(order) {
            self.stopped()?;
            let number = case.set.group.number();
            if verdicts.of(&arm.name, number).is_none() {
                let frames = self.generate(arm.given, pipeline, case, &mut painter, progress)?;
                let shown: Vec<Vec<u8>> =
                    self.judged().into_iter().map(|at| frames[at].clone()).collect();
                let own = &case.set.group.identity;
                let found = match arm.given {
                    Given::Exchanged => {
                        let mut found =
                            self.judge(&mut judge, case, &shown, &case.other.identity)?;
                        let likeness = self.judge(&mut judge, case, &shown, own)?;
                        for name in ["large", "small", "identity"] {
                            let part = likeness.get(name).copied();
                            found.extend(part.map(|part| (format!("own.{name}"), part)));
                        }
                        found
                    }
                    Given::Full
                    | Given::Nothing
                    | Given::Primary
                    | Given::Absolute
                    | Given::Uninformative => self.judge(&mut judge, case, &shown, own)?,
                };
                verdicts.put(&arm.name, number, found)?;
                made += 1;
            }
            let total = self.cases.len() as u64;
            progress.update(done, total, || {
                let each = begun.elapsed().checked_div(made.max(1) as u32).unwrap_or_default();
                let rest = left(begun.elapsed(), made, made + total - done);
                format!("{done} of {total} clips, {} each{rest}", duration(each))
            });
        }
        Ok(())
    }

    fn tell(&self, progress: &mut Progress, done: u64) {
        let total = self.cases.len() as u64;
        progress.update(done, total, || format!("{done} of {total} clips"));
    }

    fn stopped(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(Error::new(
                anyid_runtime::Kind::Interrupted,
                "E1002",
                "interrupted between two clips",
            )),
            false => Ok(()),
        }
    }

    fn painter(&self) -> Result<Painter> {
        Painter::new(self.args.size).map_err(coded)
    }

    /// The frames that are judged: the first and the last.
    fn judged(&self) -> Vec<usize> {
        match self.args.frames {
            1 => vec![0],
            frames => vec![0, frames - 1],
        }
    }

    fn judge(
        &self,
        judge: &mut Judge,
        case: &Case,
        frames: &[Vec<u8>],
        identity: &Identity,
    ) -> Result<Parts> {
        let clip = case.set.group.clip(case.set.target).map_err(coded)?;
        let times: Vec<f32> = self
            .judged()
            .into_iter()
            .map(|frame| View::frame(frame, self.args.frames).time())
            .collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let verdict = judge.clip(&frames, self.args.size, &times, identity, &clip);
        let verdict = verdict.map_err(coded)?;
        let mut found = parts(&case.set, &verdict);
        let hidden = case.trial.as_ref().map(|trial| Feature::Attribute(trial.attribute));
        let hidden = hidden.and_then(|feature| verdict.of(feature)).filter(|one| one.visible);
        let part = |right: bool| Part { sum: f64::from(u8::from(right)), cases: 1.0 };
        found.extend(hidden.map(|one| (HIDDEN.to_owned(), part(one.right()))));
        Ok(found)
    }

    /// The frames that the model makes for a set.
    fn generate(
        &self,
        given: Given,
        pipeline: &Pipeline,
        case: &Case,
        painter: &mut Painter,
        progress: &mut Progress,
    ) -> Result<Vec<Vec<u8>>> {
        let (references, prompt) = inputs(given, case, painter, self.args.size)?;
        let references = references.into_iter().map(ReferenceSource::Pixels).collect();
        // Every arm begins from the same noise.
        let seed = self.args.set.seed.wrapping_add(case.set.group.number());
        let request = Request { references, prompt, seed, ..self.request.clone() };
        let mut frames = Frames { size: self.args.size, rgb: Vec::new(), warnings: Vec::new() };
        pipeline.generate_with(&request, self.cancel, &mut frames)?;
        frames.warnings.iter().for_each(|warning| progress.warn(warning));
        Ok(frames.rgb)
    }
}

/// The references and the prompt that an arm is given for a set.
fn inputs(
    given: Given,
    case: &Case,
    painter: &mut Painter,
    size: usize,
) -> Result<(Vec<Tensor>, String)> {
    let (set, world) = (&case.set, case.set.group.world());
    let mut shown = set.references.clone();
    match (given, &case.trial) {
        (Given::Primary, _) => shown.truncate(1),
        (Given::Uninformative, Some(trial)) => shown[1] = trial.uninformative,
        _ => {}
    }
    let identity = match given {
        Given::Exchanged => &case.other.identity,
        _ => &set.group.identity,
    };
    let mut references = Vec::new();
    for reference in &shown {
        let clip = set.group.clip(reference.clip).map_err(coded)?;
        let views = set.group.views(reference.clip, reference.form).map_err(coded)?;
        let pictures = views.into_iter().map(|view| match given {
            Given::Nothing => vec![0; painter.frame_bytes()],
            _ => painter.frame(&world.scene(identity, &clip, view)),
        });
        references.push(planar(&pictures.collect::<Vec<_>>(), size));
    }
    let prompt = match given {
        Given::Nothing | Given::Absolute => {
            world.absolute_prompt(&set.group.clip(set.target).map_err(coded)?).text
        }
        Given::Full | Given::Primary | Given::Exchanged | Given::Uninformative => {
            set.prompt.text.clone()
        }
    };
    Ok((references, prompt))
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

/// How a clip is made, without what is of its set.
///
/// # Errors
/// E091x for names of solvers.
pub fn request(args: &Eval) -> Result<Request> {
    let solver = args.solver.as_deref();
    let solver =
        solver.map(|name| name.parse().map_err(|e: Error| e.at("--solver"))).transpose()?;
    Ok(Request {
        size: Size { width: args.size, height: args.size, frames: args.frames },
        steps: args.steps,
        shift: args.shift,
        guidance: args.guidance,
        solver,
        precision: args.precision.map(Into::into),
        ..Request::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_world::{Arm as TrialArm, SIDE, Trials, Visibility};

    fn case() -> Case {
        let world = World::new(2).unwrap();
        let mut visibility = Visibility::new();
        let mut trial = |group| Trials::default().of(&world, group, &mut visibility).unwrap();
        let trial = (2_000_000..).find_map(&mut trial).unwrap();
        let set = trial.set(&world, TrialArm::Informative).unwrap();
        let other = world.group(set.group.number() + 1).unwrap();
        Case { set, other, trial: Some(trial) }
    }

    #[test]
    fn arms_are_given_what_they_say() {
        let (case, mut painter) = (case(), Painter::new(SIDE).unwrap());
        let mut given = |given| inputs(given, &case, &mut painter, SIDE).unwrap();
        let (all, prompt) = given(Given::Full);
        assert_eq!((all.len(), &prompt), (2, &case.set.prompt.text));
        assert_eq!(all[0].shape(), [3, 1, SIDE, SIDE]);
        assert_eq!(given(Given::Primary), (vec![all[0].clone()], prompt.clone()));
        let (black, said) = given(Given::Nothing);
        let black_only = |one: &Tensor| one.as_f32().unwrap().iter().all(|value| *value == -1.0);
        assert!(black.len() == 2 && black.iter().all(black_only));
        assert!(said.len() >= prompt.len() && said.matches('.').count() == 8, "{said}");
        assert_eq!(given(Given::Absolute), (all.clone(), said));
        let (other, said) = given(Given::Uninformative);
        assert_eq!((&other[0], &said), (&all[0], &prompt));
        assert_ne!(other[1], all[1]);
        // Somebody else in the same clips.
        let (exchanged, said) = given(Given::Exchanged);
        assert_eq!(said, prompt);
        for (one, own) in exchanged.iter().zip(&all) {
            assert_ne!(one, own);
            assert_eq!(one.shape(), own.shape());
        }
    }

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
