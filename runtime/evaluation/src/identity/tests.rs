//! Scores of faces whose embeddings are known: the colour of a frame is a direction.

use super::*;
use crate::raw::{Identity, Norm};
use crate::testing::{Directions, NOBODY, face, measure, plain};
use std::sync::Mutex;

const RED: [u8; 3] = [192, 128, 128];
const GREEN: [u8; 3] = [128, 192, 128];
const BLUE: [u8; 3] = [128, 128, 192];
const ANTI_RED: [u8; 3] = [64, 128, 128];
/// Three fifths of red, four fifths of green.
const MIXED: [u8; 3] = [224, 0, 128];

fn seen(embeddings: &[[f32; 3]]) -> Seen {
    Seen {
        reference: Reference {
            file: "001/p1.png".into(),
            sha256: "b".repeat(64),
            clip: embeddings.len() > 1,
            frames: (0..embeddings.len()).collect(),
        },
        embeddings: [embeddings.iter().map(|values| unit(values)).collect(), Vec::new()],
    }
}

fn looked(colors: &[[u8; 3]], references: &[Seen]) -> (Cosines, f64) {
    let places: Vec<usize> = (0..colors.len()).collect();
    let moment = |at: &usize| Moment { seconds: *at as f64, image: plain(colors[*at], 64, 64) };
    let moments = places.iter().map(|at| (*at, moment(at))).collect();
    let references: Vec<&Seen> = references.iter().collect();
    let found = measure(colors.len()).video(&places, &moments, &references).unwrap();
    let [arc, cur] = found.cosines;
    assert!(cur.is_none());
    let identity = Identity {
        key: String::new(),
        references: Vec::new(),
        frames: found.frames,
        arc: arc.clone(),
        cur,
    };
    (arc.unwrap(), identity.coverage())
}

#[track_caller]
fn near(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-9, "{found} is not {wanted}");
}

#[test]
fn the_same_face_scores_1_another_one_a_half_and_the_opposite_0() {
    let red = [seen(&[[1.0, 0.0, 0.0]])];
    for (color, affine, positive, plain) in
        [(RED, 1.0, 1.0, 1.0), (GREEN, 0.5, 0.0, 0.0), (ANTI_RED, 0.0, 0.0, -1.0)]
    {
        let (cosines, coverage) = looked(&[color, color], &red);
        near(cosines.holi(Norm::Affine), affine);
        near(cosines.holi(Norm::Positive), positive);
        near(cosines.holi(Norm::Plain), plain);
        near(coverage, 1.0);
    }
}

#[test]
fn two_frames_and_three_references_by_hand() {
    let references =
        [seen(&[[1.0, 0.0, 0.0]]), seen(&[[0.0, 1.0, 0.0]]), seen(&[[-1.0, 0.0, 0.0]])];
    // Frames red and blue: cosines (1, 0, -1) and (0, 0, 0).
    let (cosines, _) = looked(&[RED, BLUE], &references);
    assert_eq!(cosines.cosines[0].as_ref().unwrap(), &[[1.0], [0.0], [-1.0]]);
    // Means over frames: 0.5, 0, -0.5.
    near(cosines.holi(Norm::Plain), 0.0);
    near(cosines.holi(Norm::Affine), 0.5);
    near(cosines.holi(Norm::Positive), 0.5 / 3.0);
    assert_eq!(cosines.per_reference(3), [Some(0.5), Some(0.0), Some(-0.5)]);
    assert_eq!(cosines.curve(), [Some(0.0), Some(0.0)]);
    // The best frame beside the primary less the mean of the two others.
    near(cosines.copy_score(0).unwrap(), 1.0 - (0.0 - 0.5) / 2.0);
    near(cosines.drift().unwrap(), 0.0);
    let (cosines, _) = looked(&[GREEN, RED], &references[..1]);
    near(cosines.drift().unwrap(), 1.0);
    assert_eq!(cosines.copy_score(0), None);
}

#[test]
fn frames_without_a_face_are_left_out_and_count_when_it_is_strict() {
    let red = [seen(&[[1.0, 0.0, 0.0]])];
    let (cosines, coverage) = looked(&[RED, NOBODY, NOBODY, RED], &red);
    near(coverage, 0.5);
    near(cosines.holi(Norm::Affine), 1.0);
    near(cosines.strict(Norm::Affine), 0.75);
    near(cosines.strict(Norm::Plain), 0.5);
    assert_eq!(cosines.curve()[1], None);
}

