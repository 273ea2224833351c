//! Adapters in training: what they were trained on is recorded and compared, and none counts twice.

#![cfg(unix)]

mod common;

use anyid_runtime::checkpoint::hash_file;
use common::training::{samples, world};
use common::{Done, Folder};
use serde_json::json;

const LORA: &str = "train lora --config run.toml --threads 2 --steps 1";
const MAKE: &str =
    "generate --prompt x --size 64x64 --frames 5 --steps 1 --force -o x.gif --dry-run";

/// A world with adapters of two runs: `first`, and `second`, which was trained with the first one at scale 3.
fn adapters() -> Folder {
    let folder = world(&samples());
    folder.run(&format!("{LORA} -o first")).fine();
    let first = "--set model.adapters=[\"first/adapter.safetensors:3\"]";
    folder.run(&format!("{LORA} {first} -o second")).fine();
    std::fs::copy(folder.path("first/adapter.safetensors"), folder.path("copy.safetensors"))
        .unwrap();
    folder
}

const FIRST: &str = "first/adapter.safetensors";
const SECOND: &str = "second/adapter.safetensors";

#[test]
fn what_an_adapter_was_trained_on_is_recorded_and_compared() {
    let folder = adapters();
    let sha256 = hash_file(folder.path(FIRST)).unwrap();
    let shown = folder.run(&format!("lora inspect {SECOND}")).fine().out;
    assert!(shown.contains(&format!("with adapter {}… at scale 3", &sha256[..12])), "{shown}");
    let found = folder.run(&format!("lora inspect {SECOND} --json")).fine().json();
    assert_eq!(found["base_adapters"], json!([{"sha256": sha256, "scale": 3.0}]));
    let found = folder.run(&format!("lora inspect {FIRST} --json")).fine().json();
    assert_eq!(found["base_adapters"], json!([]));
    // Another dialect says it as well.
    folder.run(&format!("lora convert {SECOND} --to musubi -o m.safetensors")).fine();
    let found = folder.run("lora inspect m.safetensors --json").fine().json();
    assert_eq!(found["base_adapters"][0]["sha256"], json!(sha256));

    let without = "it was trained on this transformer with adapter ";
    let on = |adapters: &str| format!("--set model.adapters=[{adapters}]");
    let scaled = |scale: f64| format!("{FIRST}:{scale}");
    let quoted = |scale: f64| format!("\"{}\"", scaled(scale));
    let merge = "lora merge micro --force -o merged --lora";
    for (words, warned) in [
        (format!("{MAKE} --model micro --lora {SECOND}"), true),
        (format!("{MAKE} --model micro --lora {} --lora {SECOND}", scaled(3.0)), false),
        (format!("{MAKE} --model micro --lora {SECOND} --lora {}", scaled(3.0)), false),
        (format!("{MAKE} --model micro --lora copy.safetensors:3 --lora {SECOND}"), false),
        (format!("{MAKE} --model micro --lora {} --lora {SECOND}", scaled(1.0)), true),
        (format!("{merge} {SECOND}"), true),
        (format!("{merge} {} --lora {SECOND}", scaled(3.0)), false),
        (format!("lora inspect {SECOND} --model micro"), true),
        (format!("lora inspect {FIRST} --model micro"), false),
        (format!("{LORA} --init-from {SECOND} -o a"), true),
        (format!("{LORA} {} --init-from {SECOND} -o b", on(&quoted(3.0))), false),
        (format!("{LORA} {} -o c", on(&format!("\"{SECOND}\""))), true),
        (format!("{LORA} {} -o d", on(&format!("{}, \"{SECOND}\"", quoted(3.0)))), false),
    ] {
        let words = words.replace(", ", ",");
        let done = folder.run(&words).fine();
        assert_eq!(done.err.contains(without), warned, "{words}\n{}", done.err);
    }
    let other = folder.run(&format!("{MAKE} --model micro --lora {FIRST} --lora {SECOND}")).fine();
    other.says("at scale 3 (here at scale 1): without that");
    // An adapter that is trained on begins in the weights that it was trained in.
    let more = format!("{LORA} {} --init-from {FIRST} -o e", on(&format!("\"{SECOND}\"")));
    folder.run(&more).fine().says("it was trained on this transformer without adapter ");

    // The model with the first one merged in is the one that the second was trained on.
    folder.run(&format!("lora merge micro --lora {} -o m", scaled(3.0))).fine();
    for words in
        [format!("{MAKE} --model m --lora {SECOND}"), format!("lora inspect {SECOND} --model m")]
    {
        let done = folder.run(&words).fine();
        assert!(!done.err.contains("it was trained on"), "{words}\n{}", done.err);
    }
    let shown = folder.run(&format!("lora inspect {SECOND} --model m")).fine().out;
    assert!(shown.contains(": this model, before merging"), "{shown}");
    folder.run(&format!("lora merge micro --lora {} -o n", scaled(1.0))).fine();
    folder.run(&format!("{MAKE} --model n --lora {SECOND}")).fine().says("(here at scale 1)");
    // One adapter that does what both do is one for the transformer alone.
    for both in [format!("{} {SECOND}", scaled(3.0)), format!("{SECOND} {}", scaled(3.0))] {
        folder.run(&format!("lora combine {both} --force -o both.safetensors")).fine();
        let done = folder.run(&format!("{MAKE} --model micro --lora both.safetensors")).fine();
        assert!(!done.err.contains("it was trained on"), "{both}\n{}", done.err);
    }
    folder.run(&format!("lora combine {SECOND} -o one.safetensors")).fine();
    folder.run(&format!("{MAKE} --model micro --lora one.safetensors")).fine().says(without);
}

