//! Runs that are told to stop, or that find something damaged: what they say, and that nothing is lost.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::training::cache::{Cache, Entry};
use anyid_ir::Tensor;
use serde_json::json;
use std::fs;
use std::path::Path;

/// Settings of short runs on pictures, in a folder with all that they need.
fn world() -> (tempfile::TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/astronaut.png");
    let picture = fs::read(picture).unwrap();
    let line = |id: usize| {
        let value = json!({
            "schema": "anyid.sample/1", "id": format!("s_{id}"), "prompt": "A person.",
            "target": {"media": format!("{id}.png"), "frames": 1},
            "references": [{"media": "reference.png", "form": "portrait"}],
        });
        format!("{value}\n")
    };
    for name in ["0.png", "1.png", "reference.png"] {
        // The same pixels in different files.
        fs::write(at(name), [&picture[..], name.as_bytes()].concat()).unwrap();
    }
    fs::write(at("train.jsonl"), (0..2).map(line).collect::<String>()).unwrap();
    let mut settings = Settings::default();
    settings.data.manifest = at("train.jsonl");
    settings.data.cache = Some(at("cache"));
    (settings.video.width, settings.video.height, settings.video.frames) = (32, 32, 1);
    (settings.lora.rank, settings.lora.alpha) = (2, 2.0);
    (settings.train.steps, settings.train.batch, settings.run.checkpoint_every) = (2, 1, 1);
    (folder, settings)
}

/// A run in the folder `name`, which is told to stop when `stop` says so.
fn run(
    (settings, kind): (&Settings, Kind),
    folder: &Path,
    stop: &dyn Fn(&Event) -> bool,
) -> Result<Vec<u8>> {
    let mut settings = settings.clone();
    settings.run.folder = folder.to_owned();
    let backend = Backend::open("cpu", 1).unwrap();
    let (resume, settings) = (folder.join(CHECKPOINT).exists(), &settings);
    let training =
        Training { kind, settings, backend: &backend, resume, init_from: None, guards: None };
    let cancel = Cancel::default();
    let report = training.run(&cancel, &mut |event| {
        if stop(&event) {
            cancel.cancel();
        }
    })?;
    Ok(fs::read(report.path).unwrap())
}

#[test]
fn a_run_that_is_told_to_stop_says_how_to_go_on_and_goes_on_to_the_same_bits() {
    let (folder, settings) = world();
    let at = |name: &str| folder.path().join(name);
    for (network, kind) in
        [(TrainedNetwork::Transformer, Kind::Lora), (TrainedNetwork::Vae, Kind::Full)]
    {
        let mut settings = settings.clone();
        settings.train.network = network;
        let of = |name: &str| at(&format!("{network:?}-{name}"));
        let whole = run((&settings, kind), &of("whole"), &|_| false).unwrap();
        type Stop = fn(&Event) -> bool;
        let moments: [(&str, Stop, &str); 5] = [
            (
                "checked",
                |e| matches!(e, Event::Checked { done: 1, .. }),
                "the same command goes on",
            ),
            (
                "encoded",
                |e| matches!(e, Event::Encoded { done: 1, .. }),
                "the same command goes on",
            ),
            ("begun", |e| matches!(e, Event::Begun { .. }), "--resume goes on from here"),
            ("updated", |e| matches!(e, Event::Updated { step: 1, .. }), "--resume goes on"),
            // Nothing is left but to write the result.
            ("saved", |e| matches!(e, Event::Saved { step: 2 }), "--resume goes on from here"),
        ];
        let mut stopped = Vec::new();
        for (name, stop, said) in moments {
            // Nothing is in the cache, so that there is something to encode.
            settings.data.cache = Some(of(&format!("{name}-cache")));
            let first = run((&settings, kind), &of(name), &stop);
            if let Err(error) = first {
                assert_eq!(error.kind(), Fault::Interrupted, "{network:?} {name}: {error}");
                let help = error.help_text().unwrap_or_default();
                assert!(help.contains(said), "{network:?} {name}: {error}");
                assert!(error.place().is_some(), "{network:?} {name}: {error}");
                stopped.push(name);
            }
            let again = run((&settings, kind), &of(name), &|_| false);
            assert!(again.unwrap() == whole, "{network:?} {name}");
        }
        let last = network == TrainedNetwork::Vae;
        assert_eq!(stopped.contains(&"saved"), last, "statistics of latents take their time");
        assert!(stopped.len() >= 4, "{network:?}: {stopped:?}");
    }
}

