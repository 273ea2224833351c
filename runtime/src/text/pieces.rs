//! Tokenizers that are stored as a list of pieces: SentencePiece's own files (`spiece.model`), which
//! also lie inside text encoders of ComfyUI, and the metadata of GGUF files.
//!
//! Both are brought to the `tokenizer.json` that transformers makes of them, so that there is one
//! tokenizer. What a file says is checked no further than that needs. `formats.md §1`, `text.md §5`.

use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf;
use crate::error::{Error, Result};

/// Pieces that T5 has besides those of its file: `<extra_id_299>` to `<extra_id_0>`.
const EXTRA: usize = 300;
/// Most pieces of a file.
const MOST: usize = 1 << 20;
/// SentencePiece's number for its Unigram models.
const UNIGRAM: u64 = 1;

/// What a piece is for, in SentencePiece's numbers.
mod kind {
    pub(super) const NORMAL: u64 = 1;
    pub(super) const UNKNOWN: u64 = 2;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const USER: u64 = 4;
    pub(super) const UNUSED: u64 = 5;
    pub(super) const BYTE: u64 = 6;
}

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// The pieces of a tokenizer, and how a text is brought to the form they are for.
pub(super) struct Pieces {
    list: Vec<Piece>,
    charsmap: Vec<u8>,
    byte_fallback: bool,
    /// Whether a space is put before a text.
    spaced: bool,
    /// Whether several spaces become one.
    collapsed: bool,
}

fn damaged(what: impl Into<String>, place: &str) -> Error {
    Error::input("E0733", what.into())
        .at(place)
        .help("give the tokenizer.json or the spiece.model of the text encoder")
}

/// A field of a message: its number, and what it holds.
enum Field<'b> {
    Number(u64, u64),
    Bytes(u64, &'b [u8]),
    Single(u64, f32),
    Other,
}

