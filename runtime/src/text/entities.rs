//! HTML character references, exactly as HTML5 (and Python's `html.unescape`) reads them.
//!
//! It reads `&name;`, the 106 old names also without `;` (by the longest prefix), and `&#123;` and
//! `&#x7B;` with or without `;`, with 128–159 as Windows-1252. An unknown name stays unchanged. The
//! names are in `entities.txt`, the WHATWG list. This module does not parse HTML.

use std::sync::LazyLock;

/// One named character reference.
struct Entity {
    name: &'static str,
    /// Whether the name is also valid without a closing `;`.
    bare: bool,
    value: String,
}

/// The names in byte order, for binary search.
static ENTITIES: LazyLock<Vec<Entity>> = LazyLock::new(|| {
    let lines = include_str!("entities.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(parse_line).collect()
});

fn parse_line(line: &'static str) -> Option<Entity> {
    let mut words = line.split_ascii_whitespace();
    let word = words.next()?;
    let name = word.trim_end_matches('*');
    let value = words.filter_map(|hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
    Some(Entity { name, bare: word.len() > name.len(), value: value.collect() })
}

/// The characters of `&name;`, if HTML5 knows that name.
pub(super) fn named(name: &str) -> Option<&'static str> {
    find(name).map(|entity| entity.value.as_str())
}

fn find(name: &str) -> Option<&'static Entity> {
    let table: &'static [Entity] = &ENTITIES;
    table.binary_search_by(|entity| entity.name.cmp(name)).ok().map(|index| &table[index])
}

/// Replaces every character reference in `text` once, from left to right. The text of a replacement
/// is not read again.
///
/// The result equals that of Python's `html.unescape` for every text.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let used = match after.strip_prefix('#') {
            Some(number) => numeric(number, &mut out).map(|used| used + 1),
            None => by_name(after, &mut out),
        };
        // What follows is no reference, so the sign stands for itself.
        rest = &after[used.unwrap_or_else(|| {
            out.push('&');
            0
        })..];
    }
    out.push_str(rest);
    out
}

/// Reads what follows `&#`; writes the character and returns the bytes used, or `None` if there is
/// no digit.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let (radix, prefix) = if text.starts_with(['x', 'X']) { (16, 1) } else { (10, 0) };
    let digits = text[prefix..].bytes().take_while(|b| (*b as char).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let end = prefix + digits;
    let number = text[prefix..end].chars().fold(0_u32, |value, digit| {
        let digit = digit.to_digit(radix).expect("only digits were counted");
        value.saturating_mul(radix).saturating_add(digit)
    });
    out.extend(code_point(number));
    Some(end + usize::from(text[end..].starts_with(';')))
}

/// The character that a numeric reference stands for; `None` if HTML5 drops it.
fn code_point(number: u32) -> Option<char> {
    match number {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => char::from_u32(number).map(super::code_pages::windows_1252_of_control),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        // The last two code points of every plane are not characters.
        _ if number <= 0x10_ffff && number & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(number).unwrap_or('\u{fffd}')),
    }
}

/// Reads what follows `&`; writes the characters and returns the bytes used, or `None` if no name
/// follows.
fn by_name(text: &str, out: &mut String) -> Option<usize> {
    const ENDS: [char; 8] = ['\t', '\n', '\u{c}', ' ', '<', '&', '#', ';'];
    const LONGEST: usize = 32;
    let (mut end, mut count) = (0, 0);
    for (at, c) in text.char_indices() {
        if count == LONGEST || ENDS.contains(&c) {
            break;
        }
        end = at + c.len_utf8();
        count += 1;
    }
    if count == 0 {
        return None;
    }
    let name = &text[..end];
    let closed = text[end..].starts_with(';');
    let whole = end + usize::from(closed);
    if let Some(entity) = find(name).filter(|entity| closed || entity.bare) {
        out.push_str(&entity.value);
        return Some(whole);
    }
    for cut in (2..=end).rev().filter(|cut| name.is_char_boundary(*cut)) {
        if let Some(entity) = find(&name[..cut]).filter(|entity| entity.bare) {
            out.push_str(&entity.value);
            out.push_str(&text[cut..whole]);
            return Some(whole);
        }
    }
    out.push('&');
    out.push_str(&text[..whole]);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_sorted() {
        assert_eq!(ENTITIES.len(), 2125);
        assert_eq!(ENTITIES.iter().filter(|entity| entity.bare).count(), 106);
        assert_eq!(ENTITIES.iter().filter(|entity| entity.value.chars().count() > 1).count(), 93);
        assert!(ENTITIES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn names() {
        assert_eq!(unescape("a &lt; b &amp;&amp; c &gt d"), "a < b && c > d");
        assert_eq!(unescape("&NotEqualTilde;"), "\u{2242}\u{338}");
        assert_eq!(unescape("&notit; &notin; &notinx"), "¬it; ∉ ¬inx");
        assert_eq!(unescape("&unknown; &; & &&x; &hellip"), "&unknown; &; & &&x; &hellip");
        assert_eq!(unescape("&ampé; &eacutee"), "&é; ée");
        assert_eq!(unescape("&a<b;&é"), "&a<b;&é");
    }

    #[test]
    fn numbers() {
        assert_eq!(unescape("&#65;&#x42;&#X43 &#68e;"), "ABC De;");
        assert_eq!(unescape("&#0;&#13;&#1;&#x80;&#129;&#159;"), "\u{fffd}\r€\u{81}Ÿ");
        assert_eq!(unescape("&#xD800;&#x110000;&#99999999999999999999;"), "\u{fffd}".repeat(3));
        assert_eq!(unescape("&#xFFFE;&#xFDD0;&#x10FFFF;|"), "|");
        assert_eq!(unescape("&#; &#x; &#xg"), "&#; &#x; &#xg");
    }
}
