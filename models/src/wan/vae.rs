//! The Wan2.2 causal autoencoder as graphs (`vae.md`).
//!
//! Streaming is explicit: `@first` works on the first frame of a clip and `@next` on a later chunk.
//! The past frames of every causal convolution are tensors that come in and go out. The states
//! that `@first` returns are those that `@next` needs, so a whole clip is `@first`, `@next`,
//! `@next`, …, which equals the closed form of `vae.md` §5. Tensors inside are channels-last
//! `[T,H,W,C]`, the only layout of convolutions.

use super::Precision;
use super::config::VaeConfig;
use anyid_ir::{
    BinaryFn, BoundDim, DType, Func, FuncBuilder, Manifest, Module, Op, ReduceFn, TensorType,
    ValueId,
};

/// Smallest norm the channel normalisation divides by.
const NORM_FLOOR: f64 = 1e-12;

/// Which half of the autoencoder a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// Pixels to latents.
    Encoder,
    /// Latents to pixels.
    Decoder,
}

/// Sizes one autoencoder module is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaeSize {
    /// Pixel rows; a multiple of [`VaeConfig::spatial_factor`].
    pub height: usize,
    /// Pixel columns; a multiple of [`VaeConfig::spatial_factor`].
    pub width: usize,
    /// Latent frames of one later chunk (1 is the reference's streaming).
    pub chunk: usize,
}

/// The weight manifest of one half, in original Wan names. All f32.
pub fn manifest(config: &VaeConfig, half: Half) -> Manifest {
    manifest_in(config, half, Precision::F32)
}

/// [`manifest`] with kernels of convolutions in the type of `precision`.
fn manifest_in(config: &VaeConfig, half: Half, precision: Precision) -> Manifest {
    let mut manifest = Manifest::new(match half {
        Half::Encoder => "vae_encoder",
        Half::Decoder => "vae_decoder",
    });
    for (name, shape) in super::names::vae_tensors(config) {
        let first = name.split('.').next().unwrap_or_default();
        let wanted = match half {
            Half::Encoder => matches!(first, "encoder" | "conv1"),
            Half::Decoder => matches!(first, "decoder" | "conv2"),
        };
        if wanted {
            let kernel = name.ends_with(".weight");
            let dtype = if kernel { precision.activation() } else { DType::F32 };
            let ty = TensorType::new(dtype, shape.iter().map(|s| *s as usize));
            manifest.add(&name, ty).expect("tensor names are plain and unique");
        }
    }
    manifest
}

/// Encoder: `@first(%video: f32[3,1,H,W]) -> moments, latent, states…` and
/// `@next(%video: f32[3,m·f,H,W], states…) -> moments, latent, states…` with f frames for a latent
/// frame ([`VaeConfig::temporal_factor`]); moments are `f32[2z,m,h,w]` (mean, then log variance), the latent is the normalised mean.
pub fn encoder(config: &VaeConfig, size: &VaeSize) -> Module {
    coder(config, size, Half::Encoder, false, Precision::F32)
}

/// Decoder: `@first(%z: f32[z,1,h,w]) -> video, states…` and `@next(%z: f32[z,m,h,w], states…)
/// -> video, states…` with pixels `f32[3,T,H,W]` in [−1,1]. With `normalised` the input is the
/// transformer's latent and is scaled back first (`vae.md` §6).
pub fn decoder(config: &VaeConfig, size: &VaeSize, normalised: bool) -> Module {
    coder(config, size, Half::Decoder, normalised, Precision::F32)
}

/// The states of `@first` or `@next` in order: the position of each among the inputs of the
/// function, if it is an input, and among its outputs.
pub fn states(half: Half, func: &Func) -> Vec<(Option<usize>, usize)> {
    let results = if half == Half::Encoder { 2 } else { 1 };
    let reads = func.param_types().count() > 1;
    (results..func.results.len())
        .map(|output| (reads.then_some(output - results + 1), output))
        .collect()
}

