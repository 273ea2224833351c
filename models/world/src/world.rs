//! A version of the world, and pictures of it.

use crate::arithmetic::ease;
use crate::canvas::Canvas;
use crate::error::{Error, Result};
use crate::person::{Clip, Element, Identity, Slot};
use crate::rules::{Rules, SHOTS, VERSIONS};
use crate::scene::{Camera, Pose, Scene};
use std::fmt;

/// Frames of a clip.
pub const FRAMES: usize = 5;

/// Pixels of a side of a frame; other sizes are multiples of it.
pub const SIDE: usize = 48;

/// The largest multiple of [`SIDE`] that is painted.
pub const MOST_SIDES: usize = 32;

/// What of a clip is seen. Times are from 0 at its start to 1 at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum View {
    /// The frame at a time.
    Frame(f32),
    /// The face at a time, filling the picture.
    Face(f32),
    /// Head and shoulders at a time.
    Portrait(f32),
}

impl View {
    /// Frame `number` of `of`; the only frame of a clip of one is its first.
    pub fn frame(number: usize, of: usize) -> Self {
        Self::Frame(number as f32 / (of.max(2) - 1) as f32)
    }

    /// Its time.
    pub fn time(self) -> f32 {
        match self {
            Self::Frame(time) | Self::Face(time) | Self::Portrait(time) => time,
        }
    }
}

/// A version of the world.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub(crate) rules: &'static Rules,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.version() == other.version()
    }
}

impl fmt::Display for World {
    /// `world/1`, as files name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "world/{}", self.version())
    }
}

impl World {
    /// The newest version.
    pub const LATEST: u32 = VERSIONS.len() as u32;

    /// The world of a version.
    ///
    /// # Errors
    /// E0980 for a version that this program does not know.
    pub fn new(version: u32) -> Result<Self> {
        let rules = VERSIONS.iter().find(|rules| rules.version == version);
        let unknown = || {
            let known = format!("versions 1 to {} are known", Self::LATEST);
            Error::new("E0980", format!("there is no version {version} of the world"), known)
        };
        Ok(Self { rules: rules.ok_or_else(unknown)? })
    }

    /// The world that a file names, such as `world/2`.
    ///
    /// # Errors
    /// E0980 for what names no version that this program knows.
    pub fn named(name: &str) -> Result<Self> {
        let version = name.strip_prefix("world/").and_then(|number| number.parse().ok());
        let unknown = || {
            let known = format!("world/1 to world/{} are known", Self::LATEST);
            Error::new("E0980", format!("\"{name}\" is no world"), known)
        };
        Self::new(version.ok_or_else(unknown)?)
    }

    /// The number of its version.
    pub fn version(&self) -> u32 {
        self.rules.version
    }

    /// How many classes a slot has in it.
    pub fn classes(&self, slot: Slot) -> u8 {
        self.rules.classes(slot)
    }

    /// The elements that its prompts speak about, in their order.
    pub fn elements(&self) -> impl Iterator<Item = Element> {
        let rules = self.rules;
        Element::ALL.into_iter().filter(|element| rules.speaks_of(*element))
    }

    /// The slots that its prompts speak about, in their order.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let rules = self.rules;
        Slot::ALL.into_iter().filter(|slot| rules.speaks_of(slot.element()))
    }

    /// A clip with these classes, in the order of [`Slot::ALL`]. `shades` are those of hair and
    /// clothes and the layout of the background; `wobble` is what no prompt says: turn of the
    /// head, zoom, and place of the camera across and down, -1 to 1 each.
    ///
    /// # Errors
    /// E0985 where one of them is out of range.
    pub fn clip(
        &self,
        classes: [u8; Slot::ALL.len()],
        shades: [f32; 3],
        wobble: [f32; 4],
    ) -> Result<Clip> {
        Clip::checked(classes, shades, wobble, |slot| self.classes(slot))
    }

    /// How the head is held in a clip at a time.
    pub fn pose(&self, clip: &Clip, time: f32) -> Pose {
        let (pose, action) = (clip.class(Slot::Pose), clip.class(Slot::Action));
        let pose = self.rules.pose(pose, action, ease(time));
        Pose { yaw: pose.yaw + 0.08 * clip.wobble[0], ..pose }
    }

    /// Where the camera of a view is.
    pub fn camera(&self, clip: &Clip, view: View) -> Camera {
        let [_, zoom, x, y] = clip.wobble;
        match view {
            View::Frame(_) => {
                let (_, base, height) = SHOTS[usize::from(clip.class(Slot::Shot))];
                Camera { zoom: base * (1.0 + 0.03 * zoom), x: 0.03 * x, y: height + 0.02 * y }
            }
            View::Face(_) => Camera { zoom: 1.75, x: 0.0, y: -0.14 },
            View::Portrait(_) => Camera { zoom: 1.15 + 0.12 * zoom, x: 0.04 * x, y: 0.05 },
        }
    }

    /// What is seen of a person in a clip.
    pub fn scene(&self, identity: &Identity, clip: &Clip, view: View) -> Scene {
        let (camera, pose) = (self.camera(clip, view), self.pose(clip, view.time()));
        self.staged(identity, clip, camera, pose)
    }

    /// What a camera sees of a person with the looks of a clip, the head held in `pose`.
    pub(crate) fn staged(
        &self,
        identity: &Identity,
        clip: &Clip,
        camera: Camera,
        pose: Pose,
    ) -> Scene {
        Scene::new(self.rules, identity, clip, camera, pose)
    }

    /// All scenes of a clip of `frames` frames.
    pub fn scenes(&self, identity: &Identity, clip: &Clip, frames: usize) -> Vec<Scene> {
        let view = |frame| View::frame(frame, frames);
        (0..frames).map(|frame| self.scene(identity, clip, view(frame))).collect()
    }
}

