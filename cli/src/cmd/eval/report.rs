//! `eval report`, `eval diff` and `eval gate`: what a run came to, alone and beside another.

use crate::output::{self, plural};
use crate::render;
use anyid_runtime::evaluation::diff::{Diff, Row, diff as compared};
use anyid_runtime::evaluation::gate::{Check, Least, gate as checked, to_json};
use anyid_runtime::evaluation::raw::Results;
use anyid_runtime::evaluation::report::{Options, write};
use anyid_runtime::evaluation::statistics::RESAMPLINGS;
use anyid_runtime::evaluation::systems::System;
use anyid_runtime::{Error, Result};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// A page about a run.
#[derive(Debug, Args)]
#[command(
    after_help = "The page needs nothing outside of itself but the videos of --embed-links. Faces are shown only \
of people whose consent covers results; those of all others are blurred."
)]
pub struct Report {
    /// The folder of a run.
    #[arg(value_name = "DIR")]
    pub run: PathBuf,
    /// Where the videos of a system are, as for `eval run`: frames of them are shown; may be given several
    /// times.
    #[arg(long = "system", value_name = "NAME=DIR[,TABLE]")]
    pub systems: Vec<String>,
    /// The evaluation set, whose records of consent say whose faces may be shown.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Link the videos of every case, of people who agreed, with players.
    #[arg(long, requires = "systems")]
    pub embed_links: bool,
    /// A run of the same videos with another number of frames, to say how much that changes.
    #[arg(long, value_name = "DIR")]
    pub sampling: Option<PathBuf>,
    /// What people said of the videos: a table with system, case, metric and score.
    #[arg(long, value_name = "FILE")]
    pub judge_agreement: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Two runs that are compared.
#[derive(Debug, Args)]
pub struct Compare {
    /// The folder of the first run.
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// The folder of the second run.
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A run that must not be worse than another.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1 where a metric has lost more than it may, where a case is missing that the baseline \
has, or where something that is asked for cannot be compared."
)]
pub struct Gate {
    /// The folder of the run.
    #[arg(value_name = "DIR")]
    pub run: PathBuf,
    /// The folder of the run that it must not be worse than.
    #[arg(long, value_name = "DIR")]
    pub baseline: PathBuf,
    /// By how much a metric has to differ at least, such as holi_arc=-0.5; may be given several times.
    #[arg(long = "min", value_name = "METRIC=POINTS", allow_hyphen_values = true)]
    pub least: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs `eval report`.
///
/// # Errors
/// E1703, E1704, E1708, those of decoding, E101x.
pub fn report(args: &Report) -> Result<()> {
    let systems =
        args.systems.iter().map(|text| System::parse(text)).collect::<Result<Vec<_>>>()?;
    let results = Results::open(&args.run)?;
    let options = Options {
        root: args.root.clone().unwrap_or_default(),
        systems,
        embed_links: args.embed_links,
        sampling: args.sampling.clone(),
        people: args.judge_agreement.clone(),
    };
    let page = write(&results, &options)?;
    match args.json {
        true => output::print_json(&json!({ "report": page.display().to_string() })),
        false => output::print(&format!("{}\n", page.display())),
    }
}

/// A row of a comparison.
fn cells(row: &Row) -> Vec<String> {
    let system = match row.system == row.other {
        true => row.system.clone(),
        false => format!("{} to {}", row.system, row.other),
    };
    let interval =
        row.pair.interval.map_or("-".to_owned(), |[low, high]| format!("{low:+.2} to {high:+.2}"));
    vec![
        system,
        row.task.name().to_owned(),
        row.metric.title().to_owned(),
        format!("{:+.2}", row.pair.difference),
        interval,
        row.pair.wilcoxon.map_or("-".to_owned(), |test| format!("{:.4}", test.p)),
        row.pair.holm.map_or("-".to_owned(), |p| format!("{p:.4}")),
        row.pair.n.to_string(),
    ]
}

const HEAD: [&str; 8] =
    ["system", "task", "metric", "difference", "95 % interval", "p", "Holm", "n"];

/// Runs `eval diff`.
///
/// # Errors
/// E1704, E1708.
pub fn diff(args: &Compare) -> Result<()> {
    let [before, after] = [&args.before, &args.after].map(|folder| Results::open(folder));
    let found: Diff = compared(&before?, &after?, RESAMPLINGS)?;
    if args.json {
        return output::print_json(&found.json());
    }
    for (metric, why) in &found.left_out {
        render::warn(&format!("{} is left out: {why}", metric.title()));
    }
    let mut table = vec![HEAD.map(str::to_owned).to_vec()];
    table.extend(found.rows.iter().map(cells));
    output::print(&output::plain(&output::table(&table)))
}

/// Runs `eval gate`.
///
/// # Errors
/// E1704, E1706, E1708, E1709 where the run is worse than it may be.
pub fn gate(args: &Gate) -> Result<()> {
    let least = args.least.iter().map(|text| Least::parse(text)).collect::<Result<Vec<_>>>()?;
    let (baseline, run) = (Results::open(&args.baseline)?, Results::open(&args.run)?);
    let checks = checked(&baseline, &run, &least, RESAMPLINGS)?;
    if args.json {
        output::print_json(&to_json(&checks))?;
    } else {
        let mut head = HEAD.map(str::to_owned).to_vec();
        head.extend(["least", "lost", ""].map(str::to_owned));
        let mut table = vec![head];
        table.extend(checks.iter().map(|check| {
            let mut row = cells(&check.row);
            let verdict = if check.passes() { "passes" } else { "fails" };
            row.extend([
                format!("{:+.2}", check.least),
                check.lost.to_string(),
                verdict.to_owned(),
            ]);
            row
        }));
        output::print(&output::plain(&output::table(&table)))?;
    }
    let fails = checks.iter().filter(|check: &&Check| !check.passes()).count();
    match fails {
        0 => Ok(()),
        count => {
            Err(Error::input("E1709", format!("{} worse than allowed", plural(count, "number")))
                .at(args.run.display())
                .help("see which ones are marked in the table, or allow more (--min)"))
        }
    }
}
