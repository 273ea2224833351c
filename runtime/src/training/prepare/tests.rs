//! What is looked at once, however many lines name it.

use super::*;
use std::fs;

/// A line of a manifest whose target and reference are pictures in `clips`.
fn line(id: usize) -> String {
    let value = json!({
        "schema": "anyid.sample/1", "id": format!("s_{id}"), "prompt": "A person.",
        "target": {"media": "clips/a.png", "frames": 1},
        "references": [{"media": "clips/b.png", "form": "portrait"}],
    });
    format!("{value}\n")
}

#[test]
fn a_clip_that_several_lines_name_is_decoded_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/astronaut.png");
    fs::create_dir(at("clips")).unwrap();
    fs::copy(&picture, at("clips/a.png")).unwrap();
    // A copy would be the target itself.
    fs::write(at("clips/b.png"), [&fs::read(&picture).unwrap()[..], b"x"].concat()).unwrap();
    fs::write(at("train.jsonl"), (0..4).map(line).collect::<String>()).unwrap();
    let mut settings = Settings::default();
    settings.data.manifest = at("train.jsonl");
    settings.data.cache = Some(at("cache"));
    let video = &mut settings.video;
    (video.width, video.height, video.frames) = (32, 32, 1);
    let (model, cancel) = (Model::micro().unwrap(), Cancel::default());
    let backend = Backend::open("cpu", 1).unwrap();
    for network in [TrainedNetwork::Transformer, TrainedNetwork::Vae] {
        let settings = &settings;
        let (model, backend, cancel) = (&model, &backend, &cancel);
        let own =
            Preparation { settings, model, backend, pairs: false, network, guards: None, cancel };
        // Behind the first line the files are not there, until all are looked at.
        let data = own.datasets(&mut |event| match event {
            Event::Checked { done: 1, .. } => fs::rename(at("clips"), at("away")).unwrap(),
            Event::Checked { done: 4, .. } => fs::rename(at("away"), at("clips")).unwrap(),
            _ => {}
        });
        assert_eq!(data.unwrap_or_else(|error| panic!("{error}")).0.items.len(), 4);
    }
}
