//! The loop: make an input, run the target on it, look at what happened.
//!
//! Inputs are changes of a pool that begins with the target's seeds; inputs that were accepted or
//! refused in a new way join it. A target fails by panicking, by saying that something does not hold,
//! by taking too long or too much memory. The input is then written to a file and printed.

use crate::memory;
use crate::mutate;
use crate::rng::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What became of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was accepted and used.
    Taken,
    /// It was refused, with this code or in this way.
    Refused(String),
}

/// A verdict, or what does not hold.
pub type Outcome = Result<Verdict, String>;

/// Something that takes bytes from outside.
pub trait Target {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Inputs to begin with.
    fn seeds(&self) -> Vec<Vec<u8>>;

    /// Words of the format.
    fn words(&self) -> &'static [&'static str] {
        &[]
    }

    /// Changes `data`; `other` is another input of the pool.
    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::bytes(rng, data, self.words(), other);
    }

    /// Runs on an input.
    ///
    /// # Errors
    /// What does not hold, in words.
    fn run(&self, data: &[u8]) -> Outcome;
}

/// How long to go on, and how much an input may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// Inputs.
    pub runs: u64,
    /// Seconds, where they end first.
    pub seconds: Option<u64>,
    /// Other seeds give other inputs.
    pub seed: u64,
    /// Seconds of processor time for one input.
    pub slow: f64,
    /// Bytes for one input.
    pub memory: usize,
    /// Where a failing input goes.
    pub artifacts: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        let artifacts = std::env::temp_dir();
        Self { runs: 10_000, seconds: None, seed: 1, slow: 5.0, memory: 512 << 20, artifacts }
    }
}

/// What a series of inputs gave.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Inputs.
    pub runs: u64,
    /// Those accepted.
    pub taken: u64,
    /// Those refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Processor seconds of the slowest.
    pub slowest: f64,
    /// Bytes of the largest.
    pub largest: usize,
}

impl Summary {
    /// In words: how many in `seconds`, what was refused, the slowest and the largest.
    pub fn report(&self, name: &str, seed: u64, seconds: f64) -> String {
        let codes: Vec<String> =
            self.refused.iter().map(|(code, count)| format!("{code} {count}")).collect();
        format!(
            "{name}: {} inputs in {seconds:.0} s ({:.0} a second), {} accepted, seed {seed}\n  \
             refused: {}\n  at most {:.2} s and {} KiB for one input",
            self.runs,
            self.runs as f64 / seconds.max(1e-3),
            self.taken,
            codes.join(", "),
            self.slowest,
            self.largest >> 10
        )
    }
}

/// A failing input.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What happened.
    pub what: String,
    /// The input.
    pub data: Vec<u8>,
    /// Where it was written.
    pub file: PathBuf,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "the input is in {}; its first bytes:", self.file.display())?;
        f.write_str(&hex(&self.data))
    }
}

/// The first 2048 bytes in hexadecimal, 32 a line.
pub fn hex(data: &[u8]) -> String {
    let mut out = String::new();
    for line in data.chunks(32).take(64) {
        line.iter().for_each(|byte| out.push_str(&format!("{byte:02x}")));
        out.push('\n');
    }
    out
}

/// Most inputs of the pool beyond the seeds.
const POOL: usize = 512;
/// Seconds without an end after which an input counts as endless.
const ENDLESS: u64 = 300;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Processor time of this thread; since `begun` where the system does not tell.
fn processor_seconds(begun: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map_or_else(|| begun.elapsed().as_secs_f64(), |n| n * 1e-9)
}

/// The input that is being run, on disk: what is left when the process dies.
struct Current {
    file: std::fs::File,
}

/// Where the input that target `name` is being run on lies.
pub fn current_path(name: &str, options: &Options) -> PathBuf {
    options.artifacts.join(format!("fuzz-{name}-{}-current", options.seed))
}

impl Current {
    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: std::fs::File::create(path)? })
    }

    fn set(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(data)?;
        self.file.set_len(data.len() as u64)
    }
}

/// Runs `target` as `options` say.
///
/// # Errors
/// The first input that fails.
pub fn fuzz(target: &dyn Target, options: &Options) -> Result<Summary, Box<Failure>> {
    let begun = Instant::now();
    let mut summary = Summary::default();
    let mut session = Session::new(target, options);
    let seeds = target.seeds();
    let mut pool: Vec<Vec<u8>> = Vec::new();
    for seed in &seeds {
        session.one(seed, &mut summary)?;
        pool.push(seed.clone());
    }
    let limit = options.seconds.map(Duration::from_secs);
    let mut round = 0;
    while summary.runs < options.runs && limit.is_none_or(|limit| begun.elapsed() < limit) {
        let mut rng = Rng::new(options.seed, round);
        round += 1;
        let mut data = rng.pick(&pool).clone();
        let other = rng.pick(&pool).clone();
        target.change(&mut rng, &mut data, &other);
        let known = summary.refused.len();
        let verdict = session.one(&data, &mut summary)?;
        let new = summary.refused.len() > known || (verdict == Verdict::Taken && rng.once_in(4));
        if new && data.len() <= mutate::LONGEST {
            if pool.len() < seeds.len() + POOL {
                pool.push(data);
            } else {
                let at = seeds.len() + rng.below(POOL);
                pool[at] = data;
            }
        }
    }
    session.end();
    Ok(summary)
}

