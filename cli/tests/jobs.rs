//! Many videos by one command: lines of jobs, seeds, parts of the work; what is done is not done again.

mod common;

use common::{Done, Folder};
use std::collections::BTreeMap;

const QUICK: &str = "generate --model @micro --size 64x64 --frames 5 --steps 2 --threads 1";

fn run(folder: &Folder, words: &str) -> Done {
    folder.run(&format!("{QUICK} {words}"))
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

/// The videos in a folder below.
fn videos(folder: &Folder, below: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder.path(below)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.ends_with(".gif"));
    names.map(|name| (name.clone(), bytes(folder, &format!("{below}/{name}")))).collect()
}

/// A file of jobs with so many lines.
fn jobs(folder: &Folder, count: usize) {
    let line = |at: usize| {
        format!(
            "{{\"id\": \"v{at}\", \"prompt\": \"walk {at}\", \"output\": \"v{at}.gif\", \"seed\": {at}}}\n"
        )
    };
    folder.write("jobs.jsonl", (0..count).map(line).collect::<String>());
}

#[test]
fn lines_are_flags_over_those_of_the_command() {
    let folder = Folder::new();
    let picture = common::repository().join("examples/astronaut.png");
    let lines = [
        format!(
            r#"{{"id": "a b", "ref": ["{}"], "prompt": "one, two", "sigmas": [0.9, 0.5]}}"#,
            picture.display()
        ),
        String::new(),
        r#"{"output": "sub/b.gif", "negative_prompt": "--dull", "guidance": 2.5, "frames": 9}"#
            .to_owned(),
    ];
    folder.write("jobs.jsonl", lines.join("\n"));
    let words = "--jobs jobs.jsonl -o out --guidance 3 --seed 7 --prompt other";
    let done = run(&folder, &format!("{words} --json")).fine();
    let report = done.json();
    let states: Vec<&str> =
        report["jobs"].as_array().unwrap().iter().map(|j| j["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["made", "made"], "{report}");
    assert_eq!(report["jobs"][1]["name"], "job-00003");
    let recipe = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&bytes(&folder, &format!("out/{name}.recipe.json"))).unwrap()
    };
    let (a, b) = (recipe("a b.mp4"), recipe("sub/b.gif"));
    assert_eq!(
        (&a["prompt"], &a["steps"], &a["guidance"]),
        (&"one, two".into(), &2.into(), &3.0.into())
    );
    assert_eq!(a["sigmas"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&b["prompt"], &b["frames"], &b["guidance"]),
        (&"other".into(), &9.into(), &2.5.into())
    );
    assert_eq!((&b["negative_prompt"], &b["seed"]), (&"--dull".into(), &7.into()));
    // Each is the video of its own command.
    let alone =
        "--prompt other --negative-prompt=--dull --guidance 2.5 --frames 9 --seed 7 -o b.gif";
    folder
        .run(&format!("generate --model @micro --size 64x64 --steps 2 --threads 1 {alone}"))
        .fine();
    assert!(bytes(&folder, "b.gif") == bytes(&folder, "out/sub/b.gif"));
    // A format that a name contradicts is told with the other faults, before anything is made.
    let words = "--jobs jobs.jsonl -o none --prompt other --format mp4";
    run(&folder, words).fails("E1303").says("line 3: [E0947]");
    assert!(!folder.path("none").exists());
}

