//! Evaluations as users meet them: a set, its cases, videos of variants and of other systems, scores.

mod common;

use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use common::{Folder, repository};
use serde_json::{Value, json};
use std::path::Path;

const QUICK: &str = "-- --model @micro --size 64x64 --frames 5 --steps 2 --threads 1";

/// A set of one person: a photograph, a piece of it, and a clip.
fn set(folder: &Folder) {
    let examples = repository().join("examples");
    let read = |name: &str| std::fs::read(examples.join(name)).unwrap();
    folder.write("set/set.json", r#"{"schema":"anyid.evalset/1","name":"smoke","people":1}"#);
    folder.write("set/001/person.json", r#"{"id":"001","gender":"f","primary":"p2.png"}"#);
    folder.write("set/001/p1.png", read("characters/first/portrait.png"));
    folder.write("set/001/p2.png", read("astronaut.png"));
    folder.write("set/001/clip.mp4", read("portrait_pan.mp4"));
}

fn lines(folder: &Folder, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn value(folder: &Folder, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path(name)).unwrap()).unwrap()
}

#[test]
fn a_set_is_looked_at_without_models() {
    let folder = Folder::new();
    set(&folder);
    let done = folder.run("eval check set").fails("E1701").says("the set has 2 errors");
    assert!(done.out.contains("error[S040]: 001/consent.json: there is no consent record"));
    // The clip of three seconds is too short.
    assert!(done.out.contains("error[S030]: 001/clip.mp4"), "{}", done.out);
    assert!(done.out.contains("note[S001]: 001: there are 2 pictures and 1 clips"), "{}", done.out);
    assert!(done.out.contains("not looked at: faces"), "{}", done.out);
    let done = folder.run("eval check set --i-have-rights --json");
    let report = done.json();
    let codes: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["code"].as_str().unwrap())
        .collect();
    assert_eq!((codes, &report["ok"]), (vec!["S030", "S001"], &json!(false)));
    folder.run("eval check none").fails("E0911");
    folder.write("set/set.json", "{}");
    folder.run("eval check set").fails("E1701").says("missing field");
}

#[test]
fn cases_are_drawn_once_and_locked() {
    let folder = Folder::new();
    set(&folder);
    let done = folder.run("eval cases --set set --n 2 --json").fine();
    assert_eq!(done.json()["cases"], 4);
    let cases = lines(&folder, "set/cases.jsonl");
    let tasks: Vec<&str> = cases.iter().map(|case| case["task"].as_str().unwrap()).collect();
    assert_eq!(tasks, ["IPT2V", "IPT2V", "IEPT2V", "IEPT2V"]);
    assert_eq!((&cases[0]["primary"], &cases[0]["seed"]), (&json!("001/p2.png"), &json!(1001)));
    assert!(cases[2]["prompt_full"].is_string() && cases[0].get("prompt_full").is_none());
    let lock = value(&folder, "set/cases.lock.json");
    assert_eq!(lock["references"].as_object().unwrap().len(), 3);
    folder.run("eval cases --set set --n 2").fails("E1016").says("there are cases already");
    folder.run("eval cases --set set --n 51 -o other.jsonl").fails("E1702").says("50 prompts");
    folder.run("eval cases --set set --task iept2v --n 1 --per-case 2 -o few.jsonl").fine();
    let few = lines(&folder, "few.jsonl");
    assert_eq!((few.len(), &few[1]["of"]), (2, &few[0]["id"]));
    // Prompts of one's own.
    folder.run("eval prompts --out own --n 3").fine();
    folder.run("eval cases --set set --prompts own --n 4 -o x.jsonl").fails("E1702").says("has 3");
}

#[test]
fn variants_leave_out_what_they_are_called_after() {
    let folder = Folder::new();
    set(&folder);
    folder.run("eval cases --set set --task iept2v --n 1").fine();
    let case = &lines(&folder, "set/cases.jsonl")[0];
    let id = case["id"].as_str().unwrap();
    let make = |variant: &str| {
        format!("eval generate --cases set/cases.jsonl --variant {variant} -o {variant} {QUICK}")
    };
    for (variant, references, prompt) in
        [("full", 3, "prompt"), ("no_ar", 1, "prompt"), ("no_pd", 3, "prompt_full")]
    {
        folder.run(&make(variant)).fine();
        let recipe = value(&folder, &format!("{variant}/{id}.mp4.recipe.json"));
        let files = recipe["references"].as_array().unwrap();
        assert_eq!((files.len(), &recipe["prompt"]), (references, &case[prompt]), "{variant}");
        assert!(files[0].to_string().contains("p2.png"), "{}", files[0]);
        assert_eq!(recipe["seed"], 1001);
        assert_eq!(value(&folder, &format!("{variant}/system.json"))["variant"], variant);
    }
    // The same command makes nothing again.
    assert!(folder.run(&make("full")).fine().err.contains("1 of 1 video done already"));
    folder.run(&make("no_rl")).fails("E0900").says("--dpo");
    let other = make("no_ar").replace("-o no_ar", "-o full");
    folder.run(&other).fails("E1703").says("videos of another variant");
    let said = make("full").replace("--frames", "--seed 3 --frames");
    folder.run(&said).fails("E0900").says("--seed is said by each case");
    folder.run(&make("full").replace("--frames", "--framez")).fails("E0900").says("--framez");
    let text = std::fs::read_to_string(folder.path("set/cases.jsonl")).unwrap();
    folder.write("set/cases.jsonl", text.replace("1001", "7"));
    folder.run(&make("full")).fails("E1702").says("changed after they were locked");
}

