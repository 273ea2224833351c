//! `annotate`: people compare videos, in two tracks, and pairs for `train dpo` come of it.
//!
//! Flags become calls of `anyid-preference`; what came out is printed. Where the server listens and
//! links that let people in are what goes to standard output.

use crate::interrupt;
use crate::output::{self, plural};
use crate::progress::Progress;
use crate::render::{self, Failure};
use anyid_preference::export::Form;
use anyid_preference::import::{self, Drawing, Imported};
use anyid_preference::server::{self, Options};
use anyid_preference::{Kind, Project, Role, Settings};
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The verbs of `annotate`.
#[derive(Debug, Subcommand)]
pub enum AnnotateVerb {
    /// Make a project, and the jobs of the videos that are to be compared.
    Init(Init),
    /// Take in finished videos, pairs of existing ones, or votes of another tool.
    Import(Import),
    /// Let people in: print a link for each.
    Invite(Invite),
    /// Ask people in a browser.
    Serve(Serve),
    /// Write pairs for `train dpo`, votes, or the forms of other tools.
    Export(Export),
    /// Copy the database of a project, while it is in use.
    Backup(Backup),
    /// Say how far a project is, how far people agree, and what is odd.
    Status(Status),
}

impl AnnotateVerb {
    /// Whether the result is wanted as JSON.
    pub fn wants_json(&self) -> bool {
        matches!(self, Self::Status(Status { json: true, .. }))
    }
}

/// Flags of `annotate init`.
#[derive(Debug, Args)]
#[command(after_help = "With --samples, the videos are made by `anyid-rt generate --jobs \
PROJECT/jobs.jsonl -o PROJECT/videos` with the model and the adapter that is to be tuned, and taken in \
by `annotate import PROJECT` at any time. Without, take in pairs of existing videos: `annotate import \
PROJECT --pairs FILE.csv`.")]
pub struct Init {
    /// Folder of the project, which is made.
    pub project: PathBuf,
    /// Manifest of samples whose references and prompts are used.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Where paths of the manifest start [default: its folder].
    #[arg(long, value_name = "DIR", requires = "samples")]
    pub root: Option<PathBuf>,
    /// Matchups. Of about 2,500 with three votes in each track, 1,000 pairs can be expected.
    #[arg(long, value_name = "N", default_value_t = 2500)]
    pub n: usize,
    /// Which samples are drawn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Seeds of the two videos of the first matchup; those of the others follow [default: drawn].
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 2)]
    pub seeds: Option<Vec<u64>>,
    /// People who judge each matchup in each track.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub votes: u32,
    /// A pair needs all votes, not two thirds.
    #[arg(long)]
    pub unanimous: bool,
    /// Pairs that are wanted.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub target: u32,
    /// Share of hidden checks among what is asked.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub checks: f64,
}

/// Flags of `annotate import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Folder of the project.
    pub project: PathBuf,
    /// Folder of the videos of PROJECT/jobs.jsonl [default: PROJECT/videos].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["pairs", "votes"])]
    pub videos: Option<PathBuf>,
    /// Table of existing pairs with path_a, path_b, prompt, and if known id, references, preserve,
    /// group, seed_a, seed_b.
    #[arg(long, value_name = "FILE", conflicts_with = "votes")]
    pub pairs: Option<PathBuf>,
    /// Table of votes with matchup, track, annotator, winner.
    #[arg(long, value_name = "FILE")]
    pub votes: Option<PathBuf>,
}

/// Flags of `annotate invite` and `study invite`.
#[derive(Debug, Args)]
pub struct Invite {
    /// Folder of the project.
    pub project: PathBuf,
    /// Pseudonyms; nobody's name.
    #[arg(required = true, num_args = 1.., value_name = "PSEUDONYM")]
    pub labels: Vec<String>,
    /// They oversee the project and do not answer.
    #[arg(long)]
    pub admin: bool,
    /// They are in the project, and get a new link; the old one is worth nothing then.
    #[arg(long, conflicts_with_all = ["admin", "revoke"])]
    pub renew: bool,
    /// They are shut out; what they answered stays.
    #[arg(long, conflicts_with = "admin")]
    pub revoke: bool,
    /// What links begin with.
    #[arg(long, value_name = "URL", default_value = BASE)]
    pub url: String,
}

/// Where links lead unless it is said otherwise.
pub const BASE: &str = "http://127.0.0.1:8788";

/// Flags of `annotate serve` and `study serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder of the project.
    pub project: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8788")]
    pub listen: String,
    /// Others than this machine may reach it. Put a proxy that speaks TLS in front.
    #[arg(long)]
    pub public: bool,
    /// A proxy before it speaks TLS: cookies are for TLS alone.
    #[arg(long)]
    pub behind_tls: bool,
    /// A name that the server is reached by, such as that of a proxy; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Most connections at a time. A browser takes up to six.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub most_connections: usize,
}

