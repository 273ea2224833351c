//! `export`: writes a built-in network as IR text.

use super::size;
use crate::args::{PrecisionName, ResidualName};
use crate::output;
use crate::render::Failure;
use anyid_ir::Module;
use anyid_models::wan::config::{ConfigError, DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, DitTypes, dit};
use anyid_models::wan::loss::with_loss;
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{self, VaeSize};
use anyid_models::wan::{Geometry, Precision, vae::Half};
use anyid_runtime::checkpoint::{JsonFile, read_json};
use anyid_runtime::files::is_standard_output;
use anyid_runtime::init::{Preset, write_bytes};
use anyid_runtime::pipeline::check_frames;
use anyid_runtime::places::Places;
use anyid_runtime::{Error, Model, Result, Size};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// The networks that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// One evaluation of the diffusion transformer.
    Dit,
    /// The training loss of the transformer on one sample, to be compiled with --inject-lora or --lift
    /// and --grad loss.
    Loss,
    /// Pixels to latents, a whole clip.
    VaeEncode,
    /// Latents to pixels, a whole clip.
    VaeDecode,
    /// The text encoder.
    Text,
}

#[derive(Debug, Args)]
pub struct Export {
    /// The network.
    #[arg(value_enum)]
    pub network: Network,
    /// Take the configuration from this model folder, or from the folder of the network alone.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    pub model: Option<PathBuf>,
    /// Take the configuration of a preset: micro, small, world or wan2.2-ti2v-5b [default: micro].
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Width and height in pixels, multiples of 32 (of 16 for the autoencoder)
    /// [default: 192x192 for micro, small and world, else 1280x704].
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub size: Option<String>,
    /// Pixel frames, 4k+1 [default: 9 for micro, small and world, else 121].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub frames: Option<usize>,
    /// Pixel frames of each reference, 1 for a picture: 1,1,5.
    #[arg(long, alias = "refs", value_name = "F1,F2,…", value_delimiter = ',')]
    pub ref_frames: Vec<usize>,
    /// Rows of the text context (dit), or tokens of the prompt (text).
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Distinct timesteps [default: 2 with references, else 1].
    #[arg(long, value_name = "G")]
    pub timesteps: Option<usize>,
    /// The decoder takes the transformer's normalised latents and scales them back first.
    #[arg(long)]
    pub normalised: bool,
    /// Arithmetic of the network [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
    /// Element type of the transformer's residual stream; bf16 takes less memory, and results
    /// differ slightly.
    #[arg(long, value_enum, default_value = "f32")]
    pub residual: ResidualName,
    /// The file to write; `-` for standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: PathBuf,
}

/// Configurations of the networks. What a folder does not have is taken from the real model.
pub struct Configs {
    pub dit: DitConfig,
    pub vae: VaeConfig,
    pub text: TextConfig,
    precision: Precision,
    micro: bool,
}

/// Tokens of a prompt by default.
const PROMPT_TOKENS: usize = 64;

/// Runs the verb.
///
/// # Errors
/// E07xx for the model folder, E0901, E0902 and E0918 for sizes, E101x for the output.
pub fn run(args: Export) -> std::result::Result<(), Failure> {
    let mut places = Places::new();
    if let Some(folder) = &args.model {
        places.reads_folder("--model, file", folder);
    }
    places.writes("--output", &args.output);
    if !is_standard_output(&args.output) {
        places.prints("the report");
    }
    places.check()?;
    let configs = configs(&args)?;
    let module = build(&args, &configs)?;
    let text = anyid_ir::text::print(&module);
    if is_standard_output(&args.output) {
        output::print(&text)?;
        return Ok(());
    }
    write_bytes(&args.output, text.as_bytes())?;
    let lines = text.lines().count();
    output::print(&format!(
        "wrote {}: module @{}, {}, {}\n",
        args.output.display(),
        module.name,
        output::plural(lines, "line"),
        output::plural(module.weights.len(), "weight")
    ))?;
    Ok(())
}

fn configs(args: &Export) -> Result<Configs> {
    let Some(folder) = &args.model else {
        let name = args.preset.as_deref().unwrap_or("micro");
        let preset: Preset = name.parse().map_err(|e: Error| e.at("--preset"))?;
        let (dit, vae, text) = preset.configs();
        let micro = preset != Preset::Ti2v5b;
        let precision = if micro { Precision::F32 } else { Precision::Bf16 };
        return Ok(Configs { dit, vae, text, precision, micro });
    };
    configs_of(folder)
}

/// Those of a model folder, or of the folder of one network.
///
/// # Errors
/// E07xx for what cannot be read, or is no network of the family.
pub fn configs_of(folder: &Path) -> Result<Configs> {
    if let Some(configs) = component_folder(folder)? {
        return Ok(configs);
    }
    let model = Model::open(folder)?;
    let precision = model.default_precision();
    Ok(Configs { dit: model.dit, vae: model.vae, text: model.text, precision, micro: false })
}

