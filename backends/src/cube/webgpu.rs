//! The devices `wgpu:N`: every adapter of Vulkan, Metal and DirectX 12 that this machine has.
//!
//! Adapters are numbered with GPUs on cards first and processors last. An adapter that is a processor is
//! used as well, and said to be one. cubecl keeps one client for each device of the process, so opening
//! an adapter twice gives the same one, unless it was lost.

use super::device::{Portable, Report, Shared};
use super::errors;
use super::kernels::Kernel;
use super::kernels::matrices::Units;
use super::launch::Limits;
use super::tune::{self, Tiles};
use crate::device::{About, Device};
use crate::errors::OpenError;
use crate::registry::{Kind, Opening, Settings};
use crate::targets;
use cubecl::MemoryConfiguration;
use cubecl::prelude::*;
use cubecl::stream_id::StreamId;
use cubecl::wgpu::{RuntimeOptions, WgpuRuntime, WgpuSetup, WgslCompiler, init_device};
use cubecl::{Compiler, ExecutionMode};
use cubecl_runtime::memory_management::{MemoryPoolOptions, PoolType};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use wgpu::{AdapterInfo, DeviceType, Features};

/// How it is found by name.
pub const KIND: Kind = Kind {
    name: "wgpu",
    names: "wgpu:N",
    targets: targets::wgpu,
    settings: tune::SETTINGS,
    variants: Vec::new,
    devices: there,
    // Nothing was measured on a GPU yet, so that a user has to ask for it.
    rank: 0,
    open: Some(open),
};

/// Devices of the process, by adapter.
static OPENED: Mutex<BTreeMap<usize, Arc<Opened>>> = Mutex::new(BTreeMap::new());

/// What is there once for all who open an adapter.
struct Opened {
    client: ComputeClient<WgpuRuntime>,
    limits: Limits,
    shared: Arc<Shared>,
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

/// The adapters there are, the best first.
fn adapters(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let found = instance.enumerate_adapters(wgpu::Backends::PRIMARY);
    let mut all = cubecl::future::block_on(found);
    all.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu | DeviceType::Other => 2,
        DeviceType::Cpu => 3,
    });
    all
}

fn there() -> Result<Vec<String>, OpenError> {
    let count = adapters(&instance()).len();
    match count {
        0 => Err(OpenError::Failed(errors::no_adapter(KIND.name))),
        _ => Ok((0..count).map(|number| format!("{}:{number}", KIND.name)).collect()),
    }
}

fn open(opening: &Opening<'_>) -> Result<Arc<dyn Device>, OpenError> {
    Ok(portable(opening)?)
}

/// Opens an adapter.
pub(super) fn portable(opening: &Opening<'_>) -> Result<Arc<Portable<WgpuRuntime>>, OpenError> {
    let instance = instance();
    let all = adapters(&instance);
    if all.is_empty() {
        return Err(OpenError::Failed(errors::no_adapter(KIND.name)));
    }
    let number = opening.number(all.len())?;
    let adapter = &all[number];
    let name = format!("{}:{number}", KIND.name);
    let mut known = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let usable = known.get(&number).filter(|opened| !opened.shared.watch.is_lost()).cloned();
    let opened = match usable {
        Some(opened) => opened,
        None => {
            let opened = Arc::new(start(&name, instance, adapter.clone())?.0);
            known.insert(number, opened.clone());
            opened
        }
    };
    made(name, adapter, &opened, opening.settings)
}

/// The device of an adapter that was opened.
fn made(
    name: String,
    adapter: &wgpu::Adapter,
    opened: &Opened,
    settings: &Settings,
) -> Result<Arc<Portable<WgpuRuntime>>, OpenError> {
    let info = adapter.get_info();
    let mut target = targets::wgpu().remove(0);
    // One range of a launch holds the numbers that it is given.
    target.bindings = opened.limits.bindings.min(target.bindings);
    let mut warnings = Vec::new();
    if info.device_type == DeviceType::Cpu {
        warnings.push(format!("[{}] {name} is {}, a processor and no GPU", "E0873", info.name));
    }
    let instructions = format!("{} {} {}", info.backend, info.name, info.driver_info);
    let processor = info.device_type == DeviceType::Cpu;
    let (tiles, warning) = Tiles::open(settings, &instructions, processor)?;
    warnings.extend(warning);
    let about = About {
        words: words(&info, &opened.limits, adapter.features()),
        name,
        instructions,
        capacity: None,
        target,
        warnings,
    };
    let Opened { client, limits, shared } = opened;
    let (client, limits, shared) = (client.clone(), *limits, shared.clone());
    Ok(Arc::new(Portable { about, client, limits, shared, tiles: Mutex::new(tiles), source }))
}

/// The text of a kernel in WGSL.
fn source(kernel: &Kernel) -> Result<String, String> {
    let (mode, address) = (ExecutionMode::Unchecked, kernel.address_type());
    let mut compiler = WgslCompiler::default();
    let made =
        Compiler::compile(&mut compiler, kernel.define(), &Default::default(), mode, address);
    made.map(|made| made.to_string()).map_err(|error| format!("{error:?}"))
}

