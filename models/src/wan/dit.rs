//! The Wan2.2 diffusion transformer as a graph (`dit.md` §3).
//!
//! A sample is one sequence of tokens: the clean latents of the references first, then the noisy
//! target (AnyID layout `prepend`). Tokens carry a segment index into the table of distinct
//! timesteps, so modulation is never materialised per token. Only target tokens reach the head.

use super::config::DitConfig;
use super::{Precision, Residual};
use anyid_ir::{BoundDim, DType, FuncBuilder, IndexArg, Manifest, Module, Op, TensorType, ValueId};

/// Sizes one transformer module is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DitSize {
    /// Latent frames of all references together, in front of the target; 0 for none. As of the target,
    /// a multiple of the patch.
    pub reference_frames: usize,
    /// Latent frames of the target.
    pub frames: usize,
    /// Latent rows; a multiple of the patch.
    pub height: usize,
    /// Latent columns; a multiple of the patch.
    pub width: usize,
    /// Rows of the text context, zero rows included (512 for the real model).
    pub text_tokens: usize,
    /// Distinct timesteps.
    pub timesteps: usize,
}

impl DitSize {
    /// Tokens of the latent frames of one patch.
    pub fn tokens_per_frame(&self, config: &DitConfig) -> usize {
        (self.height / config.patch[1] as usize) * (self.width / config.patch[2] as usize)
    }

    /// Tokens of the whole sequence, references included.
    pub fn tokens(&self, config: &DitConfig) -> usize {
        (self.reference_frames + self.frames) / config.patch[0] as usize
            * self.tokens_per_frame(config)
    }
}

/// Samples that go through a transformer together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many.
    pub samples: usize,
    /// How many rows of its text the last row of each stands for: what follows the longest prompt are
    /// zeros, and each row of them has the same key and value.
    pub last_text: usize,
    /// Whether the last block makes rows of the targets alone, in a function of its own: nothing reads
    /// what it would make of references.
    pub targets: bool,
}

impl From<usize> for Batch {
    /// So many samples, each row of their texts by itself, and all blocks alike.
    fn from(samples: usize) -> Self {
        Self { samples, last_text: 1, targets: false }
    }
}

/// Tokens of a sample, of which those of the references come first.
#[derive(Clone, Copy)]
struct Tokens {
    samples: usize,
    all: usize,
    references: usize,
}

impl Tokens {
    /// The rows of the targets, of every sample.
    fn of_targets(self, b: &mut FuncBuilder<'_>, name: &str, x: ValueId) -> ValueId {
        let Self { samples, all, references } = self;
        let count = all - references;
        if samples == 1 {
            return b.slice(name, x, 0, references, count);
        }
        let inner = b.shape(x)[1..].to_vec();
        let shape = |rows: &[usize]| rows.iter().chain(&inner).copied().collect::<Vec<_>>();
        let each = b.reshape(name, x, shape(&[samples, all]));
        let rows = b.slice(name, each, 1, references, count);
        b.reshape(name, rows, shape(&[samples * count]))
    }
}

/// Element types of a transformer's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DitTypes {
    /// Inputs of matrix products and attention.
    pub precision: Precision,
    /// The residual stream.
    pub residual: Residual,
}

impl From<Precision> for DitTypes {
    /// With a residual stream in f32.
    fn from(precision: Precision) -> Self {
        Self { precision, residual: Residual::F32 }
    }
}

