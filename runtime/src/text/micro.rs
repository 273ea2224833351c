//! The tokenizer of the built-in micro model: a `tokenizer.json` of fewer than 512 pieces that can
//! write any text.
//!
//! It has the structure of a umT5 tokenizer (Unigram with byte fallback, Metaspace, `</s>`
//! appended), with NFKC in place of SentencePiece's character map. Its scores are ranks instead of
//! trained frequencies. It is meant for tests and demonstrations.

use serde_json::{Value, json};

/// Common beginnings and endings of English words, most frequent first; `_` is a preceding blank.
const FRAGMENTS: &str = "_a _the _in _of _and _on _to _with _is _at _an _s _c _b _p _w _m _f _d \
    _t _h _r _l _g _n _e _o _st _re _person _man _woman _face _walk _look _smil _hold _sit \
    _stand _wear _red _blue _green _white _black _light _dark _camera _video _image _scene \
    _city _street _beach _park _room _water _sun _night _day _slow _close _wide _shot _hair \
    _young _old _his _her _their _from _by _as _it _for _run _turn _hand _head _eye _sky \
    ing ed er es th he in on an en re or at it is al ar te st nd ou le ve ly ion ent tion \
    ea ll ch sh ck ss ee oo ic ow ay ight ound ers ate ness ment ful ure age ance est ist ous \
    able ite ine ide ore ame ake ome um us id ir ur ol il el ad am op ot et ut un im em qu";

/// The printable ASCII characters except the blank, frequent letters first.
const CHARACTERS: &str = "etaoinsrhldcumfpgwybvkxjqz,.-'ETAOINSRHLDCUMFPGWYBVKXJQZ\
    0123456789!?:;\"()/&+%$#@*=_<>[]{}|\\^`~";

/// The content of the built-in `tokenizer.json`: `<pad>` 0, `</s>` 1, `<unk>` 2, the 256 byte
/// pieces, the blank `▁`, printable ASCII and English fragments. Every call returns the same.
pub fn micro_tokenizer_json() -> String {
    tokenizer_json(vocabulary(), Fallback::Bytes)
}

/// What becomes of characters that are in no piece.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// They are written as bytes, whose pieces are `<0xNN>`.
    Bytes,
    /// They are unknown.
    Unknown,
}

/// A `tokenizer.json` of these pieces with their scores, behind `<pad>`, `</s>` and `<unk>`.
pub(super) fn tokenizer_json(pieces: Vec<(String, f64)>, fallback: Fallback) -> String {
    let special_pieces = ["<pad>", "</s>", "<unk>"].map(|name| (name.to_owned(), 0.0));
    let vocabulary: Vec<Value> = special_pieces
        .into_iter()
        .chain(pieces)
        .map(|(piece, score)| json!([piece, score]))
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "</s>"), special(2, "<unk>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": "[\\s▁]"}, "content": " "},
            {"type": "Strip", "strip_left": false, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ]},
        "pre_tokenizer": metaspace(),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), end()],
            "pair": [sequence("A"), end(), sequence("B"), end()],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace(),
        "model": {
            "type": "Unigram", "unk_id": 2, "byte_fallback": fallback == Fallback::Bytes,
            "vocab": vocabulary,
        },
    });
    tokenizer.to_string()
}

fn special(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true})
}

fn metaspace() -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})
}

fn sequence(id: &str) -> Value {
    json!({"Sequence": {"id": id, "type_id": 0}})
}

fn end() -> Value {
    json!({"SpecialToken": {"id": "</s>", "type_id": 0}})
}

/// The pieces in the order of their ids, each with its score. Scores are eighths, so that sums of
/// them are exact and ties fall the same way on every machine.
fn vocabulary() -> Vec<(String, f64)> {
    let eighths = |base: u32, rank: usize| -f64::from(base) - rank as f64 / 8.0;
    let mut pieces: Vec<(String, f64)> =
        (0..=255_u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0)).collect();
    pieces.push(("▁".to_owned(), -2.0));
    // A fragment is preferred to its single characters, which cost 4 or more each; a fragment costs
    // 5 to 22 for two or more of them. Only the longest and rarest fragments may lose.
    for (rank, fragment) in FRAGMENTS.split_ascii_whitespace().enumerate() {
        let score = eighths(5, rank / 8);
        pieces.push((fragment.replacen('_', "▁", 1), score));
    }
    for (rank, character) in CHARACTERS.chars().enumerate() {
        pieces.push((character.to_string(), eighths(4, rank)));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::text::{PromptTokenizer, clean};

    fn tokenizer() -> PromptTokenizer {
        PromptTokenizer::parse(micro_tokenizer_json().as_bytes(), "built-in").unwrap()
    }

    #[test]
    fn small_distinct_and_repeatable() {
        let json: Value = serde_json::from_str(&micro_tokenizer_json()).unwrap();
        let vocabulary = json["model"]["vocab"].as_array().unwrap();
        let names: HashSet<_> = vocabulary.iter().map(|piece| piece[0].as_str()).collect();
        assert_eq!(names.len(), vocabulary.len());
        assert!(vocabulary.len() <= 512, "{}", vocabulary.len());
        assert_eq!(micro_tokenizer_json(), micro_tokenizer_json());
        for c in ' '..='~' {
            let piece = if c == ' ' { "▁".to_owned() } else { c.to_string() };
            assert!(names.contains(&Some(piece.as_str())), "{c:?}");
        }
    }

    #[test]
    fn any_text_without_unknowns() {
        let tokenizer = tokenizer();
        assert_eq!((tokenizer.pad_id(), tokenizer.end_id()), (Some(0), 1));
        assert_eq!(tokenizer.unknown_id(), Some(2));
        for text in
            ["A woman walks on the beach", "猫 😀 é Ω", "a\tb\u{2003}c", "~`{}|\\^", "\u{0}"]
        {
            let ids = tokenizer.encode(text, 512).unwrap().ids;
            assert!(!ids.contains(&2) && ids.ends_with(&[1]), "{text:?} {ids:?}");
        }
        assert_eq!(tokenizer.encode(&clean("  "), 512).unwrap().ids, [1]);
    }

    #[test]
    fn english_takes_fragments() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("the person walking", 512).unwrap().ids;
        let pieces: Vec<_> = ids.iter().filter_map(|id| tokenizer.token(*id)).collect();
        assert_eq!(pieces, ["▁the", "▁person", "▁walk", "ing", "</s>"]);
    }
}
