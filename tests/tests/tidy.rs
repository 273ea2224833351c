//! What the workspace promises about itself: which crate may know which, a header on every file,
//! nothing left undone in the product, no test switched off.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What each crate of the product may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("anyid-ir", &[]),
    ("anyid-passes", &["anyid-ir"]),
    ("anyid-backends", &["anyid-ir"]),
    ("anyid-models", &["anyid-ir"]),
    ("anyid-world", &[]),
    ("anyid-files", &["anyid-ir"]),
    ("anyid-noise", &[]),
    ("anyid-guard", &["anyid-files", "anyid-noise"]),
    ("anyid-provenance", &["anyid-files", "anyid-guard"]),
    ("anyid-study", &["anyid-files"]),
    ("anyid-evaluation", &["anyid-files", "anyid-guard", "anyid-study"]),
    (
        "anyid-runtime",
        &[
            "anyid-ir",
            "anyid-passes",
            "anyid-backends",
            "anyid-models",
            "anyid-evaluation",
            "anyid-files",
            "anyid-noise",
            "anyid-guard",
            "anyid-provenance",
            "anyid-study",
        ],
    ),
    ("anyid-http", &["anyid-files"]),
    ("anyid-preference", &["anyid-files", "anyid-guard", "anyid-http"]),
    ("anyid-serve", &["anyid-http", "anyid-runtime"]),
    (
        "anyid-cli",
        &[
            "anyid-ir",
            "anyid-passes",
            "anyid-backends",
            "anyid-models",
            "anyid-world",
            "anyid-runtime",
            "anyid-preference",
            "anyid-serve",
        ],
    ),
];

#[test]
fn dependencies_go_one_way_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    for (name, allowed) in ALLOWED {
        let package = packages.iter().find(|package| package["name"] == *name);
        let package = package.unwrap_or_else(|| panic!("there is no crate {name}"));
        let dependencies = package["dependencies"].as_array().expect("a list");
        let ours = dependencies
            .iter()
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| dependency.starts_with("anyid-"));
        for dependency in ours {
            assert!(allowed.contains(&dependency), "{name} must not know {dependency}");
        }
    }
}

/// Every source file of the workspace.
fn sources() -> Vec<(PathBuf, String)> {
    let folders =
        ["backends", "benches", "cli", "examples", "ir", "models", "passes", "runtime", "tests"];
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut out = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("the workspace can be read");
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && !name.starts_with("target") {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("sources are text");
                out.push((path, text));
            }
        }
    }
    assert!(out.len() > 100, "only {} source files were found", out.len());
    out
}

#[test]
fn every_file_says_what_it_is_for() {
    let bare: Vec<PathBuf> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|f| f.0).collect();
    assert!(bare.is_empty(), "no header in {bare:?}");
}

#[test]
fn nothing_is_left_undone() {
    let product = ["ir", "passes", "backends", "models", "runtime", "cli"];
    // Written in two parts, so that this file does not hold what it looks for.
    let open = [["to", "do!("].concat(), ["unimple", "mented!("].concat()];
    let off = ["#[ig", "nore"].concat();
    let mut found = Vec::new();
    for (path, text) in sources() {
        let inside = path.strip_prefix(root()).unwrap_or(&path);
        let ours = product.iter().any(|folder| inside.starts_with(folder));
        for (at, line) in text.lines().enumerate() {
            let undone = ours && open.iter().any(|word| line.contains(word.as_str()));
            if undone || line.contains(&off) {
                found.push(format!("{}:{}: {}", inside.display(), at + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn requirements_leave_room_for_those_of_others() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let exact: Vec<&str> = manifest.lines().filter(|line| line.contains("\"=")).collect();
    assert!(exact.is_empty(), "exact requirements: {exact:?}");
}
