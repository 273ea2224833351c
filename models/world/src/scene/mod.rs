//! What a frame is painted from: a list of shapes, back to front.
//!
//! The order is background, hair behind the head, body, ears, head, marks and freckles, eyes, nose,
//! mouth, hair in front, hat. Two scenes of the same frame differ in few shapes; [`Scene::changed`]
//! tells where, which makes the judge fast. How shapes become pixels is the matter of `canvas`.

mod backdrop;
mod body;
mod face;

use crate::arithmetic::{Lanes, cos, fract, length, sin};
use crate::form::{Form, Rect};
use crate::person::{Clip, Identity};
use crate::rules::Rules;

/// A colour: red, green and blue, 0 to 1.
pub type Colour = [f32; 3];

/// `colour` made lighter or darker, not beyond white.
pub(crate) fn shaded(colour: Colour, shade: f32) -> Colour {
    colour.map(|part| (part * shade).min(1.0))
}

/// Where the camera is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Enlargement: half the height of the frame is 1/zoom units of the world.
    pub zoom: f32,
    /// What is in the middle of the frame.
    pub x: f32,
    /// Likewise; y points downwards, and the head is a little above 0.
    pub y: f32,
}

/// How the head is held, in radians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Turned to the left of the picture (negative) or to its right.
    pub yaw: f32,
    /// Tilted to the right of the picture.
    pub roll: f32,
}

/// What a shape's coordinates belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// The world: the body and what is behind it.
    World,
    /// The head: its middle is 0, and it tilts.
    Head,
}

/// How a shape is coloured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Paint {
    /// One colour.
    Flat(Colour),
    /// `from` at the top of the world, `from + change` at its bottom.
    Fade { from: Colour, change: Colour },
    /// Stripes of `colour` and near-white.
    Stripes(Colour),
    /// `colour` with near-white dots.
    Dots(Colour),
}

impl Paint {
    /// Colours of eight points.
    #[inline(always)]
    pub(crate) fn at(&self, x: Lanes, y: Lanes) -> [Lanes; 3] {
        match self {
            Self::Flat(colour) => colour.map(Lanes::all),
            Self::Fade { from, change } => {
                let down = y.map(|y| crate::arithmetic::clamp((y + 1.2) / 2.8, 0.0, 1.0));
                [0, 1, 2].map(|part| down * change[part] + from[part])
            }
            Self::Stripes(colour) => {
                colour.map(|part| y.map(|y| if fract(y / 0.2) < 0.5 { 0.95 } else { part }))
            }
            Self::Dots(colour) => {
                let cell = |at: f32| (fract(at / 0.24) - 0.5) * 0.24;
                let dot = x.with(y, |x, y| length(cell(x), cell(y)));
                colour.map(|part| dot.map(|dot| if dot < 0.065 { 0.97 } else { part }))
            }
        }
    }
}

/// A form in a colour.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) space: Space,
    pub(crate) form: Form,
    pub(crate) paint: Paint,
}

/// A frame, ready to be painted.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Back to front.
    pub(crate) shapes: Vec<Shape>,
    pub(crate) camera: Camera,
    /// The middle of the head.
    pub(crate) head: [f32; 2],
    /// Cosine and sine of its tilt.
    pub(crate) tilt: [f32; 2],
}

impl Scene {
    /// The scene of a person in a clip, seen by `camera`, the head held in `pose`.
    pub(crate) fn new(
        rules: &Rules,
        identity: &Identity,
        clip: &Clip,
        camera: Camera,
        pose: Pose,
    ) -> Self {
        let mut scene = Self {
            shapes: Vec::with_capacity(64),
            camera,
            head: [0.0, -0.12],
            tilt: [cos(pose.roll), sin(pose.roll)],
        };
        backdrop::paint(&mut scene, clip);
        let face = face::Face::new(rules, identity, clip, pose);
        face.behind(&mut scene);
        body::paint(&mut scene, identity, clip);
        face.paint(&mut scene);
        scene
    }

    pub(crate) fn add(&mut self, space: Space, form: Form, paint: Paint) {
        self.shapes.push(Shape { space, form, paint });
    }

    /// A rectangle of the world that holds every pixel of `shape`, `pad` being half a pixel.
    pub(crate) fn bounds(&self, shape: &Shape, pad: f32) -> Rect {
        // Half a hundredth more, because bounds are rounded too.
        let rect = shape.form.bounds(pad + 0.005);
        match shape.space {
            Space::World => rect,
            Space::Head => {
                /// Further away than anything is seen.
                const FAR: f32 = 16.0;
                let (cos, sin) = (self.tilt[0], self.tilt[1]);
                let side = |at: f32| at.clamp(-FAR, FAR);
                let corner = |x: f32, y: f32| {
                    let (x, y) = (side(x), side(y));
                    let at = [cos * x - sin * y + self.head[0], sin * x + cos * y + self.head[1]];
                    Rect::around(at, [0.0; 2])
                };
                corner(rect.left, rect.top)
                    .or(corner(rect.right, rect.top))
                    .or(corner(rect.left, rect.bottom))
                    .or(corner(rect.right, rect.bottom))
            }
        }
    }

    /// A rectangle of the world beyond which both scenes look the same; none where they do
    /// everywhere. Camera and head of both have to be equal.
    pub(crate) fn changed(&self, other: &Self, pad: f32) -> Option<Rect> {
        debug_assert!(self.camera == other.camera && self.tilt == other.tilt);
        // Lists are compared from both ends: what is between the equal ends has changed.
        let (a, b) = (&self.shapes, &other.shapes);
        let front = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let most = a.len().min(b.len()) - front;
        let back =
            a.iter().rev().zip(b.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
        let (a, b) = (&a[front..a.len() - back], &b[front..b.len() - back]);
        let same_length = a.len() == b.len();
        let own = a.iter().enumerate().filter(|(at, shape)| !same_length || **shape != b[*at]);
        let others = b.iter().enumerate().filter(|(at, shape)| !same_length || **shape != a[*at]);
        let own = own.map(|(_, shape)| self.bounds(shape, pad));
        own.chain(others.map(|(_, shape)| other.bounds(shape, pad))).reduce(Rect::or)
    }
}
