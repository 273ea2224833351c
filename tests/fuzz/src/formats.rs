//! Files as the parts they consist of: changed part by part, put together again with the lengths and
//! checksums that they must have, so that a change is not refused at the door.

use crate::mutate;
use crate::rng::Rng;

/// The CRC-32 of PNG.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

fn big(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?) as usize)
}

fn little(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
}

/// A named part of a file.
#[derive(Clone, Debug)]
struct Part {
    name: Vec<u8>,
    body: Vec<u8>,
}

/// Removes, repeats, moves, borrows or changes a part.
fn change_parts(rng: &mut Rng, parts: &mut Vec<Part>, others: &[Part], words: &[&str]) {
    if parts.is_empty() {
        return;
    }
    let at = rng.below(parts.len());
    match rng.below(10) {
        0 => drop(parts.remove(at)),
        1 => {
            let copy = parts[at].clone();
            let to = rng.below(parts.len() + 1);
            parts.insert(to, copy);
        }
        2 => {
            let to = rng.below(parts.len());
            parts.swap(at, to);
        }
        3 if !others.is_empty() => {
            let to = rng.below(parts.len() + 1);
            parts.insert(to, rng.pick(others).clone());
        }
        4 => {
            let from = rng.below(parts.len());
            parts[at].name = parts[from].name.clone();
        }
        _ => mutate::bytes(rng, &mut parts[at].body, words, &[]),
    }
}

fn png_parts(bytes: &[u8]) -> Vec<Part> {
    let mut out = Vec::new();
    let mut at = 8;
    while let Some(length) = big(bytes, at) {
        let Some(name) = bytes.get(at + 4..at + 8) else { break };
        let end = (at + 8).saturating_add(length).min(bytes.len());
        out.push(Part { name: name.to_vec(), body: bytes[at + 8..end].to_vec() });
        at = end + 4;
    }
    out
}

fn png(parts: &[Part]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for part in parts {
        let body = [&part.name[..], &part.body].concat();
        out.extend((part.body.len() as u32).to_be_bytes());
        out.extend(&body);
        out.extend(crc32(&body).to_be_bytes());
    }
    out
}

fn riff_parts(bytes: &[u8], mut at: usize) -> Vec<Part> {
    let mut out = Vec::new();
    while let Some(length) = little(bytes, at + 4) {
        let end = (at + 8).saturating_add(length).min(bytes.len());
        let Some(name) = bytes.get(at..at + 4) else { break };
        out.push(Part { name: name.to_vec(), body: bytes[at + 8..end].to_vec() });
        at = end + length % 2;
    }
    out
}

fn riff(parts: &[Part]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend(&part.name);
        body.extend((part.body.len() as u32).to_le_bytes());
        body.extend(&part.body);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    let mut out = b"RIFF".to_vec();
    out.extend((body.len() as u32 + 4).to_le_bytes());
    out.extend(b"WEBP");
    out.extend(body);
    out
}

/// Segments of a JPEG up to the picture's data, which is the last part.
fn jpeg_parts(bytes: &[u8]) -> Vec<Part> {
    let mut out = Vec::new();
    let mut at = 2;
    while at + 4 <= bytes.len() && bytes[at] == 0xff {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let end = (at + 2 + length.max(2)).min(bytes.len());
        out.push(Part { name: bytes[at..at + 2].to_vec(), body: bytes[at + 4..end].to_vec() });
        let scan = bytes[at + 1] == 0xda;
        at = end;
        if scan {
            break;
        }
    }
    out.push(Part { name: Vec::new(), body: bytes[at.min(bytes.len())..].to_vec() });
    out
}

fn jpeg(parts: &[Part]) -> Vec<u8> {
    let mut out = b"\xff\xd8".to_vec();
    for part in parts {
        out.extend(&part.name);
        if !part.name.is_empty() {
            out.extend((part.body.len().min(65_533) as u16 + 2).to_be_bytes());
        }
        out.extend(&part.body);
    }
    out
}

/// Changes a picture within its container.
pub fn change_picture(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    type Split = fn(&[u8]) -> Vec<Part>;
    type Join = fn(&[Part]) -> Vec<u8>;
    let webp: Split = |bytes| riff_parts(bytes, 12);
    let kinds: [(&[u8], Split, Join); 3] =
        [(b"\x89PNG", png_parts, png), (b"RIFF", webp, riff), (b"\xff\xd8\xff", jpeg_parts, jpeg)];
    let kind = kinds.into_iter().find(|(magic, ..)| data.starts_with(magic));
    match kind {
        Some((magic, split, join)) if !rng.once_in(4) => {
            let mut parts = split(data);
            let others = if other.starts_with(magic) { split(other) } else { Vec::new() };
            for _ in 0..=rng.below(3) {
                change_parts(rng, &mut parts, &others, words);
                if let Some(frame) = parts.iter_mut().find(|part| part.name == b"ANMF") {
                    change_frame(rng, frame, words);
                }
            }
            *data = join(&parts);
        }
        _ => mutate::bytes(rng, data, words, other),
    }
    data.truncate(mutate::LONGEST);
}

/// Changes the place, size or picture of a frame of animated WebP.
fn change_frame(rng: &mut Rng, frame: &mut Part, words: &[&str]) {
    if rng.once_in(2) && frame.body.len() >= 16 {
        let at = rng.below(16);
        frame.body[at] = if rng.once_in(2) { rng.below(4) as u8 } else { rng.bits() as u8 };
    } else if rng.once_in(2) {
        mutate::bytes(rng, &mut frame.body, words, &[]);
    }
}

