//! Targets of devices that this build need not have: what their backends are to run, so that plans
//! for them can be made, read and judged on any machine.
//!
//! Limits are those of the kernels, not of the silicon; a backend states here what it can do, and
//! whatever it lacks is decomposed. Rates of machines are stated, not measured by this program, each
//! with its origin; where a name stands for many products, those of one of them.

use anyid_ir::DType::{self, Bf16, F16, F32};
use anyid_ir::kernel::{EpilogueSupport, KernelLimits, Machine, NATIVE, Sizes, Target};
use anyid_ir::plan::Alignment;

/// What GPUs multiply, and compute rows of.
const TYPES: &[DType] = &[F32, Bf16, F16];

/// Every epilogue, in all types of products.
const EPILOGUE: EpilogueSupport =
    EpilogueSupport { residual: TYPES, results: TYPES, ..EpilogueSupport::FULL };

/// What both families of GPUs have in common.
fn gpu(name: &'static str) -> Target {
    Target {
        name,
        // What an allocation of its own would have with CUDA, and the offset of a storage buffer
        // that every implementation of WebGPU allows.
        alignment: Alignment::new(256).expect("it is a power of two"),
        products: TYPES,
        rows: TYPES,
        linear: EPILOGUE,
        conv: EPILOGUE,
        // The picture is enlarged by the addresses that an implicit product reads.
        conv_load: |_, _, _, _| Ok(()),
        ..Target::default()
    }
}

/// NVIDIA GPUs by the generation of their instructions.
pub fn cuda() -> Vec<Target> {
    // Figures of products are those with sums in f32 and without sparsity; f32 is not rounded to
    // TF32.
    vec![
        // A100 SXM 80 GB, data sheet.
        nvidia("cuda:sm_80", 312e12, 19.5e12, 2.039e12),
        // GeForce RTX 4090, white paper of the architecture.
        nvidia("cuda:sm_89", 165.2e12, 82.6e12, 1.008e12),
        // H200: 8192³ products and copies as measured by others on one; f32 by the data sheet.
        nvidia("cuda:sm_90", 790e12, 67e12, 4.3e12),
        // GeForce RTX 5090, white paper of the architecture.
        nvidia("cuda:sm_120", 209.5e12, 104.8e12, 1.792e12),
    ]
}

/// A GPU with own products that take every epilogue, and attention in blocks. Rates are operations a
/// second in bf16 and f16, those in f32, and bytes a second.
fn nvidia(name: &'static str, half: f64, single: f64, bytes_per_second: f64) -> Target {
    // Operands are read in pieces of 16 bytes.
    let limits = KernelLimits {
        depth: Sizes::multiples(8),
        width: Sizes::multiples(8),
        ..KernelLimits::ANY
    };
    Target {
        native: NATIVE,
        linear_limits: limits,
        // Wider heads are two products and a softmax.
        head_widths: Sizes { multiple: 8, most: 256 },
        // A row is two operations for every element of the weight, of two bytes.
        weight_bound_rows: (half / bytes_per_second) as usize,
        // Memory is large, and short products leave processors without work.
        row_split: None,
        machine: Some(Machine {
            products: vec![(Bf16, half), (F16, half), (F32, single)],
            bytes_per_second,
            // Three to five microseconds where launches are not recorded as a graph.
            launch_seconds: 4e-6,
        }),
        ..gpu(name)
    }
}

/// GPUs through WebGPU. Nothing is stated about the speed of a machine: there are too many.
pub fn wgpu() -> Vec<Target> {
    vec![Target {
        // The storage buffers of a stage that every implementation allows.
        bindings: 8,
        // Operands are read in vectors of four.
        linear_limits: KernelLimits {
            depth: Sizes::multiples(4),
            width: Sizes::multiples(4),
            ..KernelLimits::ANY
        },
        // The 16 KiB of memory that every work group has hold 32 keys of this width.
        head_widths: Sizes { multiple: 4, most: 128 },
        ..gpu("wgpu")
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stated_machines_are_complete() {
        for target in cuda() {
            let machine = target.machine.unwrap();
            let [half, single] = [Bf16, F32].map(|dtype| machine.rate(dtype));
            assert!(half > single && single > machine.bytes_per_second, "{}", target.name);
            assert_eq!(
                machine.rate(DType::F64),
                single,
                "the slowest stands for what is not named"
            );
            assert!((100..400).contains(&target.weight_bound_rows), "{}", target.name);
        }
        assert!(wgpu()[0].machine.is_none());
    }
}
