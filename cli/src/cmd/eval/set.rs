//! `eval check` and `eval cases`: an evaluation set, and the cases that are drawn of it.

use crate::output::{self, plural};
use crate::progress::Progress;
use anyid_runtime::evaluation::cases::{Draw, Prompts, draw, write};
use anyid_runtime::evaluation::identity::Measure;
use anyid_runtime::evaluation::raw::Task;
use anyid_runtime::evaluation::set::{Finding, Gates, Look, Report, Set, check as look};
use anyid_runtime::evaluation::settings::Settings;
use anyid_runtime::safeguards::audit::moment;
use anyid_runtime::study::prompt::lint::Severity;
use anyid_runtime::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::time::SystemTime;

/// A set that is looked at.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --config nothing is said of faces. docs/evaluation.md has the form of a set and a \
table of what is looked at. Exit code 1 where something has to be mended."
)]
pub struct Check {
    /// The folder of the set, with set.json and a folder for each person.
    #[arg(value_name = "DIR")]
    pub set: PathBuf,
    /// Settings (TOML) with what finds faces and tells them apart; needs a program with the feature
    /// `curate`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The people have agreed to be evaluated, in a way that no record says.
    #[arg(long)]
    pub i_have_rights: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A task, as flags write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TaskName {
    /// Prompts that say everything.
    Ipt2v,
    /// Prompts without what the primary reference has to keep.
    Iept2v,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::Ipt2v => Self::Ipt2v,
            TaskName::Iept2v => Self::Iept2v,
        }
    }
}

/// Cases that are drawn.
#[derive(Debug, Args)]
pub struct Cases {
    /// The folder of the set.
    #[arg(long, value_name = "DIR")]
    pub set: PathBuf,
    /// Folder of ipt2v.jsonl and iept2v.jsonl [default: prompts in the set, else the fixed set].
    #[arg(long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
    /// Cases of each task.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub n: usize,
    /// What draws and the seeds of videos depend on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Seeds of each case; its value is the mean over them.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub per_case: usize,
    /// Only this task [default: both].
    #[arg(long, value_enum)]
    pub task: Option<TaskName>,
    /// The file of cases [default: cases.jsonl in the set]. Beside it goes a lock with the hashes of cases
    /// and references.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs `eval check`.
///
/// # Errors
/// E1701 where the set is none or a finding is an error, those of settings and models.
pub fn check(args: &Check) -> Result<()> {
    let set = Set::open(&args.set)?;
    let measure = match &args.config {
        Some(path) => Measure::open(&Settings::open(path)?)?,
        None => None,
    };
    let mut progress = Progress::new();
    progress.part("looking");
    let count = set.people.len() as u64;
    let today = moment(SystemTime::now());
    let rights = args.i_have_rights;
    let report = look(&set, measure.as_ref(), &Gates::default(), &today[..10], rights, &mut |at| {
        progress.update(at as u64, count, || set.people[at].id.clone());
    });
    progress.clear();
    let report = report?;
    let verdict = report.verdict();
    if args.json {
        output::print_json(&json!({
            "people": report.people, "findings": report.findings,
            "not_looked_at": report.not_looked_at, "ok": verdict.is_ok(),
        }))?;
    } else {
        output::print(&text(&report))?;
    }
    verdict
}

fn rows(look: &Look) -> Vec<Vec<String>> {
    let dash = || "-".to_owned();
    let row = |one: &Option<_>| -> Vec<String> {
        let Some(one) = one else { return vec![look.person.clone(), "cannot be read".to_owned()] };
        let anyid_runtime::evaluation::set::Measured { file, clip, size, seconds, .. } = one;
        let [width, height] = size;
        let faces = one.frames[0] > one.frames[1];
        let turned = one.yaw.map(|[low, high]| match clip {
            true => format!("{low:.0}\u{b0} to {high:.0}\u{b0}"),
            false => format!("{low:.0}\u{b0}"),
        });
        vec![
            look.person.clone(),
            file.clone(),
            match clip {
                true => format!("{width}x{height}, {seconds:.1} s"),
                false => format!("{width}x{height}"),
            },
            if faces { format!("{:.0}", one.side) } else { dash() },
            if faces { format!("{:.0}", one.sharpness) } else { dash() },
            turned.unwrap_or_else(dash),
        ]
    };
    look.references.iter().map(row).collect()
}

/// The report for people.
fn text(report: &Report) -> String {
    let head = ["person", "file", "size", "face", "sharpness", "turned"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(report.people.iter().flat_map(rows));
    let mut out = output::plain(&output::table(&table));
    for finding in &report.findings {
        let Finding { code, severity, person, files, message, help } = finding;
        let severity = match severity {
            Severity::Info => "note",
            Severity::Warn => "warning",
            Severity::Error => "error",
        };
        let about = if files.is_empty() { person.clone() } else { files.join(", ") };
        out.push_str(&output::plain(&format!("{severity}[{code}]: {about}: {message}\n")));
        out.push_str(&format!("  help: {help}\n"));
    }
    for what in &report.not_looked_at {
        out.push_str(&format!("not looked at: {what}\n"));
    }
    let found = match report.findings.len() {
        0 => "nothing to mend".to_owned(),
        count => plural(count, "finding"),
    };
    let people = match report.people.len() {
        1 => "1 person".to_owned(),
        count => format!("{count} people"),
    };
    out.push_str(&format!("{people}: {found}\n"));
    out
}

/// Runs `eval cases`.
///
/// # Errors
/// E1701 for the set, E1702 for prompts, E101x.
pub fn cases(args: &Cases) -> Result<()> {
    let set = Set::open(&args.set)?;
    let own = args.set.join("prompts");
    let prompts = match &args.prompts {
        Some(folder) => Prompts::open(folder)?,
        None if own.is_dir() => Prompts::open(&own)?,
        None => Prompts::built_in(),
    };
    let tasks = match args.task {
        Some(task) => vec![task.into()],
        None => Task::ALL.to_vec(),
    };
    let wanted = Draw { count: args.n, seed: args.seed, per_case: args.per_case, tasks };
    let list = draw(&set, &prompts, &wanted)?;
    let path = args.output.clone().unwrap_or_else(|| args.set.join("cases.jsonl"));
    if path.exists() {
        return Err(Error::input("E1016", "there are cases already").at(path.display()).help(
            "give another file (-o), or remove it with its lock: results of it fit no more",
        ));
    }
    write(&path, &list, &args.set)?;
    let rewritten = list.iter().filter(|case| case.rewritten).count();
    if args.json {
        return output::print_json(&json!({
            "cases": list.len(), "rewritten": rewritten, "file": path.display().to_string(),
        }));
    }
    let rewritten = match rewritten {
        0 => String::new(),
        count => format!(", {count} with the pronouns of the person"),
    };
    output::print(&format!("{}{rewritten}: {}\n", plural(list.len(), "case"), path.display()))
}
