//! The devices that the suites run on: the one list of them.
//!
//! `ANYID_DEVICES` names others, separated by commas, such as `cuda:0`. Where one of them cannot be
//! opened the tests fail, so that none passes because something is absent.

use crate::second_device;
use anyid_backends::cpu::simd::Level;
use anyid_backends::{Device, Registry, Settings};
use anyid_ir::kernel::Target;
use anyid_ir::plan::Plan;
use anyid_runtime::Backend;
use std::sync::{Arc, OnceLock};

/// Devices that are always there.
const ALWAYS: &[&str] = &["cpu", "second:0"];

/// The devices that execute kernels for CUDA on the processor. They have to be named, because the
/// suites take long on them.
pub const EMULATED: &[&str] = &["cuda-emulated:sm_80", "cuda-emulated:sm_90a"];

/// Whether a device is one of [`EMULATED`], which is slow and compiles every kernel.
pub fn is_emulated(name: &str) -> bool {
    EMULATED.contains(&name)
}

/// Whether a device compiles kernels for so long that suites run a sample on it.
pub fn is_slow(name: &str) -> bool {
    is_emulated(name) || name.starts_with("wgpu")
}

/// The settings of a device where nothing else is said: emulated ones run their threads in one order,
/// each in another, since all orders take five times as long.
fn usual(name: &str, settings: &Settings) -> Settings {
    let open = settings.get(ORDER).is_none() && std::env::var_os(ORDER_VARIABLE).is_none();
    let order = EMULATED.iter().position(|own| *own == name).filter(|_| open);
    let order = order.map(|at| if at % 2 == 0 { "ascending" } else { "last-warp" });
    order.map_or_else(|| settings.clone(), |order| settings.clone().with(ORDER, order))
}

/// The setting of emulated devices for the order of their threads, and its variable.
const ORDER: &str = "order";
const ORDER_VARIABLE: &str = "ANYID_CUDA_EMULATED_ORDER";

/// An emulated device that runs every launch in all orders of its threads, and fails where they do not
/// give the same bits.
pub fn in_all_orders(threads: usize) -> Settings {
    Settings::threads(threads).with(ORDER, "all")
}

/// Has a device that compiles kernels do so for all these plans at once, which it then runs one by one.
pub fn compile_together(device: &Arc<dyn Device>, plans: &[Plan]) {
    if is_emulated(&device.about().name) {
        // What it compiles depends on no weight.
        let none = crate::plans::Stored::default().shared();
        let loaded = device.clone().load(&[], none, &mut |_, _| true);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        loaded.prepare(plans.to_vec()).map(drop).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Every kind of device that tests may name.
pub fn registry() -> Registry {
    Registry::default().with(second_device::KIND)
}

/// The devices to test, by name.
pub fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| match std::env::var("ANYID_DEVICES") {
        Ok(list) => list.leak().split(',').map(str::trim).collect(),
        Err(_) => ALWAYS.to_vec(),
    })
}

/// Opens a device with settings; what they leave open is taken from the environment.
pub fn open_with(name: &str, settings: &Settings) -> Arc<dyn Device> {
    backend_with(name, settings, settings.threads).device().clone()
}

/// Opens a device with a number of threads.
pub fn open(name: &str, threads: usize) -> Arc<dyn Device> {
    open_with(name, &Settings::threads(threads))
}

/// A device under the runtime, with a number of threads.
pub fn backend(name: &str, threads: usize) -> Backend {
    backend_with(name, &Settings::default(), threads)
}

/// The first device of the list, for suites that are about plans more than about kernels.
pub fn first(threads: usize) -> Arc<dyn Device> {
    open(names()[0], threads)
}

/// A device under the runtime with settings and a number of threads.
pub fn backend_with(name: &str, settings: &Settings, threads: usize) -> Backend {
    let settings = Settings { threads, ..usual(name, settings) };
    Backend::open_in(&registry(), name, &settings).unwrap_or_else(|error| panic!("{error}"))
}

/// [`first`] under the runtime.
pub fn first_backend(threads: usize) -> Backend {
    backend(names()[0], threads)
}

/// The settings of a device that give other kernels on this machine, the best last; none where there
/// is no choice.
pub fn ways(name: &str) -> Vec<Settings> {
    registry().kind(name).map_or_else(Vec::new, |kind| (kind.variants)())
}

/// A device in every way that gives other kernels on this machine.
pub fn variants(name: &str, threads: usize) -> Vec<Arc<dyn Device>> {
    let ways = ways(name);
    match ways.is_empty() {
        true => vec![open(name, threads)],
        false => {
            let with = |way: Settings| open_with(name, &Settings { threads, ..way });
            ways.into_iter().map(with).collect()
        }
    }
}

/// Says which levels of instructions of the CPU are not among `ways`, since this machine lacks them.
pub fn say_skipped(ways: &[Arc<dyn Device>]) {
    let has = |name: &str| ways.iter().any(|way| way.about().instructions == name);
    if ways.iter().all(|way| way.about().name == "cpu") {
        for level in Level::ALL.iter().filter(|level| !has(level.name())) {
            println!("cpu: skipped {}, which this machine does not have", level.name());
        }
    }
}

/// The target whose plans are pinned in snapshots.
pub fn target() -> Target {
    Registry::default().target("cpu").expect("every build has it")
}