#[test]
fn every_fault_of_every_line_is_told_before_the_first_video() {
    let folder = Folder::new();
    folder.write("there.gif", "another file");
    let lines = [
        r#"{"id": "good", "prompt": "x", "output": "good.gif"}"#,
        "not json",
        "[1]",
        r#"{"prompt": "x", "promt": "y", "output": "c.gif"}"#,
        r#"{"output": "d.gif"}"#,
        r#"{"prompt": "x", "output": "e.gif", "steps": 0}"#,
        r#"{"prompt": "x", "output": "f.gif", "steps": "many"}"#,
        r#"{"prompt": "x", "output": "g.gif", "ref": "missing.png"}"#,
        r#"{"prompt": "x", "output": "there.gif"}"#,
        r#"{"prompt": "x", "output": "good.gif"}"#,
        r#"{"id": "good", "prompt": "x", "output": "k.gif"}"#,
        r#"{"prompt": "x", "output": "l.gif", "size": "65x64", "model": "m"}"#,
        r#"{"prompt": "x", "output": "m.gif", "seed": [1], "frames": true}"#,
        r#"{"prompt": "x"}"#,
        r#"{"prompt": "x", "output": "n.gif", "seed": "random"}"#,
        r#"{"id": "../x", "prompt": "x", "output": "o.gif"}"#,
        r#"{"prompt": "x", "output": "p.gif", "size": "65x64"}"#,
    ];
    folder.write("jobs.jsonl", lines.join("\n"));
    let before = folder.names();
    let done = run(&folder, "--jobs jobs.jsonl").fails("E1303");
    for says in [
        "16 lines cannot be made",
        "line 2: this is not JSON: ",
        "line 3: this is not a JSON object",
        "line 4: \"promt\" is not a flag that may stand here; is it \"prompt\"?",
        "line 5: \"prompt\" is missing",
        "line 6: [E0923] ",
        "line 7: invalid value 'many'",
        "line 8: [E0801] ",
        "line 9: [E1016] another video is there (there is no recipe beside it)",
        "line 10: its video good.gif is also that of line 1",
        "line 11: its name \"good\" is also that of line 1",
        "line 12: \"model\" is not a flag",
        "line 13: \"frames\" is true, not text or a number",
        "line 13: \"seed\" is [1], not text or a number",
        "line 14: there is no \"output\"",
        "line 15: [E1303] a random seed",
        "line 16: \"id\" is \"../x\"",
        "line 17: [E0901] ",
    ] {
        assert!(done.err.contains(says), "{says}\n{}", done.err);
    }
    assert_eq!(folder.names(), before, "nothing was made");
    folder.write("empty.jsonl", "\n\n");
    run(&folder, "--jobs empty.jsonl").fails("E1303").says("no lines");
    run(&folder, "--jobs none.jsonl").fails("E0911");
    folder.write("bytes.jsonl", [0xff, 0xfe]);
    run(&folder, "--jobs bytes.jsonl").fails("E1303").says("UTF-8");
    run(&folder, "--jobs jobs.jsonl --resume x.st").fails("E0900");
    run(&folder, "--prompt x -o a.gif --shard 0/2").fails("E0900");
}

#[test]
fn the_same_command_makes_what_is_missing() {
    let folder = Folder::new();
    jobs(&folder, 3);
    let words = "--jobs jobs.jsonl -o out";
    let listed = run(&folder, &format!("{words} --dry-run")).fine();
    assert_eq!(listed.out.matches("to make").count(), 3, "{}", listed.out);
    assert!(!folder.path("out").exists());
    run(&folder, words).fine().says("video 3 of 3: v2");
    let made = videos(&folder, "out");
    assert_eq!(made.len(), 3);
    // Done already, wherever the files of a reference may lie now.
    let again = run(&folder, words).fine().says("3 of 3 videos done already");
    assert!(!again.err.contains("sampling") && again.out.is_empty(), "{}", again.err);
    std::fs::remove_file(folder.path("out/v1.gif")).unwrap();
    let again = run(&folder, &format!("{words} --resume --force")).fine();
    assert!(
        again.err.contains("video 2 of 3: v1") && !again.err.contains("video 1"),
        "{}",
        again.err
    );
    assert_eq!(videos(&folder, "out"), made);
    // A line that asks for another video than the one that is there.
    run(&folder, &format!("{words} --guidance 2")).fails("E1303").says("they differ in guidance");
    run(&folder, &format!("{words} --guidance 2 --force")).fine();
    assert!(videos(&folder, "out") != made);
}

