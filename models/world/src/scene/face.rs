//! The head: hair, ears, marks, eyes, nose, mouth and hat.
//!
//! A turned head is drawn as by points on a sphere: a feature at longitude `l` is seen at
//! `sin(l + yaw)` of the half width, and is as narrow as `cos(l + yaw)` says. Beyond the rim it is
//! not seen, so that the mark of a cheek shows only when the head is turned to the other side.

use super::{Colour, Paint, Pose, Scene, Space, shaded};
use crate::arithmetic::{cos, sin};
use crate::form::Form;
use crate::person::{Attribute, Clip, Identity, Slot};
use crate::rules::{BROWS, EYES, FACES, HAIR, HAT, IRIS, Rules, SKIN, SUNGLASSES};

/// Half height of every head.
const HEIGHT: f32 = 0.46;

/// Features whose longitude has a smaller cosine are behind the rim.
const RIM: f32 = 0.12;

/// Places of expressions in their list.
const SMILING: u8 = 1;
const LAUGHING: u8 = 2;
const SURPRISED: u8 = 3;

/// Places of hairstyles in their list; the first is short.
const LONG: u8 = 1;
const SPIKY: u8 = 2;
const CURLY: u8 = 3;

/// What the parts of a head have in common.
pub(super) struct Face<'f> {
    rules: &'f Rules,
    identity: &'f Identity,
    clip: &'f Clip,
    skin: Colour,
    hair: Colour,
    /// Half width.
    width: f32,
    exponent: f32,
    taper: f32,
    yaw: f32,
    /// Sine of the yaw.
    turn: f32,
}

impl<'f> Face<'f> {
    pub(super) fn new(
        rules: &'f Rules,
        identity: &'f Identity,
        clip: &'f Clip,
        pose: Pose,
    ) -> Self {
        let (width, exponent, taper) = FACES[usize::from(identity.class(Attribute::FaceShape))];
        let hair = HAIR[usize::from(clip.class(Slot::HairColour))].1;
        Self {
            rules,
            identity,
            clip,
            skin: SKIN[usize::from(identity.class(Attribute::Skin))],
            hair: shaded(hair, clip.hair_shade),
            width: width + identity.width,
            exponent,
            taper,
            yaw: pose.yaw,
            turn: sin(pose.yaw),
        }
    }

    /// Adds the hair behind head and body.
    pub(super) fn behind(&self, scene: &mut Scene) {
        let form = match self.clip.class(Slot::HairStyle) {
            LONG => {
                let half = [self.width * 1.18, HEIGHT * 1.62];
                (Form::Rounded { at: [0.0, 0.26], half, corner: 0.3 }, 0.8)
            }
            CURLY => (Form::Curls { at: [0.0, -0.16], radius: 0.60, wave: 0.03 }, 0.9),
            _ => return,
        };
        let paint = Paint::Flat(self.hair.map(|part| part * form.1));
        scene.add(Space::Head, form.0, paint);
    }

    /// Adds the head and what is on it.
    pub(super) fn paint(&self, scene: &mut Scene) {
        let mut add = |form, colour| scene.add(Space::Head, form, Paint::Flat(colour));
        self.ears(&mut add);
        add(self.skull(1.0, 1.0, self.taper), self.skin);
        self.marks(&mut add);
        self.eyes(&mut add);
        self.nose(&mut add);
        self.mouth(&mut add);
        self.hair(&mut add);
        self.hat(&mut add);
    }

    /// The outline of the head, scaled.
    fn skull(&self, wide: f32, high: f32, taper: f32) -> Form {
        let half = [self.width * wide, HEIGHT * high];
        Form::Skull { half, exponent: self.exponent, taper }
    }

    /// `form` at a longitude and height of the head; none where it is behind the rim. `narrowest`
    /// bounds how narrow a form at the side becomes.
    fn on(&self, longitude: f32, height: f32, narrowest: f32, form: Form) -> Option<Form> {
        let angle = longitude + self.yaw;
        let facing = cos(angle);
        let at = [self.width * 0.95 * sin(angle), HEIGHT * height];
        (facing > RIM).then(|| form.placed(at, facing.max(narrowest)))
    }

