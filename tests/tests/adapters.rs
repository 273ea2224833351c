//! The transformer with adapters in its weights computes what the programs compute that wrote them
//! (`tests/fixtures_extra/lora`), on the CPU and in the interpreter; merged models have their bits.

use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::names::Component;
use anyid_runtime::Model;
use anyid_runtime::adapter::{self, Adapter, Beside, Tolerance, Wanted, modules_of};
use anyid_runtime::checkpoint::{Derivation, Encoding, TensorSpec, WeightSet, write_sharded};
use anyid_runtime::files::Existing;
use anyid_runtime::weights::{ModelWeights, write_tensors};
use anyid_tests::close::relative;
use anyid_tests::engines::{Engine, run};
use anyid_tests::fixtures::{Tensors, json, sample};
use anyid_tests::folders::{self, Folder};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const TOLERANCE: f64 = 1e-5;

#[test]
fn outputs_are_those_of_the_programs_that_wrote_the_adapters() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures_extra/lora");
    let base = folder.join("base");
    let config = DitConfig::from_diffusers(&json(&base.join("transformer/config.json"))).unwrap();
    let set =
        WeightSet::open(base.join("transformer/diffusion_pytorch_model.safetensors")).unwrap();
    let plain = ModelWeights::recognise(&set, Component::Dit).unwrap();
    let modules = modules_of(plain.set());
    let inputs = Tensors::open(&base.join("inputs.safetensors"));
    let expected = Tensors::open(&folder.join("expected.safetensors"));
    let lat = sample(inputs.get("hidden_states"), 0);
    let txt = sample(inputs.get("text"), 0);
    let times = sample(inputs.get("timestep"), 0).to_f32_vec();
    let mut distinct: Vec<f32> = Vec::new();
    let segments: Vec<i32> = times
        .iter()
        .map(|time| {
            let known = distinct.iter().position(|other| other == time);
            known.unwrap_or_else(|| {
                distinct.push(*time);
                distinct.len() - 1
            }) as i32
        })
        .collect();
    let [_, frames, height, width] = lat.shape().try_into().unwrap();
    let size = DitSize {
        reference_frames: 0,
        frames,
        height,
        width,
        text_tokens: txt.shape()[0],
        timesteps: distinct.len(),
    };
    let module = dit(&config, &size, Precision::F32);
    let t = Tensor::from_f32([distinct.len()], &distinct).unwrap();
    let seg = Tensor::from_i32([segments.len()], &segments).unwrap();
    let given = [("lat", &lat), ("t", &t), ("seg", &seg), ("txt", &txt)];
    let cases = json(&folder.join("cases.json"));
    let mut count = 0;
    for (name, case) in cases["cases"].as_object().unwrap() {
        let paths: Vec<&Value> =
            case["path"].as_array().map_or(vec![&case["path"]], |list| list.iter().collect());
        let scales: Vec<f64> = match &case["strength"] {
            Value::Array(list) => list.iter().map(|scale| scale.as_f64().unwrap()).collect(),
            scale => vec![scale.as_f64().unwrap_or(1.0)],
        };
        let adapters: Vec<Adapter> = paths
            .iter()
            .map(|path| {
                let path = folder.join(path.as_str().unwrap());
                adapter::open(&path, &modules, Tolerance::default()).unwrap()
            })
            .collect();
        let list: Vec<(&Adapter, f64)> = adapters.iter().zip(scales).collect();
        let weights = Arc::new(plain.with_adapters(&list).unwrap());
        let golden = case["same_as"].as_str().unwrap_or(name);
        let golden = sample(expected.get(&format!("{golden}.out")), 0).to_f64_vec();
        let base = sample(expected.get("base.out"), 0).to_f64_vec();
        let own = name == case["same_as"].as_str().unwrap_or(name);
        for engine in Engine::three() {
            // The interpreter is slow: it runs the cases that have results of their own.
            if !own && engine.is_complete() {
                continue;
            }
            let values = run(engine, &module, "dit", &weights, &given);
            let found = values["v"].to_f64_vec();
            let error = relative(&found, &golden);
            assert!(error <= TOLERANCE, "{name} on {}: {error:e}", engine.name());
            assert!(relative(&found, &base) > 0.05, "{name} does nothing");
            count += 1;
        }
        assert_eq!(weights.fingerprint().unwrap(), plain.fingerprint().unwrap());
    }
    assert!(count > 30, "{count}");
}

