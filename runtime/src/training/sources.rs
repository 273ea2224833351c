//! Where the values of settings come from: lines of a TOML file, and flags that override them.
//!
//! Text and flags become one table here, and every value remembers its source, so that an error can
//! say which line or flag gave it. What the values mean is for `settings.rs`.

use crate::error::{Error, Result};
use anyid_ir::spelling::nearest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::de::DeTable;

/// A value that takes the place of the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// `section.key=value`; text may stand without quotes.
    pub text: String,
    /// What gave it, as it was typed: `--set train.steps=200` or `--steps 200`.
    pub flag: String,
}

impl Override {
    /// The value of `--set`.
    pub fn set(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { flag: format!("--set {text}"), text }
    }
}

/// Where each value is from, by `section.key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file.
    file: String,
    places: BTreeMap<String, String>,
}

impl Sources {
    /// Where `key` got its value: the flag, the line of the file, or the file, which left it out.
    pub fn place(&self, key: &str) -> String {
        self.places.get(key).unwrap_or(&self.file).clone()
    }

    /// The file, or what it is a part of.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether anything gave it a value.
    pub fn gave(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }
}

/// The error of what is no setting, from `place`; `key` is the one whose value is at fault.
pub fn no_setting(error: &toml::de::Error, key: Option<&str>, place: &str) -> Error {
    Error::input("E0955", said(error.message(), key)).at(place).help(help(error.message()))
}

const HELP: &str = "docs/training.md lists every setting";

/// Says whether a table can be settings.
pub type Check<'c> = &'c dyn Fn(&toml::Table) -> std::result::Result<(), toml::de::Error>;

/// Settings that were read, and what is wrong with the rest.
#[derive(Debug, Default)]
pub struct Read {
    /// What can be settings.
    pub table: toml::Table,
    /// Where it is from.
    pub sources: Sources,
    /// What is none (E0955).
    pub faults: Vec<Error>,
    /// Keys of which nothing is known because of these faults: a section stands for all of its keys, and a
    /// misspelt name for the one that was probably meant.
    pub unknown: BTreeSet<String>,
}

impl Read {
    /// The table of the TOML text of the file at `path` with `overrides` in it.
    ///
    /// # Errors
    /// E0955 where it is no TOML.
    pub fn of_text(
        path: &Path,
        text: &str,
        overrides: &[Override],
        check: Check<'_>,
    ) -> Result<Self> {
        if text.trim_start().starts_with('{') {
            return Err(Error::input("E0955", "this is JSON, and settings are TOML")
                .at(path.display())
                .help("give the file of settings with --config; it names the manifest"));
        }
        let table: toml::Table = toml::from_str(text).map_err(|e| refused(&e, text, path))?;
        let sources = Sources { file: path.display().to_string(), places: lines(text, path) };
        let mut out = Self { sources, ..Self::default() };
        out.take(table, check);
        rooted(&mut out.table, path.parent().unwrap_or(Path::new("")));
        overrides.iter().for_each(|given| out.set(given, check));
        Ok(out)
    }

    /// Of a table that is a part of something else, `place`; its paths start at `folder`.
    pub fn of_table(table: toml::Table, place: &str, folder: &Path, check: Check<'_>) -> Self {
        let mut places = BTreeMap::new();
        for (section, keys) in &table {
            places.insert(section.clone(), place.to_owned());
            for (key, _) in keys.as_table().into_iter().flatten() {
                places.insert(format!("{section}.{key}"), place.to_owned());
            }
        }
        let sources = Sources { file: place.to_owned(), places };
        let mut out = Self { sources, ..Self::default() };
        out.take(table, check);
        rooted(&mut out.table, folder);
        out
    }

