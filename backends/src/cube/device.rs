//! A device under the contract: what it is, its client, and one turn at a time.

use super::errors;
use super::kernels::Kernel;
use super::launch::Limits;
use super::memory::{Loaded, Memory};
use super::run::Prepared;
use super::tune::Tiles;
use crate::Fault;
use crate::device::{About, Device, Progress, Provider, Throughput, Weights};
use crate::errors::LoadError;
use crate::places::{GAP, Ports};
use crate::stop::stop_requested;
use crate::stored::Source;
use anyid_ir::plan::Plan;
use anyid_ir::{DType, TensorType};
use cubecl::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a driver reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The device is gone.
    Lost,
    /// There is no memory left.
    Memory,
    /// Anything else.
    Other,
}

/// The reports of a driver.
#[derive(Debug, Default)]
pub(super) struct Watch {
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    lost: bool,
    first: Option<(Report, String)>,
}

impl Watch {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down what was said, of which the first counts, but that the device is gone counts most.
    pub(super) fn say(&self, report: Report, what: String) {
        let mut said = self.said();
        let lost = report == Report::Lost;
        if said.first.is_none() || (lost && !said.lost) {
            said.first = Some((report, what));
        }
        said.lost |= lost;
    }

    /// Whether the device is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.said().lost
    }

    fn take(&self) -> Option<(Report, String)> {
        self.said().first.take()
    }
}

/// What all who open a device have together.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) watch: Watch,
    turn: Mutex<()>,
    /// Kernels that were compiled.
    known: Mutex<HashSet<Arc<str>>>,
}

/// An opened device of a runtime of cubecl.
pub(super) struct Portable<R: Runtime> {
    pub(super) about: About,
    pub(super) client: ComputeClient<R>,
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
    pub(super) tiles: Mutex<Tiles>,
    /// The source of a kernel, or why there is none.
    pub(super) source: fn(&Kernel) -> Result<String, String>,
}

impl<R: Runtime> Portable<R> {
    /// The turn of whoever uses the device.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for everything that was launched, and says what went wrong with it.
    pub(super) fn wait(&self) -> Result<(), Box<Fault>> {
        let done = cubecl::future::block_on(self.client.sync());
        match (self.shared.watch.take(), done) {
            (Some(said), _) => Err(self.fault(said)),
            (None, Err(error)) => Err(self.failed(format!("{error}"))),
            (None, Ok(())) => Ok(()),
        }
    }

    /// The error of something that has failed: what the driver said first, else `cause`.
    pub(super) fn failed(&self, cause: String) -> Box<Fault> {
        let other = || (if self.is_lost() { Report::Lost } else { Report::Other }, cause);
        self.fault(self.shared.watch.take().unwrap_or_else(other))
    }

    fn fault(&self, (report, cause): (Report, String)) -> Box<Fault> {
        let name = &self.about.name;
        match report {
            Report::Lost => errors::lost(name, cause),
            Report::Memory => errors::no_memory(name, cause),
            Report::Other => errors::refused(name, cause),
        }
    }

    /// Whether it is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.watch.is_lost()
    }

    /// What the driver has reported by itself since the last look.
    pub(super) fn said(&self) -> Option<String> {
        self.shared.watch.take().map(|(_, what)| what)
    }

    /// Whether a kernel was compiled before; it counts as such from now on if `done`.
    pub(super) fn is_known(&self, key: &Arc<str>, done: bool) -> bool {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        if done { known.insert(key.clone()) } else { known.contains(key) }
    }

    /// Whether kernels can do what a plan asks for.
    pub(super) fn check(&self, plan: &Plan) -> Result<(), LoadError> {
        let name = &self.about.name;
        for step in &plan.steps {
            let used = step.operands.iter().chain(&step.results).map(|id| &plan.buffer(*id).ty);
            if let Some(ty) = used.into_iter().find(|ty| !has(ty.dtype)) {
                let fault = errors::no_type(name, ty.dtype, step.label());
                return Err(LoadError::Failed(fault));
            }
        }
        // What is largest tells how much another device has to take.
        let [memory, operands] = Prepared::alone(plan, &self.limits).pieces();
        let each = [(memory, self.limits.memory_bytes), (operands, self.limits.range_bytes)];
        for (pieces, most) in each {
            let largest = pieces.into_iter().max_by_key(|(_, bytes)| *bytes);
            if let Some((what, bytes)) = largest.filter(|(_, bytes)| *bytes > most) {
                return Err(LoadError::Failed(errors::too_large(name, &what, bytes, most)));
            }
        }
        Ok(())
    }
}

/// The element types that kernels compute with, on every device.
pub(super) fn has(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::Bf16 | DType::F16 | DType::I32 | DType::U8 | DType::Bool => true,
        DType::F64 => false,
    }
}

/// The weights of plans by name.
fn wanted<'p>(plans: &[&'p Plan]) -> BTreeMap<&'p str, &'p TensorType> {
    plans
        .iter()
        .flat_map(|plan| &plan.weights)
        .map(|weight| (weight.name.as_str(), &weight.ty))
        .collect()
}

impl<R: Runtime> Device for Portable<R> {
    fn about(&self) -> &About {
        &self.about
    }

    fn weight_bytes(&self, plans: &[&Plan]) -> u64 {
        wanted(plans).values().map(|ty| ty.bytes().next_multiple_of(GAP)).sum()
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
        for plan in plans {
            self.check(plan)?;
        }
        let wanted = wanted(plans);
        // Missing ones are told before anything is copied.
        let sources = wanted
            .iter()
            .map(|(name, ty)| Source::find(&*provider, name, ty, false))
            .collect::<Result<Vec<_>, _>>()?;
        let total = wanted.values().map(|ty| ty.bytes()).sum();
        let (mut done, mut names, mut memories) = (0, BTreeMap::new(), Vec::new());
        let most = self.limits.piece();
        for ((name, ty), mut source) in wanted.iter().zip(sources) {
            let memory = Memory::new(&self, ty.bytes());
            let mut from = 0;
            while from < ty.bytes() {
                if !progress(done, total) || stop_requested() {
                    return Err(LoadError::Stopped);
                }
                let bytes = most.min(ty.bytes() - from);
                let mut piece = vec![0; bytes as usize];
                source.read(from, &mut piece)?;
                let _turn = self.turn();
                memory.write(from, &piece);
                from += bytes;
                done += bytes;
            }
            names.insert((*name).to_owned(), memories.len());
            memories.push(memory);
        }
        {
            // Memory that the driver does not have is told when it is used.
            let _turn = self.turn();
            self.wait().map_err(LoadError::Failed)?;
        }
        progress(total, total);
        Ok(Arc::new(Loaded { device: self, names, memories }))
    }

    /// Nothing is measured yet.
    fn throughput(&self, _: Duration) -> Throughput {
        let (f32_gflops, copy_gb_per_second) = (1.0, 1.0);
        let instructions = ["not measured"; 2];
        Throughput { threads: 1, f32_gflops, bf16_gflops: None, instructions, copy_gb_per_second }
    }
}
