//! `prompt`: prompts that say what changes, written, read and checked without a model.

use crate::output;
use crate::render::Failure;
use anyid_runtime::study::prompt::aspects::{self, Aspects};
use anyid_runtime::study::prompt::cache::{Cache, Mode};
use anyid_runtime::study::prompt::calibrate;
use anyid_runtime::study::prompt::differ::Difference;
use anyid_runtime::study::prompt::elements::Element;
use anyid_runtime::study::prompt::lint::{Context, Severity, lint, verdict};
#[cfg(feature = "judge")]
use anyid_runtime::study::prompt::profile::Profile;
use anyid_runtime::study::prompt::similarity::{Similarity, scores};
use anyid_runtime::study::prompt::style::{self, Style};
#[cfg(feature = "judge")]
use anyid_runtime::study::settings::Settings;
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is done with prompts.
#[derive(Debug, Subcommand)]
pub enum PromptVerb {
    /// Say what is wrong with a prompt, with places and suggestions.
    Lint(Lint),
    /// Write the prompt that says what a target has other than a reference.
    Diff(Diff),
    /// Write a prompt from an aspects file.
    Make(Make),
    /// Read the elements out of a prompt of any style.
    Parse(Parse),
    /// Have a server describe the clips of a folder of results.
    Describe(Ask),
    /// Have a server compare the clips of each group.
    Compare(Ask),
    /// Say how well a comparison tells what people say has changed.
    Calibrate(Calibrate),
    /// Count, thin out or write out the answers that are kept.
    #[command(subcommand)]
    Cache(CacheVerb),
}

/// How a prompt is written.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum StyleName {
    /// Sentences alone.
    #[default]
    Plain,
    /// `[shot] …` on one line.
    Tagged,
    /// `1. [shot] …`, a line each.
    Numbered,
    /// `ShotType: …` on one line.
    Labelled,
}

impl From<StyleName> for Style {
    fn from(name: StyleName) -> Self {
        match name {
            StyleName::Plain => Self::Plain,
            StyleName::Tagged => Self::Tagged,
            StyleName::Numbered => Self::Numbered,
            StyleName::Labelled => Self::Labelled,
        }
    }
}

/// The form of the primary reference.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum FormName {
    /// One frame, the face: it shows neither clothes nor place.
    Face,
    /// One frame, the person.
    #[default]
    Portrait,
    /// Several frames.
    Video,
}

impl FormName {
    fn name(self) -> &'static str {
        match self {
            Self::Face => "face",
            Self::Portrait => "portrait",
            Self::Video => "video",
        }
    }
}

/// How texts are compared.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum SimilarityName {
    /// What the target's file lists under `keep` stays; all else changes.
    Manual,
    /// The same text or another.
    Exact,
    /// By the words that both have.
    #[default]
    Lexical,
}

