//! Kernels compiled before anything runs, so that one that a device refuses is named and its source kept.
//!
//! cubecl compiles a kernel at its first launch. So each is launched once here on no cubes.

use super::device::Portable;
use super::errors;
use super::kernels::Kernel;
use super::launch::{Launch, Object, Range};
use super::memory::start;
use crate::Fault;
use cubecl::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

/// Compiles every kernel that is new to the device.
pub(super) fn all<'k, R: Runtime>(
    device: &Arc<Portable<R>>,
    kernels: impl Iterator<Item = &'k Arc<Kernel>>,
) -> Result<(), Box<Fault>> {
    let mut seen = HashSet::new();
    let memory = device.client.empty(256);
    for kernel in kernels {
        if !seen.insert(kernel.key.clone()) || device.is_known(&kernel.key, false) {
            continue;
        }
        let range = Range { object: Object::STAGING, from: 0, to: 256 };
        let ranges = vec![range; kernel.accesses.len()];
        let launch =
            Launch { kernel: kernel.clone(), ranges, sizes: vec![0; kernel.sizes], cubes: 0 };
        start(device, &launch, &|_| &memory);
        let done = device.client.flush();
        let said = device.said().or_else(|| done.err().map(|error| format!("{error}")));
        if let Some(cause) = said {
            if device.is_lost() {
                return Err(device.failed(cause));
            }
            let source = keep(kernel, device.source);
            let name = &device.about.name;
            return Err(errors::kernel_refused(name, &kernel.name, source, cause));
        }
        device.is_known(&kernel.key, true);
    }
    Ok(())
}

/// Writes the source of a kernel to a file of the temporary folder, behind what it was made of; its path.
fn keep(kernel: &Kernel, source: fn(&Kernel) -> Result<String, String>) -> Option<String> {
    let digest = crate::cuda::emit::digest_of(kernel.key.as_bytes());
    let path = std::env::temp_dir().join(format!("anyid-{}-{digest:016x}.txt", kernel.name));
    let text = source(kernel).unwrap_or_else(|why| format!("{why}\n{:?}", kernel.define()));
    let text = format!("// {}\n{text}\n", kernel.key);
    std::fs::write(&path, text).ok()?;
    Some(path.display().to_string())
}
