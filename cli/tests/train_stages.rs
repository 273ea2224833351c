//! Stages: runs one behind the other from one file, interrupted anywhere, stopped at gates, and refused
//! where what was finished would be made otherwise.

#![cfg(unix)]

mod common;

use common::training::{
    bytes, ended, log, sample, samples, send, start, stopped_at_random, wait_for, world,
    write_lines,
};
use common::{Done, Folder};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const RUN: &str = "train stages --config stages.toml --threads 2";

/// Settings of a stage, as a table in place.
fn settings(manifest: &str, train: &str) -> String {
    format!(
        "[stage.settings.data]\nmanifest = \"{manifest}\"\ncache = \"cache\"\n\
         [stage.settings.video]\nwidth = 64\nheight = 64\nframes = 5\n\
         [stage.settings.lora]\nrank = 4\nalpha = 4.0\n[stage.settings.train]\n{train}\n\
         [stage.settings.run]\ncheckpoint_every = 2\n"
    )
}

fn stage(name: &str, kind: &str, more: &str, settings: &str) -> String {
    format!("[[stage]]\nname = \"{name}\"\nkind = \"{kind}\"\n{more}\n{settings}")
}

/// A stage of every kind: the autoencoder, the transformer by Muon, an adapter, preferences.
fn all() -> String {
    let vae = settings("train.jsonl", "steps = 2\nbatch = 2\nlearning_rate = 1e-4");
    let falling =
        "steps = 6\nbatch = 2\nlearning_rate = 1e-3\nschedule = \"linear\"\naverage = 0.5";
    let group = "[[stage.settings.group]]\nmatch = \"blocks.*.ffn.*.weight\"\noptimiser = \"muon\"\n\
                 learning_rate = 0.02\n";
    let clips = format!("{}{group}", settings("train.jsonl", falling));
    let tune = settings("train.jsonl", "steps = 4\nbatch = 2\nlearning_rate = 1e-2")
        .replace("cache = \"cache\"", "cache = \"cache\"\nvalidation = \"train.jsonl\"");
    let prefer = settings("pairs.jsonl", "steps = 3\nbatch = 3\nlearning_rate = 1e-5");
    let gate = "gate = [{ value = \"error\", below = 1e6, above = 0.0, at = 3 }]";
    let best = "result = \"best\"\ngate = [{ value = \"validation.loss\", below = 1e6 }]";
    [
        stage("vae", "full", "network = \"vae\"", &vae),
        stage("clips", "full", &format!("result = \"average\"\n{gate}"), &clips),
        stage("tune", "lora", best, &tune),
        stage("prefer", "dpo", "init_from = \"tune\"\nmodel = \"clips\"", &prefer),
    ]
    .concat()
}

fn write(folder: &Folder, to: &str, stages: &str) {
    folder.write("stages.toml", format!("model = \"m\"\nfolder = \"{to}\"\n{stages}"));
}

/// A world with a model folder, samples and pairs.
fn stages_world() -> Folder {
    let folder = world(&samples());
    folder.run("init m --random-weights").fine();
    for seed in 0..4 {
        let words =
            "generate --model @micro --size 64x64 --frames 5 --steps 1 --prompt x -q --seed";
        folder.run(&format!("{words} {seed} -o g{seed}.mp4")).fine();
    }
    let pair = |at: usize| {
        json!({"schema": "anyid.dpo/1", "id": format!("m_{at}"), "sample": sample("s", 10, |_| {}),
               "chosen": {"video": format!("g{at}.mp4")}, "rejected": {"video": "g3.mp4"}})
    };
    let lines: Vec<String> = (0..3).map(|at| pair(at).to_string()).collect();
    folder.write("pairs.jsonl", lines.join("\n"));
    folder
}

