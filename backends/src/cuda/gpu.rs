//! The device `cuda:N`: one NVIDIA GPU.
//!
//! Opening it looks for a driver, the GPU and NVRTC, and says what is missing. Kernels are compiled when
//! plans are made ready, and kept in a folder of the user's. A device has one stream; runs and copies take
//! turns. What a launch does is written by `emit`, and what a plan is by `launches`.

mod choose;
mod driver;
mod finite;
mod kernels;
mod load;
mod memory;
mod nvidia;
mod resolve;
mod run;
mod speed;

#[cfg(test)]
mod faked;
#[cfg(test)]
mod tests;

use crate::Fault;
use crate::cuda::cache::{Cache, Kept};
use crate::cuda::launches::{self, Ports};
use crate::cuda::wanted::wanted;
use crate::device::{About, Device, Progress, Provider, Throughput, Weights};
use crate::errors::{LoadError, NoMemory, OpenError};
use crate::places::GAP;
use crate::registry::{Kind, Opening, Setting};
use crate::targets;
use anyid_ir::plan::Plan;
use driver::{Driver, Refused, Trouble};
use kernels::Kernels;
use nvidia::System;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How it is found by name.
pub const KIND: Kind = Kind {
    name: "cuda",
    names: "cuda:N",
    targets: targets::cuda,
    settings: &[
        Setting { name: NVRTC, variable: "ANYID_NVRTC" },
        Setting { name: CACHE, variable: "ANYID_CUDA_CACHE" },
        Setting { name: GRAPHS, variable: "ANYID_CUDA_GRAPHS" },
    ],
    variants: Vec::new,
    devices: there,
    rank: 2,
    open: Some(open),
};

/// The setting of the folder that holds NVRTC.
const NVRTC: &str = "nvrtc";
/// The setting of the folder for compiled kernels.
const CACHE: &str = "cache";
/// The setting of how launches go out: [`Launching`]'s names.
const GRAPHS: &str = "graphs";

/// Machine code of compiled kernels.
const KEPT: Kept = Kept { folder: "cuda", ending: "cubin", variable: "ANYID_CUDA_CACHE" };

/// How launches go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Launching {
    /// Recorded as graphs (`on`).
    Graphs,
    /// One by one (`off`).
    Single,
    /// One by one, each waited for (`wait`): an error is then that of the kernel that it names.
    Waiting,
}

/// An opened GPU.
struct Gpu {
    about: About,
    kernels: Kernels,
    /// Multiprocessors.
    processors: u32,
    launching: Launching,
    /// Whoever uses the stream holds this.
    turn: Mutex<()>,
    driver: Box<dyn Driver>,
}

/// The names of the GPUs there are.
fn there() -> Result<Vec<String>, OpenError> {
    let system = System::find().map_err(OpenError::Failed)?;
    if system.count == 0 {
        return Err(none_seen());
    }
    Ok((0..system.count).map(|number| format!("{}:{number}", KIND.name)).collect())
}

/// Name and bytes of the GPUs there are.
#[cfg(feature = "cubecl-cuda")]
pub(crate) fn cards() -> Result<Vec<(String, u64)>, OpenError> {
    let system = System::find().map_err(OpenError::Failed)?;
    if system.count == 0 {
        return Err(none_seen());
    }
    let card = |number| {
        let card = system.card(number).map_err(|refused| choose::not_opened(None, &refused));
        card.map(|card| (card.name, card.bytes)).map_err(OpenError::Failed)
    };
    (0..system.count).map(card).collect()
}

/// A driver that knows no GPU.
fn none_seen() -> OpenError {
    OpenError::NotThere(
        "the driver sees no GPU: CUDA_VISIBLE_DEVICES may hide it, or a container may not pass it on"
            .to_owned(),
    )
}

