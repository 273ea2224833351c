//! Lines of a manifest that cannot be used, as one error.
//!
//! One wrong setting or one missing folder is the fault of every line, so faults are listed by kind: those of
//! few lines line by line, others with their number and the first few lines.

use super::manifest::LINES;
use super::settings::Settings;
use crate::error::{Error, Kind, Result};
use anyid_files::manifest::Field;
use std::collections::BTreeSet;
use std::path::Path;

/// What is wrong with a line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// Its id; empty where it has none.
    pub id: String,
    /// Which part of it is at fault.
    pub field: Field,
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

/// The error of these faults of the manifest at `path` with so many lines.
pub fn refused(faults: &[Fault], lines: usize, path: &Path, settings: &Settings) -> Error {
    let faulty: BTreeSet<usize> = faults.iter().map(|fault| fault.line).collect();
    let mut message = match faulty.len() {
        1 => "1 line of the manifest cannot be used".to_owned(),
        count => format!("{count} lines of the manifest cannot be used"),
    };
    let mut sorted: Vec<&Fault> = faults.iter().collect();
    sorted.sort_by_key(|fault| (fault.line, fault.field));
    let kinds = by_kind(&sorted);
    let mut rows: Vec<Row> = kinds.iter().take(LISTED).flat_map(|own| listed(own)).collect();
    rows.sort_by_key(|(place, _)| *place);
    rows.iter().for_each(|(_, row)| message.push_str(row));
    if kinds.len() > LISTED {
        message.push_str(&format!("\n  … and {} more kinds of faults", kinds.len() - LISTED));
    }
    let help = help(faults, faulty.len(), lines, settings);
    Error::input("E0957", message).at(path.display()).help(help)
}

/// Faults of different things that a run needs, of which none hides another.
#[derive(Debug, Default)]
pub struct Gathered(Vec<Error>);

