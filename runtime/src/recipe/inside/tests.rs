//! Recipes inside results: what is left out, and what becomes of those that cannot be read.

use super::super::tests::recipe;
use super::super::{AdapterEntry, HashedFile};
use super::*;
use crate::error::Error;
use crate::media::writer::{VideoWriter, WriterOptions};

/// A clip that says this, in MP4.
fn clip(folder: &Path, json: &str) -> PathBuf {
    let path = folder.join("out.mp4");
    let mut writer = VideoWriter::create(&path, 64, 48, 24.0, &WriterOptions::default()).unwrap();
    writer.inscribe(Inscription { json: json.to_owned(), parameters: String::new() }).unwrap();
    writer.push(&vec![9; 64 * 48 * 3]).unwrap();
    writer.finish().unwrap();
    path
}

fn full() -> Recipe {
    let file = |path: &str| HashedFile { path: path.into(), ..recipe().references[0].clone() };
    let adapter = AdapterEntry {
        file: file("/home/me/x.safetensors"),
        config: Some(file("/home/me/adapter_config.json")),
        scale: 0.5,
        base_model: None,
        other_base: None,
    };
    let mut full = recipe();
    full.model.parts.folder = Some("/home/me/models/wan".into());
    full.model.parts.vae = Some("/home/me/vae.pth".into());
    Recipe {
        references: vec![file("/home/me/\u{fc}n\u{ef}.png")],
        noise: Some(file("/home/me/n.safetensors")),
        latents: Some(file("/home/me/l.safetensors")),
        decoded_from: Some(file("/home/me/d.safetensors")),
        adapters: vec![adapter],
        output: "/home/me/out.mp4".into(),
        ..full
    }
}

/// What comes back of a recipe.
fn shared() -> Recipe {
    Recipe::of_value(&full().shared(), Path::new("x")).unwrap()
}

#[test]
fn a_shared_recipe_has_no_folders_and_comes_back_from_a_result() {
    let folder = tempfile::tempdir().unwrap();
    let what = full().inscription().unwrap();
    assert!(!what.json.contains("/home/me") && !what.parameters.contains("/home/me"), "{what:?}");
    assert!(!what.json.contains("out.mp4"), "where it lies is no part of what it is");
    let slash = Recipe { prompt: "/home/me is where he is".into(), ..full() };
    assert_eq!(slash.shared()["prompt"], "/home/me is where he is", "a prompt is no path");
    let path = clip(folder.path(), &what.json);
    let found = Recipe::read(&path).unwrap();
    assert_eq!(found, shared());
    assert_eq!(found.references[0].path, Path::new("\u{fc}n\u{ef}.png"));
    assert_eq!(found.model.parts.folder.as_deref(), Some(Path::new("wan")));
    assert!(found.output.as_os_str().is_empty());
    // Files are looked for beside the result.
    std::fs::write(folder.path().join("vae.pth"), "x").unwrap();
    let parts = parts_again(&found.model.parts, &path);
    assert_eq!(parts.vae, Some(folder.path().join("vae.pth")));
    assert_eq!(parts.folder.as_deref(), Some(Path::new("wan")));
}

#[test]
fn settings_are_also_said_as_other_programs_do() {
    let said = full().inscription().unwrap().parameters;
    let expected = "a \"walk\" <lora:x:0.5>\nSteps: 8, Sampler: UniPC, CFG scale: 4.5, \
                    Seed: 18446744073709551615, Size: 192x160, Frames: 9, FPS: 23.976, Shift: 5, \
                    Model: wan, Version: anyid-rt 0.1.0";
    assert_eq!(said, expected);
    let found = Foreign::of_parameters(&said).unwrap();
    assert_eq!((found.seed, found.solver), (Some(u64::MAX), Some("unipc")));
    assert_eq!((found.size, found.frames), (Some([192, 160]), Some(9)));
    assert_eq!((found.prompt.as_deref(), found.unmapped.len()), (Some("a \"walk\""), 0));
    assert_eq!(found.adapters, [("x".to_owned(), 0.5)]);
    let mut choices = full().choices;
    choices.negative_prompt = Some("blurry".to_owned());
    let said = Recipe { choices, ..full() }.inscription().unwrap().parameters;
    assert_eq!(Foreign::of_parameters(&said).unwrap().negative.as_deref(), Some("blurry"));
}