#[test]
fn runs_need_something_that_measures() {
    let folder = Folder::new();
    set(&folder);
    folder.run("eval cases --set set --n 1").fine();
    let run = "eval run --cases set/cases.jsonl --out out --config eval.toml";
    folder.run(&format!("{run} --system a=videos")).fails("E0911");
    folder.write("eval.toml", "frame = 3\n");
    folder.run(&format!("{run} --system a=videos")).fails("E1706").says("line 1: unknown field");
    folder.write("eval.toml", "");
    folder.run(&format!("{run} --system a=videos")).fails("E1706").says("nothing is measured");
    folder.run(&format!("{run} --system a")).fails("E1703").says("NAME=DIR");
    folder
        .run(&format!("{run} --system a=x --only b=ipt2v"))
        .fails("E1703")
        .says("no system \"b\"");
    folder.run(&format!("{run} --system a=x --only a=x")).fails("E1703").says("no task");
    folder.run(&format!("{run} --system a=x --frames 0")).fails("E1706").says("frames is from 1");
    folder.run(&format!("{run} --system a=x --shard 3/2")).fails("E1307");
    assert!(!folder.path("out").exists());
}

/// Settings with MTCNN and the tiny network of tests; none without MTCNN.
fn settings(folder: &Folder) -> bool {
    let Some(mtcnn) = std::env::var_os("ANYID_MTCNN") else {
        println!("skipped: ANYID_MTCNN names no folder of MTCNN");
        return false;
    };
    let network = repository().join("runtime/evaluation/tests/models/embedding.onnx");
    let text = format!(
        "frames = 4\n[face]\nkind = \"mtcnn\"\npath = \"{}\"\n[arc]\npath = \"{}\"\n",
        Path::new(&mtcnn).display(),
        network.display()
    );
    folder.write("eval.toml", text);
    true
}

#[test]
fn videos_of_systems_are_scored() {
    let folder = Folder::new();
    if !settings(&folder) {
        return;
    }
    set(&folder);
    // In the portrait of a drawn character MTCNN finds no face.
    std::fs::remove_file(folder.path("set/001/p1.png")).unwrap();
    let done = folder.run("eval check set --config eval.toml --i-have-rights").fails("E1701");
    assert!(done.out.contains("001/p2.png") && done.out.contains("error[S013]"), "{}", done.out);
    folder.run("eval cases --set set --n 2 --task ipt2v").fine();
    let cases = lines(&folder, "set/cases.jsonl");
    let [one, two] = [0, 1].map(|at: usize| cases[at]["id"].as_str().unwrap().to_owned());
    let clip = std::fs::read(repository().join("examples/portrait_pan.mp4")).unwrap();
    folder.write(&format!("a/{one}.mp4"), &clip);
    folder.write(&format!("a/{two}.mp4"), "broken");
    folder.write("b/map.csv", format!("case,path\n{one},7.gif\n"));
    // Nobody is in it.
    let mut writer =
        VideoWriter::create(&folder.path("b/7.gif"), 64, 64, 24.0, &WriterOptions::default())
            .unwrap();
    (0..5).for_each(|_| writer.push(&[90; 3 * 64 * 64]).unwrap());
    writer.finish().unwrap();
    let run = "eval run --cases set/cases.jsonl --config eval.toml --system b=b,b/map.csv \
               --note b=grey --out out --threads 1";
    let done = folder.run(&format!("{run} --system a=a")).fine();
    assert!(done.err.contains(&format!("b has no video of case {two}")), "{}", done.err);
    assert!(done.err.contains(&format!("a: the video of case {two}: [E0804]")), "{}", done.err);
    assert!(done.out.contains("2 videos scored, 2 missing: out/summary.json"), "{}", done.out);
    let summary = value(&folder, "out/summary.json");
    let task = |system: &str| summary["systems"][system]["tasks"]["IPT2V"].clone();
    let own = &task("a")["metrics"]["holi_arc"];
    assert_eq!(own["n"], 1);
    assert!(own["mean"].as_f64().unwrap() > 80.0, "{own}");
    assert_eq!(
        (&task("b")["faceless"], &task("b")["metrics"]["holi_arc"]["mean"]),
        (&json!(1), &json!(0.0))
    );
    assert_eq!(summary["systems"]["b"]["note"], "grey");
    let table = std::fs::read_to_string(folder.path("out/table.csv")).unwrap();
    assert!(table.starts_with("system,task,cases,missing,coverage,holi_arc,holi_cur"), "{table}");
    let before = std::fs::read(folder.path("out/summary.json")).unwrap();
    let again = folder.run(&format!("{run} --system a=a --json")).fine().json();
    assert_eq!((&again["scored"], &again["kept"]), (&json!(0), &json!(2)));
    let after = std::fs::read(folder.path("out/summary.json")).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(text(&after), text(&before));
    // Other models are other metrics.
    let text = std::fs::read_to_string(folder.path("eval.toml")).unwrap();
    let other = repository().join("runtime/study/tests/models/arcface.onnx");
    let arc = text.find("[arc]").unwrap();
    folder.write("eval.toml", format!("{}[arc]\npath = \"{}\"\n", &text[..arc], other.display()));
    folder.run(&format!("{run} --system a=a")).fails("E1705").says("another model for arc");
    // Of a disk that is full nothing is lost: what was there stays.
    #[cfg(unix)]
    {
        let line = "ulimit -f 1; exec \"$0\" \"$@\"";
        let redo = format!("{run} --system a=a --redo");
        let mut shell = folder.other("bash");
        shell.args(["-c", line, env!("CARGO_BIN_EXE_anyid-rt")]).args(redo.split_whitespace());
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("error[E1013]"), "{said}");
        assert!(std::fs::read(folder.path("out/summary.json")).unwrap() == before);
        let raw = value(&folder, &format!("out/raw/a/{one}.json"));
        assert_eq!(raw["schema"], "anyid.raw/1");
        folder.run(&redo).fine();
    }
}
