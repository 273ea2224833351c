//! What is being compiled, at the level of the pass that ran last: its form, its check, its text.

use crate::fuse::{Grouping, UnfusedEdge};
use crate::memory::flow::{Flow, Names};
use crate::memory::{Placement, Shared};
use crate::program::{Program, ValueIndex};
use crate::rewrite::Rewrites;
use crate::straight;
use crate::{CompileRequest, Options};
use anyid_ir::named;
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::print_plans;
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::{Module, TensorType, kernel, text};
use std::borrow::Cow;
use std::fmt::Write;

named! {
    /// How far down a part has come.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Level {
        /// A function of the module.
        Module = "modules",
        /// A straight-line program.
        Program = "programs",
        /// Its steps in groups.
        Groups = "groups of steps",
        /// A list of kernels.
        Kernels = "kernels",
        /// A plan.
        Plan = "plans",
    }
}

/// What a pass may read and count besides the state.
pub struct Context<'o> {
    /// What to compile.
    pub request: &'o CompileRequest<'o>,
    /// The counter of rewrites.
    pub rewrites: Rewrites,
}

impl<'o> Context<'o> {
    /// How to compile.
    pub fn options(&self) -> &'o Options {
        &self.request.options
    }
}

/// One phase of the result: the whole function, or `prepare` or `step` of it.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Name of the phase.
    pub name: String,
    /// The program; it stays while the levels below are made of it.
    pub program: Program,
    /// Which steps are one kernel.
    pub grouping: Option<Grouping>,
    /// Kernels in order, with the values between them.
    pub flow: Option<Flow>,
    /// Which values share memory.
    pub(crate) shared: Option<Shared>,
    /// Where everything lies.
    pub(crate) placement: Option<Placement>,
    /// The plan.
    pub plan: Option<Plan>,
}

/// Everything that passes work on.
#[derive(Clone, Debug)]
pub struct Compilation<'m> {
    /// The module; a pass that changes it makes it the state's own.
    pub module: Cow<'m, Module>,
    /// The function that is compiled.
    pub func: String,
    /// The phases; none before `inline`.
    pub parts: Vec<Part>,
    /// Edges that fusion left, with the reasons, where they were asked for.
    pub unfused: Vec<UnfusedEdge>,
}

impl<'m> Compilation<'m> {
    /// What is asked for before the first pass.
    pub fn new(request: &CompileRequest<'m>) -> Self {
        let module = Cow::Borrowed(request.module);
        Self { module, func: request.func.clone(), parts: Vec::new(), unfused: Vec::new() }
    }

    /// The level of all parts.
    pub fn level(&self) -> Level {
        match self.parts.first() {
            None => Level::Module,
            Some(part) if part.plan.is_some() => Level::Plan,
            Some(part) if part.flow.is_some() => Level::Kernels,
            Some(part) if part.grouping.is_some() => Level::Groups,
            Some(_) => Level::Program,
        }
    }

    /// Whether the function was split into `prepare` and `step`.
    pub fn is_split(&self) -> bool {
        self.parts.len() == 2
    }

    /// Steps, groups or kernels of all parts.
    pub fn size(&self) -> usize {
        let size = |part: &Part| match (&part.plan, &part.flow, &part.grouping) {
            (Some(plan), ..) => plan.steps.len(),
            (_, Some(flow), _) => flow.steps.len(),
            (_, _, Some(grouping)) => {
                grouping.groups.iter().filter(|group| !group.steps.is_empty()).count()
            }
            _ => part.program.steps.len(),
        };
        self.parts.iter().map(size).sum()
    }

    /// The rules of the level.
    ///
    /// # Errors
    /// The first broken one, in words.
    pub fn verify(&self) -> Result<(), String> {
        for part in &self.parts {
            let place = |why: String| format!("@{}: {why}", part.name);
            match (&part.plan, &part.flow, &part.grouping) {
                (Some(plan), ..) => match verify_plan(plan).into_iter().next() {
                    None => Ok(()),
                    Some(fault) => {
                        Err(format!("{}: {}", fault.place.unwrap_or_default(), fault.message))
                    }
                },
                (_, Some(flow), _) => verify_kernels(flow),
                (_, _, Some(grouping)) => verify_groups(&part.program, grouping),
                _ => part.program.verify(),
            }
            .map_err(place)?;
        }
        Ok(())
    }

    /// The text of the level: IR where that is what there is, else groups, kernels or plans.
    /// Deterministic, without addresses and times.
    pub fn text(&self) -> String {
        match self.level() {
            Level::Module => text::print(&self.module),
            Level::Program => text::print(&self.straight()),
            Level::Plan => print_plans(self.parts.iter().filter_map(|part| part.plan.as_ref())),
            Level::Groups | Level::Kernels => {
                let parts: Vec<String> = self.parts.iter().map(part_text).collect();
                parts.join("\n")
            }
        }
    }

