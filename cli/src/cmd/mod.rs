//! The verbs, one file each, and what several of them share.

#[cfg(feature = "annotate")]
pub mod annotate;
pub mod bench;
pub mod bisect;
pub mod check;
pub mod check_refs;
pub mod compare;
pub mod compile;
pub mod completions;
pub mod convert;
pub mod data;
pub mod dot;
pub mod eval;
pub mod explain;
pub mod export;
pub mod generate;
pub mod gpu_check;
pub mod init;
pub mod inspect;
pub mod kernels;
pub mod lora;
pub mod man;
pub mod opt;
pub mod passes;
pub mod plans;
pub mod prompt;
pub mod run;
pub mod run_plan;
pub mod safeguards;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "annotate")]
pub mod study;
pub mod train;
pub mod world;

use crate::args::{PrecisionName, ResidualName};
use anyid_models::wan::{Precision, Residual};
use anyid_runtime::{Error, Result};

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Self::F32,
            PrecisionName::Bf16 => Self::Bf16,
        }
    }
}

impl From<ResidualName> for Residual {
    fn from(name: ResidualName) -> Self {
        match name {
            ResidualName::F32 => Self::F32,
            ResidualName::Bf16 => Self::Bf16,
        }
    }
}

/// Width and height from `1280x704`.
///
/// # Errors
/// E0901.
pub fn size(text: &str) -> Result<[usize; 2]> {
    let parse = || {
        let (width, height) = text.split_once(['x', 'X', '\u{d7}'])?;
        Some([width.trim().parse().ok()?, height.trim().parse().ok()?])
    };
    parse().ok_or_else(|| {
        Error::input("E0901", format!("\"{text}\" is not a size"))
            .at("--size")
            .help("write width and height in pixels, such as 1280x704")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_two_numbers() {
        assert_eq!(size("1280x704").unwrap(), [1280, 704]);
        for bad in ["1280", "x", "-32x32", "32x32x32", "axb", ""] {
            assert_eq!(size(bad).unwrap_err().code(), "E0901", "{bad}");
        }
    }
}
