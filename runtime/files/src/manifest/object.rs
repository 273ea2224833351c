//! The objects of a manifest's line, with everything that is wrong with them.
//!
//! Reading a field never stops at a fault: the fault is noted, with the part of the line that it is
//! in, and reading goes on, so that one look shows all of a line. Fields that are not known are left
//! alone (`formats.md` §6); one that looks like a misspelt known field gets a warning.

use super::Field;
use anyid_ir::spelling::nearest;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// What was found out about a line.
#[derive(Debug, Default)]
pub struct Notes {
    /// Why it cannot be used, and which parts of it are at fault.
    pub faults: Vec<(Field, String)>,
    /// What is odd, each with a word for its kind: many lines may have the same.
    pub warnings: Vec<(&'static str, String)>,
}

/// Whether a path lies below whatever it starts at, on every system: `/` between folders, no `..`, no
/// root.
pub fn is_below(name: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.contains('\\') && Path::new(name).components().all(plain)
}

/// Whether this is a SHA-256 in hexadecimal.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An object of a line, and what it is called in messages, such as `reference 2: `.
pub struct Object<'v> {
    fields: &'v Map<String, Value>,
    place: String,
    field: Field,
}

/// Whether this is a name: at most 64 letters, digits, `_` and `-`.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.len() <= 64 && text.chars().all(fits)
}

impl<'v> Object<'v> {
    /// An object that stands by itself: the line, or one in a list.
    pub fn listed(value: &'v Value, field: Field, notes: &mut Notes) -> Option<Self> {
        let (fields, place) = (value.as_object(), field.to_string());
        if fields.is_none() {
            notes.faults.push((field, format!("{place}this is not a JSON object")));
        }
        Some(Self { fields: fields?, place, field })
    }

    /// Notes a fault of what is under `key`.
    pub fn fault(&self, notes: &mut Notes, key: &str, what: impl AsRef<str>) {
        let what = format!("{}{}", self.place, what.as_ref());
        notes.faults.push((self.field.below(key), what));
    }

    /// Notes something odd about it.
    pub fn warn(&self, notes: &mut Notes, kind: &'static str, what: impl AsRef<str>) {
        notes.warnings.push((kind, format!("{}{}", self.place, what.as_ref())));
    }

    /// Whether a field is there.
    pub fn has(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// Whether a field is there twice, so that nobody knows which of its values is meant. That is among
    /// the faults already.
    pub fn is_twice(&self, notes: &Notes, key: &str) -> bool {
        let twice = || format!("{}\"{key}\" is there twice", self.place);
        // References of a pair have a longer place there.
        !notes.faults.is_empty() && notes.faults.iter().any(|(_, fault)| fault.ends_with(&twice()))
    }

    /// A field that may be left out; `null` counts as left out.
    pub fn optional(&self, key: &str) -> Option<&'v Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub fn required(&self, notes: &mut Notes, key: &str) -> Option<&'v Value> {
        let value = self.fields.get(key);
        if value.is_none() {
            let near = nearest(key, self.fields.keys().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; is it \"{near}\"?"));
            self.fault(notes, key, format!("\"{key}\" is missing{near}"));
        }
        value
    }

    /// An object in this one.
    pub fn section(&self, notes: &mut Notes, key: &str) -> Option<Self> {
        let value = self.required(notes, key)?;
        if value.as_object().is_none() {
            self.fault(notes, key, format!("\"{key}\" is not a JSON object"));
        }
        let (place, field) = (format!("{}{key}: ", self.place), self.field.below(key));
        Some(Self { fields: value.as_object()?, place, field })
    }

