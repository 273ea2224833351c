//! A plan as columns of numbers: launches, buffers, and pieces of memory with their lifetimes.

use super::names::Names;
use anyid_ir::Entity;
use anyid_ir::plan::{Plan, Root};
use anyid_ir::plan_live::lifetimes;
use anyid_passes::report::{PhaseSummary, label};
use serde_json::{Value, json};

/// The plan whose step `s` launches kernel `kernels[s]`.
pub fn data(plan: &Plan, kernels: &[usize], names: &mut Names) -> Value {
    let summary = PhaseSummary::of(plan);
    let ports = |list: &[anyid_ir::plan::Port]| -> u64 {
        list.iter().map(|port| plan.buffer(port.buffer).ty.bytes()).sum()
    };
    json!({
        "name": plan.name,
        "alignment": plan.alignment.bytes(),
        "workspace": plan.workspace_bytes,
        "bound": plan.lower_bound_bytes,
        "naive": plan.naive_bytes,
        "persistent": plan.persistent_bytes,
        "states": plan.state_bytes(),
        "weights": plan.weight_bytes(),
        "inputs": ports(&plan.inputs),
        "outputs": ports(&plan.outputs),
        "peak": summary.peak.map(|peak| peak.step),
        "flops": summary.flops,
        "moved": summary.bytes_moved,
        "steps": steps(plan, kernels, names),
        "buffers": buffers(plan, names),
        "pieces": pieces(plan, names),
    })
}

fn steps(plan: &Plan, kernels: &[usize], names: &mut Names) -> Value {
    let ids = |ids: &[anyid_ir::plan::BufferId]| -> Vec<usize> {
        ids.iter().map(|id| id.index()).collect()
    };
    let labels: Vec<Vec<usize>> = plan
        .steps
        .iter()
        .map(|step| step.labels.iter().map(|label| names.label(label)).collect())
        .collect();
    json!({
        "kernel": kernels,
        "labels": labels,
        "reads": plan.steps.iter().map(|step| ids(step.reads())).collect::<Vec<_>>(),
        "writes": plan.steps.iter().map(|step| ids(step.results())).collect::<Vec<_>>(),
    })
}

/// Every buffer: the memory it lies in, where in it, its type, and a name for people.
fn buffers(plan: &Plan, names: &mut Names) -> Value {
    let called = named(plan);
    let mut columns = Vec::new();
    let (mut root, mut index, mut offset) = (Vec::new(), Vec::new(), Vec::new());
    let (mut types, mut label): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for (at, (id, buffer)) in plan.buffers.iter().enumerate() {
        let (kind, number) = place(buffer.root);
        root.push(kind);
        index.push(number);
        offset.push(buffer.offset);
        types.push(names.label(&buffer.ty.to_string()));
        label.push(names.label(&called[id.index()]));
        if let Some(own) = buffer.columns {
            columns.push([at as u64, own.first, own.width, own.stride]);
        }
    }
    json!({
        "root": root, "index": index, "offset": offset, "type": types, "label": label,
        "columns": columns,
    })
}

/// The number of a kind of memory, as the page's code lists them, and which of that kind it is.
fn place(root: Root) -> (u32, u32) {
    match root {
        Root::Workspace => (0, 0),
        Root::Persistent => (1, 0),
        Root::Input(at) => (2, at),
        Root::Weight(at) => (3, at),
        Root::State(at) => (4, at),
        Root::Output(at) => (5, at),
    }
}

/// What each buffer is called: after the value that a step writes to it, or else after what it lies
/// in; `from` stands in front of the name of a part or a view of something.
fn named(plan: &Plan) -> Vec<String> {
    let mut out = vec![None; plan.buffers.len()];
    for step in &plan.steps {
        for (id, label) in step.results().iter().zip(&step.labels) {
            out[id.index()] = Some(label.clone());
        }
    }
    for (id, buffer) in plan.buffers.iter() {
        let called = &mut out[id.index()];
        if called.is_some() {
            continue;
        }
        let own = |name: &str| match (buffer.offset, buffer.columns) {
            (0, None) => name.to_owned(),
            _ => format!("from {name}"),
        };
        *called = match buffer.root {
            Root::Weight(at) => plan.weights.get(at as usize).map(|weight| own(&weight.name)),
            Root::Input(at) => plan.inputs.get(at as usize).map(|port| own(&port.title())),
            Root::Output(at) => plan.outputs.get(at as usize).map(|port| own(&port.title())),
            Root::State(at) => plan.states.get(at as usize).map(|state| own(&state.name)),
            Root::Persistent => {
                let kept = plan.kept.iter().find(|port| port.buffer == id);
                kept.map(|port| port.title().into_owned())
            }
            Root::Workspace => None,
        };
    }
    out.into_iter().map(Option::unwrap_or_default).collect()
}

/// Every piece of workspace, from the launch that writes it to the last that reads it.
fn pieces(plan: &Plan, names: &mut Names) -> Value {
    let (lives, _) = lifetimes(plan);
    let column = |of: &dyn Fn(&anyid_ir::plan_live::Lifetime) -> u64| -> Vec<u64> {
        lives.iter().map(of).collect()
    };
    let labels: Vec<usize> = lives.iter().map(|life| names.label(&label(plan, life))).collect();
    json!({
        "buffer": column(&|life| life.buffer.index() as u64),
        "offset": column(&|life| life.offset),
        "bytes": column(&|life| life.bytes),
        "from": column(&|life| life.from as u64),
        "to": column(&|life| life.to as u64),
        "label": labels,
    })
}
