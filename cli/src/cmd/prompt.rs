//! `prompt`: prompts that say what changes, written, read and checked without a model; what asks servers
//! is in `servers.rs`.

pub mod servers;

use super::safeguards::SafeguardArgs;
use crate::output;
use crate::render::Failure;
use anyid_runtime::Model;
use anyid_runtime::safeguards::rules_of;
use anyid_runtime::safeguards::text::{Action, Finding as Hit};
use anyid_runtime::study::prompt::aspects::{self, Aspects};
use anyid_runtime::study::prompt::cache::{Cache, Mode};
use anyid_runtime::study::prompt::calibrate;
use anyid_runtime::study::prompt::differ::Difference;
use anyid_runtime::study::prompt::elements::Element;
use anyid_runtime::study::prompt::lint::{Context, Counter, Finding, Severity, lint, verdict};
use anyid_runtime::study::prompt::similarity::{Similarity, scores};
use anyid_runtime::study::prompt::style::{self, Style};
use anyid_runtime::text::{PromptTokenizer, clean};
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
    Compare(Compare),
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
    /// A model folder or a tokenizer.json, by whose tokens the length is counted.
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
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
    /// Settings (TOML) whose server of prompt.compare sorts the sentences of a plain prompt; without them,
    /// the words of each element are known.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where answers of the server are kept.
    #[arg(long, value_name = "DIR", requires = "config")]
    pub out: Option<PathBuf>,
}

/// What is asked of a server, and where results are.
#[derive(Debug, Args)]
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

/// What is compared.
#[derive(Debug, Args)]
pub struct Compare {
    /// What is asked, and where results are.
    #[command(flatten)]
    pub ask: Ask,
    /// Describe the primary reference of every sample of train.jsonl as it is cut out, compare that with the
    /// target, and write the prompts anew.
    #[arg(long, conflicts_with = "dry_run")]
    pub exact_primary: bool,
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
            Self::Describe(args) => args.json,
            Self::Compare(args) => args.ask.json,
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
        PromptVerb::Parse(args) => {
            let plain = style::of(&args.text) == Style::Plain;
            let elements = match args.config.as_deref().filter(|_| plain) {
                Some(config) => servers::sorted(&args, config)?,
                None => style::read(&args.text),
            };
            output::print_json(&json!(elements))?;
        }
        PromptVerb::Describe(args) => servers::asked(&args, true)?,
        PromptVerb::Compare(args) if args.exact_primary => servers::exactly(&args.ask)?,
        PromptVerb::Compare(args) => servers::asked(&args.ask, false)?,
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

/// The tokenizer of a model folder, or of a file.
fn tokenizer_of(path: &Path) -> Result<PromptTokenizer> {
    match path.is_dir() {
        true => Ok(Model::open(path)?.tokenizer),
        false => PromptTokenizer::open(path),
    }
}

/// Tokens of a text; of one that the tokenizer cannot write, as many as it has bytes.
fn tokens(tokenizer: &PromptTokenizer, text: &str) -> usize {
    let encoded = tokenizer.encode(&clean(text), usize::MAX);
    encoded.map_or(text.len(), |encoded| encoded.full_len)
}

/// What the safeguards in force say of a prompt.
fn policed(text: &str) -> Result<Vec<Finding>> {
    let policy = SafeguardArgs::default().policy()?;
    let verdict = rules_of(&policy)?.check(&[text], !policy.text_filter);
    let finding = |own: Hit| {
        let severity = match own.action {
            Action::Info => return None,
            Action::Warn => Severity::Warn,
            Action::Block => Severity::Error,
        };
        let span = text.find(&own.words).map_or(0..0, |at| at..at + own.words.len());
        let message = format!("{} by rule {}", own.category.name(), own.rule);
        Some(Finding { code: "L050", severity, span, message, help: own.category.advice().into() })
    };
    Ok(verdict.findings.into_iter().filter_map(finding).collect())
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
    let tokenizer = args.model.as_deref().map(tokenizer_of).transpose()?;
    let counter = tokenizer.as_ref().map(|own| move |text: &str| tokens(own, text));
    let counter = counter.as_ref().map(|counter| counter as Counter<'_>);
    let mut found = policed(&args.text)?;
    found.extend(lint(&args.text, counter, &context));
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
        Some(config) => servers::compared(args, config, &pairs)?,
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
