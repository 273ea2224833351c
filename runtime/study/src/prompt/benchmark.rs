//! Prompts that methods are measured by (`prompts.md` §9): a fixed set of fifty that say everything,
//! the same without what a reference should keep, plans for further ones, and what a prompt of a
//! plan has to satisfy.

use super::elements::{Element, Elements};
use super::lint::{Context, Severity, lint};
use super::style::{self, Style};
use crate::random::Draws;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The fixed set, one prompt a line.
const FIXED: &str = include_str!("benchmark.jsonl");
/// Fewest and most words of a prompt.
const WORDS: [usize; 2] = [90, 160];
/// Share of groups of three words that two prompts may have in common.
const MOST_ALIKE: f64 = 0.2;

/// What a prompt has to be about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where it plays.
    pub setting: String,
    /// How it looks.
    pub style: String,
    /// What the camera does.
    pub camera: String,
    /// How much of the person is seen.
    pub framing: String,
    /// What the head does.
    pub motion: String,
    /// The expression at the beginning.
    pub from: String,
    /// The expression at the end.
    pub to: String,
    /// The light.
    pub light: String,
}

/// A prompt of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// `m` or `f`.
    pub gender: String,
    /// What it was to be about.
    pub plan: Plan,
    /// Its texts.
    pub elements: Elements,
}

/// What is left out of prompts whose references have to keep something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Omission {
    /// Hair; hair and clothes; hair, clothes and place, one after the other. Accessories go with clothes.
    #[default]
    Main,
    /// Hair, clothes or accessories, drawn at random.
    Appendix,
}

const SETTINGS: [&str; 10] = [
    "home",
    "workplace",
    "street",
    "nature",
    "history",
    "science fiction",
    "fantasy",
    "stage",
    "sport",
    "vehicle",
];
const STYLES: [&str; 6] = ["plain", "elegant", "grand", "gritty", "dreamy", "homely"];
/// Six of ten are at rest or in a hand.
const CAMERAS: [&str; 10] = [
    "static", "handheld", "static", "handheld", "static", "handheld", "push-in", "pull-out", "pan",
    "orbit",
];
const FRAMINGS: [&str; 4] = ["close-up", "medium close-up", "medium shot", "medium full shot"];
/// One of ten heads is still.
const MOTIONS: [&str; 10] =
    ["turn", "turn", "raise", "raise", "lower", "lower", "tilt", "tilt", "nod", "none"];
const ARCS: [[&str; 2]; 12] = [
    ["calm", "amused"],
    ["tired", "relieved"],
    ["pensive", "delighted"],
    ["neutral", "worried"],
    ["serious", "cheerful"],
    ["wary", "relaxed"],
    ["curious", "joyful"],
    ["solemn", "awed"],
    ["tense", "defiant"],
    ["melancholy", "hopeful"],
    ["proud", "moved"],
    ["absent", "startled"],
];
const LIGHTS: [&str; 8] = ["soft", "hard", "warm", "cool", "dim", "bright", "golden", "overcast"];

/// The fixed set.
pub fn fixed() -> Vec<Entry> {
    let entry = |line: &str| serde_json::from_str(line).expect("the fixed set is sound");
    FIXED.lines().map(entry).collect()
}

/// As many of each value as there can be, in an order that is drawn.
fn balanced<'v, T>(values: &'v [T], count: usize, seed: u64, of: &str) -> Vec<&'v T> {
    let mut all: Vec<&T> = (0..count).map(|at| &values[at % values.len()]).collect();
    let mut draws = Draws::new(seed, "plan", of);
    for at in 0..count {
        let other = at + draws.below(count - at);
        all.swap(at, other);
    }
    all
}

/// Plans of so many prompts with their genders, the same for the same seed.
pub fn plans(count: usize, seed: u64) -> Vec<(String, Plan)> {
    let one = |values: &'static [&str], of: &str| balanced(values, count, seed, of);
    let genders = one(&["m", "f"], "gender");
    let (settings, styles) = (one(&SETTINGS, "setting"), one(&STYLES, "style"));
    let (cameras, framings) = (one(&CAMERAS, "camera"), one(&FRAMINGS, "framing"));
    let (motions, lights) = (one(&MOTIONS, "motion"), one(&LIGHTS, "light"));
    let arcs = balanced(&ARCS, count, seed, "arc");
    let plan = |at: usize| {
        let text = |list: &[&&str]| (*list[at]).to_owned();
        let [from, to] = arcs[at].map(str::to_owned);
        let plan = Plan {
            setting: text(&settings),
            style: text(&styles),
            camera: text(&cameras),
            framing: text(&framings),
            motion: text(&motions),
            from,
            to,
            light: text(&lights),
        };
        (text(&genders), plan)
    };
    (0..count).map(plan).collect()
}

