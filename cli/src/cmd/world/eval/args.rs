//! The flags of `world eval`, and the arms that they ask for.

use crate::args::DeviceArgs;
use crate::cmd::world::args::SetArgs;
use crate::cmd::world::clips::{ClipArgs, WeightArgs, Weights};
use anyid_runtime::adapter::Wanted;
use anyid_runtime::{Error, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    after_help = "Arms: `full` is the model as it is meant, `none` sees black references and an \
absolute prompt, `primary` the first reference alone, `absolute` an absolute prompt, `exchanged` the \
same references drawn of somebody else, by whom it is judged. In trials, `uninformative` has a second \
reference that does not show what the first one hides. `--arm NAME=DIR` adds an arm that is as \
`full` with another model, such as one without an adapter.\n\n\
Each arm makes the same clips from the same noise, one for each person. The table says for every \
measure the share that the judge reads rightly with its standard error, beside that of the true \
clips; docs/world.md describes the judge."
)]
pub struct Eval {
    #[command(flatten)]
    pub set: SetArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Number of the first person. People from 2,000,000 on are for reports.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, allow_negative_numbers = true)]
    pub first_group: u64,
    /// How many sets, of one person each.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub sets: u64,
    /// Take sets of two references in which the first hides a mark or the teeth and the second shows
    /// them, as many as --sets says among the people from --first-group on.
    #[arg(long, conflicts_with_all = ["references", "primary_forms", "forms"])]
    pub trials: bool,
    /// What is compared: full, none, primary, absolute, exchanged, decoded, and names of --arm; with
    /// --trials also uninformative [default: the first five; with --trials full,primary,uninformative].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub arms: Vec<String>,
    /// Another arm: as full, with this model and these adapters, or those of --model if no folder is
    /// given (NAME=,PATH:SCALE); may be given several times.
    #[arg(long = "arm", value_name = "NAME=DIR[,PATH[:SCALE]…]")]
    pub more: Vec<String>,
    #[command(flatten)]
    pub made: ClipArgs,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Have the clips read by this judge as well: the .safetensors file that `train full` left with
    /// train.network = "judge", or the folder of that run.
    #[arg(long, value_name = "FILE")]
    pub judge: Option<PathBuf>,
    /// Keep every verdict in this file as soon as it is there, and make none that it has already; more
    /// sets and arms may be added to a file.
    #[arg(long, value_name = "FILE")]
    pub keep: Option<PathBuf>,
    /// Also write a picture of the first eight sets, one in a row: references, first and last frame of
    /// the true clip, and of that of each arm. A .png file.
    #[arg(long, value_name = "OUT.png")]
    pub sheet: Option<PathBuf>,
    /// Replace a picture that is there already.
    #[arg(long, requires = "sheet")]
    pub force: bool,
    /// Print the result as one JSON object instead of a Markdown table.
    #[arg(long)]
    pub json: bool,
}

/// What an arm is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// All references and the differential prompt.
    Full,
    /// Black references and the absolute prompt.
    Nothing,
    /// The first reference alone.
    Primary,
    /// All references and the absolute prompt.
    Absolute,
    /// References drawn of somebody else.
    Exchanged,
    /// The true clip, which the autoencoder encodes and decodes.
    Decoded,
    /// Of a trial, the auxiliary that does not show what the primary hides.
    Uninformative,
}

const GIVEN: [(&str, Given); 7] = [
    ("full", Given::Full),
    ("none", Given::Nothing),
    ("primary", Given::Primary),
    ("absolute", Given::Absolute),
    ("exchanged", Given::Exchanged),
    ("decoded", Given::Decoded),
    ("uninformative", Given::Uninformative),
];

/// An arm of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// What it is given.
    pub given: Given,
    /// The model that it runs.
    pub weights: Weights,
}

