//! Rules about texts, read from TOML, and what they find.
//!
//! A rule names patterns of the `regex` crate, which take linear time, and what happens when one
//! matches. The rules that come with the program are compiled in. Files of users add to them and
//! take nothing away. Texts are matched in both forms of [`super::normalise`], so patterns are
//! written in small letters without accents.

use anyid_files::error::{Error, Result};
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;
use std::path::Path;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Children together with anything sexual. Always blocks; no rule file states it.
    MinorSexual,
    /// Sexual content, which with references is about a real person.
    SexualRealPerson,
    /// Suggestive words, which matter only together with children.
    Suggestive,
    /// Words for children, which matter only together with sexual or suggestive ones.
    ChildTerm,
    /// Gore and torture.
    ViolenceGraphic,
    /// Contempt for groups of people.
    Hate,
    /// Suicide and self-injury.
    SelfHarm,
    /// Scenes made to be believed: statements, documents, verification.
    Deception,
    /// A person named by a list of the user, or what looks like a name.
    NamedPerson,
    /// Weapons.
    Weapon,
    /// Drugs.
    Drugs,
    /// Brands.
    Brand,
    /// Anything else that a user's rules are about.
    Custom,
}

impl Category {
    /// Its name in files and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::MinorSexual => "minor_sexual",
            Self::SexualRealPerson => "sexual_real_person",
            Self::Suggestive => "suggestive",
            Self::ChildTerm => "child_term",
            Self::ViolenceGraphic => "violence_graphic",
            Self::Hate => "hate",
            Self::SelfHarm => "self_harm",
            Self::Deception => "deception",
            Self::NamedPerson => "named_person",
            Self::Weapon => "weapon",
            Self::Drugs => "drugs",
            Self::Brand => "brand",
            Self::Custom => "custom",
        }
    }

    /// The category of a name, of those that texts are refused or warned of for.
    pub fn of(name: &str) -> Option<Self> {
        let all = [
            Self::MinorSexual,
            Self::SexualRealPerson,
            Self::ViolenceGraphic,
            Self::Hate,
            Self::SelfHarm,
            Self::Deception,
            Self::NamedPerson,
            Self::Weapon,
            Self::Drugs,
            Self::Brand,
            Self::Custom,
        ];
        all.into_iter().find(|category| category.name() == name)
    }

    /// What happens unless a rule says otherwise.
    pub fn action(self) -> Action {
        match self {
            Self::MinorSexual
            | Self::SexualRealPerson
            | Self::ViolenceGraphic
            | Self::Hate
            | Self::SelfHarm => Action::Block,
            Self::Deception | Self::NamedPerson | Self::Custom => Action::Warn,
            Self::Suggestive | Self::ChildTerm | Self::Weapon | Self::Drugs | Self::Brand => {
                Action::Info
            }
        }
    }

    /// What to change, in one sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Self::MinorSexual => "nothing sexual is made of children, and no setting changes this",
            Self::SexualRealPerson | Self::Suggestive => {
                "the references show a real person: describe a scene without sexual content"
            }
            Self::ChildTerm | Self::Weapon | Self::Drugs | Self::Brand => "nothing has to change",
            Self::ViolenceGraphic => "describe the scene without injuries that are shown closely",
            Self::Hate => "describe the scene without contempt for a group of people",
            Self::SelfHarm => {
                "describe another scene; if this is about you, talk to somebody near you"
            }
            Self::Deception => "say in the video, or where it is shown, that it is generated",
            Self::NamedPerson => "make sure that the person agreed, or leave the name out",
            Self::Custom => "change the words that the rule names",
        }
    }
}

/// What happens when a rule matches; later ones are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is written down.
    Info,
    /// It is said, and the run goes on.
    Warn,
    /// Nothing is made.
    Block,
}

impl Action {
    /// Its name in files and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Block => "block",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    id: String,
    category: Category,
    action: Option<Action>,
    /// For readers.
    #[serde(default, rename = "lang")]
    _lang: String,
    any: Vec<String>,
    #[serde(default)]
    all_of: Vec<String>,
    near: Option<Near>,
    #[serde(default)]
    except: Vec<String>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Near {
    words: Vec<String>,
    within: usize,
}

/// A rule ready to be used.
struct Rule {
    id: String,
    category: Category,
    action: Action,
    note: String,
    any: Vec<Regex>,
    all_of: Vec<Regex>,
    near: Option<(Vec<Regex>, usize)>,
    except: Vec<Regex>,
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's id.
    pub rule: String,
    /// What it is about.
    pub category: Category,
    /// What happens.
    pub action: Action,
    /// The words that matched, as they were read.
    pub words: String,
    /// What the rule says about itself.
    pub note: String,
}

/// Rules that are used together.
pub struct Rules {
    rules: Vec<Rule>,
    /// The `any` patterns of all rules; `owner` says whose each is.
    set: RegexSet,
    owner: Vec<usize>,
}

/// The rules that come with the program: a name and the text of each file.
pub const BUILT_IN: [(&str, &str); 2] = [
    ("en.toml", include_str!("../../policy/text/en.toml")),
    ("zh.toml", include_str!("../../policy/text/zh.toml")),
];

/// Most bytes of a file of rules.
pub const LARGEST_FILE: u64 = 1 << 20;
/// Most patterns of all rules.
const MOST_PATTERNS: usize = 10_000;
/// Most bytes of a compiled pattern.
const MOST_PROGRAM: usize = 1 << 20;
/// Most characters of a match that are shown.
const LONGEST_WORDS: usize = 60;

/// A pattern whose `\b` is between bytes of ASCII words, for which there is a faster machine. Texts
/// are without accents, so that it means the same for Latin letters.
fn boundaries(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('b') => out.push_str("(?-u:\\b)"),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            _ => out.push(c),
        }
    }
    out
}

