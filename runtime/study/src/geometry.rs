//! Where the three forms of a reference and a target are cut out of frames (`data.md` §6).
//!
//! Boxes are left, top, right and bottom in pixels of the frame as it is shown; right and bottom are
//! just outside. Everything that is given back lies in the frame and has whole sides.

use crate::random::Draws;

/// Left, top, right, bottom.
pub type Rect = [f64; 4];

/// Shortest side of a face crop, in pixels.
const FACE_SIDE: f64 = 112.0;
/// Shortest side of a portrait crop.
const PORTRAIT_SIDE: f64 = 256.0;
/// What of a frame a region may be before it is the whole frame.
const WHOLE: f64 = 0.9;

/// Width and height of a box.
pub fn size(part: &Rect) -> [f64; 2] {
    [part[2] - part[0], part[3] - part[1]]
}

/// Pixels in a box.
pub fn area(part: &Rect) -> f64 {
    let [width, height] = size(part);
    width.max(0.0) * height.max(0.0)
}

/// What two boxes share, over what they cover together.
pub fn overlap(a: &Rect, b: &Rect) -> f64 {
    let shared = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let shared = area(&shared);
    let all = area(a) + area(b) - shared;
    if all > 0.0 { shared / all } else { 0.0 }
}

/// The least box that holds both.
pub fn union(a: &Rect, b: &Rect) -> Rect {
    [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]
}

/// What of a box lies in a frame.
pub fn clipped(part: &Rect, [width, height]: [usize; 2]) -> Rect {
    let (width, height) = (width as f64, height as f64);
    [
        part[0].clamp(0.0, width),
        part[1].clamp(0.0, height),
        part[2].clamp(0.0, width),
        part[3].clamp(0.0, height),
    ]
}

/// Whether `outer` holds all of `inner`.
pub fn holds(outer: &Rect, inner: &Rect) -> bool {
    outer[0] <= inner[0] && outer[1] <= inner[1] && outer[2] >= inner[2] && outer[3] >= inner[3]
}

/// Clipped to the frame, and rounded outward to whole sides.
fn outward(part: &Rect, frame: [usize; 2]) -> Rect {
    let part = clipped(part, frame);
    [part[0].floor(), part[1].floor(), part[2].ceil(), part[3].ceil()]
}

fn shorter(part: &Rect) -> f64 {
    let [width, height] = size(part);
    width.min(height)
}

/// The person that belongs to a face, where none was detected.
pub fn person_of(face: &Rect, frame: [usize; 2]) -> Rect {
    let ([width, height], centre) = (size(face), (face[0] + face[2]) / 2.0);
    let [top, bottom] = [face[1] - 0.8 * height, face[3] + 5.5 * height];
    clipped(&[centre - 2.2 * width, top, centre + 2.2 * width, bottom], frame)
}

/// A crop of the face: a square about it that is moved into the frame and then clipped. None where it
/// is too small.
pub fn face(face: &Rect, frame: [usize; 2], draws: &mut Draws) -> Option<Rect> {
    let face = clipped(face, frame);
    let [width, height] = size(&face);
    let side = width.max(height) * draws.between(1.3, 1.7);
    let centre = [(face[0] + face[2]) / 2.0, (face[1] + face[3]) / 2.0 - 0.05 * height];
    let mut sides = [0.0; 4];
    for axis in 0..2 {
        let limit = frame[axis] as f64;
        let low = (centre[axis] - side / 2.0).min(limit - side).max(0.0);
        (sides[axis], sides[axis + 2]) = (low, low + side);
    }
    let crop = outward(&sides, frame);
    (shorter(&crop) >= FACE_SIDE).then_some(crop)
}

/// The two kinds of portraits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portrait {
    /// Head and shoulders.
    Tight,
    /// The person.
    Wide,
}

impl Portrait {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tight => "tight",
            Self::Wide => "wide",
        }
    }
}