/// What lies below a folder, by name: all that does not say when or where it was made.
fn tree(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    fn walk(at: &Path, name: String, out: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let own = path.file_name().unwrap().to_string_lossy().into_owned();
            let inner = format!("{name}/{own}");
            if path.is_dir() {
                walk(&path, inner, out);
            } else if !["log.jsonl", "checkpoint.safetensors", "lock"].contains(&own.as_str()) {
                assert!(!own.starts_with('.'), "{inner} is left");
                out.insert(inner, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(&folder.path(name), String::new(), &mut out);
    out
}

#[track_caller]
fn same_tree(folder: &Folder, one: &str, other: &str) {
    let [a, b] = [one, other].map(|name| tree(folder, name));
    assert!(a.keys().eq(b.keys()), "{:?} {:?}", a.keys(), b.keys());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} of {one} differs from that of {other}");
    }
}

const TRANSFORMER: &str = "model/transformer/diffusion_pytorch_model.safetensors";

#[test]
fn the_model_of_a_stage_has_the_adapters_that_it_was_trained_on() {
    let folder = stages_world();
    let tune = settings("train.jsonl", "steps = 2\nbatch = 2\nlearning_rate = 1e-2");
    write(&folder, "one", &stage("tune", "lora", "", &tune));
    folder.run(RUN).fine();
    let before = "one/tune/adapter.safetensors:3";
    let on = format!("{tune}[stage.settings.model]\nadapters = [\"{before}\"]\n");
    write(&folder, "two", &stage("more", "lora", "", &on));
    folder.run(RUN).fine();
    let merged = |more: &str, to: &str| {
        let own = "two/more/adapter.safetensors";
        folder.run(&format!("lora merge m {more} --lora {own} -o {to}")).fine();
        bytes(&folder, &format!("{to}/transformer/diffusion_pytorch_model.safetensors"))
    };
    let found = bytes(&folder, &format!("two/more/{TRANSFORMER}"));
    assert!(found == merged(&format!("--lora {before}"), "both"));
    assert!(found != merged("", "last"));
}

#[test]
fn stages_of_every_kind_run_one_behind_the_other_and_what_is_finished_is_skipped() {
    let folder = stages_world();
    write(&folder, "out", &all());
    let done = folder.run(&format!("{RUN} --json")).fine();
    let report = done.json();
    let list = report["stages"].as_array().unwrap();
    let names: Vec<&str> = list.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["vae", "clips", "tune", "prefer"]);
    assert!(list.iter().all(|stage| stage["skipped"] == false));
    assert_eq!((&list[1]["updates"], &list[1]["gates"][0]["step"]), (&json!(6), &json!(3)));
    assert!(list[2]["gates"][0]["found"].as_f64().unwrap() > 0.0);
    assert!(report["model"].as_str().unwrap().ends_with("out/prefer/model"));
    for name in ["stage vae", "stage clips", "stage tune", "stage prefer", "error is "] {
        assert!(done.err.contains(name), "{name}: {}", done.err);
    }
    // The networks lie where the model has them.
    let vae = "vae/model/vae/diffusion_pytorch_model.safetensors";
    assert!(bytes(&folder, &format!("out/{vae}")) == bytes(&folder, "out/vae/vae.safetensors"));
    let config = bytes(&folder, "out/vae/model/vae/config.json");
    assert!(
        config == bytes(&folder, "out/vae/vae.json")
            && config != bytes(&folder, "m/vae/config.json")
    );
    let clips = bytes(&folder, &format!("out/clips/{TRANSFORMER}"));
    assert!(clips == bytes(&folder, "out/clips/transformer-average.safetensors"));
    assert!(clips != bytes(&folder, "out/clips/transformer.safetensors"));
    assert!(config == bytes(&folder, "out/prefer/model/vae/config.json"));
    // An adapter is merged as `lora merge` does it.
    folder
        .run("lora merge out/clips/model --lora out/tune/adapter-best.safetensors -o merged")
        .fine();
    let merged = bytes(&folder, "merged/transformer/diffusion_pytorch_model.safetensors");
    assert!(merged == bytes(&folder, &format!("out/tune/{TRANSFORMER}")));
    assert!(merged != bytes(&folder, &format!("out/prefer/{TRANSFORMER}")));
    let words = "generate --model out/prefer/model --prompt x --size 64x64 --frames 5 --steps 2";
    folder.run(&format!("{words} -o x.gif")).fine();
    // Again: nothing is trained, and nothing changes.
    let before = tree(&folder, "out");
    let done = folder.run(&format!("{RUN} --json")).fine();
    assert!(!done.err.contains("training"), "{}", done.err);
    assert!(done.json()["stages"].as_array().unwrap().iter().all(|stage| stage["skipped"] == true));
    assert!(tree(&folder, "out") == before);
}

#[test]
fn stages_interrupted_anywhere_end_with_the_same_bytes() {
    let folder = stages_world();
    write(&folder, "whole", &all());
    folder.run(RUN).fine();
    write(&folder, "cut", &all());
    stopped_at_random(&folder, RUN, 100..1000);
    folder.run(RUN).fine();
    same_tree(&folder, "cut", "whole");
}

#[test]
fn as_far_as_a_stage_and_then_the_rest() {
    let folder = stages_world();
    write(&folder, "whole", &all());
    folder.run(RUN).fine();
    write(&folder, "parts", &all());
    let done = folder.run(&format!("{RUN} --until clips --json")).fine();
    assert_eq!(done.json()["stages"].as_array().unwrap().len(), 2);
    assert!(!folder.path("parts/tune").exists());
    folder.run(RUN).fine();
    same_tree(&folder, "parts", "whole");
    folder.run(&format!("{RUN} --until nothing")).fails("E0970").says("the stages are vae, clips");
}

/// Two stages, the second with a gate.
fn gated(steps: u64, gate: &str) -> String {
    let first = settings("train.jsonl", "steps = 2\nbatch = 2");
    let second = settings("train.jsonl", &format!("steps = {steps}\nbatch = 2"));
    stage("first", "full", "", &first) + &stage("second", "lora", gate, &second)
}

