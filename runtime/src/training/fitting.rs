//! What blocks keep for their derivative, so that a run fits its budget; where nothing does, the smallest
//! budget that would.
//!
//! A budget is for all that a run holds beside the program itself, and it has to do for every shape, so
//! the smallest one is that of the shape that needs most. Nothing is loaded here.

use super::network::Wanted;
use super::optimise;
use super::parameters::Kind;
use crate::engine::{Backend, CompileRequest, budget, compile_error, memory_check};
use crate::error::{Error, Kind as Fault, Result, plural};
use anyid_ir::plan::Plan;
use anyid_passes::Options;
use anyid_passes::remat::{Keeping, within};
use std::cell::OnceCell;

/// A shape that no choice of what is kept brings within the budget.
pub struct Over {
    /// Bytes of the choice with the fewest.
    pub needed: u64,
    budget: u64,
    shape: usize,
    /// Clips of its largest call.
    samples: usize,
}

impl Wanted<'_> {
    /// What blocks keep for their derivative, with the plan where one was made for it: what the settings
    /// say, or the fastest that fits their budget together with all else that is held.
    ///
    /// # Errors
    /// E0524 for a choice that there is not, E0602 for a budget that cannot be read.
    pub(super) fn keeping(
        &self,
        backend: &Backend,
        request: &CompileRequest<'_>,
        shape: usize,
        samples: usize,
    ) -> Result<std::result::Result<(Keeping, Option<Plan>), Over>> {
        let (settings, train) = (self.settings, &self.settings.train);
        if let Some(text) = &train.keep {
            let wanted = text.parse().map_err(compile_error);
            let placed = |error: Error| error.at(settings.place("train.keep"));
            return Ok(Ok((wanted.map_err(placed)?, None)));
        }
        let Some(text) = &train.budget else { return Ok(Ok((Keeping::default(), None))) };
        let budget =
            budget::parse(text).map_err(|error| error.at(settings.place("train.budget")))?;
        let (target, stop) = (backend.about().target.clone(), Some(self.cancel.flag()));
        let options = Options { target, stop, ..Options::default() };
        let request = request.clone().with(&options);
        // What is trained does not depend on what is kept.
        let own: OnceCell<Result<u64>> = OnceCell::new();
        let besides = |plans: &[Plan]| {
            plans.iter().fold(self.beside.taken(), |sum, plan| {
                let own = own.get_or_init(|| {
                    let parameters = self.parameters(plan);
                    let (settings, cancel) = (self.settings, self.cancel);
                    let optimiser =
                        optimise::planned_bytes(backend, &parameters, settings, cancel)?;
                    let calls = parameters.call_bytes(plan);
                    Ok(self.vector_bytes(&parameters).saturating_add(optimiser) + calls)
                });
                let own = own.as_ref().map_or(0, |bytes| *bytes);
                let scratch = backend.device().scratch_bytes(plan);
                sum.saturating_add(own).saturating_add(scratch)
            })
        };
        let choice = within(&request, budget, &besides).map_err(compile_error);
        own.into_inner().transpose()?;
        let mut choice = choice?;
        let last = choice.tried.last().expect("at least one choice is planned");
        if last.needed <= budget {
            return Ok(Ok((last.keeping, choice.plans.pop())));
        }
        let needed = choice.tried.iter().map(|tried| tried.needed).min().unwrap_or(u64::MAX);
        Ok(Err(Over { needed, budget, shape, samples }))
    }

    /// Refuses a budget that some shape does not fit, whatever is kept. Nothing else is compiled.
    ///
    /// # Errors
    /// E0601, E0523 for targets that no linear has, other E05xx where the network cannot be compiled, E1002
    /// where it was told to stop.
    pub fn fits(&self, backend: &Backend) -> Result<()> {
        let mut over = None::<Over>;
        for shape in self.calls.shapes() {
            let samples = self.calls.batches(shape, self.settings.train.batch)[0];
            let module = self.objective.module(shape, samples);
            let kept = self.keeping(backend, &self.differentiated(&module), shape, samples)?;
            if let Err(own) = kept {
                over = over.filter(|over| over.needed >= own.needed).or(Some(own));
            }
        }
        over.map_or(Ok(()), |over| Err(self.refused(&over)))
    }

    /// The error of a budget that nothing fits at some shape.
    pub(super) fn refused(&self, over: &Over) -> Error {
        let Over { needed, budget, shape, samples } = *over;
        let call = match self.kind {
            Kind::Dpo => plural(samples, "clip"),
            Kind::Lora | Kind::Full => plural(samples, "sample"),
        };
        let [least, given] = memory_check::sizes([needed, budget]);
        let message = format!(
            "{call} with {} in one call: at least {least} are needed, the budget is {given}",
            self.objective.describe(shape),
        );
        // Rounded up, so that it can be taken as it is written.
        let smallest = match needed {
            ..=0x3fff_ffff => format!("{}KiB", needed.div_ceil(1 << 10)),
            _ => format!("{}MiB", needed.div_ceil(1 << 20)),
        };
        let fewer = if samples > 1 { "lower train.together, " } else { "" };
        Error::new(Fault::Budget, "E0601", message).at(self.settings.place("train.budget")).help(
            format!(
                "no shape needs more, so the smallest budget is train.budget = \"{smallest}\"; or \
                 {fewer}take fewer or shorter references, a smaller video, or bf16"
            ),
        )
    }
}
