//! The tables of a world: colours and sizes of every class, words for them, and what differs
//! between versions.
//!
//! Version 1 is the world in which the method was first shown. Version 2 changes parameters only:
//! marks are larger and told apart by colour alone, gaps and gold teeth are larger, heads are
//! turned and faces laugh more often, and where a head faces at the start (its pose) is said apart
//! from how it moves. So more targets show what their primary hides, and an auxiliary reference is
//! worth learning from.

use crate::person::{Element, Slot};
use crate::scene::{Colour, Pose};

/// Colours of the skin.
pub(crate) const SKIN: [Colour; 6] = [
    [0.99, 0.87, 0.78],
    [0.87, 0.64, 0.44],
    [0.56, 0.36, 0.24],
    [0.30, 0.19, 0.14],
    [0.55, 0.78, 0.45],
    [0.62, 0.60, 0.92],
];

/// Colours of the irises.
pub(crate) const IRIS: [Colour; 5] = [
    [0.40, 0.22, 0.08],
    [0.10, 0.40, 0.95],
    [0.10, 0.65, 0.20],
    [0.60, 0.60, 0.64],
    [0.95, 0.55, 0.05],
];

/// Half width, exponent of the superellipse and taper of the lower half.
pub(crate) const FACES: [(f32, f32, f32); 4] =
    [(0.46, 2.0, 0.0), (0.36, 2.0, 0.10), (0.42, 4.0, 0.0), (0.45, 2.2, 0.45)];

/// Longitude of the eyes, in radians.
pub(crate) const EYES: [f32; 3] = [0.34, 0.47, 0.62];

/// Half thickness of the brows.
pub(crate) const BROWS: [f32; 3] = [0.018, 0.040, 0.065];

/// Colours of the hair.
pub(crate) const HAIR: [(&str, Colour); 6] = [
    ("black", [0.08, 0.07, 0.08]),
    ("brown", [0.45, 0.26, 0.10]),
    ("blond", [0.93, 0.78, 0.38]),
    ("red", [0.80, 0.24, 0.08]),
    ("white", [0.92, 0.92, 0.93]),
    ("blue", [0.15, 0.40, 0.85]),
];

/// Cuts of the hair.
pub(crate) const CUTS: [&str; 4] = ["short", "long", "spiky", "curly"];

/// Colours of the clothes.
pub(crate) const CLOTHING: [(&str, Colour); 6] = [
    ("red", [0.85, 0.15, 0.15]),
    ("yellow", [0.92, 0.85, 0.20]),
    ("green", [0.15, 0.60, 0.25]),
    ("blue", [0.15, 0.35, 0.85]),
    ("purple", [0.55, 0.20, 0.70]),
    ("black", [0.12, 0.12, 0.14]),
];

/// Patterns of the clothes, before and behind the colour.
pub(crate) const GARMENTS: [(&str, &str); 4] =
    [("a plain", "shirt"), ("a striped", "shirt"), ("a dotted", "shirt"), ("a", "suit")];

/// Sentences of the accessories.
pub(crate) const ACCESSORIES: [&str; 4] = [
    "There is no accessory.",
    "They wear sunglasses.",
    "They wear a yellow hat.",
    "They wear a red scarf.",
];
pub(crate) const SUNGLASSES: u8 = 1;
pub(crate) const HAT: u8 = 2;
pub(crate) const SCARF: u8 = 3;

/// Sentences of the expressions.
pub(crate) const EXPRESSIONS: [&str; 4] = [
    "The face is calm.",
    "The face is smiling.",
    "The face is laughing.",
    "The face is surprised.",
];

/// Places.
pub(crate) const PLACES: [&str; 6] =
    ["a grey studio", "a blue sky", "a sunset", "a green field", "a brick wall", "a starry night"];

/// Sentence, zoom and height of the camera of each shot.
pub(crate) const SHOTS: [(&str, f32, f32); 3] = [
    ("A close-up shot.", 1.55, -0.08),
    ("A medium shot.", 1.15, 0.06),
    ("A wide shot.", 0.85, 0.24),
];

/// One way of moving the head: its sentence, and what is added to the pose by the end. A turn
/// stops at the `furthest` yaw of the rules.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) sentence: &'static str,
    pub(crate) start: f32,
    pub(crate) turn: f32,
    pub(crate) tilt: f32,
}

const fn action(sentence: &'static str, start: f32, turn: f32, tilt: f32) -> Action {
    Action { sentence, start, turn, tilt }
}

