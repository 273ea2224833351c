//! The order of kernels: program order, or one with less alive at once.
//!
//! The other order is found greedily: of the kernels that could be next, the one after which most
//! memory is free, the earliest in program order among equals. The caller compares the peaks and
//! keeps the better. Program order is a good one for networks, which are nearly chains; branches
//! written down one after the other and joined at the end are where the greedy order wins.

use crate::lower::Lowered;
use crate::memory::{ALIGNMENT, homes};
use crate::program::{Origin, ValueIndex};
use std::collections::BTreeSet;

/// Most kernels that are ordered anew.
const MOST_STEPS: usize = 1 << 13;

/// Positions of the kernels in the greedy order; `None` for programs too long to try.
pub(crate) fn greedy(lowered: &Lowered<'_>) -> Option<Vec<usize>> {
    let (program, steps) = (lowered.program, &lowered.steps);
    if steps.len() > MOST_STEPS {
        return None;
    }
    let homes = homes(program);
    let owner = |value: &ValueIndex| homes[*value as usize].owner as usize;
    let count = program.values.len();
    let bytes = |value: usize| match program.values[value].origin {
        Origin::Step(_) => program.values[value].ty.bytes().next_multiple_of(ALIGNMENT) as i64,
        _ => 0,
    };
    let mut maker: Vec<Option<usize>> = vec![None; count];
    let mut readers: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); count];
    for (at, step) in steps.iter().enumerate() {
        step.results.iter().for_each(|v| maker[owner(v)] = Some(at));
        step.operands.iter().for_each(|v| {
            readers[owner(v)].insert(at);
        });
    }
    // Readers that are not placed yet; an output is read at the end.
    let mut left: Vec<usize> = readers.iter().map(BTreeSet::len).collect();
    program.outputs.iter().for_each(|(_, value)| left[owner(value)] += 1);
    let reads: Vec<BTreeSet<usize>> =
        steps.iter().map(|step| step.operands.iter().map(owner).collect()).collect();
    let writes: Vec<BTreeSet<usize>> =
        steps.iter().map(|step| step.results.iter().map(owner).collect()).collect();
    let mut waiting: Vec<usize> = reads
        .iter()
        .map(|values| {
            let makers: BTreeSet<usize> = values.iter().filter_map(|v| maker[*v]).collect();
            makers.len()
        })
        .collect();
    let mut after: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); steps.len()];
    for (at, values) in reads.iter().enumerate() {
        for made in values.iter().filter_map(|v| maker[*v]) {
            after[made].insert(at);
        }
    }
    let mut open: BTreeSet<usize> = (0..steps.len()).filter(|at| waiting[*at] == 0).collect();
    let mut order = Vec::with_capacity(steps.len());
    while !open.is_empty() {
        let growth = |at: usize| -> i64 {
            let made: i64 = writes[at].iter().map(|v| bytes(*v)).sum();
            let freed: i64 = reads[at].iter().filter(|v| left[**v] == 1).map(|v| bytes(*v)).sum();
            made - freed
        };
        let best = open.iter().copied().min_by_key(|at| (growth(*at), *at))?;
        open.remove(&best);
        order.push(best);
        reads[best].iter().for_each(|v| left[*v] -= 1);
        for next in &after[best] {
            waiting[*next] -= 1;
            if waiting[*next] == 0 {
                open.insert(*next);
            }
        }
    }
    Some(order)
}

#[cfg(test)]
mod tests {
    use crate::{Options, compile_with};
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
        let ordered = compile_with(&branches(), "f", &options).unwrap();
        let plain = compile_with(&branches(), "f", &options.clone().off("schedule")).unwrap();
        assert_eq!(ordered.steps.len(), plain.steps.len());
        assert!(plain.lower_bound_bytes >= 4 * 64 * 64 * 4);
        assert!(ordered.lower_bound_bytes < plain.lower_bound_bytes / 2);
        assert_eq!(anyid_ir::plan_verify::verify_plan(&ordered), []);
    }
}
