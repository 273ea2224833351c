//! Runs on videos of plain frames, whose scores are known.

use super::*;
use crate::raw::{Metric, Task};
use crate::testing::{NOBODY, measure, picture, video};
use anyid_study::prompt::elements::Elements;
use serde_json::Map;
use std::fs;

const RED: [u8; 3] = [192, 128, 128];
const GREEN: [u8; 3] = [128, 192, 128];

/// A folder with cases of two people, whose references are red, and videos of two systems.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let own = Self(tempfile::tempdir().unwrap());
        let mut list = Vec::new();
        for (number, person) in ["001", "002"].iter().enumerate() {
            let references = ["p1.png", "p2.png", "clip.mp4"].map(|f| format!("{person}/{f}"));
            picture(&own.path(&references[0]), RED);
            picture(&own.path(&references[1]), RED);
            video(&own.path(&references[2]), &[RED; 9]);
            let prompt_id = format!("P{:03}", number + 1);
            list.push(Case {
                schema: schema::CASE.into(),
                id: format!("IPT2V-{person}-{prompt_id}"),
                of: None,
                task: Task::Ipt2v,
                person: (*person).to_owned(),
                prompt_id,
                prompt: "She smiles.".into(),
                prompt_short: None,
                prompt_full: None,
                elements: Elements::default(),
                preserve: Vec::new(),
                primary: references[0].clone(),
                references: references.to_vec(),
                seed: 1001,
                rewritten: false,
                other: Map::new(),
            });
        }
        cases::write(&own.path("cases.jsonl"), &list, own.0.path()).unwrap();
        for system in ["a", "b"] {
            for (at, case) in list.iter().enumerate() {
                let color = if system == "a" { RED } else { GREEN };
                let frames = [color, if at == 0 { NOBODY } else { color }, color, RED];
                video(&own.path(&format!("{system}/{}.mp4", case.id)), &frames);
            }
        }
        own
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self, systems: &[&str], out: &str) -> Options {
        let system = |name: &&str| {
            let folder = self.path(name);
            System::parse(&format!("{name}={}", folder.display())).unwrap()
        };
        Options {
            cases: self.path("cases.jsonl"),
            root: self.0.path().to_owned(),
            out: self.path(out),
            systems: systems.iter().map(system).collect(),
            norms: Norms::default(),
            shard: Shard::WHOLE,
            threads: 2,
            redo: false,
            command: "eval run".into(),
        }
    }

    fn run(&self, options: &Options) -> Result<Outcome> {
        let tools = Tools { identity: Some(measure(4)), ..Tools::default() };
        run(options, &tools, &mut |_, _| {})
    }
}

fn summary(folder: &Path) -> String {
    fs::read_to_string(folder.join("summary.json")).unwrap()
}

#[test]
fn videos_are_scored_against_all_references() {
    let world = World::new();
    let done = world.run(&world.options(&["a", "b"], "out")).unwrap();
    assert_eq!((done.scored, done.kept, done.missing.len()), (4, 0, 0));
    let results = Results::open(&world.path("out")).unwrap();
    let values = |system: &str| results.values(system, Metric::HoliArc, None);
    // Red beside red, with and without frames that have no face; green beside red but for the last frame.
    let first: Vec<f64> = values("a").values().copied().collect();
    assert!(first.iter().all(|value| (value - 100.0).abs() < 1e-9), "{first:?}");
    let second = values("b");
    let (one, two) = (second["IPT2V-001-P001"], second["IPT2V-002-P002"]);
    assert!((one - 200.0 / 3.0).abs() < 1e-9 && (two - 62.5).abs() < 1e-9, "{one} {two}");
    let raw = &results.raws[&("b".to_owned(), "IPT2V-001-P001".to_owned())];
    let identity = raw.identity.as_ref().unwrap();
    assert!((identity.coverage() - 0.75).abs() < 1e-12);
    let clip = &identity.references[2];
    assert!(clip.clip && clip.frames == [0, 1, 2, 3, 5, 6, 7, 8], "{:?}", clip.frames);
    assert_eq!(identity.arc.as_ref().unwrap().cosines[0].as_ref().unwrap()[2].len(), 8);
    let about = raw.video.as_ref().unwrap();
    assert_eq!((about.width, about.height, about.frames), (64, 64, 4));
    let embeddings =
        anyid_files::checkpoint::WeightSet::open(world.path("out/embeddings.safetensors")).unwrap();
    let red = embeddings.values("a/IPT2V-001-P001/arc").unwrap();
    assert_eq!(red, [[1.0, 0.0, 0.0]; 3].concat());
}