/// Paints scenes as RGB bytes, in a canvas that is kept from one to the next. Each thread has its
/// own.
#[derive(Clone, Debug)]
pub struct Painter {
    canvas: Canvas,
}

impl Painter {
    /// A painter of frames of `size` × `size` pixels.
    ///
    /// # Errors
    /// E0982 for a size that is no multiple of [`SIDE`], or more than [`MOST_SIDES`] of it.
    pub fn new(size: usize) -> Result<Self> {
        check_size(size)?;
        Ok(Self { canvas: Canvas::new(size) })
    }

    /// Bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.canvas.size() * self.canvas.size() * 3
    }

    /// Paints a frame: rows from the top, red, green and blue of each pixel.
    pub fn frame(&mut self, scene: &Scene) -> Vec<u8> {
        let mut out = vec![0; self.frame_bytes()];
        let whole = self.canvas.whole();
        self.canvas.paint(scene, whole);
        self.canvas.write(&mut out);
        out
    }

    /// Paints frames one behind the other, as videos are kept.
    pub fn film(&mut self, scenes: &[Scene]) -> Vec<u8> {
        scenes.iter().flat_map(|scene| self.frame(scene)).collect()
    }
}

/// # Errors
/// E0982 for a size that is no multiple of [`SIDE`], or more than [`MOST_SIDES`] of it.
pub(crate) fn check_size(size: usize) -> Result<()> {
    if size == 0 || !size.is_multiple_of(SIDE) || size / SIDE > MOST_SIDES {
        let help = format!("give a multiple of {SIDE}, at most {}", SIDE * MOST_SIDES);
        return Err(Error::new("E0982", format!("frames cannot have {size}x{size} pixels"), help));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_versions_and_sizes_are_refused() {
        for version in [0, World::LATEST + 1, u32::MAX] {
            assert_eq!(World::new(version).unwrap_err().code(), "E0980");
        }
        for name in ["world", "world/", "world/x", "world/-1", "earth/1", "world/99", "World/1"] {
            assert_eq!(World::named(name).unwrap_err().code(), "E0980", "{name}");
        }
        assert_eq!(World::named("world/2").unwrap(), World::new(2).unwrap());
        assert_eq!(World::new(1).unwrap().to_string(), "world/1");
        for size in [0, 47, 50, SIDE * (MOST_SIDES + 1), usize::MAX] {
            assert_eq!(Painter::new(size).unwrap_err().code(), "E0982", "{size}");
        }
    }

    #[test]
    fn only_the_second_version_speaks_of_poses() {
        let speaks = |version| World::new(version).unwrap().elements().collect::<Vec<_>>();
        assert!(!speaks(1).contains(&Element::Pose));
        assert_eq!(speaks(2), Element::ALL);
        let mut classes = [0; Slot::ALL.len()];
        classes[Slot::Pose as usize] = 1;
        let clip =
            |version: u32| World::new(version).unwrap().clip(classes, [1.0, 1.0, 0.0], [0.0; 4]);
        assert_eq!(clip(1).unwrap_err().code(), "E0985");
        assert_eq!(World::new(2).unwrap().pose(&clip(2).unwrap(), 0.5).yaw, -0.85);
    }

    #[test]
    fn turns_end_at_the_side_that_is_said() {
        let world = World::new(2).unwrap();
        for pose in 0..3 {
            for action in 0..4 {
                let rules = world.rules;
                let (start, end) = (rules.pose(pose, action, 0.0), rules.pose(pose, action, 1.0));
                match action {
                    1 if rules.possible(pose, 1) => assert!(end.yaw < start.yaw - 0.9),
                    2 if rules.possible(pose, 2) => assert!(end.yaw > start.yaw + 0.9),
                    _ => {}
                }
                assert!(end.yaw.abs() <= 1.0 && start.roll == 0.0);
            }
        }
        assert!(!world.rules.possible(1, 1) && !world.rules.possible(2, 2));
        assert!(world.rules.possible(1, 2) && world.rules.possible(0, 1));
    }
}
