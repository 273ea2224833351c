//! Strict parse of a safetensors header: length, JSON, entries, and the layout of the data.
//!
//! Contract: a header that parses describes data that fill the rest of the file exactly, each
//! tensor once, without holes or overlaps. Everything else is an error with its own code. Nothing is
//! allocated from a number in the file, and nesting cannot exhaust the stack. It does not read tensor
//! data and knows no model.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::encoding::Encoding;
use super::format::Format;
use super::human_bytes;
use super::source::Source;
use super::table::{DOWNLOAD_AGAIN, Table, TensorRange, shorten, twice};
use crate::error::{Error, Result};

/// Longest header accepted, in bytes; the limit of the format's reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Whether a file of `file_bytes` bytes that begins with `head` has a header where it says, or what
/// begins as one. The format has no mark of its own.
pub(super) fn is_likely(head: &[u8], file_bytes: u64) -> bool {
    head.get(8) == Some(&b'{') && header_length(head, file_bytes).is_ok()
}

/// The table of a file that begins with `head`.
///
/// # Errors
/// E0311 not a safetensors file, E0312 header length, E0313 header text, E0314 entry, E0315 dtype,
/// E0316 shape, E0317 offsets, E0318 duplicate name, E0319 cut off, E0320 bytes left over; those of
/// reading.
pub(super) fn read(source: &Source, head: Vec<u8>) -> Result<Table> {
    let length = header_length(&head, source.length())?;
    let data_offset = 8 + length as u64;
    let head = source.bytes(data_offset, "the header", head)?;
    let text = std::str::from_utf8(&head[8..data_offset as usize]).map_err(|fault| {
        not_json(format!("the header is not UTF-8: bad byte at {}", 8 + fault.valid_up_to()))
    })?;
    let mut collected = Collected::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let outcome = HeaderSeed(&mut collected).deserialize(&mut reader);
    outcome.and_then(|()| reader.end()).map_err(|fault| collected.explain(fault))?;
    let Collected { tensors, seen, metadata, .. } = collected;
    drop(seen);
    let ranges = lay_out(tensors, data_offset, source.length() - data_offset)?;
    Table::new(Format::Safetensors, data_offset, ranges, metadata, source.length())
}

