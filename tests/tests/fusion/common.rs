//! Compiling and running small modules with made-up weights and inputs.

use anyid_backends::{Fault, StoredWeight, WeightProvider};
use anyid_ir::kernel::Target;
use anyid_ir::plan::{BufferId, Plan};
use anyid_ir::{DType, Module, TensorType};
use anyid_passes::Options;
use anyid_tests::devices;
use anyid_tests::plans::Plans;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Weights made from their names.
struct Invented(BTreeMap<String, TensorType>);

impl Invented {
    fn of(plans: &[&Plan]) -> Arc<Self> {
        let weights = plans.iter().flat_map(|plan| &plan.weights);
        Arc::new(Self(weights.map(|w| (w.name.clone(), w.ty.clone())).collect()))
    }
}

impl WeightProvider for Invented {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        self.0.get(name).map(|ty| StoredWeight { dtype: ty.dtype, bytes: ty.bytes() })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        let ty = &self.0[name];
        let seed = name.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let fan = (ty.elements() / ty.shape.first().copied().unwrap_or(1).max(1)).max(4);
        let data = noise(seed, ty, 1.5 / (fan as f32).sqrt());
        out.copy_from_slice(&data[from as usize..][..out.len()]);
        Ok(())
    }
}

/// Deterministic elements of `ty`; integers are 0 or 1.
pub fn noise(seed: u32, ty: &TensorType, size: f32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut out = Vec::new();
    for _ in 0..ty.elements() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * size;
        match ty.dtype {
            DType::I32 => out.extend(i32::from(state >> 31 == 0).to_le_bytes()),
            DType::Bf16 => out.extend(((value.to_bits() >> 16) as u16).to_le_bytes()),
            _ => out.extend(value.to_le_bytes()),
        }
    }
    out
}

fn inputs(plan: &Plan) -> Vec<Vec<u8>> {
    let ports = plan.inputs.iter();
    ports
        .map(|port| {
            let seed = port.name.bytes().fold(1u32, |h, b| h * 33 + u32::from(b) % 33);
            noise(seed, &plan.buffer(port.buffer).ty, 1.0)
        })
        .collect()
}

fn outputs(plan: &Plan) -> Vec<Vec<u8>> {
    let ports = plan.outputs.iter();
    ports.map(|p| vec![0; plan.buffer(p.buffer).ty.bytes() as usize]).collect()
}

/// Runs plans one after the other, which share what they keep; the outputs of the last. The workspace
/// starts full of NaN.
pub fn run(plans: &[&Plan], threads: usize) -> Vec<(TensorType, Vec<u8>)> {
    let device = devices::first(threads);
    let mut running = Plans::new(&device, plans, Invented::of(plans), 0xff).unwrap();
    let mut last = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        let given = inputs(plan);
        let given: Vec<&[u8]> = given.iter().map(Vec::as_slice).collect();
        let mut results = outputs(plan);
        let mut taken: Vec<&mut [u8]> = results.iter_mut().map(Vec::as_mut_slice).collect();
        running.run_bytes(at, &given, &mut taken).unwrap();
        let ports = plan.outputs.iter();
        last = ports.map(|p| plan.buffer(p.buffer).ty.clone()).zip(results).collect();
    }
    last
}

pub fn values((ty, bytes): &(TensorType, Vec<u8>)) -> Vec<f32> {
    match ty.dtype {
        DType::Bf16 => bytes
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect(),
        DType::Bool => bytes.iter().map(|b| f32::from(*b)).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// Largest difference of two runs relative to the largest value; infinite for a NaN in one alone.
pub fn difference(a: &[(TensorType, Vec<u8>)], b: &[(TensorType, Vec<u8>)]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut worst = 0.0_f32;
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.0, b.0);
        let (a, b) = (values(a), values(b));
        let size = a.iter().fold(1e-20_f32, |m, x| m.max(x.abs()));
        for (x, y) in a.iter().zip(&b) {
            if x.is_nan() != y.is_nan() {
                return f32::INFINITY;
            }
            if !x.is_nan() {
                worst = worst.max((x - y).abs() / size);
            }
        }
    }
    worst
}

pub fn plan(module: &Module, func: &str, options: &Options) -> Plan {
    let found = anyid_ir::verify::verify(module);
    assert!(found.is_empty(), "{found:?}");
    anyid_passes::CompileRequest::new(module, func).with(options).plan().unwrap()
}

pub fn kinds(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|s| s.kind()).collect()
}

/// Whether any step writes over an operand.
pub fn in_place(plan: &Plan) -> usize {
    let place = |id: &BufferId| (plan.buffer(*id).root, plan.buffer(*id).offset);
    let over = |step: &&anyid_ir::plan::Step| {
        step.results.iter().any(|r| step.operands.iter().any(|o| place(o) == place(r)))
    };
    plan.steps.iter().filter(over).count()
}

/// Compiles `func` fused and not, in place and not, runs all on one and two threads, and checks
/// that results agree within `tolerance` (0 for the same bits). The fused plan.
pub fn check(module: &Module, func: &str, tolerance: f32) -> Plan {
    check_for(Target::default(), module, func, tolerance)
}

/// [`check`] with the kernels of `target`.
pub fn check_for(target: Target, module: &Module, func: &str, tolerance: f32) -> Plan {
    let options = Options { target, ..Options::default() };
    let fused = plan(module, func, &options);
    let unfused = plan(module, func, &Options::unfused());
    let apart = plan(module, func, &options.off("alias"));
    assert!(fused.workspace_bytes >= fused.lower_bound_bytes);
    assert!(fused.steps.len() <= unfused.steps.len());
    let want = run(&[&unfused], 1);
    let got = run(&[&fused], 1);
    let worst = difference(&want, &got);
    assert!(worst <= tolerance, "{:?}: {worst:e} > {tolerance:e}", kinds(&fused));
    assert_eq!(got, run(&[&fused], 3), "another number of threads: {:?}", kinds(&fused));
    assert_eq!(got, run(&[&apart], 2), "not in place: {:?}", kinds(&fused));
    fused
}
