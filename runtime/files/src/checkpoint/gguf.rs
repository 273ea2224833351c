//! GGUF files: metadata, a list of tensors, and their data, as llama.cpp and stable-diffusion.cpp
//! write them and ComfyUI-GGUF reads them.
//!
//! Contract: a file that parses has every tensor inside it, at a multiple of the alignment, with rows
//! of whole blocks, and no two that overlap. Texts and numbers of the metadata are kept as text; of
//! lists only the place is kept, and `texts` and `numbers` read them. Nothing is allocated from a
//! number in the file. What the metadata mean is not judged here. `formats.md §4`.

mod metadata;
mod write;

pub(super) use metadata::{numbers, texts};
pub use write::{GgufWriter, Value};

use super::encoding::Encoding;
use super::format::Format;
use super::source::Source;
use super::table::{DOWNLOAD_AGAIN, List, Table, TensorRange, shorten};
use crate::error::{Error, Result};
use metadata::{Cursor, MOST, Metadata, metadata};

/// Most axes of a tensor.
const MOST_AXES: u32 = 8;
/// Before the name of a tensor in a key: the shape that it had before it was quantised.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Whether a file that begins with `head` is one.
pub(super) fn is_likely(head: &[u8]) -> bool {
    head.starts_with(b"GGUF")
}

fn damaged(what: impl Into<String>) -> Error {
    Error::input("E0333", what.into()).help("the file is damaged: fetch or write it again")
}

fn cut() -> Error {
    Error::input("E0333", "the file is cut off in its header").help(DOWNLOAD_AGAIN)
}

/// The encoding of a type of ggml, by its number.
///
/// # Errors
/// E0335 for one that is not read, E0333 for one that there is not.
fn encoding(number: u32, name: &str) -> Result<Encoding> {
    Ok(match number {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        6 => Encoding::Q5_0,
        7 => Encoding::Q5_1,
        8 => Encoding::Q8_0,
        10 => Encoding::Q2K,
        11 => Encoding::Q3K,
        12 => Encoding::Q4K,
        13 => Encoding::Q5K,
        14 => Encoding::Q6K,
        20 => Encoding::Iq4Nl,
        23 => Encoding::Iq4Xs,
        24 => Encoding::I8,
        25 => Encoding::I16,
        26 => Encoding::I32,
        27 => Encoding::I64,
        28 => Encoding::F64,
        30 => Encoding::Bf16,
        _ => {
            let name = shorten(name);
            let Some(ty) = unread(number) else {
                return Err(damaged(format!("tensor `{name}` has the unknown type {number}")));
            };
            let what = format!("tensor `{name}` is of type {number} ({ty}), which is not read");
            return Err(Error::input("E0335", what).help(
                "take a version of the model in Q8_0, Q6_K, Q5_K, Q4_K or another type that \
                 `anyid-rt explain E0335` lists",
            ));
        }
    })
}

