//! What a target says changes plans, and nothing else does: each limit by itself on small functions,
//! and three targets on the transformer at its real size.

use anyid_ir::kernel::{
    Activation, EpilogueSupport, Kernel, KernelLimits, NATIVE, RowFusion, RowSplit, Sizes, Target,
};
use anyid_ir::plan::{Alignment, Plan, Root};
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::phases::verify_phases;
use anyid_ir::{DType, FuncBuilder, Module, Op, TensorType, ValueId};
use anyid_models::wan::Precision;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_passes::cost::{plan_cost, step_seconds};
use anyid_passes::{CompileError, CompileRequest, Options};
use anyid_runtime::engine::{Compiler, PlanFile};
use anyid_tests::devices;
use anyid_tests::plans::Stored;

fn ty(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// Function `f` with weights of f32.
fn module(
    weights: &[(&str, &[usize])],
    build: impl FnOnce(&mut FuncBuilder<'_>) -> Vec<ValueId>,
) -> Module {
    let mut module = Module { name: "m".into(), ..Module::default() };
    for (name, shape) in weights {
        module.weights.add(name, ty(shape)).unwrap();
    }
    let mut f = FuncBuilder::new(&module, "f");
    let results = build(&mut f);
    let func = f.finish(&results);
    module.add(func);
    module
}

fn request<'m>(module: &'m Module, target: &Target) -> CompileRequest<'m> {
    let options = Options { target: target.clone(), verify_each: true, ..Options::default() };
    CompileRequest::new(module, "f").with(&options)
}

fn plan(module: &Module, target: &Target) -> Result<Plan, CompileError> {
    request(module, target).plan()
}

/// Names of the kernels of `module` for `target`.
fn kinds(module: &Module, target: &Target) -> Vec<String> {
    let plan = plan(module, target).unwrap();
    plan.steps.iter().map(|step| step.kind().to_owned()).collect()
}

/// Why the kernels for `target` were not joined.
fn reasons(module: &Module, target: &Target) -> Vec<String> {
    let edges = request(module, target).unfused().unwrap();
    edges.into_iter().map(|edge| edge.reason).collect()
}

/// `act(x · wᵀ)` over `x` of `rows` rows.
fn linear(depth: usize, width: usize, act: Op) -> Module {
    module(&[("w", &[width, depth])], |f| {
        let (x, w) = (f.param("x", ty(&[6, depth])), f.weight("w"));
        let y = f.op("y", Op::Linear, &[x, w], None);
        vec![f.op("z", act, &[y], None)]
    })
}

#[test]
fn heads_of_another_width_are_taken_apart() {
    let target = Target { head_widths: Sizes { multiple: 8, most: 64 }, ..Target::default() };
    for (heads, width, whole) in [(2, 64, true), (3, 8, true), (1, 128, false), (2, 12, false)] {
        let attention = module(&[], |f| {
            let qkv = ["q", "k", "v"].map(|name| f.param(name, ty(&[5, heads * width])));
            vec![f.op("y", Op::Attention { heads, scale: 0.5, lse: false, last: 1 }, &qkv, None)]
        });
        let found = kinds(&attention, &target);
        assert_eq!(found == ["attention"], whole, "{heads} of {width}: {found:?}");
        assert_eq!(found.iter().filter(|kind| *kind == "dot").count(), 2 * usize::from(!whole));
        assert_eq!(kinds(&attention, &Target::default()), ["attention"]);
    }
}

#[test]
fn products_of_another_depth_or_width_are_taken_apart() {
    let linear_limits =
        KernelLimits { depth: Sizes::multiples(8), width: Sizes::multiples(4), stored: true };
    let target = Target { linear_limits, ..Target::default() };
    for (depth, width, whole) in [(16, 4, true), (12, 4, false), (16, 6, false)] {
        let found = kinds(&linear(depth, width, Op::Gelu), &target);
        assert_eq!(found == ["linear+gelu"], whole, "{depth} to {width}: {found:?}");
    }
    // A kernel that is given rather than stored cannot have been packed.
    let given = module(&[], |f| {
        let (x, w) = (f.param("x", ty(&[6, 16])), f.param("w", ty(&[4, 16])));
        vec![f.op("y", Op::Linear, &[x, w], None)]
    });
    assert_eq!(kinds(&given, &Target::default()), ["linear"]);
    assert!(!kinds(&given, &target).contains(&"linear".to_owned()));
    // Convolutions have limits of their own.
    let conv = module(&[("w", &[4, 6, 3, 3])], |f| {
        let (x, w) = (f.param("x", ty(&[1, 5, 5, 6])), f.weight("w"));
        vec![f.op("y", Op::Conv { stride: [1; 3], pad: [[0; 2]; 3] }, &[x, w], None)]
    });
    assert_eq!(kinds(&conv, &target), ["conv"]);
    let target = Target { conv_limits: linear_limits, ..Target::default() };
    assert!(!kinds(&conv, &target).contains(&"conv".to_owned()));
}

