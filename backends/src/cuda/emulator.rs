//! Kernels for CUDA on the processor: the device `cuda-emulated:ARCHITECTURE`, for tests.
//!
//! It runs plans for GPUs of that architecture from the same source that a GPU gets, compiled by the C++
//! compiler of the system. It looks for faults: every launch runs in several orders of its threads,
//! which have to give the same bits, in memory that holds NaN and whose bounds are checked. It says
//! nothing about speed. What it does not see is in `docs/gpu.md`.

mod compiler;
mod library;
mod memory;
mod run;
#[cfg(all(test, feature = "cuda"))]
pub(super) mod stand_in;

#[cfg(test)]
mod tests;

use crate::Fault;
use crate::cuda::cache::Kept;
use crate::cuda::emit::Architecture;
use crate::cuda::launches::Ports;
use crate::cuda::wanted::wanted;
use crate::device::{About, Device, Progress, Provider, Throughput, Weights};
use crate::errors::{LoadError, OpenError};
use crate::registry::{Kind, Opening, Setting};
use crate::targets;
use anyid_ir::kernel::Target;
use anyid_ir::plan::Plan;
use compiler::Compiler;
use library::Kernels;
use std::sync::Arc;
use std::time::Duration;

/// How it is found by name.
pub const KIND: Kind = Kind {
    name: "cuda-emulated",
    names: "cuda-emulated:ARCHITECTURE",
    // Its plans are those of the devices that it stands for.
    targets: Vec::new,
    settings: &[
        Setting { name: ORDER, variable: "ANYID_CUDA_EMULATED_ORDER" },
        Setting { name: COMPILER, variable: "ANYID_CUDA_EMULATED_COMPILER" },
        Setting { name: CACHE, variable: "ANYID_CUDA_EMULATED_CACHE" },
    ],
    variants: Vec::new,
    devices: || {
        let all = Architecture::ALL.map(|each| format!("{}:{}", KIND.name, each.name()));
        Ok(all.to_vec())
    },
    // It is for tests.
    rank: 0,
    open: Some(open),
};

/// The setting of the order in which threads run: one of [`Order`]'s names, or `all`.
const ORDER: &str = "order";
/// The setting of the C++ compiler.
const COMPILER: &str = "compiler";
/// The setting of the folder for compiled kernels.
const CACHE: &str = "cache";

/// Libraries of compiled kernels.
const KEPT: Kept =
    Kept { folder: "cuda-emulated", ending: "so", variable: "ANYID_CUDA_EMULATED_CACHE" };

/// The order in which the threads of a block run as far as barriers let them, and when asynchronous copies
/// land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
    Shuffled,
    FirstWarp,
    LastWarp,
}

impl Order {
    const ALL: [Self; 5] =
        [Self::Ascending, Self::Descending, Self::Shuffled, Self::FirstWarp, Self::LastWarp];

    fn name(self) -> &'static str {
        match self {
            Self::Ascending => "ascending",
            Self::Descending => "descending",
            Self::Shuffled => "shuffled",
            Self::FirstWarp => "first-warp",
            Self::LastWarp => "last-warp",
        }
    }

    /// Whether asynchronous copies land as late as they may, and not at once.
    fn lands_late(self) -> bool {
        matches!(self, Self::Descending | Self::Shuffled | Self::LastWarp)
    }
}

/// The opened device.
struct Emulated {
    about: About,
    architecture: Architecture,
    orders: Vec<Order>,
    kernels: Kernels,
}

fn open(opening: &Opening<'_>) -> Result<Arc<dyn Device>, OpenError> {
    let settings = opening.settings;
    let all = Architecture::ALL;
    let asked = opening.variant.unwrap_or(all[0].name());
    let named = if asked.is_empty() { "an architecture without a name" } else { asked };
    let architecture = all.into_iter().find(|each| each.name() == asked).ok_or_else(|| {
        let listed = all.map(Architecture::name).join(", ");
        failed(
            "E0853",
            format!("there are no kernels for {named}"),
            Some(format!("use one of {listed}, as in {}:{}", KIND.name, all[0].name())),
        )
    })?;
    let about = |words: String| About {
        name: format!("{}:{asked}", KIND.name),
        words,
        instructions: asked.to_owned(),
        capacity: None,
        target: target(architecture),
        warnings: Vec::new(),
    };
    let orders = orders(settings.get(ORDER))?;
    let compiler = Compiler::find(settings.get(COMPILER))?.run_by(settings.programs);
    let kernels = Kernels::new(compiler, settings.get(CACHE))?;
    let about = about(format!("kernels for {asked} on the processor, by {}", kernels.compiler()));
    Ok(Arc::new(Emulated { about, architecture, orders, kernels }))
}

/// What plans for an architecture are compiled for.
fn target(architecture: Architecture) -> Target {
    let found = targets::cuda().into_iter().find(|target| target.name == architecture.target());
    found.expect("every architecture with kernels has a target")
}

fn orders(setting: Option<&str>) -> Result<Vec<Order>, OpenError> {
    match setting {
        None | Some("" | "all") => Ok(Order::ALL.to_vec()),
        Some(name) => {
            let found = Order::ALL.into_iter().find(|order| order.name() == name);
            found.map(|order| vec![order]).ok_or_else(|| {
                let names: Vec<&str> = Order::ALL.map(Order::name).to_vec();
                let message = format!("unknown order: use all, {}", names.join(", "));
                OpenError::Setting { name: ORDER, message }
            })
        }
    }
}

fn fault(code: &'static str, message: String, help: Option<String>) -> Box<Fault> {
    Box::new(Fault { code, message, place: None, help, cause: None })
}

fn failed(code: &'static str, message: String, help: Option<String>) -> OpenError {
    OpenError::Failed(fault(code, message, help))
}

impl Device for Emulated {
    fn about(&self) -> &About {
        &self.about
    }

    fn weight_bytes(&self, plans: &[&Plan]) -> u64 {
        wanted(plans, self.architecture).values().map(|ty| ty.bytes()).sum()
    }

    fn scratch_bytes(&self, plan: &Plan) -> u64 {
        Ports::new(plan).bytes()
    }

    fn load(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let weights = memory::load(plans, self.architecture, &*provider, progress)?;
        Ok(Arc::new(run::Loaded { device: self, weights }))
    }

    /// Nothing is measured: times of this device say nothing about another.
    fn throughput(&self, _: Duration) -> Throughput {
        let (f32_gflops, copy_gb_per_second) = (1.0, 1.0);
        let instructions = ["emulated"; 2];
        Throughput { threads: 1, f32_gflops, bf16_gflops: None, instructions, copy_gb_per_second }
    }
}
