//! Support of tests: results of a run that never was, drawn from a key.

use crate::raw::*;
use anyid_files::resample::Draws;
use anyid_study::prompt::elements::{Element, Elements};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A case of a person.
pub fn case(task: Task, number: usize) -> Case {
    let person = format!("{number:03}");
    let references = ["p1.png", "p2.png", "clip.mp4"].map(|file| format!("{person}/{file}"));
    let mut elements = Elements::default();
    for element in Element::ALL {
        elements.set(element, format!("Text of {}.", element.name()));
    }
    let preserve = if task == Task::Iept2v { vec!["hairstyle".to_owned()] } else { Vec::new() };
    Case {
        schema: schema::CASE.to_owned(),
        id: format!("{}-{person}-P{number:03}", task.name()),
        of: None,
        task,
        prompt_id: format!("P{number:03}"),
        prompt: "She smiles & turns <left>.".to_owned(),
        prompt_short: None,
        prompt_full: None,
        elements,
        preserve,
        primary: references[0].clone(),
        references: references.to_vec(),
        seed: 1,
        rewritten: false,
        other: serde_json::Map::new(),
        person,
    }
}

/// What came of a case with a system whose faces are as good as `level`.
fn raw(system: &str, case: &Case, level: f64) -> Raw {
    let mut draws = Draws::new(b"sample", system, &case.id);
    let shared = Draws::new(b"sample", "case", &case.id).unit();
    let own = level + 0.1 * (shared - 0.5) + 0.03 * (draws.unit() - 0.5);
    let mut cosine = |far: f64| own - far + 0.06 * (draws.unit() - 0.5);
    let cosines: Vec<Option<Vec<Vec<f64>>>> = (0..8)
        .map(|_| {
            Some(vec![vec![cosine(0.0)], vec![cosine(0.05)], vec![cosine(0.02), cosine(0.03)]])
        })
        .collect();
    let best = cosines.iter().map(|_| None).collect();
    let frames = (0..8usize).map(|f| FaceFrame {
        f,
        seconds: f as f64 / 24.0,
        faces: vec![[16.0, 16.0, 48.0, 48.0]],
        score: Some(0.9),
        yaw: Some(f as f64 * 8.0 - 10.0),
    });
    let references = case.references.iter().map(|file| Reference {
        file: file.clone(),
        sha256: "0".repeat(64),
        clip: file.ends_with("mp4"),
        frames: vec![0],
    });
    let cur = Cosines { model: "c".into(), cosines: cosines.clone(), best };
    let arc = Cosines { model: "a".into(), ..cur.clone() };
    let identity = Identity {
        key: "k".into(),
        references: references.collect(),
        frames: frames.collect(),
        arc: Some(arc),
        cur: Some(cur),
    };
    let kept = |name: &String| Kept {
        element: name.clone(),
        in_primary: true,
        frames: (0..4)
            .map(|f| ElementFrame { f, found: true, clip: Some(own + 0.2), dino: Some(own + 0.25) })
            .collect(),
    };
    let elements = KeptElements {
        key: "k".into(),
        masks: Masks::Segmented,
        elements: case.preserve.iter().map(kept).collect(),
    };
    let mut score = |base: f64| {
        let step = |value: f64| Some((value * 4.0).round() / 4.0);
        let first = base + 30.0 * level + 8.0 * draws.unit();
        Some(vec![step(first), step(first + 2.0 * draws.unit()), None])
    };
    let judged = Judged {
        key: "k".into(),
        model: "judge".into(),
        server_model: Some("judge-2026".into()),
        app: score(60.0),
        mot: score(45.0),
        bg: score(65.0),
        sta: score(62.0),
        dynamic: score(68.0),
        defects: vec!["f3: six fingers".into()],
        ..Judged::default()
    };
    Raw {
        schema: schema::RAW.to_owned(),
        system: system.to_owned(),
        case: case.id.clone(),
        unit: case.id.clone(),
        task: case.task,
        video: Some(Video {
            path: format!("{}.mp4", case.id),
            sha256: format!("{system}/{}", case.id),
            width: 64,
            height: 64,
            frames: 8,
            fps: 24.0,
        }),
        failure: None,
        identity: Some(identity),
        elements: (case.task == Task::Iept2v).then_some(elements),
        judged: Some(judged),
    }
}

/// Results of systems, each with its level of faces, on so many cases of each task.
pub fn results(systems: &[(&str, f64)], count: usize) -> Results {
    let numbers = Task::ALL.into_iter().flat_map(|task| (1..=count).map(move |n| (task, n)));
    let cases: Vec<Case> = numbers.map(|(task, number)| case(task, number)).collect();
    let mut raws = BTreeMap::new();
    for (system, level) in systems {
        for case in &cases {
            raws.insert(((*system).to_owned(), case.id.clone()), raw(system, case, *level));
        }
    }
    let model = |role: &str, name: &str| ModelFile {
        role: role.to_owned(),
        name: name.to_owned(),
        sha256: role.repeat(20),
        licence: Some("for research alone".to_owned()),
    };
    let run = Run {
        schema: schema::RUN.to_owned(),
        version: "1.0.0".to_owned(),
        command: "anyid-rt eval run --note 'a|b'".to_owned(),
        cases: "0".repeat(64),
        systems: systems.iter().map(|(system, _)| (*system).to_owned()).collect(),
        tasks: BTreeMap::new(),
        notes: BTreeMap::from([(systems[0].0.to_owned(), "given <all> & more".to_owned())]),
        models: vec![model("arc", "w600k_r50"), model("cur", "curricular"), model("face", "mtcnn")],
        frames: 8,
        norms: Norms::default(),
        judge: Some(serde_json::json!({"model": "judge", "repeats": 3})),
    };
    Results { folder: PathBuf::new(), run, cases, raws }
}
