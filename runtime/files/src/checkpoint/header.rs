//! Strict parse of a safetensors header: length, JSON, entries, and the layout of the data.
//!
//! Contract: a header that parses describes data that fill the rest of the file exactly, each
//! tensor once, without holes or overlaps, so that slicing by its offsets cannot fail. Everything
//! else is an error with its own code. Nothing is allocated from a number in the file, and
//! nesting cannot exhaust the stack. It does not read tensor data and knows no model.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::human_bytes;
use crate::error::{Error, Result};

/// Longest header accepted, in bytes; the limit of the format's reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorDtype {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 8-bit float, 4 exponent bits, no infinities (`float8_e4m3fn`).
    F8E4M3,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte per value, zero is false.
    Bool,
}

impl TensorDtype {
    /// Every dtype, in declaration order.
    pub const ALL: [Self; 14] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// The name used in safetensors headers, such as `BF16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The dtype with this header name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes per element.
    pub fn size_bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        match self {
            Self::F64 | Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3 | Self::F8E5M2 => true,
            Self::I64 | Self::I32 | Self::I16 | Self::I8 => false,
            Self::U32 | Self::U16 | Self::U8 | Self::Bool => false,
        }
    }
}

impl fmt::Display for TensorDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that a tensor of this dtype and shape takes; `None` if that does not fit 64 bits.
///
/// A zero dimension does not excuse an overflow among the others: later stride arithmetic
/// multiplies those as well.
pub fn tensor_bytes(dtype: TensorDtype, shape: &[u64]) -> Option<u64> {
    let nonzero = shape
        .iter()
        .filter(|&&size| size != 0)
        .try_fold(dtype.size_bytes(), |bytes, &size| bytes.checked_mul(size))?;
    Some(if shape.contains(&0) { 0 } else { nonzero })
}

/// One tensor of a header. `begin..end` are byte offsets into the data section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name as stored.
    pub name: String,
    /// Element type.
    pub dtype: TensorDtype,
    /// Sizes, slowest dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte, counted from [`Header::data_offset`].
    pub begin: u64,
    /// One past the last byte, counted from [`Header::data_offset`].
    pub end: u64,
}

impl TensorEntry {
    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        self.end - self.begin
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.bytes() / self.dtype.size_bytes()
    }
}

/// A parsed and checked header.
#[derive(Clone, Debug)]
pub struct Header {
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    data_offset: u64,
}

impl Header {
    /// Parses the whole contents of a safetensors file.
    ///
    /// Errors: E0311 not a safetensors file, E0312 header length, E0313 header text, E0314 entry,
    /// E0315 dtype, E0316 shape, E0317 offsets, E0318 duplicate name, E0319 cut off, E0320
    /// bytes left over. They name the tensor; the caller adds the file with `.at(..)`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::parse_head(bytes, bytes.len() as u64)
    }

    /// Where the header of a file of `file_bytes` bytes ends, from its first bytes: nine at least,
    /// if it has so many.
    ///
    /// Errors: E0311 to E0313 as [`Header::parse`].
    pub fn end(first: &[u8], file_bytes: u64) -> Result<u64> {
        header_length(first, file_bytes).map(|length| 8 + length as u64)
    }

    /// [`Header::parse`] of a file of `file_bytes` bytes from those up to [`Header::end`] at least.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn parse_head(bytes: &[u8], file_bytes: u64) -> Result<Self> {
        let length = header_length(bytes, file_bytes)?;
        let text = &bytes[8..8 + length];
        let text = std::str::from_utf8(text).map_err(|fault| {
            not_json(format!("the header is not UTF-8: bad byte at {}", 8 + fault.valid_up_to()))
        })?;
        let mut collected = Collected::default();
        let mut reader = serde_json::Deserializer::from_str(text);
        let outcome = HeaderSeed(&mut collected).deserialize(&mut reader);
        outcome.and_then(|()| reader.end()).map_err(|fault| collected.explain(fault))?;
        let Collected { mut tensors, seen, metadata, .. } = collected;
        drop(seen);
        check_layout(&mut tensors, file_bytes - 8 - length as u64)?;
        let by_name =
            tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Self { tensors, by_name, metadata, data_offset: 8 + length as u64 })
    }

    /// The tensors by ascending offset.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// Position in [`Header::tensors`] of the tensor of this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The `__metadata__` map; empty if there is none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Byte offset of the data section in the file.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Bytes of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |tensor| tensor.end)
    }
}