/// The weight manifest in original Wan names; `precision` decides the element types.
pub fn manifest(config: &DitConfig, precision: Precision) -> Manifest {
    let d = config.width();
    let [heads_out, channels] = [config.out_channels, config.in_channels];
    let patch: [usize; 3] = config.patch.map(|p| p as usize);
    let volume: usize = patch.iter().product();
    let (text, freq, ffn) = (config.text_dim, config.freq_dim, config.ffn_dim);
    let layers = config.layers;
    let mut manifest = Manifest::new("dit");
    let mut add = |template: String, dtype: DType, shape: &[usize]| {
        let ty = TensorType::new(dtype, shape.iter().copied());
        manifest.add(&template, ty).expect("templates of the model are well-formed");
    };
    let (act, f32) = (precision.activation(), DType::F32);
    let name = |s: &str| s.to_owned();
    let block = |s: &str| format!("blocks.{{l:0..{layers}}}.{s}");
    add(name("patch_embedding.weight"), act, &[d, channels, patch[0], patch[1], patch[2]]);
    add(name("patch_embedding.bias"), f32, &[d]);
    add(name("text_embedding.0.weight"), act, &[d, text]);
    add(name("text_embedding.2.weight"), act, &[d, d]);
    add(name("text_embedding.{0,2}.bias"), f32, &[d]);
    add(name("time_embedding.0.weight"), f32, &[d, freq]);
    add(name("time_embedding.2.weight"), f32, &[d, d]);
    add(name("time_embedding.{0,2}.bias"), f32, &[d]);
    add(name("time_projection.1.weight"), f32, &[6 * d, d]);
    add(name("time_projection.1.bias"), f32, &[6 * d]);
    add(block("modulation"), f32, &[1, 6, d]);
    add(block("{self_attn,cross_attn}.{q,k,v,o}.weight"), act, &[d, d]);
    add(block("{self_attn,cross_attn}.{q,k,v,o}.bias"), f32, &[d]);
    add(block("{self_attn,cross_attn}.{norm_q,norm_k}.weight"), f32, &[d]);
    if config.cross_attn_norm {
        add(block("norm3.{weight,bias}"), f32, &[d]);
    }
    add(block("ffn.0.weight"), act, &[ffn, d]);
    add(block("ffn.0.bias"), f32, &[ffn]);
    add(block("ffn.2.weight"), act, &[d, ffn]);
    add(block("ffn.2.bias"), f32, &[d]);
    add(name("head.modulation"), f32, &[1, 2, d]);
    add(name("head.head.weight"), f32, &[heads_out * volume, d]);
    add(name("head.head.bias"), f32, &[heads_out * volume]);
    manifest
}

/// One evaluation of the transformer on one sample; [`dit_batch`] with one.
pub fn dit(config: &DitConfig, size: &DitSize, types: impl Into<DitTypes>) -> Module {
    dit_batch(config, size, 1, types)
}