impl Eval {
    /// The arms in their order, those of `--arm` last unless `--arms` names them.
    ///
    /// # Errors
    /// E0987 for arms that there are not, or twice; E0361 and others for adapters.
    pub fn arms(&self) -> Result<Vec<Arm>> {
        let own = self.weights.weights()?;
        let mut known: Vec<Arm> = Vec::new();
        for (name, given) in GIVEN {
            known.push(Arm { name: name.to_owned(), given, weights: own.clone() });
        }
        for text in &self.more {
            let arm = arm(text, &own)?;
            if known.iter().any(|other| other.name == arm.name) {
                let message = format!("there is an arm \"{}\" already", arm.name);
                return Err(refused(message, "--arm").help("give it another name"));
            }
            known.push(arm);
        }
        let usual: &[&str] = match self.trials {
            true => &["full", "primary", "uninformative"],
            false => &["full", "none", "primary", "absolute", "exchanged"],
        };
        let mut wanted = match self.arms.is_empty() {
            true => usual.iter().map(|name| (*name).to_owned()).collect(),
            false => self.arms.clone(),
        };
        let added = known.iter().skip(GIVEN.len()).map(|arm| arm.name.clone());
        wanted.extend(added.filter(|name| !self.arms.contains(name)).collect::<Vec<_>>());
        let mut out: Vec<Arm> = Vec::new();
        for name in wanted {
            if out.iter().any(|arm| arm.name == name) {
                let error = refused(format!("the arm \"{name}\" is named twice"), "--arms");
                return Err(error.help("name each arm once"));
            }
            let found = known.iter().find(|arm| arm.name == name).cloned();
            if found.as_ref().is_some_and(|arm| arm.given == Given::Uninformative) && !self.trials {
                let error = refused(format!("the arm \"{name}\" is one of trials"), "--arms");
                return Err(error.help("give --trials"));
            }
            out.push(found.ok_or_else(|| {
                refused(format!("there is no arm \"{name}\""), "--arms").help(
                    "the arms are full, none, primary, absolute, exchanged and decoded, and what \
                     --arm names: --arm no-dpo=DIR",
                )
            })?);
        }
        Ok(out)
    }
}

fn refused(message: String, flag: &str) -> Error {
    Error::input("E0987", message).at(flag)
}

/// An arm of `--arm`.
fn arm(text: &str, own: &Weights) -> Result<Arm> {
    let wrong = || {
        refused(format!("\"{text}\" names no arm with its model"), "--arm")
            .help("write NAME=DIR, or NAME=DIR,PATH:SCALE with adapters")
    };
    let (name, what) = text.split_once('=').ok_or_else(wrong)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(wrong());
    }
    let mut parts = what.split(',');
    let folder = parts.next().filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let adapters = parts.map(Wanted::parse).collect::<Result<Vec<_>>>()?;
    if folder.is_none() && adapters.is_empty() && own.adapters.is_empty() {
        return Err(wrong());
    }
    let folder = folder.or_else(|| own.folder.clone());
    Ok(Arm { name: name.to_owned(), given: Given::Full, weights: Weights { folder, adapters } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::cmd::world::args::WorldVerb;
    use clap::Parser;

    fn arms(words: &str) -> Result<Vec<Arm>> {
        let line = format!("anyid-rt world eval --sets 2 {words}");
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        match cli.command {
            Command::World(WorldVerb::Eval(args)) => args.arms(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arms_have_their_models() {
        let names = |words| -> Vec<String> {
            arms(words).unwrap().into_iter().map(|arm| arm.name).collect()
        };
        assert_eq!(names(""), ["full", "none", "primary", "absolute", "exchanged"]);
        assert_eq!(names("--arms none,full --arm no-dpo=m"), ["none", "full", "no-dpo"]);
        assert_eq!(names("--arms a,full --arm a=m --arm b=n"), ["a", "full", "b"]);
        assert_eq!(names("--trials --arm b=n"), ["full", "primary", "uninformative", "b"]);
        assert_eq!(names("--trials --arms none"), ["none"]);
        let all = arms("--model m --lora l:0.5 --arms full,x --arm x=n,k:2,l --arm y=").unwrap();
        assert_eq!(all[0].weights.adapters, [Wanted::parse("l:0.5").unwrap()]);
        assert_eq!(all[1].weights.folder, Some(PathBuf::from("n")));
        assert_eq!(all[1].weights.adapters, ["k:2", "l"].map(|text| Wanted::parse(text).unwrap()));
        assert_eq!(all[2].weights, Weights { folder: Some("m".into()), adapters: vec![] });
    }

    #[test]
    fn arms_that_there_are_not_are_refused() {
        for words in [
            "--arms full,no-dpo",
            "--arms full,full",
            "--arms uninformative",
            "--arm full=m",
            "--arm a=m --arm a=n",
            "--arm a",
            "--arm =m",
            "--arm a=",
            "--arm a/b=m",
        ] {
            assert_eq!(arms(words).unwrap_err().code(), "E0987", "{words}");
        }
    }
}
