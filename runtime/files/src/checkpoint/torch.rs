//! PyTorch's files (`torch.save`, `.pth`, `.pt`, `.bin`): a zip archive without compression, in which
//! a pickle describes tensors and every storage is a file of its own.
//!
//! Nothing of the pickle is run ([`super::pickle`]). Tensors are read where they lie in the archive: a
//! view of a storage, of which several may share bytes or repeat them, is gathered when it is read.
//! The stream format before PyTorch 1.6 is not read. `formats.md §0`.

use std::collections::BTreeMap;

use super::format::Format;
use super::pickle::{self, Tensor};
use super::source::Source;
use super::table::{DOWNLOAD_AGAIN, Table, TensorRange, shorten};
use crate::error::{Error, Result};

/// Largest pickle, and largest list of the archive's files, in bytes.
const MOST: u64 = 64 << 20;

fn damaged(what: impl Into<String>) -> Error {
    Error::input("E0974", what.into()).help(DOWNLOAD_AGAIN)
}

/// Whether a file that begins with `head` is an archive as `torch.save` writes it: its first file is
/// one of PyTorch's.
pub(super) fn is_likely(head: &[u8]) -> bool {
    let holds = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    head.starts_with(b"PK\x03\x04") && (holds(b"data.pkl") || holds(b"byteorder"))
}

/// The table of a file.
///
/// # Errors
/// E0973 for what is not a dict of tensors, E0974 for a file that is damaged, E0975 for a tensor that
/// repeats elements beyond the size of the file; E0316 and E0318 to E0319 as for every table; those of reading.
pub(super) fn read(source: &Source) -> Result<Table> {
    let entries = directory(source)?;
    let mut pickles = entries.keys().filter(|name| name.ends_with("/data.pkl"));
    let (Some(name), None) = (pickles.next(), pickles.next()) else {
        return Err(damaged("the archive does not have one `data.pkl`"));
    };
    let root = name.trim_end_matches("data.pkl");
    if entries.keys().any(|name| {
        name.strip_prefix(root).is_some_and(|n| n == "constants.pkl" || n.starts_with("code/"))
    }) {
        return Err(Error::input("E0973", "it is a TorchScript program, not weights")
            .help("save the weights in Python: `torch.save(model.state_dict(), FILE)`"));
    }
    for (name, fits) in [("byteorder", &["little"][..]), ("version", &["2\n", "3\n"])] {
        let Some(entry) = entries.get(&format!("{root}{name}")) else { continue };
        let said = contents(source, entry, 16)?;
        if !fits.iter().any(|fit| fit.as_bytes() == said) {
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            return Err(Error::input(
                "E0973",
                format!("its {name} is \"{said}\", which is not read"),
            )
            .help("save it again with a current PyTorch, or as safetensors"));
        }
    }
    let described = pickle::tensors(&contents(source, &entries[name], MOST)?)?;
    let mut data: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut ranges = Vec::new();
    for (name, tensor) in described {
        let key = &tensor.storage.key;
        if !data.contains_key(key) {
            let entry = entries.get(&format!("{root}data/{key}"));
            let entry = entry.ok_or_else(|| damaged(format!("the archive has no `data/{key}`")))?;
            data.insert(key.clone(), (start(source, entry)?, entry.bytes));
        }
        ranges.push(range(name, &tensor, data[key], source.length())?);
    }
    ranges.sort_by_key(|range| range.offset);
    Table::new(Format::Torch, 0, ranges, BTreeMap::new(), source.length())
}

/// Bytes that a tensor may take whatever the size of its file, where it repeats elements.
const REPEATED: u64 = 1 << 20;

/// Where the elements of a tensor lie; `bytes` of its storage begin at `start` of a file of
/// `file_bytes` bytes.
fn range(
    name: String,
    tensor: &Tensor,
    (start, bytes): (u64, u64),
    file_bytes: u64,
) -> Result<TensorRange> {
    let size = tensor.encoding.block().bytes;
    let short = shorten(&name);
    let outside = || damaged(format!("tensor `{short}` reaches behind the bytes that it is of"));
    let count = match tensor.storage.is_bytes() {
        true => Some(tensor.storage.count),
        false => tensor.storage.count.checked_mul(size),
    };
    let held = count.filter(|count| *count <= bytes).ok_or_else(outside)?;
    let empty = tensor.shape.contains(&0);
    let (mut last, mut dense, mut elements) = (Some(0u64), true, Some(1u64));
    for (size, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        dense &= *size < 2 || elements == Some(*stride);
        elements = elements.and_then(|count| count.checked_mul(*size));
        let reach = size.saturating_sub(1).checked_mul(*stride);
        last = last.zip(reach).and_then(|(last, reach)| last.checked_add(reach));
    }
    // One past the last byte of the storage that is touched.
    let until = match empty {
        true => tensor.offset.checked_mul(size),
        false => last
            .and_then(|last| last.checked_add(tensor.offset)?.checked_add(1))
            .and_then(|end| end.checked_mul(size)),
    };
    if until.is_none_or(|until| until > held) {
        return Err(outside());
    }
    let (encoding, shape) = (tensor.encoding, tensor.shape.clone());
    let mut range = TensorRange::new(name, encoding, shape, start + tensor.offset * size)?;
    if !empty && !dense {
        range.strides = Some(tensor.strides.clone());
    }
    if range.bytes > file_bytes.max(REPEATED) {
        let what = format!("tensor `{short}` repeats its elements to {} bytes", range.bytes);
        return Err(Error::input("E0975", what).help(
            "it would be larger than the whole file; if that is meant, save it in Python with \
             `.contiguous()`, or as safetensors",
        ));
    }
    Ok(range)
}

