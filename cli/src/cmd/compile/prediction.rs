//! The shortest time of each phase, from what a machine can do at most.
//!
//! A device of this build is measured. For all others the target states figures of one, if it does.

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
        let measured = Registry::default().runs(target.name);
        let machine = match measured {
            true => Some(measure(target.name, threads)?),
            false => target.machine.clone(),
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

/// What a device of this build can do.
fn measure(device: &str, threads: usize) -> Result<Machine> {
    let backend = Backend::open(device, threads)?;
    Ok(machine(&backend.device().throughput(Duration::from_millis(200))))
}
