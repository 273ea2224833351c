//! Wan2.2 TI2V: diffusion transformer, autoencoder and text encoder.

pub mod config;
pub mod dit;
pub mod names;
pub mod text;
pub mod vae;

use anyid_ir::DType;

/// Named precision of a module (design decision 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Everything f32: the parity mode.
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
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}
