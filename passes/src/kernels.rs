//! The distinct kernels of plans: what a device would have to compile.
//!
//! Two launches run the same kernel where op, attributes, code, shapes and element types are equal;
//! names of values and places in memory do not count. The hash depends on these alone, so that a
//! change of the compiler that leaves the list of hashes as it was leaves the kernels as they were.

use crate::cost::{Cost, step_cost};
use anyid_ir::TensorType;
use anyid_ir::kernel::text;
use anyid_ir::plan::Plan;
use std::collections::BTreeMap;

/// A kernel with its uses.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelUse {
    /// Name of the kernel.
    pub name: String,
    /// Types of the operands.
    pub operands: Vec<String>,
    /// Types of the results.
    pub results: Vec<String>,
    /// Its text.
    pub text: String,
    /// 64 bits that equal kernels share.
    pub hash: u64,
    /// Where it is launched: plan and step.
    pub launches: Vec<[usize; 2]>,
    /// Operations and bytes of one launch.
    pub cost: Cost,
    /// Label of the first launch.
    pub first: String,
}

/// The kernels of `plans` in order of their first launch.
pub fn kernels(plans: &[Plan]) -> Vec<KernelUse> {
    let mut found: Vec<KernelUse> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (number, plan) in plans.iter().enumerate() {
        for (position, step) in plan.steps.iter().enumerate() {
            let [operands, results] = [step.reads(), step.results()].map(|ids| plan.types(ids));
            let text = text::print(&step.kernel);
            let [from, to] = [&operands, &results].map(|t| TensorType::list(t.iter().copied()));
            let key = format!("{text}{from}\n{to}\n");
            let names = |types: &[&TensorType]| types.iter().map(|ty| ty.to_string()).collect();
            let at = *known.entry(key).or_insert_with_key(|key| {
                found.push(KernelUse {
                    name: step.kind().to_owned(),
                    operands: names(&operands),
                    results: names(&results),
                    text,
                    hash: hash(key.as_bytes()),
                    launches: Vec::new(),
                    cost: step_cost(plan, step),
                    first: step.label().to_owned(),
                });
                found.len() - 1
            });
            found[at].launches.push([number, position]);
        }
    }
    found
}

/// FNV-1a of 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompileRequest, Options};
    use anyid_ir::{DType, FuncBuilder, Module, Op};

    #[test]
    fn equal_launches_are_one_kernel() {
        let mut module = Module::default();
        let mut f = FuncBuilder::new(&module, "f");
        let x = f.param("x", TensorType::new(DType::F32, [4, 8]));
        let a = f.op("a", Op::Silu, &[x], None);
        let b = f.op("b", Op::Silu, &[a], None);
        let c = f.pad("c", b, 0, 1, 0);
        let d = f.pad("d", c, 0, 1, 0);
        let e = f.pad("e", d, 0, 0, 1);
        let func = f.finish(&[e]);
        module.add(func);
        let options = Options::traceable();
        let plan = CompileRequest::new(&module, "f").with(&options).plan().unwrap();
        let found = kernels(&[plan.clone(), plan]);
        let shown: Vec<(&str, usize)> =
            found.iter().map(|k| (k.name.as_str(), k.launches.len())).collect();
        assert_eq!(shown, [("silu", 4), ("pad", 2), ("pad", 2), ("pad", 2)]);
        let hashes: std::collections::BTreeSet<u64> = found.iter().map(|k| k.hash).collect();
        assert_eq!(hashes.len(), found.len());
        assert_eq!(found[0].first, "f/a");
        assert_eq!(found[0].launches, [[0, 0], [0, 1], [1, 0], [1, 1]]);
        assert_eq!(found[0].cost.bytes, 2 * 4 * 8 * 4);
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
