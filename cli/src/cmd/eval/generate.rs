//! `eval generate`: the videos of cases, as the method makes them or without a part of it. The work is
//! that of `generate --jobs`; here its lines are written.

use crate::cmd::generate::{self, args::Generate as Flags};
use crate::render::Failure;
use anyid_runtime::evaluation::cases::locked;
use anyid_runtime::evaluation::raw::{Case, read_cases};
use anyid_runtime::files::{AtomicFile, make_folder};
use anyid_runtime::{Error, Result, checkpoint};
use clap::{Args, Command, FromArgMatches, ValueEnum};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What a folder of videos was made as.
const ABOUT: &str = "system.json";
const SCHEMA: &str = "anyid.system/1";

/// Videos that are made.
#[derive(Debug, Args)]
#[command(
    after_help = "Behind -- stand flags of generate that hold for all videos: the model, adapters of \
supervised training, size, steps, consent. The same command goes on where it was stopped. no_pd is a \
training of its own, on prompts that say everything and without a primary reference: give its adapters."
)]
pub struct Generate {
    /// File of cases (`anyid.case/1`).
    #[arg(long, value_name = "FILE")]
    pub cases: PathBuf,
    /// Where paths of references start [default: the folder of the cases].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Which parts of the method are at work.
    #[arg(long, value_enum, default_value_t)]
    pub variant: Variant,
    /// The adapter that was trained on preferences, with its scale [default: 1]; no_rl leaves it out.
    #[arg(long, value_name = "PATH[:SCALE]")]
    pub dpo: Option<String>,
    /// The folder of the videos, which are called after their cases.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Flags of generate.
    #[arg(last = true, value_name = "FLAG")]
    pub flags: Vec<String>,
}

/// What is left out of the method, as flags write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Variant {
    /// Nothing.
    #[default]
    Full,
    /// All references but the primary one.
    NoAr,
    /// The adapter that was trained on preferences.
    NoRl,
    /// Primary references and differential prompts: prompts say everything.
    NoPd,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NoAr => "no_ar",
            Self::NoRl => "no_rl",
            Self::NoPd => "no_pd",
        }
    }
}

impl Generate {
    /// Whether JSON is printed.
    pub fn json(&self) -> bool {
        self.flags.iter().any(|flag| flag == "--json")
    }
}

/// The line of a case.
fn line(case: &Case, variant: Variant, root: &Path) -> Value {
    let all = match variant {
        Variant::NoAr => std::slice::from_ref(&case.primary),
        Variant::Full | Variant::NoRl | Variant::NoPd => &case.references[..],
    };
    // The first is the primary one for whoever makes the video.
    let others = all.iter().filter(|file| **file != case.primary);
    let files = std::iter::once(&case.primary).chain(others).map(|file| root.join(file));
    let prompt = match (variant, &case.prompt_full) {
        (Variant::NoPd, Some(full)) => full,
        _ => &case.prompt,
    };
    json!({
        "id": case.id, "ref": files.collect::<Vec<_>>(), "prompt": prompt, "seed": case.seed,
    })
}

/// The flags of all videos.
fn flags(args: &Generate, jobs: &Path) -> std::result::Result<Flags, Failure> {
    let word = |path: &Path| path.display().to_string();
    let mut words = vec!["--jobs".to_owned(), word(jobs), "-o".to_owned(), word(&args.output)];
    if let Some(adapter) = args.dpo.as_ref().filter(|_| args.variant != Variant::NoRl) {
        words.push(format!("--lora={adapter}"));
    }
    words.extend(args.flags.iter().cloned());
    let command = Flags::augment_args(Command::new("generate"));
    let command = command.no_binary_name(true).disable_help_flag(true);
    let read =
        command.try_get_matches_from(words).and_then(|found| Flags::from_arg_matches(&found));
    let read = read.map_err(|fault| {
        let text = fault.to_string();
        let lines: Vec<&str> =
            text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let what = lines.join(" ").trim_start_matches("error: ").to_owned();
        Error::input("E0900", what).at("--").help("behind -- stand flags of generate")
    })?;
    let own = [
        ("--ref", !read.references.is_empty()),
        ("--prompt", read.prompt.is_some()),
        ("--seed", read.seed.is_some() || read.seeds.is_some()),
        ("--first-frame", read.first_frame.is_some()),
    ];
    match own.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Error::input("E0900", format!("{flag} is said by each case"))
            .at("--")
            .help("leave it out: cases are the same for all systems")
            .into()),
        None => Ok(read),
    }
}

/// Notes what the folder is made as, and refuses one that was made as something else.
fn agreed(args: &Generate, cases: &str) -> Result<()> {
    let about = json!({
        "schema": SCHEMA, "variant": args.variant.name(), "cases": cases, "dpo": args.dpo,
        "flags": args.flags,
    });
    let path = args.output.join(ABOUT);
    if path.exists() {
        let old: Value = checkpoint::read_json(&path).map(|file| file.value)?;
        let differs = ["variant", "cases"].into_iter().find(|key| old[*key] != about[*key]);
        return match differs {
            None => Ok(()),
            Some(key) => {
                let what = format!("this folder has videos of other {key}");
                let what = if key == "variant" { what.replace("other", "another") } else { what };
                Err(Error::input("E1703", what)
                    .at(path.display())
                    .help("give each variant and each file of cases a folder of its own (-o)"))
            }
        };
    }
    let mut file = AtomicFile::create(&path)?;
    file.append(format!("{about:#}\n").as_bytes())?;
    file.commit().map(drop)
}

/// Runs the verb.
///
/// # Errors
/// E1702 for cases, E1703 for a folder with other videos, and those of `generate --jobs`.
pub fn run(args: &Generate) -> std::result::Result<(), Failure> {
    let cases = read_cases(&args.cases)?;
    locked(&args.cases)?;
    if args.variant == Variant::NoRl && args.dpo.is_none() {
        return Err(Error::input("E0900", "nothing says which adapter is left out")
            .at("--variant no_rl")
            .help("name the adapter that was trained on preferences (--dpo), as for the other variants")
            .into());
    }
    let jobs = args.output.join("jobs.jsonl");
    let flags = flags(args, &jobs)?;
    make_folder(&args.output)?;
    agreed(args, &checkpoint::hash_file(&args.cases)?)?;
    let folder = args.cases.parent().unwrap_or(Path::new("")).to_owned();
    let root = args.root.clone().unwrap_or(folder);
    let mut file = AtomicFile::create(&jobs)?;
    for case in &cases {
        file.append(format!("{}\n", line(case, args.variant, &root)).as_bytes())?;
    }
    file.commit()?;
    generate::run(flags)
}