/// Runs `target` on one input.
///
/// # Errors
/// Where it fails.
pub fn once(target: &dyn Target, options: &Options, data: &[u8]) -> Result<Verdict, Box<Failure>> {
    let mut session = Session::new(target, options);
    let verdict = session.one(data, &mut Summary::default());
    session.end();
    verdict
}

struct Session<'s> {
    target: &'s dyn Target,
    options: &'s Options,
    current: Option<Current>,
    alive: std::sync::Arc<AtomicU64>,
}

impl<'s> Session<'s> {
    fn new(target: &'s dyn Target, options: &'s Options) -> Self {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map_or_else(String::new, ToString::to_string);
            let payload = info.payload();
            let words = payload.downcast_ref::<String>().cloned();
            let words = words.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let words = words.unwrap_or_default();
            PANIC.set(Some(format!("{words} ({place})")));
            if std::env::var_os("ANYID_FUZZ_LOUD").is_some() {
                previous(info);
            }
        }));
        let current = Current::open(&current_path(target.name(), options)).ok();
        let alive = std::sync::Arc::new(AtomicU64::new(1));
        let (watched, name) = (alive.clone(), target.name());
        std::thread::spawn(move || {
            let (mut seen, mut since) = (0, Instant::now());
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let now = watched.load(Ordering::Relaxed);
                match now {
                    0 => return,
                    _ if now != seen => (seen, since) = (now, Instant::now()),
                    _ if since.elapsed().as_secs() >= ENDLESS => {
                        eprintln!("{name}: input {now} has no end");
                        std::process::abort();
                    }
                    _ => {}
                }
            }
        });
        Self { target, options, current, alive }
    }

    fn end(self) {
        self.alive.store(0, Ordering::Relaxed);
        drop(std::panic::take_hook());
        // Left behind at worst.
        let _ = std::fs::remove_file(current_path(self.target.name(), self.options));
    }

    fn one(&mut self, data: &[u8], summary: &mut Summary) -> Result<Verdict, Box<Failure>> {
        if let Some(current) = &mut self.current {
            // Without it a death of the process is only harder to explain.
            let _ = current.set(data);
        }
        self.alive.fetch_add(1, Ordering::Relaxed);
        let before = memory::begin();
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.target.run(data)));
        let wall = begun.elapsed().as_secs_f64();
        let bytes = memory::peak().saturating_sub(before);
        summary.runs += 1;
        summary.largest = summary.largest.max(bytes);
        summary.slowest = summary.slowest.max(wall.min(self.options.slow));
        let what = match outcome {
            Err(_) => format!("it panicked: {}", PANIC.take().unwrap_or_default()),
            Ok(Err(what)) => what,
            Ok(Ok(_)) if bytes > self.options.memory => format!("it took {bytes} bytes"),
            Ok(Ok(verdict)) => {
                // A busy machine makes everything slow: what was long is done again and timed.
                if wall > self.options.slow {
                    let begun = Instant::now();
                    let start = processor_seconds(begun);
                    let _ = catch_unwind(AssertUnwindSafe(|| self.target.run(data)));
                    let took = processor_seconds(begun) - start;
                    if took > self.options.slow {
                        return Err(self.failed(data, format!("it took {took:.1} seconds")));
                    }
                }
                match &verdict {
                    Verdict::Taken => summary.taken += 1,
                    Verdict::Refused(code) => {
                        *summary.refused.entry(code.clone()).or_default() += 1;
                    }
                }
                return Ok(verdict);
            }
        };
        Err(self.failed(data, what))
    }

    fn failed(&self, data: &[u8], what: String) -> Box<Failure> {
        let sum = data.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
        });
        let name = format!("fuzz-{}-{sum:016x}", self.target.name());
        let file = self.options.artifacts.join(name);
        let what = format!("{}: {what}", self.target.name());
        let what = match std::fs::write(&file, data) {
            Ok(()) => what,
            Err(fault) => format!("{what} (the input could not be written: {fault})"),
        };
        Box::new(Failure { what, data: data.to_vec(), file })
    }
}
