//! Adapters against files of the programs that write them, in every dialect, and files that must be
//! refused (`tests/fixtures_extra/lora`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::checkpoint::{Derivation, Encoding, read_json, save};
use crate::output::Existing;
use crate::testing::TempFolder;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures_extra/lora")
}

/// The tensors of the fixtures' transformer: width 32, two blocks.
fn tensors() -> Vec<KnownTensor> {
    let mut list = Vec::new();
    let mut add = |name: &str, other: &str, leaf: &str, shape: &[u64]| {
        let join = |path: &str, leaf: &str| match path {
            "" => leaf.to_owned(),
            path => format!("{path}.{leaf}"),
        };
        let other_leaf = if leaf == "modulation" { "scale_shift_table" } else { leaf };
        let (name, other) = (join(name, leaf), join(other, other_leaf));
        list.push(KnownTensor { name, other, shape: Some(shape.to_vec()) });
    };
    let mut linear = |name: &str, other: &str, shape: &[u64]| {
        add(name, other, "weight", shape);
        add(name, other, "bias", &shape[..1]);
    };
    let condition = "condition_embedder";
    linear("patch_embedding", "patch_embedding", &[32, 48, 1, 2, 2]);
    for (name, other, shape) in [
        ("text_embedding.0", "text_embedder.linear_1", [32, 64]),
        ("text_embedding.2", "text_embedder.linear_2", [32, 32]),
        ("time_embedding.0", "time_embedder.linear_1", [32, 32]),
        ("time_embedding.2", "time_embedder.linear_2", [32, 32]),
        ("time_projection.1", "time_proj", [192, 32]),
    ] {
        linear(name, &format!("{condition}.{other}"), &shape);
    }
    linear("head.head", "proj_out", &[192, 32]);
    for i in 0..2 {
        for (name, other) in [("self_attn", "attn1"), ("cross_attn", "attn2")] {
            for (part, spelled) in [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")]
            {
                let (name, other) =
                    (format!("blocks.{i}.{name}.{part}"), format!("blocks.{i}.{other}.{spelled}"));
                linear(&name, &other, &[32, 32]);
            }
        }
        linear(&format!("blocks.{i}.norm3"), &format!("blocks.{i}.norm2"), &[32]);
        linear(&format!("blocks.{i}.ffn.0"), &format!("blocks.{i}.ffn.net.0.proj"), &[256, 32]);
        linear(&format!("blocks.{i}.ffn.2"), &format!("blocks.{i}.ffn.net.2"), &[32, 256]);
    }
    add("head", "", "modulation", &[1, 2, 32]);
    for i in 0..2 {
        let block = format!("blocks.{i}");
        add(&block, &block, "modulation", &[1, 6, 32]);
        for (name, other) in [("self_attn", "attn1"), ("cross_attn", "attn2")] {
            for norm in ["norm_q", "norm_k"] {
                let (name, other) =
                    (format!("{block}.{name}.{norm}"), format!("{block}.{other}.{norm}"));
                add(&name, &other, "weight", &[32]);
            }
        }
    }
    list
}

/// The modules of the fixtures' transformer.
pub(super) fn modules() -> Modules {
    let family = &[(1536, "Wan 1.3B"), (3072, "Wan2.2 5B"), (5120, "Wan 14B")];
    Modules::new(tensors()).of_width(32, family)
}

/// The weights of the fixtures' transformer under canonical names.
fn base() -> WeightSet {
    let set =
        WeightSet::open(folder().join("base/transformer/diffusion_pytorch_model.safetensors"))
            .unwrap();
    let names: BTreeMap<String, String> =
        tensors().into_iter().map(|tensor| (tensor.other, tensor.name)).collect();
    let set = set.renamed(|name| Some(names[name].clone())).unwrap();
    let expected: Vec<(String, Vec<u64>)> =
        tensors().into_iter().map(|tensor| (tensor.name, tensor.shape.unwrap())).collect();
    set.require(&expected).unwrap();
    set
}

fn values(set: &WeightSet, name: &str) -> Vec<f32> {
    let count = set.tensor(name).unwrap_or_else(|| panic!("{name}")).elements();
    let mut bytes = vec![0; 4 * count as usize];
    set.read_f32(name, 0, &mut bytes).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Largest difference over the largest value.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    let most = found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert_eq!(found.len(), expected.len());
    most / scale
}

pub(super) fn open(name: &str) -> Result<Adapter> {
    let mut adapter = Adapter::open(folder().join(name), &modules())?;
    adapter.require_matches(false)?;
    Ok(adapter)
}

fn cases() -> Value {
    read_json(folder().join("cases.json")).unwrap().value["cases"].clone()
}

/// The files of a case and their strengths.
fn files_of(case: &Value) -> Vec<(String, f64)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    match &case["path"] {
        Value::Array(paths) => {
            let strengths = case["strength"].as_array().unwrap().iter();
            paths.iter().map(text).zip(strengths.map(|s| s.as_f64().unwrap())).collect()
        }
        path => vec![(text(path), case["strength"].as_f64().unwrap_or(1.0))],
    }
}

