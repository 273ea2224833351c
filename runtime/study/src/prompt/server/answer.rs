//! What a model answered: the object in its text, and whether it is what was asked for
//! (`prompts.md` §3.2).

use super::judge::Judgement;
use crate::prompt::elements::{Element, Elements};
use serde_json::{Map, Value, json};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A text for each element.
    Describe,
    /// A score for each element.
    Compare,
    /// Scores of so many pairs at once.
    Several(usize),
    /// A text for each element of something that is made up.
    Invent,
    /// A prompt in few words.
    Simplify,
    /// The sentences of a prompt under the elements that they are about.
    Parse,
    /// Whether a video may be made of texts.
    Moderate,
    /// What a judge of videos is asked.
    Judge(Judgement),
}

/// What texts may be refused or warned of for.
pub const CATEGORIES: [&str; 11] = [
    "minor_sexual",
    "sexual_real_person",
    "violence_graphic",
    "hate",
    "self_harm",
    "deception",
    "named_person",
    "weapon",
    "drugs",
    "brand",
    "custom",
];
/// What may be decided about texts, from the mildest to the strictest.
pub const DECISIONS: [&str; 3] = ["allow", "warn", "block"];

/// Most words of a prompt in few words: what some text encoders take.
const FEW_WORDS: usize = 60;

/// A sound answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The object with known fields alone, scores from 0 to 1.
    pub value: Value,
    /// What was odd but no fault.
    pub warnings: Vec<String>,
}

impl Question {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Compare => "compare",
            Self::Several(_) => "compare.batch",
            Self::Invent => "invent",
            Self::Simplify => "simplify",
            Self::Parse => "parse",
            Self::Moderate => "moderate",
            Self::Judge(judgement) => judgement.name(),
        }
    }

    /// How freely it is answered.
    pub fn temperature(self) -> f64 {
        match self {
            Self::Describe | Self::Simplify => 0.2,
            Self::Compare | Self::Several(_) | Self::Parse | Self::Moderate | Self::Judge(_) => 0.0,
            Self::Invent => 0.8,
        }
    }

    /// Most tokens of an answer.
    pub fn room(self) -> u64 {
        match self {
            Self::Describe | Self::Invent => 1200,
            Self::Compare | Self::Parse => 800,
            Self::Several(count) => 400 + 400 * count as u64,
            Self::Simplify | Self::Moderate => 300,
            Self::Judge(judgement) => judgement.room(),
        }
    }

    /// How freely each attempt is answered; there are as many as there are numbers. A judge mends its
    /// answer once, so that its numbers are never those of a free mood.
    pub fn attempts(self) -> Vec<f64> {
        let own = self.temperature();
        if matches!(self, Self::Judge(_)) { vec![own; 2] } else { vec![own, own, 0.7] }
    }

    /// Seconds that an answer may take.
    pub fn seconds(self) -> f64 {
        let pictures = matches!(self, Self::Describe | Self::Judge(_));
        if pictures { 120.0 } else { 60.0 }
    }

    /// The JSON schema of answers, with the words alone that strict modes take.
    pub fn schema(self) -> Value {
        let object = |properties: Map<String, Value>| {
            let names: Vec<&String> = properties.keys().collect();
            json!({"type": "object", "required": names, "additionalProperties": false,
                "properties": properties})
        };
        let one = |name: &str, value: Value| object(Map::from_iter([(name.to_owned(), value)]));
        match self {
            Self::Several(_) => {
                let items = Self::Compare.schema();
                return one("pairs", json!({"type": "array", "items": items}));
            }
            Self::Simplify => return one("prompt", json!({"type": "string"})),
            Self::Judge(judgement) => return judgement.schema(),
            Self::Moderate => {
                let words = |words: &[&str]| json!({"type": "string", "enum": words});
                return object(Map::from_iter([
                    // The reason first, so that the decision follows from it.
                    ("reason".to_owned(), json!({"type": "string"})),
                    (
                        "categories".to_owned(),
                        json!({"type": "array", "items": words(&CATEGORIES)}),
                    ),
                    ("decision".to_owned(), words(&DECISIONS)),
                ]));
            }
            Self::Describe | Self::Compare | Self::Invent | Self::Parse => {}
        }
        let mut properties = Map::new();
        for element in Element::ALL {
            let own = match self == Self::Compare {
                false => json!({"type": "string"}),
                true => {
                    let mut both = Map::new();
                    // The reason first, so that the score follows from it.
                    both.insert("reason".into(), json!({"type": "string"}));
                    both.insert("score".into(), json!({"type": "number"}));
                    object(both)
                }
            };
            properties.insert(element.name().to_owned(), own);
        }
        if self == Self::Describe {
            properties
                .insert("pronoun".into(), json!({"type": "string", "enum": ["he", "she", "they"]}));
            properties.insert(
                "people".into(),
                json!({"type": "string", "enum": ["one", "several", "none"]}),
            );
        }
        object(properties)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it, in words that the model can be told.
    pub fn read(self, text: &str) -> Result<Answered, String> {
        let found = object_in(text).ok_or("the answer has no JSON object")?;
        let value: Value = serde_json::from_str(found)
            .map_err(|fault| format!("the answer is not JSON: {fault}"))?;
        let object = value.as_object().ok_or("the answer is no JSON object")?;
        match self {
            Self::Describe => described(object),
            Self::Compare => compared(object),
            Self::Several(count) => several(object, count),
            Self::Invent => invented(object),
            Self::Simplify => simplified(object),
            Self::Parse => sorted(object),
            Self::Moderate => moderated(object),
            Self::Judge(judgement) => judgement.read(object),
        }
    }
}

