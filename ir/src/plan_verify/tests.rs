//! What no text of a plan holds is refused too; what texts hold is in `forged`.

mod forged;

use super::*;
use crate::DType;
use crate::entity::Entity;
use crate::kernel::CopyKernel;
use crate::plan::{Port, WeightRef};

fn plan() -> Plan {
    let ty = TensorType::new(DType::F32, [4]);
    let mut plan = Plan {
        name: "p".into(),
        workspace_bytes: 64,
        lower_bound_bytes: 64,
        naive_bytes: 64,
        ..Plan::default()
    };
    let x = plan.buffers.push(Buffer::dense(ty.clone(), Root::Input(0), 0));
    let y = plan.buffers.push(Buffer::dense(ty, Root::Workspace, 0));
    plan.inputs.push(Port { name: "x".into(), branch: 0, buffer: x });
    plan.outputs.push(Port { name: "y".into(), branch: 0, buffer: y });
    plan.steps.push(Step {
        kernel: Kernel::Copy(CopyKernel::whole("copy", 4)),
        operands: smallvec::smallvec![x],
        results: smallvec::smallvec![y],
        labels: vec!["y".into()],
    });
    plan
}

#[test]
fn what_no_text_holds_is_refused_too() {
    assert_eq!(verify_plan(&plan()), []);
    let unknown = BufferId::from_index(9);
    let absurd = TensorType::new(DType::F64, [1 << 40, 1 << 40]);
    let large = TensorType::new(DType::F64, [1 << 47]);
    let weights = vec![WeightRef { name: "w".into(), ty: large }; 64];
    type Change<'c> = &'c dyn Fn(&mut Plan);
    let cases: [(&str, Change<'_>); 8] = [
        ("there is no buffer %9", &|p| p.steps[0].operands[0] = unknown),
        ("there is no buffer %9", &|p| p.steps[0].results[0] = unknown),
        ("there is no buffer %9", &|p| p.outputs[0].buffer = unknown),
        ("too large", &|p| p.buffers[BufferId::from_index(1)].ty = absurd.clone()),
        ("too large", &|p| p.weights = vec![WeightRef { name: "w".into(), ty: absurd.clone() }]),
        ("bytes are too many", &|p| p.weights = weights.clone()),
        ("0 labels for 1 results", &|p| p.steps[0].labels.clear()),
        ("0 results of a copy", &|p| p.steps[0].results.clear()),
    ];
    for (words, change) in cases {
        let mut plan = plan();
        change(&mut plan);
        let found = verify_plan(&plan);
        assert!(found.iter().any(|f| f.message.contains(words)), "{words}: {found:?}");
    }
}