    /// All fields, which must be whole numbers from 0 or texts, under names as in [`Self::identifier`].
    pub fn each(&self, notes: &mut Notes) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (key, value) in self.fields {
            let class = match value {
                Value::String(text) if !text.is_empty() && text.len() <= 64 => Some(text.clone()),
                other => other.as_u64().map(|number| number.to_string()),
            };
            match class {
                _ if !is_name(key) => {
                    let what = format!("\"{key}\": use at most 64 letters, digits, _ and -");
                    self.fault(notes, key, what);
                }
                Some(class) => drop(out.insert(key.clone(), class)),
                None => {
                    let what = "not a whole number, 0 or more, or a text of at most 64 bytes";
                    self.fault(notes, key, format!("\"{key}\" is {value}, {what}"));
                }
            }
        }
        out
    }

    /// A text that is not empty.
    pub fn string(&self, notes: &mut Notes, key: &str) -> Option<&'v str> {
        match self.required(notes, key)? {
            Value::String(text) if !text.trim().is_empty() => return Some(text),
            Value::String(_) => self.fault(notes, key, format!("\"{key}\" is empty")),
            other => self.fault(notes, key, format!("\"{key}\" is {}, not text", kind(other))),
        }
        None
    }

    /// A text that may be left out.
    pub fn text(&self, notes: &mut Notes, key: &str) -> Option<String> {
        match self.optional(key)? {
            Value::String(text) => return Some(text.clone()),
            other => self.fault(notes, key, format!("\"{key}\" is {}, not text", kind(other))),
        }
        None
    }

    /// A SHA-256 that may be left out.
    pub fn hash(&self, notes: &mut Notes, key: &str) -> Option<String> {
        let text = self.text(notes, key)?;
        if is_sha256(&text) {
            return Some(text);
        }
        self.fault(notes, key, format!("\"{key}\" is \"{text}\", not 64 hexadecimal digits"));
        None
    }

    /// A name of at most 64 letters, digits, `_` and `-`.
    pub fn identifier(&self, notes: &mut Notes, key: &str) -> Option<String> {
        let text = self.string(notes, key)?;
        if is_name(text) {
            return Some(text.to_owned());
        }
        self.fault(
            notes,
            key,
            format!("\"{key}\" is \"{text}\": use at most 64 letters, digits, _ and -"),
        );
        None
    }

    /// A whole number that may be left out.
    pub fn count(&self, notes: &mut Notes, key: &str) -> Option<usize> {
        /// More frames than any clip has.
        const MOST: u64 = 100_000_000;
        let value = self.optional(key)?;
        let number = value.as_u64().filter(|number| *number <= MOST);
        if number.is_none() {
            let what = match value.as_f64() {
                Some(number) if number > MOST as f64 => format!("more than {MOST}"),
                _ => "not a whole number, 0 or more".to_owned(),
            };
            self.fault(notes, key, format!("\"{key}\" is {value}, {what}"));
        }
        number.map(|number| number as usize)
    }

    /// A whole number that must be there.
    pub fn required_count(&self, notes: &mut Notes, key: &str) -> Option<usize> {
        self.required(notes, key)?;
        if self.optional(key).is_none() {
            self.fault(notes, key, format!("\"{key}\" is null, not a whole number"));
        }
        self.count(notes, key)
    }

    /// A number that may be left out.
    pub fn number(&self, notes: &mut Notes, key: &str) -> Option<f64> {
        let value = self.optional(key)?;
        let number = value.as_f64();
        if number.is_none() {
            self.fault(notes, key, format!("\"{key}\" is {value}, not a number"));
        }
        number
    }

    /// A path below the root.
    pub fn path(&self, notes: &mut Notes, key: &str) -> Option<&'v Path> {
        let name = self.string(notes, key)?;
        if is_below(name) {
            return Some(Path::new(name));
        }
        let what = "it must lie below the root, with / between folders and without ..";
        self.fault(notes, key, format!("\"{key}\" is \"{name}\": {what}"));
        None
    }

    /// Left, top, right and bottom, which may be left out.
    pub fn crop(&self, notes: &mut Notes, key: &str) -> Option<[f64; 4]> {
        let value = self.optional(key)?;
        let sides: Option<Vec<f64>> =
            value.as_array().and_then(|sides| sides.iter().map(Value::as_f64).collect());
        let sides = sides.and_then(|sides| <[f64; 4]>::try_from(sides).ok());
        if sides.is_none() {
            self.fault(notes, key, format!("\"{key}\" is not a list of four numbers"));
        }
        sides
    }

    /// Warns of fields that look like one of `known`, which is not there, and of those of `idle`,
    /// which this object has no use for.
    pub fn spelling(&self, notes: &mut Notes, known: &[&str], idle: &[&str]) {
        for key in self.fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let absent = known.iter().copied().filter(|known| !self.has(known));
            match (idle.contains(&key.as_str()), nearest(key, absent)) {
                (true, _) => self.warn(notes, "idle", format!("\"{key}\" is not read here")),
                (false, Some(near)) => {
                    let what = format!("\"{key}\" is not read; is \"{near}\" meant?");
                    self.warn(notes, "spelling", what);
                }
                (false, None) => {}
            }
        }
    }
}

/// Whether a fault says that a field is missing and `warning` that it is misspelt.
pub fn same_field(fault: &str, warning: &str) -> bool {
    let mut parts = warning.split('"');
    let (place, key, near) = (parts.next(), parts.next(), parts.nth(1));
    place.zip(key).zip(near).is_some_and(|((place, key), near)| {
        fault == format!("{place}\"{near}\" is missing; is it \"{key}\"?")
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
