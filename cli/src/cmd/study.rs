//! `study`: people compare systems without knowing which is which, and rates come of it.

use crate::cmd::annotate::{self, BASE, Backup, Invite, Serve};
use crate::output::{self, plural};
use crate::progress::Progress;
use crate::render::{self, Failure};
use anyid_preference::study::{self, Cases, System};
use anyid_preference::{Kind, Project, Settings, rates};
use anyid_runtime::files::{AtomicFile, make_folder};
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The verbs of `study`.
#[derive(Debug, Subcommand)]
pub enum StudyVerb {
    /// Make a study out of cases and the videos that systems made of them; print a link for each
    /// participant.
    Init(Init),
    /// Let in somebody who oversees the study, or give a new link.
    Invite(Invite),
    /// Ask people in a browser.
    Serve(Serve),
    /// Say how often ours was preferred: tables and a chart.
    Report(Report),
    /// Delete everything that a participant answered.
    Withdraw(Withdraw),
    /// Copy the database of a study, while it is in use.
    Backup(Backup),
}

impl StudyVerb {
    /// Whether the result is wanted as JSON.
    pub fn wants_json(&self) -> bool {
        matches!(self, Self::Report(Report { json: true, .. }))
    }
}

/// Flags of `study init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Folder of the study, which is made.
    pub project: PathBuf,
    /// File of cases (`anyid.case/1`).
    #[arg(long, value_name = "FILE")]
    pub cases: PathBuf,
    /// Where paths of references start [default: the folder of the cases].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// A system: its name and the folder of its videos, called after their cases or named in a table
    /// with case and path; may be given several times.
    #[arg(long = "system", value_name = "NAME=DIR[,TABLE]", required = true)]
    pub systems: Vec<String>,
    /// The system that is compared with each other one.
    #[arg(long, value_name = "NAME")]
    pub ours: String,
    /// People.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub participants: usize,
    /// Matchups of each.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub matchups: usize,
    /// Folder of consent records that allow studies; may be given several times.
    #[arg(long, value_name = "DIR", required_unless_present = "i_have_rights")]
    pub consent: Vec<PathBuf>,
    /// The people in the references have agreed to be shown, in a way that no record says.
    #[arg(long, conflicts_with = "consent")]
    pub i_have_rights: bool,
    /// Whom participants can ask.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub contact: String,
    /// What links begin with.
    #[arg(long, value_name = "URL", default_value = BASE)]
    pub url: String,
}

/// Flags of `study report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Folder of the study.
    pub project: PathBuf,
    /// Folder for report.md, report.csv and report.svg [default: print the table].
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `study withdraw`.
#[derive(Debug, Args)]
pub struct Withdraw {
    /// Folder of the study.
    pub project: PathBuf,
    /// The code of the participant's last page.
    pub code: String,
}

/// Runs the verb.
///
/// # Errors
/// E160x; see `docs/annotate.md`.
pub fn run(verb: StudyVerb) -> std::result::Result<(), Failure> {
    match verb {
        StudyVerb::Init(args) => init(&args)?,
        StudyVerb::Invite(args) => {
            if !args.admin && !args.renew && !args.revoke {
                return Err(Error::input(
                    "E0900",
                    "participants get their links from `study init`",
                )
                .at("study invite")
                .help("let in who oversees it with --admin, or renew a link with --renew")
                .into());
            }
            annotate::invite(&args, Kind::Study)?;
        }
        StudyVerb::Serve(args) => annotate::serve(&args, Kind::Study)?,
        StudyVerb::Report(args) => report(&args)?,
        StudyVerb::Withdraw(args) => {
            Project::open_as(&args.project, Kind::Study)?.withdraw(&args.code)?;
            output::print("deleted\n")?;
        }
        StudyVerb::Backup(args) => annotate::backup(&args)?,
    }
    Ok(())
}

/// A system from `NAME=DIR[,TABLE]`.
fn system(text: &str) -> Result<System> {
    let parsed = text.split_once('=').filter(|(name, rest)| !name.is_empty() && !rest.is_empty());
    let (name, rest) = parsed.ok_or_else(|| {
        Error::input("E1605", format!("\"{text}\" is no system"))
            .at("--system")
            .help("write it as NAME=DIR, or NAME=DIR,map.csv")
    })?;
    let (folder, map) = match rest.split_once(',') {
        Some((folder, map)) => (folder, Some(PathBuf::from(map))),
        None => (rest, None),
    };
    Ok(System { name: name.to_owned(), folder: folder.into(), map })
}

fn init(args: &Init) -> Result<()> {
    let cases = Cases {
        file: args.cases.clone(),
        root: args.root.clone(),
        systems: args.systems.iter().map(|text| system(text)).collect::<Result<_>>()?,
        ours: args.ours.clone(),
        consent: (!args.i_have_rights).then(|| args.consent.clone()),
    };
    let settings = Settings { contact: args.contact.clone(), ..Settings::of(Kind::Study) };
    let project = Project::create(&args.project, Kind::Study, &settings)?;
    let mut progress = Progress::new();
    progress.part("cases");
    let mut tell = |done: usize, all: usize| {
        progress.update(done as u64, all as u64, || plural(done, "case"));
    };
    let taken = study::take(&project, &cases, &mut tell);
    progress.clear();
    let done = taken.inspect_err(|_| {
        // Nothing of it is of use, and the same command shall work when the fault is mended.
        let _ = std::fs::remove_dir_all(&args.project);
    })?;
    annotate::imported(&done, &args.project, "case")?;
    if done.waiting > 0 {
        let missing = plural(done.waiting, "video");
        render::warn(&format!("{missing} of systems are missing: those cases are not compared"));
    }
    for one in study::invite(&project, args.participants, args.matchups)? {
        annotate::link(&one.label, &args.url, &one.token)?;
    }
    if !output::quiet() {
        let file = args.project.join(study::INSTRUCTIONS);
        let matchups = plural(done.added, "matchup");
        output::note(&format!("{matchups}; what participants read is in {}", file.display()));
    }
    Ok(())
}

fn report(args: &Report) -> Result<()> {
    let project = Project::open_as(&args.project, Kind::Study)?;
    let result = study::report(&project, rates::RESAMPLINGS)?;
    if let Some(folder) = &args.output {
        make_folder(folder)?;
        let files = [
            ("report.md", result.markdown()),
            ("report.csv", result.csv()),
            ("report.svg", result.svg()),
        ];
        for (name, text) in files {
            let mut file = AtomicFile::create(folder.join(name))?;
            file.append(text.as_bytes())?;
            file.commit()?;
        }
    }
    match (args.json, &args.output) {
        (true, _) => output::print_json(&result.json()),
        (false, None) => output::print(&result.markdown()),
        (false, Some(folder)) => output::print(&format!("{}\n", folder.display())),
    }
}
