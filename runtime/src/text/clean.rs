//! Prompt cleaning as the reference pipelines do it before tokenisation: text repair with ftfy's
//! default settings, HTML references, blanks.
//!
//! The result equals that of ftfy 6.3.1 on every text of the golden fixtures, mojibake included.
//! The steps are listed in `text.md` §5. Nothing is lower-cased and no punctuation is removed.

use unicode_normalization::UnicodeNormalization;

use super::badness::is_blank;
use super::code_pages::windows_1252_of_control;
use super::{entities, mojibake};

/// Largest number of rounds of the repair. Every round undoes a layer of escaping or wrong
/// decoding, so only contrived text such as `&amp;amp;amp;…` needs more; the rest of it stays
/// unchanged.
const ROUNDS: usize = 64;

/// Longest piece of a line that the text repair handles at once, in characters, as in ftfy.
const LONGEST_SEGMENT: usize = 1_000_000;

/// The prompt as the tokenizer gets it: [`basic_clean`], then every run of blanks as one space.
///
/// ```
/// use anyid_runtime::text::clean;
/// assert_eq!(clean("  â€œA cafÃ©â€\u{9d} &amp;\tbar "), "\"A café\" & bar");
/// ```
pub fn clean(text: &str) -> String {
    single_spaces(&basic_clean(text))
}

/// What [`clean`] amounts to if ftfy is not installed: HTML references and blanks only.
pub fn clean_without_ftfy(text: &str) -> String {
    single_spaces(&entities::unescape(&entities::unescape(text)))
}

/// Text repair, HTML references undone twice, blanks at both ends removed.
pub fn basic_clean(text: &str) -> String {
    let unescaped = entities::unescape(&entities::unescape(&fix_text(text)));
    unescaped.trim_matches(is_blank).to_owned()
}

fn single_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(is_blank).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// The text repair alone (`ftfy.fix_text` with default options), line by line.
pub fn fix_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // After a line with a `<`, the rest may be HTML, and its references are left alone.
    let mut unescape = true;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(LONGEST_SEGMENT).map_or(rest.len(), |(at, _)| at);
            let (segment, after) = rest.split_at(end);
            unescape &= !segment.contains('<');
            out.push_str(&fix_segment(segment, unescape));
            rest = after;
        }
    }
    out
}

fn fix_segment(segment: &str, unescape: bool) -> String {
    let mut text = segment.to_owned();
    for _ in 0..ROUNDS {
        let unescaped = if unescape { unescape_closed(&text) } else { text.clone() };
        let repaired = mojibake::repair(&unescaped);
        let plain = replace_characters(&repaired);
        let lines = plain.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}'], "\n");
        let visible = remove_terminal_escapes(&lines).replace(is_unwanted_control, "");
        let fixed: String = visible.nfc().collect();
        if fixed == text {
            break;
        }
        text = fixed;
    }
    text
}

/// Undoes HTML references that end in `;`, including lower-case names written in capitals
/// (`&EACUTE;`) if these are not names of their own.
fn unescape_closed(text: &str) -> String {
    const LONGEST: usize = 24;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let sign = if rest.starts_with("&#") { 2 } else { 1 };
        let name = rest[sign..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let end = sign + name;
        if (1..=LONGEST).contains(&name) && rest[end..].starts_with(';') {
            let reference = &rest[..=end];
            out.push_str(&closed_reference(reference).unwrap_or_else(|| reference.to_owned()));
            rest = &rest[end + 1..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

fn closed_reference(reference: &str) -> Option<String> {
    let name = &reference[1..reference.len() - 1];
    if name.starts_with('#') {
        // A `;` left over means that only a part was a reference.
        return Some(entities::unescape(reference)).filter(|text| !text.contains(';'));
    }
    if let Some(value) = entities::named(name) {
        return Some(value.to_owned());
    }
    let lower = name.to_ascii_lowercase();
    let in_capitals = lower.to_ascii_uppercase() == name;
    let value = entities::named(&lower).filter(|_| in_capitals)?;
    (entities::unescape(reference) == reference).then(|| value.to_uppercase())
}

/// Reads control characters as Windows-1252, takes ligatures and digraphs apart, and makes widths
/// normal and quotes straight. U+0085 becomes an ellipsis, so it is never taken as a line end.
fn replace_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().map(windows_1252_of_control) {
        match c {
            'Ĳ' => out.push_str("IJ"),
            'ĳ' => out.push_str("ij"),
            // The apostrophe in this digraph is a curly quote and is made straight, too.
            'ŉ' => out.push_str("'n"),
            'Ǳ' => out.push_str("DZ"),
            'ǲ' => out.push_str("Dz"),
            'ǳ' => out.push_str("dz"),
            'Ǆ' => out.push_str("DŽ"),
            'ǅ' => out.push_str("Dž"),
            'ǆ' => out.push_str("dž"),
            'Ǉ' => out.push_str("LJ"),
            'ǈ' => out.push_str("Lj"),
            'ǉ' => out.push_str("lj"),
            'Ǌ' => out.push_str("NJ"),
            'ǋ' => out.push_str("Nj"),
            'ǌ' => out.push_str("nj"),
            'ﬀ' => out.push_str("ff"),
            'ﬁ' => out.push_str("fi"),
            'ﬂ' => out.push_str("fl"),
            'ﬃ' => out.push_str("ffi"),
            'ﬄ' => out.push_str("ffl"),
            'ﬅ' => out.push_str("ſt"),
            'ﬆ' => out.push_str("st"),
            '\u{3000}' => out.push(' '),
            '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(c).nfkc()),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            _ => out.push(c),
        }
    }
    out
}

/// Removes terminal escapes: `ESC [`, digits and semicolons, one letter.
fn remove_terminal_escapes(text: &str) -> String {
    const START: &str = "\u{1b}[";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(START) {
        out.push_str(&rest[..at]);
        let inside = &rest[at + START.len()..];
        let letter = inside.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        if letter.starts_with(|c: char| c.is_ascii_alphabetic()) {
            rest = &letter[1..];
        } else {
            out.push_str(START);
            rest = inside;
        }
    }
    out.push_str(rest);
    out
}

/// Control characters that have no use in text: those of ASCII except blanks, the deprecated Arabic
/// ones, the byte-order mark, and the annotation marks.
fn is_unwanted_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with ftfy 6.3.1 and Python's `html.unescape`: pairs of text and cleaned text.
    #[test]
    fn agrees_with_the_reference_beyond_the_golden_strings() {
        let cases: Vec<(String, String)> =
            serde_json::from_str(include_str!("clean_cases.json")).unwrap();
        assert!(cases.len() >= 60);
        for (text, expected) in cases {
            assert_eq!(clean(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn blanks_only() {
        for text in ["", " ", "\t\n\u{3000}\u{a0}", "&nbsp; &#32;"] {
            assert_eq!(clean(text), "");
        }
    }

    #[test]
    fn without_repair_only_references_and_blanks_change() {
        assert_eq!(clean_without_ftfy(" “cafÃ©”\u{3000}&amp;amp;lt; "), "“cafÃ©” &lt;");
    }

    #[test]
    fn references_stay_from_the_first_markup_on() {
        assert_eq!(fix_text("&eacute;\n<i>\n&eacute;"), "é\n<i>\n&eacute;");
    }

    #[test]
    fn escaping_without_end_ends() {
        let text = format!("&{}lt;", "amp;".repeat(5000));
        assert!(clean(&text).len() < text.len());
    }
}
