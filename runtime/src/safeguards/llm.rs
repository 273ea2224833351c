//! A language model that looks at texts, behind the rules: the stricter of both decides.
//!
//! Only texts are sent. What happens without an answer is the policy's to say: the rules alone
//! decide, or nothing is made.

use crate::error::{Error, Result};
use anyid_guard::models::{Llm, OnError};
use anyid_guard::text::{Action, Category, Finding};
use anyid_study::prompt::profile::Profile;
use anyid_study::prompt::server::client::Server;
use anyid_study::prompt::server::moderate::{Told, moderate, open};
use serde_json::Value;

/// A model that can be asked.
pub(super) struct Moderator {
    server: Server,
    on_error: OnError,
}

/// What came of asking.
pub(super) enum Heard {
    /// What it found, of which nothing may follow.
    Decided(&'static str, Option<Finding>),
    /// Why there is no answer, where the rules alone decide.
    Nothing(String),
}

impl Moderator {
    /// The model that a policy names; nothing is sent.
    ///
    /// # Errors
    /// E1102 it describes no server, E1209 this program calls none, E1230, E1231 and E1239 as for
    /// other servers.
    pub(super) fn open(llm: &Llm) -> Result<Self> {
        let profile: Profile =
            serde_json::from_value(Value::Object(llm.server.clone())).map_err(|fault| {
                let what = format!("the server that looks at texts: {fault}");
                Error::input("E1102", what).help("docs/safety.md describes [moderation.llm]")
            })?;
        let variable = |name: &str| std::env::var(name).ok();
        let server = open(&profile, &variable).map_err(|error| match error.code() {
            "E1209" => {
                let what = "this program was built without calls of servers, and the policy has a language \
                            model look at texts";
                Error::input("E1209", what).at(profile.base_url.as_str()).help(
                    "build it with `--features judge`, or leave [moderation.llm] and \
                     --moderation-llm out",
                )
            }
            _ => error,
        })?;
        Ok(Self { server, on_error: llm.on_error })
    }

    /// Asks about texts that are used together.
    ///
    /// # Errors
    /// E1115 there is no answer, and nothing is made without one.
    pub(super) fn ask(&self, texts: &[&str]) -> Result<Heard> {
        let why = match moderate(&self.server, texts) {
            Ok(Ok(told)) => {
                let (decision, finding) = found(told);
                return Ok(Heard::Decided(decision, finding));
            }
            Ok(Err(why)) => why,
            Err(error) => format!("[{}] {}", error.code(), error.message()),
        };
        match self.on_error {
            OnError::Rules => Ok(Heard::Nothing(why)),
            OnError::Closed => {
                let what = format!("the language model that looks at texts gave no answer: {why}");
                Err(Error::input("E1115", what).at(self.server.address()).help(
                    "see whether the server runs; `on_error = \"rules\"` of [moderation.llm] lets the rules \
                     alone decide",
                ))
            }
        }
    }
}

/// What a decision means among the findings of rules.
fn found(told: Told) -> (&'static str, Option<Finding>) {
    let Told { decision, categories, reason } = told;
    // What always blocks among rules does so here, whatever the model makes of it.
    let always = categories.iter().any(|name| name == Category::MinorSexual.name());
    let (name, action) = match if always { 2 } else { decision } {
        0 => return ("allow", None),
        1 => ("warn", Action::Warn),
        _ => ("block", Action::Block),
    };
    let named = categories.iter().filter_map(|name| Category::of(name));
    let category = named.max_by_key(|category| category.action()).unwrap_or(Category::Custom);
    let finding = Finding {
        rule: "LM-00".to_owned(),
        category,
        action,
        words: reason,
        note: "a language model".to_owned(),
    };
    (name, Some(finding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_study::prompt::server::answer::CATEGORIES;

    #[test]
    fn what_a_model_says_becomes_a_finding_of_its_gravest_category() {
        for name in CATEGORIES {
            assert_eq!(Category::of(name).map(Category::name), Some(name));
        }
        let told = |decision: usize, names: &[&str]| Told {
            decision,
            categories: names.iter().map(|name| (*name).to_owned()).collect(),
            reason: "so".to_owned(),
        };
        assert_eq!(found(told(0, &["weapon"])), ("allow", None));
        let (name, finding) = found(told(2, &["weapon", "hate", "deception"]));
        let finding = finding.unwrap();
        assert_eq!(
            (name, finding.category, finding.action),
            ("block", Category::Hate, Action::Block)
        );
        let (name, finding) = found(told(0, &["minor_sexual"]));
        assert_eq!((name, finding.unwrap().action), ("block", Action::Block));
        let (_, finding) = found(told(1, &[]));
        assert_eq!(finding.unwrap().category, Category::Custom);
    }
}