/// The first adapter, opened for nobody else, with what can destroy it.
#[cfg(test)]
pub(super) fn apart() -> (Arc<Portable<WgpuRuntime>>, wgpu::Device) {
    let instance = instance();
    let adapter = adapters(&instance).swap_remove(0);
    let opened = start("wgpu:0", instance, adapter.clone());
    let (opened, device) = opened.unwrap_or_else(|error| panic!("{error}"));
    let made = made("wgpu:0".to_owned(), &adapter, &opened, &Settings::default());
    (made.unwrap_or_else(|error| panic!("{error}")), device)
}

/// The adapter in words: what it is, its driver, what it binds, and which types it has by itself.
fn words(info: &AdapterInfo, limits: &Limits, features: Features) -> String {
    let software = if info.device_type == DeviceType::Cpu { ", software" } else { "" };
    let own = [(Features::SHADER_F16, "f16"), (Features::SHADER_F64, "f64")];
    let own = own.into_iter().filter(|(feature, _)| features.contains(*feature));
    let types: Vec<&str> = ["f32", "i32"].into_iter().chain(own.map(|(_, name)| name)).collect();
    format!(
        "{}{software}, {} {} {}, {} MiB in one piece, binds {} MiB, {} threads and {} KiB a work group, has {}",
        info.name,
        info.backend,
        info.driver,
        info.driver_info,
        limits.memory_bytes >> 20,
        limits.range_bytes >> 20,
        limits.threads,
        limits.shared_bytes >> 10,
        types.join(" ")
    )
}

/// Has an adapter make a device, whose reports are taken down.
fn start(
    name: &str,
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
) -> Result<(Opened, wgpu::Device), OpenError> {
    let limits = adapter.limits();
    let asked = adapter.request_device(&wgpu::DeviceDescriptor {
        label: None,
        required_features: adapter.features().difference(Features::MAPPABLE_PRIMARY_BUFFERS),
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        trace: wgpu::Trace::Off,
        // SAFETY: features that are under way are enabled as cubecl enables them; kernels use none.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
    });
    let made = cubecl::future::block_on(asked);
    let (device, queue) =
        made.map_err(|why| OpenError::Failed(errors::refused(name, why.to_string())))?;
    let shared = Arc::new(Shared::default());
    let other = shared.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let memory = matches!(error, wgpu::Error::OutOfMemory { .. });
        let report = if memory { Report::Memory } else { Report::Other };
        other.watch.say(report, error.to_string());
    }));
    let other = shared.clone();
    device.set_device_lost_callback(move |why, what| {
        other.watch.say(Report::Lost, format!("{why:?}: {what}"));
    });
    let mut own = Limits {
        range_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / 256 * 256,
        // Addresses have room for a terabyte of each object.
        memory_bytes: limits.max_buffer_size.min(1 << 39) / 256 * 256,
        alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(256),
        // One is taken by the numbers of a launch.
        bindings: (limits.max_storage_buffers_per_shader_stage as usize).saturating_sub(1).max(1),
        threads: limits
            .max_compute_invocations_per_workgroup
            .min(limits.max_compute_workgroup_size_x),
        shared_bytes: limits.max_compute_workgroup_storage_size as usize,
        cubes: limits.max_compute_workgroups_per_dimension,
        units: Units::default(),
    };
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup { instance, adapter, device: device.clone(), queue, backend };
    let options = RuntimeOptions {
        memory_config: MemoryConfiguration::Custom { pool_options: pools(own.memory_bytes) },
        ..RuntimeOptions::default()
    };
    let mut client = WgpuRuntime::client(&init_device(setup, options));
    // SAFETY: whoever uses the client has the turn of the device, so that all threads share one stream.
    unsafe { client.set_stream(StreamId { value: 0 }) };
    // In WGSL cubecl has none, and so reports none.
    own.units = Units::of(client.properties());
    Ok((Opened { client, limits: own, shared }, device))
}

/// Pools of memory in which every allocation is a buffer of its own, so that it begins where a range may
/// begin and is as large as the device allows, of which parts are bound. A pool makes buffers of at least
/// half its size; each is less than twice as large as the one before it.
fn pools(most: u64) -> Vec<MemoryPoolOptions> {
    let sizes = (15..64).flat_map(|power| [1u64 << power, 3 << (power - 1)]);
    let below = sizes.take_while(|size| *size < most);
    let pool = |size| MemoryPoolOptions {
        pool_type: PoolType::ExclusivePages { max_alloc_size: size },
        // What is given back is freed soon, since plans hold what they need.
        dealloc_period: Some(PERIOD),
    };
    below.chain([most]).map(pool).collect()
}

/// Allocations after which memory is freed that nothing uses.
const PERIOD: u64 = 200;
