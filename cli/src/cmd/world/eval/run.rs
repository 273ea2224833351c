//! Makes the clips of an evaluation and has them judged.

use super::args::{Arm, Eval, Given};
use super::judges::{Judges, LEARNED};
use super::keep::Verdicts;
use crate::cmd::world::clips::{self, Clips, Weights, picture};
use crate::cmd::world::coded;
use crate::output::duration;
use crate::progress::{Progress, left};
use anyid_runtime::{Backend, Keep, Model, Pipeline, Result, Tensor};
use anyid_world::{Group, Painter, Parts, Set, Trial, View, World};
use std::collections::BTreeMap;
use std::time::Instant;

/// Name of the arm of the true clips.
pub const TRUTH: &str = "true clips";

/// The measure of what the primary of a trial hides.
pub const HIDDEN: &str = "hidden";

/// A set, and whom its references show in the arm `exchanged`.
pub struct Case {
    /// The set, with its differential prompt.
    pub set: Set,
    /// The person with the next number.
    pub other: Group,
    /// The trial that the set is of.
    pub trial: Option<Trial>,
}

/// What an evaluation works with.
pub struct Work<'w> {
    /// The flags.
    pub args: &'w Eval,
    /// How clips are made.
    pub clips: Clips<'w>,
    /// The sets.
    pub cases: &'w [Case],
    /// The device.
    pub backend: &'w Backend,
    /// How many sets are shown in a picture; their clips are made even where verdicts are kept.
    pub shown: usize,
}

/// First and last frames of the sets that are shown, by arm and set.
pub type Shown = BTreeMap<(String, usize), Vec<Vec<u8>>>;

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
        (judges, verdicts): (&mut Judges, &mut Verdicts),
        progress: &mut Progress,
    ) -> Result<Shown> {
        self.truth((judges, verdicts), progress)?;
        let mut shown = Shown::new();
        for (weights, model) in models {
            let pipeline = Pipeline::new(model, self.backend.clone()).keep(Keep::Loaded);
            for arm in arms.iter().filter(|arm| arm.weights == weights) {
                self.arm(arm, &pipeline, (judges, verdicts), &mut shown, progress)?;
            }
        }
        Ok(shown)
    }

    /// Judges the true clips: the most that any arm can come to.
    fn truth(
        &self,
        (judges, verdicts): (&mut Judges, &mut Verdicts),
        progress: &mut Progress,
    ) -> Result<()> {
        let mut painter = self.clips.painter()?;
        progress.part(TRUTH);
        for (done, case) in (1..).zip(self.cases) {
            self.clips.stopped()?;
            let group = &case.set.group;
            if verdicts.of(TRUTH, group.number()).is_none() {
                let clip = group.clip(case.set.target).map_err(coded)?;
                let view = |frame| View::frame(frame, self.clips.made.frames);
                let scenes = self.clips.judged().into_iter().map(|frame| {
                    painter.frame(&self.world().scene(&group.identity, &clip, view(frame)))
                });
                let frames: Vec<Vec<u8>> = scenes.collect();
                let found = judges.parts(&self.clips, case, &frames, &group.identity)?;
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
        (judges, verdicts): (&mut Judges, &mut Verdicts),
        pictures: &mut Shown,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut painter = self.clips.painter()?;
        let mut order: Vec<(usize, &Case)> = self.cases.iter().enumerate().collect();
        order.sort_by_key(|(_, case)| clips::lengths(&case.set));
        progress.part(&arm.name);
        let begun = Instant::now();
        let mut made = 0u64;
        for (done, (at, case)) in (1..).zip(order) {
            self.clips.stopped()?;
            let number = case.set.group.number();
            let known = verdicts.of(&arm.name, number).is_some();
            if !known || at < self.shown {
                let frames = self.generate(arm.given, pipeline, case, &mut painter, progress)?;
                let frames: Vec<Vec<u8>> =
                    self.clips.judged().into_iter().map(|at| frames[at].clone()).collect();
                if !known {
                    let found = self.verdict(arm.given, judges, case, &frames)?;
                    verdicts.put(&arm.name, number, found)?;
                }
                if at < self.shown {
                    pictures.insert((arm.name.clone(), at), frames);
                }
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

    /// What the clip of an arm comes to. Exchanged references are expected to show whom they are of; how
    /// like the set's own person the clip is stands beside it.
    fn verdict(
        &self,
        given: Given,
        judges: &mut Judges,
        case: &Case,
        frames: &[Vec<u8>],
    ) -> Result<Parts> {
        let own = &case.set.group.identity;
        if given != Given::Exchanged {
            return judges.parts(&self.clips, case, frames, own);
        }
        let mut found = judges.parts(&self.clips, case, frames, &case.other.identity)?;
        let likeness = judges.parts(&self.clips, case, frames, own)?;
        for judge in ["", LEARNED] {
            for name in ["large", "small", "identity"] {
                let part = likeness.get(&format!("{judge}{name}")).copied();
                found.extend(part.map(|part| (format!("{judge}own.{name}"), part)));
            }
        }
        Ok(found)
    }

    fn tell(&self, progress: &mut Progress, done: u64) {
        let total = self.cases.len() as u64;
        progress.update(done, total, || format!("{done} of {total} clips"));
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
        let (references, prompt) = inputs(given, case, painter, self.clips.made.size)?;
        // Every arm begins from the same noise.
        let seed = self.args.set.seed.wrapping_add(case.set.group.number());
        self.clips.make(pipeline, clips::Given { references, prompt, seed }, progress)
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
        Given::Nothing => None,
        Given::Exchanged => Some(&case.other.identity),
        _ => Some(&set.group.identity),
    };
    let references = shown.iter().map(|reference| picture(set, reference, identity, painter, size));
    let references = references.collect::<Result<Vec<_>>>()?;
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
}
