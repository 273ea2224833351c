//! Advice for people who come from another program: what its flags are called here.
//!
//! The flag parser finds misspellings of our own flags. This table knows the flags of other
//! programs that make pictures and videos. It only gives advice; no flag is accepted under another
//! name.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of other programs without their dashes, and the advice.
const FLAGS: &[(&[&str], &str)] = &[
    (
        &["width", "height", "w", "H", "W", "resolution", "video-size", "image-size"],
        "the size is one flag: --size 832x480",
    ),
    (&["aspect-ratio", "ratio"], "give width and height: --size 832x480"),
    (
        &[
            "cfg",
            "cfg-scale",
            "guidance-scale",
            "guide-scale",
            "sample-guide-scale",
            "embedded-guidance",
        ],
        "the guidance scale is --guidance",
    ),
    (
        &["negative", "n", "neg-prompt", "uncond-prompt"],
        "what guidance leads away from is --negative-prompt, by default the empty prompt",
    ),
    (
        &["loras", "lora-path", "lora-dir", "lora-model-dir", "lora-scale", "adapter"],
        "adapters are given with their scale: --lora FILE:SCALE",
    ),
    (
        &["target"],
        "it is a flag of `compile`, `opt` and `kernels`; what a plan is for stands in it, and \
         --device names where to run",
    ),
    (
        &["num-frames", "frame-num", "video-frames", "video-length", "length", "n-frames"],
        "the number of frames is --frames, 4k+1",
    ),
    (
        &["duration", "seconds", "time"],
        "give the number of frames, 4k+1: --frames 121 are five seconds at 24 a second",
    ),
    (
        &[
            "num-inference-steps",
            "sampling-steps",
            "sample-steps",
            "infer-steps",
            "inference-steps",
        ],
        "the number of steps is --steps",
    ),
    (
        &["sampler", "sampling-method", "sample-solver", "sampler-name"],
        "the solver is --solver: unipc, euler, dpmpp or lcm",
    ),
    (&["scheduler"], "the solver is --solver, where the noise levels come from is --schedule"),
    (
        &["flow-shift", "sample-shift", "discrete-flow-shift", "schedule-shift"],
        "the shift of the schedule is --shift",
    ),
    (
        &[
            "i",
            "image",
            "images",
            "init-img",
            "init-image",
            "input",
            "input-image",
            "ref-image",
            "ref-images",
            "ref-img",
            "refs",
            "reference",
            "references",
            "subject",
            "src-ref-images",
            "start-image",
            "video",
            "ref-video",
        ],
        "pictures and clips of the person are given with --ref FILE …, the primary first; the first frame \
         of the video with --first-frame FILE",
    ),
    (
        &["end-image", "last-frame", "mask", "control-video", "control-image", "pose", "audio"],
        "a run takes pictures and clips of one person with --ref, and a prompt; nothing else steers it",
    ),
    (&["p", "text", "positive-prompt"], "the prompt is --prompt"),
    (
        &["out", "output-path", "output-dir", "save-path", "save-file", "outfile", "save-dir"],
        "the result is named with -o FILE or --output FILE",
    ),
    (
        &[
            "m",
            "ckpt",
            "ckpt-dir",
            "ckpt-path",
            "checkpoint",
            "model-path",
            "model-dir",
            "pretrained-model",
            "model-id",
            "weights",
            "diffusion-model",
        ],
        "the model folder is --model DIR",
    ),
    (
        &["vae-path", "t5xxl", "clip", "t5", "unet"],
        "the parts of a model are taken from its folder, --model DIR, or from single files: \
         --transformer, --text-encoder, --vae, --tokenizer",
    ),
    (&["base-seed", "noise-seed", "s"], "the seed is --seed: a number, or `random`"),
    (
        &[
            "dtype",
            "type",
            "fp16",
            "bf16",
            "fp32",
            "half",
            "torch-dtype",
            "weight-type",
            "compute-dtype",
            "no-half",
            "fp8",
            "quantization",
        ],
        "the arithmetic is --precision: f32 or bf16",
    ),
    (
        &["cpu", "gpu", "cuda", "device-id", "backend"],
        "the device is --device NAME; `anyid-rt inspect devices` lists them",
    ),
    (&["t", "num-threads", "n-threads", "num-workers", "j"], "threads are --threads N"),
    (
        &[
            "offload",
            "offload-model",
            "cpu-offload",
            "lowvram",
            "medvram",
            "low-vram",
            "novram",
            "t5-cpu",
            "vae-tiling",
            "tile-vae",
            "tiling",
            "vae-on-cpu",
            "clip-on-cpu",
            "diffusion-fa",
            "flash-attn",
        ],
        "there is nothing to switch: networks are loaded one after the other and released again; \
         --dry-run says what a run needs",
    ),
    (
        &["batch-size", "batch-count", "b", "num-videos", "n-iter", "num-outputs"],
        "several videos are made with --seeds 1,2,3 or --jobs FILE",
    ),
    (
        &["strength", "denoise", "denoising-strength", "noise-aug-strength"],
        "references are not noised, so there is no strength; --guidance is how much the prompt weighs",
    ),
    (&["frame-rate", "framerate", "r", "rate"], "the frame rate is --fps"),
    (&["y", "yes", "overwrite", "f"], "an existing result is replaced with --force"),
    (&["silent", "no-progress"], "--quiet leaves only warnings and errors"),
    (&["debug", "log-level", "loglevel"], "-v tells more"),
    (
        &["settings", "workflow", "preset"],
        "settings of an earlier run are repeated with --recipe FILE, defaults are in --config FILE",
    ),
];