#[test]
fn a_gate_that_is_missed_stops_the_stages_and_keeps_what_was_good() {
    let folder = stages_world();
    let gate = |more: &str| format!("gate = [{{ value = \"loss\", {more} }}]");
    write(&folder, "out", &gated(4, &gate("below = 1e-9")));
    let done = folder.run(RUN).fails("E0969").says("stage second missed a gate: loss is ");
    let done = done.says("after update 4, to be at most 0.000000001").says("out/first/model");
    assert!(done.err.contains("out/second/log.jsonl"), "{}", done.err);
    assert!(folder.path(&format!("out/first/{TRANSFORMER}")).exists());
    assert!(
        !folder.path("out/second/model").exists() && !folder.path("out/second/stage.json").exists()
    );
    // It is the same again, and with another bound goes on without training anew.
    folder.run(RUN).fails("E0969");
    let rows = log(&folder, "out/second");
    write(&folder, "out", &gated(4, &gate("above = 1e-9")));
    let done = folder.run(&format!("{RUN} --json")).fine().json();
    assert_eq!(
        (&done["stages"][0]["skipped"], &done["stages"][1]["skipped"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(log(&folder, "out/second"), rows);
    // A finished stage has to pass as well.
    write(&folder, "out", &gated(4, &gate("below = 1e-9")));
    folder.run(RUN).fails("E0969");
}

#[test]
fn a_gate_on_the_way_stops_a_run_long_before_its_end() {
    let folder = stages_world();
    let gate = "gate = [{ value = \"loss\", below = 1e-9, at = 3 }, { value = \"loss\", below = 1e9, at = 1 }]";
    write(&folder, "out", &gated(1_000_000, gate));
    folder.run(RUN).fails("E0969").says("after update 3, ");
    let count = log(&folder, "out/second").len();
    assert!((3..10).contains(&count), "{count}");
    assert!(folder.path("out/second/checkpoint.safetensors").exists(), "the last good one");
    folder.run(RUN).fails("E0969").says("after update 3, ");
    assert_eq!(log(&folder, "out/second").len(), count, "nothing more is trained");
    // What no line has is said before anything is done, and what none had by then behind the run.
    write(&folder, "none", &gated(2, "gate = [{ value = \"eror\", above = 20.0 }]"));
    let done = folder.run(RUN).fails("E0970").says("the log of this run has no eror");
    done.says("did you mean error?");
    assert!(!folder.path("none").exists(), "nothing was begun");
    let late = gated(2, "gate = [{ value = \"validation.loss\", below = 9e9, at = 1 }]");
    let (first, second) = late.split_once("name = \"second\"").unwrap();
    let second =
        second.replace("cache = \"cache\"", "cache = \"cache\"\nvalidation = \"train.jsonl\"");
    write(&folder, "late", &format!("{first}name = \"second\"{second}"));
    let done = folder.run(RUN).fails("E0970").says("a gate for validation.loss, which its log");
    done.says("it was not measured up to update 1");
}

#[test]
fn what_is_none_of_a_model_is_neither_copied_nor_a_part_of_it() {
    let folder = stages_world();
    std::fs::create_dir_all(folder.path("m/data")).unwrap();
    folder.write("m/data/notes.json", "{}");
    folder.write("m/vae/notes.txt", "mine");
    // A stage that trains a whole network, and one whose adapter is merged.
    write(&folder, "out", &gated(2, "gate = [{ value = \"loss\", below = 1e9 }]"));
    let done = folder.run(RUN).fine();
    assert!(done.err.contains("gate passed: loss is "), "{}", done.err);
    assert!(done.err.contains(", which is at most 1000000000"), "{}", done.err);
    let names = |name: &str| -> Vec<String> {
        let tree = tree(&folder, name).into_keys();
        tree.filter(|name| !name.contains("notes")).collect()
    };
    for made in ["out/first/model", "out/second/model"] {
        assert!(tree(&folder, made).into_keys().eq(names("m")), "{made}");
    }
    // Their folder is no run that could be gone on with.
    let done = folder.run("train lora --config run.toml --resume -o out").fails("E0989");
    done.says("the runs in it (first, second) are those of stages or steps");
    folder.write("m/data/notes.json", "{\"more\": 1}");
    folder.write("m/more.json", "{}");
    let again = folder.run(&format!("{RUN} --json")).fine().json();
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage["skipped"] == true));
    let config = folder.path("m/vae/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text} ")).unwrap();
    let done = folder.run(RUN).fails("E0971").says("digest of the model that it begins with");
    done.says("remove out/first to make it anew, and out/second, which were made behind it");
}

#[test]
fn a_stage_that_diverges_leaves_the_last_good_one() {
    let folder = stages_world();
    let first = stage("first", "full", "", &settings("train.jsonl", "steps = 2\nbatch = 2"));
    let wild = settings("train.jsonl", "steps = 9\nbatch = 2\nlearning_rate = 1e30");
    write(&folder, "out", &(first.clone() + &stage("second", "lora", "", &wild)));
    let done = folder.run(RUN).fails("E1001").says("sample s_");
    let done = done.says(": train.learning_rate is 1e30, usual is at most 1\n");
    let done = done.says("help: take a smaller train.learning_rate, and remove out/second: the");
    let done = done.says("the same command then makes the stage anew");
    assert!(!done.err.contains("--resume"), "there is no such flag: {}", done.err);
    let good = tree(&folder, "out/first");
    assert!(!folder.path("out/second/model").exists());
    let tame = settings("train.jsonl", "steps = 2\nbatch = 2");
    write(&folder, "out", &(first + &stage("third", "lora", "", &tame)));
    folder.run(RUN).fine();
    assert!(tree(&folder, "out/first") == good);
}

