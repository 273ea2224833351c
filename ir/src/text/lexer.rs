//! Tokens of IR text, made on demand so that memory stays bounded on any input.
//!
//! The lexer never fails: what it cannot read becomes a [`Tok::Bad`] token with the reason, and the
//! parser decides what to report. It knows nothing of the grammar but the shape of names, paths,
//! numbers and strings.

use crate::diag::Span;

/// Longest name or number, in bytes.
const LONGEST_NAME: usize = 256;
/// Longest string or weight path, in bytes.
const LONGEST_STRING: usize = 1024;

/// Kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tok {
    /// `name`
    Ident,
    /// `%name`
    Value,
    /// `@name`
    Func,
    /// `$path` or `$"path"`
    Path,
    /// Decimal digits.
    Int,
    /// Digits with a point or an exponent.
    Float,
    /// `"text"`, without escapes.
    Str,
    /// One of `{ } ( ) [ ] < > , : = + - * /`.
    Punct(u8),
    /// `->`
    Arrow,
    /// `..`
    DotDot,
    /// Something else, with the reason.
    Bad(&'static str),
    /// End of the text.
    Eof,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    /// Kind.
    pub(super) kind: Tok,
    /// Bytes of the text.
    pub(super) span: Span,
    /// Whether it is the first of its line.
    pub(super) first: bool,
}

/// Reads tokens from `at` on.
pub(super) struct Lexer<'s> {
    text: &'s str,
    /// Next byte to read.
    pub(super) at: usize,
}

pub(super) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl<'s> Lexer<'s> {
    /// A lexer at the start of `text`.
    pub(super) fn new(text: &'s str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at }
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    /// Skips blanks and comments; whether a line ended on the way.
    fn skip_blanks(&mut self) -> bool {
        let mut first = self.at == 0;
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\n' => first = true,
                b' ' | b'\t' | b'\r' => {}
                b'/' if self.byte(self.at + 1) == b'/' => {
                    self.at = self.line_end();
                    continue;
                }
                _ => break,
            }
            self.at += 1;
        }
        first
    }

    /// Position of the next line break, or the end of the text.
    pub(super) fn line_end(&self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        rest.iter().position(|b| *b == b'\n').map_or(self.text.len(), |n| self.at + n)
    }

    fn run(&self, mut at: usize, accept: impl Fn(u8) -> bool) -> usize {
        let bytes = self.text.as_bytes();
        while bytes.get(at).is_some_and(|b| accept(*b)) {
            at += 1;
        }
        at
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Token {
        let first = self.skip_blanks();
        let start = self.at;
        let byte = self.byte(start);
        let (kind, end) = match byte {
            _ if start >= self.text.len() => (Tok::Eof, start),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.name(Tok::Ident, start, start, is_name),
            b'%' => self.name(Tok::Value, start, start + 1, |b| is_name(b) || b == b'.'),
            b'@' => self.at_name(start),
            b'$' => self.path(start),
            b'0'..=b'9' => self.number(start),
            b'"' => self.string(Tok::Str, start, start + 1),
            b'-' if self.byte(start + 1) == b'>' => (Tok::Arrow, start + 2),
            b'.' if self.byte(start + 1) == b'.' => (Tok::DotDot, start + 2),
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b':' | b'=' | b'+'
            | b'-' | b'*' | b'/' => (Tok::Punct(byte), start + 1),
            _ => {
                let mut end = self.run(start, |b| !b.is_ascii_graphic() && b != b'\n');
                if end == start {
                    end = start + 1;
                }
                (Tok::Bad("an unexpected character"), end)
            }
        };
        self.at = end;
        Token { kind, span: Span::new(start, end), first }
    }

    /// A name that ends at `end` and whose own part begins at `from`, behind its sign.
    fn named(&self, kind: Tok, start: usize, from: usize, end: usize) -> (Tok, usize) {
        match end - start {
            _ if end == from => (Tok::Bad("a name is missing after this sign"), end),
            n if n > LONGEST_NAME => (Tok::Bad("a name longer than 256 bytes"), end),
            _ => (kind, end),
        }
    }

    fn name(&self, kind: Tok, start: usize, from: usize, accept: fn(u8) -> bool) -> (Tok, usize) {
        self.named(kind, start, from, self.run(from, accept))
    }

    fn at_name(&self, start: usize) -> (Tok, usize) {
        // `-` belongs to the name unless it starts an arrow.
        let mut end = start + 1;
        loop {
            end = self.run(end, |b| is_name(b) || b == b'.');
            if self.byte(end) != b'-' || self.byte(end + 1) == b'>' {
                return self.named(Tok::Func, start, start + 1, end);
            }
            end += 1;
        }
    }

    fn path(&self, start: usize) -> (Tok, usize) {
        if self.byte(start + 1) == b'"' {
            return self.string(Tok::Path, start, start + 2);
        }
        let mut at = start + 1;
        loop {
            let begin = at;
            if self.byte(at) == b'{' {
                at = self.run(at + 1, is_name);
                if self.byte(at) != b'}' || at == begin + 1 {
                    let end = self.run(at, |b| is_name(b) || b == b'.' || b == b'}');
                    return (Tok::Bad("a malformed `{index}` segment in a weight path"), end);
                }
                at += 1;
            } else {
                at = self.run(at, is_name);
            }
            if at == begin {
                let end = self.run(at, |b| is_name(b) || b == b'.');
                return (Tok::Bad("an empty segment in a weight path"), end);
            }
            if self.byte(at) != b'.' {
                break;
            }
            at += 1;
        }
        if at - start > LONGEST_STRING {
            return (Tok::Bad("a weight path longer than 1024 bytes"), at);
        }
        (Tok::Path, at)
    }

    fn number(&self, start: usize) -> (Tok, usize) {
        let digit = |b: u8| b.is_ascii_digit();
        let mut end = self.run(start, digit);
        let mut kind = Tok::Int;
        if self.byte(end) == b'.' && self.byte(end + 1).is_ascii_digit() {
            end = self.run(end + 1, digit);
            kind = Tok::Float;
        }
        if matches!(self.byte(end), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(end + 1), b'+' | b'-'));
            if self.byte(end + 1 + sign).is_ascii_digit() {
                end = self.run(end + 1 + sign, digit);
                kind = Tok::Float;
            }
        }
        let tail = self.run(end, is_name);
        if tail > end {
            return (Tok::Bad("a malformed number"), tail);
        }
        if end - start > LONGEST_NAME {
            return (Tok::Bad("a number longer than 256 digits"), end);
        }
        if kind == Tok::Float && is_lost(&self.text[start..end]) {
            return (Tok::Bad("a number that no element type holds"), end);
        }
        (kind, end)
    }

    fn string(&self, kind: Tok, start: usize, from: usize) -> (Tok, usize) {
        let end = self.run(from, |b| b != b'"' && b != b'\n');
        if self.byte(end) != b'"' {
            return (Tok::Bad("a string without a closing quote on its line"), end);
        }
        if end - start > LONGEST_STRING {
            return (Tok::Bad("a string longer than 1024 bytes"), end + 1);
        }
        (kind, end + 1)
    }
}

