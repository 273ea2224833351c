//! `eval`: how well systems keep a person and follow a prompt. The library measures; here are flags,
//! progress and what is printed.

mod generate;
mod report;
mod score;
mod set;

use crate::output;
use crate::render::Failure;
use anyid_runtime::files::{AtomicFile, make_folder};
use anyid_runtime::study::prompt::benchmark::{Entry, Omission, fixed};
use anyid_runtime::study::prompt::cache::Mode;
use anyid_runtime::study::prompt::server::client::Server;
use anyid_runtime::study::prompt::server::{invent, simplify};
use anyid_runtime::study::settings::Settings;
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The steps of an evaluation.
#[derive(Debug, Subcommand)]
pub enum EvalVerb {
    /// Say whether an evaluation set is any good: references, views, persons, consent.
    Check(set::Check),
    /// Write prompts of portrait videos: fifty that say everything, and the same without what references
    /// should keep.
    Prompts(Prompts),
    /// Draw cases: the people of a set with prompts.
    Cases(set::Cases),
    /// Make the videos of cases, as the method does it or without a part of it.
    Generate(generate::Generate),
    /// Score the videos of systems.
    Run(score::Run),
    /// Write a page about a run: tables, intervals, comparisons, frames.
    Report(report::Report),
    /// Say what has changed from one run to another, case by case.
    Diff(report::Compare),
    /// Fail where a run is worse than another by more than it may be.
    Gate(report::Gate),
}

/// Which prompts are written, and where.
#[derive(Debug, Args)]
pub struct Prompts {
    /// The folder of ipt2v.jsonl and iept2v.jsonl.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub n: usize,
    /// What plans and what is left out depend on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What is left out of the second file.
    #[arg(long, value_enum, default_value_t)]
    pub drop_policy: DropPolicy,
    /// Settings (TOML) whose server (prompt.compare) writes them; without, it is the fixed set.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take the fixed set, with --config too.
    #[arg(long)]
    pub fixed: bool,
    /// Have the server say each prompt in few words as well, for a system of this name.
    #[arg(long, value_name = "SYSTEM", requires = "config")]
    pub simplify: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is left out of prompts.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum DropPolicy {
    /// Hair; hair and clothes; hair, clothes and place.
    #[default]
    Main,
    /// Hair, clothes or accessories, drawn at random.
    Appendix,
}

impl EvalVerb {
    /// Whether JSON is printed.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Check(args) => args.json,
            Self::Prompts(args) => args.json,
            Self::Cases(args) => args.json,
            Self::Generate(args) => args.json(),
            Self::Run(args) => args.json,
            Self::Report(args) => args.json,
            Self::Diff(args) => args.json,
            Self::Gate(args) => args.json,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// E17xx; E0900 for a number of prompts that the fixed set does not have, those of servers and models,
/// E101x.
pub fn run(verb: EvalVerb) -> std::result::Result<(), Failure> {
    match verb {
        EvalVerb::Check(args) => set::check(&args)?,
        EvalVerb::Prompts(args) => prompts(&args)?,
        EvalVerb::Cases(args) => set::cases(&args)?,
        EvalVerb::Generate(args) => return generate::run(&args),
        EvalVerb::Run(args) => score::run(&args)?,
        EvalVerb::Report(args) => report::report(&args)?,
        EvalVerb::Diff(args) => report::diff(&args)?,
        EvalVerb::Gate(args) => report::gate(&args)?,
    }
    Ok(())
}

fn prompts(args: &Prompts) -> Result<()> {
    let server = args.config.as_deref().map(|config| opened(args, config)).transpose()?;
    let (entries, model): (Vec<Entry>, Option<&str>) = match server.as_ref().filter(|_| !args.fixed)
    {
        Some(server) => (invent(server, args.n, args.seed)?, Some(server.model())),
        None => {
            let all = fixed();
            if args.n == 0 || args.n > all.len() {
                let what = format!("the fixed set has {} prompts", all.len());
                return Err(Error::input("E0900", what)
                    .at("--n")
                    .help("ask for 1 to 50 of them, or have a server write others (--config)"));
            }
            (all.into_iter().take(args.n).collect(), None)
        }
    };
    let omit = match args.drop_policy {
        DropPolicy::Main => Omission::Main,
        DropPolicy::Appendix => Omission::Appendix,
    };
    let mut whole: Vec<Value> = entries.iter().map(|entry| entry.line(model)).collect();
    let reduced = entries.iter().enumerate();
    let mut reduced: Vec<Value> =
        reduced.map(|(at, entry)| entry.reduced(omit, at, args.seed, model)).collect();
    make_folder(&args.out)?;
    if let (Some(server), Some(system)) = (&server, &args.simplify) {
        let of = |line: &Value| line["prompt"].as_str().unwrap_or_default().to_owned();
        let prompts: Vec<String> = whole.iter().chain(&reduced).map(of).collect();
        let lines = whole.iter_mut().chain(&mut reduced);
        for (line, text) in lines.zip(simplify(server, &prompts)?) {
            line["prompt_short"] =
                json!({"system": system, "prompt": text, "model": server.model()});
        }
    }
    let mut files = Vec::new();
    for (name, lines) in [("ipt2v.jsonl", whole), ("iept2v.jsonl", reduced)] {
        let path = args.out.join(name);
        let mut file = AtomicFile::create(&path)?;
        for line in &lines {
            file.append(format!("{line}\n").as_bytes())?;
        }
        file.commit()?;
        files.push(path.display().to_string());
    }
    if args.json {
        return output::print_json(&json!({"prompts": entries.len(), "files": files}));
    }
    output::print(&format!("{} prompts each: {}\n", entries.len(), files.join(", ")))
}

/// The server that settings name to write and to shorten prompts.
fn opened(args: &Prompts, config: &Path) -> Result<Server> {
    let settings = Settings::open(config)?;
    let name = settings.prompt.compare.as_deref();
    let profile = super::prompt::servers::profile(config, &settings, name, "prompt.compare")?;
    let variable = |name: &str| std::env::var(name).ok();
    Server::open(&profile, &args.out.join("cache"), Mode::ReadWrite, false, None, &variable)
}
