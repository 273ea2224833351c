//! What every device promises the runtime, on each of the list: states by name, launch times, values
//! of every step, stopping, and faults that are errors with a code.

use anyid_backends::Settings;
use anyid_backends::device::Provider;
use anyid_ir::{DType, FuncBuilder, Module, Op, Tensor, TensorType};
use anyid_passes::{CompileRequest, Options};
use anyid_runtime::engine::PlanFile;
use anyid_runtime::{
    Backend, Cancel, Compiler, Inputs, Model, Pipeline, Program, Request, Size, StateSpec,
};
use anyid_tests::devices;
use anyid_tests::plans::Stored;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Rows and columns.
const SHAPE: [usize; 2] = [3, 8];

fn f32(shape: [usize; 2]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// `@main`: a product with weight `w`, gated by rows of a table, added to state `before`.
fn module() -> Module {
    let mut module = Module { name: "m".into(), ..Module::default() };
    module.weights.add("w", f32([8, 8])).unwrap();
    let mut f = FuncBuilder::new(&module, "main");
    let (x, before) = (f.param("x", f32(SHAPE)), f.param("before", f32(SHAPE)));
    let (table, rows) = (f.param("table", f32([2, 8])), f.param("rows", rows_type()));
    let product = f.linear("product", x, "w", None, DType::F32);
    let after = f.op("after", Op::GateAdd, &[before, product, table, rows], None);
    let shown = f.op("shown", Op::Silu, &[after], None);
    let func = f.finish(&[shown, after]);
    module.add(func);
    module
}

fn rows_type() -> TensorType {
    TensorType::new(DType::I32, [SHAPE[0]])
}

fn state() -> StateSpec {
    StateSpec { name: "total".into(), input: Some(1), output: 1 }
}

fn weights() -> Arc<Provider> {
    let mut stored = Stored::default();
    let identity: Vec<f32> = (0..64).map(|i| f32::from(u8::from(i / 8 == i % 8))).collect();
    stored.insert("w", Tensor::from_f32([8, 8], &identity).unwrap());
    stored.shared()
}

fn compiler(backend: &Backend) -> Compiler {
    let module = module();
    let request = CompileRequest::new(&module, "main").carrying([state()]);
    Compiler::new(backend).with(Options::traceable()).add("main", request).unwrap()
}

fn program(backend: &Backend) -> Program {
    compiler(backend).load(weights(), &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"))
}

/// Inputs by name; the rows of the table are those given.
fn inputs(rows: [i32; 3]) -> Vec<(&'static str, Tensor)> {
    let numbers = |n: usize| (0..n).map(|i| i as f32 / 8.0).collect::<Vec<_>>();
    let mut table = vec![1.0; 8];
    table.extend([2.0; 8]);
    vec![
        ("x", Tensor::from_f32(SHAPE, &numbers(24)).unwrap()),
        ("table", Tensor::from_f32([2, 8], &table).unwrap()),
        ("rows", Tensor::from_i32([3], &rows).unwrap()),
    ]
}

fn each(check: impl Fn(&Backend)) {
    for name in devices::names() {
        println!("{name}");
        check(&devices::backend(name, 2));
    }
}

#[test]
fn states_are_set_changed_and_read_by_name() {
    each(|backend| {
        let mut program = program(backend);
        let mut states = program.states("main").unwrap();
        assert!(
            states.get("total").unwrap().to_f64_vec().iter().all(|v| *v == 0.0),
            "zero at first"
        );
        let start = Tensor::from_f32(SHAPE, &[0.5; 24]).unwrap();
        states.set("total", &start).unwrap();
        let given = inputs([0, 1, 0]);
        let given = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
        for _ in 0..2 {
            program.call_with_states("main", &given, &mut states).unwrap();
        }
        let gate = |i: usize| if i / 8 == 1 { 2.0 } else { 1.0 };
        let wanted: Vec<f64> = (0..24).map(|i| 0.5 + 2.0 * gate(i) * i as f64 / 8.0).collect();
        assert_eq!(states.get("total").unwrap().to_f64_vec(), wanted);
        assert_eq!(states.get("sum").unwrap_err().code(), "E0561");
        assert_eq!(states.set("total", &start.cast(DType::F16)).unwrap_err().code(), "E0561");
    });
}

#[test]
fn launches_are_timed_and_values_are_shown_where_asked_for() {
    each(|backend| {
        let mut program = program(backend);
        let steps = program.plan("main").unwrap().steps.len();
        let given = inputs([0, 1, 0]);
        let given = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
        let mut states = program.states("main").unwrap();
        program.call_with_states("main", &given, &mut states).unwrap();
        assert!(program.take_times().is_empty(), "nobody asked");
        program.time_launches(true);
        for _ in 0..2 {
            program.call_with_states("main", &given, &mut states).unwrap();
        }
        let runs = program.take_times();
        assert_eq!(runs.len(), 2);
        for (phase, times) in &runs {
            let launches = times.launches();
            assert_eq!((phase.as_str(), launches.len()), ("main", steps));
            assert!(launches.iter().enumerate().all(|(at, launch)| launch.step == at));
            assert!(launches.iter().all(|launch| launch.begin <= launch.end));
            assert!(launches.windows(2).all(|pair| pair[0].end <= pair[1].begin));
        }
        program.time_launches(false);
        let mut plain = Compiler::new(backend)
            .with(Options::traceable())
            .phase("main", &module(), "main")
            .and_then(|compiler| compiler.load(weights(), &mut |_, _| true))
            .unwrap();
        let (mut seen, given) = (Vec::new(), inputs([0, 1, 0]));
        let before = Tensor::from_f32(SHAPE, &[0.0; 24]).unwrap();
        let given = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
        let mut look = |label: &str, _: &Tensor| seen.push(label.to_owned());
        plain.traced("main", &given.set("before", &before), None, &mut look).unwrap();
        assert_eq!(seen, ["main/product", "main/after", "main/shown"]);
    });
}

#[test]
fn what_is_told_to_stop_stops() {
    each(|backend| {
        let stopped = compiler(backend).load(weights(), &mut |_, _| false);
        assert_eq!(stopped.err().unwrap().code(), "E1002");
        let mut program = program(backend);
        program.set_cancel(Arc::new(AtomicBool::new(true)));
        let given = inputs([0, 1, 0]);
        let given = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
        let mut states = program.states("main").unwrap();
        let error = program.call_with_states("main", &given, &mut states).unwrap_err();
        assert_eq!(error.code(), "E1002");
    });
}

#[test]
fn faults_are_errors_with_a_code() {
    each(|backend| {
        let load = |stored: Stored| compiler(backend).load(stored.shared(), &mut |_, _| true);
        assert_eq!(load(Stored::default()).err().unwrap().code(), "E0301");
        let mut short = Stored::default();
        short.insert("w", Tensor::from_f32([2], &[1.0, 2.0]).unwrap());
        assert_eq!(load(short).err().unwrap().code(), "E0303");

        let mut program = program(backend);
        let mut states = program.states("main").unwrap();
        for wrong in [2, -1, i32::MAX, i32::MIN] {
            let given = inputs([0, wrong, 1]);
            let given = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
            let error = program.call_with_states("main", &given, &mut states).unwrap_err();
            assert_eq!((error.code(), error.place()), ("E1006", Some("main/after")), "{wrong}");
            let message = format!("index {wrong} is outside the 2 rows of a table");
            assert_eq!(error.message(), message);
        }

        // Memory goes to the device that made it.
        let other = devices::backend(&backend.about().name, 1);
        let given = inputs([0, 1, 0]);
        let given = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
        let mut foreign = self::program(&other).states("main").unwrap();
        let error = program.call_with_states("main", &given, &mut foreign).unwrap_err();
        assert_eq!(error.code(), "E1009");
    });
}

#[test]
fn plans_are_for_one_target() {
    let compiled: Vec<(PlanFile, Backend)> = ["cpu", "second:0"]
        .into_iter()
        .map(|name| {
            let backend = devices::backend(name, 1);
            let plans = compiler(&backend).plans().map(|(_, plan)| plan.clone()).collect();
            (PlanFile::new(backend.target(), plans).unwrap(), backend)
        })
        .collect();
    let [(ours, cpu), (theirs, second)] = compiled.as_slice() else { panic!("two were asked for") };
    for (file, backend) in [(ours, second), (theirs, cpu)] {
        let compiler = Compiler::new(backend).phases_of(file.clone());
        let error = compiler.load(weights(), &mut |_, _| true).err().unwrap();
        assert_eq!(error.code(), "E0514");
        let error = PlanFile::from_bytes(&file.to_bytes(), backend.target()).unwrap_err();
        assert_eq!(error.code(), "E0514");
    }
}

#[test]
fn a_device_that_is_not_there_or_cannot_work_so_says_why() {
    let open = |name: &str, settings: Settings| {
        let error = Backend::open_in(&devices::registry(), name, &settings).err();
        let error = error.unwrap_or_else(|| panic!("{name} was opened"));
        (error.code(), error.help_text().or(error.place()).unwrap_or_default().to_owned())
    };
    let plain = Settings::default;
    let there = "the second devices are second:0 to second:1".to_owned();
    for name in ["second:2", "second:x", "second:", "second:-1", "second:18446744073709551616"] {
        assert_eq!(open(name, plain()), ("E0560", there.clone()), "{name}");
    }
    let cuda = cfg!(feature = "cuda").then_some("cuda:N");
    let wgpu = cfg!(feature = "cubecl-wgpu").then_some("wgpu:N");
    let own = ["cpu", "cuda-emulated:ARCHITECTURE"].into_iter().chain(cuda).chain(wgpu);
    let known = format!("this build has {} and second:N", own.collect::<Vec<_>>().join(", "));
    assert_eq!(open("third:0", plain()), ("E0904", known));
    let capacity = plain().with("capacity", "much");
    assert_eq!(open("second:0", capacity), ("E0907", "setting capacity".to_owned()));
}

#[test]
fn plans_that_a_device_has_no_memory_for_are_refused_before_they_are_loaded() {
    let settings = Settings::default().with("capacity", "300");
    let backend = Backend::open_in(&devices::registry(), "second:1", &settings).unwrap();
    let loaded = compiler(&backend).load(weights(), &mut |_, _| panic!("nothing is loaded"));
    let error = loaded.err().unwrap();
    assert_eq!(error.code(), "E0603");
    assert!(error.message().ends_with("the device second:1 has 300 B left"), "{error}");
    assert_eq!(error.kind(), anyid_runtime::Kind::Budget);
}

/// A device with memory of its own is asked for it, and the process for the rest.
#[test]
fn runs_are_compared_with_the_memory_that_they_take() {
    let on = |capacity: u64| {
        let settings = Settings::default().with("capacity", &capacity.to_string());
        let backend = Backend::open_in(&devices::registry(), "second:0", &settings).unwrap();
        Pipeline::new(Model::micro().unwrap(), backend)
    };
    let size = Size { width: 64, height: 64, frames: 5 };
    let request = Request { prompt: "x".to_owned(), size, steps: 2, ..Request::default() };
    let plan = |pipeline: &Pipeline| {
        let plan = pipeline.plan(&request, &Cancel::new(), &mut |_| {});
        plan.map(|plan| plan.phases().to_vec())
    };
    let phases = plan(&on(1 << 40)).unwrap();
    for phase in &phases {
        assert!(phase.apart && phase.process_bytes() > 0, "{phase:?}");
        assert_eq!(phase.device_bytes() + phase.process_bytes(), phase.held_bytes());
        assert!(phase.resident_bytes <= phase.kept_bytes, "{phase:?}");
    }
    let most = phases.iter().map(|phase| phase.device_bytes()).max().unwrap();
    assert_eq!(plan(&on(most)).unwrap(), phases);
    let error = plan(&on(most - 1)).unwrap_err();
    assert_eq!((error.code(), error.kind()), ("E0603", anyid_runtime::Kind::Budget));
    assert!(error.message().contains("the device second:0 has"), "{error}");
    // More than the device has in all, of which a part is in the process.
    assert!(phases.iter().any(|phase| phase.held_bytes() > most), "{phases:?}");
}
