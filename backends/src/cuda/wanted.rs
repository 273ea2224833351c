//! Which weights the kernels of plans read, and in which form.

use super::emit::{self, Architecture};
use anyid_ir::TensorType;
use anyid_ir::plan::{Plan, Root};
use std::collections::{BTreeMap, BTreeSet};

/// The weights of plans by name, in every form in which their kernels read them: packed or not.
pub(super) fn wanted<'p>(
    plans: &[&'p Plan],
    architecture: Architecture,
) -> BTreeMap<(&'p str, bool), &'p TensorType> {
    let mut all = BTreeMap::new();
    for plan in plans {
        let (mut plain, mut packed) = (BTreeSet::new(), BTreeSet::new());
        for step in &plan.steps {
            let emitted = emit::step_with_packing(plan, step, architecture);
            for (at, id) in step.operands.iter().enumerate() {
                if let Root::Weight(weight) = plan.buffer(*id).root {
                    let packs = emitted.packed.contains(&at);
                    let uses = if packs { &mut packed } else { &mut plain };
                    uses.insert(weight as usize);
                }
            }
        }
        for (at, weight) in plan.weights.iter().enumerate() {
            // What no step reads may be an output.
            let packs = packed.contains(&at);
            let forms = [(false, plain.contains(&at) || !packs), (true, packs)];
            let forms = forms.into_iter().filter(|(_, wanted)| *wanted);
            all.extend(forms.map(|(packs, _)| ((weight.name.as_str(), packs), &weight.ty)));
        }
    }
    all
}