/// What one of the fixtures' merged weights is; DoRA divides by norms in another order.
fn tolerance(case: &str) -> f32 {
    if case.contains("dora") { 2e-6 } else { 1e-6 }
}

/// Compares weights with everything that is expected of a case; gives the number of tensors.
fn compare_case(case: &str, merged: &WeightSet, tolerance: f32) -> usize {
    let expected = WeightSet::open(folder().join("expected.safetensors")).unwrap();
    let start = format!("{case}.merged.");
    let mut count = 0;
    for name in expected.names().filter(|name| name.starts_with(&start)) {
        let far = apart(&values(merged, &name[start.len()..]), &values(&expected, name));
        assert!(far <= tolerance, "{name}: {far:e}");
        count += 1;
    }
    assert!(count > 0, "{case}");
    count
}

#[test]
fn every_dialect_gives_the_weights_that_its_program_gives() {
    let base = base();
    let mut count = 0;
    for (name, case) in cases().as_object().unwrap() {
        let files = files_of(case);
        let adapters: Vec<(Adapter, f64)> = files
            .iter()
            .map(|(path, strength)| {
                (open(path).unwrap_or_else(|e| panic!("{name}: {e}")), *strength)
            })
            .collect();
        let list: Vec<(&Adapter, f64)> = adapters.iter().map(|(a, s)| (a, *s)).collect();
        let merged = applied(&base, &list).unwrap();
        let same_as = case["same_as"].as_str().unwrap_or(name);
        compare_case(same_as, &merged, tolerance(same_as));
        // What no adapter changes is as it was.
        let changed = |name: &str| {
            let mut changes = list.iter().flat_map(|(adapter, _)| &adapter.changes);
            changes.any(|change| name.rsplit_once('.').is_some_and(|(m, _)| m == change.module))
        };
        for name in base.names().filter(|name| !changed(name)) {
            assert!(values(&merged, name) == values(&base, name), "{name}");
        }
        let modules = case["modules"].as_u64().filter(|modules| *modules > 0);
        let products = adapters[0].0.changes.iter().filter(|change| change.product.is_some());
        if let Some(modules) = modules {
            assert_eq!(products.count() as u64, modules, "{name}");
        }
        if let (Some(scale), false) = (case["scale"].as_f64(), name.starts_with("diffsynth")) {
            assert_eq!(adapters[0].0.scales(), [scale], "{name}");
        }
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn dialects_are_recognised() {
    for (file, dialect) in [
        ("comfy_ab.safetensors", Some(Dialect::ComfyUi)),
        ("comfy_downup_bf16.safetensors", Some(Dialect::ComfyUi)),
        ("diffsynth.safetensors", Some(Dialect::DiffSynth)),
        ("diffsynth_pipe_dit.safetensors", Some(Dialect::DiffSynth)),
        ("musubi.safetensors", Some(Dialect::Musubi)),
        ("fun_reward.safetensors", Some(Dialect::Musubi)),
        ("peft", Some(Dialect::Peft)),
        ("peft/adapter_model.safetensors", Some(Dialect::Peft)),
        ("diffusion_pipe", Some(Dialect::ComfyUi)),
        ("diffusers_meta", Some(Dialect::Diffusers)),
        ("diffusers_no_meta", Some(Dialect::Diffusers)),
        ("diffusers_adapter", Some(Dialect::Diffusers)),
    ] {
        let adapter = open(file).unwrap();
        assert_eq!(adapter.dialect, dialect, "{file}");
        assert!(adapter.warnings.is_empty(), "{:?}", adapter.warnings);
    }
    let own = open("../../fixtures/dit/base/lora.safetensors").unwrap_err();
    assert_eq!(own.code(), "E0363", "of a wider network: {own}");
    assert!(own.message().contains("a model that is 128 wide, the model is 32 wide"), "{own}");
    for dialect in Dialect::ALL {
        assert_eq!(dialect.name().parse::<Dialect>().unwrap(), dialect);
    }
    assert_eq!("kohya".parse::<Dialect>().unwrap_err().code(), "E0374");
}

#[test]
fn what_must_be_refused_is_refused_with_its_file() {
    let bad = folder().join("bad");
    let cases = read_json(bad.join("cases.json")).unwrap().value;
    let codes = [
        ("no_match.safetensors", "E0362", "double_blocks"),
        ("other_width.safetensors", "E0363", "Wan 14B (5120), the model is 32 wide"),
        ("missing_b.safetensors", "E0364", "up"),
        ("rank_differs.safetensors", "E0365", "rank 4"),
        ("swapped.safetensors", "E0365", "4x4"),
        ("nan.safetensors", "E0370", "NaN"),
        ("alpha_vector.safetensors", "E0368", "[3]"),
        ("alpha_nan.safetensors", "E0370", "alpha"),
        ("unmatched_key.safetensors", "E0361", "k_img"),
        ("unknown_suffix.safetensors", "E0361", "lora_C"),
        ("block_out_of_range.safetensors", "E0362", "blocks.40"),
        ("two_dialects.safetensors", "E0366", "lora_down"),
        ("two_spellings.safetensors", "E0366", "to_q"),
        ("integer.safetensors", "E0370", "I32"),
        ("empty.safetensors", "E0360", "no tensors"),
        ("peft_type", "E0367", "IA3"),
        ("peft_rank_lies", "E0369", "rank"),
        ("peft_fan_in_fan_out", "E0367", "fan_in_fan_out"),
        ("peft_pissa", "E0367", "pissa"),
    ];
    assert_eq!(cases.as_object().unwrap().len(), codes.len());
    for (name, code, word) in codes {
        let error = open(&format!("bad/{name}")).unwrap_err();
        let either = name == "alpha_nan.safetensors" && error.code() == "E0368";
        assert!(error.code() == code || either, "{name}: {error}");
        assert!(error.message().contains(word), "{name}: {error}");
        assert!(error.place().is_some_and(|place| place.contains(name)), "{error:?}");
        assert!(error.help_text().is_some());
    }
    let mut allowed = Adapter::open(bad.join("unmatched_key.safetensors"), &modules()).unwrap();
    allowed.require_matches(true).unwrap();
    assert!(allowed.warnings.concat().contains("k_img"), "{:?}", allowed.warnings);
    assert_eq!(allowed.changes.len(), 1);
    let mut nothing = Adapter::open(bad.join("no_match.safetensors"), &modules()).unwrap();
    assert_eq!(nothing.require_matches(true).unwrap_err().code(), "E0362");
}

/// A file of tensors of ones.
fn made(folder: &TempFolder, tensors: &[(&str, &[u64])]) -> PathBuf {
    let ones = vec![1f32; 1 << 14];
    let bytes: Vec<u8> = ones.iter().flat_map(|one| one.to_le_bytes()).collect();
    let rows: Vec<(&str, Encoding, &[u64], &[u8])> = tensors
        .iter()
        .map(|(name, shape)| {
            let count: u64 = shape.iter().product();
            (*name, Encoding::F32, *shape, &bytes[..4 * count as usize])
        })
        .collect();
    let path = folder.path().join("made.safetensors");
    save(&path, &rows, &BTreeMap::new()).unwrap();
    path
}

#[test]
fn tensors_that_make_no_change_are_refused() {
    let folder = TempFolder::new();
    let q = |end: &str| format!("diffusion_model.blocks.0.self_attn.q.{end}");
    type Tensors<'a> = &'a [(&'a str, &'a [u64])];
    let cases: [(Tensors<'_>, &str, &str); 20] = [
        (&[("alpha", &[])], "E0364", "without the factors"),
        (&[("lora_B.bias", &[32])], "E0364", "without the factors"),
        (&[("dora_scale", &[32, 1])], "E0364", "without the factors"),
        (&[("lora_up.weight", &[32, 4])], "E0364", "down"),
        (&[("lora_mid.weight", &[4, 4, 3, 3])], "E0367", "Tucker"),
        (&[("set_weight", &[32, 32])], "E0367", "replaced"),
        (&[("hada_w1_a", &[32, 2]), ("hada_t1", &[2, 2, 3, 3])], "E0367", "Tucker"),
        (&[("lokr_w1", &[4, 4]), ("lokr_t2", &[2, 2, 3, 3])], "E0367", "Tucker"),
        (&[("hada_w1_a", &[32, 2]), ("hada_w1_b", &[2, 32])], "E0364", "w2_a"),
        (
            &[
                ("hada_w1_a", &[32, 2]),
                ("hada_w1_b", &[2, 32]),
                ("hada_w2_a", &[16, 2]),
                ("hada_w2_b", &[2, 64]),
            ],
            "E0365",
            "(16, 64)",
        ),
        (&[("lokr_w1", &[4, 4])], "E0364", "w2"),
        (&[("lokr_w1", &[4, 4]), ("lokr_w2_a", &[8, 2])], "E0364", "w2"),
        (&[("lokr_w1", &[4, 4]), ("lokr_w2", &[8, 8, 1])], "E0365", "two axes"),
        (&[("lokr_w1", &[4, 4]), ("lokr_w2", &[8, 4])], "E0365", "32x16"),
        (&[("diff", &[32, 31])], "E0365", "32x31"),
        (&[("diff", &[48, 48])], "E0363", "48 wide"),
        (&[("lora_A.weight", &[4, 48]), ("lora_B.weight", &[48, 4])], "E0363", "48 wide"),
        // A and B are exchanged.
        (&[("lora_A.weight", &[32, 4]), ("lora_B.weight", &[4, 32])], "E0365", "4x4"),
        (
            &[("lora_A.weight", &[4, 32]), ("lora_B.weight", &[32, 4]), ("dora_scale", &[32, 32])],
            "E0365",
            "a length",
        ),
        (&[("diff_m", &[32])], "E0365", "has none"),
    ];
    for (tensors, code, word) in cases {
        let named: Vec<(String, &[u64])> =
            tensors.iter().map(|(end, shape)| (q(end), *shape)).collect();
        let named: Vec<(&str, &[u64])> = named.iter().map(|(n, s)| (n.as_str(), *s)).collect();
        let error = Adapter::open(made(&folder, &named), &modules()).unwrap_err();
        assert_eq!(error.code(), code, "{tensors:?}: {error}");
        assert!(error.message().contains(word), "{error}");
    }
    let pair = made(
        &folder,
        &[("diffusion_model.transformer_2.blocks.0.self_attn.q.lora_A.weight", &[4, 32])],
    );
    let error = Adapter::open(pair, &modules()).unwrap_err();
    assert_eq!(error.code(), "E0367");
    assert!(error.message().contains("A14B"), "{error}");
    let other = made(&folder, &[("blocks.0.self_attn.q.weight", &[4, 32])]);
    assert_eq!(Adapter::open(other, &modules()).unwrap_err().code(), "E0360");
}

#[test]
fn folders_hold_one_adapter() {
    let folder = TempFolder::new();
    let error = Adapter::open(folder.path(), &modules()).unwrap_err();
    assert_eq!(error.code(), "E0360", "{error}");
    let tensors: [(&str, &[u64]); 2] = [
        ("blocks.0.self_attn.q.lora_A.weight", &[4, 32]),
        ("blocks.0.self_attn.q.lora_B.weight", &[32, 4]),
    ];
    made(&folder, &tensors);
    let one = Adapter::open(folder.path(), &modules()).unwrap();
    assert_eq!((one.ranks(), one.scales(), one.dialect), (vec![4], vec![1.0], None));
    std::fs::copy(&one.path, folder.path().join("other.safetensors")).unwrap();
    let error = Adapter::open(folder.path(), &modules()).unwrap_err();
    assert!(error.message().contains("made.safetensors"), "{error}");
    let missing = Adapter::open(folder.path().join("none.safetensors"), &modules()).unwrap_err();
    assert_eq!(missing.code(), "E0310");
    // A plain header says what the scale is, and has to be readable.
    for (alpha, expected) in [("8", Ok(2.0)), ("0", Err("E0368")), ("much", Err("E0371"))] {
        let words = [("rank", "4"), ("alpha", alpha)];
        let header = words.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let bytes = [0u8; 512];
        let rows: Vec<_> = tensors
            .iter()
            .map(|(name, shape)| (*name, Encoding::F32, *shape, &bytes[..]))
            .collect();
        let path = folder.path().join("header.safetensors");
        save(&path, &rows, &header).unwrap();
        let found = Adapter::open(&path, &modules()).map(|adapter| adapter.scales()[0]);
        assert_eq!(found.map_err(|error| error.code()), expected);
    }
}

#[test]
fn alpha_may_be_a_whole_number() {
    let folder = TempFolder::new();
    let name = |end: &str| format!("lora_unet_blocks_0_ffn_0.{end}");
    let [a, b, alpha] = [name("lora_down.weight"), name("lora_up.weight"), name("alpha")];
    let bytes = [0u8; 4096];
    let path = folder.path().join("a.safetensors");
    for (encoding, value, scale) in [
        (Encoding::I64, &(-8i64).to_le_bytes()[..], -2.0),
        (Encoding::I32, &16i32.to_le_bytes(), 4.0),
        (Encoding::I16, &(-4i16).to_le_bytes(), -1.0),
        (Encoding::U8, &[200], 50.0),
    ] {
        let rows: [(&str, Encoding, &[u64], &[u8]); 3] = [
            (&a, Encoding::F32, &[4, 32], &bytes[..512]),
            (&b, Encoding::F32, &[256, 4], &bytes),
            (&alpha, encoding, &[1], value),
        ];
        save(&path, &rows, &BTreeMap::new()).unwrap();
        assert_eq!(Adapter::open(&path, &modules()).unwrap().scales(), [scale], "{encoding}");
    }
}

#[test]
fn contradictions_in_words_are_warned_of() {
    let folder = TempFolder::new();
    let tensors: [(&str, &[u64]); 2] = [
        ("lora_unet_blocks_0_ffn_0.lora_down.weight", &[4, 32]),
        ("lora_unet_blocks_0_ffn_0.lora_up.weight", &[256, 4]),
    ];
    let bytes = [0u8; 4096];
    let rows: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            (*name, Encoding::F32, *shape, &bytes[..4 * shape.iter().product::<u64>() as usize])
        })
        .collect();
    let header = [("ss_network_dim", "8"), ("ss_network_alpha", "4")];
    let header = header.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let path = folder.path().join("a.safetensors");
    save(&path, &rows, &header).unwrap();
    let adapter = Adapter::open(&path, &modules()).unwrap();
    assert_eq!(adapter.warnings.len(), 1, "{:?}", adapter.warnings);
    assert!(adapter.warnings[0].contains("ss_network_dim is 8, the tensors have 4"));
    // The configuration of diffusion-pipe is followed where it contradicts the trainer.
    let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#;
    folder.write("pipe/adapter_config.json", config);
    let renamed: Vec<_> = rows
        .iter()
        .map(|(name, encoding, shape, bytes)| {
            let end =
                name.rsplit_once("_0.lora_").unwrap().1.replace("down", "A").replace("up", "B");
            (format!("diffusion_model.blocks.0.ffn.0.lora_{end}"), *encoding, *shape, *bytes)
        })
        .collect();
    let rows: Vec<_> = renamed.iter().map(|(n, e, s, b)| (n.as_str(), *e, *s, *b)).collect();
    save(folder.path().join("pipe/adapter_model.safetensors"), &rows, &BTreeMap::new()).unwrap();
    let adapter = Adapter::open(folder.path().join("pipe"), &modules()).unwrap();
    assert_eq!(adapter.scales(), [2.0]);
    assert!(adapter.warnings[0].contains("scaled by 2"), "{:?}", adapter.warnings);
}

#[test]
fn what_is_written_in_any_dialect_is_the_same_adapter() {
    let (base, modules, folder) = (base(), modules(), TempFolder::new());
    let (mut written, mut refused) = (0, 0);
    for (name, case) in cases().as_object().unwrap() {
        let files = files_of(case);
        if files.len() > 1 {
            continue;
        }
        let adapter = open(&files[0].0).unwrap();
        let merged = applied(&base, &[(&adapter, files[0].1)]).unwrap();
        for dialect in Dialect::ALL {
            let path = folder.path().join(format!("{name}-{dialect}"));
            let outcome = write(&adapter, dialect, &modules, &path, Existing::Keep);
            let rich = matches!(dialect, Dialect::ComfyUi | Dialect::Musubi);
            let out = match outcome {
                Ok(out) => out,
                Err(error) => {
                    assert_eq!(error.code(), "E0374", "{name} {dialect}: {error}");
                    assert!(!rich && !path.exists(), "{name} {dialect}: {error}");
                    refused += 1;
                    continue;
                }
            };
            let mut again = Adapter::open(&out.path, &modules).unwrap();
            again.require_matches(false).unwrap();
            assert_eq!(again.dialect, Some(dialect), "{name}");
            assert_eq!(again.tensors().len(), out.tensors);
            assert_eq!(again.tensors().total_bytes(), out.bytes);
            let second = applied(&base, &[(&again, files[0].1)]).unwrap();
            for change in &adapter.changes {
                for leaf in ["weight", "bias", "modulation"] {
                    let tensor = format!("{}.{leaf}", change.module);
                    if base.tensor(&tensor).is_some() {
                        let far = apart(&values(&second, &tensor), &values(&merged, &tensor));
                        assert!(far <= 1e-6, "{name} {dialect} {tensor}: {far:e}");
                    }
                }
            }
            written += 1;
        }
    }
    assert!(written > 80 && refused > 10, "{written} {refused}");
    let taken = folder.write("taken", b"kept");
    let adapter = open("comfy_ab.safetensors").unwrap();
    let error = write(&adapter, Dialect::ComfyUi, &modules, &taken, Existing::Keep).unwrap_err();
    assert_eq!(error.code(), "E1016");
    assert_eq!(std::fs::read(taken).unwrap(), b"kept");
}

#[test]
fn factors_of_dora_by_column_and_of_scaled_lokr_are_written() {
    let (base, modules, folder) = (base(), modules(), TempFolder::new());
    let name = |end: &str| format!("base_model.model.blocks.0.attn1.to_q.{end}");
    let lokr = [(name("lokr_w1"), vec![4, 4]), (name("lokr_w2"), vec![8, 8])];
    let dora = [
        (name("lora_A.weight"), vec![4, 32]),
        (name("lora_B.weight"), vec![32, 4]),
        (name("lora_magnitude_vector"), vec![1, 32]),
    ];
    for (tensors, config, scale) in [
        (&lokr[..], r#"{"peft_type": "LOKR", "r": 2, "alpha": 3}"#, 1.5),
        (&dora[..], r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 2}"#, 0.5),
    ] {
        folder.write("a/adapter_config.json", config);
        let rows: Vec<(&str, &[u64])> =
            tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
        let made = made(&folder, &rows);
        std::fs::rename(made, folder.path().join("a/adapter_model.safetensors")).unwrap();
        let adapter = Adapter::open(folder.path().join("a"), &modules).unwrap();
        assert_eq!(adapter.scales(), [scale]);
        let merged = applied(&base, &[(&adapter, 0.5)]).unwrap();
        let peft =
            write(&adapter, Dialect::Peft, &modules, &folder.path().join("p"), Existing::Keep);
        assert_eq!(peft.unwrap_err().code(), "E0374");
        let path = folder.path().join(format!("out{scale}"));
        write(&adapter, Dialect::ComfyUi, &modules, &path, Existing::Keep).unwrap();
        let again = Adapter::open(&path, &modules).unwrap();
        let again = applied(&base, &[(&again, 0.5)]).unwrap();
        let weight = "blocks.0.self_attn.q.weight";
        assert!(values(&merged, weight) != values(&base, weight));
        assert!(apart(&values(&again, weight), &values(&merged, weight)) <= 1e-6);
    }
}

#[test]
fn adapters_are_joined_by_rank() {
    let (base, modules) = (base(), modules());
    let one = open("comfy_ab.safetensors").unwrap();
    let two = open("comfy_second.safetensors").unwrap();
    let joined = combined(&[(&one, 0.7), (&two, -0.3)], &modules).unwrap();
    assert_eq!(joined.ranks(), [4, 6]);
    let merged = applied(&base, &[(&joined, 1.0)]).unwrap();
    compare_case("stack", &merged, 1e-6);
    let folder = TempFolder::new();
    let path = folder.path().join("both.safetensors");
    write(&joined, Dialect::ComfyUi, &modules, &path, Existing::Keep).unwrap();
    let again = Adapter::open(&path, &modules).unwrap();
    compare_case("stack", &applied(&base, &[(&again, 1.0)]).unwrap(), 1e-6);
    assert_eq!(again.scales(), [1.0]);
    // Differences, biases and convolutions are joined as well; in any order, of any kind.
    let diff = open("distill_diff.safetensors").unwrap();
    let bias = open("peft_lora_bias").unwrap();
    let conv = open("comfy_other_modules.safetensors").unwrap();
    let flat = {
        let weight = conv.tensors().tensor("diffusion_model.patch_embedding.lora_down.weight");
        assert_eq!(weight.unwrap().shape, [3, 48, 1, 2, 2]);
        let mut flat = conv.clone();
        let shaped = flat.set.iter().map(|(name, weight)| {
            let rows = weight.shape.first().copied().unwrap_or(1);
            let tensor = Derivation::tensor(name);
            let derivation = match weight.shape.len() {
                0 => tensor,
                _ => tensor.reshaped([rows, weight.elements() / rows]),
            };
            (name.to_owned(), derivation)
        });
        flat.set = flat.set.derived(shaped).unwrap();
        flat
    };
    let list = [(&diff, 0.5), (&bias, 2.0), (&one, 1.0), (&conv, 1.0), (&flat, -0.25)];
    let joined = combined(&list, &modules).unwrap();
    let (merged, stacked) =
        (applied(&base, &[(&joined, 1.0)]).unwrap(), applied(&base, &list).unwrap());
    for name in base.names() {
        let far = apart(&values(&merged, name), &values(&stacked, name));
        assert!(far <= 1e-6, "{name}: {far:e}");
    }
    // What has no sum of ranks is refused.
    let dora = open("comfy_dora.safetensors").unwrap();
    let loha = open("musubi_loha.safetensors").unwrap();
    for other in [&dora, &loha] {
        assert_eq!(combined(&[(&one, 1.0), (other, 1.0)], &modules).unwrap_err().code(), "E0375");
    }
    let mut append = two.clone();
    append.metadata.insert("anyid.rope_layout".into(), "append".into());
    let mut prepend = one.clone();
    prepend.metadata.insert("anyid.rope_layout".into(), "prepend".into());
    let error = combined(&[(&prepend, 1.0), (&append, 1.0)], &modules).unwrap_err();
    assert_eq!(error.code(), "E0375");
    let joined = combined(&[(&prepend, 1.0), (&two, 1.0)], &modules).unwrap();
    assert_eq!(joined.metadata["anyid.rope_layout"], "prepend");
}

#[test]
fn dora_comes_first() {
    let base = base();
    let (dora, plain) =
        (open("comfy_dora.safetensors").unwrap(), open("comfy_second.safetensors").unwrap());
    let error = applied(&base, &[(&plain, 1.0), (&dora, 1.0)]).unwrap_err();
    assert_eq!(error.code(), "E0373", "{error}");
    let both = applied(&base, &[(&dora, 1.0), (&plain, 0.5)]).unwrap();
    let (alone, other) =
        (applied(&base, &[(&dora, 1.0)]).unwrap(), applied(&base, &[(&plain, 0.5)]).unwrap());
    let name = "blocks.1.self_attn.v.weight";
    let sum: Vec<f32> = values(&alone, name)
        .iter()
        .zip(values(&other, name))
        .zip(values(&base, name))
        .map(|((a, b), base)| a + (b - base))
        .collect();
    assert!(apart(&values(&both, name), &sum) <= 1e-6);
    // Between the base and the whole change, DoRA is a straight line.
    let half = applied(&base, &[(&dora, 0.5)]).unwrap();
    let middle: Vec<f32> = values(&alone, name)
        .iter()
        .zip(values(&base, name))
        .map(|(a, base)| 0.5 * (a + base))
        .collect();
    assert!(apart(&values(&half, name), &middle) <= 1e-6);
    let error = applied(&WeightSet::default(), &[(&plain, 1.0)]).unwrap_err();
    assert_eq!(error.code(), "E0301");
}

#[test]
fn weights_keep_their_encoding_and_are_rounded_once() {
    let (set, folder) = (base(), TempFolder::new());
    let adapter = open("comfy_ab.safetensors").unwrap();
    let exact = applied(&set, &[(&adapter, 1.0)]).unwrap();
    for encoding in [Encoding::Bf16, Encoding::F16, Encoding::F32] {
        let rounded = set
            .derived(
                set.names()
                    .map(|name| (name.to_owned(), Derivation::tensor(name).rounded(encoding))),
            )
            .unwrap();
        let contents: Vec<Vec<u8>> =
            rounded.names().map(|name| rounded.contents(name).unwrap()).collect();
        let rows: Vec<_> = rounded
            .iter()
            .zip(&contents)
            .map(|((name, weight), bytes)| (name, encoding, &weight.shape[..], &bytes[..]))
            .collect();
        let path = folder.path().join("base.safetensors");
        save(&path, &rows, &BTreeMap::new()).unwrap();
        let merged = applied(&WeightSet::open(&path).unwrap(), &[(&adapter, 1.0)]).unwrap();
        for (name, weight) in merged.iter() {
            assert_eq!(weight.encoding, encoding, "{name}");
        }
        let name = "blocks.0.self_attn.q.weight";
        let step = match encoding {
            Encoding::Bf16 => 8e-3,
            Encoding::F16 => 1e-3,
            _ => 1e-6,
        };
        assert!(apart(&values(&merged, name), &values(&exact, name)) <= step);
    }
    assert_eq!(apply::rounded_to(Encoding::F8E4M3), Encoding::Bf16);
}

#[test]
fn values_that_are_not_finite_with_a_scale_are_refused_when_they_are_read() {
    let folder = TempFolder::new();
    let q = "blocks.0.self_attn.q";
    let [a, b] = ["lora_A", "lora_B"].map(|end| format!("diffusion_model.{q}.{end}.weight"));
    // The product is 4 everywhere.
    let one = Adapter::open(made(&folder, &[(&a, &[4, 32]), (&b, &[32, 4])]), &modules()).unwrap();
    let weight = format!("{q}.weight");
    let zeros = vec![0u8; 4096];
    for (encoding, fine, large) in [
        (Encoding::F16, 16_000.0, 17_000.0),
        (Encoding::F16, -16_000.0, -1e30),
        (Encoding::Bf16, 1e37, 1e38),
        (Encoding::F32, 8e37, 1e38),
        (Encoding::F32, 0.0, 1e300),
        (Encoding::F64, 8e37, 1e39),
    ] {
        let bytes = vec![0u8; 1024 * encoding.block().bytes as usize];
        let path = folder.path().join("base.safetensors");
        let rows: [(&str, Encoding, &[u64], &[u8]); 1] = [(&weight, encoding, &[32, 32], &bytes)];
        save(&path, &rows, &BTreeMap::new()).unwrap();
        let base = WeightSet::open(&path).unwrap();
        let read = |scale: f64| applied(&base, &[(&one, scale)]).unwrap().contents(&weight);
        read(fine).unwrap();
        let error = read(large).unwrap_err();
        assert_eq!(error.code(), "E0379", "{encoding} {large}: {error}");
        for said in
            [weight.as_str(), "made.safetensors at scale ", &shown_scale(large), encoding.name()]
        {
            assert!(error.message().contains(said), "{said}: {error}");
        }
        assert!(error.place().unwrap().ends_with("made.safetensors"));
        // A part of it, and as f32, as kernels read it.
        let set = applied(&base, &[(&one, large)]).unwrap();
        let (mut some, size) = (vec![0; 40], encoding.block().bytes);
        assert_eq!(set.read(&weight, 8 * size, &mut some).unwrap_err().code(), "E0379");
        let error = set.read_f32(&weight, 1000, &mut some).unwrap_err();
        assert!(error.message().ends_with(" at element 1000"), "{error}");
        // What the adapter does not change is read as it is.
        assert_eq!(base.contents(&weight).unwrap(), bytes);
    }
    // Factors that a scale goes into, in whatever dialect.
    let joined = |scale: f64| combined(&[(&one, scale)], &modules()).unwrap();
    let whole = zeros.len();
    let out = folder.path().join("out.safetensors");
    std::fs::write(&out, &zeros).unwrap();
    let to =
        |adapter: &Adapter, dialect| write(adapter, dialect, &modules(), &out, Existing::Replace);
    for dialect in Dialect::ALL.into_iter().filter(|dialect| *dialect != Dialect::Peft) {
        let error = to(&joined(1e39), dialect).unwrap_err();
        assert_eq!(error.code(), "E0379", "{dialect}: {error}");
        assert!(error.message().contains("made.safetensors at scale 1e39 is inf"), "{error}");
        assert_eq!(std::fs::read(&out).unwrap().len(), whole, "the old one stays");
    }
    to(&joined(1e30), Dialect::ComfyUi).unwrap();
    let mut scaled = one.clone();
    for (scale, code) in [(1e37, None), (1e39, Some("E0379")), (1e-44, Some("E0379"))] {
        scaled.changes[0].product.as_mut().unwrap().scale = scale;
        for dialect in [Dialect::ComfyUi, Dialect::Musubi] {
            let written = to(&scaled, dialect).map_err(|error| error.code());
            assert_eq!(written.err(), code, "{scale} {dialect}");
        }
    }
    let error = to(&scaled, Dialect::ComfyUi).unwrap_err();
    assert!(error.message().contains(".alpha` is ") && error.message().contains("f32"), "{error}");
}

#[test]
fn what_an_adapter_was_trained_on_is_said_in_its_header() {
    let part = |sha256: &str, scale: f64| Part { sha256: sha256.to_owned(), scale };
    let base = Base { model: "m".to_owned(), adapters: vec![part("x", 0.5), part("y", -2.0)] };
    let mut header = BTreeMap::new();
    base.say(&mut header);
    assert_eq!(Base::of(&header), Some(base));
    let bare = Base { model: "m".to_owned(), adapters: Vec::new() };
    let mut header = BTreeMap::new();
    bare.say(&mut header);
    assert_eq!((header.len(), Base::of(&header)), (1, Some(bare)));
    assert_eq!(Base::of(&BTreeMap::new()), None);
    // Each at the sum of its scales, and near in it.
    let all = [part("x", 0.1), part("x", 0.2), part("z", 1.0)];
    assert_eq!(Part::without(&all, &[part("x", 0.3)]), all[2..]);
    assert_eq!(Part::without(&all, &all[..1]), [part("x", 0.1 + 0.2), part("z", 1.0)]);
    assert_eq!(Part::without(&all, &all), []);
    let text = [0.8, 1e30, -1e-7, 0.0].map(shown_scale);
    assert_eq!(text, ["0.8", "1e30", "-1e-7", "0"]);
}

#[test]
fn an_alpha_that_was_lost_on_the_way_is_warned_of() {
    let folder = TempFolder::new();
    let one = open("comfy_ab.safetensors").unwrap();
    assert_eq!(one.scales(), [2.0]);
    let stored = |dialect: Dialect| {
        let out = folder.path().join(dialect.name());
        write(&one, dialect, &modules(), &out, Existing::Keep).unwrap();
        Adapter::open(&out, &modules()).unwrap()
    };
    for dialect in Dialect::ALL {
        assert!(stored(dialect).warnings.is_empty(), "{dialect}");
        let _ = std::fs::remove_file(folder.path().join(dialect.name()));
        let _ = std::fs::remove_dir_all(folder.path().join(dialect.name()));
    }
    // PEFT's alpha is in the file beside the tensors.
    let whole = stored(Dialect::Peft);
    std::fs::remove_file(whole.config.unwrap()).unwrap();
    let alone = Adapter::open(&whole.path, &modules()).unwrap();
    assert_eq!(alone.scales(), [1.0]);
    let said = "the header's anyid.alpha is 8, the tensors have 4 and are followed";
    assert!(alone.warnings.concat().contains(said), "{:?}", alone.warnings);
}
