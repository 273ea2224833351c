//! Runs the text files under `tests/ir` and the examples of the documentation.
//!
//! `verify/*.ir`: each line that is in error ends with `// error: CODE words`, once an error; the
//! set of lines and codes must be exactly what is reported, and the words part of the report.
//! `roundtrip/*.ir`: accepted, and printing what is parsed from printed text changes nothing.
//! A line `// dims: F=3, H=2` gives values to free dims; findings without a place in the text
//! count for line 1.

use anyid_ir::Diagnostic;
use anyid_ir::text::{LineIndex, parse, parse_module, print};
use anyid_ir::verify::verify;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = root().join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), read(&path)))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn bindings(text: &str) -> Vec<(&str, i64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("// dims:")).unwrap_or("");
    let line = line.split("//").next().unwrap_or("");
    let pairs = line.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim().parse().expect("a number"))).collect()
}

/// Everything reported about a text: by the parser, the binding of dims and the verifier.
fn findings(text: &str) -> Vec<Diagnostic> {
    parse_module(text, &bindings(text)).err().unwrap_or_default()
}

fn expected(text: &str) -> Vec<(usize, String, String)> {
    let mut expected = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for part in line.split("// error:").skip(1) {
            let (code, words) = part.trim().split_once(' ').unwrap_or((part.trim(), ""));
            expected.push((i + 1, code.to_owned(), words.trim().to_owned()));
        }
    }
    expected
}

#[test]
fn faulty_files_report_exactly_the_marked_errors() {
    let mut wrong = Vec::new();
    for (name, text) in files("tests/ir/verify") {
        let index = LineIndex::new(&text);
        let line = |d: &Diagnostic| d.span.map_or(1, |span| index.line_col(&text, span.start).0);
        let found = findings(&text);
        let got: BTreeSet<_> = found.iter().map(|d| (line(d), d.code.to_owned())).collect();
        let expected = expected(&text);
        let want: BTreeSet<_> = expected.iter().map(|(l, c, _)| (*l, c.clone())).collect();
        assert!(!want.is_empty(), "{name} expects no error");
        for (line, code) in got.symmetric_difference(&want) {
            let kind = if want.contains(&(*line, code.clone())) { "missing" } else { "unexpected" };
            wrong.push(format!("{name}:{line}: {code} is {kind}"));
        }
        for (at, code, words) in expected {
            let says = found
                .iter()
                .filter(|d| line(d) == at && d.code == code)
                .any(|d| format!("{d}").contains(&words));
            if !says {
                let all: Vec<String> = found.iter().map(Diagnostic::to_string).collect();
                wrong.push(format!("{name}:{at}: no {code} says {words}: {}", all.join("\n")));
            }
        }
        for error in &found {
            assert!(error.help.is_some(), "{name}: no help in {error}");
            if let Some(span) = error.span {
                assert!(span.start <= span.end && span.end <= text.len(), "{name}: {error:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn round_trip(name: &str, text: &str) {
    let report = |errors: Vec<Diagnostic>| {
        let errors: Vec<String> = errors.iter().map(|e| format!("{e} {:?}", e.span)).collect();
        panic!("{name}: {}", errors.join("\n"))
    };
    let module = parse_module(text, &bindings(text)).unwrap_or_else(report);
    let first = print(&module);
    let again = parse_module(&first, &[]).unwrap_or_else(report);
    assert_eq!(print(&again), first, "{name}");
    assert_eq!(again.dims, module.dims, "{name}");
    assert_eq!(again.weights, module.weights, "{name}");
    assert_eq!(verify(&again), [], "{name}");
}

#[test]
fn sound_files_print_and_parse_back() {
    for (name, text) in files("tests/ir/roundtrip") {
        round_trip(&name, &text);
    }
    round_trip("example.ir", &read(&root().join("tests/ir/example.ir")));
}

#[test]
fn the_documented_example_is_the_tested_one() {
    let example = read(&root().join("tests/ir/example.ir"));
    let documentation = read(&root().join("docs/ir.md"));
    assert!(documentation.contains(example.trim()), "docs/ir.md must show tests/ir/example.ir");
}

#[test]
fn every_code_has_a_page_and_its_example_gives_it() {
    let mut folders = vec![root().join("ir/src")];
    let mut codes = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the sources") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = read(&path);
                let quoted = text.match_indices("\"E0").map(|(at, _)| &text[at + 1..]);
                let words = quoted.filter_map(|rest| rest.split('"').next());
                codes.extend(words.filter(|code| code.len() == 5).map(str::to_owned));
            }
        }
    }
    assert!(codes.len() > 30, "{codes:?}");
    let pages = root().join("docs/errors");
    for code in codes {
        let page = read(&pages.join(format!("{code}.md")));
        assert!(page.starts_with(&format!("# {code}: ")), "{code}: title");
        for heading in ["\n## Example\n", "\n## What to do\n"] {
            assert!(page.contains(heading), "{code}: {heading}");
        }
        let Some((_, rest)) = page.split_once("```ir\n") else { continue };
        let (example, _) = rest.split_once("```").expect("the end of the example");
        let found = findings(example);
        assert!(found.iter().all(|d| d.code == code), "{code}: {found:#?}");
        assert!(!found.is_empty(), "{code}: the example is accepted");
    }
}

#[test]
fn the_reference_lists_every_op() {
    let documentation = read(&root().join("docs/ir.md"));
    let (source, _) = parse("module @m\nfunc @f() {\n  return\n}");
    assert!(source.free_dims().is_empty());
    for name in [
        "const",
        "iota",
        "cast",
        "reshape",
        "permute",
        "broadcast",
        "slice",
        "index",
        "pad",
        "concat",
        "gather",
        "neg",
        "abs",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "recip",
        "tanh",
        "sin",
        "cos",
        "floor",
        "add",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "select",
        "eq",
        "lt",
        "le",
        "gt",
        "ge",
        "reduce_sum",
        "reduce_mean",
        "reduce_max",
        "dot",
        "call",
        "repeat",
        "yield",
        "return",
        "linear",
        "attention",
        "layer_norm",
        "rms_norm",
        "rope",
        "rope_table",
        "gelu",
        "silu",
        "modulate",
        "gate_add",
        "conv",
        "upsample",
        "timestep_embedding",
        "relative_bucket",
        "patchify",
        "unpatchify",
    ] {
        assert!(documentation.contains(&format!("`{name}")), "docs/ir.md lacks {name}");
    }
}
