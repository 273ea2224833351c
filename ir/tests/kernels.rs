//! Tests whose input is text: kernels and plans with one thing changed, and what is said of it.
//!
//! A file in `tests/ir/kernels/` begins with the text of kernels or of a plan. Cases follow: a line
//! `== title`, lines `- OLD` of the text that are replaced by the lines `+ NEW` behind them, and
//! the expected findings as lines `> CODE place: message`, or `> sound`. `BLESS=1` writes what is
//! found into the files; read the difference before keeping it.

use anyid_ir::Diagnostic;
use anyid_ir::kernel::text::{parse_kernels, print_kernels};
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::verify_plan;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn line(fault: &Diagnostic) -> String {
    let place = fault.place.as_deref().unwrap_or("nowhere");
    format!("{} {place}: {}", fault.code, fault.message)
}

/// What is said of a text.
fn findings(text: &str) -> Vec<String> {
    let found: Vec<String> = if text.starts_with("plan") {
        match parse_plans(text) {
            Err(fault) => vec![line(&fault)],
            Ok(plans) => {
                assert_eq!(parse_plans(&print_plans(&plans)).unwrap(), plans);
                plans.iter().flat_map(verify_plan).map(|fault| line(&fault)).collect()
            }
        }
    } else {
        match parse_kernels(text) {
            Err(fault) => vec![line(&fault)],
            Ok(kernels) => {
                assert_eq!(parse_kernels(&print_kernels(&kernels)).unwrap(), kernels);
                let faults = kernels.iter().enumerate();
                let faults = faults.filter_map(|(at, k)| Some((at, k.verify().err()?)));
                faults.map(|(at, fault)| format!("rule k{at}: {fault}")).collect()
            }
        }
    };
    if found.is_empty() { vec!["sound".to_owned()] } else { found }
}

/// `base` with the changes of a case. Lines are compared without their indent, which is kept.
fn changed(base: &str, case: &str, title: &str) -> String {
    // What the base says, what stands there now, and whether the case spoke of it.
    let mut lines: Vec<(&str, Vec<String>, bool)> =
        base.lines().map(|line| (line.trim(), vec![line.to_owned()], false)).collect();
    let mut at = None;
    for change in case.lines() {
        if let Some(old) = change.strip_prefix("- ") {
            let found = lines.iter().position(|(text, _, spoken)| *text == old && !spoken);
            let found = found.unwrap_or_else(|| panic!("{title}: there is no line {old}"));
            (lines[found].1, lines[found].2) = (Vec::new(), true);
            at = Some(found);
        } else if let Some(new) = change.strip_prefix("+ ") {
            let at = at.unwrap_or_else(|| panic!("{title}: + without -"));
            lines[at].1.push(format!("  {new}"));
        }
    }
    let lines: Vec<String> = lines.into_iter().flat_map(|(_, now, _)| now).collect();
    // The first line tells what the text is.
    lines.join("\n").trim_start().to_owned() + "\n"
}

fn cases() -> Vec<(PathBuf, String)> {
    let folder = root().join("tests/ir/kernels");
    let entries = std::fs::read_dir(&folder).expect("the folder of cases");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    assert!(files.len() >= 3);
    files.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

#[test]
fn changed_kernels_and_plans_are_judged_as_written() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for (path, text) in cases() {
        let mut parts = text.split("\n== ");
        let base = parts.next().expect("the text");
        let mut blessed = format!("{}\n", base.trim_end());
        for case in parts {
            let (title, case) = case.split_once('\n').unwrap_or((case, ""));
            let found: Vec<String> = findings(&changed(base, case, title));
            let (changes, expected): (Vec<&str>, Vec<&str>) =
                case.lines().filter(|l| !l.is_empty()).partition(|l| !l.starts_with("> "));
            let found: Vec<String> = found.iter().map(|line| format!("> {line}")).collect();
            if found != expected && !bless {
                wrong.push(format!("{title}: expected {expected:#?}, found {found:#?}"));
            }
            blessed.push_str(&format!("\n== {title}\n"));
            for line in changes.iter().map(|l| (*l).to_owned()).chain(found) {
                blessed.push_str(&line);
                blessed.push('\n');
            }
        }
        if bless {
            std::fs::write(&path, blessed).expect("a writable file");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documented_texts_are_what_is_printed() {
    let documentation = read(&root().join("docs/plans.md"));
    let blocks: Vec<&str> = documentation
        .split("```text\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .filter(|block| block.starts_with("plan ") || block.starts_with("kernel "))
        .collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert_eq!(findings(block), ["sound"]);
        let printed = match parse_plans(block) {
            Ok(plans) => print_plans(&plans),
            Err(_) => print_kernels(&parse_kernels(block).unwrap()),
        };
        assert_eq!(printed, block);
    }
}

/// String literals of a source before its tests that are messages.
fn messages(source: &str) -> Vec<String> {
    let code: Vec<&str> = source
        .split("#[cfg(test)]")
        .next()
        .expect("a first part")
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n").replace("\\\"", "'");
    let literals = code.split('"').skip(1).step_by(2).map(str::to_owned);
    literals.filter(|text| text.trim().contains(' ')).collect()
}

#[test]
fn every_message_about_kernels_and_plans_has_a_case() {
    // What does not come out of text, or of short text only, has tests beside the code.
    const NOT_FROM_TEXT: [&str; 22] = [
        "docs/plans.md describes the text of kernels",
        "a part of more than {MOST_AXES} axes",
        "part {at} has an axis of no size, or more than {MOST_AXES} axes",
        "{} results of a copy",
        "what no activation gives is not rounded",
        "a kernel of more than {MOST_INSTRUCTIONS} instructions",
        "the kernels of all steps together are too long",
        "port '{}'",
        "weight '{}'",
        // Words of the grammar and advice.
        "rows i in ",
        "cols j in ",
        "plans are written by `anyid-rt compile -o FILE.plan`; make it again",
        "{} instructions, at most {MOST_INSTRUCTIONS}",
        "{ty} is too large",
        "{} is too large",
        "{labels} labels for {results} results",
        "{all} bytes are too many",
        "there is no buffer {id:?}",
        // Cases of several plans, in `plan_verify/forged.rs`.
        "{ty} has no elements",
        "{} is not part of the input {whole}",
        "result {id:?} is kept, but no value of the plan is",
        "{buffer:?} is read where {other:?} of another type was written",
    ];
    let expected: Vec<String> = cases()
        .iter()
        .flat_map(|(_, text)| text.lines().filter(|l| l.starts_with("> ")))
        .map(|line| line.replace('"', "'"))
        .collect();
    let covered = |message: &str| {
        let mut fragments = Vec::new();
        let mut rest = message;
        while let Some((before, tail)) = rest.split_once('{') {
            fragments.push(before);
            rest = tail.split_once('}').map_or("", |(_, after)| after);
        }
        fragments.push(rest);
        expected.iter().any(|line| {
            let mut at = 0;
            fragments.iter().all(|fragment| match line[at..].find(fragment) {
                Some(found) => {
                    at += found + fragment.len();
                    true
                }
                None => false,
            })
        })
    };
    let mut missing = Vec::new();
    for file in ["kernel/verify.rs", "kernel/parse.rs", "plan_verify.rs", "plan_text/reader.rs"] {
        let found = messages(&read(&root().join("ir/src").join(file)));
        assert!(found.len() > 5, "{file}: {found:?}");
        for message in found {
            if !NOT_FROM_TEXT.contains(&message.as_str()) && !covered(&message) {
                missing.push(format!("{file}: {message}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
