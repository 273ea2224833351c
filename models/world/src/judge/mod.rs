//! The judge: what a clip shows, told without learned weights.
//!
//! It paints what should be seen and compares (analysis by synthesis). Camera and pose of each frame
//! are fitted first. Then, for each attribute and each element, the frame is painted with every
//! class of it, all else being as it should be, and the class that is nearest to the frame wins,
//! over the pixels in which the classes differ. A feature counts only where there are such pixels:
//! no one can say which mark is on a cheek that is turned away. Framing, pose and action are read
//! off the fit.
//!
//! Because all but one feature are taken to be as they should, a clip of quite another person is
//! judged against a picture that is wrong in much; what that gives is chance or below, and what a
//! result is worth is seen beside the same judge's reading of true clips and of clips that were made
//! without references.

mod fit;

pub use fit::Fit;

use crate::contrast::{Contrast, Difference, Feature, MOST_CLASSES, Stage};
use crate::error::{Error, Result};
use crate::person::{Attribute, Clip, Identity, Slot};
use crate::rules::SHOTS;
use crate::scene::Pose;
use crate::world::{SIDE, World};
use fit::{Fitter, Planes};

/// A difference of a channel that tells classes apart, of 1.
pub(crate) const DIFFERENT: f32 = 0.08;

/// Pixels that have to tell a class from the true one.
pub(crate) const PIXELS: u32 = 5;

/// What the judge says of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What was looked at.
    pub feature: Feature,
    /// The class that it should be.
    pub truth: u8,
    /// The class that is seen.
    pub read: u8,
    /// Whether the frames can tell every other class from the true one.
    pub visible: bool,
}

impl Reading {
    /// Whether what is seen is what should be.
    pub fn right(&self) -> bool {
        self.read == self.truth
    }
}

/// What the judge says of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Camera and pose of each frame.
    pub fits: Vec<Fit>,
    /// Every attribute and every slot that the world speaks of.
    pub readings: Vec<Reading>,
    /// Mean difference of the colours of skin, hair and clothes from what they should be, 0 to 1,
    /// where they are seen.
    pub colours: [Option<f64>; 3],
}

impl Verdict {
    /// The reading of a feature.
    pub fn of(&self, feature: Feature) -> Option<&Reading> {
        self.readings.iter().find(|reading| reading.feature == feature)
    }
}

/// The features whose colours are compared.
const COLOURS: [Feature; 3] = [
    Feature::Attribute(Attribute::Skin),
    Feature::Slot(Slot::HairColour),
    Feature::Slot(Slot::ClothingColour),
];

/// Reads classes off frames. It keeps what it paints on, so each thread has its own; verdicts
/// depend on the frames alone.
#[derive(Clone, Debug)]
pub struct Judge {
    world: World,
    fitter: Fitter,
    contrast: Contrast,
}

/// What was summed over the frames of a clip for one feature.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Squared differences of each class from the frames.
    errors: [f64; MOST_CLASSES],
    /// Pixels that tell each class from the true one.
    counts: [u32; MOST_CLASSES],
    /// Sums of the frames' and the true colours, and their pixels.
    seen: [f64; 3],
    wanted: [f64; 3],
    pixels: u32,
}

impl Judge {
    /// A judge of clips of a world.
    pub fn new(world: World) -> Self {
        Self { world, fitter: Fitter::new(), contrast: Contrast::new(SIDE) }
    }