/// Groups of three words.
fn threes(text: &str) -> BTreeSet<[String; 3]> {
    let words: Vec<String> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.windows(3).map(|three| std::array::from_fn(|at| three[at].clone())).collect()
}

/// Words of which one says that a camera moves so.
fn camera_words(camera: &str) -> Vec<&str> {
    match camera {
        "push-in" => vec!["push-in", "pushes in", "push in"],
        "pull-out" => vec!["pull-out", "pulls out", "pull out"],
        other => vec![other],
    }
}

impl Entry {
    /// All that it says.
    pub fn prompt(&self) -> String {
        style::write(&self.elements, Style::Plain)
    }

    /// What is wrong with it as one of a benchmark, besides others that are in it already.
    pub fn faults(&self, others: &[Entry]) -> Vec<String> {
        let (prompt, plan) = (self.prompt(), &self.plan);
        let text = |element: Element| self.elements.get(element).unwrap_or_default().to_lowercase();
        let mut faults = Vec::new();
        let missing: Vec<&str> = Element::ALL
            .into_iter()
            .filter(|element| self.elements.get(*element).is_none())
            .map(Element::name)
            .collect();
        if !missing.is_empty() {
            faults.push(format!("missing: {}", missing.join(", ")));
        }
        let count = prompt.split_whitespace().count();
        if !(WORDS[0]..=WORDS[1]).contains(&count) {
            faults.push(format!("it has {count} words, expected {} to {}", WORDS[0], WORDS[1]));
        }
        let pronoun = if self.gender == "m" { "he" } else { "she" };
        let context = Context { pronoun: Some(pronoun), gamma: 0.8, ..Context::default() };
        for finding in lint(&prompt, None, &context) {
            if finding.severity > Severity::Info {
                faults.push(format!("{}: {}", finding.code, finding.message));
            }
        }
        let shot = text(Element::Shot);
        if !camera_words(&plan.camera).iter().any(|word| shot.contains(word)) {
            faults.push(format!("the shot is not {}", plan.camera));
        }
        if !shot.contains(&plan.framing) {
            faults.push(format!("the shot is no {}", plan.framing));
        }
        // Without its last letter, a verb is in all of its forms.
        let stem = plan.motion.strip_suffix('e').unwrap_or(&plan.motion);
        if plan.motion != "none" && !text(Element::Action).contains(stem) {
            faults.push(format!("the head does not {}", plan.motion));
        }
        let own = threes(&prompt);
        for other in others {
            let theirs = threes(&other.prompt());
            let shared = own.intersection(&theirs).count() as f64;
            let alike = shared / (own.union(&theirs).count().max(1)) as f64;
            if alike >= MOST_ALIKE {
                faults.push(format!("it is like {} ({alike:.2})", other.id));
            }
        }
        faults
    }

    /// Its line; `model` wrote it.
    pub fn line(&self, model: Option<&str>) -> Value {
        json!({
            "id": self.id, "gender": self.gender, "elements": self.elements,
            "prompt": self.prompt(), "plan": self.plan, "model": model,
        })
    }

