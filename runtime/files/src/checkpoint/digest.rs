//! The two digests of a file that recipes record: all of it, and a cheap identity.

use sha2::{Digest, Sha256};
use std::path::Path;

use super::file::{Fault, fill, open_file};
use super::header::MAX_HEADER_BYTES;
use crate::error::Result;

const PIECE: u64 = 1 << 20;

/// SHA-256 of a whole file as 64 lower-case hex digits, read in pieces of 1 MiB.
///
/// `progress` is called with (bytes done, bytes in all) after each piece. Errors: E0310 where it
/// cannot be opened, E0330 to E0332 where it changes or fails meanwhile.
pub fn hash_file(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<String> {
    let path = path.as_ref();
    let (file, length) = open_file(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut done = 0;
    while done < length {
        let piece = &mut buffer[..PIECE.min(length - done) as usize];
        fill(&file, done, piece).map_err(|fault| fault.coded(path, "the file"))?;
        hasher.update(&*piece);
        done += piece.len() as u64;
        progress(done, length);
    }
    // A file that grows would have no end.
    match file.metadata() {
        Ok(about) if about.len() == length => Ok(hex(hasher)),
        Ok(about) if about.len() < length => Err(Fault::Shorter.coded(path, "the file")),
        Ok(_) => Err(Fault::Changed.coded(path, "the file")),
        Err(fault) => Err(Fault::Failed(fault).coded(path, "the file")),
    }
}

/// A cheap identity of a checkpoint file, as 64 lower-case hex digits; recipes record it.
///
/// SHA-256 over, in this order: the length field and header (nothing if the file is no
/// safetensors file), the file's length as a little-endian u64, the first MiB after the header,
/// and the last MiB after the header (overlapping where the data are shorter than 2 MiB). It
/// reads at most the header and 2 MiB, so it does not see a change in the middle of the data;
/// [`hash_file`] does. Errors: as [`hash_file`].
pub fn fingerprint(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let (file, length) = open_file(path)?;
    let read = |from: u64, out: &mut [u8]| {
        fill(&file, from, out).map_err(|fault| fault.coded(path, "the file"))
    };
    let mut head = 0;
    if length >= 8 {
        let mut field = [0; 8];
        read(0, &mut field)?;
        let header = u64::from_le_bytes(field);
        if header <= MAX_HEADER_BYTES && header <= length - 8 {
            head = 8 + header;
        }
    }
    of_parts(head, length, read)
}

/// The [`fingerprint`] of `length` bytes with a header of `head` bytes, which `read` gives.
pub(super) fn of_parts(
    head: u64,
    length: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<()>,
) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut take = |from: u64, count: u64, hasher: &mut Sha256| -> Result<()> {
        let mut at = from;
        while at < from + count {
            let piece = &mut buffer[..PIECE.min(from + count - at) as usize];
            read(at, piece)?;
            hasher.update(&*piece);
            at += piece.len() as u64;
        }
        Ok(())
    };
    take(0, head, &mut hasher)?;
    hasher.update(length.to_le_bytes());
    let sample = PIECE.min(length - head);
    take(head, sample, &mut hasher)?;
    take(length - sample, sample, &mut hasher)?;
    Ok(hex(hasher))
}

/// The digest so far as lower-case hex.
pub(crate) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::super::testing::{TempFolder, file};
    use super::*;

    #[test]
    fn digests_see_what_they_promise_to_see() {
        let folder = TempFolder::new();
        let abc = folder.write("abc", b"abc");
        let mut seen = Vec::new();
        let digest = hash_file(&abc, |done, total| seen.push((done, total))).unwrap();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(seen, [(3, 3)]);
        let length = 3 << 20;
        let text =
            format!(r#"{{"a":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
        let base = file(&text, &vec![1; length]);
        let start = base.len() - length;
        let print = |at: Option<usize>| {
            let mut bytes = base.clone();
            if let Some(at) = at {
                bytes[at] ^= 1;
            }
            let path = folder.write("big", bytes);
            let found = fingerprint(&path).unwrap();
            // A flipped bit in the header may leave no safetensors file to open.
            if let Ok(open) = Checkpoint::open(&path) {
                assert_eq!(open.fingerprint().unwrap(), found);
            }
            found
        };
        let plain = print(None);
        assert_eq!(plain.len(), 64);
        assert_eq!(print(None), plain);
        for changed in [9, start, start + 100, base.len() - 1, base.len() - (1 << 20)] {
            assert_ne!(print(Some(changed)), plain, "{changed}");
        }
        assert_eq!(print(Some(start + length / 2)), plain, "the middle is not read");
        assert_ne!(fingerprint(&abc).unwrap(), fingerprint(folder.write("e", b"")).unwrap());
    }
}
