//! How alike two texts about an element are, without a model (`prompts.md` §7).

use super::elements::{Element, Elements, NO_ACCESSORIES, NOT_VISIBLE};
use super::lexicon::{colour_of, is_stop_word};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How texts are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Similarity {
    /// The same text but for case, spaces and marks, or another.
    Exact,
    /// By the words that they share.
    #[default]
    Lexical,
}

/// The words of a text in lower case, without marks.
pub fn words(text: &str) -> Vec<String> {
    let split = |c: char| !(c.is_alphanumeric() || c == '\'' || c == '-');
    let words = text.split(split).map(|word| word.trim_matches(['\'', '-']).to_lowercase());
    words.filter(|word| !word.is_empty()).collect()
}

/// A word without the ending of its plural.
pub fn stem(word: &str) -> &str {
    match word {
        _ if word.len() > 4 && word.ends_with("sses") => &word[..word.len() - 2],
        _ if word.ends_with("ss") || word.ends_with("us") || word.len() < 4 => word,
        _ => word.strip_suffix('s').unwrap_or(word),
    }
}

/// What of a text has a meaning of its own: words but for stop words, in the singular, colours under
/// one name.
fn content(text: &str) -> Vec<String> {
    let words = words(text);
    let kept = words.iter().filter(|word| !is_stop_word(word)).map(|word| stem(word));
    let kept = kept.filter(|word| !is_stop_word(word));
    kept.map(|word| colour_of(word).unwrap_or(word).to_owned()).collect()
}

/// The colours that stand in front of a noun, each with the noun: of `a dark red wool coat` it is
/// (`red`, `coat`), (`red`, `wool`).
fn coloured(content: &[String]) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, word) in content.iter().enumerate() {
        if colour_of(word) == Some(word) {
            let nouns = content[at + 1..].iter().take(2);
            let nouns = nouns.take_while(|noun| colour_of(noun).is_none());
            found.extend(nouns.map(|noun| (word.as_str(), noun.as_str())));
        }
    }
    found
}

/// How alike two texts are, from 0 to 1.
pub fn score(reference: &str, target: &str, how: Similarity) -> f64 {
    let absent = |text: &str| text == NO_ACCESSORIES || text == NOT_VISIBLE;
    if absent(reference) || absent(target) {
        return f64::from(u8::from(reference == target));
    }
    if how == Similarity::Exact {
        return f64::from(u8::from(words(reference) == words(target)));
    }
    let (a, b) = (content(reference), content(target));
    let contradict = coloured(&a).iter().any(|(colour, noun)| {
        let other = coloured(&b);
        let mut same = other.iter().filter(|(_, other)| other == noun).peekable();
        same.peek().is_some() && same.all(|(other, _)| other != colour)
    });
    if contradict {
        return 0.0;
    }
    let (a, b): (BTreeSet<&String>, BTreeSet<&String>) = (a.iter().collect(), b.iter().collect());
    let shared = a.intersection(&b).count() as f64;
    let (all, least) = (a.union(&b).count(), a.len().min(b.len()));
    if least == 0 {
        return f64::from(u8::from(a.len() == b.len()));
    }
    0.5 * shared / all as f64 + 0.5 * shared / least as f64
}

/// The score of every element that both have.
pub fn scores(reference: &Elements, target: &Elements, how: Similarity) -> [Option<f64>; 7] {
    Element::ALL.map(|element| {
        let both = reference.get(element).zip(target.get(element));
        both.map(|(reference, target)| score(reference, target, how))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lexical(a: &str, b: &str) -> f64 {
        score(a, b, Similarity::Lexical)
    }

    #[test]
    fn texts_are_compared_by_what_they_say() {
        assert_eq!(lexical("She wears a red coat.", "A red coat, she wears."), 1.0);
        assert_eq!(lexical("He has short black hairs.", "She has short black hair."), 1.0);
        assert_eq!(lexical("She wears a red coat.", "She wears a blue coat."), 0.0);
        assert_eq!(lexical("She wears a grey coat.", "She wears a gray coat."), 1.0);
        assert_eq!(lexical("A navy jacket.", "A blue jacket."), 1.0);
        let part = lexical("A white shirt with a striped tie.", "A white shirt.");
        assert!((0.7..0.8).contains(&part), "{part}");
        assert!(lexical("He sits at a desk.", "She runs along the beach.") < 0.1);
    }

    #[test]
    fn what_is_absent_is_like_what_is_absent_alone() {
        assert_eq!(lexical("No accessories.", "No accessories."), 1.0);
        assert_eq!(lexical("No accessories.", "She wears glasses."), 0.0);
        assert_eq!(lexical("Not visible.", "A red coat."), 0.0);
        assert_eq!(score("A  red coat", "a red coat.", Similarity::Exact), 1.0);
        assert_eq!(score("A red coat", "A coat", Similarity::Exact), 0.0);
    }
}
