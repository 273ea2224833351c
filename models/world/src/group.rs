//! Groups: a person and its clips, drawn by number.
//!
//! A group is all clips of one person. Its number is all that it depends on, so that "groups
//! 2,000,000 to 2,000,399 of world/2" says exactly which people and pictures are meant. The number
//! also says which split a group belongs to; no number is in two.

use crate::error::{Error, Result};
use crate::person::{Attribute, Clip, Element, Identity, Slot};
use crate::random::Stream;
use crate::world::World;
use std::ops::Range;

/// Groups that a number can name.
pub const GROUPS: u64 = 1_000_000_000;

/// Clips that a group has. Each is drawn for itself: using fewer changes none.
pub const CLIPS: usize = 64;

/// How often an element of a clip is the usual one of its person.
const USUAL: f32 = 0.5;

/// How often a cheek has no mark.
const UNMARKED: f32 = 0.25;

/// What a stream of random numbers is for: the first part of its key after the version.
const PERSON: u64 = 1;
const CLIP: u64 = 2;
const USUAL_LOOKS: u64 = 3;

/// What groups are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Learning.
    Train,
    /// Choosing among checkpoints while learning.
    Validation,
    /// Reports.
    HeldOut,
}

impl Split {
    /// The numbers of its groups.
    pub fn groups(self) -> Range<u64> {
        match self {
            Self::Train => 0..1_000_000,
            Self::Validation => 1_000_000..2_000_000,
            Self::HeldOut => 2_000_000..GROUPS,
        }
    }

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::HeldOut => "held-out",
        }
    }

    /// The split of a group.
    ///
    /// # Errors
    /// E0981 for a number that is no group's.
    pub fn of(group: u64) -> Result<Self> {
        let all = [Self::Train, Self::Validation, Self::HeldOut];
        let split = all.into_iter().find(|split| split.groups().contains(&group));
        split.ok_or_else(|| {
            let message = format!("there is no group {group}");
            Error::new("E0981", message, format!("groups have numbers from 0 to {}", GROUPS - 1))
        })
    }

    /// `count` groups of this split, from its `first`th on.
    ///
    /// # Errors
    /// E0981 where the split ends before.
    pub fn some(self, first: u64, count: u64) -> Result<Range<u64>> {
        let Range { start, end } = self.groups();
        let last = start.checked_add(first).and_then(|first| first.checked_add(count));
        match last.filter(|last| *last <= end) {
            Some(last) => Ok(start + first..last),
            None => {
                let message =
                    format!("{count} groups from {first} on are more than \"{}\" has", self.name());
                let help = format!("it has {} groups", end - start);
                Err(Error::new("E0981", message, help).of("groups"))
            }
        }
    }
}

/// A person, and how it usually looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    world: World,
    number: u64,
    /// The person.
    pub identity: Identity,
    usual: Clip,
}

impl World {
    /// A group by its number.
    ///
    /// # Errors
    /// E0981 for a number that is no group's.
    pub fn group(&self, number: u64) -> Result<Group> {
        Split::of(number)?;
        let identity = self.draw_identity(&mut self.stream(&[PERSON, number]));
        let usual = self.draw_clip(&mut self.stream(&[USUAL_LOOKS, number]));
        Ok(Group { world: *self, number, identity, usual })
    }

    /// The random numbers of this version for a key.
    pub(crate) fn stream(&self, key: &[u64]) -> Stream {
        let version = std::iter::once(u64::from(self.version()));
        Stream::new(&version.chain(key.iter().copied()).collect::<Vec<_>>())
    }

    fn draw_identity(&self, stream: &mut Stream) -> Identity {
        let classes = Attribute::ALL.map(|attribute| match attribute {
            Attribute::MarkLeft | Attribute::MarkRight if stream.chance(UNMARKED) => 0,
            Attribute::MarkLeft | Attribute::MarkRight => {
                1 + stream.below(u32::from(attribute.classes()) - 1) as u8
            }
            _ => stream.below(u32::from(attribute.classes())) as u8,
        });
        let width = stream.between(-0.012, 0.012);
        Identity::new(classes, width).expect("classes are drawn below their count")
    }

