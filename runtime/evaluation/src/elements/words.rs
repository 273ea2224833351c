//! Phrases as the numbers that Grounding DINO takes: the words of BERT's tokenizer (uncased), the longest
//! that fit first.

use anyid_files::error::unreadable;
use anyid_files::{Error, Result, input};
use std::collections::HashMap;
use std::path::Path;

/// Largest list of words, in bytes.
const LARGEST: u64 = 16 << 20;
const BEGIN: &str = "[CLS]";
const END: &str = "[SEP]";
const UNKNOWN: &str = "[UNK]";

/// The words with their numbers.
#[derive(Debug)]
pub struct Words(HashMap<String, i64>);

impl Words {
    /// Reads `vocab.txt`: a word a line, the first of which is number 0.
    ///
    /// # Errors
    /// E0911, E1706 where words are missing that every such list has.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| {
            Error::input("E1706", what)
                .at(path.display())
                .help("give vocab.txt of bert-base-uncased, which Grounding DINO was trained with")
        };
        let large = |limit| bad(format!("a list of words has at most {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let text =
            String::from_utf8(bytes).map_err(|_| bad("this is not UTF-8 text".to_owned()))?;
        let words = Self(text.lines().map(str::to_owned).zip(0..).collect());
        let needed = [BEGIN, END, UNKNOWN, "."];
        match needed.iter().find(|word| !words.0.contains_key(**word)) {
            None => Ok(words),
            Some(word) => Err(bad(format!("the list has no \"{word}\""))),
        }
    }

    /// The numbers of a phrase with a point behind it.
    pub fn numbers(&self, phrase: &str) -> Vec<i64> {
        let mut numbers = vec![self.0[BEGIN]];
        let text = format!("{} .", phrase.to_lowercase());
        let split = |c: char| !c.is_alphanumeric();
        for word in text.split_whitespace().flat_map(|word| pieces(word, split)) {
            self.word(word, &mut numbers);
        }
        numbers.push(self.0[END]);
        numbers
    }

    /// The numbers of a word: the longest beginning that is there, then the longest of the rest.
    fn word(&self, word: &str, numbers: &mut Vec<i64>) {
        let before = numbers.len();
        let mut begin = 0;
        while begin < word.len() {
            let ends = word[begin..].char_indices().map(|(at, c)| begin + at + c.len_utf8());
            let mark = if begin > 0 { "##" } else { "" };
            let known = |end: &usize| self.0.get(&format!("{mark}{}", &word[begin..*end]));
            let longest = ends.rev().find_map(|end| Some((end, *known(&end)?)));
            let Some((end, number)) = longest else {
                numbers.truncate(before);
                numbers.push(self.0[UNKNOWN]);
                return;
            };
            numbers.push(number);
            begin = end;
        }
    }
}

/// A text cut before and behind each sign that `alone` holds of.
fn pieces(text: &str, alone: impl Fn(char) -> bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut begin = 0;
    for (at, c) in text.char_indices() {
        if alone(c) {
            out.push(&text[begin..at]);
            out.push(&text[at..at + c.len_utf8()]);
            begin = at + c.len_utf8();
        }
    }
    out.push(&text[begin..]);
    out.retain(|piece| !piece.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_become_the_longest_words_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        let list = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n.\nhair\nneck\n##lace\n##s\nneckl\n-\n";
        std::fs::write(&path, list).unwrap();
        let words = Words::open(&path).unwrap();
        assert_eq!(words.numbers("Hair"), [2, 5, 4, 3]);
        // "neckl" is longer than "neck", but leaves a rest that there is not: greedy, as BERT does it.
        assert_eq!(words.numbers("necklace"), [2, 1, 4, 3]);
        assert_eq!(words.numbers("hairs neck-hair"), [2, 5, 8, 6, 10, 5, 4, 3]);
        std::fs::write(&path, "hair\n").unwrap();
        assert_eq!(Words::open(&path).unwrap_err().code(), "E1706");
    }
}