/// One evaluation of the transformer on the samples of a batch, of one size, each of which sees only itself.
///
/// `@dit(%ref: f32[C,R,H,W], %lat: f32[C,F,H,W], %t: f32[G], %seg: i32[N], %txt: f32[T,text])
/// -> f32[C,F,H,W]`: clean reference latents, noisy target latents, the distinct timesteps on the
/// 0..1000 scale, the segment of each token, the text context padded with zero rows. The result is
/// the velocity ε − x₀ of the target. Without references there is no `%ref`. `types` may be just a
/// [`Precision`]; the residual stream is then f32. Several samples lie one after the other along R, F,
/// N, T and in the result, and G counts the distinct timesteps of all; rows of all samples go through
/// each product together.
pub fn dit_batch(
    config: &DitConfig,
    size: &DitSize,
    batch: impl Into<Batch>,
    types: impl Into<DitTypes>,
) -> Module {
    let (batch, types) = (batch.into(), types.into());
    let (samples, precision) = (batch.samples, types.precision);
    let d = config.width();
    let heads = config.heads;
    let head_dim = config.head_dim;
    let patch: [usize; 3] = config.patch.map(|p| p as usize);
    let (rows, cols) = (size.height / patch[1], size.width / patch[2]);
    let tokens = size.tokens(config);
    let reference_tokens = size.reference_frames / patch[0] * size.tokens_per_frame(config);
    let target_tokens = tokens - reference_tokens;
    let channels = config.in_channels;
    let text = config.text_dim;
    let act = precision.activation();
    let f32 = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());

    let dim = |name: &str, value: usize| BoundDim { name: name.into(), value };
    let mut module = Module {
        name: "wan22_dit".into(),
        dims: vec![
            dim("R", samples * size.reference_frames),
            dim("F", samples * size.frames),
            dim("H", rows),
            dim("W", cols),
            dim("N", samples * tokens),
            dim("T", samples * size.text_tokens),
            dim("G", size.timesteps),
            dim("D", d),
        ],
        weights: manifest(config, precision),
        funcs: Vec::new(),
    };
    let parts = Tokens { samples, all: tokens, references: reference_tokens };
    let apart = batch.targets && reference_tokens > 0;
    let alike = config.layers - usize::from(apart);
    if alike > 0 {
        let block = block(&module, config, size, batch, types, None);
        module.add(block);
    }
    if apart {
        let last = block(&module, config, size, batch, types, Some(parts));
        module.add(last);
    }

    let mut b = FuncBuilder::new(&module, "dit");
    let volume: usize = patch.iter().product();
    let latent = |frames: usize| f32(&[channels, samples * frames, size.height, size.width]);
    let reference =
        (size.reference_frames > 0).then(|| b.param("ref", latent(size.reference_frames)));
    let lat = b.param("lat", latent(size.frames));
    let t = b.param("t", f32(&[size.timesteps]));
    let seg = b.param("seg", TensorType::new(DType::I32, [samples * tokens]));
    let txt = b.param("txt", f32(&[samples * size.text_tokens, text]));

    let weight = b.weight("patch_embedding.weight");
    let weight = b.reshape("wp", weight, [d, channels * volume]);
    let bias = b.weight("patch_embedding.bias");
    let embed = |b: &mut FuncBuilder, patches: &str, name: &str, x| {
        let p = b.op(patches, Op::Patchify { patch }, &[x], None);
        let p = b.cast(patches, p, act);
        b.linear_of(name, &[p, weight, bias], types.residual.dtype())
    };
    let mut streams = Vec::new();
    if let Some(reference) = reference {
        streams.push(embed(&mut b, "pr", "xr", reference));
    }
    streams.push(embed(&mut b, "p", "xt", lat));
    let x0 = if samples == 1 || reference_tokens == 0 {
        b.concat("x0", &streams, 0)
    } else {
        // The references of each sample in front of its target.
        let apart = [reference_tokens, target_tokens];
        let apart: Vec<_> = (streams.iter().zip(apart))
            .map(|(x, rows)| b.reshape("x0s", *x, [samples, rows, d]))
            .collect();
        let joined = b.concat("x0s", &apart, 1);
        b.reshape("x0", joined, [samples * tokens, d])
    };
    b.rename(x0, "x0");

    let c = b.cast("c", txt, act);
    let c0 = b.linear("c0", c, "text_embedding.0.weight", Some("text_embedding.0.bias"), act);
    let c1 = b.op("c1", Op::Gelu, &[c0], None);
    let ctx = b.linear("ctx", c1, "text_embedding.2.weight", Some("text_embedding.2.bias"), act);

    let freq = config.freq_dim;
    let s = b.op("s", Op::TimestepEmbedding { dim: freq }, &[t], None);
    let (w, bias) = ("time_embedding.0.weight", "time_embedding.0.bias");
    let t0 = b.linear("t0", s, w, Some(bias), DType::F32);
    let t1 = b.op("t1", Op::Silu, &[t0], None);
    let (w, bias) = ("time_embedding.2.weight", "time_embedding.2.bias");
    let te = b.linear("te", t1, w, Some(bias), DType::F32);
    let t2 = b.op("t2", Op::Silu, &[te], None);
    let (w, bias) = ("time_projection.1.weight", "time_projection.1.bias");
    let t3 = b.linear("t3", t2, w, Some(bias), DType::F32);
    let e = b.reshape("e", t3, [size.timesteps, 6, d]);

    let frames = (size.reference_frames + size.frames) / patch[0];
    let positions = b.iota("frames", 0, TensorType::new(DType::I32, [frames]));
    let table = Op::RopeTable { rows, cols, head_dim, theta: config.rope_theta };
    let mut rope = b.op("rope", table, &[positions], None);
    if samples > 1 {
        let one = b.reshape("ropes", rope, [1, tokens, head_dim / 2, 2]);
        let each = f32(&[samples, tokens, head_dim / 2, 2]);
        let all = b.op("ropes", Op::Broadcast, &[one], Some(each));
        rope = b.reshape("rope", all, [samples * tokens, head_dim / 2, 2]);
    }

    let mut xn = x0;
    if alike > 0 {
        xn = b.repeat("xn", "l", 0..alike as u32, &[("x", x0)], &[], |b, carry, _| {
            let index = [IndexArg::Name("l".into())];
            (b.call("y", "block", &index, &[carry[0], e, seg, rope, ctx]), Vec::new())
        })[0];
    }
    let xh = match apart {
        true => b.call("xh", "last", &[IndexArg::Int(alike as u32)], &[xn, e, seg, rope, ctx])[0],
        false => parts.of_targets(&mut b, "xh", xn),
    };
    let sh = parts.of_targets(&mut b, "segh", seg);
    let tr = b.reshape("tr", te, [size.timesteps, 1, d]);
    let modulation = b.weight("head.modulation");
    let hm = b.add("hm", tr, modulation);
    let shift = b.index("hs", hm, 1, 0);
    let scale = b.index("hc", hm, 1, 1);
    let hn = b.op("hn", Op::LayerNorm { eps: config.eps }, &[xh], Some(f32(&[])));
    let hx = b.op("hx", Op::Modulate, &[hn, shift, scale, sh], None);
    let ho = b.linear("ho", hx, "head.head.weight", Some("head.head.bias"), DType::F32);
    let grid = [samples * size.frames / patch[0], rows, cols];
    let v = b.op("v", Op::Unpatchify { patch, grid }, &[ho], None);
    let main = b.finish(&[v]);
    debug_assert_eq!(head_dim * heads, d);
    module.add(main);
    module
}

