//! Questions with the answers that are wanted, which stand before the real one (`prompts.md` §5): those
//! that come with the program, or a file of the user's.

use super::answer::Question;
use super::ask::{Part, Shown};
use super::compare::words_of_pair;
use super::media::still;
use crate::lines::Lines;
use crate::prompt::PromptSettings;
use crate::prompt::elements::{Element, Elements};
use anyid_files::Result;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Examples that come with the program; `prompt.examples` has this name instead of a file's.
pub const BUILT_IN: &str = "built-in";
const OWN: &str = include_str!("examples.jsonl");
/// Most that are sent.
const MOST: usize = 4;

/// What an example is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// A description of a picture.
    Describe,
    /// A comparison of two descriptions.
    Compare,
}

#[derive(Deserialize)]
#[serde(tag = "stage", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Describe {
        media: String,
        record: Map<String, Value>,
    },
    Compare {
        #[serde(rename = "ref")]
        reference: Box<Elements>,
        #[serde(rename = "tgt")]
        target: Box<Elements>,
        scores: BTreeMap<String, f64>,
        note: String,
    },
}

/// A line as a question with its answer.
fn shown(line: &str, folder: &Path) -> std::result::Result<(Stage, Shown), String> {
    match serde_json::from_str(line).map_err(|fault| fault.to_string())? {
        Line::Describe { media, record } => {
            let answer = Value::from(record).to_string();
            Question::Describe.read(&answer)?;
            if !anyid_files::manifest::is_below(&media) {
                return Err(format!(
                    "\"media\" is \"{media}\": it must lie below the file's folder"
                ));
            }
            let picture =
                still(&folder.join(&media)).map_err(|fault| format!("{media}: {fault}"))?;
            let head = Part::Text("Picture. Pronoun hint: none.".to_owned());
            Ok((Stage::Describe, Shown { user: vec![head, picture], answer }))
        }
        Line::Compare { reference, target, scores, note } => {
            let mut answer = Map::new();
            for element in Element::ALL {
                let of = scores.iter().find(|(name, _)| Element::of(name) == Some(element));
                let (_, score) = of.ok_or_else(|| format!("no score of {}", element.name()))?;
                let own = json!({"reason": note, "score": score});
                answer.insert(element.name().to_owned(), own);
            }
            let answer = Value::from(answer).to_string();
            Question::Compare.read(&answer)?;
            let user = vec![Part::Text(words_of_pair(&reference, &target))];
            Ok((Stage::Compare, Shown { user, answer }))
        }
    }
}

/// The examples of a stage that the settings name, those without pictures first.
///
/// # Errors
/// E0911, E1202.
pub fn of(settings: &PromptSettings, stage: Stage) -> Result<Vec<Shown>> {
    let mut found = Vec::new();
    match &settings.examples {
        None => {}
        Some(path) if path.as_os_str() == BUILT_IN => {
            for line in OWN.lines() {
                found.push(shown(line, Path::new("")).expect("the own examples are sound"));
            }
        }
        Some(path) => {
            let folder = path.parent().unwrap_or(Path::new(""));
            let mut lines = Lines::open(path)?;
            while let Some(line) = lines.next() {
                found.push(shown(&line?, folder).map_err(|what| lines.fault(what))?);
            }
        }
    }
    let mut found: Vec<Shown> =
        found.into_iter().filter(|(own, _)| *own == stage).map(|(_, shown)| shown).collect();
    found.sort_by_key(|shown| shown.user.iter().any(|part| !matches!(part, Part::Text(_))));
    found.truncate(MOST);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;
    use std::path::PathBuf;

    fn named(path: impl Into<PathBuf>) -> PromptSettings {
        PromptSettings { examples: Some(path.into()), ..PromptSettings::default() }
    }

    #[test]
    fn the_own_examples_cover_the_scale() {
        let lines: Vec<Value> = OWN.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 6);
        let scores: Vec<f64> = lines
            .iter()
            .flat_map(|line| line["scores"].as_object().unwrap().values())
            .map(|score| score.as_f64().unwrap())
            .collect();
        for anchor in [0.0, 0.4, 0.65, 0.8, 0.9, 1.0] {
            assert!(scores.contains(&anchor), "{anchor}");
        }
        assert!(scores.iter().all(|score| (score * 20.0).fract() == 0.0));
        let sent = of(&named(BUILT_IN), Stage::Compare).unwrap();
        assert_eq!(sent.len(), MOST);
        // The uniform with and without its tie is among those that are sent.
        let uniform =
            sent.iter().find(|s| matches!(&s.user[0], Part::Text(t) if t.contains("tie")));
        let answer: Value = serde_json::from_str(&uniform.unwrap().answer).unwrap();
        assert_eq!(answer["clothing"]["score"], 0.9);
        assert_eq!(of(&named(BUILT_IN), Stage::Describe).unwrap(), []);
        assert_eq!(of(&PromptSettings::default(), Stage::Compare).unwrap(), []);
    }

    #[test]
    fn files_of_examples_are_checked_line_by_line() {
        let folder = TempFolder::new("examples");
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/astronaut.png");
        folder.write("a.png", std::fs::read(picture).unwrap());
        let mut record = Map::from_iter(
            Element::ALL.map(|element| (element.name().to_owned(), json!("Some text."))),
        );
        record.insert("pronoun".into(), "she".into());
        record.insert("people".into(), "one".into());
        let describe = json!({"stage": "describe", "media": "a.png", "record": record});
        let path = folder.write("own.jsonl", format!("{describe}\n"));
        let found = of(&named(&path), Stage::Describe).unwrap();
        assert!(
            matches!(&found[0].user[1], Part::Picture(jpeg) if jpeg.starts_with(&[0xff, 0xd8]))
        );
        for (line, part) in [
            (describe.to_string().replace("a.png", "../a.png"), "must lie below"),
            (describe.to_string().replace("a.png", "b.png"), "b.png"),
            (describe.to_string().replace("\"she\"", "\"it\""), "pronoun"),
            (json!({"stage": "parse"}).to_string(), "unknown variant"),
            (
                json!({"stage": "compare", "ref": {}, "tgt": {}, "scores": {"shot": 1}, "note": ""})
                    .to_string(),
                "no score of hairstyle",
            ),
        ] {
            let path = folder.write("own.jsonl", format!("{describe}\n{line}\n"));
            let fault = of(&named(&path), Stage::Compare).unwrap_err();
            assert!(fault.code() == "E1202" && fault.message().contains("line 2"), "{fault}");
            assert!(fault.to_string().contains(part), "{part}: {fault}");
        }
    }
}
