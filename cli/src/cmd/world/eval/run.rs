//! Makes the clips of an evaluation and has them judged.

use super::args::{Arm, Eval, Given};
use super::judges::{Judges, LEARNED};
use super::keep::Verdicts;
use crate::cmd::world::clips::{self, Clips, Told, Weights, picture};
use crate::cmd::world::coded;
use crate::cmd::world::makers::{Maker, Worker, each, makers};
use crate::output::duration;
use crate::progress::{Progress, left};
use anyid_runtime::{Model, Result, Tensor};
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
    /// How many sets are shown in a picture; their clips are made even where verdicts are kept.
    pub shown: usize,
}

/// Where results go.
pub struct Out<'o> {
    /// What the judges read.
    pub verdicts: &'o mut Verdicts,
    /// How far the work is.
    pub progress: &'o mut Progress,
    /// What was warned of.
    pub told: &'o mut Told,
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
    /// Those of models and of [`Pipeline::generate_with`](anyid_runtime::Pipeline), E1002 when stopped, and
    /// those of [`Verdicts::put`].
    pub fn run(
        &self,
        arms: &[Arm],
        models: Vec<(Weights, Model)>,
        workers: &mut [Worker<Judges>],
        mut out: Out<'_>,
    ) -> Result<Shown> {
        self.truth(workers, &mut out)?;
        let mut shown = Shown::new();
        for (weights, model) in models {
            let mut makers = makers(workers, &weights, model)?;
            for arm in arms.iter().filter(|arm| arm.weights == weights) {
                self.arm(arm, &mut makers, &mut shown, &mut out)?;
            }
        }
        Ok(shown)
    }

    /// Judges the true clips: the most that any arm can come to.
    fn truth(&self, workers: &mut [Worker<Judges>], out: &mut Out<'_>) -> Result<()> {
        let Out { verdicts, progress, .. } = out;
        let new = |case: &&Case| verdicts.of(TRUTH, case.set.group.number()).is_none();
        let cases: Vec<&Case> = self.cases.iter().filter(new).collect();
        let mut telling = Telling::new(TRUTH, self.cases.len(), cases.len(), progress);
        let look = |worker: &mut Worker<Judges>, case: &&Case| {
            self.clips.stopped()?;
            let group = &case.set.group;
            let clip = group.clip(case.set.target).map_err(coded)?;
            let view = |frame| View::frame(frame, self.clips.made.frames);
            let scenes = self.clips.judged().into_iter().map(|frame| {
                worker.painter.frame(&self.world().scene(&group.identity, &clip, view(frame)))
            });
            let frames: Vec<Vec<u8>> = scenes.collect();
            worker.judge.parts(&self.clips, case, &frames, &group.identity)
        };
        each(workers, &cases, &look, &mut |at, found| {
            verdicts.put(TRUTH, cases[at].set.group.number(), found)?;
            telling.more(progress);
            Ok(())
        })
    }

    /// Makes and judges the clips of an arm. Sets with references of the same lengths come one behind
    /// the other, because the networks are compiled for those.
    fn arm(
        &self,
        arm: &Arm,
        makers: &mut [Maker<'_, Judges>],
        pictures: &mut Shown,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let Out { verdicts, progress, told } = out;
        let known = |case: &Case| verdicts.of(&arm.name, case.set.group.number()).is_some();
        let all = self.cases.iter().enumerate().map(|(at, case)| (at, case, known(case)));
        let mut order: Vec<_> = all.filter(|(at, _, known)| !known || *at < self.shown).collect();
        order.sort_by_key(|(_, case, _)| clips::lengths(&case.set));
        let mut telling = Telling::new(&arm.name, self.cases.len(), order.len(), progress);
        let make = |maker: &mut Maker<'_, Judges>, (_, case, known): &(usize, &Case, bool)| {
            self.clips.stopped()?;
            let (frames, warnings) = self.generate(arm.given, maker, case)?;
            let found = match known {
                true => None,
                false => Some(self.verdict(arm.given, &mut maker.worker.judge, case, &frames)?),
            };
            Ok((frames, found, warnings))
        };
        each(makers, &order, &make, &mut |place, (frames, found, warnings)| {
            let (at, case, _) = order[place];
            told.tell(warnings, progress);
            if let Some(found) = found {
                verdicts.put(&arm.name, case.set.group.number(), found)?;
            }
            if at < self.shown {
                pictures.insert((arm.name.clone(), at), frames);
            }
            telling.more(progress);
            Ok(())
        })
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

    /// The judged frames of the clip that the model makes for a set, and what it warned of.
    fn generate(
        &self,
        given: Given,
        maker: &mut Maker<'_, Judges>,
        case: &Case,
    ) -> Result<(Vec<Vec<u8>>, Vec<String>)> {
        let Maker { pipeline, worker } = maker;
        if given == Given::Decoded {
            let frames = self.clips.through(pipeline, &case.set, &mut worker.painter)?;
            return Ok((frames, Vec::new()));
        }
        let (references, prompt) = inputs(given, case, &mut worker.painter, self.clips.made.size)?;
        // Every arm begins from the same noise.
        let seed = self.args.set.seed.wrapping_add(case.set.group.number());
        let (given, mut warnings) = (clips::Given { references, prompt, seed }, Vec::new());
        let frames = self.clips.make(pipeline, given, &mut warnings)?;
        let judged = self.clips.judged().into_iter().map(|at| frames[at].clone());
        Ok((judged.collect(), warnings))
    }
}

/// How far an arm is.
struct Telling {
    begun: Instant,
    total: u64,
    new: u64,
    made: u64,
}

impl Telling {
    /// Begins an arm of so many clips, of which so many are new.
    fn new(name: &str, total: usize, new: usize, progress: &mut Progress) -> Self {
        progress.part(name);
        let out = Self { begun: Instant::now(), total: total as u64, new: new as u64, made: 0 };
        if new == 0 {
            out.tell(progress);
        }
        out
    }

    /// One clip more is there.
    fn more(&mut self, progress: &mut Progress) {
        self.made += 1;
        self.tell(progress);
    }

    fn tell(&self, progress: &mut Progress) {
        let Self { begun, total, new, made } = *self;
        let done = total - new + made;
        progress.update(done, total, || {
            let each = begun.elapsed().checked_div(made.max(1) as u32).unwrap_or_default();
            let rest = left(begun.elapsed(), made, new);
            format!("{done} of {total} clips, {} each{rest}", duration(each))
        });
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
        _ => set.prompt.text.clone(),
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
