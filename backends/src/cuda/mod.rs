//! NVIDIA GPUs: kernels of a plan as CUDA C++, and the devices that launch them.
//!
//! [`emit`] writes the source of every kernel. It calls a small set of intrinsics that have two bodies:
//! PTX for NVRTC, and an emulation for the system's C++ compiler. `gpu` is the device `cuda:N`, which
//! compiles the source with `nvrtc` and launches it on a GPU; `emulator` executes the same source on the
//! processor, for tests. Both resolve the steps of a plan with `launches`. `docs/gpu.md` says how far each
//! is tested.

#[cfg(feature = "gpu")]
pub(crate) mod cache;
pub mod emit;
#[cfg(feature = "cuda-emulator")]
pub mod emulator;
#[cfg(feature = "cuda")]
pub mod gpu;
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
mod launches;
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
pub mod nvrtc;
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
mod wanted;

#[cfg(test)]
mod toy;

/// What the system says of a library or a function that is not there.
#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
fn said(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}