/// The first object in a text whose brackets are balanced, behind thoughts and inside fences.
fn object_in(text: &str) -> Option<&str> {
    let text = text.rsplit_once("</think>").map_or(text, |(_, rest)| rest);
    let begin = text.find('{')?;
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, c) in text[begin..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' if !quoted => depth += 1,
            '}' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return Some(&text[begin..begin + at + 1]);
                }
            }
            _ => {}
        }
    }
    None
}

fn unknown(object: &Map<String, Value>, more: &[&str]) -> Vec<String> {
    let known = |key: &str| Element::of(key).is_some() || more.contains(&key);
    object
        .keys()
        .filter(|key| !known(key))
        .map(|key| format!("\"{key}\" was not asked for"))
        .collect()
}

/// The value of each element, under any of its names.
fn by_element(object: &Map<String, Value>) -> Result<[&Value; 7], String> {
    let mut found = [None; 7];
    for (key, value) in object {
        if let Some(element) = Element::of(key) {
            found[element as usize].get_or_insert(value);
        }
    }
    let missing: Vec<&str> = Element::ALL
        .into_iter()
        .filter(|element| found[*element as usize].is_none())
        .map(Element::name)
        .collect();
    if !missing.is_empty() {
        return Err(format!("missing: {}", missing.join(", ")));
    }
    Ok(found.map(|value| value.unwrap_or(&Value::Null)))
}

fn texts(object: &Map<String, Value>) -> Result<Elements, String> {
    let mut elements = Elements::default();
    for (element, value) in Element::ALL.into_iter().zip(by_element(object)?) {
        let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
        elements.set(element, text.ok_or_else(|| format!("\"{}\" is not text", element.name()))?);
    }
    Ok(elements)
}

fn invented(object: &Map<String, Value>) -> Result<Answered, String> {
    let value = json!({"elements": texts(object)?});
    Ok(Answered { value, warnings: unknown(object, &[]) })
}

/// Texts of which some may be empty, but not all.
fn sorted(object: &Map<String, Value>) -> Result<Answered, String> {
    let mut elements = Elements::default();
    for (element, value) in Element::ALL.into_iter().zip(by_element(object)?) {
        let text = value.as_str().ok_or_else(|| format!("\"{}\" is not text", element.name()))?;
        elements.set(element, text.trim());
    }
    if elements == Elements::default() {
        return Err("all elements are empty".to_owned());
    }
    Ok(Answered { value: json!({"elements": elements}), warnings: unknown(object, &[]) })
}

fn several(object: &Map<String, Value>, count: usize) -> Result<Answered, String> {
    let list = object.get("pairs").and_then(Value::as_array).ok_or("missing: pairs")?;
    if list.len() != count {
        return Err(format!("\"pairs\" has {} objects, expected {count}", list.len()));
    }
    let mut whole = Answered { value: Value::Null, warnings: unknown(object, &["pairs"]) };
    let mut values = Vec::new();
    for (at, own) in list.iter().enumerate() {
        let place = |what: String| format!("pair {}: {what}", at + 1);
        let own = own.as_object().ok_or_else(|| place("it is no object".to_owned()))?;
        let one = compared(own).map_err(place)?;
        values.push(one.value);
        whole.warnings.extend(one.warnings.into_iter().map(place));
    }
    whole.value = json!({"pairs": values});
    Ok(whole)
}

