//! `gpu-check`: whether a GPU computes what it should, and how fast, in one call.
//!
//! Sections run one after the other, each in a process of its own, and the next one runs whatever became
//! of the last. Everything goes through the device as in a real run; references are computed on the
//! processor. The table has at most 60 lines; the file of `--json` has everything, and is written anew
//! while the check goes on, so that little is lost however it ends.

mod compare;
mod goldens;
mod kernels;
mod ops;
mod parts;
mod report;
mod single;
mod speed;
mod teller;
mod torch;

use crate::interrupt;
use crate::output;
use crate::progress::Progress;
use crate::render::{self, Failure};
use anyid_runtime::files::{AtomicFile, stopped};
use anyid_runtime::init::Preset;
use anyid_runtime::{Backend, Error, Kind, Result};
use clap::Args;
use parts::{End, Parts, Task};
use report::{Line, Report, Verdict};
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use teller::{Message, Teller};

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
    /// Folder with the tensors of the reference implementation, laid out as tests/fixtures
    /// [default: tests/fixtures, if it is there].
    #[arg(long, value_name = "DIR")]
    pub fixtures: Option<PathBuf>,
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
    /// What the process of a section does.
    #[arg(long, hide = true, value_name = "SECTION:FROM:TO:SECONDS")]
    pub part: Option<String>,
}

type Section = fn(&mut Check<'_>, &mut Teller) -> Result<()>;

/// The sections with the parts of the time that they may take.
const SECTIONS: [(&str, u32, Section); 4] = [
    ("ops", 4, ops::run),
    ("kernels", 6, kernels::run),
    ("goldens", 3, goldens::run),
    ("speed", 7, speed::run),
];

/// How old the file of `--json` gets while checks are done.
const FRESH: Duration = Duration::from_secs(10);

/// Most names that are listed for who asked for one that there is not.
const LISTED: usize = 120;

/// What all checks of a section need.
struct Check<'c> {
    backend: &'c Backend,
    preset: Preset,
    only: Option<&'c str>,
    seed: u64,
    fixtures: PathBuf,
    /// When the section that runs begins nothing new.
    until: Instant,
    progress: Progress,
    /// What else there is, where it was not wanted.
    others: RefCell<BTreeSet<String>>,
}

impl Check<'_> {
    /// Whether something of this name is wanted.
    fn wants(&self, name: &str) -> bool {
        let wanted = self.only.is_none_or(|part| name.contains(part));
        if !wanted {
            // Without the sizes and places that follow.
            let short = name.split(" (").next().unwrap_or(name);
            let end = short.find(|c: char| c.is_ascii_digit() || c == ',').unwrap_or(short.len());
            let short = short[..end].trim_end_matches([' ', '/', '_', '[']);
            self.others.borrow_mut().insert(short.to_owned());
        }
        wanted
    }

    /// Whether there is time to begin something that takes about `seconds`.
    fn has(&self, seconds: f64) -> bool {
        Instant::now() + Duration::from_secs_f64(seconds) <= self.until
    }
}