    /// A clip whose elements are all drawn anew.
    fn draw_clip(&self, stream: &mut Stream) -> Clip {
        let classes = Slot::ALL.map(|slot| match slot {
            Slot::Shot => stream.weighted(&self.rules.shots) as u8,
            Slot::Expression => stream.weighted(&self.rules.expressions) as u8,
            Slot::Pose => {
                let shares: Vec<f32> = self.rules.poses.iter().map(|pose| pose.2).collect();
                stream.weighted(&shares) as u8
            }
            _ => stream.below(u32::from(self.classes(slot))) as u8,
        });
        let shades =
            [stream.between(0.75, 1.15), stream.between(0.65, 1.15), stream.between(0.0, 1.0)];
        let wobble = [(); 4].map(|()| stream.between(-1.0, 1.0));
        self.clip(classes, shades, wobble).expect("classes are drawn below their count")
    }
}

impl Group {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The world that it is of.
    pub fn world(&self) -> World {
        self.world
    }

    /// One of its clips: every element is the usual one of the person half of the time.
    ///
    /// # Errors
    /// E0981 for a number from [`CLIPS`] on.
    pub fn clip(&self, number: usize) -> Result<Clip> {
        if number >= CLIPS {
            let message = format!("there is no clip {number} of group {}", self.number);
            let help = format!("clips have numbers from 0 to {}", CLIPS - 1);
            return Err(Error::new("E0981", message, help));
        }
        let mut stream = self.world.stream(&[CLIP, self.number, number as u64]);
        let mut clip = self.world.draw_clip(&mut stream);
        for element in Element::ALL {
            if stream.chance(USUAL) {
                clip.take(element, &self.usual);
            }
        }
        // Who faces a side does not turn further to it, but back.
        let rules = self.world.rules;
        if !rules.possible(clip.class(Slot::Pose), clip.class(Slot::Action)) {
            let pose = clip.class(Slot::Pose);
            let turn = -rules.actions[usize::from(clip.class(Slot::Action))].turn;
            let back = rules.actions.iter().position(|action| action.turn == turn);
            let back = back.expect("there is a turn to each side") as u8;
            debug_assert!(rules.possible(pose, back));
            clip = clip.with(Slot::Action, back);
        }
        Ok(clip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_hold_every_group_once() {
        for (group, split) in [
            (0, Split::Train),
            (999_999, Split::Train),
            (1_000_000, Split::Validation),
            (2_000_000, Split::HeldOut),
            (GROUPS - 1, Split::HeldOut),
        ] {
            assert_eq!(Split::of(group).unwrap(), split);
        }
        for group in [GROUPS, u64::MAX] {
            assert_eq!(Split::of(group).unwrap_err().code(), "E0981");
            assert_eq!(World::new(1).unwrap().group(group).unwrap_err().code(), "E0981");
        }
        assert_eq!(Split::Validation.some(10, 5).unwrap(), 1_000_010..1_000_015);
        assert!(Split::Train.some(0, 1_000_000).is_ok());
        for (first, count) in [(0, 1_000_001), (999_999, 2), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(Split::Train.some(first, count).unwrap_err().code(), "E0981");
        }
    }

    #[test]
    fn groups_depend_on_version_and_number_alone() {
        let worlds = [1, 2].map(|version| World::new(version).unwrap());
        let group = worlds[1].group(12).unwrap();
        assert_eq!(group, worlds[1].group(12).unwrap());
        assert_eq!(group.clip(3).unwrap(), group.clip(3).unwrap());
        assert_ne!(group.identity, worlds[1].group(13).unwrap().identity);
        assert_ne!(group.identity, worlds[0].group(12).unwrap().identity);
        assert_ne!(group.clip(3).unwrap(), group.clip(4).unwrap());
        assert_eq!(group.clip(CLIPS).unwrap_err().code(), "E0981");
    }

    #[test]
    fn clips_have_the_shares_that_are_said() {
        let world = World::new(2).unwrap();
        let (mut usual, mut turned, mut close, mut unmarked) = (0, 0, 0, 0);
        for number in 0..2000 {
            let group = world.group(number).unwrap();
            unmarked += u32::from(group.identity.class(Attribute::MarkLeft) == 0);
            let clip = group.clip(0).unwrap();
            usual += u32::from(clip.shares(Element::Clothing, &group.usual));
            turned += u32::from(clip.class(Slot::Pose) != 0);
            close += u32::from(clip.class(Slot::Shot) == 0);
            assert!(world.rules.possible(clip.class(Slot::Pose), clip.class(Slot::Action)));
        }
        for (count, share) in [(usual, 0.5), (turned, 0.7), (close, 0.6), (unmarked, 0.25)] {
            let found = f64::from(count) / 2000.0;
            assert!((found - share).abs() < 0.04, "{found}, not {share}");
        }
    }
}
