//! Tokenizer strings, relative buckets and the text encoder.

use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use anyid_models::wan::config::TextConfig;
use anyid_models::wan::names::Component;
use anyid_models::wan::text::text;
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::text::{PromptTokenizer, basic_clean, clean, clean_without_ftfy};
use anyid_runtime::weights::ModelWeights;
use anyid_tests::close::{Check, relative};
use anyid_tests::engines::{Engine, run as execute};
use anyid_tests::fixtures::{Tensors, json, sample};
use std::path::Path;
use std::sync::Arc;

const TOLERANCE: f64 = 1e-5;

pub(crate) fn run(case: &Path) -> Vec<(String, Vec<Check>)> {
    let mut out = vec![("tokenizer".to_owned(), tokenizer(case))];
    let config = TextConfig::from_diffusers(&json(&case.join("config.json")))
        .unwrap_or_else(|e| panic!("{e}"));
    let set = WeightSet::open(case.join("model.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    let weights =
        Arc::new(ModelWeights::recognise(&set, Component::Text).unwrap_or_else(|e| panic!("{e}")));
    let inputs = Tensors::open(&case.join("inputs.safetensors"));
    let expected = Tensors::open(&case.join("expected.safetensors"));
    for engine in Engine::of_case(case) {
        let mut checks = Vec::new();
        for prefix in ["", "long."] {
            if inputs.find(&format!("{prefix}input_ids")).is_some() {
                encoder(engine, &config, &weights, &inputs, &expected, prefix, &mut checks);
            }
        }
        out.push((engine.name(), checks));
    }
    out
}

/// Every string of `tokenizer_cases.json`: an error of 1 for each that differs.
fn tokenizer(case: &Path) -> Vec<Check> {
    let path = case.join("tokenizer_cases.json");
    if !path.exists() {
        return vec![Check { name: "no strings".into(), error: 0.0, tolerance: 0.0 }];
    }
    let cases = json(&path);
    let max_len = cases["max_len"].as_u64().unwrap_or(512) as usize;
    let tokenizer =
        PromptTokenizer::open(case.join("tokenizer.json")).unwrap_or_else(|e| panic!("{e}"));
    let ids = |text: &str, most: usize| {
        let encoded = tokenizer.encode(text, most).unwrap_or_else(|e| panic!("{e}"));
        serde_json::json!(encoded.ids)
    };
    let most = usize::MAX / 2;
    let mut checks = Vec::new();
    for (i, each) in cases["cases"].as_array().expect("cases").iter().enumerate() {
        let source = each["text"].as_str().expect("text");
        let mut push = |name: &str, same: bool| {
            let error = f64::from(u8::from(!same));
            checks.push(Check { name: format!("string {i} {name}"), error, tolerance: 0.0 });
        };
        let cleaned = clean(source);
        push("basic clean", basic_clean(source) == each["after_basic_clean"]);
        push("cleaned", cleaned == each["cleaned"]);
        push("ids", ids(&cleaned, most) == each["ids"]);
        if let Some(expected) = each.get("ids_of_uncleaned_text") {
            push("ids of uncleaned text", ids(source, most) == *expected);
        }
        if let Some(expected) = each.get("truncated_ids").filter(|v| !v.is_null()) {
            push("truncated ids", ids(&cleaned, max_len) == *expected);
        }
        if let Some(expected) = each.get("cleaned_without_ftfy").filter(|v| !v.is_null()) {
            push("cleaned without ftfy", clean_without_ftfy(source) == *expected);
        }
        if let Some(expected) = each.get("ids_without_ftfy").filter(|v| !v.is_null()) {
            push("ids without ftfy", ids(&clean_without_ftfy(source), most) == *expected);
        }
    }
    checks
}

fn encoder(
    engine: Engine,
    config: &TextConfig,
    weights: &Arc<ModelWeights>,
    inputs: &Tensors,
    expected: &Tensors,
    prefix: &str,
    checks: &mut Vec<Check>,
) {
    let all_ids = inputs.get(&format!("{prefix}input_ids"));
    let mask = inputs.get(&format!("{prefix}attention_mask"));
    for index in 0..all_ids.shape()[0] {
        let real = sample(mask, index).to_f64_vec().iter().filter(|m| **m != 0.0).count();
        let ids: Vec<i32> =
            sample(all_ids, index).as_i32().expect("ids are integers")[..real].to_vec();
        let ids = Tensor::from_i32([real], &ids).expect("one id a token");
        let module = text(config, real, Precision::F32);
        let values = execute(engine, &module, "text", weights, &[("ids", &ids)]);
        let mut push = |name: &str, path: &str| {
            let Some(golden) = expected.find(&format!("{prefix}{name}")) else { return };
            let Some(given) = values.get(path) else {
                assert!(!engine.is_complete(), "no value {path}");
                return;
            };
            let given = given.to_f64_vec();
            // Rows of padding are discarded by every caller; ours do not exist.
            let golden = sample(golden, index).to_f64_vec()[..given.len()].to_vec();
            let error = relative(&given, &golden);
            checks.push(Check {
                name: format!("{prefix}{name}[{index}]"),
                error,
                tolerance: TOLERANCE,
            });
        };
        push("last_hidden_state", "last_hidden_state");
        push("prompt_embeds", "last_hidden_state");
        push("embed", "text/rows");
        push("block0.norm1", "text/blocks.0/n1");
        push("block0.attn", "text/blocks.0/o");
        push("block0.ff", "text/blocks.0/f");
        for layer in 0..config.layers {
            push(&format!("block{layer}.out"), &format!("text/blocks.{layer}/x2"));
        }
        buckets(&values, expected, config, real, checks);
    }
}

/// The bucket of every offset this run used, and the bias of block 0 for 20 tokens.
fn buckets(
    values: &anyid_tests::engines::Values,
    expected: &Tensors,
    config: &TextConfig,
    tokens: usize,
    checks: &mut Vec<Check>,
) {
    let positions = expected.get("rel_positions").to_f64_vec();
    let golden = expected.get("rel_buckets").to_f64_vec();
    // What a fused run keeps inside a kernel is compared by the other engines.
    if ["text/delta", "text/bucket", "text/blocks.0/bias"].iter().any(|v| !values.contains_key(*v))
    {
        return;
    }
    let delta = values["text/delta"].to_f64_vec();
    let given = values["text/bucket"].to_f64_vec();
    let wrong = delta.iter().zip(&given).filter(|(d, bucket)| {
        let at = positions.iter().position(|p| p == *d);
        at.is_some_and(|at| golden[at] != **bucket)
    });
    let error = wrong.count() as f64;
    checks.push(Check { name: format!("rel_buckets for {tokens} tokens"), error, tolerance: 0.0 });
    if tokens < 20 {
        return;
    }
    let Some(bias) = expected.find("block0.position_bias_len20") else { return };
    let table = values["text/blocks.0/bias"].to_f64_vec();
    let width = 2 * tokens - 1;
    let mut rows = Vec::new();
    for head in 0..config.heads {
        for query in 0..20 {
            for key in 0..20 {
                rows.push(table[head * width + key + tokens - 1 - query]);
            }
        }
    }
    let error = relative(&rows, &bias.to_f64_vec());
    let name = "block0.position_bias_len20".into();
    checks.push(Check { name, error, tolerance: TOLERANCE });
}
