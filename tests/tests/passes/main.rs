//! Runs the text files under `tests/ir/passes`, one for each pass of the table in `docs/passes.md`.
//!
//! How to add a file: write `tests/ir/passes/<pass>.txt` with cases like those of the others, leave
//! out what you expect, run `BLESS=1 cargo test -p anyid-tests --test passes`, and read what it
//! wrote as if somebody else had. `BLESS=1` also brings all `// expect` blocks up to date.
//!
//! A case begins with `== what it shows`. Then come the switches, the source, and what is expected:
//!
//! ```text
//! == a cast that loses nothing is undone
//! // run: --passes canonicalize,dce
//! func @f(%x: bf16[4]) -> bf16[4] {
//!   %w = cast %x : f32[4]
//!   %y = cast %w : bf16[4]
//!   return %y
//! }
//! // rewrites: 1
//! // expect
//! func @f(%x: bf16[4]) -> bf16[4] {
//!   return %x
//! }
//! ```
//!
//! | line | meaning |
//! |---|---|
//! | `// run: FLAGS` | `--passes A,B` or `--to PHASE`, and `--vary x`, `--branches y`, `--lora W=RANK:ALPHA`, `--lift W`, `--grad LOSS --wrt X,Y`, `--remat NAME`, `--without A`, `--stop-after N`, `--explain`, `--primitives` (a target without composites), `--joint-parts` (one that writes parts of a product side by side), `--axes N` (one with tensors of at most N axes), `--state NAME=INPUT>OUTPUT` (`NAME=>OUTPUT`) |
//! | `// dims: N=4` | values of free dims |
//! | `// rewrites: N` | rewrites that the pass of the file makes |
//! | `// check: TEXT` | a line with this text, behind the line of the `check` above |
//! | `// check-next: TEXT` | the line after that has this text |
//! | `// check-not: TEXT` | no line has this text |
//! | `// check-count: N TEXT` | N lines have this text |
//! | `// error: CODE TEXT` | the passes refuse it with this code, and say TEXT |
//! | `// not-run: WHY` | what is left is not compared with the source |
//! | `// expect` | all lines down to the next case are what is left, exactly |
//!
//! `module @m` may be left out in front. Beside what a case expects, what is left has to compute what
//! the source does: programs to the bit in the interpreter, and compiled to the end on the CPU,
//! in memory full of NaN.

mod case;
mod meaning;

use anyid_passes::pipeline::PASSES;
use case::{Case, File};
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ir/passes")
}

/// All files, read; panics with everything that cannot be.
fn files() -> Vec<File> {
    let entries = std::fs::read_dir(folder()).expect("the folder of file tests");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        match File::parse(&name, &text) {
            Ok(file) => files.push(file),
            Err(why) => faults.push(format!("{name}.txt: {why}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    files
}

/// What is wrong with a case of the file of `pass`.
fn failure(pass: &str, case: &Case, without: Option<&str>) -> Option<String> {
    let run = case.run(pass, without);
    let text = run.as_ref().map_or("", |run| &run.text).to_owned();
    let fault = match (&case.error, run) {
        (Some(_), Ok(_)) => Err("it is not refused".to_owned()),
        (Some(error), Err(given)) => error.matches(&given),
        (None, Err(given)) => Err(given.to_string()),
        (None, Ok(run)) => case.judge(&run).and_then(|()| meaning::same(case, without)),
    };
    let line = case.line;
    fault.err().map(|why| format!("{pass}.txt:{line}: {}: {why}\n{text}", case.name))
}

#[test]
fn every_case_gives_what_it_expects() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut failures = Vec::new();
    for mut file in files() {
        if bless {
            file.bless();
            let path = folder().join(format!("{}.txt", file.pass));
            std::fs::write(path, file.text()).expect("a writable file");
        }
        failures.extend(file.cases.iter().filter_map(|case| failure(&file.pass, case, None)));
    }
    assert!(failures.is_empty(), "{}\n{} failed", failures.join("\n"), failures.len());
}

/// Without a file, what a pass does is only seen in what comes out at the end.
#[test]
fn every_pass_has_a_file_with_cases_for_and_against_it() {
    let files = files();
    let names: Vec<&str> = files.iter().map(|file| file.pass.as_str()).collect();
    for pass in PASSES {
        let file = files.iter().find(|file| file.pass == pass.name);
        let file = file.unwrap_or_else(|| panic!("tests/ir/passes/{}.txt is missing", pass.name));
        assert!(file.cases.len() >= 2, "{}: too few cases", pass.name);
        assert!(file.cases.iter().all(Case::expects), "{}: a case expects nothing", pass.name);
    }
    for name in names {
        assert!(PASSES.iter().any(|pass| pass.name == name), "there is no pass {name}");
    }
}

/// The files would be worth little if a pass that does nothing satisfied them.
#[test]
fn a_pass_that_does_nothing_fails_its_file() {
    for file in files() {
        let pass = PASSES.iter().find(|pass| pass.name == file.pass).expect("checked elsewhere");
        // Nothing is what it does.
        if !pass.optional {
            continue;
        }
        let failed =
            file.cases.iter().filter(|case| failure(&file.pass, case, Some(pass.name)).is_some());
        let failed: Vec<&str> = failed.map(|case| case.name.as_str()).collect();
        assert!(failed.len() >= 2, "{}: only {failed:?} notice", pass.name);
    }
}

/// The runner itself: each directive refuses what it should.
#[test]
fn wrong_expectations_are_noticed() {
    let source = "== c\n// run: --passes canonicalize,dce\nfunc @f(%x: f32[4]) -> f32[4] {\n  \
        %a = neg %x\n  %b = neg %a\n  %c = silu %b\n  return %c\n}\n";
    let judged = |lines: &str| {
        let file = File::parse("canonicalize", &format!("{source}{lines}")).unwrap();
        failure("canonicalize", &file.cases[0], None)
    };
    let out = "func @f(%x: f32[4]) -> f32[4] {\n  %c = silu %x : f32[4]\n  return %c\n}\n";
    for right in [
        format!("// expect\n{out}"),
        "// check: func @f\n// check-next: silu %x\n// check: return\n// check-not: neg\n"
            .to_owned(),
        "// check-count: 1 silu\n// rewrites: 1\n".to_owned(),
    ] {
        assert_eq!(judged(&right), None, "{right}");
    }
    for wrong in [
        format!("// expect\n{}", out.replace("%x :", "%y :")),
        format!("// expect\n{out}func @g() {{\n}}\n"),
        "// check: neg\n".to_owned(),
        "// check: return\n// check: silu\n".to_owned(),
        "// check: func @f\n// check-next: return\n".to_owned(),
        "// check-not: silu\n".to_owned(),
        "// check-count: 2 silu\n".to_owned(),
        "// rewrites: 2\n".to_owned(),
        "// error: E0501\n".to_owned(),
    ] {
        assert!(judged(&wrong).is_some(), "{wrong}");
    }
    for broken in ["// chek: x\n", "// rewrites: many\n", "// check-count: silu\n"] {
        assert!(File::parse("cse", &format!("{source}{broken}")).is_err(), "{broken}");
    }
    assert!(File::parse("cse", "func @f() {\n").is_err(), "a source before any case");
    assert!(File::parse("cse", "== c\n// run: --pases cse\nfunc @f() {\n}\n").is_err());
}