/// A crop of the person, of either kind; the other one where the first is too small. None where both
/// are.
pub fn portrait(
    face: &Rect,
    person: &Rect,
    frame: [usize; 2],
    draws: &mut Draws,
) -> Option<(Portrait, Rect)> {
    let first = if draws.unit() < 0.5 { Portrait::Tight } else { Portrait::Wide };
    let other = if first == Portrait::Tight { Portrait::Wide } else { Portrait::Tight };
    let face = clipped(face, frame);
    let [width, height] = size(&face);
    let centre = (face[0] + face[2]) / 2.0;
    for kind in [first, other] {
        let part = match kind {
            Portrait::Tight => {
                let across = [draws.between(1.4, 2.0), draws.between(1.4, 2.0)];
                let (up, down) = (draws.between(0.5, 0.9), draws.between(0.8, 1.6));
                [
                    centre - width * across[0],
                    face[1] - height * up,
                    centre + width * across[1],
                    face[3] + height * down,
                ]
            }
            Portrait::Wide => {
                let [wide, high] = size(person);
                let by: [f64; 4] = std::array::from_fn(|_| draws.between(0.03, 0.15));
                let part = [
                    person[0] - wide * by[0],
                    person[1] - high * by[1],
                    person[2] + wide * by[2],
                    person[3] + high * by[3],
                ];
                union(&part, &face)
            }
        };
        let crop = outward(&part, frame);
        if shorter(&crop) >= PORTRAIT_SIDE {
            return Some((kind, crop));
        }
    }
    None
}

/// The one region of a clip that holds the person in all of its frames: without boxes that stand
/// out, a twentieth larger on each side, with every face, and with even sides where the frame lets
/// it.
pub fn region(persons: &[Rect], faces: &[Rect], frame: [usize; 2]) -> Rect {
    let whole = [0.0, 0.0, frame[0] as f64, frame[1] as f64];
    let Some(out) = persons.len().checked_sub(1).map(|last| (last as f64 * 0.02) as usize) else {
        return whole;
    };
    let side = |axis: usize| -> f64 {
        let mut sides: Vec<f64> = persons.iter().map(|person| person[axis]).collect();
        sides.sort_by(f64::total_cmp);
        if axis < 2 { sides[out] } else { sides[sides.len() - 1 - out] }
    };
    let inner: Rect = std::array::from_fn(side);
    let [width, height] = size(&inner);
    let grown = [
        inner[0] - 0.05 * width,
        inner[1] - 0.05 * height,
        inner[2] + 0.05 * width,
        inner[3] + 0.05 * height,
    ];
    let all = faces.iter().fold(grown, |all, face| union(&all, &clipped(face, frame)));
    let all = clipped(&all, frame);
    let even =
        |side: f64, up: bool| 2.0 * if up { (side / 2.0).ceil() } else { (side / 2.0).floor() };
    let crop = clipped(
        &[even(all[0], false), even(all[1], false), even(all[2], true), even(all[3], true)],
        frame,
    );
    if area(&crop) > WHOLE * area(&whole) { whole } else { crop }
}

/// What of a frame a target shows: as much as has its shape, in the middle, or where `subject` is
/// inside as far as it can be.
pub fn target(frame: [usize; 2], [width, height]: [usize; 2], subject: Option<&Rect>) -> Rect {
    let [wide, high] = frame.map(|side| side as f64);
    let shape = width as f64 / height as f64;
    let inner = [wide.min(high * shape), high.min(wide / shape)].map(|side| side.round().max(1.0));
    let mut crop = [0.0; 4];
    for axis in 0..2 {
        let room = (frame[axis] as f64 - inner[axis]).max(0.0);
        let low = match subject {
            Some(subject) => {
                let centre = (subject[axis] + subject[axis + 2]) / 2.0;
                (centre - inner[axis] / 2.0).round().clamp(0.0, room)
            }
            None => (room / 2.0).floor(),
        };
        (crop[axis], crop[axis + 2]) = (low, (low + inner[axis]).min(frame[axis] as f64));
    }
    crop
}

