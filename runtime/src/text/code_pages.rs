//! The single-byte encodings that text is often wrongly decoded with, and UTF-8 with its variants.
//!
//! Bytes 0x00–0x7F are ASCII in all of them. The Windows pages are the lenient kind: a byte without
//! a character gives the control character with the same number, and byte 0x1A stands for U+FFFD, a
//! character that is already lost. This is only used to recognise and repair text.

use std::collections::HashMap;
use std::sync::LazyLock;

// Characters of the bytes 0x80–0xFF, sixteen in each line.
const WINDOWS_1250: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\
    \u{90}‘’“”•–—\u{98}™š›śťžź\
    \u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż\
    °±˛ł´µ¶·¸ąş»Ľ˝ľż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎ\
    ĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîď\
    đńňóôőö÷řůúűüýţ˙";
const WINDOWS_1251: &str = "\
    ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏ\
    ђ‘’“”•–—\u{98}™љ›њќћџ\
    \u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї\
    °±Ііґµ¶·ё№є»јЅѕї\
    АБВГДЕЖЗИЙКЛМНОП\
    РСТУФХЦЧШЩЪЫЬЭЮЯ\
    абвгдежзийклмноп\
    рстуфхцчшщъыьэюя";
const WINDOWS_1252: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\
    \u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯\
    °±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ\
    ÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß\
    àáâãäåæçèéêëìíîï\
    ðñòóôõö÷øùúûüýþÿ";
const WINDOWS_1253: &str = "\
    €\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\
    \u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―\
    °±²³΄µ¶·ΈΉΊ»Ό½ΎΏ\
    ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟ\
    ΠΡÒΣΤΥΦΧΨΩΪΫάέήί\
    ΰαβγδεζηθικλμνξο\
    πρςστυφχψωϊϋόύώÿ";
const WINDOWS_1254: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\
    \u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯\
    °±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ\
    ĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß\
    àáâãäåæçèéêëìíîï\
    ğñòóôõö÷øùúûüışÿ";
const WINDOWS_1257: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\
    \u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\
    \u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ\
    °±²³´µ¶·ø¹ŗ»¼½¾æ\
    ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻ\
    ŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß\
    ąįāćäåęēčéźėģķīļ\
    šńņóōõö÷ųłśūüżž˙";
// From 0xA0 on; the bytes below are control characters.
const ISO_8859_2: &str = "\
    \u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ\
    °ą˛ł´ľśˇ¸šşťź˝žż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎ\
    ĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîď\
    đńňóôőö÷řůúűüýţ˙";
const MAC_ROMAN: &str = "\
    ÄÅÇÉÑÖÜáàâäãåçéè\
    êëíìîïñóòôöõúùûü\
    †°¢£§•¶ß®©™´¨≠ÆØ\
    ∞±≤≥¥µ∂∑∏π∫ªºΩæø\
    ¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ\
    –—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ\
    ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\
    \u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const CODE_PAGE_437: &str = "\
    ÇüéâäàåçêëèïîìÄÅ\
    ÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
    áíóúñÑªº¿⌐¬½¼¡«»\
    ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧\
    ╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩\
    ≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// One single-byte encoding.
pub(super) struct CodePage {
    /// Which encoding it is, as far as the repair distinguishes them.
    pub kind: PageKind,
    bytes: HashMap<char, u8>,
    characters: Vec<char>,
}

/// The families of encodings that the repair distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    /// ISO 8859-1: byte and character have the same number.
    Latin1,
    /// A Windows page.
    Windows,
    /// The old Macintosh page.
    MacRoman,
    /// Any other.
    Other,
}

/// The encodings in the order they are tried.
pub(super) static PAGES: LazyLock<[CodePage; 10]> = LazyLock::new(|| {
    [
        CodePage::new(PageKind::Latin1, ""),
        CodePage::new(PageKind::Windows, WINDOWS_1252),
        CodePage::new(PageKind::Windows, WINDOWS_1251),
        CodePage::new(PageKind::Windows, WINDOWS_1250),
        CodePage::new(PageKind::Windows, WINDOWS_1253),
        CodePage::new(PageKind::Windows, WINDOWS_1254),
        CodePage::new(PageKind::Windows, WINDOWS_1257),
        CodePage::new(PageKind::Other, ISO_8859_2),
        CodePage::new(PageKind::MacRoman, MAC_ROMAN),
        CodePage::new(PageKind::Other, CODE_PAGE_437),
    ]
});

