//! A cursor over one line of plan or kernel text, and text in quotes.
//!
//! Reading is linear in the line, never recurses, and takes no number as a size before it is known
//! to be small. What does not fit is answered with what was expected and what stands there.

use crate::diag::Diagnostic;
use crate::text::is_zero;
use crate::types::{DType, Shape, TensorType};
use std::fmt::Write as _;

/// What was read, or else what was expected in its place.
pub(crate) type Read<T> = Result<T, String>;

/// Largest axis, and most elements of a tensor: products of a few of them fit 64 bits.
const LARGEST_AXIS: u64 = 1 << 40;
const MOST_ELEMENTS: u64 = 1 << 48;
/// Longest number with a fraction.
const LONGEST_FLOAT: usize = 64;
/// Most axes of a tensor.
const MOST_AXES: usize = 16;

pub(crate) struct Line<'t> {
    rest: &'t str,
}

/// Reads the text of a list of `what` line by line. `read` gets what the lines before have left open
/// and reads all of the next one; empty lines are left out.
///
/// # Errors
/// E0516 with the line, what was expected there, and `help`, also where something is left open.
pub(crate) fn lines<S>(
    text: &str,
    what: &str,
    help: &str,
    mut read: impl FnMut(Option<S>, &mut Line<'_>) -> Read<Option<S>>,
) -> Result<(), Box<Diagnostic>> {
    let (mut open, mut last) = (None, 0);
    let fault = |message: String, number: usize| {
        let error = Diagnostic::error("E0516", message).place(format!("line {number}"));
        Box::new(error.help(help))
    };
    for (number, line) in (1..).zip(text.lines()) {
        last = number;
        let mut line = Line::new(line);
        if line.end().is_err() {
            let left = read(open.take(), &mut line).and_then(|open| line.end().map(|()| open));
            open = left.map_err(|message| fault(message, number))?;
        }
    }
    match open {
        None if text.is_empty() || text.ends_with('\n') => Ok(()),
        _ => Err(fault(format!("the text ends inside a {what}"), last)),
    }
}

impl<'t> Line<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { rest: text.trim() }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    /// Takes `text` if it stands here.
    pub(crate) fn accept(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                self.skip();
                true
            }
            None => false,
        }
    }

    pub(crate) fn expect(&mut self, text: &str) -> Read<()> {
        if self.accept(text) { Ok(()) } else { Err(format!("expected `{text}`{}", self.found())) }
    }

    /// Whether `text` stands here.
    pub(crate) fn peek(&self, text: &str) -> bool {
        self.rest.starts_with(text)
    }

    /// Whether `text` and then a digit stand here.
    pub(crate) fn numbered(&self, text: &str) -> bool {
        let behind = self.rest.strip_prefix(text);
        behind.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    }

    /// Whether `text` is all that is left.
    pub(crate) fn is(&self, text: &str) -> bool {
        self.rest == text
    }

    /// Takes what is left.
    pub(crate) fn rest(&mut self) -> &'t str {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn end(&self) -> Read<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("expected the end{}", self.found())) }
    }

    pub(crate) fn found(&self) -> String {
        match self.rest.is_empty() {
            true => " before the end of the line".to_owned(),
            false => format!(", found `{}`", self.rest.chars().take(24).collect::<String>()),
        }
    }

    /// A word of letters, digits and `_`.
    pub(crate) fn word(&mut self) -> Read<&'t str> {
        let part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let len = self.rest.bytes().take_while(|b| part(*b)).count();
        if len == 0 {
            return Err(format!("expected a word{}", self.found()));
        }
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        self.skip();
        Ok(word)
    }

    pub(crate) fn number(&mut self) -> Read<u64> {
        let len = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.rest.split_at(len);
        let canonical = digits == "0" || !digits.starts_with('0');
        match digits.parse() {
            Ok(value) if canonical => {
                self.rest = rest;
                self.skip();
                Ok(value)
            }
            _ => Err(format!("expected a whole number below 2^64{}", self.found())),
        }
    }

    /// A number of elements, rows or bytes in memory.
    pub(crate) fn size(&mut self) -> Read<usize> {
        let value = self.number()?;
        usize::try_from(value).map_err(|_| format!("{value} is not a size"))
    }

    /// `inf`, `nan(2143289344)` or digits, the whole of the rest.
    pub(crate) fn float(&mut self) -> Read<f32> {
        let text = self.rest();
        if text == "nan" {
            return Ok(f32::NAN);
        }
        if let Some(bits) = text.strip_prefix("nan(").and_then(|t| t.strip_suffix(')')) {
            let value = bits.parse().ok().map(f32::from_bits).filter(|value| value.is_nan());
            return value.ok_or_else(|| format!("expected the bits of a NaN, found `{bits}`"));
        }
        let infinite = matches!(text, "inf" | "-inf");
        let digits = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e');
        let plain = infinite || (text.len() <= LONGEST_FLOAT && text.bytes().all(digits));
        let value = if plain { text.parse().ok() } else { None };
        // What no single holds is refused, not made infinite or 0.
        let held = |value: &f32| value.is_finite() && (*value != 0.0 || is_zero(text));
        let value = value.filter(|value: &f32| infinite || held(value));
        value.ok_or_else(|| format!("expected a number{}", Line { rest: text }.found()))
    }

    /// A number that fits 32 bits.
    pub(crate) fn index(&mut self) -> Read<u32> {
        let value = self.number()?;
        u32::try_from(value).map_err(|_| format!("{value} is not an index"))
    }

    /// Text in quotes.
    pub(crate) fn quoted(&mut self) -> Read<String> {
        let inner = self.rest.strip_prefix('"');
        let inner = inner.ok_or_else(|| format!("expected text in quotes{}", self.found()))?;
        let mut out = String::new();
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &inner[at + 1..];
                    self.skip();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    Some((at, 'u')) => {
                        let tail = &inner[at + 1..];
                        let code = tail.strip_prefix('{').and_then(|t| t.split_once('}'));
                        let code = code.map(|(digits, _)| digits).filter(|d| d.len() <= 6);
                        let c = code.and_then(|d| u32::from_str_radix(d, 16).ok());
                        let c = c.and_then(char::from_u32);
                        out.push(c.ok_or("a malformed escape in quotes")?);
                        for _ in 0..code.map_or(0, str::len) + 2 {
                            chars.next();
                        }
                    }
                    _ => return Err("a malformed escape in quotes".to_owned()),
                },
                c => out.push(c),
            }
        }
        Err("quotes that do not close".to_owned())
    }

    /// `{…}` up to its closing brace, or nothing.
    pub(crate) fn braces(&mut self) -> Read<&'t str> {
        if !self.rest.starts_with('{') {
            return Ok("");
        }
        let end = self.rest.find('}').ok_or("a brace that does not close")?;
        let (inside, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        self.skip();
        Ok(inside)
    }

    /// The name of an element type.
    pub(crate) fn dtype(&mut self) -> Read<DType> {
        let name = self.word()?;
        DType::from_name(name).ok_or_else(|| format!("there is no type {name}"))
    }

    /// `f32[2,8]`, with few enough elements for later products of sizes.
    pub(crate) fn ty(&mut self) -> Read<TensorType> {
        let dtype = self.dtype()?;
        self.expect("[")?;
        let mut shape = Shape::new();
        let mut elements = 1u64;
        if !self.accept("]") {
            loop {
                let size = self.number()?;
                elements = elements.saturating_mul(size.max(1));
                if size > LARGEST_AXIS || elements >= MOST_ELEMENTS || shape.len() >= MOST_AXES {
                    return Err("a tensor that is too large".to_owned());
                }
                shape.push(size as usize);
                if !self.accept(",") {
                    break;
                }
            }
            self.expect("]")?;
        }
        Ok(TensorType { dtype, shape })
    }
}

