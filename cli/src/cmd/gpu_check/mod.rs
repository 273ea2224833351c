//! `gpu-check`: whether a GPU computes what it should, and how fast, in one call.
//!
//! Sections run one after the other, and the next one runs whatever became of the last. Everything goes
//! through the device as in a real run; references are computed on the processor. The table has at most
//! 60 lines; the file of `--json` has everything.

mod compare;
mod goldens;
mod kernels;
mod ops;
mod report;
mod single;
mod speed;
mod torch;

use crate::output;
use crate::progress::Progress;
use crate::render::{self, Failure};
use anyid_runtime::files::AtomicFile;
use anyid_runtime::init::Preset;
use anyid_runtime::{Backend, Error, Result};
use clap::Args;
use report::{Line, Report, Verdict};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

#[derive(Debug, Args)]
#[command(
    after_help = "Without a section all of them run. Inputs are drawn anew in every call; --seed \
repeats one. Exit code 1 if anything was wrong."
)]
pub struct GpuCheck {
    /// Every kernel of the networks' plans and every case of the op table, on fresh inputs, twice.
    #[arg(long)]
    pub kernels: bool,
    /// The networks on tensors of the reference implementation, and a video by the built-in model.
    #[arg(long)]
    pub goldens: bool,
    /// Products, attention, convolution, a block, steps and decoding, against what the GPU can do.
    #[arg(long)]
    pub speed: bool,
    /// All sections.
    #[arg(long, conflicts_with_all = ["kernels", "goldens", "speed"])]
    pub all: bool,
    /// The device.
    #[arg(long, value_name = "NAME", default_value = "cuda:0")]
    pub device: String,
    /// Sizes of the networks: micro, small, world or wan2.2-ti2v-5b.
    #[arg(long, value_name = "NAME", default_value = "wan2.2-ti2v-5b")]
    pub preset: String,
    /// Folder with the tensors of the reference implementation, laid out as tests/fixtures.
    #[arg(long, value_name = "DIR", default_value = "tests/fixtures")]
    pub fixtures: PathBuf,
    /// Only what has this text in its name.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Begin nothing after so many seconds, of which every section has its part; what is left out is
    /// said.
    #[arg(long, value_name = "S", default_value_t = 520.0, allow_negative_numbers = true)]
    pub seconds: f64,
    /// Draw the inputs from this number [default: from the clock].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write everything that was found to this file.
    #[arg(long, value_name = "OUT")]
    pub json: Option<PathBuf>,
}

type Section = fn(&mut Check<'_>, &mut Report) -> Result<()>;

/// What all sections need.
struct Check<'c> {
    backend: &'c Backend,
    preset: Preset,
    only: Option<&'c str>,
    seed: u64,
    fixtures: PathBuf,
    /// When the section that runs begins nothing new.
    until: Instant,
    progress: Progress,
}

impl Check<'_> {
    /// Whether something of this name is wanted.
    fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|part| name.contains(part))
    }

    /// Whether there is time to begin something that takes about `seconds`.
    fn has(&self, seconds: f64) -> bool {
        Instant::now() + Duration::from_secs_f64(seconds) <= self.until
    }
}

/// Runs the verb.
///
/// # Errors
/// E0863 where anything was wrong, E0918 for an impossible time, E0908 for the preset, and those of
/// opening the device.
pub fn run(args: GpuCheck) -> std::result::Result<(), Failure> {
    let limit = match args.seconds {
        seconds if (1.0..=1e5).contains(&seconds) => Duration::from_secs_f64(seconds),
        seconds => {
            let message = format!("{seconds} seconds are no time to check in");
            return Err(Error::input("E0918", message).at("--seconds").help("1 or more").into());
        }
    };
    let preset: Preset = args.preset.parse().map_err(|e: Error| e.at("--preset"))?;
    // Before anything is checked, so that it fails early if nothing can be written there.
    let file = args.json.as_ref().map(AtomicFile::create).transpose()?;
    let opened = Backend::open(&args.device, 0);
    let backend = opened.map_err(|error| error.at(format!("--device {}", args.device)))?;
    backend.about().warnings.iter().for_each(|warning| render::warn(warning));
    let seed = args.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64 & 0xffff_ffff)
    });
    let none = !(args.kernels || args.goldens || args.speed);
    let wanted = |section: bool| section || args.all || none;
    let mut check = Check {
        backend: &backend,
        preset,
        only: args.only.as_deref(),
        seed,
        fixtures: args.fixtures,
        until: Instant::now(),
        progress: Progress::new(),
    };
    let mut report = Report::new(versions(&backend, seed));
    // With the parts of the time that they may take; what one leaves is for the next.
    let sections: [(&str, bool, u32, Section); 4] = [
        ("ops", wanted(args.kernels), 4, ops::run),
        ("kernels", wanted(args.kernels), 6, kernels::run),
        ("goldens", wanted(args.goldens), 3, goldens::run),
        ("speed", wanted(args.speed), 7, speed::run),
    ];
    let sections = || sections.into_iter().filter(|(_, wanted, ..)| *wanted);
    let (start, whole) = (Instant::now(), sections().map(|(_, _, part, _)| part).sum::<u32>());
    let mut parts = 0;
    for (name, _, part, section) in sections() {
        parts += part;
        check.until = start + limit * parts / whole;
        check.progress.part(name);
        let begun = Instant::now();
        if let Err(error) = section(&mut check, &mut report) {
            let verdict = Verdict::Wrong;
            report.push(Line::new(name, "the section ended early", verdict, report::short(&error)));
        }
        report.took(name, begun.elapsed());
    }
    check.progress.clear();
    if let Some(mut file) = file {
        file.append(format!("{:#}\n", report.json()).as_bytes())?;
        file.commit()?;
    }
    output::print(&report.text())?;
    match report.wrong() {
        0 => Ok(()),
        count => {
            let message = format!("{count} of {} checks found something wrong", report.checks());
            Err(Error::input("E0863", message)
                .at(args.device)
                .help("the lines marked with WRONG say what; --json OUT has every figure")
                .into())
        }
    }
}

/// What the figures are of.
fn versions(backend: &Backend, seed: u64) -> Vec<(&'static str, serde_json::Value)> {
    let about = backend.about();
    vec![
        ("program", json!(format!("anyid-rt {}", env!("CARGO_PKG_VERSION")))),
        ("device", json!(format!("{}: {}", about.name, about.words))),
        ("kernels", json!(about.instructions)),
        ("target", json!(about.target.name)),
        ("seed", json!(seed)),
    ]
}
