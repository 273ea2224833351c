//! What `docs/reading.md` shows is what the commands print.
//!
//! In its blocks a line `$ COMMAND` is run in the root of the repository; the lines below it must
//! be lines of the output, in this order. `…` stands for anything: for lines on a line of its own,
//! for the rest of the line at an end. Other lines may lie between them.

use std::path::Path;
use std::process::Command;

/// Whether a line of output is the line of the page.
fn fits(line: &str, shown: &str) -> bool {
    match shown.strip_suffix('…') {
        Some(start) => line.starts_with(start),
        None => line.trim_end() == shown.trim_end(),
    }
}

/// What a command prints on standard output and, behind it, on standard error.
fn output(command: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut words = command.split_whitespace().map(|word| word.trim_matches('"'));
    let program = match words.next() {
        Some("anyid-rt") => env!("CARGO_BIN_EXE_anyid-rt"),
        other => panic!("the page runs {other:?}"),
    };
    let ran = Command::new(program).args(words).current_dir(root).output().expect("it runs");
    let text = [ran.stdout, ran.stderr].concat();
    let text = String::from_utf8(text).expect("output is text");
    assert!(ran.status.success(), "{command}\n{text}");
    text
}

#[test]
fn commands_print_what_the_page_shows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reading.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (mut commands, mut compared) = (0, 0);
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for part in block.split("$ ").skip(1) {
            let (command, shown) = part.split_once('\n').expect("output below a command");
            commands += 1;
            let text = output(command);
            let mut lines = text.lines();
            for line in shown.lines().filter(|line| line.trim() != "…") {
                compared += 1;
                let found = lines.any(|printed| fits(printed, line));
                assert!(
                    found,
                    "{command}\ndoes not print, behind the lines above it,\n{line}\n\n{text}"
                );
            }
        }
    }
    assert!(commands >= 7 && compared >= 30, "{commands} commands, {compared} lines");
}

#[test]
fn the_example_on_the_page_is_the_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/reading.md")).expect("the page");
    let file = std::fs::read_to_string(root.join("tests/ir/block.ir")).expect("the example");
    let function = &file[file.find("func").expect("a function")..];
    assert!(page.contains(function.trim_end()), "docs/reading.md must show tests/ir/block.ir");
}