/// `text` in quotes, with `\`, `"` and control characters escaped, so that it stays on its line.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `value` so that [`Line::float`] reads the same bits.
pub(crate) fn float(value: f32) -> String {
    match value {
        value if value.to_bits() == f32::NAN.to_bits() => "nan".to_owned(),
        value if value.is_nan() => format!("nan({})", value.to_bits()),
        value => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_bit_by_bit() {
        let odd = [0.0, -0.0, 1.0, 1e-6, 0.1, f32::MAX, f32::MIN_POSITIVE, -1e-45, 16_777_217.0];
        let rare = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0xffc0_0001)];
        let many = (0..20_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for value in odd.into_iter().chain(rare).chain(many) {
            let text = float(value);
            let back = Line::new(&text).float().unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "{text}");
        }
        for bad in [
            "", "1e99", "-1e39", "1e-50", "NaN", "infinity", "0x1", "nan(0)", "nan(-1)", "1.0 2",
            "- 1",
        ] {
            assert!(Line::new(bad).float().is_err(), "{bad}");
        }
    }

    #[test]
    fn quotes_keep_any_text_on_its_line() {
        for text in ["", "a b", "\"\\\n\u{7f}\u{85}", "größe 体"] {
            let quoted = quoted(text);
            assert_eq!(quoted.lines().count(), 1);
            assert_eq!(Line::new(&quoted).quoted().unwrap(), text);
        }
    }
}
