//! Texts in PNG: chunks `tEXt`, `zTXt` and `iTXt` anywhere in the file (PNG specification, 11.3.3).
//!
//! Ours are `iTXt`, which is UTF-8; `tEXt` is Latin-1. Checksums are compared, and a text is unpacked to
//! at most 1 MiB.

use super::{Inscription, KEY, PARAMETERS, PNG_TEXT, Texts, fill, latin1, skip, some};
use crate::media::image::inflate;
use std::io::{self, Read, Seek};

/// The chunks of an inscription, to be put behind the first chunk of a file.
pub(in crate::media) fn chunks(what: &Inscription) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, text) in [(KEY, &what.json), (PARAMETERS, &what.parameters)] {
        let mut body = key.as_bytes().to_vec();
        // The end of the key, not compressed, no language, no translated key.
        body.extend([0; 5]);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        out.extend(chunk(b"iTXt", &body));
    }
    out
}

/// A chunk with its length and its checksum.
pub(in crate::media) fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u32).to_be_bytes().to_vec();
    out.extend(kind);
    out.extend(data);
    out.extend(crc(&out[4..]).to_be_bytes());
    out
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The texts of a file.
pub(super) fn read(file: &mut (impl Read + Seek), texts: &mut Texts) -> io::Result<()> {
    skip(file, 8)?;
    let mut head = [0; 8];
    while fill(file, &mut head)? {
        let [a, b, c, d, name @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        let kind = match &name {
            b"tEXt" => Kind::Latin,
            b"zTXt" => Kind::Deflated,
            b"iTXt" => Kind::International,
            b"IEND" => return Ok(()),
            _ => {
                skip(file, u64::from(length) + 4)?;
                continue;
            }
        };
        let called = String::from_utf8_lossy(&name).into_owned();
        if length as usize > PNG_TEXT {
            texts.left_out(&called, "it has more than 1 MiB");
            skip(file, u64::from(length) + 4)?;
            continue;
        }
        let body = some(file, u64::from(length))?;
        let mut sum = [0; 4];
        if body.len() < length as usize || !fill(file, &mut sum)? {
            texts.left_out(&called, "the file is cut off there");
            return Ok(());
        }
        if crc(&[&name[..], &body].concat()) != u32::from_be_bytes(sum) {
            texts.left_out(&called, "its checksum is wrong");
            continue;
        }
        text(kind, &called, &body, texts);
    }
    Ok(())
}

enum Kind {
    Latin,
    Deflated,
    International,
}

/// What stands before the first zero, and behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn text(kind: Kind, called: &str, body: &[u8], texts: &mut Texts) {
    let Some((key, rest)) = split(body) else {
        return texts.left_out(called, "it has no end of its key");
    };
    let key = latin1(key);
    match kind {
        Kind::Latin => texts.add(key, latin1(rest)),
        Kind::Deflated => match rest.split_first() {
            Some((0, packed)) => {
                if let Some(text) = unpacked(&key, packed, texts) {
                    texts.add(key, latin1(&text));
                }
            }
            _ => texts.left_out(&key, "it is compressed in an unknown way"),
        },
        Kind::International => {
            let parts = rest.split_first_chunk::<2>().and_then(|(how, rest)| {
                let (_, rest) = split(rest)?;
                Some((how, split(rest)?.1))
            });
            match parts {
                Some(([0, _], text)) => texts.add_utf8(&key, text),
                Some(([1, 0], packed)) => {
                    if let Some(text) = unpacked(&key, packed, texts) {
                        texts.add_utf8(&key, &text);
                    }
                }
                Some(_) => texts.left_out(&key, "it is compressed in an unknown way"),
                None => texts.left_out(&key, "it ends before its text"),
            }
        }
    }
}

fn unpacked(key: &str, packed: &[u8], texts: &mut Texts) -> Option<Vec<u8>> {
    let text = inflate(packed, PNG_TEXT + 1);
    if text.len() <= PNG_TEXT {
        return Some(text);
    }
    texts.left_out(key, "it unpacks to more than 1 MiB");
    None
}
