//! Reading sizes from configuration files and tensor shapes, with their limits.

use super::{ConfigError, MAX_BLOCKS, MAX_SIZE, ShapeLookup};
use serde_json::{Map, Value, json};

/// The keys of one configuration file.
pub(super) struct Reader<'a> {
    object: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    pub(super) fn of(config: &'a Value) -> Result<Self, ConfigError> {
        match config.as_object() {
            Some(object) => Ok(Self { object }),
            None => Err(fault("config.json", "is not a JSON object")),
        }
    }

    /// As `of`, refusing the configuration of another class.
    pub(super) fn new(config: &'a Value, class: &str) -> Result<Self, ConfigError> {
        let reader = Self::of(config)?;
        let message = format!("only {class} is supported here");
        reader.demand("_class_name", &json!(class), &message)?;
        Ok(reader)
    }

    /// The value of a key that is there and not null.
    pub(super) fn given(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, key: &str) -> Result<&'a Value, ConfigError> {
        self.object.get(key).ok_or_else(|| fault(key, "is missing"))
    }

    /// Refuses every value of a key but one; a missing key is fine.
    pub(super) fn demand(
        &self,
        key: &str,
        wanted: &Value,
        message: &str,
    ) -> Result<(), ConfigError> {
        match self.object.get(key) {
            Some(found) if found != wanted => {
                Err(fault(key, format!("{}: {message}", shown(found))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A whole number; its range is checked by `validate`.
    pub(super) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        let value = self.required(key)?;
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| fault(key, format!("{} is not a whole number", shown(value))))
    }

    /// As [`Self::size`], or a default for a key that is missing or null.
    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        if self.given(key).is_some() { self.size(key) } else { Ok(default) }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        let value = self.required(key)?;
        value.as_bool().ok_or_else(|| fault(key, format!("{} is not true or false", shown(value))))
    }

    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        match self.given(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| fault(key, format!("{} is not a number", shown(value)))),
        }
    }

    pub(super) fn list<T>(
        &self,
        key: &str,
        what: &str,
        item: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        let value = self.required(key)?;
        let items = value.as_array().and_then(|items| items.iter().map(item).collect());
        items.ok_or_else(|| fault(key, format!("{} is not a list of {what}", shown(value))))
    }

    pub(super) fn patch(&self, key: &str) -> Result<[u32; 3], ConfigError> {
        let sizes = self.list(key, "whole numbers", |v| u32::try_from(v.as_u64()?).ok())?;
        let count = sizes.len();
        sizes.try_into().map_err(|_| fault(key, format!("has {count} sizes, not 3")))
    }
}

pub(super) fn fault(key: &str, message: impl Into<String>) -> ConfigError {
    ConfigError { key: key.to_owned(), message: message.into() }
}

/// A value of a file, cut short for a message.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(57).chain("...".chars()).collect()
}

pub(super) fn sizes(all: &[(&str, usize)]) -> Result<(), ConfigError> {
    for (key, size) in all {
        if !(1..=MAX_SIZE).contains(size) {
            return Err(fault(key, format!("{size} is not a size from 1 to {MAX_SIZE}")));
        }
    }
    Ok(())
}

pub(super) fn blocks(key: &str, count: usize) -> Result<(), ConfigError> {
    if (1..=MAX_BLOCKS).contains(&count) {
        return Ok(());
    }
    Err(fault(key, format!("{count} is not a number of blocks from 1 to {MAX_BLOCKS}")))
}

pub(super) fn epsilon(key: &str, eps: f64) -> Result<(), ConfigError> {
    // Norms compute in singles.
    if eps < 1.0 && eps as f32 > 0.0 {
        return Ok(());
    }
    Err(fault(key, format!("{eps} is not between 0 and 1 as a single")))
}

/// Input and output width of each level whose output is `base` times its multiple.
pub(super) fn levels<'a>(
    base: usize,
    start: usize,
    mults: impl Iterator<Item = &'a usize>,
) -> Vec<(usize, usize)> {
    let mut from = base * start;
    let next = |mult: &usize| {
        let pair = (from, base * mult);
        from = pair.1;
        pair
    };
    mults.map(next).collect()
}

/// The shape of a tensor that must be there.
pub(super) fn of(shape: ShapeLookup<'_>, name: &str) -> Result<Vec<u64>, ConfigError> {
    shape(name).ok_or_else(|| fault(name, "the tensor is missing"))
}

/// One size of a tensor that must be there.
pub(super) fn dimension(
    shape: ShapeLookup<'_>,
    name: &str,
    axis: usize,
) -> Result<usize, ConfigError> {
    let found = of(shape, name)?;
    match found.get(axis) {
        Some(size) => usize_of(name, *size),
        None => Err(fault(name, format!("has {} axes, needs {}", found.len(), axis + 1))),
    }
}

pub(super) fn usize_of(name: &str, size: u64) -> Result<usize, ConfigError> {
    let small = usize::try_from(size).ok().filter(|size| (1..=MAX_SIZE).contains(size));
    small.ok_or_else(|| fault(name, format!("{size} is not a size from 1 to {MAX_SIZE}")))
}

/// How many numbered tensors there are, counted from 0 without a gap.
pub(super) fn counted(shape: ShapeLookup<'_>, name: impl Fn(usize) -> String) -> usize {
    (0..=MAX_BLOCKS).take_while(|i| shape(&name(*i)).is_some()).count()
}

/// The shortest decimals that give these f32 back, so that files stay readable.
pub(super) fn decimals(values: &[f32]) -> Vec<f64> {
    let shortest = |value: &f32| value.to_string().parse().unwrap_or(f64::from(*value));
    values.iter().map(shortest).collect()
}
