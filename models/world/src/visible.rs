//! Which attributes of a person a picture shows.
//!
//! An attribute is shown if every other class of it would change the picture visibly.

use crate::contrast::{Contrast, Feature, Stage};
use crate::person::{Attribute, Clip, Identity};
use crate::world::{SIDE, View, World};

/// A change of a channel that is seen, of 1.
const SEEN: f32 = 0.1;

/// Pixels that have to change.
const PIXELS: u32 = 8;

/// Tells what pictures show. It keeps what it paints on, so each thread has its own.
#[derive(Clone, Debug)]
pub struct Visibility {
    contrast: Contrast,
}

impl Default for Visibility {
    fn default() -> Self {
        Self::new()
    }
}

impl Visibility {
    /// One for pictures of [`SIDE`] pixels.
    pub fn new() -> Self {
        Self { contrast: Contrast::new(SIDE) }
    }

    /// The attributes that the views of a clip show together.
    pub fn shown(
        &mut self,
        world: &World,
        identity: &Identity,
        clip: &Clip,
        views: &[View],
    ) -> Vec<Attribute> {
        let mut counts = [[0; crate::contrast::MOST_CLASSES]; Attribute::ALL.len()];
        for view in views {
            let (camera, pose) = (world.camera(clip, *view), world.pose(clip, view.time()));
            let stage = Stage { world, identity, clip, camera, pose };
            self.contrast.begin(&stage);
            for (attribute, counts) in Attribute::ALL.iter().zip(&mut counts) {
                let feature = Feature::Attribute(*attribute);
                if let Some(difference) = self.contrast.differ(&stage, feature, SEEN) {
                    for (count, more) in counts.iter_mut().zip(difference.counts) {
                        *count += more;
                    }
                }
            }
        }
        let shown = |attribute: &Attribute| {
            let own = identity.class(*attribute);
            let others = (0..attribute.classes()).filter(|class| *class != own);
            let counts = &counts[*attribute as usize];
            others.into_iter().all(|class| counts[usize::from(class)] >= PIXELS)
        };
        Attribute::ALL.into_iter().filter(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::person::Slot;

    /// What is shown of a person with marks and a gap between its teeth.
    fn shown(change: impl FnOnce(&mut [u8; 10]), view: View) -> Vec<Attribute> {
        let world = World::new(2).unwrap();
        let identity = Identity::new([1, 1, 0, 1, 1, 1, 1, 1, 2, 3, 1], 0.0).unwrap();
        let mut classes = [0; 10];
        change(&mut classes);
        let clip = world.clip(classes, [1.0, 1.0, 0.5], [0.0; 4]).unwrap();
        Visibility::new().shown(&world, &identity, &clip, &[view])
    }

    #[test]
    fn marks_show_on_the_side_that_is_turned_to() {
        let start = View::Frame(0.0);
        let front = shown(|_| {}, start);
        assert!(front.contains(&Attribute::Skin) && front.contains(&Attribute::Iris));
        assert!(!front.contains(&Attribute::MarkLeft) && !front.contains(&Attribute::MarkRight));
        let left = shown(|classes| classes[Slot::Pose as usize] = 1, start);
        assert!(left.contains(&Attribute::MarkRight) && !left.contains(&Attribute::MarkLeft));
        let right = shown(|classes| classes[Slot::Pose as usize] = 2, start);
        assert!(right.contains(&Attribute::MarkLeft) && !right.contains(&Attribute::MarkRight));
        // Who turns shows the other side by the end.
        let turned = |classes: &mut [u8; 10]| {
            classes[Slot::Pose as usize] = 1;
            classes[Slot::Action as usize] = 2;
        };
        assert!(shown(turned, View::Frame(1.0)).contains(&Attribute::MarkLeft));
    }

    #[test]
    fn teeth_show_when_laughing_and_eyes_without_sunglasses() {
        let close = View::Face(0.0);
        assert!(!shown(|_| {}, close).contains(&Attribute::Teeth));
        let laughing = |classes: &mut [u8; 10]| classes[Slot::Expression as usize] = 2;
        assert!(shown(laughing, close).contains(&Attribute::Teeth));
        let hidden = |classes: &mut [u8; 10]| classes[Slot::Accessory as usize] = 1;
        assert!(!shown(hidden, close).contains(&Attribute::Iris));
    }
}
