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
    let training = Training { kind, settings, backend: &backend, resume, init_from: None };
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
