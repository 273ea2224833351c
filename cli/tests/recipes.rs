//! Recipes inside results: every form, repeating from them, leaving them out, and settings of others.

mod common;

use common::Folder;
use serde_json::Value;

/// A small, quick run.
const QUICK: &str = "--size 96x64 --frames 5 --steps 2 --seed 3";

fn prompt(folder: &Folder, words: &str) -> common::Done {
    folder.run_with(
        &format!("generate {words}"),
        &["--prompt", "a person walks, \u{fc}n\u{ef}code = # ;"],
    )
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_result_repeats_itself_without_the_file_beside_it() {
    let folder = Folder::new();
    let picture = common::repository().join("examples/astronaut.png");
    folder.write("secret-folder/person.png", std::fs::read(&picture).unwrap());
    let reference = "--ref secret-folder/person.png";
    for (name, first, again) in [
        ("out.mp4", "out.mp4", "again.mp4"),
        ("out.gif", "out.gif", "again.gif"),
        ("frames", "frames/frame_00000.png", "again/frame_00000.png"),
    ] {
        prompt(&folder, &format!("{reference} -o {name} {QUICK}")).fine();
        let made = bytes(&folder, first);
        // The recipe beside it knows where the reference is.
        folder.run(&format!("generate --recipe {name} -o by-{name}")).fine();
        assert!(made == bytes(&folder, &format!("by-{first}")), "{name}: another file");
        std::fs::remove_file(folder.path(&format!("{name}.recipe.json"))).unwrap();
        assert!(!holds(&made, "secret-folder"), "{name} tells where its reference lay");
        let found = folder.run(&format!("inspect {name} --json")).fine().json();
        assert_eq!(
            (&found["recipe_from"], &found["recipe"]["seed"]),
            (&"inside".into(), &3.into())
        );
        let text = folder.run(&format!("inspect {first}")).fine().out;
        assert!(text.contains("recipe inside") && text.contains("person.png"), "{text}");
        // The reference is found beside the result alone.
        let repeat = format!("generate --recipe {name} -o {}", again.split('/').next().unwrap());
        folder.run(&repeat).fails("E0905").says("person.png");
        folder.write("person.png", b"another");
        folder.run(&repeat).fails("E0905").says("another file");
        folder.write("person.png", std::fs::read(&picture).unwrap());
        folder.run(&repeat).fine();
        assert!(made == bytes(&folder, again), "{name}: its recipe gives another file");
        std::fs::remove_file(folder.path("person.png")).unwrap();
    }
    folder.write("person.png", std::fs::read(&picture).unwrap());
    folder.run("generate --recipe out.mp4").fails("E0900").says("where the video goes");
    std::fs::remove_file(folder.path("person.png")).unwrap();
    // In another folder, with the reference there.
    std::fs::create_dir(folder.path("far")).unwrap();
    std::fs::rename(folder.path("out.mp4"), folder.path("far/out.mp4")).unwrap();
    folder.write("far/person.png", std::fs::read(&picture).unwrap());
    folder.run("generate --recipe far/out.mp4 -o third.mp4").fine();
    assert!(bytes(&folder, "again.mp4") == bytes(&folder, "third.mp4"));
}

#[test]
fn a_pipe_gets_the_recipe_too_and_a_flag_leaves_it_out() {
    let folder = Folder::new();
    prompt(&folder, &format!("-o with.mp4 {QUICK}")).fine();
    prompt(&folder, &format!("-o without.mp4 {QUICK} --no-recipe-inside")).fine();
    let (with, without) = (bytes(&folder, "with.mp4"), bytes(&folder, "without.mp4"));
    assert!(holds(&with, "a person walks") && !holds(&without, "a person walks"));
    assert!(folder.path("without.mp4.recipe.json").exists());
    folder.run("generate --recipe without.mp4 -o x.mp4").fails("E0910").says("no recipe inside");
    folder.run("generate --recipe without.mp4.recipe.json -o with-again.mp4").fine();
    assert!(with == bytes(&folder, "with-again.mp4"), "the flag is part of the recipe");
    let words = format!("generate -o - {QUICK}");
    let text = ["--prompt", "a person walks, \u{fc}n\u{ef}code = # ;"];
    let piped = folder.command(&words, &text).output().unwrap();
    assert!(piped.status.success() && piped.stdout == with, "a pipe gets another video");
    // The one beside counts, and a difference is said.
    let beside = String::from_utf8(bytes(&folder, "with.mp4.recipe.json")).unwrap();
    folder.write("with.mp4.recipe.json", beside.replace("\"seed\": 3", "\"seed\": 4"));
    let done = folder.run("inspect with.mp4 --json").fine().says("another one than that beside");
    let found = done.json();
    assert_eq!((&found["recipe_from"], &found["recipe"]["seed"]), (&"beside".into(), &4.into()));
}

#[test]
fn a_recipe_that_is_damaged_inside_is_a_warning_to_look_at_and_an_error_to_repeat() {
    let folder = Folder::new();
    prompt(&folder, &format!("-o out.mp4 {QUICK}")).fine();
    std::fs::remove_file(folder.path("out.mp4.recipe.json")).unwrap();
    let whole = bytes(&folder, "out.mp4");
    let change = |from: &str, to: &[u8]| {
        let mut changed = whole.clone();
        assert_eq!(from.len(), to.len());
        while let Some(at) = changed.windows(from.len()).position(|part| part == from.as_bytes()) {
            changed[at..at + from.len()].copy_from_slice(to);
        }
        folder.write("bad.mp4", changed);
    };
    for (from, to, says) in [
        ("\"version\":1,", &b"\"version\":9,"[..], "version 9"),
        ("\"steps\":2", b"\"steps\":x", "not JSON"),
        ("\"steps\":2", b"\"stepz\":2", "\"steps\" is missing"),
    ] {
        change(from, to);
        folder.run("generate --recipe bad.mp4 -o x.mp4").fails("E0910").says(says);
        let done = folder.run("inspect bad.mp4 --json").fine().says(says);
        assert!(done.json()["recipe"].is_null());
    }
    change("a person walks", b"a \xff\xferson walks");
    folder.run("generate --recipe bad.mp4 -o x.mp4").fails("E0910").says("not UTF-8");
    folder.run("inspect bad.mp4").fine().says("not UTF-8");
    folder.write("text.mp4", b"no video at all");
    folder.run("generate --recipe text.mp4 -o x.mp4").fails("E0910").says("not JSON");
    assert!(!folder.path("x.mp4").exists());
}

/// A picture of 1x1 that says this under `key`, as PNG's `tEXt`.
fn picture(key: &str, text: &str) -> Vec<u8> {
    let chunk = |name: &[u8], body: &[u8]| {
        let whole = [name, body].concat();
        let crc = !whole.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
            })
        });
        [&(body.len() as u32).to_be_bytes()[..], &whole, &crc.to_be_bytes()].concat()
    };
    let pixels = [0x78, 1, 1, 4, 0, 0xfb, 0xff, 0, 9, 9, 9, 0, 0x3a, 0, 0x1c];
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]),
        chunk(b"tEXt", format!("{key}\0{text}").as_bytes()),
        chunk(b"IDAT", &pixels),
        chunk(b"IEND", b""),
    ]
    .concat()
}

