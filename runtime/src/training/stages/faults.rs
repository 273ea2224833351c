//! Faults of several stages, told together.

use crate::error::{Error, Kind as Fault, Result, plural};
use std::collections::BTreeMap;
use std::path::Path;

/// Faults with the names of the stages that they are of.
#[derive(Debug, Default)]
pub struct Faults(Vec<(String, Error)>);

impl Faults {
    /// What came out well; a fault of stage `name` is noted.
    ///
    /// # Errors
    /// E1002 where it was told to stop.
    pub fn note<T>(&mut self, name: &str, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == Fault::Interrupted => Err(error),
            Err(error) => {
                self.0.push((name.to_owned(), error));
                Ok(None)
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Refuses the stages of the file at `path` if a fault was noted.
    ///
    /// # Errors
    /// The fault, if it is the only one, else E0970 with all.
    pub fn refuse(self, path: &Path) -> Result<()> {
        // Stages in the order in which the first fault of each was found.
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let mut all: Vec<(Vec<String>, Error)> = Vec::new();
        for (name, error) in self.0 {
            let next = places.len();
            places.entry(name.clone()).or_insert(next);
            // Several stages may have one file of settings, and the same faults in it.
            match all.iter_mut().find(|(_, own)| own.to_string() == error.to_string()) {
                Some((names, _)) => names.push(name),
                None => all.push((vec![name], error)),
            }
        }
        if all.len() < 2 {
            return all.pop().map_or(Ok(()), |(names, error)| Err(placed(error, &names)));
        }
        all.sort_by_key(|(names, _)| places[&names[0]]);
        let mut rows = String::new();
        for (names, error) in &all {
            let error = error.to_string().replace('\n', "\n  ");
            rows.push_str(&format!("\n  {}: {error}", named(names)));
        }
        let count = plural(places.len(), "stage");
        let all = |kind| all.iter().all(|(_, error)| error.kind() == kind);
        let kind = if all(Fault::Budget) { Fault::Budget } else { Fault::Input };
        Err(Error::new(kind, "E0970", format!("{count} cannot be run:{rows}"))
            .at(path.display())
            .help("mend what is listed: none of these stages was begun"))
    }
}

/// Stages in words.
fn named(names: &[String]) -> String {
    let word = if names.len() > 1 { "stages" } else { "stage" };
    format!("{word} {}", names.join(", "))
}

/// An error whose place says of which stages it is.
fn placed(error: Error, names: &[String]) -> Error {
    let stage = named(names);
    match error.place() {
        Some(place) if place.contains(&stage) => error,
        Some(place) => {
            let place = format!("{place}, of {stage}");
            error.placed(place)
        }
        None => error.at(stage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(list: Vec<(&str, Error)>) -> Result<()> {
        let mut faults = Faults::default();
        for (name, error) in list {
            assert!(faults.note(name, Err::<(), _>(error)).unwrap().is_none());
        }
        faults.refuse(Path::new("s.toml"))
    }

    #[test]
    fn one_fault_is_itself_and_several_are_a_list() {
        let fault = |code, place: &str| Error::input(code, "wrong\n  here").at(place).help("mend");
        told(Vec::new()).unwrap();
        let one = told(vec![("a", fault("E0363", "x"))]).unwrap_err();
        assert_eq!((one.code(), one.place()), ("E0363", Some("x, of stage a")));
        let one = told(vec![("a", fault("E0363", "s.toml:3, stage a"))]).unwrap_err();
        assert_eq!(one.place(), Some("s.toml:3, stage a"));
        let rows = vec![
            ("a", fault("E0363", "x")),
            ("a", fault("E0911", "y")),
            ("b", fault("E0957", "z")),
        ];
        let all = told(rows).unwrap_err();
        assert_eq!((all.code(), all.place(), all.kind()), ("E0970", Some("s.toml"), Fault::Input));
        assert!(
            all.message().starts_with("2 stages cannot be run:\n  stage a: error[E0363]: wrong")
        );
        for said in ["\n    here\n    --> x\n    help: mend", "stage a: error[E0911]", "stage b: "]
        {
            assert!(all.message().contains(said), "{said}: {all}");
        }
        // The same fault of several stages is said once, and what comes later has the place of its stage.
        let rows = vec![
            ("a", fault("E0955", "x")),
            ("b", fault("E0955", "x")),
            ("c", fault("E0911", "y")),
            ("a", fault("E0901", "z")),
        ];
        let all = told(rows).unwrap_err();
        assert!(all.message().starts_with("3 stages cannot be run:\n  stages a, b: error[E0955]"));
        let [a, c] = ["stage a: error[E0901]", "stage c: "].map(|said| all.message().find(said));
        assert!(a.unwrap() < c.unwrap(), "{all}");
        let one = told(vec![("a", fault("E0955", "x")), ("b", fault("E0955", "x"))]).unwrap_err();
        assert_eq!((one.code(), one.place()), ("E0955", Some("x, of stages a, b")));
        // Exit codes tell budgets from other faults.
        let small = || Error::new(Fault::Budget, "E0601", "too small");
        let kind = |rows| told(rows).unwrap_err().kind();
        assert_eq!(kind(vec![("a", small()), ("b", small())]), Fault::Budget);
        assert_eq!(kind(vec![("a", small()), ("b", fault("E0363", "x"))]), Fault::Input);
        let stop = Error::new(Fault::Interrupted, "E1002", "stopped");
        assert!(Faults::default().note("a", Err::<(), _>(stop)).is_err());
    }
}
