//! Weights that do not stay in memory: however few are held, a run gives the bits that it gives with
//! all of them, on any number of threads, after other plans and after runs that ended early; what is
//! planned is what is held; and a weight that cannot be read in mid-run is an error with its name.

use anyid_backends::{Fault, StoredWeight, WeightProvider};
use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::{Precision, text};
use anyid_runtime::{Backend, Compiler, Inputs, Model, Outputs, Program};
use anyid_tests::op_cases::noise;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn value(ty: &TensorType, seed: u64) -> Tensor {
    match ty.dtype {
        DType::I32 => {
            let values: Vec<i32> = (0..ty.elements() as i32).map(|i| i % 2).collect();
            Tensor::from_i32([ty.elements()], &values).unwrap()
        }
        _ => noise(ty.clone(), seed),
    }
}

fn given(module: &Module, func: &str, seed: u64) -> Vec<(String, Tensor)> {
    let params = module.func(func).unwrap().param_types();
    params.map(|(name, ty)| (name.to_owned(), value(ty, seed))).collect()
}

fn inputs(tensors: &[(String, Tensor)]) -> Inputs<'_> {
    Inputs::new().all(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
}

fn bits(outputs: Outputs) -> Vec<Vec<u8>> {
    outputs.into_tensors().iter().map(|tensor| tensor.bytes().to_vec()).collect()
}

fn transformer(model: &Model, precision: Precision) -> Module {
    let size = DitSize {
        reference_frames: 1,
        frames: 2,
        height: 8,
        width: 12,
        text_tokens: 16,
        timesteps: 2,
    };
    dit(&model.dit, &size, precision)
}

/// Two steps after `prepare`, as in sampling.
fn sampled(program: &mut Program, tensors: [&[(String, Tensor)]; 2]) -> Vec<Vec<u8>> {
    let mut prepared = program.prepare(&inputs(tensors[0])).unwrap();
    let mut all = Vec::new();
    for tensors in tensors {
        let mut outputs = program.outputs("step").unwrap();
        program.step(&mut prepared, &inputs(tensors), &mut outputs).unwrap();
        all.extend(bits(outputs));
    }
    all
}

#[test]
fn streamed_weights_give_the_bits_of_those_that_are_held() {
    let model = Model::micro().unwrap();
    for (precision, threads) in [(Precision::F32, 1), (Precision::Bf16, 3)] {
        let backend = Backend::open("cpu", threads).unwrap();
        let module = transformer(&model, precision);
        let tensors = [3, 4].map(|seed| given(&module, "dit", seed));
        let steps = [&tensors[0][..], &tensors[1][..]];
        let compiler = || Compiler::new(&backend).split(&module, "dit", &["lat", "t"]).unwrap();
        let all = compiler().weight_bytes();
        let whole = {
            let weights = model.dit_weights.clone();
            let mut program = compiler().load(weights, &mut |_, _| true).unwrap();
            assert_eq!((program.weight_bytes(), program.streamed_bytes()), (all, 0));
            sampled(&mut program, steps)
        };
        // Slots and buffers are as large as the weights of so small a model in half precision.
        let least = compiler().holding(Some(0)).weight_bytes();
        assert!(precision == Precision::Bf16 || least < all * 9 / 10, "{least} of {all}");
        let mut most_moved = 0;
        for part in (0..=10).rev() {
            let most = all * part / 10;
            let compiler = compiler().holding(Some(most));
            let (held, moved) = (compiler.weight_bytes(), compiler.streamed_bytes());
            let weights = model.dit_weights.clone();
            let mut program = compiler.load(weights, &mut |_, _| true).unwrap();
            assert_eq!((program.weight_bytes(), program.streamed_bytes()), (held, moved));
            assert_eq!(held == all, moved == 0, "{part} {held} {moved}");
            assert!(held <= most.max(least), "{held} are held of {most}");
            most_moved = moved.max(most_moved);
            // The second time begins where the first has ended.
            for _ in 0..2 {
                assert!(sampled(&mut program, steps) == whole, "{precision:?} {part}");
            }
            // A step that was stopped leaves nothing behind that matters.
            let stop = Arc::new(AtomicBool::new(true));
            program.set_cancel(Arc::clone(&stop));
            assert_eq!(program.prepare(&inputs(steps[0])).err().unwrap().code(), "E1002");
            stop.store(false, Ordering::Relaxed);
            assert!(sampled(&mut program, steps) == whole, "{precision:?} {part}");
        }
        assert!(most_moved > all / 3, "{most_moved} of {all}");
    }
}

