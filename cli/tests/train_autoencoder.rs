//! Training of the autoencoder as users meet it: from pictures and clips to a model that gives them back.

mod common;

use common::training::{SETTINGS, bytes, goes_on, log, sample, world};
use common::{Folder, tensors};
use serde_json::{Value, json};

const FULL: &str = "train full --config run.toml --threads 2 --set train.network=vae \
                    --set model.path=m --set train.batch=3 --set train.learning_rate=5e-3 \
                    --set video.width=32 --set video.height=32";

/// How much nearer the clips come back than before, in decibels.
const GAINED: f64 = 6.0;

/// A folder with three clips and a model with random weights.
fn folder() -> Folder {
    let lines: Vec<Value> = (0..3).map(|at| sample(&format!("s_{at}"), 20 * at, |_| {})).collect();
    let folder = world(&lines);
    folder.run("init m --random-weights").fine();
    folder
}

/// What the model in `m` makes of the pictures, in decibels.
fn decoded(folder: &Folder) -> f64 {
    let words = format!("{FULL} --set video.frames=1 -o check --json");
    let check = folder.run(&words.replace("train full", "train check full")).fine().json();
    assert_eq!(check["shapes"][0]["what"], "1 frame of 32x32");
    assert_eq!((&check["shapes"][0]["tokens"], &check["levels"]), (&Value::Null, &json!([])));
    let psnr = check["sheet"]["psnr"].as_array().unwrap();
    psnr.iter().map(|value| value.as_f64().unwrap()).sum::<f64>() / psnr.len() as f64
}

#[test]
fn an_autoencoder_learns_to_give_pictures_back() {
    let folder = folder();
    let before = decoded(&folder);
    let words = format!("{FULL} --set video.frames=1 --steps 140 --set run.checkpoint_every=70");
    let measured = "--set data.validation=train.jsonl --set run.validate_every=70";
    folder.run(&format!("{words} {measured}")).fine();
    let entries = std::fs::read_dir(folder.path("cache")).unwrap().count();
    assert_eq!(entries, 3, "pixels of three clips, and neither references nor prompts");
    let rows = log(&folder, "run");
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    assert!(of(&rows[139], "loss") < 0.6 * of(&rows[0], "loss"), "{} {}", rows[0], rows[139]);
    assert!(rows[139].get("psnr_later").is_none(), "there is one frame");
    // What is measured is without noise, and what the model in its folder does then.
    let measured = of(&rows[139]["validation"], "psnr_first");
    let target = folder.path("m/vae/diffusion_pytorch_model.safetensors");
    let [old, new] = [&target, &folder.path("run/vae.safetensors")].map(|path| tensors(path));
    assert!(old.len() > 50 && old.keys().eq(new.keys()), "names are those of the model");
    assert!(old.iter().all(|(name, tensor)| tensor.ty() == new[name].ty()));
    std::fs::copy(folder.path("run/vae.safetensors"), target).unwrap();
    let after = decoded(&folder);
    println!("{before} dB before, {after} behind, {measured} measured");
    assert!(after > before + GAINED, "{before} {after}");
    // Pixels are rounded to bytes there.
    assert!((after - measured).abs() < 0.3, "{after} {measured}");

    // The configuration has the statistics of the new latents, and nothing else is another.
    let config = |path: &str| -> Value { serde_json::from_slice(&bytes(&folder, path)).unwrap() };
    let [mut old, mut new] = ["m/vae/config.json", "run/vae.json"].map(config);
    for (key, few) in [("latents_mean", -100.0), ("latents_std", 0.0)] {
        let [old, new] = [&mut old, &mut new].map(|config| config[key].take());
        assert!(old != new && new.as_array().unwrap().len() == 48);
        assert!(new.as_array().unwrap().iter().all(|value| value.as_f64().unwrap() > few));
    }
    assert_eq!(old, new);
    assert_eq!(bytes(&folder, "run/vae-best.json").len(), bytes(&folder, "run/vae.json").len());
    // Normalised by them, latents come back as they were.
    std::fs::copy(folder.path("run/vae.json"), folder.path("m/vae/config.json")).unwrap();
    let normalised = decoded(&folder);
    assert!((normalised - after).abs() < 0.1, "{normalised} {after}");

    // Clips go on from pictures.
    let clips = format!("{FULL} --steps 2 -o clips --init-from run/vae.safetensors");
    folder.run(&clips).fine();
    let row = &log(&folder, "clips")[0];
    assert!(of(row, "psnr_first") > before + 4.0 && row["psnr_later"].is_f64(), "{row}");
    folder.run("generate --model m --prompt x --size 32x32 --frames 5 --steps 2 -o x.gif").fine();
    let adapter = "--set lora.rank=2 --steps 1 -o adapter";
    let lora = format!("train lora --config run.toml {adapter} --init-from run/vae.safetensors");
    folder.run(&lora).fails("E0360");
}

#[test]
fn it_goes_on_to_the_same_bits_whatever_goes_together() {
    let folder = folder();
    goes_on(&folder, FULL, &["vae.safetensors", "vae.json"]);
    folder.run(&format!("{FULL} --steps 1 -o all --set train.together=3")).fine();
    let [one, all] = ["whole", "all"].map(|run| log(&folder, run)[0]["loss"].as_f64().unwrap());
    assert_eq!(one, all, "each clip has the loss that it has alone");
    let text = folder.run(&format!("{FULL} -o whole --set train.latent_noise=0.1 --resume"));
    text.fails("E0963").says("train.latent_noise: 0.05, now 0.1");
}

#[test]
fn groups_of_parameters_are_those_of_the_autoencoder() {
    let folder = folder();
    let group =
        "[[group]]\nmatch = \"*.residual.*.weight\"\noptimiser = \"muon\"\nlearning_rate = 0.02\n";
    folder.write("muon.toml", format!("{SETTINGS}{group}"));
    let words = FULL.replace("run.toml", "muon.toml");
    folder.run(&format!("{words} --set video.frames=1 --steps 2 -o muon")).fine();
    let moved = &log(&folder, "muon")[1]["moved"];
    assert!(moved["encoder.middle.0.residual.2.weight"].as_f64().unwrap() > 1e-3, "{moved}");
    folder.write("other.toml", format!("{SETTINGS}{}", group.replace("residual", "self_attn")));
    let done = folder.run(&FULL.replace("run.toml", "other.toml")).fails("E0965");
    done.says("no trained parameter is called");
}

#[test]
fn what_the_autoencoder_cannot_be_trained_for_is_refused() {
    let folder = folder();
    for kind in ["lora", "dpo"] {
        let words = FULL.replace("train full", &format!("train {kind}"));
        let done = folder.run(&words).fails("E0976");
        done.says("train.network is \"vae\", and adapters are of the transformer");
    }
    let done = folder.run(&format!("{FULL} --set run.samples=2")).fails("E0976");
    done.says("videos need the transformer");
    folder.run(&format!("{FULL} --set model.precision=bf16")).fails("E0976").says("in f32");
    folder.run(&format!("{FULL} --set train.network=code")).fails("E0955").says("code");
    let first = "--init-from m/transformer/diffusion_pytorch_model.safetensors";
    let done = folder.run(&format!("{FULL} {first}")).fails("E0972");
    done.says("this is a whole transformer, not a whole autoencoder");
    assert!(!folder.path("run/vae.safetensors").exists());
}