/// Reads and checks the length field and the brace after it; returns the header's length.
fn header_length(bytes: &[u8], file_bytes: u64) -> Result<usize> {
    let recognised = recognise(bytes);
    let Some(field) = bytes.first_chunk::<8>() else {
        if let Some((what, help)) = recognised {
            return Err(not_safetensors(what, help));
        }
        let what = match bytes.len() {
            0 => "the file is empty".to_owned(),
            n => format!("the file has only {n} bytes; a safetensors file starts with 8"),
        };
        return Err(Error::input("E0311", what).help(DOWNLOAD_AGAIN));
    };
    let length = u64::from_le_bytes(*field);
    let available = file_bytes - 8;
    let looks_right = (2..=MAX_HEADER_BYTES).contains(&length) && length <= available;
    if let Some((what, help)) = recognised
        && !(looks_right && bytes[8] == b'{')
    {
        return Err(not_safetensors(what, help));
    }
    if length < 2 {
        return Err(Error::input("E0312", format!("the header's length is {length} bytes"))
            .help("a header has at least 2; the file is damaged: fetch or write it again"));
    }
    if length > MAX_HEADER_BYTES {
        return Err(Error::input(
            "E0312",
            format!("the header's length is {length} bytes, over the limit {MAX_HEADER_BYTES}"),
        )
        .help("this is most likely not a safetensors file, or its first bytes are damaged"));
    }
    if length > available {
        return Err(Error::input(
            "E0312",
            format!(
                "the header's length is {length} bytes, but only {available} follow: {} missing",
                human_bytes(length - available)
            ),
        )
        .help(DOWNLOAD_AGAIN));
    }
    if bytes[8] != b'{' {
        return Err(not_json(format!("the header starts with byte {:#04x}, not `{{`", bytes[8])));
    }
    // Within the 100 MB limit, so it fits usize everywhere.
    Ok(length as usize)
}

const DOWNLOAD_AGAIN: &str = "the file was cut off, often by a download that broke: fetch it again";