#[test]
fn finished_stages_are_not_taken_for_others() {
    let folder = stages_world();
    let stages = gated(2, "");
    write(&folder, "out", &stages);
    folder.run(RUN).fine();
    let refused = |said: &str| -> Done { folder.run(RUN).fails("E0971").says(said) };
    write(&folder, "out", &stages.replacen("batch = 2", "batch = 3", 1));
    refused("train.batch: 2, now 3").says("out/first");
    write(&folder, "out", &stages.replacen("steps = 2", "steps = 3", 1));
    refused("train.steps: 2, now 3");
    write(&folder, "out", &stages.replace("kind = \"lora\"", "kind = \"full\""));
    refused("kind: lora, now full").says("out/second");
    write(
        &folder,
        "out",
        &stages.replacen("kind = \"lora\"", "kind = \"lora\"\nmodel = \"start\"", 1),
    );
    refused("digest of the model that it begins with");
    write(&folder, "out", &stages);
    // Other media under another manifest, another start, a changed model, a record of something else.
    let lines = [samples(), vec![sample("s_4", 5, |_| {})]].concat();
    write_lines(&folder, &lines);
    refused("SHA-256 of the manifest");
    write_lines(&folder, &samples());
    let other = folder.path("m/transformer/diffusion_pytorch_model.safetensors");
    let sound = std::fs::read(&other).unwrap();
    folder.run("init m2 --random-weights --seed 9").fine();
    std::fs::copy(folder.path("m2/transformer/diffusion_pytorch_model.safetensors"), &other)
        .unwrap();
    refused("digest of the model that it begins with").says("out/first");
    std::fs::write(&other, &sound).unwrap();
    let made = folder.path(&format!("out/second/{TRANSFORMER}"));
    let whole = std::fs::read(&made).unwrap();
    std::fs::copy(folder.path("m2/transformer/diffusion_pytorch_model.safetensors"), &made)
        .unwrap();
    refused("digest of its model").says("out/second");
    std::fs::write(&made, whole).unwrap();
    // Without its model, a stage is put together again, without training.
    let before = tree(&folder, "out");
    std::fs::remove_dir_all(folder.path("out/second/model")).unwrap();
    refused("its model is no longer there").says("remove ").says("out/second/stage.json");
    std::fs::remove_file(folder.path("out/second/stage.json")).unwrap();
    folder.run(RUN).fine();
    assert!(tree(&folder, "out") == before);
    let record = folder.path("out/first/stage.json");
    let text = std::fs::read(&record).unwrap();
    std::fs::write(&record, b"{}").unwrap();
    refused("not what a stage of this version leaves");
    std::fs::write(&record, &text).unwrap();
    folder.run(RUN).fine();
    std::fs::remove_file(folder.path("train.jsonl")).unwrap();
    let done = folder.run(RUN).fails("E0911").says("data.manifest of stage first");
    assert_eq!(done.err.matches("error[").count(), 1, "{}", done.err);
    done.says("the manifest cannot be read").says("cause: No such file");
}

#[test]
fn a_validation_set_is_compared_by_what_is_in_it() {
    let folder = stages_world();
    let held = |start| sample("v", start, |_| {}).to_string();
    folder.write("held.jsonl", held(65));
    let stages = |name: &str| {
        let with = format!("cache = \"cache\"\nvalidation = \"{name}\"");
        gated(2, "").replace("cache = \"cache\"", &with)
    };
    write(&folder, "out", &stages("held.jsonl"));
    folder.run(RUN).fine();
    folder.write("other.jsonl", held(65));
    write(&folder, "out", &stages("other.jsonl"));
    folder.run(RUN).fine();
    folder.write("other.jsonl", held(60));
    let refused = |said: &str| folder.run(RUN).fails("E0971").says(said);
    refused("SHA-256 of the manifest of the validation set: ");
    write(&folder, "out", &gated(2, ""));
    refused("SHA-256 of the manifest of the validation set: ").says("now nothing");
    // A record of before it was hashed has the path alone.
    for name in ["first", "second"] {
        let path = folder.path(&format!("out/{name}/stage.json"));
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record.as_object_mut().unwrap().remove("validation").unwrap();
        std::fs::write(&path, record.to_string()).unwrap();
    }
    write(&folder, "out", &stages("held.jsonl"));
    folder.run(RUN).fine();
    write(&folder, "out", &stages("other.jsonl"));
    refused("held.jsonl\", now ");
    write(&folder, "out", &stages("none.jsonl"));
    folder.run(RUN).fails("E0911").says("data.validation of stage first");
}

