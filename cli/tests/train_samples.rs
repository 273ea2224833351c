//! Videos that a run makes behind its checkpoints.

#![cfg(unix)]

mod common;

use anyid_runtime::media::ReadOptions;
use anyid_runtime::media::standardise::{StandardiseOptions, read_reference};
use common::training::{bytes, log, sample, samples, world};
use common::{Done, Folder};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use std::time::Duration;

const LORA: &str = "train lora --config run.toml --threads 2 --steps 5";
const VIDEOS: &str = "--set run.samples=2 --set run.sample_steps=3";

/// Names of the videos of a run.
fn videos(folder: &Folder, run: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder.path(&format!("{run}/samples"))) else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How far the pixels of two videos are apart on average, of 255.
fn apart(folder: &Folder, a: &str, b: &str) -> f64 {
    let options = StandardiseOptions::new(64, 64);
    let pixels = |name: &str| -> Vec<u8> {
        let path = folder.path(name);
        let read = read_reference(&path, &options, &ReadOptions::default(), &mut |_| Ok(()));
        read.unwrap_or_else(|e| panic!("{name}: {e}")).frames.concat()
    };
    let (a, b) = (pixels(a), pixels(b));
    assert_eq!((a.len(), b.len()), (5 * 64 * 64 * 3, 5 * 64 * 64 * 3));
    a.iter().zip(&b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

#[test]
fn videos_are_made_behind_each_checkpoint_and_at_the_end() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} -o plain")).fine();
    let done = folder.run(&format!("{LORA} {VIDEOS}")).fine();
    assert!(done.err.contains("update 2: wrote"), "{}", done.err);
    let names = videos(&folder, "run");
    let expected: Vec<String> = ["000002", "000004", "000005"]
        .iter()
        .flat_map(|step| ["s_1", "s_2"].map(|id| format!("{step}-{id}.mp4")))
        .collect();
    assert_eq!(names, expected);
    let of = |name: &str| bytes(&folder, &format!("run/samples/{name}"));
    assert!(of(&names[0]) != of(&names[2]), "they show what was learned between them");
    let shown = folder.run(&format!("inspect run/samples/{}", names[1])).fine().out;
    assert!(shown.contains("64x64") && shown.contains("frames    5"), "{shown}");
    // They change nothing else.
    let [a, b] = ["run", "plain"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b && log(&folder, "run") == log(&folder, "plain"));
    // A run that has ended makes the last ones again, and no others.
    let last = of(&names[5]);
    for name in [&names[0], &names[5]] {
        std::fs::remove_file(folder.path(&format!("run/samples/{name}"))).unwrap();
    }
    folder.run(&format!("{LORA} {VIDEOS} --resume")).fine();
    assert!(of(&names[5]) == last);
    assert_eq!(videos(&folder, "run"), names[1..]);
    // Those of a validation set come first.
    folder.write("held.jsonl", sample("v", 65, |_| {}).to_string());
    folder.run(&format!("{LORA} {VIDEOS} -o held --set data.validation=held.jsonl")).fine();
    assert_eq!(videos(&folder, "held"), ["000002-v.mp4", "000004-v.mp4", "000005-v.mp4"]);
}

#[test]
fn videos_are_those_of_generate_with_the_same_values() {
    let folder = world(&samples());
    folder.run(&format!("train full --config run.toml --steps 2 {VIDEOS} -o full")).fine();
    assert_eq!(videos(&folder, "full").len(), 2);
    let words = "--size 64x64 --frames 5 --steps 3 --ref a.png --seed 0 -o";
    let whole = |v: &mut serde_json::Value| {
        v["references"][0].as_object_mut().unwrap().remove("crop");
    };
    common::training::write_lines(&folder, &[sample("s_1", 10, whole)]);
    folder.run(&format!("{LORA} {VIDEOS} -o one")).fine();
    let prompt = ["--prompt", "A person, s_1."];
    let lora = "--lora one/adapter.safetensors";
    folder.run_with(&format!("generate --model micro {lora} {words} own.mp4"), &prompt).fine();
    folder.run_with(&format!("generate --model micro {words} base.mp4"), &prompt).fine();
    let shown = "one/samples/000005-s_1.mp4";
    let [own, base] = ["own.mp4", "base.mp4"].map(|other| apart(&folder, shown, other));
    assert!(own < 0.5 && base > 4.0 * own, "{own} of 255 apart, {base} without the adapter");
}

