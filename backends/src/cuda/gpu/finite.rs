//! Whether values are finite, asked on the device: a kernel that leaves the place of the first element
//! that is not, so that nothing has to be copied for a look.

use super::Gpu;
use super::driver::{Result, Value};
use super::memory::{Memory, Pinned};
use crate::cuda::emit::{Argument, Emitted, Grid, digest_of};
use crate::cuda::launches::Span;
use anyid_ir::{DType, TensorType};
use std::sync::Arc;

/// Threads of a block.
const THREADS: u32 = 256;
/// Most blocks; each goes through its share in turns.
const BLOCKS: u64 = 1024;

/// The kernel for elements of a type; `None` for whole numbers, which are all finite. It takes the
/// elements, the place for the first one that is not finite, their number, the length of a row and the
/// distance of rows in elements, and the number of blocks.
pub(super) fn kernel(dtype: DType) -> Option<Emitted> {
    let (bits, mask) = match dtype {
        DType::F32 => ("unsigned", "0x7f800000u"),
        DType::Bf16 => ("unsigned short", "0x7f80"),
        DType::F16 => ("unsigned short", "0x7c00"),
        DType::F64 => ("unsigned long long", "0x7ff0000000000000ull"),
        DType::I32 | DType::U8 | DType::Bool => return None,
    };
    let body = format!(
        "extern \"C\" __global__ void __launch_bounds__({THREADS}) @(Global<const {bits}> a0, \
         Global<unsigned long long> fault, Size count, Size width, Size stride, Size blocks) {{
  for (Size at = Size(blockIdx.x) * {THREADS} + threadIdx.x; at < count; at += blocks * {THREADS}) {{
    const {bits} element = a0[at / width * stride + at % width];
    if ((element & {mask}) == {mask}) lower(fault, (unsigned long long)(at));
  }}
}}
"
    );
    let name = format!("finite_{}_{:016x}", dtype.name(), digest_of(body.as_bytes()));
    let text = format!("// elements that are not finite\n{}", body.replacen('@', &name, 1));
    Some(Emitted {
        text,
        name,
        arguments: [Argument::Operand(0), Argument::Faults]
            .into_iter()
            // They are given with the launch.
            .chain([Argument::Size(0); 4])
            .collect(),
        memory: vec![format!("const {bits}"), "unsigned long long".to_owned()],
        grid: Grid { blocks: [1, 1, 1], threads: THREADS, shared_bytes: 0 },
        constants: Vec::new(),
        packed: Vec::new(),
        tables: Vec::new(),
    })
}

/// The kernels for the float types among these.
pub(super) fn kernels<'t>(types: impl Iterator<Item = &'t TensorType>) -> Vec<Emitted> {
    let mut dtypes: Vec<DType> = types.map(|ty| ty.dtype).collect();
    dtypes.sort_unstable_by_key(|dtype| dtype.name());
    dtypes.dedup();
    dtypes.into_iter().filter_map(kernel).collect()
}

/// The threads and the values for a look at `memory`, whose elements are of type `ty`; `fault` is the
/// place for the first that is not finite.
pub(super) fn look(ty: &TensorType, memory: Span, fault: Span) -> (Grid, [Value; 6]) {
    let (count, size) = (ty.elements() as u64, ty.dtype.bytes() as u64);
    let (width, stride) = match memory.stride {
        0 => (count.max(1), 0),
        stride => (memory.width / size, stride / size),
    };
    let blocks = count.div_ceil(u64::from(THREADS) * 4).clamp(1, BLOCKS) as u32;
    let numbers = [count, width, stride, u64::from(blocks)].map(|n| Value::Size(n as i64));
    let [count, width, stride, all] = numbers;
    let values = [Value::Memory(memory), Value::Memory(fault), count, width, stride, all];
    (Grid { blocks: [blocks, 1, 1], threads: THREADS, shared_bytes: 0 }, values)
}