fn simplified(object: &Map<String, Value>) -> Result<Answered, String> {
    let text = object.get("prompt").and_then(Value::as_str).map_or("", str::trim);
    let count = text.split_whitespace().count();
    if !(1..=FEW_WORDS).contains(&count) {
        return Err(format!("\"prompt\" has {count} words, expected 1 to {FEW_WORDS}"));
    }
    Ok(Answered { value: json!({"prompt": text}), warnings: unknown(object, &["prompt"]) })
}

fn moderated(object: &Map<String, Value>) -> Result<Answered, String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).map_or("", str::trim);
    let decision = text("decision");
    if !DECISIONS.contains(&decision) {
        return Err(format!("\"decision\" is one of {}", DECISIONS.join(", ")));
    }
    let list = object.get("categories").and_then(Value::as_array).ok_or("missing: categories")?;
    let names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    if names.len() != list.len() || names.iter().any(|name| !CATEGORIES.contains(name)) {
        return Err(format!("\"categories\" is a list of {}", CATEGORIES.join(", ")));
    }
    let value = json!({"decision": decision, "categories": names, "reason": text("reason")});
    Ok(Answered { value, warnings: unknown(object, &["decision", "categories", "reason"]) })
}

fn described(object: &Map<String, Value>) -> Result<Answered, String> {
    let elements = texts(object)?;
    let one_of = |key: &str, words: &[&str]| -> Result<String, String> {
        let word = object.get(key).and_then(Value::as_str).unwrap_or_default();
        match words.contains(&word) {
            true => Ok(word.to_owned()),
            false => Err(format!("\"{key}\" is one of {}", words.join(", "))),
        }
    };
    let pronoun = one_of("pronoun", &["he", "she", "they"])?;
    let people = one_of("people", &["one", "several", "none"])?;
    let value = json!({"elements": elements, "pronoun": pronoun, "people": people});
    Ok(Answered { value, warnings: unknown(object, &["pronoun", "people"]) })
}

