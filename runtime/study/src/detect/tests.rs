//! Every adapter against a tiny network whose right results are known (`tests/reference/detectors.py`),
//! and against networks of other shapes.

use super::*;
use crate::settings::{Engine, PersonKind, Side};
use crate::testing::{expected, near, network, picture};

const FACES: [FaceKind; 3] = [FaceKind::Scrfd, FaceKind::Yunet, FaceKind::Retinaface];
const FILES: [&str; 8] =
    ["scrfd", "yunet", "retinaface", "yolo", "yolo_ranked", "rtdetr", "arcface", "sface"];

fn face_model(kind: FaceKind, name: &str) -> FaceModel {
    FaceModel { kind, path: network(name), side: None, score: None, engine: Engine::Rten }
}

fn person_model(kind: PersonKind, name: &str) -> PersonModel {
    PersonModel { kind, path: network(name), score: None, engine: Engine::Rten }
}

fn identity_model(kind: IdentityKind, name: &str) -> IdentityModel {
    IdentityModel { kind, path: network(name), align224: false, engine: Engine::Rten }
}

#[test]
fn faces_are_found_where_the_published_formulas_find_them() {
    for (kind, name) in FACES.into_iter().zip(FILES) {
        let found = finder(&face_model(kind, name)).unwrap().faces(3, &picture()).unwrap();
        let wanted = expected(name);
        assert_eq!(found.len(), wanted.as_array().unwrap().len(), "{name}: {found:?}");
        for (face, wanted) in found.iter().zip(wanted.as_array().unwrap()) {
            assert_eq!(face.f, 3);
            near(&face.area, &wanted["box"], 1e-3);
            near(face.kps.as_flattened(), &wanted["kps"], 1e-3);
            near([&face.score], &wanted["score"], 1e-5);
        }
    }
}

#[test]
fn scores_and_sides_of_the_settings_are_used() {
    let mut model = face_model(FaceKind::Scrfd, "scrfd");
    model.score = Some(0.9);
    assert_eq!(finder(&model).unwrap().faces(0, &picture()).unwrap().len(), 1);
    // The file has one side.
    model.side = Some(Side::Auto);
    let fault = finder(&model).err().unwrap();
    assert!(fault.message().contains("[any, 3, 640, 640], expected [any, 3, 128, 128]"), "{fault}");
    model.side = Some(Side::Pixels(100));
    let fault = finder(&model).err().unwrap();
    assert!(fault.message().contains("multiple of 32"), "{fault}");
    let mut model = person_model(PersonKind::Yolo, "yolo");
    model.score = Some(0.9);
    assert_eq!(person_finder(&model).unwrap().persons(0, &picture()).unwrap().len(), 1);
}

#[test]
fn persons_are_found_where_the_published_formulas_find_them() {
    use PersonKind::{Rtdetr, Yolo};
    for (kind, name) in [(Yolo, "yolo"), (Yolo, "yolo_ranked"), (Rtdetr, "rtdetr")] {
        let found = person_finder(&person_model(kind, name)).unwrap();
        let found = found.persons(5, &picture()).unwrap();
        let wanted = expected(name);
        assert_eq!(found.len(), wanted.as_array().unwrap().len(), "{name}: {found:?}");
        for (person, wanted) in found.iter().zip(wanted.as_array().unwrap()) {
            assert_eq!((person.f, person.derived), (5, false));
            near(&person.area, &wanted["box"], 1e-3);
            near([&person.score], &wanted["score"], 1e-5);
        }
    }
}