/// Whether all elements of dense values are finite. The kernels were loaded.
pub(super) fn all(gpu: &Arc<Gpu>, values: &[(&TensorType, Span)]) -> Result<bool> {
    let word = size_of::<u64>() as u64;
    let faults = Memory::new(gpu, word)?;
    let mut seen = Pinned::new(gpu, size_of::<u64>())?;
    let at = faults.span();
    let mut look_at_all = || -> Result<()> {
        let _turn = gpu.turn();
        // SAFETY: the memory is there until the end of the function, which waits for the stream.
        unsafe { gpu.driver.set(at.address, 0xFF, at.bytes)? };
        for (ty, memory) in values {
            let Some(kernel) = kernel(ty.dtype).filter(|_| ty.elements() > 0) else { continue };
            let (grid, values) = look(ty, *memory, at);
            // SAFETY: these are the values that the kernel takes.
            unsafe { gpu.driver.launch(gpu.kernels.find(&kernel.name), grid, &values)? };
        }
        // SAFETY: it is looked at behind the wait.
        unsafe { seen.download(0, at)? };
        gpu.driver.wait()
    };
    look_at_all()?;
    Ok(seen.bytes().iter().all(|byte| *byte == 0xFF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::nvrtc::Nvrtc;
    use std::path::Path;

    #[test]
    fn every_float_type_has_a_kernel_with_a_name_of_its_own() {
        let floats = [DType::F32, DType::Bf16, DType::F16, DType::F64];
        let mut names: Vec<String> = floats
            .into_iter()
            .map(|dtype| {
                let kernel = kernel(dtype).expect("of a float type");
                assert!(kernel.text.contains(&kernel.name) && !kernel.text.contains('@'));
                kernel.name
            })
            .collect();
        names.dedup();
        assert_eq!(names.len(), 4);
        for whole in [DType::I32, DType::U8, DType::Bool] {
            assert!(kernel(whole).is_none());
        }
        let types = [DType::F32, DType::I32, DType::F32].map(|dtype| TensorType::new(dtype, [2]));
        assert_eq!(kernels(types.iter()).len(), 1);
    }

    /// Needs NVRTC, in the folder of the environment variable or where the system looks.
    #[test]
    fn every_kernel_compiles_for_every_architecture_without_spilling() {
        let folder = std::env::var_os("ANYID_NVRTC");
        let Ok(nvrtc) = Nvrtc::find(folder.as_deref().map(Path::new)) else {
            println!("skipped: there is no NVRTC");
            return;
        };
        let floats = [DType::F32, DType::Bf16, DType::F16, DType::F64];
        let all: Vec<Emitted> = floats.into_iter().filter_map(kernel).collect();
        for architecture in ["sm_80", "sm_89", "sm_90a", "sm_120"] {
            let made = nvrtc.compile(&all.iter().collect::<Vec<_>>(), architecture);
            let made = made.unwrap_or_else(|fault| panic!("{fault:?}"));
            assert_eq!(made.functions.len(), 4, "{architecture}");
            assert!(made.functions.iter().all(|each| each.spilled_bytes == 0), "{made:?}");
        }
    }

    #[test]
    fn columns_are_looked_at_row_by_row() {
        let ty = TensorType::new(DType::Bf16, [3, 8]);
        let columns = Span { address: 64, bytes: 144, width: 16, stride: 64 };
        let (grid, values) = look(&ty, columns, Span::dense(0, 8));
        assert_eq!(grid.blocks, [1, 1, 1]);
        assert_eq!(values[2..5], [24, 8, 32].map(Value::Size));
        let long = TensorType::new(DType::F32, [1 << 24]);
        let (grid, values) = look(&long, Span::dense(0, 1 << 26), Span::dense(0, 8));
        assert_eq!(
            (grid.blocks[0], values[3], values[4]),
            (1024, Value::Size(1 << 24), Value::Size(0))
        );
        assert_eq!(values[5], Value::Size(1024));
    }
}