/// The blocks alone, for measuring them without embeddings, time path and head.
///
/// `@stack(%x: res[N,D], %e: f32[G,6,D], %seg: i32[N], %rope: f32[N,head_dim/2,2], %ctx: act[T,D])
/// -> res[N,D]`: residual stream, modulation of each distinct timestep, segment of each token,
/// rotary table, embedded text. The result is the residual stream after the last block. Only the
/// number of tokens, of text tokens and of timesteps in `size` matter.
pub fn stack(config: &DitConfig, size: &DitSize, types: impl Into<DitTypes>) -> Module {
    let types = types.into();
    let precision = types.precision;
    let (d, tokens) = (config.width(), size.tokens(config));
    let dim = |name: &str, value: usize| BoundDim { name: name.into(), value };
    let mut module = Module {
        name: "wan22_dit_blocks".into(),
        dims: vec![
            dim("N", tokens),
            dim("T", size.text_tokens),
            dim("G", size.timesteps),
            dim("D", d),
        ],
        weights: manifest(config, precision),
        funcs: Vec::new(),
    };
    let block = block(&module, config, size, Batch::from(1), types, None);
    let params: Vec<(String, TensorType)> =
        block.param_types().map(|(name, ty)| (name.to_owned(), ty.clone())).collect();
    module.add(block);
    let mut b = FuncBuilder::new(&module, "stack");
    let given: Vec<_> = params.into_iter().map(|(name, ty)| b.param(&name, ty)).collect();
    let (x, fixed) = given.split_first().expect("a block has a residual stream");
    let carries = [("x", *x)];
    let xn = b.repeat("xn", "l", 0..config.layers as u32, &carries, &[], |b, carry, _| {
        let operands: Vec<_> = carry.iter().chain(fixed).copied().collect();
        (b.call("y", "block", &[IndexArg::Name("l".into())], &operands), Vec::new())
    })[0];
    let main = b.finish(&[xn]);
    module.add(main);
    module
}