/// Flags of other trainers without their dashes, and the advice: a run is described by its settings.
const TRAIN: &[(&[&str], &str)] = &[
    (&["lr", "learning-rate"], "the learning rate is a setting: --set train.learning_rate=1e-4"),
    (
        &["b", "batch", "batch-size", "train-batch-size"],
        "the batch is a setting: --set train.batch=4",
    ),
    (&["rank", "lora-rank", "network-dim"], "the rank is a setting: --set lora.rank=16"),
    (&["alpha", "lora-alpha", "network-alpha"], "alpha is a setting: --set lora.alpha=16"),
    (
        &["max-train-steps", "max-steps", "num-steps", "train-steps", "iterations"],
        "the number of updates is --steps",
    ),
    (
        &["epochs", "num-epochs", "num-train-epochs", "max-train-epochs"],
        "a run is as long as --steps says; an update takes as many samples as train.batch says",
    ),
    (
        &["data", "dataset", "dataset-config", "manifest", "train-data-dir", "ref", "prompt"],
        "samples are lines of a manifest: --set data.manifest=train.jsonl",
    ),
    (
        &["model", "m", "ckpt", "ckpt-dir", "dit", "pretrained-model", "model-path"],
        "the model folder is a setting: --set model.path=DIR",
    ),
    (
        &["precision", "mixed-precision", "dtype"],
        "the arithmetic is a setting: --set model.precision=bf16",
    ),
    (
        &["size", "width", "height", "resolution", "frames"],
        "the size is a setting: --set video.width=832 --set video.height=480 --set video.frames=81",
    ),
    (
        &["gradient-checkpointing", "lowvram", "offload"],
        "memory is a setting: --set train.budget=24GiB",
    ),
    (&["resume-from", "resume-from-checkpoint"], "a run is continued with --resume"),
];

/// Verbs of other programs, and the advice.
const VERBS: &[(&[&str], &str)] = &[
    (
        &[
            "img2vid",
            "i2v",
            "t2v",
            "txt2vid",
            "vid-gen",
            "video",
            "sample",
            "infer",
            "inference",
            "make",
            "create",
            "predict",
        ],
        "videos are made with `anyid-rt generate --ref FILE --prompt TEXT -o OUT.mp4`",
    ),
    (
        &["decode", "decode-latents"],
        "`anyid-rt generate --latents FILE -o OUT.mp4` decodes what --save-latents has kept",
    ),
    (
        &["doctor", "refs", "references"],
        "`anyid-rt check refs FILE…` says whether references are any good",
    ),
    (&["info", "show", "metadata", "ls"], "`anyid-rt inspect PATH` says what a file or folder is"),
    (
        &["finetune", "tune", "fit"],
        "`anyid-rt train lora --config run.toml` trains an adapter; docs/training.md describes it",
    ),
    (
        &["download", "pull", "fetch"],
        "models are not downloaded; README.md says where they are published",
    ),
    (&["quantize", "quantise"], "`anyid-rt convert PATH --to q8_0 -o FILE` writes a smaller file"),
    (&["validate", "lint"], "`anyid-rt check FILE.ir` reads and verifies IR text"),
    (&["optimize", "optimise"], "`anyid-rt opt FILE.ir` runs passes over IR text"),
    (&["benchmark", "perf"], "`anyid-rt bench` measures kernels and networks"),
    (&["version"], "`anyid-rt --version`"),
];

