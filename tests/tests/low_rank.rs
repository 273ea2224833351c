//! A weight with a correction of low rank, added on its way to the kernels, computes what the merged
//! weight computes: in every stored type, in f32 and in bf16, on the CPU and in the interpreter.

use anyid_ir::text::parse_module;
use anyid_ir::{DType, Tensor, TensorType};
use anyid_runtime::checkpoint::{Derivation, WeightSet};
use anyid_runtime::weights::{ModelWeights, write_tensors};
use anyid_tests::engines::{Engine, run};
use anyid_tests::folders::Folder;
use std::collections::BTreeMap;
use std::sync::Arc;

const ROWS: usize = 48;
const COLUMNS: usize = 40;
const RANK: usize = 3;

/// Small multiples of 1/8: bf16 and f16 hold them, and sums of their products are exact in f32.
fn numbers(shape: [usize; 2], seed: usize) -> Tensor {
    let value = |at: usize| ((at * 29 + seed * 13) % 31) as f32 / 8.0 - 2.0;
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(value).collect();
    Tensor::from_f32(shape, &values).unwrap()
}

#[test]
fn a_corrected_weight_computes_what_the_merged_one_does() {
    let [base, up, down] =
        [([ROWS, COLUMNS], 1), ([ROWS, RANK], 2), ([RANK, COLUMNS], 3)].map(|(s, n)| numbers(s, n));
    let [w, b, a] = [&base, &up, &down].map(Tensor::to_f64_vec);
    let merged = |at: usize| {
        let (i, j) = (at / COLUMNS, at % COLUMNS);
        let product: f64 = (0..RANK).map(|k| b[i * RANK + k] * a[k * COLUMNS + j]).sum();
        (w[at] + 0.5 * product) as f32
    };
    let merged: Vec<f32> = (0..ROWS * COLUMNS).map(merged).collect();
    let merged = Tensor::from_f32([ROWS, COLUMNS], &merged).unwrap();
    let folder = Folder::new();
    let open = |name: &str, tensors: &[(&str, &Tensor)]| {
        let path = folder.path().join(name);
        write_tensors(&path, tensors.iter().copied(), &BTreeMap::new()).unwrap();
        WeightSet::open(&path).unwrap()
    };
    let plain = Arc::new(ModelWeights::as_named(open("merged", &[("w", &merged)])));
    let adapter = open("adapter", &[("w.up", &up), ("w.down", &down)]);
    let x = numbers([5, COLUMNS], 4);
    for stored in [DType::F32, DType::Bf16, DType::F16] {
        let model = open(stored.name(), &[("w", &base.cast(stored))]);
        let tensor = Derivation::tensor;
        let sum = tensor("w").plus_low_rank(0.5, tensor("w.up"), tensor("w.down"));
        let set = model.joined(&adapter).unwrap().derived([("w".to_owned(), sum)]).unwrap();
        let corrected = Arc::new(ModelWeights::as_named(set));
        for declared in [DType::F32, DType::Bf16] {
            let weight = TensorType::new(declared, [ROWS, COLUMNS]);
            let text = format!(
                "module @m\n\nweights @w {{\n  \"w\" : {weight}\n}}\n\n\
                 func @f(%x: f32[5,{COLUMNS}]) -> f32[5,{ROWS}] {{\n  %c = cast %x : {}\n\
                 \x20 %y = linear %c, $w : f32[5,{ROWS}]\n  return %y\n}}\n",
                TensorType::new(declared, [5, COLUMNS])
            );
            let module = parse_module(&text, &[]).unwrap_or_else(|found| panic!("{found:#?}"));
            for engine in Engine::three() {
                let run = |weights| run(engine, &module, "f", weights, &[("x", &x)])["y"].clone();
                let (found, expected) = (run(&corrected), run(&plain));
                assert!(found == expected, "{} {stored} {declared}", engine.name());
                assert!(expected.to_f64_vec().iter().any(|value| *value != 0.0));
            }
        }
    }
}
