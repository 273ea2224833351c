//! CUDA C++ of the kernels of a plan, as cubecl writes it for NVIDIA GPUs.
//!
//! No device launches it yet. It shows without a GPU that the kernels are ones for more than one compiler.
//! The order of declarations in it may differ from one time to the next.

use super::kernels::Kernel;
use super::kernels::matrices::Units;
use super::launch::{Launch, Limits};
use super::run::Prepared;
use anyid_ir::plan::Plan;
use cubecl::prelude::*;
use cubecl::{Compiler, ExecutionMode};
use cubecl_cpp::cuda::CudaDialect;
use cubecl_cpp::cuda::mma::CudaWmmaCompiler;
use cubecl_cpp::shared::CppCompiler;
use std::collections::BTreeMap;

/// What every GPU since the A100 allows.
const LIMITS: Limits = Limits {
    range_bytes: 1 << 38,
    memory_bytes: 1 << 38,
    alignment: 256,
    bindings: 64,
    threads: 1024,
    shared_bytes: 48 << 10,
    cubes: u32::MAX >> 1,
    units: Units { f16: true, bf16: true },
};

/// The first line that cubecl writes, which NVRTC needs no file for.
const INCLUDE: &str = "#include <cuda_runtime.h>";

/// Name and definition of each kernel that a plan launches, in the order of their names. Definitions begin
/// with what they share.
///
/// # Errors
/// What cubecl says of a kernel that it cannot write.
pub fn cuda(plan: &Plan) -> Result<BTreeMap<String, String>, String> {
    let made = Prepared::alone(plan, &LIMITS);
    made.steps.iter().flatten().map(written).collect()
}

fn written(launch: &Launch) -> Result<(String, String), String> {
    let kernel = &launch.kernel;
    let digest = crate::cuda::emit::digest_of(kernel.key.as_bytes());
    let name = format!("{}_{digest:016x}", kernel.name);
    let text = source(&Kernel { name: name.clone(), ..(**kernel).clone() });
    Ok((name.clone(), text.map_err(|error| format!("{name}: {error}"))?.replace(INCLUDE, "")))
}

/// The text of a kernel as a GPU is given it.
pub(super) fn source(kernel: &Kernel) -> Result<String, String> {
    let (mode, address) = (ExecutionMode::Unchecked, kernel.address_type());
    let mut compiler = CppCompiler::<CudaDialect<CudaWmmaCompiler>>::default();
    let text = compiler.compile(kernel.define(), &Default::default(), mode, address);
    text.map(|text| text.to_string()).map_err(|error| format!("{error:?}"))
}
