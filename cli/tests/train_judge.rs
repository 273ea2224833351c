//! Training of a judge as users meet it: from samples of the drawn world to a network that reads classes off
//! frames.

mod common;

use common::training::{bytes, goes_on, log};
use common::{Done, Folder, tensors};
use serde_json::{Value, json};

const FULL: &str = "train full --config run.toml --threads 2 --set model.path=m";

const SETTINGS: &str = "\
[data]
manifest = \"data/manifest.jsonl\"
cache = \"cache\"
[video]
width = 48
height = 48
frames = 5
[train]
network = \"judge\"
batch = 12
learning_rate = 3e-3
weight_decay = 0.0
[run]
checkpoint_every = 20
";

/// A folder with samples of a few people, settings, and a model of the drawn world.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.run("init m --preset world").fine();
    folder.run("world sample --count 24 --groups 5 --shows -o data").fine();
    folder.write("run.toml", SETTINGS);
    folder
}

/// The lines of the manifest.
fn lines(folder: &Folder) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path("data/manifest.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write_lines(folder: &Folder, name: &str, lines: &[Value]) {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    folder.write(&format!("data/{name}"), text.join("\n"));
}

#[test]
fn a_judge_learns_what_frames_show() {
    let folder = folder();
    let check = FULL.replace("train full", "train check full");
    let check = folder.run(&format!("{check} --json")).fine().json();
    assert_eq!((&check["sheet"], &check["samples"]), (&Value::Null, &json!(24)));
    assert_eq!(check["shapes"][0]["what"], "2 frames of 48x48");
    assert_eq!((&check["shapes"][0]["tokens"], &check["levels"]), (&Value::Null, &json!([])));

    let words = format!("{FULL} --steps 60 --set data.validation=data/manifest.jsonl");
    folder.run(&format!("{words} --set run.validate_every=60")).fine();
    let rows = log(&folder, "run");
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    assert!(of(&rows[59], "loss") < 0.5 * of(&rows[0], "loss"), "{} {}", rows[0], rows[59]);
    let measured = &rows[59]["validation"];
    println!("{} {measured}", rows[59]);
    for name in ["accuracy", "accuracy_skin", "accuracy_background"] {
        assert!(of(measured, name) > 0.7, "{name}: {measured}");
    }
    // Each slot is measured where it is shown: marks are in few of the lines.
    let lines = lines(&folder);
    let marks = lines.iter().filter(|line| line["shows"].get("mark_left").is_some()).count();
    assert!((1..24).contains(&marks));
    let right = of(measured, "accuracy_mark_left") * marks as f64;
    assert!((right - right.round()).abs() < 1e-6, "{right} of {marks}");
    assert!(measured.get("shown_mark_left").is_none());

    // What is left says how it is to be read, and a new run can begin with it.
    let found = tensors(&folder.path("run/judge.safetensors"));
    assert!(found.contains_key("levels.2.conv2.weight") && found.len() == 29, "{}", found.len());
    let config: Value = serde_json::from_slice(&bytes(&folder, "run/judge.json")).unwrap();
    assert_eq!((&config["schema"], &config["frames"]), (&"anyid.judge/1".into(), &2.into()));
    let slots = config["slots"].as_array().unwrap();
    let skin = slots.iter().find(|slot| slot[0] == "skin").unwrap();
    let seen: std::collections::BTreeSet<String> =
        lines.iter().map(|line| line["shows"]["skin"].to_string()).collect();
    assert_eq!(skin[1], json!(seen));
    assert_eq!(bytes(&folder, "run/judge-best.json"), bytes(&folder, "run/judge.json"));
    let first = "--init-from run/judge.safetensors -o again --steps 1";
    folder.run(&format!("{FULL} {first}")).fine();
    assert!(of(&log(&folder, "again")[0], "loss") < 0.6 * of(&rows[0], "loss"));
    let other = first.replace("run/judge", "m/vae/diffusion_pytorch_model").replace("again", "no");
    folder
        .run(&format!("{FULL} {other}"))
        .fails("E0972")
        .says("this is a whole autoencoder, not a whole judge");
}

#[test]
fn it_goes_on_to_the_same_bits_whatever_goes_together() {
    let folder = folder();
    goes_on(&folder, FULL, &["judge.safetensors", "judge.json"]);
    folder.run(&format!("{FULL} --steps 1 -o alone --set train.together=1")).fine();
    let [all, one] = ["whole", "alone"].map(|run| log(&folder, run)[0]["loss"].as_f64().unwrap());
    assert!((all - one).abs() < 1e-5, "{all} {one}");
    // Another seed has other first values, and blurs otherwise.
    folder.run(&format!("{FULL} --steps 1 -o other --set train.seed=1")).fine();
    assert_ne!(log(&folder, "other")[0]["loss"], log(&folder, "whole")[0]["loss"]);
    // What a line shows is part of what the run was started with.
    let mut changed = lines(&folder);
    changed[3]["shows"]["skin"] = changed[4]["shows"]["skin"].clone();
    changed[3]["shows"].as_object_mut().unwrap().remove("shot");
    write_lines(&folder, "manifest.jsonl", &changed);
    let done = folder.run(&format!("{FULL} --steps 6 -o whole --resume")).fails("E0963");
    done.says("SHA-256 of the manifest: ").says("\n    line 4 (");
}

