//! Recognises text that was probably decoded with a wrong encoding, by unlikely combinations of
//! accented letters, currency signs, box drawings and the like.
//!
//! The character classes and the unlikely sequences are those of ftfy 6.3.1 (Robyn Speer,
//! Apache-2.0), so that cleaned prompts equal those of the reference pipeline. Nothing is repaired
//! here.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A set of character classes, one bit each.
type Classes = u32;

const COMMON: Classes = 1 << 0;
const CONTROL: Classes = 1 << 1;
const BAD: Classes = 1 << 2;
const LAW: Classes = 1 << 3;
const MONEY: Classes = 1 << 4;
const OPENING: Classes = 1 << 5;
const CLOSING: Classes = 1 << 6;
const NUMERIC: Classes = 1 << 7;
const FACE: Classes = 1 << 8;
const UPPER: Classes = 1 << 9;
const LOWER: Classes = 1 << 10;
const UPPER_SCRIPT: Classes = 1 << 11;
const LOWER_SCRIPT: Classes = 1 << 12;
const BOX: Classes = 1 << 13;
const ASCII_UPPER: Classes = 1 << 14;
const ASCII_LOWER: Classes = 1 << 15;
const BLANK: Classes = 1 << 16;
const WORD: Classes = 1 << 17;
const NOT_LINE_END: Classes = 1 << 18;
const NOT_ASCII_LETTER: Classes = 1 << 19;

const ASCII_LETTER: Classes = ASCII_UPPER | ASCII_LOWER;
const ACCENTED: Classes = LOWER | UPPER;

/// Characters from the first to the last, both included.
type Ranges = &'static [(char, char)];

/// Members of the classes beyond ASCII: single characters, and ranges.
const MEMBERS: &[(Classes, &str, Ranges)] = &[
    (COMMON, "\u{a0}\u{ad}·´–—―…’", &[]),
    (CONTROL, "", &[('\u{80}', '\u{9f}')]),
    (BAD, "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº", &[]),
    (LAW, "¶§", &[]),
    (MONEY, "¢£¥₧€", &[]),
    (OPENING, "¡«¿©΄΅‘‚“„•‹\u{f8ff}", &[]),
    (CLOSING, "®»˝”›™", &[]),
    (NUMERIC, "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№", &[]),
    (FACE, "ŐŌŪŲ°", &[('Ò', 'Ö'), ('Ù', 'Ü'), ('ò', 'ö'), ('ø', 'ü')]),
    (UPPER, "ØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ", &[('À', 'Ñ')]),
    (LOWER, "ßăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ", &[('à', 'ñ')]),
    (UPPER_SCRIPT, "ÞΆΈΉΊΌΎΏΪΫ", &[('Α', 'Ω'), ('Ё', 'Я')]),
    (LOWER_SCRIPT, "άέήίΰ", &[('α', 'ω'), ('а', 'џ')]),
    (BOX, "│┌┐┘├┤┬┼▀▄█▌▐░▒▓", &[('═', '╬')]),
];

static CLASSES: LazyLock<HashMap<char, Classes>> = LazyLock::new(|| {
    let mut classes = HashMap::new();
    for (class, singles, ranges) in MEMBERS {
        let spread = ranges.iter().flat_map(|(first, last)| *first..=*last);
        for c in singles.chars().chain(spread) {
            *classes.entry(c).or_default() |= class;
        }
    }
    classes
});