#[test]
fn faces_are_brought_to_their_place_and_become_numbers() {
    use IdentityKind::{Arcface, Curricularface, Sface};
    let points: Points = serde_json::from_value(expected("points")).unwrap();
    let plane = Plane::rgb(&picture());
    let numbers = |model: &IdentityModel| -> Vec<f64> {
        let found = recogniser(model).unwrap().embedding(&plane, &points).unwrap().unwrap();
        found.into_iter().map(f64::from).collect()
    };
    for (kind, name, by) in [
        // A pixel that lies between two bytes may be either of them.
        (Arcface, "arcface", 1.01 / 127.5),
        // This one normalises pixels itself.
        (Arcface, "arcface_raw", 1.01 / 127.5),
        (Curricularface, "arcface", 1.01 / 127.5),
        (Sface, "sface", 1.01),
    ] {
        let found = numbers(&identity_model(kind, name));
        near(&found, &expected(name), by);
        let wanted: Vec<f64> = serde_json::from_value(expected(name)).unwrap();
        let same = found.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() < by / 100.0).count();
        assert!(same * 100 >= found.len() * 98, "{name}: {same} of {}", found.len());
    }
    // From twice the size it is nearly the same face.
    let twice = IdentityModel { align224: true, ..identity_model(Sface, "sface") };
    let (one, other) = (numbers(&identity_model(Sface, "sface")), numbers(&twice));
    assert!(one != other && one.iter().zip(&other).all(|(a, b)| (a - b).abs() < 3.0));
    // Points on one place are no face.
    let none = recogniser(&twice).unwrap().embedding(&plane, &[[5.0; 2]; 5]).unwrap();
    assert_eq!(none, None);
}

