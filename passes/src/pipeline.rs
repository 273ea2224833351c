//! The passes, in the order in which they run.
//!
//! One table drives [`CompileRequest::compile`](crate::CompileRequest::compile) and the command line's `opt`. A pass is a name, a
//! phase and a function; it may assume the level its predecessors leave and nothing else, and never
//! looks at a device. There is one fixpoint loop, inside `canonicalize`; all else runs once.
//! `docs/passes.md` shows this table; a test compares them.

use crate::fuse::{Groups, alone, classify::classify, explain};
use crate::memory::flow::Flow;
use crate::program::Program;
use crate::rewrite::Rewrites;
use crate::state::{Compilation, Context, Level, Part};
use crate::{
    Asked, CompileError, Options, canonicalize, columns, decompose, flatten, fold, grad,
    join_branches, lora, memory, remat, schedule, simplify, split, split_rows,
};
use anyid_ir::named;
use anyid_ir::spelling::nearest;
use std::collections::HashSet;

named! {
    /// A stretch of the pipeline that ends at a level which can be printed and checked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Phase {
        /// Sizes are numbers; one straight-line program.
        Bound = "bound",
        /// Programs that compute each thing once, where it belongs.
        Optimised = "optimised",
        /// Programs in ops of the target, grouped into kernels.
        Fused = "fused",
        /// Kernels in order and every byte in its place.
        Planned = "planned",
    }
}

impl Phase {
    /// The phase called `name`.
    ///
    /// # Errors
    /// E0508, with the nearest name.
    pub fn find(name: &str) -> Result<Self, CompileError> {
        Self::from_name(name).ok_or_else(|| {
            let error = CompileError::new("E0508", format!("there is no phase \"{name}\""));
            error.about(Asked::Phase).help(meant(name, "phases", &Self::ALL.map(Self::name)))
        })
    }
}

/// The function of a pass.
pub type PassFunction = fn(&mut Compilation<'_>, &mut Context<'_>) -> Done;

/// What a pass ends with.
pub type Done = Result<(), CompileError>;

/// One pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Its name.
    pub name: &'static str,
    /// The phase it belongs to.
    pub phase: Phase,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Whether it can be left out.
    pub optional: bool,
    /// The level it works on.
    pub level: Level,
    /// Whether what follows needs what it makes, though it may be left out.
    pub makes_level: bool,
    /// What it runs.
    pub run: PassFunction,
}