/// Names other things that are commonly handed over in place of a safetensors file.
fn recognise(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = bytes.trim_ascii_start();
    let starts = |prefix: &str| {
        text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if bytes.starts_with(b"PK\x03\x04") {
        Some((
            "it is a zip archive, most likely a PyTorch `.pth` file",
            "convert it to safetensors",
        ))
    } else if bytes.starts_with(b"GGUF") {
        Some(("it is a GGUF file", "convert it to safetensors"))
    } else if starts("version https://git-lfs") {
        Some(("it is a Git LFS pointer, not the weights", "run `git lfs pull` in its repository"))
    } else if starts("<!doctype") || starts("<html") {
        Some(("it is a web page", "the download returned a page; fetch the file itself"))
    } else if bytes.starts_with(&[0x80, 2]) {
        Some((
            "it is a Python pickle, most likely an old PyTorch file",
            "convert it to safetensors",
        ))
    } else if starts("{") {
        Some(("it is a JSON file", "for sharded weights pass the `*.index.json` under that name"))
    } else {
        None
    }
}

fn not_safetensors(what: &str, help: &str) -> Error {
    Error::input("E0311", format!("not a safetensors file: {what}")).help(help)
}

fn not_json(message: String) -> Error {
    Error::input("E0313", message).help("the header is damaged: fetch or write the file again")
}

/// What the visitors gather; a fault with a code of its own is left in `fault`.
#[derive(Default)]
struct Collected {
    tensors: Vec<TensorEntry>,
    seen: std::collections::HashSet<String>,
    metadata: BTreeMap<String, String>,
    has_metadata: bool,
    current: Option<String>,
    fault: Option<Error>,
}

impl Collected {
    /// Turns the parser's error into a coded one.
    fn explain(&mut self, error: serde_json::Error) -> Error {
        if let Some(fault) = self.fault.take() {
            return fault;
        }
        let entry = self.current.as_deref().map(shorten);
        match (error.classify(), entry) {
            (serde_json::error::Category::Data, Some(entry)) => {
                Error::input("E0314", format!("header entry `{entry}`: {error}")).help(
                    "an entry is {\"dtype\": TEXT, \"shape\": [N…], \"data_offsets\": [N, N]}",
                )
            }
            (serde_json::error::Category::Data, None) => {
                not_json(format!("the header is not a JSON object: {error}"))
            }
            (_, Some(entry)) => {
                not_json(format!("the header is not JSON: {error}, in entry `{entry}`"))
            }
            (_, None) => not_json(format!("the header is not JSON: {error}")),
        }
    }
}

/// Names come from the file: keep hostile ones from flooding a message.
fn shorten(name: &str) -> String {
    if name.chars().count() <= 120 {
        return name.escape_debug().to_string();
    }
    let head: String = name.chars().take(120).collect();
    format!("{}…", head.escape_debug())
}

struct HeaderSeed<'a>(&'a mut Collected);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(collected) = self;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                collected.current = Some(name);
                if std::mem::replace(&mut collected.has_metadata, true) {
                    return Err(A::Error::custom("`__metadata__` appears twice"));
                }
                map.next_value_seed(MetadataSeed(&mut collected.metadata))?;
            } else {
                if !collected.seen.insert(name.clone()) {
                    collected.fault = Some(
                        Error::input(
                            "E0318",
                            format!("tensor `{}` appears twice in the header", shorten(&name)),
                        )
                        .help("one of the two would be ignored silently: write the file again"),
                    );
                    return Err(A::Error::custom("duplicate"));
                }
                collected.current = Some(name.clone());
                let fault = &mut collected.fault;
                let entry = map.next_value_seed(EntrySeed { name, fault })?;
                collected.tensors.push(entry);
            }
            collected.current = None;
        }
        Ok(())
    }
}

/// A map of strings, or null.
struct MetadataSeed<'a>(&'a mut BTreeMap<String, String>);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if let Some(_earlier) = self.0.insert(key.clone(), value) {
                return Err(A::Error::custom(format!("key `{}` appears twice", shorten(&key))));
            }
        }
        Ok(())
    }
}

struct EntrySeed<'a> {
    name: String,
    fault: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = TensorEntry;
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<TensorEntry, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = TensorEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TensorEntry, A::Error> {
        let mut dtype: Option<String> = None;
        let mut shape: Option<Vec<u64>> = None;
        let mut offsets: Option<Vec<u64>> = None;
        while let Some(key) = map.next_key::<String>()? {
            let repeated = match key.as_str() {
                "dtype" => dtype.replace(map.next_value()?).is_some(),
                "shape" => shape.replace(map.next_value()?).is_some(),
                "data_offsets" => offsets.replace(map.next_value()?).is_some(),
                // Skipped without recursion, so nesting inside cannot exhaust the stack.
                _ => map.next_value::<IgnoredAny>().map(|_| false)?,
            };
            if repeated {
                return Err(A::Error::custom(format!("key `{key}` appears twice")));
            }
        }
        let dtype = dtype.ok_or_else(|| A::Error::missing_field("dtype"))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let offsets = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?;
        let &[begin, end] = offsets.as_slice() else {
            let message = format!("data_offsets has {} numbers, not 2", offsets.len());
            return Err(A::Error::custom(message));
        };
        let Some(dtype) = TensorDtype::from_name(&dtype) else {
            let known: Vec<&str> = TensorDtype::ALL.iter().map(|dtype| dtype.name()).collect();
            *self.fault = Some(
                Error::input(
                    "E0315",
                    format!(
                        "tensor `{}` has the unknown dtype `{}`",
                        shorten(&self.name),
                        shorten(&dtype)
                    ),
                )
                .help(format!("known dtypes: {}", known.join(" "))),
            );
            return Err(A::Error::custom("dtype"));
        };
        Ok(TensorEntry { name: self.name, dtype, shape, begin, end })
    }
}