#[test]
fn groups_of_parameters_are_those_of_the_judge() {
    let folder = folder();
    let group = "[[group]]\nmatch = \"levels.*.conv*.weight\"\noptimiser = \"muon\"\n\
                 learning_rate = 0.02\n";
    folder.write("run.toml", format!("{SETTINGS}{group}"));
    folder.run(&format!("{FULL} --steps 1 -o muon")).fine();
    folder.write("run.toml", format!("{SETTINGS}{}", group.replace("conv*", "norm*")));
    folder.run(&format!("{FULL} --steps 1 -o no")).fails("E0968").says("levels.0.norm1.weight");
    folder.write("run.toml", format!("{SETTINGS}{}", group.replace("levels", "blocks")));
    folder.run(&format!("{FULL} --steps 1 -o no")).fails("E0965");
}

#[test]
fn what_a_judge_cannot_learn_from_is_refused() {
    let folder = folder();
    folder.run(&FULL.replace("train full", "train lora")).fails("E0976");
    folder.run(&format!("{FULL} --set run.samples=1")).fails("E0976").says("run.samples");
    folder.run(&format!("{FULL} --set model.precision=bf16")).fails("E0976");
    let all = lines(&folder);
    let mut held = all.clone();
    held[4]["shows"]["skin"] = "blue".into();
    write_lines(&folder, "held.jsonl", &held);
    let validated = format!("{FULL} --set data.validation=data/held.jsonl");
    let done = folder.run(&validated).fails("E0978");
    done.says("sample s_000004: slot \"skin\" has no class \"blue\" in data.manifest");
    let mut faulty = all.clone();
    faulty[1].as_object_mut().unwrap().remove("shows");
    faulty[2]["shows"] = json!({"skin": 1.5});
    write_lines(&folder, "manifest.jsonl", &faulty);
    let done = folder.run(FULL).fails("E0957");
    done.says("line 2: \"shows\" is missing").says("line 3: shows: \"skin\" is 1.5");
    let mut same = all;
    same.iter_mut().for_each(|line| line["shows"] = json!({"skin": 2}));
    write_lines(&folder, "manifest.jsonl", &same);
    folder.run(FULL).fails("E0977").says("no slot has two classes");
}

#[test]
fn a_judge_reads_what_a_run_makes_on_the_way() {
    let folder = folder();
    folder.run(&format!("{FULL} --steps 3 -o judge")).fine();
    let network = SETTINGS.replace("network = \"judge\"\n", "");
    folder.write("run.toml", network.replace("checkpoint_every = 20", "checkpoint_every = 2"));
    let videos = "--steps 3 --set run.samples=2 --set run.sample_steps=2";
    let judged = format!("{FULL} {videos} --set run.judge=judge");
    let done = folder.run(&judged).fine();
    assert!(done.err.contains("update 3: the judge reads "), "{}", done.err);
    folder.run(&format!("{FULL} {videos} -o plain")).fine();
    let names = ["transformer.safetensors", "samples/000003-s_000001.mp4"];
    for name in names {
        let [a, b] = ["run", "plain"].map(|run| bytes(&folder, &format!("{run}/{name}")));
        assert!(a == b, "{name}: a judge changes nothing");
    }
    let file = "run/samples/000003.json";
    let made = bytes(&folder, file);
    let found: Value = serde_json::from_slice(&made).unwrap();
    // What a line does not show does not count.
    let lines_of = &lines(&folder)[..2];
    let shown = lines_of.iter().map(|line| line["shows"].as_object().unwrap().len());
    assert_eq!(found["cases"], json!(shown.sum::<usize>()));
    let (mut right, mut cases) = (0.0, 0);
    for (slot, of) in found["slots"].as_object().unwrap() {
        let count = of["cases"].as_u64().unwrap();
        let own = lines_of.iter().filter(|line| {
            let read = &found["read"][line["id"].as_str().unwrap()][slot];
            line["shows"]
                .get(slot)
                .is_some_and(|class| class.as_u64() == read.as_str().unwrap().parse().ok())
        });
        assert_eq!(of["accuracy"], json!(own.count() as f64 / count as f64), "{slot}");
        (right, cases) = (right + of["accuracy"].as_f64().unwrap() * count as f64, cases + count);
    }
    assert!((found["accuracy"].as_f64().unwrap() - right / cases as f64).abs() < 1e-12);
    assert!(folder.path("run/samples/000002.json").exists());
    // What is missing is made again, from the same pixels.
    for name in ["samples/000003.json", "samples/000003-s_000000.mp4"] {
        let old = bytes(&folder, &format!("run/{name}"));
        std::fs::remove_file(folder.path(&format!("run/{name}"))).unwrap();
        folder.run(&format!("{judged} --resume")).fine();
        assert!(bytes(&folder, &format!("run/{name}")) == old && bytes(&folder, file) == made);
    }
    // A judge may come later.
    folder.run(&format!("{judged} --resume -o plain")).fine();
    assert!(bytes(&folder, "plain/samples/000003.json") == made);

    folder
        .run(&judged.replace("samples=2", "samples=0"))
        .fails("E0956")
        .says("run.samples as well");
    let no = |words: &str, code: &str| folder.run(&format!("{words} -o no")).fails(code);
    let early = judged.replace("=judge", "=m");
    no(&format!("{early} --set data.cache=new"), "E0310").says("which is run.judge of --set run");
    assert!(!folder.path("new").exists(), "nothing was encoded");
    no(&judged.replace("=judge", "=m/vae/diffusion_pytorch_model.safetensors"), "E0703");
    no(&format!("{judged} --set video.frames=1"), "E0998").says("here are 1 of 48x48");
    let mut silent = lines(&folder);
    silent[1].as_object_mut().unwrap().remove("shows");
    write_lines(&folder, "manifest.jsonl", &silent);
    no(&judged, "E0978").says("sample s_000001 has no \"shows\" for run.judge");
}