    /// Its line without what references have to keep. `at` is its place in the set.
    pub fn reduced(&self, omit: Omission, at: usize, seed: u64, model: Option<&str>) -> Value {
        use Element::{Accessory, Background, Clothing, Hairstyle};
        let preserved = match omit {
            Omission::Main => match at % 3 {
                0 => vec![Hairstyle],
                1 => vec![Hairstyle, Clothing, Accessory],
                _ => vec![Hairstyle, Clothing, Accessory, Background],
            },
            Omission::Appendix => {
                let all = [Hairstyle, Clothing, Accessory];
                vec![all[Draws::new(seed, "drop", at.to_string()).below(all.len())]]
            }
        };
        let mut rest = self.clone();
        for element in &preserved {
            rest.elements.set(*element, "");
        }
        let mut line = rest.line(model);
        let names: Vec<&str> = preserved.iter().map(|element| element.name()).collect();
        line["preserve"] = json!(names);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn counts<'t>(all: impl Iterator<Item = &'t str>) -> BTreeMap<&'t str, usize> {
        let mut counts = BTreeMap::new();
        all.for_each(|one| *counts.entry(one).or_default() += 1);
        counts
    }

    #[test]
    fn the_fixed_set_is_balanced_and_sound() {
        let all = fixed();
        assert_eq!(all.len(), 50);
        assert_eq!(
            counts(all.iter().map(|one| &*one.gender)),
            BTreeMap::from([("f", 25), ("m", 25)])
        );
        let settings = counts(all.iter().map(|one| &*one.plan.setting));
        assert!(settings.len() == 10 && settings.values().all(|count| *count == 5));
        let cameras = counts(all.iter().map(|one| &*one.plan.camera));
        assert_eq!(cameras["static"] + cameras["handheld"], 30, "{cameras:?}");
        let motions = counts(all.iter().map(|one| &*one.plan.motion));
        assert!(motions["none"] <= 5 && motions.len() == 6, "{motions:?}");
        for (at, entry) in all.iter().enumerate() {
            assert_eq!(entry.faults(&all[..at]), Vec::<String>::new(), "{}", entry.id);
            let says = |element: Element, word: &str| {
                let text = entry.elements.get(element).unwrap().to_lowercase();
                assert!(text.contains(word), "{}: {word} is not in {text}", entry.id);
            };
            says(Element::Expression, &entry.plan.from);
            says(Element::Expression, &entry.plan.to);
            says(Element::Background, &entry.plan.light);
            assert_eq!(entry.id, format!("P{:03}", at + 1));
        }
    }

    #[test]
    fn what_references_keep_is_not_said() {
        let all = fixed();
        let reduced: Vec<Value> = all
            .iter()
            .enumerate()
            .map(|(at, one)| one.reduced(Omission::Main, at, 0, None))
            .collect();
        let kinds = |count: usize| {
            reduced
                .iter()
                .filter(|line| line["preserve"].as_array().unwrap().len() == count)
                .count()
        };
        assert_eq!([kinds(1), kinds(3), kinds(4)], [17, 17, 16]);
        for (line, whole) in reduced.iter().zip(&all) {
            let prompt = line["prompt"].as_str().unwrap();
            for name in line["preserve"].as_array().unwrap() {
                let element = Element::of(name.as_str().unwrap()).unwrap();
                assert!(!prompt.contains(whole.elements.get(element).unwrap()));
                assert!(line["elements"].get(element.name()).is_none());
            }
            assert!(prompt.contains(whole.elements.get(Element::Action).unwrap()));
        }
        let drawn: BTreeSet<String> = (0..50)
            .map(|at| all[at].reduced(Omission::Appendix, at, 0, None)["preserve"].to_string())
            .collect();
        assert_eq!(drawn.len(), 3);
    }

    #[test]
    fn plans_are_balanced_and_depend_on_the_seed() {
        let plans = plans(50, 7);
        assert_eq!(plans, super::plans(50, 7));
        assert_ne!(plans, super::plans(50, 8));
        let of = |part: fn(&(String, Plan)) -> &str| counts(plans.iter().map(part));
        assert_eq!(of(|(gender, _)| gender), BTreeMap::from([("f", 25), ("m", 25)]));
        let settings = of(|(_, plan)| &plan.setting);
        assert!(settings.len() == 10 && settings.values().all(|count| *count == 5));
        let cameras = of(|(_, plan)| &plan.camera);
        assert_eq!(cameras["static"] + cameras["handheld"], 30);
        assert_eq!(of(|(_, plan)| &plan.motion)["none"], 5);
        assert!(of(|(_, plan)| &plan.from).values().all(|count| (4..=5).contains(count)));
    }

    #[test]
    fn prompts_that_are_not_as_planned_say_why() {
        let all = fixed();
        let faults = |change: &dyn Fn(&mut Entry)| {
            let mut entry = all[0].clone();
            change(&mut entry);
            entry.faults(&all[1..]).join("; ")
        };
        assert_eq!(faults(&|_| {}), "");
        for (change, part) in [
            (&(|e: &mut Entry| e.plan.camera = "orbit".into()) as &dyn Fn(&mut Entry), "not orbit"),
            (&|e| e.plan.framing = "medium shot".into(), "no medium shot"),
            (&|e| e.plan.motion = "nod".into(), "does not nod"),
            (&|e| e.elements.set(Element::Background, ""), "missing: background"),
            (&|e| e.elements.set(Element::Hairstyle, "He has blue eyes."), "L010"),
            (&|e| e.gender = "f".into(), "L011"),
            (&|e| e.elements = all[1].elements.clone(), "it is like P002"),
            (&|e| e.elements.set(Element::Background, "word ".repeat(120)), "words, expected"),
        ] {
            let found = faults(change);
            assert!(found.contains(part), "{part}: {found}");
        }
    }
}
