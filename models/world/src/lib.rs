//! A small world of drawn characters, in which keeping an identity can be learned and measured.
//!
//! A person has eleven attributes that no prompt names and that only references show; a clip has
//! elements (shot, hair, clothes, …) that prompts speak about. [`World`] draws people and clips by
//! number and sets of references, target and prompt by seed; [`Painter`] paints them; [`Judge`]
//! tells what frames show. Everything depends on version and numbers alone and is the same to the
//! byte on every machine. `docs/world.md` says in words what a frame is made of.
//!
//! The crate writes no files and starts no threads: its values are plain data, and callers share
//! work among threads as they like.

mod arithmetic;
mod canvas;
mod contrast;
mod error;
mod form;
mod group;
mod judge;
mod manifest;
mod measure;
mod person;
mod preference;
mod prompt;
mod random;
mod reel;
mod rules;
mod scene;
mod set;
mod sheet;
mod trial;
mod visible;
mod world;

pub use contrast::Feature;
pub use error::{Error, Result};
pub use group::{CLIPS, GROUPS, Group, Split};
pub use judge::{Fit, Judge, Reading, Verdict};
pub use manifest::{FPS, Made};
pub use measure::{Estimate, POOLED, Part, Parts, difference, estimate, measures, parts};
pub use person::{Attribute, Clip, Element, Identity, Slot};
pub use preference::{Tracks, preferred};
pub use prompt::{Prompt, ReferenceForm};
pub use reel::{Place, Reel};
pub use scene::{Camera, Colour, Pose, Scene};
pub use set::{Hidden, MOST_REFERENCES, Reference, Sampling, Set};
pub use sheet::{Picture, sheet, sheet_sides};
pub use trial::{Arm, Trial, Trials};
pub use visible::Visibility;
pub use world::{FRAMES, MOST_SIDES, Painter, SIDE, View, World};
