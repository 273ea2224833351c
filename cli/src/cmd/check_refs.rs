//! `check refs`: whether references of a person are any good, before a run takes them. The library looks
//! at them; here are flags and what is printed.

use crate::cmd::size;
use crate::output::{self, plural};
use crate::progress::Progress;
use anyid_runtime::Result;
use anyid_runtime::study::detect::Source;
use anyid_runtime::study::doctor::{Finding, Looked, Options, Report, Severity, examine, verdict};
use anyid_runtime::study::settings::{DetectSettings, FaceModel, FilterSettings};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// References that are looked at.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --mtcnn or --detections nothing is said of faces. docs/generating.md has a \
table of what is looked at. Exit code 1 where something has to be mended."
)]
pub struct Refs {
    /// Pictures and clips of the person, as `generate --ref` takes them; the first is the primary one.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Width and height of the video that they are for: faces are measured in it.
    #[arg(long, value_name = "WxH", default_value = "1280x704", allow_hyphen_values = true)]
    pub size: String,
    /// Folder with the networks of MTCNN, which find faces; needs a program with the feature `curate`.
    #[arg(long, value_name = "DIR", conflicts_with = "detections")]
    pub mtcnn: Option<PathBuf>,
    /// Faces that another program has found: lines anyid.boxes/1, about the files by path or by name.
    #[arg(long, value_name = "FILE")]
    pub detections: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// E0901 for the size, E1202, E1208 and E1209 for what finds faces, E1222 where a finding is an error.
pub fn run(args: &Refs) -> Result<()> {
    let size = size(&args.size)?;
    let face = args.mtcnn.clone().map(FaceModel::mtcnn);
    let given = args.detections.clone();
    let wanted = face.is_some() || given.is_some();
    let settings = DetectSettings { face, given, ..DetectSettings::default() };
    let source = wanted.then(|| Source::open(&settings)).transpose()?;
    let options = Options { size, faces: source.as_ref(), gates: FilterSettings::default() };
    let mut progress = Progress::new();
    progress.part("looking");
    let (count, files) = (args.files.len() as u64, &args.files);
    let report = examine(files, &options, &mut |at| {
        let name = files[at].file_name().unwrap_or_default().to_string_lossy().into_owned();
        progress.update(at as u64, count, || name);
    });
    progress.clear();
    let report = report?;
    let verdict = verdict(&report);
    if args.json {
        output::print_json(&json!({
            "size": size, "references": report.references, "findings": report.findings,
            "not_looked_at": report.not_looked_at, "ok": verdict.is_ok(),
        }))?;
    } else {
        output::print(&text(&report))?;
    }
    verdict
}

/// A row of the table.
fn row(number: usize, looked: &Looked) -> Vec<String> {
    let Looked { width, height, seconds, .. } = looked;
    let what = match looked.kind {
        "clip" => format!("{width}x{height}, {seconds:.2} s"),
        _ => format!("{width}x{height}"),
    };
    let faces = looked.faces.as_ref();
    let side = faces.filter(|faces| faces.without < faces.frames);
    let yaw =
        faces.and_then(|faces| faces.yaw).map(|[low, high]| match low.round() == high.round() {
            true => format!("{low:.0}\u{b0}"),
            false => format!("{low:.0}\u{b0} to {high:.0}\u{b0}"),
        });
    let dash = || "-".to_owned();
    vec![
        number.to_string(),
        looked.form.unwrap_or(looked.kind).to_owned(),
        what,
        looked.latent_frames.to_string(),
        format!("{:.0}", faces.map_or(looked.sharpness, |faces| faces.sharpness)),
        side.map_or_else(dash, |faces| format!("{:.0}", faces.side)),
        yaw.unwrap_or_else(dash),
        looked.file.clone(),
    ]
}

/// The report for people.
fn text(report: &Report) -> String {
    let head = ["", "form", "size", "latent frames", "sharpness", "face", "turned", "file"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (at, looked) in report.references.iter().enumerate() {
        match looked {
            Some(looked) => rows.push(row(at + 1, looked)),
            None => rows.push(vec![(at + 1).to_string(), "cannot be read".to_owned()]),
        }
    }
    let mut out = output::plain(&output::table(&rows));
    for finding in &report.findings {
        let Finding { code, severity, message, help, .. } = finding;
        let severity = match severity {
            Severity::Info => "note",
            Severity::Warn => "warning",
            Severity::Error => "error",
        };
        out.push_str(&format!("{severity}[{code}]: {}\n", output::plain(message)));
        out.push_str(&format!("  help: {help}\n"));
    }
    for what in &report.not_looked_at {
        out.push_str(&format!("not looked at: {what}\n"));
    }
    let found = match report.findings.len() {
        0 => "nothing to mend".to_owned(),
        count => plural(count, "finding"),
    };
    let references = plural(report.references.len(), "reference");
    out.push_str(&format!("{references}: {found}\n"));
    out
}
