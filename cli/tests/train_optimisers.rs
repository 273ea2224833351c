//! Optimisers of groups of parameters, and learning rates that fall: what runs with them show, resume and
//! refuse.

#![cfg(unix)]

mod common;

use common::training::{
    bytes, ended, log, same_end, sample, samples, send, start, wait_for, world, write_lines,
};
use common::{Folder, tensors};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const FULL: &str = "train full --config run.toml --threads 2 --set train.learning_rate=1e-3 \
                    --set train.batch=3 --set train.loss_weight=none";

/// Muon for the matrices of blocks, another rate for the head.
const GROUPS: &str = "
[[group]]
match = \"head.head.*\"
learning_rate = 5e-4
[[group]]
match = [\"blocks.*_attn.q.weight\", \"blocks.*_attn.k.weight\", \"blocks.*_attn.v.weight\",
         \"blocks.*_attn.o.weight\", \"blocks.*.ffn.*.weight\"]
optimiser = \"muon\"
learning_rate = 0.02
weight_decay = 0.01
";

fn with(folder: &Folder, groups: &str) {
    let settings = std::fs::read_to_string(folder.path("run.toml")).unwrap();
    let own = settings.split("\n[[group]]").next().unwrap();
    folder.write("run.toml", format!("{}\n{}", own.trim_end(), groups.trim_start()));
}

fn error(rows: &[Value]) -> f64 {
    rows.iter().map(|row| row["error"].as_f64().unwrap()).sum::<f64>() / rows.len() as f64
}

/// Asserts that the checkpoints of two runs hold the same: values, momentum, moments, averages.
#[track_caller]
fn same_values(folder: &Folder, run: &str, whole: &str) {
    let [a, b] = [run, whole].map(|run| tensors(&folder.path(run).join("checkpoint.safetensors")));
    assert!(a.keys().any(|name| name.starts_with("m.")) && a.keys().eq(b.keys()), "{run}");
    for (name, tensor) in &a {
        assert!(tensor.bytes() == b[name].bytes(), "{name} of {run} differs from that of {whole}");
    }
}

#[test]
fn muon_learns_beside_adamw_and_goes_on_to_the_same_bits() {
    let folder = world(&samples());
    let check = |folder: &Folder| {
        let words = "train check full --config run.toml --json";
        folder.run(words).fine().json()["bytes"].as_u64().unwrap()
    };
    let plain = check(&folder);
    folder.run(&format!("{FULL} --steps 24 -o plain")).fine();
    with(&folder, GROUPS);
    assert_ne!(check(&folder), plain, "one moment less, and memory for the products");
    let words = format!("{FULL} --set train.average=0.9 --set run.checkpoint_every=5");
    folder.run(&format!("{words} --steps 24 -o whole")).fine();
    let [adamw, muon] = ["plain", "whole"].map(|run| error(&log(&folder, run)[18..]));
    let before = error(&log(&folder, "whole")[..3]);
    assert!(muon < 0.8 * before && muon != adamw, "{muon}, AdamW {adamw}, before {before}");
    folder.run(&format!("{words} --steps 12 -o cut")).fine();
    folder.run(&format!("{words} --steps 24 -o cut --resume")).fine();
    for name in ["transformer", "transformer-average"] {
        let name = format!("{name}.safetensors");
        let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/{name}")));
        assert!(a == b, "{name}");
    }
    // One thread gives the same bits.
    folder
        .run(&format!("{} --steps 12 -o one", words.replace("--threads 2", "--threads 1")))
        .fine();
    folder.run(&format!("{words} --steps 24 -o one --resume")).fine();
    same_values(&folder, "one", "whole");
    // What differs is named by group and key.
    with(&folder, &GROUPS.replace("0.02", "0.03").replace("0.01", "0.1"));
    let done = folder.run(&format!("{words} --steps 24 -o whole --resume")).fails("E0963");
    let done = done.says("group.2.learning_rate: 0.02, now 0.03");
    let done = done.says("group.2.weight_decay: 0.01, now 0.1");
    assert!(!done.err.contains("group.1"), "{}", done.err);
    with(&folder, "");
    let done = folder.run(&format!("{words} --steps 24 -o whole --resume")).fails("E0963");
    done.says("group.1: ").says("group.2: ").says(", now nothing");
}

#[test]
fn adapters_are_matrices_too() {
    let folder = world(&samples());
    with(&folder, "[[group]]\nmatch = \"*.lora_*.weight\"\noptimiser = \"muon\"\nmomentum = 0.9\n");
    let words = "train lora --config run.toml --threads 2";
    folder.run(&format!("{words} --steps 9 -o whole")).fine();
    folder.run(&format!("{words} --steps 4 -o cut")).fine();
    folder.run(&format!("{words} --steps 9 -o cut --resume")).fine();
    same_end(&folder, "cut", "whole");
    same_values(&folder, "cut", "whole");
    let before = error(&log(&folder, "whole")[..2]);
    assert!(error(&log(&folder, "whole")[7..]) < before);
}

#[test]
fn groups_that_nothing_fits_and_muon_for_vectors_are_refused_before_anything_is_done() {
    let folder = world(&samples());
    let muon = |pattern: &str| format!("[[group]]\nmatch = \"{pattern}\"\noptimiser = \"muon\"\n");
    let twice = format!("{}{}", muon("blocks.*.ffn.*.weight"), muon("blocks.0.ffn.0.weight"));
    for (line, groups, code, said, help) in [
        (20, muon("blocks.*.atn.q.weight"), "E0965", "blocks.*.atn.q.weight", "did you mean"),
        (
            20,
            muon("nothing"),
            "E0965",
            "no trained parameter is called",
            "the parameters are blocks.*",
        ),
        (23, twice, "E0965", "of group 2 adds nothing", "first one that fits"),
        (20, muon("blocks.*"), "E0968", "Muon is for matrices, and blocks.0.", "narrow"),
        (20, muon("blocks.*.bias"), "E0968", ".bias, of group 1, has the sizes [64]", ""),
        (
            20,
            muon("blocks.*.modulation"),
            "E0968",
            "modulation, of group 1, has the sizes [1, 6, 64]",
            "",
        ),
    ] {
        with(&folder, &groups);
        for words in ["full --config run.toml", "check full --config run.toml"] {
            let done = folder.run(&format!("train {words}")).fails(code).says(said).says(help);
            assert!(done.err.contains(&format!("run.toml:{line}")), "the line: {}", done.err);
            assert!(!folder.path("run").exists() && !folder.path("cache").exists());
        }
    }
    // A vector in front of it goes another way.
    let first = "[[group]]\nmatch = [\"*.bias\", \"*norm*\", \"*.modulation\"]\n";
    with(&folder, &format!("{first}{}", muon("blocks.*")));
    folder.run(&format!("{FULL} --steps 1")).fine();
    // What an adapter trains has names of its own.
    folder.run("train lora --config run.toml").fails("E0965").says("\"*.bias\"");
    let done = folder.run(&format!("{FULL} --set group.1.learning_rate=1.0 -o no"));
    done.fails("E0955").says("groups cannot be set by a flag");
    with(&folder, "[[group]]\nmatch = \"*\"\nmomentum = 0.5\n");
    folder.run(FULL).fails("E0956").says("group.1.momentum cannot be 0.5").says("run.toml:21");
}

#[test]
fn rates_fall_to_the_end_and_a_run_that_was_stopped_has_them_too() {
    let folder = world(&samples());
    let words = "train lora --config run.toml --threads 2 --set run.checkpoint_every=1000";
    for schedule in ["linear", "cosine"] {
        let words = format!(
            "{words} --steps 40 --set train.schedule={schedule} --set train.decay=0.5 \
             --set train.warmup=4 --set train.floor=0.01"
        );
        let whole = format!("whole-{schedule}");
        folder.run(&format!("{words} -o {whole}")).fine();
        let run = format!("cut-{schedule}");
        let child = start(&folder, &format!("{words} -o {run}"));
        wait_for(&folder, &format!("{run}/checkpoint.safetensors"));
        std::thread::sleep(Duration::from_millis(80));
        send(&child, Signal::INT);
        // On a fast machine it may be over already.
        let done = ended(child);
        assert!(done.code == 0 || done.code == 130, "{}", done.err);
        folder.run(&format!("{words} -o {run} --resume")).fine();
        same_end(&folder, &run, &whole);
        // The schedule depends on the number of updates.
        let longer = words.replace("--steps 40", "--steps 50");
        let done = folder.run(&format!("{longer} -o {run} --resume")).fails("E0963");
        done.says("train.steps: 40, now 50");
    }
    let constant = format!("{words} --steps 40 --set train.warmup=4");
    folder.run(&format!("{constant} -o constant")).fine();
    let [linear, cosine, constant] =
        ["whole-linear", "whole-cosine", "constant"].map(|run| log(&folder, run));
    // Up to the 21st update all rates are the same.
    for at in [0, 20] {
        assert_eq!(linear[at]["loss"], constant[at]["loss"]);
        assert_eq!(cosine[at]["loss"], constant[at]["loss"]);
    }
    assert_ne!(linear[39]["loss"], constant[39]["loss"]);
    assert_ne!(linear[39]["loss"], cosine[39]["loss"]);
    for (item, said) in [
        ("train.decay=0.0", "train.decay cannot be 0.0"),
        ("train.floor=2.0", "train.floor cannot be 2.0"),
    ] {
        folder.run(&format!("{words} -o no --set {item}")).fails("E0956").says(said);
    }
    folder.run(&format!("{words} -o no --set train.schedule=step")).fails("E0955").says("linear");
}

#[test]
fn a_stage_of_pictures_takes_one_to_three_references_and_spread_noise_levels() {
    let more = |count: usize| {
        move |v: &mut Value| {
            let forms = [("face", 0), ("portrait", 5)];
            for (form, frame) in forms.into_iter().take(count) {
                let crop = json!([60, 0, 420, 360]);
                let reference = json!({"role": "aux", "form": form, "clip": form, "media": "pan.mp4",
                                       "frame": frame, "crop": crop});
                v["references"].as_array_mut().unwrap().push(reference);
            }
            v["target"]["frames"] = 1.into();
        }
    };
    let lines: Vec<Value> =
        (0..6).map(|at| sample(&format!("s_{at}"), 8 * at, more(at % 3))).collect();
    let folder = world(&lines);
    let words = "--config run.toml --set video.frames=1 --set train.batch=8 --set train.shift=3.0 \
                 --set train.stratified=true --set train.loss_weight=none --set train.beta2=0.98";
    let check = folder.run(&format!("train check full {words} --json")).fine().json();
    let shapes: Vec<u64> = check["shapes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shape| shape["reference_frames"].as_u64().unwrap())
        .collect();
    assert_eq!(shapes, [1, 2, 3], "one latent frame of each");
    let words = format!("train full {words} --threads 2 --set train.learning_rate=2e-3");
    folder.run(&format!("{words} --steps 12 -o whole")).fine();
    let rows = log(&folder, "whole");
    assert!(error(&rows[9..]) < error(&rows[..3]), "{} {}", error(&rows[9..]), error(&rows[..3]));
    folder.run(&format!("{words} --steps 5 -o cut")).fine();
    folder.run(&format!("{words} --steps 12 -o cut --resume")).fine();
    let name = "transformer.safetensors";
    let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/{name}")));
    assert!(a == b);
    // The next stage: clips, a larger batch, from the values of this one.
    let next = words
        .replace("train.batch=8", "train.batch=16")
        .replace("video.frames=1", "video.frames=5");
    let text = std::fs::read_to_string(folder.path("train.jsonl")).unwrap();
    folder.write("train.jsonl", text.replace("\"frames\":1", "\"frames\":5"));
    folder.run(&format!("{next} --steps 2 -o next --init-from whole/{name}")).fine();
    // Spread levels are other draws, and named where they differ.
    let other = words.replace("train.stratified=true", "train.stratified=false");
    write_lines(&folder, &lines);
    let done = folder.run(&format!("{other} --steps 12 -o whole --resume")).fails("E0963");
    done.says("train.stratified: true, now false");
}

#[test]
fn kernels_of_convolutions_are_matrices_of_outputs_by_all_else() {
    let folder = world(&samples());
    let muon = |pattern: &str| {
        format!(
            "[[group]]\nmatch = \"{pattern}\"\noptimiser = \"muon\"\nlearning_rate = 0.005\n\
             momentum = 0.9\nweight_decay = 0.0\n"
        )
    };
    with(&folder, &muon("*.residual.*.weight"));
    let words = "train full --config run.toml --threads 2 --set train.network=vae \
                 --set train.learning_rate=1e-3";
    folder.run(&format!("{words} --steps 8 -o whole")).fine();
    let rows = log(&folder, "whole");
    let loss = |row: &Value| row["loss"].as_f64().unwrap();
    assert!(loss(&rows[7]) < 0.9 * loss(&rows[0]), "{} {}", loss(&rows[0]), loss(&rows[7]));
    folder.run(&format!("{words} --steps 4 -o cut")).fine();
    folder.run(&format!("{words} --steps 8 -o cut --resume")).fine();
    let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/vae.safetensors")));
    assert!(a == b);
    same_values(&folder, "cut", "whole");
    // A gain has one column.
    with(&folder, &muon("*.residual.*.gamma"));
    folder.run(&format!("{words} -o no")).fails("E0968").says("gamma, of group 1, has the sizes");
}