#[test]
fn faults_of_the_file_are_found_before_the_first_stage() {
    let folder = stages_world();
    write(&folder, "out", &gated(2, "model = \"third\""));
    folder.run(RUN).fails("E0970").says("which is no earlier stage").says("stage second");
    write(&folder, "out", &gated(2, "").replacen("steps = 2", "step = 2", 1));
    folder.run(RUN).fails("E0955").says("did you mean steps");
    folder.write("lora.toml", "[data]\nmanifest = \"train.jsonl\"\n[run]\nfolder = \"x\"\n");
    let second = "[[stage]]\nname = \"b\"\nkind = \"lora\"\nsettings = \"lora.toml\"\n";
    let first = stage("a", "full", "", &settings("train.jsonl", "steps = 1"));
    write(&folder, "out", &format!("{first}{second}"));
    folder.run(RUN).fails("E0970").says("run.folder is decided by the stages").says("lora.toml:4");
    folder.run("train stages --config none.toml").fails("E0911");
    // An adapter of another form, one that the model has already, and a size: all before the first stage.
    let from = "init_from = \"a\"\nmodel = \"start\"";
    let adapter = settings("train.jsonl", "steps = 1");
    let first = stage("a", "lora", "", &adapter);
    let second = |more: &str, change: [&str; 2]| {
        stage("b", "lora", more, &adapter.replace(change[0], change[1]))
    };
    let other = ["rank = 4", "rank = 2\ntargets = [\"blocks.*_attn.q\"]"];
    write(&folder, "out", &format!("{first}{}", second(from, other)));
    let done = folder.run(RUN).fails("E0970").says("rank 4, lora.rank is 2");
    done.says("linears (").says("that lora.targets does not have").says(":24, stage b");
    write(&folder, "out", &format!("{first}{}", second("init_from = \"a\"", ["", ""])));
    let done = folder.run(RUN).fails("E0970").says("the adapter of stage a would count twice");
    done.says("write model = \"start\"");
    let size = ["width = 64\nheight = 64", "width = 100\nheight = 20000"];
    write(&folder, "out", &format!("{first}{}", second("", size)));
    let done =
        folder.run(RUN).fails("E0901").says("width 100 is not").says("; height 20000 is not");
    done.says("the nearest size is 96x16384");
    assert!(!folder.path("out").exists(), "nothing was begun");
    write(&folder, "out", &gated(2, "").replace("model = \"m\"", ""));
    std::fs::remove_dir_all(folder.path("m")).unwrap();
    folder.run(RUN).fails("E0701");
}

#[test]
fn what_stages_will_need_is_looked_at_before_the_first_one() {
    let folder = stages_world();
    let first = stage("first", "full", "", &settings("train.jsonl", "steps = 2\nbatch = 2"));
    let plain = |manifest: &str| settings(manifest, "steps = 2\nbatch = 2\nlearning_rate = 1e-5");
    let with = |adapter: &str| {
        let settings = plain("train.jsonl");
        let settings = format!("{settings}[stage.settings.model]\nadapters = [\"{adapter}\"]\n");
        stage("b", "lora", "", &settings)
    };
    let small = settings("train.jsonl", "steps = 2\nbatch = 2\nbudget = \"1MiB\"");
    let lines = std::fs::read_to_string(folder.path("train.jsonl")).unwrap();
    folder.write("short.jsonl", lines.replace("\"frames\":5", "\"frames\":1"));
    let width = common::repository().join("tests/fixtures_extra/lora/comfy_ab.safetensors");
    folder.write("wide.safetensors", std::fs::read(width).unwrap());
    folder
        .write("cut.safetensors", &std::fs::read(folder.path("wide.safetensors")).unwrap()[..999]);
    let validated = plain("train.jsonl")
        .replace("cache = \"cache\"", "cache = \"cache\"\nvalidation = \"pairs.jsonl\"");
    let judged = |judge: &str| {
        let run = format!("samples = 1\njudge = \"{judge}\"\n");
        stage("b", "lora", "", &format!("{}{run}", plain("train.jsonl")))
    };
    let cached = |cache: &str| {
        let settings = plain("train.jsonl");
        stage(
            "b",
            "lora",
            "",
            &settings.replace("cache = \"cache\"", &format!("cache = \"{cache}\"")),
        )
    };
    let faults = [
        (with("none.safetensors"), "E0310", "none.safetensors, of stage b"),
        (with("wide.safetensors"), "E0363", "32 wide, the model is 64 wide"),
        (with("cut.safetensors"), "E0312", "cut.safetensors, of stage b"),
        (stage("b", "dpo", "", &plain("train.jsonl")), "E0957", "this is a manifest of samples"),
        (stage("b", "lora", "", &plain("pairs.jsonl")), "E0957", "expected \"anyid.sample/1\""),
        (stage("b", "lora", "", &plain("short.jsonl")), "E0957", "the run takes 5"),
        (stage("b", "lora", "", &validated), "E0957", "--> pairs.jsonl, of stage b"),
        (stage("b", "lora", "", &plain("gone.jsonl")), "E0911", "data.manifest of stages.toml"),
        (stage("b", "lora", "", &small), "E0601", "at least "),
        (judged("gone"), "E0310", "gone, which is run.judge of stages.toml"),
        (judged("wide.safetensors"), "E0703", "wide.json, which is run.judge of"),
        (cached("train.jsonl"), "E1014", "a file of this name is in the way of the folder"),
        (cached("train.jsonl/in"), "E1014", "train.jsonl is a file, not a folder"),
        (cached("m"), "E0979", "data.cache, m, is a model folder"),
    ];
    for (second, code, said) in &faults {
        write(&folder, "out", &format!("{first}{second}"));
        folder.run(RUN).fails(code).says(said);
        assert!(!folder.path("out").exists(), "{code}: nothing was begun");
        // As far as a stage, what later ones need may still come into being.
        write(&folder, "part", &format!("{first}{second}"));
        folder.run(&format!("{RUN} --until first")).fine();
    }
    // All of them at once.
    let all: Vec<String> = (1..)
        .zip(&faults)
        .map(|(number, (stage, ..))| stage.replace("\"b\"", &format!("\"b{number}\"")))
        .collect();
    write(&folder, "out", &format!("{first}{}", all.concat()));
    let done = folder.run(RUN).fails("E0970").says("14 stages cannot be run:");
    for (number, (_, code, _)) in (1..).zip(&faults) {
        // Stages with the same fault are named together.
        let own = |line: &str| {
            let (names, _) = line.split_once(&format!(": error[{code}]: "))?;
            let names = names.trim().trim_start_matches("stage").trim_start_matches('s');
            Some(names.split(',').any(|name| name.trim() == format!("b{number}")))
        };
        assert!(done.err.lines().any(|line| own(line) == Some(true)), "b{number}: {}", done.err);
    }
    assert!(!folder.path("out").exists(), "nothing was begun");
    // What is found by settings alone is listed as well.
    let size = plain("train.jsonl").replace("height = 64", "height = 50");
    let target = format!("{}[[stage.settings.group]]\nmatch = \"no\"\n", plain("train.jsonl"));
    let two = stage("b", "lora", "", &size) + &stage("c", "lora", "", &target);
    write(&folder, "out", &format!("{first}{two}"));
    let done = folder.run(RUN).fails("E0970").says("stage b: error[E0901]: ");
    done.says("stage c: error[E0965]: ");
    // So are faults of settings, beside those that are found by the model.
    let [none, no] = [("batch = 2", "batch = 0"), ("steps = 2", "step = 2")]
        .map(|(from, to)| plain("train.jsonl").replace(from, to));
    let three = stage("d", "lora", "", &none) + &stage("e", "lora", "", &no) + &two;
    write(&folder, "out", &format!("{first}{three}"));
    let done = folder.run(RUN).fails("E0970").says("4 stages cannot be run:");
    let said = ["d: error[E0956]", "e: error[E0955]", "b: error[E0901]", "c: error[E0965]"];
    said.iter().fold(done, |done, said| done.says(&format!("stage {said}: ")));
}