impl Pass {
    /// Whether it works on programs and leaves programs.
    pub fn keeps_programs(&self) -> bool {
        self.level <= Level::Program && !self.makes_level
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn pass(
    phase: Phase,
    level: Level,
    name: &'static str,
    doc: &'static str,
    optional: bool,
    run: PassFunction,
) -> Pass {
    Pass { name, phase, doc, optional, level, makes_level: false, run }
}

impl Pass {
    const fn makes_level(self) -> Self {
        Self { makes_level: true, ..self }
    }
}

/// Every pass, in order. Passes that see both phases of a split function belong behind `hoist`.
#[rustfmt::skip]
pub const PASSES: &[Pass] = &[
    pass(Phase::Bound, Level::Module, "specialize",
        "checks that every size is a number: named dims are bound when text is read",
        false, specialize),
    pass(Phase::Bound, Level::Module, "inline",
        "calls inlined and repeats unrolled into one straight-line program, weights by absolute name",
        false, inline),
    pass(Phase::Bound, Level::Program, "inject-lora",
        "low-rank adapters put beside the linears that are asked for", false, inject_lora),
    pass(Phase::Optimised, Level::Program, "canonicalize",
        "small local rewrites until none applies: chains of views, casts that lose nothing, neutral operands",
        true, |s, c| each(s, c, canonicalize::canonicalize)),
    pass(Phase::Optimised, Level::Program, "fold",
        "steps on known numbers computed once and for all, with the interpreter's arithmetic",
        true, |s, c| each(s, c, fold::fold)),
    pass(Phase::Optimised, Level::Program, "cse",
        "equal steps computed once", true, |s, c| each(s, c, simplify::share)),
    pass(Phase::Optimised, Level::Program, "dce",
        "steps, and results of steps, that no output needs dropped",
        true, |s, c| each(s, c, simplify::drop_unused)),
    pass(Phase::Optimised, Level::Program, "lift",
        "weights that are asked for made inputs, in f32", false, run_lift),
    pass(Phase::Optimised, Level::Program, "grad",
        "steps added that compute the derivative that is asked for", false, run_grad),
    pass(Phase::Optimised, Level::Program, "remat",
        "forward steps computed again for the derivative, so that less is kept until then, as asked for",
        false, run_remat),
    pass(Phase::Optimised, Level::Program, "join-branches",
        "two branches that differ in some inputs made one, where the time to read weights is shared",
        true, join_branches),
    pass(Phase::Optimised, Level::Program, "hoist",
        "what does not depend on the inputs that change per step moved to prepare",
        true, hoist),
    pass(Phase::Fused, Level::Program, "decompose",
        "ops that the target has no kernel for replaced by their decomposition",
        false, run_decompose),
    pass(Phase::Fused, Level::Program, "fuse",
        "neighbouring steps grouped into kernels: epilogues of products, rows with rows",
        true, fuse).makes_level(),
    pass(Phase::Fused, Level::Groups, "pack-linears",
        "linears on one operand grouped into one product of several parts",
        true, pack_linears),
    pass(Phase::Planned, Level::Groups, "lower",
        "groups written down as kernels, composites over rows expanded",
        false, run_lower),
    pass(Phase::Planned, Level::Kernels, "schedule",
        "kernels in the order with least memory alive: program order or a greedy one, then moves at the peak",
        true, run_schedule),
    pass(Phase::Planned, Level::Kernels, "split-rows",
        "row-wise kernels at the peak run in pieces of rows where that lowers it",
        true, run_split_rows),
    pass(Phase::Planned, Level::Kernels, "share-columns",
        "columns of a value read where they lie, parts of a product made columns of one value",
        true, run_share_columns),
    pass(Phase::Planned, Level::Kernels, "alias",
        "results written over operands that die under them, parts where the whole is, states and outputs in place",
        true, alias).makes_level(),
    pass(Phase::Planned, Level::Kernels, "pack",
        "memory that is free again given to later values; without it each has its own",
        true, pack).makes_level(),
    pass(Phase::Planned, Level::Kernels, "assemble",
        "the plan put together from kernels and places, and checked",
        false, assemble),
];

/// The pass of `table` called `name`.
///
/// # Errors
/// E0504, with the nearest name.
pub fn find<'t>(table: &'t [Pass], name: &str) -> Result<&'t Pass, CompileError> {
    table.iter().find(|pass| pass.name == name).ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|pass| pass.name).collect();
        let error = CompileError::new("E0504", format!("there is no pass \"{name}\""));
        error.about(Asked::Passes).help(meant(name, "passes", &names))
    })
}

/// The pass of `table` called `name`, to be left out.
///
/// # Errors
/// E0504, also for a pass that cannot be left out.
pub fn find_optional<'t>(table: &'t [Pass], name: &str) -> Result<&'t Pass, CompileError> {
    let names: Vec<&str> = table.iter().filter(|p| p.optional).map(|pass| pass.name).collect();
    let pass = find(table, name).map_err(|error| {
        error.about(Asked::Without).help(meant(name, "passes that can be left out", &names))
    })?;
    if pass.optional {
        return Ok(pass);
    }
    let error = CompileError::new("E0504", format!("pass \"{name}\" cannot be left out"));
    Err(error.about(Asked::Without).help(format!("those that can are {}", names.join(", "))))
}

fn meant(name: &str, what: &str, names: &[&str]) -> String {
    match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the {what} are {}", names.join(", ")),
    }
}

