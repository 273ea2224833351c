//! Lines of a manifest that cannot be used, as one error.
//!
//! One wrong setting or one missing folder is the fault of every line, so faults are listed by kind: those of
//! few lines line by line, others with their number and the first few lines.

use super::settings::Settings;
use crate::error::Error;
use std::collections::BTreeSet;
use std::path::Path;

/// What is wrong with a line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// Its id; empty where it has none.
    pub id: String,
    /// What is wrong, in words.
    pub what: String,
}

/// Lines of one kind of fault that are named.
const NAMED: usize = 3;
/// Kinds of faults that are listed.
const LISTED: usize = 50;

/// Settings that make a fault of every line, by what the fault says.
const SETTINGS: [(&str, &str); 4] = [
    ("the run takes", "video.frames"),
    ("that of the run is", "video.fps"),
    (" needed", "video.frames"),
    ("the file does not exist", "data.root"),
];

/// The error of these faults, in the order of their lines, of the manifest at `path` with so many lines.
pub fn refused(faults: &[Fault], lines: usize, path: &Path, settings: &Settings) -> Error {
    let faulty: BTreeSet<usize> = faults.iter().map(|fault| fault.line).collect();
    let mut message = match faulty.len() {
        1 => "1 line of the manifest cannot be used".to_owned(),
        count => format!("{count} lines of the manifest cannot be used"),
    };
    let kinds = by_kind(faults);
    for faults in kinds.iter().take(LISTED) {
        message.push_str(&listed(faults));
    }
    if kinds.len() > LISTED {
        message.push_str(&format!("\n  … and {} more kinds of faults", kinds.len() - LISTED));
    }
    let help = help(faults, faulty.len(), lines, settings);
    Error::input("E0957", message).at(path.display()).help(help)
}

/// Faults that differ in names and numbers alone, in the order of the first of each.
fn by_kind(faults: &[Fault]) -> Vec<Vec<&Fault>> {
    let mut out: Vec<(String, Vec<&Fault>)> = Vec::new();
    for fault in faults {
        let kind = kind(&fault.what);
        match out.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, own)) => own.push(fault),
            None => out.push((kind, vec![fault])),
        }
    }
    out.into_iter().map(|(_, own)| own).collect()
}

/// What is said without words that hold numbers, paths or names of files.
fn kind(what: &str) -> String {
    let own = |word: &&str| {
        let inside = word.trim_end_matches(['.', ':', ',', ';']);
        let varies = |c: char| c.is_ascii_digit() || "./\\".contains(c);
        !inside.contains(varies)
    };
    what.split(' ').filter(own).collect::<Vec<_>>().join(" ")
}

/// Faults of one kind.
fn listed(faults: &[&Fault]) -> String {
    let mut lines: Vec<&Fault> = faults.to_vec();
    lines.dedup_by_key(|fault| fault.line);
    if lines.len() <= NAMED {
        let each = faults.iter().map(|Fault { line, what, .. }| format!("\n  line {line}: {what}"));
        return each.collect();
    }
    let named = lines.iter().take(NAMED).map(|Fault { line, id, .. }| match id.is_empty() {
        true => format!("line {line}"),
        false => format!("line {line} ({id})"),
    });
    let named: Vec<String> = named.collect();
    format!("\n  {} lines, such as {}: {}", lines.len(), named.join(", "), lines[0].what)
}

