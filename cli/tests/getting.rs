//! What is installed beside the program: completions and manual pages.

mod common;

use common::Folder;

#[test]
fn shells_complete_verbs_and_flags() {
    let folder = Folder::new();
    for (shell, mark) in [
        ("bash", "complete -F _anyid__rt"),
        ("zsh", "#compdef anyid-rt"),
        ("fish", "__fish_anyid_rt"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let text = folder.run(&format!("completions {shell}")).fine().out;
        for part in [mark, "generate", "gpu-check", "save-latents", "token-file"] {
            assert!(text.contains(part), "{shell}: {part}");
        }
    }
    folder.run("completions tcsh").fails("E0900").says("bash");
}

#[test]
fn bash_completes_flags_and_values_of_every_verb() {
    let folder = Folder::new();
    let text = folder.run("completions bash").fine().out;
    folder.write("complete.bash", &text);
    let complete = |words: &[&str]| {
        let line = "source ./complete.bash; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
            _anyid__rt anyid-rt \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
            echo \"${COMPREPLY[@]}\"";
        let mut command = folder.other("bash");
        let done = command.args(["--norc", "-c", line, "bash", "anyid-rt"]).args(words).output();
        let done = done.expect("bash runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    for (words, wanted) in [
        (&["gen"][..], "generate"),
        (&["generate", "--so"], "--solver"),
        (&["generate", "--codec", "h"], "h264"),
        (&["check", "r"], "refs"),
        (&["gpu-check", "--"], "--help"),
        (&["lora", "merge", "--"], "--help"),
    ] {
        let found = complete(words);
        assert!(found.split_whitespace().any(|word| word == wanted), "{words:?}: {found:?}");
    }
}

#[test]
fn every_verb_has_a_page() {
    let folder = Folder::new();
    let page = folder.run("man").fine().out;
    assert!(page.contains(".TH anyid-rt 1") && page.contains(".SH SUBCOMMANDS"), "{page}");
    assert!(folder.run("man -o pages").fine().out.ends_with(" pages to pages\n"));
    let list = || {
        let found = std::fs::read_dir(folder.path("pages")).unwrap();
        let mut names: Vec<String> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let pages = list();
    for name in [
        "anyid-rt.1",
        "anyid-rt-generate.1",
        "anyid-rt-serve.1",
        "anyid-rt-train-stages.1",
        "anyid-rt-man.1",
    ] {
        assert!(pages.contains(&name.to_owned()), "{name}: {pages:?}");
    }
    let generate = std::fs::read_to_string(folder.path("pages/anyid-rt-generate.1")).unwrap();
    assert!(generate.contains("anyid\\-rt\\-generate") && generate.contains("\\-\\-ref"));
    // What is there is kept.
    folder.run("man -o pages").fails("E1016");
    assert_eq!(list(), pages);
}