/// An entry as the header has it. `begin..end` are byte offsets into the data.
struct Entry {
    name: String,
    encoding: Encoding,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

/// Reads and checks the length field and the brace after it; returns the header's length.
fn header_length(bytes: &[u8], file_bytes: u64) -> Result<usize> {
    let Some(field) = bytes.first_chunk::<8>() else {
        let what = match bytes.len() {
            0 => "the file is empty".to_owned(),
            n => format!("the file has only {n} bytes; a safetensors file starts with 8"),
        };
        return Err(Error::input("E0311", what).help(DOWNLOAD_AGAIN));
    };
    let length = u64::from_le_bytes(*field);
    let available = file_bytes - 8;
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

fn not_json(message: String) -> Error {
    Error::input("E0313", message).help("the header is damaged: fetch or write the file again")
}

/// What the visitors gather; a fault with a code of its own is left in `fault`.
#[derive(Default)]
struct Collected {
    tensors: Vec<Entry>,
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
                    collected.fault = Some(twice(&name));
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
    type Value = Entry;
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Entry, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
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
        let Some(encoding) = Encoding::from_name(&dtype) else {
            let known: Vec<&str> = Encoding::of_elements().map(|known| known.name()).collect();
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
        Ok(Entry { name: self.name, encoding, shape, begin, end })
    }
}

/// The entries by offset as ranges of the file; checks sizes, order, and that the data fill what
/// follows the header, but for what a file that was cut off lacks.
fn lay_out(entries: Vec<Entry>, data_offset: u64, available: u64) -> Result<Vec<TensorRange>> {
    let mut ranges = Vec::with_capacity(entries.len());
    for Entry { name, encoding, shape, begin, end } in entries {
        // A sum over 64 bits lies behind the end of the file, and so does the largest number.
        let offset = data_offset.saturating_add(begin);
        let range = TensorRange::new(name, encoding, shape, offset)?;
        let TensorRange { name, encoding, shape, bytes, .. } = &range;
        let name = shorten(name);
        let Some(held) = end.checked_sub(begin) else {
            return Err(bad_offsets(format!(
                "tensor `{name}`: its offsets [{begin}, {end}] are reversed"
            )));
        };
        if held != *bytes {
            return Err(bad_offsets(format!(
                "tensor `{name}`: a {encoding} of shape {shape:?} takes {bytes} bytes, but its \
                 offsets [{begin}, {end}] hold {held}",
            )));
        }
        ranges.push(((begin, end), range));
    }
    // Zero-element tensors sort before the tensor that starts at the same byte.
    ranges.sort_by_key(|(place, _)| *place);
    let mut filled = 0;
    let mut previous: Option<&TensorRange> = None;
    for ((begin, end), range) in &ranges {
        let name = shorten(&range.name);
        if *begin < filled {
            let other = previous.map_or_else(String::new, |other| shorten(&other.name));
            return Err(bad_offsets(format!(
                "tensors `{other}` and `{name}` overlap: the second starts at byte {begin}, the \
                 first ends at {filled}"
            )));
        }
        if *begin > filled {
            return Err(bad_offsets(format!(
                "bytes {filled} to {begin} before tensor `{name}` belong to no tensor"
            )));
        }
        filled = *end;
        previous = Some(range);
    }
    if available > filled {
        return Err(Error::input(
            "E0320",
            format!("{} follow the last tensor", human_bytes(available - filled)),
        )
        .help("the header and the data do not belong together: fetch or write the file again"));
    }
    Ok(ranges.into_iter().map(|(_, range)| range).collect())
}

fn bad_offsets(message: String) -> Error {
    Error::input("E0317", message).help("the header is damaged: fetch or write the file again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::file;

    fn parse(bytes: &[u8]) -> Result<Table> {
        Format::read(&Source::in_memory(bytes.to_vec().into(), "x".into()))
    }

    fn code(bytes: &[u8]) -> (&'static str, String) {
        let error = parse(bytes).expect_err("must be refused");
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
        let table = parse(&file(&text, &[0; 12])).unwrap();
        let names: Vec<&str> = table.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "none", "b"]);
        assert_eq!(table.metadata()["format"], "pt");
        assert_eq!(table.position("b"), Some(2));
        assert_eq!(table.position("c"), None);
        assert_eq!(table.head_bytes(), 8 + text.len() as u64);
        assert_eq!(table.tensors().last().unwrap().offset, 8 + text.len() as u64 + 4);
        assert!(parse(&file("{}", &[])).unwrap().tensors().is_empty());
        assert!(parse(&file(r#"{"__metadata__":null}"#, &[])).is_ok());
    }

    #[test]
    fn every_dtype_has_a_name_and_a_size() {
        for encoding in Encoding::of_elements() {
            assert_eq!(Encoding::from_name(encoding.name()), Some(encoding));
            let size = encoding.bytes_of(&[1]).unwrap();
            let offsets = format!("[0,{}]", 3 * size);
            let text = format!(r#"{{"x":{}}}"#, entry(encoding.name(), "[3]", &offsets));
            let table = parse(&file(&text, &vec![0; 3 * size as usize])).unwrap();
            assert_eq!(table.tensors()[0].encoding, encoding);
        }
    }

    #[test]
    fn refuses_what_is_no_safetensors_file() {
        assert_eq!(code(b"1234567").0, "E0311");
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
        assert!(parse(&file(&text, &[])).is_ok());
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
            assert!(parse(&file(&skipped, &[0])).is_ok());
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
        // Blocks of GGUF have no name in safetensors.
        for dtype in ["C64", "Q8_0"] {
            let (unknown, message) = one(dtype, "[1]", "[0,8]", 8);
            assert_eq!(unknown, "E0315");
            assert!(message.contains("`w`") && message.contains(dtype), "{message}");
        }
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
            assert!(parse(&good[..cut]).is_err());
            assert!(safetensors::SafeTensors::deserialize(&good[..cut]).is_err());
        }
        for at in 0..8 + text.len() {
            for flip in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << flip;
                let ours = parse(&bytes).is_ok();
                let theirs = safetensors::SafeTensors::deserialize(&bytes).is_ok();
                // Ours may only be stricter.
                assert!(theirs || !ours, "byte {at} bit {flip}");
            }
        }
    }
}