#[test]
fn an_interruption_between_checking_and_the_first_update_says_what_stands() {
    let (folder, mut settings) = world();
    let at = |name: &str| folder.path().join(name);
    for (network, kind, series) in
        [(TrainedNetwork::Transformer, Kind::Lora, 2), (TrainedNetwork::Vae, Kind::Full, 1)]
    {
        settings.train.network = network;
        settings.data.cache = Some(at(&format!("{network:?}-cache")));
        let of = |name: &str| at(&format!("{network:?}-{name}"));
        // The last of what is encoded, clips and then prompts: next, plans are compiled.
        let ends = std::cell::Cell::new(0);
        let last = |event: &Event| {
            let end = matches!(event, Event::Encoded { done, total } if done == total);
            ends.set(ends.get() + u32::from(end));
            end && ends.get() == series
        };
        let error = run((&settings, kind), &of("cut"), &last).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E1002", Fault::Interrupted), "{error}");
        assert_eq!(error.message(), "interrupted while compiling");
        assert_eq!(error.place(), of("cut").to_str());
        let help = error.help_text().unwrap_or_default();
        assert!(help.starts_with("nothing was trained yet: the same command goes on"), "{error}");
        assert!(!of("cut").join(CHECKPOINT).exists());
        // Nothing is encoded again, and the run is that of one that nobody disturbed.
        let again = run((&settings, kind), &of("cut"), &|event| {
            assert!(!matches!(event, Event::Encoded { .. }), "{event:?}");
            false
        });
        assert!(again.unwrap() == run((&settings, kind), &of("whole"), &|_| false).unwrap());
        // A run that goes on has its checkpoint from the beginning.
        settings.train.steps += 1;
        let checked = |event: &Event| matches!(event, Event::Checked { done: 2, .. });
        let error = run((&settings, kind), &of("cut"), &checked).unwrap_err();
        settings.train.steps -= 1;
        assert_eq!(error.place(), of("cut").join(CHECKPOINT).to_str());
        let help = "the checkpoint of update 2 stands: --resume goes on from here";
        assert_eq!(error.help_text(), Some(help), "{error}");
    }
}

