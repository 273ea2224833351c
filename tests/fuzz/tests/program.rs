//! The program itself: a short run ends well, and what is asked for wrongly is refused. As there is a test
//! of it, the tests of the workspace build the program.

use std::process::{Command, Output};

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_anyid-fuzz")).args(words).output().expect("it starts")
}

#[test]
fn a_short_run_ends_well() {
    let artifacts = std::env::temp_dir().join(format!("anyid-fuzz-{}", std::process::id()));
    let folder = artifacts.to_str().expect("a name in Unicode");
    let done = run(&["ir", "--runs", "20", "--seed", "1", "--artifacts", folder]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    let _ = std::fs::remove_dir_all(&artifacts);
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    for (words, what) in [
        (&[][..], "name a target: ir"),
        (&["ir", "--runs", "few"], "few is no number"),
        (&["ir", "--seconds"], "--seconds needs a value"),
        (&["ir", "kernel"], "kernel is not understood"),
    ] {
        let done = run(words);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(2) && said.contains(what), "{words:?}: {said}");
    }
}