/// An adapter of rank 2 for the queries of a model.
fn adapter_for(model: &Model, path: &Path) {
    let mut list: Vec<(String, Tensor)> = Vec::new();
    for (name, weight) in model.dit_weights.set().iter() {
        let Some(module) = name.strip_suffix(".weight").filter(|m| m.ends_with("attn.q")) else {
            continue;
        };
        let [rows, columns] = [weight.shape[0] as usize, weight.shape[1] as usize];
        for (end, shape) in [("lora_A", [2, columns]), ("lora_B", [rows, 2])] {
            let values: Vec<f32> =
                (0..shape[0] * shape[1]).map(|at| (at % 23) as f32 / 90.0 - 0.11).collect();
            list.push((
                format!("{module}.{end}.default.weight"),
                Tensor::from_f32(shape, &values).unwrap(),
            ));
        }
    }
    let list: Vec<(&str, &Tensor)> = list.iter().map(|(name, t)| (name.as_str(), t)).collect();
    write_tensors(path, list, &BTreeMap::new()).unwrap();
}

#[test]
fn an_original_folder_in_bf16_shards_is_merged_as_it_is() {
    let folder = folders::original(7, |_| {});
    let root = folder.path();
    // The transformer in bf16 and in several files.
    let file = root.join("diffusion_pytorch_model.safetensors");
    let whole = WeightSet::open(&file).unwrap();
    let rounded = |name: &str| (name.to_owned(), Derivation::tensor(name).rounded(Encoding::Bf16));
    let narrow = whole.derived(whole.names().map(rounded)).unwrap();
    let specs: Vec<TensorSpec> = narrow
        .iter()
        .map(|(name, weight)| TensorSpec::new(name, weight.encoding, weight.shape.clone()))
        .collect();
    let shards = write_sharded(
        root,
        "diffusion_pytorch_model",
        &specs,
        &BTreeMap::new(),
        100_000,
        |spec, sink| sink.write(&narrow.contents(&spec.name)?),
    )
    .unwrap();
    assert!(shards.len() > 2 && !file.exists(), "{shards:?}");
    let model = Model::open(root).unwrap();
    let path = root.join("adapter.safetensors");
    adapter_for(&model, &path);
    let wanted = [Wanted { path: path.clone(), scale: 0.5 }];
    let tuned = Model::open(root).unwrap().with_adapters(&wanted, Tolerance::default()).unwrap();
    assert_eq!(tuned.default_precision(), Precision::Bf16, "as without adapters");
    assert_eq!(tuned.fingerprints().unwrap(), model.fingerprints().unwrap());
    let out = Folder::new();
    let target = out.path().join("merged");
    let mut seen = 0;
    let merged = adapter::merge(
        root,
        &mut |modules, _| {
            let adapter = adapter::open(&path, modules, Tolerance::default())?;
            Ok(vec![(adapter, 0.5)])
        },
        (&target, Existing::Keep, Beside::Everything),
        &mut |done, _| seen = done,
    )
    .unwrap();
    assert_eq!((merged.bytes, seen), (narrow.total_bytes(), narrow.total_bytes()));
    let again = Model::open(&target).unwrap();
    let (set, expected) = (again.dit_weights.set(), tuned.dit_weights.set());
    let mut changed = 0;
    for (name, weight) in set.iter() {
        assert_eq!(weight.encoding, Encoding::Bf16);
        assert!(set.contents(name).unwrap() == expected.contents(name).unwrap(), "{name}");
        changed += usize::from(set.contents(name).unwrap() != narrow.contents(name).unwrap());
    }
    assert_eq!(changed, merged.changed);
    assert!(changed > 0);
    let mut names: Vec<String> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // The adapter lay beside the weights and is copied as everything else is.
    assert!(names.contains(&"diffusion_pytorch_model.safetensors".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| !name.contains("-of-")), "no old shard: {names:?}");
    assert_eq!(again.fingerprints().unwrap()[1..], model.fingerprints().unwrap()[1..]);
    // A folder without its adapters, or none to merge, is an error that leaves nothing.
    let none = adapter::merge(
        root,
        &mut |_, _| Ok(Vec::new()),
        (&out.path().join("none"), Existing::Keep, Beside::Everything),
        &mut |_, _| {},
    );
    assert_eq!(none.unwrap_err().code(), "E0374");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
}