#[test]
fn orders_parts_and_threads_change_no_byte() {
    let world = World::new();
    world.run(&world.options(&["a", "b"], "one")).unwrap();
    let other = Options { threads: 1, ..world.options(&["b", "a"], "two") };
    world.run(&other).unwrap();
    assert_eq!(summary(&world.path("one")), summary(&world.path("two")));
    for count in [3, 7] {
        let out = format!("parts{count}");
        let mut last = None;
        for index in 0..count {
            let shard = Shard { index, count };
            let options = Options { shard, ..world.options(&["b", "a"], &out) };
            last = world.run(&options).unwrap().summary;
        }
        assert!(last.is_some());
        assert_eq!(summary(&world.path("one")), summary(&world.path(&out)));
        let raw = "raw/b/IPT2V-002-P002.json";
        let read = |folder: &str| fs::read(world.path(folder).join(raw)).unwrap();
        assert_eq!(read("one"), read(&out));
    }
}

#[test]
fn what_is_there_is_kept_and_what_changed_is_measured_again() {
    let world = World::new();
    let options = world.options(&["a", "b"], "out");
    world.run(&options).unwrap();
    let before = summary(&world.path("out"));
    let again = world.run(&options).unwrap();
    assert_eq!((again.scored, again.kept), (0, 4));
    assert_eq!(summary(&world.path("out")), before);
    // A file that was cut off is made again, another video is measured.
    fs::write(world.path("out/raw/a/IPT2V-001-P001.json"), "{\"schema\":").unwrap();
    assert_eq!(Results::open(&world.path("out")).unwrap_err().code(), "E1704");
    video(&world.path("b/IPT2V-002-P002.mp4"), &[RED; 4]);
    let again = world.run(&options).unwrap();
    assert_eq!((again.scored, again.kept), (2, 2));
    let results = Results::open(&world.path("out")).unwrap();
    let value = results.values("b", Metric::HoliArc, None)["IPT2V-002-P002"];
    assert!((value - 100.0).abs() < 1e-9);
    // A system that is added leaves the others as they are.
    let added = world.run(&world.options(&["b"], "added")).unwrap();
    assert_eq!(added.scored, 2);
    let added = world.run(&world.options(&["a"], "added")).unwrap();
    assert_eq!(added.scored, 2);
    assert_eq!(summary(&world.path("added")), summary(&world.path("out")));
}

#[test]
fn videos_that_are_missing_or_damaged_are_listed() {
    let world = World::new();
    fs::remove_file(world.path("a/IPT2V-001-P001.mp4")).unwrap();
    fs::write(world.path("b/IPT2V-002-P002.mp4"), b"no video at all").unwrap();
    let options = world.options(&["a", "b"], "out");
    let done = world.run(&options).unwrap();
    assert_eq!(done.missing, [("a".to_owned(), "IPT2V-001-P001".to_owned())]);
    let (system, case, why) = &done.unreadable[0];
    assert_eq!((system.as_str(), case.as_str()), ("b", "IPT2V-002-P002"));
    assert!(why.code.starts_with("E08"), "{why:?}");
    let results = Results::open(&world.path("out")).unwrap();
    assert_eq!(results.values("a", Metric::HoliArc, None).len(), 1);
    let raw = &results.raws[&("b".to_owned(), "IPT2V-002-P002".to_owned())];
    assert!(raw.video.is_none() && raw.failure.is_some());
    // A picture is no video.
    fs::remove_file(world.path("b/IPT2V-002-P002.mp4")).unwrap();
    picture(&world.path("b/still.png"), RED);
    fs::rename(world.path("b/still.png"), world.path("b/IPT2V-002-P002.mp4")).unwrap();
    assert_eq!(world.run(&options).unwrap().unreadable[0].2.code, "E0802");
    // Results of a video that is gone are not thrown away unasked.
    fs::remove_file(world.path("a/IPT2V-002-P002.mp4")).unwrap();
    video(&world.path("a/IPT2V-001-P001.mp4"), &[RED; 4]);
    let gone = world.run(&options).unwrap_err();
    assert!(gone.code() == "E1703" && gone.message().contains("is gone"), "{gone}");
    let done = world.run(&Options { redo: true, ..options }).unwrap();
    assert_eq!(done.missing, [("a".to_owned(), "IPT2V-002-P002".to_owned())]);
}

#[test]
fn systems_that_cannot_be_told_apart_are_refused() {
    let world = World::new();
    let refused = |options: &Options| {
        let fault = world.run(options).unwrap_err();
        assert_eq!(fault.code(), "E1703", "{fault}");
        assert!(!world.path("out/run.json").exists());
        fault.message().to_owned()
    };
    assert!(refused(&world.options(&["a", "a"], "out")).contains("two systems \"a\""));
    assert!(refused(&world.options(&[], "out")).contains("no system"));
    fs::copy(world.path("a/IPT2V-001-P001.mp4"), world.path("a/x-IPT2V-001-P001.mp4")).unwrap();
    assert!(refused(&world.options(&["a"], "out")).contains("two videos"));
    fs::create_dir(world.path("c")).unwrap();
    assert!(refused(&world.options(&["c"], "out")).contains("no video of any case"));
    for text in ["a", "=x", "a=", "../a=x", ".=x"] {
        assert_eq!(System::parse(text).unwrap_err().code(), "E1703", "{text}");
    }
}

