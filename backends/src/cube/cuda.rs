//! The devices `cubecl-cuda:N`: NVIDIA GPUs with the kernels of `wgpu:N`, as CUDA C++.
//!
//! cubecl calls the driver, and compiles with NVRTC and the headers of a CUDA toolkit. It panics where one of
//! them is missing, so they are looked for here before. It has run on no GPU yet.

use super::device::{Portable, Shared};
use super::errors;
use super::kernels::matrices::Units;
use super::launch::Limits;
use super::tune::{self, Tiles};
use crate::Fault;
use crate::cuda::gpu;
use crate::device::{About, Device};
use crate::errors::OpenError;
use crate::registry::{Kind, Opening};
use crate::targets;
use cubecl::cuda::{CudaDevice, CudaRuntime, install};
use cubecl::prelude::*;
use cubecl::stream_id::StreamId;
use cudarc::nvrtc::sys;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};

/// How it is found by name.
pub const KIND: Kind = Kind {
    name: "cubecl-cuda",
    names: "cubecl-cuda:N",
    targets: targets::cubecl_cuda,
    settings: tune::SETTINGS,
    variants: Vec::new,
    devices: there,
    // `cuda:N` is for these GPUs; this one has to be asked for.
    rank: 0,
    open: Some(open),
};

fn there() -> Result<Vec<String>, OpenError> {
    let count = gpu::cards()?.len();
    Ok((0..count).map(|number| format!("{}:{number}", KIND.name)).collect())
}

/// What cubecl compiles kernels with, if it is there.
fn compiler() -> Result<(), Box<Fault>> {
    // SAFETY: a library is looked for where the bindings look for it when they call it.
    if !unsafe { sys::is_culib_present() } {
        return Err(errors::no_compiler(
            "there is no NVRTC",
            "put its folder into LD_LIBRARY_PATH",
        ));
    }
    let headers = install::cuda_path().map(|path| path.join("include/cuda_runtime.h"));
    if !headers.is_some_and(|file| file.exists()) {
        let help = "install a CUDA toolkit, and name its folder in CUDA_PATH";
        return Err(errors::no_compiler("NVRTC has no headers of CUDA", help));
    }
    Ok(())
}

fn open(opening: &Opening<'_>) -> Result<Arc<dyn Device>, OpenError> {
    let cards = gpu::cards()?;
    let number = opening.number(cards.len())?;
    let name = format!("{}:{number}", KIND.name);
    compiler().map_err(OpenError::Failed)?;
    // cubecl panics where the driver refuses.
    let client = catch_unwind(|| CudaRuntime::client(&CudaDevice::new(number)));
    let mut client = client.map_err(|panicked| {
        OpenError::Failed(errors::refused(&name, super::run::said(panicked)))
    })?;
    // SAFETY: whoever uses the client has the turn of the device, so that all threads share one stream.
    unsafe { client.set_stream(StreamId { value: 0 }) };
    let properties = client.properties();
    let (memory, hardware) = (&properties.memory, &properties.hardware);
    let most = memory.max_page_size.min(1 << 39) / 256 * 256;
    let limits = Limits {
        range_bytes: most,
        memory_bytes: most,
        alignment: memory.alignment.max(256),
        bindings: 32,
        threads: hardware.max_units_per_cube,
        // What a kernel has without asking for more.
        shared_bytes: hardware.max_shared_memory_size.min(48 << 10),
        cubes: hardware.max_cube_count.0,
        units: Units::of(properties),
    };
    let (card, bytes) = &cards[number];
    let instructions = format!("cubecl-cuda {card}");
    let (tiles, warning) = Tiles::open(opening.settings, &instructions, false)?;
    let about = About {
        words: format!("{card}, {} MiB in one piece", most >> 20),
        name,
        instructions,
        capacity: Some(*bytes),
        target: targets::cubecl_cuda().remove(0),
        warnings: warning.into_iter().collect(),
    };
    let (shared, tiles) = (Arc::<Shared>::default(), Mutex::new(tiles));
    Ok(Arc::new(Portable { about, client, limits, shared, tiles, source: super::text::source }))
}

#[cfg(test)]
mod tests {
    use crate::{Registry, Settings};

    /// Without a GPU there is a code for what is missing; with one it opens, or the compiler is what is missing.
    #[test]
    fn what_is_missing_is_told_with_a_code() {
        for name in ["cubecl-cuda", "cubecl-cuda:0"] {
            match Registry::default().open(name, &Settings::default()) {
                Ok(device) => assert_eq!(device.about().name, "cubecl-cuda:0"),
                Err(crate::errors::OpenError::Failed(fault)) => {
                    assert!(
                        matches!(fault.code, "E0856" | "E0858" | "E0859" | "E0860"),
                        "{fault:?}"
                    );
                }
                Err(crate::errors::OpenError::NotThere(why)) => assert!(!why.is_empty()),
                Err(other) => panic!("{other}"),
            }
        }
    }
}