#[test]
fn an_adapter_that_would_count_twice_is_refused_before_anything_is_done() {
    let folder = adapters();
    folder.run(&format!("lora merge micro --lora {FIRST}:0.5 -o m")).fine();
    let on = |adapters: &str| format!("--set model.adapters=[{adapters}]");
    let both = on(&format!("\"{FIRST}\",\"copy.safetensors:0.5\""));
    let one = on("\"copy.safetensors\"");
    let merged = "is merged into the model already, at scale 0.5";
    let refused = |words: &str| -> Done {
        let done = folder.run(&format!("{LORA} {words} -o out")).fails("E0378");
        assert!(!folder.path("out").exists(), "{words}: nothing was begun");
        done
    };
    let done = refused(&both).says("--> --set model.adapters=");
    done.says(&format!("{FIRST} at scale 1 of model.adapters"))
        .says("copy.safetensors at scale 0.5 of model.adapters are the same adapter");
    folder.run(&format!("train check --config run.toml {both}")).fails("E0378");
    let done = refused(&format!("{one} --init-from {FIRST}"));
    done.says("copy.safetensors at scale 1 of model.adapters and the first values, first/adapter");
    refused(&format!("{one} --set model.path=m")).says(merged);
    refused("--init-from copy.safetensors --set model.path=m").says(merged);
    // What is merged later does not make it forgotten.
    folder.run(&format!("lora merge m --lora {SECOND} -o more")).fine();
    refused(&format!("{one} --set model.path=more")).says(merged);
    // At scale 0 it does not count, and another one is none of these.
    let zero = on("\"copy.safetensors:0\"");
    folder.run(&format!("{LORA} {zero} --init-from {FIRST} -o zero")).fine();
    let other = on(&format!("\"{SECOND}\""));
    folder.run(&format!("{LORA} {other} --init-from {FIRST} -o other")).fine();
}

#[test]
fn adapters_are_refused_where_they_would_do_nothing() {
    let folder = adapters();
    let on = format!("--set model.adapters=[\"{FIRST}\"]");
    for network in ["vae", "text"] {
        let words =
            format!("train full --config run.toml --set train.network={network} {on} -o out");
        folder.run(&words).fails("E0956").says("model.adapters cannot be");
    }
    let full = "train full --config run.toml --threads 2 --steps 1";
    folder.run(&format!("{full} {on} -o whole")).fine();
    // It is in what was trained with it, and first values would replace what it is in.
    let file = "whole/transformer.safetensors";
    let header = folder.run(&format!("inspect {file} --json")).fine().json()["metadata"].clone();
    assert!(header["anyid.merged"].as_str().unwrap().contains("sha256"), "{header}");
    let again = format!("{full} {on} --init-from {file} -o again");
    folder.run(&again).fails("E0966").says("would replace");
    assert!(!folder.path("again").exists() && !folder.path("out").exists());
}
