//! `verify`: the statement of origin of a result together with its watermark.

use super::{PolicyArgs, layer, watermark, write_down};
use crate::output;
use crate::recipe;
use crate::render::Failure;
use anyid_runtime::Result;
use anyid_runtime::safeguards::output_hash;
use anyid_runtime::safeguards::policy::Policy;
use anyid_runtime::safeguards::signature::read_secret;
use anyid_runtime::safeguards::statement::manifest::description;
use anyid_runtime::safeguards::statement::{self, Mark, Statement, Verdict, agree};
use anyid_runtime::safeguards::watermark::{Detection, Key, Search};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Flags of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// A video, a picture, or a folder of frames.
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// References that it may have been made of.
    #[arg(long = "ref", value_name = "FILE", num_args = 1..)]
    pub references: Vec<PathBuf>,
    /// The key with which hashes of references were salted.
    #[arg(long, value_name = "FILE")]
    pub salt: Option<PathBuf>,
    /// Certificates (PEM) of authorities and signers that are trusted [default: those of the
    /// policy, if it names any].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub trust: Vec<PathBuf>,
    /// A private key of the watermark [default: the published one].
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Look for the watermark at the usual sizes only.
    #[arg(long)]
    pub fast: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The policy in force: it may say whom signatures are trusted of, and what marks frames.
fn policy(args: &Verify) -> Result<Policy> {
    let asked = (!args.trust.is_empty())
        .then(|| layer("--trust", |layer| layer.provenance.trust = Some(args.trust.clone())));
    PolicyArgs::default().joined(asked.into_iter().collect())
}

/// Runs the verb and gives the exit code.
///
/// # Errors
/// E1112 in a program that reads no statements, E1107 for keys and certificates, E08xx for videos.
pub fn run(args: &Verify) -> std::result::Result<u8, Failure> {
    let policy = policy(args)?;
    let trust: Vec<&Path> = policy.provenance.trust.iter().map(PathBuf::as_path).collect();
    let mut found = statement::read(&args.file, &trust)?;
    let key = match &args.key {
        Some(path) => Key::private(&read_secret(path)?),
        None => Key::public(),
    };
    // Frames of a file that was altered may not even be readable.
    let search = if args.fast { Search::Fast } else { Search::Full };
    let seen = match watermark::look(&args.file, &key, search) {
        Err(_) if found.as_ref().is_some_and(|found| !found.faults.is_empty()) => None,
        seen => Some(seen?),
    };
    let mut mark = seen
        .as_ref()
        .filter(|seen| seen.present)
        .map(|seen| Mark { id: seen.payload.map(|payload| format!("{:08x}", payload.id)) });
    // A mark by networks, which only the policy's own find.
    if let (None, Some(model), Some(_)) = (&mark, &policy.watermark_model, &seen) {
        let read = watermark::look_by_networks(&args.file, model)?;
        mark = read.payload.map(|payload| Mark { id: Some(format!("{:08x}", payload.id)) });
    }
    if let (Some(found), Some(mark)) = (&mut found, &mark)
        && agree(found, mark) == Some(false)
    {
        found.faults.push("the watermark is that of another result".to_owned());
    }
    let verdict = Verdict::of(found.as_ref(), mark.as_ref());
    let matches = matched(args, found.as_ref())?;
    let id = mark.as_ref().and_then(|mark| mark.id.clone());
    let record = json!({
        "output_sha256": output_hash(&args.file)?, "watermark_id": id, "verdict": verdict.name(),
    });
    write_down("verify", record)?;
    let same = found.as_ref().zip(mark.as_ref()).and_then(|(found, mark)| agree(found, mark));
    match args.json {
        true => output::print_json(&json!({
            "verdict": verdict.name(),
            "words": verdict.words(),
            "statement": found.as_ref().map(Statement::to_json),
            "references": matches,
            "watermark": seen.as_ref().map(watermark::json),
            "watermark_is_stated": same,
        }))?,
        false => output::print(&text(&verdict, found.as_ref(), seen.as_ref(), &matches))?,
    }
    Ok(verdict.exit())
}

/// Which of the given files are among the ingredients, each with the title of its own.
fn matched(args: &Verify, found: Option<&Statement>) -> Result<Vec<Value>> {
    let salt = args.salt.as_deref().map(read_secret).transpose()?;
    let ingredients = found.map_or(&[][..], |found| &found.ingredients);
    let each = args.references.iter().map(|path| {
        let said = description(&recipe::hashed(path)?.sha256, salt.as_ref());
        let title = ingredients.iter().find(|(_, stated)| *stated == said).map(|(title, _)| title);
        Ok(json!({ "path": path.display().to_string(), "is": title }))
    });
    each.collect()
}

fn text(
    verdict: &Verdict,
    found: Option<&Statement>,
    seen: Option<&Detection>,
    matches: &[Value],
) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, what: String| rows.push([name.to_owned(), what]);
    if let Some(found) = found {
        for fault in &found.faults {
            row("fault", fault.clone());
        }
        if !found.signer.is_empty() {
            row("signer", format!("{} ({})", found.signer, found.issuer));
        }
        row(
            "vouched for",
            match found.trusted {
                Some(true) => "yes, by an authority that is trusted",
                Some(false) => "no",
                None => "nobody was asked (--trust): everybody can make such a key",
            }
            .to_owned(),
        );
        if let Some(time) = &found.time {
            row("time", time.clone());
        }
        row("actions", found.actions.join(", "));
        for (title, description) in &found.ingredients {
            let is = |m: &&Value| m["is"] == title.as_str();
            let of = matches.iter().find(is).and_then(|m| m["path"].as_str());
            let of = of.map_or(String::new(), |path| format!(" = {path}"));
            row(title, format!("{description}{of}"));
        }
        let off = found.policy["off"].as_array().into_iter().flatten();
        let off: Vec<&str> = off.filter_map(Value::as_str).collect();
        row("off", if off.is_empty() { "nothing".to_owned() } else { off.join(", ") });
    }
    for other in matches.iter().filter(|m| m["is"].is_null()) {
        row("not a reference", other["path"].as_str().unwrap_or_default().to_owned());
    }
    let seen = seen.map_or("the frames cannot be read\n".to_owned(), watermark::text);
    let rows: String = rows.iter().map(|[name, what]| format!("{name:<24}{what}\n")).collect();
    format!("{}\n{rows}{seen}", verdict.words())
}
