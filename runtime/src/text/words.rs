//! The tokenizer of models of the drawn world: a `tokenizer.json` whose tokens are words.
//!
//! A model of a small world needs no more words than its prompts have. The file has the structure of
//! a umT5 tokenizer (Unigram, Metaspace, `</s>` appended), so whatever reads one reads this. A full
//! stop is a token of its own, and any other word is unknown (`<unk>`), or a known one it begins with
//! and an unknown rest.

use super::micro::{Fallback, tokenizer_json};

/// The words of all prompts of all versions of the world, sorted.
const WORLD: &str = "A The There They a accessory and background black blond blue brick brown calm close-up \
    curly dotted face faces field forward green grey hair hat head is laughing left long \
    looks medium night no plain purple red right scarf shirt short shot sky smiling spiky \
    starry stays still striped studio suit sunglasses sunset surprised tilts turns wall wear \
    white wide yellow";

/// The content of the `tokenizer.json` of models of the drawn world: `<pad>` 0, `</s>` 1, `<unk>` 2,
/// the full stop, and the words. Every call returns the same.
pub fn world_tokenizer_json() -> String {
    let words = WORLD.split_ascii_whitespace().map(|word| format!("▁{word}"));
    // All alike: no prompt can be cut into words in two ways.
    let pieces = std::iter::once(".".to_owned()).chain(words).map(|piece| (piece, -1.0));
    tokenizer_json(pieces.collect(), Fallback::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{PromptTokenizer, clean};

    #[test]
    fn a_token_is_a_word() {
        let text = world_tokenizer_json();
        let tokenizer = PromptTokenizer::parse(text.as_bytes(), "world").unwrap();
        assert_eq!(
            (tokenizer.pad_id(), tokenizer.end_id(), tokenizer.unknown_id()),
            (Some(0), 1, Some(2))
        );
        let pieces = |text: &str| -> Vec<String> {
            let ids = tokenizer.encode(&clean(text), 48).unwrap().ids;
            ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect()
        };
        assert_eq!(
            pieces("A close-up shot. The hair is red."),
            ["▁A", "▁close-up", "▁shot", ".", "▁The", "▁hair", "▁is", "▁red", ".", "</s>"]
        );
        assert_eq!(pieces(""), ["</s>"]);
        assert_eq!(pieces("Zebras."), ["<unk>", ".", "</s>"]);
        let unknown = |text: &str| tokenizer.unknown_words(&clean(text)).unwrap();
        assert!(unknown("A close-up shot. The hair is red.").is_empty());
        let text = "In a garden, two Zebras. The hairy head is red, Zebras. Mañana";
        assert_eq!(unknown(text), ["In", "garden,", "two", "Zebras", "hairy", "red,", "Mañana"]);
        assert!(tokenizer.id_limit() <= anyid_models::wan::config::TextConfig::world().vocab_size);
    }

    #[test]
    fn words_are_sorted_and_there_once() {
        let words: Vec<&str> = WORLD.split_ascii_whitespace().collect();
        assert!(words.is_sorted_by(|a, b| a < b), "{words:?}");
    }
}
