//! The tables against the golden values of the reference implementation.

use super::super::*;
use super::{apply, close, f32_tensor};
use crate::eval::{Evaluator, Mode};
use crate::graph::Module;
use crate::tensor::Tensor;
use safetensors::SafeTensors;
use std::path::PathBuf;

struct Golden(Vec<u8>);

impl Golden {
    fn open(path: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let path = root.join(path);
        Self(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn f32(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
        Tensor::from_bytes(f32_tensor(view.shape()), view.data()).unwrap()
    }

    fn i64(&self, name: &str) -> Vec<i64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::I64, "{name}");
        view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

#[test]
fn rotary_tables() {
    let cases: [(&str, i32, [usize; 2], usize); 2] =
        [("base", 3, [4, 3], 32), ("hd128", 4, [3, 5], 128)];
    for (case, frames, [rows, cols], head_dim) in cases {
        let golden = Golden::open(&format!("dit/{case}/expected.safetensors"));
        let positions: Vec<i32> = (0..frames).collect();
        let positions = Tensor::from_i32([positions.len()], &positions).unwrap();
        let tokens = frames as usize * rows * cols;
        let op = Op::RopeTable { rows, cols, head_dim, theta: 10000.0 };
        let table = apply(&op, &[positions], &f32_tensor(&[tokens, head_dim / 2, 2]), Mode::F32);
        let table = table.to_f64_vec();
        for (part, name) in ["scalar.rope_cos", "scalar.rope_sin"].into_iter().enumerate() {
            let wanted = golden.f32(name);
            assert_eq!(wanted.shape(), [1, tokens, 1, head_dim]);
            let given: Vec<f64> = (0..tokens * head_dim).map(|i| table[i / 2 * 2 + part]).collect();
            close(&given, &wanted.to_f64_vec(), 1e-7);
        }
    }
}

#[test]
fn timestep_sinusoids() {
    for case in ["base", "hd128"] {
        let expected = Golden::open(&format!("dit/{case}/expected.safetensors"));
        let inputs = Golden::open(&format!("dit/{case}/inputs.safetensors"));
        for call in ["scalar", "token"] {
            let steps = inputs.f32(&format!("{call}.timestep"));
            let count = steps.elements();
            let steps = steps.reshaped([count]).unwrap();
            let wanted = expected.f32(&format!("{call}.time_sinusoid"));
            let dim = wanted.shape()[1];
            let op = Op::TimestepEmbedding { dim };
            let given = apply(&op, &[steps], &f32_tensor(&[count, dim]), Mode::F32).to_f64_vec();
            let wanted = wanted.to_f64_vec();
            let worst = given.iter().zip(&wanted).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-6, "{case} {call}: {worst:e}");
        }
    }
}

#[test]
fn relative_buckets() {
    let golden = Golden::open("text/base/expected.safetensors");
    let narrow = |v: Vec<i64>| v.into_iter().map(|v| v as i32).collect::<Vec<i32>>();
    let deltas = narrow(golden.i64("rel_positions"));
    let wanted = narrow(golden.i64("rel_buckets"));
    let x = Tensor::from_i32([deltas.len()], &deltas).unwrap();
    let op = Op::RelativeBucket { buckets: 32, max_distance: 128 };
    let result = x.ty().clone();
    let given = apply(&op, &[x], &result, Mode::F32);
    assert_eq!(given.as_i32().unwrap(), wanted);
}

/// With zero queries the scores are the bias alone, and with unit rows as values the output is its
/// softmax.
#[test]
fn position_bias_inside_attention() {
    let wanted = Golden::open("text/base/expected.safetensors").f32("block0.position_bias_len20");
    let table = Golden::open("text/base/model.safetensors")
        .f32("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    let (heads, n) = (wanted.shape()[1], 20);
    assert_eq!(table.shape(), [32, heads]);

    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "main");
    let table_param = f.param("table", table.ty().clone());
    let v = f.param("v", f32_tensor(&[n, heads * n]));
    let line = f.iota("line", 0, TensorType::new(DType::I32, [2 * n - 1]));
    let first = f.scalar("first", DType::I32, 1.0 - n as f64);
    let delta = f.add("delta", line, first);
    let op = Op::RelativeBucket { buckets: 32, max_distance: 128 };
    let bucket = f.op("bucket", op, &[delta], None);
    let rows = f.op("rows", Op::Gather, &[table_param, bucket], None);
    let bias = f.permute("bias", rows, &[1, 0]);
    let zero = f.constant("zero", 0.0, f32_tensor(&[n, heads * n]));
    let op = Op::Attention { heads, scale: 1.0, lse: false, last: 1 };
    let y = f.op("y", op, &[zero, zero, v, bias], None);
    let func = f.finish(&[y]);
    module.add(func);

    let unit = |i: usize| f64::from(u8::from(i / (heads * n) == i % n));
    let units: Vec<f64> = (0..n * heads * n).map(unit).collect();
    let v = Tensor::from_f64s(f32_tensor(&[n, heads * n]), &units).unwrap();
    let evaluator = Evaluator::new(&module, Mode::F32);
    let given = evaluator.run("main", &[table, v], &(), None).unwrap().remove(0).to_f64_vec();
    let scores = wanted.to_f64_vec();
    let mut softmax = vec![0.0; given.len()];
    for (row, scores) in scores.chunks_exact(n).enumerate() {
        let (head, query) = (row / n, row % n);
        let total: f64 = scores.iter().map(|s| s.exp()).sum();
        for key in 0..n {
            softmax[(query * heads + head) * n + key] = scores[key].exp() / total;
        }
    }
    close(&given, &softmax, 1e-6);
}