#[test]
fn activations_are_taken_by_name() {
    let linear_epilogue =
        EpilogueSupport { activations: &[Activation::Gelu], ..EpilogueSupport::FULL };
    let target = Target { linear: linear_epilogue, ..Target::default() };
    let (gelu, silu) = (linear(8, 8, Op::Gelu), linear(8, 8, Op::Silu));
    assert_eq!(kinds(&gelu, &target), ["linear+gelu"]);
    assert_eq!(kinds(&silu, &target), ["linear", "silu"]);
    assert_eq!(reasons(&silu, &target), ["the epilogue has no such activation"]);
    assert_eq!(kinds(&silu, &Target::default()), ["linear+silu"]);
    // A plan that was made for more is refused where it would be run.
    let fused = plan(&silu, &Target::default()).unwrap().steps.remove(0);
    let (x, w) = (ty(&[6, 8]), ty(&[8, 8]));
    let runs = |target: &Target| target.runs(&fused.kernel, &[&x, &w], &[false, true], &[&x]);
    assert_eq!(runs(&Target::default()), Ok(()));
    assert_eq!(runs(&target), Err("this activation behind it"));
}

#[test]
fn ops_that_a_target_does_not_name_are_taken_apart() {
    let few = NATIVE.iter().filter(|(name, _)| *name != "gelu").copied().collect::<Vec<_>>();
    let target = Target { native: few.leak(), ..Target::default() };
    let found = kinds(&linear(8, 8, Op::Gelu), &target);
    assert!(found.len() == 2 && found[0] == "linear" && found[1].contains("tanh"), "{found:?}");
}

/// Five norms in a row over rows of `width` elements, and a sum beside the first.
fn norms(width: usize) -> Module {
    module(&[], |f| {
        let x = f.param("x", ty(&[7, width]));
        let mut y = x;
        for at in 0..5 {
            y = f.op(&format!("n{at}"), Op::LayerNorm { eps: 1e-6 }, &[y], None);
        }
        let beside = f.op("beside", Op::Silu, &[x], None);
        vec![y, beside]
    })
}

#[test]
fn thresholds_of_fusion_are_the_targets() {
    let with = |row_fusion: RowFusion| Target { row_fusion, ..Target::default() };
    let (all, few) = (RowFusion::default(), RowFusion { most_steps: 2, ..RowFusion::default() });
    assert_eq!(kinds(&norms(64), &with(all)).len(), 1);
    assert_eq!(kinds(&norms(64), &with(few)).len(), 4);
    let why = reasons(&norms(64), &with(few));
    assert!(why.iter().all(|why| why == "together they have more than 2 steps"), "{why:?}");
    // Beside each other and not near: only what is tiny is joined.
    let apart = |tiny_bytes| with(RowFusion { tiny_bytes, near_steps: 1, ..all });
    assert_eq!(kinds(&norms(64), &apart(1 << 20)).len(), 1);
    assert_eq!(kinds(&norms(64), &apart(1024)).len(), 2);
    let near = with(RowFusion { tiny_bytes: 1024, near_steps: 5, ..all });
    assert_eq!(kinds(&norms(64), &near).len(), 1);
}

/// A feed-forward block, which is much wider inside than outside.
fn wide() -> Module {
    module(&[("up", &[2048, 64]), ("down", &[64, 2048])], |f| {
        let x = f.param("x", ty(&[8192, 64]));
        let (up, down) = (f.weight("up"), f.weight("down"));
        let h = f.op("h", Op::Linear, &[x, up], None);
        let g = f.op("g", Op::Gelu, &[h], None);
        vec![f.op("y", Op::Linear, &[g, down], None)]
    })
}