fn compile(pattern: &str, rule: &str) -> Result<Regex> {
    let fault = |what: String| bad_rule(rule, format!("the pattern {pattern:?} {what}"));
    let regex = RegexBuilder::new(&boundaries(pattern))
        .size_limit(MOST_PROGRAM)
        .build()
        .map_err(|error| fault(format!("is refused: {error}")))?;
    match regex.is_match("") {
        true => Err(fault("matches every text".to_owned())),
        false => Ok(regex),
    }
}

fn bad_rule(rule: &str, what: String) -> Error {
    Error::input("E1102", format!("rule {rule}: {what}"))
        .help("docs/safety.md describes the rules of texts")
}

fn prepare(entry: RuleEntry, built_in: bool) -> Result<Rule> {
    let RuleEntry { id, category, action, _lang: _, any, all_of, near, except, note } = entry;
    let each = |patterns: &[String]| -> Result<Vec<Regex>> {
        patterns.iter().map(|pattern| compile(pattern, &id)).collect()
    };
    if id.is_empty() || any.is_empty() {
        return Err(bad_rule(&id, "\"id\" and \"any\" must not be empty".to_owned()));
    }
    if category == Category::MinorSexual {
        let what = "this category is the program's own".to_owned();
        return Err(bad_rule(&id, what));
    }
    // A weaker action than the category's own is for the program's lists only.
    let action = action.unwrap_or(category.action());
    if !built_in && action < category.action() {
        let (least, asked) = (category.action().name(), action.name());
        let what = format!("{asked} is weaker than {least}, the action of {}", category.name());
        return Err(bad_rule(&id, what));
    }
    let near = match near {
        None => None,
        Some(Near { words, .. }) if words.is_empty() => {
            return Err(bad_rule(&id, "\"near\" has no words".to_owned()));
        }
        Some(Near { words, within }) => Some((each(&words)?, within)),
    };
    let (any, all_of, except) = (each(&any)?, each(&all_of)?, each(&except)?);
    Ok(Rule { id, category, action, note, any, all_of, near, except })
}

impl Rules {
    /// The rules of the program and those of `files`: the place and the text of each.
    ///
    /// # Errors
    /// E1102 a file does not parse, a pattern is refused, ids are used twice, or a rule is weaker
    /// than its category.
    pub fn new(files: &[(&Path, &str)]) -> Result<Self> {
        let mut rules: Vec<Rule> = Vec::new();
        let own = BUILT_IN.iter().map(|(name, text)| (Path::new(*name), *text, true));
        let all = own.chain(files.iter().map(|(path, text)| (*path, *text, false)));
        for (path, text, built_in) in all {
            let file: RuleFile = toml::from_str(text).map_err(|fault| {
                let what = format!("these are no rules: {}", fault.to_string().trim_end());
                Error::input("E1102", what).at(path.display())
            })?;
            for entry in file.rule {
                if rules.iter().any(|rule| rule.id == entry.id) {
                    let what = "there is another rule of this id".to_owned();
                    return Err(bad_rule(&entry.id, what).at(path.display()));
                }
                rules.push(prepare(entry, built_in).map_err(|error| error.at(path.display()))?);
            }
        }
        let mut owner = Vec::new();
        let mut patterns = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            for regex in &rule.any {
                owner.push(at);
                patterns.push(regex.as_str());
            }
        }
        if patterns.len() > MOST_PATTERNS {
            let what = format!("{} patterns; at most {MOST_PATTERNS} are used", patterns.len());
            return Err(Error::input("E1102", what));
        }
        let set = RegexSetBuilder::new(&patterns)
            .size_limit(64 << 20)
            .dfa_size_limit(16 << 20)
            .build()
            .map_err(|fault| {
                Error::input("E1102", format!("the rules are too large together: {fault}"))
                    .help("use fewer and shorter patterns")
            })?;
        Ok(Self { rules, set, owner })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none, which the program's own rules rule out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules that match `text`, which is in one of its forms.
    pub fn findings(&self, text: &str) -> Vec<Finding> {
        let mut hit: Vec<usize> =
            self.set.matches(text).into_iter().map(|at| self.owner[at]).collect();
        hit.dedup();
        hit.iter().filter_map(|&at| self.rules[at].finding(text)).collect()
    }
}

impl Rule {
    fn finding(&self, text: &str) -> Option<Finding> {
        if !self.all_of.iter().all(|regex| regex.is_match(text)) {
            return None;
        }
        let spans = |list: &[Regex]| -> Vec<(usize, usize)> {
            list.iter().flat_map(|r| r.find_iter(text).map(|m| (m.start(), m.end()))).collect()
        };
        let excused = spans(&self.except);
        let near = self.near.as_ref().map(|(words, within)| (spans(words), *within));
        let counts = |&(start, end): &(usize, usize)| {
            let excused = excused.iter().any(|&(from, to)| from < end && start < to);
            !excused
                && near.as_ref().is_none_or(|(places, within)| {
                    places.iter().any(|&(from, to)| {
                        let between = &text[to.min(end)..from.max(start).max(to.min(end))];
                        between.split_whitespace().count() <= *within
                    })
                })
        };
        let (start, end) = spans(&self.any).into_iter().find(counts)?;
        let words = text[start..end].chars().take(LONGEST_WORDS).collect();
        let Self { id, category, action, note, .. } = self;
        Some(Finding {
            rule: id.clone(),
            category: *category,
            action: *action,
            words,
            note: note.clone(),
        })
    }
}
