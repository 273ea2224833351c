//! `generate` on the built-in model: every form of result, repeatability, recipes, interruption.

mod common;

use common::{Folder, tensors};
use std::path::Path;

/// A small, quick run.
const QUICK: &str = "--size 96x64 --frames 5 --steps 2";

fn prompt(folder: &Folder, words: &str) -> common::Done {
    folder.run_with(&format!("generate {words}"), &["--prompt", "a person walks on a beach"])
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

#[test]
fn a_picture_and_a_clip_become_an_mp4() {
    let folder = Folder::new();
    let references = "--ref @examples/astronaut.png @examples/portrait_pan.mp4";
    let done = prompt(&folder, &format!("{references} -o out.mp4 {QUICK} --fps 23.976"));
    let done = done.fine().says("using the built-in model").says("2 references");
    for text in ["wrote out.mp4: MP4 (H.264), 96x64, 5 frames", "decoding", "peak memory"] {
        assert!(done.out.contains(text), "{text}\n{}", done.out);
    }
    assert!(done.err.lines().count() < 25, "too many lines\n{}", done.err);
    assert_eq!(folder.names(), ["out.mp4", "out.mp4.recipe.json"]);
    let found = folder.run("inspect out.mp4 --json").fine().json();
    assert_eq!((&found["kind"], &found["frames"]), (&"video".into(), &5.into()));
    assert_eq!((&found["width"], &found["height"]), (&96.into(), &64.into()));
    assert!((found["fps"].as_f64().unwrap() - 23.976).abs() < 1e-3);
    assert_eq!(found["recipe"]["references"].as_array().unwrap().len(), 2);
    let recipe = folder.run("inspect out.mp4.recipe.json").fine().out;
    assert!(recipe.contains("astronaut.png") && recipe.contains("walks on a beach"), "{recipe}");
}

#[test]
fn gif_and_frames_and_latents_are_written_too() {
    let folder = Folder::new();
    let json = prompt(&folder, &format!("-o out.gif {QUICK} --save-latents l.safetensors --json"));
    let report = json.fine().says("plain text-to-video").json();
    assert_eq!(report["output"]["frames"], 5);
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["text", "sampling", "decoding"]);
    let latents = tensors(&folder.path("l.safetensors"));
    assert_eq!(latents["latents"].shape(), [24, 2, 8, 12]);
    assert_eq!(folder.run("inspect out.gif --json").fine().json()["frames"], 5);

    // Noise from a file: what a run wrote has the right shape for another.
    let noise = tensors(&folder.path("l.safetensors")).remove("latents").unwrap();
    let noise = noise.reshaped([1, 24, 2, 8, 12]).unwrap();
    common::save(&folder.path("n.safetensors"), &[("noise", &noise)]);
    prompt(&folder, &format!("-o frames/ {QUICK} --noise n.safetensors")).fine();
    let frames = std::fs::read_dir(folder.path("frames")).unwrap().count();
    assert_eq!(frames, 5);
    let found = folder.run("inspect frames --json").fine().json();
    assert_eq!((&found["kind"], &found["frames"]), (&"frames".into(), &5.into()));
    let recipe = std::fs::read_to_string(folder.path("frames.recipe.json")).unwrap();
    assert!(recipe.contains("n.safetensors"), "{recipe}");
    // Every solver, schedule and precision goes through.
    for more in ["--solver euler --precision bf16", "--schedule diffusers --shift 3 --fps 30"] {
        prompt(&folder, &format!("-o out.gif {QUICK} {more} --force")).fine();
    }
    // A folder of frames may be replaced by a newer one.
    prompt(&folder, &format!("-o frames {QUICK} --seed 1")).fails("E1016");
    prompt(&folder, &format!("-o frames {QUICK} --seed 1 --force")).fine();
    let names = folder.names();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
}

#[test]
fn threads_and_reruns_change_nothing_and_recipes_repeat() {
    let folder = Folder::new();
    folder.write(
        "person.png",
        std::fs::read(common::repository().join("examples/astronaut.png")).unwrap(),
    );
    let words = format!("--ref person.png {QUICK} --seed 7 --guidance 3.5 --solver dpmpp");
    prompt(&folder, &format!("{words} --threads 1 -o a.mp4")).fine();
    prompt(&folder, &format!("{words} --threads 2 -o b.mp4")).fine();
    let first = bytes(&folder, "a.mp4");
    assert!(first == bytes(&folder, "b.mp4"), "1 and 2 threads differ");
    folder.run("generate --recipe a.mp4.recipe.json -o c.mp4").fine();
    assert!(first == bytes(&folder, "c.mp4"), "the recipe gives another file");
    folder.run("generate --recipe a.mp4.recipe.json -o d.mp4 --seed 8").fine();
    assert!(first != bytes(&folder, "d.mp4"), "--seed beside --recipe does nothing");
    let (a, c) = (bytes(&folder, "a.mp4.recipe.json"), bytes(&folder, "c.mp4.recipe.json"));
    let (a, c) = (String::from_utf8(a).unwrap(), String::from_utf8(c).unwrap());
    assert_eq!(a.replace("a.mp4", "c.mp4"), c);

    // Another model of the same sizes is noticed, and taken when named.
    folder.run("init m --random-weights --seed 5").fine();
    let taken = folder.run("generate --recipe a.mp4.recipe.json --model m -o m.mp4").fine();
    assert!(first != bytes(&folder, "m.mp4"), "{}", taken.out);
    let from_m = "generate --recipe m.mp4.recipe.json -o n.mp4";
    folder.run(from_m).fine();
    assert!(bytes(&folder, "m.mp4") == bytes(&folder, "n.mp4"));
    std::fs::remove_dir_all(folder.path("m")).unwrap();
    folder.run("init m --random-weights --seed 6").fine();
    std::fs::remove_file(folder.path("n.mp4")).unwrap();
    std::fs::remove_file(folder.path("n.mp4.recipe.json")).unwrap();
    folder.run(from_m).fails("E0905").says("transformer");

    // A changed or missing reference is named; another may be given instead.
    folder.write("person.png", std::fs::read(small_picture()).unwrap());
    let again = "generate --recipe a.mp4.recipe.json -o e.mp4";
    folder.run(again).fails("E0905").says("person.png");
    std::fs::remove_file(folder.path("person.png")).unwrap();
    folder.run(again).fails("E0905").says("gone");
    assert!(!folder.path("e.mp4").exists() && !folder.path("n.mp4").exists());
}

