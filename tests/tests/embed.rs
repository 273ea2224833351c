//! The embedding example as another program would use it: it compiles, runs and writes a video.

#[path = "../../examples/embed.rs"]
mod embed;

use anyid_tests::folders::Folder;
use std::path::Path;

#[test]
fn the_example_writes_five_frames() {
    let folder = Folder::new();
    let out = folder.path().join("embed.mp4");
    let picture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/characters/first/portrait.png");
    let frames = embed::generate(&picture, &out).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(frames, 5);
    let bytes = std::fs::read(&out).expect("the video was written");
    assert_eq!(&bytes[4..8], b"ftyp", "an mp4 file");
    assert!(bytes.len() > 1000);
}

/// The first Rust block of the README.
fn readme_example() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).expect("there is a README");
    let block = text.split("```rust\n").nth(1).expect("it has an example");
    block.split("```").next().unwrap_or_default().to_owned()
}

#[test]
fn the_example_of_the_readme_compiles_in_a_crate_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("a folder");
    let folder = Folder::new();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    // The only dependency is the runtime, with what it exports. Its own requirements must leave
    // room for those of others: exact ones made a crate that uses `smallvec` itself unresolvable.
    let manifest = format!(
        "[package]\nname = \"outside\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\nanyid-runtime = {{ path = {:?} }}\n\
         [profile.release]\ndebug = \"line-tables-only\"\n[workspace]\n",
        root.join("runtime")
    );
    write("Cargo.toml", &manifest);
    write("src/lib.rs", &format!("#![deny(warnings)]\n{}", readme_example()));
    // The versions that were fetched for this workspace are the ones to be had without a network.
    std::fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock")).expect("a lock file");
    let output = std::process::Command::new(env!("CARGO"))
        .args(["check", "--release", "--offline", "--quiet", "--target-dir"])
        // Beside what the workspace has built, most of which serves here too.
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder"))
        .current_dir(folder.path())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
