//! Every error code in the sources has a page in `docs/errors/`, and a test that expects it.

mod common;

use common::repository;
use std::collections::BTreeSet;
use std::path::Path;

/// The source of a file in front of its tests, and those, which are in a module called `tests` or so.
fn without_tests(text: &str) -> (&str, &str) {
    let mark = "#[cfg(test)]\n";
    let begin = text.match_indices(mark).map(|(at, _)| at).find(|at| {
        let line = text[at + mark.len()..].lines().next().unwrap_or_default();
        line.contains("mod ") && line.ends_with("tests {")
    });
    text.split_at(begin.unwrap_or(text.len()))
}

fn is_code(word: &str) -> bool {
    let digits = word.strip_prefix('E').unwrap_or_default();
    digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Calls `with` on every file under `folder`: its text in two parts, without and with tests.
fn files(folder: &Path, with: &mut dyn FnMut(&str, &str)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let tests = path.components().any(|part| part.as_os_str() == "tests");
        if path.is_dir() {
            files(&path, with);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            match without_tests(&text) {
                _ if tests || name.ends_with("tests.rs") => with("", &text),
                (source, tests) => with(source, tests),
            }
        } else if tests && (name.ends_with(".ir") || name.ends_with(".txt")) {
            with("", &std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Codes between quotes in the sources under `folder`, tests left out.
fn collect(folder: &Path, codes: &mut BTreeSet<String>) {
    files(folder, &mut |text, _| {
        codes.extend(text.split('"').filter(|piece| is_code(piece)).map(str::to_owned));
    });
}

/// The folders of the packages whose sources are looked at.
const PACKAGES: &[&str] = &[
    "ir",
    "passes",
    "backends",
    "models",
    "models/world",
    "runtime/files",
    "runtime/study",
    "runtime/guard",
    "runtime/evaluation",
    "runtime/http",
    "runtime/provenance",
    "runtime",
    "runtime/preference",
    "runtime/serve",
    "cli",
];

#[test]
fn every_code_has_a_page() {
    let root = repository();
    let mut codes = BTreeSet::new();
    for package in PACKAGES {
        collect(&root.join(package).join("src"), &mut codes);
    }
    assert!(codes.len() > 100, "only {} codes found", codes.len());
    let missing: Vec<&String> =
        codes.iter().filter(|code| !root.join(format!("docs/errors/{code}.md")).exists()).collect();
    assert!(missing.is_empty(), "no page in docs/errors for {missing:?}");
}

/// Faults of ours, which no input is known to lead to.
const INTERNAL: [&str; 1] = ["E0824"];

#[test]
fn every_code_is_expected_by_a_test() {
    let root = repository();
    let (mut codes, mut expected) = (BTreeSet::new(), BTreeSet::new());
    let mut add = |text: &str| {
        // Between quotes, as a program says it, and in text files behind `error:` or `>`.
        let quoted = text.split('"').filter(|piece| is_code(piece));
        let marked = ["error[", "error: ", "> "].into_iter().flat_map(|mark| {
            let mut rest = text.split(mark);
            rest.next();
            rest
        });
        let marked = marked.filter_map(|rest| rest.get(..5)).filter(|word| is_code(word));
        expected.extend(quoted.chain(marked).map(str::to_owned));
    };
    for package in PACKAGES {
        collect(&root.join(package).join("src"), &mut codes);
        files(&root.join(package).join("src"), &mut |_, tests| add(tests));
    }
    for folder in [
        "ir/tests",
        "cli/tests",
        "runtime/study/tests",
        "runtime/evaluation/tests",
        "tests/tests",
        "tests/ir",
    ] {
        files(&root.join(folder), &mut |_, tests| {
            // This list is no test of what it lists.
            if !tests.contains("const INTERNAL: [&str") {
                add(tests);
            }
        });
    }
    let missing: Vec<&String> = codes.difference(&expected).collect();
    assert_eq!(missing, INTERNAL, "codes that no test expects");
}
