//! Training as users meet it: a run from a manifest to an adapter, everything that can be wrong with
//! it, and runs that are stopped and go on.
//!
//! By default a few runs are killed; ANYID_RT_SIGNALS=20 kills 20.

#![cfg(unix)]

mod common;

use common::training::{
    bytes, ended, log, same_end, sample, samples, send, start, wait_for, world, write_lines,
};
use common::{Done, Folder, tensors};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const LORA: &str = "train lora --config run.toml --threads 2";

#[test]
fn a_run_makes_an_adapter_that_learns_and_can_be_used() {
    let folder = world(&samples());
    let check = folder.run("train check --config run.toml --json").fine().json();
    assert_eq!((&check["samples"], &check["shapes"].as_array().unwrap().len()), (&json!(3), &2));
    let share: f64 =
        check["levels"].as_array().unwrap().iter().map(|row| row["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-9);
    let sheet = folder.run("inspect run/check.mp4").fine().out;
    assert!(sheet.contains("192x192") && sheet.contains("frames    5"), "{sheet}");
    let psnr = check["sheet"]["psnr"].as_array().unwrap();
    assert!(psnr.len() == 3 && psnr.iter().all(|value| value.as_f64().unwrap() > 0.0));

    let words = format!("{LORA} --steps 60 --set data.validation={}", "train.jsonl");
    let report = folder.run(&format!("{words} --json")).fine().json();
    let validation = &report["validation"];
    let [best, base] = ["best", "base"].map(|name| validation[name].as_f64().unwrap());
    assert!(best < 0.7 * base, "{best} of {base}");
    let rows = log(&folder, "run");
    assert_eq!(rows.len(), 60);
    for name in ["step", "loss", "error", "norm"] {
        assert!(rows.iter().all(|row| row[name].as_f64().is_some_and(f64::is_finite)), "{name}");
    }
    let moved = rows[1]["moved"].as_object().unwrap();
    assert_eq!(moved.len(), 20);
    assert!(moved.values().all(|share| share.as_f64().unwrap() > 0.0), "{moved:?}");

    // The adapter is one of this program's, for the linears that were asked for.
    let shown = folder.run("lora inspect run/adapter.safetensors --json").fine().json();
    assert_eq!(
        shown["modules"].as_array().map_or(shown["modules"].clone(), |m| m.len().into()),
        20
    );
    let adapter = tensors(&folder.path("run/adapter.safetensors"));
    assert_eq!(adapter.len(), 60);
    assert!(adapter.values().all(|tensor| tensor.to_f32_vec().iter().all(|x| x.is_finite())));
    folder
        .run("generate --model micro --prompt x --size 64x64 --frames 5 --steps 2 --lora run/adapter.safetensors -o x.gif")
        .fine();

    // Everything that was encoded is found again.
    let again = folder.run(&format!("{LORA} -o again --steps 1")).fine();
    assert!(!again.err.contains("encoding"), "{}", again.err);
}

#[test]
fn threads_change_no_bit() {
    let folder = world(&samples());
    for threads in [1, 2] {
        let words = format!("train lora --config run.toml --threads {threads} -o t{threads}");
        folder.run(&words).fine();
    }
    same_end(&folder, "t1", "t2");
}

#[test]
fn every_faulty_line_is_listed_before_anything_is_trained() {
    type Change = fn(&mut Value);
    let rows: [(Change, &str); 7] = [
        (|v| v["id"] = "s_1".into(), "is also that of line 1"),
        (|v| v["references"] = json!([]), "0 references"),
        (|v| v["target"]["media"] = "none.mp4".into(), "none.mp4: the file does not exist"),
        (|v| v["target"]["start"] = 72.into(), "frames at 24 a second from frame 72 on, 5 are"),
        (|v| v["target"]["crop"] = json!([0, 0, 481, 360]), "does not lie in a picture"),
        (|v| v["target"]["media"] = "text.mp4".into(), "this is not a picture or video"),
        (|v| v["prompt"] = "word ".repeat(3000).into(), "tokens, at most 512"),
    ];
    let mut lines = vec![sample("s_1", 10, |_| {})];
    lines.extend((2..).zip(&rows).map(|(at, (change, _))| sample(&format!("s_{at}"), 10, change)));
    let folder = world(&lines);
    folder.write("text.mp4", "no video at all");
    let manifest = std::fs::read_to_string(folder.path("train.jsonl")).unwrap();
    folder.write("train.jsonl", format!("{manifest}\nno json\n"));
    let done = folder.run(LORA).fails("E0957").says("8 lines of the manifest cannot be used");
    for (line, (_, said)) in (2..).zip(&rows) {
        let own = done.err.lines().find(|text| text.contains(&format!("line {line}: ")));
        assert!(own.is_some_and(|own| own.contains(said)), "line {line}: {said}\n{}", done.err);
    }
    assert!(done.err.contains("line 9: this is not JSON"), "{}", done.err);
    assert!(!folder.path("run/adapter.safetensors").exists());
    // They can be left out instead, and are counted then.
    let left = folder.run(&format!("{LORA} --set data.skip_faulty=true --steps 1")).fine();
    assert!(left.err.contains("8 samples left out: faulty"), "{}", left.err);
}

#[test]
fn what_is_left_out_on_purpose_has_a_reason() {
    let folder = world(&samples());
    let large = "--set video.width=640 --set video.height=480";
    folder.run(&format!("{LORA} {large}")).fails("E0958").says("would be enlarged");
    write_lines(&folder, &[]);
    folder.run(LORA).fails("E0958").says("the manifest has no sample");
}

#[test]
fn settings_and_locks_are_checked() {
    let folder = world(&samples());
    folder.run("train lora --config none.toml").fails("E0911");
    folder.run(&format!("{LORA} --set train.rate=1")).fails("E0955").says("unknown field `rate`");
    folder
        .run(&format!("{LORA} --set train.batch=0"))
        .fails("E0956")
        .says("train.batch cannot be 0");
    let hash = "a".repeat(64);
    folder.run(&format!("{LORA} --set data.sha256={hash}")).fails("E0959");
    folder.run(&format!("{LORA} --set lora.targets=[\"nothing.*\"]")).fails("E0523");
    folder.run(&format!("{LORA} --set model.path=none")).fails("E0701");
}

#[test]
fn a_folder_has_one_run_at_a_time_and_none_is_overwritten() {
    let folder = world(&samples());
    let child = start(&folder, &format!("{LORA} --steps 1000000"));
    wait_for(&folder, "run/checkpoint.safetensors");
    folder.run(LORA).fails("E0961");
    folder.run(&format!("{LORA} --resume")).fails("E0961");
    send(&child, Signal::KILL);
    ended(child);
    folder.run(LORA).fails("E0964").says("--resume");
}

#[test]
fn an_interrupted_run_ends_its_sample_and_goes_on_to_the_same_bits() {
    let folder = world(&samples());
    let words =
        format!("{LORA} --steps 40 --set run.checkpoint_every=1000 --set train.average=0.9");
    // Batches of three groups, of two shapes.
    let words = format!("{words} --set data.validation=train.jsonl --set run.validate_every=3");
    let words = format!("{words} --set train.batch=5 --set train.together=2");
    folder.run(&format!("{words} -o whole")).fine();
    for (round, (signal, code)) in [(Signal::INT, 130), (Signal::TERM, 143)].into_iter().enumerate()
    {
        let run = format!("cut{round}");
        let child = start(&folder, &format!("{words} -o {run}"));
        wait_for(&folder, &format!("{run}/checkpoint.safetensors"));
        std::thread::sleep(Duration::from_millis(60 + 90 * round as u64));
        send(&child, signal);
        let done = ended(child);
        // On a fast machine it may be over already.
        if done.code != 0 {
            assert_eq!(done.code, code, "{}", done.err);
            assert!(done.err.contains("E1002"), "{}", done.err);
            assert!(done.err.contains("--resume goes on from here"), "{}", done.err);
        }
        folder.run(&format!("{words} -o {run} --resume")).fine();
        same_end(&folder, &run, "whole");
        for name in ["adapter-best.safetensors", "adapter-average.safetensors"] {
            let [a, b] = [&run, "whole"].map(|run| bytes(&folder, &format!("{run}/{name}")));
            assert!(a == b, "{name}");
        }
    }
}

/// Files that a run has begun to write in its folder and that have no name yet, with their sizes.
fn unfinished(folder: &Folder, run: &str) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder.path(run)).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        Some((name, entry.metadata().ok()?.len()))
    });
    named.filter(|(name, _)| name.starts_with('.')).collect()
}