#[test]
fn a_stage_is_not_given_an_adapter_that_its_model_has() {
    let folder = stages_world();
    let plain = settings("train.jsonl", "steps = 2\nbatch = 2\nlearning_rate = 1e-3");
    let on = |adapters: &str| format!("{plain}[stage.settings.model]\nadapters = [{adapters}]\n");
    write(&folder, "before", &stage("x", "lora", "", &plain));
    folder.run(RUN).fine();
    let x = "before/x/adapter.safetensors";
    std::fs::copy(folder.path(x), folder.path("copy.safetensors")).unwrap();
    let start = "model = \"start\"";
    let quoted = |path: &str| on(&format!("\"{path}\""));
    let refused = |stages: &str, code: &str, said: &[&str]| {
        write(&folder, "out", stages);
        let done = folder.run(RUN).fails(code).says("would count twice");
        said.iter().for_each(|said| assert!(done.err.contains(said), "{said}\n{}", done.err));
        assert!(!folder.path("out").exists(), "nothing was begun");
    };
    let first = stage("a", "lora", "", &plain);
    let own = "out/a/adapter.safetensors";
    let second = |more: &str, path: &str| stage("b", "lora", more, &quoted(path));
    // The adapter of the stage before, whatever comes between, and what a stage begins from.
    let has = "the model of stage a has the adapter of stage a";
    refused(&format!("{first}{}", second("", own)), "E0970", &[has, own, ", stage b"]);
    let full = stage("f", "full", "", &plain);
    let has = "the model of stage f has the adapter of stage a";
    refused(&format!("{first}{full}{}", second("", own)), "E0970", &[has]);
    let from = format!("init_from = \"a\"\n{start}");
    let has = "init_from begins with the adapter of stage a";
    refused(&format!("{first}{}", second(&from, own)), "E0970", &[has]);
    // One that was on the model of a stage before, by its path or by what is in it.
    let first_on = stage("a", "lora", "", &quoted(x));
    let has = "the model of stage a has it by model.adapters of a";
    refused(&format!("{first_on}{}", second("", x)), "E0970", &[has]);
    let both = [
        "before/x/adapter.safetensors at scale 1, which is in the model of stage a,",
        "copy.safetensors at scale 2 of model.adapters are the same adapter",
        "stage b",
    ];
    refused(&format!("{first_on}{}", second("", "copy.safetensors:2")), "E0378", &both);
    let twice = stage("a", "lora", "", &on(&format!("\"{x}\", \"copy.safetensors\"")));
    refused(&twice, "E0378", &["are the same adapter"]);
    // On the model that it was trained on it counts once.
    write(&folder, "out", &format!("{first}{}", second(start, own)));
    folder.run(RUN).fine();
    // The model of a finished stage is one with its adapter, wherever it is used.
    folder.write("out/run.toml", "[data]\nmanifest = \"../train.jsonl\"\n");
    let words = "train lora --config out/run.toml --set video.width=64 --set video.height=64 \
                 --set video.frames=5 --set model.path=out/a/model -o no";
    folder
        .run(&format!("{words} --set model.adapters=[\"{own}\"]"))
        .fails("E0378")
        .says("is merged into the model already");
}

