//! Errors and diagnostics as text: code, message, place with caret, notes, help.
//!
//! Errors of the library carry no source text and are printed as they are. Diagnostics about IR
//! text show the lines that they refer to. Nothing here decides what is an error.

use crate::output::{coloured, note, plain};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use anyid_ir::text::LineIndex;
use anyid_ir::{Diagnostic, Span};
use anyid_runtime::{Error, Kind};
use std::error::Error as _;

/// Why a command stopped.
#[derive(Debug)]
pub enum Failure {
    /// A coded error.
    Error(Error),
    /// Errors in an IR text.
    Findings(Box<Findings>),
    /// An error that has already been reported in another form.
    Reported,
}

/// Diagnostics with the text that they refer to.
#[derive(Debug)]
pub struct Findings {
    /// Name of the file.
    pub path: String,
    /// Its text.
    pub text: String,
    /// What was found, in text order.
    pub list: Vec<Diagnostic>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Error(error) => error.kind(),
            Self::Findings(_) | Self::Reported => Kind::Input,
        }
    }
}

/// Writes a failure to standard error.
pub fn report(failure: &Failure) {
    match failure {
        Failure::Error(error) => report_error(error),
        Failure::Findings(findings) => {
            report_findings(findings);
            if let Some(first) = findings.list.first() {
                let what = crate::output::plural(findings.list.len(), "error");
                note(&format!("{what} in {}", plain(&findings.path)));
                note(&more(first.code));
            }
        }
        Failure::Reported => {}
    }
}

fn more(code: &str) -> String {
    format!("  more: anyid-rt explain {code}")
}

fn head(level: &str, code: &str, message: &str) -> String {
    let message = plain(message);
    if coloured() {
        let colour = if level == "error" { 31 } else { 33 };
        format!("\x1b[1;{colour}m{level}[{code}]\x1b[0m\x1b[1m: {message}\x1b[0m")
    } else {
        format!("{level}[{code}]: {message}")
    }
}

fn report_error(error: &Error) {
    note(&head("error", error.code(), error.message()));
    if let Some(place) = error.place() {
        note(&format!("  --> {}", plain(place)));
    }
    let mut source = error.source();
    while let Some(cause) = source {
        note(&format!("  cause: {}", plain(&cause.to_string())));
        source = cause.source();
    }
    if let Some(help) = error.help_text() {
        note(&format!("  help: {}", plain(help)));
    }
    match error.kind() {
        Kind::Internal => {
            note(
                "  note: this is a bug in anyid-rt, not an error in your input; please report it with",
            );
            note("        the command line and this message");
        }
        Kind::Interrupted => {}
        Kind::Input | Kind::Budget => note(&more(error.code())),
    }
}

/// An error in the flags: the error, followed by the usage lines of the parser.
pub struct UsageFault {
    /// Code E0900, with the parser's message and our advice.
    pub error: Error,
    rest: String,
}

/// The output of the flag parser (its message, then usage and tips), with our `advice`.
pub fn usage_error(text: &str, advice: Option<&str>) -> UsageFault {
    let (message, rest) = text.split_once('\n').unwrap_or((text, ""));
    let error = Error::input("E0900", message.trim_end());
    let error = match advice {
        Some(advice) => error.help(advice),
        None => error,
    };
    UsageFault { error, rest: rest.trim_end().to_owned() }
}

/// Writes an error in the flags to standard error.
pub fn report_usage(fault: &UsageFault) {
    note(&head("error", "E0900", fault.error.message()));
    if let Some(help) = fault.error.help_text() {
        note(&format!("  help: {}", plain(help)));
    }
    if !fault.rest.is_empty() {
        note(&plain(&fault.rest));
    }
}

/// A failure as one JSON object with the key `error`; none if it has been reported as JSON already.
pub fn failure_json(failure: &Failure, exit_code: u8) -> Option<serde_json::Value> {
    match failure {
        Failure::Reported => None,
        Failure::Error(error) => {
            let mut causes = Vec::new();
            let mut source = error.source();
            while let Some(cause) = source {
                causes.push(cause.to_string());
                source = cause.source();
            }
            Some(serde_json::json!({ "error": {
                "code": error.code(),
                "message": error.message(),
                "place": error.place(),
                "causes": causes,
                "help": error.help_text(),
                "exit_code": exit_code,
            } }))
        }
        Failure::Findings(findings) => {
            let first = findings.list.first()?;
            Some(serde_json::json!({
                "error": {
                    "code": first.code,
                    "message": first.message,
                    "place": findings.path,
                    "causes": [],
                    "help": first.help,
                    "exit_code": exit_code,
                },
                "findings": findings_json(findings),
            }))
        }
    }
}

/// Writes a warning to standard error.
pub fn warn(message: &str) {
    let message = plain(message);
    if coloured() {
        note(&format!("\x1b[1;33mwarning\x1b[0m: {message}"));
    } else {
        note(&format!("warning: {message}"));
    }
}

/// Writes all diagnostics to standard error.
fn report_findings(findings: &Findings) {
    let lines = LineIndex::new(&findings.text);
    let renderer = if coloured() { Renderer::styled() } else { Renderer::plain() };
    for diagnostic in &findings.list {
        note(&rendered(&renderer, findings, &lines, diagnostic));
        note("");
    }
}

