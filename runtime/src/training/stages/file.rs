//! The file of stages, read and checked: names, settings, what each begins with, gates.

use super::faults::Faults;
use super::gate::{Gate, Known};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::training::parameters::Kind;
use crate::training::settings::{Settings, TrainedNetwork};
use crate::training::{first, labels, objective, read_text, rules, sources, targets};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Stages that can be run.
#[derive(Clone, Debug)]
pub struct Stages {
    /// The file.
    pub path: PathBuf,
    /// Where their results go.
    pub folder: PathBuf,
    /// The model folder that the first one begins with.
    pub model: PathBuf,
    /// In their order.
    pub list: Vec<Stage>,
    /// Whether all of them were compared with the model that the first one begins with.
    compared: bool,
}

/// A stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name, and that of its folder.
    pub name: String,
    /// What is trained.
    pub kind: Kind,
    /// How.
    pub settings: Settings,
    /// The model that it begins with.
    pub base: Base,
    /// The stage whose result gives its first values.
    pub init_from: Option<usize>,
    /// Which of its results counts.
    pub which: Which,
    /// What it has to reach.
    pub gates: Vec<Gate>,
    /// Where the file says what gives its first values.
    place: String,
}

/// A model that a stage begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// That of the file.
    Start,
    /// That of an earlier stage.
    Stage(usize),
}

/// A result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Its values at the end.
    #[default]
    Last,
    /// Those that were best on the validation set.
    Best,
    /// Their average.
    Average,
}

impl Which {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Best => "best",
            Self::Average => "average",
        }
    }

    /// What follows the name of a result.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Last => "",
            Self::Best => "-best",
            Self::Average => "-average",
        }
    }
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    folder: Option<PathBuf>,
    model: PathBuf,
    #[serde(default)]
    stage: Vec<WrittenStage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStage {
    name: String,
    kind: Kind,
    settings: WrittenSettings,
    network: Option<TrainedNetwork>,
    model: Option<String>,
    init_from: Option<String>,
    #[serde(default)]
    result: Which,
    #[serde(default)]
    gate: Vec<Gate>,
}

/// Settings of a stage: a file of their own, or written in place.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the path of a file of settings, or a table of settings")]
enum WrittenSettings {
    File(PathBuf),
    Here(toml::Table),
}

/// The name of the model of the file.
pub(super) const START: &str = "start";
/// The key of what gives the first values of a stage.
pub(super) const INIT_FROM: &str = "init_from";
/// Settings that the stages decide.
const DECIDED: [&str; 2] = ["run.folder", "model.path"];

