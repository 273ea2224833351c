//! Changes to bytes and to text that any target may use.
//!
//! Bytes are flipped, moved, repeated and replaced by numbers that sit at limits. Text is changed by
//! its words: numbers, names, lines. Neither knows a format; what must agree in a format is mended
//! afterwards by [`formats`](crate::formats).

use crate::rng::Rng;
use std::ops::Range;

/// Longest input that is made.
pub const LONGEST: usize = 64 << 10;

/// Numbers at the limits of types and of what is allowed, as text.
const NUMBERS: [&str; 40] = [
    "0",
    "1",
    "2",
    "3",
    "4",
    "7",
    "8",
    "15",
    "16",
    "17",
    "63",
    "64",
    "65",
    "127",
    "128",
    "255",
    "256",
    "1023",
    "1024",
    "1025",
    "4096",
    "65535",
    "65536",
    "16777217",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "1099511627776",
    "140737488355328",
    "281474976710656",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551552",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "0.5",
    "1e400",
    "nan",
];

/// Numbers at the limits of types, as bits.
const LIMITS: [u64; 16] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 47,
    u64::MAX,
];

/// Changes some bytes of `data`, with words of `words` and pieces of `other`.
pub fn bytes(rng: &mut Rng, data: &mut Vec<u8>, words: &[&str], other: &[u8]) {
    for _ in 0..=rng.below(4) {
        byte_step(rng, data, words, other);
    }
    data.truncate(LONGEST);
}

fn piece(rng: &mut Rng, length: usize) -> Range<usize> {
    let start = rng.below(length + 1);
    let most = if rng.once_in(4) { length } else { 16 };
    let end = (start + rng.below(most + 1)).min(length);
    start..end
}

fn byte_step(rng: &mut Rng, data: &mut Vec<u8>, words: &[&str], other: &[u8]) {
    let at = rng.below(data.len());
    match rng.below(10) {
        0 | 1 if !data.is_empty() => data[at] ^= 1 << rng.below(8),
        2 if !data.is_empty() => data[at] = rng.bits() as u8,
        3 | 4 => {
            let width = *rng.pick(&[1usize, 2, 4, 8]);
            if data.len() >= width {
                let at = rng.below(data.len() - width + 1);
                let value = number_near(rng, &data[at..at + width]);
                let bytes = value.to_be_bytes();
                data[at..at + width].copy_from_slice(&bytes[8 - width..]);
                if rng.once_in(2) {
                    data[at..at + width].reverse();
                }
            }
        }
        5 => {
            let range = piece(rng, data.len());
            data.drain(range);
        }
        6 => {
            let range = piece(rng, data.len());
            let copy = data[range].to_vec();
            data.splice(at..at, copy);
        }
        7 => {
            let (from, to) = (piece(rng, other.len()), piece(rng, data.len()));
            data.splice(to, other[from].iter().copied());
        }
        8 if !words.is_empty() => {
            let word = rng.pick(words).as_bytes().to_vec();
            let end = if rng.once_in(2) { (at + word.len()).min(data.len()) } else { at };
            data.splice(at..end, word);
        }
        _ => data.truncate(rng.below(data.len() + 1)),
    }
}

/// A number at a limit, or one near that of `bytes` (big-endian).
pub fn number_near(rng: &mut Rng, bytes: &[u8]) -> u64 {
    let own = bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    match rng.below(4) {
        0 => own.wrapping_add(1 + rng.below(4) as u64),
        1 => own.wrapping_sub(1 + rng.below(4) as u64),
        2 => own.wrapping_mul(2),
        _ => *rng.pick(&LIMITS),
    }
}

/// The words of a text: runs of letters, digits and underscores, with whether they are numbers.
fn tokens(text: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut out = Vec::new();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut at = 0;
    while at < text.len() {
        let start = at;
        while at < text.len() && word(text[at]) {
            at += 1;
        }
        if at > start {
            out.push((start..at, text[start..at].iter().all(u8::is_ascii_digit)));
        }
        at += 1;
    }
    out
}

fn line_ranges(text: &[u8]) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'\n' {
            out.push(start..at + 1);
            start = at + 1;
        }
    }
    if start < text.len() {
        out.push(start..text.len());
    }
    out
}

/// Changes some words, numbers or lines of a text.
pub fn text(rng: &mut Rng, data: &mut Vec<u8>, words: &[&str], other: &[u8]) {
    let steps = if rng.once_in(3) { 1 + rng.below(5) } else { 1 };
    for _ in 0..steps {
        text_step(rng, data, words, other);
    }
    data.truncate(LONGEST);
}

fn text_step(rng: &mut Rng, data: &mut Vec<u8>, words: &[&str], other: &[u8]) {
    match rng.below(12) {
        0..=3 => {
            let numbers: Vec<Range<usize>> =
                tokens(data).into_iter().filter(|(_, number)| *number).map(|(at, _)| at).collect();
            if numbers.is_empty() {
                return byte_step(rng, data, words, other);
            }
            let at = rng.pick(&numbers).clone();
            let own = std::str::from_utf8(&data[at.clone()]).ok().and_then(|n| n.parse().ok());
            let own: u64 = own.unwrap_or(0);
            let new = match rng.below(6) {
                0 => own.wrapping_add(1).to_string(),
                1 => own.saturating_sub(1).to_string(),
                2 => own.wrapping_mul(2).to_string(),
                // Another number of the same text: where things agree, they may agree wrongly.
                3 | 4 => {
                    let from = rng.pick(&numbers).clone();
                    String::from_utf8_lossy(&data[from]).into_owned()
                }
                _ => (*rng.pick(&NUMBERS)).to_owned(),
            };
            data.splice(at, new.into_bytes());
        }
        4 | 5 => {
            let all = tokens(data);
            if all.is_empty() {
                return byte_step(rng, data, words, other);
            }
            let at = rng.pick(&all).0.clone();
            let new = if rng.once_in(2) && !words.is_empty() {
                rng.pick(words).as_bytes().to_vec()
            } else {
                data[rng.pick(&all).0.clone()].to_vec()
            };
            data.splice(at, new);
        }
        6..=10 => lines(rng, data, other),
        _ => byte_step(rng, data, words, other),
    }
}

fn lines(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
    let all = line_ranges(data);
    if all.is_empty() {
        return;
    }
    let at = rng.pick(&all).clone();
    match rng.below(5) {
        0 => drop(data.drain(at)),
        1 => {
            let copy = data[at].to_vec();
            let to = rng.pick(&all).start;
            data.splice(to..to, copy);
        }
        2 => {
            let second = rng.pick(&all).clone();
            let (a, b) = if at.start <= second.start { (at, second) } else { (second, at) };
            if a.end <= b.start {
                let (first, last) = (data[a.clone()].to_vec(), data[b.clone()].to_vec());
                data.splice(b, first);
                data.splice(a, last);
            }
        }
        3 => {
            let theirs = line_ranges(other);
            if !theirs.is_empty() {
                let line = other[rng.pick(&theirs).clone()].to_vec();
                data.splice(at.start..at.start, line);
            }
        }
        _ => {
            let theirs = line_ranges(other);
            if !theirs.is_empty() {
                let line = other[rng.pick(&theirs).clone()].to_vec();
                data.splice(at, line);
            }
        }
    }
}