#[test]
fn rows_are_split_as_the_target_says() {
    let with = |row_split| Target { row_split, ..Target::default() };
    let rows = |row_split| -> Vec<usize> {
        let plan = plan(&wide(), &with(row_split)).unwrap();
        let of = |step: &anyid_ir::plan::Step| plan.buffer(step.operands[0]).ty.shape[0];
        plan.steps.iter().map(of).collect()
    };
    let policy = RowSplit::default();
    assert_eq!(rows(None), [8192; 2]);
    assert_eq!(rows(Some(policy)), [512; 32]);
    assert_eq!(rows(Some(RowSplit { least_rows: 4096, ..policy })), [4096; 4]);
    assert_eq!(rows(Some(RowSplit { least_rows: 8192, ..policy })), [8192; 2]);
    // 64 MiB are at the peak: no split gains so much, or such a share.
    assert_eq!(rows(Some(RowSplit { least_bytes: 64 << 20, ..policy })), [8192; 2]);
    assert_eq!(rows(Some(RowSplit { least_share: 1, ..policy })), [8192; 2]);
    assert_eq!(rows(Some(RowSplit { longest: 1, ..policy })), [8192; 2]);
    let steps = rows(Some(RowSplit { step: 3000, ..policy }));
    assert_eq!(steps, [3008, 3008, 3008, 3008, 2176, 2176], "3,000 begins at no aligned place");
}

/// Rows of a few bytes: begun at multiples of 64 of them, pieces would not be aligned.
#[test]
fn pieces_of_rows_begin_at_aligned_places() {
    let narrow = module(&[("up", &[4096, 1]), ("down", &[1, 4096])], |f| {
        let x = f.param("x", TensorType::new(DType::Bf16, [8192, 1]));
        let (up, down) = (f.weight("up"), f.weight("down"));
        let ty = Some(TensorType::new(DType::Bf16, []));
        let h = f.op("h", Op::Linear, &[x, up], ty.clone());
        let g = f.op("g", Op::Gelu, &[h], None);
        vec![f.op("y", Op::Linear, &[g, down], ty)]
    });
    for bytes in [64, 256, 4096] {
        let alignment = Alignment::new(bytes).unwrap();
        let policy = RowSplit { least_rows: 64, least_bytes: 1, ..RowSplit::default() };
        let target = Target { alignment, row_split: Some(policy), ..Target::default() };
        let plan = plan(&narrow, &target).unwrap();
        assert!(plan.steps.len() > 2, "{bytes}");
        aligned(&[plan], bytes);
    }
}

/// Whether what is written begins at multiples of `bytes`, by the plans and by their verifier.
fn aligned(plans: &[Plan], bytes: u64) {
    assert_eq!(verify_phases(plans), []);
    for plan in plans {
        assert_eq!(plan.alignment.bytes(), bytes);
        let results = plan.steps.iter().flat_map(|step| step.results());
        for buffer in results.map(|id| plan.buffer(*id)) {
            assert_eq!(buffer.offset % bytes, 0, "{}: {:?}", plan.name, buffer);
        }
        assert!(plan.state_layout().0.iter().all(|offset| offset % bytes == 0));
    }
    let text = print_plans(plans);
    assert!(text.contains(&format!("memory alignment={bytes} workspace=")));
    assert_eq!(parse_plans(&text).unwrap(), plans);
}

/// The built-in transformer in bf16, with a reference and two frames.
fn micro() -> Module {
    let size = DitSize {
        reference_frames: 1,
        frames: 2,
        height: 4,
        width: 6,
        text_tokens: 7,
        timesteps: 2,
    };
    dit(&DitConfig::micro(), &size, Precision::Bf16)
}

#[test]
fn every_buffer_is_aligned_as_the_target_says() {
    let module = micro();
    let mut peaks = Vec::new();
    for bytes in [64, 256, 1024] {
        let alignment = Alignment::new(bytes).unwrap();
        let options =
            Options { target: Target { alignment, ..Target::default() }, ..Options::default() };
        let request = CompileRequest::new(&module, "dit").varying(["lat", "t"]).with(&options);
        let plans = request.split().unwrap();
        aligned(&plans, bytes);
        peaks.push(plans[1].workspace_bytes);
    }
    assert!(peaks.is_sorted() && peaks[0] < peaks[2], "gaps cost something: {peaks:?}");
}