impl Gathered {
    /// What came out well; a fault of what was asked for is noted.
    ///
    /// # Errors
    /// Those of other kinds: an interruption, memory that there is not, a broken invariant.
    pub fn note<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == Kind::Input => {
                self.0.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a run with settings of `file` if a fault was noted.
    ///
    /// # Errors
    /// The fault, if it is the only one, else all of them: with their code where they have one, or E0990.
    pub fn refuse(mut self, file: &str) -> Result<()> {
        if self.0.len() < 2 {
            return self.0.pop().map_or(Ok(()), Err);
        }
        let code = self.0[0].code();
        let code = if self.0.iter().all(|own| own.code() == code) { code } else { "E0990" };
        let row = |own: &Error| format!("\n  {}", own.to_string().replace('\n', "\n  "));
        let rows: String = self.0.iter().map(row).collect();
        let count = self.0.len();
        let message = format!("{count} things that the run needs cannot be used:{rows}");
        Err(Error::input(code, message).at(file).help("mend what is listed: nothing was begun"))
    }
}

/// A row of the list, with what it is sorted by.
type Row = ((usize, Field), String);

/// Faults that differ in names and numbers alone, in the order of the first of each.
fn by_kind<'f>(faults: &[&'f Fault]) -> Vec<Vec<&'f Fault>> {
    let mut out: Vec<(String, Vec<&'f Fault>)> = Vec::new();
    for fault in faults.iter().copied() {
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

/// Faults of one kind: each of few, and the first of many.
fn listed(faults: &[&Fault]) -> Vec<Row> {
    let mut lines: Vec<&Fault> = faults.to_vec();
    lines.dedup_by_key(|fault| fault.line);
    if lines.len() <= NAMED {
        let row = |Fault { line, field, what, .. }: &Fault| {
            ((*line, *field), format!("\n  line {line}: {what}"))
        };
        return faults.iter().copied().map(row).collect();
    }
    let named = lines.iter().take(NAMED).map(|Fault { line, id, .. }| match id.is_empty() {
        true => format!("line {line}"),
        false => format!("line {line} ({id})"),
    });
    let named: Vec<String> = named.collect();
    let (count, what) = (lines.len(), &lines[0].what);
    let row = format!("\n  {count} lines, such as {}: {what}", named.join(", "));
    vec![((lines[0].line, lines[0].field), row)]
}

/// What helps where every line has a schema of one other kind of file, or one that nothing has.
fn other_schema(faults: &[Fault], lines: usize) -> Option<String> {
    let schemas = faults.iter().filter_map(|fault| {
        let (found, wanted) =
            fault.what.strip_prefix("\"schema\" is \"")?.split_once("\", expected ")?;
        Some((found, wanted.trim_matches('"'), fault.line))
    });
    let schemas: Vec<(&str, &str, usize)> = schemas.collect();
    let (found, wanted, _) = *schemas.first()?;
    let own: BTreeSet<usize> =
        schemas.iter().filter(|(other, ..)| *other == found).map(|(.., line)| *line).collect();
    if own.len() < lines {
        return None;
    }
    let of = |schema: &str| LINES.iter().find(|(known, ..)| *known == schema);
    let (_, what, reader) = of(wanted)?;
    Some(match of(found) {
        Some((_, other, of_it)) => {
            format!("this is {other}, for {of_it}; {what} is for {reader}")
        }
        None => format!("{what}, for {reader}, has \"schema\": \"{wanted}\" in each line"),
    })
}

fn help(faults: &[Fault], faulty: usize, lines: usize, settings: &Settings) -> String {
    if let Some(help) = other_schema(faults, lines) {
        return help;
    }
    // Nothing of such a line could be read, whichever the media are.
    if faults.iter().all(|fault| fault.field == Field::Line) {
        // Of text in another encoding, some lines happen to be UTF-8 as well.
        let encoding = faults.iter().any(|fault| fault.what.contains("not UTF-8"));
        return match encoding {
            true => "save the file as UTF-8".to_owned(),
            false => {
                "a manifest has one JSON object a line, without breaks inside; docs/training.md \
                      shows one"
                    .to_owned()
            }
        };
    }
    if faults.iter().all(|fault| fault.what.contains(": this is not a picture or video")) {
        return "targets and references are pictures (PNG, JPEG, WebP, BMP, GIF) and clips (MP4, GIF); \
                `anyid-rt inspect FILE` says what a file is"
            .to_owned();
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
        let fault =
            |line| Fault { line, id: format!("s_{line}"), field: Field::Target, what: what(line) };
        lines.map(fault).collect()
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
        all.extend(faults(2..3, |_| "target: v/x gives 0 frames".to_owned()));
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
    fn faults_are_listed_by_line_and_then_by_field() {
        let said = |line: usize, field, what: &str| Fault {
            line,
            id: String::new(),
            field,
            what: what.into(),
        };
        let all = [
            said(5, Field::Target, "target: b.mp4: the file does not exist"),
            said(2, Field::Prompt, "the prompt has 900 tokens, at most 512"),
            said(2, Field::Several, "the target is among the references: a.mp4"),
            said(2, Field::Reference(10), "reference 10: \"role\" is \"boss\": primary or aux"),
            said(2, Field::Reference(2), "reference 2: \"form\" is \"hand\": face, portrait"),
            said(2, Field::Target, "target: a.mp4: the file does not exist"),
            said(2, Field::References, "6 references, expected 1 to 5"),
            said(2, Field::Id, "\"id\" is \"a b\": use at most 64 letters, digits, _ and -"),
            said(2, Field::Schema, "\"schema\" is \"x\", expected \"anyid.sample/1\""),
        ];
        let error = refuse(&all, 30);
        let rows: Vec<&str> = error.message().lines().skip(1).collect();
        let begin = [
            "line 2: \"schema\"",
            "line 2: \"id\"",
            "line 2: target: a.mp4",
            "line 2: 6 references",
            "line 2: reference 2",
            "line 2: reference 10",
            "line 2: the prompt",
            "line 2: the target",
            "line 5: target: b.mp4",
        ];
        assert_eq!(rows.len(), begin.len(), "{error}");
        rows.iter()
            .zip(begin)
            .for_each(|(row, begin)| assert!(row[2..].starts_with(begin), "{error}"));
    }

    #[test]
    fn help_is_for_what_was_found() {
        let schema = |found: &str, wanted: &str| {
            let what = format!("\"schema\" is \"{found}\", expected \"{wanted}\"");
            let mut all = faults(1..3, |_| what.clone());
            // Another fault of a line takes nothing away.
            all.extend(faults(1..2, |_| "\"id\" is missing".to_owned()));
            refuse(&all, 2).help_text().unwrap().to_owned()
        };
        for (found, wanted, said) in [
            ("anyid.dpo/1", "anyid.sample/1", "this is a manifest of pairs, for `train dpo`"),
            ("anyid.sample/1", "anyid.dpo/1", "this is a manifest of samples, for `train lora`"),
            ("anyid.pairs/1", "anyid.dpo/1", "this is a file of verdicts on pairs"),
            ("anyid.sample/2", "anyid.sample/1", "has \"schema\": \"anyid.sample/1\" in each"),
        ] {
            assert!(schema(found, wanted).contains(said), "{}", schema(found, wanted));
        }
        let media =
            "target: notes.txt: this is not a picture or video; by its first bytes it is text";
        let help = refuse(&faults(1..2, |_| media.to_owned()), 1);
        assert!(help.help_text().unwrap().contains("`anyid-rt inspect FILE`"), "{help}");
        let mut text = faults(1..3, |_| "this is not JSON: EOF".to_owned());
        text.iter_mut().for_each(|fault| fault.field = Field::Line);
        let help = refuse(&text, 2);
        assert!(help.help_text().unwrap().contains("one JSON object a line"), "{help}");
    }

    #[test]
    fn many_kinds_are_cut_short() {
        let words = |line: usize| "x".repeat(line);
        let error = refuse(&faults(1..100, words), 200);
        assert_eq!(error.message().lines().count(), 1 + LISTED + 1);
        assert!(error.message().ends_with("… and 49 more kinds of faults"), "{error}");
    }
}