/// Whether a number in digits is infinite or 0 as a double although it is neither.
fn is_lost(digits: &str) -> bool {
    let value: f64 = digits.parse().unwrap_or(f64::INFINITY);
    value.is_infinite() || (value == 0.0 && !is_zero(digits))
}

/// Whether a number in digits, which may have an exponent, is 0.
pub(crate) fn is_zero(digits: &str) -> bool {
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    !mantissa.bytes().any(|b| matches!(b, b'1'..=b'9'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Tok> {
        let mut lexer = Lexer::new(text);
        let mut kinds = Vec::new();
        loop {
            let token = lexer.next();
            if token.kind == Tok::Eof {
                return kinds;
            }
            kinds.push(token.kind);
        }
    }

    #[test]
    fn ranges_numbers_and_paths_are_told_apart() {
        assert_eq!(kinds("0..30"), [Tok::Int, Tok::DotDot, Tok::Int]);
        assert_eq!(kinds("1.5 2e-6 7"), [Tok::Float, Tok::Float, Tok::Int]);
        let braces = [Tok::Path, Tok::Punct(b'{'), Tok::Ident];
        assert_eq!(kinds("$ffn.0.weight {eps"), braces);
        assert_eq!(kinds("$a.w{eps"), braces);
        assert_eq!(kinds("$blocks.{l}.w"), [Tok::Path]);
        assert_eq!(kinds("$\"odd-name\""), [Tok::Path]);
        assert_eq!(kinds("@wan2.2-5b->"), [Tok::Func, Tok::Arrow]);
        assert_eq!(kinds("// only a comment"), []);
    }

    #[test]
    fn what_cannot_be_read_is_one_bad_token() {
        for text in ["%", "@", "$", "$a..b", "$a.{", "1x", "\"open", "\u{1F600}\u{1F600}", "^"] {
            assert!(matches!(kinds(text)[..], [Tok::Bad(_)]), "{text}: {:?}", kinds(text));
        }
        assert!(matches!(kinds(&"x".repeat(300))[..], [Tok::Bad(_)]));
    }

    #[test]
    fn tokens_know_whether_they_start_a_line() {
        let mut lexer = Lexer::new("a b\n  c // d\ne");
        let first: Vec<bool> = (0..4).map(|_| lexer.next().first).collect();
        assert_eq!(first, [true, false, true, true]);
    }
}