fn help(faults: &[Fault], faulty: usize, lines: usize, settings: &Settings) -> String {
    // A file of another kind has the same fault in every line.
    let every = |said: &str| faults.iter().all(|fault| fault.what.contains(said));
    let known = [
        (
            "this is not ",
            "a manifest has one JSON object a line, without breaks inside; docs/training.md shows one",
        ),
        (
            "expected \"anyid.dpo/1\"",
            "this is a manifest of samples, for `train lora` and `train full` (`train check` and \
             `train check full`); `train dpo` reads pairs",
        ),
        (
            "expected \"anyid.sample/1\"",
            "this is a manifest of pairs, for `train dpo` (`train check dpo` looks at it); `train lora` and \
             `train full` read samples",
        ),
    ];
    // Of text in another encoding, some lines happen to be UTF-8 as well.
    if every("this is not ") && faults.iter().any(|fault| fault.what.contains("not UTF-8")) {
        return "save the file as UTF-8".to_owned();
    }
    if let Some((_, help)) = known.into_iter().find(|(said, _)| every(said)) {
        return help.to_owned();
    }
    if faulty < lines || lines < 2 {
        return "correct these lines, or set data.skip_faulty = true to leave them out".to_owned();
    }
    let in_each = |said: &str| {
        let own = faults.iter().filter(|fault| fault.what.contains(said));
        own.map(|fault| fault.line).collect::<BTreeSet<usize>>().len() == lines
    };
    let Some((_, key)) = SETTINGS.into_iter().find(|(said, _)| in_each(said)) else {
        return "every line has a fault: look whether the settings are for this manifest"
            .to_owned();
    };
    let (section, name) = key.split_once('.').expect("it is a key of a section");
    let place = settings.place(key);
    match &settings.to_json()[section][name] {
        serde_json::Value::Null => {
            format!("every line has this fault: set {key} in {place}, which leaves it out")
        }
        value if settings.gave(key) => {
            format!("every line has this fault: look at {key}, which is {value} in {place}")
        }
        value => format!("every line has this fault: set {key}, which is {value} without that"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(lines: std::ops::Range<usize>, what: impl Fn(usize) -> String) -> Vec<Fault> {
        lines.map(|line| Fault { line, id: format!("s_{line}"), what: what(line) }).collect()
    }

    fn refuse(faults: &[Fault], lines: usize) -> Error {
        refused(faults, lines, Path::new("m.jsonl"), &Settings::default())
    }

    #[test]
    fn one_fault_of_all_lines_is_said_once_and_blamed_on_its_setting() {
        for (what, key) in [
            ("target: it has 5 frames, the run takes 121", "set video.frames, which is 121"),
            ("target: \"fps\" is 25, that of the run is 24", "set video.fps, which is 24.0"),
            ("target: a/b.mp4: the file does not exist", "set data.root in"),
            ("the prompt has 900 tokens, at most 48", "are for this manifest"),
        ] {
            let error = refuse(&faults(1..401, |_| what.to_owned()), 400);
            assert_eq!(
                error.message(),
                format!(
                    "400 lines of the manifest cannot be used\n  400 lines, such as line 1 (s_1), \
                     line 2 (s_2), line 3 (s_3): {what}"
                )
            );
            assert!(error.help_text().unwrap().contains(key), "{error}");
        }
    }

    #[test]
    fn faults_that_differ_in_names_and_numbers_are_of_one_kind() {
        let mut all = faults(1..9, |line| format!("target: v/{line}.mp4 gives {line} frames"));
        all.push(Fault { line: 2, id: String::new(), what: "target: v/x gives 0 frames".into() });
        all.extend(faults(20..22, |line| format!("reference {line}: \"role\" is \"boss\"")));
        all.sort_by_key(|fault| fault.line);
        let error = refuse(&all, 30);
        let lines: Vec<&str> = error.message().lines().collect();
        assert_eq!(lines[0], "10 lines of the manifest cannot be used");
        assert!(lines[1].starts_with("  8 lines, such as line 1 (s_1), line 2 (s_2), "), "{error}");
        assert!(lines[1].ends_with(": target: v/1.mp4 gives 1 frames"), "{error}");
        assert_eq!(lines[2], "  line 20: reference 20: \"role\" is \"boss\"");
        assert_eq!(lines.len(), 4);
        assert!(error.help_text().unwrap().starts_with("correct these lines"));
    }

    #[test]
    fn many_kinds_are_cut_short() {
        let words = |line: usize| "x".repeat(line);
        let error = refuse(&faults(1..100, words), 200);
        assert_eq!(error.message().lines().count(), 1 + LISTED + 1);
        assert!(error.message().ends_with("… and 49 more kinds of faults"), "{error}");
    }
}