    fn ears(&self, add: &mut impl FnMut(Form, Colour)) {
        let class = self.identity.class(Attribute::Ears);
        for side in [-1.0f32, 1.0] {
            // An ear moves inwards when the head turns to its side.
            let x = side * self.width * (1.02 - 0.3 * (side * self.turn).max(0.0));
            let form = match class {
                0 => return,
                1 => Form::Ellipse { at: [x, -0.02], half: [0.075, 0.11] },
                _ => {
                    let spire = Form::Spire { half: 0.10, top: -0.26, bottom: 0.08 };
                    spire.placed([x + side * 0.03, 0.0], 1.0)
                }
            };
            add(form, self.skin.map(|part| part * 0.9));
        }
    }

    /// Marks at the sides of the head, then freckles.
    fn marks(&self, add: &mut impl FnMut(Form, Colour)) {
        let sides = [(-1.0, Attribute::MarkLeft), (1.0, Attribute::MarkRight)];
        for (side, attribute) in sides {
            let class = self.identity.class(attribute);
            if class == 0 {
                continue;
            }
            let form = mark(self.rules, class);
            if let Some(form) = self.on(side * 1.66, 0.20, 0.4, form) {
                let colour = self.rules.mark_colours[usize::from(class) - 1];
                add(form.and(self.skull(1.0, 1.0, self.taper)), colour);
            }
        }
        if self.identity.class(Attribute::Freckles) == 0 {
            return;
        }
        for side in [-1.0, 1.0] {
            for (longitude, height) in [(0.32, 0.17), (0.48, 0.28), (0.64, 0.17)] {
                let form = Form::Disc { at: [0.0; 2], radius: 0.034 };
                // Freckles stay round.
                if let Some(form) = self.on(side * longitude, height, 1.0, form) {
                    add(form, [self.skin[0] * 0.5, self.skin[1] * 0.42, self.skin[2] * 0.4]);
                }
            }
        }
    }

    fn eyes(&self, add: &mut impl FnMut(Form, Colour)) {
        let longitude = EYES[usize::from(self.identity.class(Attribute::EyeDistance))];
        let brow = BROWS[usize::from(self.identity.class(Attribute::Brow))];
        let iris = IRIS[usize::from(self.identity.class(Attribute::Iris))];
        let expression = self.clip.class(Slot::Expression);
        let (open, raised) = match expression {
            SURPRISED => (0.15, 0.05),
            LAUGHING => (0.095, 0.0),
            _ => (0.12, 0.0),
        };
        let sunglasses = self.clip.class(Slot::Accessory) == SUNGLASSES;
        for side in [-1.0, 1.0] {
            let mut on = |form, colour| {
                if let Some(form) = self.on(side * longitude, -0.10, 0.3, form) {
                    add(form, colour);
                }
            };
            let white = Form::Ellipse { at: [0.0; 2], half: [0.14, open] };
            on(white.clone(), [0.98, 0.98, 0.98]);
            on(Form::Disc { at: [0.0; 2], radius: 0.095 }.and(white), iris);
            on(Form::Disc { at: [0.0; 2], radius: 0.036 }, [0.03, 0.03, 0.03]);
            let at = [0.0, -0.19 - raised];
            on(Form::Rectangle { at, half: [0.125, brow] }, [0.16, 0.10, 0.07]);
            if sunglasses {
                let glass = Form::Rounded { at: [0.0; 2], half: [0.19, 0.14], corner: 0.05 };
                on(glass, [0.04, 0.04, 0.06]);
            }
        }
        if sunglasses {
            let at = [self.width * 0.95 * self.turn, HEIGHT * -0.10];
            add(Form::Rectangle { at, half: [0.10, 0.018] }, [0.05, 0.05, 0.05]);
        }
    }

    fn nose(&self, add: &mut impl FnMut(Form, Colour)) {
        let (x, y) = (self.width * 1.08 * self.turn, HEIGHT * 0.17);
        let form = match self.identity.class(Attribute::Nose) {
            0 => Form::Disc { at: [x, y], radius: 0.07 },
            1 => Form::Ellipse { at: [x, y - 0.03], half: [0.048, 0.15] },
            _ => Form::Ellipse { at: [x, y - 0.01], half: [0.14, 0.060] },
        };
        add(form, [self.skin[0] * 0.70, self.skin[1] * 0.62, self.skin[2] * 0.62]);
    }

