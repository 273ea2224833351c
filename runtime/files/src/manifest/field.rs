//! Which part of a line something is said of.

use std::fmt;

/// The part of a line that a fault is of, in the order of docs/training.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The line itself, which is not an object or not even text.
    Line,
    /// `schema`.
    Schema,
    /// `id`.
    Id,
    /// `target`, or something in it; so it is with the others.
    Target,
    /// `chosen`.
    Chosen,
    /// `rejected`.
    Rejected,
    /// `sample`; what is in it is called as in a line by itself.
    Sample,
    /// `references`: their number.
    References,
    /// One of the references, from 1.
    Reference(usize),
    /// `prompt`.
    Prompt,
    /// `labels` or `shows`.
    Labels,
    /// Several fields together, or one that is not known.
    Several,
}

impl Field {
    /// That of what is under `key` in this one.
    pub fn below(self, key: &str) -> Self {
        match key {
            _ if !matches!(self, Self::Line | Self::Sample) => self,
            "schema" => Self::Schema,
            "id" => Self::Id,
            "target" => Self::Target,
            "chosen" => Self::Chosen,
            "rejected" => Self::Rejected,
            "sample" => Self::Sample,
            "references" => Self::References,
            "prompt" => Self::Prompt,
            "labels" | "shows" => Self::Labels,
            _ => Self::Several,
        }
    }

    /// Whether it is one of the references.
    pub fn is_reference(self) -> bool {
        matches!(self, Self::Reference(_))
    }
}

/// What it is called in front of a fault of a clip.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => f.write_str("target: "),
            Self::Chosen => f.write_str("chosen: "),
            Self::Rejected => f.write_str("rejected: "),
            Self::Reference(number) => write!(f, "reference {number}: "),
            _ => Ok(()),
        }
    }
}
