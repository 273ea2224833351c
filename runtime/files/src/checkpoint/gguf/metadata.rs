//! The header of a GGUF file, read a piece at a time: numbers, texts, and the metadata.
//!
//! Nothing is allocated from a number in the file: a text is no longer than what is left of it, and of
//! lists only the place is kept until someone wants the items.

use std::collections::BTreeMap;

use super::{cut, damaged};
use crate::checkpoint::source::Source;
use crate::checkpoint::table::{List, shorten};
use crate::error::{Error, Result};

/// Longest name of a tensor or key, in bytes.
const LONGEST_NAME: u64 = 1 << 16;
/// Longest text of the metadata that is kept, in bytes; of a longer one only the length is.
const LONGEST_TEXT: u64 = 1 << 16;
/// Most tensors, most entries of the metadata, and most items of a list that are read.
pub(super) const MOST: u64 = 1 << 20;
/// Largest alignment.
const LARGEST_ALIGNMENT: u64 = 1 << 20;

/// Reads the header from its beginning, a piece at a time.
pub(super) struct Cursor<'s> {
    source: &'s Source,
    piece: Vec<u8>,
    /// Where the piece begins in the file, and what of it was read.
    from: u64,
    at: usize,
}

/// Bytes of the file that are held at a time.
const PIECE: usize = 1 << 16;

impl<'s> Cursor<'s> {
    pub(super) fn new(source: &'s Source, from: u64) -> Self {
        Self { source, piece: Vec::new(), from, at: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.from + self.at as u64
    }

    fn left(&self) -> u64 {
        self.source.length().saturating_sub(self.position())
    }

    /// Some bytes that follow, at most as many as a piece has.
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        if count as u64 > self.left() {
            return Err(cut());
        }
        if self.piece.len() - self.at < count {
            let from = self.position();
            let length = (PIECE as u64).max(count as u64).min(self.left());
            self.piece.resize(length as usize, 0);
            self.source.read(from, &mut self.piece, || "the header".to_owned())?;
            (self.from, self.at) = (from, 0);
        }
        let taken = self.at..self.at + count;
        self.at = taken.end;
        Ok(&self.piece[taken])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many bytes were taken"))
    }

    pub(super) fn word(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn long(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        if count > self.left() {
            return Err(cut());
        }
        let to = self.position() + count;
        match to - self.from <= self.piece.len() as u64 {
            true => self.at = (to - self.from) as usize,
            false => *self = Self::new(self.source, to),
        }
        Ok(())
    }

    /// A text of at most `most` bytes; `None` for a longer one, which is passed over.
    fn text(&mut self, most: u64) -> Result<Option<String>> {
        let length = self.long()?;
        if length > self.left() {
            return Err(cut());
        }
        if length > most {
            self.skip(length)?;
            return Ok(None);
        }
        let bytes = self.take(length as usize)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(damaged("a text of its header is not UTF-8")),
        }
    }

    pub(super) fn name(&mut self, whose: &str) -> Result<String> {
        let name = self.text(LONGEST_NAME)?;
        name.ok_or_else(|| damaged(format!("{whose} has a name of more than {LONGEST_NAME} bytes")))
    }
}

/// A kind of value in the metadata.
mod kind {
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const U32: u32 = 4;
}

/// Bytes of a value of a kind that has a fixed length.
fn fixed(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | kind::BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// A number of a kind that has a fixed length.
enum Number {
    Whole(i128),
    Real(f64),
    Truth(bool),
}

fn number(cursor: &mut Cursor<'_>, kind: u32) -> Result<Option<Number>> {
    Ok(Some(match kind {
        0 => Number::Whole(cursor.array::<1>()?[0].into()),
        1 => Number::Whole(cursor.array::<1>()?[0].cast_signed().into()),
        2 => Number::Whole(u16::from_le_bytes(cursor.array()?).into()),
        3 => Number::Whole(i16::from_le_bytes(cursor.array()?).into()),
        4 => Number::Whole(cursor.word()?.into()),
        5 => Number::Whole(cursor.word()?.cast_signed().into()),
        6 => Number::Real(f32::from_le_bytes(cursor.array()?).into()),
        kind::BOOL => Number::Truth(cursor.array::<1>()?[0] != 0),
        10 => Number::Whole(cursor.long()?.into()),
        11 => Number::Whole(cursor.long()?.cast_signed().into()),
        12 => Number::Real(f64::from_le_bytes(cursor.array()?)),
        _ => return Ok(None),
    }))
}

fn unknown_kind(key: &str, kind: u32) -> Error {
    damaged(format!("the metadata \"{}\" have a value of the unknown kind {kind}", shorten(key)))
}

/// What the metadata say.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) values: BTreeMap<String, String>,
    pub(super) lists: BTreeMap<String, List>,
    pub(super) alignment: u64,
}

