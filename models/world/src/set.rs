//! Sets: a target, its references and its prompt, as one sample to learn from or to be judged by.
//!
//! A set is drawn by seed and index alone: sample 7 is the same whichever samples were drawn before,
//! and in whichever order.

use crate::error::{Error, Result};
use crate::group::{CLIPS, Group, Split};
use crate::person::{Attribute, Element};
use crate::prompt::{Prompt, ReferenceForm};
use crate::random::Stream;
use crate::visible::Visibility;
use crate::world::{FRAMES, View, World};
use std::ops::{Range, RangeInclusive};

/// References that a set may have.
pub const MOST_REFERENCES: usize = 5;

/// What a stream of random numbers is for; `group.rs` and `trial.rs` have the other numbers.
const CROPS: u64 = 4;
const SAMPLE: u64 = 5;
const NOISE: u64 = 7;

/// How sets are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Groups that they are drawn from.
    pub groups: Range<u64>,
    /// Clips of a group that are used.
    pub clips: usize,
    /// How many references there are; every number is as frequent.
    pub references: RangeInclusive<usize>,
    /// Forms of primary references, as frequent each.
    pub primary_forms: Vec<ReferenceForm>,
    /// Forms of the others.
    pub auxiliary_forms: Vec<ReferenceForm>,
    /// Share of sets with an absolute prompt.
    pub absolute: f32,
}

impl Sampling {
    /// What the method is trained with: five clips a group, one to three references, a portrait
    /// or video as primary, any form besides, and every seventh prompt absolute.
    pub fn new(groups: Range<u64>) -> Self {
        Self {
            groups,
            clips: 5,
            references: 1..=3,
            primary_forms: vec![ReferenceForm::Portrait, ReferenceForm::Video],
            auxiliary_forms: ReferenceForm::ALL.to_vec(),
            absolute: 0.15,
        }
    }

    /// # Errors
    /// E0981 for groups that there are not, E0986 for what else cannot be drawn.
    pub fn check(&self) -> Result<()> {
        let refused = |part: &'static str, message: String, help: &str| {
            Err(Error::new("E0986", message, help).of(part))
        };
        let Range { start, end } = self.groups;
        if start >= end {
            let message = format!("there are no groups from {start} to {end}");
            return refused("groups", message, "give at least one group");
        }
        Split::of(end - 1).map_err(|error| error.of("groups"))?;
        if !(2..=CLIPS).contains(&self.clips) {
            let help = format!("a set needs a target and a reference; a group has {CLIPS} clips");
            let message =
                format!("sets cannot be drawn from {} of each group", counted(self.clips));
            return refused("clips", message, &help);
        }
        let (least, most) = (*self.references.start(), *self.references.end());
        let possible = MOST_REFERENCES.min(self.clips - 1);
        if least == 0 || least > most || most > possible {
            let help = format!("sets of {} clips have 1 to {possible}", self.clips);
            let message = format!("a set cannot have {least} to {most} references");
            return refused("references", message, &help);
        }
        let forms = match most {
            1 => vec![("primary_forms", &self.primary_forms)],
            _ => vec![
                ("primary_forms", &self.primary_forms),
                ("auxiliary_forms", &self.auxiliary_forms),
            ],
        };
        if let Some((part, _)) = forms.into_iter().find(|(_, forms)| forms.is_empty()) {
            let message = "there are no forms of references to draw from".to_owned();
            return refused(part, message, "name face, portrait or video");
        }
        if !(0.0..=1.0).contains(&self.absolute) {
            let message = format!("the share of absolute prompts cannot be {}", self.absolute);
            return refused("absolute", message, "give a share from 0 to 1");
        }
        Ok(())
    }
}

/// So many clips, in words.
fn counted(clips: usize) -> String {
    match clips {
        1 => "1 clip".to_owned(),
        clips => format!("{clips} clips"),
    }
}

/// A reference of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Number of its clip in the group.
    pub clip: usize,
    /// What is seen of it.
    pub form: ReferenceForm,
}

/// A target with its references.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// The person.
    pub group: Group,
    /// Number of the clip that is to be made.
    pub target: usize,
    /// The references, of other clips each; the first is the primary.
    pub references: Vec<Reference>,
    /// Whether the prompt names every element.
    pub absolute: bool,
    /// The prompt.
    pub prompt: Prompt,
}

/// An attribute that the target shows and the primary hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The attribute.
    pub attribute: Attribute,
    /// The places of the references that show it.
    pub shown_by: Vec<usize>,
}