/// Kills a run inside the write of a checkpoint: as soon as its unfinished file holds more than any
/// other that it writes before its end. Whether the kill came before the file had its name.
fn killed_inside_a_write(folder: &Folder, words: &str, run: &str) -> bool {
    let before: Vec<String> = unfinished(folder, run).into_iter().map(|(name, _)| name).collect();
    let begun = || {
        let files = unfinished(folder, run).into_iter();
        files.filter(|(name, _)| !before.contains(name)).any(|(_, size)| size > 200_000)
    };
    let mut child = start(folder, words);
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(100));
    }
    send(&child, Signal::KILL);
    ended(child).code != 0 && begun()
}

#[test]
fn runs_killed_at_random_moments_and_inside_writes_end_with_the_same_bits() {
    let rounds =
        std::env::var("ANYID_RT_SIGNALS").ok().and_then(|n| n.parse().ok()).unwrap_or(4u64);
    let folder = world(&samples());
    let words = format!(
        "{LORA} --steps 40 --set train.batch=3 --set run.checkpoint_every=1 --set lora.rank=128"
    );
    folder.run(&format!("{words} -o whole")).fine();
    // A run is continued only where one was begun.
    folder.run(&format!("{words} -o cut --resume")).fails("E0989").says("no run in this folder");
    assert!(!folder.path("cut").exists(), "no folder is made");
    folder.run(&format!("{} -o cut", words.replace("--steps 40", "--steps 1"))).fine();
    let cut = format!("{words} -o cut --resume");
    let (mut seed, mut killed, mut inside) = (0x2545_f491u64, 0, 0);
    for round in 0..rounds {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let child = start(&folder, &cut);
        std::thread::sleep(Duration::from_millis(30 + (seed >> 33) % 400));
        send(&child, Signal::KILL);
        killed += u64::from(ended(child).code != 0);
        // Where the machine is busy, the file has its name sometimes before the signal comes.
        for _ in 0..20 {
            if round < 3 && inside <= round {
                inside += u64::from(killed_inside_a_write(&folder, &cut, "cut"));
            }
        }
    }
    println!(
        "{killed} of {rounds} runs were killed before their end, {inside} more inside a write"
    );
    assert_eq!(inside, rounds.min(3));
    folder.run(&cut).fine();
    same_end(&folder, "cut", "whole");
    assert_eq!(unfinished(&folder, "cut"), []);
}