fn compared(object: &Map<String, Value>) -> Result<Answered, String> {
    let found = by_element(object)?;
    let mut scores = [0.0; 7];
    for (element, value) in Element::ALL.into_iter().zip(found) {
        let score = value.get("score").unwrap_or(value).as_f64();
        scores[element as usize] =
            score.ok_or_else(|| format!("\"{}\" has no number as its score", element.name()))?;
    }
    // Of a hundred: whole numbers in all fields, and one that cannot be a share.
    let hundred = scores.iter().all(|score| score.fract() == 0.0 && (0.0..=100.0).contains(score))
        && scores.iter().any(|score| *score > 1.0);
    if hundred {
        scores = scores.map(|score| score / 100.0);
    }
    if let Some(at) = scores.iter().position(|score| !(-0.05..=1.05).contains(score)) {
        return Err(format!(
            "\"{}\" has the score {}, not 0 to 1",
            Element::ALL[at].name(),
            scores[at]
        ));
    }
    let (mut values, mut reasons) = (Map::new(), Map::new());
    for (element, value) in Element::ALL.into_iter().zip(found) {
        let name = element.name().to_owned();
        values.insert(name.clone(), json!(scores[element as usize].clamp(0.0, 1.0)));
        reasons.insert(name, value.get("reason").cloned().unwrap_or(Value::Null));
    }
    let value = json!({"scores": values, "reasons": reasons});
    Ok(Answered { value, warnings: unknown(object, &[]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(scores: [f64; 7]) -> String {
        let mut object = Map::new();
        for element in Element::ALL {
            let own = json!({"reason": "so", "score": scores[element as usize]});
            object.insert(element.name().to_owned(), own);
        }
        Value::from(object).to_string()
    }

    #[test]
    fn the_object_is_found_in_what_stands_around_it() {
        for (text, found) in [
            ("```json\n{\"a\": \"}\"}\n```", Some("{\"a\": \"}\"}")),
            ("<think>{\"no\": 1}</think> {\"a\": {\"b\": 1}} {", Some("{\"a\": {\"b\": 1}}")),
            ("{\"a\": \"\\\"}\"", None),
            ("nothing", None),
        ] {
            assert_eq!(object_in(text), found, "{text}");
        }
    }

    #[test]
    fn scores_of_a_hundred_are_shares_and_others_are_refused() {
        let scores = |answer: [f64; 7]| -> Result<Vec<f64>, String> {
            let read = Question::Compare.read(&compare(answer))?;
            Ok(read.value["scores"]
                .as_object()
                .unwrap()
                .values()
                .map(|v| v.as_f64().unwrap())
                .collect())
        };
        assert_eq!(scores([100.0, 50.0, 0.0, 1.0, 90.0, 0.0, 0.0]).unwrap()[..3], [1.0, 0.5, 0.0]);
        assert_eq!(scores([1.03, -0.02, 0.5, 1.0, 0.0, 0.0, 0.0]).unwrap()[..2], [1.0, 0.0]);
        assert!(scores([1.2, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0]).unwrap_err().contains("\"shot\""));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut object: Map<String, Value> =
            Element::ALL.map(|e| (e.name().to_owned(), json!("Some text."))).into_iter().collect();
        object.insert("pronoun".into(), "she".into());
        object.insert("people".into(), "one".into());
        object.insert("mood".into(), "x".into());
        let read =
            |object: &Map<String, Value>| Question::Describe.read(&json!(object).to_string());
        let sound = read(&object).unwrap();
        assert_eq!(sound.value["elements"]["shot"], "Some text.");
        assert_eq!(sound.warnings, ["\"mood\" was not asked for"]);
        object.insert("hairstyle".into(), " ".into());
        assert!(read(&object).unwrap_err().contains("\"hairstyle\" is not text"));
        object.remove("shot");
        assert_eq!(read(&object).unwrap_err(), "missing: shot");
        assert!(Question::Describe.read("no").is_err());
    }

    #[test]
    fn several_pairs_are_as_many_as_were_asked_about() {
        let [one, two] = [0.5, 1.0]
            .map(|score| -> Value { serde_json::from_str(&compare([score; 7])).unwrap() });
        let read = |value: Value| Question::Several(2).read(&value.to_string());
        let found = read(json!({"pairs": [one.clone(), two]})).unwrap().value;
        assert_eq!(found["pairs"][0]["scores"]["shot"], 0.5);
        assert_eq!(found["pairs"][1]["scores"]["action"], 1.0);
        let fault = read(json!({"pairs": [one.clone()]})).unwrap_err();
        assert_eq!(fault, "\"pairs\" has 1 objects, expected 2");
        let fault = read(json!({"pairs": [one, {"shot": 1}]})).unwrap_err();
        assert!(fault.starts_with("pair 2: missing: hairstyle"), "{fault}");
    }

    #[test]
    fn prompts_in_few_words_have_few() {
        let read = |text: &str| Question::Simplify.read(&json!({"prompt": text}).to_string());
        assert_eq!(read(" He nods. ").unwrap().value, json!({"prompt": "He nods."}));
        assert!(read("").is_err() && read(&"word ".repeat(61)).unwrap_err().contains("61 words"));
    }

    #[test]
    fn decisions_about_texts_are_of_known_words() {
        let read = |value: Value| Question::Moderate.read(&value.to_string());
        let own = json!({"reason": " so ", "categories": ["hate"], "decision": "block"});
        let found = read(own.clone()).unwrap().value;
        assert_eq!(found, json!({"decision": "block", "categories": ["hate"], "reason": "so"}));
        for (key, value, what) in [
            ("decision", json!("refuse"), "\"decision\" is one of"),
            ("decision", Value::Null, "\"decision\" is one of"),
            ("categories", json!(["spam"]), "is a list of"),
            ("categories", json!([1]), "is a list of"),
            ("categories", json!("hate"), "missing: categories"),
        ] {
            let mut other = own.clone();
            other[key] = value;
            assert!(read(other).unwrap_err().contains(what), "{key}");
        }
    }

    #[test]
    fn schemas_have_the_words_of_strict_modes_alone() {
        use Question::{Compare, Describe, Invent, Moderate, Parse, Several, Simplify};
        for question in [Describe, Compare, Several(3), Invent, Simplify, Parse, Moderate] {
            let text = question.schema().to_string();
            for word in ["minimum", "maximum", "minLength", "pattern"] {
                assert!(!text.contains(word));
            }
            assert!(text.contains("\"additionalProperties\":false"));
        }
    }
}