/// Runs the verb.
///
/// # Errors
/// E0863 where anything was wrong or nothing was checked, E0918 for an impossible time or for names that
/// nothing has, E0908 for the preset, E0911 for a folder without tensors, E1002 if it was stopped, and
/// those of opening the device.
pub fn run(args: GpuCheck) -> std::result::Result<(), Failure> {
    if let Some(part) = &args.part {
        return Ok(section(&args, part)?);
    }
    let limit = match args.seconds {
        seconds if (1.0..=1e5).contains(&seconds) => Duration::from_secs_f64(seconds),
        seconds => {
            let message = format!("{seconds} seconds are no time to check in");
            return Err(Error::input("E0918", message).at("--seconds").help("1 or more").into());
        }
    };
    let _: Preset = args.preset.parse().map_err(|e: Error| e.at("--preset"))?;
    if let Some(folder) = args.fixtures.as_deref().filter(|folder| !goldens::any(folder)) {
        let message = "there are no tensors in this folder, or there is no such folder";
        return Err(Error::input("E0911", message)
            .at(format!("--fixtures {}", folder.display()))
            .help("it has folders dit, vae, text and pipeline, as tests/fixtures has")
            .into());
    }
    let stop = Arc::new(AtomicBool::new(false));
    interrupt::graceful(stop.clone());
    // Before anything is checked, so that it fails early if nothing can be written there.
    let mut file = args.json.as_deref().map(Saved::create).transpose()?;
    let seed = args.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64 & 0xffff_ffff)
    });
    // Given back before the first section asks for it: a GPU may be one process's alone.
    let (device, versions) = {
        let opened = Backend::open(&args.device, 0);
        let backend = opened.map_err(|error| error.at(format!("--device {}", args.device)))?;
        backend.about().warnings.iter().for_each(|warning| render::warn(warning));
        (backend.about().name.clone(), versions(&backend, seed))
    };
    let none = !(args.kernels || args.goldens || args.speed);
    let wanted = |section: &str| {
        let asked = match section {
            "goldens" => args.goldens,
            "speed" => args.speed,
            _ => args.kernels,
        };
        asked || args.all || none
    };
    let sections = || SECTIONS.iter().filter(|(name, ..)| wanted(name));
    let (start, whole) = (Instant::now(), sections().map(|(_, part, _)| part).sum::<u32>());
    let mut report = Report::new(versions);
    let (mut parts, mut ended) = (0, false);
    let mut checked = Parts { report: &mut report, lost: 0, others: Vec::new() };
    for (name, part, _) in sections() {
        parts += part;
        let (begun, until) = (Instant::now(), start + limit * parts / whole);
        // What one leaves is for the next.
        let mut run = |task: &Task, tell: &mut dyn FnMut(Message)| {
            let command = match command(&args, task, &device, seed) {
                Ok(command) => command,
                Err(error) => return End::Died(report::short(&error)),
            };
            parts::process(command, until, &|| stop.load(Ordering::Relaxed) || stopped(), tell)
        };
        let mut save = |report: &Report| {
            if let Some(file) = &mut file {
                // What cannot be written now is told of at the end.
                let _ = file.refresh(report);
            }
        };
        ended = checked.section(name, until, &mut run, &mut save);
        checked.report.took(name, begun.elapsed());
        if ended {
            checked.report.leaves("after the interruption");
        }
        if let Some(file) = &mut file {
            file.save(checked.report)?;
        }
        if ended {
            break;
        }
    }
    let (lost, others) = (checked.lost, std::mem::take(&mut checked.others));
    let standard = file.as_ref().is_some_and(Saved::is_standard_output);
    if let Some(file) = file {
        file.finish(&report)?;
    }
    if standard {
        output::note(report.text().trim_end());
    } else {
        output::print(&report.text())?;
    }
    if ended {
        let message = "interrupted; what was checked until then is in the table";
        return Err(Error::new(Kind::Interrupted, "E1002", message).into());
    }
    judged(&args, &report, lost, others).map_err(Failure::from)
}

/// What the program ends with.
fn judged(args: &GpuCheck, report: &Report, lost: usize, others: Vec<String>) -> Result<()> {
    let checks = report.checks();
    match (report.wrong(), &args.only) {
        (0, Some(only)) if report.is_empty() => {
            let names: BTreeSet<String> = others.into_iter().collect();
            let count = names.len();
            let mut listed: Vec<String> = names.into_iter().take(LISTED).collect();
            if count > LISTED {
                listed.push(format!("{} more", count - LISTED));
            }
            Err(Error::input("E0918", format!("no check has \"{only}\" in its name"))
                .at("--only")
                .help(format!("there are {}", listed.join(", "))))
        }
        (0, _) if checks == 0 => Err(Error::input("E0863", "nothing was checked")
            .at(args.device.clone())
            .help("the table says why; --seconds gives more time, --fixtures names the tensors")),
        (0, _) => Ok(()),
        (count, _) => {
            let message = format!("{count} of {checks} checks found something wrong");
            let help = match lost {
                0 => "the lines marked with WRONG say what; --json OUT has every figure",
                _ => "the device was lost: the first line marked with WRONG is the one to look at",
            };
            Err(Error::input("E0863", message).at(args.device.clone()).help(help))
        }
    }
}