fn refusal(folder: &Path, json: &str) -> Error {
    let error = Recipe::read(&clip(folder, json)).unwrap_err();
    assert_eq!(error.code(), "E0910", "{error}");
    assert!(
        error.place().is_some_and(|place| place.contains("out.mp4")) && error.help_text().is_some()
    );
    error
}

#[test]
fn recipes_that_cannot_be_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = full().shared();
    let mut newer = good.clone();
    newer["version"] = 99.into();
    let mut huge = good.clone();
    huge["prompt"] = "x".repeat(LARGEST as usize).into();
    let mut lacks = good.clone();
    lacks["steps"] = Value::Null;
    for (json, says) in [
        (newer.to_string(), "version 99"),
        (huge.to_string(), "more than 1048576 bytes"),
        (lacks.to_string(), "\"steps\""),
        (good.to_string()[..200].to_owned(), "not JSON"),
        ("{}".to_owned(), "this is not a recipe"),
        ("[[".repeat(10_000), "not JSON"),
    ] {
        let error = refusal(folder.path(), &json);
        assert!(error.message().contains(says), "{says}: {error}");
    }
    assert!(Recipe { prompt: "x".repeat(LARGEST as usize), ..full() }.inscription().is_none());
    // A text that is no text is said where the recipe should be.
    let path = clip(folder.path(), &good.to_string());
    let bytes = std::fs::read(&path).unwrap();
    let text = b"anyid-rt recipe";
    let mut changed = bytes.clone();
    while let Some(at) = changed.windows(text.len()).position(|window| window == text) {
        changed[at] = 0xff;
    }
    std::fs::write(&path, changed).unwrap();
    let error = Recipe::read(&path).unwrap_err();
    assert!(error.code() == "E0910" && error.help_text().unwrap().contains("not UTF-8"), "{error}");
    // Of two copies the one that can be read is enough.
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    let mut changed = bytes.clone();
    changed[at] = b'A';
    std::fs::write(&path, changed).unwrap();
    assert_eq!(Recipe::read(&path).unwrap(), shared());
    // Cut anywhere, it is refused or read, and nothing else.
    for end in (0..bytes.len()).step_by(17) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        match Recipe::read(&path) {
            Ok(found) => assert_eq!(found, shared()),
            Err(error) => assert!(["E0910", "E0911"].contains(&error.code()), "{end}: {error}"),
        }
    }
}

#[test]
fn comments_of_others_are_no_recipes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    for (comment, foreign) in [
        ("made with care", false),
        ("{\"anyid\": \"somebody's name\"}", false),
        ("{\"anyid\": [1, 2]}", false),
        ("{\"prompt\": {\"3\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": 4}}}}", true),
    ] {
        let mut bytes = b"GIF89a\x01\0\x01\0\0\0\0\x21\xfe".to_vec();
        bytes.push(comment.len() as u8);
        bytes.extend(comment.bytes());
        bytes.extend(b"\0\x3b");
        std::fs::write(&path, bytes).unwrap();
        let inside = read(&path).unwrap();
        assert!(inside.recipe.is_none() && inside.warnings.is_empty(), "{comment}: {inside:?}");
        assert_eq!(inside.foreign.is_some(), foreign, "{comment}");
        assert_eq!(Recipe::read(&path).unwrap_err().code(), "E0910");
    }
    assert!(media_of(folder.path()).is_none() && media_of(Path::new("none.mp4")).is_none());
}