impl Stages {
    /// Reads and checks the file at `path`, and the files of settings that it names.
    ///
    /// # Errors
    /// E0911 where one cannot be read, E0955 and E0956 for what is in them, E0970 for stages that cannot be
    /// run one behind the other.
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_text(path, 1 << 20)?;
        let written: Written =
            toml::from_str(&text).map_err(|error| sources::refused(&error, &text, path))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let folder = written.folder.unwrap_or_else(|| PathBuf::from("stages"));
        let places = [beside.join(folder), beside.join(written.model)];
        Self::new(path, beside, places, (written.stage, Some(&text)))
    }

    /// Those of tables that are part of the file at `path`, whose paths start at `beside`. Results go to
    /// `folder`, and the first stage begins with `model`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_tables(
        path: &Path,
        beside: &Path,
        [folder, model]: [PathBuf; 2],
        tables: Vec<toml::Table>,
    ) -> Result<Self> {
        let written = tables.into_iter().map(|table| {
            let name = table.get("name").and_then(toml::Value::as_str).unwrap_or_default();
            let place = format!("{}, stage {name}", path.display());
            let read = toml::Value::Table(table).try_into();
            read.map_err(|error| sources::no_setting(&error, None, &place))
        });
        Self::new(path, beside, [folder, model], (written.collect::<Result<Vec<_>>>()?, None))
    }

    fn new(
        path: &Path,
        beside: &Path,
        [folder, model]: [PathBuf; 2],
        (written, text): (Vec<WrittenStage>, Option<&str>),
    ) -> Result<Self> {
        let (path_of, list) = (path.to_owned(), Vec::new());
        let mut out = Self { path: path_of, folder, model, list, compared: false };
        if written.is_empty() {
            return Err(Error::input("E0970", "there is no stage")
                .at(path.display())
                .help("write at least one [[stage]] with a name, a kind and settings"));
        }
        for (at, stage) in written.into_iter().enumerate() {
            let name = stage.name.clone();
            let place = |key: &str| {
                let line = text.map(|text| sources::line_of(text, "stage", at, key));
                let line = line.map_or(String::new(), |line| format!(":{line}"));
                format!("{}{line}, stage {name}", path.display())
            };
            let stage = out.stage(stage, beside).map_err(|error| match error.code() {
                "E0970" => {
                    let place = place(error.place().unwrap_or_default());
                    error.placed(place)
                }
                _ => error,
            })?;
            out.list.push(Stage { place: place(INIT_FROM), ..stage });
        }
        out.check_places()?;
        // A recipe may be read before its model is made; stages are compared with it before they run.
        match Model::open(&out.model) {
            Ok(model) => out.compare(Some(&model))?,
            Err(_) => out.compare(None)?,
        }
        Ok(out)
    }

    /// Compares all stages with the model that the first one begins with, whose sizes and names those of
    /// the others have as well, and first values with what they are to be the first values of. Without the
    /// model, as far as settings alone tell.
    ///
    /// # Errors
    /// E0901 and E0902 for a size, E0523 for targets of an adapter, E0965 and E0968 for groups of
    /// parameters, E0970 for first values, and where there are several faults.
    pub(super) fn compare(&mut self, model: Option<&Model>) -> Result<()> {
        let mut faults = Faults::default();
        for stage in &self.list {
            let (kind, settings) = (stage.kind, &stage.settings);
            if let Some(model) = model {
                faults.note(&stage.name, settings.check_size(model.geometry()))?;
                if kind != Kind::Full {
                    faults.note(&stage.name, targets::check(settings, model))?;
                }
                faults.note(&stage.name, rules::check(settings, kind, model))?;
            }
            let Some(from) = stage.init_from.map(|from| &self.list[from]) else { continue };
            let rows = first::apart(kind, &from.settings, settings, model);
            if !rows.is_empty() {
                let rows: Vec<String> = rows.iter().map(|row| format!("\n  {row}")).collect();
                let message = format!(
                    "init_from names stage {}, whose result is not of the form that this stage trains: \
                     it has{}",
                    from.name,
                    rows.concat()
                );
                let help = match kind {
                    Kind::Full => "give both stages the same video.frames, or leave init_from out",
                    Kind::Lora | Kind::Dpo => {
                        "give both stages the same rank, alpha and targets, or leave init_from out: a new \
                         adapter is then trained on the model with the earlier one"
                    }
                };
                let fault = fault(message, help.to_owned()).at(&stage.place);
                faults.note(&stage.name, Err::<(), _>(fault))?;
            }
        }
        self.compared = model.is_some();
        faults.refuse(&self.path)
    }

    /// As [`Self::compare`] with the model, which has to be there now, unless that was done.
    ///
    /// # Errors
    /// As [`Self::compare`], and those of opening the model.
    pub(super) fn compare_once(&self) -> Result<()> {
        match self.compared {
            true => Ok(()),
            false => self.clone().compare(Some(&Model::open(&self.model)?)),
        }
    }

    /// Refuses to write into the model that the first stage begins with: it would be another one then.
    fn check_places(&self) -> Result<()> {
        let [model, folder] = [&self.model, &self.folder].map(|path| place(path));
        let own = |stage: &Stage| model.starts_with(folder.join(&stage.name));
        let message = if folder.starts_with(&model) {
            format!("folder {} lies in the model that the stages begin with", self.folder.display())
        } else if let Some(stage) = self.list.iter().find(|stage| own(stage)) {
            format!(
                "the model that the stages begin with lies in the folder of stage {}",
                stage.name
            )
        } else {
            return Ok(());
        };
        let help = "give folder a place of its own, beside the model".to_owned();
        Err(fault(message, help).at(self.path.display()))
    }

    /// Checks a stage behind those that were read. The place of E0970 is the key that it is about.
    fn stage(&self, written: WrittenStage, beside: &Path) -> Result<Stage> {
        let WrittenStage { name, kind, init_from, result: which, gate: gates, .. } = written;
        self.check_name(&name)?;
        let mut settings = match written.settings {
            WrittenSettings::File(file) => Settings::open(&beside.join(file), &[], kind)?,
            WrittenSettings::Here(table) => {
                let place = format!("{}, settings of stage {name}", self.path.display());
                Settings::of_table(table, &place, beside, kind)?
            }
        };
        if let Some(key) = DECIDED.into_iter().find(|key| settings.gave(key)) {
            return Err(fault(
                format!("{key} is decided by the stages"),
                format!("leave it out of {}", settings.place(key)),
            )
            .at("settings"));
        }
        if let Some(network) = written.network {
            if settings.gave("train.network") && settings.train.network != network {
                let other = settings.train.network.name();
                return Err(fault(
                    format!("network is {}, train.network {other}", network.name()),
                    "say it once".to_owned(),
                )
                .at("network"));
            }
            settings.train.network = network;
        }
        let base = match written.model.as_deref() {
            None if self.list.is_empty() => Base::Start,
            None => Base::Stage(self.list.len() - 1),
            Some(START) => Base::Start,
            Some(other) => Base::Stage(self.earlier("model", other)?),
        };
        objective::check(kind, &settings)?;
        let init_from = init_from.map(|other| self.earlier(INIT_FROM, &other)).transpose()?;
        if let Some(from) = init_from {
            self.check_first(from, (kind, settings.train.network), base)?;
        }
        self.check_adapters(&settings, base, init_from)?;
        let missing = match which {
            Which::Best if settings.data.validation.is_none() => Some("data.validation"),
            Which::Average if settings.train.average == 0.0 => Some("train.average"),
            _ => None,
        };
        if let Some(key) = missing {
            let message = format!("result is \"{}\", and {key} is not set", which.name());
            let help = format!("set {key}, or take another result");
            return Err(fault(message, help).at("result"));
        }
        let slots = gates.iter().any(|gate| gate.value.contains("accuracy_"));
        let slots = slots.then(|| labels::named(&settings)).flatten();
        let known = Known::of(kind, &settings, slots.as_deref());
        let measured = settings.data.validation.is_some();
        for (number, gate) in (1..).zip(&gates) {
            if let Some((what, help)) = gate.fault(settings.train.steps, &known, measured) {
                let key = format!("gate.{number}");
                return Err(fault(format!("gate {number}: {what}"), help).at(key));
            }
        }
        let place = String::new();
        Ok(Stage { name, kind, settings, base, init_from, which, gates, place })
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(fault(
                format!("\"{name}\" is no name of a stage"),
                "take at most 64 letters, digits, _ and -".to_owned(),
            )
            .at("name"));
        }
        let taken = [START, "cache", "lock"].contains(&name);
        if taken || self.list.iter().any(|stage| stage.name.eq_ignore_ascii_case(name)) {
            let message = match taken {
                true => format!("\"{name}\" is a name of the stages' own"),
                false => format!("there are two stages \"{name}\""),
            };
            return Err(fault(message, "give it another name".to_owned()).at("name"));
        }
        Ok(())
    }

    /// An earlier stage by its name.
    fn earlier(&self, key: &str, name: &str) -> Result<usize> {
        self.list.iter().position(|stage| stage.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.list.iter().map(|stage| stage.name.as_str()).collect();
            let help = match names[..] {
                [] => "it is the first one: leave that out".to_owned(),
                _ => format!("those before it are {}", names.join(", ")),
            };
            fault(format!("{key} names \"{name}\", which is no earlier stage"), help).at(key)
        })
    }
}