#[test]
fn references_that_changed_or_have_no_face_are_errors_of_the_set() {
    let world = World::new();
    picture(&world.path("001/p2.png"), GREEN);
    let changed = world.run(&world.options(&["a"], "out")).unwrap_err();
    assert_eq!(changed.code(), "E1701");
    assert!(changed.message().contains("changed after the cases were drawn"), "{changed}");
    picture(&world.path("001/p2.png"), NOBODY);
    fs::remove_file(world.path("cases.lock.json")).unwrap();
    let faceless = world.run(&world.options(&["a"], "out")).unwrap_err();
    assert_eq!(faceless.code(), "E1701");
    assert!(faceless.message().contains("no face"), "{faceless}");
    assert!(faceless.place().unwrap().ends_with("001/p2.png"));
    fs::remove_file(world.path("001/p2.png")).unwrap();
    let gone = world.run(&world.options(&["a"], "out")).unwrap_err();
    assert_eq!(gone.code(), "E1701");
    assert!(gone.message().contains("cannot be read"), "{gone}");
}

#[test]
fn a_folder_has_results_of_one_set_of_cases_measured_in_one_way() {
    let world = World::new();
    let options = world.options(&["a"], "out");
    world.run(&options).unwrap();
    let more = Tools { identity: Some(measure(2)), ..Tools::default() };
    let otherwise = run(&options, &more, &mut |_, _| {}).unwrap_err();
    assert_eq!(otherwise.code(), "E1705");
    assert!(otherwise.message().contains("4 frames of a video"), "{otherwise}");
    let redo = Options { redo: true, ..options.clone() };
    assert_eq!(run(&redo, &more, &mut |_, _| {}).unwrap().scored, 2);
    let text = fs::read_to_string(world.path("cases.jsonl")).unwrap();
    fs::write(world.path("cases.jsonl"), text.replace("smiles", "laughs")).unwrap();
    assert_eq!(world.run(&options).unwrap_err().code(), "E1702");
    fs::remove_file(world.path("cases.lock.json")).unwrap();
    let other = world.run(&options).unwrap_err();
    assert!(other.code() == "E1705" && other.message().contains("other cases"), "{other}");
}

#[test]
fn two_runs_do_not_work_in_one_folder() {
    let world = World::new();
    let half = Shard { index: 0, count: 2 };
    let held = Folder::open(&world.path("out"), half).unwrap();
    let options = world.options(&["a"], "out");
    for shard in [Shard::WHOLE, half] {
        let fault = world.run(&Options { shard, ..options.clone() }).unwrap_err();
        assert!(fault.code() == "E1705" && fault.message().contains("another run"), "{fault}");
    }
    // The other half goes on beside it.
    world.run(&Options { shard: Shard { index: 1, count: 2 }, ..options.clone() }).unwrap();
    drop(held);
    world.run(&options).unwrap();
}

#[test]
fn tasks_that_a_system_is_not_asked_for_are_not_missing() {
    let world = World::new();
    let mut options = world.options(&["a"], "out");
    options.systems[0].tasks = [Task::Iept2v].into();
    let done = world.run(&options).unwrap();
    assert_eq!((done.scored, done.missing.len()), (0, 0));
    assert!(Results::open(&world.path("out")).unwrap().raws.is_empty());
}

#[test]
fn a_run_that_measures_nothing_is_refused() {
    let world = World::new();
    let fault = run(&world.options(&["a"], "out"), &Tools::default(), &mut |_, _| {}).unwrap_err();
    assert_eq!(fault.code(), "E1706");
}

#[test]
fn what_cannot_be_written_loses_nothing() {
    let world = World::new();
    let options = world.options(&["a"], "out");
    world.run(&options).unwrap();
    let raw = "out/raw/a/IPT2V-001-P001.json";
    let before = (summary(&world.path("out")), fs::read(world.path(raw)).unwrap());
    // A file where a folder has to be made, for the results of another system.
    fs::write(world.path("out/raw/b"), "in the way").unwrap();
    let fault = world.run(&world.options(&["a", "b"], "out")).unwrap_err();
    assert_eq!(fault.code(), "E1014", "{fault}");
    assert_eq!((summary(&world.path("out")), fs::read(world.path(raw)).unwrap()), before);
    fs::remove_file(world.path("out/raw/b")).unwrap();
    let done = world.run(&world.options(&["a", "b"], "out")).unwrap();
    assert_eq!((done.scored, done.kept), (2, 2));
}
