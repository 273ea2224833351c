//! Comments in GIF: extensions of the label 0xFE (GIF89a, section 24), which should be ASCII.

use super::{COMMENT, TOTAL, Texts, fill, skip, some};
use std::io::{self, Read, Seek};

/// Bytes of the head of a file, behind which a comment may stand: the screen and its palette.
pub(in crate::media) fn head_bytes(file: &[u8]) -> usize {
    let palette = file.get(10).map_or(0, |flags| palette_bytes(*flags)) as usize;
    (13 + palette).min(file.len())
}

/// A comment extension that holds JSON, to be put between the blocks of a file.
pub(in crate::media) fn comment(json: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(json.len());
    // Outside of ASCII there is nothing in JSON but characters of its strings.
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character as u8);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            text.extend(format!("\\u{unit:04x}").bytes());
        }
    }
    let mut out = vec![0x21, 0xfe];
    for block in text.chunks(255) {
        out.push(block.len() as u8);
        out.extend(block);
    }
    out.push(0);
    out
}

/// The comments of a file.
pub(super) fn read(file: &mut (impl Read + Seek), texts: &mut Texts) -> io::Result<()> {
    let mut screen = [0; 13];
    if !fill(file, &mut screen)? {
        return Ok(());
    }
    skip(file, palette_bytes(screen[10]))?;
    let mut byte = [0];
    while fill(file, &mut byte)? {
        match byte {
            [0x21] => {
                if !fill(file, &mut byte)? {
                    return Ok(());
                }
                match byte {
                    [0xfe] => {
                        let (bytes, whole) = blocks(file, TOTAL)?;
                        match whole {
                            true => texts.add_utf8(COMMENT, &bytes),
                            false => {
                                texts.left_out(COMMENT, "it is cut off, or has more than 16 MiB")
                            }
                        }
                    }
                    _ => drop(blocks(file, 0)?),
                }
            }
            [0x2c] => {
                let mut place = [0; 9];
                if !fill(file, &mut place)? {
                    return Ok(());
                }
                skip(file, palette_bytes(place[8]) + 1)?;
                blocks(file, 0)?;
            }
            // The end, or what is no block.
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Bytes of the palette that these flags announce.
fn palette_bytes(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// The contents of sub-blocks up to their end, at most `most` bytes of them; whether that is all.
fn blocks(file: &mut (impl Read + Seek), most: usize) -> io::Result<(Vec<u8>, bool)> {
    let (mut out, mut whole) = (Vec::new(), true);
    let mut length = [0];
    while fill(file, &mut length)? {
        let count = usize::from(length[0]);
        if count == 0 {
            return Ok((out, whole));
        }
        if out.len() + count > most {
            whole = false;
            skip(file, count as u64)?;
            continue;
        }
        let block = some(file, count as u64)?;
        out.extend(&block);
    }
    Ok((out, false))
}
