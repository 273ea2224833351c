//! Recipes: read or refused with a code; what is read is the same again when written.

use super::{corpus, refused};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_runtime::media::coding::{Codec, Coding, Pixels};
use anyid_runtime::model::Parts;
use anyid_runtime::pipeline::Tiles;
use anyid_runtime::recipe::{AdapterEntry, Choices, HashedFile, ModelEntry, Recipe};
use anyid_tests::folders::Folder;

/// The target.
pub struct Recipes {
    folder: Folder,
}

impl Recipes {
    /// The target.
    pub fn new() -> Self {
        Self { folder: Folder::new() }
    }
}

pub(super) fn example(noise: bool) -> Recipe {
    let file = |name: &str| HashedFile {
        path: name.into(),
        sha256: "0f".repeat(32),
        description: "picture, PNG, 64x64".into(),
    };
    Recipe {
        product: "0.1.0".into(),
        device: "cpu".into(),
        device_words: String::new(),
        instructions: "avx2".into(),
        prompt: "a \"walk\" \u{1f3d6} by the sea".into(),
        references: vec![file("/a/b.png"), file("c.mp4")],
        size: [192, 160, 9],
        fps: 23.976,
        steps: 8,
        solver: "unipc".into(),
        schedule: "wan".into(),
        shift: 5.0,
        guidance: 4.5,
        precision: "f32".into(),
        residual: "bf16".into(),
        seed: u64::MAX,
        noise: noise.then(|| file("/n.safetensors")),
        latents: None,
        decoded_from: None,
        tiles: Tiles { encoder: None, decoder: noise.then_some([480, 704]) },
        safeguards: noise.then(|| "x".into()),
        model: ModelEntry {
            parts: Parts {
                folder: noise.then(|| "/model".into()),
                vae: noise.then(|| "/vae.gguf".into()),
                ..Parts::default()
            },
            fingerprints: ["a".into(), "b".into(), "c".into()],
        },
        adapters: noise
            .then(|| AdapterEntry {
                file: file("/l.safetensors"),
                config: None,
                scale: 0.5,
                base_model: None,
                other_base: None,
            })
            .into_iter()
            .collect(),
        choices: match noise {
            true => Choices {
                negative_prompt: Some("dull".into()),
                sigmas: Some(vec![0.9998, 0.5]),
                guidance_interval: Some([0.25, 1.0]),
                cache: Some(0.05),
                first_frame: Some(file("/f.png")),
                coding: Coding {
                    codec: Some(Codec::Av1),
                    quality: Some(30),
                    pixels: Some(Pixels::Yuv420Ten),
                },
            },
            false => Choices::default(),
        },
        output: "/o/out.mp4".into(),
    }
}

impl Target for Recipes {
    fn name(&self) -> &'static str {
        "recipe"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("recipe");
        for noise in [false, true] {
            let value = example(noise).to_json();
            out.push(format!("{value}").into_bytes());
            out.push(format!("{value:#}").into_bytes());
        }
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &[
            "null",
            "true",
            "false",
            "[]",
            "{}",
            "\"\"",
            "1e400",
            "-1",
            "0.5",
            "format",
            "version",
            "anyid-rt recipe",
            "references",
            "path",
            "sha256",
            "read_as",
            "model",
            "fingerprints",
            "tiles",
            "sigmas",
            "guidance_interval",
            "codec",
            "decoder",
            "width",
            "frames",
            "fps",
            "seed",
            "noise",
            "residual",
            "\\u0000",
            "\\ud800",
            "../..",
        ]
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::text(rng, data, self.words(), other);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let name = "input.recipe.json";
        self.folder.write(name, data);
        let path = self.folder.path().join(name);
        let read = match Recipe::read(&path) {
            Ok(read) => read,
            Err(error) => return refused(&error),
        };
        self.folder.write(name, read.to_json().to_string());
        let again =
            Recipe::read(&path).map_err(|error| format!("written it is refused: {error}"))?;
        match again == read {
            true => Ok(Verdict::Taken),
            false => Err("written and read it is another".to_owned()),
        }
    }
}