/// A box of ISO base media: its type, and its contents or the boxes in it.
#[derive(Clone, Debug)]
struct Atom {
    name: [u8; 4],
    body: Vec<u8>,
    children: Option<Vec<Atom>>,
}

const CONTAINERS: [&[u8; 4]; 11] = [
    b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"dinf",
    b"udta",
];

fn atoms(bytes: &[u8], depth: usize) -> Vec<Atom> {
    let mut out = Vec::new();
    let mut at = 0;
    while let (Some(size), Some(name)) = (big(bytes, at), bytes.get(at + 4..at + 8)) {
        let end = if size < 8 { bytes.len() } else { at.saturating_add(size).min(bytes.len()) };
        let name: [u8; 4] = name.try_into().unwrap_or_default();
        let body = &bytes[at + 8..end.max(at + 8)];
        let inside = depth < 8 && CONTAINERS.contains(&&name);
        let children = inside.then(|| atoms(body, depth + 1));
        out.push(Atom { name, body: body.to_vec(), children });
        at = end.max(at + 8);
    }
    out
}

fn join_atoms(list: &[Atom]) -> Vec<u8> {
    let mut out = Vec::new();
    for atom in list {
        let body = atom.children.as_ref().map_or_else(|| atom.body.clone(), |c| join_atoms(c));
        out.extend((body.len() as u32 + 8).to_be_bytes());
        out.extend(atom.name);
        out.extend(body);
    }
    out
}

/// One list of boxes, chosen at random among all that lie in `list`.
fn some_list<'a>(rng: &mut Rng, list: &'a mut Vec<Atom>) -> &'a mut Vec<Atom> {
    let deeper: Vec<usize> = (0..list.len()).filter(|at| list[*at].children.is_some()).collect();
    if deeper.is_empty() || rng.once_in(5) {
        return list;
    }
    let at = *rng.pick(&deeper);
    match &mut list[at].children {
        Some(children) => some_list(rng, children),
        None => unreachable!("it was chosen for its children"),
    }
}

/// Changes the boxes of an MP4 file.
pub fn change_boxes(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    if rng.once_in(6) {
        return mutate::bytes(rng, data, words, other);
    }
    let mut tree = atoms(data, 0);
    let before = first_media(&tree);
    for _ in 0..=rng.below(3) {
        let mut theirs = atoms(other, 0);
        let borrowed = some_list(rng, &mut theirs).clone();
        let list = some_list(rng, &mut tree);
        if list.is_empty() {
            continue;
        }
        let at = rng.below(list.len());
        match rng.below(12) {
            0 => drop(list.remove(at)),
            1 => {
                let copy = list[at].clone();
                list.insert(at, copy);
            }
            2 => {
                let to = rng.below(list.len());
                list.swap(at, to);
            }
            3 if !borrowed.is_empty() => list.insert(at, rng.pick(&borrowed).clone()),
            4 => list[at].name = list[rng.below(list.len())].name,
            5 => list[at].children = None,
            // Numbers of tables: whole words, which most fields are.
            6..=9 => {
                let leaf = list[at].children.is_none();
                let body = &mut list[at].body;
                if body.len() >= 4 && leaf {
                    let word = rng.below(body.len() / 4) * 4;
                    let new = mutate::number_near(rng, &body[word..word + 4]) as u32;
                    body[word..word + 4].copy_from_slice(&new.to_be_bytes());
                }
            }
            _ if list[at].name != *b"mdat" => {
                mutate::bytes(rng, &mut list[at].body, words, &[]);
            }
            _ => {}
        }
    }
    let after = first_media(&tree);
    if let (Some(before), Some(after)) = (before, after) {
        shift_chunks(&mut tree, after as i64 - before as i64);
    }
    *data = join_atoms(&tree);
    data.truncate(mutate::LONGEST);
}

/// Where the first media data lie.
fn first_media(tree: &[Atom]) -> Option<usize> {
    let at = tree.iter().position(|atom| atom.name == *b"mdat")?;
    Some(join_atoms(&tree[..at]).len())
}

/// Moves the offsets of chunks with the data that they point to.
fn shift_chunks(tree: &mut [Atom], by: i64) {
    for atom in tree {
        if let Some(children) = &mut atom.children {
            shift_chunks(children, by);
        } else if atom.name == *b"stco" && atom.body.len() > 8 {
            for word in atom.body[8..].chunks_exact_mut(4) {
                let own = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
                let new = (i64::from(own) + by) as u32;
                word.copy_from_slice(&new.to_be_bytes());
            }
        }
    }
}

/// Changes the header of a safetensors file as text and mends its length.
pub fn change_header(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    let length = data.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let end = usize::try_from(length).ok().and_then(|n| n.checked_add(8));
    let Some(end) = end.filter(|end| *end <= data.len() && !rng.once_in(6)) else {
        return mutate::bytes(rng, data, words, other);
    };
    let (mut header, mut body) = (data[8..end].to_vec(), data[end..].to_vec());
    mutate::text(rng, &mut header, words, other.get(8..).unwrap_or_default());
    if rng.once_in(8) {
        mutate::bytes(rng, &mut body, words, &[]);
    }
    *data = (header.len() as u64).to_le_bytes().to_vec();
    data.extend(header);
    data.extend(body);
    data.truncate(mutate::LONGEST);
}
