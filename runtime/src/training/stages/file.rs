//! The file of stages, read and checked: names, settings, what each begins with, gates.

use super::faults::Faults;
use super::gate::{Gate, Known};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::training::parameters::Kind;
use crate::training::settings::{Settings, TrainedNetwork};
use crate::training::{first, labels, objective, read_text, result, rules, sources, targets};
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
    /// How much of it is known; all of it in stages that can be run.
    state: State,
}

/// How much of a stage is known where something is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its name alone.
    Unread,
    /// Its settings, but not what it begins with.
    Loose,
    /// All of it.
    Sound,
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
            Self::Best => result::BEST,
            Self::Average => result::AVERAGE,
        }
    }
}

/// The file as it is written, with the tables of its stages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<S = toml::Table> {
    folder: Option<PathBuf>,
    model: PathBuf,
    #[serde(default = "Vec::new")]
    stage: Vec<S>,
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

impl WrittenStage {
    /// That of a table; none where something is wrong with its keys, all of which is told. `place` says where
    /// a key is.
    fn of(
        table: toml::Table,
        place: &dyn Fn(&str) -> String,
        faults: &mut Vec<Error>,
    ) -> Option<Self> {
        /// What no stage can be without.
        const NEEDED: [(&str, &str); 3] = [("name", "x"), ("kind", "full"), ("settings", "x")];
        let text = |text: &str| toml::Value::String(text.to_owned());
        let read = |table: toml::Table| toml::Value::Table(table).try_into::<Self>();
        let mut sound = toml::Table::new();
        for (key, value) in &table {
            let stand_ins = NEEDED.map(|(name, value)| (name.to_owned(), text(value)));
            let mut alone = toml::Table::from_iter(stand_ins.clone());
            alone.insert(key.clone(), value.clone());
            match read(alone) {
                Ok(_) => drop(sound.insert(key.clone(), value.clone())),
                Err(fault) => {
                    faults.push(sources::no_setting(&fault, Some(key), &place(key)));
                    sound.extend(stand_ins.into_iter().filter(|(name, _)| name == key));
                }
            }
        }
        let read = read(sound).map_err(|fault| sources::no_setting(&fault, None, &place("")));
        read.map_err(|fault| faults.push(fault)).ok().filter(|_| faults.is_empty())
    }
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
        let refused = |error| sources::refused(&error, &text, path);
        let Written { folder, model, stage } = toml::from_str(&text).map_err(refused)?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let folder = folder.unwrap_or_else(|| PathBuf::from("stages"));
        let places = [beside.join(folder), beside.join(model)];
        // With one fault in the keys of stages, the reader knows its line.
        let whole = || toml::from_str::<Written<WrittenStage>>(&text).map(drop).map_err(refused);
        Self::new(path, beside, places, (stage, Some(&text)), &whole)
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
        Self::new(path, beside, [folder, model], (tables, None), &|| Ok(()))
    }

    /// `whole` says what is wrong with the keys of stages where that is a single fault, if it knows better.
    fn new(
        path: &Path,
        beside: &Path,
        [folder, model]: [PathBuf; 2],
        (tables, text): (Vec<toml::Table>, Option<&str>),
        whole: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let (path_of, list) = (path.to_owned(), Vec::new());
        let mut out = Self { path: path_of, folder, model, list, compared: false };
        if tables.is_empty() {
            return Err(Error::input("E0970", "there is no stage")
                .at(path.display())
                .help("write at least one [[stage]] with a name, a kind and settings"));
        }
        let (mut faults, mut of_keys) = (Faults::default(), 0);
        for (at, table) in tables.into_iter().enumerate() {
            let name = table.get("name").and_then(toml::Value::as_str);
            let name = name.map_or_else(|| (at + 1).to_string(), str::to_owned);
            let place = |key: &str| {
                let line = text.map(|text| sources::line_of(text, "stage", at, key));
                let line = line.map_or(String::new(), |line| format!(":{line}"));
                format!("{}{line}, stage {name}", path.display())
            };
            let mut found = Vec::new();
            let written = WrittenStage::of(table, &place, &mut found);
            of_keys += found.len();
            let stage = match written {
                Some(written) => out.stage(written, beside, &mut found),
                None => Stage::unread(&name),
            };
            for error in found {
                let error = match error.code() {
                    "E0970" => {
                        let place = place(error.place().unwrap_or_default());
                        error.placed(place)
                    }
                    _ => error,
                };
                faults.note(&name, Err::<(), _>(error))?;
            }
            out.list.push(Stage { place: place(INIT_FROM), ..stage });
        }
        // A recipe may be read before its model is made; stages are compared with it before they run.
        let model = Model::open(&out.model).ok();
        out.compare(model.as_ref(), &mut faults)?;
        if of_keys == 1 && faults.len() == 1 {
            whole()?;
        }
        faults.refuse(path)?;
        out.compared = model.is_some();
        out.check_places()?;
        Ok(out)
    }

    /// Compares all stages with the model that the first one begins with, whose sizes and names those of
    /// the others have as well, and first values with what they are to be the first values of. Without the
    /// model, as far as settings alone tell. Faults are noted: E0901 and E0902 for a size, E0523 for targets
    /// of an adapter, E0965 and E0968 for groups of parameters, E0970 for first values.
    ///
    /// # Errors
    /// E1002 where it was told to stop.
    fn compare(&self, model: Option<&Model>, faults: &mut Faults) -> Result<()> {
        for stage in self.list.iter().filter(|stage| stage.state != State::Unread) {
            let (kind, settings) = (stage.kind, &stage.settings);
            if let Some(model) = model {
                faults.note(&stage.name, settings.check_size(model.geometry()))?;
                if kind != Kind::Full {
                    faults.note(&stage.name, targets::check(settings, model))?;
                }
                faults.note(&stage.name, rules::check(settings, kind, model))?;
            }
            let from = stage.init_from.filter(|_| stage.state == State::Sound);
            let Some(from) = from.map(|from| &self.list[from]) else { continue };
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
        Ok(())
    }

    /// Compares all stages with the model, which has to be there now, unless that was done.
    ///
    /// # Errors
    /// Those that [`Self::compare`] notes, E0970 where there are several, and those of opening the model.
    pub(super) fn compare_once(&self) -> Result<()> {
        if self.compared {
            return Ok(());
        }
        let mut faults = Faults::default();
        self.compare(Some(&Model::open(&self.model)?), &mut faults)?;
        faults.refuse(&self.path)
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

    /// A stage behind those that were read, with all that is wrong with it. The place of E0970 is the key that
    /// it is about. What it begins with is looked at where all of that is known.
    fn stage(&self, written: WrittenStage, beside: &Path, faults: &mut Vec<Error>) -> Stage {
        let WrittenStage { name, kind, init_from, result: which, gate: gates, .. } = written;
        faults.extend(self.check_name(&name).err());
        let settings = match written.settings {
            WrittenSettings::File(file) => Settings::open(&beside.join(file), &[], kind),
            WrittenSettings::Here(table) => {
                let place = format!("{}, settings of stage {name}", self.path.display());
                Settings::of_table(table, &place, beside, kind)
            }
        };
        let settings = settings.and_then(|settings| trained(settings, written.network, kind));
        let settings = settings.map_err(|fault| faults.push(fault)).ok();
        faults.extend(settings.iter().flat_map(decided));
        let base = match written.model.as_deref() {
            None if self.list.is_empty() => Some(Base::Start),
            None => Some(Base::Stage(self.list.len() - 1)),
            Some(START) => Some(Base::Start),
            Some(other) => {
                let earlier = self.earlier("model", other).map_err(|fault| faults.push(fault));
                earlier.ok().map(Base::Stage)
            }
        };
        let (given, place) = (init_from.is_some(), String::new());
        let init_from = init_from.and_then(|other| {
            self.earlier(INIT_FROM, &other).map_err(|fault| faults.push(fault)).ok()
        });
        let mut stage = Stage {
            base: base.unwrap_or(Base::Start),
            settings: Settings::default(),
            state: State::Unread,
            name,
            kind,
            init_from,
            which,
            gates,
            place,
        };
        let Some(settings) = settings else { return stage };
        (stage.settings, stage.state) = (settings, State::Loose);
        let before = match stage.base {
            Base::Start => None,
            Base::Stage(at) => Some(at),
        };
        let read = init_from.filter(|from| self.list[*from].state != State::Unread);
        let other = read
            .and_then(|from| self.check_trained(from, (kind, stage.settings.train.network)).err());
        let mut begins = before.into_iter().chain(init_from);
        let known = base.is_some() && given == init_from.is_some() && other.is_none();
        faults.extend(other);
        if known && begins.all(|at| self.list[at].state == State::Sound) {
            let found = self.begins(&stage);
            match found.is_empty() {
                true => stage.state = State::Sound,
                false => faults.extend(found),
            }
        }
        faults.extend(stage.asked());
        stage
    }

    /// What is wrong with what a stage begins with.
    fn begins(&self, stage: &Stage) -> Vec<Error> {
        let Stage { kind, settings, base, init_from, .. } = stage;
        let first = init_from.map(|from| self.check_first(from, *kind, *base));
        let adapters = self.check_adapters(settings, *base, *init_from);
        first.into_iter().chain([adapters]).filter_map(Result::err).collect()
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

impl Stage {
    /// One of which nothing but the name is known.
    fn unread(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Full,
            settings: Settings::default(),
            base: Base::Start,
            init_from: None,
            which: Which::Last,
            gates: Vec::new(),
            place: String::new(),
            state: State::Unread,
        }
    }

    /// What is wrong with the result and the gates that it is asked for.
    fn asked(&self) -> Vec<Error> {
        let Self { kind, settings, which, gates, .. } = self;
        let mut out = Vec::new();
        let missing = match which {
            Which::Best if settings.data.validation.is_none() => Some("data.validation"),
            Which::Average if settings.train.average == 0.0 => Some("train.average"),
            _ => None,
        };
        if let Some(key) = missing {
            let message = format!("result is \"{}\", and {key} is not set", which.name());
            let help = format!("set {key}, or take another result");
            out.push(fault(message, help).at("result"));
        }
        let slots = gates.iter().any(|gate| gate.value.contains("accuracy_"));
        let slots = slots.then(|| labels::named(settings)).flatten();
        let known = Known::of(*kind, settings, slots.as_deref());
        let measured = settings.data.validation.is_some();
        for (number, gate) in (1..).zip(gates) {
            if let Some((what, help)) = gate.fault(settings.train.steps, &known, measured) {
                let key = format!("gate.{number}");
                out.push(fault(format!("gate {number}: {what}"), help).at(key));
            }
        }
        out
    }
}

/// Faults of settings that the stages decide.
fn decided(settings: &Settings) -> Vec<Error> {
    let given = DECIDED.into_iter().filter(|key| settings.gave(key));
    let refused = |key| {
        let help = format!("leave it out of {}", settings.place(key));
        fault(format!("{key} is decided by the stages"), help).at("settings")
    };
    given.map(refused).collect()
}

/// Settings with what a stage says that it trains.
///
/// # Errors
/// E0970 where they say something else, E0976 for what cannot be trained so.
fn trained(
    mut settings: Settings,
    network: Option<TrainedNetwork>,
    kind: Kind,
) -> Result<Settings> {
    if let Some(network) = network {
        let other = std::mem::replace(&mut settings.train.network, network);
        if settings.gave("train.network") && other != network {
            let [own, other] = [network, other].map(TrainedNetwork::name);
            let message = format!("network is {own}, train.network {other}");
            return Err(fault(message, "say it once".to_owned()).at("network"));
        }
    }
    objective::check(kind, &settings).map(|()| settings)
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
    fn all_that_is_wrong_with_stages_is_said_at_once() {
        let told = |text: &str, said: &[&str]| -> Error {
            let error = open(text).unwrap_err();
            assert_eq!(error.code(), "E0970", "{error}");
            said.iter().for_each(|said| assert!(error.message().contains(said), "{said}: {error}"));
            error
        };
        let here = |name: &str, train: &str| {
            format!(
                "[[stage]]\nname = \"{name}\"\nkind = \"full\"\n[stage.settings.data]\n\
                 manifest = \"x\"\n[stage.settings.train]\n{train}\n"
            )
        };
        // Settings of each, and all that can be said of a stage behind them.
        let gates = "gate = [{ value = \"los\", below = 1.0 }, { value = \"loss\" }]";
        let third = format!("model = \"d\"\nresult = \"average\"\ninit_from = \"a\"\n{gates}");
        let three = here("a", "step = 3") + &here("b", "steps = 0") + &stage("c", &third);
        let error = told(
            &three,
            &[
                "3 stages cannot be run:\n  stage a: error[E0955]: unknown field `step`",
                "\n  stage b: error[E0956]: train.steps cannot be 0",
                "\n  stage c: error[E0970]: model names \"d\", which is no earlier stage",
                "\n  stage c: error[E0970]: result is \"average\", and train.average is not set",
                "gate 1: the log of this run has no los",
                "gate 2: loss has no bound",
            ],
        );
        // Nothing is known of the network of the first one.
        assert!(!error.message().contains("trains something else"), "{error}");
        assert_eq!(error.message().matches("error[").count(), 6, "{error}");
        // What a stage begins with, where that is sound, and what follows from it.
        let lora = |name: &str, more: &str| stage(name, more).replace("\"full\"", "\"lora\"");
        let list = format!(
            "{}{}{}{}",
            lora("a", ""),
            lora("b", "init_from = \"a\""),
            lora("c", "init_from = \"b\""),
            stage("d", "init_from = \"a\"")
        );
        let error = told(&list, &["2 stages", "of stage a would count twice", "stage d: "]);
        assert_eq!(error.message().matches("error[").count(), 2, "{error}");
        // Keys of the stages themselves.
        let keys = stage("a", "bound = 3\nresult = \"first\"")
            + &stage("b", "").replace("full", "some")
            + &stage("c", "").replace("name = \"c\"\n", "");
        let said = [
            "3 stages cannot be run:",
            "stage a: error[E0955]: unknown field `bound`\n    --> ",
            "stage a: error[E0955]: result: unknown variant `first`",
            "stages.toml:10, stage b",
            "stage 3: error[E0955]: missing field `name`",
        ];
        told(&keys, &said);
        // One file of settings with a fault is one fault.
        let same = stage("a", "") + &stage("b", "");
        let error = open(&same.replace("run.toml", "none.toml")).unwrap_err();
        assert!(error.place().unwrap().ends_with("none.toml, of stages a, b"), "{error}");
        // A table in place has the same, and no lines.
        let tables = [&three, &keys].map(|text| {
            let table: toml::Table = toml::from_str(text).unwrap();
            table["stage"].clone().try_into::<Vec<toml::Table>>().unwrap()
        });
        for (tables, said) in tables.into_iter().zip(["stage b: error[E0956]", "`bound`"]) {
            let places = ["out", "none"].map(PathBuf::from);
            let path = Path::new("stages.toml");
            let error = Stages::of_tables(path, Path::new(""), places, tables).unwrap_err();
            assert!(error.message().starts_with("3 stages cannot be run"), "{error}");
            assert!(error.message().contains(said), "{error}");
        }
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
            (stage("a", "").replace("run.toml", "none.toml"), "E0911", "none.toml, of stage a", ""),
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
