//! Tests of the prompt tokenizer: every golden string, the cut, damaged files.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::text::{basic_clean, clean, clean_without_ftfy, micro_tokenizer_json};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn cases(kind: &str) -> (usize, Vec<Value>) {
    let text = std::fs::read_to_string(fixture(kind).join("tokenizer_cases.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let max_len = file["max_len"].as_u64().unwrap() as usize;
    (max_len, file["cases"].as_array().unwrap().clone())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn tables_of_characters_have_the_trie_that_they_announce() {
    // A size of 8 and as many bytes; of 8 with 7; of nearly 2^32.
    assert!(is_charsmap("CAAAAAAEAAABAgMEYQA="));
    for damaged in ["", "CAAA", "CAAAAAAEAAABAgM=", "/////wAEAAABAgMEYQA=", "CAAA*AAE"] {
        assert!(!is_charsmap(damaged), "{damaged}");
    }
    let mut file: Value = serde_json::from_str(&micro_tokenizer_json()).unwrap();
    let table = json!({ "type": "Precompiled", "precompiled_charsmap": "/////wAEAAABAgMEYQA=" });
    file["normalizer"] = json!({ "type": "Sequence", "normalizers": [table] });
    let error = PromptTokenizer::parse(file.to_string().as_bytes(), "x").unwrap_err();
    assert_eq!((error.code(), error.place()), ("E0733", Some("x")), "{error}");
    assert!(error.message().contains("table of characters"), "{error}");
}

#[test]
fn golden_cleaning() {
    for kind in ["text/base", "text/plain"] {
        let (_, cases) = cases(kind);
        assert_eq!(cases.len(), 54);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            assert_eq!(basic_clean(text), case["after_basic_clean"].as_str().unwrap(), "{text:?}");
            let cleaned = case["cleaned"].as_str().unwrap();
            assert_eq!(clean(text), cleaned, "{text:?}");
            let without = case["cleaned_without_ftfy"].as_str().unwrap_or(cleaned);
            assert_eq!(clean_without_ftfy(text), without, "{text:?}");
        }
    }
}

#[test]
fn golden_ids() {
    for (kind, file) in ["text/base", "text/plain"]
        .into_iter()
        .flat_map(|kind| ["tokenizer.json", "spiece.model"].map(|file| (kind, file)))
    {
        let rows = PromptTokenizer::open(fixture(kind).join("tokenizer.json")).unwrap().id_limit();
        let tokenizer = PromptTokenizer::open_for(fixture(kind).join(file), rows).unwrap();
        assert_eq!(tokenizer.id_limit(), rows, "{file}");
        assert_eq!((tokenizer.pad_id(), tokenizer.end_id()), (Some(0), 1));
        assert_eq!(tokenizer.unknown_id(), Some(2));
        let (max_len, cases) = cases(kind);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let cleaned = clean(text);
            let encoded = tokenizer.encode(&cleaned, 4096).unwrap();
            assert_eq!(encoded.ids, ids(&case["ids"]), "{text:?}");
            // The golden tokens show an unknown by its text.
            for (id, name) in encoded.ids.iter().zip(case["tokens"].as_array().unwrap()) {
                let known = Some(*id) != tokenizer.unknown_id();
                assert!(!known || tokenizer.token(*id).as_deref() == name.as_str(), "{text:?}");
            }
            let raw = tokenizer.encode(text, 4096).unwrap();
            assert_eq!(raw.ids, ids(&case["ids_of_uncleaned_text"]), "{text:?}");
            let short = tokenizer.encode(&cleaned, max_len).unwrap();
            let expected = case.get("truncated_ids").unwrap_or(&case["ids"]);
            assert_eq!(short.ids, ids(expected), "{text:?}");
            assert_eq!(short.truncated_at.is_some(), case.get("truncated_ids").is_some());
            if let Some(without) = case.get("ids_without_ftfy") {
                let encoded = tokenizer.encode(&clean_without_ftfy(text), 4096).unwrap();
                assert_eq!(encoded.ids, ids(without), "{text:?}");
            }
        }
    }
}

#[test]
fn the_pipeline_prompt() {
    let folder = fixture("pipeline/base");
    let tokenizer = PromptTokenizer::open(folder.join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode("", 16).unwrap().ids, [tokenizer.end_id()]);
    let meta: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).unwrap()).unwrap();
    let prompt = find_text(&meta, "prompt").unwrap();
    let encoded = tokenizer.encode(&clean(&prompt), 16).unwrap();
    let bytes = std::fs::read(folder.join("inputs.safetensors")).unwrap();
    assert_eq!(encoded.ids, unpadded_ids(&bytes, "prompt.input_ids", tokenizer.pad_id()));
}

/// The text under `key`, at the top or one level below.
fn find_text(value: &Value, key: &str) -> Option<String> {
    let map = value.as_object()?;
    let own = map.get(key).and_then(Value::as_str).map(str::to_owned);
    own.or_else(|| map.values().find_map(|inner| find_text(inner, key)))
}

/// One int64 tensor of a safetensors file, up to the first padding.
fn unpadded_ids(file: &[u8], name: &str, pad: Option<u32>) -> Vec<u32> {
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let place = ids(&header[name]["data_offsets"]);
    let data = &file[8 + header_len..][place[0] as usize..place[1] as usize];
    let all = data.chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()) as u32);
    all.take_while(|id| Some(*id) != pad).collect()
}