#[test]
fn settings_of_other_programs_are_taken_as_far_as_they_go() {
    let folder = Folder::new();
    let graph = r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 11, "steps": 2, "cfg": 1.0,
        "sampler_name": "euler", "scheduler": "simple", "positive": ["6", 0], "latent_image": ["5", 0]}},
        "5": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 96, "height": 64, "length": 5}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a person walks"}},
        "9": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan.safetensors"}}}"#;
    folder.write("comfy.png", picture("prompt", graph));
    let found = folder.run("inspect comfy.png --json").fine().json();
    assert_eq!(
        (&found["settings"]["program"], &found["settings"]["seed"]),
        (&"ComfyUI".into(), &11.into())
    );
    let text = folder.run("inspect comfy.png").fine().out;
    for part in ["settings of ComfyUI", "a person walks", "--size 96x64", "scheduler simple"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let repeat = "generate --recipe comfy.png -o out.gif";
    folder.run(repeat).fails("E1501").says("where the model lies");
    let done = folder.run(&format!("{repeat} --model @micro")).fine();
    let done = done.says("settings are of ComfyUI").says("no counterpart: scheduler simple");
    assert!(done.err.contains("5 frames") && done.err.contains("2 steps"), "{}", done.err);
    let recipe: Value = serde_json::from_slice(&bytes(&folder, "out.gif.recipe.json")).unwrap();
    assert_eq!((&recipe["seed"], &recipe["solver"]), (&11.into(), &"euler".into()));
    assert_eq!((&recipe["prompt"], &recipe["guidance"]), (&"a person walks".into(), &1.0.into()));
    // Flags come first.
    folder.run(&format!("{repeat} --model @micro --seed 5 --force")).fine();
    let recipe: Value = serde_json::from_slice(&bytes(&folder, "out.gif.recipe.json")).unwrap();
    assert_eq!(recipe["seed"], 5);

    let text =
        "<lora:me:0.5>\nNegative prompt: blurry\nSteps: 2, Sampler: Euler a, CFG scale: 1, Seed: 1";
    folder.write("a1111.png", picture("parameters", text));
    let repeat = "generate --recipe a1111.png --model @micro -o b.gif --size 96x64 --frames 5";
    folder.run(repeat).fails("E1501").says("what the video shows");
    let done = folder.run(&format!("{repeat} --prompt x")).fine();
    let recipe: Value = serde_json::from_slice(&bytes(&folder, "b.gif.recipe.json")).unwrap();
    assert_eq!(recipe["negative_prompt"], "blurry");
    done.says("sampler Euler a").says("of me with scale 0.5");
    folder.write("none.png", picture("Title", "a picture"));
    folder.run("generate --recipe none.png -o c.gif").fails("E0910").says("no recipe inside");
    // What other programs wrote for real.
    let files = "@tests/fixtures_extra/media";
    let found = folder.run(&format!("inspect {files}/comfy_savevideo.mp4 --json")).fine().json();
    assert_eq!((&found["settings"]["steps"], &found["settings"]["seed"]), (&20.into(), &1.into()));
    let found = folder.run(&format!("inspect {files}/a1111_ascii.png --json")).fine().json();
    assert_eq!(found["settings"]["solver"], "euler");
    folder.run(&format!("inspect {files}/itxt_compressed.png")).fine().says("this is not a recipe");
    folder.run(&format!("generate --recipe {files}/comment.mp4 -o d.gif")).fails("E0910");
}
