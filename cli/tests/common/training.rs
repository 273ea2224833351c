//! A small world for tests of training: two pictures and clips, a manifest, settings.

use super::{Done, Folder};
use serde_json::{Value, json};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A line of a manifest of samples.
pub fn sample(id: &str, start: usize, change: impl Fn(&mut Value)) -> Value {
    let mut value = json!({
        "schema": "anyid.sample/1", "id": id,
        "target": {"clip": format!("c_{id}"), "media": "pan.mp4", "start": start, "frames": 5,
                   "fps": 24, "crop": [60, 0, 420, 360]},
        "references": [{"role": "primary", "form": "portrait", "clip": "c_p", "media": "a.png",
                        "frame": 0, "crop": [100, 0, 400, 300]}],
        "prompt": format!("A person, {id}."),
    });
    change(&mut value);
    value
}

/// Three samples of two shapes.
pub fn samples() -> Vec<Value> {
    let two = |v: &mut Value| {
        let clip = json!({"role": "aux", "form": "video", "clip": "c_v", "media": "pan.mp4",
                          "start": 0, "frames": 5});
        v["references"].as_array_mut().unwrap().push(clip);
    };
    vec![sample("s_1", 10, |_| {}), sample("s_2", 30, two), sample("s_3", 50, |_| {})]
}

/// Settings of a small run.
pub const SETTINGS: &str = "\
model.path = \"micro\"
[data]
manifest = \"train.jsonl\"
cache = \"cache\"
[video]
width = 64
height = 64
frames = 5
[lora]
rank = 4
alpha = 4.0
[train]
steps = 12
batch = 2
learning_rate = 1e-2
[run]
folder = \"run\"
checkpoint_every = 2
";

/// A folder with media, manifest, settings, and tiny networks with random weights.
pub fn world(lines: &[Value]) -> Folder {
    let folder = Folder::new();
    for (name, file) in [("pan.mp4", "portrait_pan.mp4"), ("a.png", "astronaut.png")] {
        let bytes = std::fs::read(super::repository().join("examples").join(file)).unwrap();
        folder.write(name, bytes);
    }
    write_lines(&folder, lines);
    folder.write("run.toml", SETTINGS);
    folder.run("init micro --random-weights --seed 20260325").fine();
    folder
}

/// Replaces the manifest.
pub fn write_lines(folder: &Folder, lines: &[Value]) {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    folder.write("train.jsonl", text.join("\n"));
}

/// The rows of a log without the time left.
pub fn log(folder: &Folder, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path(run).join("log.jsonl")).unwrap();
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("seconds_left").unwrap();
        row
    };
    text.lines().map(row).collect()
}

/// What is in a file.
pub fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// Asserts that a run ended as the undisturbed one in the folder `whole` did.
#[track_caller]
pub fn same_end(folder: &Folder, run: &str, whole: &str) {
    same_end_of(folder, run, whole, "adapter.safetensors");
}

/// [`same_end`] of runs that leave the file `result`.
#[track_caller]
pub fn same_end_of(folder: &Folder, run: &str, whole: &str, result: &str) {
    for name in [result, "events.out.tfevents.0.anyid-rt"] {
        let [a, b] = [run, whole].map(|run| bytes(folder, &format!("{run}/{name}")));
        assert!(a == b, "{name} of {run} differs from that of {whole}");
    }
    assert_eq!(log(folder, run), log(folder, whole));
}

/// Asserts that a run of four updates that had ended after two goes on to the files `results` of one that
/// had not, in the folder `whole`, and that one thread makes these as well.
#[track_caller]
pub fn goes_on(folder: &Folder, words: &str, results: &[&str]) {
    folder.run(&format!("{words} --steps 4 -o whole")).fine();
    folder.run(&format!("{words} --steps 2 -o cut")).fine();
    folder.run(&format!("{words} --steps 4 -o cut --resume")).fine();
    let one = words.replace("--threads 2", "--threads 1");
    assert_ne!(one, words, "two threads are asked for");
    folder.run(&format!("{one} --steps 4 -o one")).fine();
    for name in results {
        let [a, b] = ["cut", "whole"].map(|run| bytes(folder, &format!("{run}/{name}")));
        assert!(a == b, "{name} of cut differs from that of whole");
        same_end_of(folder, "one", "whole", name);
    }
}

/// Starts a run and does not wait for it.
pub fn start(folder: &Folder, words: &str) -> Child {
    let mut command = folder.command(words, &[]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal, if the run has not ended.
#[cfg(unix)]
pub fn send(child: &Child, signal: rustix::process::Signal) {
    // It may have ended already.
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_raw(child.id() as i32).unwrap(),
        signal,
    );
}

/// Waits for a run to end.
pub fn ended(child: Child) -> Done {
    Done::of("train", child.wait_with_output().unwrap())
}

/// Starts a command that goes on by itself where it was, and ends it after so many milliseconds, drawn
/// from a range, by SIGINT and SIGKILL in turn; as often as ANYID_RT_SIGNALS says, or six times.
#[cfg(unix)]
pub fn stopped_at_random(folder: &Folder, words: &str, pause: std::ops::Range<u64>) {
    use rustix::process::Signal;
    let rounds =
        std::env::var("ANYID_RT_SIGNALS").ok().and_then(|n| n.parse().ok()).unwrap_or(6u64);
    let (mut seed, mut stopped) = (0x9e37_79b9u64, 0);
    for round in 0..rounds {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let child = start(folder, words);
        let drawn = pause.start + (seed >> 33) % (pause.end - pause.start);
        std::thread::sleep(Duration::from_millis(drawn));
        send(&child, if round % 2 == 0 { Signal::INT } else { Signal::KILL });
        let done = ended(child);
        // On a fast machine it may be over already.
        assert!(round % 2 == 1 || [0, 130].contains(&done.code), "{}", done.err);
        assert!(!done.err.contains("--resume"), "there is no such flag: {}", done.err);
        stopped += u64::from(done.code != 0);
    }
    println!("{stopped} of {rounds} were stopped before their end");
}

/// Waits until a run has written something.
pub fn wait_for(folder: &Folder, name: &str) {
    for _ in 0..3000 {
        if folder.path(name).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} does not appear");
}
