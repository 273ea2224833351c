//! A judge of pictures: a small network that says the class of each of a few slots from one frame, or from
//! the first and the last one of a clip. It is given nothing else, neither what should be seen nor where the
//! camera is.
//!
//! Each level halves the sides by a convolution and has a residual block; channels are averaged over the
//! picture, and the frames side by side give the classes through one hidden layer. All of it is f32.

use crate::classes::with_classes;
use anyid_ir::{DType, Func, FuncBuilder, Manifest, Module, Op, ReduceFn, TensorType, ValueId};
use serde::{Deserialize, Serialize};

/// Keeps the root of the mean square of a pixel's channels from 0.
const EPSILON: f64 = 1e-6;
/// Most numbers of one layer: sizes come from files.
const MOST: usize = 4096;

/// The sizes of a judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// Pixel rows of a frame.
    pub height: usize,
    /// Pixel columns.
    pub width: usize,
    /// Frames that it is shown.
    pub frames: usize,
    /// Channels of each level.
    pub channels: Vec<usize>,
    /// Numbers of the hidden layer.
    pub hidden: usize,
}

impl JudgeConfig {
    /// The sizes that are trained: 0.6 million parameters for frames of any size.
    pub fn usual(height: usize, width: usize, frames: usize) -> Self {
        Self { height, width, frames, channels: vec![32, 64, 128], hidden: 256 }
    }

    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// The field, with its value.
    pub fn validate(&self) -> Result<(), String> {
        let Self { height, width, frames, channels, hidden } = self;
        let mut sizes = vec![("height", height), ("width", width), ("hidden", hidden)];
        sizes.extend(channels.iter().map(|size| ("channels", size)));
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=MOST).contains(*size))
        {
            return Err(format!("{name}: {size} is not from 1 to {MOST}"));
        }
        if !(1..=2).contains(frames) {
            return Err(format!("frames: {frames} is not 1 or 2"));
        }
        match channels.len() {
            1..=8 => Ok(()),
            count => Err(format!("channels: {count} levels are not from 1 to 8")),
        }
    }

    /// Numbers that the widest layer holds for one clip.
    pub fn stream(&self) -> usize {
        self.frames * self.height.div_ceil(2) * self.width.div_ceil(2) * self.channels[0]
    }
}

/// The weights of a judge of slots with so many classes.
pub fn manifest(config: &JudgeConfig, classes: &[usize]) -> Manifest {
    let mut manifest = Manifest::new("judge");
    let mut add = |name: &str, shape: &[usize]| {
        let ty = TensorType::new(DType::F32, shape.iter().copied());
        manifest.add(name, ty).expect("names of the judge are plain and unique");
    };
    let mut before = 3;
    for (level, own) in config.channels.iter().copied().enumerate() {
        let mut kernel = |name: &str, from: usize| {
            add(&format!("levels.{level}.{name}.weight"), &[own, from, 3, 3]);
            add(&format!("levels.{level}.{name}.bias"), &[own]);
        };
        kernel("down", before);
        kernel("conv1", own);
        kernel("conv2", own);
        for name in ["norm1", "norm2"] {
            add(&format!("levels.{level}.{name}.weight"), &[own]);
        }
        before = own;
    }
    add("norm.weight", &[before]);
    let all = classes.iter().sum();
    let layers = [("hidden", config.hidden, config.frames * before), ("heads", all, config.hidden)];
    for (name, rows, columns) in layers {
        add(&format!("{name}.weight"), &[rows, columns]);
        add(&format!("{name}.bias"), &[rows]);
    }
    manifest
}

/// `@judge(%pixels: f32[S,3,F,H,W]) -> %logits: f32[S,c]` of `samples` clips, pixels from −1 to 1; c is the
/// sum of `classes`, one slot's behind the other's.
pub fn judge(config: &JudgeConfig, samples: usize, classes: &[usize]) -> Module {
    let weights = manifest(config, classes);
    let mut module = Module { name: "judge".into(), weights, ..Module::default() };
    let func = logits(&module, config, samples);
    module.add(func);
    module
}

/// [`judge`] with `@losses(%pixels, %labels: f32[S,c])` and `@train` as [`with_classes`] says.
pub fn judging(config: &JudgeConfig, samples: usize, classes: &[usize]) -> Module {
    with_classes(judge(config, samples, classes), classes, |b| {
        let pixels = b.param("pixels", pixels(config, samples));
        b.call("logits", "judge", &[], &[pixels])[0]
    })
}

