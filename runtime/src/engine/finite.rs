//! Values that are not finite: finding one in a tensor, and the launch that made the first.
//!
//! A phase is looked at when it is done, by its results and by what it keeps. Only when one is bad
//! is the phase run again with every value looked at, so that the good case costs one look over the
//! results. Infinities inside a phase that its results do not show are nobody's business.

use super::program::{Arenas, Prepared, Program, States};
use super::{Inputs, Outputs};
use crate::error::{Error, Result};
use anyid_backends::WeightProvider;
use anyid_ir::plan::Root;
use anyid_ir::{DType, Tensor};

/// The first non-finite element of a tensor; `None` for whole numbers and where all is well.
pub fn first_non_finite(tensor: &Tensor) -> Option<usize> {
    scan(tensor.dtype(), tensor.bytes())
}

/// [`first_non_finite`] of row-major bytes. A value is finite unless all bits of its exponent are
/// set.
pub(crate) fn scan(dtype: DType, bytes: &[u8]) -> Option<usize> {
    fn find<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
        let elements = bytes.as_chunks::<N>().0;
        // Blocks without a branch inside: a good tensor is read as fast as memory gives it.
        const BLOCK: usize = 1024;
        let block = elements
            .chunks(BLOCK)
            .position(|block| block.iter().fold(false, |any, element| any | bad(*element)))?;
        let rest = &elements[block * BLOCK..];
        rest.iter().position(|element| bad(*element)).map(|at| block * BLOCK + at)
    }
    let half = |bytes, mask: u16| find::<2>(bytes, |e| u16::from_le_bytes(e) & mask == mask);
    match dtype {
        DType::F32 => find::<4>(bytes, |e| u32::from_le_bytes(e) & 0x7f80_0000 == 0x7f80_0000),
        DType::Bf16 => half(bytes, 0x7f80),
        DType::F16 => half(bytes, 0x7c00),
        DType::F64 => {
            let mask = 0x7ff0_0000_0000_0000;
            find::<8>(bytes, |e| u64::from_le_bytes(e) & mask == mask)
        }
        DType::I32 | DType::U8 | DType::Bool => None,
    }
}

/// The error of a value that a caller gave.
pub(crate) fn check_given(tensor: &Tensor, what: &str) -> Result<()> {
    match first_non_finite(tensor) {
        None => Ok(()),
        Some(at) => Err(Error::input(
            "E1001",
            format!("a non-finite value in {what}, element {at} of {}", tensor.ty()),
        )
        .help("give finite numbers only")),
    }
}

/// What helps where a weight that was read is not finite.
pub(crate) const DAMAGED: &str = "the checkpoint is damaged or was converted wrongly: get it again";
/// What helps where no more is known than the launch.
pub(crate) const UNKNOWN: &str =
    "check the weights with `anyid-rt inspect`, or run with --precision f32";

/// Where the first non-finite value of a phase came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Label of the launch.
    node: Option<String>,
    /// A weight of it that holds one itself.
    weight: Option<String>,
}

impl Origin {
    /// The coded error of a phase, which `place` names.
    pub(crate) fn error(&self, place: &str) -> Error {
        let node = self.node.as_ref().map_or(String::new(), |node| format!(", node {node}"));
        let message = format!("a non-finite value in {place}{node}");
        match &self.weight {
            Some(weight) => {
                Error::input("E1001", format!("{message}: its weight {weight} holds one"))
                    .help(DAMAGED)
            }
            None => Error::input("E1001", message).help(UNKNOWN),
        }
    }
}

/// Whether all that a phase gave is finite.
fn all_finite(outputs: &Outputs) -> bool {
    outputs.iter().all(|(_, tensor)| first_non_finite(tensor).is_none())
}

impl Program {
    /// Whether all that the last run gave, `outputs`, is finite: as the device says, or by looking.
    pub(crate) fn gave_finite(&self, outputs: &Outputs) -> bool {
        self.finite.unwrap_or_else(|| all_finite(outputs))
    }

    /// Whether everything that `prepare` keeps is finite. What it hands on unchanged was looked at
    /// when it was given.
    pub(crate) fn is_finite(&self, prepared: &Prepared) -> bool {
        if let Some(finite) = prepared.finite() {
            return finite;
        }
        let mut finite = true;
        prepared.each(&mut |ty, bytes| finite &= scan(ty.dtype, bytes).is_none());
        finite
    }