#[test]
fn plans_of_one_program_may_take_turns() {
    let model = Model::micro().unwrap();
    let backend = Backend::open("cpu", 2).unwrap();
    let modules = [5, 1].map(|tokens| (tokens, text::text(&model.text, tokens, Precision::F32)));
    let compiler = || {
        modules.iter().fold(Compiler::new(&backend), |compiler, (tokens, module)| {
            compiler.phase(&format!("text{tokens}"), module, "text").unwrap()
        })
    };
    let mut programs = [None, Some(0)].map(|most| {
        let weights = model.text_weights.clone();
        compiler().holding(most).load(weights, &mut |_, _| true).unwrap()
    });
    assert!(programs[1].streamed_bytes() > 0);
    assert!(programs[1].weight_bytes() < programs[0].weight_bytes());
    for at in [0, 1, 1, 0, 0, 1] {
        let (tokens, _) = modules[at];
        let ids: Vec<i32> = (0..tokens as i32).map(|i| 3 + i).collect();
        let ids = Tensor::from_i32([tokens], &ids).unwrap();
        let [whole, streamed] = [0, 1].map(|program: usize| {
            let inputs = Inputs::new().set("ids", &ids);
            bits(programs[program].call(&format!("text{tokens}"), &inputs).unwrap())
        });
        assert!(whole == streamed, "{at}");
    }
}

/// Weights that can be read so many times.
struct Failing {
    weights: Arc<dyn WeightProvider + Send + Sync>,
    left: AtomicUsize,
}

impl WeightProvider for Failing {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        self.weights.find(name)
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match left {
            Ok(_) => self.weights.read(name, from, out),
            Err(_) => Err(Fault {
                code: "E0330",
                message: format!("\"{name}\" cannot be read"),
                place: Some("the file".to_owned()),
                help: None,
                cause: None,
            }),
        }
    }
}

#[test]
fn a_weight_that_cannot_be_read_in_mid_run_is_an_error_and_the_next_run_may_succeed() {
    let model = Model::micro().unwrap();
    let backend = Backend::open("cpu", 2).unwrap();
    let module = transformer(&model, Precision::F32);
    let tensors = given(&module, "dit", 3);
    let provider = Arc::new(Failing {
        weights: model.dit_weights.clone(),
        left: AtomicUsize::new(usize::MAX),
    });
    let compiler = Compiler::new(&backend).split(&module, "dit", &["lat", "t"]).unwrap();
    let mut program = compiler.holding(Some(0)).load(provider.clone(), &mut |_, _| true).unwrap();
    let mut prepared = program.prepare(&inputs(&tensors)).unwrap();
    let mut outputs = program.outputs("step").unwrap();
    program.step(&mut prepared, &inputs(&tensors), &mut outputs).unwrap();
    let whole = bits(outputs);
    for reads in [0, 1, 3, 7] {
        provider.left.store(reads, Ordering::SeqCst);
        let mut outputs = program.outputs("step").unwrap();
        // Groups that are there already may carry a step.
        let error = (0..3)
            .find_map(|_| program.step(&mut prepared, &inputs(&tensors), &mut outputs).err())
            .expect("not all is held");
        assert_eq!(error.code(), "E0330");
        assert!(error.message().contains("cannot be read"), "{error}");
        assert!(error.place().is_some(), "{error}");
        provider.left.store(usize::MAX, Ordering::SeqCst);
        program.step(&mut prepared, &inputs(&tensors), &mut outputs).unwrap();
        assert!(bits(outputs) == whole, "{reads}");
    }
}