#[test]
fn a_longer_run_is_the_shorter_one_and_more() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 9 -o whole")).fine();
    folder.run(&format!("{LORA} --steps 5 -o cut")).fine();
    folder.run(&format!("{LORA} --steps 9 -o cut --resume")).fine();
    let [a, b] = ["cut", "whole"].map(|run| bytes(&folder, &format!("{run}/adapter.safetensors")));
    assert!(a == b);
}

#[test]
fn other_settings_and_foreign_checkpoints_are_refused() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 2")).fine();
    let other = "--set train.learning_rate=0.5 --set lora.alpha=8.0";
    let done = folder.run(&format!("{LORA} {other} --resume")).fails("E0963");
    let done = done.says("train.learning_rate: 0.01, now 0.5").says("lora.alpha: 4.0, now 8.0");
    assert!(!done.err.contains("train.steps"), "{}", done.err);
    let done = folder.run("train full --config run.toml --resume").fails("E0963");
    done.says("what is trained: lora, now full");
    let lines = [samples(), vec![sample("s_4", 5, |_| {})]].concat();
    write_lines(&folder, &lines);
    folder.run(&format!("{LORA} --resume")).fails("E0963").says("SHA-256 of the manifest");
    write_lines(&folder, &samples());

    let path = folder.path("run/checkpoint.safetensors");
    let sound = std::fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let foreign = bytes(&folder, "run/adapter.safetensors");
    for damaged in [&sound[..sound.len() / 2], &flipped, &foreign, b"x"] {
        std::fs::write(&path, damaged).unwrap();
        let done = folder.run(&format!("{LORA} --resume")).fails("E0962");
        assert!(!done.err.contains("download"), "it is a file of this program: {}", done.err);
        assert_eq!(done.err.matches("help:").count(), 1, "{}", done.err);
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "nothing is overwritten");
    }
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    folder.run("inspect run").fails("E0962").says("cut off");
    std::fs::write(&path, &sound).unwrap();
    folder.run(&format!("{LORA} --steps 3 --resume")).fine();
}

