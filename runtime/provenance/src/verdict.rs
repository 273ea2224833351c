//! What is concluded from a statement of origin and a watermark together.
//!
//! A signature shows that nothing was changed since somebody signed. Who that is shows only where a
//! list of trusted authorities was given. A mark of the published key is a hint: everybody can make
//! one.

use serde_json::{Value, json};

/// A statement that was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// What does not hold, by the codes of C2PA; nothing of a file that is as it was signed.
    pub faults: Vec<String>,
    /// Whether an authority that was named as trusted vouches for the signer; `None` if none was named.
    pub trusted: Option<bool>,
    /// What the signer's certificate says.
    pub signer: String,
    /// Who issued it.
    pub issuer: String,
    /// When it was signed, if an authority says so.
    pub time: Option<String>,
    /// The actions, in order.
    pub actions: Vec<String>,
    /// Titles and descriptions of ingredients.
    pub ingredients: Vec<(String, String)>,
    /// The id that the watermark should have.
    pub mark: Option<String>,
    /// How the result was made.
    pub recipe: Value,
    /// The safeguards of the run.
    pub policy: Value,
}

/// A watermark that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its id, if it can be read.
    pub id: Option<String>,
}

/// The conclusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it was signed.
    Intact,
    /// As it was signed, by somebody whom no trusted authority vouches for.
    Unknown,
    /// Signed, and changed since; or the statement belongs to another result.
    Altered,
    /// There is no statement, and a watermark.
    Stripped(Mark),
    /// There is neither.
    Nothing,
}

impl Verdict {
    /// What follows from what was found.
    pub fn of(statement: Option<&Statement>, mark: Option<&Mark>) -> Self {
        match (statement, mark) {
            (None, None) => Self::Nothing,
            (None, Some(mark)) => Self::Stripped(mark.clone()),
            (Some(found), _) if !found.faults.is_empty() => Self::Altered,
            // The mark of another result: the statement was moved, or the mark was forged.
            (Some(found), Some(mark)) if agree(found, mark) == Some(false) => Self::Altered,
            (Some(found), _) if found.trusted == Some(false) => Self::Unknown,
            (Some(_), _) => Self::Intact,
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Intact => "signed & intact".to_owned(),
            Self::Unknown => "signed by unknown".to_owned(),
            Self::Altered => "altered".to_owned(),
            Self::Stripped(Mark { id: Some(id) }) => {
                format!("stripped but watermark found (id {id})")
            }
            Self::Stripped(Mark { id: None }) => {
                "stripped but watermark found (its id cannot be read)".to_owned()
            }
            Self::Nothing => "nothing found".to_owned(),
        }
    }

    /// In one word, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::Unknown => "unknown_signer",
            Self::Altered => "altered",
            Self::Stripped(_) => "stripped",
            Self::Nothing => "nothing",
        }
    }

    /// The exit code of a program: 0 for what was signed and is intact, 4 without a statement, 5 for a
    /// statement that is not to be believed.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Intact => 0,
            Self::Stripped(_) | Self::Nothing => 4,
            Self::Altered | Self::Unknown => 5,
        }
    }
}

/// Whether the mark is the one that the statement names; unknown without both ids.
pub fn agree(statement: &Statement, mark: &Mark) -> Option<bool> {
    Some(*statement.mark.as_ref()? == *mark.id.as_ref()?)
}

impl Statement {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let ingredients: Vec<Value> = self
            .ingredients
            .iter()
            .map(|(title, description)| json!({ "title": title, "description": description }))
            .collect();
        json!({
            "faults": self.faults,
            "trusted": self.trusted,
            "signer": self.signer,
            "issuer": self.issuer,
            "time": self.time,
            "actions": self.actions,
            "ingredients": ingredients,
            "watermark": self.mark,
            "recipe": self.recipe,
            "policy": self.policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_from_statement_and_mark() {
        let fine = Statement { mark: Some("1".to_owned()), ..Statement::default() };
        let faulty = Statement { faults: vec!["x".to_owned()], ..fine.clone() };
        let unknown = Statement { trusted: Some(false), ..fine.clone() };
        let mark = |id: Option<&str>| Mark { id: id.map(str::to_owned) };
        let (same, other, unread) = (mark(Some("1")), mark(Some("2")), mark(None));
        for (statement, found, words, exit) in [
            (Some(&fine), Some(&same), "signed & intact", 0),
            (Some(&fine), Some(&unread), "signed & intact", 0),
            (Some(&fine), None, "signed & intact", 0),
            (Some(&fine), Some(&other), "altered", 5),
            (Some(&faulty), Some(&same), "altered", 5),
            (Some(&unknown), Some(&same), "signed by unknown", 5),
            (None, Some(&same), "stripped but watermark found (id 1)", 4),
            (None, Some(&unread), "stripped but watermark found (its id cannot be read)", 4),
            (None, None, "nothing found", 4),
        ] {
            let verdict = Verdict::of(statement, found);
            assert_eq!((verdict.words().as_str(), verdict.exit()), (words, exit));
        }
    }
}
