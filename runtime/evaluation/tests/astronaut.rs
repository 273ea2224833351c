//! A run on a photographed person, from files to the summary: MTCNN finds faces, a tiny network that was
//! generated compares them, and NumPy says what is right (`tests/reference/evaluation.py`).
#![cfg(feature = "curate")]

use anyid_evaluation::identity::Measure;
use anyid_evaluation::raw::{Case, Metric, Norm, Norms, Results, Task, schema};
use anyid_evaluation::run::{Options, Tools, run};
use anyid_evaluation::settings::Settings;
use anyid_evaluation::systems::System;
use anyid_evaluation::{cases, elements};
use anyid_files::media::RgbFrame;
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use anyid_files::shard::Shard;
use serde_json::Value;
use std::path::{Path, PathBuf};

const WINDOW: usize = 400;

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn picture() -> RgbFrame {
    let image = image::open(here("../../examples/astronaut.png")).unwrap().to_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    RgbFrame { width, height, data: image.into_raw() }
}

fn mirrored(image: &RgbFrame) -> RgbFrame {
    let row = |row: &[u8]| row.chunks_exact(3).rev().flatten().copied().collect::<Vec<u8>>();
    let data = image.data.chunks_exact(3 * image.width).flat_map(row).collect();
    RgbFrame { data, ..image.clone() }
}

/// A part of the picture that wanders.
fn window(image: &RgbFrame, step: usize) -> RgbFrame {
    let (left, top) = (8 * step, 4 * step);
    let row = |row: usize| {
        let begin = 3 * (row * image.width + left);
        image.data[begin..begin + 3 * WINDOW].to_vec()
    };
    RgbFrame { width: WINDOW, height: WINDOW, data: (top..top + WINDOW).flat_map(row).collect() }
}

fn write_picture(path: &Path, image: &RgbFrame) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (width, height) = (image.width as u32, image.height as u32);
    image::save_buffer(path, &image.data, width, height, image::ExtendedColorType::Rgb8).unwrap();
}

fn write_video(path: &Path, frames: &[RgbFrame]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (width, height) = (frames[0].width, frames[0].height);
    let options = WriterOptions::default();
    let mut writer = VideoWriter::create(path, width, height, 24.0, &options).unwrap();
    for frame in frames {
        writer.push(&frame.data).unwrap();
    }
    writer.finish().unwrap();
}

/// A case about the astronaut with the videos of two systems: one that shows her, but for a black frame,
/// and one that shows nobody.
fn world(root: &Path, image: RgbFrame) -> Options {
    let references = ["001/p1.png", "001/p2.png", "001/clip.png"].map(str::to_owned).to_vec();
    write_picture(&root.join(&references[0]), &image);
    write_picture(&root.join(&references[1]), &mirrored(&image));
    let clip: Vec<RgbFrame> = (0..9).map(|step| window(&image, 12 - step)).collect();
    write_video(&root.join("001/clip.apng"), &clip);
    std::fs::rename(root.join("001/clip.apng"), root.join(&references[2])).unwrap();
    let mut video: Vec<RgbFrame> = (0..6).map(|step| window(&image, step)).collect();
    video[3].data.fill(0);
    let black = vec![video[3].clone(); 6];
    write_video(&root.join("ours/IEPT2V-001-P001.apng"), &video);
    write_video(&root.join("other/x_IEPT2V-001-P001_final.apng"), &black);
    let mut elements = anyid_study::prompt::elements::Elements::default();
    elements.set(anyid_study::prompt::elements::Element::Expression, "She smiles.");
    let case = Case {
        schema: schema::CASE.into(),
        id: "IEPT2V-001-P001".into(),
        of: None,
        task: Task::Iept2v,
        person: "001".into(),
        prompt_id: "P001".into(),
        prompt: "She smiles.".into(),
        prompt_short: None,
        prompt_full: None,
        elements,
        preserve: ["hairstyle", "clothing", "background"].map(str::to_owned).to_vec(),
        primary: references[0].clone(),
        references,
        seed: 1001,
        rewritten: false,
        other: serde_json::Map::new(),
    };
    let cases = root.join("cases.jsonl");
    cases::write(&cases, &[case], root).unwrap();
    let system =
        |name: &str| System::parse(&format!("{name}={}", root.join(name).display())).unwrap();
    Options {
        cases,
        root: root.to_owned(),
        out: root.join("out"),
        systems: vec![system("ours"), system("other")],
        norms: Norms::default(),
        shard: Shard::WHOLE,
        threads: 2,
        redo: false,
        command: String::new(),
    }
}

/// Settings with the models of tests; without MTCNN there are none.
fn settings(root: &Path) -> Option<Settings> {
    let Some(mtcnn) = std::env::var_os("ANYID_MTCNN").map(PathBuf::from) else {
        println!("skipped: ANYID_MTCNN names no folder of MTCNN");
        return None;
    };
    let models = here("../study/tests/models");
    let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n.\nhair\nclothes\nperson\n";
    std::fs::write(root.join("vocab.txt"), words).unwrap();
    let of = |name: &str| models.join(name).display().to_string();
    let text = format!(
        "frames = 6\n[face]\nkind = \"mtcnn\"\npath = \"{}\"\n[arc]\npath = \"{}\"\n\
         [clip]\npath = \"{}\"\n[dino]\npath = \"{}\"\n[segment]\ngrounding = \"{}\"\n\
         vocabulary = \"vocab.txt\"\nsam_encoder = \"{}\"\nsam_decoder = \"{}\"\n",
        mtcnn.display(),
        here("tests/models/embedding.onnx").display(),
        of("clip.onnx"),
        of("dinov2.onnx"),
        of("grounding.onnx"),
        of("sam_encoder.onnx"),
        of("sam_decoder.onnx"),
    );
    let path = root.join("eval.toml");
    std::fs::write(&path, text).unwrap();
    Some(Settings::open(&path).unwrap())
}

