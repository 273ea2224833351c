//! Diagnostics as data: code, message, place, labels, notes, help. Rendering is the caller's.
//!
//! Codes: E01xx syntax, E02xx types, E03xx weights, E04xx structure, E05xx unsupported by the
//! target, E06xx memory budget. Each has a page in `docs/errors/`.

use std::fmt;

/// Byte range in a source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The range `start..end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// Where a node came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Loc {
    /// Not recorded.
    #[default]
    Unknown,
    /// Parsed from text: the statement and, for precise labels, its operands and printed types.
    Text(Box<TextLoc>),
    /// Made by code: a path such as `wan::dit @ blocks.{l}.self_attn`.
    Path(Box<str>),
}

/// Spans of one parsed statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextLoc {
    /// The whole statement.
    pub whole: Span,
    /// Each operand.
    pub operands: Vec<Span>,
    /// The printed result types.
    pub types: Span,
}

impl Loc {
    fn text(&self) -> Option<&TextLoc> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Span of operand `index`, else of the statement; `None` if not from text.
    pub fn operand_span(&self, index: usize) -> Option<Span> {
        self.text().map(|text| text.operands.get(index).copied().unwrap_or(text.whole))
    }

    /// Span of the printed types, `None` if not from text.
    pub fn type_span(&self) -> Option<Span> {
        self.text().map(|text| text.types)
    }

    /// Span of the statement, `None` if not from text.
    pub fn span(&self) -> Option<Span> {
        self.text().map(|text| text.whole)
    }
}

/// One error in a module or its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code such as `E0204`.
    pub code: &'static str,
    /// What is wrong, in one sentence without a final stop.
    pub message: String,
    /// Where in the text, if it came from text.
    pub span: Option<Span>,
    /// Words under the primary caret.
    pub label: Option<String>,
    /// Where, in words (`@block: %q0 = linear`), for modules made by code.
    pub place: Option<String>,
    /// Further facts.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error with the given code.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), ..Self::default() }
    }

    /// Sets the primary span.
    #[must_use]
    pub fn at(mut self, span: impl Into<Option<Span>>) -> Self {
        self.span = span.into();
        self
    }

    /// Sets the words under the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the place in words.
    #[must_use]
    pub fn place(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Sets the help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n  --> {place}")?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// Most diagnostics reported for one text or module.
pub const MOST_DIAGNOSTICS: usize = 50;

/// Collects diagnostics up to the limit.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    list: Vec<Diagnostic>,
}

impl Sink {
    /// Adds one, unless the limit is reached.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if !self.full() {
            self.list.push(diagnostic);
        }
    }

    /// Whether no more are taken.
    pub(crate) fn full(&self) -> bool {
        self.list.len() >= MOST_DIAGNOSTICS
    }

    /// Number so far.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// All of them; the last says so if there may be more.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        if self.full()
            && let Some(last) = self.list.pop()
        {
            self.list.push(last.note(format!("only the first {MOST_DIAGNOSTICS} are shown")));
        }
        self.list
    }
}
