//! Trials: does a second reference help with what only it shows?
//!
//! A trial is a target that shows an attribute, a primary that hides it, and two auxiliary references
//! of one form, of which one shows it and the other does not. Generated once with the primary alone
//! and once with each auxiliary, everything else being equal, the three arms tell whether the
//! auxiliary is used, and whether it is what it shows that helps.

use crate::error::{Error, Result};
use crate::group::CLIPS;
use crate::person::Attribute;
use crate::prompt::ReferenceForm;
use crate::set::{Reference, Set};
use crate::visible::Visibility;
use crate::world::{View, World};

/// What a stream of random numbers is for; `set.rs` has the numbers below.
const TRIAL: u64 = 6;

/// A target with a primary that hides an attribute, one auxiliary that shows it, and one that does
/// not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Number of the group.
    pub group: u64,
    /// What is hidden.
    pub attribute: Attribute,
    /// Number of the clip that is to be made.
    pub target: usize,
    /// The primary reference.
    pub primary: Reference,
    /// The auxiliary that shows the attribute.
    pub informative: Reference,
    /// An auxiliary of the same form that does not.
    pub uninformative: Reference,
}

/// The references of one arm of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The primary alone.
    Primary,
    /// With the auxiliary that shows the attribute.
    Informative,
    /// With the one that does not.
    Uninformative,
}

/// Which trials are looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Trials {
    /// What may be hidden.
    pub attributes: Vec<Attribute>,
    /// Clips of each group that are used, four or more.
    pub clips: usize,
    /// Form of the primary.
    pub primary: ReferenceForm,
    /// Form of the auxiliaries.
    pub auxiliary: ReferenceForm,
    /// The frames of the target that are judged.
    pub frames: Vec<View>,
}

impl Default for Trials {
    /// Marks and teeth, a portrait as primary, faces as auxiliaries, and first and last frame.
    fn default() -> Self {
        Self {
            attributes: vec![Attribute::MarkLeft, Attribute::MarkRight, Attribute::Teeth],
            clips: 5,
            primary: ReferenceForm::Portrait,
            auxiliary: ReferenceForm::Face,
            frames: vec![View::Frame(0.0), View::Frame(1.0)],
        }
    }
}

impl Trials {
    /// The trial of a group, drawn among all that it has; none where it has none.
    ///
    /// # Errors
    /// E0981 for a group that there is not, E0986 for too few or too many clips, and for no
    /// attributes or frames.
    pub fn of(
        &self,
        world: &World,
        group: u64,
        visibility: &mut Visibility,
    ) -> Result<Option<Trial>> {
        if !(4..=CLIPS).contains(&self.clips) {
            let message = format!("a trial cannot be made of {} clips", self.clips);
            let help = format!("a trial needs four; a group has {CLIPS}");
            return Err(Error::new("E0986", message, help));
        }
        if self.attributes.is_empty() || self.frames.is_empty() {
            let message = "there is nothing that a trial could hide";
            return Err(Error::new("E0986", message, "name attributes and frames"));
        }
        let person = world.group(group)?;
        let mut shown = Vec::new();
        for number in 0..self.clips {
            let clip = person.clip(number)?;
            let mut seen = |views: &[View]| visibility.shown(world, &person.identity, &clip, views);
            let target = seen(&self.frames);
            let primary = seen(&person.views(number, self.primary)?);
            shown.push([target, primary, seen(&person.views(number, self.auxiliary)?)]);
        }
        let mut all = Vec::new();
        for attribute in &self.attributes {
            let shows = |clip: usize, what: usize| shown[clip][what].contains(attribute);
            let clips = || 0..self.clips;
            for target in clips().filter(|clip| shows(*clip, 0)) {
                for primary in clips().filter(|clip| !shows(*clip, 1)) {
                    for good in clips().filter(|clip| shows(*clip, 2)) {
                        for other in clips().filter(|clip| !shows(*clip, 2)) {
                            let clips = [target, primary, good, other];
                            let apart = (1..4).all(|at| !clips[..at].contains(&clips[at]));
                            all.extend(apart.then_some((*attribute, clips)));
                        }
                    }
                }
            }
        }
        if all.is_empty() {
            return Ok(None);
        }
        let drawn = world.stream(&[TRIAL, group]).below(all.len() as u32);
        let (attribute, [target, primary, good, other]) = all[drawn as usize];
        let auxiliary = |clip| Reference { clip, form: self.auxiliary };
        Ok(Some(Trial {
            group,
            attribute,
            target,
            primary: Reference { clip: primary, form: self.primary },
            informative: auxiliary(good),
            uninformative: auxiliary(other),
        }))
    }
}

impl Trial {
    /// The set of an arm. All arms have the same prompt, because they have the same primary.
    ///
    /// # Errors
    /// E0981 or E0986 where the trial was changed to one that there is not.
    pub fn set(&self, world: &World, arm: Arm) -> Result<Set> {
        let references = match arm {
            Arm::Primary => vec![self.primary],
            Arm::Informative => vec![self.primary, self.informative],
            Arm::Uninformative => vec![self.primary, self.uninformative],
        };
        world.set(self.group, self.target, references, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Split;

    #[test]
    fn trials_hide_and_show_what_they_say() {
        let world = World::new(2).unwrap();
        let (trials, mut visibility) = (Trials::default(), Visibility::new());
        let mut found = 0;
        for group in Split::HeldOut.some(0, 60).unwrap() {
            let Some(trial) = trials.of(&world, group, &mut visibility).unwrap() else { continue };
            found += 1;
            assert_eq!(trials.of(&world, group, &mut visibility).unwrap().as_ref(), Some(&trial));
            let sets = [Arm::Primary, Arm::Informative, Arm::Uninformative]
                .map(|arm| trial.set(&world, arm).unwrap());
            assert!(sets.iter().all(|set| set.prompt == sets[0].prompt));
            let hidden = |set: &Set, visibility: &mut Visibility| {
                let hidden = set.hidden(visibility, &trials.frames).unwrap();
                hidden.into_iter().find(|one| one.attribute == trial.attribute).unwrap().shown_by
            };
            let shown_by = sets.each_ref().map(|set| hidden(set, &mut visibility));
            assert_eq!(shown_by, [vec![], vec![1], vec![]]);
        }
        assert!(found >= 20, "{found} of 60 groups have a trial");
    }

    #[test]
    fn trials_that_cannot_be_are_refused() {
        let world = World::new(2).unwrap();
        let mut visibility = Visibility::new();
        let mut refused = |change: fn(&mut Trials), group| {
            let mut trials = Trials::default();
            change(&mut trials);
            trials.of(&world, group, &mut visibility).unwrap_err().code()
        };
        assert_eq!(refused(|it| it.clips = 3, 0), "E0986");
        assert_eq!(refused(|it| it.clips = CLIPS + 1, 0), "E0986");
        assert_eq!(refused(|it| it.attributes.clear(), 0), "E0986");
        assert_eq!(refused(|it| it.frames.clear(), 0), "E0986");
        assert_eq!(refused(|_| (), u64::MAX), "E0981");
    }
}
