//! What every checkpoint is, whatever its format: a table of named byte ranges of a file, each with
//! an encoding and a shape.
//!
//! Contract: a table that was made describes ranges inside its file, each as long as encoding and
//! shape say, every name once, so that reading by it cannot leave the file. How a format writes its
//! table is the business of its parser ([`Format`]); this file reads nothing.

use std::collections::{BTreeMap, HashMap};

use super::encoding::Encoding;
use super::format::Format;
use super::human_bytes;
use crate::error::{Error, Result};

/// One tensor of a file: where its bytes lie and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRange {
    /// Name as stored.
    pub name: String,
    /// How its elements are encoded.
    pub encoding: Encoding,
    /// Sizes, slowest dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte, counted from the beginning of the file.
    pub offset: u64,
    /// Bytes of its elements.
    pub bytes: u64,
    /// Elements between neighbours along each axis, where the elements do not follow each other in
    /// the order of the shape.
    pub strides: Option<Vec<u64>>,
}

impl TensorRange {
    /// A tensor that begins at byte `offset`.
    ///
    /// # Errors
    /// E0316 where encoding and shape give no tensor whose bytes fit 64 bits.
    pub(super) fn new(
        name: String,
        encoding: Encoding,
        shape: Vec<u64>,
        offset: u64,
    ) -> Result<Self> {
        match encoding.bytes_of(&shape) {
            Some(bytes) => Ok(Self { name, encoding, shape, offset, bytes, strides: None }),
            None => Err(Error::input(
                "E0316",
                format!(
                    "tensor `{}`: a {encoding} of shape {shape:?} is larger than 2^64 bytes",
                    shorten(&name)
                ),
            )
            .help("the header is damaged or was made to mislead: fetch or write the file again")),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// One past the last byte that it touches.
    fn end(&self) -> Option<u64> {
        let Some(strides) = &self.strides else { return self.offset.checked_add(self.bytes) };
        if self.bytes == 0 {
            return Some(self.offset);
        }
        let mut last = 0u64;
        for (size, stride) in self.shape.iter().zip(strides) {
            last = last.checked_add(size.checked_sub(1)?.checked_mul(*stride)?)?;
        }
        let span = last.checked_add(1)?.checked_mul(self.encoding.block().bytes)?;
        self.offset.checked_add(span)
    }

    /// Where element number `index` lies, in elements behind the first.
    pub(super) fn place(&self, mut index: u64) -> u64 {
        let Some(strides) = &self.strides else { return index };
        let mut place = 0;
        for (size, stride) in self.shape.iter().zip(strides).rev() {
            place += index % size * stride;
            index /= size;
        }
        place
    }
}

/// A list that a file holds beside its tensors, such as the words of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    /// What its items are, in the numbers of GGUF.
    pub(super) kind: u32,
    /// How many there are.
    pub(super) count: u64,
    /// Its first byte, and one past its last.
    pub(super) bytes: std::ops::Range<u64>,
}

/// The tensors of one file.
#[derive(Clone, Debug)]
pub struct Table {
    format: Format,
    tensors: Vec<TensorRange>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    lists: BTreeMap<String, List>,
    head_bytes: u64,
}

impl Table {
    /// The table of a file of `file_bytes` bytes, of which the first `head_bytes` hold no tensor.
    ///
    /// # Errors
    /// E0318 for a name given twice, E0319 for a range that ends behind the file.
    pub(super) fn new(
        format: Format,
        head_bytes: u64,
        tensors: Vec<TensorRange>,
        metadata: BTreeMap<String, String>,
        file_bytes: u64,
    ) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (position, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.name.clone(), position).is_some() {
                return Err(twice(&tensor.name));
            }
        }
        let outside = |tensor: &&TensorRange| tensor.end().is_none_or(|end| end > file_bytes);
        if let Some(first) = tensors.iter().filter(outside).min_by_key(|tensor| tensor.offset) {
            let end = tensors.iter().map(|tensor| tensor.end().unwrap_or(u64::MAX)).max();
            let missing = end.unwrap_or(0) - file_bytes;
            return Err(Error::input(
                "E0319",
                format!(
                    "the file is cut off: {} of tensor data missing (from tensor `{}` on)",
                    human_bytes(missing),
                    shorten(&first.name)
                ),
            )
            .help(DOWNLOAD_AGAIN));
        }
        let lists = BTreeMap::new();
        Ok(Self { format, tensors, by_name, metadata, lists, head_bytes })
    }

    /// The same table with lists beside the tensors.
    pub(super) fn with_lists(self, lists: BTreeMap<String, List>) -> Self {
        Self { lists, ..self }
    }

    /// The format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The tensors by ascending offset.
    pub fn tensors(&self) -> &[TensorRange] {
        &self.tensors
    }

    /// Position in [`Table::tensors`] of the tensor of this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// What the file says about itself in words; empty if it says nothing.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The lists beside the tensors; their items are read when they are wanted.
    pub(super) fn lists(&self) -> &BTreeMap<String, List> {
        &self.lists
    }

    /// Bytes at the beginning of the file that hold no tensor.
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }
}

