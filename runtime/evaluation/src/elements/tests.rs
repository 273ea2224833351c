//! Scores of elements whose outlines are known: each has a colour of its own.

use super::*;
use crate::raw::{KeptElements, Metric, Norm, Norms, Raw, Task, schema};
use crate::testing::plain;

const HAIR_COLOR: [u8; 3] = [192, 128, 128];
const OTHER_HAIR: [u8; 3] = [160, 224, 128];
const CLOTHES_COLOR: [u8; 3] = [128, 192, 128];
const WALL: [u8; 3] = [128, 128, 224];

/// Hair is reddish, clothes are green, and both together are the person. Garments are named by their
/// shade of red below 64.
struct Colours;

impl Outlines for Colours {
    fn outlines(
        &self,
        image: &RgbFrame,
        phrases: &[&str],
        _near: Option<&Near>,
    ) -> Result<Vec<Option<Mask>>> {
        let of = |phrase: &&str| {
            let inside = |pixel: &[u8]| match *phrase {
                HAIR => pixel[0] > 150,
                CLOTHES => pixel[1] > 150 && pixel[0] < 150,
                PERSON => pixel[2] < 160,
                "shirt" => pixel[0] == 10,
                "jacket" => pixel[0] == 20,
                _ => false,
            };
            let mask: Mask = image.data.chunks_exact(3).map(inside).collect();
            mask.contains(&true).then_some(mask)
        };
        Ok(phrases.iter().map(of).collect())
    }
}

/// Says how the colours of a picture differ from grey, all together.
struct Sum(f32);

impl Pictures for Sum {
    fn encode(&self, image: &RgbFrame) -> Result<Vec<f32>> {
        let sum = |channel: usize| {
            let all = image.data.iter().skip(channel).step_by(3);
            all.map(|value| f32::from(*value) - 128.0).sum::<f32>()
        };
        Ok(vec![sum(0), self.0 * sum(1), sum(2)])
    }
}

fn measure() -> Measure {
    let encoders: [Option<Box<dyn Pictures>>; 2] =
        [Some(Box::new(Sum(1.0))), Some(Box::new(Sum(0.0)))];
    Measure::of(Box::new(Colours), Masks::Segmented, encoders, Vec::new())
}

/// A wall with blocks of colour: left, top, width and height of each.
fn scene(blocks: &[([u8; 3], [usize; 4])]) -> RgbFrame {
    let mut image = plain(WALL, 40, 40);
    for (color, [left, top, width, height]) in blocks {
        for row in *top..top + height {
            let begin = 3 * (row * 40 + left);
            image.data[begin..begin + 3 * width].copy_from_slice(&color.repeat(*width));
        }
    }
    image
}

const HEAD: [usize; 4] = [10, 4, 8, 8];
const BODY: [usize; 4] = [8, 16, 12, 20];

fn kept(names: &[Element], primary: &RgbFrame, frames: &[RgbFrame]) -> Vec<Kept> {
    let wanted: Vec<Wanted> =
        names.iter().map(|element| Wanted { element: *element, noun: None }).collect();
    let places: Vec<usize> = (0..frames.len()).collect();
    let moment = |at: &usize| Moment { seconds: *at as f64, image: frames[*at].clone() };
    let moments = places.iter().map(|at| (*at, moment(at))).collect();
    measure().video(&wanted, primary, &places, &moments, None).unwrap()
}

#[track_caller]
fn near(found: Option<f64>, wanted: f64) {
    assert!(found.is_some_and(|found| (found - wanted).abs() < 1e-6), "{found:?} is not {wanted}");
}

#[test]
fn what_is_kept_scores_1_and_what_is_missing_in_a_frame_0() {
    let primary = scene(&[(HAIR_COLOR, HEAD)]);
    let bare = scene(&[]);
    let found = kept(&[Element::Hairstyle], &primary, &[primary.clone(), bare]);
    assert!(found[0].in_primary);
    let frames = &found[0].frames;
    assert_eq!((frames[0].found, frames[1].found), (true, false));
    assert_eq!((frames[0].clip, frames[1].clip, frames[1].dino), (Some(1.0), Some(0.0), Some(0.0)));
    near(found[0].score(Metric::EleClip, Norm::Plain), 0.5);
    near(found[0].score(Metric::EleClip, Norm::Affine), 0.75);
}

#[test]
fn what_the_primary_reference_does_not_show_does_not_count() {
    let primary = scene(&[(CLOTHES_COLOR, BODY)]);
    let both = scene(&[(HAIR_COLOR, HEAD), (CLOTHES_COLOR, BODY)]);
    let found =
        kept(&[Element::Hairstyle, Element::Clothing, Element::Accessory], &primary, &[both]);
    assert_eq!([&found[0], &found[1], &found[2]].map(|kept| kept.in_primary), [false, true, false]);
    assert!(found[0].frames.is_empty());
    assert_eq!(found[0].score(Metric::EleClip, Norm::Plain), None);
    near(found[1].score(Metric::EleClip, Norm::Plain), 1.0);
    // The case is the mean over what counts.
    let raw = raw_of(found);
    near(raw.value(Metric::EleClip, Norms::default()), 100.0);
}

fn raw_of(elements: Vec<Kept>) -> Raw {
    Raw {
        schema: schema::RAW.into(),
        system: "a".into(),
        case: "c".into(),
        unit: "c".into(),
        task: Task::Iept2v,
        video: None,
        failure: None,
        identity: None,
        elements: Some(KeptElements { key: String::new(), masks: Masks::Segmented, elements }),
        judged: None,
    }
}