/// What differs between versions of the world.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Number of the version.
    pub(crate) version: u32,
    /// Radius of marks.
    pub(crate) mark_radius: f32,
    /// Whether classes of marks differ in shape too.
    pub(crate) mark_shapes: bool,
    /// Colours of the classes of marks from 1.
    pub(crate) mark_colours: [Colour; 5],
    /// Half width of the gap between teeth.
    pub(crate) gap: f32,
    /// Half width of a gold tooth.
    pub(crate) gold: f32,
    /// How often each shot is drawn.
    pub(crate) shots: [f32; 3],
    /// How often each expression is drawn.
    pub(crate) expressions: [f32; 4],
    /// Sentence, yaw, and how often each pose is drawn.
    pub(crate) poses: &'static [(&'static str, f32, f32)],
    /// How heads move.
    pub(crate) actions: &'static [Action],
    /// The largest yaw that a turn ends at.
    pub(crate) furthest: f32,
}

/// Version 1: actions say where the head faces, too, so there is a single pose, which is not said.
const FIRST: Rules = Rules {
    version: 1,
    mark_radius: 0.18,
    mark_shapes: true,
    mark_colours: [
        [0.20, 0.10, 0.06],
        [0.85, 0.08, 0.10],
        [0.10, 0.25, 0.85],
        [0.05, 0.55, 0.20],
        [0.60, 0.10, 0.65],
    ],
    gap: 0.032,
    gold: 0.055,
    shots: [0.5, 0.25, 0.25],
    expressions: [0.25; 4],
    poses: &[("", 0.0, 1.0)],
    actions: &[
        action("The head stays still.", 0.0, 0.0, 0.0),
        action("The head turns left.", 0.0, -0.95, 0.0),
        action("The head turns right.", 0.0, 0.95, 0.0),
        action("The head looks left.", -0.85, 0.0, 0.0),
        action("The head looks right.", 0.85, 0.0, 0.0),
        action("The head tilts.", 0.0, 0.0, 0.45),
    ],
    furthest: 10.0,
};

const SECOND: Rules = Rules {
    version: 2,
    mark_radius: 0.25,
    mark_shapes: false,
    mark_colours: [
        [0.90, 0.06, 0.10],
        [0.08, 0.22, 0.95],
        [0.98, 0.88, 0.08],
        [0.02, 0.42, 0.16],
        [0.80, 0.10, 0.78],
    ],
    gap: 0.05,
    gold: 0.08,
    shots: [0.6, 0.25, 0.15],
    expressions: [0.2, 0.2, 0.4, 0.2],
    poses: &[
        ("The head faces forward.", 0.0, 0.3),
        ("The head faces left.", -0.85, 0.35),
        ("The head faces right.", 0.85, 0.35),
    ],
    actions: &[
        action("The head stays still.", 0.0, 0.0, 0.0),
        action("The head turns left.", 0.0, -1.4, 0.0),
        action("The head turns right.", 0.0, 1.4, 0.0),
        action("The head tilts.", 0.0, 0.0, 0.45),
    ],
    furthest: 1.0,
};

/// All versions, the first one first.
pub(crate) static VERSIONS: [Rules; 2] = [FIRST, SECOND];

impl Rules {
    /// How many classes a slot has.
    pub(crate) fn classes(&self, slot: Slot) -> u8 {
        let count = match slot {
            Slot::Shot => SHOTS.len(),
            Slot::HairStyle => CUTS.len(),
            Slot::HairColour => HAIR.len(),
            Slot::ClothingStyle => GARMENTS.len(),
            Slot::ClothingColour => CLOTHING.len(),
            Slot::Accessory => ACCESSORIES.len(),
            Slot::Expression => EXPRESSIONS.len(),
            Slot::Pose => self.poses.len(),
            Slot::Action => self.actions.len(),
            Slot::Background => PLACES.len(),
        };
        count as u8
    }

    /// Whether prompts speak of an element at all.
    pub(crate) fn speaks_of(&self, element: Element) -> bool {
        element != Element::Pose || self.poses.len() > 1
    }

    /// How the head is held at `time` (0 to 1, eased already) by these classes.
    pub(crate) fn pose(&self, pose: u8, action: u8, time: f32) -> Pose {
        let action = &self.actions[usize::from(action)];
        let start = self.poses[usize::from(pose)].1 + action.start;
        let end = (start + action.turn).clamp(-self.furthest, self.furthest);
        Pose { yaw: start + (end - start) * time, roll: action.tilt * time }
    }

    /// Whether a head in this pose can move so: who faces left does not turn left.
    pub(crate) fn possible(&self, pose: u8, action: u8) -> bool {
        let turn = self.actions[usize::from(action)].turn;
        self.poses[usize::from(pose)].1 * turn <= 0.0
    }
}
