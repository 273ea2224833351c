//! What a prompt says: the elements of the target that the primary reference does not show already
//! (`prompts.md` §2).

use super::elements::{Element, Elements, NOT_VISIBLE};
use super::style::{self, Style};
use serde_json::{Map, Value, json};

/// What is known of a target and its primary reference.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'d> {
    /// What the target shows.
    pub target: &'d Elements,
    /// How alike both are, per element; none where it is not known, which counts as changed.
    pub scores: &'d [Option<f64>; 7],
    /// The form of the primary reference.
    pub form: &'d str,
    /// Elements more alike than this are not said.
    pub gamma: f64,
    /// How the prompt is written.
    pub style: Style,
    /// Whether everything is said.
    pub full: bool,
}

/// A prompt, and what became of each element.
#[derive(Clone, Debug, PartialEq)]
pub struct Differential {
    /// The prompt.
    pub prompt: String,
    /// With everything that the target shows.
    pub full: String,
    /// The elements that it says.
    pub kept: Vec<Element>,
    /// For each element of the target its text, score, whether it is said and whether the primary can
    /// show it.
    pub table: Map<String, Value>,
    /// Whether nothing had changed, so that the action is said all the same.
    pub unchanged: bool,
}

impl Difference<'_> {
    /// The prompt; none where the target has no element that can be said.
    pub fn prompt(&self) -> Option<Differential> {
        let mut said = Elements::default();
        let mut whole = Elements::default();
        let mut table = Map::new();
        for (element, text) in self.target.iter() {
            let score = self.scores[element as usize];
            let hidden = element.hidden_by(self.form);
            let seen = text != NOT_VISIBLE;
            let changed = self.full || hidden || score.is_none_or(|score| score <= self.gamma);
            if seen {
                whole.set(element, text);
                if changed {
                    said.set(element, text);
                }
            }
            let entry = json!({
                "text": text, "score": score, "keep": seen && changed, "visible": !hidden,
            });
            table.insert(element.name().to_owned(), entry);
        }
        let unchanged = said == Elements::default();
        if unchanged {
            // An empty prompt would mean that nothing is known of the video.
            let action = whole.get(Element::Action).map(|text| (Element::Action, text));
            let (element, text) = action.or_else(|| whole.iter().next())?;
            said.set(element, text);
            if let Some(entry) = table.get_mut(element.name()) {
                entry["keep"] = true.into();
            }
        }
        Some(Differential {
            prompt: style::write(&said, self.style),
            full: style::write(&whole, self.style),
            kept: said.iter().map(|(element, _)| element).collect(),
            table,
            unchanged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Elements {
        let mut target = Elements::default();
        for element in Element::ALL {
            target.set(element, format!("The {}.", element.name()));
        }
        target
    }

    fn prompt(scores: [f64; 7], form: &str) -> Differential {
        let (target, scores) = (target(), scores.map(Some));
        let difference = Difference {
            target: &target,
            scores: &scores,
            form,
            gamma: 0.8,
            style: Style::Plain,
            full: false,
        };
        difference.prompt().unwrap()
    }

    fn names(differential: &Differential) -> Vec<&'static str> {
        differential.kept.iter().map(|element| element.name()).collect()
    }

    #[test]
    fn the_example_of_the_paper_keeps_what_changed() {
        let out = prompt([0.50, 0.65, 0.90, 1.00, 0.40, 0.45, 0.00], "portrait");
        assert_eq!(names(&out), ["shot", "hairstyle", "expression", "action", "background"]);
        assert_eq!(
            out.prompt,
            "The shot. The hairstyle. The expression. The action. The background."
        );
        assert_eq!(out.table["clothing"]["keep"], false);
        assert_eq!(out.table["shot"]["score"], 0.5);
    }

    #[test]
    fn the_bound_itself_counts_as_changed() {
        let at = |score: f64| prompt([1.0, 1.0, score, 1.0, 0.0, 1.0, 1.0], "video");
        assert_eq!(names(&at(0.80)), ["clothing", "expression"]);
        assert_eq!(names(&at(0.800_000_1)), ["expression"]);
    }

    #[test]
    fn what_the_primary_cannot_show_is_said() {
        let out = prompt([1.0; 7], "face");
        assert_eq!(names(&out), ["shot", "clothing", "action", "background"]);
        assert_eq!(out.table["clothing"]["visible"], false);
    }

    #[test]
    fn a_prompt_is_never_empty_and_never_says_what_cannot_be_seen() {
        let out = prompt([1.0; 7], "video");
        assert_eq!((out.prompt.as_str(), out.unchanged), ("The action.", true));
        let mut target = target();
        target.set(Element::Clothing, NOT_VISIBLE);
        let difference = Difference {
            target: &target,
            scores: &[None; 7],
            form: "portrait",
            gamma: 0.8,
            style: Style::Plain,
            full: false,
        };
        let out = difference.prompt().unwrap();
        assert!(!out.prompt.contains("visible") && out.kept.len() == 6, "{}", out.prompt);
        let nothing = Elements::default();
        assert_eq!(Difference { target: &nothing, ..difference }.prompt(), None);
    }
}
