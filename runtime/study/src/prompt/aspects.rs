//! What a user says of a picture or clip: `NAME.aspects.toml` beside it, a text for each element that
//! is known (`prompts.md` §7).

use super::elements::{Element, Elements};
use anyid_files::{Error, Result};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// What a user says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aspects {
    /// A text for each element; empty where nothing is known.
    pub elements: Elements,
    /// `he`, `she` or `they`.
    pub pronoun: Option<String>,
    /// With `manual`: elements that stay as they are.
    pub keep: Vec<Element>,
}

/// The file beside a picture or clip, if it is there: `a.mp4.aspects.toml` or `a.aspects.toml`.
pub fn beside(media: &Path) -> Option<PathBuf> {
    let whole = PathBuf::from(format!("{}.aspects.toml", media.display()));
    let bare = media.with_extension("aspects.toml");
    [whole, bare].into_iter().find(|path| path.is_file())
}

/// Reads a file.
///
/// # Errors
/// E0911 where it cannot be read, E1220 for what is wrong in it.
pub fn read(path: &Path) -> Result<Aspects> {
    parse(&crate::settings::text(path, LARGEST)?).map_err(|what| {
        Error::input("E1220", what).at(path.display()).help(
            "it has shot, hairstyle, clothing, accessory, expression, action, background, each a \
                   text, and pronoun (he, she or they)",
        )
    })
}

/// A value as a message shows it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("\"{text}\""),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        other => format!("a {}", other.type_str()),
    }
}

/// Reads text.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> std::result::Result<Aspects, String> {
    let table: toml::Table =
        toml::from_str(text).map_err(|fault| fault.message().replace('\n', " "))?;
    let mut aspects = Aspects::default();
    let mut texts = serde_json::Map::new();
    for (key, value) in table {
        match (key.as_str(), value) {
            ("pronoun", toml::Value::String(word)) if ["he", "she", "they"].contains(&&*word) => {
                aspects.pronoun = Some(word);
            }
            ("pronoun", other) => {
                return Err(format!("\"pronoun\" is {}: he, she or they", shown(&other)));
            }
            ("keep", toml::Value::Array(names)) => {
                for name in names {
                    let element = name.as_str().and_then(Element::of);
                    let element = element
                        .ok_or_else(|| format!("\"keep\": {} is no element", shown(&name)))?;
                    aspects.keep.push(element);
                }
            }
            (_, toml::Value::String(text)) => drop(texts.insert(key, text.into())),
            (_, other) => return Err(format!("\"{key}\" is {}, not text", shown(&other))),
        }
    }
    aspects.elements = Elements::from_object(&texts)?;
    Ok(aspects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aspects_are_texts_under_names_in_use() {
        let found = parse(
            "camera = \"Static.\"\nclothes = \"A suit.\"\npronoun = \"he\"\nkeep = [\"hair\"]",
        );
        let found = found.unwrap();
        assert_eq!(found.elements.get(Element::Shot), Some("Static."));
        assert_eq!((found.pronoun.as_deref(), found.keep), (Some("he"), vec![Element::Hairstyle]));
        for (text, part) in [
            ("mood = \"x\"", "\"mood\" is no element"),
            ("shot = 3", "not text"),
            ("shot = \"a\"\ncamera = \"b\"", "there twice"),
            ("pronoun = \"it\"", "he, she or they"),
            ("keep = [\"nose\"]", "is no element"),
            ("shot", "expected"),
        ] {
            let what = parse(text).unwrap_err();
            assert!(what.contains(part), "{text}: {what}");
        }
        let folder = crate::testing::TempFolder::new("aspects");
        let path = folder.write("a.aspects.toml", "mood = \"x\"");
        assert_eq!(super::read(&path).unwrap_err().code(), "E1220");
        assert_eq!(beside(&folder.path().join("a.mp4")), Some(path.clone()));
        assert_eq!(beside(&folder.path().join("b.mp4")), None);
    }
}
