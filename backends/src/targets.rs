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

/// The target of plans for NVIDIA GPUs of a compute capability; none below 8.0, for which there are no
/// kernels.
pub fn of_capability(major: i32, minor: i32) -> Option<&'static str> {
    match (major, minor) {
        (..8, _) => None,
        (8, 9) => Some("cuda:sm_89"),
        (8, _) => Some("cuda:sm_80"),
        (9..12, _) => Some("cuda:sm_90"),
        (12.., _) => Some("cuda:sm_120"),
    }
}

/// The target that an architecture's name stands for, as NVIDIA writes it: `cuda:sm_90a` and `cuda:sm_100`
/// are `cuda:sm_90`.
pub(crate) fn of_architecture(name: &str) -> Option<&'static str> {
    /// The capabilities that GPUs have.
    const KNOWN: [(i32, &[i32]); 5] =
        [(8, &[0, 6, 7, 8, 9]), (9, &[0]), (10, &[0, 1, 3]), (11, &[0]), (12, &[0, 1])];
    let digits = name.strip_prefix("cuda:sm_")?;
    let digits = digits.strip_suffix(['a', 'f']).unwrap_or(digits);
    let number: i32 = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let (major, minor) = (number / 10, number % 10);
    let known = KNOWN.iter().any(|(own, all)| *own == major && all.contains(&minor));
    of_capability(major, minor).filter(|_| known)
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
        native: NATIVE,
        // The storage buffers of a stage that every implementation allows, of which one holds the numbers
        // of a launch.
        bindings: 7,
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

/// NVIDIA GPUs with the same kernels, through CUDA.
#[cfg(feature = "cubecl-cuda")]
pub fn cubecl_cuda() -> Vec<Target> {
    wgpu().into_iter().map(|target| Target { name: "cubecl-cuda", ..target }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_architectures_stand_for_targets() {
        for (name, target) in [
            ("cuda:sm_90a", Some("cuda:sm_90")),
            ("cuda:sm_80", Some("cuda:sm_80")),
            ("cuda:sm_86", Some("cuda:sm_80")),
            ("cuda:sm_100", Some("cuda:sm_90")),
            ("cuda:sm_103a", Some("cuda:sm_90")),
            ("cuda:sm_121", Some("cuda:sm_120")),
            ("cuda:sm_75", None),
            ("cuda:sm_91", None),
            ("cuda:sm_9", None),
            ("cuda:sm_+90", None),
            ("cuda:sm_", None),
            ("sm_90", None),
        ] {
            assert_eq!(of_architecture(name), target, "{name}");
        }
        let all = cuda();
        for target in [(8, 0), (8, 9), (9, 0), (10, 3), (12, 0), (13, 0)] {
            let name = of_capability(target.0, target.1).unwrap();
            assert!(all.iter().any(|own| own.name == name), "{name}");
        }
    }

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