fn open(opening: &Opening<'_>) -> Result<Arc<dyn Device>, OpenError> {
    let settings = opening.settings;
    let launching = launching(settings.get(GRAPHS))?;
    if opening.asked().is_none() {
        let why = "GPUs are called cuda:0, cuda:1 and so on; cuda is the first".to_owned();
        return Err(OpenError::NotThere(why));
    }
    let system = System::find().map_err(OpenError::Failed)?;
    if system.count == 0 {
        return Err(none_seen());
    }
    let number = opening.number(system.count)?;
    let name = format!("{}:{number}", KIND.name);
    let refused = |refused: Refused| OpenError::Failed(choose::not_opened(Some(&name), &refused));
    let card = system.card(number).map_err(refused)?;
    let own = choose::kernels(&card.name, card.capability).map_err(OpenError::Failed)?;
    let compiler = kernels::Compiler::find(settings.get(NVRTC), system.version);
    let compiler = compiler.map_err(OpenError::Failed)?;
    let (cache, warning) = Cache::open_or_warn(KEPT, settings.get(CACHE));
    let driver = system.open(number).map_err(refused)?;
    let target = targets::cuda().into_iter().find(|target| target.name == own.target);
    let (driver_version, nvrtc) = (system.version, compiler.version());
    let about = About {
        words: format!(
            "{}, driver for CUDA {}.{}, NVRTC {}.{}",
            card.name, driver_version.0, driver_version.1, nvrtc.0, nvrtc.1
        ),
        name,
        instructions: format!("{}, NVRTC {}.{}", own.compiled, nvrtc.0, nvrtc.1),
        capacity: Some(card.bytes),
        target: target.expect("every architecture with kernels has a target"),
        warnings: warning.into_iter().collect(),
    };
    let kernels = Kernels::new(own, Box::new(compiler), cache);
    let (turn, processors) = (Mutex::new(()), card.processors);
    Ok(Arc::new(Gpu { about, kernels, processors, launching, turn, driver: Box::new(driver) }))
}

fn launching(setting: Option<&str>) -> Result<Launching, OpenError> {
    match setting {
        None | Some("" | "on") => Ok(Launching::Graphs),
        Some("off") => Ok(Launching::Single),
        Some("wait") => Ok(Launching::Waiting),
        Some(_) => {
            let message = "unknown way of launching: use on, off or wait".to_owned();
            Err(OpenError::Setting { name: GRAPHS, message })
        }
    }
}

impl Gpu {
    /// The turn of whoever uses the stream.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failed call as an error for people.
    fn fault(&self, refused: &Refused) -> Box<Fault> {
        choose::refusal(&self.about.name, refused)
    }

    /// Why so much memory for something cannot be had.
    fn refused_memory(&self, what: &str, bytes: u64, refused: &Refused) -> Box<Fault> {
        match (refused.trouble, self.driver.room()) {
            (Trouble::Memory, Ok(room)) => choose::too_little(&self.about.name, what, bytes, room),
            _ => self.fault(refused),
        }
    }

    /// The same where an error has no words.
    fn no_memory(&self, bytes: u64) -> NoMemory {
        NoMemory { bytes, free: self.driver.room().ok().map(|room| room.free) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.driver.wait();
        self.kernels.unload(&*self.driver);
    }
}

impl Device for Gpu {
    fn about(&self) -> &About {
        &self.about
    }

    fn free_bytes(&self) -> Option<u64> {
        // A driver that does not tell refuses later, when memory is asked for.
        self.driver.room().map_or(self.about.capacity, |room| Some(room.free))
    }

    fn weight_bytes(&self, plans: &[&Plan]) -> u64 {
        let wanted = wanted(plans, self.kernels.architecture());
        wanted.values().map(|ty| ty.bytes().next_multiple_of(GAP)).sum()
    }

    fn scratch_bytes(&self, plan: &Plan) -> u64 {
        let emitted = launches::emitted(plan, self.kernels.architecture());
        let constants: u64 = emitted.iter().map(resolve::constant_bytes).sum();
        let tables = emitted.iter().map(|each| each.tables.len()).sum::<usize>();
        let faults = tables + plan.outputs.len();
        Ports::new(plan).bytes() + constants + (faults * size_of::<u64>()) as u64
    }

    fn load(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let loaded = load::load(&self, plans, &*provider, progress)?;
        Ok(Arc::new(loaded))
    }

    fn throughput(&self, each: Duration) -> Throughput {
        speed::measure(self, each)
    }
}
