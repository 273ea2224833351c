//! The two digests of a file that recipes record: all of it, and a cheap identity.

use sha2::{Digest, Sha256};
use std::path::Path;

use super::source::Source;
use crate::error::Result;

/// Bytes of the data at either end that the cheap identity covers.
const SAMPLE: u64 = 1 << 20;

/// SHA-256 of a whole file as 64 lower-case hex digits, read in pieces.
///
/// Errors: E0310 where it cannot be opened, E0330 to E0332 where it changes or fails meanwhile.
pub fn hash_file(path: impl AsRef<Path>) -> Result<String> {
    let source = Source::open(path.as_ref())?;
    let mut hasher = Sha256::new();
    source.pieces(0, source.length(), |piece| hasher.update(piece))?;
    Ok(hex(hasher))
}

/// The identity of a file of which the first `head` bytes hold no tensor; see
/// [`Checkpoint::fingerprint`](super::Checkpoint::fingerprint).
pub(super) fn fingerprint(source: &Source, head: u64) -> Result<String> {
    let length = source.length();
    let mut hasher = Sha256::new();
    source.pieces(0, head, |piece| hasher.update(piece))?;
    hasher.update(length.to_le_bytes());
    let sample = SAMPLE.min(length - head);
    source.pieces(head, head + sample, |piece| hasher.update(piece))?;
    source.pieces(length - sample, length, |piece| hasher.update(piece))?;
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
        let digest = hash_file(&abc).unwrap();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
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
            let found = Checkpoint::open(folder.write("big", &bytes)).unwrap().fingerprint();
            let found = found.unwrap();
            assert_eq!(Checkpoint::from_bytes(bytes, "big").unwrap().fingerprint().unwrap(), found);
            found
        };
        let plain = print(None);
        assert_eq!(plain.len(), 64);
        assert_eq!(print(None), plain);
        // Byte 10 is the name of the tensor.
        for changed in [10, start, start + 100, base.len() - 1, base.len() - (1 << 20)] {
            assert_ne!(print(Some(changed)), plain, "{changed}");
        }
        assert_eq!(print(Some(start + length / 2)), plain, "the middle is not read");
    }
}