#[test]
fn cosines_are_plain_and_affine_beside_it() {
    let primary = scene(&[(HAIR_COLOR, HEAD), (CLOTHES_COLOR, BODY)]);
    let frame = scene(&[(OTHER_HAIR, HEAD), (CLOTHES_COLOR, BODY)]);
    let found = kept(&[Element::Hairstyle, Element::Clothing], &primary, &[frame]);
    // (64, 0, 0) and (32, 96, 0): 1/sqrt(10) by the first encoder, 1 by the one without green.
    let cosine = 1.0 / 10f64.sqrt();
    near(found[0].score(Metric::EleClip, Norm::Plain), cosine);
    near(found[0].score(Metric::EleDino, Norm::Plain), 1.0);
    let raw = raw_of(found);
    near(raw.value(Metric::EleClip, Norms::default()), 100.0 * (cosine + 1.0) / 2.0);
    let affine = Norms { ele: Norm::Affine, ..Norms::default() };
    let hair = (cosine + 1.0) / 2.0;
    near(raw.value(Metric::EleClip, affine), 100.0 * (hair + 1.0) / 2.0);
}

#[test]
fn clothes_that_are_not_found_are_looked_for_by_their_names() {
    let primary = scene(&[([10, 128, 128], [4, 4, 8, 8]), ([20, 128, 128], [20, 4, 8, 8])]);
    let masks = measure()
        .masks_of(&[Wanted { element: Element::Clothing, noun: None }], &primary, None)
        .unwrap();
    let mask = masks[0].as_ref().unwrap();
    assert_eq!(mask.iter().filter(|inside| **inside).count(), 128);
}

#[test]
fn the_background_is_what_is_not_the_person() {
    let primary = scene(&[(HAIR_COLOR, HEAD)]);
    let moved = scene(&[(HAIR_COLOR, [20, 20, 8, 8])]);
    let found = kept(&[Element::Background], &primary, &[moved, plain(WALL, 40, 40)]);
    near(found[0].score(Metric::EleClip, Norm::Plain), 1.0);
    // Where only the person is left, there is no background to compare.
    let close = kept(&[Element::Background], &primary, &[plain(HAIR_COLOR, 40, 40)]);
    assert!(!close[0].frames[0].found);
}

#[test]
fn outlines_of_a_few_pixels_are_none() {
    // Three of 1,600 pixels are less than 0.2 %, four are more.
    for (width, found) in [(3, false), (4, true)] {
        let primary = scene(&[(HAIR_COLOR, [4, 4, width, 1])]);
        assert_eq!(kept(&[Element::Hairstyle], &primary, &[])[0].in_primary, found);
    }
}

#[test]
fn outlines_grow_by_whole_pixels() {
    let mut mask = vec![false; 35];
    mask[2 * 7 + 3] = true;
    let grown = grown(&mask, [7, 5], 1);
    let rows: Vec<usize> =
        grown.chunks(7).map(|row| row.iter().filter(|inside| **inside).count()).collect();
    assert_eq!(rows, [0, 3, 3, 3, 0]);
    mask[0] = true;
    let corner = super::grown(&mask, [7, 5], 2);
    assert_eq!(corner.iter().filter(|inside| **inside).count(), 5 * 5 + 9 - 6);
}

#[test]
fn parts_are_square_with_grey_around_them() {
    let image = scene(&[(HAIR_COLOR, [0, 10, 20, 10])]);
    let mask: Mask = image.data.chunks_exact(3).map(|pixel| pixel[0] > 150).collect();
    let part = part(&image, &mask, false);
    // 20x10 and a twentieth on each side, as far as the picture goes: 21x10 (half a pixel is none).
    assert_eq!((part.width, part.height), (21, 21));
    let color =
        |x: usize, y: usize| <[u8; 3]>::try_from(&part.data[3 * (y * 21 + x)..][..3]).unwrap();
    let rows: Vec<usize> = (0..21).filter(|y| color(5, *y) == HAIR_COLOR).collect();
    assert_eq!(rows.len(), 10);
    assert_eq!((color(5, 0), color(20, 10)), ([GREY; 3], [GREY; 3]));
}

#[test]
fn boxes_about_the_face_are_approximate_outlines() {
    let image = plain(WALL, 100, 100);
    let face = [40.0, 20.0, 60.0, 40.0];
    let near = Near { face, person: person_of(&face, [100, 100]) };
    let found = Geometric.outlines(&image, &[HAIR, CLOTHES, PERSON, "ring"], Some(&near)).unwrap();
    let [Some(hair), Some(clothes), Some(person), None] = &found[..] else { panic!() };
    let at = |mask: &Mask, x: usize, y: usize| mask[y * 100 + x];
    assert!(at(hair, 50, 10) && at(hair, 35, 30) && !at(hair, 50, 30) && !at(hair, 50, 45));
    assert!(at(clothes, 50, 60) && !at(clothes, 50, 42));
    assert!(at(person, 50, 30) && at(person, 10, 60) && !at(person, 2, 60));
    assert!(Geometric.outlines(&image, &[HAIR], None).unwrap()[0].is_none());
}

#[test]
fn accessories_are_called_what_the_aspects_call_them() {
    let folder = tempfile::tempdir().unwrap();
    let primary = folder.path().join("p1.png");
    let preserve = ["hairstyle".to_owned(), "accessory".to_owned()];
    let noun = || wanted(&preserve, &primary).unwrap()[1].noun.clone();
    assert_eq!(noun(), None);
    let aspects = folder.path().join("p1.aspects.toml");
    std::fs::write(&aspects, "accessory = \"Round glasses.\"").unwrap();
    assert_eq!(noun().as_deref(), Some("round glasses"));
    std::fs::write(&aspects, "accessory = \"No accessories.\"").unwrap();
    assert_eq!(noun(), None);
}