/// Adds `@encode` or `@decode`, the composition of the streaming functions over a clip of
/// `frames` pixel frames (k times [`VaeConfig::temporal_factor`] and one), as the last function.
///
/// `@encode(%video: f32[3,T,H,W]) -> moments, mean, latent`; `@decode(%z: f32[z,1+k,h,w]) ->
/// video`. Every later chunk has `size.chunk` latent frames, which must divide k.
pub fn whole_clip(
    config: &VaeConfig,
    size: &VaeSize,
    half: Half,
    mut module: Module,
    frames: usize,
) -> Module {
    let (time, space) = (config.temporal_factor(), config.spatial_factor());
    let chunks = (frames - 1) / time / size.chunk;
    let z = config.z_dim;
    let main = match half {
        Half::Encoder => {
            let mut b = FuncBuilder::new(&module, "encode");
            let shape = [3, frames, size.height, size.width];
            let video = b.param("video", TensorType::new(DType::F32, shape));
            let (mut moments, mut latents) = (Vec::new(), Vec::new());
            let mut states: Vec<ValueId> = Vec::new();
            for chunk in 0..=chunks {
                let (start, len) = match chunk {
                    0 => (0, 1),
                    _ => (1 + (chunk - 1) * time * size.chunk, time * size.chunk),
                };
                let part = b.slice("part", video, 1, start, len);
                let mut arguments = vec![part];
                arguments.append(&mut states);
                let name = if chunk == 0 { "first" } else { "next" };
                let results = b.call(name, name, &[], &arguments);
                moments.push(results[0]);
                latents.push(results[1]);
                states = results[2..].to_vec();
            }
            let moments = b.concat("moments", &moments, 1);
            b.rename(moments, "moments");
            let latent = b.concat("latent", &latents, 1);
            b.rename(latent, "latent");
            let mean = b.slice("mean", moments, 0, 0, z);
            b.finish(&[moments, mean, latent])
        }
        Half::Decoder => {
            let mut b = FuncBuilder::new(&module, "decode");
            let shape = [z, 1 + (frames - 1) / time, size.height / space, size.width / space];
            let latent = b.param("z", TensorType::new(DType::F32, shape));
            let mut videos = Vec::new();
            let mut states: Vec<ValueId> = Vec::new();
            for chunk in 0..=chunks {
                let (start, len) = match chunk {
                    0 => (0, 1),
                    _ => (1 + (chunk - 1) * size.chunk, size.chunk),
                };
                let part = b.slice("part", latent, 1, start, len);
                let mut arguments = vec![part];
                arguments.append(&mut states);
                let name = if chunk == 0 { "first" } else { "next" };
                let results = b.call(name, name, &[], &arguments);
                videos.push(results[0]);
                states = results[1..].to_vec();
            }
            let video = b.concat("video", &videos, 1);
            b.rename(video, "video");
            b.finish(&[video])
        }
    };
    module.add(main);
    module
}

/// [`encoder`] or [`decoder`] in a precision. With [`Precision::Bf16`] everything between pixels
/// and latents is bf16, states included, and sums are f32. `normalised` applies to decoders only.
pub fn coder(
    config: &VaeConfig,
    size: &VaeSize,
    half: Half,
    normalised: bool,
    precision: Precision,
) -> Module {
    let dim = |name: &str, value: usize| BoundDim { name: name.into(), value };
    let mut module = Module {
        name: match half {
            Half::Encoder => "wan22_vae_encoder".into(),
            Half::Decoder => "wan22_vae_decoder".into(),
        },
        dims: vec![
            dim("H", size.height),
            dim("W", size.width),
            dim("m", size.chunk),
            dim("Z", config.z_dim),
        ],
        weights: manifest_in(config, half, precision),
        funcs: Vec::new(),
    };
    let first = chunk(&module, config, size, half, normalised, precision, None);
    let states = first.results.clone();
    module.add(first);
    let skip = if half == Half::Encoder { 2 } else { 1 };
    let past = &states[skip..];
    let next = chunk(&module, config, size, half, normalised, precision, Some(past));
    module.add(next);
    module
}

fn chunk(
    module: &Module,
    config: &VaeConfig,
    size: &VaeSize,
    half: Half,
    normalised: bool,
    precision: Precision,
    states: Option<&[TensorType]>,
) -> Func {
    let name = if states.is_none() { "first" } else { "next" };
    let mut b = FuncBuilder::new(module, name);
    let frames = if states.is_none() { 1 } else { size.chunk };
    let input = match half {
        Half::Encoder => {
            let frames = frames * if states.is_none() { 1 } else { config.temporal_factor() };
            b.param("video", TensorType::new(DType::F32, [3, frames, size.height, size.width]))
        }
        Half::Decoder => {
            let space = config.spatial_factor();
            let shape = [config.z_dim, frames, size.height / space, size.width / space];
            b.param("z", TensorType::new(DType::F32, shape))
        }
    };
    let past = states.map(|types| {
        let params = types.iter().enumerate();
        params.map(|(i, ty)| b.param(&format!("s{i}"), ty.clone())).collect::<Vec<_>>().into_iter()
    });
    let act = precision.activation();
    let mut coder = Coder { b, config, act, gives: act, past, states: Vec::new() };
    let mut results = match half {
        Half::Encoder => coder.encode(input),
        Half::Decoder => coder.decode(input, normalised),
    };
    results.extend(&coder.states);
    coder.b.finish(&results)
}

