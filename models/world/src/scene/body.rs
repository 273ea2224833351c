//! Legs, torso, arms, neck, and what they are dressed in.

use super::{Paint, Scene, Space, shaded};
use crate::form::Form;
use crate::person::{Attribute, Clip, Identity, Slot};
use crate::rules::{CLOTHING, SCARF, SKIN};

/// Adds the body, which faces the camera whatever the head does.
pub(super) fn paint(scene: &mut Scene, identity: &Identity, clip: &Clip) {
    let rounded = |at, half, corner| Form::Rounded { at, half, corner };
    let mut add = |form, paint| scene.add(Space::World, form, paint);
    let legs = rounded([0.24, 1.75], [0.19, 0.7], 0.05).mirrored();
    add(legs, Paint::Flat([0.18, 0.2, 0.3]));

    let colour = CLOTHING[usize::from(clip.class(Slot::ClothingColour))].1;
    let colour = shaded(colour, clip.clothing_shade);
    let arms = rounded([0.50, 0.92], [0.13, 0.40], 0.12).mirrored();
    let torso = Form::Any(vec![rounded([0.0, 0.86], [0.46, 0.46], 0.2), arms]);
    let style = clip.class(Slot::ClothingStyle);
    let cloth = match style {
        1 => Paint::Stripes(colour),
        2 => Paint::Dots(colour),
        _ => Paint::Flat(colour),
    };
    add(torso.clone(), cloth);

    let skin = SKIN[usize::from(identity.class(Attribute::Skin))].map(|part| part * 0.88);
    add(rounded([0.0, 0.40], [0.13, 0.16], 0.05), Paint::Flat(skin));

    // A suit: the shirt shows in a triangle, with a tie.
    if style == 3 {
        let open = Form::Half { across: [1.0, 0.20 / 0.55], at: 0.20 + 0.20 * 0.40 / 0.55 };
        let collar = Form::Half { across: [0.0, -1.0], at: -0.40 };
        let shirt = torso.clone().and(open.mirrored().and(collar));
        add(shirt, Paint::Flat([0.96, 0.96, 0.96]));
        let tie = rounded([0.0, 0.66], [0.045, 0.22], 0.02).and(torso);
        add(tie, Paint::Flat([0.75, 0.1, 0.12]));
    }
    if clip.class(Slot::Accessory) == SCARF {
        add(rounded([0.0, 0.43], [0.30, 0.10], 0.09), Paint::Flat([0.85, 0.12, 0.12]));
        add(rounded([0.16, 0.66], [0.075, 0.2], 0.03), Paint::Flat([0.75, 0.08, 0.08]));
    }
}
