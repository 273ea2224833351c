//! The order of kernels: program order, or one with less alive at once.
//!
//! The other order is found greedily: of the kernels that could be next, the one after which most
//! memory is free, the earliest in program order among equals. The caller compares the peaks and
//! keeps the better. Program order is a good one for networks, which are nearly chains; branches
//! written down one after the other and joined at the end are where the greedy order wins.

use crate::memory::flow::{Flow, Source};
use crate::memory::order::constraints;
use crate::program::ValueIndex;
use std::collections::BTreeSet;

/// Positions of the kernels in the greedy order.
pub(crate) fn greedy(flow: &Flow) -> Vec<usize> {
    let steps = &flow.steps;
    let owner = |value: &ValueIndex| flow.storage(*value).owner as usize;
    let bytes = |value: usize| match flow.values[value].source {
        Source::Launch => flow.alignment.round_up(flow.values[value].ty.bytes()) as i64,
        _ => 0,
    };
    let mut readers = flow.readers();
    let kept: Vec<bool> = readers.iter().map(|r| r.last() == Some(&steps.len())).collect();
    for readers in &mut readers {
        readers.dedup();
        readers.retain(|at| *at < steps.len());
    }
    // Readers that are not placed yet, and the sum of their positions: of one that is its own.
    let mut left: Vec<usize> = readers.iter().map(Vec::len).collect();
    let mut which: Vec<usize> = readers.iter().map(|readers| readers.iter().sum()).collect();
    let distinct =
        |values: &[ValueIndex]| -> BTreeSet<usize> { values.iter().map(owner).collect() };
    let reads: Vec<BTreeSet<usize>> = steps.iter().map(|step| distinct(&step.operands)).collect();
    // What is in use more, or less, after each.
    let mut growth: Vec<i64> = steps
        .iter()
        .zip(&reads)
        .map(|(step, reads)| {
            let made: i64 = distinct(&step.results).into_iter().map(bytes).sum();
            let freed = reads.iter().filter(|v| left[**v] == 1 && !kept[**v]);
            made - freed.map(|v| bytes(*v)).sum::<i64>()
        })
        .collect();
    let before = constraints(flow);
    let mut waiting: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    for (at, others) in before.iter().enumerate() {
        others.iter().for_each(|other| after[*other].push(at));
    }
    let mut open: BTreeSet<(i64, usize)> =
        (0..steps.len()).filter(|at| waiting[*at] == 0).map(|at| (growth[at], at)).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some((_, best)) = open.pop_first() {
        order.push(best);
        for value in &reads[best] {
            left[*value] -= 1;
            which[*value] -= best;
            // The last reader frees it.
            if left[*value] == 1 && !kept[*value] {
                let last = which[*value];
                let was_open = open.remove(&(growth[last], last));
                growth[last] -= bytes(*value);
                if was_open {
                    open.insert((growth[last], last));
                }
            }
        }
        for next in &after[best] {
            waiting[*next] -= 1;
            if waiting[*next] == 0 {
                open.insert((growth[*next], *next));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use crate::{CompileRequest, Options};
    use anyid_ir::{DType, FuncBuilder, Module, TensorType};

    /// Branches that widen, written one after the other before each is reduced again.
    fn branches() -> Module {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "f");
        let x = f.param("x", TensorType::new(DType::F32, [1, 64]));
        let tall: Vec<_> = (0..4)
            .map(|i| {
                let c = f.param(&format!("c{i}"), TensorType::new(DType::F32, [64, 1]));
                f.mul("tall", x, c)
            })
            .collect();
        let small: Vec<_> = tall
            .iter()
            .map(|v| f.reduce("small", anyid_ir::ReduceFn::Sum, *v, &[0], true))
            .collect();
        let y = f.concat("y", &small, 0);
        let func = f.finish(&[y]);
        module.add(func);
        module
    }

    #[test]
    fn the_order_with_less_alive_is_kept() {
        let options = Options::unfused();
        let module = branches();
        let plan = |options| CompileRequest::new(&module, "f").with(options).plan().unwrap();
        let ordered = plan(&options);
        let plain = plan(&options.clone().off("schedule"));
        assert_eq!(ordered.steps.len(), plain.steps.len());
        assert!(plain.lower_bound_bytes >= 4 * 64 * 64 * 4);
        assert!(ordered.lower_bound_bytes < plain.lower_bound_bytes / 2);
        assert_eq!(anyid_ir::plan_verify::verify_plan(&ordered), []);
    }
}