pub(super) const DOWNLOAD_AGAIN: &str =
    "the file was cut off, often by a download that broke: fetch it again";

/// The error E0318 for a name that a file gives to two tensors.
pub(super) fn twice(name: &str) -> Error {
    let message = format!("tensor `{}` appears twice in the header", shorten(name));
    Error::input("E0318", message)
        .help("one of the two would be ignored silently: write the file again")
}

/// Names come from the file: keep hostile ones from flooding a message.
pub(super) fn shorten(name: &str) -> String {
    if name.chars().count() <= 120 {
        return name.escape_debug().to_string();
    }
    let head: String = name.chars().take(120).collect();
    format!("{}…", head.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, shape: &[u64], offset: u64) -> TensorRange {
        TensorRange::new(name.to_owned(), Encoding::F32, shape.to_vec(), offset).unwrap()
    }

    fn table(tensors: Vec<TensorRange>) -> Result<Table> {
        Table::new(Format::Safetensors, 10, tensors, BTreeMap::new(), 100)
    }

    #[test]
    fn ranges_may_leave_holes_and_share_bytes_but_not_the_file() {
        let found = table(vec![range("a", &[2], 20), range("b", &[4], 84)]).unwrap();
        assert_eq!((found.position("b"), found.position("c")), (Some(1), None));
        assert_eq!((found.head_bytes(), found.tensors()[0].elements()), (10, 2));
        table(vec![range("a", &[2], 20), range("b", &[1, 2], 20)]).unwrap();
        for (tensors, code) in [
            (vec![range("a", &[2], 93)], "E0319"),
            (vec![range("a", &[2], u64::MAX - 1)], "E0319"),
            (vec![range("a", &[1], 20), range("a", &[1], 24)], "E0318"),
        ] {
            let error = table(tensors).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains("`a`") && error.help_text().is_some(), "{error}");
        }
        let turned = |shape: &[u64], strides: &[u64], offset| {
            let strides = Some(strides.to_vec());
            TensorRange { strides, ..range("a", shape, offset) }
        };
        let fits = turned(&[3, 2], &[1, 4], 72);
        assert_eq!((0..6).map(|at| fits.place(at)).collect::<Vec<_>>(), [0, 4, 1, 5, 2, 6]);
        table(vec![fits, TensorRange { name: "b".into(), ..turned(&[9, 9], &[0, 0], 96) }])
            .unwrap();
        for strides in [[1, 5], [u64::MAX, u64::MAX], [0, u64::MAX]] {
            let error = table(vec![turned(&[3, 2], &strides, 72)]).unwrap_err();
            assert_eq!(error.code(), "E0319", "{error}");
        }
        let large = TensorRange::new("a".into(), Encoding::F32, vec![1 << 40; 2], 0).unwrap_err();
        assert_eq!(large.code(), "E0316");
    }
}