    /// Runs a phase again, looking at every value, and says where the first bad one came from;
    /// `None` where all are finite. It allocates.
    ///
    /// # Errors
    /// As [`Program::call`].
    pub(crate) fn origin(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        prepared: Option<&mut Prepared>,
        states: Option<&mut States>,
    ) -> Result<Option<Origin>> {
        let mut outputs = self.outputs(phase)?;
        let mut first: Option<String> = None;
        let mut look = |label: &str, tensor: &Tensor| {
            if first.is_none() && first_non_finite(tensor).is_some() {
                first = Some(label.to_owned());
            }
        };
        let arenas = Arenas::of(prepared, states);
        self.run(phase, inputs, arenas, &mut outputs, Some(&mut look))?;
        Ok(match first {
            Some(node) => {
                let weight = self.bad_weight(phase, &node);
                Some(Origin { node: Some(node), weight })
            }
            None if all_finite(&outputs) => None,
            None => Some(Origin::default()),
        })
    }

    /// A weight that the launch `label` reads and that holds a non-finite value, as its file
    /// spells it.
    fn bad_weight(&self, phase: &str, label: &str) -> Option<String> {
        let plan = self.plan(phase)?;
        // Nodes of one function may have the same label; whichever reads such a weight is meant.
        let steps = plan.steps.iter().filter(|step| step.labels.iter().any(|own| own == label));
        let names =
            steps.flat_map(|step| &step.operands).filter_map(|id| match plan.buffer(*id).root {
                Root::Weight(index) => Some(plan.weights[index as usize].name.as_str()),
                _ => None,
            });
        let provider: &dyn WeightProvider = self.provider();
        names.into_iter().find_map(|name| {
            let bad = is_bad(provider, name)?;
            bad.then(|| provider.stored(name).unwrap_or_else(|| format!("\"{name}\"")))
        })
    }
}

/// Whether a stored weight holds a non-finite value; `None` where it cannot be read.
fn is_bad(provider: &dyn WeightProvider, name: &str) -> Option<bool> {
    /// Bytes looked at together, whole elements of any type.
    const PIECE: u64 = 1 << 20;
    let stored = provider.find(name)?;
    let mut piece = anyid_ir::memory::zeroed(PIECE.min(stored.bytes) as usize)?;
    let mut from = 0;
    while from < stored.bytes {
        let piece = &mut piece[..PIECE.min(stored.bytes - from) as usize];
        provider.read(name, from, piece).ok()?;
        if scan(stored.dtype, piece).is_some() {
            return Some(true);
        }
        from += piece.len() as u64;
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_is_looked_at_to_its_last_element() {
        for dtype in [DType::F32, DType::Bf16, DType::F16, DType::F64] {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for (count, at) in [(1, 0), (5, 4), (3000, 0), (3000, 1023), (3000, 2999)] {
                    let mut values = vec![-1.5f32; count];
                    assert_eq!(first_non_finite(&tensor(&values, dtype)), None);
                    values[at] = bad as f32;
                    assert_eq!(
                        first_non_finite(&tensor(&values, dtype)),
                        Some(at),
                        "{dtype} {bad}"
                    );
                }
            }
            let largest = tensor(&[60_000.0, -0.0, f32::MIN_POSITIVE], dtype);
            assert_eq!(first_non_finite(&largest), None);
        }
        assert_eq!(first_non_finite(&Tensor::from_i32([1], &[-1]).unwrap()), None);
        assert_eq!(first_non_finite(&tensor(&[1e6], DType::F16)), Some(0), "it does not fit f16");
    }

    fn tensor(values: &[f32], dtype: DType) -> Tensor {
        Tensor::from_f32([values.len()], values).unwrap().cast(dtype)
    }

    #[test]
    fn given_values_are_named() {
        check_given(&tensor(&[1.0], DType::F32), "the noise").unwrap();
        let error = check_given(&tensor(&[1.0, f32::NAN], DType::F32), "the noise").unwrap_err();
        assert_eq!(error.code(), "E1001");
        assert!(error.message().contains("the noise, element 1"), "{error}");
    }
}