#[test]
fn parts_make_every_video_once() {
    let folder = Folder::new();
    jobs(&folder, 7);
    run(&folder, "--jobs jobs.jsonl -o whole").fine();
    let whole = videos(&folder, "whole");
    let mut counts = Vec::new();
    for at in 0..3 {
        let words = format!("{QUICK} --jobs jobs.jsonl -o parts");
        let mut command = folder.command(&words, &[]);
        // One of each kind of launcher.
        match at {
            0 => command.args(["--shard", "0/3"]),
            1 => command.env("OMPI_COMM_WORLD_RANK", "1").env("OMPI_COMM_WORLD_SIZE", "3"),
            _ => command.args(["--shards", "3"]).env("JOB_COMPLETION_INDEX", "2"),
        };
        let done = Done::of(&words, command.output().unwrap()).fine();
        assert!(done.err.contains(&format!("part {at}/3 by ")), "{}", done.err);
        counts.push(videos(&folder, "parts").len());
    }
    assert!(counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
    assert_eq!(videos(&folder, "parts"), whole);
    run(&folder, "--jobs jobs.jsonl -o parts --shard 3/3").fails("E1307");
    run(&folder, "--jobs jobs.jsonl -o parts --shard three").fails("E1307");
}

#[test]
fn several_seeds_are_several_videos() {
    let folder = Folder::new();
    let prompt = ["--prompt", "a walk"];
    folder.run_with(&format!("{QUICK} --seeds 3,5..6 -o out.gif"), &prompt).fine();
    let names: Vec<String> =
        folder.names().into_iter().filter(|name| name.ends_with(".gif")).collect();
    assert_eq!(names, ["out-seed3.gif", "out-seed5.gif", "out-seed6.gif"]);
    folder.run_with(&format!("{QUICK} --seed 5 -o five.gif"), &prompt).fine();
    assert!(bytes(&folder, "five.gif") == bytes(&folder, "out-seed5.gif"));
    assert!(bytes(&folder, "five.gif") != bytes(&folder, "out-seed6.gif"));
    folder.run_with(&format!("{QUICK} --seeds 5 --seed 1 -o x.gif"), &prompt).fails("E0900");
    folder.run_with(&format!("{QUICK} --seeds 4..1 -o x.gif"), &prompt).fails("E0900");
    folder.run_with(&format!("{QUICK} --seeds 1,2 -o -"), &prompt).fails("E1303");
    // Lines with seeds are as many videos.
    folder.write("jobs.jsonl", r#"{"id": "a", "prompt": "a walk", "seeds": [5, "6"]}"#);
    run(&folder, "--jobs jobs.jsonl -o many").fine();
    assert!(folder.path("many/a-seed5.mp4").exists() && folder.path("many/a-seed6.mp4").exists());
}

#[test]
fn a_job_that_fails_does_not_keep_others_from_being_made() {
    let folder = Folder::new();
    // Too large for any memory, which is known only when the run is planned.
    folder.write(
        "jobs.jsonl",
        "{\"id\": \"a\", \"prompt\": \"x\", \"output\": \"a.gif\"}\n\
         {\"id\": \"b\", \"prompt\": \"x\", \"output\": \"b.gif\", \"size\": \"16384x16384\", \"frames\": 4093}\n\
         {\"id\": \"c\", \"prompt\": \"x\", \"output\": \"c.gif\"}\n",
    );
    let done =
        run(&folder, "--jobs jobs.jsonl --json").fails("E1308").says("1 of 3 videos failed: b");
    assert!(done.err.contains("error[E0603]"), "{}", done.err);
    assert!(folder.path("a.gif").exists() && folder.path("c.gif").exists());
    let states = done.json()["jobs"].clone();
    assert_eq!(states[1]["state"], "failed", "{states}");
}

/// Whether this process may mount; says so where it may not.
#[cfg(unix)]
fn mounts() -> bool {
    let tried = std::process::Command::new("unshare").args(["-m", "true"]).output();
    let may = tried.is_ok_and(|done| done.status.success());
    if !may {
        println!("skipped: mounting needs root and `unshare`");
    }
    may
}

#[test]
fn faults_of_the_form_of_any_result_are_told_before_the_first_is_made() {
    let folder = Folder::new();
    let lines = [
        r#"{"prompt": "fine", "output": "a.gif"}"#,
        r#"{"prompt": "fine too", "output": "sub/b.mp4"}"#,
        r#"{"prompt": "no such form", "output": "u.png"}"#,
        r#"{"prompt": "no such quality", "output": "q.mp4", "quality": 99}"#,
        r#"{"prompt": "too fast", "output": "f.gif", "fps": 300}"#,
        r#"{"prompt": "no such pixels", "output": "p.gif", "pix_format": "yuv444p"}"#,
        r#"{"prompt": "no such codec", "output": "c.gif", "codec": "h265"}"#,
    ];
    folder.write("jobs.jsonl", lines.join("\n"));
    let done = run(&folder, "--jobs jobs.jsonl -o out").fails("E1303");
    let done = (3..=lines.len()).fold(done, |done, line| done.says(&format!("line {line}: [E0")));
    assert!(!done.err.contains("line 1:") && !done.err.contains("line 2:"), "{}", done.err);
    assert_eq!(folder.names(), ["jobs.jsonl"]);
}

#[test]
fn a_damaged_state_does_not_hold_up_its_video() {
    let folder = Folder::new();
    jobs(&folder, 1);
    folder.write("out/v0.gif.state.safetensors", [0xff; 40]);
    let done = run(&folder, "--jobs jobs.jsonl -o out").fine();
    assert!(done.err.contains("the state is damaged"), "{}", done.err);
    assert!(folder.path("out/v0.gif").exists());
    assert!(!folder.path("out/v0.gif.state.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_in_the_middle_loses_nothing_that_is_done() {
    if !mounts() {
        return;
    }
    let folder = Folder::new();
    jobs(&folder, 12);
    run(&folder, "--jobs jobs.jsonl -o whole").fine();
    let whole = videos(&folder, "whole");
    std::fs::create_dir(folder.path("out")).unwrap();
    std::fs::create_dir(folder.path("kept")).unwrap();
    let line = "mount --make-rprivate / && mount -t tmpfs -o size=160k none out || exit 77; \
        RUN=\"$0 generate --model $1 --size 64x64 --frames 5 --steps 2 --threads 1 --jobs jobs.jsonl -o out\"; \
        $RUN 2>first.txt; echo $? >code; mkdir -p kept/first && cp out/* kept/first; \
        mount -o remount,size=64m out; $RUN 2>second.txt || exit 1; cp out/* kept";
    let mut command = folder.other("unshare");
    command.args(["-m", "bash", "-c", line, env!("CARGO_BIN_EXE_anyid-rt")]).arg(common::micro());
    let done = command.env("TMPDIR", folder.temporary()).output().unwrap();
    let said = |name: &str| std::fs::read_to_string(folder.path(name)).unwrap_or_default();
    assert!(done.status.success(), "{}\n{}", said("first.txt"), said("second.txt"));
    assert_eq!(said("code").trim(), "1", "{}", said("first.txt"));
    assert!(said("first.txt").contains("error[E1012]"), "{}", said("first.txt"));
    assert!(said("first.txt").contains("videos are there: the same command goes on"));
    let first = videos(&folder, "kept/first");
    assert!(!first.is_empty() && first.len() < 12, "{}", first.len());
    assert!(first.iter().all(|(name, bytes)| whole[name] == *bytes));
    let done_before = format!("{} of 12 videos done already", first.len());
    assert!(said("second.txt").contains(&done_before), "{}", said("second.txt"));
    assert_eq!(videos(&folder, "kept"), whole);
}

#[cfg(unix)]
#[test]
fn an_interrupted_command_goes_on_where_it_was() {
    let folder = Folder::new();
    jobs(&folder, 4);
    let words = "--jobs jobs.jsonl -o out --steps 150 --resume";
    let whole = Folder::new();
    jobs(&whole, 4);
    let quick = QUICK.replace("--steps 2 ", "");
    whole.run(&format!("{quick} {words}")).fine();
    for moment in [300, 700, 1100] {
        let mut command = folder.command(&format!("{quick} {words}"), &[]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(moment));
        let _ = child.kill();
        child.wait().unwrap();
    }
    folder.run(&format!("{quick} {words}")).fine();
    assert_eq!(videos(&folder, "out"), videos(&whole, "out"));
}