/// The program itself, as the process of a task.
fn command(args: &GpuCheck, task: &Task, device: &str, seed: u64) -> Result<Command> {
    let program = std::env::current_exe().map_err(|fault| {
        Error::internal("E1000", "the program does not find itself").caused_by(fault)
    })?;
    let mut command = Command::new(program);
    let Task { section, checks, waits, until } = task;
    let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
    command.args(["gpu-check", "--device", device, "--preset", &args.preset]);
    command.args(["--seed", &seed.to_string()]);
    command.args(["--part", &format!("{section}:{}:{}:{left}", checks.start, checks.end)]);
    if let Some(only) = &args.only {
        command.arg(format!("--only={only}"));
    }
    if let Some(fixtures) = &args.fixtures {
        command.arg("--fixtures").arg(fixtures);
    }
    if output::quiet() {
        command.arg("--quiet");
    }
    if *waits {
        command.env("ANYID_CUDA_GRAPHS", "wait");
    }
    Ok(command)
}

/// The process of a section: tells its findings on standard output.
fn section(args: &GpuCheck, part: &str) -> Result<()> {
    let bad = || Error::input("E0900", format!("\"{part}\" is no part of a check")).at("--part");
    let fields: Vec<&str> = part.split(':').collect();
    let [name, from, to, seconds] = fields[..] else { return Err(bad()) };
    let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
    let found = SECTIONS.iter().find(|(own, ..)| *own == name);
    let (_, _, run) = found.ok_or_else(bad)?;
    let seconds: f64 = seconds.parse().ok().filter(|s| (0.0..=1e5).contains(s)).ok_or_else(bad)?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut teller = Teller::new(Box::new(std::io::stdout()), number(from)?..number(to)?);
    let tells_of = |teller: &mut Teller, error: &Error| {
        let (name, verdict) = ("the section ended early", Verdict::Wrong);
        teller.push(Line::new(fields[0], name, verdict, report::short(error)));
    };
    match Backend::open(&args.device, 0) {
        Ok(backend) => {
            let mut check = Check {
                backend: &backend,
                preset: args.preset.parse()?,
                only: args.only.as_deref(),
                seed: args.seed.unwrap_or_default(),
                fixtures: args.fixtures.clone().unwrap_or_else(|| "tests/fixtures".into()),
                until,
                progress: Progress::new(),
                others: RefCell::default(),
            };
            check.progress.part(name);
            if let Err(error) = run(&mut check, &mut teller) {
                tells_of(&mut teller, &error);
            }
            check.progress.clear();
            teller.tell(&Message::Others(check.others.take().into_iter().collect()));
        }
        Err(error) => tells_of(&mut teller, &error),
    }
    teller.tell(&Message::Ends);
    Ok(())
}

/// The file of `--json`, which is whole whenever it is looked at.
struct Saved {
    path: PathBuf,
    /// What is written next, made ahead: nothing can be made once the program was told to stop.
    next: Option<AtomicFile>,
    at: Instant,
}

impl Saved {
    fn create(path: &Path) -> Result<Self> {
        let next = AtomicFile::create(path)?;
        next.keep_when_stopped();
        Ok(Self { path: path.to_owned(), next: Some(next), at: Instant::now() })
    }

    fn is_standard_output(&self) -> bool {
        self.next.as_ref().is_some_and(AtomicFile::is_standard_output)
    }

    /// Writes the report, if the file is old.
    fn refresh(&mut self, report: &Report) -> Result<()> {
        if self.at.elapsed() < FRESH { Ok(()) } else { self.save(report) }
    }

    /// Writes the report, if it can be written again: pipes get it at the end.
    fn save(&mut self, report: &Report) -> Result<()> {
        if self.next.as_ref().is_none_or(|next| next.temporary_path().is_none()) {
            return Ok(());
        }
        self.write(report)?;
        self.at = Instant::now();
        match Self::create(&self.path) {
            Ok(again) => self.next = again.next,
            // It is written whole, and nothing follows.
            Err(_) if stopped() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn finish(mut self, report: &Report) -> Result<()> {
        self.write(report)
    }

    fn write(&mut self, report: &Report) -> Result<()> {
        let Some(mut file) = self.next.take() else { return Ok(()) };
        file.append(format!("{:#}\n", report.json()).as_bytes())?;
        file.commit().map(drop)
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