#[test]
fn a_run_that_was_stopped_while_it_made_videos_goes_on_to_the_same_ones() {
    let folder = world(&samples());
    let words = "train lora --config run.toml --threads 2 --steps 2 --set run.samples=2 \
                 --set run.sample_steps=400";
    folder.run(&format!("{words} -o whole")).fine();
    let names = videos(&folder, "whole");
    assert_eq!(names.len(), 2);
    for (signal, run) in [(Signal::INT, "int"), (Signal::KILL, "kill")] {
        let mut command = folder.command(&format!("{words} -o {run}"), &[]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The line of the last update comes before its checkpoint and the videos.
        let lines = || std::fs::read_to_string(folder.path(&format!("{run}/log.jsonl")));
        while lines().unwrap_or_default().lines().count() < 2 {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(40));
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
        let done = Done::of(words, child.wait_with_output().unwrap());
        assert_eq!(done.code == 130, signal == Signal::INT, "{}", done.err);
        assert!(videos(&folder, run).len() < 2, "it was stopped before the last one");
        folder.run(&format!("{words} -o {run} --resume")).fine();
        assert_eq!(videos(&folder, run), names);
        for name in names.iter().map(|name| format!("samples/{name}")) {
            let [a, b] = [run, "whole"].map(|run| bytes(&folder, &format!("{run}/{name}")));
            assert!(a == b, "{name}");
        }
    }
}

#[test]
fn a_full_disk_while_a_video_is_written_loses_nothing() {
    let folder = world(&samples());
    let words = format!(
        "{LORA} --set run.samples=1 --set run.sample_steps=2 --set lora.rank=1 \
         --set video.width=192 --set video.height=192 --set data.allow_upscale=true"
    );
    folder.run(&format!("{words} -o whole")).fine();
    // Checkpoints fit in, videos do not, whether the shell counts blocks of 512 or 1024 bytes.
    let size = |name: &str| bytes(&folder, &format!("whole/{name}")).len();
    let blocks = size("checkpoint.safetensors") / 512 + 8;
    assert!(size("samples/000002-s_1.mp4") > 1024 * blocks);
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let line = format!("ulimit -f {blocks}; exec {program} {words} -o cut");
    let mut command = folder.other("sh");
    command.args(["-c", &line]);
    let done = Done::of(&line, command.output().unwrap()).fails("E1013");
    assert!(done.err.contains("000002-s_1.mp4"), "{}", done.err);
    assert!(videos(&folder, "cut").is_empty(), "no part of one is left");
    assert_eq!(log(&folder, "cut").len(), 2, "the checkpoint came first");
    folder.run(&format!("{words} -o cut --resume")).fine();
    assert_eq!(videos(&folder, "cut"), videos(&folder, "whole"));
    let names = videos(&folder, "whole").into_iter().map(|name| format!("samples/{name}"));
    for name in names.chain(["adapter.safetensors".to_owned()]) {
        let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/{name}")));
        assert!(a == b, "{name}");
    }
}

#[test]
fn faces_of_videos_are_compared_with_those_of_their_references() {
    let folder = world(&samples());
    let refused = folder.run(&format!("{LORA} --set validate.config=eval.toml"));
    refused.fails("E0956").says("validate.config");
    folder.run(&format!("{LORA} {VIDEOS} --set validate.config=eval.toml")).fails("E0911");
    folder.write("eval.toml", "");
    let none = folder.run(&format!("{LORA} {VIDEOS} --set validate.config=eval.toml"));
    none.fails("E1706").says("compare no faces");
    let Some(mtcnn) = std::env::var_os("ANYID_MTCNN") else {
        println!("skipped: ANYID_MTCNN names no folder of MTCNN");
        return;
    };
    let network = common::repository().join("runtime/evaluation/tests/models/embedding.onnx");
    let text = format!(
        "frames = 3\n[face]\nkind = \"mtcnn\"\npath = \"{}\"\n[arc]\npath = \"{}\"\n",
        std::path::Path::new(&mtcnn).display(),
        network.display()
    );
    folder.write("eval.toml", text);
    // The face fills the reference, so that it is found in 64x64 pixels.
    let near = |v: &mut serde_json::Value| {
        v["references"][0]["crop"] = serde_json::json!([160, 40, 290, 200]);
    };
    common::training::write_lines(&folder, &[sample("s_1", 10, near), sample("s_2", 30, near)]);
    folder.run(&format!("{LORA} -o plain")).fine();
    let words = format!("{LORA} {VIDEOS} --set validate.config=eval.toml");
    let done = folder.run(&words).fine();
    assert!(done.err.contains("update 5: Holi "), "{}", done.err);
    let file = "run/samples/000005.identity.json";
    let found: serde_json::Value = serde_json::from_slice(&bytes(&folder, file)).unwrap();
    let video = &found["videos"]["s_1"];
    assert_eq!((&found["step"], &video["references"]), (&5.into(), &1.into()));
    // What tiny networks make has no face.
    assert_eq!((&found["holi"], &found["coverage"]), (&0.0.into(), &0.0.into()));
    // It changes nothing that is learned, and is made again where it is missing.
    let [a, b] = ["run", "plain"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b);
    let before = bytes(&folder, file);
    std::fs::remove_file(folder.path(file)).unwrap();
    folder.run(&format!("{words} --resume")).fine();
    assert!(bytes(&folder, file) == before);
}