    /// Takes what can be settings, key by key, so that every fault is found and has its place.
    fn take(&mut self, table: toml::Table, check: Check<'_>) {
        for (section, value) in table {
            let alone = |value| toml::Table::from_iter([(section.clone(), value)]);
            let empty = || toml::Value::Table(toml::Table::new());
            // A section that there is not is one fault, whatever is in it.
            let whole = match &value {
                toml::Value::Table(_) => alone(empty()),
                toml::Value::Array(tables) if tables.iter().any(toml::Value::is_table) => {
                    alone(toml::Value::Array(vec![empty()]))
                }
                value => alone(value.clone()),
            };
            if let Err(fault) = check(&whole) {
                self.refuse(&fault, None, &section);
                continue;
            }
            let kept = match value {
                toml::Value::Table(keys) => {
                    let one = |one| check(&alone(toml::Value::Table(one)));
                    toml::Value::Table(self.keys(keys, &section, &one))
                }
                toml::Value::Array(tables) => {
                    let one =
                        |one| check(&alone(toml::Value::Array(vec![toml::Value::Table(one)])));
                    let tables = (1..).zip(tables).map(|(number, table)| match table {
                        toml::Value::Table(keys) => {
                            let name = format!("{section}.{number}");
                            toml::Value::Table(self.keys(keys, &name, &one))
                        }
                        other => other,
                    });
                    toml::Value::Array(tables.collect())
                }
                other => other,
            };
            self.table.insert(section, kept);
        }
    }

    /// The keys of a section that can be settings.
    fn keys(
        &mut self,
        keys: toml::Table,
        section: &str,
        check: &dyn Fn(toml::Table) -> std::result::Result<(), toml::de::Error>,
    ) -> toml::Table {
        let mut kept = toml::Table::new();
        for (key, value) in keys {
            match check(toml::Table::from_iter([(key.clone(), value.clone())])) {
                Ok(()) => drop(kept.insert(key, value)),
                Err(fault) => self.refuse(&fault, Some(section), &key),
            }
        }
        kept
    }

    /// Notes that a key, or a section without one, is no setting.
    fn refuse(&mut self, fault: &toml::de::Error, section: Option<&str>, key: &str) {
        let below = |key: &str| section.map_or(key.to_owned(), |own| format!("{own}.{key}"));
        let (name, message) = (below(key), fault.message());
        let place = self.sources.place(&name);
        self.faults.push(match section {
            None if !message.starts_with("unknown") => {
                Error::input("E0955", format!("{key} is no section")).at(place).help(format!(
                    "write {} with its keys below; {HELP}",
                    if key == "group" { "[[group]]".to_owned() } else { format!("[{key}]") }
                ))
            }
            _ => no_setting(fault, Some(&name), &place),
        });
        let near = meant(message).map(below).filter(|near| !self.sources.gave(near));
        self.unknown.extend(near);
        self.unknown.insert(name);
    }

    /// Puts the value of a flag in the place of the file's.
    fn set(&mut self, Override { text, flag }: &Override, check: Check<'_>) {
        let fault = |message: String, help: &str| {
            Error::input("E0955", message).at(flag).help(help.to_owned())
        };
        let Some((section, key, value)) = parsed(text) else {
            let message = format!("\"{text}\" is not section.key=value");
            return self.faults.push(fault(message, "write it as in --set train.steps=200"));
        };
        if section == "group" {
            let message = "groups cannot be set by a flag".to_owned();
            return self.faults.push(fault(message, "write a [[group]] in the file"));
        }
        let of = |keys| toml::Table::from_iter([(section.to_owned(), toml::Value::Table(keys))]);
        self.sources.places.insert(format!("{section}.{key}"), flag.clone());
        let own = toml::Table::from_iter([(key.to_owned(), value.clone())]);
        if let Err(fault) = check(&of(own)) {
            if check(&of(toml::Table::new())).is_ok() {
                return self.refuse(&fault, Some(section), key);
            }
            self.sources.places.insert(section.to_owned(), flag.clone());
            return self.refuse(&fault, None, section);
        }
        let empty = || toml::Value::Table(toml::Table::new());
        let keys = self.table.entry(section).or_insert_with(empty);
        if let Some(keys) = keys.as_table_mut() {
            keys.insert(key.to_owned(), value);
        }
    }
}

