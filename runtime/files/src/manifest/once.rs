//! JSON in which no object has a key twice.
//!
//! Readers of JSON keep the first or the last of two values, each as it likes. In a manifest that decides
//! what is learned, so keys that are there twice are faults of their line, each with its place in it.

use super::Field;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// The value that `text` is; keys that are there twice are added to `faults`, and the first one counts.
///
/// # Errors
/// Where it is not JSON.
pub fn value(text: &str, faults: &mut Vec<(Field, String)>) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value =
        Part { place: String::new(), field: Field::Line, faults }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The word at a column of text, counted from 1, if it is a number that JSON does not have: other writers
/// spell what is not finite so.
pub fn no_number(text: &str, column: usize) -> Option<&str> {
    let bytes = text.as_bytes();
    let at = column.saturating_sub(1).min(bytes.len());
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b",:[]{}\"".contains(byte);
    let begin = bytes[..at].iter().rposition(ends).map_or(0, |end| end + 1);
    let end = bytes[at..].iter().position(ends).map_or(bytes.len(), |end| at + end);
    let word = text.get(begin..end)?;
    let bare = word.trim_start_matches(['-', '+']).to_ascii_lowercase();
    ["nan", "inf", "infinity"].contains(&bare.as_str()).then_some(word)
}

/// A value, what it is called in messages, such as `target: `, and where faults go.
struct Part<'f> {
    place: String,
    field: Field,
    faults: &'f mut Vec<(Field, String)>,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is too large"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        loop {
            // As references are called elsewhere.
            let name = self.place.trim_end_matches(": ");
            let name = name
                .strip_suffix("references")
                .map_or(name.to_owned(), |before| format!("{before}reference"));
            let place = format!("{name} {}: ", all.len() + 1);
            let field = match self.field {
                Field::References => Field::Reference(all.len() + 1),
                other => other,
            };
            match list.next_element_seed(Part { place, field, faults: &mut *self.faults })? {
                Some(value) => all.push(value),
                None => return Ok(all.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let (place, field) = (format!("{}{key}: ", self.place), self.field.below(&key));
            let value = fields.next_value_seed(Part { place, field, faults: &mut *self.faults })?;
            if all.contains_key(&key) {
                self.faults.push((field, format!("{}\"{key}\" is there twice", self.place)));
            } else {
                all.insert(key, value);
            }
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_any_reader_and_keys_that_are_there_twice_are_named() {
        let text = r#"{"a": [1, -2, 2.5, "x", null, true, {"b": {}}], "c": 18446744073709551615}"#;
        let mut faults = Vec::new();
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!((value(text, &mut faults).unwrap(), faults.len()), (plain, 0));
        let text = r#"{"id": 1, "target": {"media": "a", "media": "b"}, "id": 2,
                       "sample": {"references": [{}, {"form": 1, "form": 1}]}}"#;
        let read = value(text, &mut faults).unwrap();
        assert_eq!((&read["id"], &read["target"]["media"]), (&1.into(), &"a".into()));
        let said = [
            (Field::Target, "target: \"media\" is there twice"),
            (Field::Id, "\"id\" is there twice"),
            (Field::Reference(2), "sample: reference 2: \"form\" is there twice"),
        ];
        assert_eq!(faults, said.map(|(field, said)| (field, said.to_owned())));
        for text in ["{\"a\": }", "{} {}", "[1, 2", &"[".repeat(9999), "1e999"] {
            let found = value(text, &mut faults);
            assert!(found.is_err() && serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
    }
}
