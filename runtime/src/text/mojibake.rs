//! Repairs mojibake: text that was decoded with a wrong encoding, such as `cafÃ©` for `café`.
//!
//! The steps and their order are those of ftfy 6.3.1 with its default settings, which the reference
//! pipeline uses to clean prompts. Text that looks correct (see [`is_bad`]) stays unchanged.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::badness::is_bad;
use super::code_pages::{CodePage, PAGES, PageKind, decode_utf8, windows_1252_of_control};

/// Bounds on repeated and nested repairs. A real repair shortens the text by a quarter or more, or
/// removes its control characters, so only contrived text comes near these bounds.
const ROUNDS: usize = 64;
const DEPTH: usize = 8;

/// `text` with its mojibake repaired.
pub(super) fn repair(text: &str) -> String {
    repair_nested(text, 0)
}

fn repair_nested(text: &str, depth: usize) -> String {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        match repair_once(&text, depth) {
            Some(repaired) if repaired != text => text = repaired,
            _ => break,
        }
    }
    text
}

/// One repair, or `None` if there is nothing to do.
fn repair_once(text: &str, depth: usize) -> Option<String> {
    if !is_bad(text) {
        return None;
    }
    let mut latin_1 = None;
    for page in PAGES.iter() {
        let Some(bytes) = page.encode(text) else { continue };
        if let Some(repaired) = decode_as_intended(page, &bytes) {
            return Some(repaired);
        }
        if page.kind == PageKind::Latin1 {
            latin_1 = Some(bytes);
        }
    }
    if depth < DEPTH
        && let Some(repaired) = repair_passages(text, depth).filter(|repaired| repaired != text)
    {
        return Some(repaired);
    }
    // Latin-1 with control characters was meant as Windows-1252.
    if let Some(bytes) = latin_1
        && !bytes.iter().any(|byte| matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d))
    {
        let repaired: String = bytes.iter().map(|byte| PAGES[1].character(*byte)).collect();
        if repaired != text {
            return Some(repaired);
        }
    }
    Some(text.chars().map(windows_1252_of_control).collect())
}

/// Decodes the bytes as the UTF-8 they were meant to be, or `None` if they are not.
fn decode_as_intended(page: &CodePage, bytes: &[u8]) -> Option<String> {
    let mut bytes = bytes.to_vec();
    // In MacRoman the altered sequences would include a dash before a blank.
    if page.kind != PageKind::MacRoman && find(ALTERED, &bytes, 0).is_some() {
        bytes = restore_no_break_spaces(&bytes);
    }
    if page.kind == PageKind::Windows {
        bytes = replace(LOSSY, &bytes, |_| "\u{fffd}".as_bytes().to_vec());
    }
    let variants = bytes.contains(&0xed) || bytes.contains(&0xc0);
    decode_utf8(&bytes, variants)
}

/// A byte of a pattern: any of these ranges, both ends included.
type ByteSet = &'static [(u8, u8)];

const BLANK: ByteSet = &[(b' ', b' ')];
/// Bytes inside a UTF-8 sequence, without 0x85 (read as an ellipsis or a line end) and 0xA0.
const INNER: ByteSet = &[(0x80, 0x84), (0x86, 0x9f), (0xa1, 0xbf)];
const ANY_INNER: ByteSet = &[(0x80, 0xbf)];
const LEAD_4: ByteSet = &[(0xf0, 0xf0)];

/// UTF-8 sequences whose byte 0xA0 became a blank, restricted to likely characters.
const ALTERED: &[&[ByteSet]] = &[
    &[&[(0xc2, 0xc3), (0xc5, 0xc5), (0xce, 0xce), (0xd0, 0xd0), (0xd9, 0xd9)], BLANK],
    &[&[(0xe2, 0xe3)], BLANK, INNER],
    &[&[(0xe0, 0xe3)], INNER, BLANK],
    &[LEAD_4, BLANK, ANY_INNER, ANY_INNER],
    &[LEAD_4, ANY_INNER, BLANK, ANY_INNER],
    &[LEAD_4, ANY_INNER, ANY_INNER, BLANK],
];

