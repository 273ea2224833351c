//! What a section tells the process that started it: one line of JSON for each thing, as soon as it is
//! known, so that whatever ends this process takes nothing with it.
//!
//! A section goes through its checks in an order that is the same in every run, so that a check is known
//! by its place. It says before each that it begins, and when the device is no longer at work.

use super::report::Line;
use serde_json::{Value, json};
use std::io::Write;
use std::ops::Range;

/// What is told.
#[derive(Clone, Debug)]
pub enum Message {
    /// A check begins, which is given to the device; its group, if it is of one.
    Begins { at: usize, name: String, group: Option<String> },
    /// The device has nothing to do.
    Idle,
    /// A finding.
    Line(Line),
    /// How many checks a group has.
    Expects { group: String, count: usize },
    /// What figures are of.
    Version { name: String, value: Value },
    /// What there is to be checked, where it was not wanted.
    Others(Vec<String>),
    /// The section is at its end.
    Ends,
}

impl Message {
    pub fn json(&self) -> Value {
        match self {
            Self::Begins { at, name, group } => {
                json!({ "begins": name, "at": at, "group": group })
            }
            Self::Idle => json!({ "idle": true }),
            Self::Line(line) => json!({ "line": line.json() }),
            Self::Expects { group, count } => json!({ "expects": group, "count": count }),
            Self::Version { name, value } => json!({ "version": name, "value": value }),
            Self::Others(names) => json!({ "others": names }),
            Self::Ends => json!({ "ends": true }),
        }
    }

    /// What [`Self::json`] made; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let count = |key: &str| value[key].as_u64().and_then(|count| usize::try_from(count).ok());
        if let Some(name) = text("begins") {
            return Some(Self::Begins { at: count("at")?, name, group: text("group") });
        }
        if let Some(group) = text("expects") {
            return Some(Self::Expects { group, count: count("count")? });
        }
        if let Some(name) = text("version") {
            return Some(Self::Version { name, value: value["value"].clone() });
        }
        if let Some(names) = value["others"].as_array() {
            let names = names.iter().filter_map(Value::as_str).map(str::to_owned);
            return Some(Self::Others(names.collect()));
        }
        match (value["idle"].as_bool(), value["ends"].as_bool()) {
            (Some(true), _) => Some(Self::Idle),
            (_, Some(true)) => Some(Self::Ends),
            _ => Line::parse(&value["line"]).map(Self::Line),
        }
    }
}

/// Tells what a section finds.
pub struct Teller {
    out: Box<dyn Write>,
    /// The checks that are to be done, by their places.
    wanted: Range<usize>,
    /// How many were passed.
    at: usize,
    /// Nothing more is begun: the device is lost, or nobody listens.
    over: bool,
}

impl Teller {
    pub fn new(out: Box<dyn Write>, wanted: Range<usize>) -> Self {
        Self { out, wanted, at: 0, over: false }
    }

    pub fn tell(&mut self, message: &Message) {
        let said = writeln!(self.out, "{}", message.json()).and_then(|()| self.out.flush());
        self.over |= said.is_err();
    }

    /// Whether the check behind the next `ahead` ones is to be done.
    pub fn wants(&self, ahead: usize) -> bool {
        !self.over && self.wanted.contains(&(self.at + ahead))
    }

    /// Passes `count` checks if none of them is to be done, and says so.
    pub fn passes(&mut self, count: usize) -> bool {
        let none = !(0..count).any(|ahead| self.wants(ahead));
        self.at += if none { count } else { 0 };
        none
    }

    /// Whether the next check is to be done, which is then told of.
    pub fn begins(&mut self, name: &str, group: Option<&str>) -> bool {
        let (at, wanted) = (self.at, self.wants(0));
        self.at += 1;
        if wanted {
            let (name, group) = (name.to_owned(), group.map(str::to_owned));
            self.tell(&Message::Begins { at, name, group });
        }
        wanted && !self.over
    }

    /// From here on nothing is on the device.
    pub fn idle(&mut self) {
        self.tell(&Message::Idle);
    }

    pub fn push(&mut self, line: Line) {
        self.over |= line.is_lost();
        self.tell(&Message::Line(line));
    }

    pub fn expects(&mut self, group: &str, count: usize) {
        self.tell(&Message::Expects { group: group.to_owned(), count });
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn checks_are_done_by_their_places_until_the_device_is_lost() {
        let kept = Kept::default();
        let mut teller = Teller::new(Box::new(kept.clone()), 2..usize::MAX);
        teller.expects("all", 6);
        assert!(teller.passes(2) && !teller.passes(3));
        assert!(teller.begins("c", Some("all")));
        teller.idle();
        teller.push(Line::new("ops", "c", Verdict::Right, "fine"));
        assert!(teller.begins("d", None) && teller.wants(0));
        teller.push(Line::new("ops", "d", Verdict::Wrong, "[E0862] cuda:0 was lost"));
        assert!(!teller.begins("e", None) && teller.passes(1));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let all: Vec<Message> = text.lines().map(|line| Message::parse(line).unwrap()).collect();
        assert_eq!(all.len(), 6, "{text}");
        assert!(matches!(&all[1], Message::Begins { at: 2, name, group: Some(_) } if name == "c"));
        assert!(matches!(&all[5], Message::Line(line) if line.is_lost()));
        for message in [Message::Ends, Message::Idle, Message::Others(vec!["silu".into()])] {
            let text = message.json().to_string();
            assert_eq!(Message::parse(&text).unwrap().json().to_string(), text);
        }
        assert!(Message::parse("noise of a driver").is_none());
    }
}