    /// The programs as a module of straight-line functions.
    pub fn straight(&self) -> Module {
        let mut module = straight::empty(&self.module);
        for part in &self.parts {
            straight::add_function(&mut module, &part.program, &part.name);
        }
        module
    }

    /// The name of the file ending for [`Self::text`].
    pub fn extension(&self) -> &'static str {
        match self.level() {
            Level::Module | Level::Program => "ir",
            Level::Groups => "groups",
            Level::Kernels => "kernels",
            Level::Plan => "plan.txt",
        }
    }
}

fn verify_groups(program: &Program, grouping: &Grouping) -> Result<(), String> {
    program.verify()?;
    for (at, group) in grouping.groups.iter().enumerate() {
        if !group.steps.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(format!("the steps of group {at} are not in order"));
        }
        let other = |step: &&usize| grouping.of.get(**step).copied().flatten() != Some(at);
        if let Some(step) = group.steps.iter().find(other) {
            return Err(format!("step {step} is in group {at} and elsewhere"));
        }
    }
    let live = grouping.classes.live.iter().enumerate().filter(|(_, live)| **live);
    for (step, _) in live {
        let own = grouping.of[step].is_some_and(|g| grouping.groups[g].steps.contains(&step));
        if !own {
            return Err(format!("step {step} is in no group"));
        }
    }
    Ok(())
}

fn verify_kernels(flow: &Flow) -> Result<(), String> {
    let owner = |value: &ValueIndex| flow.storage(*value).owner as usize;
    // Memory that somebody has written, at least in part.
    let mut made: Vec<bool> = flow.values.iter().map(|value| value.source.is_given()).collect();
    let mut once = vec![false; flow.values.len()];
    for (at, step) in flow.steps.iter().enumerate() {
        let place = || format!("kernel {at}, {}", step.kernel.name());
        let [operands, results] = [&step.operands[..], &step.results].map(|v| flow.types(v));
        step.kernel.check(&operands, &results).map_err(|why| format!("{}: {why}", place()))?;
        if let Some(value) = step.operands.iter().find(|v| !made[owner(v)]) {
            return Err(format!("{}: {} is read before it is made", place(), flow.name(*value)));
        }
        for value in &step.results {
            made[owner(value)] = true;
            if std::mem::replace(&mut once[*value as usize], true) {
                return Err(format!("{}: {} is made twice", place(), flow.name(*value)));
            }
        }
    }
    match flow.outputs.iter().find(|port| !made[owner(&port.value)]) {
        Some(port) => Err(format!("output {} is never made", port.title())),
        None => Ok(()),
    }
}

fn part_text(part: &Part) -> String {
    let mut out = format!("// @{}\n", part.name);
    let written = match (&part.flow, &part.shared, &part.grouping) {
        (Some(_), Some(shared), _) => {
            kernels_text(&mut out, &shared.flow, &shared.places(part.placement.as_ref()))
        }
        (Some(flow), None, _) => kernels_text(&mut out, flow, &|_| None),
        (None, _, Some(grouping)) => groups_text(&mut out, &part.program, grouping),
        (None, _, None) => Ok(()),
    };
    written.expect("writing to a string does not fail");
    out
}

/// Kernels in order; `place` says where a value lies, once that is known.
fn kernels_text(
    out: &mut String,
    flow: &Flow,
    place: &dyn Fn(ValueIndex) -> Option<String>,
) -> std::fmt::Result {
    let name = Names::new(flow);
    for (at, step) in flow.steps.iter().enumerate() {
        let names = |values: &[ValueIndex]| {
            values.iter().map(|v| name.of(*v)).collect::<Vec<_>>().join(", ")
        };
        let (results, operands) = (names(&step.results), names(&step.operands));
        writeln!(out, "#{at} {results} = {}({operands})", step.kernel.name())?;
        for value in &step.results {
            if let Some(place) = place(*value) {
                writeln!(out, "  {}: {place}", name.of(*value))?;
            }
        }
        if !matches!(step.kernel, anyid_ir::Kernel::Gather | anyid_ir::Kernel::Fill(_)) {
            for line in kernel::text::print(&step.kernel).lines() {
                writeln!(out, "  {line}")?;
            }
        }
    }
    Ok(())
}

fn groups_text(out: &mut String, program: &Program, grouping: &Grouping) -> std::fmt::Result {
    use crate::fuse::group::GroupKind;
    for group in grouping.groups.iter().filter(|group| !group.steps.is_empty()) {
        match &group.kind {
            GroupKind::Single => writeln!(out, "single")?,
            GroupKind::Row { rows, width } => writeln!(out, "rows {rows} x {width}")?,
            GroupKind::Anchor(_) => writeln!(out, "anchor")?,
        }
        for step in &group.steps {
            let step = &program.steps[*step];
            let types = TensorType::list(program.types(&step.results));
            let labels = step.labels.join(", ");
            writeln!(out, "  {labels} = {} : {types}", step.op.name())?;
        }
    }
    Ok(())
}