const LOST: ByteSet = &[(0x1a, 0x1a)];
const LOST_OR_MARK: ByteSet = &[(0x1a, 0x1a), (b'?', b'?')];
const LOST_OR_INNER: ByteSet = &[(0x1a, 0x1a), (0x80, 0xbf)];
const SURROGATE: ByteSet = &[(0xed, 0xed)];
const HIGH: ByteSet = &[(0xa0, 0xaf)];
const LOW: ByteSet = &[(0xb0, 0xbf)];
const ANY_LOST: ByteSet = &[(0x1a, 0x1a), (b'?', b'?'), (0x80, 0xbf)];
const LEAD_OF_3: ByteSet = &[(0xe0, 0xef)];
const LEAD_OF_4: ByteSet = &[(0xf0, 0xf4)];

/// UTF-8 and CESU-8 sequences some bytes of which are lost (0x1A, or one `?`).
const LOSSY: &[&[ByteSet]] = &[
    &[&[(0xc2, 0xdf)], LOST],
    &[&[(0xc2, 0xc3)], &[(b'?', b'?')]],
    &[SURROGATE, HIGH, LOST_OR_MARK, SURROGATE, LOW, ANY_LOST],
    &[SURROGATE, HIGH, ANY_LOST, SURROGATE, LOW, LOST_OR_MARK],
    &[LEAD_OF_3, LOST_OR_MARK, LOST_OR_INNER],
    &[LEAD_OF_3, LOST_OR_INNER, LOST_OR_MARK],
    &[LEAD_OF_4, LOST_OR_MARK, LOST_OR_INNER, LOST_OR_INNER],
    &[LEAD_OF_4, LOST_OR_INNER, LOST_OR_MARK, LOST_OR_INNER],
    &[LEAD_OF_4, LOST_OR_INNER, LOST_OR_INNER, LOST_OR_MARK],
    &[LOST],
];

/// The first match at or after `from`: its start and length. Earlier patterns go first.
fn find(patterns: &[&[ByteSet]], bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    (from..bytes.len()).find_map(|start| {
        let here = &bytes[start..];
        let fits = |pattern: &&&[ByteSet]| {
            let pairs = here.iter().zip(pattern.iter());
            here.len() >= pattern.len()
                && pairs.into_iter().all(|(byte, set)| {
                    set.iter().any(|(first, last)| (first..=last).contains(&byte))
                })
        };
        patterns.iter().find(fits).map(|pattern| (start, pattern.len()))
    })
}

fn replace(patterns: &[&[ByteSet]], bytes: &[u8], by: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut done = 0;
    while let Some((start, length)) = find(patterns, bytes, done) {
        out.extend_from_slice(&bytes[done..start]);
        out.extend(by(&bytes[start..start + length]));
        done = start + length;
    }
    out.extend_from_slice(&bytes[done..]);
    out
}

/// Puts the byte 0xA0 back where a blank has taken its place. A single `Ã` is the word `à` and
/// keeps its blank, unless the rest of a Portuguese contraction follows.
fn restore_no_break_spaces(bytes: &[u8]) -> Vec<u8> {
    const JOINED: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut spaced = Vec::with_capacity(bytes.len() + 8);
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        match rest.strip_prefix(b"\xc3 ") {
            Some(after) if !JOINED.iter().any(|word| after.starts_with(word)) => {
                spaced.extend_from_slice(b"\xc3\xa0 ");
                rest = after;
            }
            _ => {
                spaced.push(*first);
                rest = tail;
            }
        }
    }
    replace(ALTERED, &spaced, |found| {
        found.iter().map(|byte| if *byte == b' ' { 0xa0 } else { *byte }).collect()
    })
}

// What a character can be in a UTF-8 sequence that was read with a Latin-like encoding.
const FIRST_OF_2: u8 = 1;
const FIRST_OF_3: u8 = 2;
const FIRST_OF_4: u8 = 4;
const FOLLOWING: u8 = 8;
/// As [`FOLLOWING`], without characters that also occur as themselves next to mojibake.
const FOLLOWING_ONLY: u8 = 16;

