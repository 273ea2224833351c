//! What is asked of a model that judges videos, and what it answers (`evaluation.md` §6): facts of a
//! prompt, how far frames show each of them, and how good the frames are.

use super::answer::Answered;
use serde_json::{Map, Value, json};

/// Most facts of an element.
pub const MOST_FACTS: usize = 6;
/// Most words of a fact.
const FACT_WORDS: usize = 30;
/// Most defects that are named.
const MOST_DEFECTS: usize = 5;
/// How far frames can show a fact.
const STEPS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// What the three numbers of a whole prompt are called.
const WHOLE: [&str; 3] = ["appearance", "motion", "background"];

/// What a judge is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Facts of these elements, by their places in the order of elements.
    Facts([bool; 7]),
    /// How far each fact is shown: so many of appearance (`a1`…), motion (`m1`…) and background (`b1`…).
    Verdicts([usize; 3]),
    /// One number each of appearance, motion and background, where the prompt says something of it.
    Whole([bool; 3]),
    /// Defects, and two numbers.
    Quality,
}

/// Names of facts: so many of each group.
pub fn fact_names(counts: [usize; 3]) -> Vec<String> {
    let group = |(letter, count): (char, usize)| (1..=count).map(move |at| format!("{letter}{at}"));
    ['a', 'm', 'b'].into_iter().zip(counts).flat_map(group).collect()
}

