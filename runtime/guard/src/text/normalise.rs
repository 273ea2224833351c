//! Forms of a text in which rules are looked for.
//!
//! The plain form is compatibility-normalised, in small letters, without accents and invisible
//! characters, and without long repeats. The joined form also undoes what hides a word from a
//! reader's filter but not from a reader: letters of other scripts that look alike, digits for
//! letters, marks inside words, and spaced letters. Meaning is not looked at.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A text in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forms {
    /// Small letters without accents; digits and other scripts stay.
    pub plain: String,
    /// As `plain`, with disguises undone.
    pub joined: String,
}

impl Forms {
    /// Both forms of `text`.
    pub fn of(text: &str) -> Self {
        let plain = plain(text);
        let joined = joined(&plain);
        Self { plain, joined }
    }
}

/// Characters that take no room: joiners, marks of direction, soft hyphens, variation selectors, tags.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}'
        | '\u{E0000}'..='\u{E0FFF}')
}

fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut last, mut run) = ('\0', 0);
    let visible = text.chars().filter(|&c| !is_invisible(c));
    for c in visible.nfkd().filter(|&c| !is_combining_mark(c) && !is_invisible(c)) {
        for c in c.to_lowercase() {
            let c = if c.is_whitespace() || c.is_control() { ' ' } else { c };
            run = if c == last { run + 1 } else { 1 };
            last = c;
            // Digits mean something in numbers.
            let most = if c == ' ' { 1 } else { 2 };
            if run > most && !c.is_ascii_digit() {
                continue;
            }
            match c {
                'ß' => out.push_str("ss"),
                _ => out.push(c),
            }
        }
    }
    // Hangul and others that were taken apart.
    out.nfc().collect()
}

/// The Latin letter that a character is read as.
fn look_alike(c: char) -> Option<char> {
    Some(match c {
        '0' | 'ο' | 'о' | 'ө' | 'օ' | 'ø' | 'σ' => 'o',
        '1' | '!' | '|' | 'ι' | 'і' | 'ı' | 'ӏ' | 'ɪ' => 'i',
        '3' | 'ε' | 'е' | 'є' | 'ё' | '€' => 'e',
        '4' | '@' | 'α' | 'а' | 'ɑ' => 'a',
        '5' | '$' | 'ѕ' => 's',
        '7' | 'τ' | 'т' | '+' => 't',
        '8' | 'в' | 'β' => 'b',
        '9' => 'g',
        'с' | 'ϲ' | '¢' => 'c',
        'ԁ' | 'đ' => 'd',
        'ɡ' => 'g',
        'һ' | 'н' => 'h',
        'ј' => 'j',
        'κ' | 'к' => 'k',
        'ł' => 'l',
        'м' => 'm',
        'η' | 'ո' | 'п' => 'n',
        'ρ' | 'р' => 'p',
        'ԛ' => 'q',
        'г' | 'ʀ' => 'r',
        'υ' | 'ս' | 'ц' => 'u',
        'ν' | 'ѵ' => 'v',
        'ω' | 'ԝ' | 'ш' => 'w',
        'χ' | 'х' => 'x',
        'у' | 'γ' | 'ү' => 'y',
        'ʐ' => 'z',
        _ => return None,
    })
}

fn joined(plain: &str) -> String {
    let mut out = String::with_capacity(plain.len());
    // Letters that stand alone, waiting for the next word to show whether they are spelled out.
    let mut single = String::new();
    for word in plain.split(' ').filter(|word| !word.is_empty()) {
        let has_letter = word.chars().any(char::is_alphabetic);
        // A number alone stays a number.
        let letters: String = match has_letter {
            true => {
                // A mark at the end is a mark, "nude!" and not "nudei".
                let body = word.trim_end_matches(|c: char| !c.is_alphanumeric());
                let read = |c: char| look_alike(c).unwrap_or(c);
                body.chars().map(read).filter(|c| c.is_alphanumeric()).collect()
            }
            false => word.chars().filter(|c| c.is_alphanumeric()).collect(),
        };
        let mut chars = letters.chars();
        match (chars.next(), chars.next()) {
            (Some(only), None) if only.is_alphabetic() => single.push(only),
            (None, _) if !single.is_empty() => {}
            _ => {
                flush(&mut out, &mut single);
                push(&mut out, &letters);
            }
        }
    }
    flush(&mut out, &mut single);
    out
}

fn push(out: &mut String, word: &str) {
    if !word.is_empty() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
}

/// Three and more single letters are one word, which may begin behind an article.
fn flush(out: &mut String, single: &mut String) {
    match single.chars().count() {
        0 => {}
        1 | 2 => single.chars().for_each(|c| push(out, c.encode_utf8(&mut [0; 4]))),
        _ => {
            push(out, single);
            if let Some(rest) = single.strip_prefix('a').filter(|rest| rest.len() > 2) {
                push(out, rest);
            }
        }
    }
    single.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accents_cases_and_invisible_characters_go() {
        for (text, plain) in [
            ("Café  RÉSUMÉ", "cafe resume"),
            ("ＦＵＬＬ\u{200B}width ﬁ", "fullwidth fi"),
            ("nu\u{AD}de\u{FE0F}", "nude"),
            ("sooooo gooood", "soo good"),
            ("Straße\tund\n Gasse", "strasse und gasse"),
            ("10000 лет", "10000 лет"),
            ("한국어", "한국어"),
            ("裸体", "裸体"),
            ("", ""),
        ] {
            assert_eq!(Forms::of(text).plain, plain, "{text}");
        }
    }

    #[test]
    fn disguised_words_are_read_as_people_read_them() {
        for (text, joined) in [
            ("n u d e woman", "nude woman"),
            ("n.u.d.e", "nude"),
            ("nu*de, nu-de!", "nude nude"),
            ("a n u d e man", "anude nude man"),
            ("nud3 nüde n\u{443}de", "nude nude nyde"),
            ("пude", "nude"),
            ("17 years, 4k", "17 years ak"),
            ("a b", "a b"),
            ("- - x - y -", "x y"),
        ] {
            assert_eq!(Forms::of(text).joined, joined, "{text}");
        }
    }
}
