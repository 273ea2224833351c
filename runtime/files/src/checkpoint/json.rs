//! JSON files and typed look-ups in them, with errors that name file, key, expected and found.

use crate::error::{Error, Result};
use crate::input::read_text;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A JSON object and the file it came from.
#[derive(Clone, Debug)]
pub struct JsonFile {
    /// The file.
    pub path: PathBuf,
    /// Its contents, always an object.
    pub value: Value,
}

/// Largest configuration file.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads a JSON object. Errors: E0703 missing or unreadable, E0704 not JSON or not an object.
pub fn read_json(path: impl Into<PathBuf>) -> Result<JsonFile> {
    let path = path.into();
    let text = read_text(&path, MAX_CONFIG_BYTES, "E0703", "E0704")?;
    let bad = |what: String| {
        let help = if text.starts_with("version https://git-lfs") {
            "it is a Git LFS pointer: run `git lfs pull` in its repository"
        } else if text.trim_start().starts_with('<') {
            "it is a web page: the download returned a page; fetch the file itself"
        } else {
            "correct the file, or fetch it again"
        };
        Error::input("E0704", what).at(path.display()).help(help)
    };
    let value: Value = serde_json::from_str(&text)
        .map_err(|fault| bad(format!("the file is not JSON: {fault}")))?;
    if !value.is_object() {
        return Err(bad(format!("the file holds {}, not an object", describe(&value))));
    }
    Ok(JsonFile { path, value })
}

/// A required non-negative integer. Errors: E0710 absent or null, E0711 of another type.
pub fn get_u64(value: &Value, key: &str, path: &Path) -> Result<u64> {
    required(optional_u64(value, key, path)?, "a non-negative integer", key, path)
}

/// A required number. Errors: E0710 absent or null, E0711 of another type.
pub fn get_f64(value: &Value, key: &str, path: &Path) -> Result<f64> {
    required(optional_f64(value, key, path)?, "a number", key, path)
}

/// A required boolean. Errors: E0710 absent or null, E0711 of another type.
pub fn get_bool(value: &Value, key: &str, path: &Path) -> Result<bool> {
    required(optional_bool(value, key, path)?, "true or false", key, path)
}

/// A required text. Errors: E0710 absent or null, E0711 of another type.
pub fn get_string(value: &Value, key: &str, path: &Path) -> Result<String> {
    required(optional_string(value, key, path)?, "a text", key, path)
}

/// A required list of non-negative integers. Errors: E0710 absent or null, E0711 of another type.
pub fn get_u64_list(value: &Value, key: &str, path: &Path) -> Result<Vec<u64>> {
    let list = optional_u64_list(value, key, path)?;
    required(list, "a list of non-negative integers", key, path)
}

/// A required list of numbers. Errors: E0710 absent or null, E0711 of another type.
pub fn get_f64_list(value: &Value, key: &str, path: &Path) -> Result<Vec<f64>> {
    required(optional_f64_list(value, key, path)?, "a list of numbers", key, path)
}

/// A non-negative integer; `None` if absent or null. Errors: E0711 of another type.
pub fn optional_u64(value: &Value, key: &str, path: &Path) -> Result<Option<u64>> {
    optional(value, key, path, "a non-negative integer", Value::as_u64)
}

/// A number; `None` if absent or null. Errors: E0711 of another type.
pub fn optional_f64(value: &Value, key: &str, path: &Path) -> Result<Option<f64>> {
    optional(value, key, path, "a number", Value::as_f64)
}

/// A boolean; `None` if absent or null. Errors: E0711 of another type.
pub fn optional_bool(value: &Value, key: &str, path: &Path) -> Result<Option<bool>> {
    optional(value, key, path, "true or false", Value::as_bool)
}

/// A text; `None` if absent or null. Errors: E0711 of another type.
pub fn optional_string(value: &Value, key: &str, path: &Path) -> Result<Option<String>> {
    optional(value, key, path, "a text", |value| value.as_str().map(str::to_owned))
}

/// A list of non-negative integers; `None` if absent or null. Errors: E0711 of another type.
pub fn optional_u64_list(value: &Value, key: &str, path: &Path) -> Result<Option<Vec<u64>>> {
    optional_list(value, key, path, "a non-negative integer", Value::as_u64)
}

/// A list of numbers; `None` if absent or null. Errors: E0711 of another type.
pub fn optional_f64_list(value: &Value, key: &str, path: &Path) -> Result<Option<Vec<f64>>> {
    optional_list(value, key, path, "a number", Value::as_f64)
}

fn required<T>(found: Option<T>, expected: &str, key: &str, path: &Path) -> Result<T> {
    found.ok_or_else(|| {
        Error::input("E0710", format!("`{key}` is missing; expected {expected}"))
            .at(path.display())
            .help("the file is incomplete or for another model: fetch it again")
    })
}

fn optional<T>(
    value: &Value,
    key: &str,
    path: &Path,
    expected: &str,
    convert: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(found) => match convert(found) {
            Some(converted) => Ok(Some(converted)),
            None => Err(wrong_type(key, found, expected, path)),
        },
    }
}

fn optional_list<T>(
    value: &Value,
    key: &str,
    path: &Path,
    expected: &str,
    convert: impl Fn(&Value) -> Option<T>,
) -> Result<Option<Vec<T>>> {
    let Some(found) = value.get(key).filter(|found| !found.is_null()) else { return Ok(None) };
    let Some(items) = found.as_array() else {
        return Err(wrong_type(key, found, "a list", path));
    };
    let converted = items.iter().enumerate().map(|(at, item)| {
        convert(item).ok_or_else(|| wrong_type(&format!("{key}[{at}]"), item, expected, path))
    });
    converted.collect::<Result<Vec<T>>>().map(Some)
}

pub(crate) fn wrong_type(key: &str, found: &Value, expected: &str, path: &Path) -> Error {
    Error::input("E0711", format!("`{key}` is {}; expected {expected}", describe(found)))
        .at(path.display())
        .help("correct the file, or fetch it again")
}

/// A value as a message names it; long ones are cut.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => format!("the boolean {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => {
            let cut: String = text.chars().take(60).collect();
            let dots = if cut.len() < text.len() { "…" } else { "" };
            format!("the text {cut:?}{dots}")
        }
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