/// One error of everything that is wrong with settings of `file`, if anything is: in the order of lines, with
/// flags behind them.
///
/// # Errors
/// That of a single fault; of several E0955 where one is no setting, else their common code, or E0956.
pub fn refuse_all(mut faults: Vec<Error>, file: &str) -> Result<()> {
    let line = |fault: &Error| {
        let number = fault.place().and_then(|place| place.strip_prefix(file)?.strip_prefix(':'));
        number.and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
    };
    faults.sort_by_key(line);
    let Some(first) = faults.first() else { return Ok(()) };
    let code = match first.code() {
        _ if faults.iter().any(|fault| fault.code() == "E0955") => "E0955",
        code if faults.iter().all(|fault| fault.code() == code) => code,
        _ => "E0956",
    };
    if faults.len() == 1 {
        return Err(faults.remove(0));
    }
    let rows: Vec<String> = faults.iter().map(|fault| row(fault, file)).collect();
    let message = format!("{} faults in the settings:{}", faults.len(), rows.concat());
    Err(Error::input(code, message).at(file).help(format!("correct all of them; {HELP}")))
}

/// A fault of settings as a line of a list, with what helps.
fn row(fault: &Error, file: &str) -> String {
    let place = fault.place().filter(|place| *place != file);
    let place = place.map_or(String::new(), |place| format!("{place}: "));
    let help = fault.help_text().unwrap_or_default().replace(HELP, "");
    let help = help.trim_end_matches(['.', ';', ' ']);
    let help = if help.is_empty() { String::new() } else { format!("; {help}") };
    format!("\n  {place}{}{help}", fault.message())
}

/// The names of the sections of TOML text.
///
/// # Errors
/// E0955 where it is not TOML.
pub fn sections(text: &str, path: &Path) -> Result<Vec<String>> {
    let table: toml::Table = toml::from_str(text).map_err(|e| refused(&e, text, path))?;
    Ok(table.into_iter().map(|(name, _)| name).collect())
}

/// The value of `section.key` in a table, as it would be written; of `section.NUMBER.key`, counted from 1,
/// where the section is a list of tables.
pub fn value_at(table: &toml::Table, key: &str) -> Option<String> {
    let (section, key) = key.split_once('.')?;
    let section = table.get(section)?;
    Some(written(match key.split_once('.') {
        Some((number, key)) => {
            section.get(number.parse::<usize>().ok()?.checked_sub(1)?)?.get(key)?
        }
        None => section.get(key)?,
    }))
}

fn written(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("\"{text}\""),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) if number.is_nan() => "nan".to_owned(),
        toml::Value::Float(number) => format!("{number:?}"),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::Array(list) => {
            format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", "))
        }
        toml::Value::Table(_) => "a section".to_owned(),
    }
}

/// The line of every key of the text.
fn lines(text: &str, path: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let Ok(table) = DeTable::parse(text) else { return out };
    for (section, keys) in table.get_ref() {
        let begins = section.span().start;
        let section = section.get_ref();
        out.insert(section.to_string(), at(path, text, begins));
        let one = keys.get_ref().as_table().map(|keys| (section.to_string(), keys));
        let several = keys.get_ref().as_array().into_iter().flatten().enumerate();
        let several = several.filter_map(|(before, table)| {
            Some((format!("{section}.{}", before + 1), table.get_ref().as_table()?))
        });
        for (section, keys) in one.into_iter().chain(several) {
            for (key, _) in keys {
                let name = format!("{section}.{}", key.get_ref());
                out.insert(name, at(path, text, key.span().start));
            }
        }
    }
    out
}

/// The line of `key` in table `at`, from 0, of the tables `[[section]]` of TOML text: that of a setting, or of
/// table NUMBER of its tables, as `key.NUMBER`. Where it is not there, the line of the table's first key.
pub fn line_of(text: &str, section: &str, at: usize, key: &str) -> usize {
    let place = || {
        let table = DeTable::parse(text).ok()?;
        let tables = table.get_ref().iter().find(|(name, _)| name.get_ref() == section)?.1;
        let keys = tables.get_ref().as_array()?.get(at)?.get_ref().as_table()?;
        let (name, number) = key.split_once('.').unwrap_or((key, ""));
        let first = keys.iter().map(|(key, _)| key.span().start).min();
        let Some((own, value)) = keys.iter().find(|(key, _)| key.get_ref() == name) else {
            return first;
        };
        let inner = number.parse::<usize>().ok().and_then(|number| {
            let one = value.get_ref().as_array()?.get(number.checked_sub(1)?)?;
            let inner = one.get_ref().as_table()?;
            inner.iter().map(|(key, _)| key.span().start).min()
        });
        inner.or(Some(own.span().start))
    };
    let offset = place().unwrap_or(0);
    1 + text[..offset].matches('\n').count()
}