/// The entries of the metadata, of which there are `count`.
pub(super) fn metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata> {
    let mut out = Metadata { alignment: 32, ..Metadata::default() };
    for _ in 0..count {
        let key = cursor.name("an entry of the metadata")?;
        let kind = cursor.word()?;
        let value = match kind {
            kind::TEXT => match cursor.text(LONGEST_TEXT)? {
                Some(text) => text,
                None => format!("a text of more than {LONGEST_TEXT} bytes"),
            },
            kind::LIST => {
                let list = list(cursor, &key)?;
                let said = format!("a list of {}", list.count);
                out.lists.insert(key.clone(), list);
                said
            }
            _ => {
                let value = number(cursor, kind)?.ok_or_else(|| unknown_kind(&key, kind))?;
                if key == "general.alignment" {
                    out.alignment = alignment(kind, &value)?;
                }
                match value {
                    Number::Whole(value) => value.to_string(),
                    Number::Real(value) => value.to_string(),
                    Number::Truth(value) => value.to_string(),
                }
            }
        };
        if out.values.contains_key(&key) {
            return Err(damaged(format!("the metadata have \"{}\" twice", shorten(&key))));
        }
        out.values.insert(key, value);
    }
    Ok(out)
}

fn alignment(kind: u32, value: &Number) -> Result<u64> {
    match value {
        Number::Whole(value) if kind == kind::U32 => {
            let value = *value as u64;
            if value.is_power_of_two() && value <= LARGEST_ALIGNMENT {
                return Ok(value);
            }
            Err(damaged(format!("general.alignment is {value}, not a power of two")))
        }
        _ => Err(damaged("general.alignment is not a u32")),
    }
}

/// Passes over a list. Lists of lists are not read.
fn list(cursor: &mut Cursor<'_>, key: &str) -> Result<List> {
    let (kind, count) = (cursor.word()?, cursor.long()?);
    let begin = cursor.position();
    match (kind, fixed(kind)) {
        (_, Some(size)) => {
            cursor.skip(count.checked_mul(size as u64).ok_or_else(cut)?)?;
        }
        (kind::TEXT, None) => {
            if count > cursor.left() / 8 {
                return Err(cut());
            }
            for _ in 0..count {
                let length = cursor.long()?;
                cursor.skip(length)?;
            }
        }
        _ => return Err(unknown_kind(key, kind)),
    }
    Ok(List { kind, count, bytes: begin..cursor.position() })
}

fn items<T>(
    source: &Source,
    key: &str,
    list: &List,
    item: impl Fn(&mut Cursor<'_>) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    let wrong = || damaged(format!("the metadata \"{}\" are a list of another kind", shorten(key)));
    if list.count > MOST {
        return Err(damaged(format!("the metadata \"{}\" have too many items", shorten(key))));
    }
    let mut cursor = Cursor::new(source, list.bytes.start);
    let one = |_| item(&mut cursor)?.ok_or_else(wrong);
    (0..list.count).map(one).collect()
}

/// The items of a list of texts.
///
/// # Errors
/// E0333 for a list of something else, or one that is damaged; those of reading.
pub(in crate::checkpoint) fn texts(source: &Source, key: &str, list: &List) -> Result<Vec<String>> {
    items(source, key, list, |cursor| match list.kind {
        kind::TEXT => cursor.text(LONGEST_TEXT),
        _ => Ok(None),
    })
}

/// The items of a list of numbers.
///
/// # Errors
/// As [`texts`].
pub(in crate::checkpoint) fn numbers(source: &Source, key: &str, list: &List) -> Result<Vec<f64>> {
    items(source, key, list, |cursor| {
        Ok(number(cursor, list.kind)?.map(|number| match number {
            Number::Whole(value) => value as f64,
            Number::Real(value) => value,
            Number::Truth(value) => f64::from(u8::from(value)),
        }))
    })
}
