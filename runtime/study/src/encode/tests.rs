//! Every adapter against a tiny network whose right results are known (`tests/reference/detectors.py`),
//! and against networks of other shapes.

use super::grounding::Grounding;
use super::pictures::{Kind, PictureEncoder};
use super::sam::{Prompt, Sam};
use crate::settings::Engine;
use crate::testing::{expected, near, network, picture};

#[test]
fn pictures_become_numbers_as_published() {
    for (kind, name) in [(Kind::Clip, "clip"), (Kind::Dinov2, "dinov2")] {
        let encoder = PictureEncoder::open(&network(name), Engine::Rten, kind).unwrap();
        let found: Vec<f64> =
            encoder.encode(&picture()).unwrap().into_iter().map(f64::from).collect();
        // A byte more or less, where Pillow rounds in another way.
        near(&found, &expected(name), 1.01 / (255.0 * 0.22));
        let wanted: Vec<f64> = serde_json::from_value(expected(name)).unwrap();
        let same = found.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() < 1e-4).count();
        assert!(same * 100 >= found.len() * 95, "{name}: {same} of {}", found.len());
    }
}

#[test]
fn boxes_become_outlines() {
    let sam = Sam::open(&network("sam_encoder"), &network("sam_decoder"), Engine::Rten).unwrap();
    let (image, wanted) = (picture(), expected("sam"));
    let seen = sam.see(&image).unwrap();
    let area = serde_json::from_value(wanted["box"].clone()).unwrap();
    let mask = sam.mask(&seen, &Prompt::Box(area)).unwrap();
    near([&mask.score], &wanted["score"], 1e-4);
    let columns: [usize; 2] = serde_json::from_value(wanted["columns"].clone()).unwrap();
    for (at, inside) in mask.pixels.iter().enumerate() {
        let column = at % image.width;
        assert_eq!(*inside, (columns[0]..=columns[1]).contains(&column), "{at}");
    }
    // A point has another label than the corner of a box: the network says so by an empty mask.
    let points = vec![([100.5, 20.0], true), ([180.5, 90.0], false)];
    let mask = sam.mask(&seen, &Prompt::Points(points)).unwrap();
    assert!(mask.pixels.iter().all(|inside| *inside));
}

#[test]
fn phrases_become_boxes() {
    let model = Grounding::open(&network("grounding"), Engine::Rten).unwrap();
    let wanted = expected("grounding");
    let ids: Vec<i64> = serde_json::from_value(wanted["ids"].clone()).unwrap();
    let found = model.found(&picture(), &ids).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    near(&found[0].area, &wanted["box"], 1e-3);
    near([&found[0].score], &wanted["score"], 1e-5);
    assert_eq!(serde_json::json!(found[0].tokens), wanted["tokens"]);
}

#[test]
fn a_model_of_another_shape_is_told_at_once() {
    let refused = |name: &str| {
        let path = network(name);
        let mut faults = Vec::new();
        for kind in [Kind::Clip, Kind::Dinov2] {
            faults.push(PictureEncoder::open(&path, Engine::Rten, kind).err());
        }
        faults.push(Sam::open(&path, &network("sam_decoder"), Engine::Rten).err());
        faults.push(Sam::open(&network("sam_encoder"), &path, Engine::Rten).err());
        faults.push(Grounding::open(&path, Engine::Rten).err());
        faults
    };
    for name in ["yolo", "arcface", "rtdetr"] {
        let faults = refused(name);
        assert!(faults.iter().all(|f| f.as_ref().is_some_and(|f| f.code() == "E1208")), "{name}");
    }
    // A file of CLIP without its projection, and one network in the place of another.
    let bare = refused("clip_bare").remove(0).unwrap();
    assert!(bare.message().contains("no projection (image_embeds)"), "{bare}");
    assert!(refused("dinov2")[0].is_some() && refused("dinov2")[1].is_none());
    assert!(refused("sam_decoder")[2].is_some() && refused("sam_encoder")[3].is_some());
}