/// Builds one chunk function: consumes the past states in order and collects the new ones in the
/// same order.
struct Coder<'m> {
    b: FuncBuilder<'m>,
    config: &'m VaeConfig,
    /// Element type of everything between pixels and latents.
    act: DType,
    /// Element type of the results of convolutions: `act`, but f32 for the last ones.
    gives: DType,
    /// States that came in, or `None` for the first chunk.
    past: Option<std::vec::IntoIter<ValueId>>,
    states: Vec<ValueId>,
}

impl Coder<'_> {
    fn first(&self) -> bool {
        self.past.is_none()
    }

    fn take_past(&mut self) -> Option<ValueId> {
        self.past.as_mut().map(|p| p.next().expect("as many states go in as came out of @first"))
    }

    fn keep(&mut self, state: ValueId) {
        let name = format!("n{}", self.states.len());
        // The value may already have a descriptive name; renaming it is harmless.
        self.b.rename(state, &name);
        self.states.push(state);
    }

    fn frames(&self, x: ValueId) -> usize {
        self.b.ty(x).shape[0]
    }

    /// A convolution with weights `path.weight` and `path.bias`.
    fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        path: &str,
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
    ) -> ValueId {
        let (w, bias) =
            (self.b.weight(&format!("{path}.weight")), self.b.weight(&format!("{path}.bias")));
        let gives = Some(TensorType::new(self.gives, []));
        self.b.op(name, Op::Conv { stride, pad }, &[x, w, bias], gives)
    }

    /// Pointwise or per-frame convolution without state.
    fn plain(&mut self, name: &str, x: ValueId, path: &str, pad: usize) -> ValueId {
        self.conv(name, x, path, [1; 3], [[0, 0], [pad, pad], [pad, pad]])
    }

    /// Causal 3×3×3 convolution. Its past is the last two input frames, or zeros at the start.
    fn causal(&mut self, name: &str, x: ValueId, path: &str) -> ValueId {
        let frames = self.frames(x);
        match self.take_past() {
            None => {
                let state = if frames >= 2 {
                    self.b.slice("state", x, 0, frames - 2, 2)
                } else {
                    self.b.pad("state", x, 0, 2 - frames, 0)
                };
                let y = self.conv(name, x, path, [1; 3], [[2, 0], [1, 1], [1, 1]]);
                self.keep(state);
                y
            }
            Some(past) => {
                let joined = self.b.concat("joined", &[past, x], 0);
                let y = self.conv(name, joined, path, [1; 3], [[0, 0], [1, 1], [1, 1]]);
                let state = self.b.slice("state", joined, 0, frames, 2);
                self.keep(state);
                y
            }
        }
    }

    /// Channel normalisation, followed by SiLU except before attention.
    fn norm(&mut self, name: &str, x: ValueId, path: &str, silu: bool) -> ValueId {
        let gamma = self.b.weight(path);
        let channels = self.b.ty(x).last();
        let gain = self.b.reshape("gain", gamma, [channels]);
        let norm = Op::RmsNorm { eps: NORM_FLOOR, clamp: true };
        let y = self.b.op(name, norm, &[x, gain], None);
        if silu { self.b.op(name, Op::Silu, &[y], None) } else { y }
    }

    /// Residual block `path`, to `out` channels (`vae.md` §3).
    fn residual(&mut self, x: ValueId, path: &str, out: usize) -> ValueId {
        let h = self.norm("h", x, &format!("{path}.residual.0.gamma"), true);
        let h = self.causal("h", h, &format!("{path}.residual.2"));
        let h = self.norm("h", h, &format!("{path}.residual.3.gamma"), true);
        let h = self.causal("h", h, &format!("{path}.residual.6"));
        let skip = if self.b.ty(x).last() == out {
            x
        } else {
            self.plain("skip", x, &format!("{path}.shortcut"), 0)
        };
        self.b.add("res", h, skip)
    }

    /// Single-head attention over the positions of each frame.
    fn attention(&mut self, x: ValueId, path: &str) -> ValueId {
        let shape = self.b.shape(x);
        let (frames, positions, channels) = (shape[0], shape[1] * shape[2], shape[3]);
        let n = self.norm("n", x, &format!("{path}.norm.gamma"), false);
        let qkv = self.plain("qkv", n, &format!("{path}.to_qkv"), 0);
        let [q, k, v] = std::array::from_fn(|part| {
            let name = ["q", "k", "v"][part];
            let split = self.b.slice(name, qkv, 3, part * channels, channels);
            self.b.reshape(name, split, [frames, positions, channels])
        });
        let op =
            Op::Attention { heads: 1, scale: 1.0 / (channels as f64).sqrt(), lse: false, last: 1 };
        let a = self.b.op("a", op, &[q, k, v], None);
        let a = self.b.reshape("a", a, shape);
        let o = self.plain("o", a, &format!("{path}.proj"), 0);
        self.b.add("attn", o, x)
    }

    fn middle(&mut self, x: ValueId, path: &str) -> ValueId {
        let channels = self.b.ty(x).last();
        let x = self.residual(x, &format!("{path}.0"), channels);
        self.b.rename(x, "mid.resnet0");
        let x = self.attention(x, &format!("{path}.1"));
        self.b.rename(x, "mid.attn");
        let x = self.residual(x, &format!("{path}.2"), channels);
        self.b.rename(x, "mid")
    }

    fn head(&mut self, x: ValueId, path: &str) -> ValueId {
        let h = self.norm("h", x, &format!("{path}.0.gamma"), true);
        self.causal("conv_out", h, &format!("{path}.2"))
    }

    /// `[3,T,H,W]` to `[T,H/p,W/p,3p²]`; channel = (colour, column offset, row offset).
    fn patchify(&mut self, video: ValueId) -> ValueId {
        let p = self.config.patch_size;
        if p == 1 {
            return self.b.permute("pixels", video, &[1, 2, 3, 0]);
        }
        let shape = self.b.shape(video);
        let (c, t, h, w) = (shape[0], shape[1], shape[2] / p, shape[3] / p);
        let split = self.b.reshape("split", video, [c, t, h, p, w, p]);
        let moved = self.b.permute("moved", split, &[1, 2, 4, 0, 5, 3]);
        self.b.reshape("pixels", moved, [t, h, w, c * p * p])
    }

    /// The inverse of [`Self::patchify`].
    fn unpatchify(&mut self, x: ValueId) -> ValueId {
        let p = self.config.patch_size;
        if p == 1 {
            return self.b.permute("pixels", x, &[3, 0, 1, 2]);
        }
        let shape = self.b.shape(x);
        let (t, h, w, c) = (shape[0], shape[1], shape[2], shape[3] / (p * p));
        let split = self.b.reshape("split", x, [t, h, w, c, p, p]);
        let moved = self.b.permute("moved", split, &[3, 0, 1, 5, 2, 4]);
        self.b.reshape("pixels", moved, [c, t, h * p, w * p])
    }

    /// Averaging shortcut to `out` channels with time factor `ft` and space factor `fs`.
    fn average_down(&mut self, x: ValueId, out: usize, ft: usize, fs: usize) -> ValueId {
        let mut x = x;
        let missing = self.frames(x).next_multiple_of(ft) - self.frames(x);
        if missing > 0 {
            x = self.b.pad("front", x, 0, missing, 0);
        }
        if ft == 1 && fs == 1 && self.b.ty(x).last() == out {
            return x;
        }
        let s = self.b.shape(x);
        let (t, h, w, c) = (s[0] / ft, s[1] / fs, s[2] / fs, s[3]);
        let split = self.b.reshape("split", x, [t, ft, h, fs, w, fs, c]);
        let moved = self.b.permute("moved", split, &[0, 2, 4, 6, 1, 3, 5]);
        let grouped = self.b.reshape("grouped", moved, [t, h, w, out, c * ft * fs * fs / out]);
        self.b.reduce("shortcut", ReduceFn::Mean, grouped, &[4], false)
    }

    /// Duplicating shortcut; the first chunk drops its first `ft − 1` frames. Channel
    /// `(o·ft + t)·fs² + a·fs + b` of the repeated input is channel `o` at frame offset `t`, row
    /// offset `a` and column offset `b`. The repeats are innermost, so only the outer offsets pick
    /// channels; over the others a pixel is simply repeated in place.
    fn duplicate_up(&mut self, x: ValueId, out: usize, ft: usize, fs: usize) -> ValueId {
        let s = self.b.shape(x);
        let repeats = out * ft * fs * fs / s[3];
        // Offsets that pick channels, from the outermost.
        let mut left = s[3] / out;
        let mut take = |factor: usize| {
            let taken = left.clamp(1, factor);
            left /= taken;
            taken
        };
        let [nt, na, nb] = [take(ft), take(fs), take(fs)];
        let nested = nt * na * nb * out == s[3]
            && [(ft, nt), (fs, na), (fs, nb)].iter().all(|(all, n)| all.is_multiple_of(*n));
        let mut y = x;
        if !nested && repeats > 1 {
            let factors = anyid_ir::Axes::from_slice(&[1, 1, 1, repeats]);
            y = self.b.op("repeated", Op::Upsample { factors }, &[y], None);
        }
        let [nt, na, nb] = if nested { [nt, na, nb] } else { [ft, fs, fs] };
        if [nt, na, nb] != [1; 3] {
            let split = self.b.reshape("split", y, [s[0], s[1], s[2], out, nt, na, nb]);
            let moved = self.b.permute("moved", split, &[0, 4, 1, 5, 2, 6, 3]);
            y = self.b.reshape("shortcut", moved, [s[0] * nt, s[1] * na, s[2] * nb, out]);
        }
        let factors = [ft / nt, fs / na, fs / nb, 1];
        if factors != [1; 4] {
            let factors = anyid_ir::Axes::from_slice(&factors);
            y = self.b.op("shortcut", Op::Upsample { factors }, &[y], None);
        }
        let frames = s[0] * ft;
        if self.first() && ft > 1 {
            self.b.slice("shortcut", y, 0, ft - 1, frames - (ft - 1))
        } else {
            y
        }
    }

    /// The strided spatial convolution, then the strided temporal one if the level has one.
    fn downsample(&mut self, x: ValueId, path: &str, temporal: bool) -> ValueId {
        let pad = [[0, 0], [0, 1], [0, 1]];
        let x = self.conv("down", x, &format!("{path}.resample.1"), [1, 2, 2], pad);
        if !temporal {
            return x;
        }
        let frames = self.frames(x);
        match self.take_past() {
            None => {
                // The first frame bypasses the temporal convolution and becomes its past.
                let state = self.b.slice("state", x, 0, frames - 1, 1);
                self.states.push(state);
                x
            }
            Some(past) => {
                let joined = self.b.concat("joined", &[past, x], 0);
                let y =
                    self.conv("time", joined, &format!("{path}.time_conv"), [2, 1, 1], [[0, 0]; 3]);
                let state = self.b.slice("state", x, 0, frames - 1, 1);
                self.keep(state);
                y
            }
        }
    }

    /// The temporal convolution that doubles the frames, if the level has one, then ×2 in space.
    fn upsample(&mut self, x: ValueId, path: &str, temporal: bool) -> ValueId {
        let mut x = x;
        if temporal {
            let s = self.b.shape(x);
            match self.take_past() {
                None => {
                    // This convolution never sees the first frame, so its past stays zero.
                    let ty = TensorType::new(self.act, [2, s[1], s[2], s[3]]);
                    let state = self.b.constant("state", 0.0, ty);
                    self.keep(state);
                }
                Some(past) => {
                    let joined = self.b.concat("joined", &[past, x], 0);
                    let state = self.b.slice("state", joined, 0, s[0], 2);
                    self.keep(state);
                    let y = self.conv(
                        "time",
                        joined,
                        &format!("{path}.time_conv"),
                        [1; 3],
                        [[0, 0]; 3],
                    );
                    let split = self.b.reshape("split", y, [s[0], s[1], s[2], 2, s[3]]);
                    let moved = self.b.permute("moved", split, &[0, 3, 1, 2, 4]);
                    x = self.b.reshape("doubled", moved, [2 * s[0], s[1], s[2], s[3]]);
                }
            }
        }
        let factors = anyid_ir::Axes::from_slice(&[1, 2, 2, 1]);
        let x = self.b.op("up", Op::Upsample { factors }, &[x], None);
        self.plain("up", x, &format!("{path}.resample.1"), 1)
    }

    /// `x` as `dtype`.
    fn typed(&mut self, name: &str, x: ValueId, dtype: DType) -> ValueId {
        if self.b.ty(x).dtype == dtype { x } else { self.b.cast(name, x, dtype) }
    }

    fn statistics(&mut self, inverse: bool) -> [ValueId; 2] {
        let z = self.config.z_dim;
        let ty = TensorType::new(DType::F32, [z, 1, 1, 1]);
        let mean: Vec<f64> = self.config.latents_mean.iter().map(|v| f64::from(*v)).collect();
        // The reference multiplies by the reciprocal, rounded to f32 (`vae.md` §6).
        let scale = |s: &f32| f64::from(if inverse { 1.0 / s } else { *s });
        let std: Vec<f64> = self.config.latents_std.iter().map(scale).collect();
        [self.b.literal("latents_mean", &mean, ty.clone()), self.b.literal("latents_std", &std, ty)]
    }

    fn encode(&mut self, video: ValueId) -> Vec<ValueId> {
        let config = self.config;
        let pixels = self.patchify(video);
        let pixels = self.typed("pixels", pixels, self.act);
        let mut x = self.causal("conv_in", pixels, "encoder.conv1");
        let levels = config.dim_mult.len();
        for level in 0..levels {
            let out = config.base_dim * config.dim_mult[level];
            let path = format!("encoder.downsamples.{level}.downsamples");
            let input = x;
            for block in 0..config.num_res_blocks {
                x = self.residual(x, &format!("{path}.{block}"), out);
            }
            let last = level + 1 == levels;
            let temporal = !last && config.temporal_downsample[level];
            if !last {
                x = self.downsample(x, &format!("{path}.{}", config.num_res_blocks), temporal);
            }
            if config.residual {
                let (ft, fs) = (1 + usize::from(temporal), if last { 1 } else { 2 });
                let shortcut = self.average_down(input, out, ft, fs);
                if shortcut != input {
                    self.b.rename(shortcut, &format!("down{level}.shortcut"));
                }
                x = self.b.add(&format!("down{level}"), x, shortcut);
            } else {
                self.b.rename(x, &format!("down{level}"));
            }
        }
        x = self.middle(x, "encoder.middle");
        x = self.head(x, "encoder.head");
        let z = config.z_dim;
        self.gives = DType::F32;
        let quantised = self.plain("quant", x, "conv1", 0);
        let moments = self.b.permute("moments", quantised, &[3, 0, 1, 2]);
        let mean = self.b.slice("mean", moments, 0, 0, z);
        let [shift, scale] = self.statistics(true);
        let centred = self.b.binary("centred", BinaryFn::Sub, mean, shift);
        let latent = self.b.mul("latent", centred, scale);
        vec![moments, latent]
    }

    fn decode(&mut self, latent: ValueId, normalised: bool) -> Vec<ValueId> {
        let config = self.config;
        let mut z = latent;
        if normalised {
            let [shift, scale] = self.statistics(false);
            let scaled = self.b.mul("scaled", z, scale);
            z = self.b.add("denormalised", scaled, shift);
        }
        let rows = self.b.permute("rows", z, &[1, 2, 3, 0]);
        let rows = self.typed("rows", rows, self.act);
        let mut x = self.plain("quant", rows, "conv2", 0);
        x = self.causal("conv_in", x, "decoder.conv1");
        x = self.middle(x, "decoder.middle");
        let levels = config.dim_mult.len();
        let blocks = config.num_res_blocks + 1;
        for level in 0..levels {
            let out = config.decoder_base_dim * config.dim_mult[levels - 1 - level];
            let path = format!("decoder.upsamples.{level}.upsamples");
            let input = x;
            for block in 0..blocks {
                x = self.residual(x, &format!("{path}.{block}"), out);
            }
            if level + 1 < levels {
                // The decoder's temporal flags are the encoder's reversed.
                let temporal = config.temporal_downsample[levels - 2 - level];
                x = self.upsample(x, &format!("{path}.{blocks}"), temporal);
                if config.residual {
                    let shortcut = self.duplicate_up(input, out, 1 + usize::from(temporal), 2);
                    self.b.rename(shortcut, &format!("up{level}.shortcut"));
                    x = self.b.add(&format!("up{level}"), x, shortcut);
                    continue;
                }
            }
            self.b.rename(x, &format!("up{level}"));
        }
        self.gives = DType::F32;
        x = self.head(x, "decoder.head");
        let pixels = self.unpatchify(x);
        let [low, high] = [-1.0, 1.0].map(|v| self.b.scalar("bound", DType::F32, v));
        let raised = self.b.binary("raised", BinaryFn::Max, pixels, low);
        vec![self.b.binary("video", BinaryFn::Min, raised, high)]
    }
}