/// Sorts by offset and checks sizes, order, and that the data fill the section exactly.
fn check_layout(tensors: &mut [TensorEntry], available: u64) -> Result<()> {
    for tensor in tensors.iter() {
        let TensorEntry { name, dtype, shape, begin, end } = tensor;
        let name = shorten(name);
        let Some(needed) = tensor_bytes(*dtype, shape) else {
            return Err(Error::input(
                "E0316",
                format!("tensor `{name}`: a {dtype} of shape {shape:?} is larger than 2^64 bytes"),
            )
            .help("the header is damaged or was made to mislead: fetch or write the file again"));
        };
        if begin > end {
            return Err(bad_offsets(format!(
                "tensor `{name}`: its offsets [{begin}, {end}] are reversed"
            )));
        }
        if end - begin != needed {
            return Err(bad_offsets(format!(
                "tensor `{name}`: a {dtype} of shape {shape:?} takes {needed} bytes, but its \
                 offsets [{begin}, {end}] hold {}",
                end - begin
            )));
        }
    }
    // Zero-element tensors sort before the tensor that starts at the same byte.
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let mut filled = 0;
    let mut previous: Option<&TensorEntry> = None;
    for tensor in tensors.iter() {
        let name = shorten(&tensor.name);
        if tensor.begin < filled {
            let other = previous.map_or_else(String::new, |other| shorten(&other.name));
            return Err(bad_offsets(format!(
                "tensors `{other}` and `{name}` overlap: the second starts at byte {}, the first \
                 ends at {filled}",
                tensor.begin
            )));
        }
        if tensor.begin > filled {
            return Err(bad_offsets(format!(
                "bytes {filled} to {} before tensor `{name}` belong to no tensor",
                tensor.begin
            )));
        }
        filled = tensor.end;
        previous = Some(tensor);
    }
    if available < filled {
        let first = tensors.iter().find(|tensor| tensor.end > available);
        let name = first.map_or_else(String::new, |tensor| shorten(&tensor.name));
        return Err(Error::input(
            "E0319",
            format!(
                "the file is cut off: {} of tensor data missing (from tensor `{name}` on)",
                human_bytes(filled - available)
            ),
        )
        .help(DOWNLOAD_AGAIN));
    }
    if available > filled {
        return Err(Error::input(
            "E0320",
            format!("{} follow the last tensor", human_bytes(available - filled)),
        )
        .help("the header and the data do not belong together: fetch or write the file again"));
    }
    Ok(())
}

fn bad_offsets(message: String) -> Error {
    Error::input("E0317", message).help("the header is damaged: fetch or write the file again")
}

#[cfg(test)]
mod tests {
    use super::super::testing::file;
    use super::*;

    fn code(bytes: &[u8]) -> (&'static str, String) {
        let error = Header::parse(bytes).expect_err("must be refused");
        assert!(error.help_text().is_some(), "{error}");
        (error.code(), error.message().to_owned())
    }

    fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    }

    #[test]
    fn accepts_scalars_empty_tensors_metadata_and_padding() {
        let text = format!(
            r#"{{"b":{},"__metadata__":{{"format":"pt"}},"none":{},"a":{}}}    "#,
            entry("F32", "[2]", "[4,12]"),
            entry("F16", "[0,3]", "[4,4]"),
            entry("I32", "[]", "[0,4]"),
        );
        let header = Header::parse(&file(&text, &[0; 12])).unwrap();
        let names: Vec<&str> = header.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "none", "b"]);
        assert_eq!(header.metadata()["format"], "pt");
        assert_eq!(header.position("b"), Some(2));
        assert_eq!(header.position("c"), None);
        assert_eq!(header.data_offset(), 8 + text.len() as u64);
        assert_eq!(header.data_bytes(), 12);
        assert!(Header::parse(&file("{}", &[])).unwrap().tensors().is_empty());
        assert!(Header::parse(&file(r#"{"__metadata__":null}"#, &[])).is_ok());
    }

    #[test]
    fn every_dtype_has_a_name_and_a_size() {
        for dtype in TensorDtype::ALL {
            assert_eq!(TensorDtype::from_name(dtype.name()), Some(dtype));
            let size = dtype.size_bytes();
            let text =
                format!(r#"{{"x":{}}}"#, entry(dtype.name(), "[3]", &format!("[0,{}]", 3 * size)));
            let header = Header::parse(&file(&text, &vec![0; 3 * size as usize])).unwrap();
            assert_eq!(header.tensors()[0].dtype, dtype);
        }
    }

    #[test]
    fn refuses_what_is_no_safetensors_file() {
        assert_eq!(code(b"").0, "E0311");
        assert_eq!(code(b"1234567").0, "E0311");
        assert!(code(b"PK\x03\x04 and more bytes").1.contains("zip"));
        assert!(code(b"GGUF\x03\0\0\0 and more").1.contains("GGUF"));
        assert!(code(b"version https://git-lfs.github.com/spec/v1\n").1.contains("Git LFS"));
        assert!(code(b"\n<!DOCTYPE html><html>").1.contains("web page"));
        assert!(code(b"{\"weight_map\": {}}").1.contains("JSON"));
        assert_eq!(code(&[0; 64]), ("E0312", "the header's length is 0 bytes".into()));
        assert_eq!(code(&[0xff; 64]).0, "E0312");
        let mut short = file("{}", &[]);
        short[0] = 200;
        let (short_code, message) = code(&short);
        assert_eq!(short_code, "E0312");
        assert!(message.contains("198 bytes missing"), "{message}");
    }

    #[test]
    fn a_length_that_spells_a_zip_mark_is_still_judged_by_its_header() {
        // 0x04034b50 = 67 MB is a legal length that reads `PK\x03\x04`.
        let mut text = String::from("{}");
        text.extend(std::iter::repeat_n(' ', 0x0403_4b50 - 2));
        assert!(Header::parse(&file(&text, &[])).is_ok());
    }

    #[test]
    fn refuses_bad_header_text() {
        assert_eq!(code(&file("{\"a\": ", &[])).0, "E0313");
        assert_eq!(code(&file("[1,2]", &[])).0, "E0313");
        assert_eq!(code(&file(" {}", &[])).0, "E0313");
        assert_eq!(code(&file("{} {}", &[])).0, "E0313");
        assert_eq!(code(&file("{}\0\0", &[])).0, "E0313");
        let mut not_text = file("{\"abc\":1}", &[]);
        not_text[11] = 0xff;
        assert_eq!(code(&not_text).0, "E0313");
    }

    #[test]
    fn nesting_does_not_exhaust_the_stack() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let depth = 2_000_000;
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let inside = format!(r#"{{"x":{{"dtype":{nested}}}}}"#);
            assert_eq!(code(&file(&inside, &[])).0, "E0314");
            let skipped = format!(
                r#"{{"x":{{"other":{nested},"dtype":"U8","shape":[],"data_offsets":[0,1]}}}}"#
            );
            assert!(Header::parse(&file(&skipped, &[0])).is_ok());
            let top = format!(r#"{{"x":{nested}}}"#);
            assert!(["E0313", "E0314"].contains(&code(&file(&top, &[])).0));
            let metadata = format!(r#"{{"__metadata__":{nested}}}"#);
            assert_eq!(code(&file(&metadata, &[])).0, "E0314");
        }
    }

    #[test]
    fn refuses_malformed_entries() {
        for bad in [
            "1",
            "null",
            "[]",
            r#"{"dtype":"F32","shape":[1]}"#,
            r#"{"dtype":"F32","data_offsets":[0,4]}"#,
            r#"{"shape":[1],"data_offsets":[0,4]}"#,
            r#"{"dtype":4,"shape":[1],"data_offsets":[0,4]}"#,
            r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#,
            r#"{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}"#,
            r#"{"dtype":"F32","shape":1,"data_offsets":[0,4]}"#,
            r#"{"dtype":"F32","shape":[1],"data_offsets":[0]}"#,
            r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#,
            r#"{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}"#,
            r#"{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}"#,
        ] {
            let (found, message) = code(&file(&format!(r#"{{"good.name":{bad}}}"#), &[0; 4]));
            assert_eq!(found, "E0314", "{bad}: {message}");
            assert!(message.contains("good.name"), "{message}");
        }
        assert_eq!(code(&file(r#"{"__metadata__":{"a":1}}"#, &[])).0, "E0314");
        assert_eq!(code(&file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, &[])).0, "E0314");
        assert_eq!(code(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[])).0, "E0314");
    }

    #[test]
    fn refuses_bad_dtypes_shapes_and_offsets() {
        let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
            code(&file(&format!(r#"{{"w":{}}}"#, entry(dtype, shape, offsets)), &vec![0; data]))
        };
        let (unknown, message) = one("C64", "[1]", "[0,8]", 8);
        assert_eq!(unknown, "E0315");
        assert!(message.contains("`w`") && message.contains("C64"), "{message}");
        assert_eq!(one("F32", "[4294967296,4294967296]", "[0,8]", 8).0, "E0316");
        assert_eq!(one("F64", "[2305843009213693952]", "[0,0]", 0).0, "E0316");
        assert_eq!(one("F32", "[0,4294967296,4294967296]", "[0,0]", 0).0, "E0316");
        assert!(one("F32", "[1]", "[4,0]", 4).1.contains("reversed"));
        assert_eq!(one("F32", "[2]", "[0,4]", 4).0, "E0317");
        assert!(one("F32", "[1]", "[4,8]", 8).1.contains("belong to no tensor"));
        let (cut, message) = one("F32", "[4]", "[0,16]", 9);
        assert_eq!(cut, "E0319");
        assert!(message.contains("7 bytes") && message.contains("`w`"), "{message}");
        let (left, message) = one("F32", "[1]", "[0,4]", 5);
        assert_eq!(left, "E0320");
        assert!(message.contains("1 byte follow"), "{message}");
        let two = |a: &str, b: &str, data: usize| {
            let text =
                format!(r#"{{"a":{},"b":{}}}"#, entry("U8", "[4]", a), entry("U8", "[4]", b));
            code(&file(&text, &vec![0; data]))
        };
        assert!(two("[0,4]", "[2,6]", 6).1.contains("overlap"));
        assert!(two("[0,4]", "[0,4]", 4).1.contains("overlap"));
        assert!(two("[0,4]", "[6,10]", 10).1.contains("belong to no tensor"));
        let extreme = entry("U8", "[0]", "[18446744073709551615,18446744073709551615]");
        assert_eq!(code(&file(&format!(r#"{{"a":{extreme}}}"#), &[])).0, "E0317");
    }

    #[test]
    fn refuses_duplicate_names() {
        let text = format!(
            r#"{{"a":{},"\u0061":{}}}"#,
            entry("U8", "[1]", "[0,1]"),
            entry("U8", "[1]", "[1,2]")
        );
        let (found, message) = code(&file(&text, &[0; 2]));
        assert_eq!(found, "E0318");
        assert!(message.contains("`a`"));
    }

    #[test]
    fn agrees_with_the_reference_crate_on_every_cut_and_every_flipped_byte() {
        let text = format!(
            r#"{{"a":{},"b":{}}}"#,
            entry("F32", "[2,1]", "[0,8]"),
            entry("BF16", "[3]", "[8,14]")
        );
        let good = file(&text, &[7; 14]);
        for cut in 0..good.len() {
            assert!(Header::parse(&good[..cut]).is_err());
            assert!(safetensors::SafeTensors::deserialize(&good[..cut]).is_err());
        }
        for at in 0..8 + text.len() {
            for flip in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << flip;
                let ours = Header::parse(&bytes).is_ok();
                let theirs = safetensors::SafeTensors::deserialize(&bytes).is_ok();
                // Ours may only be stricter.
                assert!(theirs || !ours, "byte {at} bit {flip}");
            }
        }
    }
}
