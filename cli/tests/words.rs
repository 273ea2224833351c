//! What the program prints for its users: advice, errors as JSON, and how much is printed.

mod common;

use common::Folder;

const SMALL: &str = "generate --prompt x --size 64x64 --frames 1 --steps 1";

#[test]
fn flags_of_other_programs_get_advice() {
    let folder = Folder::new();
    for (flags, advice) in [
        ("--width 640 --height 480", "--size 832x480"),
        ("--cfg 7", "the guidance scale is --guidance"),
        ("--neg-prompt blurry", "--negative-prompt"),
        ("--num_frames 81", "the number of frames is --frames"),
        ("--seed -1", "`--seed random`"),
        ("--overwrite", "--force"),
    ] {
        folder.run(&format!("{SMALL} -o a.mp4 {flags}")).fails("E0900").says(advice);
    }
    folder.run("t2v --prompt x").fails("E0900").says("anyid-rt generate");
    folder.run("decode out.safetensors").fails("E0900").says("generate --latents FILE");
    folder.run("doctor me.jpg").fails("E0900").says("anyid-rt check refs");
    folder.run("me.jpg").fails("E0900").says("a verb comes first");
    assert!(folder.names().is_empty());
}

#[test]
fn errors_are_json_where_results_would_be() {
    let folder = Folder::new();
    let done = folder.run(&format!("{SMALL} -o a.mp4 --json --ref missing.png")).fails("E0801");
    let error = &done.json()["error"];
    assert_eq!(error["code"], "E0801");
    assert_eq!(error["exit_code"], 1);
    assert!(error["place"].as_str().unwrap().contains("missing.png"), "{error}");
    assert!(error["help"].is_string() && error["causes"][0].is_string(), "{error}");
    for words in [
        "inspect missing --json",
        "check missing.ir --json",
        "compile missing.ir --json",
        "kernels missing.ir --json",
        "compare missing.ir --json",
        "bisect missing.ir --json",
        "bench dit --preset none --json",
        "generate --prompt x -o a.mp4 --json --cfg 3",
    ] {
        let done = folder.run(words);
        assert_eq!(done.code, 1, "{words}");
        let code = done.json()["error"]["code"].as_str().unwrap().to_owned();
        assert!(done.err.contains(&format!("error[{code}]")), "{words}: {}", done.err);
    }
    folder.write("bad.ir", "module @m\nfunc @f(%x: f32[4]) -> f32[4] {\n  return %y\n}\n");
    let done = folder.run("compile bad.ir --json");
    assert_eq!((done.code, done.json()["findings"].as_array().unwrap().len()), (1, 1));
    // Nothing but the error's words without the flag.
    assert_eq!(folder.run("inspect missing").fails("E0911").out, "");
}

#[test]
fn quiet_leaves_warnings_and_the_result_and_verbose_tells_more() {
    let folder = Folder::new();
    let plain = folder.run(&format!("{SMALL} -o a.gif")).fine();
    assert!(plain.err.contains("seed 0") && plain.err.contains("sampling"), "{}", plain.err);
    let quiet = folder.run(&format!("{SMALL} -o b.gif -q")).fine();
    assert!(quiet.out.contains("b.gif"), "{}", quiet.out);
    let rest: Vec<&str> = quiet.err.lines().filter(|l| !l.starts_with("warning")).collect();
    assert!(rest.is_empty(), "{rest:?}");
    let verbose = folder.run(&format!("-v {SMALL} -o c.gif --ref @examples/astronaut.png")).fine();
    for part in ["astronaut.png: PNG picture, 512x512", "instructions", "text took"] {
        assert!(verbose.err.contains(part), "{part}\n{}", verbose.err);
    }
    folder.run(&format!("{SMALL} -o d.gif -q -v")).fails("E0900");
}

#[test]
fn a_drawn_seed_is_told_and_recorded() {
    let folder = Folder::new();
    let mut seeds = Vec::new();
    for name in ["a.gif", "b.gif"] {
        let done = folder.run(&format!("{SMALL} -o {name} --seed random")).fine();
        let recipe = std::fs::read(folder.path(&format!("{name}.recipe.json"))).unwrap();
        let recipe: serde_json::Value = serde_json::from_slice(&recipe).unwrap();
        let seed = recipe["seed"].as_u64().unwrap();
        assert!(done.err.contains(&format!("seed {seed}")), "{}", done.err);
        seeds.push(seed);
    }
    assert_ne!(seeds[0], seeds[1]);
    folder.run("generate --recipe a.gif.recipe.json -o again.gif").fine();
    let bytes = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert_eq!(bytes("a.gif"), bytes("again.gif"));
}

#[test]
fn names_of_models_on_a_hub_are_no_downloads() {
    let folder = Folder::new();
    let words = format!("{SMALL} -o a.mp4 --model Wan-AI/Wan2.2-TI2V-5B-Diffusers");
    folder
        .run(&words)
        .fails("E0701")
        .says("hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers --local-dir Wan2.2-TI2V-5B-Diffusers");
    folder.write("models/readme", "");
    folder
        .run(&format!("{SMALL} -o a.mp4 --model models/none"))
        .fails("E0701")
        .says("check the path");
}

#[test]
fn missing_tensors_are_named_as_the_file_names_them() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    let path = folder.path("m/transformer/diffusion_pytorch_model.safetensors");
    let file = anyid_runtime::checkpoint::Checkpoint::open(&path).unwrap();
    let gone = "blocks.1.attn2.to_out.0.weight";
    let kept: Vec<_> = file
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| *name != gone)
        .map(|(at, (name, entry))| {
            (name.to_owned(), entry.encoding, entry.shape.clone(), file.contents(at).unwrap())
        })
        .collect();
    let rows: Vec<_> = kept
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            (name.as_str(), *dtype, shape.as_slice(), bytes.as_slice())
        })
        .collect();
    let count = file.len();
    assert_eq!(rows.len() + 1, count, "there was such a tensor");
    anyid_runtime::checkpoint::save(&path, &rows, &std::collections::BTreeMap::new()).unwrap();
    folder.run("inspect m").fails("E0301").says(&format!("1 of {count} tensors missing: `{gone}`"));
}

#[test]
fn files_of_other_kinds_are_named() {
    let folder = Folder::new();
    for (name, bytes, says) in [
        ("a.ggml", &b"lmgg\x03\0\0\0"[..], "a file of ggml from before GGUF"),
        ("a.bin", b"\x80\x02}q\0", "a Python pickle"),
        ("a.npz", b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0x.npy", "NumPy arrays"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("b.safetensors", b"<!DOCTYPE html><html>", "a web page"),
        ("empty.safetensors", b"", "the file is empty"),
        ("empty.ir", b"", "the file is empty"),
        ("noise", b"\x01\x02\x03\x04", "no known kind"),
    ] {
        folder.write(name, bytes);
        folder.run(&format!("inspect {name}")).fails("E0915").says(says).says("help: ");
    }
    folder.write("a.pth", b"PK\x03\x04\0\0\0\0\0\0\0\0archive/data.pkl");
    folder.run("inspect a.pth").fails("E0974").says("cut off").says("help: ");
    folder.write("a.gguf", b"GGUF\x03\0\0\0");
    folder.run("inspect a.gguf").fails("E0333").says("cut off").says("help: ");
}