#[test]
fn a_checkpoint_within_a_group_of_samples_is_refused() {
    let folder = world(&[sample("s_1", 10, |_| {}), sample("s_2", 50, |_| {})]);
    let words = format!("{LORA} --set train.batch=4");
    folder.run(&format!("{words} --steps 2")).fine();
    let path = folder.path("run/checkpoint.safetensors");
    let mut changed = std::fs::read(&path).unwrap();
    let [from, to] = [br#"\"samples\":8"#, br#"\"samples\":9"#];
    let at = changed.windows(from.len()).position(|part| part == from).expect("it is told");
    changed[at..at + to.len()].copy_from_slice(to);
    std::fs::write(&path, &changed).unwrap();
    let done = folder.run(&format!("{words} --steps 4 --resume")).fails("E0962");
    done.says("ends within a group of samples");
    assert_eq!(std::fs::read(&path).unwrap(), changed, "nothing is overwritten");
}

#[test]
fn a_new_run_begins_from_an_adapter() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 3")).fine();
    let from = "--init-from run/adapter.safetensors";
    folder.run(&format!("{LORA} --steps 1 --set train.learning_rate=1e-30 -o next {from}")).fine();
    let [a, b] = ["run", "next"].map(|run| tensors(&folder.path(run).join("adapter.safetensors")));
    for (name, tensor) in &a {
        let apart = tensor.to_f32_vec().into_iter().zip(b[name].to_f32_vec());
        assert!(apart.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
    }
    for (other, said) in [
        ("--set lora.rank=2", &["rank 4, lora.rank is 2"][..]),
        ("--set lora.alpha=8.0", &["alpha 4, lora.alpha is 8"]),
        (
            "--set lora.rank=2 --set lora.alpha=2.0",
            &[
                "rank 4, lora.rank is 2",
                "alpha 4, lora.alpha is 2",
                "set lora.rank = 4, lora.alpha = 4.0, or name",
            ],
        ),
        (
            "--set lora.targets=[\"blocks.*.ffn.0\",\"head.head\"]",
            &[
                "nothing for 1 linear (head.head) of lora.targets",
                "18 linears (",
                "\"blocks.*.ffn.2\"",
            ],
        ),
    ] {
        let done = folder.run(&format!("{LORA} -o no {from} {other}")).fails("E0966");
        said.iter().for_each(|said| assert!(done.err.contains(said), "{said}\n{}", done.err));
        assert!(!folder.path("no").exists(), "nothing is begun");
    }
    // Of a model of another width, and of changes that no run makes.
    folder.run("init wide --preset small").fine();
    let words = format!("{LORA} -o no {from} --set model.path=wide");
    folder.run(&words).fails("E0363").says("a model that is 64 wide, the model is ");
    // Trained for another arrangement of the references, or another null state of guidance.
    for (own, other) in [
        ("\"anyid.rope_layout\":\"prepend\"", "\"anyid.rope_layout\":\"append\" "),
        ("\"anyid.null_refs\":\"match\"", "\"anyid.null_refs\":\"joint\""),
    ] {
        let mut changed = bytes(&folder, "run/adapter.safetensors");
        let mut places = changed.windows(own.len());
        let at = places.position(|part| part == own.as_bytes()).expect("it is told");
        changed[at..at + own.len()].copy_from_slice(other.as_bytes());
        folder.write("other.safetensors", changed);
        folder.run(&format!("{LORA} -o no --init-from other.safetensors")).fails("E0372");
    }
    assert!(!folder.path("no").exists(), "nothing is begun");
    folder.run(&format!("{LORA} --init-from run/adapter.safetensors --resume")).fails("E0900");
}

#[test]
fn a_full_disk_loses_nothing() {
    let folder = world(&samples());
    folder.run(&format!("{LORA} --steps 4")).fine();
    let before = bytes(&folder, "run/checkpoint.safetensors");
    // The log cannot grow.
    let log = folder.path("run/log.jsonl");
    let kept = std::fs::read(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let stands = "stands in run/checkpoint.safetensors: --resume goes on from there";
    let done = folder.run(&format!("{LORA} --steps 5 --resume")).fails("E1012").says(stands);
    assert!(done.err.contains("free some space"), "{}", done.err);
    assert!(bytes(&folder, "run/checkpoint.safetensors") == before);
    std::fs::remove_file(&log).unwrap();
    std::fs::write(&log, kept).unwrap();
    // No file can hold more than 64 KiB: neither a checkpoint nor a large entry of the cache.
    let program = env!("CARGO_BIN_EXE_anyid-rt");
    let limited = |words: &str| {
        let line = format!("ulimit -f 64; exec {program} {words}");
        let mut command = folder.other("sh");
        command.args(["-c", &line]);
        Done::of(words, command.output().unwrap())
    };
    let done = limited(&format!("{LORA} --steps 5 --resume")).fails("E1013");
    done.says("the checkpoint of update 4 ").says(stands);
    assert!(bytes(&folder, "run/checkpoint.safetensors") == before);
    let large = "--set video.width=256 --set video.height=256 -o large";
    let done = limited(&format!("{LORA} {large}")).fails("E1013");
    done.says("nothing was trained yet: the same command begins again");
    folder.run(&format!("{LORA} --steps 5 --resume")).fine();
}

#[test]
fn values_that_are_not_finite_stop_the_run_with_their_sample() {
    let folder = world(&samples());
    let rate = "--set train.learning_rate=1e30 --set run.checkpoint_every=1";
    let done = folder.run(&format!("{LORA} {rate}")).fails("E1001").says("sample s_");
    assert!(!done.err.contains("wrote"), "{}", done.err);
    assert!(folder.path("run/checkpoint.safetensors").exists(), "the last good one stays");
    done.says(
        "take a smaller train.learning_rate, and start a new run in another run.folder: --resume",
    );
}

#[test]
fn a_signal_before_the_first_update_ends_the_run_at_once_and_says_what_stands() {
    let folder = world(&samples());
    // Many shapes of calls, so that compiling takes its time.
    let words = format!("{LORA} --set train.batch=63 --set data.validation=train.jsonl");
    let words = format!("{words} --set run.validate_every=1 --set run.checkpoint_every=1");
    folder.run(&format!("{words} --steps 3 -o whole")).fine();
    // Four runs from their beginning, each stopped twice, and one that goes on behind an update.
    folder.run(&format!("{words} --steps 1 -o cut4")).fine();
    let (mut early, mut late, mut longest) = (0, 0, Duration::ZERO);
    for round in 0..10u64 {
        let run = format!("cut{}", round / 2);
        let saved = || folder.path(&format!("{run}/checkpoint.safetensors")).exists();
        let resume = if saved() { " --resume" } else { "" };
        let begun = folder.path(&format!("{run}/lock")).exists();
        let child = start(&folder, &format!("{words} --steps 3 -o {run}{resume}"));
        match begun {
            // Handlers of signals are there by then.
            true => std::thread::sleep(Duration::from_millis(100)),
            false => wait_for(&folder, &format!("{run}/lock")),
        }
        std::thread::sleep(Duration::from_millis(17 * round));
        let begun = std::time::Instant::now();
        send(&child, if round % 2 == 0 { Signal::INT } else { Signal::TERM });
        let done = ended(child);
        // On a fast machine it may be over already.
        if done.code == 0 {
            continue;
        }
        longest = longest.max(begun.elapsed());
        assert_eq!(done.code, if round % 2 == 0 { 130 } else { 143 }, "{}", done.err);
        assert!(done.err.contains("error[E1002]: interrupted "), "{}", done.err);
        let said = match saved() {
            true => " stands: --resume goes on from here",
            false => "nothing was trained yet: the same command goes on",
        };
        assert!(done.err.contains(said), "{}\n{}", saved(), done.err);
        *(if saved() { &mut late } else { &mut early }) += 1;
    }
    println!("{early} were stopped before a checkpoint, {late} behind one, in {longest:?} at most");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(early > 0);
    for run in (0..5).map(|number| format!("cut{number}")) {
        let saved = folder.path(&format!("{run}/checkpoint.safetensors")).exists();
        let resume = if saved { " --resume" } else { "" };
        folder.run(&format!("{words} --steps 3 -o {run}{resume}")).fine();
        same_end(&folder, &run, "whole");
    }
}

#[test]
fn the_built_in_model_and_the_folder_that_init_writes_of_it_are_one() {
    let folder = world(&samples());
    folder.write("own.toml", common::training::SETTINGS.replace("model.path = \"micro\"\n", ""));
    folder.run("init m").fine();
    let own = "train lora --config own.toml --threads 2";
    let other = format!("{own} --set model.path=m");
    folder.run(&format!("{own} --steps 4 -o whole")).fine();
    // Nothing is encoded a second time, and every bit is the same.
    let done = folder.run(&format!("{other} --steps 4 -o folder")).fine();
    assert!(!done.err.contains("encoding"), "{}", done.err);
    same_end(&folder, "folder", "whole");
    let check =
        |words: &str| folder.run(&words.replace("train lora", "train check --json")).fine().json();
    assert_eq!(check(own)["memory"]["weights_bytes"], check(&other)["memory"]["weights_bytes"]);
    // A run goes on with the one where it began with the other.
    for (run, first, second) in [("a", own, other.as_str()), ("b", other.as_str(), own)] {
        folder.run(&format!("{first} --steps 2 -o {run}")).fine();
        folder.run(&format!("{second} --steps 4 -o {run} --resume")).fine();
        same_end(&folder, run, "whole");
    }
    // So do adapters: it is the base that they were trained on. Another model is not.
    let from = "--steps 1 --init-from whole/adapter.safetensors";
    let done = folder.run(&format!("{other} {from} -o next")).fine();
    assert!(!done.err.contains("it was trained on the transformer"), "{}", done.err);
    let full = own.replace("train lora", "train full");
    let weights = "m/transformer/diffusion_pytorch_model.safetensors";
    folder.run(&format!("{full} --steps 1 -o all")).fine();
    folder.run(&format!("{full} --steps 1 -o from --init-from {weights}")).fine();
    assert_eq!(log(&folder, "all"), log(&folder, "from"));
    folder.run("init n --preset world").fine();
    let done = folder.run(&format!("{own} --set model.path=n --steps 5 -o whole --resume"));
    done.fails("E0963").says("fingerprint of the model");
}