#[test]
fn the_cut_is_shown() {
    let tokenizer = PromptTokenizer::open(fixture("text/base/tokenizer.json")).unwrap();
    let text = "The person from image 1 walks along the beach at sunset with a red umbrella";
    let encoded = tokenizer.encode(text, 20).unwrap();
    assert_eq!(encoded.ids.len(), 20);
    let at = encoded.truncated_at.unwrap();
    // The kept part alone gives the kept ids.
    assert_eq!(tokenizer.encode(&text[..at], 64).unwrap().ids, encoded.ids);
    let warning = encoded.truncation(text).unwrap();
    assert!(text[..at].trim_end().ends_with(&warning.kept));
    assert!(text[at..].trim_start().starts_with(&warning.dropped));
    assert_eq!((warning.kept_len, warning.full_len), (20, encoded.full_len));
    assert!(warning.to_string().contains("cut between"));
    assert_eq!(tokenizer.encode("short", 20).unwrap().truncation("short"), None);
    for max_len in [0, 1] {
        let encoded = tokenizer.encode(text, max_len).unwrap();
        assert_eq!((encoded.ids, encoded.truncated_at), (vec![1], Some(0)));
    }
}

#[test]
fn a_cut_inside_a_character_falls_before_it() {
    let micro = PromptTokenizer::parse(micro_tokenizer_json().as_bytes(), "built-in").unwrap();
    let text = "ab猫猫猫";
    for max_len in 1..14 {
        let encoded = micro.encode(text, max_len).unwrap();
        assert!(text.is_char_boundary(encoded.truncated_at.unwrap_or(0)));
        encoded.truncation(text);
    }
    assert_eq!(micro.encode(text, 6).unwrap().truncated_at, Some(2));
}

#[test]
fn byte_fallback_can_be_overridden() {
    let open = |kind| PromptTokenizer::open(fixture(kind).join("tokenizer.json")).unwrap();
    let off = open("text/base").with_byte_fallback(false).unwrap();
    assert!(off.encode("\u{10330}", 64).unwrap().ids.contains(&2));
    let on = open("text/base").with_byte_fallback(true).unwrap();
    assert!(!on.encode("\u{10330}", 64).unwrap().ids.contains(&2));
}

fn code_of(json: &[u8]) -> &'static str {
    PromptTokenizer::parse(json, "test").unwrap_err().code()
}

fn micro() -> Value {
    serde_json::from_str(&micro_tokenizer_json()).unwrap()
}

#[test]
fn unusable_files_give_coded_errors() {
    let error = PromptTokenizer::open(fixture("no/such/tokenizer.json")).unwrap_err();
    assert_eq!(error.code(), "E0731");
    assert!(error.help_text().is_some() && error.place().is_some());
    assert_eq!(PromptTokenizer::open(fixture("text")).unwrap_err().code(), "E0731");
    assert_eq!(code_of(&b"[".repeat(1 << 20)), "E0732");
    assert_eq!(code_of(&[b"[".to_vec(), b"0,".repeat(9_000_000)].concat()), "E0732");
    for text in
        ["", "no json", "{}", "[]", "null", "{\"model\":{}}", "{\"model\":{\"type\":\"Unigram\"}}"]
    {
        assert_eq!(code_of(text.as_bytes()), "E0733", "{text}");
    }
    assert_eq!(code_of(&std::fs::read(fixture("text/base/spiece.model")).unwrap()), "E0733");
    let mut other = micro();
    other["model"] = json!({"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "a"});
    assert_eq!(code_of(other.to_string().as_bytes()), "E0734");
    let mut endless = micro();
    endless["model"]["vocab"][1][0] = json!("<end>");
    endless["added_tokens"] = json!([]);
    assert_eq!(code_of(endless.to_string().as_bytes()), "E0735");
    let mut doubled = micro();
    doubled["post_processor"]["single"] = json!([
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}}
    ]);
    assert_eq!(code_of(doubled.to_string().as_bytes()), "E0736");
}

#[test]
fn a_file_without_post_processor_still_ends_in_the_end_token() {
    let mut json = micro();
    json["post_processor"] = Value::Null;
    let tokenizer = PromptTokenizer::parse(json.to_string().as_bytes(), "test").unwrap();
    assert_eq!(tokenizer.encode("", 8).unwrap().ids, [1]);
    assert_eq!(tokenizer.encode("a cat on a mat", 3).unwrap().ids.len(), 3);
    assert_eq!(tokenizer.encode("a cat on a mat", 3).unwrap().ids[2], 1);
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let mut json = micro();
    json["truncation"] = json!({"direction": "Right", "max_length": 2,
        "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
    let tokenizer = PromptTokenizer::parse(json.to_string().as_bytes(), "test").unwrap();
    assert_eq!(tokenizer.encode("", 8).unwrap().ids, [1]);
    assert_eq!(tokenizer.encode("xyz", 8).unwrap().ids.len(), 5);
}

#[test]
fn text_that_cannot_be_written_is_an_error() {
    let mut json = micro();
    json["model"]["unk_id"] = Value::Null;
    json["model"]["byte_fallback"] = json!(false);
    let tokenizer = PromptTokenizer::parse(json.to_string().as_bytes(), "test").unwrap();
    assert_eq!(tokenizer.encode("猫", 8).unwrap_err().code(), "E0737");
    assert_eq!(tokenizer.encode(&"a".repeat((1 << 20) + 1), 8).unwrap_err().code(), "E0738");
}

#[test]
fn a_damaged_character_map_is_an_error() {
    let mut json = micro();
    // A trie of four units that all point far beyond it.
    let map = "EAAAAP///3////9/////f////38=";
    json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": map});
    let tokenizer = PromptTokenizer::parse(json.to_string().as_bytes(), "test");
    let code = tokenizer.and_then(|tokenizer| tokenizer.encode("abc", 8)).unwrap_err().code();
    assert!(["E0733", "E0737"].contains(&code), "{code}");
}