impl World {
    /// Set `index` of those that `seed` draws.
    ///
    /// # Errors
    /// Those of [`Sampling::check`].
    pub fn sample(&self, sampling: &Sampling, seed: u64, index: u64) -> Result<Set> {
        sampling.check()?;
        let mut stream = self.stream(&[SAMPLE, seed, index]);
        let Range { start, end } = sampling.groups;
        let group = start + u64::from(stream.below((end - start) as u32));
        let (least, most) = (*sampling.references.start(), *sampling.references.end());
        let count = least + stream.below((most - least + 1) as u32) as usize;
        let clips = stream.distinct(sampling.clips as u32, count + 1);
        let references = clips[1..].iter().enumerate().map(|(at, clip)| {
            let forms = match at {
                0 => &sampling.primary_forms,
                _ => &sampling.auxiliary_forms,
            };
            Reference { clip: *clip as usize, form: one_of(&mut stream, forms) }
        });
        let references: Vec<Reference> = references.collect();
        let absolute = stream.chance(sampling.absolute);
        self.set(group, clips[0] as usize, references, absolute)
    }

    /// The seed of the noise that clip `clip` of those that are made for set `index` begins from. It
    /// has 53 bits, so that it stays what it is in JSON.
    pub fn noise(&self, seed: u64, index: u64, clip: u64) -> u64 {
        self.stream(&[NOISE, seed, index, clip]).bits() >> 11
    }

    /// The set of these clips of a group; the first of `references` is the primary.
    ///
    /// # Errors
    /// E0981 for a group or clip that there is not, E0986 for no or too many references, and for
    /// references of the target or of one clip twice.
    pub fn set(
        &self,
        group: u64,
        target: usize,
        references: Vec<Reference>,
        absolute: bool,
    ) -> Result<Set> {
        let group = self.group(group)?;
        if references.is_empty() || references.len() > MOST_REFERENCES {
            let message = format!("a set cannot have {} references", references.len());
            return Err(Error::new("E0986", message, format!("give 1 to {MOST_REFERENCES}")));
        }
        for (at, reference) in references.iter().enumerate() {
            let twice = references[..at].iter().any(|other| other.clip == reference.clip);
            if twice || reference.clip == target {
                let message = format!("clip {} of the group is named twice", reference.clip);
                let help = "the target and its references are different clips";
                return Err(Error::new("E0986", message, help));
            }
            group.clip(reference.clip)?;
        }
        let clip = group.clip(target)?;
        let primary = group.clip(references[0].clip)?;
        let prompt = match absolute {
            true => self.absolute_prompt(&clip),
            false => self.differential_prompt(&clip, &primary, references[0].form),
        };
        Ok(Set { group, target, references, absolute, prompt })
    }
}

fn one_of(stream: &mut Stream, forms: &[ReferenceForm]) -> ReferenceForm {
    forms[stream.below(forms.len() as u32) as usize]
}

impl Group {
    /// The pictures that a reference of this form is made of. The face and the portrait of a clip
    /// are from a time of their own that belongs to the clip, so that there is one of each.
    ///
    /// # Errors
    /// E0981 for a clip that there is not.
    pub fn views(&self, clip: usize, form: ReferenceForm) -> Result<Vec<View>> {
        self.clip(clip)?;
        let mut stream = self.world().stream(&[CROPS, self.number(), clip as u64]);
        let [face, portrait] = [stream.unit(), stream.unit()];
        Ok(match form {
            ReferenceForm::Face => vec![View::Face(face)],
            ReferenceForm::Portrait => vec![View::Portrait(portrait)],
            ReferenceForm::Video => (0..FRAMES).map(|at| View::frame(at, FRAMES)).collect(),
        })
    }
}

impl Set {
    /// The elements that the prompt does not name: to be taken from the primary.
    pub fn inherited(&self) -> Vec<Element> {
        let world = self.group.world();
        world.elements().filter(|element| !self.prompt.mentioned.contains(element)).collect()
    }