fn specialize(state: &mut Compilation<'_>, _: &mut Context<'_>) -> Done {
    let (module, name) = (&state.module, &state.func);
    let Some(func) = module.func(name) else {
        let message = format!("there is no function @{name} in module @{}", module.name);
        return Err(CompileError::new("E0501", message));
    };
    if func.index_params.is_empty() {
        return Ok(());
    }
    let names = func.index_params.join(", ");
    let message = format!("@{name} has index parameters <{names}>, which only calls give");
    Err(CompileError::new("E0501", message))
}

fn inline(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let mut program = flatten::flatten(&state.module, &state.func)?;
    context.request.declare(&mut program)?;
    state.parts = vec![Part { name: state.func.clone(), program, ..Part::default() }];
    Ok(())
}

/// Runs `pass` over every program, where it may do anything.
fn each(
    state: &mut Compilation<'_>,
    context: &mut Context<'_>,
    pass: impl Fn(Program, &mut Rewrites) -> Program,
) -> Done {
    if context.rewrites.enabled() {
        for part in &mut state.parts {
            part.program = pass(std::mem::take(&mut part.program), &mut context.rewrites);
        }
    }
    Ok(())
}

/// Refuses names that stand twice at the edge of `program`, to which a pass has added ports.
fn named_once(program: &Program, code: &'static str, asked: Asked) -> Done {
    for (what, ports) in [("inputs", &program.inputs), ("outputs", &program.outputs)] {
        let mut seen = HashSet::new();
        if let Some(port) = ports.iter().find(|port| !seen.insert(port.title())) {
            let message = format!("there would be two {what} called %{}", port.title());
            let error = CompileError::new(code, message).about(asked);
            return Err(error.help("give the one in the module another name"));
        }
    }
    Ok(())
}

fn inject_lora(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let targets = &context.request.lora;
    let ([whole], false) = (state.parts.as_mut_slice(), targets.is_empty()) else { return Ok(()) };
    whole.program = lora::inject(&whole.program, targets)?;
    named_once(&whole.program, "E0523", Asked::Lora)
}

fn run_lift(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let patterns = &context.request.lifted;
    let ([whole], false) = (state.parts.as_mut_slice(), patterns.is_empty()) else { return Ok(()) };
    whole.program = grad::lift(&whole.program, patterns)?;
    named_once(&whole.program, "E0521", Asked::Lifted)
}

fn run_grad(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let ([whole], Some(wish)) = (state.parts.as_mut_slice(), &context.request.gradient) else {
        return Ok(());
    };
    whole.program = grad::grad(std::mem::take(&mut whole.program), wish)?;
    named_once(&whole.program, "E0521", Asked::Gradient)
}

fn run_remat(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let keeping = context.request.keeping;
    each(state, context, |program, rewrites| remat::remat(program, keeping, rewrites))
}

fn join_branches(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let request = context.request;
    let (names, varying) = (&request.branches, request.varying.as_deref());
    let ([whole], false) = (state.parts.as_mut_slice(), names.is_empty()) else { return Ok(()) };
    let joined = join_branches::join(&whole.program, names, varying, &request.options.target);
    if let Some(program) = joined
        && context.rewrites.allow("two branches made one", &whole.name)
    {
        whole.program = program;
    }
    Ok(())
}

/// Left out, it still makes both phases; everything then happens in `step`.
fn hoist(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let Some(varying) = &context.request.varying else { return Ok(()) };
    let [whole] = state.parts.as_slice() else {
        let error = CompileError::new("E0504", "hoist runs once").about(Asked::Passes);
        return Err(error.help("name it once"));
    };
    let halves = split::split(&whole.program, varying, &mut context.rewrites);
    let part = |name: &str, program| Part { name: name.into(), program, ..Part::default() };
    state.parts = vec![part("prepare", halves.prepare), part("step", halves.step)];
    Ok(())
}

