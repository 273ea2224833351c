//! The judge on true frames, on changed ones, and on what is no clip.

use super::*;
use crate::group::Split;
use crate::world::{FRAMES, Painter, View};

/// First and last frame of a clip, painted at `size`.
fn ends(world: &World, identity: &Identity, clip: &Clip, size: usize) -> [Vec<u8>; 2] {
    let mut painter = Painter::new(size).unwrap();
    [0.0, 1.0].map(|time| painter.frame(&world.scene(identity, clip, View::Frame(time))))
}

fn judged(judge: &mut Judge, frames: &[Vec<u8>; 2], identity: &Identity, clip: &Clip) -> Verdict {
    let size = (frames[0].len() / 3).isqrt();
    let frames = [frames[0].as_slice(), &frames[1]];
    judge.clip(&frames, size, &[0.0, 1.0], identity, clip).unwrap()
}

#[test]
fn true_frames_are_read_rightly() {
    for version in [1, 2] {
        let world = World::new(version).unwrap();
        let mut judge = Judge::new(world);
        let (mut right, mut visible, mut skin) = (0, 0, 0.0);
        let groups = Split::HeldOut.some(0, 24).unwrap();
        for number in groups {
            let group = world.group(number).unwrap();
            let clip = group.clip(0).unwrap();
            let frames = ends(&world, &group.identity, &clip, SIDE);
            let verdict = judged(&mut judge, &frames, &group.identity, &clip);
            for reading in verdict.readings.iter().filter(|reading| reading.visible) {
                visible += 1;
                right += u32::from(reading.right());
            }
            skin += verdict.colours[0].unwrap();
            for (fit, time) in verdict.fits.iter().zip([0.0, 1.0]) {
                let camera = world.camera(&clip, View::Frame(time));
                assert!(fit.error < 0.004, "group {number}: {fit:?}, not {camera:?}");
            }
        }
        let share = f64::from(right) / f64::from(visible);
        assert!(share >= 0.98, "version {version}: {right} of {visible}");
        assert!(skin / 24.0 < 0.01, "version {version}: {skin}");
    }
}

#[test]
fn another_person_is_read_as_another() {
    let world = World::new(2).unwrap();
    let mut judge = Judge::new(world);
    let (mut own, mut theirs, mut cases) = (0, 0, 0);
    for number in 0..24 {
        let group = world.group(number).unwrap();
        let other = world.group(number + 100).unwrap().identity;
        let clip = group.clip(1).unwrap();
        let frames = ends(&world, &other, &clip, SIDE);
        let as_own = judged(&mut judge, &frames, &group.identity, &clip);
        let as_theirs = judged(&mut judge, &frames, &other, &clip);
        for attribute in Attribute::LARGE {
            let feature = Feature::Attribute(attribute);
            let pair = [as_own.of(feature).unwrap(), as_theirs.of(feature).unwrap()];
            if pair[0].truth != pair[1].truth && pair.iter().all(|one| one.visible) {
                cases += 1;
                own += u32::from(pair[0].right());
                theirs += u32::from(pair[1].right());
            }
        }
    }
    assert!(cases > 30);
    assert!(theirs * 50 >= cases * 49, "{theirs} of {cases}");
    assert!(own * 10 < cases, "{own} of {cases}");
}

#[test]
fn a_frame_that_is_hard_to_fit_is_helped_by_the_others() {
    let world = World::new(2).unwrap();
    let mut judge = Judge::new(world);
    for number in [2_000_153, 2_000_248] {
        let group = world.group(number).unwrap();
        let clip = group.clip(0).unwrap();
        let frames = ends(&world, &group.identity, &clip, SIDE);
        let both = judged(&mut judge, &frames, &group.identity, &clip);
        let mut alone = |at: usize| {
            let time = at as f32;
            judge.clip(&[&frames[at]], SIDE, &[time], &group.identity, &clip).unwrap().fits[0].error
        };
        let hardest = alone(0).max(alone(1));
        assert!(hardest > 0.003, "{hardest}");
        assert!(both.fits.iter().all(|fit| fit.error < 0.1 * hardest), "{both:?}");
        assert!(both.of(Feature::Slot(Slot::Action)).unwrap().right());
    }
}

#[test]
fn larger_frames_are_read_like_others() {
    let world = World::new(2).unwrap();
    let group = world.group(4).unwrap();
    let clip = group.clip(2).unwrap();
    let mut judge = Judge::new(world);
    let mut read = |size| {
        let frames = ends(&world, &group.identity, &clip, size);
        judged(&mut judge, &frames, &group.identity, &clip).readings
    };
    assert_eq!(read(SIDE), read(3 * SIDE));
}

#[test]
fn what_is_no_clip_is_refused() {
    let world = World::new(2).unwrap();
    let group = world.group(4).unwrap();
    let clip = group.clip(2).unwrap();
    let frame = vec![0; SIDE * SIDE * 3];
    let mut judge = Judge::new(world);
    let mut refused = |frames: &[&[u8]], size, times: &[f32]| {
        judge.clip(frames, size, times, &group.identity, &clip).unwrap_err().code()
    };
    assert_eq!(refused(&[], SIDE, &[]), "E0984");
    assert_eq!(refused(&[&frame], SIDE, &[0.0, 1.0]), "E0984");
    assert_eq!(refused(&[&frame], SIDE, &[1.5]), "E0984");
    assert_eq!(refused(&[&frame], SIDE, &[f32::NAN]), "E0984");
    assert_eq!(refused(&[&frame[1..]], SIDE, &[0.0]), "E0984");
    assert_eq!(refused(&[&frame], SIDE + 1, &[0.0]), "E0982");
    // A frame that shows nothing is judged like any other.
    assert!(judge.clip(&[&frame], SIDE, &[0.0], &group.identity, &clip).is_ok());
}

#[test]
fn a_movement_is_not_seen_in_a_single_frame() {
    let world = World::new(2).unwrap();
    let group = world.group(8).unwrap();
    let clip = group.clip(0).unwrap();
    let frames = ends(&world, &group.identity, &clip, SIDE);
    let mut judge = Judge::new(world);
    let mut visible = |frames: &[&[u8]], times: &[f32]| {
        let verdict = judge.clip(frames, SIDE, times, &group.identity, &clip).unwrap();
        [Slot::Pose, Slot::Action].map(|slot| verdict.of(Feature::Slot(slot)).unwrap().visible)
    };
    assert_eq!(visible(&[&frames[0]], &[0.0]), [true, false]);
    assert_eq!(visible(&[&frames[0], &frames[1]], &[0.0, 1.0]), [true, true]);
    assert_eq!(FRAMES, 5);
}
