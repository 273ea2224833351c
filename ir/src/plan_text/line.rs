//! A cursor over one line of plan text.

use crate::entity::Entity;
use crate::plan::{Buffer, BufferId, Root};
use crate::types::{DType, Shape, TensorType};

/// What was expected where the line could not be read.
pub(super) type Read<T> = Result<T, String>;

/// Largest axis, and most elements of a tensor: products of a few of them fit 64 bits.
const LARGEST_AXIS: u64 = 1 << 40;
const MOST_ELEMENTS: u64 = 1 << 48;
/// Most axes of a tensor.
const MOST_AXES: usize = 16;

pub(super) struct Line<'t> {
    rest: &'t str,
}

impl<'t> Line<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text.trim() }
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    /// Takes `text` if it stands here.
    pub(super) fn accept(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                self.skip();
                true
            }
            None => false,
        }
    }

    pub(super) fn expect(&mut self, text: &str) -> Read<()> {
        if self.accept(text) { Ok(()) } else { Err(format!("expected `{text}`{}", self.found())) }
    }

    pub(super) fn end(&self) -> Read<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("expected the end{}", self.found())) }
    }

    fn found(&self) -> String {
        match self.rest.is_empty() {
            true => " before the end of the line".to_owned(),
            false => format!(", found `{}`", self.rest.chars().take(24).collect::<String>()),
        }
    }

    /// A word of letters, digits and `_`.
    pub(super) fn word(&mut self) -> Read<&'t str> {
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

    pub(super) fn number(&mut self) -> Read<u64> {
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

    /// A number that fits 32 bits.
    pub(super) fn index(&mut self) -> Read<u32> {
        let value = self.number()?;
        u32::try_from(value).map_err(|_| format!("{value} is no index"))
    }

    pub(super) fn buffer(&mut self) -> Read<BufferId> {
        self.expect("%")?;
        Ok(BufferId::from_index(self.index()? as usize))
    }

    /// `%1, %2`, or nothing.
    pub(super) fn buffers<A: FromIterator<BufferId>>(&mut self) -> Read<A> {
        let mut list = Vec::new();
        if self.rest.starts_with('%') {
            list.push(self.buffer()?);
            while self.accept(",") {
                list.push(self.buffer()?);
            }
        }
        Ok(list.into_iter().collect())
    }

    /// Text in quotes.
    pub(super) fn quoted(&mut self) -> Read<String> {
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
    pub(super) fn braces(&mut self) -> Read<&'t str> {
        if !self.rest.starts_with('{') {
            return Ok("");
        }
        let end = self.rest.find('}').ok_or("a brace that does not close")?;
        let (inside, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        self.skip();
        Ok(inside)
    }

    /// `f32[2,8]`, with few enough elements for later products of sizes.
    pub(super) fn ty(&mut self) -> Read<TensorType> {
        let name = self.word()?;
        let dtype = DType::from_name(name).ok_or_else(|| format!("there is no type {name}"))?;
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

    /// `workspace + 64`.
    pub(super) fn root(&mut self) -> Read<(Root, u64)> {
        let root = match self.word()? {
            "workspace" => Root::Workspace,
            "persistent" => Root::Persistent,
            "input" => Root::Input(self.index()?),
            "weight" => Root::Weight(self.index()?),
            "state" => Root::State(self.index()?),
            "output" => Root::Output(self.index()?),
            word => return Err(format!("there is no memory called {word}")),
        };
        self.expect("+")?;
        Ok((root, self.number()?))
    }

    /// `workspace + 64 f32[2,8]`, the place and type of a step's result.
    pub(super) fn place(&mut self) -> Read<Buffer> {
        let (root, offset) = self.root()?;
        Ok(Buffer { root, offset, ty: self.ty()? })
    }
}