/// The fields of a message in the encoding of protocol buffers, one after the other; `None` where it is
/// damaged.
fn next<'b>(rest: &mut &'b [u8]) -> Option<Field<'b>> {
    let tag = varint(rest)?;
    let number = tag >> 3;
    Some(match tag & 7 {
        0 => Field::Number(number, varint(rest)?),
        1 => {
            *rest = rest.get(8..)?;
            Field::Other
        }
        2 => {
            let count = usize::try_from(varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(count)?;
            *rest = after;
            Field::Bytes(number, bytes)
        }
        5 => {
            let (bytes, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            Field::Single(number, f32::from_le_bytes(*bytes))
        }
        _ => return None,
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Pieces {
    /// Reads a SentencePiece model.
    ///
    /// # Errors
    /// E0733 for a file that is none, E0734 for a model that is not Unigram.
    pub(super) fn of_sentencepiece(bytes: &[u8], place: &str) -> Result<Self> {
        let mut out = Self {
            list: Vec::new(),
            charsmap: Vec::new(),
            byte_fallback: false,
            spaced: true,
            collapsed: true,
        };
        let bad = || damaged("this is no SentencePiece model, or a damaged one", place);
        let mut rest = bytes;
        while !rest.is_empty() {
            match next(&mut rest).ok_or_else(bad)? {
                Field::Bytes(1, piece) if out.list.len() < MOST => {
                    out.list.push(Self::piece(piece).ok_or_else(bad)?);
                }
                Field::Bytes(1, _) => return Err(bad()),
                Field::Bytes(2, trainer) => out.trained(trainer, place)?.ok_or_else(bad)?,
                Field::Bytes(3, mut normaliser) => {
                    while !normaliser.is_empty() {
                        if let Field::Bytes(2, charsmap) = next(&mut normaliser).ok_or_else(bad)? {
                            out.charsmap = charsmap.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        if out.list.is_empty() {
            return Err(bad());
        }
        Ok(out)
    }

    fn piece(mut rest: &[u8]) -> Option<Piece> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: kind::NORMAL };
        while !rest.is_empty() {
            match next(&mut rest)? {
                Field::Bytes(1, text) => piece.text = std::str::from_utf8(text).ok()?.to_owned(),
                Field::Single(2, score) => piece.score = score,
                Field::Number(3, kind) => piece.kind = kind,
                _ => {}
            }
        }
        Some(piece)
    }

    /// What the file says about its training; `None` where that is damaged.
    fn trained(&mut self, mut rest: &[u8], place: &str) -> Result<Option<()>> {
        while !rest.is_empty() {
            match next(&mut rest) {
                None => return Ok(None),
                Some(Field::Number(3, kind)) if kind != UNIGRAM => {
                    return Err(Error::input("E0734", "the tokenizer is not a Unigram model")
                        .at(place)
                        .help("give the spiece.model of the umT5 text encoder"));
                }
                Some(Field::Number(35, flag)) => self.byte_fallback = flag != 0,
                Some(_) => {}
            }
        }
        Ok(Some(()))
    }

    /// Takes the tokenizer of a GGUF file; `None` if it has none.
    ///
    /// # Errors
    /// E0333 and E0733 for metadata that are damaged, E0734 for a model of another kind; those of
    /// reading.
    pub(super) fn of_gguf(file: &Checkpoint) -> Result<Option<Self>> {
        let place = file.path().display().to_string();
        let Some(texts) = file.texts("tokenizer.ggml.tokens")? else { return Ok(None) };
        if let Some(model) = file.metadata().get("tokenizer.ggml.model").filter(|m| *m != "t5") {
            let what = format!("the tokenizer is of the kind \"{model}\", not a Unigram model");
            return Err(Error::input("E0734", what)
                .at(place)
                .help("give the tokenizer.json of the umT5 text encoder with --tokenizer"));
        }
        let scores = file.numbers("tokenizer.ggml.scores")?.unwrap_or_default();
        let kinds = file.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
        if scores.len() != texts.len() || kinds.len() != texts.len() {
            let what = format!(
                "the tokenizer has {} pieces, {} scores and {} kinds",
                texts.len(),
                scores.len(),
                kinds.len()
            );
            return Err(damaged(what, &place));
        }
        let bytes = file.numbers("tokenizer.ggml.precompiled_charsmap")?.unwrap_or_default();
        // Some programs write bytes with a sign.
        let charsmap = bytes.iter().map(|byte| *byte as i64 as u8).collect();
        let one = |((text, score), kind): ((String, f64), f64)| {
            let kind = kind as u64;
            // Added pieces have scores there that would make every unknown character dearer.
            let score = if kind == kind::USER { 0.0 } else { score as f32 };
            Piece { text, score, kind }
        };
        let mut list: Vec<Piece> = texts.into_iter().zip(scores).zip(kinds).map(one).collect();
        // Rows that only fill up the embedding.
        while list.last().is_some_and(|piece| piece.kind == kind::UNUSED) {
            list.pop();
        }
        let byte_fallback = list.iter().any(|piece| piece.kind == kind::BYTE);
        let said = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}"));
        // Pieces are found by what they are: numbers that name others contradict that.
        type Fits = fn(&Piece) -> bool;
        let named: [(&str, Fits); 3] = [
            ("eos_token_id", |piece| piece.text == "</s>"),
            ("padding_token_id", |piece| piece.text == "<pad>"),
            ("unknown_token_id", |piece| piece.kind == kind::UNKNOWN),
        ];
        for (key, fits) in named {
            let Some(number) = said(key) else { continue };
            let piece = number.parse().ok().and_then(|at: usize| list.get(at));
            if !piece.is_some_and(fits) {
                let piece = piece.map_or("none", |piece| piece.text.as_str());
                let what = format!("the tokenizer's {key} is {number}, and that piece is {piece}");
                return Err(damaged(what, &place));
            }
        }
        let holds = |key: &str| said(key).is_none_or(|said| said != "false");
        let (spaced, collapsed) = (holds("add_space_prefix"), holds("remove_extra_whitespaces"));
        Ok(Some(Self { list, charsmap, byte_fallback, spaced, collapsed }))
    }

    /// Takes the pieces of a `tokenizer.json`; `None` where its model is not Unigram, or it prepares texts
    /// otherwise than these files can say.
    pub(super) fn of_json(value: &Value) -> Option<Self> {
        let model = &value["model"];
        if model["type"] != "Unigram" {
            return None;
        }
        let unknown = model["unk_id"].as_u64();
        let byte_fallback = model["byte_fallback"].as_bool().unwrap_or_default();
        let mut list = Vec::new();
        for (id, piece) in model["vocab"].as_array()?.iter().enumerate() {
            let (text, score) = (piece[0].as_str()?.to_owned(), piece[1].as_f64()? as f32);
            let byte = byte_fallback && text.len() == 6 && text.starts_with("<0x");
            let kind = match Some(id as u64) == unknown {
                true => kind::UNKNOWN,
                false if byte => kind::BYTE,
                false => kind::NORMAL,
            };
            list.push(Piece { text, score, kind });
        }
        for token in value["added_tokens"].as_array()? {
            let (id, text) = (token["id"].as_u64()? as usize, token["content"].as_str()?);
            // Tokens behind the vocabulary would have no score.
            let piece = list.get_mut(id).filter(|piece| piece.text == text)?;
            let extra = text.starts_with("<extra_id_") || token["special"] != true;
            match (piece.kind, extra) {
                (kind::UNKNOWN, _) => {}
                (_, true) => piece.kind = kind::USER,
                (_, false) => piece.kind = kind::CONTROL,
            }
        }
        let parts = |of: &str, several: &str| match &value[of] {
            Value::Null => Vec::new(),
            one => one[several].as_array().cloned().unwrap_or_else(|| vec![one.clone()]),
        };
        let (mut charsmap, mut collapsed) = (Vec::new(), false);
        for part in parts("normalizer", "normalizers") {
            match part["type"].as_str()? {
                "Precompiled" => charsmap = bytes_of(part["precompiled_charsmap"].as_str()?)?,
                "Replace" => collapsed = true,
                "Strip" => {}
                _ => return None,
            }
        }
        let mut spaced = false;
        for part in parts("pre_tokenizer", "pretokenizers") {
            match part["type"].as_str()? {
                "Metaspace" => {
                    let never =
                        part["prepend_scheme"] == "never" || part["add_prefix_space"] == false;
                    spaced = !never;
                }
                // Splitting at blanks leaves no blank of several.
                "WhitespaceSplit" => collapsed = true,
                _ => return None,
            }
        }
        Some(Self { list, charsmap, byte_fallback, spaced, collapsed })
    }

    /// The metadata of a GGUF file with these pieces, filled up to so many rows of an embedding.
    pub(super) fn to_gguf(&self, rows: usize) -> Vec<(&'static str, gguf::Value)> {
        use gguf::Value;
        let filler = (self.list.len()..rows).map(|id| Piece {
            text: format!("[PAD{id}]"),
            score: -10_000.0,
            kind: kind::UNUSED,
        });
        let filler: Vec<Piece> = filler.collect();
        let all = || self.list.iter().chain(&filler);
        // Added pieces are found before the others, and have what llama.cpp gives them.
        let score = |piece: &Piece| match piece.kind {
            kind::USER => -1000.0,
            _ => piece.score,
        };
        let id = |fits: &dyn Fn(&Piece) -> bool| {
            self.list.iter().position(fits).map(|at| Value::U32(at as u32))
        };
        let mut out = vec![
            ("tokenizer.ggml.model", Value::Text("t5".to_owned())),
            ("tokenizer.ggml.pre", Value::Text("default".to_owned())),
            (
                "tokenizer.ggml.tokens",
                Value::Texts(all().map(|piece| piece.text.clone()).collect()),
            ),
            ("tokenizer.ggml.scores", Value::F32s(all().map(score).collect())),
            ("tokenizer.ggml.token_type", Value::I32s(all().map(|p| p.kind as i32).collect())),
            ("tokenizer.ggml.add_space_prefix", Value::Bool(self.spaced)),
            ("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(self.collapsed)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            ("tokenizer.ggml.add_eos_token", Value::Bool(true)),
        ];
        if !self.charsmap.is_empty() {
            let charsmap = Value::Bytes(self.charsmap.clone());
            out.push(("tokenizer.ggml.precompiled_charsmap", charsmap));
        }
        let ids = [
            ("tokenizer.ggml.eos_token_id", id(&|piece| piece.text == "</s>")),
            ("tokenizer.ggml.unknown_token_id", id(&|piece| piece.kind == kind::UNKNOWN)),
            ("tokenizer.ggml.padding_token_id", id(&|piece| piece.text == "<pad>")),
        ];
        out.extend(ids.into_iter().filter_map(|(key, id)| Some((key, id?))));
        out
    }

    /// The `tokenizer.json` of these pieces, for an embedding of so many rows.
    ///
    /// # Errors
    /// E0733 for scores that are no numbers, or without an unknown piece.
    pub(super) fn to_json(&self, rows: usize, place: &str) -> Result<String> {
        let mut vocabulary: Vec<Value> = Vec::with_capacity(self.list.len() + EXTRA);
        let mut added = Vec::new();
        for (id, piece) in self.list.iter().enumerate() {
            if !piece.score.is_finite() {
                return Err(damaged(format!("the score of piece {id} is not finite"), place));
            }
            vocabulary.push(json!([piece.text, f64::from(piece.score)]));
            let special = matches!(piece.kind, kind::UNKNOWN | kind::CONTROL);
            if special || piece.kind == kind::USER {
                added.push(token(id, &piece.text, special));
            }
        }
        let unknown = self.list.iter().position(|piece| piece.kind == kind::UNKNOWN);
        let unknown = unknown.ok_or_else(|| damaged("there is no unknown piece", place))?;
        let end = self.list.iter().position(|piece| piece.text == "</s>").unwrap_or_default();
        if self.list.iter().all(|piece| piece.text != "<extra_id_0>") {
            let extra = EXTRA.min(rows.saturating_sub(self.list.len()));
            for number in (0..extra).rev() {
                let text = format!("<extra_id_{number}>");
                added.push(token(vocabulary.len(), &text, true));
                vocabulary.push(json!([text, 0.0]));
            }
        }
        let mut normalizers = Vec::new();
        if !self.charsmap.is_empty() {
            let charsmap = base64(&self.charsmap);
            normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": charsmap }));
        }
        normalizers.push(json!({ "type": "Strip", "strip_left": false, "strip_right": true }));
        if self.collapsed {
            let spaces = json!({ "Regex": " {2,}" });
            normalizers.push(json!({ "type": "Replace", "pattern": spaces, "content": "▁" }));
        }
        let scheme = if self.spaced { "always" } else { "never" };
        let metaspace = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true,
        });
        let last = json!({ "SpecialToken": { "id": "</s>", "type_id": 0 } });
        let sequence = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": metaspace,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [sequence("A"), last],
                "pair": [sequence("A"), last, sequence("B"), last],
                "special_tokens": {
                    "</s>": { "id": "</s>", "ids": [end], "tokens": ["</s>"] },
                },
            },
            "decoder": metaspace,
            "model": {
                "type": "Unigram",
                "unk_id": unknown,
                "byte_fallback": self.byte_fallback,
                "vocab": vocabulary,
            },
        });
        Ok(tokenizer.to_string())
    }
}

fn token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}

/// Bytes as text in base 64, as `tokenizer.json` holds them.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for digit in 0..4 {
            let at = word >> (18 - 6 * digit) & 63;
            let digit = if digit <= three.len() { DIGITS[at as usize] } else { b'=' };
            out.push(char::from(digit));
        }
    }
    out
}

