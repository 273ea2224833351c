//! The training objective of the autoencoder: clips are encoded and decoded again, and compared with
//! what they were.

use super::config::VaeConfig;
use super::loss::{along_time, weighted};
use super::vae::{Half, VaeSize, decoder, encoder, stills, whole_clip};
use anyid_ir::{
    BinaryFn, DType, FuncBuilder, Manifest, Module, Op, ReduceFn, TensorType, UnaryFn, ValueId,
};

/// What the latents have a part in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latents {
    /// What noise counts that is added to them before they are decoded; 0 for none.
    pub noise: f64,
    /// What their mean square counts in the loss; 0 for nothing.
    pub penalty: f64,
}

/// Both halves of the autoencoder with `@losses(%pixels: f32[S,3,T,H,W], %noise: f32[S,z,F,h,w]) ->
/// %loss, %first, %later: f32[S]` and, behind it, `@train` as for the transformer. `size` is of `S = samples`
/// clips of `frames` pixel frames, each of which goes through by itself.
///
/// The normalised latents of a clip get their share of the noise before they are decoded; without a share there
/// is no `%noise`. With the error e of its pixels, the loss is the mean of |e|, half the means of the absolute
/// differences of e between neighbours in a row and in a column, the mean of e², and the penalty of the
/// latents. `%first` is the mean of e² over the first frame, `%later` over the others, where there are some.
/// With a single frame the module lacks the weights that only later frames meet.
pub fn reconstruction(
    config: &VaeConfig,
    size: &VaeSize,
    frames: usize,
    samples: usize,
    latents: Latents,
) -> Module {
    let mut module = halves(config, size, frames, samples);

    let mut b = FuncBuilder::new(&module, "losses");
    let shape = [3, frames, size.height, size.width];
    let pixels = b.param("pixels", several(samples, &shape));
    let (time, space) = (config.temporal_factor(), config.spatial_factor());
    let latent = [config.z_dim, 1 + (frames - 1) / time, size.height / space, size.width / space];
    let noise = (latents.noise > 0.0).then(|| b.param("noise", several(samples, &latent)));
    let [mut losses, mut firsts, mut laters] = [const { Vec::new() }; 3];
    let noise = noise.map(|noise| scaled(&mut b, "noise", noise, latents.noise));
    let (cleans, videos) = there_and_back(&mut b, (pixels, noise), samples, frames);
    for sample in 0..samples {
        let clip = one(&mut b, "clip", pixels, sample);
        let (clean, video) = (cleans[sample], videos[sample]);
        let error = b.binary("error", BinaryFn::Sub, video, clip);
        let [own, down, across] =
            [absolute(&mut b, error), differences(&mut b, error, 2), differences(&mut b, error, 3)];
        let square = b.mul("squares", error, error);
        let mut parts = b.add("edges", down, across);
        parts = scaled(&mut b, "edges", parts, 0.5);
        parts = b.add("sum", own, parts);
        let all = mean(&mut b, square);
        parts = b.add("sum", parts, all);
        if latents.penalty > 0.0 {
            let size = b.mul("size", clean, clean);
            let size = mean(&mut b, size);
            let size = scaled(&mut b, "size", size, latents.penalty);
            parts = b.add("sum", parts, size);
        }
        losses.push(b.reshape("loss", parts, [1]));
        let mut part = |start: usize, count: usize| {
            let part = b.slice("part", square, 1, start, count);
            let part = mean(&mut b, part);
            b.reshape("part", part, [1])
        };
        firsts.push(part(0, 1));
        if frames > 1 {
            laters.push(part(1, frames - 1));
        }
    }
    let mut results = Vec::new();
    for (name, parts) in [("loss", losses), ("first", firsts), ("later", laters)] {
        if !parts.is_empty() {
            let all = b.concat(name, &parts, 0);
            results.push(b.rename(all, name));
        }
    }
    let func = b.finish(&results);
    module.add(func);
    weighted(module, if frames > 1 { &["loss", "first", "later"] } else { &["loss", "first"] })
}

fn scaled(b: &mut FuncBuilder<'_>, name: &str, x: ValueId, factor: f64) -> ValueId {
    let factor = b.scalar("factor", DType::F32, factor);
    b.mul(name, x, factor)
}

