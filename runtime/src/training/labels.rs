//! The labels of samples: which slots and classes there are, and which a sample has.
//!
//! Slots and classes are those that the manifest to learn from names. Labels are of two kinds: what a prompt
//! says, where a slot that is not named has the class "not named", one of its classes if there is such a
//! sample; and what frames show, where a slot that is not named does not count.

use super::dataset::{Item, Slot};
use super::manifest::LARGEST;
use super::read_text;
use super::settings::Settings;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Labels of a sample: the class of each slot that it names.
pub type Labels = BTreeMap<String, String>;

/// What labels say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelled {
    /// What the prompt says.
    Prompt,
    /// What first and last frame of the target show.
    Frames,
}

impl Labelled {
    /// The field of a line.
    pub fn field(self) -> &'static str {
        match self {
            Self::Prompt => "labels",
            Self::Frames => "shows",
        }
    }
}

/// The slots of samples, in the order of their names.
///
/// # Errors
/// E0977 where there is none with two classes.
pub fn slots_of(labelled: Labelled, all: &[Labels], path: &Path) -> Result<Vec<Slot>> {
    let mut found: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
    for (name, class) in all.iter().flatten() {
        found.entry(name).or_default().insert(Some(class));
    }
    for labels in all.iter().filter(|_| labelled == Labelled::Prompt) {
        for (name, classes) in &mut found {
            if !labels.contains_key(*name) {
                classes.insert(None);
            }
        }
    }
    let slots: Vec<Slot> = found
        .into_iter()
        .map(|(name, classes)| {
            let classes = classes.into_iter().map(|class| class.map(str::to_owned)).collect();
            Slot { name: name.to_owned(), classes }
        })
        .collect();
    match slots.iter().any(|slot| slot.classes.len() > 1) {
        true => Ok(slots),
        false => {
            let message = "no slot has two classes among the labels of all samples";
            Err(Error::input("E0977", message)
                .at(path.display())
                .help("name more samples: there is nothing to tell apart"))
        }
    }
}

/// The labels of the lines of a manifest that have any, with their ids. What is wrong with lines is for
/// `manifest.rs`.
///
/// # Errors
/// E0911 where it cannot be read.
pub fn of_lines(path: &Path, labelled: Labelled) -> Result<Vec<(String, Labels)>> {
    let text = read_text(path, LARGEST)?;
    let line = |line: &str| -> Option<(String, Labels)> {
        let line: Value = serde_json::from_str(line).ok()?;
        let classes = line.get(labelled.field())?.as_object()?;
        let class = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let classes = classes.iter().map(|(slot, value)| (slot.clone(), class(value)));
        let id = line.get("id").and_then(Value::as_str).unwrap_or_default();
        Some((id.to_owned(), classes.collect()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Names of the slots in the manifest of settings; none where it is not there yet.
pub fn named(settings: &Settings) -> Option<Vec<String>> {
    let labelled = settings.train.network.labelled()?;
    let lines = of_lines(&settings.data.manifest, labelled).ok()?;
    let names: BTreeSet<String> =
        lines.into_iter().flat_map(|(_, labels)| labels.into_keys()).collect();
    Some(names.into_iter().collect())
}

/// Gives every item its classes.
///
/// # Errors
/// E0978 for a class that `slots` lack.
pub fn classify(
    labelled: Labelled,
    items: &mut [Item],
    all: &[Labels],
    slots: &[Slot],
    path: &Path,
) -> Result<()> {
    for (item, labels) in items.iter_mut().zip(all) {
        let lacks = |what: String| {
            Error::input("E0978", format!("sample {}: {what} in data.manifest", item.id))
                .at(path.display())
                .help("measure what was learned: name samples with the slots and classes of data.manifest")
        };
        if let Some(name) = labels.keys().find(|name| slots.iter().all(|slot| slot.name != **name))
        {
            return Err(lacks(format!("there is no slot \"{name}\"")));
        }
        let mut classes = Vec::new();
        for slot in slots {
            let own = labels.get(&slot.name);
            if own.is_none() && labelled == Labelled::Frames {
                classes.push(None);
                continue;
            }
            let at = slot.classes.iter().position(|class| class.as_ref() == own);
            classes.push(Some(at.ok_or_else(|| {
                let class = own.map_or("samples that do not name it".to_owned(), |class| {
                    format!("class \"{class}\"")
                });
                lacks(format!("slot \"{}\" has no {class}", slot.name))
            })?));
        }
        item.classes = classes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(slot, class)| ((*slot).to_owned(), (*class).to_owned())).collect()
    }

    #[test]
    fn classes_of_lines_are_read_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let text =
            "{\"id\": \"a\", \"shows\": {\"hair\": 3, \"shot\": \"wide\"}}\n{\"id\": \"b\"}\nno\n";
        std::fs::write(&path, text).unwrap();
        let found = of_lines(&path, Labelled::Frames).unwrap();
        assert_eq!(found, [("a".to_owned(), labels(&[("hair", "3"), ("shot", "wide")]))]);
        let none = folder.path().join("none");
        assert_eq!(of_lines(&none, Labelled::Frames).unwrap_err().code(), "E0911");
    }

    #[test]
    fn slots_have_the_classes_that_samples_name_and_one_for_those_that_do_not() {
        let all = [labels(&[("hair", "red"), ("shot", "1")]), labels(&[("hair", "blue")])];
        let slots = slots_of(Labelled::Prompt, &all, Path::new("m")).unwrap();
        let named: Vec<(&str, usize)> =
            slots.iter().map(|slot| (slot.name.as_str(), slot.classes.len())).collect();
        assert_eq!(named, [("hair", 2), ("shot", 2)]);
        assert_eq!(slots[1].classes, [None, Some("1".to_owned())]);
        // What frames do not show is no class.
        let slots = slots_of(Labelled::Frames, &all, Path::new("m")).unwrap();
        assert_eq!(slots[1].classes, [Some("1".to_owned())]);
    }

    #[test]
    fn one_class_is_nothing_to_learn() {
        let all = [labels(&[("hair", "red")]), labels(&[("hair", "red")])];
        for labelled in [Labelled::Prompt, Labelled::Frames] {
            let code = |all: &[Labels]| slots_of(labelled, all, Path::new("m")).unwrap_err().code();
            assert_eq!((code(&all), code(&[labels(&[])])), ("E0977", "E0977"));
        }
    }
}