/// What a text in base 64 stands for; `None` where it is none.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let text = text.trim_end_matches('=').as_bytes();
    for four in text.chunks(4) {
        let mut word = 0u32;
        for digit in four {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(value);
        }
        let word = word << (6 * (4 - four.len()));
        let count = [None, None, Some(1), Some(2), Some(3)][four.len()]?;
        out.extend(&word.to_be_bytes()[1..=count]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_its_definition() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xff\xfe\xfd", "//79"),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(bytes_of(text).unwrap(), bytes);
        }
        assert!(bytes_of("Zm9v!").is_none() && bytes_of("Zm9vY").is_none());
    }

    #[test]
    fn pieces_of_a_tokenizer_are_the_same_in_both_forms() {
        let piece = |text: &str, score, kind| Piece { text: text.to_owned(), score, kind };
        let pieces = Pieces {
            list: vec![
                piece("<pad>", 0.0, kind::CONTROL),
                piece("</s>", 0.0, kind::CONTROL),
                piece("<unk>", 0.0, kind::UNKNOWN),
                piece("<0x41>", -1.0, kind::BYTE),
                piece("\u{2581}a", -2.5, kind::NORMAL),
                piece("<extra_id_0>", 0.0, kind::USER),
            ],
            charsmap: vec![1, 2, 3, 4],
            byte_fallback: true,
            spaced: true,
            collapsed: true,
        };
        let json = pieces.to_json(8, "x").unwrap();
        let again = Pieces::of_json(&serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(again.to_json(8, "x").unwrap(), json);
        let (ours, theirs) = (pieces.to_gguf(8), again.to_gguf(8));
        assert_eq!(ours, theirs);
        let tokens = &ours.iter().find(|(key, _)| *key == "tokenizer.ggml.tokens").unwrap().1;
        match tokens {
            gguf::Value::Texts(texts) => {
                assert_eq!(texts[5..], ["<extra_id_0>", "[PAD6]", "[PAD7]"])
            }
            other => panic!("{other:?}"),
        }
        let mut value: Value = serde_json::from_str(&json).unwrap();
        value["normalizer"]["normalizers"][1]["type"] = json!("Lowercase");
        assert!(Pieces::of_json(&value).is_none(), "no file of pieces says that");
        let other = json!({ "model": { "type": "WordLevel" } });
        assert!(Pieces::of_json(&other).is_none());
    }

    #[test]
    fn damaged_models_are_refused() {
        // Pieces: one text of one byte; then lengths that lie, numbers without an end, wire types
        // that there are not.
        let good = b"\x0a\x05\x0a\x01a\x18\x02";
        assert_eq!(Pieces::of_sentencepiece(good, "x").unwrap().list.len(), 1);
        for bytes in [
            &b""[..],
            b"\x0a\xff",
            b"\x0a\x05\x0a\x7fa\x18\x02",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0b\x05",
            b"\x0a\x03\x0a\x01\xff",
        ] {
            let error = Pieces::of_sentencepiece(bytes, "x").map(|_| ()).unwrap_err();
            assert_eq!((error.code(), error.place()), ("E0733", Some("x")), "{error}");
        }
        let other = b"\x0a\x05\x0a\x01a\x18\x02\x12\x02\x18\x02";
        assert_eq!(Pieces::of_sentencepiece(other, "x").map(|_| ()).unwrap_err().code(), "E0734");
        let none = Pieces::of_sentencepiece(b"\x0a\x03\x0a\x01a", "x").unwrap();
        assert_eq!(none.to_json(10, "x").unwrap_err().code(), "E0733");
    }
}
