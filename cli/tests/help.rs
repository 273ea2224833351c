//! Help, version, usage errors and `explain`.

mod common;

use common::Folder;

const VERBS: [&str; 31] = [
    "generate",
    "serve",
    "init",
    "inspect",
    "export",
    "check",
    "compile",
    "opt",
    "kernels",
    "bisect",
    "dot",
    "run",
    "compare",
    "convert",
    "lora",
    "train",
    "world",
    "data",
    "prompt",
    "eval",
    "annotate",
    "study",
    "watermark",
    "policy",
    "consent",
    "audit",
    "explain",
    "bench",
    "gpu-check",
    "completions",
    "man",
];

#[test]
fn help_lists_the_verbs_and_their_flags() {
    let folder = Folder::new();
    let help = folder.run("--help").fine().out;
    for verb in VERBS {
        assert!(help.contains(&format!("\n  {verb}  ")), "{verb}\n{help}");
        let own = folder.run(&format!("{verb} --help")).fine().out;
        assert!(own.contains(&format!("Usage: anyid-rt {verb}")), "{own}");
    }
    let help = folder.run("generate --help").fine().out;
    for flag in [
        "--ref",
        "--prompt",
        "--output",
        "--model",
        "--transformer",
        "--text-encoder",
        "--vae",
        "--tokenizer",
        "--size",
        "--frames",
        "--fps",
        "--steps",
        "--shift",
        "--guidance",
        "--solver",
        "--schedule",
        "--seed",
        "--noise",
        "--precision",
        "--device",
        "--threads",
        "--save-latents",
        "--recipe",
        "--first-frame",
        "--negative-prompt",
        "--sigmas",
        "--guidance-interval",
        "--cache",
        "--seeds",
        "--jobs",
        "--shard",
        "--resume",
        "--preview",
        "--codec",
        "--quality",
        "--pix-format",
        "--config",
        "--json",
    ] {
        assert!(help.contains(flag), "{flag}\n{help}");
    }
    for (what, flag) in [("dit", "--all"), ("vae", "--direction"), ("text", "--layers")] {
        let help = folder.run(&format!("bench {what} --help")).fine().out;
        for flag in [flag, "--profile", "--repeats", "--precision", "--preset", "--json"] {
            assert!(help.contains(flag), "{flag}\n{help}");
        }
    }
    let help = folder.run("generate --help").fine().out;
    assert!(help.contains("clips of drawn people"), "{help}");
    let version = folder.run("--version").fine().out;
    assert_eq!(version, format!("anyid-rt {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn faults_in_flags_are_input_faults() {
    let folder = Folder::new();
    folder.run("frobnicate").fails("E0900");
    folder.run("generate --prompt x -o a.mp4 --colour red").fails("E0900").says("--colour");
    folder.run("generate -o a.mp4").fails("E0900").says("--prompt");
    folder.run("generate --prompt x -o a.mp4 --precision f16").fails("E0900").says("bf16");
    folder.run("explain").fails("E0900");
    assert_eq!(folder.run("").code, 1);
    assert!(folder.names().is_empty());
}

#[test]
fn the_help_of_training_names_all_three_networks() {
    let folder = Folder::new();
    let help = folder.run("train full --help").fine().out;
    for part in ["vae", "text", "transformer.safetensors", "vae.safetensors", "text_encoder.safet"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn explain_prints_the_page_of_a_code() {
    let folder = Folder::new();
    let page = folder.run("explain e0902").fine().out;
    assert!(page.starts_with("# E0902: ") && page.contains("## What to do"), "{page}");
    let list = folder.run("explain --list").fine().out;
    assert!(list.lines().count() > 100 && list.lines().all(|l| l.starts_with('E')), "{list}");
    folder.run("explain E0999").fails("E0916").says("is it E09");
}

#[test]
fn output_may_be_cut_off_by_its_reader() {
    let folder = Folder::new();
    let mut command = folder.command("explain --list", &[]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn bench_measures_one_kernel() {
    let folder = Folder::new();
    let done = folder.run("bench ops --seconds 0.01 --only rms_norm --threads 1 --json").fine();
    let report = done.json();
    assert_eq!(report["threads"], 1);
    assert!(report["peak"]["f32_gflops"].as_f64().unwrap() > 0.0);
    let kernels = report["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 1);
    assert!(kernels[0]["gb_per_second"].as_f64().unwrap() > 0.0, "{report}");
}
