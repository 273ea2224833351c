//! `convert`: the transformer or the text encoder of a model as one quantised file.

use crate::cmd::generate::opened::existing;
use crate::cmd::safeguards::write_down_export;
use crate::output::{self, bytes, plural};
use crate::progress::Progress;
use crate::render::Failure;
use anyid_models::wan::names::{Component, detect};
use anyid_runtime::checkpoint::{Layout, ModelFolder, WeightSet};
use anyid_runtime::convert::{Target, convert};
use anyid_runtime::places::Places;
use anyid_runtime::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Convert {
    /// A model folder, a checkpoint of one network, or the index of its shards.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// q8_0 or q4_k (GGUF), or fp8 (safetensors with scales, as ComfyUI reads it).
    #[arg(long, value_name = "TYPE")]
    pub to: String,
    /// Which network of a folder.
    #[arg(long, value_enum, default_value = "transformer")]
    pub part: Part,
    /// tokenizer.json or spiece.model to put into a text encoder in GGUF [default: that of the folder, or the
    /// one inside the file].
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// The file to write.
    #[arg(short, long = "output", value_name = "OUT")]
    pub output: PathBuf,
    /// Replace an existing result.
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A network that is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The diffusion transformer.
    Transformer,
    /// The umT5 text encoder.
    TextEncoder,
}

/// Runs the verb.
///
/// # Errors
/// E0338 for another target, those of opening the network and of [`convert`].
pub fn run(args: &Convert) -> std::result::Result<(), Failure> {
    let target: Target = args.to.parse().map_err(|error: Error| error.at("--to"))?;
    let mut places = Places::new();
    match args.path.is_dir() {
        true => places.reads_folder("the model's file", &args.path),
        false => places.reads("the checkpoint", &args.path),
    };
    if let Some(path) = &args.tokenizer {
        places.reads("--tokenizer", path);
    }
    places.writes("--output", &args.output);
    places.check()?;
    let (set, component, own) = open(&args.path, args.part)?;
    if let Some(path) = &args.tokenizer
        && (component != Component::Text || target == Target::ScaledFp8)
    {
        return Err(Error::input("E0900", "only a text encoder in GGUF takes a tokenizer")
            .at(path.display())
            .help("leave --tokenizer out, or convert with --part text-encoder to q8_0 or q4_k")
            .into());
    }
    let tokenizer = args.tokenizer.clone().or(own);
    let mut progress = Progress::new();
    let place = (args.output.as_path(), existing(args.force));
    progress.part("convert");
    let made =
        convert(&set, component, target, place, tokenizer.as_deref(), &mut |done, total| {
            progress.update(done, total, || {
                format!("{:.0}%", 100.0 * done as f64 / total.max(1) as f64)
            });
        })?;
    progress.clear();
    crate::interrupt::say_swept();
    write_down_export("convert", &made.path)?;
    if args.json {
        output::print_json(&json!({
            "path": made.path.to_string_lossy(),
            "type": target.name(),
            "tensors": made.tensors,
            "narrower": made.narrower,
            "bytes": made.bytes,
            "largest_relative_error": made.worst,
            "tokenizer": made.tokenizer,
        }))?;
        return Ok(());
    }
    output::print(&format!(
        "wrote {}: {}, {} as {target}, {}, read back and compared\nlost at most {:.2}% of a weight \
         (root of the mean square)\n",
        made.path.display(),
        plural(made.tensors, "tensor"),
        made.narrower,
        bytes(made.bytes),
        100.0 * made.worst
    ))?;
    if made.tokenizer {
        output::print("its tokenizer is in it\n")?;
    }
    Ok(())
}

/// The weights to be converted, what they are, and the tokenizer that a folder has.
fn open(path: &Path, part: Part) -> Result<(WeightSet, Component, Option<PathBuf>)> {
    if !path.is_dir() {
        let set = WeightSet::open(path)?;
        let all = [Component::Dit, Component::Text, Component::VAE];
        let found = all.into_iter().find(|one| detect(*one, set.names()).is_some());
        return Ok((set, found.unwrap_or(Component::Dit), None));
    }
    let folder = ModelFolder::open(path)?;
    let files = match (&folder.layout, part) {
        (Layout::Diffusers(files), Part::Transformer) => &files.transformer.weights,
        (Layout::Diffusers(files), Part::TextEncoder) => &files.text_encoder.weights,
        (Layout::Original(files), Part::Transformer) => &files.transformer,
        (Layout::Original(files), Part::TextEncoder) => &files.text_encoder,
    };
    let component = match part {
        Part::Transformer => Component::Dit,
        Part::TextEncoder => Component::Text,
    };
    let tokenizer = match &folder.layout {
        Layout::Diffusers(files) => &files.tokenizer,
        Layout::Original(files) => &files.tokenizer,
    };
    Ok((files.open()?, component, Some(tokenizer.clone())))
}
