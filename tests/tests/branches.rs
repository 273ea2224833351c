//! Both branches of guidance in one plan: few products read weights then, and each branch keeps its
//! bits.

use anyid_ir::kernel::Anchor;
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Kernel, Module, Tensor, TensorType};
use anyid_models::wan::Precision;
use anyid_models::wan::dit::{self, DitSize};
use anyid_passes::pipeline::PASSES;
use anyid_passes::{CompileRequest, Options};
use anyid_runtime::Model;
use anyid_runtime::engine::{Compiler, Inputs, Outputs};
use anyid_tests::devices;
use anyid_tests::op_cases::noise;

const SIZE: DitSize =
    DitSize { reference_frames: 1, frames: 2, height: 4, width: 4, text_tokens: 12, timesteps: 2 };

struct Given {
    lat: Tensor,
    t: Tensor,
    seg: Tensor,
    txt: [Tensor; 2],
    references: [Tensor; 2],
}

fn given(model: &Model) -> Given {
    let channels = model.dit.in_channels;
    let f32 = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
    let tokens = SIZE.tokens(&model.dit);
    let target = SIZE.frames * SIZE.tokens_per_frame(&model.dit);
    let segments: Vec<u8> =
        (0..tokens).flat_map(|i| i32::from(i >= tokens - target).to_le_bytes()).collect();
    let text = f32(&[SIZE.text_tokens, model.dit.text_dim]);
    let reference = f32(&[channels, SIZE.reference_frames, SIZE.height, SIZE.width]);
    Given {
        lat: noise(f32(&[channels, SIZE.frames, SIZE.height, SIZE.width]), 1),
        t: Tensor::from_f32([2], &[0.0, 700.0]).unwrap(),
        seg: Tensor::from_bytes(TensorType::new(DType::I32, [tokens]), &segments).unwrap(),
        txt: [noise(text.clone(), 2), noise(text, 3)],
        references: [noise(reference.clone(), 4), noise(reference, 5)],
    }
}

/// Velocities of both branches, and how many runs of `step` that took.
fn velocities(
    model: &Model,
    precision: Precision,
    options: Options,
    own: &[&str],
) -> ([Tensor; 2], usize) {
    let backend = devices::first_backend(2);
    let module = dit::dit(&model.dit, &SIZE, precision);
    let compiler = Compiler::new(&backend).with(options).add("step", request(&module, own));
    let mut program = compiler.unwrap().load(model.dit_weights.clone(), &mut |_, _| true).unwrap();
    let given = given(model);
    let per_step = [("lat", &given.lat), ("t", &given.t)];
    let mut run = |own: [usize; 2]| -> Outputs {
        let mut inputs = Inputs::new().set("seg", &given.seg);
        for (branch, own) in (0..).zip(own) {
            inputs = inputs.set_branch(branch, "txt", &given.txt[own]);
            inputs = inputs.set_branch(branch, "ref", &given.references[own]);
        }
        let mut prepared = program.prepare(&inputs).unwrap();
        let mut outputs = program.outputs("step").unwrap();
        program.step(&mut prepared, &Inputs::new().all(per_step), &mut outputs).unwrap();
        outputs
    };
    let both = run([0, 1]);
    let first = both.get("v").unwrap().clone();
    match both.get_branch(1, "v") {
        Ok(second) => ([first, second.clone()], 1),
        Err(_) => ([first, run([1, 1]).take("v").unwrap()], 2),
    }
}

/// Inputs that belong to a branch.
const OWN: [&str; 2] = ["txt", "ref"];

fn request<'m>(module: &'m Module, own: &[&str]) -> CompileRequest<'m> {
    let request = CompileRequest::new(module, "dit").varying(["lat", "t"]);
    request.branches(own.iter().copied())
}

#[test]
fn both_at_once_give_the_bits_of_one_after_the_other() {
    let model = Model::micro().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let (apart, runs) = velocities(&model, precision, Options::default(), &[]);
        assert_eq!(runs, 2);
        assert!(apart[0] != apart[1]);
        let (both, runs) = velocities(&model, precision, Options::default(), &OWN);
        assert_eq!(runs, 1);
        assert!(both == apart, "{precision:?}");
        for pass in PASSES.iter().filter(|pass| pass.optional) {
            let options = Options::default().off(pass.name);
            let (apart, _) = velocities(&model, precision, options.clone(), &[]);
            let (both, runs) = velocities(&model, precision, options, &OWN);
            assert_eq!(runs, if pass.name == "join-branches" { 2 } else { 1 });
            assert!(both == apart, "{precision:?} without {}", pass.name);
        }
    }
}

/// Products with weights in a plan.
fn products(plan: &Plan) -> usize {
    let parts = |kernel: &Kernel| match kernel {
        Kernel::Anchor(anchor) if anchor.anchor == Anchor::Linear => anchor.parts,
        _ => 0,
    };
    plan.steps.iter().map(|step| parts(&step.kernel)).sum()
}

fn steps(size: &DitSize) -> [Plan; 2] {
    let model = Model::micro().unwrap();
    let module = dit::dit(&model.dit, size, Precision::Bf16);
    [&[][..], &OWN].map(|own| {
        let [_, step] = request(&module, own).split().unwrap();
        step
    })
}

#[test]
fn few_tokens_share_every_product_and_many_none() {
    let [one, both] = steps(&SIZE);
    assert_eq!(products(&one), products(&both));
    let outputs = |plan: &Plan| -> Vec<String> {
        plan.outputs.iter().map(|port| port.title().into_owned()).collect()
    };
    assert_eq!(outputs(&both), ["v", "v.1"]);
    // Two runs then need less memory and as much time.
    let [one, both] = steps(&DitSize { height: 32, width: 32, ..SIZE });
    assert_eq!(outputs(&both), ["v"]);
    assert!(one == both);
}

#[test]
fn inputs_that_cannot_be_doubled_are_refused() {
    let model = Model::micro().unwrap();
    let module = dit::dit(&model.dit, &SIZE, Precision::F32);
    let error = request(&module, &["text"]).split().unwrap_err();
    assert_eq!(error.code, "E0503");
    assert!(error.message.contains("%text"), "{error}");
}