/// The names of ggml's types that are not read here.
fn unread(number: u32) -> Option<&'static str> {
    Some(match number {
        4 => "Q4_2, removed from ggml",
        5 => "Q4_3, removed from ggml",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        29 => "IQ1_M",
        31 => "Q4_0_4_4, removed from ggml",
        32 => "Q4_0_4_8, removed from ggml",
        33 => "Q4_0_8_8, removed from ggml",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4, removed from ggml",
        37 => "IQ4_NL_4_8, removed from ggml",
        38 => "IQ4_NL_8_8, removed from ggml",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// A tensor as the header describes it, its place counted from the first byte of the data.
struct Described {
    name: String,
    encoding: Encoding,
    shape: Vec<u64>,
    offset: u64,
}

fn described(cursor: &mut Cursor<'_>) -> Result<Described> {
    let name = cursor.name("a tensor")?;
    let axes = cursor.word()?;
    if axes > MOST_AXES {
        return Err(damaged(format!("tensor `{}` has {axes} axes", shorten(&name))));
    }
    let mut shape = (0..axes).map(|_| cursor.long()).collect::<Result<Vec<u64>>>()?;
    // The first size is that of the axis whose elements follow each other.
    shape.reverse();
    let encoding = encoding(cursor.word()?, &name)?;
    let offset = cursor.long()?;
    let row = shape.last().copied().unwrap_or(1);
    let block = encoding.block().elements;
    if !row.is_multiple_of(block) {
        let name = shorten(&name);
        let what =
            format!("tensor `{name}`: rows of {row} are no whole {encoding} blocks of {block}");
        return Err(damaged(what));
    }
    Ok(Described { name, encoding, shape, offset })
}

/// The table of a file.
///
/// # Errors
/// E0333 for a header that is damaged, E0334 for a version or byte order that is not read, E0335 for
/// a type that is not read; E0316, E0318 and E0319 as for every table; those of reading.
pub(super) fn read(source: &Source) -> Result<Table> {
    let mut cursor = Cursor::new(source, 4);
    version(cursor.word()?)?;
    let (tensors, entries) = (cursor.long()?, cursor.long()?);
    for (count, what) in [(tensors, "tensors"), (entries, "entries of metadata")] {
        if count > MOST {
            return Err(damaged(format!("its header says that it has {count} {what}")));
        }
    }
    let Metadata { mut values, lists, alignment } = metadata(&mut cursor, entries)?;
    let list = (0..tensors).map(|_| described(&mut cursor)).collect::<Result<Vec<_>>>()?;
    let data = cursor.position().next_multiple_of(alignment);
    let mut ranges = Vec::with_capacity(list.len());
    for Described { name, encoding, shape, offset } in list {
        if !offset.is_multiple_of(alignment) {
            let name = shorten(&name);
            let what = format!("tensor `{name}` lies at {offset}, no multiple of {alignment}");
            return Err(damaged(what));
        }
        // A sum over 64 bits lies behind the end of the file, and so does the largest number.
        let mut range = TensorRange::new(name, encoding, shape, data.saturating_add(offset))?;
        let key = format!("{ORIGINAL_SHAPE}{}", range.name);
        if let Some(list) = lists.get(&key) {
            range.shape = original_shape(source, &key, list, &range)?;
        }
        ranges.push(range);
    }
    ranges.sort_by_key(|range| (range.offset, range.bytes));
    for pair in ranges.windows(2) {
        if pair[0].offset.saturating_add(pair[0].bytes) > pair[1].offset && pair[1].bytes > 0 {
            let [first, second] = [&pair[0], &pair[1]].map(|range| shorten(&range.name));
            return Err(damaged(format!("tensors `{first}` and `{second}` overlap")));
        }
    }
    values.retain(|key, _| !key.starts_with(ORIGINAL_SHAPE));
    let head = data.min(source.length());
    Ok(Table::new(Format::Gguf, head, ranges, values, source.length())?.with_lists(lists))
}

fn version(version: u32) -> Result<()> {
    let what = match version {
        2 | 3 => return Ok(()),
        1 => "GGUF version 1, which is not read".to_owned(),
        _ if (1..=3).contains(&version.swap_bytes()) => {
            "a GGUF file for big-endian machines".to_owned()
        }
        _ => format!("GGUF version {version}, which is not read"),
    };
    Err(Error::input("E0334", format!("it is {what}"))
        .help("take a file of version 3, or convert the model again with a current program"))
}

/// The shape that a tensor had before its rows were joined to make whole blocks.
fn original_shape(
    source: &Source,
    key: &str,
    list: &List,
    range: &TensorRange,
) -> Result<Vec<u64>> {
    let sizes = numbers(source, key, list)?;
    let shape: Vec<u64> = sizes.iter().map(|size| *size as u64).collect();
    let elements = shape.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
    let whole = sizes.iter().all(|size| *size >= 0.0 && size.fract() == 0.0);
    if !whole || elements != Some(range.elements()) || shape.len() > MOST_AXES as usize {
        let name = shorten(&range.name);
        return Err(damaged(format!(
            "tensor `{name}` of shape {:?} is said to have had the shape {sizes:?}",
            range.shape
        )));
    }
    Ok(shape)
}

#[cfg(test)]
mod tests;