/// Advice about an error in the flags, if users of another program typically make it.
pub fn advice(error: &clap::Error) -> Option<String> {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let found = |table: &[(&[&str], &'static str)], word: &str| {
        table.iter().find(|(names, _)| names.contains(&word)).map(|(_, advice)| *advice)
    };
    let train = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string().contains("anyid-rt train"),
        _ => false,
    };
    match error.kind() {
        ErrorKind::UnknownArgument if train => {
            let given = text(ContextKind::InvalidArg)?;
            let bare = given.trim_start_matches('-').split('=').next()?.replace('_', "-");
            match (given.starts_with('-'), given.ends_with(".toml")) {
                (true, _) => found(TRAIN, &bare.to_lowercase()).map(str::to_owned),
                (false, true) => Some("settings are given with --config FILE".to_owned()),
                (false, false) => Some("a setting is one word: --set train.batch=4".to_owned()),
            }
        }
        ErrorKind::InvalidSubcommand if train => Some(
            "`train lora`, `train dpo` or `train full`; `train check` looks at everything first"
                .to_owned(),
        ),
        ErrorKind::UnknownArgument => {
            let given = text(ContextKind::InvalidArg)?;
            let bare = given.trim_start_matches('-').split('=').next()?.replace('_', "-");
            if !given.starts_with('-') {
                return looks_like_a_file(given)
                    .then(|| "pictures and clips of the person are given with --ref".to_owned());
            }
            found(FLAGS, &bare).or_else(|| found(FLAGS, &bare.to_lowercase())).map(str::to_owned)
        }
        ErrorKind::InvalidSubcommand => {
            let given = text(ContextKind::InvalidSubcommand)?;
            if looks_like_a_file(given) {
                return Some(
                    "a verb comes first: `anyid-rt generate --ref FILE --prompt TEXT -o OUT.mp4`"
                        .to_owned(),
                );
            }
            found(VERBS, &given.to_lowercase()).map(str::to_owned)
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let flag = text(ContextKind::InvalidArg)?;
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            match (flag.split(' ').next()?, value) {
                ("--seed", "-1") => {
                    Some("a seed of its own for each run is `--seed random`".to_owned())
                }
                ("--precision", "fp32" | "float32" | "fp16" | "f16" | "float16" | "half") => {
                    Some("the arithmetic is f32, or bf16 inputs with f32 sums".to_owned())
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// A value that its flag does not take, in our words: what is wrong, and what to give. None where the
/// parser's own say it.
pub fn value(error: &clap::Error) -> Option<(String, String)> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.split([' ', '=']).next()?;
    let given = text(ContextKind::InvalidValue)?;
    let cause = std::error::Error::source(error)?.to_string();
    let help = match cause.as_str() {
        "number too large to fit in target type" => "give a smaller number".to_owned(),
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "give a whole number, 0 or more".to_owned()
        }
        "invalid float literal" | "cannot parse float from empty string" => {
            "give a number, such as 1.5".to_owned()
        }
        // Our own parsers say what they take.
        own => match own.split_once(" is not in ") {
            Some((_, range)) => format!("give a number in {range}"),
            None => own.to_owned(),
        },
    };
    Some((format!("{flag} cannot be \"{given}\""), help))
}

fn looks_like_a_file(word: &str) -> bool {
    std::path::Path::new(word).extension().is_some() || word.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::{CommandFactory, Parser};

    fn advice_for(words: &str) -> Option<String> {
        advice(&Cli::try_parse_from(words.split(' ')).expect_err(words))
    }

    #[test]
    fn flags_of_other_programs_are_explained() {
        for (words, part) in [
            ("--width 640", "--size"),
            ("--cfg 7", "--guidance"),
            ("--cfg_scale=7", "--guidance"),
            ("--neg-prompt blurry", "--negative-prompt"),
            ("--lora-scale 0.5", "--lora"),
            ("--num_inference_steps 20", "--steps"),
            ("--image me.png", "--ref"),
            ("-H 480", "--size"),
            ("--seed -1", "random"),
            ("me.png", "--ref"),
        ] {
            let advice = advice_for(&format!("anyid-rt generate --prompt x -o a.mp4 {words}"));
            assert!(advice.as_ref().is_some_and(|a| a.contains(part)), "{words}: {advice:?}");
        }
        for (words, part) in [
            ("lora run.toml", "--config"),
            ("lora --config run.toml --set train.batch 4", "one word"),
            ("lora --config run.toml --learning_rate 1e-4", "train.learning_rate"),
            ("lora --config run.toml --model DIR", "model.path"),
            ("dpo --config run.toml --width 832", "video.width"),
            ("sft --config run.toml", "train lora"),
        ] {
            let advice = advice_for(&format!("anyid-rt train {words}"));
            assert!(advice.as_ref().is_some_and(|a| a.contains(part)), "{words}: {advice:?}");
        }
        assert!(advice_for("anyid-rt i2v").is_some_and(|a| a.contains("generate")));
        assert!(advice_for("anyid-rt me.jpg").is_some_and(|a| a.contains("--ref")));
        assert_eq!(advice_for("anyid-rt generate --prompt x -o a.mp4 --colour red"), None);
    }

    #[test]
    fn values_that_no_flag_takes_are_said_in_our_words() {
        for (words, message, help) in [
            (
                "generate --prompt x -o a --frames many",
                "--frames cannot be \"many\"",
                "whole number",
            ),
            ("generate --prompt x -o a --frames -5", "--frames cannot be \"-5\"", "whole number"),
            ("generate --prompt x -o a --fps=x", "--fps cannot be \"x\"", "give a number"),
            ("generate --prompt x -o a --seed x", "--seed cannot be \"x\"", "a seed is a whole"),
            (
                "world render -o a.png --group 18446744073709551616",
                "--group cannot be \"18446744073709551616\"",
                "give a smaller number",
            ),
        ] {
            let line = format!("anyid-rt {words}");
            let error = Cli::try_parse_from(line.split(' ')).expect_err(words);
            let (said, helped) = value(&error).expect(words);
            assert_eq!(said, message);
            assert!(helped.contains(help), "{words}: {helped}");
        }
        // A choice of names is said by the parser, with the names.
        let words = "anyid-rt generate --prompt x -o a --precision f16";
        assert_eq!(value(&Cli::try_parse_from(words.split(' ')).expect_err(words)), None);
    }

    #[test]
    fn no_flag_of_ours_is_in_the_table_and_flags_named_there_exist() {
        let command = Cli::command();
        let generate = command.find_subcommand("generate").expect("there is the verb");
        let ours: Vec<String> = generate
            .get_arguments()
            .chain(command.get_arguments())
            .flat_map(|arg| {
                let short = arg.get_short().map(|c| c.to_string());
                arg.get_long().map(str::to_owned).into_iter().chain(short)
            })
            .collect();
        let mut seen = std::collections::BTreeSet::new();
        for (names, advice) in FLAGS {
            for name in *names {
                assert!(!ours.iter().any(|own| own == name), "--{name} is ours");
                assert!(seen.insert(*name), "--{name} is there twice");
            }
            for word in advice.split([' ', ':', ';', ',', '.']).filter(|w| w.starts_with("--")) {
                assert!(ours.contains(&word[2..].to_owned()), "{word} does not exist: {advice}");
            }
        }
        for (names, _) in VERBS {
            for name in *names {
                assert!(command.find_subcommand(name).is_none(), "{name} is ours");
            }
        }
    }
}
