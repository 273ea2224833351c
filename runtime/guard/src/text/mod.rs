//! What a prompt may ask for.
//!
//! [`TextPolicy::check`] looks for rules in every form of a text and gives a verdict. One rule is the
//! program's own and cannot be switched off: nothing sexual is made of children. Rules find words, not
//! meanings: they miss what is paraphrased and stop some that is innocent.

mod normalise;
mod rules;
#[cfg(test)]
mod tests;

pub use normalise::Forms;
pub use rules::{Action, BUILT_IN, Category, Finding, LARGEST_FILE, Rules};

use anyid_files::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The rules of a run.
pub struct TextPolicy {
    rules: Rules,
    hash: String,
}

/// What the rules say about a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every rule that matched, the strictest first.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// The strictest action.
    pub fn action(&self) -> Action {
        self.findings.first().map_or(Action::Info, |finding| finding.action)
    }

    /// `allow`, `warn` or `block`.
    pub fn decision(&self) -> &'static str {
        match self.action() {
            Action::Info => "allow",
            Action::Warn => "warn",
            Action::Block => "block",
        }
    }

    /// Names of the categories, each once.
    pub fn categories(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.findings.iter().map(|f| f.category.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Adds what somebody else found.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
        self.sort();
    }

    fn sort(&mut self) {
        self.findings.sort_by(|a, b| b.action.cmp(&a.action).then(a.category.cmp(&b.category)));
    }

    /// The error of a text that is blocked (E1101).
    pub fn refusal(&self) -> Option<Error> {
        let finding = self.findings.first().filter(|finding| finding.action == Action::Block)?;
        let Finding { rule, category, words, note, .. } = finding;
        let about = if note.is_empty() { String::new() } else { format!(" ({note})") };
        let what = format!(
            "the text is not made into a video: {} by rule {rule}{about}: \"{words}\"",
            category.name()
        );
        Some(Error::input("E1101", what).help(category.advice()))
    }
}

impl TextPolicy {
    /// The program's rules and those of `files`: the place and the text of each.
    ///
    /// # Errors
    /// As [`Rules::new`].
    pub fn new(files: &[(&Path, &str)]) -> Result<Self> {
        let mut hash = Sha256::new();
        for text in BUILT_IN.iter().map(|(_, text)| *text).chain(files.iter().map(|file| file.1)) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        Ok(Self { rules: Rules::new(files)?, hash: crate::hex(&hash.finalize()) })
    }

    /// SHA-256 of all rules.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What the rules say about `texts`, which are used together. With `only_fixed`, only what cannot
    /// be switched off is looked at.
    pub fn check(&self, texts: &[&str], only_fixed: bool) -> Verdict {
        let mut findings: Vec<Finding> = Vec::new();
        for text in texts {
            let Forms { plain, joined } = Forms::of(text);
            let mut add = |found: Vec<Finding>| {
                for finding in found {
                    if !findings.iter().any(|known| known.rule == finding.rule) {
                        findings.push(finding);
                    }
                }
            };
            add(self.rules.findings(&plain));
            if joined != plain {
                add(self.rules.findings(&joined));
            }
            if !only_fixed {
                findings.extend(looks_like_a_name(text));
            }
        }
        let of = |wanted: &[Category]| findings.iter().find(|f| wanted.contains(&f.category));
        let sexual = of(&[Category::SexualRealPerson, Category::Suggestive]);
        let fixed = of(&[Category::ChildTerm]).zip(sexual).map(|(child, sexual)| Finding {
            rule: "MS-00".to_owned(),
            category: Category::MinorSexual,
            action: Action::Block,
            words: format!("{}, {}", child.words, sexual.words),
            note: "always in force".to_owned(),
        });
        if only_fixed {
            findings.clear();
        }
        findings.extend(fixed);
        let mut verdict = Verdict { findings };
        verdict.sort();
        verdict
    }
}

/// Two words with capitals inside a sentence. It may be a person's name as well as that of a place, so
/// that it is written down and not warned of.
fn looks_like_a_name(text: &str) -> Option<Finding> {
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars.next().is_some_and(char::is_uppercase)
            && chars.next().is_some_and(char::is_lowercase)
            && word.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '-'))
    };
    let ends = |word: &str| word.ends_with(['.', '!', '?', ':', ';', ',']);
    let words: Vec<&str> = text.split_whitespace().collect();
    let pair = words.windows(3).find(|three| {
        let last = three[2].trim_end_matches(|c: char| !c.is_alphanumeric());
        !ends(three[0]) && capital(three[1]) && capital(last)
    })?;
    Some(Finding {
        rule: "NP-00".to_owned(),
        category: Category::NamedPerson,
        action: Action::Info,
        words: format!("{} {}", pair[1], pair[2]),
        note: "two capitalised words".to_owned(),
    })
}
