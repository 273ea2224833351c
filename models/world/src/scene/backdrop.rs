//! What is behind the person.

use super::{Paint, Scene, Space};
use crate::form::Form;
use crate::person::{Clip, Slot};

/// Adds the background of a clip. `layout` moves its clouds, sun, hills, bricks or moon.
pub(super) fn paint(scene: &mut Scene, clip: &Clip) {
    let layout = clip.layout;
    let mut add = |form, paint| scene.add(Space::World, form, paint);
    let fade = |from, change| Paint::Fade { from, change };
    match clip.class(Slot::Background) {
        // A grey studio.
        0 => add(Form::Everywhere, Paint::Flat([0.55, 0.56, 0.58])),
        // A blue sky with two clouds.
        1 => {
            add(Form::Everywhere, fade([0.40, 0.65, 0.95], [0.35, 0.22, 0.0]));
            let cloud = Paint::Flat([0.97, 0.97, 0.97]);
            let at = [-0.9 + 1.8 * layout, -0.75];
            add(Form::Ellipse { at, half: [0.45, 0.16] }, cloud.clone());
            let at = [0.9 - 0.8 * layout, -0.3];
            add(Form::Ellipse { at, half: [0.35, 0.12] }, cloud);
        }
        // A sunset over the sea.
        2 => {
            add(Form::Everywhere, fade([0.98, 0.45, 0.30], [0.0, 0.35, -0.1]));
            let sun = Form::Disc { at: [1.6 * layout - 0.8, -0.1], radius: 0.32 };
            add(sun, Paint::Flat([1.0, 0.9, 0.45]));
            let sea = Form::Half { across: [0.0, -1.0], at: -0.45 };
            add(sea, Paint::Flat([0.35, 0.18, 0.35]));
        }
        // A green field.
        3 => {
            add(Form::Everywhere, Paint::Flat([0.62, 0.82, 0.95]));
            add(Form::Hills { at: -0.1 - 0.3 * layout }, Paint::Flat([0.30, 0.66, 0.25]));
        }
        // A brick wall.
        4 => {
            add(Form::Everywhere, Paint::Flat([0.70, 0.30, 0.22]));
            add(Form::Mortar { phase: layout }, Paint::Flat([0.86, 0.80, 0.74]));
        }
        // A starry night with a moon.
        _ => {
            add(Form::Everywhere, Paint::Flat([0.06, 0.07, 0.22]));
            add(Form::Stars, Paint::Flat([1.0, 1.0, 0.8]));
            let moon = Form::Disc { at: [1.4 * layout - 0.7, -0.85], radius: 0.17 };
            add(moon, Paint::Flat([0.95, 0.93, 0.75]));
        }
    }
}