/// Plans of a device that wants more are not run by luck.
#[test]
fn a_plan_of_too_small_an_alignment_is_refused() {
    let backend = devices::backend("second:0", 1);
    let module = linear(8, 8, Op::Gelu);
    let plan = plan(&module, &Target::default()).unwrap();
    let file = PlanFile::new(backend.target(), vec![plan]).unwrap();
    let weights = Stored::default();
    let loaded = Compiler::new(&backend).phases_of(file).load(weights.shared(), &mut |_, _| true);
    let error = loaded.err().unwrap();
    assert_eq!(error.code(), "E0505");
    let message = "buffers of target second begin at multiples of 256 bytes, not of 64";
    assert_eq!(error.message(), message);
}

/// Plans for targets without a device here are as sound as others, and files of them name them.
#[test]
fn every_target_that_is_known_compiles_the_networks() {
    let module = micro();
    let backend = devices::first_backend(1);
    for (_, target) in devices::registry().targets() {
        let options = Options { target: target.clone(), verify_each: true, ..Options::default() };
        let request = CompileRequest::new(&module, "dit").varying(["lat", "t"]).with(&options);
        let plans = request.split().unwrap_or_else(|e| panic!("{}: {e}", target.name));
        aligned(&plans, target.alignment.bytes());
        let file = PlanFile::new(target.name, plans.to_vec()).unwrap();
        let bytes = file.to_bytes();
        let header = String::from_utf8_lossy(&bytes[..200]);
        assert!(header.contains(&format!(" target={} ", target.name)), "{header}");
        assert_eq!(PlanFile::from_bytes(&bytes, target.name).unwrap(), file);
        if target.name != backend.target() {
            let error = PlanFile::from_bytes(&bytes, backend.target()).unwrap_err();
            assert_eq!(error.code(), "E0514", "{}", target.name);
        }
    }
}

/// A step of the 5B transformer in bf16, the residual stream in f32, for 27,280 tokens.
fn real_step(target: Target) -> Plan {
    let size = DitSize {
        reference_frames: 0,
        frames: 31,
        height: 44,
        width: 80,
        text_tokens: 512,
        timesteps: 1,
    };
    let config = DitConfig::ti2v_5b();
    assert_eq!(size.tokens(&config), 27_280);
    let module = dit(&config, &size, Precision::Bf16);
    let options = Options { target, ..Options::default() };
    let request = CompileRequest::new(&module, "dit").varying(["lat", "t"]).with(&options);
    let [_, step] = request.split().unwrap();
    step
}

/// Launches of a block and MiB of workspace of such a step.
fn real_size(step: &Plan) -> (usize, u64) {
    let block = step.steps.iter().filter(|step| step.label().contains("/blocks.15/"));
    let products = block.clone().filter(|step| matches!(step.kernel, Kernel::Anchor(_)));
    assert!(products.count() >= 8);
    let memory = step.buffers.iter().filter(|(_, buffer)| buffer.root == Root::Workspace);
    assert!(memory.count() > 300);
    (block.count(), (step.workspace_bytes + (1 << 19)) >> 20)
}

/// The table of three targets in `docs/performance.md`.
#[test]
fn three_targets_at_the_real_size() {
    let split = Target::default();
    let whole = Target { row_split: None, ..Target::default() };
    let bare = EpilogueSupport { residual: &[], gate: false, ..EpilogueSupport::FULL };
    let bare = Target { linear: bare, ..whole.clone() };
    let single = Target { linear_parts: 1, ..bare.clone() };
    let all = [whole, split, bare, single].map(|target| real_size(&real_step(target)));
    assert_eq!(all, [(13, 1226), (15, 960), (13, 1386), (15, 1386)]);
}

/// What `compile --target cuda:sm_90 --predict` says in `docs/performance.md`.
#[test]
fn a_gpu_at_the_real_size_launches_little() {
    let target = devices::registry().target("cuda:sm_90").unwrap();
    let machine = target.machine.clone().unwrap();
    let step = real_step(target);
    assert_eq!(real_size(&step), (13, 1226));
    assert_eq!(step.steps.len(), 407);
    let moved = plan_cost(&step).bytes_between;
    println!("{moved} bytes between products");
    assert!(moved <= 110_000_000_000, "{moved} bytes between products");
    let seconds: f64 = step.steps.iter().map(|own| step_seconds(&step, own, &machine)).sum();
    assert!((0.665..0.675).contains(&seconds), "{seconds} s");
}