    /// Judges frames of a clip of `identity` in `clip`. `frames` are RGB bytes of `size` × `size`
    /// pixels each, `times` when they are seen, 0 to 1. Larger frames are judged at [`SIDE`] pixels.
    ///
    /// # Errors
    /// E0982 for a size that is no multiple of [`SIDE`], E0984 for frames that are not of that size
    /// or whose count is not that of the times, for times beyond 0 to 1, and for no frames.
    pub fn clip(
        &mut self,
        frames: &[&[u8]],
        size: usize,
        times: &[f32],
        identity: &Identity,
        clip: &Clip,
    ) -> Result<Verdict> {
        crate::world::check_size(size)?;
        let refused = |message: String, help: &str| Err(Error::new("E0984", message, help));
        if frames.is_empty() || frames.len() != times.len() {
            let message = format!("{} frames at {} times", frames.len(), times.len());
            return refused(message, "give a time for each frame, and at least one");
        }
        if let Some(time) = times.iter().find(|time| !(0.0..=1.0).contains(*time)) {
            return refused(format!("a frame at time {time}"), "times are from 0 to 1");
        }
        if let Some(frame) = frames.iter().find(|frame| frame.len() != size * size * 3) {
            let message = format!("a frame of {} bytes, not {size}x{size}x3", frame.len());
            return refused(message, "give red, green and blue of each pixel");
        }
        let frames: Vec<Planes> =
            frames.iter().map(|bytes| Planes::new(bytes, size, size / SIDE)).collect();
        let world = self.world;
        let fits = self.fits(&frames, identity, clip);
        let features = features(&world);
        let mut sums = vec![Sums::default(); features.len()];
        for (frame, fit) in frames.iter().zip(&fits) {
            let (camera, pose) = (fit.camera, fit.pose);
            let stage = Stage { world: &world, identity, clip, camera, pose };
            self.contrast.begin(&stage);
            for (feature, sums) in features.iter().zip(&mut sums) {
                if let Some(difference) = self.contrast.differ(&stage, *feature, DIFFERENT) {
                    let own = feature.class(identity, clip);
                    let classes = feature.classes(&world);
                    sums.add(&self.contrast, &difference, frame, classes, own);
                }
            }
        }
        let mut readings = Vec::new();
        let mut colours = [None; 3];
        for (feature, sums) in features.iter().zip(&sums) {
            let truth = feature.class(identity, clip);
            let classes = feature.classes(&world);
            readings.push(sums.reading(*feature, classes, truth));
            if let Some(at) = COLOURS.iter().position(|colour| colour == feature) {
                colours[at] = sums.colour();
            }
        }
        readings.extend(framing(&world, clip, &fits, times));
        Ok(Verdict { fits, readings, colours })
    }
}

impl Judge {
    /// Camera and pose of each frame. The camera of a clip stays where it is, so a frame that is
    /// much less like what it should be than the best one is fitted again, from that one's camera.
    fn fits(&mut self, frames: &[Planes], identity: &Identity, clip: &Clip) -> Vec<Fit> {
        let (world, fitter) = (self.world, &mut self.fitter);
        let mut fit = |frame, near| fitter.fit(&world, identity, clip, frame, near);
        let mut fits: Vec<Fit> = frames.iter().map(|frame| fit(frame, None)).collect();
        let best = fits.iter().copied().min_by(|a, b| a.error.total_cmp(&b.error));
        for (frame, found) in frames.iter().zip(&mut fits) {
            let Some(best) = best.filter(|best| found.error > 2.0 * best.error) else { continue };
            let again = fit(frame, Some(best.camera));
            if again.error < found.error {
                *found = again;
            }
        }
        fits
    }
}

/// The features whose classes are painted.
pub(crate) fn features(world: &World) -> Vec<Feature> {
    let painted = |slot: &Slot| !matches!(slot, Slot::Shot | Slot::Pose | Slot::Action);
    let slots = world.slots().filter(painted);
    let attributes = Attribute::ALL.into_iter().map(Feature::Attribute);
    attributes.chain(slots.map(Feature::Slot)).collect()
}

impl Sums {
    /// Adds a frame.
    fn add(
        &mut self,
        contrast: &Contrast,
        difference: &Difference,
        frame: &Planes,
        classes: u8,
        own: u8,
    ) {
        for (count, more) in self.counts.iter_mut().zip(difference.counts) {
            *count += more;
        }
        let region = difference.region;
        let wide = region.right - region.left;
        for (row, marks) in (region.top..).zip(difference.pixels.chunks_exact(wide)) {
            let seen = frame.row(row, region.left, region.right);
            let marked = || marks.iter().enumerate().filter(|(_, mark)| **mark).map(|(at, _)| at);
            for class in 0..classes {
                let painted = contrast.class(class, own).row(row, region.left, region.right);
                let error = |at: usize| -> f64 {
                    let square =
                        |part: usize| f64::from(painted[part][at] - seen[part][at]).powi(2);
                    (0..3).map(square).sum()
                };
                self.errors[usize::from(class)] += marked().map(error).sum::<f64>();
            }
            let wanted = contrast.class(own, own).row(row, region.left, region.right);
            for at in marked() {
                for part in 0..3 {
                    self.seen[part] += f64::from(seen[part][at]);
                    self.wanted[part] += f64::from(wanted[part][at]);
                }
                self.pixels += 1;
            }
        }
    }

