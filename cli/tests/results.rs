//! Where results go: existing files, files that appear during a run, pipes and standard output.

mod common;

use common::Folder;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const QUICK: &str = "--size 64x64 --frames 5 --steps 1 --guidance 1";

fn generate(folder: &Folder, words: &str) -> common::Done {
    folder.run(&format!("generate --prompt x {words}"))
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

/// Starts a run of about a second and waits until its results are open.
fn start(folder: &Folder, words: &str) -> Child {
    let long = "--size 96x96 --frames 9 --steps 12";
    let mut command = folder.command(&format!("generate --prompt x {long} {words}"), &[]);
    let open = folder.names().len();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while folder.names().len() < open + 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the temporaries do not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn what_is_there_is_replaced_with_force_only() {
    let folder = Folder::new();
    let model = folder.path("no/such/model").to_string_lossy().into_owned();
    for (name, words) in [
        ("out.mp4", "-o out.mp4"),
        ("out.gif.recipe.json", "-o out.gif"),
        ("l.safetensors", "-o a.gif --save-latents l.safetensors"),
        ("t.json", "-o b.gif --trace t.json"),
        ("frames/frame_00000.png", "-o frames"),
    ] {
        folder.write(name, "precious");
        // Before anything is loaded: the model is not even looked for.
        let refused = generate(&folder, &format!("{words} {QUICK} --model {model}"));
        refused.fails("E1016").says("--force");
        assert_eq!(bytes(&folder, name), b"precious");
        generate(&folder, &format!("{words} {QUICK} --force")).fine();
        assert_ne!(std::fs::read(folder.path(name)).unwrap_or_default(), b"precious", "{name}");
    }
    // A recipe is no permission.
    let first = bytes(&folder, "out.mp4");
    folder.run("generate --recipe out.mp4.recipe.json").fails("E1016");
    folder.run("generate --recipe out.mp4.recipe.json --force").fine();
    assert!(first == bytes(&folder, "out.mp4"));
    // An empty folder is nothing that could be lost.
    std::fs::create_dir(folder.path("empty")).unwrap();
    generate(&folder, &format!("-o empty {QUICK}")).fine();
    assert_eq!(folder.path("empty").read_dir().unwrap().count(), 5);
    assert!(folder.names().iter().all(|name| !name.starts_with('.')), "{:?}", folder.names());
}

#[test]
fn what_comes_to_the_name_meanwhile_is_kept() {
    let folder = Folder::new();
    let child = start(&folder, "-o out.gif");
    folder.write("out.gif", "came meanwhile");
    let done = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && text.contains("out-1.gif"), "{text}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("out-1.gif"));
    assert_eq!(bytes(&folder, "out.gif"), b"came meanwhile");
    assert_eq!(folder.names(), ["out-1.gif", "out-1.gif.recipe.json", "out.gif"]);
    assert_eq!(folder.run("inspect out-1.gif --json").fine().json()["frames"], 9);
    let recipe: serde_json::Value =
        serde_json::from_slice(&bytes(&folder, "out-1.gif.recipe.json")).unwrap();
    assert!(recipe["output"].as_str().unwrap().ends_with("out-1.gif"), "{recipe}");
}

#[test]
fn two_runs_to_one_name_give_two_results_each_with_its_recipe() {
    let folder = Folder::new();
    for force in ["", " --force"] {
        let first = start(&folder, &format!("-o out.gif --seed 1{force}"));
        let second = start(&folder, &format!("-o out.gif --seed 2{force}"));
        for child in [first, second] {
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        let names = ["out-1.gif", "out-1.gif.recipe.json", "out.gif", "out.gif.recipe.json"];
        assert_eq!(folder.names(), names);
        let mut seeds = Vec::new();
        for name in ["out.gif", "out-1.gif"] {
            let result = bytes(&folder, name);
            let again = format!("generate --recipe {name}.recipe.json -o again.gif --force");
            folder.run(&again).fine();
            assert!(result == bytes(&folder, "again.gif"), "{name} is not its recipe's");
            let recipe = bytes(&folder, &format!("{name}.recipe.json"));
            let recipe: serde_json::Value = serde_json::from_slice(&recipe).unwrap();
            seeds.push(recipe["seed"].as_u64().unwrap());
        }
        seeds.sort();
        assert_eq!(seeds, [1, 2]);
        for name in ["out-1.gif", "out-1.gif.recipe.json", "again.gif", "again.gif.recipe.json"] {
            std::fs::remove_file(folder.path(name)).unwrap();
        }
    }
}

#[cfg(unix)]
#[test]
fn standard_output_gets_the_same_bytes_as_a_file() {
    let folder = Folder::new();
    for (format, name) in [("", "a.mp4"), ("--format gif", "a.gif")] {
        generate(&folder, &format!("-o {name} {QUICK}")).fine();
        for dash in ["-", "/dev/stdout"] {
            let words = format!("generate --prompt x -o {dash} {format} {QUICK}");
            let done = folder.command(&words, &[]).output().unwrap();
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() && text.contains("phase"), "{text}");
            assert!(done.stdout == bytes(&folder, name), "{dash} {format} differs");
        }
    }
    assert_eq!(folder.names().len(), 4);
    generate(&folder, &format!("-o - --json {QUICK}")).fails("E0948");
    generate(&folder, &format!("-o out.mp4 --format gif {QUICK}")).fails("E0947");
    // A reader that does not want it.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = folder.command(&format!("generate --prompt x -o - {QUICK}"), &[]);
    let done = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let done = done.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("error[E1013]"));
}

#[cfg(target_os = "linux")]
#[test]
fn devices_work_or_are_refused_before_the_run() {
    let folder = Folder::new();
    generate(&folder, &format!("-o /dev/null --format mp4 {QUICK}")).fine();
    generate(&folder, &format!("-o /dev/null {QUICK}")).fails("E1017").says("--format");
    generate(&folder, &format!("-o /dev/full --format gif {QUICK}")).fails("E1012");
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[cfg(unix)]
#[test]
fn results_have_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let mode = |name: &str| folder.path(name).metadata().unwrap().permissions().mode() & 0o777;
    let line = format!(
        "umask 027; {program} generate --prompt x {QUICK} -o out.gif && \
         {program} generate --prompt x {QUICK} -o frames"
    );
    let mut command = folder.other("sh");
    let done = command.args(["-c", &line]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (name, wanted) in [("out.gif", 0o640), ("out.gif.recipe.json", 0o640), ("frames", 0o750)] {
        assert_eq!(mode(name), wanted, "{name}");
    }
    assert_eq!(mode("frames/frame_00000.png"), 0o640);
    // What is replaced keeps its own, and a link stays one.
    std::fs::set_permissions(folder.path("out.gif"), PermissionsExt::from_mode(0o604)).unwrap();
    std::os::unix::fs::symlink("out.gif", folder.path("link.gif")).unwrap();
    generate(&folder, &format!("-o link.gif {QUICK} --force --seed 3")).fine();
    assert_eq!(mode("out.gif"), 0o604);
    assert!(folder.path("link.gif").is_symlink());
}