    /// The attributes that the target shows and the primary hides, and which of the references
    /// show them. `frames` are the target's frames that count.
    ///
    /// # Errors
    /// E0981 where a clip was changed to one that there is not.
    pub fn hidden(&self, visibility: &mut Visibility, frames: &[View]) -> Result<Vec<Hidden>> {
        let target = self.group.clip(self.target)?;
        let identity = &self.group.identity;
        let mut shown = Vec::new();
        for reference in &self.references {
            let clip = self.group.clip(reference.clip)?;
            let views = self.group.views(reference.clip, reference.form)?;
            shown.push(visibility.shown(&self.group.world(), identity, &clip, &views));
        }
        let wanted = visibility.shown(&self.group.world(), identity, &target, frames);
        let hidden = wanted.into_iter().filter(|attribute| !shown[0].contains(attribute));
        let hidden = hidden.map(|attribute| {
            let shown_by = (1..shown.len()).filter(|at| shown[*at].contains(&attribute)).collect();
            Hidden { attribute, shown_by }
        });
        Ok(hidden.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> Sampling {
        Sampling::new(Split::Train.groups())
    }

    #[test]
    fn sets_depend_on_seed_and_index_alone() {
        let world = World::new(2).unwrap();
        let set = world.sample(&sampling(), 7, 3).unwrap();
        assert_eq!(set, world.sample(&sampling(), 7, 3).unwrap());
        assert_ne!(set, world.sample(&sampling(), 8, 3).unwrap());
        assert_ne!(set, world.sample(&sampling(), 7, 4).unwrap());
        let noise = world.noise(7, 3, 0);
        assert_eq!(noise, world.noise(7, 3, 0));
        for other in [world.noise(8, 3, 0), world.noise(7, 4, 0), world.noise(7, 3, 1)] {
            assert_ne!(noise, other);
        }
        assert!(noise < 1 << 53);
    }

    #[test]
    fn no_reference_is_of_the_target() {
        let world = World::new(1).unwrap();
        let (mut counts, mut absolute, mut forms) = ([0; 4], 0, [0; 3]);
        for index in 0..3000 {
            let set = world.sample(&sampling(), 1, index).unwrap();
            let mut clips: Vec<usize> = set.references.iter().map(|one| one.clip).collect();
            clips.push(set.target);
            clips.sort_unstable();
            clips.dedup();
            assert_eq!(clips.len(), set.references.len() + 1);
            counts[set.references.len()] += 1;
            absolute += u32::from(set.absolute);
            assert_ne!(set.references[0].form, ReferenceForm::Face);
            for one in &set.references[1..] {
                forms[one.form as usize] += 1;
            }
            assert!(!set.absolute || set.inherited().is_empty());
            assert_eq!(set.inherited().len() + set.prompt.mentioned.len(), 7);
        }
        assert!(counts[1..].iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert!(forms.iter().all(|count| (900..1100).contains(count)), "{forms:?}");
        assert!((400..500).contains(&absolute), "{absolute}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let world = World::new(2).unwrap();
        let refused = |change: fn(&mut Sampling)| {
            let mut sampling = sampling();
            change(&mut sampling);
            world.sample(&sampling, 1, 1).unwrap_err().code()
        };
        assert_eq!(refused(|it| it.groups = 5..5), "E0986");
        assert_eq!(refused(|it| it.groups = 5..u64::MAX), "E0981");
        assert_eq!(refused(|it| it.clips = 1), "E0986");
        assert_eq!(refused(|it| it.clips = CLIPS + 1), "E0986");
        assert_eq!(refused(|it| it.references = 0..=1), "E0986");
        assert_eq!(refused(|it| it.references = 1..=5), "E0986");
        assert_eq!(refused(|it| it.references = RangeInclusive::new(3, 2)), "E0986");
        assert_eq!(refused(|it| it.primary_forms.clear()), "E0986");
        assert_eq!(refused(|it| it.auxiliary_forms.clear()), "E0986");
        assert_eq!(refused(|it| it.absolute = f32::NAN), "E0986");
        let one = |clip| Reference { clip, form: ReferenceForm::Face };
        let set = |target, references| world.set(3, target, references, false);
        assert!(set(0, vec![one(1), one(2)]).is_ok());
        assert_eq!(set(0, vec![]).unwrap_err().code(), "E0986");
        assert_eq!(set(0, vec![one(0)]).unwrap_err().code(), "E0986");
        assert_eq!(set(0, vec![one(1), one(1)]).unwrap_err().code(), "E0986");
        assert_eq!(set(0, vec![one(CLIPS)]).unwrap_err().code(), "E0981");
        assert_eq!(set(CLIPS, vec![one(1)]).unwrap_err().code(), "E0981");
    }

    #[test]
    fn hidden_attributes_are_shown_by_some_auxiliary() {
        let world = World::new(2).unwrap();
        let mut visibility = Visibility::new();
        let frames = [View::Frame(0.0), View::Frame(1.0)];
        let sampling = Sampling { references: 3..=3, ..sampling() };
        let (mut hidden, mut informed) = (0, 0);
        for index in 0..60 {
            let set = world.sample(&sampling, 2, index).unwrap();
            for one in set.hidden(&mut visibility, &frames).unwrap() {
                hidden += 1;
                informed += u32::from(!one.shown_by.is_empty());
                assert!(!one.shown_by.contains(&0));
                assert_ne!(one.attribute, Attribute::Skin);
            }
        }
        // Most targets show something that their primary hides, and mostly an auxiliary helps.
        assert!(hidden > 40, "{hidden}");
        assert!(informed * 2 > hidden, "{informed} of {hidden}");
    }
}