/// Forms of exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormName {
    /// Pairs for `train dpo`.
    Dpo,
    /// A vote a line, as JSON.
    Jsonl,
    /// A vote a row.
    Csv,
    /// The table of VideoAlign.
    Videoalign,
    /// Tasks of Label Studio.
    LabelStudio,
}

impl From<FormName> for Form {
    fn from(name: FormName) -> Self {
        match name {
            FormName::Dpo => Self::Dpo,
            FormName::Jsonl => Self::Jsonl,
            FormName::Csv => Self::Csv,
            FormName::Videoalign => Self::VideoAlign,
            FormName::LabelStudio => Self::LabelStudio,
        }
    }
}

/// Flags of `annotate export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of the project.
    pub project: PathBuf,
    /// What is written.
    #[arg(long, value_enum, default_value = "dpo")]
    pub format: FormName,
    /// The file. Paths in it start at the folder of the project.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Note the hash of the file, so that a change is found out.
    #[arg(long)]
    pub lock: bool,
}

/// Flags of `annotate backup` and `study backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Folder of the project.
    pub project: PathBuf,
    /// The copy of the database.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Flags of `annotate status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Folder of the project.
    pub project: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// E160x; see `docs/annotate.md`.
pub fn run(verb: AnnotateVerb) -> std::result::Result<(), Failure> {
    match verb {
        AnnotateVerb::Init(args) => init(&args)?,
        AnnotateVerb::Import(args) => take(&args)?,
        AnnotateVerb::Invite(args) => invite(&args, Kind::Annotate)?,
        AnnotateVerb::Serve(args) => serve(&args, Kind::Annotate)?,
        AnnotateVerb::Export(args) => export(&args)?,
        AnnotateVerb::Backup(args) => backup(&args)?,
        AnnotateVerb::Status(args) => status(&args)?,
    }
    Ok(())
}

fn init(args: &Init) -> Result<()> {
    if args.votes == 0 || !(0.0..=0.5).contains(&args.checks) {
        return Err(Error::input(
            "E0900",
            "there is one vote at least, and checks are 0 to 0.5 of all",
        )
        .at("--votes, --checks")
        .help("leave them out for the usual values, 3 and 0.05"));
    }
    let settings = Settings {
        votes: args.votes,
        unanimous: args.unanimous,
        target: args.target,
        checks: args.checks,
        ..Settings::of(Kind::Annotate)
    };
    let project = Project::create(&args.project, Kind::Annotate, &settings)?;
    let place = args.project.display();
    let Some(samples) = &args.samples else {
        return output::print(&format!("{place}\n"));
    };
    let seeds = args.seeds.as_deref().and_then(|seeds| seeds.try_into().ok());
    let drawing = Drawing { number: args.n, seed: args.seed, seeds };
    let mut progress = Progress::new();
    progress.part("input sets");
    let mut tell = |done: usize, all: usize| {
        progress.update(done as u64, all as u64, || plural(done, "input set"));
    };
    let drawn = import::draw(&project, samples, args.root.as_deref(), drawing, &mut tell)?;
    progress.clear();
    if !output::quiet() {
        output::note(&format!(
            "{}, two videos each; make them with: anyid-rt generate --jobs {place}/{} -o \
             {place}/videos",
            plural(drawn, "input set"),
            import::JOBS
        ));
    }
    output::print(&format!("{place}\n"))
}

/// Says what became of an import.
///
/// # Errors
/// E1601 where nothing came in and something was refused.
pub fn imported(done: &Imported, at: &Path, what: &str) -> Result<()> {
    for (name, error) in &done.refused {
        let place = error.place().map_or(String::new(), |place| format!(" ({place})"));
        render::warn(&format!("{name} is left out: {}: {}{place}", error.code(), error.message()));
    }
    if done.added == 0 && !done.refused.is_empty() {
        return Err(Error::input("E1601", format!("no {what} could be taken in"))
            .at(at.display())
            .help("see the warnings: what is wrong with each is said there"));
    }
    Ok(())
}

fn take(args: &Import) -> Result<()> {
    let project = Project::open_as(&args.project, Kind::Annotate)?;
    if let Some(table) = &args.votes {
        let count = project.import_votes(table)?;
        return output::print(&format!("{}\n", plural(count, "vote")));
    }
    let mut progress = Progress::new();
    progress.part("pairs");
    let mut tell = |done: usize, all: usize| {
        progress.update(done as u64, all as u64, || plural(done, "pair"));
    };
    let done = match &args.pairs {
        Some(table) => import::pairs(&project, table, &mut tell)?,
        None => {
            let folder = args.videos.clone().unwrap_or_else(|| args.project.join("videos"));
            import::rendered(&project, &folder, &mut tell)?
        }
    };
    progress.clear();
    imported(&done, &args.project, "pair")?;
    output::print(&format!(
        "{} new, {} waiting for videos, {} left out\n",
        plural(done.added, "matchup"),
        done.waiting,
        done.refused.len()
    ))
}