/// A prompt that is looked at.
#[derive(Debug, Args)]
pub struct Lint {
    /// The prompt.
    #[arg(value_name = "TEXT")]
    pub text: String,
    /// What the primary reference shows: its aspects file, or the picture or clip that one lies beside.
    #[arg(long = "ref", visible_alias = "aspects", value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// The form of the primary reference.
    #[arg(long, value_enum, default_value_t)]
    pub form: FormName,
    /// A name or word of yours that says who it is; may be given several times.
    #[arg(long = "name", value_name = "WORD")]
    pub names: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Two clips that are compared.
#[derive(Debug, Args)]
pub struct Diff {
    /// The aspects file of the primary reference.
    #[arg(long = "ref", value_name = "FILE")]
    pub reference: PathBuf,
    /// The aspects file of the target.
    #[arg(long, value_name = "FILE")]
    pub target: PathBuf,
    /// How texts are compared.
    #[arg(long, value_enum, default_value_t)]
    pub similarity: SimilarityName,
    /// Elements more alike than this are not said.
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    pub gamma: f64,
    /// The form of the primary reference.
    #[arg(long, value_enum, default_value_t)]
    pub form: FormName,
    /// How the prompt is written.
    #[arg(long, value_enum, default_value_t)]
    pub style: StyleName,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A prompt that is written.
#[derive(Debug, Args)]
pub struct Make {
    /// The aspects file, or the picture or clip that one lies beside.
    #[arg(value_name = "FILE")]
    pub aspects: PathBuf,
    /// How the prompt is written.
    #[arg(long, value_enum, default_value_t)]
    pub style: StyleName,
}

/// A prompt that is read.
#[derive(Debug, Args)]
pub struct Parse {
    /// The prompt.
    #[arg(value_name = "TEXT")]
    pub text: String,
}

/// What is asked of a server, and where results are.
#[derive(Debug, Args)]
// A program without `judge` knows the flags and refuses the verb.
#[cfg_attr(not(feature = "judge"), allow(dead_code))]
pub struct Ask {
    /// The folder of the videos.
    #[arg(long = "in", value_name = "DIR")]
    pub input: PathBuf,
    /// The folder of results of `data`.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Settings (TOML) with tables `llm` and `prompt`.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What is done with answers that are kept in OUT/cache.
    #[arg(long, value_enum, default_value_t)]
    pub cache: CacheName,
    /// Say what would be sent at most, and send nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Stop when so much is spent, in the currency of the profile.
    #[arg(long, value_name = "X")]
    pub max_cost: Option<f64>,
    /// Pictures may leave this machine.
    #[arg(long)]
    pub yes: bool,
    /// Send to a server without TLS outside of this machine.
    #[arg(long)]
    pub insecure_http: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is done with answers that are kept.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum CacheName {
    /// They are used and written.
    #[default]
    Rw,
    /// They are used, and nothing is asked that is not there.
    Ro,
    /// They are left alone.
    Off,
}

/// A comparison that is measured.
#[derive(Debug, Args)]
// As above.
#[cfg_attr(not(feature = "judge"), allow(dead_code))]
pub struct Calibrate {
    /// Pairs of descriptions, each with what has changed, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub gold: PathBuf,
    /// Settings (TOML) whose server compares; without them, words are compared.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where answers of the server are kept.
    #[arg(long, value_name = "DIR", requires = "config")]
    pub out: Option<PathBuf>,
    /// How texts are compared without a server.
    #[arg(long, value_enum, default_value_t, conflicts_with = "config")]
    pub similarity: SimilarityName,
    /// The γ that is measured.
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    pub gamma: f64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is done with the answers that a folder of results keeps.
#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// Say how many there are.
    Stats(Kept),
    /// Remove those that are damaged, and those that are old.
    Prune(Prune),
    /// Write them into one file, a line each.
    Export(Export),
}

/// Where answers are kept.
#[derive(Debug, Args)]
pub struct Kept {
    /// The folder of results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which answers are removed.
#[derive(Debug, Args)]
pub struct Prune {
    /// Where they are.
    #[command(flatten)]
    pub kept: Kept,
    /// Remove those that are older than this.
    #[arg(long, value_name = "DAYS")]
    pub older: Option<f64>,
}

/// Where answers are written.
#[derive(Debug, Args)]
pub struct Export {
    /// Where they are.
    #[command(flatten)]
    pub kept: Kept,
    /// The file that is written.
    #[arg(long, value_name = "FILE")]
    pub into: PathBuf,
}

impl PromptVerb {
    /// Whether JSON is printed.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Lint(args) => args.json,
            Self::Diff(args) => args.json,
            Self::Make(_) => false,
            Self::Parse(_) => true,
            Self::Describe(args) | Self::Compare(args) => args.json,
            Self::Calibrate(args) => args.json,
            Self::Cache(CacheVerb::Stats(kept)) => kept.json,
            Self::Cache(CacheVerb::Prune(args)) => args.kept.json,
            Self::Cache(CacheVerb::Export(args)) => args.kept.json,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// E1220 for a faulty aspects file, E1221 for a prompt with errors, E0911.
pub fn run(verb: PromptVerb) -> std::result::Result<(), Failure> {
    match verb {
        PromptVerb::Lint(args) => linted(&args)?,
        PromptVerb::Diff(args) => diff(&args)?,
        PromptVerb::Make(args) => {
            let aspects = aspects_of(&args.aspects)?;
            let prompt = style::write(&aspects.elements, args.style.into());
            output::print(&format!("{prompt}\n"))?;
        }
        PromptVerb::Parse(args) => output::print_json(&json!(style::read(&args.text)))?,
        PromptVerb::Describe(args) => asked(&args, true)?,
        PromptVerb::Compare(args) => asked(&args, false)?,
        PromptVerb::Calibrate(args) => calibrated(&args)?,
        PromptVerb::Cache(verb) => kept(&verb)?,
    }
    Ok(())
}

/// The aspects of a file of them, or of the picture or clip that one lies beside.
fn aspects_of(path: &Path) -> Result<Aspects> {
    let own = path.extension().is_some_and(|ending| ending == "toml");
    match aspects::beside(path).filter(|_| !own) {
        Some(beside) => aspects::read(&beside),
        None if own => aspects::read(path),
        None => Err(Error::input("E1220", "no aspects file lies beside it")
            .at(path.display())
            .help("write what it shows into NAME.aspects.toml beside it")),
    }
}

fn linted(args: &Lint) -> Result<()> {
    let known = args.reference.as_deref().map(aspects_of).transpose()?;
    let context = Context {
        primary: known.as_ref().map(|aspects| &aspects.elements),
        pronoun: known.as_ref().and_then(|aspects| aspects.pronoun.as_deref()),
        form: Some(args.form.name()),
        gamma: 0.8,
        names: &args.names,
    };
    let found = lint(&args.text, None, &context);
    if args.json {
        output::print_json(&json!({"findings": found}))?;
    } else {
        let mut text = String::new();
        for finding in &found {
            let severity = match finding.severity {
                Severity::Info => "note",
                Severity::Warn => "warning",
                Severity::Error => "error",
            };
            text.push_str(&format!("{severity}[{}]: {}\n", finding.code, finding.message));
            if !finding.span.is_empty() {
                let part = &args.text[finding.span.clone()];
                let column = args.text[..finding.span.start].chars().count() + 1;
                text.push_str(&format!("  --> column {column}: {part}\n"));
            }
            text.push_str(&format!("  help: {}\n", finding.help));
        }
        output::print(&text)?;
    }
    verdict(&found)
}

fn diff(args: &Diff) -> Result<()> {
    let reference = aspects_of(&args.reference)?;
    let target = aspects_of(&args.target)?;
    let scores = match args.similarity {
        SimilarityName::Manual => {
            Element::ALL.map(|element| Some(f64::from(u8::from(target.keep.contains(&element)))))
        }
        SimilarityName::Exact => scores(&reference.elements, &target.elements, Similarity::Exact),
        SimilarityName::Lexical => {
            scores(&reference.elements, &target.elements, Similarity::Lexical)
        }
    };
    let difference = Difference {
        target: &target.elements,
        scores: &scores,
        form: args.form.name(),
        gamma: args.gamma,
        style: args.style.into(),
        full: false,
    };
    let Some(found) = difference.prompt() else {
        return Err(Error::input("E1220", "the target says nothing that can be seen")
            .at(args.target.display())
            .help("say at least what the person does (action)"));
    };
    if args.json {
        return output::print_json(&json!({"prompt": found.prompt, "elements": found.table}));
    }
    if found.unchanged {
        output::note("warning: nothing changes, so the action is said all the same");
    }
    output::print(&format!("{}\n", found.prompt))
}

fn kept(verb: &CacheVerb) -> Result<()> {
    let of = |kept: &Kept| Cache::new(&kept.out.join("cache"), Mode::ReadOnly);
    let (kept, word, counted) = match verb {
        CacheVerb::Stats(kept) => (kept, "kept", of(kept).count()),
        CacheVerb::Prune(Prune { kept, older }) => {
            let age = older.map(|days| Duration::try_from_secs_f64(days * 86_400.0));
            let age = age.transpose().map_err(|_| {
                Error::input("E0900", "--older is a number of days, 0 or more").at("--older")
            })?;
            (kept, "removed", of(kept).prune(age)?)
        }
        CacheVerb::Export(Export { kept, into }) => {
            let count = of(kept).export(into)?;
            if kept.json {
                let file = into.display().to_string();
                return output::print_json(&json!({"entries": count, "file": file}));
            }
            return output::print(&format!("{count} answers: {}\n", into.display()));
        }
    };
    if kept.json {
        return output::print_json(&json!(counted));
    }
    output::print(&format!("{} answers {word}, {} bytes\n", counted.entries, counted.bytes))
}

fn calibrated(args: &Calibrate) -> Result<()> {
    let pairs = calibrate::read(&args.gold)?;
    let found: Vec<[Option<f64>; 7]> = match &args.config {
        Some(config) => compared_by_server(args, config, &pairs)?,
        None => {
            let how = match args.similarity {
                SimilarityName::Exact => Similarity::Exact,
                SimilarityName::Lexical => Similarity::Lexical,
                SimilarityName::Manual => {
                    return Err(Error::input("E0900", "nothing is compared with manual")
                        .at("--similarity")
                        .help("give lexical or exact, or a server (--config)"));
                }
            };
            pairs.iter().map(|pair| scores(&pair.reference, &pair.target, how)).collect()
        }
    };
    let report = calibrate::measured(&pairs, &found, args.gamma);
    if args.json {
        return output::print_json(&report);
    }
    let number = |value: &serde_json::Value| match value.as_f64() {
        Some(number) => format!("{number:.3}"),
        None => "-".to_owned(),
    };
    let mut text = format!("{:<12}{:>10}{:>10}{:>10}\n", "", "precision", "recall", "F1");
    let rows = report["elements"].as_object().into_iter().flatten();
    for (name, own) in rows.map(|(name, own)| (name.as_str(), own)).chain([("all", &report["all"])])
    {
        let [a, b, c] = ["precision", "recall", "f1"].map(|key| number(&own[key]));
        text.push_str(&format!("{name:<12}{a:>10}{b:>10}{c:>10}\n"));
    }
    let best = [&report["best"]["gamma"], &report["best"]["f1"]].map(number);
    text.push_str(&format!("best: γ {} with F1 {}\n", best[0], best[1]));
    output::print(&text)
}

/// That calls of servers are not in this program.
#[cfg(not(feature = "judge"))]
pub fn no_servers(config: &Path) -> Error {
    Error::input("E1209", "this program was built without calls of servers")
        .at(config.display())
        .help("build it with --features judge, or write NAME.aspects.toml beside the videos")
}

#[cfg(not(feature = "judge"))]
fn asked(args: &Ask, _: bool) -> Result<()> {
    Err(no_servers(&args.config))
}

#[cfg(not(feature = "judge"))]
fn compared_by_server(
    _: &Calibrate,
    config: &Path,
    _: &[calibrate::Pair],
) -> Result<Vec<[Option<f64>; 7]>> {
    Err(no_servers(config))
}

#[cfg(feature = "judge")]
fn compared_by_server(
    args: &Calibrate,
    config: &Path,
    pairs: &[calibrate::Pair],
) -> Result<Vec<[Option<f64>; 7]>> {
    use anyid_runtime::study::prompt::server::{client::Server, scores};
    let profile = profile(config, |settings| settings.prompt.compare.clone(), "prompt.compare")?;
    let mode = if args.out.is_some() { Mode::ReadWrite } else { Mode::Off };
    let cache = args.out.clone().unwrap_or_default().join("cache");
    let variable = |name: &str| std::env::var(name).ok();
    let server = Server::open(&profile, &cache, mode, false, None, &variable)?;
    let texts: Vec<_> = pairs.iter().map(|pair| (&pair.reference, &pair.target)).collect();
    scores(&texts, &server, profile.concurrency)
}

/// The server that a file of settings names.
#[cfg(feature = "judge")]
pub fn profile(
    config: &Path,
    named: impl Fn(&Settings) -> Option<String>,
    key: &str,
) -> Result<Profile> {
    let settings = Settings::open(config)?;
    let profile = named(&settings).and_then(|name| settings.llm.get(&name).cloned());
    profile.ok_or_else(|| {
        Error::input("E1201", format!("{key} names no server"))
            .at(config.display())
            .help("add [llm.NAME] with base_url and model, and the name to [prompt]")
    })
}

/// Has a server describe or compare.
#[cfg(feature = "judge")]
fn asked(args: &Ask, describes: bool) -> Result<()> {
    use anyid_runtime::study::prompt::server::client::Server;
    use anyid_runtime::study::prompt::server::{
        allowed, compare, compare_estimate, describe, describe_estimate,
    };
    let settings = Settings::open(&args.config)?;
    let profile = match describes {
        true => profile(&args.config, |own| own.prompt.describe.clone(), "prompt.describe")?,
        false => profile(&args.config, |own| own.prompt.compare.clone(), "prompt.compare")?,
    };
    let mode = match args.cache {
        CacheName::Rw => Mode::ReadWrite,
        CacheName::Ro => Mode::ReadOnly,
        CacheName::Off => Mode::Off,
    };
    // Without a call no key is needed.
    let mode = if args.dry_run { Mode::ReadOnly } else { mode };
    let variable = |name: &str| std::env::var(name).ok();
    let cache = args.out.join("cache");
    let server =
        Server::open(&profile, &cache, mode, args.insecure_http, args.max_cost, &variable)?;
    let (at_a_time, most) = (profile.concurrency, profile.max_images);
    let job = super::data::in_folder(&args.out, &args.input, settings);
    if args.dry_run {
        let found = match describes {
            true => describe_estimate(&job, &server, most)?,
            false => compare_estimate(&job, &server)?,
        };
        if args.json {
            return output::print_json(&json!(found));
        }
        let money = found.money.map_or("unknown price".to_owned(), |money| format!("{money:.4}"));
        return output::print(&format!(
            "at most {} requests, {} pictures, about {:.0} tokens in and {:.0} out, {money}\n",
            found.requests, found.pictures, found.tokens_in, found.tokens_out
        ));
    }
    let (told, file) = match describes {
        true => {
            let kept = job.clips_read()?.iter().filter(|clip| clip.keep).count();
            if mode != Mode::ReadOnly {
                allowed(&args.out, &server, kept * most, args.yes)?;
            }
            (describe(&job, &server, at_a_time, most)?, "desc.jsonl")
        }
        false => (compare(&job, &server, at_a_time)?, "pairs.jsonl"),
    };
    let path = args.out.join(file);
    if args.json {
        return output::print_json(&json!({"told": told, "file": path.display().to_string()}));
    }
    let costs = &told.costs;
    let money = costs.money.map_or("unknown price".to_owned(), |money| format!("{money:.4}"));
    output::print(&format!(
        "{} lines, {} refused, {} without a sound answer; {} calls, {} answers kept, {} tokens in, {} \
         out, {money}: {}\n",
        told.lines,
        told.refused,
        told.failed,
        costs.calls,
        costs.hits,
        costs.tokens_in,
        costs.tokens_out,
        path.display()
    ))
}