/// A file of the archive: where its local header lies, its bytes, and their sum.
struct Entry {
    header: u64,
    bytes: u64,
    crc: u32,
}

/// Reads every file of the archive and compares it with its CRC-32.
///
/// # Errors
/// E0974 for one that differs, and as [`read`].
pub(super) fn verify(source: &Source) -> Result<()> {
    for (name, entry) in directory(source)? {
        let from = start(source, &entry)?;
        let mut crc = flate2::Crc::new();
        source.pieces(from, from + entry.bytes, |piece| crc.update(piece))?;
        if crc.sum() != entry.crc {
            return Err(damaged(format!("`{}` is not what its checksum says", shorten(&name)))
                .also(
                    "files that were saved with `set_crc32_options(False)` have no true checksums",
                ));
        }
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    (half(bytes, at) | half(bytes, at + 2) << 16) as u64
}

fn long(bytes: &[u8], at: usize) -> u64 {
    word(bytes, at) | word(bytes, at + 4) << 32
}

fn some(source: &Source, from: u64, count: u64) -> Result<Vec<u8>> {
    let inside = from.checked_add(count).is_some_and(|end| end <= source.length());
    if !inside || count > MOST {
        return Err(damaged("the archive's list of files lies outside of the file"));
    }
    let mut bytes = vec![0; count as usize];
    source.read(from, &mut bytes, || "the archive's list of files".to_owned())?;
    Ok(bytes)
}

/// The files of the archive by name.
fn directory(source: &Source) -> Result<BTreeMap<String, Entry>> {
    /// Bytes of the record at the end without its comment, and of the longest comment.
    const END: u64 = 22;
    let length = source.length();
    let searched = length.min(END + 0xffff);
    let tail = some(source, length - searched, searched)?;
    let cut = || damaged("the file is cut off: the archive has no end");
    let last = (0..tail.len().saturating_sub(END as usize - 1)).rev().find(|at| {
        tail[*at..].starts_with(b"PK\x05\x06")
            && at + END as usize + half(&tail, at + 20) == tail.len()
    });
    let at = last.ok_or_else(cut)?;
    let (mut count, mut bytes, mut from) =
        (half(&tail, at + 10) as u64, word(&tail, at + 12), word(&tail, at + 16));
    // Files of more than 4 GiB say so in a record of their own.
    if let Some(locator) = at.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) {
        let record = some(source, long(&tail, locator + 8), 56)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(cut());
        }
        (count, bytes, from) = (long(&record, 32), long(&record, 40), long(&record, 48));
    }
    let list = some(source, from, bytes)?;
    let (mut out, mut rest) = (BTreeMap::new(), &list[..]);
    for _ in 0..count {
        let fault = || damaged("the archive's list of files is damaged");
        if rest.len() < 46 || !rest.starts_with(b"PK\x01\x02") {
            return Err(fault());
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| half(rest, at));
        let (head, more) = rest.split_at(46);
        let (flags, method) = (half(head, 8), half(head, 10));
        let names = more.get(..name).ok_or_else(fault)?;
        let extras = more.get(name..name + extra).ok_or_else(fault)?;
        rest = more.get(name + extra + comment..).ok_or_else(fault)?;
        let name = std::str::from_utf8(names).map_err(|_| fault())?.to_owned();
        let entry = sizes(head, extras).ok_or_else(fault)?;
        if method != 0 || flags & 1 != 0 {
            return Err(damaged(format!("`{}` is compressed or encrypted", shorten(&name)))
                .also("PyTorch stores its files as they are"));
        }
        if out.insert(name.clone(), entry).is_some() {
            return Err(damaged(format!("the archive has `{}` twice", shorten(&name))));
        }
    }
    Ok(out)
}

/// Place and size of an entry, of which what does not fit 32 bits lies in its extra fields.
fn sizes(head: &[u8], mut extras: &[u8]) -> Option<Entry> {
    let [packed, bytes, header] = [20, 24, 42].map(|at| word(head, at));
    let crc = word(head, 16) as u32;
    let mut found = [bytes, packed, header];
    while extras.len() >= 4 {
        let (id, count) = (half(extras, 0), half(extras, 2));
        let field = extras.get(4..4 + count)?;
        if id == 1 {
            let large = found.iter_mut().filter(|value| **value == 0xffff_ffff);
            for (value, part) in large.zip(field.chunks_exact(8)) {
                *value = long(part, 0);
            }
        }
        extras = &extras[4 + count..];
    }
    let [bytes, packed, header] = found;
    (bytes == packed).then_some(Entry { header, bytes, crc })
}

/// The first byte of an entry, all of which lies in the file.
fn start(source: &Source, entry: &Entry) -> Result<u64> {
    let head = some(source, entry.header, 30)?;
    let start = entry.header + 30 + (half(&head, 26) + half(&head, 28)) as u64;
    let inside = start.checked_add(entry.bytes).is_some_and(|end| end <= source.length());
    match head.starts_with(b"PK\x03\x04") && inside {
        true => Ok(start),
        false => Err(damaged("a file of the archive lies outside of it")),
    }
}

/// All bytes of an entry, of which there are at most `most`.
fn contents(source: &Source, entry: &Entry, most: u64) -> Result<Vec<u8>> {
    if entry.bytes > most {
        return Err(damaged(format!("a file of the archive has more than {most} bytes")));
    }
    some(source, start(source, entry)?, entry.bytes)
}

#[cfg(test)]
mod tests;
