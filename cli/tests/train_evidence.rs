//! That training learns what it should: a small transformer from nothing, and preferences that hold
//! for clips that it has not seen.
//!
//! ANYID_RT_CURVES=FOLDER makes the runs that docs/training.md shows, a few minutes of work, and leaves
//! their logs there (`tests/reference/plot_training.py` draws them). Otherwise runs are shorter and less
//! is asked of them.

mod common;

use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use common::Folder;
use common::training::log;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Side of the clips, and their frames.
const SIDE: usize = 64;
const FRAMES: usize = 5;

/// A clip of a disc that moves over a dark ground. Where, how large and how fast depends on `seed`; its
/// colour is warm or cold.
fn disc(folder: &Folder, name: &str, seed: u64, warm: bool) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut number = |from: f64, to: f64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        from + (to - from) * ((state >> 33) as f64 / f64::from(1u32 << 31))
    };
    let [x, y] = [number(16.0, 48.0), number(16.0, 48.0)];
    let [dx, dy] = [number(-3.0, 3.0), number(-3.0, 3.0)];
    let (radius, ground) = (number(8.0, 16.0), number(20.0, 60.0));
    let [strong, weak] = [number(190.0, 250.0), number(20.0, 80.0)];
    let colour = if warm { [strong, 0.6 * strong, weak] } else { [weak, 0.6 * strong, strong] };
    let options = WriterOptions::default();
    let writer = VideoWriter::create(&folder.path(name), SIDE, SIDE, 24.0, &options);
    let mut writer = writer.unwrap_or_else(|e| panic!("{e}"));
    for frame in 0..FRAMES {
        let (x, y) = (x + frame as f64 * dx, y + frame as f64 * dy);
        let mut pixels = Vec::with_capacity(3 * SIDE * SIDE);
        for at in 0..SIDE * SIDE {
            let [column, row] = [at % SIDE, at / SIDE].map(|place| place as f64);
            let away = ((column - x).powi(2) + (row - y).powi(2)).sqrt();
            let inside = (radius - away + 0.5).clamp(0.0, 1.0);
            pixels.extend(colour.map(|c| (ground + inside * (c - ground)) as u8));
        }
        writer.push(&pixels).unwrap_or_else(|e| panic!("{e}"));
    }
    writer.finish().unwrap_or_else(|e| panic!("{e}"));
}

fn described(at: usize) -> Value {
    json!({
        "schema": "anyid.sample/1", "id": format!("s_{at}"), "prompt": "A disc moves.",
        "references": [{"role": "primary", "form": "portrait", "clip": "c_p", "media": "a.png",
                        "frame": 0}],
    })
}

fn write_lines(folder: &Folder, name: &str, lines: &[Value]) {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    folder.write(name, text.join("\n"));
}

/// A folder with a small transformer of random weights and clips of which half are warm.
fn world(clips: usize) -> Folder {
    let folder = Folder::new();
    folder.run("init model --preset small").fine();
    let picture = common::repository().join("examples/astronaut.png");
    folder.write("a.png", std::fs::read(picture).unwrap());
    let lines: Vec<Value> = (0..clips)
        .map(|at| {
            disc(&folder, &format!("t{at}.mp4"), at as u64, at % 2 == 0);
            let mut line = described(at);
            line["target"] = json!({"clip": format!("c_{at}"), "media": format!("t{at}.mp4"),
                                    "start": 0, "frames": FRAMES, "fps": 24});
            line
        })
        .collect();
    write_lines(&folder, "train.jsonl", &lines);
    folder.write("run.toml", SETTINGS);
    folder
}

const SETTINGS: &str = "\
[model]
path = \"model\"
[data]
manifest = \"train.jsonl\"
validation = \"train.jsonl\"
cache = \"cache\"
[video]
width = 64
height = 64
frames = 5
[lora]
rank = 8
alpha = 8.0
[train]
batch = 8
learning_rate = 2e-3
warmup = 20
weight_decay = 0.0
null_probability = 0.0
loss_weight = \"none\"
[run]
checkpoint_every = 100000
validate_every = 25
validation_draws = 16
";

