//! Recipes inside media files: what of a recipe goes into a result, and how it is found there again.
//!
//! A result goes to other people, so that it names files without their folders and does not say where it
//! was written: this also makes the same run give the same bytes wherever it runs. Files are found again
//! beside the result, by name and hash. What other programs wrote is read by `foreign.rs`. `formats.md §7`.

use super::foreign::Foreign;
use super::{FORMAT, LARGEST, Recipe, no_recipe};
use crate::error::Result;
use crate::input;
use crate::media::inscription::{self, COMMENT, Inscription, KEY, PARAMETERS, Text, Texts};
use crate::model::Parts;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a media file says about how it was made.
#[derive(Debug, Default)]
pub struct Inside {
    /// The recipe, or what is wrong with it; `None` where there is none.
    pub recipe: Option<Result<Recipe>>,
    /// What another program wrote, if there is no recipe of ours.
    pub foreign: Option<Foreign>,
    /// Texts that were left out.
    pub warnings: Vec<String>,
}

/// The media file that a name stands for: itself, or the first of a folder of frames. `None` for everything
/// else, whatever it is.
pub fn media_of(path: &Path) -> Option<PathBuf> {
    let path = match path.is_dir() {
        true => path.join("frame_00000.png"),
        false => path.to_owned(),
    };
    let head = input::head(&path, 256).ok()?;
    inscription::may_hold(&head).then_some(path)
}

/// Reads what a media file says about how it was made.
///
/// # Errors
/// E0801 to E0803 for a file that cannot be read, E0811 where `ffmpeg` cannot be started. What is wrong with
/// the texts themselves is part of the result.
pub fn read(path: &Path) -> Result<Inside> {
    let texts = inscription::read(path, true)?;
    let mut recipe: Option<Result<Recipe>> = None;
    for text in &texts.list {
        let Some(found) = own(text, path) else { continue };
        // The first that can be read is taken: some forms have it twice.
        if recipe.is_none() || (found.is_ok() && recipe.as_ref().is_some_and(Result::is_err)) {
            recipe = Some(found);
        }
    }
    let foreign = recipe.is_none().then(|| settings(&texts)).flatten();
    Ok(Inside { recipe, foreign, warnings: texts.warnings })
}

/// The recipe inside a media file.
///
/// # Errors
/// E0910 where there is none, or none that can be read; those of [`read`].
pub(super) fn recipe(path: &Path) -> Result<Recipe> {
    let Inside { recipe, foreign, warnings } = read(path)?;
    let error = match (recipe, foreign) {
        (Some(found), _) => return found,
        (None, Some(foreign)) => {
            no_recipe(format!("the file has settings of {}, and no recipe", foreign.program), path)
        }
        (None, None) => no_recipe("the file has no recipe inside".to_owned(), path)
            .also("programs that convert or upload videos often drop it"),
    };
    Err(warnings.into_iter().fold(error, |error, warning| error.also(warning)))
}

/// The recipe that a text is or holds under our key, if it is or does.
fn own(text: &Text, path: &Path) -> Option<Result<Recipe>> {
    let bytes = text.text.trim();
    // Texts of others are only looked into where they could be meant.
    let meant = || bytes.starts_with('{') && bytes.contains(&format!("\"{KEY}\""));
    let named = text.key == KEY;
    if !(named || meant()) {
        return None;
    }
    if bytes.len() as u64 > LARGEST {
        let what = format!("the recipe inside has more than {LARGEST} bytes");
        return Some(Err(no_recipe(what, path)));
    }
    let value = match serde_json::from_str::<Value>(bytes) {
        Ok(mut value) => match value.get_mut(KEY).map(Value::take) {
            Some(inner) => inner,
            None if named => value,
            None => return None,
        },
        Err(fault) if named || bytes.starts_with(&format!("{{\"{KEY}\"")) => {
            return Some(Err(no_recipe(format!("the recipe inside is not JSON: {fault}"), path)));
        }
        Err(_) => return None,
    };
    // The name alone says nothing: other programs may use it.
    match value.get("format").is_some_and(|format| format == FORMAT) || named {
        true => Some(Recipe::of_value(&value, path)),
        false => None,
    }
}

/// The settings of another program.
fn settings(texts: &Texts) -> Option<Foreign> {
    let graph = texts.get("prompt").and_then(Foreign::of_graph);
    let comment = || texts.get(COMMENT).or(texts.get("uuid")).and_then(Foreign::of_comment);
    let parameters =
        || texts.get(PARAMETERS).or(texts.get(COMMENT)).and_then(Foreign::of_parameters);
    graph.or_else(comment).or_else(parameters)
}

/// A path without its folder.
pub(super) fn name(path: &Path) -> PathBuf {
    path.file_name().map_or_else(PathBuf::new, PathBuf::from)
}

/// Takes the folders from all paths. A recipe has them absolute, and but for prompts nothing else that is.
fn unplace(key: &str, value: &mut Value) {
    match value {
        Value::String(text) if !key.ends_with("prompt") && Path::new(&*text).is_absolute() => {
            *text = name(Path::new(&*text)).to_string_lossy().into_owned();
        }
        Value::Array(list) => list.iter_mut().for_each(|item| unplace(key, item)),
        Value::Object(entries) => entries.iter_mut().for_each(|(key, item)| unplace(key, item)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Recipe {
    /// The recipe as it goes into the result itself: files by their names alone, and nothing of where the result
    /// or what it was decoded from lies.
    pub fn shared(&self) -> Value {
        let bare = Self { decoded_from: None, output: PathBuf::new(), ..self.clone() };
        let mut value = bare.to_json();
        unplace("", &mut value);
        value
    }

    /// What a result says about itself; `None` where the recipe has more bytes than are read again.
    pub fn inscription(&self) -> Option<Inscription> {
        let json = self.shared().to_string();
        let parameters = super::foreign::parameters(self);
        (json.len() as u64 <= LARGEST).then_some(Inscription { json, parameters })
    }
}

/// The files of a model again, each at its old path or under its old name next to the recipe.
pub fn parts_again(parts: &Parts, recipe: &Path) -> Parts {
    parts.each(|path| match recipe.with_file_name(name(path)) {
        beside if !path.exists() && beside.exists() => beside,
        _ => path.to_owned(),
    })
}

#[cfg(test)]
mod tests;
