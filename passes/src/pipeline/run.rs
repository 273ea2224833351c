//! What the passes of the table run: each brings the parts of a compilation on, as far as the counter of
//! rewrites allows.

use super::Done;
use crate::fuse::{Groups, alone, classify::classify, explain};
use crate::memory::flow::Flow;
use crate::program::Program;
use crate::rewrite::Rewrites;
use crate::state::{Compilation, Context, Part};
use crate::{
    Asked, CompileError, Options, columns, decompose, flatten, grad, join_branches, lora, memory,
    remat, schedule, split, split_rows,
};
use std::collections::HashSet;

pub(super) fn specialize(state: &mut Compilation<'_>, _: &mut Context<'_>) -> Done {
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

pub(super) fn inline(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let mut program = flatten::flatten(&state.module, &state.func)?;
    context.request.declare(&mut program)?;
    state.parts = vec![Part { name: state.func.clone(), program, ..Part::default() }];
    Ok(())
}

/// Runs `pass` over every program, where it may do anything.
pub(super) fn each(
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

pub(super) fn inject_lora(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let targets = &context.request.lora;
    let ([whole], false) = (state.parts.as_mut_slice(), targets.is_empty()) else { return Ok(()) };
    whole.program = lora::inject(&whole.program, targets)?;
    named_once(&whole.program, "E0523", Asked::Lora)
}

pub(super) fn run_lift(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let patterns = &context.request.lifted;
    let ([whole], false) = (state.parts.as_mut_slice(), patterns.is_empty()) else { return Ok(()) };
    whole.program = grad::lift(&whole.program, patterns)?;
    named_once(&whole.program, "E0521", Asked::Lifted)
}

pub(super) fn run_grad(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let ([whole], Some(wish)) = (state.parts.as_mut_slice(), &context.request.gradient) else {
        return Ok(());
    };
    whole.program = grad::grad(std::mem::take(&mut whole.program), wish)?;
    named_once(&whole.program, "E0521", Asked::Gradient)
}

pub(super) fn run_remat(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let keeping = context.request.keeping;
    each(state, context, |program, rewrites| remat::remat(program, keeping, rewrites))
}

pub(super) fn join_branches(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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
pub(super) fn hoist(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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

pub(super) fn run_decompose(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let split = state.is_split();
    for (at, part) in state.parts.iter_mut().enumerate() {
        if split && at == 0 {
            part.program = decompose::with_copied_outputs(&part.program);
        }
        part.program = decompose::decompose(&part.program, &context.options().target)?;
    }
    Ok(())
}

pub(super) fn fuse(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    grow(state, context, |groups, rewrites| groups.fuse(rewrites))
}

pub(super) fn pack_linears(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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

pub(super) fn run_lower(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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

pub(super) fn run_schedule(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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

pub(super) fn run_split_rows(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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

pub(super) fn run_share_columns(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    let in_place = context.options().runs("alias");
    let target = &context.options().target;
    each_flow(state, context, |flow, persistent, rewrites| {
        let peak = |flow: &Flow| peak(flow, persistent, in_place);
        columns::share_columns(flow, target, &peak, rewrites);
    })
}

pub(super) fn alias(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
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

pub(super) fn pack(state: &mut Compilation<'_>, context: &mut Context<'_>) -> Done {
    for part in &mut state.parts {
        let reuse = context.rewrites.allow("memory used again", &part.name);
        let shared = part.shared.as_ref().expect("alias decides");
        part.placement = Some(memory::place(shared, reuse));
    }
    Ok(())
}

pub(super) fn assemble(state: &mut Compilation<'_>, _: &mut Context<'_>) -> Done {
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