#[test]
fn a_result_that_a_later_stage_needs_is_the_one_that_the_stage_left() {
    let folder = stages_world();
    let plain = settings("train.jsonl", "steps = 2\nbatch = 2\nlearning_rate = 1e-3");
    let first = stage("a", "lora", "", &plain);
    let from = stage("b", "lora", "init_from = \"a\"\nmodel = \"start\"", &plain);
    let own = "out/a/adapter.safetensors";
    let on = format!("{plain}[stage.settings.model]\nadapters = [\"{own}\"]\n");
    let on = stage("c", "lora", "model = \"start\"", &on);
    write(&folder, "out", &first);
    folder.run(RUN).fine();
    let whole = bytes(&folder, own);
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    let record = "remove out/a/stage.json: it is then written again from the checkpoint";
    for second in [&from, &on] {
        write(&folder, "out", &format!("{first}{second}"));
        for (bytes, said) in [(&whole[..99], "was changed"), (&other[..], "was changed since")] {
            folder.write(own, bytes);
            let done = folder
                .run(RUN)
                .fails("E0971")
                .says("stage a was finished, and adapter.")
                .says(said);
            assert!(done.says(record).err.matches("fetch").count() == 0);
        }
        std::fs::remove_file(folder.path(own)).unwrap();
        folder.run(RUN).fails("E0971").says("is no longer there").says(record);
        folder.write(own, &whole);
    }
    // The help is right: nothing is trained, and the same bytes come out.
    folder.write(own, &other);
    std::fs::remove_file(folder.path("out/a/stage.json")).unwrap();
    write(&folder, "out", &format!("{first}{from}{on}"));
    let rows = log(&folder, "out/a");
    folder.run(RUN).fine();
    assert!(bytes(&folder, own) == whole && log(&folder, "out/a") == rows);
    // A finished stage as well is told whose result it was made with.
    folder.write(own, &other);
    folder.run(RUN).fails("E0971").says("stage a was finished").says(", of stages b, c");
    folder.write(own, &whole);
    folder.run(RUN).fine();
    // A model that cannot be read is put together again.
    let made = folder.path(&format!("out/b/{TRANSFORMER}"));
    let model = std::fs::read(&made).unwrap();
    std::fs::write(&made, &model[..99]).unwrap();
    let done = folder.run(RUN).fails("E0971").says("its model cannot be read");
    assert!(!done.says("remove out/b/stage.json").err.contains("fetch"));
    std::fs::remove_file(folder.path("out/b/stage.json")).unwrap();
    folder.run(RUN).fine();
    assert!(std::fs::read(&made).unwrap() == model);
    // The best result is in no checkpoint.
    let best =
        plain.replace("cache = \"cache\"", "cache = \"cache\"\nvalidation = \"train.jsonl\"");
    let best = stage("a", "lora", "result = \"best\"", &best);
    write(&folder, "best", &best);
    folder.run(RUN).fine();
    std::fs::remove_file(folder.path("best/a/adapter-best.safetensors")).unwrap();
    write(&folder, "best", &format!("{best}{from}"));
    folder.run(RUN).fails("E0971").says("or remove best/a to make it anew");
    // Nor can a run give it back, which goes on without the record of the stage.
    std::fs::remove_file(folder.path("best/a/stage.json")).unwrap();
    let gone = "the best result of update 2 is no longer there";
    let done = folder.run(RUN).fails("E0962").says(gone).says("best/a/adapter-best.safetensors");
    assert!(!done.says("or remove best/a to make it anew").err.contains("train.steps"));
    let last = bytes(&folder, "best/a/adapter.safetensors");
    folder.write("best/a/adapter-best.safetensors", &other);
    folder.run(RUN).fails("E0962").says("was changed after update 2, of which it was");
    assert!(bytes(&folder, "best/a/adapter-best.safetensors") == other, "nothing is written");
    // Where the last one counts, the run goes on without it.
    std::fs::remove_file(folder.path("best/a/adapter-best.safetensors")).unwrap();
    write(&folder, "best", &format!("{}{from}", best.replace("result = \"best\"", "")));
    folder.run(RUN).fine().says(&format!("{gone}; the next one that is better is written"));
    assert!(bytes(&folder, "best/a/adapter.safetensors") == last);
    // Made anew, all is as it was.
    std::fs::remove_dir_all(folder.path("best")).unwrap();
    write(&folder, "best", &best);
    folder.run(RUN).fine();
    assert!(bytes(&folder, "best/a/adapter-best.safetensors") == last, "the last was the best");
}