/// Where a path leads, with links followed as far as there is something.
pub(super) fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |up: &Path| Some(up.canonicalize().ok()?.join(path.strip_prefix(up).ok()?));
    path.ancestors().find_map(real).unwrap_or_else(|| path.clone())
}

/// The error E0970.
pub(super) fn fault(message: String, help: String) -> Error {
    Error::input("E0970", message).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stages of this text behind a start model, in a folder with a file of settings.
    fn open(text: &str) -> Result<Stages> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run.toml"), "[data]\nmanifest = \"a.jsonl\"\n").unwrap();
        let path = folder.path().join("stages.toml");
        std::fs::write(&path, format!("model = \"m\"\n{text}")).unwrap();
        Stages::open(&path)
    }

    fn stage(name: &str, more: &str) -> String {
        format!("[[stage]]\nname = \"{name}\"\nkind = \"full\"\nsettings = \"run.toml\"\n{more}\n")
    }

    #[test]
    fn stages_begin_with_the_model_of_the_one_before_unless_they_say_otherwise() {
        let inline = "[[stage]]\nname = \"c\"\nkind = \"lora\"\nmodel = \"a\"\n\
                      gate = [{ value = \"loss\", below = 2.0 }]\n[stage.settings.data]\n\
                      manifest = \"sub/b.jsonl\"\n[stage.settings.train]\nsteps = 7\n";
        let (a, b) = (stage("a", ""), stage("b", "init_from = \"a\""));
        let d = stage("d", "model = \"start\"");
        let text = format!("{a}{b}{inline}{d}");
        let stages = open(&text).unwrap();
        let bases: Vec<Base> = stages.list.iter().map(|stage| stage.base).collect();
        assert_eq!(bases, [Base::Start, Base::Stage(0), Base::Stage(0), Base::Start]);
        let [_, b, c, _] = &stages.list[..] else { panic!("{stages:?}") };
        assert_eq!((b.init_from, c.kind, c.settings.train.steps), (Some(0), Kind::Lora, 7));
        assert_eq!(c.gates[0].below, Some(2.0));
        let beside = stages.path.parent().unwrap();
        assert_eq!(c.settings.data.manifest, beside.join("sub/b.jsonl"));
        assert_eq!((stages.folder, stages.model), (beside.join("stages"), beside.join("m")));
    }

    #[test]
    fn stages_that_cannot_be_run_are_named() {
        let with = |setting: &str| {
            let (section, key) = setting.split_once('.').unwrap();
            format!(
                "[[stage]]\nname = \"a\"\nkind = \"full\"\n[stage.settings.data]\nmanifest = \"x\"\n\
                 [stage.settings.{section}]\n{key}\n"
            )
        };
        let two = |more: &str| format!("{}{}", stage("a", ""), stage("b", more));
        let gate = |text: &str| stage("a", &format!("gate = [{{ {text} }}]"));
        for (text, said) in [
            (String::new(), "there is no stage"),
            (stage("a b", ""), "is no name of a stage"),
            (stage("cache", ""), "a name of the stages' own"),
            (format!("{}{}", stage("a", ""), stage("A", "")), "there are two stages"),
            (stage("a", "model = \"b\""), "which is no earlier stage"),
            (two("init_from = \"b\""), "init_from names \"b\", which is no earlier stage"),
            (two("init_from = \"a\"").replacen("full", "lora", 1), "which trains something else"),
            (stage("a", "result = \"best\""), "data.validation is not set"),
            (stage("a", "result = \"average\""), "train.average is not set"),
            (gate("value = \"loss\""), "gate 1: loss has no bound"),
            (gate("value = \"loss\", below = 1.0, at = 2000"), "update 2000 is none of the run"),
            (
                gate("value = \"validation.loss\", below = 1.0"),
                "not measured without data.validation",
            ),
            (format!("folder = \"m\"\n{}", stage("a", "")), "lies in the model"),
            (format!("folder = \"m/out\"\n{}", stage("a", "")), "lies in the model"),
            (format!("folder = \".\"\n{}", stage("m", "")), "lies in the folder of stage m"),
            (with("run.folder = \"x\""), "run.folder is decided by the stages"),
            (with("model.path = \"x\""), "model.path is decided by the stages"),
        ] {
            let error = open(&text).unwrap_err();
            assert_eq!(error.code(), "E0970", "{text}: {error}");
            assert!(error.message().contains(said), "{error}, expected {said}");
            assert!(error.place().unwrap().contains("stages.toml"), "{error}");
        }
    }

    #[test]
    fn an_adapter_does_not_begin_on_a_model_that_has_it() {
        let lora = |name: &str, more: &str| stage(name, more).replace("\"full\"", "\"lora\"");
        let vae = stage("v", "network = \"vae\"");
        let (a, b) = (lora("a", ""), lora("b", "init_from = \"a\"\nmodel = \"start\""));
        for (text, help) in [
            // The model of the stage before is that of the adapter.
            (format!("{a}{}", lora("b", "init_from = \"a\"")), "write model = \"start\", which"),
            (format!("{vae}{a}{}", lora("b", "init_from = \"a\"")), "write model = \"v\", which"),
            // Behind other stages, and through the adapter that one goes on from.
            (format!("{a}{vae}{}", lora("b", "init_from = \"a\"")), "model = \"start\""),
            (format!("{a}{}{}", stage("f", ""), lora("b", "init_from = \"a\"")), "\"start\""),
            (format!("{a}{b}{}", lora("c", "init_from = \"a\"")), "model = \"start\""),
            (format!("{a}{b}{}", lora("c", "init_from = \"b\"\nmodel = \"a\"")), "\"start\""),
            // A whole transformer that goes on from one with the adapter in it.
            (
                format!(
                    "{a}{}{}{}",
                    stage("f", ""),
                    stage("g", "init_from = \"f\"\nmodel = \"start\""),
                    lora("b", "init_from = \"a\"")
                ),
                "\"start\"",
            ),
        ] {
            let error = open(&text).unwrap_err();
            assert_eq!(error.code(), "E0970", "{text}: {error}");
            assert!(error.message().contains("of stage a would count twice"), "{error}");
            assert!(error.help_text().unwrap().contains(help), "{error}");
            assert!(error.place().unwrap().contains(", stage "), "{error}");
        }
        for fine in [
            format!("{a}{b}"),
            format!("{vae}{a}{}", lora("b", "init_from = \"a\"\nmodel = \"v\"")),
            format!("{a}{}", lora("b", "")),
            // The adapter is in a model, and not in the one that this stage begins with.
            format!("{a}{b}{}", lora("c", "init_from = \"b\"\nmodel = \"start\"")),
            format!("{}{}", stage("f", ""), stage("g", "init_from = \"f\"")),
        ] {
            open(&fine).unwrap();
        }
    }

    #[test]
    fn first_values_of_another_form_are_found_before_anything_is_trained() {
        let with = |name: &str, kind: &str, more: &str, settings: &str| {
            format!(
                "[[stage]]\nname = \"{name}\"\nkind = \"{kind}\"\n{more}\n[stage.settings.data]\n\
                 manifest = \"x\"\n{settings}\n"
            )
        };
        let lora = |name: &str, more: &str, settings: &str| {
            with(name, "lora", more, &format!("[stage.settings.lora]\n{settings}"))
        };
        let from = "init_from = \"a\"\nmodel = \"start\"";
        let first = lora("a", "", "rank = 4\nalpha = 4.0");
        let error =
            open(&format!("{first}{}", lora("b", from, "rank = 2\nalpha = 8.0"))).unwrap_err();
        assert_eq!(error.code(), "E0970");
        for said in ["stage a", "rank 4, lora.rank is 2", "alpha 4, lora.alpha is 8"] {
            assert!(error.message().contains(said), "{said}: {error}");
        }
        assert!(error.place().unwrap().ends_with("stages.toml:14, stage b"), "{error}");
        open(&format!("{first}{}", lora("b", from, "rank = 4\nalpha = 4.0"))).unwrap();
        // An adapter for preferences, and a judge that looks at more frames.
        let dpo = with("b", "dpo", from, "[stage.settings.lora]\nrank = 3\nalpha = 4.0");
        let error = open(&format!("{first}{dpo}")).unwrap_err();
        assert!(error.message().ends_with("it has\n  rank 4, lora.rank is 3"), "{error}");
        let judge = |name: &str, more: &str, frames: usize| {
            let more = format!("network = \"judge\"\n{more}");
            with(name, "full", &more, &format!("[stage.settings.video]\nframes = {frames}"))
        };
        let two = |frames: usize| {
            format!("{}{}", judge("a", "", 1), judge("b", "init_from = \"a\"", frames))
        };
        let error = open(&two(5)).unwrap_err();
        assert!(error.message().contains("a judge of 1 frame, this one looks at 2"), "{error}");
        open(&two(1)).unwrap();
        // What a kind cannot train.
        let error = open(&with("a", "lora", "network = \"vae\"", "")).unwrap_err();
        assert_eq!(error.code(), "E0976");
    }

    #[test]
    fn stages_are_compared_with_the_model_before_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m");
        let write = |path: &Path| {
            crate::init::write_folder(path, crate::init::Preset::Micro, 1, &mut |_, _| {}).unwrap()
        };
        let video = "[stage.settings.video]\nwidth = 64\nheight = 64\nframes = 5\n";
        let lora = |name: &str, more: &str, settings: &str| {
            format!(
                "[[stage]]\nname = \"{name}\"\nkind = \"lora\"\n{more}\n[stage.settings.data]\n\
                 manifest = \"x\"\n{settings}\n"
            )
        };
        let open = |stages: &str| {
            let path = folder.path().join("stages.toml");
            std::fs::write(&path, format!("model = \"m\"\n{stages}")).unwrap();
            Stages::open(&path)
        };
        let targets = |list: &str| format!("{video}[stage.settings.lora]\ntargets = [{list}]");
        let first = lora("a", "", &targets("\"blocks.*_attn.q\""));
        let from = "init_from = \"a\"\nmodel = \"start\"";
        let rows = [
            (
                lora("b", "", "[stage.settings.video]\nwidth = 100\nheight = 50"),
                "E0901",
                "height 50",
            ),
            (lora("b", "", &targets("\"nothing\"")), "E0523", "\"nothing\""),
            (
                lora("b", "", &format!("{video}[[stage.settings.group]]\nmatch = \"no\"")),
                "E0965",
                "\"no\"",
            ),
            (
                lora("b", from, &targets("\"blocks.*_attn.q\", \"head.head\"")),
                "E0970",
                "nothing for 1 linear (head.head) of lora.targets",
            ),
        ];
        // Nothing is known of the model yet; before stages run, it has to be there.
        for (second, ..) in &rows {
            let stages = open(&format!("{first}{second}")).unwrap();
            assert_eq!(stages.compare_once().unwrap_err().code(), "E0701");
        }
        let early: Vec<Stages> =
            rows.iter().map(|(second, ..)| open(&format!("{first}{second}")).unwrap()).collect();
        write(&model);
        for ((second, code, said), early) in rows.iter().zip(early) {
            for error in
                [open(&format!("{first}{second}")).unwrap_err(), early.compare_once().unwrap_err()]
            {
                assert_eq!(error.code(), *code, "{error}");
                assert!(error.message().contains(said), "{error}");
                assert!(error.place().unwrap().ends_with("stage b"), "{error}");
            }
        }
        // Other patterns for the same linears are no other form.
        let same = targets("\"blocks.*.self_attn.q\", \"blocks.*.cross_attn.q\"");
        open(&format!("{first}{}", lora("b", from, &same))).unwrap().compare_once().unwrap();
    }

    #[test]
    fn faults_have_the_line_of_their_key() {
        let two = |more: &str| format!("{}{}", stage("a", ""), stage("b", more));
        let long = "[[stage.gate]]\nvalue = \"loss\"\nbelow = 1.0\n[[stage.gate]]\nvalue = \"los\"\n\
                    below = 1.0";
        for (text, line, said, help) in [
            (stage("a b", ""), 3, "no name", "letters"),
            (two("init_from = \"x\""), 11, "init_from names \"x\"", "those before it are a"),
            (two(long), 15, "gate 2: the log of this run has no los", "did you mean loss?"),
            (
                two("gate = [{ value = \"loss\", below = 1.0, at = 2000 }]"),
                11,
                "gate 1: update 2000",
                "1 to 1000",
            ),
        ] {
            let error = open(&text).unwrap_err();
            let place = error.place().unwrap();
            assert!(place.contains(&format!("stages.toml:{line}, stage ")), "{error}");
            assert!(error.message().contains(said), "{error}");
            assert!(error.help_text().unwrap().contains(help), "{error}");
        }
        let error = open(&stage("a", "gate = [{ value = \"loss\", below = 1.0, at = -2 }]"));
        let error = error.unwrap_err();
        assert_eq!((error.code(), error.message().starts_with("at: ")), ("E0955", true), "{error}");
    }

    #[test]
    fn slots_are_those_of_the_manifest_that_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let gate = |slot: &str| {
            let text = format!(
                "model = \"m\"\n[[stage]]\nname = \"a\"\nkind = \"full\"\nnetwork = \"text\"\n\
                 gate = [{{ value = \"accuracy_{slot}\", above = 0.5 }}]\n[stage.settings.data]\n\
                 manifest = \"t.jsonl\"\n"
            );
            let path = folder.path().join("stages.toml");
            std::fs::write(&path, text).unwrap();
            Stages::open(&path)
        };
        gate("shto").unwrap();
        let line = "{\"labels\": {\"shot\": 1, \"pose\": \"left\"}}\nno JSON\n{}\n";
        std::fs::write(folder.path().join("t.jsonl"), line).unwrap();
        gate("pose").unwrap();
        let error = gate("shto").unwrap_err();
        assert_eq!(error.code(), "E0970");
        assert!(error.help_text().unwrap().contains("accuracy_shot?"), "{error}");
    }

    #[test]
    fn faults_of_the_text_and_of_settings_have_their_codes_and_places() {
        let inline = "[[stage]]\nname = \"a\"\nkind = \"full\"\n[stage.settings.train]\n";
        for (text, code, place, said) in [
            ("[[stage]\n".to_owned(), "E0955", "stages.toml:2", ""),
            (stage("a", "bound = 3"), "E0955", "stages.toml:6", "unknown field `bound`"),
            (stage("a", "result = \"first\""), "E0955", "stages.toml:6", "unknown variant `first`"),
            (
                stage("a", "").replace("full", "some"),
                "E0955",
                "stages.toml:4",
                "unknown variant `some`",
            ),
            (stage("a", "").replace("run.toml", "none.toml"), "E0911", "none.toml", ""),
            (format!("{inline}step = 3\n"), "E0955", "stages.toml, settings of stage a", "`step`"),
            (
                format!("{inline}steps = 3\n"),
                "E0956",
                "stages.toml, settings of stage a",
                "data.manifest",
            ),
        ] {
            let error = open(&text).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.place().unwrap().ends_with(place), "{error}, expected {place}");
            assert!(error.message().contains(said), "{error}");
        }
    }
}