/// Where logs go that curves are made of.
fn curves() -> Option<PathBuf> {
    std::env::var_os("ANYID_RT_CURVES").map(PathBuf::from)
}

/// Keeps the log of a run, if curves are wanted.
fn keep(folder: &Folder, run: &str, name: &str) {
    let Some(to) = curves() else { return };
    let to = to.join(format!("{name}.jsonl"));
    std::fs::copy(folder.path(&format!("{run}/log.jsonl")), to).unwrap();
}

/// The validation loss at the end over that of the untrained transformer.
fn left(folder: &Folder, run: &str) -> f64 {
    let rows = log(folder, run);
    rows.last().unwrap()["validation"]["over_base"].as_f64().unwrap()
}

#[test]
fn a_transformer_learns_one_sample_and_many() {
    // Updates, and the part of the first loss that is left at most.
    let (one, many) = match curves() {
        Some(_) => ((500, 0.05), (600, 0.1)),
        None => ((125, 0.35), (40, 0.55)),
    };
    for (name, clips, (steps, limit)) in [("one", 1, one), ("many", 32, many)] {
        let folder = world(clips);
        let settings = match clips {
            1 => "--set train.batch=4 --set train.learning_rate=3e-3",
            _ => "--set run.validation_draws=4 --set run.validate_every=100",
        };
        let words = "train full --config run.toml --threads 2";
        folder.run(&format!("{words} {settings} --steps {steps} -o {name}")).fine();
        keep(&folder, name, name);
        let left = left(&folder, name);
        println!("{clips} samples, {steps} updates: {left} of the loss is left");
        assert!(left < limit, "{left}");
    }
}

#[test]
fn preferences_hold_for_pairs_that_were_not_seen() {
    let folder = world(1);
    folder.run("init micro --random-weights").fine();
    let pairs = |name: &str, seeds: std::ops::Range<usize>| {
        let header = json!({"schema": "anyid.dpo/1"});
        let lines = seeds.map(|at| {
            // Both discs are others; what was preferred is warm.
            let [warm, cold] = [(0, true), (1, false)].map(|(side, warm)| {
                let name = format!("p{at}_{side}.mp4");
                disc(&folder, &name, (1000 + 2 * at + side) as u64, warm);
                name
            });
            json!({"schema": "anyid.dpo/1", "id": format!("m_{at}"), "sample": described(at),
                   "chosen": {"video": warm}, "rejected": {"video": cold}})
        });
        let lines: Vec<Value> = std::iter::once(header).chain(lines).collect();
        write_lines(&folder, name, &lines);
    };
    pairs("pairs.jsonl", 0..16);
    pairs("held.jsonl", 16..32);
    let words = "train dpo --config run.toml --threads 2 --set data.manifest=pairs.jsonl \
                 --set data.validation=held.jsonl --set train.learning_rate=4e-4 \
                 --set model.path=micro --set dpo.sft_weight=0.7 --set run.validation_draws=2 \
                 --set run.validate_every=20";
    let steps = if curves().is_some() { 100 } else { 40 };
    folder.run(&format!("{words} --steps {steps} -o dpo")).fine();
    keep(&folder, "dpo", "dpo");
    let rows = log(&folder, "dpo");
    let last = &rows.last().unwrap()["validation"];
    let of = |name: &str| last[name].as_f64().unwrap();
    println!("{last}");
    assert!(of("accuracy") > 0.8, "{last}");
    // A pair is right by the sum over its two draws: with one of them right it may be, with both it is.
    let both = 2.0 * of("accuracy") - 1.0;
    assert!((both..=1.0).contains(&of("pair_accuracy")), "{last}");
    assert!(of("chosen") <= 0.0, "the error of what was chosen does not rise: {last}");
}