/// A box between two others, at `share` of the way.
pub fn between(a: &Rect, b: &Rect, share: f64) -> Rect {
    std::array::from_fn(|side| a[side] + (b[side] - a[side]) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(crop: &Rect, [width, height]: [usize; 2]) -> bool {
        holds(&[0.0, 0.0, width as f64, height as f64], crop)
            && crop.iter().all(|side| side.fract() == 0.0)
    }

    #[test]
    fn crops_hold_the_face_and_lie_in_the_frame() {
        let mut draws = Draws::new(3, "geometry", "");
        let (mut small, mut kinds) = (0, [0; 2]);
        for _ in 0..20_000 {
            let frame = [360 + draws.below(1600), 360 + draws.below(800)];
            let [wide, high] = frame.map(|side| side as f64);
            let side = draws.between(40.0, 500.0f64.min(high));
            let left = draws.between(-30.0, wide - side / 2.0);
            let top = draws.between(-30.0, high - side / 2.0);
            let own = [left, top, left + side * draws.between(0.6, 1.0), top + side];
            let seen = clipped(&own, frame);
            match face(&own, frame, &mut draws) {
                Some(crop) => {
                    assert!(holds(&crop, &seen) && inside(&crop, frame), "{own:?} {crop:?}");
                    assert!(shorter(&crop) >= 112.0);
                }
                None => small += 1,
            }
            let person = person_of(&own, frame);
            if let Some((kind, crop)) = portrait(&own, &person, frame, &mut draws) {
                assert!(holds(&crop, &seen) && inside(&crop, frame), "{own:?} {crop:?}");
                assert!(shorter(&crop) >= 256.0);
                kinds[usize::from(kind == Portrait::Wide)] += 1;
            }
            let moved: Vec<Rect> =
                (0..9).map(|t| own.map(|side| side + f64::from(t) * 3.0)).collect();
            let persons: Vec<Rect> = moved.iter().map(|face| person_of(face, frame)).collect();
            let crop = region(&persons, &moved, frame);
            assert!(inside(&crop, frame));
            assert!(moved.iter().all(|face| holds(&crop, &clipped(face, frame))));
            let cut = target(frame, [1280, 704], Some(&person));
            assert!(inside(&cut, frame), "{cut:?}");
            let [width, height] = size(&cut);
            assert!((width / height - 1280.0 / 704.0).abs() < 0.01, "{cut:?}");
        }
        assert!(small > 100 && kinds.iter().all(|count| *count > 1000), "{small} {kinds:?}");
    }

    #[test]
    fn regions_leave_out_what_stands_out_and_give_way_to_the_frame() {
        let still = [100.0, 100.0, 300.0, 400.0];
        let mut persons = vec![still; 100];
        persons[17] = [0.0, 0.0, 640.0, 480.0];
        assert_eq!(region(&persons, &[], [640, 480]), [90.0, 84.0, 310.0, 416.0]);
        persons.truncate(20);
        assert_eq!(region(&persons, &[], [640, 480]), [0.0, 0.0, 640.0, 480.0]);
        assert_eq!(region(&[], &[], [641, 480]), [0.0, 0.0, 641.0, 480.0]);
    }

    #[test]
    fn targets_are_cut_in_the_middle_or_about_the_person() {
        assert_eq!(target([1920, 1080], [1280, 704], None), [0.0, 12.0, 1920.0, 1068.0]);
        let low = [500.0, 600.0, 900.0, 1080.0];
        assert_eq!(target([1920, 1080], [1280, 704], Some(&low)), [0.0, 24.0, 1920.0, 1080.0]);
        assert_eq!(
            target([100, 300], [1, 1], Some(&[0.0, 0.0, 9.0, 9.0])),
            [0.0, 0.0, 100.0, 100.0]
        );
    }

    #[test]
    fn boxes_overlap_by_their_share() {
        let a = [0.0, 0.0, 10.0, 10.0];
        assert_eq!(overlap(&a, &[5.0, 0.0, 15.0, 10.0]), 1.0 / 3.0);
        assert_eq!((overlap(&a, &[20.0, 0.0, 30.0, 5.0]), overlap(&a, &a)), (0.0, 1.0));
        assert_eq!(overlap(&[0.0; 4], &[0.0; 4]), 0.0);
        assert_eq!(between(&a, &[10.0, 10.0, 20.0, 20.0], 0.5), [5.0, 5.0, 15.0, 15.0]);
    }
}