static ROLES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    const STAND_ALONE: &str = " –—―‘’‚“”„•…";
    let mut roles: HashMap<char, u8> = HashMap::from([(' ', FOLLOWING)]);
    let latin_like = |page: &&CodePage| matches!(page.kind, PageKind::Latin1 | PageKind::Windows);
    for page in PAGES.iter().filter(latin_like) {
        for byte in 0x80..=0xff {
            let c = page.character(byte);
            let role = match byte {
                0x80..=0xbf if STAND_ALONE.contains(c) => FOLLOWING,
                0x80..=0xbf => FOLLOWING | FOLLOWING_ONLY,
                0xc2..=0xdf => FIRST_OF_2,
                0xe0..=0xef => FIRST_OF_3,
                // The other leading bytes belong to code points without characters.
                0xf0 | 0xf3 => FIRST_OF_4,
                _ => 0,
            };
            *roles.entry(c).or_default() |= role;
        }
    }
    roles
});

/// Repairs each run of characters that looks like wrongly decoded UTF-8 by itself. `None` if there
/// is no such run.
fn repair_passages(text: &str, depth: usize) -> Option<String> {
    let role = |c: char| ROLES.get(&c).copied().unwrap_or(0);
    let characters: Vec<(usize, u8)> = text.char_indices().map(|(at, c)| (at, role(c))).collect();
    let byte_at = |index: usize| characters.get(index).map_or(text.len(), |(at, _)| *at);
    let length_at = |index: usize| -> usize {
        let first = characters[index].1;
        let length = [(FIRST_OF_2, 2), (FIRST_OF_3, 3), (FIRST_OF_4, 4)]
            .iter()
            .find(|(lead, _)| first & lead != 0)
            .map_or(0, |(_, length)| *length);
        match characters.get(index + 1..index + length) {
            Some(rest) if length > 0 && rest.iter().all(|(_, r)| r & FOLLOWING != 0) => length,
            _ => 0,
        }
    };
    let mut out = String::with_capacity(text.len());
    let (mut index, mut found) = (0, false);
    while index < characters.len() {
        // If a character before it belongs to a larger garbled run, the repair would be only
        // partial.
        let blocked = index > 0 && characters[index - 1].1 & FOLLOWING_ONLY != 0;
        let mut end = index;
        while !blocked && end < characters.len() {
            match length_at(end) {
                0 => break,
                length => end += length,
            }
        }
        if end == index {
            out.push_str(&text[byte_at(index)..byte_at(index + 1)]);
            index += 1;
            continue;
        }
        found = true;
        let passage = &text[byte_at(index)..byte_at(end)];
        if passage.len() < text.len() && is_bad(passage) {
            out.push_str(&repair_nested(passage, depth + 1));
        } else {
            out.push_str(passage);
        }
        index = end;
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_texts() {
        assert_eq!(repair("schÃ¶n cafÃ©"), "schön café");
        assert_eq!(repair("â€œquotesâ€\u{9d} â€”"), "“quotes” —");
        assert_eq!(repair("ÃƒÂ©tÃƒÂ©"), "été");
        assert_eq!(repair("РџСЂРёРІРµС‚"), "Привет");
        assert_eq!(repair("ðŸ˜€"), "😀");
    }

    #[test]
    fn blanks_and_losses() {
        assert_eq!(repair("voilÃ le travail"), "voilà le travail");
        assert_eq!(repair("Ã la mode"), "à la mode");
        assert_eq!(repair("â€œ like this â€\u{fffd}"), "“ like this \u{fffd}");
    }

    #[test]
    fn passages_in_sound_text() {
        assert_eq!(repair("猫 cafÃ© 犬"), "猫 café 犬");
        assert_eq!(repair("sound\u{85} 猫"), "sound… 猫");
    }

    #[test]
    fn sound_text_stays() {
        for text in ["", "plain", "café", "Straße – ½", "über alles", "猫"] {
            assert_eq!(repair(text), text);
        }
    }
}
