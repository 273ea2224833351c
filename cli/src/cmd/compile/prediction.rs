//! The shortest time of each phase, from what a machine can do at most.
//!
//! A device that is here is measured. For all others the target states figures of one, if it does.

use crate::page::machine;
use anyid_ir::kernel::{Machine, Target};
use anyid_ir::plan::Plan;
use anyid_passes::cost;
use anyid_runtime::engine::Registry;
use anyid_runtime::{Backend, Result};
use std::time::Duration;

/// Predicted times, and where they come from.
pub struct Prediction {
    /// What the machine can do at most, if anything is known about it.
    pub machine: Option<Machine>,
    /// Seconds of each phase; `None` where nothing is known about such a machine.
    pub seconds: Option<Vec<f64>>,
    /// Whether this machine was measured.
    pub measured: bool,
}

impl Prediction {
    /// The prediction for `plans` on a device of `target`, the CPU with so many threads.
    ///
    /// # Errors
    /// E056x where a device of this build cannot be opened.
    pub fn of(target: &Target, threads: usize, plans: &[Plan]) -> Result<Self> {
        let here = here(target, threads)?;
        let measured = here.is_some();
        let machine = match here {
            Some(backend) => {
                Some(machine(&backend.device().throughput(Duration::from_millis(200))))
            }
            None => target.machine.clone(),
        };
        let of = |plan: &Plan, machine: &Machine| -> f64 {
            plan.steps.iter().map(|step| cost::step_seconds(plan, step, machine)).sum()
        };
        let all = |machine: &Machine| plans.iter().map(|plan| of(plan, machine)).collect();
        let seconds = machine.as_ref().map(all);
        Ok(Self { machine, seconds, measured })
    }

    /// What to say beside the times; nothing for those of this machine.
    pub fn note(&self) -> Option<&'static str> {
        match (&self.seconds, self.measured) {
            (_, true) => None,
            (Some(_), false) => Some(
                "the times follow from figures that are stated for such a device, not measured",
            ),
            (None, false) => {
                Some("no times are predicted: no figures are stated for such a device")
            }
        }
    }

    /// The origin of the figures in JSON.
    pub fn origin(&self) -> Option<&'static str> {
        self.seconds.as_ref().map(|_| if self.measured { "measured" } else { "stated" })
    }
}

/// A device that runs plans for `target`, if one is here. Targets that are no kind of their own, such as
/// those of GPUs, are looked for among the devices of their kind.
fn here(target: &Target, threads: usize) -> Result<Option<Backend>> {
    let registry = Registry::default();
    let Some(kind) = registry.kind(target.name).filter(|kind| kind.open.is_some()) else {
        return Ok(None);
    };
    if kind.name == target.name {
        return Backend::open(target.name, threads).map(Some);
    }
    let names = (kind.devices)().unwrap_or_default();
    let opened = names.iter().filter_map(|name| Backend::open(name, threads).ok());
    Ok(opened.into_iter().find(|backend| backend.about().target.name == target.name))
}