/// One transformer block over a residual stream `x: res[N,D]` (`dit.md` §3.4), in which the samples
/// of a batch lie one after the other; or the last one, which makes rows of the targets alone.
fn block(
    module: &Module,
    config: &DitConfig,
    size: &DitSize,
    Batch { samples, last_text, .. }: Batch,
    types: DitTypes,
    targets: Option<Tokens>,
) -> anyid_ir::Func {
    let d = config.width();
    let heads = config.heads;
    let head_dim = config.head_dim;
    let tokens = samples * size.tokens(config);
    let text_tokens = samples * size.text_tokens;
    let (act, residual) = (types.precision.activation(), types.residual.dtype());
    let eps = config.eps;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let name = if targets.is_some() { "last" } else { "block" };
    let mut b = FuncBuilder::new(module, name).indexed(&["l"], "blocks.{l}");
    let x = b.param("x", TensorType::new(residual, [tokens, d]));
    let e = b.param("e", TensorType::new(DType::F32, [size.timesteps, 6, d]));
    let seg = b.param("seg", TensorType::new(DType::I32, [tokens]));
    let rope = b.param("rope", TensorType::new(DType::F32, [tokens, head_dim / 2, 2]));
    let ctx = b.param("ctx", TensorType::new(act, [text_tokens, d]));
    // Queries see the keys of their own sample.
    let attend = |b: &mut FuncBuilder<'_>, name: &str, [q, k, v]: [ValueId; 3], last: usize| {
        let op = Op::Attention { heads, scale, lse: false, last };
        if samples == 1 {
            return b.op(name, op, &[q, k, v], None);
        }
        let (queries, rows) = (b.ty(q).shape[0], b.ty(k).shape[0] / samples);
        let each = [(q, queries / samples), (k, rows), (v, rows)];
        let each = each.map(|(x, rows)| b.reshape(name, x, [samples, rows, d]));
        let all = b.op(name, op, &each, None);
        b.reshape(name, all, [queries, d])
    };

    let modulation = b.weight("modulation");
    let md = b.add("mod", e, modulation);
    let [sh1, sc1, ga1, sh2, sc2, ga2] = std::array::from_fn(|slot| {
        let name = ["sh1", "sc1", "ga1", "sh2", "sc2", "ga2"][slot];
        b.index(name, md, 1, slot)
    });
    let activation = Some(TensorType::new(act, []));
    // The result of a norm before a modulation is f32, whatever the type of the residual stream.
    let single = Some(TensorType::new(DType::F32, []));

    let n1 = b.op("n1", Op::LayerNorm { eps }, &[x], single.clone());
    let h1 = b.op("h1", Op::Modulate, &[n1, sh1, sc1, seg], activation.clone());
    // Keys are those of all rows.
    let mut of = |name: &str, x| targets.map_or(x, |rows| rows.of_targets(&mut b, name, x));
    let (hq, x, seg_q, rope_q) = (of("h1q", h1), of("xq", x), of("segq", seg), of("ropeq", rope));
    let q0 = b.linear("q0", hq, "self_attn.q.weight", Some("self_attn.q.bias"), act);
    let k0 = b.linear("k0", h1, "self_attn.k.weight", Some("self_attn.k.bias"), act);
    let v = b.linear("v", h1, "self_attn.v.weight", Some("self_attn.v.bias"), act);
    let gain = b.weight("self_attn.norm_q.weight");
    let norm = Op::RmsNorm { eps, clamp: false };
    let q1 = b.op("q1", norm.clone(), &[q0, gain], None);
    let gain = b.weight("self_attn.norm_k.weight");
    let k1 = b.op("k1", norm.clone(), &[k0, gain], None);
    let q = b.op("q", Op::Rope { heads }, &[q1, rope_q], None);
    let k = b.op("k", Op::Rope { heads }, &[k1, rope], None);
    let a = attend(&mut b, "a", [q, k, v], 1);
    let o = b.linear("o", a, "self_attn.o.weight", Some("self_attn.o.bias"), DType::F32);
    let x1 = b.op("x1", Op::GateAdd, &[x, o, ga1, seg_q], None);

    let n3 = if config.cross_attn_norm {
        let (weight, bias) = (b.weight("norm3.weight"), b.weight("norm3.bias"));
        b.op("n3", Op::LayerNorm { eps }, &[x1, weight, bias], activation.clone())
    } else {
        b.cast("n3", x1, act)
    };
    let cq0 = b.linear("cq0", n3, "cross_attn.q.weight", Some("cross_attn.q.bias"), act);
    let gain = b.weight("cross_attn.norm_q.weight");
    let cq = b.op("cq", norm.clone(), &[cq0, gain], None);
    let ck0 = b.linear("ck0", ctx, "cross_attn.k.weight", Some("cross_attn.k.bias"), act);
    let gain = b.weight("cross_attn.norm_k.weight");
    let ck = b.op("ck", norm, &[ck0, gain], None);
    let cv = b.linear("cv", ctx, "cross_attn.v.weight", Some("cross_attn.v.bias"), act);
    let ca = attend(&mut b, "ca", [cq, ck, cv], last_text);
    let co = b.linear("co", ca, "cross_attn.o.weight", Some("cross_attn.o.bias"), DType::F32);
    let x2 = if residual == DType::F32 {
        b.add("x2", x1, co)
    } else {
        let wide = b.cast("x1w", x1, DType::F32);
        let sum = b.add("x2w", wide, co);
        b.cast("x2", sum, residual)
    };

    let n2 = b.op("n2", Op::LayerNorm { eps }, &[x2], single);
    let h2 = b.op("h2", Op::Modulate, &[n2, sh2, sc2, seg_q], activation);
    let f0 = b.linear("f0", h2, "ffn.0.weight", Some("ffn.0.bias"), act);
    let f1 = b.op("f1", Op::Gelu, &[f0], None);
    let f2 = b.linear("f2", f1, "ffn.2.weight", Some("ffn.2.bias"), DType::F32);
    let x3 = b.op("x3", Op::GateAdd, &[x2, f2, ga2, seg_q], None);
    b.finish(&[x3])
}
