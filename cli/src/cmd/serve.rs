//! `serve`: makes videos for programs and browsers that ask over HTTP.
//!
//! Flags become options of the server; everything else is `anyid-serve`. Where it listens is the one
//! line on standard output, what happens to videos goes to standard error.

use crate::args::{DeviceArgs, PrecisionName, ResidualName};
use crate::cmd::safeguards::SafeguardArgs;
use crate::cmd::{lora, size};
use crate::render::{self, Failure};
use crate::{interrupt, output};
use anyid_runtime::adapter::Tolerance;
use anyid_runtime::engine::budget;
use anyid_runtime::model::Parts;
use anyid_runtime::pipeline::{Budget, Tiles};
use anyid_runtime::{Error, Keep, Model, Pipeline, Result, input};
use anyid_serve::{Limits, Making, Options, Ready, serve};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The variable that may hold the token.
const TOKEN: &str = "ANYID_RT_TOKEN";
/// Largest file of a token, in bytes.
const TOKEN_BYTES: u64 = 4096;

#[derive(Debug, Args)]
#[command(after_help = "The API is that of OpenAI's videos, so that its clients work with \
base_url=http://127.0.0.1:8787/v1; docs/server.md describes it. The page to try it is at /.\n\n\
Ctrl-C or SIGTERM stops the server: the video that is being made is given back to the queue, and made at \
the next start.")]
pub struct Serve {
    /// Address and port to listen on; port 0 takes a free one. Where others than this machine can
    /// reach it, a token is required.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8787")]
    pub listen: String,
    /// Folder of the queue: what waits, with its references, and finished videos. It is made where
    /// it is missing, and gone on with after a restart.
    #[arg(long, value_name = "DIR", default_value = "anyid-rt-queue")]
    pub queue: PathBuf,
    /// File with the token that clients must send, of 16 characters at least [default: the
    /// environment variable ANYID_RT_TOKEN].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A name that the server is reached by, such as that of a proxy before it; may be given several
    /// times.
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Let ffmpeg read uploads that the built-in decoders do not know.
    #[arg(long)]
    pub allow_ffmpeg: bool,
    /// What clients call the model [default: built-in, or the name of its folder or file].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Most videos that wait.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Limits")]
    pub most_waiting: usize,
    /// Most videos that are kept, finished ones included.
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Limits")]
    pub most_videos: usize,
    /// Most bytes of a request with its references.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Limits")]
    pub most_upload: String,
    /// Largest frame, as width and height whose product counts.
    #[arg(long, value_name = "WxH", default_value = "1280x1280", help_heading = "Limits")]
    pub most_size: String,
    /// Most frames of a video.
    #[arg(long, value_name = "N", default_value_t = 241, help_heading = "Limits")]
    pub most_frames: usize,
    /// Most sampling steps of a video.
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = "Limits")]
    pub most_steps: usize,
    /// Minutes that making one video may take [default: as long as it takes].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub most_minutes: Option<f64>,
    /// Most connections at a time.
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Limits")]
    pub most_connections: usize,
    /// Seconds that a client may be silent while it sends or reads.
    #[arg(long, value_name = "N", default_value_t = 20.0, help_heading = "Limits")]
    pub patience: f64,
    /// Model folder (diffusers, or the original checkpoint's) [default: the built-in model].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// Weights of the transformer, in place of those of --model; and so do the next three.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub transformer: Option<PathBuf>,
    /// Weights of the umT5 text encoder.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub text_encoder: Option<PathBuf>,
    /// Weights of the autoencoder.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub vae: Option<PathBuf>,
    /// tokenizer.json or spiece.model [default: the text encoder's].
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
    /// An adapter (LoRA) for the transformer with its scale [default: 1]; may be given several
    /// times.
    #[arg(
        long = "lora",
        value_name = "PATH[:SCALE]",
        allow_hyphen_values = true,
        help_heading = "Model"
    )]
    pub adapters: Vec<String>,
    /// Arithmetic of the networks [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum, help_heading = "Model")]
    pub precision: Option<PrecisionName>,
    /// Element type of the transformer's residual stream [default: f32].
    #[arg(long, value_enum, help_heading = "Model")]
    pub residual: Option<ResidualName>,
    /// Memory that a run may hold, such as 12GiB, or `auto` for what is free. Networks are then
    /// loaded anew for every video [default: they stay loaded].
    #[arg(long, value_name = "SIZE|auto", allow_hyphen_values = true, help_heading = "Model")]
    pub budget: Option<String>,
    /// The largest tiles that the autoencoder works in [default: whole pictures].
    #[arg(long, value_name = "WxH", allow_hyphen_values = true, help_heading = "Model")]
    pub tile: Option<String>,
    #[command(flatten)]
    pub safeguards: SafeguardArgs,
    #[command(flatten)]
    pub on: DeviceArgs,
}

impl Serve {
    /// The folder and the files of the model.
    fn parts(&self) -> Parts {
        Parts {
            folder: self.model.clone(),
            transformer: self.transformer.clone(),
            text_encoder: self.text_encoder.clone(),
            vae: self.vae.clone(),
            tokenizer: self.tokenizer.clone(),
        }
    }

