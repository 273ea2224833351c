//! Texts in MP4 and MOV: lists of tags (`ilst`) in boxes `meta`, and the older tags of QuickTime.
//!
//! A list of the handler `mdir` has names of four letters, as iTunes began it; one of the handler
//! `mdta` has numbers, and the names in a box `keys`. Both lie in `moov/udta/meta` or `moov/meta`. A
//! `uuid` box that holds JSON is listed too. What we write are both kinds, so that players show the
//! text and no name is lost.

use super::{COMMENT, Inscription, KEY, TOTAL, Texts, fill, latin1, some};
use crate::error::{Error, Result};
use crate::media::mp4::boxes::{Atom, children, find, long, word};
use std::io::{self, Read, Seek, SeekFrom};

/// Boxes of one level that are looked at.
const BOXES: usize = 1 << 16;

/// A box in a file.
struct Place {
    name: [u8; 4],
    body: u64,
    end: u64,
}

/// The texts of a file of `length` bytes.
pub(super) fn read(
    file: &mut (impl Read + Seek),
    length: u64,
    texts: &mut Texts,
) -> io::Result<()> {
    let mut moov = false;
    for place in places(file, 0, length)? {
        match &place.name {
            b"uuid" => user(file, &place, texts)?,
            b"moov" if !moov => {
                moov = true;
                for inner in places(file, place.body, place.end)? {
                    match &inner.name {
                        b"uuid" => user(file, &inner, texts)?,
                        b"udta" => {
                            let Some(bytes) = load(file, &inner, texts)? else { continue };
                            udta(&bytes, texts);
                        }
                        b"meta" => {
                            let Some(bytes) = load(file, &inner, texts)? else { continue };
                            meta(&bytes, 0, bytes.len(), texts);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The boxes of `from..until`, as far as they are well formed and not cut off.
fn places(file: &mut (impl Read + Seek), from: u64, until: u64) -> io::Result<Vec<Place>> {
    let (mut out, mut at) = (Vec::new(), from);
    while at + 8 <= until && out.len() < BOXES {
        let mut head = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        if !fill(file, &mut head[..8])? {
            break;
        }
        let name = [head[4], head[5], head[6], head[7]];
        let (mut size, mut body) = (u64::from(word(&head, 0).unwrap_or(0)), 8);
        if size == 1 {
            if !fill(file, &mut head[8..])? {
                break;
            }
            (size, body) = (long(&head, 8).unwrap_or(0), 16);
        } else if size == 0 {
            size = until - at;
        }
        let Some(end) = at.checked_add(size).filter(|end| size >= body && *end <= until) else {
            break;
        };
        out.push(Place { name, body: at + body, end });
        at = end;
    }
    Ok(out)
}

/// The contents of a box; none where it is too large.
fn load(
    file: &mut (impl Read + Seek),
    place: &Place,
    texts: &mut Texts,
) -> io::Result<Option<Vec<u8>>> {
    let size = place.end - place.body;
    if size > TOTAL as u64 {
        texts.left_out(&latin1(&place.name), "it has more than 16 MiB");
        return Ok(None);
    }
    file.seek(SeekFrom::Start(place.body))?;
    some(file, size).map(Some)
}

/// A box of somebody's own: listed where it holds JSON.
fn user(file: &mut (impl Read + Seek), place: &Place, texts: &mut Texts) -> io::Result<()> {
    /// Bytes of its name.
    const NAME: u64 = 16;
    if place.end - place.body <= NAME {
        return Ok(());
    }
    file.seek(SeekFrom::Start(place.body + NAME))?;
    if some(file, 1)? != b"{" {
        return Ok(());
    }
    if let Some(bytes) = load(file, place, texts)? {
        let json = bytes.get(NAME as usize..).unwrap_or_default();
        let end = json.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        texts.add_utf8("uuid", &json[..end]);
    }
    Ok(())
}

fn udta(bytes: &[u8], texts: &mut Texts) {
    for atom in children(bytes, 0, bytes.len()) {
        match atom.name {
            [b'm', b'e', b't', b'a'] => meta(bytes, atom.body, atom.end, texts),
            // QuickTime's own: a length, a language, the text.
            [0xa9, ..] => {
                let Some(length) = word(bytes, atom.body).map(|word| (word >> 16) as usize) else {
                    continue;
                };
                let end = (atom.body + 4).saturating_add(length);
                if let Some(text) = bytes.get(atom.body + 4..end.min(atom.end)) {
                    texts.add_utf8(&named(atom.name), text);
                }
            }
            _ => {}
        }
    }
}

/// What tags of four letters are called elsewhere.
fn named(letters: [u8; 4]) -> String {
    match &letters {
        b"\xa9cmt" => COMMENT.to_owned(),
        b"\xa9nam" => "title".to_owned(),
        b"\xa9too" | b"\xa9swr" => "encoder".to_owned(),
        b"\xa9des" | b"desc" => "description".to_owned(),
        _ => latin1(&letters),
    }
}

/// A list of tags.
fn meta(bytes: &[u8], start: usize, end: usize, texts: &mut Texts) {
    // A version and flags stand first in MP4, and do not in QuickTime.
    let plain = bytes.get(start.saturating_add(4)..start.saturating_add(8)) == Some(b"hdlr");
    let start = if plain { start } else { start.saturating_add(4) };
    let names = find(bytes, start, end, &[b"keys"]).map(|keys| keyed(bytes, keys));
    let Some(list) = find(bytes, start, end, &[b"ilst"]) else { return };
    for item in children(bytes, list.body, list.end) {
        let number = u32::from_be_bytes(item.name) as usize;
        let parts = children(bytes, item.body, item.end);
        let key = match &names {
            Some(names) => match number.checked_sub(1).and_then(|at| names.get(at)) {
                Some(name) => name.clone(),
                None => continue,
            },
            // A tag of any name, which lies in a box of its own.
            None if &item.name == b"----" => {
                let Some(name) = parts.iter().find(|part| &part.name == b"name") else { continue };
                latin1(bytes.get(name.body + 4..name.end).unwrap_or_default())
            }
            None => named(item.name),
        };
        let Some(data) = parts.iter().find(|part| &part.name == b"data") else { continue };
        let text = bytes.get(data.body + 8..data.end).unwrap_or_default();
        match word(bytes, data.body) {
            Some(1) => texts.add_utf8(&key, text),
            Some(2) => {
                let units = text.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
                let text: std::result::Result<String, _> = char::decode_utf16(units).collect();
                match text {
                    Ok(text) => texts.add(key, text),
                    Err(_) => texts.left_out(&key, "it is not UTF-16"),
                }
            }
            // Numbers and pictures.
            _ => {}
        }
    }
}

/// The names of a box `keys`.
fn keyed(bytes: &[u8], keys: Atom) -> Vec<String> {
    let entries = children(bytes, keys.body.saturating_add(8), keys.end);
    entries.iter().map(|e| String::from_utf8_lossy(&bytes[e.body..e.end]).into_owned()).collect()
}

fn atom(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
    out.extend(name);
    out.extend(body);
    out
}

/// A list of one tag, which `item` names; `more` lies before it.
fn tag(handler: &[u8; 4], more: &[u8], item: &[u8; 4], text: &str) -> Vec<u8> {
    // The maker's code of iTunes is what some readers look for.
    let maker: &[u8] = if handler == b"mdir" { b"appl" } else { &[0; 4] };
    let handler = atom(b"hdlr", &[&[0; 8], handler, maker, &[0; 9]]);
    let data = atom(b"data", &[&1u32.to_be_bytes(), &[0; 4], text.as_bytes()]);
    let list = atom(b"ilst", &[&atom(item, &[&data])]);
    atom(b"meta", &[&[0; 4], &handler, more, &list])
}

/// Puts an inscription into a file that the muxing library wrote, behind its track.
///
/// # Errors
/// `E0824` when the boxes are not where the library puts them (a broken invariant).
pub(in crate::media) fn inscribe(file: &mut Vec<u8>, what: &Inscription) -> Result<()> {
    let text = what.keyed();
    let key = atom(b"mdta", &[KEY.as_bytes()]);
    let keys = atom(b"keys", &[&[0; 4], &1u32.to_be_bytes(), &key]);
    let mut added = atom(b"udta", &[&tag(b"mdir", &[], b"\xa9cmt", &text)]);
    added.extend(tag(b"mdta", &keys, &1u32.to_be_bytes(), &text));
    insert(file, &added)
        .ok_or_else(|| Error::internal("E0824", "the MP4 index is not laid out as expected"))
}

/// Puts boxes at the end of `moov`, and moves the offsets of what lies behind it.
fn insert(file: &mut Vec<u8>, added: &[u8]) -> Option<()> {
    let moov = find(file, 0, file.len(), &[b"moov"])?;
    let offsets =
        find(file, 0, file.len(), &[b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco"])?;
    let count = word(file, offsets.body + 4)? as usize;
    let by = u32::try_from(added.len()).ok()?;
    for at in (0..count).map(|chunk| offsets.body + 8 + 4 * chunk) {
        let old = word(file, at)?;
        if old as usize >= moov.end {
            file.get_mut(at..at + 4)?.copy_from_slice(&old.checked_add(by)?.to_be_bytes());
        }
    }
    // Sizes of 32 bits are what the library writes.
    let head = moov.body.checked_sub(8)?;
    let size = word(file, head)?.checked_add(by)?;
    file.get_mut(head..head + 4)?.copy_from_slice(&size.to_be_bytes());
    file.splice(moov.end..moov.end, added.iter().copied());
    Some(())
}