#[test]
fn faults_of_the_disk_say_which_checkpoint_stands_and_how_to_go_on() {
    let (folder, mut settings) = world();
    let at = |name: &str| folder.path().join(name);
    let lora = |settings: &Settings, name: &str, look: &dyn Fn(&Event) -> bool| {
        run((settings, Kind::Lora), &at(name), look)
    };
    settings.train.steps = 4;
    let whole = lora(&settings, "whole", &|_| false).unwrap();
    // Clips that are gone from the cache in the middle of a run.
    let entries = || fs::read_dir(at("cache")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = entries().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let gone = |event: &Event| {
        // What was read once is held, so it is before the first one that all is removed.
        if matches!(event, Event::Begun { .. }) {
            kept.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
        }
        false
    };
    let stands = |name: &str, update: u64| {
        let path = at(name).join(CHECKPOINT);
        let path = path.display();
        format!("the checkpoint of update {update} stands in {path}: --resume goes on from there")
    };
    let error = lora(&settings, "gone", &gone).unwrap_err();
    assert_eq!(error.code(), "E0960", "{error}");
    let help = error.help_text().unwrap();
    assert!(help.starts_with("something changed the cache during the run"), "{error}");
    assert!(help.ends_with(&stands("gone", 0)), "{error}");
    assert!(lora(&settings, "gone", &|_| false).unwrap() == whole);
    // A value that is not finite, behind an update.
    let mut wild = settings.clone();
    wild.train.learning_rate = 1e30;
    let error = lora(&wild, "wild", &|_| false).unwrap_err();
    assert_eq!(error.code(), "E1001");
    let help = error.help_text().unwrap();
    assert!(
        error.message().contains(": train.learning_rate is 1e30, usual is at most 1"),
        "{error}"
    );
    let anew = "take a smaller train.learning_rate, and start a new run in another run.folder";
    assert!(help.starts_with(anew) && !help.contains("goes on"), "{error}");
    // Before the first checkpoint there is nothing to go on from but the command.
    fs::remove_dir_all(at("cache")).unwrap();
    fs::create_dir(at("cache")).unwrap();
    let (path, _) = &kept[0];
    fs::create_dir(path).unwrap();
    let error = lora(&settings, "early", &|_| false).unwrap_err();
    assert_eq!(error.code(), "E1014", "{error}");
    let help = error.help_text().unwrap();
    assert!(help.ends_with("nothing was trained yet: the same command begins again"), "{error}");
    fs::remove_dir(path).unwrap();
    assert!(lora(&settings, "early", &|_| false).unwrap() == whole);
}

#[test]
fn the_same_command_is_advised_only_where_it_begins_again() {
    let (folder, mut settings) = world();
    let at = |name: &str| folder.path().join(name);
    let (new, resumed) = (Again::Flag { given: false }, Again::Flag { given: true });
    let again = "nothing was trained yet: the same command begins again";
    // Where there is no run, it would not be gone on with.
    for name in ["empty", "none"] {
        if name == "empty" {
            fs::create_dir(at(name)).unwrap();
        }
        assert_eq!(stands(&at(name), new, false), again);
        assert_eq!(stands(&at(name), Again::Command, false), again);
        let said = stands(&at(name), resumed, false);
        let none =
            format!("there is no run in {} to continue: name the folder", at(name).display());
        assert!(said.starts_with(&none) && said.contains("leave --resume out"), "{said}");
    }
    // A run that was stopped before its first checkpoint is there.
    fs::write(at("empty").join("lock"), "").unwrap();
    assert_eq!(stands(&at("empty"), resumed, false), again);
    // What stages lock is no run, but their runs are.
    fs::create_dir(at("empty").join("first")).unwrap();
    fs::write(at("empty").join("first/lock"), "").unwrap();
    let said = stands(&at("empty"), resumed, false);
    assert!(said.contains("the runs in it (first) are those of stages or steps"), "{said}");
    assert_eq!(stands(&at("empty/first"), resumed, false), again);
    // Told to stop before anything was done.
    settings.run.folder = at("none");
    let backend = Backend::open("cpu", 1).unwrap();
    for (resume, said) in [(true, "there is no run in "), (false, "nothing was trained yet: ")] {
        let (kind, init_from, settings) = (Kind::Lora, None, &settings);
        let training =
            Training { kind, settings, backend: &backend, resume, init_from, guards: None };
        let cancel = Cancel::default();
        cancel.cancel();
        let error = training.run(&cancel, &mut |_| {}).unwrap_err();
        assert_eq!(error.code(), "E1002");
        assert!(error.help_text().unwrap().starts_with(said), "{error}");
    }
    assert!(!at("none").exists());
}

#[test]
fn a_run_whose_folder_was_moved_away_asks_for_it_and_goes_on_there() {
    let (folder, mut settings) = world();
    let at = |name: &str| folder.path().join(name);
    settings.train.steps = 4;
    let lora =
        |name: &str, look: &dyn Fn(&Event) -> bool| run((&settings, Kind::Lora), &at(name), look);
    let whole = lora("whole", &|_| false).unwrap();
    let error = lora("moved", &|event| {
        if matches!(event, Event::Updated { step: 2, .. }) {
            fs::rename(at("moved"), at("away")).unwrap();
        }
        false
    });
    let error = error.unwrap_err();
    let path = at("moved");
    let said = format!(
        "what the run had written is no longer in {}: put it back, and --resume goes on from its \
         last checkpoint",
        path.display()
    );
    assert!(error.help_text().unwrap().ends_with(&said), "{error}");
    assert_eq!(stands(&path, Again::Flag { given: true }, true), said);
    // As advised.
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::rename(at("away"), &path).unwrap();
    assert!(lora("moved", &|_| false).unwrap() == whole);
}

#[test]
fn damaged_entries_are_made_again_with_one_warning_whatever_they_hold() {
    let (folder, settings) = world();
    let at = |name: &str| folder.path().join(name);
    let lora = |name: &str| {
        let told = std::cell::RefCell::new(Vec::new());
        let done = run((&settings, Kind::Lora), &at(name), &|event| {
            if let Event::Warning(said) = event {
                told.borrow_mut().push(said.clone());
            }
            false
        });
        (done.unwrap(), told.into_inner())
    };
    let (whole, warnings) = lora("whole");
    assert!(warnings.iter().all(|said| !said.contains("cache")), "{warnings:?}");
    let entries = fs::read_dir(at("cache")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    assert_eq!(kept.len(), 6, "two targets, a reference, black frames, two kinds of prompts");
    for (number, damage) in (0..).zip([
        |sound: &[u8]| sound[..sound.len() / 2].to_vec(),
        |sound: &[u8]| [&sound[..sound.len() - 1], &[!sound[sound.len() - 1]]].concat(),
        |_: &[u8]| Vec::new(),
        |_: &[u8]| b"something else".to_vec(),
    ]) {
        kept.iter().for_each(|(path, sound)| fs::write(path, damage(sound)).unwrap());
        let (again, warnings) = lora(&format!("again{number}"));
        assert!(again == whole);
        let told: Vec<&String> = warnings.iter().filter(|said| said.contains("cache")).collect();
        assert_eq!(told.len(), 2, "clips, and then prompts: {warnings:?}");
        assert!(told[0].starts_with("4 entries of the cache are damaged and are made again: "));
        assert!(told[0].contains("0.png (") && told[0].ends_with(" and 1 more"), "{told:?}");
        assert!(told[1].contains("the empty prompt (") && told[1].contains("sample s_0 ("));
        assert!(kept.iter().all(|(path, sound)| fs::read(path).unwrap() == *sound));
    }
    // The entry of something else.
    fs::write(&kept[0].0, &kept[1].1).unwrap();
    let (again, warnings) = lora("foreign");
    assert!(again == whole);
    let told: Vec<&String> = warnings.iter().filter(|said| said.contains("cache")).collect();
    assert_eq!(told.len(), 1, "{warnings:?}");
    assert!(told[0].starts_with("an entry of the cache is damaged and is made again: "));
}

#[test]
fn a_value_in_the_cache_that_is_not_finite_stops_a_run_with_its_sample() {
    let (folder, settings) = world();
    let at = |name: &str| folder.path().join(name);
    let lora = (&settings, Kind::Lora);
    let whole = run(lora, &at("whole"), &|_| false).unwrap();
    let cache = Cache::open(&at("cache")).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(at("cache")).unwrap() {
        let path = entry.unwrap().path();
        let file = Checkpoint::open(&path).unwrap();
        let parts: serde_json::Value = serde_json::from_str(&file.metadata()["source"]).unwrap();
        if parts["fit"] != "Cover" {
            continue;
        }
        found += 1;
        let sound = fs::read(&path).unwrap();
        let ty = crate::weights::read_tensors(&path).unwrap().remove(0).1.ty().clone();
        let mut value = Tensor::zeros(ty);
        value.as_f32_mut().unwrap()[3] = f32::NAN;
        // As whole as any entry.
        cache.store(&parts, &Entry { value, source: [512, 512] }).unwrap();
        let name = format!("stopped{found}");
        let error = run(lora, &at(&name), &|_| false).unwrap_err();
        assert_eq!(error.code(), "E1001");
        assert!(error.message().contains("cache of sample s_"), "{error}");
        assert!(error.message().ends_with("element 3"), "{error}");
        assert!(error.help_text().unwrap().contains("remove this file"), "{error}");
        assert_eq!(error.place(), Some(path.to_str().unwrap()));
        fs::remove_file(&path).unwrap();
        assert!(run(lora, &at(&name), &|_| false).unwrap() == whole);
        assert_eq!(fs::read(&path).unwrap(), sound);
    }
    assert_eq!(found, 2);
}