/// The functions of both halves, for clips one by one, or for single frames all together.
fn halves(config: &VaeConfig, size: &VaeSize, frames: usize, samples: usize) -> Module {
    let mut module = Module { name: "wan22_vae".into(), ..Module::default() };
    module.weights = Manifest::new("vae");
    for (half, prefix) in [(Half::Encoder, "encoder"), (Half::Decoder, "decoder")] {
        let own = match (frames, half) {
            (1, _) => stills(config, size, half, samples),
            (_, Half::Encoder) => whole_clip(config, size, half, encoder(config, size), frames),
            (_, Half::Decoder) => {
                whole_clip(config, size, half, decoder(config, size, true), frames)
            }
        };
        for (name, ty) in own.weights.tensors() {
            module.weights.add(name, ty.clone()).expect("the halves share no weight");
        }
        module.funcs.extend(with_prefix(own, prefix).funcs);
    }
    module
}

/// The clean latents and the video of each sample.
fn there_and_back(
    b: &mut FuncBuilder<'_>,
    (pixels, noise): (ValueId, Option<ValueId>),
    samples: usize,
    frames: usize,
) -> (Vec<ValueId>, Vec<ValueId>) {
    let (mut cleans, mut videos) = (Vec::new(), Vec::new());
    if frames == 1 {
        let pictures = along_time(b, "pictures", pixels);
        let clean = b.call("latents", "encoder_encode", &[], &[pictures])[1];
        let mut z = clean;
        if let Some(noise) = noise {
            let noise = along_time(b, "noise", noise);
            z = b.add("noisy", z, noise);
        }
        let video = b.call("videos", "decoder_decode", &[], &[z])[0];
        for sample in 0..samples {
            cleans.push(b.slice("latent", clean, 1, sample, 1));
            videos.push(b.slice("video", video, 1, sample, 1));
        }
        return (cleans, videos);
    }
    for sample in 0..samples {
        let clip = one(b, "clip", pixels, sample);
        let clean = b.call("latent", "encoder_encode", &[], &[clip])[2];
        let mut z = clean;
        if let Some(noise) = noise {
            let noise = one(b, "noise", noise, sample);
            z = b.add("noisy", z, noise);
        }
        cleans.push(clean);
        videos.push(b.call("video", "decoder_decode", &[], &[z])[0]);
    }
    (cleans, videos)
}

/// The functions of `module` under names that begin with `prefix`.
fn with_prefix(mut module: Module, prefix: &str) -> Module {
    for func in &mut module.funcs {
        func.name = format!("{prefix}_{}", func.name);
        for id in func.nodes.ids() {
            if let Op::Call { func: called, .. } = &mut func.nodes[id].op {
                *called = format!("{prefix}_{called}");
            }
        }
    }
    module
}

fn several(samples: usize, shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, std::iter::once(samples).chain(shape.iter().copied()))
}

/// Sample `at` of several.
fn one(b: &mut FuncBuilder<'_>, name: &str, x: ValueId, at: usize) -> ValueId {
    let shape = b.shape(x);
    let own = b.slice(name, x, 0, at, 1);
    b.reshape(name, own, shape[1..].iter().copied())
}

fn mean(b: &mut FuncBuilder<'_>, x: ValueId) -> ValueId {
    let axes: Vec<usize> = (0..b.ty(x).rank()).collect();
    b.reduce("mean", ReduceFn::Mean, x, &axes, false)
}

fn absolute(b: &mut FuncBuilder<'_>, x: ValueId) -> ValueId {
    let x = b.unary("absolute", UnaryFn::Abs, x);
    mean(b, x)
}

/// The mean absolute difference of neighbours along an axis.
fn differences(b: &mut FuncBuilder<'_>, x: ValueId, axis: usize) -> ValueId {
    let length = b.ty(x).shape[axis];
    let [before, behind] = [0, 1].map(|start| b.slice("neighbour", x, axis, start, length - 1));
    let apart = b.binary("apart", BinaryFn::Sub, behind, before);
    absolute(b, apart)
}
