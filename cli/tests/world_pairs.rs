//! `world pairs`: pairs of clips that `train dpo` takes as they are, the same after any interruption.

#![cfg(unix)]

mod common;

use anyid_runtime::media::{ReadOptions, read_clip};
use anyid_world::{Sampling, Split, World};
use common::training::{ended, send, start};
use common::{Done, Folder};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Flags that take a second or two. A model that has learned nothing makes noise, in which the judge
/// reads something by chance; without a margin, about a third of the sets give a pair.
const PAIRS: &str =
    "world pairs --model m --margin 0 --steps 1 --guidance 1 --groups 3 --threads 2";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.run("init m --preset world").fine();
    folder
}

/// What lies below a folder, by name; nothing temporary may be there.
fn tree(at: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with('.'), "{name} is left");
        match path.is_dir() {
            true => {
                let inner = tree(&path).into_iter();
                out.extend(inner.map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
            }
            false => drop(out.insert(name, std::fs::read(&path).unwrap())),
        }
    }
    out
}

#[track_caller]
fn same(folder: &Folder, one: &str, other: &str) {
    let [a, b] = [one, other].map(|name| tree(&folder.path(name)));
    assert!(a.keys().eq(b.keys()), "{:?} {:?}", a.keys(), b.keys());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} of {one} differs from that of {other}");
    }
}