#[test]
fn stages_know_of_a_judge_beforehand_and_wait_for_one_of_their_own() {
    let folder = folder();
    let settings = |network: &str, train: &str, run: &str| {
        format!(
            "[stage.settings.data]\nmanifest = \"data/manifest.jsonl\"\ncache = \"cache\"\n\
             [stage.settings.video]\nwidth = 48\nheight = 48\nframes = 5\n[stage.settings.train]\n\
             network = \"{network}\"\nsteps = 1\nbatch = 4\n{train}\n[stage.settings.run]\n\
             sample_steps = 2\n{run}\n"
        )
    };
    let stage = |name: &str, settings: &str| {
        format!("[[stage]]\nname = \"{name}\"\nkind = \"full\"\n{settings}")
    };
    let videos = |judge: &str| format!("samples = 2\njudge = \"{judge}\"");
    let write = |to: &str, stages: &[String]| {
        let head = format!("model = \"m\"\nfolder = \"{to}\"\n");
        folder.write("stages.toml", format!("{head}{}", stages.concat()));
    };
    let run = || folder.run("train stages --config stages.toml --threads 2");
    let first = stage("judge", &settings("judge", "", ""));
    let second =
        |train: &str, judge: &str| stage("clips", &settings("transformer", train, &videos(judge)));
    // It is not there yet, and its memory is not known.
    write("out", &[first.clone(), second("budget = \"1KiB\"", "out/judge")]);
    let done = run().fails("E0601").says("with room for the judge");
    assert!(!done.err.contains("smallest budget"), "{}", done.err);
    write("out", &[first.clone(), second("", "out/judge")]);
    run().fine();
    assert!(folder.path("out/clips/samples/000001.json").exists());
    // One that is there takes what the run itself says.
    let smallest = |done: &Done| {
        let (_, rest) = done.err.split_once("smallest budget is train.budget = \"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let judge = "out/judge";
    write(
        "more",
        &[stage("before", &settings("transformer", "", "")), second("budget = \"1KiB\"", judge)],
    );
    let foreseen = smallest(&run().fails("E0601"));
    let network = SETTINGS.replace("network = \"judge\"\n", "").replace("batch = 12", "batch = 4");
    folder.write("run.toml", network);
    let words = "--set run.samples=2 --set run.sample_steps=2 --set train.budget=1KiB";
    let words = format!("{words} --set run.judge={judge}");
    let done = folder.run(&format!("{FULL} {words} -o alone")).fails("E0601");
    assert_eq!(smallest(&done), foreseen);
    let check = FULL.replace("train full", "train check full");
    assert_eq!(smallest(&folder.run(&format!("{check} {words}")).fails("E0601")), foreseen);
    // Samples that do not say what they show.
    let mut silent = lines(&folder);
    silent[1].as_object_mut().unwrap().remove("shows");
    write_lines(&folder, "manifest.jsonl", &silent);
    write("more", &[stage("before", &settings("transformer", "", "")), second("", judge)]);
    run().fails("E0978").says("sample s_000001 has no").says("stage clips");
    assert!(!folder.path("more").exists(), "nothing was begun");
}
