//! Texts inside pictures: recipes, and settings of other programs.

use super::refused;
use crate::engine::{Outcome, Target, Verdict};
use crate::formats::crc32;
use crate::mutate;
use crate::rng::Rng;
use anyid_runtime::recipe::read_inside;
use anyid_tests::folders::Folder;

/// The target.
pub struct Inscriptions {
    folder: Folder,
}

impl Inscriptions {
    /// The target.
    pub fn new() -> Self {
        Self { folder: Folder::new() }
    }
}

/// A picture without pixels that says this under every key that is looked at.
fn picture(text: &[u8]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for key in ["prompt", "comment", "parameters"] {
        let body = [b"iTXt", key.as_bytes(), &[0; 5], text].concat();
        out.extend((body.len() as u32 - 4).to_be_bytes());
        out.extend(&body);
        out.extend(crc32(&body).to_be_bytes());
    }
    out
}

const GRAPH: &str = r#"{"3":{"class_type":"KSampler","inputs":{"seed":1,"steps":20,"cfg":5,"denoise":1,
"sampler_name":"uni_pc","scheduler":"simple","positive":["6",0],"negative":["7",0],"model":["48",0],
"latent_image":["55",0]}},"6":{"class_type":"CLIPTextEncode","inputs":{"text":["60",0]}},
"7":{"class_type":"CLIPTextEncode","inputs":{"text":"blurry"}},"48":{"class_type":"LoraLoader","inputs":
{"lora_name":"a","strength_model":0.5,"shift":8}},"55":{"class_type":"L","inputs":{"width":64,"height":64,
"length":5}},"60":{"class_type":"P","inputs":{"value":"She smiles."}}}"#;

impl Target for Inscriptions {
    fn name(&self) -> &'static str {
        "inscription"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let parameters = "a <lora:b:1>\nNegative prompt: c\nSteps: 2, Sampler: Euler, CFG scale: 5, Seed: 1, \
                          Size: 16x16, Model: \"x, y\", Version: z";
        let recipe = super::recipe::example(true).shared();
        let keyed = format!("{{\"anyid\":{recipe}}}");
        let comment = format!("{{\"prompt\":{GRAPH},\"workflow\":{{}}}}");
        let all = [GRAPH, parameters, &recipe.to_string(), &keyed, &comment];
        all.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    fn words(&self) -> &'static [&'static str] {
        &[
            "anyid",
            "format",
            "version",
            "class_type",
            "inputs",
            "KSampler",
            "positive",
            "text",
            "[\"6\",0]",
            "prompt",
            "<lora:",
            "Steps: ",
            "Negative prompt:",
            "null",
            "1e400",
            "-1",
            "\\ud800",
            "\u{e9}",
        ]
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::text(rng, data, self.words(), other);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        self.folder.write("input.png", picture(data));
        let inside = match read_inside(&self.folder.path().join("input.png")) {
            Ok(inside) => inside,
            Err(error) => return Err(format!("a picture that can be read is refused: {error}")),
        };
        match (inside.recipe, inside.foreign) {
            (Some(Err(error)), _) => refused(&error),
            (Some(Ok(_)), _) | (None, Some(_)) => Ok(Verdict::Taken),
            (None, None) => Ok(Verdict::Refused("nothing inside".to_owned())),
        }
    }
}
