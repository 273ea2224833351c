//! Every error code in the sources has a page in `docs/errors/`.

mod common;

use common::repository;
use std::collections::BTreeSet;
use std::path::Path;

/// Codes between quotes in the sources under `folder`, tests left out.
fn collect(folder: &Path, codes: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                collect(&path, codes);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for piece in text.split('"') {
                let digits = piece.strip_prefix('E').unwrap_or_default();
                if digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()) {
                    codes.insert(piece.to_owned());
                }
            }
        }
    }
}

#[test]
fn every_code_has_a_page() {
    let root = repository();
    let mut codes = BTreeSet::new();
    for package in ["ir", "passes", "backends", "models", "runtime", "cli"] {
        collect(&root.join(package).join("src"), &mut codes);
    }
    assert!(codes.len() > 100, "only {} codes found", codes.len());
    let missing: Vec<&String> =
        codes.iter().filter(|code| !root.join(format!("docs/errors/{code}.md")).exists()).collect();
    assert!(missing.is_empty(), "no page in docs/errors for {missing:?}");
}
