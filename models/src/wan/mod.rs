//! Wan2.2 TI2V: diffusion transformer, autoencoder and text encoder.

pub mod config;
pub mod dit;
mod geometry;
pub mod kin;
pub mod loss;
pub mod names;
pub mod reconstruction;
pub mod slots;
pub mod text;
pub mod vae;

pub use geometry::Geometry;

use anyid_ir::DType;

/// Precision of a module's values (`dit.md` §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Every value is f32; the mode that is compared with the goldens.
    #[default]
    F32,
    /// bf16 inputs of matrix products and attention; f32 accumulation, residual stream, norms,
    /// modulation, time path and head.
    Bf16,
}

impl Precision {
    /// Element type of the inputs of matrix products and attention.
    pub fn activation(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        self.activation().name()
    }
}

/// Element type of the transformer's residual stream (`dit.md` §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Residual {
    /// f32, as in the reference implementation.
    #[default]
    F32,
    /// bf16: every addition is done in f32 and rounded once, as in diffusers.
    Bf16,
}

impl Residual {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        self.dtype().name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn shapes() {
        let c = config::DitConfig::ti2v_5b();
        let m = dit::dit(
            &c,
            &dit::DitSize {
                reference_frames: 1,
                frames: 31,
                height: 44,
                width: 80,
                text_tokens: 512,
                timesteps: 2,
            },
            Precision::Bf16,
        );
        assert_eq!(m.weights.len(), 825);
        let total: usize = m.weights.tensors().map(|(_, t)| t.elements()).sum();
        assert_eq!(total, 4_999_787_712);
        let t = text::text(&config::TextConfig::ti2v_5b(), 20, Precision::Bf16);
        assert_eq!(t.weights.len(), 242);
        let v = config::VaeConfig::ti2v_5b();
        for c in [config::VaeConfig::micro(), v] {
            let s = vae::VaeSize { height: 64, width: 96, chunk: 1 };
            let e = vae::whole_clip(&c, &s, vae::Half::Encoder, vae::encoder(&c, &s), 9);
            let d = vae::whole_clip(&c, &s, vae::Half::Decoder, vae::decoder(&c, &s, false), 9);
            assert_eq!(e.weights.len() + d.weights.len(), names::vae_tensors(&c).len());
            println!(
                "{:?}",
                e.main().unwrap().results.iter().map(|t| t.to_string()).collect::<Vec<_>>()
            );
            println!(
                "{:?}",
                d.main().unwrap().results.iter().map(|t| t.to_string()).collect::<Vec<_>>()
            );
            println!("{} states", d.func("first").unwrap().results.len());
        }
    }
}
