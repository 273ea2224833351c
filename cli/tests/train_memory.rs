//! A training process holds what was announced before its first update.

#![cfg(target_os = "linux")]

mod common;

use common::Folder;
use common::training::{sample, samples, world, write_lines};
use serde_json::{Value, json};

/// Runs what clips and prompts were encoded for before; the peak that it announced is what it held.
#[track_caller]
fn held(folder: &Folder, what: &str, words: &str) {
    let report = folder.run(&format!("{words} --threads 2 --json")).fine().json();
    let of = |value: &Value| value.as_f64().unwrap();
    let parts = &report["memory"];
    let (announced, peak) = (of(&parts["total_bytes"]), of(&report["peak_memory_bytes"]));
    println!("{what}: announced {announced}, peak {peak}: {:.4}\n{parts}", peak / announced);
    assert!(announced > 3e8, "too small to tell: {parts}");
    let apart = (peak / announced - 1.0).abs();
    assert!(apart <= 0.02, "{what}: {peak} of {announced}\n{parts}");
}

const LARGE: &str = "--set model.path=model --set video.width=288 --set video.height=288 \
                     --set train.batch=32 --set train.together=32 --set run.checkpoint_every=1";

/// A folder with a model whose transformer is not too small.
fn place(lines: &[Value]) -> Folder {
    let folder = world(lines);
    folder.run("init model --preset small").fine();
    folder
}

#[test]
fn adapters_on_samples() {
    let folder = place(&samples());
    let about = format!("--config run.toml {LARGE} --set data.allow_upscale=true");
    folder.run(&format!("train check {about}")).fine();
    held(&folder, "lora", &format!("train lora {about} --steps 2"));
    let videos = "--steps 1 --set run.samples=1 --set run.sample_steps=2 -o videos";
    held(&folder, "lora with videos", &format!("train lora {about} {videos}"));
}

#[test]
fn adapters_on_pairs() {
    let folder = place(&[]);
    for seed in 0..3 {
        let words =
            "generate --model @micro --size 288x288 --frames 5 --steps 1 --prompt x -q --seed";
        folder.run(&format!("{words} {seed} -o g{seed}.mp4")).fine();
    }
    let pair = |at: usize| {
        json!({
            "schema": "anyid.dpo/1", "id": format!("m_{at}"), "sample": sample("s", 10, |_| {}),
            "chosen": {"video": format!("g{at}.mp4")}, "rejected": {"video": "g2.mp4"},
        })
    };
    let header = json!({"schema": "anyid.dpo/1", "pairs": 2});
    write_lines(&folder, &[header, pair(0), pair(1)]);
    folder.run(&format!("train check dpo --config run.toml {LARGE}")).fine();
    held(&folder, "dpo", &format!("train dpo --config run.toml {LARGE} --steps 2"));
}

#[test]
fn every_weight() {
    let folder = place(&samples());
    let about = format!("--config run.toml {LARGE} --set data.allow_upscale=true");
    folder.run(&format!("train check full {about}")).fine();
    // Values before training are needed to measure, and go nowhere else.
    let measured = "--set data.validation=train.jsonl --set run.validation_draws=1";
    let words = format!("train full {about} {measured}");
    held(&folder, "full", &format!("{words} --steps 1"));
    held(&folder, "full, going on", &format!("{words} --steps 2 --resume"));
}