    fn mouth(&self, add: &mut impl FnMut(Form, Colour)) {
        let at = [self.width * 0.95 * self.turn, HEIGHT * 0.55];
        let narrow = cos(self.yaw).max(0.4);
        let mut on = |form: Form, colour| add(form.placed(at, narrow), colour);
        match self.clip.class(Slot::Expression) {
            SMILING => {
                let smile = Form::Smile { lift: 0.05, bend: 3.2, half: 0.026, reach: 0.17 };
                on(smile, [0.62, 0.12, 0.16]);
            }
            LAUGHING => {
                let below = Form::Half { across: [0.0, -1.0], at: 0.07 };
                let mouth = Form::Ellipse { at: [0.0, -0.07], half: [0.20, 0.20] }.and(below);
                on(mouth.clone(), [0.40, 0.05, 0.08]);
                let row = mouth.and(Form::Half { across: [0.0, 1.0], at: 0.03 });
                let class = self.identity.class(Attribute::Teeth);
                let teeth = match class {
                    1 => {
                        let beside = Form::Half { across: [-1.0, 0.0], at: -self.rules.gap };
                        row.clone().and(beside.mirrored())
                    }
                    _ => row.clone(),
                };
                on(teeth, [0.98, 0.98, 0.96]);
                if class == 2 {
                    let half = [self.rules.gold, 0.5];
                    on(row.and(Form::Rectangle { at: [0.07, 0.0], half }), [0.95, 0.72, 0.10]);
                }
            }
            SURPRISED => {
                on(Form::Ellipse { at: [0.0; 2], half: [0.085, 0.12] }, [0.35, 0.04, 0.07]);
            }
            _ => {
                let half = [0.12, 0.020];
                on(Form::Rounded { at: [0.0; 2], half, corner: 0.015 }, [0.55, 0.14, 0.16]);
            }
        }
    }

    /// Hair in front of the head.
    fn hair(&self, add: &mut impl FnMut(Form, Colour)) {
        let fringe = Form::Fringe { at: HEIGHT * -0.50, width: self.width, turn: self.turn };
        add(self.skull(1.07, 1.07, 0.0).and(fringe), self.hair);
        match self.clip.class(Slot::HairStyle) {
            LONG => {
                let inner = 0.86 * self.width * (1.0 + 0.5 * self.turn.abs());
                let beside = Form::Half { across: [-1.0, 0.0], at: -inner }.mirrored();
                let above = Form::Half { across: [0.0, 1.0], at: 1.2 * HEIGHT };
                add(self.skull(1.12, 1.08, 0.0).and(beside).and(above), self.hair);
            }
            SPIKY => {
                let half = [self.width, HEIGHT];
                add(Form::Spikes { half, bottom: -0.42 * HEIGHT }, self.hair);
            }
            _ => {}
        }
    }

    fn hat(&self, add: &mut impl FnMut(Form, Colour)) {
        if self.clip.class(Slot::Accessory) != HAT {
            return;
        }
        let half = [self.width * 1.16, HEIGHT * 0.86];
        let crown = Form::Ellipse { at: [0.0, -0.42 * HEIGHT], half };
        let above = Form::Half { across: [0.0, 1.0], at: -0.46 * HEIGHT };
        add(crown.and(above), [0.95, 0.78, 0.10]);
        let at = [0.05 * self.turn, -0.48 * HEIGHT];
        let half = [self.width * 1.36, 0.045];
        add(Form::Rounded { at, half, corner: 0.04 }, [0.80, 0.60, 0.05]);
    }
}

/// The mark of a class, around 0: version 1 has a shape for each, later ones discs.
fn mark(rules: &Rules, class: u8) -> Form {
    let size = rules.mark_radius;
    let at = [0.0; 2];
    let rectangle = |half| Form::Rounded { at, half, corner: 0.0 };
    match class {
        2 if rules.mark_shapes => {
            let (long, short) = (size, size * 0.33);
            Form::Any(vec![rectangle([long, short]), rectangle([short, long])])
        }
        3 if rules.mark_shapes => {
            let ring = Form::Disc { at, radius: size * 0.75 };
            Form::Rim { of: Box::new(ring), half: size * 0.28 }
        }
        4 if rules.mark_shapes => {
            let edge = size * 0.55;
            let sides = Form::Half { across: [0.866, 0.5], at: edge }.mirrored();
            sides.and(Form::Half { across: [0.0, -1.0], at: edge })
        }
        5 if rules.mark_shapes => {
            let end = size * 0.7;
            Form::Stroke { from: [-end, -end], to: [end, end], radius: size * 0.3 }
        }
        _ => Form::Disc { at, radius: size },
    }
}