fn pixels(config: &JudgeConfig, samples: usize) -> TensorType {
    TensorType::new(DType::F32, [samples, 3, config.frames, config.height, config.width])
}

fn logits(module: &Module, config: &JudgeConfig, samples: usize) -> Func {
    let mut b = FuncBuilder::new(module, "judge");
    let pixels = b.param("pixels", pixels(config, samples));
    let (frames, pictures) = (config.frames, samples * config.frames);
    let rows = b.permute("rows", pixels, &[0, 2, 3, 4, 1]);
    let mut x = b.reshape("rows", rows, [pictures, config.height, config.width, 3]);
    for level in 0..config.channels.len() {
        let path = |name: &str| format!("levels.{level}.{name}");
        x = conv(&mut b, "down", x, &path("down"), 2);
        let mut h = active(&mut b, x, &path("norm1"));
        h = conv(&mut b, "h", h, &path("conv1"), 1);
        h = active(&mut b, h, &path("norm2"));
        h = conv(&mut b, "h", h, &path("conv2"), 1);
        x = b.add(&format!("level{level}"), x, h);
    }
    let x = active(&mut b, x, "norm");
    let seen = b.reduce("seen", ReduceFn::Mean, x, &[1, 2], false);
    let channels = b.ty(seen).last();
    let seen = b.reshape("seen", seen, [samples, frames * channels]);
    let hidden = b.linear("hidden", seen, "hidden.weight", Some("hidden.bias"), DType::F32);
    let hidden = b.op("hidden", Op::Silu, &[hidden], None);
    let logits = b.linear("logits", hidden, "heads.weight", Some("heads.bias"), DType::F32);
    b.finish(&[logits])
}

/// A 3×3 convolution of each picture by itself.
fn conv(b: &mut FuncBuilder<'_>, name: &str, x: ValueId, path: &str, stride: usize) -> ValueId {
    let [weight, bias] = ["weight", "bias"].map(|leaf| b.weight(&format!("{path}.{leaf}")));
    let op = Op::Conv { stride: [1, stride, stride], pad: [[0, 0], [1, 1], [1, 1]] };
    b.op(name, op, &[x, weight, bias], None)
}

/// Channels normalised, and SiLU.
fn active(b: &mut FuncBuilder<'_>, x: ValueId, path: &str) -> ValueId {
    let gain = b.weight(&format!("{path}.weight"));
    let y = b.op("normal", Op::RmsNorm { eps: EPSILON, clamp: false }, &[x, gain], None);
    b.op("active", Op::Silu, &[y], None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_small_and_gives_logits_for_each_clip() {
        let classes = [6, 5, 3];
        let config = JudgeConfig::usual(48, 48, 2);
        let module = judging(&config, 4, &classes);
        let count: usize = module.weights.tensors().map(|(_, ty)| ty.elements()).sum();
        assert!((500_000..700_000).contains(&count), "{count}");
        assert_eq!(module.func("judge").unwrap().results[0].to_string(), "f32[4,14]");
        let train = module.func("train").unwrap();
        let results: Vec<String> = train.results.iter().map(ToString::to_string).collect();
        assert_eq!(results, ["f32[]", "f32[4]", "f32[4]", "f32[4]", "f32[4]"]);
        // Sides that are no multiples of eight are fine.
        let odd = judge(&JudgeConfig::usual(30, 50, 1), 1, &classes);
        assert_eq!(odd.func("judge").unwrap().results[0].to_string(), "f32[1,14]");
    }

    #[test]
    fn sizes_that_make_no_network_are_named() {
        let usual = JudgeConfig::usual(48, 48, 2);
        assert_eq!(usual.validate(), Ok(()));
        let wrong = |change: &dyn Fn(&mut JudgeConfig)| {
            let mut config = usual.clone();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(wrong(&|c| c.frames = 3), "frames: 3 is not 1 or 2");
        assert_eq!(wrong(&|c| c.height = 0), "height: 0 is not from 1 to 4096");
        assert_eq!(wrong(&|c| c.hidden = 5000), "hidden: 5000 is not from 1 to 4096");
        assert_eq!(wrong(&|c| c.channels[1] = 0), "channels: 0 is not from 1 to 4096");
        assert_eq!(wrong(&|c| c.channels.clear()), "channels: 0 levels are not from 1 to 8");
    }
}
