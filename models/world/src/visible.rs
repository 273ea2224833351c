//! Which attributes of a person a picture shows, and which classes can be read off frames of a clip.
//!
//! Something is shown if every other class of it would change the picture visibly.

use crate::contrast::{Contrast, Feature, MOST_CLASSES, Stage};
use crate::judge;
use crate::person::{Attribute, Clip, Element, Identity, Slot};
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
        let all = Attribute::ALL.map(Feature::Attribute);
        let shown = self.told((world, identity, clip), views, &all, (SEEN, PIXELS));
        let attributes = Attribute::ALL.into_iter().zip(shown);
        attributes.filter_map(|(attribute, shown)| shown.then_some(attribute)).collect()
    }

    /// The attributes and slots whose classes can be read off the frames of a clip at these times: those
    /// that count where such frames are judged.
    pub fn readable(
        &mut self,
        world: &World,
        identity: &Identity,
        clip: &Clip,
        times: &[f32],
    ) -> Vec<Feature> {
        let views: Vec<View> = times.iter().map(|time| View::Frame(*time)).collect();
        let all = judge::features(world);
        let least = (judge::DIFFERENT, judge::PIXELS);
        let told = self.told((world, identity, clip), &views, &all, least);
        let painted = all.into_iter().zip(told).filter_map(|(one, told)| told.then_some(one));
        let mut out: Vec<Feature> = painted.collect();
        out.push(Feature::Slot(Slot::Shot));
        let [pose, action] = judge::movement(world, clip, times);
        let speaks = world.rules.speaks_of(Element::Pose);
        out.extend((pose && speaks).then_some(Feature::Slot(Slot::Pose)));
        out.extend(action.then_some(Feature::Slot(Slot::Action)));
        out
    }

    /// Whether views together tell each feature: every other class of it changes at least so many pixels
    /// by more than `least`.
    fn told(
        &mut self,
        (world, identity, clip): (&World, &Identity, &Clip),
        views: &[View],
        features: &[Feature],
        (least, pixels): (f32, u32),
    ) -> Vec<bool> {
        let mut counts = vec![[0; MOST_CLASSES]; features.len()];
        for view in views {
            let (camera, pose) = (world.camera(clip, *view), world.pose(clip, view.time()));
            let stage = Stage { world, identity, clip, camera, pose };
            self.contrast.begin(&stage);
            for (feature, counts) in features.iter().zip(&mut counts) {
                if let Some(difference) = self.contrast.differ(&stage, *feature, least) {
                    for (count, more) in counts.iter_mut().zip(difference.counts) {
                        *count += more;
                    }
                }
            }
        }
        let told = |(feature, counts): (&Feature, &[u32; MOST_CLASSES])| {
            let own = feature.class(identity, clip);
            let mut others = (0..feature.classes(world)).filter(|class| *class != own);
            others.all(|class| counts[usize::from(class)] >= pixels)
        };
        features.iter().zip(&counts).map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Judge;
    use crate::world::Painter;

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

    #[test]
    fn what_can_be_read_is_what_the_judge_counts_on_true_frames() {
        let (mut judged, mut apart) = (0, 0);
        for version in [1, 2] {
            let world = World::new(version).unwrap();
            let (mut judge, mut visibility) = (Judge::new(world), Visibility::new());
            let mut painter = Painter::new(SIDE).unwrap();
            for number in 0..12 {
                let group = world.group(number).unwrap();
                let (identity, clip) = (&group.identity, group.clip(0).unwrap());
                let times = [0.0, 1.0];
                let frames = times
                    .map(|time| painter.frame(&world.scene(identity, &clip, View::Frame(time))));
                let frames = frames.each_ref().map(Vec::as_slice);
                let verdict = judge.clip(&frames, SIDE, &times, identity, &clip).unwrap();
                let readable = visibility.readable(&world, identity, &clip, &times);
                for reading in &verdict.readings {
                    judged += 1;
                    apart += u32::from(reading.visible != readable.contains(&reading.feature));
                }
            }
        }
        // Cameras are fitted there, and known here.
        assert!(judged > 480 && apart * 100 <= judged, "{apart} of {judged}");
    }
}
