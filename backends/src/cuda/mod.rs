//! NVIDIA GPUs: kernels of a plan as CUDA C++.
//!
//! [`emit`] writes the source of every kernel. It calls a small set of intrinsics that have two bodies:
//! PTX for NVRTC, and an emulation for the system's C++ compiler, with which `emulator` executes
//! the same source on the processor; `nvrtc` compiles it for an architecture. There is no device yet
//! that launches it on a GPU; `docs/gpu.md` says what is there.

pub mod emit;
#[cfg(feature = "cuda-emulator")]
pub mod emulator;
#[cfg(feature = "cuda-emulator")]
pub mod nvrtc;

#[cfg(test)]
mod toy;