#[test]
fn scores_are_those_of_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let Some(settings) = settings(folder.path()) else { return };
    let options = world(folder.path(), picture());
    let tools = Tools { identity: Measure::open(&settings).unwrap(), ..Tools::default() };
    let done = run(&options, &tools, &mut |_, _| {}).unwrap();
    assert_eq!((done.scored, done.missing.len(), done.unreadable.len()), (2, 0, 0));
    let results = Results::open(&options.out).unwrap();
    let wanted: Value =
        serde_json::from_slice(&std::fs::read(here("tests/models/expected.json")).unwrap())
            .unwrap();
    let raw = |system: &str| &results.raws[&(system.to_owned(), "IEPT2V-001-P001".to_owned())];
    let own = raw("ours").identity.as_ref().unwrap();
    let arc = own.arc.as_ref().unwrap();
    // Points differ by parts of a pixel, for pictures are scaled in other ways.
    let near = |found: f64, wanted: &Value, by: f64| {
        let wanted = wanted.as_f64().unwrap();
        assert!((found - wanted).abs() < by, "{found} is not {wanted}");
    };
    for (frame, wanted) in arc.cosines.iter().zip(wanted["cosines"].as_array().unwrap()) {
        let Some(frame) = frame else {
            assert!(wanted.is_null());
            continue;
        };
        for (reference, wanted) in frame.iter().zip(wanted.as_array().unwrap()) {
            assert_eq!(reference.len(), wanted.as_array().unwrap().len());
            for (cosine, wanted) in reference.iter().zip(wanted.as_array().unwrap()) {
                near(*cosine, wanted, 0.02);
            }
        }
    }
    for norm in [Norm::Plain, Norm::Positive, Norm::Affine] {
        near(100.0 * arc.holi(norm), &wanted["holi"][norm.name()], 0.5);
    }
    near(own.coverage(), &wanted["coverage"], 1e-12);
    near(arc.copy_score(0).unwrap(), &wanted["copy_score"], 0.02);
    near(arc.drift().unwrap(), &wanted["drift"], 0.02);
    // The headline is that of the cosines, and nobody is nobody.
    let headline = results.values("ours", Metric::HoliArc, None)["IEPT2V-001-P001"];
    assert!((headline - 100.0 * arc.holi(Norm::Affine)).abs() < 1e-12);
    let nobody = raw("other").identity.as_ref().unwrap();
    assert_eq!((nobody.coverage(), nobody.arc.as_ref().unwrap().holi(Norm::Affine)), (0.0, 0.0));
    let summary: Value =
        serde_json::from_slice(&std::fs::read(options.out.join("summary.json")).unwrap()).unwrap();
    let task = &summary["systems"]["other"]["tasks"]["IEPT2V"];
    assert_eq!((task["faceless"].as_u64(), task["cases"].as_u64()), (Some(1), Some(1)));
}

#[test]
fn elements_are_measured_with_networks_and_with_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(settings) = settings(folder.path()) else { return };
    // The tiny SAM is sure of what it outlines where this part of a picture is light.
    let mut image = picture();
    for row in 330..370 {
        let begin = 3 * (row * image.width + 430);
        image.data[begin..begin + 3 * 40].fill(255);
    }
    let options = world(folder.path(), image);
    for geometric in [false, true] {
        let tools = Tools {
            identity: Measure::open(&settings).unwrap(),
            elements: elements::Measure::open(&settings, geometric).unwrap(),
            ..Tools::default()
        };
        let out = folder.path().join(format!("out{geometric}"));
        let options = Options { out, ..options.clone() };
        run(&options, &tools, &mut |_, _| {}).unwrap();
        let results = Results::open(&options.out).unwrap();
        let raw = &results.raws[&("ours".to_owned(), "IEPT2V-001-P001".to_owned())];
        let kept = raw.elements.as_ref().unwrap();
        assert_eq!(kept.elements.len(), 3);
        for element in &kept.elements {
            assert!(element.in_primary, "{}", element.element);
            assert_eq!(element.frames.len(), 8);
            for frame in &element.frames {
                let values = [frame.clip.unwrap(), frame.dino.unwrap()];
                // What is not found has 0; the black frame has no face for boxes to stand about.
                assert!(frame.found || values == [0.0; 2], "{frame:?}");
                assert!(values.iter().all(|value| value.abs() <= 1.0 + 1e-9), "{frame:?}");
            }
        }
        if geometric {
            let hair = &kept.elements[0];
            assert!(hair.frames.iter().any(|frame| !frame.found));
            assert!(hair.frames.iter().filter(|frame| frame.found).count() >= 6);
        }
        let value = raw.value(Metric::EleClip, Norms::default()).unwrap();
        assert!((0.0..=100.0).contains(&value), "{value}");
    }
}
