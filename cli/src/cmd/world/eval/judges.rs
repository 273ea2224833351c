//! The judges of an evaluation: the one of the world, which paints and compares, and, where one is given, a
//! network that was trained to say what frames show.
//!
//! The network sees the frames alone. Its measures are those of the first judge under names of their own, and
//! count what first and last frame of the true clip show.

use super::run::{Case, HIDDEN};
use crate::cmd::world::clips::Clips;
use crate::cmd::world::coded;
use anyid_runtime::judge::{self, NamedClasses};
use anyid_runtime::{Backend, Error, Result, Size};
use anyid_world::{
    Attribute, Clip, Feature, Identity, Judge, Part, Parts, Reading, Verdict, Visibility, World,
    parts,
};
use std::path::Path;

/// Beginning of the names of what the trained judge reads.
pub const LEARNED: &str = "learned.";

/// The judges.
pub struct Judges {
    painting: Judge,
    learned: Option<Learned>,
}

impl Judges {
    /// The judge of a world, with another one or without.
    pub fn new(world: World, learned: Option<Learned>) -> Self {
        Self { painting: Judge::new(world), learned }
    }

    /// The trained judge, if there is one.
    pub fn learned(&self) -> Option<&Learned> {
        self.learned.as_ref()
    }

    /// What the judged frames of a case's clip come to, which should show `identity`.
    ///
    /// # Errors
    /// As [`Judge::clip`] and [`judge::Judge::read`].
    pub fn parts(
        &mut self,
        clips: &Clips<'_>,
        case: &Case,
        frames: &[Vec<u8>],
        identity: &Identity,
    ) -> Result<Parts> {
        let verdict = clips.judge(&mut self.painting, &case.set, frames, identity)?;
        let mut found = counted(case, &verdict);
        if let Some(learned) = &mut self.learned {
            let clip = case.set.group.clip(case.set.target).map_err(coded)?;
            let verdict = learned.verdict(frames, &clips.times(), identity, &clip)?;
            let own = counted(case, &verdict).into_iter();
            found.extend(own.map(|(name, part)| (format!("{LEARNED}{name}"), part)));
        }
        Ok(found)
    }
}

/// What a verdict gives to the measures, that of trials among them.
fn counted(case: &Case, verdict: &Verdict) -> Parts {
    let mut found = parts(&case.set, verdict);
    let hidden = case.trial.as_ref().map(|trial| Feature::Attribute(trial.attribute));
    let hidden = hidden.and_then(|feature| verdict.of(feature)).filter(|one| one.visible);
    let part = |right: bool| Part { sum: f64::from(u8::from(right)), cases: 1.0 };
    found.extend(hidden.map(|one| (HIDDEN.to_owned(), part(one.right()))));
    found
}

/// A trained judge of the world.
pub struct Learned {
    world: World,
    judge: judge::Judge,
    /// Each feature, where its slot is among those of the judge, and what the classes of that are.
    features: Vec<(Feature, usize, Vec<u8>)>,
    visibility: Visibility,
}

impl Learned {
    /// Opens a judge for clips of a size, of which it is shown so many frames.
    ///
    /// # Errors
    /// Those of [`judge::Judge::open`], E0998 for one of frames of another size or number, or of other
    /// features than those of the world.
    pub fn open(path: &Path, world: World, size: Size, backend: &Backend) -> Result<Self> {
        let judge = judge::Judge::open(path, backend)?;
        judge.sees(size).map_err(|error| {
            error.at(path.display()).help(
                "train a judge on clips as they are here, or give --size and --frames as it was \
                 trained",
            )
        })?;
        let features = features(&world, judge.slots()).map_err(|what| {
            Error::input("E0998", format!("{what} of {world}"))
                .at(path.display())
                .help("train a judge on samples of this world: world sample --shows writes them")
        })?;
        Ok(Self { world, judge, features, visibility: Visibility::new() })
    }

    /// Fingerprint of its weights.
    pub fn fingerprint(&self) -> &str {
        self.judge.fingerprint()
    }

    fn verdict(
        &mut self,
        frames: &[Vec<u8>],
        times: &[f32],
        identity: &Identity,
        clip: &Clip,
    ) -> Result<Verdict> {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let classes = self.judge.read(&frames)?;
        let readable = self.visibility.readable(&self.world, identity, clip, times);
        let reading = |(feature, slot, named): &(Feature, usize, Vec<u8>)| Reading {
            feature: *feature,
            truth: feature.class(identity, clip),
            read: named[classes[*slot]],
            visible: readable.contains(feature),
        };
        let readings = self.features.iter().map(reading).collect();
        Ok(Verdict { fits: Vec::new(), readings, colours: [None; 3] })
    }
}

/// The features of a world with the slots of a judge, or what the judge reads that the world has not, or the
/// other way round.
fn features(
    world: &World,
    slots: &[NamedClasses],
) -> std::result::Result<Vec<(Feature, usize, Vec<u8>)>, String> {
    let attributes = Attribute::ALL.into_iter().map(Feature::Attribute);
    let all: Vec<Feature> = attributes.chain(world.slots().map(Feature::Slot)).collect();
    let known = |name: &str| all.iter().any(|feature| feature.name() == name);
    if let Some((name, _)) = slots.iter().find(|(name, _)| !known(name)) {
        return Err(format!("the judge reads \"{name}\", which is no feature"));
    }
    let slot = |feature: Feature| {
        let name = feature.name();
        let at = slots.iter().position(|(own, _)| own == name);
        let at = at.ok_or_else(|| format!("the judge does not read \"{name}\""))?;
        let class = |text: &String| {
            let number = text.parse().ok().filter(|class| *class < feature.classes(world));
            number.ok_or_else(|| format!("the judge reads class \"{text}\" of \"{name}\", not one"))
        };
        let classes: std::result::Result<Vec<u8>, String> = slots[at].1.iter().map(class).collect();
        Ok((feature, at, classes?))
    };
    all.iter().copied().map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_reads_the_features_of_its_world_and_nothing_else() {
        let world = World::new(2).unwrap();
        let names = |feature: Feature| {
            let classes = (0..feature.classes(&world)).map(|class| class.to_string()).collect();
            (feature.name().to_owned(), classes)
        };
        let attributes = Attribute::ALL.map(Feature::Attribute).into_iter();
        let mut slots: Vec<NamedClasses> =
            attributes.chain(world.slots().map(Feature::Slot)).map(names).collect();
        slots.sort();
        // Classes come in the order of their names.
        slots[0].1.reverse();
        let found = features(&world, &slots).unwrap();
        assert_eq!(found.len(), 21);
        for (feature, at, classes) in found {
            assert_eq!(feature.name(), slots[at].0);
            let first = if at == 0 { feature.classes(&world) - 1 } else { 0 };
            assert_eq!(classes[0], first);
        }
        let wrong = |change: &dyn Fn(&mut Vec<NamedClasses>)| {
            let mut slots = slots.clone();
            change(&mut slots);
            features(&world, &slots).unwrap_err()
        };
        assert_eq!(wrong(&|s| s[3].0 = "x".into()), "the judge reads \"x\", which is no feature");
        assert_eq!(wrong(&|s| drop(s.remove(0))), "the judge does not read \"accessory\"");
        let classes = wrong(&|s| s[0].1[0] = "9".into());
        assert_eq!(classes, "the judge reads class \"9\" of \"accessory\", not one");
        // The first version does not speak of poses.
        let error = features(&World::new(1).unwrap(), &slots).unwrap_err();
        assert_eq!(error, "the judge reads \"pose\", which is no feature");
    }
}
