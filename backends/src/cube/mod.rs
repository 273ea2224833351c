//! GPUs of any maker: one set of kernels in Rust, which cubecl writes as the shaders of the device.
//!
//! `kernels` says what a kernel computes, as a value that is known when its shader is made, and
//! `emit` makes one of the kernel of a step. `device` runs plans with them on any runtime of cubecl;
//! [`webgpu`] opens the devices `wgpu:N` through Vulkan, Metal or DirectX. Every address is computed here
//! and none of it is checked again on the device: plans were verified. `docs/backends.md` says what is
//! there and what is not.

mod compile;
#[cfg(feature = "cubecl-cuda")]
pub mod cuda;
mod device;
mod emit;
mod errors;
mod kernels;
mod launch;
mod memory;
mod run;
#[cfg(feature = "cubecl-cuda-text")]
pub mod text;
mod tune;
pub mod webgpu;

#[cfg(test)]
mod tests;