fn at(path: &Path, text: &str, offset: usize) -> String {
    format!("{}:{}", path.display(), 1 + text[..offset].matches('\n').count())
}

/// The error of TOML text, with the line.
pub fn refused(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let place = match error.span() {
        Some(span) => at(path, text, span.start),
        None => path.display().to_string(),
    };
    let key = error.span().and_then(|span| key_before(text, span.start));
    Error::input("E0955", said(error.message(), key)).at(place).help(help(error.message()))
}

/// The key whose value begins at `offset`, where it stands right before it.
fn key_before(text: &str, offset: usize) -> Option<&str> {
    let before = text[..offset].trim_end().strip_suffix('=')?.trim_end();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let key = &before[before.trim_end_matches(plain).len()..];
    (!key.is_empty()).then_some(key)
}

/// What the reader says of the value of a key. The names that there are instead of an unknown one are
/// for the help.
fn said(message: &str, key: Option<&str>) -> String {
    let words = in_words(message);
    match (words.split_once(", expected "), key) {
        (Some((unknown, _)), _) if unknown.starts_with("unknown field") => unknown.to_owned(),
        (Some((unknown, _)), Some(key)) if unknown.starts_with("unknown") => {
            format!("{key}: {unknown}")
        }
        (_, Some(key)) => format!("{key}: {words}"),
        (_, None) => words,
    }
}

/// A message of the reader in the words of the page about settings.
fn in_words(message: &str) -> String {
    // Of a negative number it has to be said what is wrong with it; how small one may be is said elsewhere.
    let negative = message.contains("integer `-");
    let whole =
        if negative { "expected a whole number, 0 or more" } else { "expected a whole number" };
    let words: [(&str, &str); 9] = [
        ("expected u64", whole),
        ("expected u32", whole),
        ("expected usize", whole),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list, such as [\"a\", \"b\"]"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected text in quotes"),
        ("expected path string", "expected a path in quotes"),
        ("floating point", "number"),
    ];
    words.iter().fold(message.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The name that was probably meant where the reader does not know one.
fn meant(message: &str) -> Option<&str> {
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next().filter(|_| message.starts_with("unknown"));
    unknown.and_then(|name| nearest(name, words))
}

/// What to do: with the name that was probably meant, where there is one.
fn help(message: &str) -> String {
    match (meant(message), message.split_once(", expected ")) {
        (Some(near), _) => format!("did you mean {near}? {HELP}"),
        (None, Some((unknown, names))) if unknown.starts_with("unknown") => {
            format!("it is {}; {HELP}", names.replace('`', ""))
        }
        _ => HELP.to_owned(),
    }
}

/// Paths of settings, which start at the folder of the file that they are in.
const PATHS: [(&str, &str); 8] = [
    ("model", "path"),
    ("data", "manifest"),
    ("data", "root"),
    ("data", "validation"),
    ("data", "cache"),
    ("run", "folder"),
    ("run", "judge"),
    ("validate", "config"),
];

/// Makes relative paths of settings start at `folder`.
pub fn rooted(table: &mut toml::Table, folder: &Path) {
    for (section, key) in PATHS {
        let value = table.get_mut(section).and_then(|keys| keys.get_mut(key));
        if let Some(toml::Value::String(path)) = value
            && !path.is_empty()
        {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    }
    let adapters = table.get_mut("model").and_then(|keys| keys.get_mut("adapters"));
    if let Some(toml::Value::Array(adapters)) = adapters {
        for adapter in adapters {
            if let toml::Value::String(path) = adapter {
                *path = folder.join(&*path).to_string_lossy().into_owned();
            }
        }
    }
}

/// Section, key and value of `section.key=value`; a value that is not TOML is text.
fn parsed(item: &str) -> Option<(&str, &str, toml::Value)> {
    let (name, value) = item.split_once('=')?;
    let (section, key) = name.trim().split_once('.')?;
    let text = value.trim();
    let read = toml::from_str::<toml::Table>(&format!("v = {text}"));
    let value = read.ok().and_then(|mut table| table.remove("v"));
    Some((section, key, value.unwrap_or_else(|| toml::Value::String(text.to_owned()))))
}
