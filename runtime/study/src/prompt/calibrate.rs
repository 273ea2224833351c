//! How well a comparison tells what people say has changed (`prompts.md` §5): precision and recall of
//! each element, and the γ at which both together are best.

use super::elements::{Element, Elements};
use crate::lines::Lines;
use anyid_files::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Two descriptions, and what of them people say has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// What the reference shows.
    pub reference: Elements,
    /// What the target shows.
    pub target: Elements,
    /// Whether an element has changed; none where nobody said it.
    pub changed: [Option<bool>; 7],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "ref")]
    reference: Elements,
    #[serde(rename = "tgt")]
    target: Elements,
    changed: BTreeMap<String, bool>,
    #[serde(default, rename = "note")]
    _note: Value,
}

/// The pairs of a file, one a line.
///
/// # Errors
/// E0911, E1202.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    let mut lines = Lines::open(path)?;
    let mut pairs = Vec::new();
    while let Some(line) = lines.next() {
        let line: Line = serde_json::from_str(&line?).map_err(|fault| lines.fault(fault))?;
        let mut changed = [None; 7];
        for (name, value) in line.changed {
            let element = Element::of(&name)
                .ok_or_else(|| lines.fault(format!("\"changed\": \"{name}\" is no element")))?;
            changed[element as usize] = Some(value);
        }
        pairs.push(Pair { reference: line.reference, target: line.target, changed });
    }
    if pairs.is_empty() {
        return Err(lines.fault("there are no pairs"));
    }
    Ok(pairs)
}

/// How often a decision was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Changed, and told so.
    pub found: usize,
    /// Not changed, and told to be.
    pub wrong: usize,
    /// Changed, and not told so.
    pub missed: usize,
    /// Not changed, and not told to be.
    pub quiet: usize,
}

impl Counts {
    /// Share of what is told to be changed that is.
    pub fn precision(&self) -> Option<f64> {
        share(self.found, self.found + self.wrong)
    }

    /// Share of what has changed that is told to be.
    pub fn recall(&self) -> Option<f64> {
        share(self.found, self.found + self.missed)
    }

    /// Both as one.
    pub fn f1(&self) -> Option<f64> {
        share(2 * self.found, 2 * self.found + self.wrong + self.missed)
    }
}

fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

/// What scores tell at a γ, for each element.
fn counted(pairs: &[Pair], scores: &[[Option<f64>; 7]], gamma: f64) -> [Counts; 7] {
    let mut counts = [Counts::default(); 7];
    for (pair, scores) in pairs.iter().zip(scores) {
        for element in Element::ALL {
            let Some(changed) = pair.changed[element as usize] else { continue };
            // What is not known counts as changed, as it does in prompts.
            let told = scores[element as usize].is_none_or(|score| score <= gamma);
            let own = &mut counts[element as usize];
            *match (changed, told) {
                (true, true) => &mut own.found,
                (false, true) => &mut own.wrong,
                (true, false) => &mut own.missed,
                (false, false) => &mut own.quiet,
            } += 1;
        }
    }
    counts
}

fn total(counts: &[Counts]) -> Counts {
    counts.iter().fold(Counts::default(), |all, one| Counts {
        found: all.found + one.found,
        wrong: all.wrong + one.wrong,
        missed: all.missed + one.missed,
        quiet: all.quiet + one.quiet,
    })
}

fn told(counts: &Counts) -> Value {
    let mut value = json!(counts);
    value["precision"] = json!(counts.precision());
    value["recall"] = json!(counts.recall());
    value["f1"] = json!(counts.f1());
    value
}

/// Precision and recall of each element at `gamma`, and the γ with the best F1, the least of several.
pub fn measured(pairs: &[Pair], scores: &[[Option<f64>; 7]], gamma: f64) -> Value {
    let own = counted(pairs, scores, gamma);
    let elements: serde_json::Map<String, Value> = Element::ALL
        .into_iter()
        .map(|element| (element.name().to_owned(), told(&own[element as usize])))
        .collect();
    let best = (0..=100).map(|at| f64::from(at) / 100.0).fold(
        None,
        |best: Option<(f64, Option<f64>)>, gamma| {
            let f1 = total(&counted(pairs, scores, gamma)).f1();
            match best {
                Some((_, before)) if f1 <= before => best,
                _ => Some((gamma, f1)),
            }
        },
    );
    let (best_gamma, best_f1) = best.unwrap_or((gamma, None));
    json!({
        "pairs": pairs.len(), "gamma": gamma, "elements": elements, "all": told(&total(&own)),
        "best": {"gamma": best_gamma, "f1": best_f1},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    #[test]
    fn the_best_gamma_parts_what_changed_from_what_did_not() {
        let pair = |changed: bool| Pair {
            reference: Elements::default(),
            target: Elements::default(),
            changed: std::array::from_fn(|at| (at < 2).then_some(changed)),
        };
        let pairs = [pair(true), pair(true), pair(false), pair(false)];
        let row = |a: f64, b: Option<f64>| {
            let mut row = [None; 7];
            (row[0], row[1]) = (Some(a), b);
            row
        };
        let scores =
            [row(0.2, Some(0.4)), row(0.55, None), row(0.7, Some(1.0)), row(0.9, Some(0.6))];
        let found = measured(&pairs, &scores, 0.8);
        // At 0.8 two of the four that did not change are told to have.
        assert_eq!(
            (&found["all"]["recall"], &found["all"]["precision"]),
            (&json!(1.0), &json!(4.0 / 6.0))
        );
        assert_eq!(found["elements"]["shot"]["wrong"], 1);
        assert_eq!(found["elements"]["action"]["precision"], Value::Null);
        assert_eq!(found["best"], json!({"gamma": 0.55, "f1": 1.0}));
    }

    #[test]
    fn pairs_are_read_and_faults_have_their_line() {
        let folder = TempFolder::new("gold");
        let good =
            r#"{"ref":{"hair":"Black hair."},"tgt":{"hair":"Red hair."},"changed":{"hair":true}}"#;
        let pairs = read(&folder.write("gold.jsonl", good)).unwrap();
        assert_eq!(pairs[0].changed[Element::Hairstyle as usize], Some(true));
        for (line, part) in [
            ("{}", "missing field"),
            (r#"{"ref":{},"tgt":{},"changed":{"nose":true}}"#, "\"nose\" is no element"),
            (r#"{"ref":{"nose":"x"},"tgt":{},"changed":{}}"#, "is no element"),
        ] {
            let error = read(&folder.write("x.jsonl", format!("{good}\n{line}"))).unwrap_err();
            assert!(error.code() == "E1202" && error.message().contains("line 2"), "{error}");
            assert!(error.message().contains(part), "{part}: {error}");
        }
        assert_eq!(read(&folder.write("x.jsonl", "\n")).unwrap_err().code(), "E1202");
    }
}