    fn reading(&self, feature: Feature, classes: u8, truth: u8) -> Reading {
        let errors = self.errors[..usize::from(classes)].iter().enumerate();
        let read = errors.min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class as u8);
        let mut others = (0..classes).filter(|class| *class != truth);
        let visible = others.all(|class| self.counts[usize::from(class)] >= PIXELS);
        Reading { feature, truth, read, visible }
    }

    fn colour(&self) -> Option<f64> {
        let part = |part: usize| (self.seen[part] - self.wanted[part]).abs();
        let sum: f64 = (0..3).map(part).sum();
        (self.pixels > 0).then(|| sum / (3.0 * f64::from(self.pixels)))
    }
}

/// Shot, pose and action, read off cameras and poses of the frames.
fn framing(world: &World, clip: &Clip, fits: &[Fit], times: &[f32]) -> Vec<Reading> {
    let nearest = |errors: &mut dyn Iterator<Item = f64>| {
        let best = errors.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(0, |(at, _)| at)
    };
    let mut shots = SHOTS.iter().map(|(_, zoom, y)| {
        let apart = |fit: &Fit| {
            let (zoom, y) = (fit.camera.zoom / zoom - 1.0, fit.camera.y - y);
            f64::from(zoom * zoom + y * y)
        };
        fits.iter().map(apart).sum::<f64>()
    });
    let shot = nearest(&mut shots) as u8;
    let slot = |slot: Slot, read, visible| {
        let (feature, truth) = (Feature::Slot(slot), clip.class(slot));
        Reading { feature, truth, read, visible }
    };
    let mut readings = vec![slot(Slot::Shot, shot, true)];

    let mut errors = ways(world).into_iter().map(|way| {
        let each = held(world, way, times).into_iter().zip(fits);
        each.map(|(held, fit)| apart(held, fit.pose)).sum::<f64>()
    });
    let read = ways(world)[nearest(&mut errors)];
    let [pose, action] = movement(world, clip, times);
    if world.rules.speaks_of(crate::person::Element::Pose) {
        readings.push(slot(Slot::Pose, read.0, pose));
    }
    readings.push(slot(Slot::Action, read.1, action));
    readings
}

/// Every pose and action that go together.
fn ways(world: &World) -> Vec<(u8, u8)> {
    let (poses, actions) = (world.classes(Slot::Pose), world.classes(Slot::Action));
    let all = (0..poses).flat_map(|pose| (0..actions).map(move |action| (pose, action)));
    all.filter(|(pose, action)| world.rules.possible(*pose, *action)).collect()
}

/// How the head is held at these times.
fn held(world: &World, (pose, action): (u8, u8), times: &[f32]) -> Vec<Pose> {
    let at = |time: &f32| world.rules.pose(pose, action, crate::arithmetic::ease(*time));
    times.iter().map(at).collect()
}

fn apart(a: Pose, b: Pose) -> f64 {
    let (yaw, roll) = (a.yaw - b.yaw, a.roll - b.roll);
    f64::from(yaw * yaw + roll * roll)
}

/// Whether frames at these times tell the pose of a clip from every other, and the action.
pub(crate) fn movement(world: &World, clip: &Clip, times: &[f32]) -> [bool; 2] {
    let truth = (clip.class(Slot::Pose), clip.class(Slot::Action));
    let own = held(world, truth, times);
    // Two ways that are not this far apart in any frame look the same.
    let told = |way: &(u8, u8)| {
        held(world, *way, times).iter().zip(&own).any(|(a, b)| apart(*a, *b) > 0.1)
    };
    let all = ways(world);
    let visible = |other: &dyn Fn(&(u8, u8)) -> bool| all.iter().filter(|way| other(way)).all(told);
    [visible(&|way| way.0 != truth.0), visible(&|way| way.1 != truth.1)]
}

#[cfg(test)]
mod tests;