impl CodePage {
    /// `upper` lists the characters of the last bytes up to 0xFF; those before it are the
    /// control and Latin-1 characters of their number.
    fn new(kind: PageKind, upper: &str) -> Self {
        let numbered = 128 - upper.chars().count();
        let same = (0x80..=0xff).map(char::from).take(numbered);
        let characters: Vec<char> = same.chain(upper.chars()).collect();
        let high = characters.iter().zip(0x80..=0xff).map(|(c, byte)| (*c, byte));
        let mut bytes: HashMap<char, u8> = high.collect();
        if kind == PageKind::Windows {
            bytes.insert('\u{fffd}', 0x1a);
        }
        Self { kind, bytes, characters }
    }

    /// The bytes this text was decoded from, or `None` if the encoding lacks one of its
    /// characters.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |c: char| match c {
            '\u{1a}' if self.kind == PageKind::Windows => None,
            _ if c.is_ascii() => Some(c as u8),
            _ => self.bytes.get(&c).copied(),
        };
        text.chars().map(byte).collect()
    }

    /// The character of a byte from 0x80 on.
    pub(super) fn character(&self, byte: u8) -> char {
        if byte < 0x80 { char::from(byte) } else { self.characters[usize::from(byte) - 0x80] }
    }
}

/// The Windows-1252 character a C1 control character (U+0080–009F) was meant as; the five that
/// Windows-1252 lacks, and every other character, stay.
pub(super) fn windows_1252_of_control(c: char) -> char {
    match u32::from(c) {
        code @ 0x80..=0x9f => PAGES[1].character(code as u8),
        _ => c,
    }
}

/// Decodes UTF-8 and, if `variants` is set, also CESU-8 pairs of surrogates and Java's two-byte
/// zero. `None` if a sequence is neither.
pub(super) fn decode_utf8(bytes: &[u8], variants: bool) -> Option<String> {
    if !variants {
        return std::str::from_utf8(bytes).ok().map(str::to_owned);
    }
    let mut out = String::with_capacity(bytes.len());
    let (mut plain, mut at) = (0, 0);
    while at < bytes.len() {
        let Some((c, used)) = variant_at(&bytes[at..]) else {
            at += 1;
            continue;
        };
        out.push_str(std::str::from_utf8(&bytes[plain..at]).ok()?);
        out.push(c);
        at += used;
        plain = at;
    }
    out.push_str(std::str::from_utf8(&bytes[plain..]).ok()?);
    Some(out)
}

/// A variant sequence at the start of `bytes`, with its length. As in the patterns of the
/// reference, a final line end may take the place of the last byte of both sequences.
fn variant_at(bytes: &[u8]) -> Option<(char, usize)> {
    match *bytes {
        [0xc0, 0x80, ..] | [0xc0, b'\n'] => Some(('\0', 2)),
        [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d, ..]
            if (0x80..=0xbf).contains(&d) || (d == b'\n' && bytes.len() == 6) =>
        {
            let bits = |byte: u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
            let code = bits(a, 0x0f, 16) + bits(b, 0x3f, 10) + bits(c, 0x0f, 6) + bits(d, 0x3f, 0);
            char::from_u32(code + 0x1_0000).map(|c| (c, 6))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_128_upper_characters_each_once() {
        for page in PAGES.iter() {
            assert_eq!(page.characters.len(), 128);
            let extra = usize::from(page.kind == PageKind::Windows);
            assert_eq!(page.bytes.len(), 128 + extra);
        }
    }

    #[test]
    fn controls_become_windows_characters() {
        assert_eq!(windows_1252_of_control('\u{85}'), '…');
        assert_eq!(windows_1252_of_control('\u{81}'), '\u{81}');
        assert_eq!(windows_1252_of_control('é'), 'é');
    }

    #[test]
    fn variants_of_utf8() {
        let pair = [0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x8d];
        assert_eq!(decode_utf8(&pair, true).as_deref(), Some("😍"));
        assert_eq!(decode_utf8(&pair, false), None);
        assert_eq!(decode_utf8(b"a\xc0\x80b", true).as_deref(), Some("a\0b"));
        assert_eq!(decode_utf8(b"\xc0\x81", true), None);
        assert_eq!(decode_utf8(b"\xed\xa0\xbd", true), None);
    }
}