    /// What clients call the model.
    fn name(&self) -> String {
        let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = self.model.as_deref().map(full);
        let folder = folder.as_deref().and_then(Path::file_name);
        let named = folder.or(self.transformer.as_deref().and_then(Path::file_stem));
        let named = named.map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or(named).unwrap_or_else(|| "built-in".to_owned())
    }
}

/// Runs the verb.
///
/// # Errors
/// Those of flags, model and device, and E1400 to E1403 of the server.
pub fn run(args: &Serve) -> std::result::Result<(), Failure> {
    let options = options(args)?;
    let safeguards = args.safeguards.open()?;
    let off = safeguards.policy().switched_off();
    if !off.is_empty() {
        render::warn(&format!("switched off: {}", off.join(", ")));
    }
    let parts = args.parts();
    let model = match parts.is_empty() {
        true => Model::built_in()?,
        false => Model::of_parts(&parts)?,
    };
    let model = model.with_adapters(&lora::wanted(&args.adapters)?, Tolerance::default())?;
    model.warnings.iter().for_each(|warning| render::warn(warning));
    let keep = match options.making.budget {
        Budget::Refuse => Keep::Loaded,
        Budget::Available | Budget::Bytes(_) => Keep::Released,
    };
    let pipeline = Pipeline::new(model, args.on.open()?).keep(keep);
    let stop = Arc::new(AtomicBool::new(false));
    interrupt::graceful(Arc::clone(&stop));
    let (name, folder) = (options.model.clone(), options.queue.clone());
    let mut ready = |ready: &Ready| {
        let Ready { address, counts, token } = ready;
        let page = format!("http://{address}/");
        if !output::quiet() {
            let token = if *token { ", with a token" } else { "" };
            output::note(&format!(
                "{name} is served{token}; the queue in {} has {} to make and {} finished",
                folder.display(),
                output::plural(counts.waiting, "video"),
                counts.finished
            ));
        }
        output::print(&format!("listening on {page}\n"))
    };
    let log: Arc<dyn Fn(&str) + Send + Sync> = match output::quiet() {
        true => Arc::new(|_| {}),
        false => Arc::new(output::note),
    };
    let counts = serve(pipeline, options, safeguards, stop, &mut ready, log)?;
    if !output::quiet() {
        let waiting = output::plural(counts.waiting, "video");
        output::note(&format!("stopped; the queue has {waiting} to make at the next start"));
    }
    Ok(())
}

/// The options that flags and environment ask for.
fn options(args: &Serve) -> Result<Options> {
    let listen: SocketAddr = args.listen.parse().map_err(|_| {
        Error::input("E1400", format!("\"{}\" is no address with a port", args.listen))
            .at("--listen")
            .help("write it in numbers: 127.0.0.1:8787, or [::1]:8787")
    })?;
    let [width, height] = size(&args.most_size).map_err(|error| error.placed("--most-size"))?;
    let seconds = |flag: &str, value: f64| match Duration::try_from_secs_f64(value) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(Error::input("E0900", format!("{value} is no time"))
            .at(flag.to_owned())
            .help("give a number above 0")),
    };
    let making = args.most_minutes.map(|minutes| seconds("--most-minutes", 60.0 * minutes));
    let limits = Limits {
        waiting: args.most_waiting,
        videos: args.most_videos,
        upload_bytes: budget::parse(&args.most_upload)
            .map_err(|error| error.at("--most-upload"))?,
        pixels: width.saturating_mul(height),
        frames: args.most_frames,
        steps: args.most_steps,
        making: making.transpose()?,
        connections: args.most_connections,
        silence: seconds("--patience", args.patience)?,
        ..Limits::default()
    };
    let tile = args.tile.as_deref().map(|text| size(text).map_err(|e| e.placed("--tile")));
    let tile = tile.transpose()?;
    let making = Making {
        budget: match args.budget.as_deref().map(str::trim) {
            None => Budget::Refuse,
            Some(text) if text.eq_ignore_ascii_case("auto") => Budget::Available,
            Some(text) => Budget::Bytes(
                budget::parse(text)
                    .map_err(|error| error.at("--budget").also("`auto` takes what is free"))?,
            ),
        },
        tiles: Tiles { encoder: tile, decoder: tile },
        precision: args.precision.map(Into::into),
        residual: args.residual.map(Into::into).unwrap_or_default(),
    };
    Ok(Options {
        listen,
        queue: args.queue.clone(),
        token: token(args.token_file.as_deref())?,
        hosts: args.allow_host.clone(),
        model: args.name(),
        allow_ffmpeg: args.allow_ffmpeg,
        limits,
        threads: args.on.thread_count(),
        making,
    })
}

/// The token of the file or of the environment; an empty variable is none.
fn token(file: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = file else {
        return Ok(std::env::var(TOKEN).ok().filter(|token| !token.is_empty()));
    };
    let unfit = |what: &str| {
        Error::input("E1403", what)
            .at(path.display())
            .help("write the token into it, on one line: openssl rand -hex 32 > FILE")
    };
    let bytes = input::read(path, TOKEN_BYTES).map_err(|refusal| {
        let unreadable = |fault| unfit("the file of the token cannot be read").caused_by(fault);
        refusal.coded(path, unreadable, |_| unfit("this file holds more than a token"))
    })?;
    let text = String::from_utf8(bytes).map_err(|_| unfit("this file is no text"))?;
    Ok(Some(text.trim().to_owned()))
}
