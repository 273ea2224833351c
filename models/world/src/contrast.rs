//! The same frame with every class of one feature, and the pixels that tell the classes apart.

use crate::canvas::{Canvas, Region};
use crate::person::{Attribute, Clip, Identity, Slot};
use crate::scene::{Camera, Pose, Scene};
use crate::world::World;

/// The largest number of classes that a feature has.
pub(crate) const MOST_CLASSES: usize = 6;

/// Something about a frame that has classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Of the person.
    Attribute(Attribute),
    /// Of the clip.
    Slot(Slot),
}

impl Feature {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attribute(attribute) => attribute.name(),
            Self::Slot(slot) => slot.name(),
        }
    }

    /// How many classes it has.
    pub fn classes(self, world: &World) -> u8 {
        match self {
            Self::Attribute(attribute) => attribute.classes(),
            Self::Slot(slot) => world.classes(slot),
        }
    }

    /// Its class for a person in a clip.
    pub fn class(self, identity: &Identity, clip: &Clip) -> u8 {
        match self {
            Self::Attribute(attribute) => identity.class(attribute),
            Self::Slot(slot) => clip.class(slot),
        }
    }
}

/// Everything that a scene is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage<'s> {
    pub(crate) world: &'s World,
    pub(crate) identity: &'s Identity,
    pub(crate) clip: &'s Clip,
    pub(crate) camera: Camera,
    pub(crate) pose: Pose,
}

impl Stage<'_> {
    pub(crate) fn scene(&self) -> Scene {
        self.world.staged(self.identity, self.clip, self.camera, self.pose)
    }

    /// The scene with another class of one feature.
    fn with(&self, feature: Feature, class: u8) -> Scene {
        let (world, camera, pose) = (self.world, self.camera, self.pose);
        match feature {
            Feature::Attribute(attribute) => {
                world.staged(&self.identity.with(attribute, class), self.clip, camera, pose)
            }
            Feature::Slot(slot) => {
                world.staged(self.identity, &self.clip.with(slot, class), camera, pose)
            }
        }
    }
}

/// A frame as it should be, and with other classes of one feature.
#[derive(Clone, Debug)]
pub(crate) struct Contrast {
    /// As it should be; wholly painted.
    truth: Canvas,
    /// With the other classes; painted within the region that was returned.
    others: Vec<Canvas>,
    scene: Option<Scene>,
}

/// Where the classes of a feature differ.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) region: Region,
    /// Whether some class differs, for each pixel of the region.
    pub(crate) pixels: Vec<bool>,
    /// How many pixels of each class differ from the frame as it should be.
    pub(crate) counts: [u32; MOST_CLASSES],
}

impl Contrast {
    pub(crate) fn new(size: usize) -> Self {
        let canvas = Canvas::new(size);
        Self { others: vec![canvas.clone(); MOST_CLASSES], truth: canvas, scene: None }
    }

    /// Paints the frame as it should be.
    pub(crate) fn begin(&mut self, stage: &Stage<'_>) {
        let scene = stage.scene();
        let whole = self.truth.whole();
        self.truth.paint(&scene, whole);
        self.scene = Some(scene);
    }

    /// Paints the classes of a feature and tells where they differ from the frame begun by more
    /// than `least` in some channel; none where there is no such pixel.
    pub(crate) fn differ(
        &mut self,
        stage: &Stage<'_>,
        feature: Feature,
        least: f32,
    ) -> Option<Difference> {
        let own = self.scene.as_ref().expect("a frame was begun");
        let class = feature.class(stage.identity, stage.clip);
        let classes = feature.classes(stage.world);
        let scenes = (0..classes).filter(|other| *other != class);
        let scenes: Vec<(u8, Scene)> =
            scenes.map(|other| (other, stage.with(feature, other))).collect();
        let regions = scenes.iter().filter_map(|(_, scene)| self.truth.changed(own, scene));
        let region = regions.reduce(Region::or)?;
        let wide = region.right - region.left;
        let mut pixels = vec![false; wide * (region.bottom - region.top)];
        let mut counts = [0; MOST_CLASSES];
        for (other, scene) in &scenes {
            let canvas = &mut self.others[usize::from(*other)];
            canvas.paint(scene, region);
            for (row, marks) in (region.top..).zip(pixels.chunks_exact_mut(wide)) {
                let a = self.truth.row(row, region.left, region.right);
                let b = canvas.row(row, region.left, region.right);
                for (at, mark) in marks.iter_mut().enumerate() {
                    if (0..3).any(|part| (a[part][at] - b[part][at]).abs() > least) {
                        *mark = true;
                        counts[usize::from(*other)] += 1;
                    }
                }
            }
        }
        pixels.contains(&true).then_some(Difference { region, pixels, counts })
    }

    /// The frame with a class of the feature that was asked for last; `own` is the class that it
    /// should have.
    pub(crate) fn class(&self, class: u8, own: u8) -> &Canvas {
        match class == own {
            true => &self.truth,
            false => &self.others[usize::from(class)],
        }
    }
}