fn object(properties: Value) -> Value {
    let names: Vec<&String> =
        properties.as_object().into_iter().flatten().map(|(k, _)| k).collect();
    json!({"type": "object", "required": names, "additionalProperties": false,
        "properties": properties})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

impl Judgement {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Facts(_) => "facts",
            Self::Verdicts(_) => "judge.prompt",
            Self::Whole(_) => "judge.holistic",
            Self::Quality => "judge.quality",
        }
    }

    /// Most tokens of an answer.
    pub fn room(self) -> u64 {
        match self {
            Self::Facts(_) => 2000,
            Self::Verdicts(counts) => 400 + 60 * counts.iter().sum::<usize>() as u64,
            Self::Whole(_) => 300,
            Self::Quality => 600,
        }
    }

    fn elements(asked: [bool; 7]) -> impl Iterator<Item = &'static str> {
        let all = crate::prompt::elements::Element::ALL.into_iter().zip(asked);
        all.filter(|(_, asked)| *asked).map(|(element, _)| element.name())
    }

    fn groups(asked: [bool; 3]) -> impl Iterator<Item = &'static str> {
        WHOLE.into_iter().zip(asked).filter(|(_, asked)| *asked).map(|(name, _)| name)
    }

    /// The JSON schema of answers, with the words alone that strict modes take.
    pub fn schema(self) -> Value {
        let (text, number) = (json!({"type": "string"}), json!({"type": "number"}));
        match self {
            Self::Facts(asked) => {
                let each = Self::elements(asked).map(|name| (name.to_owned(), list(text.clone())));
                object(each.collect::<Map<_, _>>().into())
            }
            Self::Verdicts(counts) => {
                let names = json!({"type": "string", "enum": fact_names(counts)});
                // The remark first, so that the value follows from it.
                let mut own = Map::new();
                own.insert("id".into(), names);
                own.insert("remark".into(), text);
                own.insert("value".into(), number);
                object(json!({"facts": list(object(own.into()))}))
            }
            Self::Whole(asked) => {
                let each = Self::groups(asked).map(|name| (name.to_owned(), number.clone()));
                object(each.collect::<Map<_, _>>().into())
            }
            Self::Quality => {
                let mut own = Map::new();
                own.insert("defects".into(), list(text));
                own.insert("static".into(), number.clone());
                own.insert("dynamic".into(), number);
                object(own.into())
            }
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it, in words that the model can be told.
    pub fn read(self, answer: &Map<String, Value>) -> Result<Answered, String> {
        let (value, known): (Value, Vec<&str>) = match self {
            Self::Facts(asked) => (facts(answer, asked)?, Self::elements(asked).collect()),
            Self::Verdicts(counts) => (verdicts(answer, counts)?, vec!["facts"]),
            Self::Whole(asked) => {
                let names: Vec<&str> = Self::groups(asked).collect();
                let numbers = names
                    .iter()
                    .map(|name| Ok::<_, String>(((*name).to_owned(), score(answer, name)?)));
                (Value::Object(numbers.collect::<Result<_, String>>()?), names)
            }
            Self::Quality => (quality(answer)?, vec!["defects", "static", "dynamic"]),
        };
        let other = answer.keys().filter(|key| !known.contains(&key.as_str()));
        let warnings = other.map(|key| format!("\"{key}\" was not asked for")).collect();
        Ok(Answered { value, warnings })
    }
}

fn facts(answer: &Map<String, Value>, asked: [bool; 7]) -> Result<Value, String> {
    let mut found = Map::new();
    for name in Judgement::elements(asked) {
        let all = answer.get(name).and_then(Value::as_array);
        let all = all.ok_or_else(|| format!("\"{name}\" is no list of texts"))?;
        if !(1..=MOST_FACTS).contains(&all.len()) {
            let count = all.len();
            return Err(format!("\"{name}\" has {count} facts, expected 1 to {MOST_FACTS}"));
        }
        let mut texts = Vec::new();
        for fact in all {
            let text = fact.as_str().map_or("", str::trim);
            if !(1..=FACT_WORDS).contains(&text.split_whitespace().count()) {
                return Err(format!("a fact of \"{name}\" is not 1 to {FACT_WORDS} words"));
            }
            texts.push(text);
        }
        found.insert(name.to_owned(), json!(texts));
    }
    Ok(found.into())
}

fn verdicts(answer: &Map<String, Value>, counts: [usize; 3]) -> Result<Value, String> {
    let all = answer.get("facts").and_then(Value::as_array).ok_or("\"facts\" is no list")?;
    let names = fact_names(counts);
    let mut found = vec![None; names.len()];
    for fact in all {
        let id = fact["id"].as_str().unwrap_or_default();
        let at = names.iter().position(|name| name == id);
        let at = at.ok_or_else(|| format!("there is no fact \"{id}\""))?;
        let value = fact["value"].as_f64().filter(|value| STEPS.contains(value));
        let value = value.ok_or_else(|| {
            format!("the value of {id} is {}, not 1, 0.75, 0.5, 0.25 or 0", fact["value"])
        })?;
        let remark = fact["remark"].as_str().unwrap_or_default();
        if found[at].replace(json!({"id": id, "value": value, "remark": remark})).is_some() {
            return Err(format!("{id} is there twice"));
        }
    }
    let missing = names.iter().zip(&found).filter(|(_, fact)| fact.is_none());
    let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
    match missing.is_empty() {
        true => Ok(json!({"facts": found.into_iter().flatten().collect::<Vec<_>>()})),
        false => Err(format!("missing: {}", missing.join(", "))),
    }
}

fn score(answer: &Map<String, Value>, name: &str) -> Result<Value, String> {
    let value = answer.get(name).and_then(Value::as_f64);
    let value = value.filter(|v| (0.0..=100.0).contains(v) && v.fract() == 0.0);
    value.map(|value| json!(value)).ok_or_else(|| format!("\"{name}\" is no integer from 0 to 100"))
}

fn quality(answer: &Map<String, Value>) -> Result<Value, String> {
    let defects = answer.get("defects").and_then(Value::as_array);
    let defects = defects.ok_or("\"defects\" is no list of texts")?;
    let texts: Option<Vec<&str>> = defects.iter().map(Value::as_str).collect();
    let mut texts = texts.ok_or("\"defects\" is no list of texts")?;
    texts.truncate(MOST_DEFECTS);
    let [still, moving] = [score(answer, "static")?, score(answer, "dynamic")?];
    Ok(json!({"defects": texts, "static": still, "dynamic": moving}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(judgement: Judgement, answer: Value) -> Result<Value, String> {
        judgement.read(answer.as_object().unwrap()).map(|answered| answered.value)
    }

    #[test]
    fn verdicts_are_of_each_fact_once_and_in_quarters() {
        let asked = Judgement::Verdicts([2, 0, 1]);
        assert_eq!(fact_names([2, 0, 1]), ["a1", "a2", "b1"]);
        let fact = |id: &str, value: f64| json!({"id": id, "value": value, "remark": "seen"});
        let all = |facts: Vec<Value>| read(asked, json!({"facts": facts}));
        let found = all(vec![fact("b1", 0.25), fact("a1", 1.0), fact("a2", 0.0)]).unwrap();
        assert_eq!(found["facts"][0], fact("a1", 1.0));
        assert_eq!(found["facts"][2]["value"], 0.25);
        let fault = |facts| all(facts).unwrap_err();
        assert_eq!(fault(vec![fact("a1", 1.0)]), "missing: a2, b1");
        assert!(fault(vec![fact("a1", 0.6)]).contains("0.6, not 1, 0.75"));
        assert!(fault(vec![fact("c1", 1.0)]).contains("no fact \"c1\""));
        assert!(fault(vec![fact("a1", 1.0), fact("a1", 0.5)]).contains("twice"));
    }

    #[test]
    fn facts_and_numbers_are_those_that_were_asked_for() {
        let mut asked = [false; 7];
        asked[1] = true;
        let facts = Judgement::Facts(asked);
        assert!(read(facts, json!({"hairstyle": ["Her hair is red."]})).is_ok());
        assert!(read(facts, json!({"hairstyle": []})).unwrap_err().contains("0 facts"));
        assert!(read(facts, json!({"clothing": ["A coat."]})).is_err());
        let whole = Judgement::Whole([true, false, true]);
        let found = read(whole, json!({"appearance": 80, "background": 100})).unwrap();
        assert_eq!(found["appearance"], 80.0);
        assert!(read(whole, json!({"appearance": 80})).unwrap_err().contains("\"background\""));
        assert!(read(whole, json!({"appearance": 0.8, "background": 1})).is_err());
        let quality = json!({"defects": ["f7: six fingers"], "static": 82, "dynamic": 101});
        assert!(read(Judgement::Quality, quality).unwrap_err().contains("\"dynamic\""));
    }

    #[test]
    fn schemas_ask_for_remarks_first_and_for_known_names() {
        let schema = Judgement::Verdicts([1, 1, 0]).schema();
        let fact = &schema["properties"]["facts"]["items"];
        assert_eq!(fact["properties"]["id"]["enum"], json!(["a1", "m1"]));
        assert_eq!(fact["additionalProperties"], false);
        let whole = Judgement::Whole([false, true, false]).schema();
        assert_eq!(whole["required"], json!(["motion"]));
    }
}