/// Some other picture: a frame this program makes.
fn small_picture() -> std::path::PathBuf {
    static FOLDER: std::sync::OnceLock<Folder> = std::sync::OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Folder::new();
        prompt(&folder, "-o f/ --size 32x32 --frames 1 --steps 1 --guidance 1").fine();
        folder
    });
    folder.path("f/frame_00000.png")
}

#[test]
fn a_long_prompt_is_cut_with_a_warning() {
    let folder = Folder::new();
    let long = "word ".repeat(1500);
    let words = format!("generate -o out.gif {QUICK} --guidance 1");
    folder.run_with(&words, &["--prompt", &long]).fine().says("E0739");
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_cleanly() {
    for target in ["out.mp4", "frames/"] {
        let folder = Folder::new();
        let words = format!("generate -o {target} --size 192x192 --frames 9 --steps 1000");
        let mut command = folder.command(&words, &["--prompt", "x"]);
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let begun = std::time::Instant::now();
        // The temporary of the result appears when everything was checked.
        while folder.names().is_empty() && begun.elapsed().as_secs() < 30 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut text).unwrap();
        assert!(text.contains("error[E1002]: interrupted"), "{text}");
        assert!(folder.names().is_empty(), "{:?}\n{text}", folder.names());
    }
}

#[test]
fn inspect_knows_models_and_checkpoints() {
    let folder = Folder::new();
    folder.run("init m --random-weights").fine();
    let model = folder.run("inspect m --json").fine().json();
    assert_eq!(model["networks"].as_array().unwrap().len(), 3);
    let file = "m/transformer/diffusion_pytorch_model.safetensors";
    let found = folder.run(&format!("inspect {file} --json")).fine().json();
    assert_eq!(found["kind"], "checkpoint");
    let what = found["networks"][0]["naming"].as_str().unwrap();
    assert_eq!(what, "Wan2.2 transformer, diffusers naming");
    let text = folder.run(&format!("inspect {file} --tensors")).fine().out;
    assert!(text.contains("2 layers, 2 heads of 32") && text.contains("patch_embedding.weight"));
    let picture = folder.run("inspect @examples/astronaut.png").fine().out;
    assert!(picture.starts_with("picture\n"), "{picture}");
    folder.write("x.bin", [7u8; 100]);
    folder.run("inspect x.bin").fails("E0915");
    folder.run("inspect missing").fails("E0911");
    assert!(Path::new(&folder.path(file)).exists());
}

#[test]
fn a_residual_stream_in_bf16_is_near_and_in_the_recipe() {
    let folder = Folder::new();
    for residual in ["f32", "bf16"] {
        let words = format!("-o {residual}.gif {QUICK} --residual {residual}");
        prompt(&folder, &format!("{words} --save-latents {residual}.safetensors")).fine();
        let recipe = bytes(&folder, &format!("{residual}.gif.recipe.json"));
        let recipe: serde_json::Value = serde_json::from_slice(&recipe).unwrap();
        assert_eq!(recipe["residual"], residual);
    }
    let latents =
        |name: &str| tensors(&folder.path(&format!("{name}.safetensors")))["latents"].clone();
    assert_ne!(latents("bf16"), latents("f32"));
    common::close("latents", &latents("bf16"), &latents("f32"), 5e-2);
    let again = "--recipe bf16.gif.recipe.json -o again.gif --save-latents again.safetensors";
    folder.run(&format!("generate {again}")).fine();
    assert_eq!(latents("again"), latents("bf16"));
    let summary = folder.run("inspect bf16.gif.recipe.json").fine().out;
    assert!(summary.contains("residual stream bf16"), "{summary}");
    let text = String::from_utf8(bytes(&folder, "bf16.gif.recipe.json")).unwrap();
    folder.write("bad.json", text.replace("\"residual\": \"bf16\"", "\"residual\": \"f16\""));
    folder.run("generate --recipe bad.json -o x.gif").fails("E0910");
}