/// One place of an unlikely sequence: a character of any of the classes, or one of the list.
type Place = (Classes, &'static str);

/// The tail of a Windows-1252 reading of an Arabic letter.
const ARABIC_TAIL: Place = (COMMON | MONEY | BAD | NUMERIC | OPENING, "ŸŠ®°µ»");
/// Between two capitals of a Windows-1251 or Windows-1253 reading.
const BETWEEN: Classes = CONTROL | BAD | OPENING | CLOSING | MONEY;

/// The unlikely sequences.
const SEQUENCES: &[&[Place]] = &[
    &[(CONTROL, "")],
    &[(BAD | ACCENTED | BOX | OPENING | CLOSING | MONEY | NUMERIC | LAW, ""), (BAD, "")],
    &[(ASCII_LETTER, ""), (LOWER_SCRIPT | UPPER_SCRIPT, ""), (BAD, "")],
    &[(BAD, ""), (ACCENTED | BOX | OPENING | CLOSING | MONEY | NUMERIC | LAW, "")],
    &[(LOWER | LOWER_SCRIPT | BOX | CLOSING | MONEY | NUMERIC, ""), (UPPER, "")],
    &[(BOX | CLOSING | MONEY | NUMERIC, ""), (LOWER, "")],
    &[(LOWER | BOX | CLOSING, ""), (MONEY, "")],
    &[(BLANK, ""), (UPPER, ""), (MONEY, "")],
    &[(UPPER | BOX, ""), (NUMERIC | LAW, "")],
    &[(ACCENTED | BOX | MONEY | CLOSING, ""), (OPENING, ""), (NUMERIC, "")],
    &[(ACCENTED | MONEY | NUMERIC | BOX | LAW, ""), (CLOSING, ""), (OPENING, "")],
    &[(MONEY | NUMERIC | BOX, ""), (OPENING, "")],
    &[(ASCII_LOWER, ""), (UPPER, ""), (OPENING | MONEY, "")],
    &[(BOX, ""), (FACE, "")],
    &[(ACCENTED | MONEY | NUMERIC | OPENING | CLOSING | LAW, ""), (BOX, "")],
    &[(BOX, ""), (CLOSING, "")],
    &[(ACCENTED, ""), (OPENING | CLOSING, ""), (WORD, "")],
    // A French ligature before anything but a plain letter; a degree sign after a capital.
    &[(0, "Œœ"), (NOT_ASCII_LETTER, "")],
    &[(UPPER, ""), (0, "°")],
    // Windows-1252 readings: two-byte characters, Arabic, South Asian scripts.
    &[(0, "ÂÃÎÐ"), (OPENING | CLOSING, "€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´")],
    &[(0, "×"), (0, "²³")],
    &[(0, "ØÙ"), ARABIC_TAIL, (0, "ØÙ"), ARABIC_TAIL],
    &[(0, "à"), (0, "²µ¹¼½¾")],
    // MacRoman readings.
    &[(0, "√"), (0, "±∂†≠®™´≤≥¥µø")],
    &[(0, "≈"), (0, "°¢")],
    &[(0, "‚"), (0, "Ä"), (0, "ìîïòôúùû†°¢π")],
    &[(0, "‚"), (0, "âó"), (0, "àä°ê")],
    // Windows-1251 readings; the last is one on top of another and wants Latin text after it.
    &[(0, "в"), (0, "Ђ")],
    &[(0, "ВГРС"), (BETWEEN, "°µ"), (0, "ВГРС")],
    &[(0, "Г"), (0, "ў"), (0, "В"), (0, "Ђ"), (0, "В"), (NOT_LINE_END, ""), (ASCII_LETTER, " ")],
    // `à`, `á` and the no-break space read as Windows-1252, some as a word of their own.
    &[(0, "Ã"), (0, "\u{a0}¡")],
    &[(ASCII_LOWER, ""), (0, "ÃÂ"), (0, " ")],
    &[(ASCII_LOWER, ""), (BLANK, ""), (0, "ÃÂ"), (0, " ")],
    &[(ASCII_LOWER | CLOSING, ".,?!"), (0, "Â"), (OPENING | CLOSING, " ")],
    // Windows-1253 and Windows-1257 readings.
    &[(0, "β"), (0, "€"), (0, "™\u{a0}Ά\u{ad}®°")],
    &[(0, "ΒΓΞΟ"), (BETWEEN, "°"), (0, "ΒΓΞΟ")],
    &[(0, "ā"), (0, "€")],
];

/// Whether `c` is a blank in Python's sense: the Unicode ones and U+001C–001F.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Whether `c` is part of a word in Python's sense: a letter, a number, or `_`.
fn is_word(c: char) -> bool {
    // Rust counts letter-like marks and circled letters as alphabetic, Python does not.
    let circled = matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f149}'
        | '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}');
    let mark = unicode_normalization::char::is_combining_mark(c);
    c == '_' || (c.is_alphanumeric() && !mark && !circled)
}

fn classes_of(c: char) -> Classes {
    let bit = |yes: bool, class: Classes| if yes { class } else { 0 };
    let listed = if c.is_ascii() { 0 } else { CLASSES.get(&c).copied().unwrap_or(0) };
    listed
        | bit(c.is_ascii_uppercase(), ASCII_UPPER)
        | bit(c.is_ascii_lowercase(), ASCII_LOWER)
        | bit(is_blank(c), BLANK)
        | bit(is_word(c), WORD)
        | bit(c != '\n', NOT_LINE_END)
        | bit(!c.is_ascii_alphabetic(), NOT_ASCII_LETTER)
}

/// Whether `text` holds at least one unlikely sequence.
pub(super) fn is_bad(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    if text.starts_with("Ã ") || text.starts_with("Â ") {
        return true;
    }
    let classed: Vec<(char, Classes)> = text.chars().map(|c| (c, classes_of(c))).collect();
    (0..classed.len()).any(|start| {
        SEQUENCES.iter().any(|places| {
            classed.len() - start >= places.len()
                && places.iter().zip(&classed[start..]).all(|((classes, list), (c, own))| {
                    classes & own != 0 || (!list.is_empty() && list.contains(*c))
                })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbled_text_is_bad() {
        for text in ["cafÃ©", "â€œquote", "voilÃ le", "Ã la", "Â x", "РґРѕРј вЂ", "don’t\u{92}"]
        {
            assert!(is_bad(text), "{text:?}");
        }
    }

    #[test]
    fn ordinary_text_is_not() {
        for text in ["", "plain", "café naïve", "Straße", "猫が走る", "Кошка", "£5 – ½ price", "😀"]
        {
            assert!(!is_bad(text), "{text:?}");
        }
    }
}