#[test]
fn a_model_of_another_shape_is_told_at_once() {
    let faces = FACES.map(|kind| {
        move |name: &str| finder(&face_model(kind, name)).err().map(|e| e.to_string() + e.code())
    });
    let persons = [PersonKind::Yolo, PersonKind::Rtdetr].map(|kind| {
        move |name: &str| {
            person_finder(&person_model(kind, name)).err().map(|e| e.to_string() + e.code())
        }
    });
    let identities = [IdentityKind::Arcface, IdentityKind::Sface].map(|kind| {
        move |name: &str| {
            recogniser(&identity_model(kind, name)).err().map(|e| e.to_string() + e.code())
        }
    });
    let own: [&[&str]; 7] = [
        &["scrfd"],
        &["yunet"],
        &["retinaface"],
        &["yolo", "yolo_ranked"],
        &["rtdetr"],
        &["arcface"],
        &["sface"],
    ];
    type Open<'f> = &'f dyn Fn(&str) -> Option<String>;
    let all: Vec<Open<'_>> = faces
        .iter()
        .map(|open| open as Open<'_>)
        .chain(persons.iter().map(|open| open as _))
        .chain(identities.iter().map(|open| open as _))
        .collect();
    for (open, own) in all.into_iter().zip(own) {
        for name in FILES {
            match open(name) {
                None => assert!(own.contains(&name), "{own:?} took {name}"),
                Some(fault) => {
                    assert!(!own.contains(&name) && fault.contains("E1208"), "{name}: {fault}");
                }
            }
        }
        let fault = open("expected.json").unwrap();
        assert!(fault.contains("E1208"), "{fault}");
        assert!(open("none").unwrap().contains("E0911"));
    }
}

fn pose_model(name: &str, mean_shape: Option<std::path::PathBuf>) -> PoseModel {
    let kind = crate::settings::PoseKind::Points68;
    PoseModel { kind, path: network(name), mean_shape, engine: Engine::Rten }
}

#[test]
fn heads_are_turned_as_their_points_in_space_say() {
    let (plane, area) = (Plane::rgb(&picture()), [100.0, 70.0, 190.0, 170.0]);
    let wanted = expected("points68");
    let own = points::Points68::open(&pose_model("points68", None)).unwrap();
    let found = own.around(&plane, &area).unwrap().unwrap();
    near(found.as_flattened(), &wanted["points"], 1e-3);
    let pose = own.pose(&plane, &area).unwrap().unwrap();
    near(&pose, &wanted["pose"], 1e-3);
    // A box that is nothing is no face.
    assert_eq!(own.pose(&plane, &[5.0; 4]).unwrap(), None);
    // Against a mean shape, here the same points turned back to where they were seen.
    let folder = crate::testing::TempFolder::new("shape");
    let path = folder.write("shape.json", serde_json::json!(found.to_vec()).to_string());
    let by_shape = points::Points68::open(&pose_model("points68", Some(path))).unwrap();
    let same = by_shape.pose(&plane, &area).unwrap().unwrap();
    assert!(same.iter().all(|angle| angle.abs() < 1e-6), "{same:?}");
    // It says where a face of a frame looks, in place of its five points.
    let line = serde_json::json!({"schema": schema::BOXES, "media": "a.mp4", "f": 1,
        "faces": [{"box": area, "kps": expected("points"), "score": 0.9}]});
    let settings = DetectSettings {
        given: Some(folder.write("boxes.jsonl", format!("{line}\n"))),
        pose: Some(pose_model("points68", None)),
        ..DetectSettings::default()
    };
    let source = Source::open(&settings).unwrap();
    let frames = source.frames_of("a.mp4").unwrap().unwrap();
    let (faces, ..) =
        crate::stages::media::in_frame(1, &picture(), &source, Some(&frames[&1])).unwrap();
    near(&faces[0].pose.unwrap(), &wanted["pose"], 6e-3);
    assert_eq!(licences(&settings).len(), 1);
}

#[test]
fn what_is_no_network_or_no_shape_of_68_points_is_told_at_once() {
    for name in FILES {
        let fault = points::Points68::open(&pose_model(name, None)).err().unwrap();
        assert_eq!(fault.code(), "E1208", "{name}: {fault}");
    }
    let folder = crate::testing::TempFolder::new("shapes");
    for (text, said) in [
        ("[[1, 2, 3]]".to_owned(), "it has 1 points"),
        ("{}".to_owned(), "expected a sequence"),
        (serde_json::json!(vec![[1.0; 3]; 68]).to_string(), "no face"),
    ] {
        let path = folder.write("shape.json", text);
        let fault = points::Points68::open(&pose_model("points68", Some(path))).err().unwrap();
        assert!(fault.code() == "E1208" && fault.message().contains(said), "{fault}");
    }
}

#[test]
fn what_is_given_is_completed_by_models() {
    let folder = crate::testing::TempFolder::new("completed");
    let points = expected("points");
    let line = serde_json::json!({"schema": schema::BOXES, "media": "a.mp4", "f": 1,
        "faces": [{"box": [100, 70, 190, 170], "kps": points, "score": 0.9}]});
    let settings = DetectSettings {
        given: Some(folder.write("boxes.jsonl", format!("{line}\n"))),
        person: Some(person_model(PersonKind::Yolo, "yolo")),
        identity: Some(identity_model(IdentityKind::Sface, "sface")),
        ..DetectSettings::default()
    };
    let source = Source::open(&settings).unwrap();
    let frames = source.frames_of("a.mp4").unwrap().unwrap();
    let (faces, persons) = source.look(1, &picture(), Some(&frames[&1])).unwrap();
    assert_eq!((faces[0].score, faces[0].embedding.as_ref().unwrap().len()), (0.9, 128));
    assert_eq!((persons.len(), persons[0].derived), (2, false));
    assert_eq!(licences(&settings).len(), 1);
    let other = DetectSettings {
        face: Some(face_model(FaceKind::Scrfd, "scrfd")),
        identity: Some(identity_model(IdentityKind::Arcface, "arcface")),
        ..DetectSettings::default()
    };
    let notes = licences(&other);
    assert!(notes.len() == 1 && notes[0].contains("non-commercial"), "{notes:?}");
    let source = Source::open(&other).unwrap();
    assert!(source.frames_of("a.mp4").unwrap().is_none());
    let (faces, persons) = source.look(0, &picture(), None).unwrap();
    assert!(faces.iter().all(|face| face.embedding.is_some()) && persons.is_empty());
}
