//! The umT5 text encoder as a graph (`text.md` §2).
//!
//! It runs on the real tokens only: padded keys are masked in the reference, so their absence
//! changes no real row, and the caller appends the zero rows the transformer expects.

use super::Precision;
use super::config::TextConfig;
use anyid_ir::{
    BinaryFn, BoundDim, DType, FuncBuilder, IndexArg, Manifest, Module, Op, TensorType,
};

/// The weight manifest in original Wan names.
pub fn manifest(config: &TextConfig, precision: Precision) -> Manifest {
    let d = config.d_model;
    let inner = config.heads * config.d_kv;
    let ffn = config.d_ff;
    let layers = config.layers;
    let (act, f32) = (precision.activation(), DType::F32);
    let mut manifest = Manifest::new("text");
    let mut add = |template: &str, dtype: DType, shape: &[usize]| {
        let template = template.replace("{l}", &format!("{{l:0..{layers}}}"));
        let ty = TensorType::new(dtype, shape.iter().copied());
        manifest.add(&template, ty).expect("templates of the model are well-formed");
    };
    add("token_embedding.weight", act, &[config.vocab_size, d]);
    add("blocks.{l}.norm1.weight", f32, &[d]);
    add("blocks.{l}.attn.{q,k,v}.weight", act, &[inner, d]);
    add("blocks.{l}.attn.o.weight", act, &[d, inner]);
    let heads = config.heads;
    add("blocks.{l}.pos_embedding.embedding.weight", f32, &[config.buckets, heads]);
    add("blocks.{l}.norm2.weight", f32, &[d]);
    add("blocks.{l}.ffn.gate.0.weight", act, &[ffn, d]);
    add("blocks.{l}.ffn.fc1.weight", act, &[ffn, d]);
    add("blocks.{l}.ffn.fc2.weight", act, &[d, ffn]);
    add("norm.weight", f32, &[d]);
    manifest
}

/// `@text(%ids: i32[n]) -> f32[n, d_model]`: last hidden state of `tokens` real tokens.
pub fn text(config: &TextConfig, tokens: usize, precision: Precision) -> Module {
    let d = config.d_model;
    let mut module = Module {
        name: "umt5_encoder".into(),
        dims: vec![
            BoundDim { name: "n".into(), value: tokens },
            BoundDim { name: "D".into(), value: d },
        ],
        weights: manifest(config, precision),
        funcs: Vec::new(),
    };
    let block = block(&module, config, tokens, precision);
    module.add(block);

    let mut b = FuncBuilder::new(&module, "text");
    let ids = b.param("ids", TensorType::new(DType::I32, [tokens]));
    let table = b.weight("token_embedding.weight");
    let rows = b.op("rows", Op::Gather, &[table, ids], None);
    let x0 = b.cast("embed", rows, DType::F32);

    // Offset k − q of each position in the bias rows, −(n−1) … n−1.
    let offsets = 2 * tokens - 1;
    let counted = b.iota("counted", 0, TensorType::new(DType::I32, [offsets]));
    let middle = b.scalar("middle", DType::I32, (tokens - 1) as f64);
    let delta = b.binary("delta", BinaryFn::Sub, counted, middle);
    let rule = Op::RelativeBucket { buckets: config.buckets, max_distance: config.max_distance };
    let bucket = b.op("bucket", rule, &[delta], None);

    let xn = b.repeat("xn", "l", 0..config.layers as u32, &[("x", x0)], &[], |b, carry, _| {
        let index = [IndexArg::Name("l".into())];
        (b.call("y", "block", &index, &[carry[0], bucket]), Vec::new())
    })[0];
    let gain = b.weight("norm.weight");
    let norm = Op::RmsNorm { eps: config.eps, clamp: false };
    let out = b.op("last_hidden_state", norm, &[xn, gain], None);
    let main = b.finish(&[out]);
    module.add(main);
    module
}

/// One encoder block: attention with its own relative bias, gated feed-forward.
fn block(
    module: &Module,
    config: &TextConfig,
    tokens: usize,
    precision: Precision,
) -> anyid_ir::Func {
    let d = config.d_model;
    let heads = config.heads;
    let act = precision.activation();
    let norm = Op::RmsNorm { eps: config.eps, clamp: false };
    let activation = Some(TensorType::new(act, []));
    let mut b = FuncBuilder::new(module, "block").indexed(&["l"], "blocks.{l}");
    let x = b.param("x", TensorType::new(DType::F32, [tokens, d]));
    let bucket = b.param("bucket", TensorType::new(DType::I32, [2 * tokens - 1]));

    let gain = b.weight("norm1.weight");
    let n1 = b.op("n1", norm.clone(), &[x, gain], activation.clone());
    let q = b.linear("q", n1, "attn.q.weight", None, act);
    let k = b.linear("k", n1, "attn.k.weight", None, act);
    let v = b.linear("v", n1, "attn.v.weight", None, act);
    let table = b.weight("pos_embedding.embedding.weight");
    let picked = b.op("picked", Op::Gather, &[table, bucket], None);
    let bias = b.permute("bias", picked, &[1, 0]);
    let a =
        b.op("a", Op::Attention { heads, scale: 1.0, lse: false, last: 1 }, &[q, k, v, bias], None);
    let o = b.linear("o", a, "attn.o.weight", None, DType::F32);
    let x1 = b.add("x1", x, o);

    let gain = b.weight("norm2.weight");
    let n2 = b.op("n2", norm, &[x1, gain], activation);
    let g0 = b.linear("g0", n2, "ffn.gate.0.weight", None, DType::F32);
    let g = b.op("g", Op::Gelu, &[g0], None);
    let u = b.linear("u", n2, "ffn.fc1.weight", None, DType::F32);
    let gu = b.mul("gu", g, u);
    let gu = b.cast("gu", gu, act);
    let f = b.linear("f", gu, "ffn.fc2.weight", None, DType::F32);
    let x2 = b.add("x2", x1, f);
    b.finish(&[x2])
}
