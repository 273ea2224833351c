//! What `generate` finds out before its first step, and what is kept if a later step fails.

mod common;

use common::{Folder, tensors};
use std::path::Path;

const QUICK: &str = "--size 64x64 --frames 5 --steps 1";

fn generate(folder: &Folder, words: &str) -> common::Done {
    folder.run_with(&format!("generate {words}"), &["--prompt", "a walk"])
}

#[test]
fn a_dry_run_shows_the_phases_and_writes_nothing() {
    let folder = Folder::new();
    let words = format!("{QUICK} --ref @examples/astronaut.png -o out.mp4 --dry-run");
    let done = generate(&folder, &format!("{words} --save-latents l --trace t")).fine();
    for text in ["text", "references", "sampling", "decoding", "kept values", "not known before"] {
        assert!(done.out.contains(text), "{text}\n{}", done.out);
    }
    let json = generate(&folder, &format!("{words} --json")).fine().json();
    let phases = json["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 4);
    let held = |phase: &serde_json::Value| phase["held_bytes"].as_u64().unwrap();
    let most = phases.iter().map(held).max().unwrap();
    assert_eq!(json["most_held_bytes"].as_u64(), Some(most));
    assert!(phases.iter().all(|phase| phase["seconds"].is_null() && held(phase) > 0));
    assert_eq!(json["run"]["frames"], 5);
    assert_eq!(folder.names(), [""; 0]);
    // What a real run would refuse is refused here too.
    generate(&folder, "-o no/out.mp4 --dry-run").fails("E1010");
}

#[test]
fn a_run_that_does_not_fit_ends_with_exit_code_3_before_sampling() {
    let folder = Folder::new();
    let done =
        generate(&folder, "--model @micro -o big --size 16384x16384 --frames 4093 --steps 1");
    let done = done.fails("E0603").says("needs").says("weights");
    assert_eq!(done.code, 3);
    assert!(!done.err.contains("sampling: step"), "{}", done.err);
    let text = "module @a\nfunc @m() -> i32[] {\n  %y = iota {axis=0} : i32[1099511627776]\n  \
                %r = reduce_max %y {axes=[0]}\n  return %r\n}\n";
    folder.write("i.ir", text);
    assert_eq!(folder.run("run i.ir -o y.st").fails("E0603").code, 3);
    assert_eq!(folder.names(), ["i.ir"]);
}

#[test]
fn a_budget_is_kept_and_what_is_done_for_it_is_said_and_repeated() {
    let folder = Folder::new();
    let words = "--model @micro --size 384x384 --frames 5 --steps 1 --precision f32";
    let whole = generate(&folder, &format!("{words} -o a.gif --dry-run --json")).fine().json();
    let most = |json: &serde_json::Value| json["most_held_bytes"].as_u64().unwrap();
    let less = most(&whole) * 6 / 10;
    assert!(whole["run"]["tiles"].is_null(), "{whole}");
    let fitted = format!("{words} --budget {less}");
    let dry = generate(&folder, &format!("{fitted} -o a.gif --dry-run --json")).fine().json();
    assert!(most(&dry) <= less, "{dry}");
    let tiles = &dry["phases"].as_array().unwrap().last().unwrap()["tiles"];
    assert_eq!(tiles["overlap"], 64);
    assert_eq!(dry["run"]["tiles"]["decoder"], tiles["pixels"]);
    assert_eq!(dry["run"]["version"], 4);
    let dry = generate(&folder, &format!("{fitted} -o a.gif --dry-run")).fine();
    assert!(dry.out.contains("tiles of"), "{}", dry.out);
    // As much as there is free is enough here.
    let free = generate(&folder, &format!("{words} --budget auto -o a.gif --dry-run --json"));
    assert_eq!(most(&free.fine().json()), most(&whole));
    let done = generate(&folder, &format!("{fitted} -o a.gif")).fine();
    assert!(done.err.contains("tiles of") && done.err.contains("differs slightly"), "{}", done.err);
    let recipe = folder.run("inspect a.gif.recipe.json").fine();
    assert!(recipe.out.contains("decoded       in tiles of"), "{}", recipe.out);
    folder.run("generate --recipe a.gif.recipe.json -o b.gif").fine();
    generate(&folder, &format!("{words} -o c.gif")).fine();
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(read("a.gif") == read("b.gif") && read("a.gif") != read("c.gif"));
    let done = generate(&folder, &format!("{words} --budget 100KiB -o d.gif")).fails("E0603");
    assert_eq!(done.code, 3);
    done.says("the budget is 100 KiB").says("a larger budget");
    assert!(!folder.names().contains(&"d.gif".to_owned()));
}

#[test]
fn weights_that_are_read_again_give_the_same_file() {
    let folder = Folder::new();
    let words = "--model @micro --size 32x32 --frames 1 --steps 2 --precision f32";
    let whole = generate(&folder, &format!("{words} -o a.gif --dry-run --json")).fine().json();
    let phases = whole["phases"].as_array().unwrap();
    let held = |name: &str| {
        let phase = phases.iter().find(|phase| phase["name"] == name).unwrap();
        phase["held_bytes"].as_u64().unwrap()
    };
    let most = ["text", "sampling"].map(held).into_iter().max().unwrap();
    let budget = (most - 1).max(held("decoding"));
    assert!(budget < most, "{whole}");
    let fitted = format!("{words} --budget {budget}");
    let dry = generate(&folder, &format!("{fitted} -o a.gif --dry-run --json")).fine().json();
    let streamed = |phase: &serde_json::Value| phase["streamed_bytes"].as_u64().unwrap() > 0;
    assert!(dry["phases"].as_array().unwrap().iter().any(streamed), "{dry}");
    assert!(dry["run"]["tiles"].is_null(), "{dry}");
    let done = generate(&folder, &format!("{fitted} -o a.gif")).fine();
    assert!(done.err.contains("are read again"), "{}", done.err);
    generate(&folder, &format!("{words} -o b.gif")).fine();
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(read("a.gif") == read("b.gif"));
}

#[test]
fn budgets_and_tiles_of_nonsense_are_refused() {
    let folder = Folder::new();
    let all = ["0", "-1", "0GiB", "-4GiB", "GiB", "1e9", "nan", "inf", "none", "8 GiBs", "½GiB"];
    for bad in all.into_iter().chain(["99999999999TiB", "8GiB,4GiB", "12,5GiB", "0x10", "."]) {
        let words = ["--prompt", "x", "-o", "a.gif", "--budget", bad];
        let done = folder.run_with("generate", &words).fails("E0602");
        assert!(done.err.contains("--budget"), "{bad}\n{}", done.err);
    }
    for bad in ["0x0", "64x64", "192", "x", "-192x192", "axb", "192x191"] {
        let words = ["--prompt", "x", "-o", "a.gif", "--size", "448x448", "--tile", bad];
        let done = folder.run_with("generate --model @micro", &words).fails("E0901");
        assert!(done.err.contains("--tile"), "{bad}\n{}", done.err);
    }
    assert_eq!(folder.names(), [""; 0]);
}

/// Names of files that exist, each as one kind of input.
fn inputs(folder: &Folder) -> Vec<(&'static str, &'static str)> {
    let picture = std::fs::read(common::repository().join("examples/astronaut.png")).unwrap();
    folder.write("me.png", picture);
    generate(folder, &format!("{QUICK} -o first.gif --save-latents l.safetensors")).fine();
    let latents = tensors(&folder.path("l.safetensors")).remove("latents").unwrap();
    common::save(&folder.path("n.safetensors"), &[("noise", &latents)]);
    folder.run("init m --random-weights").fine();
    vec![
        ("me.png", "--ref me.png --prompt x"),
        ("n.safetensors", "--noise n.safetensors --prompt x"),
        ("first.gif.recipe.json", "--recipe first.gif.recipe.json"),
        ("l.safetensors", "--latents l.safetensors"),
        ("m/vae/diffusion_pytorch_model.safetensors", "--model m --prompt x"),
        ("m/tokenizer/tokenizer.json", "--model m --prompt x"),
    ]
}

#[test]
fn no_output_is_an_input() {
    let folder = Folder::new();
    for (file, words) in inputs(&folder) {
        let before = std::fs::read(folder.path(file)).unwrap();
        let size = if words.contains("--latents") { "" } else { QUICK };
        let names = folder.names();
        let mut spellings = vec![file.to_owned(), format!("./m/..//{file}")];
        #[cfg(unix)]
        {
            std::fs::hard_link(folder.path(file), folder.path("hard")).unwrap();
            std::os::unix::fs::symlink(folder.path(file), folder.path("soft")).unwrap();
            spellings.extend(["hard".to_owned(), "soft".to_owned()]);
        }
        for spelling in &spellings {
            let mut outputs = vec![format!("-o new.gif --trace {spelling}")];
            if !words.contains("--latents") {
                outputs.push(format!("-o new.gif --save-latents {spelling}"));
            }
            // As a video and as the recipe of one.
            if spelling.ends_with(".recipe.json") {
                outputs.push(format!("-o {}", spelling.trim_end_matches(".recipe.json")));
            } else if spelling.contains('.') {
                outputs.push(format!("-o {spelling}"));
            }
            for output in outputs {
                // Replacing on purpose does not mean an input.
                for force in ["", "--force"] {
                    let whole = format!("generate {words} {size} {output} {force}");
                    let own = spelling.ends_with(".recipe.json") && output.starts_with("-o first");
                    let own = own || output.starts_with("-o ./m/..//first");
                    if own && force == "--force" {
                        continue;
                    }
                    let done = folder.run(&whole);
                    assert_eq!(done.code, 1, "{whole}\n{}", done.err);
                    let codes = ["E0950", "E1016"];
                    let right = codes.iter().any(|code| done.err.contains(code));
                    assert!(right, "{whole}\n{}", done.err);
                    assert!(force.is_empty() || done.err.contains("E0950"), "{}", done.err);
                    assert_eq!(std::fs::read(folder.path(file)).unwrap(), before, "{whole}");
                }
            }
        }
        let _ = std::fs::remove_file(folder.path("hard"));
        let _ = std::fs::remove_file(folder.path("soft"));
        assert_eq!(folder.names(), names, "{file}");
    }
}

#[test]
fn no_two_outputs_are_one_file() {
    let folder = Folder::new();
    #[cfg(unix)]
    std::os::unix::fs::symlink("o.gif", folder.path("link.gif")).unwrap();
    let before = folder.names();
    for (words, code) in [
        ("-o o.gif --save-latents o.gif", "E0951"),
        ("-o o.gif --save-latents ./o.gif", "E0951"),
        ("-o o.gif --trace o.gif", "E0951"),
        ("-o o.gif --trace link.gif", "E0951"),
        ("-o o.gif --save-latents o.gif.recipe.json", "E0951"),
        ("-o o.gif --trace o.gif.recipe.json", "E0951"),
        ("-o o.gif --trace o.gif.latents.safetensors", "E0951"),
        ("-o o.gif --save-latents x --trace x", "E0951"),
        ("-o link.gif --save-latents o.gif", "E0951"),
    ] {
        if cfg!(unix) || !words.contains("link") {
            generate(&folder, &format!("{QUICK} {words}")).fails(code);
            assert_eq!(folder.names(), before, "{words}");
        }
    }
    generate(&folder, &format!("{QUICK} -o frames")).fine();
    for words in [
        "-o frames --force --save-latents frames/l",
        "-o frames/ --force --trace frames/frame_00000.png",
        "-o frames --force --ref frames/frame_00000.png",
    ] {
        generate(&folder, &format!("{QUICK} {words}")).fails("E0952");
    }
    assert_eq!(std::fs::read_dir(folder.path("frames")).unwrap().count(), 5);
}

#[test]
fn other_verbs_spare_their_inputs_too() {
    let folder = Folder::new();
    let text = "module @a\nfunc @m(%x: f32[2]) -> f32[2] {\n  %y = add %x, %x\n  return %y\n}\n";
    folder.write("a.ir", text);
    let x = anyid_ir::Tensor::from_f32([2], &[1.0, 2.0]).unwrap();
    common::save(&folder.path("x.st"), &[("x", &x)]);
    common::save(&folder.path("w.safetensors"), &[("w", &x)]);
    folder.run("compile a.ir -o a.plan").fine();
    folder.run("init m --random-weights").fine();
    let before = folder.names();
    let plan = std::fs::read(folder.path("a.plan")).unwrap();
    for words in [
        "run a.ir --inputs x.st -o a.ir",
        "run a.ir --inputs x.st -o x.st",
        "run a.ir --inputs x.st -o ./x.st",
        "run a.ir --inputs x.st -o y.st --trace x.st",
        "run a.ir --inputs x.st --weights w.safetensors --allow-extra -o w.safetensors",
        "run a.plan --inputs x.st -o a.plan",
        "run a.plan --inputs x.st -o y.st --trace a.plan",
        "compile a.ir -o a.ir",
        "opt a.ir -o ./a.ir",
        "export dit --model m -o m/transformer/config.json",
    ] {
        folder.run(words).fails("E0950");
        assert_eq!(folder.names(), before, "{words}");
    }
    folder.run("run a.ir --inputs x.st -o y.st --trace y.st").fails("E0951");
    assert_eq!(std::fs::read_to_string(folder.path("a.ir")).unwrap(), text);
    assert_eq!(std::fs::read(folder.path("a.plan")).unwrap(), plan);
}

/// Overwrites the end of a tensor of the folder's autoencoder with a value that is no number.
fn spoil(folder: &Folder, tensor: &str) {
    let path = folder.path("m/vae/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = 8 + length + header[tensor]["data_offsets"][1].as_u64().unwrap() as usize;
    bytes[end - 4..end].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_decoding_that_fails_does_not_cost_the_sampling() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    let words = format!("--model m {QUICK} --seed 3");
    generate(&folder, &format!("{words} -o whole.gif")).fine();
    assert_eq!(folder.names(), ["m", "whole.gif", "whole.gif.recipe.json"]);
    let vae = "m/vae/diffusion_pytorch_model.safetensors";
    let sound = std::fs::read(folder.path(vae)).unwrap();
    spoil(&folder, "decoder.conv_out.bias");
    let failed = generate(&folder, &format!("{words} -o out.gif")).fails("E1001");
    failed.says("the decoder").says("out.gif.latents.safetensors").says("--latents");
    let kept = "out.gif.latents.safetensors";
    assert_eq!(folder.names(), ["m", kept, "whole.gif", "whole.gif.recipe.json"]);
    // A second run does not destroy what the first one left.
    generate(&folder, &format!("{words} -o out.gif")).fails("E1016");
    // The model is not the one of the run: said, and taken when it is named.
    std::fs::write(folder.path(vae), &sound).unwrap();
    folder.run(&format!("generate --latents {kept}")).fails("E0905").says("autoencoder");
    folder.run(&format!("generate --latents {kept} --model m")).fine();
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(read("out.gif") == read("whole.gif"), "the same video as in one go");
    let recipe: serde_json::Value = serde_json::from_slice(&read("out.gif.recipe.json")).unwrap();
    assert_eq!((&recipe["seed"], &recipe["prompt"]), (&3.into(), &"a walk".into()));
    assert!(recipe["decoded_from"]["path"].as_str().unwrap().ends_with(kept));

    // Where it was asked for.
    spoil(&folder, "decoder.conv_out.bias");
    generate(&folder, &format!("{words} -o b.gif --save-latents b.st")).fails("E1001").says("b.st");
    assert!(folder.path("b.st").exists() && !folder.path("b.gif").exists());
}

#[test]
fn latents_without_a_recipe_are_decoded_and_repeated() {
    let folder = Folder::new();
    generate(
        &folder,
        &format!("--model @micro {QUICK} -o a.gif --no-recipe-inside --save-latents l.st"),
    )
    .fine();
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    let latents = tensors(&folder.path("l.st")).remove("latents").unwrap();
    common::save(&folder.path("bare.st"), &[("latents", &latents)]);
    folder.run("generate --latents bare.st").fails("E0900").says("--output");
    folder
        .run("generate --model @micro --latents bare.st -o b.gif --no-recipe-inside")
        .fine()
        .says("decoded from latents");
    assert!(read("a.gif") == read("b.gif"));
    folder.run("generate --recipe b.gif.recipe.json -o c.gif --no-recipe-inside").fine();
    assert!(read("a.gif") == read("c.gif"));
    let shown = folder.run("inspect b.gif.recipe.json --json").fine().json();
    assert!(shown.to_string().contains("bare.st"), "{shown}");
    std::fs::remove_file(folder.path("bare.st")).unwrap();
    folder.run("generate --recipe b.gif.recipe.json -o d.gif").fails("E0905");

    common::save(&folder.path("other.st"), &[("noise", &latents)]);
    folder.run("generate --latents other.st -o e.gif").fails("E0953").says("noise");
    let odd = anyid_ir::Tensor::from_f32([48, 1, 3, 4], &[0.0; 576]).unwrap();
    common::save(&folder.path("odd.st"), &[("latents", &odd)]);
    folder.run("generate --latents odd.st -o e.gif").fails("E0953");
    let few = anyid_ir::Tensor::from_f32([4, 1, 2, 4], &[0.0; 32]).unwrap();
    common::save(&folder.path("few.st"), &[("latents", &few)]);
    folder.run("generate --model @micro --latents few.st -o e.gif").fails("E0906");
    let bad = anyid_ir::Tensor::from_f32([48, 1, 2, 2], &[f32::NAN; 192]).unwrap();
    common::save(&folder.path("bad.st"), &[("latents", &bad)]);
    folder
        .run("generate --model @micro --latents bad.st -o e.gif")
        .fails("E1001")
        .says("the latents");
    folder.run("generate --latents l.st --steps 3").fails("E0900");
}

/// The file size limit of a shell stands for a full disk: the video does not fit, the latents do.
#[test]
#[cfg(unix)]
fn a_disk_that_is_full_at_the_end_leaves_the_latents() {
    let folder = Folder::new();
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    // 32 KiB: latents are 24 KiB, ten frames of noise are more.
    let line = format!(
        "ulimit -f 32; exec {program} generate --model {} --prompt x -o o.gif --size 128x128 --frames 5 \
         --steps 1",
        common::micro().display()
    );
    let done = folder.other("bash").args(["-c", &line]).output();
    let done = done.unwrap_or_else(|e| panic!("bash is needed: {e}"));
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert!(text.contains("error[E1013]") && text.contains("--latents"), "{text}");
    assert_eq!(folder.names(), ["o.gif.latents.safetensors"]);
    folder.run("generate --latents o.gif.latents.safetensors").fine();
    assert!(folder.path("o.gif").exists());
}

/// Interrupted while frames are decoded: the latents are there.
#[test]
#[cfg(unix)]
fn an_interrupt_while_decoding_leaves_the_latents() {
    let folder = Folder::new();
    let words = "generate --model @micro --prompt x -o o.gif --size 256x256 --frames 121 --steps 1 \
                 --guidance 1";
    let mut child = folder
        .command(words, &[])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let kept = folder.path("o.gif.latents.safetensors");
    while !kept.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it decoded");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(folder.names(), ["o.gif.latents.safetensors"]);
    assert!(Path::new(&kept).metadata().unwrap().len() > 1000);
}