#[test]
fn a_video_without_any_face_scores_0() {
    let (cosines, coverage) = looked(&[NOBODY, NOBODY], &[seen(&[[1.0, 0.0, 0.0]])]);
    near(coverage, 0.0);
    for norm in [Norm::Affine, Norm::Positive, Norm::Plain] {
        assert_eq!(cosines.holi(norm), 0.0);
    }
    near(cosines.strict(Norm::Affine), 0.5);
}

#[test]
fn a_clip_is_one_reference_of_five() {
    // Four pictures that are the same, and a clip of eight frames that are not.
    let mut references: Vec<Seen> = (0..4).map(|_| seen(&[[1.0, 0.0, 0.0]])).collect();
    references.push(seen(&[[0.0, 1.0, 0.0]; 8]));
    let (cosines, _) = looked(&[RED], &references);
    near(cosines.holi(Norm::Plain), 4.0 / 5.0);
    // Half of the clip is the same: its own mean, and the normalisation before it.
    let half: Vec<[f32; 3]> =
        (0..8).map(|at| if at < 4 { [1.0, 0.0, 0.0] } else { [-1.0, 0.0, 0.0] }).collect();
    let (cosines, _) = looked(&[RED], &[seen(&half)]);
    near(cosines.holi(Norm::Plain), 0.0);
    near(cosines.holi(Norm::Positive), 0.5);
}

#[test]
fn cosines_do_not_depend_on_lengths() {
    // (96, -128, 0) / 32 = (3, -4, 0).
    let (cosines, _) = looked(&[MIXED], &[seen(&[[2.0, 0.0, 0.0]]), seen(&[[0.0, 0.5, 0.0]])]);
    let of = cosines.cosines[0].as_ref().unwrap();
    assert!((of[0][0] - 0.6).abs() < 1e-7 && (of[1][0] + 0.8).abs() < 1e-7, "{of:?}");
}

/// Two faces, the larger on the left; and what it was asked.
struct Two(Mutex<Vec<[usize; 2]>>);

impl Faces for Two {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        self.0.lock().unwrap().push([image.width, image.height]);
        let small = face(f, [48.0, 8.0, 60.0, 20.0], 0.95);
        Ok(vec![small, face(f, [4.0, 4.0, 28.0, 28.0], 0.9)])
    }
}

#[test]
fn the_largest_face_is_scored_and_the_one_most_alike_is_noted() {
    let mut image = plain(GREEN, 64, 64);
    for at in (0..64 * 64).filter(|at| at % 64 >= 40) {
        image.data[3 * at..3 * at + 3].copy_from_slice(&RED);
    }
    let arc = Encoder { encoder: Box::new(Directions), sha256: "a".repeat(64) };
    let detectors = Detectors::of(vec![Box::new(Two(Mutex::new(Vec::new())))]);
    let measure = Measure::of(detectors, [Some(arc), None], Vec::new(), 1, "");
    let moments = BTreeMap::from([(0, Moment { seconds: 0.0, image })]);
    let red = seen(&[[1.0, 0.0, 0.0]]);
    let found = measure.video(&[0], &moments, &[&red]).unwrap();
    assert_eq!(found.frames[0].faces[0], [4.0, 4.0, 28.0, 28.0]);
    assert_eq!((found.frames[0].faces.len(), found.frames[0].score), (2, Some(0.9)));
    let [Some(cosines), None] = found.cosines else { panic!() };
    assert_eq!(cosines.cosines[0], Some(vec![vec![0.0]]));
    assert_eq!(cosines.best[0], Some(Best { face: 1, cosine: 1.0 }));
}

/// Finds a face only where there is grey around the picture.
struct Close;

impl Faces for Close {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let grey = image.data[..3] == [GREY; 3];
        Ok(if grey { vec![face(f, [16.0, 16.0, 80.0, 80.0], 0.8)] } else { Vec::new() })
    }
}

#[test]
fn faces_that_fill_a_picture_are_found_with_a_margin() {
    let found = Detectors::of(vec![Box::new(Close)]).faces(0, &plain(RED, 64, 40)).unwrap();
    // A quarter of each side is put on: 16 and 10 pixels.
    assert_eq!(found[0].area, [0.0, 6.0, 64.0, 70.0]);
    let template = face(0, [0.0, 6.0, 64.0, 70.0], 0.8);
    for (own, wanted) in found[0].kps.iter().flatten().zip(template.kps.iter().flatten()) {
        near(*own, *wanted);
    }
    let wide = padded(&plain(RED, 64, 40), 16, 10);
    assert_eq!((wide.width, wide.height, wide.data.len()), (96, 60, 96 * 60 * 3));
    assert_eq!(wide.data[3 * (10 * 96 + 16)..][..3], RED);
    assert_eq!(wide.data[3 * (10 * 96 + 15)..][..3], [GREY; 3]);
}