fn lines(folder: &Folder, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn pairs_are_what_the_verdicts_say_and_a_run_takes_them_as_they_are() {
    let folder = folder();
    let done = folder.run(&format!("{PAIRS} --sets 12 -o p --json")).fine().json();
    let verdicts = lines(&folder, "p/verdicts.jsonl");
    assert_eq!((verdicts.len(), &verdicts[0]["schema"]), (13, &json!("anyid.pairs/1")));
    let kept: Vec<&Value> = verdicts.iter().filter(|line| line.get("chosen").is_some()).collect();
    let manifest = lines(&folder, "p/manifest.jsonl");
    assert!((1..12).contains(&manifest.len()), "{}", manifest.len());
    assert_eq!((kept.len(), &done["pairs"]), (manifest.len(), &json!(kept.len())));
    assert_eq!((&done["sets"], &done["made"]), (&json!(12), &json!(24)));
    assert!(done["chosen"]["identity"].as_f64() >= done["rejected"]["identity"].as_f64());
    let share = |part: &Value| part[0].as_f64().unwrap() / part[1].as_f64().unwrap();
    let world = World::new(2).unwrap();
    let sampling = Sampling { absolute: 0.0, ..Sampling::new(Split::Train.some(0, 3).unwrap()) };
    for (verdict, line) in kept.iter().zip(&manifest) {
        let chosen = verdict["chosen"].as_u64().unwrap() as usize;
        let clips = [&verdict["clips"][chosen], &verdict["clips"][1 - chosen]];
        let more =
            ["identity", "prompt"].map(|track| share(&clips[0][track]) - share(&clips[1][track]));
        assert!(
            more.iter().all(|more| *more >= 0.0) && more.iter().sum::<f64>() > 0.0,
            "{verdict}"
        );
        assert_ne!(clips[0]["seed"], clips[1]["seed"]);
        // The set is that of its number.
        let index = verdict["set"].as_u64().unwrap();
        let set = world.sample(&sampling, 0, index).unwrap();
        assert_eq!(line["id"], format!("s_{index:06}"));
        assert_eq!(
            (&line["sample"]["prompt"], &verdict["group"]),
            (&json!(set.prompt.text), &json!(set.group.number()))
        );
        assert_eq!(line["sample"]["references"].as_array().unwrap().len(), set.references.len());
        let name = line["chosen"]["video"].as_str().unwrap();
        assert_eq!(name, format!("clips/s_{index:06}_chosen.png"));
        let clip = read_clip(&folder.path(&format!("p/{name}")), &ReadOptions::default()).unwrap();
        assert_eq!((clip.frames.len(), clip.frames[0].width), (5, 48));
    }
    let settings = "[model]\npath = \"m\"\n[data]\nmanifest = \"p/manifest.jsonl\"\n[video]\n\
                    width = 48\nheight = 48\nframes = 5\n[lora]\nrank = 2\n[train]\nsteps = 2\n\
                    batch = 2\n";
    folder.write("run.toml", settings);
    let done = folder.run("train check dpo --config run.toml --json").fine();
    assert_eq!(done.json()["samples"], json!(manifest.len()));
    assert!(!done.err.contains("warning"), "{}", done.err);
    folder.run("train dpo --config run.toml").fine();
}

#[test]
fn pairs_that_were_interrupted_anywhere_or_added_to_have_the_same_bytes() {
    let folder = folder();
    folder.run(&format!("{PAIRS} --sets 80 -o whole")).fine();
    // One thread, and in parts.
    let words = PAIRS.replace("--threads 2", "--threads 1");
    folder.run(&format!("{words} --sets 3 -o parts")).fine();
    folder.run(&format!("{PAIRS} --sets 70 -o parts")).fine();
    let said = folder.run(&format!("{PAIRS} --sets 80 -o parts --json")).fine().json();
    assert_eq!(said["made"], json!(20));
    same(&folder, "whole", "parts");
    let words = format!("{PAIRS} --sets 80 -o cut");
    let mut stopped = 0;
    for (round, wait) in [60, 300, 150, 500, 900].into_iter().enumerate() {
        let child = start(&folder, &words);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        send(&child, if round % 2 == 0 { Signal::KILL } else { Signal::INT });
        let done = ended(child);
        assert!(round % 2 == 0 || [0, 130].contains(&done.code), "{}", done.err);
        stopped += u32::from(done.code != 0);
    }
    println!("{stopped} were stopped before their end");
    // A line that a kill has cut off.
    let path = folder.path("cut/verdicts.jsonl");
    if let Ok(text) = std::fs::read(&path)
        && text.len() > 400
    {
        std::fs::write(&path, &text[..text.len() - 7]).unwrap();
    }
    folder.run(&words).fine();
    same(&folder, "whole", "cut");
    // Nothing is made twice, and fewer sets are the first ones.
    let again = folder.run(&format!("{words} --json")).fine().json();
    assert_eq!((&again["made"], &again["clips_per_second"]), (&json!(0), &Value::Null));
    let all = lines(&folder, "cut/manifest.jsonl");
    folder.run(&format!("{PAIRS} --sets 20 -o cut")).fine();
    let first = lines(&folder, "cut/manifest.jsonl");
    assert!(!first.is_empty() && first.len() < all.len() && all.starts_with(&first));
    folder.run(&format!("{PAIRS} --sets 80 --enough 2 -o cut")).fine();
    assert_eq!(lines(&folder, "cut/manifest.jsonl"), all[..2]);
}

#[test]
fn enough_pairs_end_the_work() {
    let folder = folder();
    let done = folder.run(&format!("{PAIRS} --sets 100000 --enough 3 -o p --json")).fine().json();
    assert_eq!(done["pairs"], json!(3));
    let sets = lines(&folder, "p/verdicts.jsonl").len() - 1;
    assert_eq!((&done["sets"], sets), (&json!(64), 64), "one part of the work");
}

#[test]
fn what_gives_no_pairs_is_refused() {
    let folder = folder();
    let refused = |words: &str, code: &str| {
        folder.run(&format!("world pairs --model m --steps 1 -o p {words}")).fails(code)
    };
    refused("--sets 0", "E0986");
    refused("--sets 2 --groups 0", "E0986");
    refused("--sets 2 --first 999999 --groups 2", "E0981").says("\"train\"");
    refused("--sets 2 --split held-out", "E0900").says("train");
    refused("--sets 2 --margin 3", "E0900").says("0.15");
    refused("--sets 2 --enough 0", "E0900");
    refused("--sets 2 --size 50", "E0982");
    refused("--sets 2 --frames 4", "E0902").says("--frames");
    refused("--sets 2 --solver heun", "E0921").says("--solver");
    refused("--sets 2 --references 1-5", "E0986");
    refused("--sets 2 --lora none.safetensors", "E0310");
    folder.run("world pairs --model none --sets 1 -o p").fails("E0701");
    folder.run("init tiny --random-weights").fine();
    folder.run("world pairs --model tiny --sets 1 -o p").fails("E0901").says("--size 48");
    assert_eq!(folder.names(), ["m", "tiny"]);
    // No clip is better by so much.
    let words = PAIRS.replace("--margin 0", "--margin 2");
    let failed = folder.run(&format!("{words} --sets 2 -o p --json"));
    assert_eq!(failed.fails("E0994").json()["error"]["code"], "E0994");
    assert_eq!(lines(&folder, "p/verdicts.jsonl").len(), 3);
}

#[test]
fn folders_of_something_else_are_left_alone() {
    let folder = folder();
    let words = format!("{PAIRS} --sets 8");
    folder.write("notes/a.txt", "precious");
    folder.run(&format!("{words} -o notes")).fails("E0823");
    folder.run("world sample -o samples --count 2").fine();
    let before = tree(&folder.path("samples"));
    folder.run(&format!("{words} -o samples")).fails("E0823");
    assert!(tree(&folder.path("samples")) == before);
    folder.write("odd/verdicts.jsonl", "precious\n");
    folder.run(&format!("{words} -o odd")).fails("E0992").says("its first line is no header");
    folder.run(&format!("{words} -o p")).fine();
    let before = tree(&folder.path("p"));
    for (more, said) in [
        ("--seed 1", "its \"seed\" is 0, not 1"),
        ("--margin 0.5", "its \"margin\" is 0.0, not 0.5"),
        ("--version 1", "its \"world\" is \"world/2\", not \"world/1\""),
        ("--split validation", "its \"split\""),
    ] {
        let words =
            words.replace("--margin 0 ", if more.contains("margin") { "" } else { "--margin 0 " });
        folder.run(&format!("{words} -o p {more}")).fails("E0992").says(said);
    }
    folder.run("init other --preset world --seed 1").fine();
    folder
        .run(&format!("{} -o p", words.replace("-model m", "-model other")))
        .fails("E0992")
        .says("weights");
    assert!(tree(&folder.path("p")) == before);
    let text = String::from_utf8(before["verdicts.jsonl"].clone()).unwrap();
    folder.write("p/verdicts.jsonl", text.replacen("\"set\":1", "\"set\":7", 1));
    folder.run(&format!("{words} -o p")).fails("E0992").says("its line 3 is not that of its set");
    folder.write("p/verdicts.jsonl", &text);
    // A clip that was changed, or is gone, is no clip of a pair.
    let name = before.keys().find(|name| name.ends_with("_chosen.png")).unwrap();
    let mut clip = before[name].clone();
    *clip.last_mut().unwrap() ^= 1;
    folder.write(&format!("p/{name}"), &clip);
    folder.run(&format!("{words} -o p")).fails("E0993").says(name);
    std::fs::remove_file(folder.path(&format!("p/{name}"))).unwrap();
    folder.run(&format!("{words} -o p")).fails("E0993").says("is not there");
    folder.write(&format!("p/{name}"), &before[name]);
    folder.run(&format!("{words} -o p")).fine();
}

#[test]
fn without_room_the_pairs_that_found_some_are_kept() {
    let folder = folder();
    let words = format!("{PAIRS} --sets 40");
    folder.run(&format!("{words} -o whole")).fine();
    // No file may have more than 24 blocks: a clip has room, the pictures of a person have not.
    let limited = |blocks: u32, words: &str| {
        let own = folder.command(words, &[]);
        let mut command = folder.other("sh");
        let line = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command.args(["-c", &line]).arg(own.get_program()).args(own.get_args());
        command.env("TMPDIR", folder.temporary());
        Done::of(words, command.output().unwrap())
    };
    limited(24, &format!("{words} -o p")).fails("E1013");
    let kept = std::fs::read_to_string(folder.path("p/verdicts.jsonl")).unwrap();
    assert!(kept.lines().count() < 41 && !folder.path("p/manifest.jsonl").exists(), "{kept}");
    folder.run(&format!("{words} -o p")).fine();
    same(&folder, "p", "whole");
}

#[test]
fn one_program_at_a_time_makes_pairs_in_a_folder() {
    let folder = folder();
    let words = format!("{PAIRS} --sets 100000 -o p");
    let child = start(&folder, &words);
    common::training::wait_for(&folder, "p/groups");
    folder.run(&words).fails("E0961");
    send(&child, Signal::KILL);
    ended(child);
    folder.run(&format!("{PAIRS} --sets 8 -o p")).fine();
}