fn run_decompose(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let split = state.is_split();
    for (at, part) in state.parts.iter_mut().enumerate() {
        if split && at == 0 {
            part.program = decompose::with_copied_outputs(&part.program);
        }
        part.program = decompose::decompose(&part.program, &context.options().target)?;
    }
    Ok(())
}

fn fuse(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    grow(state, context, |groups, rewrites| groups.fuse(rewrites))
}

fn pack_linears(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    match context.rewrites.enabled() {
        true => grow(state, context, |groups, rewrites| groups.pack_linears(rewrites)),
        false => Ok(()),
    }
}

/// Runs `work` on the groups of every part, each step by itself where there are none yet, and says
/// what stays apart.
fn grow(
    state: &mut Compilation<'_>,
    context: &mut Context<'_>,
    work: fn(&mut Groups<'_>, &mut Rewrites),
) -> Done {
    let Options { target, explain: explains, .. } = context.options();
    state.unfused.clear();
    for part in &mut state.parts {
        let grouping = part.grouping.take().unwrap_or_else(|| {
            alone(&part.program, classify(&part.program, &mut context.rewrites))
        });
        let mut groups = Groups::new(&part.program, target, grouping);
        if context.rewrites.enabled() {
            work(&mut groups, &mut context.rewrites);
        }
        if *explains {
            state.unfused.extend(explain(&groups));
        }
        part.grouping = Some(groups.into_grouping());
    }
    Ok(())
}

fn run_lower(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    for part in &mut state.parts {
        let grouping = part.grouping.take().expect("fuse makes groups");
        let groups = Groups::new(&part.program, &context.options().target, grouping);
        let steps = crate::lower::lower(&groups);
        part.flow = Some(Flow::new(
            &part.program,
            steps,
            &context.request.states,
            context.options().target.alignment,
        ));
    }
    Ok(())
}

/// Runs `work` on the kernels of every part, where it may do anything, with the offsets of the
/// persistent values that the part reads (any will do before they are known), or `None` for a part
/// that defines them.
fn each_flow(
    state: &mut Compilation<'_>,
    context: &mut Context<'_>,
    mut work: impl FnMut(&mut Flow, Option<&[u64]>, &mut Rewrites),
) -> Done {
    if !context.rewrites.enabled() {
        return Ok(());
    }
    let split = state.is_split();
    let kept = state.parts.first().map_or(0, |part| part.program.outputs.len());
    let unknown = vec![0; kept];
    for (at, part) in state.parts.iter_mut().enumerate() {
        let flow = part.flow.as_mut().expect("lower makes kernels");
        let persistent = (split && at > 0).then_some(unknown.as_slice());
        work(flow, persistent, &mut context.rewrites);
    }
    Ok(())
}

/// The least workspace that a flow needs, with or without memory being shared.
fn peak(flow: &Flow, persistent: Option<&[u64]>, in_place: bool) -> u64 {
    match in_place {
        true => memory::share_all(flow, persistent).bound(),
        false => memory::apart(flow.clone(), persistent).bound(),
    }
}

fn run_schedule(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let in_place = context.options().runs("alias");
    each_flow(state, context, |flow, persistent, rewrites| {
        let peak = |flow: &Flow| peak(flow, persistent, in_place);
        let order = schedule::greedy(flow);
        if !order.is_sorted() {
            let steps = order.iter().map(|at| flow.steps[*at].clone()).collect();
            let other = Flow { steps, ..flow.clone() };
            if peak(&other) < peak(flow) && rewrites.allow("kernels in another order", "") {
                *flow = other;
            }
        }
        if in_place {
            memory::order::improve(flow, persistent, rewrites);
        }
    })
}

fn run_split_rows(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    if !context.options().runs("alias") {
        return Ok(());
    }
    let Some(policy) = &context.options().target.row_split else { return Ok(()) };
    let moves = context.options().runs("schedule");
    each_flow(state, context, |flow, persistent, rewrites| {
        if split_rows::split_rows(flow, policy, persistent, rewrites) && moves {
            memory::order::improve(flow, persistent, rewrites);
        }
    })
}

fn run_share_columns(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let in_place = context.options().runs("alias");
    let target = &context.options().target;
    each_flow(state, context, |flow, persistent, rewrites| {
        let peak = |flow: &Flow| peak(flow, persistent, in_place);
        columns::share_columns(flow, target, &peak, rewrites);
    })
}

fn alias(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let mut persistent: Option<Vec<u64>> = None;
    for part in &mut state.parts {
        let flow = part.flow.as_ref().expect("lower makes kernels");
        let shared = match context.rewrites.enabled() {
            true => memory::share(flow, persistent.as_deref(), &mut context.rewrites),
            false => memory::apart(flow.clone(), persistent.as_deref()),
        };
        persistent.get_or_insert_with(|| shared.kept.clone());
        part.shared = Some(shared);
    }
    Ok(())
}

fn pack(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    for part in &mut state.parts {
        let reuse = context.rewrites.allow("memory used again", &part.name);
        let shared = part.shared.as_ref().expect("alias decides");
        part.placement = Some(memory::place(shared, reuse));
    }
    Ok(())
}

fn assemble(state: &mut Compilation<'_>, _: &mut Context<'_>) -> Done {
    let mut kept = None;
    for part in &mut state.parts {
        let shared = part.shared.take().expect("alias decides");
        let placement = part.placement.take().expect("pack places everything");
        let mut plan = memory::assemble(&shared, &placement, &part.name);
        plan.persistent_bytes = *kept.get_or_insert(plan.persistent_bytes);
        part.plan = Some(plan);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_or_the_nearest_is_suggested() {
        assert_eq!(find(PASSES, "cse").unwrap().phase, Phase::Optimised);
        let error = find(PASSES, "canonicalise").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("did you mean canonicalize?"));
        assert!(find(PASSES, "zzzzzz").unwrap_err().help.unwrap().contains("specialize, inline"));
        assert_eq!(find_optional(PASSES, "lower").unwrap_err().code, "E0504");
        assert!(find_optional(PASSES, "fold").is_ok());
        // What cannot be left out is not offered.
        let help = |name: &str| find_optional(PASSES, name).unwrap_err().help.unwrap();
        assert_eq!(help("fuze"), "did you mean fuse?");
        assert!(help("zzzzzz").starts_with("the passes that can be left out are canonicalize, "));
        assert!(!help("loweer").contains("lower"), "{}", help("loweer"));
        assert_eq!(Phase::find("fused").unwrap(), Phase::Fused);
        let error = Phase::find("optimized").unwrap_err();
        assert_eq!((error.code, error.help.as_deref()), ("E0508", Some("did you mean optimised?")));
    }

    #[test]
    fn phases_and_levels_only_go_down_and_names_differ() {
        for pair in PASSES.windows(2) {
            assert!(pair[0].phase <= pair[1].phase, "{:?}", pair[1]);
            assert!(pair[0].level <= pair[1].level, "{:?}", pair[1]);
        }
        for (at, pass) in PASSES.iter().enumerate() {
            assert!(!PASSES[..at].iter().any(|other| other.name == pass.name), "{pass:?}");
        }
    }

    /// The table in the documentation is this one.
    #[test]
    fn the_documentation_shows_the_table() {
        let page = include_str!("../../docs/passes.md");
        let rows: Vec<String> = PASSES
            .iter()
            .map(|pass| {
                let (name, phase, doc) = (pass.name, pass.phase.name(), pass.doc);
                let off = if pass.optional { "yes" } else { "no" };
                format!("| `{name}` | {phase} | {off} | {doc} |")
            })
            .collect();
        let is_row = |line: &&str| line.contains(" | yes | ") || line.contains(" | no | ");
        let shown: Vec<&str> = page.lines().filter(is_row).collect();
        assert_eq!(shown, rows);
    }
}
