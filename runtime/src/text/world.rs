//! The tokenizer for prompts of the drawn world: a token for each of its words and for the full stop.
//!
//! It is built like the [micro model's](super::micro), without the pieces for anything else: an unknown
//! word is `<unk>`.

use super::micro::unigram;
use serde_json::{Value, json};

/// The words of all versions of the world, with a capital where sentences begin.
const WORDS: &str = "A The There They a accessory and background black blond blue brick brown calm \
    close-up curly dotted face faces field forward green grey hair hat head is laughing left long \
    looks medium night no plain purple red right scarf shirt short shot sky smiling spiky starry \
    stays still striped studio suit sunglasses sunset surprised tilts turns wall wear white wide \
    yellow";

/// The content of `tokenizer.json`: `<pad>` 0, `</s>` 1, `<unk>` 2, the full stop, the words. Every call
/// returns the same.
pub fn world_tokenizer_json() -> String {
    let mut pieces: Vec<Value> = ["<pad>", "</s>", "<unk>"].map(|name| json!([name, 0.0])).into();
    pieces.push(json!([".", -1.0]));
    pieces.extend(WORDS.split_ascii_whitespace().map(|word| json!([format!("▁{word}"), -1.0])));
    unigram(&pieces, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::PromptTokenizer;
    use anyid_models::wan::config::TextConfig;

    #[test]
    fn a_word_is_a_token() {
        let json = world_tokenizer_json();
        let tokenizer = PromptTokenizer::parse(json.as_bytes(), "world").unwrap();
        assert!(tokenizer.id_limit() <= TextConfig::world().vocab_size);
        let pieces = |text: &str| -> Vec<String> {
            let ids = tokenizer.encode(text, 52).unwrap().ids;
            ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect()
        };
        let words = ["▁A", "▁close-up", "▁shot", ".", "▁The", "▁head", "▁tilts", ".", "</s>"];
        assert_eq!(pieces("A close-up shot. The head tilts."), words);
        assert_eq!(pieces("The zebra."), ["▁The", "<unk>", ".", "</s>"]);
        assert_eq!(pieces(""), ["</s>"]);
    }
}