/// Lets people in, gives them new links, or shuts them out.
///
/// # Errors
/// E1600, E1603, E1609.
pub fn invite(args: &Invite, kind: Kind) -> Result<()> {
    let project = Project::open_as(&args.project, kind)?;
    for label in &args.labels {
        if args.revoke {
            project.revoke(label)?;
            continue;
        }
        let role = if args.admin { Role::Admin } else { Role::Annotator };
        let token = if args.renew { project.renew(label)? } else { project.invite(label, role)? };
        link(label, &args.url, &token)?;
    }
    Ok(())
}

/// Prints a pseudonym with its link, which is not kept anywhere.
///
/// # Errors
/// Those of standard output.
pub fn link(label: &str, url: &str, token: &str) -> Result<()> {
    output::print(&format!("{label}\t{}/join/{token}\n", url.trim_end_matches('/')))
}

/// Asks people until it is stopped.
///
/// # Errors
/// E1600, E1603, E1608.
pub fn serve(args: &Serve, kind: Kind) -> Result<()> {
    let listen: SocketAddr = args.listen.parse().map_err(|_| {
        Error::input("E1608", format!("\"{}\" is no address with a port", args.listen))
            .at("--listen")
            .help("write it in numbers: 127.0.0.1:8788, or [::1]:8788")
    })?;
    let options = Options {
        public: args.public,
        hosts: args.allow_host.clone(),
        secure: args.behind_tls,
        connections: args.most_connections,
        ..Options::new(listen)
    };
    let project = Project::open_as(&args.project, kind)?;
    if args.public && !args.behind_tls {
        render::warn(
            "what people send can be read on its way: put a proxy that speaks TLS in front, and say \
             --behind-tls",
        );
    }
    let stop = Arc::new(AtomicBool::new(false));
    interrupt::graceful(Arc::clone(&stop));
    let name = project.name.clone();
    let mut ready = |ready: server::Ready| {
        if !output::quiet() {
            output::note(&format!("{name} is open to those who have a link"));
        }
        output::print(&format!("listening on http://{}/\n", ready.address))
    };
    server::serve(project, options, &stop, &mut ready)?;
    if !output::quiet() {
        output::note("stopped; everything that was answered is kept");
    }
    Ok(())
}

fn export(args: &Export) -> Result<()> {
    let project = Project::open_as(&args.project, Kind::Annotate)?;
    let written = project.export(args.format.into(), &args.output, args.lock)?;
    if args.lock && !output::quiet() {
        output::note(&format!("locked: set data.sha256 = \"{}\" for the training", written.sha256));
    }
    let what = if args.format == FormName::Dpo { "pair" } else { "line" };
    let place = args.output.display();
    output::report(&format!("{place} ({})\n", plural(written.lines, what)), &args.output)
}

/// Copies the database.
///
/// # Errors
/// E1600, E1603.
pub fn backup(args: &Backup) -> Result<()> {
    Project::open(&args.project)?.backup(&args.output)?;
    output::print(&format!("{}\n", args.output.display()))
}

fn status(args: &Status) -> Result<()> {
    let project = Project::open_as(&args.project, Kind::Annotate)?;
    if args.json {
        return output::print_json(&project.overview()?);
    }
    let status = project.status()?;
    let percent =
        |value: Option<f64>| value.map_or("n/a".to_owned(), |v| format!("{:.1} %", 100.0 * v));
    let number = |value: Option<f64>| value.map_or("n/a".to_owned(), |v| format!("{v:.3}"));
    let projected = status.projected.map_or("n/a".to_owned(), |count| count.to_string());
    let [[both_a, a_b], [b_a, both_b]] = status.table;
    let mut text = format!(
        "matchups   {} ({} wait for their videos)\ndecided    {} identity, {} prompt\n\
         both       {both_a} A and {both_b} B in both tracks, {} differ\n\
         pairs      {} of {}\nyield      {} of {} complete matchups\n\
         projected  {projected} matchups for the target\n",
        status.matchups,
        status.waiting,
        status.decided[0],
        status.decided[1],
        a_b + b_a,
        status.valid,
        status.target,
        percent(status.yielded),
        status.complete
    );
    for agreement in anyid_preference::quality::agreement(&project)? {
        let interval = agreement
            .interval
            .map_or(String::new(), |[low, high]| format!(" [{low:.3}, {high:.3}]"));
        text.push_str(&format!(
            "{:<10} alpha {}{interval}, equal {}, {}\n",
            agreement.name,
            number(agreement.alpha),
            percent(agreement.raw),
            plural(agreement.items, "item")
        ));
    }
    for report in anyid_preference::quality::reports(&project)? {
        let answers: usize = report.answers.values().sum();
        let void = if report.void { ", left out" } else { "" };
        let flags = match report.flags.is_empty() {
            true => String::new(),
            false => format!(": {}", report.flags.join("; ")),
        };
        text.push_str(&format!(
            "{:<10} {}{void}{flags}\n",
            report.label,
            plural(answers, "answer")
        ));
    }
    for path in project.changed_exports()? {
        render::warn(&format!("{path} was locked, and is not as it was written"));
    }
    output::print(&text)
}