/// Bytes of a long line kept on each side of a span.
const MARGIN: usize = 120;

/// A piece of text around a span: what to show, the number of its line, and the span inside it.
struct Window<'t> {
    text: &'t str,
    line: usize,
    span: std::ops::Range<usize>,
}

/// The line of `span`, shortened if it is very long. The span ends with its line at the latest.
fn window<'t>(text: &'t str, lines: &LineIndex, span: Span) -> Option<Window<'t>> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let (line, _) = lines.line_col(text, start);
    let whole = lines.line(text, line);
    // `line` gives a slice of `text`, so the difference of the addresses is its offset.
    let begin = whole.as_ptr() as usize - text.as_ptr() as usize;
    if whole.is_empty() && begin > text.len() {
        return None;
    }
    let end = begin + whole.len();
    let start = start.clamp(begin, end);
    let stop = floor(span.end).clamp(start, end).min(floor(start + 2 * MARGIN));
    let from = floor(start.saturating_sub(MARGIN)).max(begin);
    let to = floor(stop + MARGIN).min(end);
    Some(Window { text: &text[from..to], line, span: start - from..stop - from })
}

fn rendered(
    renderer: &Renderer,
    findings: &Findings,
    lines: &LineIndex,
    diagnostic: &Diagnostic,
) -> String {
    let shown = diagnostic.span.filter(|_| !findings.text.is_empty());
    let Some(window) = shown.and_then(|span| window(&findings.text, lines, span)) else {
        return bare(findings, diagnostic);
    };
    let path = plain(&findings.path);
    let column_note = diagnostic.place.as_deref().map(|place| format!("at {}", plain(place)));
    let annotation =
        AnnotationKind::Primary.span(window.span).label(diagnostic.label.as_deref().map(plain));
    let snippet =
        Snippet::source(window.text).line_start(window.line).path(path).annotation(annotation);
    let title = Level::ERROR.primary_title(plain(&diagnostic.message)).id(diagnostic.code);
    let mut group = title.element(snippet);
    for text in diagnostic.notes.iter().map(|n| plain(n)).chain(column_note) {
        group = group.element(Level::NOTE.message(text));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(plain(help)));
    }
    renderer.render(&[group])
}

/// A diagnostic without a place in the text.
fn bare(findings: &Findings, diagnostic: &Diagnostic) -> String {
    let mut out = head("error", diagnostic.code, &diagnostic.message);
    let place = match &diagnostic.place {
        Some(place) => format!("{}: {place}", findings.path),
        None => findings.path.clone(),
    };
    out.push_str(&format!("\n  --> {}", plain(&place)));
    for text in &diagnostic.notes {
        out.push_str(&format!("\n  note: {}", plain(text)));
    }
    if let Some(help) = &diagnostic.help {
        out.push_str(&format!("\n  help: {}", plain(help)));
    }
    out
}

/// Diagnostics as JSON, with lines and columns from 1.
pub fn findings_json(findings: &Findings) -> serde_json::Value {
    let lines = LineIndex::new(&findings.text);
    let place = |offset: usize| {
        let (line, column) = lines.line_col(&findings.text, offset);
        serde_json::json!({ "line": line, "column": column })
    };
    let one = |d: &Diagnostic| {
        serde_json::json!({
            "code": d.code,
            "severity": "error",
            "message": d.message,
            "start": d.span.map(|span| place(span.start)),
            "end": d.span.map(|span| place(span.end)),
            "label": d.label,
            "place": d.place,
            "notes": d.notes,
            "help": d.help,
        })
    };
    serde_json::Value::Array(findings.list.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str, list: Vec<Diagnostic>) -> Findings {
        Findings { path: "a.ir".into(), text: text.into(), list }
    }

    fn render(findings: &Findings) -> String {
        let lines = LineIndex::new(&findings.text);
        rendered(&Renderer::plain(), findings, &lines, &findings.list[0])
    }

    #[test]
    fn a_caret_points_at_the_span() {
        let error = Diagnostic::error("E0106", "unknown op")
            .at(Span::new(11, 15))
            .label("no such op")
            .help("did you mean add?");
        let text = render(&findings("first line\nlinx %a\n", vec![error]));
        assert!(text.contains("error[E0106]: unknown op"), "{text}");
        assert!(text.contains("a.ir:2:1") && text.contains("^^^^ no such op"), "{text}");
        assert!(text.contains("help: did you mean add?"), "{text}");
        assert!(!text.contains("first line"), "{text}");
    }

    #[test]
    fn endless_lines_and_odd_spans_are_cut() {
        let text = "x\u{e4}".repeat(100_000);
        for (start, end) in [(150_001, 150_002), (0, 300_000), (299_999, 300_000), (400_000, 1)] {
            let error = Diagnostic::error("E0101", "bad").at(Span::new(start, end));
            let out = render(&findings(&text, vec![error]));
            assert!(out.len() < 3000, "{}", out.len());
        }
        let out =
            render(&findings("", vec![Diagnostic::error("E0101", "empty").at(Span::new(0, 1))]));
        assert_eq!(out, "error[E0101]: empty\n  --> a.ir");
    }
}