#[test]
fn the_smallest_budget_of_a_later_stage_is_told_beforehand() {
    let folder = stages_world();
    // Copies count once, and what is left out does not count.
    for (from, to) in [("pan.mp4", "copy.mp4"), ("a.png", "b.png")] {
        folder.write(to, bytes(&folder, from));
    }
    let copy = |v: &mut Value| {
        v["target"]["media"] = json!("copy.mp4");
        v["references"][0]["media"] = json!("b.png");
    };
    let small = |v: &mut Value| v["target"]["crop"] = json!([0, 0, 40, 40]);
    let more = vec![sample("s_4", 10, copy), sample("s_5", 20, small)];
    write_lines(&folder, &[samples(), more].concat());
    folder.write("held.jsonl", sample("v", 60, |_| {}).to_string());
    let first = stage("first", "full", "", &settings("train.jsonl", "steps = 1\nbatch = 2"));
    let said = |done: &Done| {
        let (_, rest) = done.err.split_once("the smallest budget is train.budget = \"").unwrap();
        rest.split_once("KiB\"").unwrap().0.parse::<u64>().unwrap()
    };
    for (kind, network, manifest) in [
        ("lora", "", "train.jsonl"),
        ("full", "", "train.jsonl"),
        ("full", "network = \"vae\"", "train.jsonl"),
        ("dpo", "", "pairs.jsonl"),
    ] {
        let second = |budget: &str| {
            let train =
                format!("steps = 1\nbatch = 2\nlearning_rate = 1e-5\nbudget = \"{budget}\"");
            let held = "cache = \"later\"\nvalidation = \"held.jsonl\"";
            let own = settings(manifest, &train);
            let own = if kind == "dpo" { own } else { own.replace("cache = \"cache\"", held) };
            stage("second", kind, network, &own)
        };
        write(&folder, "out", &format!("{first}{}", second("1KiB")));
        let smallest = said(&folder.run(RUN).fails("E0601").says("of stage second"));
        let less = second(&format!("{}KiB", smallest - 1));
        write(&folder, "out", &format!("{first}{less}"));
        assert_eq!(said(&folder.run(RUN).fails("E0601")), smallest);
        for name in ["out", "later"] {
            assert!(!folder.path(name).exists(), "{kind} {network}: nothing was begun");
        }
        write(&folder, "out", &format!("{first}{}", second(&format!("{smallest}KiB"))));
        folder.run(RUN).fine();
        // What a run says itself, when everything is encoded, is the same.
        std::fs::remove_dir_all(folder.path("out/second")).unwrap();
        let own = less.split_once("[stage.settings").unwrap().1.replace("[stage.settings.", "[");
        folder.write("own.toml", format!("[{}", own.trim_start_matches('.')));
        let network = if network.is_empty() { "" } else { "--set train.network=vae" };
        let words = format!("train {kind} --config own.toml {network} --threads 2 -o alone");
        let done = folder.run(&format!("{words} --set model.path=out/first/model"));
        assert_eq!(said(&done.fails("E0601")), smallest, "{kind} {network}");
        for name in ["out", "later", "alone"].into_iter().filter(|name| folder.path(name).exists())
        {
            std::fs::remove_dir_all(folder.path(name)).unwrap();
        }
    }
}

#[test]
fn what_is_in_the_folder_of_a_later_stage_is_looked_at_before_the_first_one() {
    let folder = stages_world();
    write(&folder, "out", &gated(2, ""));
    let refused = |code: &str, said: &str| {
        folder.run(RUN).fails(code).says(said);
        assert!(!folder.path("out/first").exists(), "{code}: nothing was begun");
    };
    folder.write("out/second", "");
    refused("E1014", "a file of this name is in the way");
    std::fs::remove_file(folder.path("out/second")).unwrap();
    folder.write("out/second/adapter.safetensors", "");
    refused("E0964", "this folder has adapter.safetensors, but not the checkpoint");
    folder.write("out/second/checkpoint.safetensors", "none");
    refused("E0962", "or remove out/second to make it anew");
    std::fs::remove_dir_all(folder.path("out/second")).unwrap();
    std::fs::create_dir_all(folder.path("out/second/log.jsonl")).unwrap();
    refused("E1014", "a folder has the name of a file that the run writes");
    std::fs::remove_dir_all(folder.path("out/second")).unwrap();
    folder.run(RUN).fine();
}

#[test]
fn one_program_at_a_time_works_in_a_folder_and_a_full_disk_loses_nothing() {
    let folder = stages_world();
    write(&folder, "out", &gated(1_000_000, ""));
    let child = start(&folder, RUN);
    wait_for(&folder, "out/second/checkpoint.safetensors");
    folder.run(RUN).fails("E0961");
    send(&child, Signal::KILL);
    ended(child);
    let before = tree(&folder, "out/first");
    // No file can hold more than 64 KiB.
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let mut command = folder.other("sh");
    write(&folder, "small", &gated(2, ""));
    let line = format!("ulimit -f 64; exec {program} {RUN}");
    command.args(["-c", &line]);
    Done::of(RUN, command.output().unwrap()).fails("E1013");
    folder.run(RUN).fine();
    assert!(tree(&folder, "out/first").keys().eq(tree(&folder, "small/first").keys()));
    for (name, bytes) in tree(&folder, "small/first") {
        assert!(before[&name] == bytes, "{name}");
    }
    let rows: Vec<Value> = log(&folder, "small/second");
    assert_eq!(rows.len(), 2);
}
