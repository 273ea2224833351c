//! Nothing is allocated while a program runs: all its memory was reserved when it was loaded, and
//! the workspace is what the plans say to the byte.
//!
//! One test in a binary of its own, because it counts what the whole process allocates.

use anyid_ir::{Tensor, TensorType};
use anyid_models::wan::Precision;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::vae::{Half, VaeSize, decoder};
use anyid_runtime::pipeline::coder_phases;
use anyid_runtime::{Backend, Compiler, Inputs, Model};
use anyid_tests::op_cases::noise;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn count(bytes: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        COUNT.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and their bytes while `work` runs.
fn allocated(work: impl FnOnce()) -> (usize, usize) {
    COUNT.store(0, Ordering::SeqCst);
    BYTES.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    (COUNT.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst))
}

#[test]
fn nothing_is_allocated_while_a_program_runs() {
    let model = Model::micro().unwrap();
    let backend = Backend::open("cpu", 2).unwrap();
    assert!(allocated(|| drop(vec![0u8; 100])).0 >= 1, "allocations are counted");

    let size = DitSize {
        reference_frames: 1,
        frames: 2,
        height: 8,
        width: 12,
        text_tokens: 16,
        timesteps: 2,
    };
    let module = dit(&model.dit, &size, Precision::F32);
    let mut program = Compiler::new(&backend)
        .split(&module, "dit", &["lat", "t"])
        .and_then(|compiler| compiler.load(model.dit_weights.clone(), &mut |_, _| true))
        .unwrap();
    let tensors: Vec<(String, Tensor)> = module
        .func("dit")
        .unwrap()
        .param_types()
        .map(|(name, ty)| (name.to_owned(), value(ty)))
        .collect();
    let inputs = Inputs::new().all(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)));
    let mut prepared = program.prepare(&inputs).unwrap();
    let mut outputs = program.outputs("step").unwrap();
    program.step(&mut prepared, &inputs, &mut outputs).unwrap();
    let (count, bytes) = allocated(|| program.step(&mut prepared, &inputs, &mut outputs).unwrap());
    assert_eq!((count, bytes), (0, 0), "allocations and bytes in a step of the transformer");
    let planned = |phase: &str| program.plan(phase).unwrap().workspace_bytes;
    assert_eq!(program.workspace_bytes(), planned("prepare").max(planned("step")));

    // Nor where weights are brought in meanwhile.
    let mut program = Compiler::new(&backend)
        .split(&module, "dit", &["lat", "t"])
        .and_then(|compiler| {
            compiler.holding(Some(0)).load(model.dit_weights.clone(), &mut |_, _| true)
        })
        .unwrap();
    assert!(program.streamed_bytes() > 0);
    let mut prepared = program.prepare(&inputs).unwrap();
    program.step(&mut prepared, &inputs, &mut outputs).unwrap();
    let (count, bytes) = allocated(|| {
        for _ in 0..3 {
            program.step(&mut prepared, &inputs, &mut outputs).unwrap();
        }
    });
    assert_eq!((count, bytes), (0, 0), "allocations and bytes in steps that stream weights");

    let size = VaeSize { height: 48, width: 32, chunk: 1 };
    let module = decoder(&model.vae, &size, true);
    let compiler = coder_phases(Compiler::new(&backend), &module, Half::Decoder, true).unwrap();
    let weights: Arc<_> = model.vae_weights.clone();
    let mut program = compiler.load(weights, &mut |_, _| true).unwrap();
    let mut carried = program.states("first").unwrap();
    assert_eq!(carried.bytes(), program.plan("next").unwrap().state_bytes());
    for phase in ["first", "next"] {
        let ty = module.func(phase).unwrap().param_types().next().unwrap().1.clone();
        let z = value(&ty);
        let inputs = Inputs::new().set("z", &z);
        let mut outputs = program.outputs(phase).unwrap();
        let mut run =
            || program.run_with_states(phase, &inputs, &mut carried, &mut outputs).unwrap();
        run();
        let (count, bytes) = allocated(run);
        assert_eq!((count, bytes), (0, 0), "allocations and bytes in @{phase} of the decoder");
    }
    let planned = |phase: &str| program.plan(phase).unwrap().workspace_bytes;
    assert_eq!(program.workspace_bytes(), planned("first").max(planned("next")));
}

fn value(ty: &TensorType) -> Tensor {
    match ty.dtype {
        anyid_ir::DType::I32 => {
            let values: Vec<i32> = (0..ty.elements() as i32).map(|i| i % 2).collect();
            Tensor::from_i32([ty.elements()], &values).unwrap()
        }
        _ => noise(ty.clone(), 3),
    }
}