/// The configuration of a folder that holds one network of a diffusers model, not all three.
fn component_folder(folder: &Path) -> Result<Option<Configs>> {
    let path = folder.join("config.json");
    if folder.join("model_index.json").exists() || !path.exists() {
        return Ok(None);
    }
    let file = read_json(path)?;
    let class = file.value["_class_name"].as_str().unwrap_or_default();
    let kind = file.value["model_type"].as_str().unwrap_or_default();
    let mut configs = Configs {
        dit: DitConfig::ti2v_5b(),
        vae: VaeConfig::ti2v_5b(),
        text: TextConfig::ti2v_5b(),
        precision: Precision::F32,
        micro: false,
    };
    match (class, kind) {
        ("WanTransformer3DModel", _) => configs.dit = configured(&file, DitConfig::from_diffusers)?,
        ("AutoencoderKLWan", _) => configs.vae = configured(&file, VaeConfig::from_diffusers)?,
        (_, "umt5") => configs.text = configured(&file, TextConfig::from_diffusers)?,
        _ => return Ok(None),
    }
    Ok(Some(configs))
}

fn configured<C>(
    file: &JsonFile,
    read: impl Fn(&serde_json::Value) -> std::result::Result<C, ConfigError>,
) -> Result<C> {
    read(&file.value).map_err(|error| {
        Error::input("E0713", format!("\"{}\": {}", error.key, error.message))
            .at(file.path.display())
            .help("this must be the configuration of a Wan2.2 TI2V network")
    })
}

fn build(args: &Export, configs: &Configs) -> Result<Module> {
    let default = if configs.micro { [192, 192] } else { [1280, 704] };
    let [width, height] = args.size.as_deref().map(size).transpose()?.unwrap_or(default);
    let frames = args.frames.unwrap_or(if configs.micro { 9 } else { 121 });
    let precision = args.precision.map_or(configs.precision, Precision::from);
    let tokens = |default: usize| positive(args.tokens.unwrap_or(default), "--tokens");
    let geometry = Geometry::of(&configs.dit, &configs.vae);
    match args.network {
        Network::Dit | Network::Loss => {
            let size = Size { width, height, frames };
            if let Some(misfit) = size.misfit(geometry, usize::MAX) {
                let mut flags: Vec<String> = misfit
                    .parts()
                    .map(|part| match part {
                        "frames" => format!("--frames {frames}"),
                        _ => format!("--size {width}x{height}"),
                    })
                    .collect();
                flags.dedup();
                return Err(misfit.error().at(flags.join(", ")));
            }
            let [frames, height, width] = size.latent(geometry);
            let references = latent_frames(&args.ref_frames, geometry)?;
            let timesteps = args.timesteps.unwrap_or(if references > 0 { 2 } else { 1 });
            let size = DitSize {
                reference_frames: references,
                frames,
                height,
                width,
                text_tokens: tokens(configs.dit.text_len)?,
                timesteps: positive(timesteps, "--timesteps")?,
            };
            let types = DitTypes { precision, residual: args.residual.into() };
            let module = dit(&configs.dit, &size, types);
            Ok(if args.network == Network::Loss { with_loss(module) } else { module })
        }
        Network::VaeEncode | Network::VaeDecode => {
            let factor = configs.vae.spatial_factor();
            check_pixels(width, height, factor)?;
            // Sides need not follow the rule of the transformer; the number of frames does.
            check_frames(frames, geometry).map_err(|e| e.at(format!("--frames {frames}")))?;
            let size = VaeSize { height, width, chunk: 1 };
            let (half, module) = match args.network {
                Network::VaeEncode => (Half::Encoder, vae::encoder(&configs.vae, &size)),
                _ => (Half::Decoder, vae::decoder(&configs.vae, &size, args.normalised)),
            };
            Ok(vae::whole_clip(&configs.vae, &size, half, module, frames))
        }
        Network::Text => Ok(text(&configs.text, tokens(PROMPT_TOKENS)?, precision)),
    }
}

fn check_pixels(width: usize, height: usize, factor: usize) -> Result<()> {
    let fits = |pixels: usize| pixels > 0 && pixels.is_multiple_of(factor) && pixels <= 32_768;
    if fits(width) && fits(height) {
        return Ok(());
    }
    Err(Error::input(
        "E0901",
        format!("{width}x{height}: sides are multiples of {factor} up to 32768"),
    )
    .at("--size")
    .help("the autoencoder halves both sides several times"))
}

/// Latent frames of references with these pixel frames.
fn latent_frames(refs: &[usize], geometry: Geometry) -> Result<usize> {
    let mut sum = 0;
    for frames in refs {
        check_frames(*frames, geometry).map_err(|e| e.at("--ref-frames"))?;
        sum += geometry.latent_frames(*frames);
    }
    Ok(sum)
}

fn positive(value: usize, flag: &str) -> Result<usize> {
    if (1..=1 << 20).contains(&value) {
        return Ok(value);
    }
    Err(Error::input("E0918", format!("{value} is not a number from 1 to {}", 1 << 20)).at(flag))
}
