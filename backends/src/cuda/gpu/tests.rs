//! The device without a GPU: the order of its calls, what it holds, and what it says where something is
//! missing or fails. With the feature `cuda-emulator` the kernels of whole plans are executed too.

use super::faked::{CODE, Faked};
use super::kernels::Compile;
use super::*;
use crate::cuda::emit::Emitted;
use crate::cuda::launches::Parameter;
use crate::device::{Arena, Call, Runner, Times};
use crate::errors::RunError;
use crate::stop::with_stop;
use crate::{Registry, Settings, StoredWeight, WeightProvider};
use anyid_ir::plan_text::parse_plans;
use anyid_ir::{DType, Tensor};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// A folder of a test, which it removes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("anyid-gpu-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes code that the faked driver takes, and counts.
#[derive(Clone, Default)]
struct Counting {
    made: Arc<AtomicUsize>,
    version: &'static str,
}

impl Compile for Counting {
    fn key(&self) -> String {
        format!("counting {}", self.version)
    }

    fn compile(&self, kernel: &Emitted, architecture: &str) -> Result<Vec<u8>, Box<Fault>> {
        if architecture == "sm_199" {
            let message = "NVRTC does not compile the kernels for sm_199".to_owned();
            let (place, help, cause) = (None, None, None);
            return Err(Box::new(Fault { code: "E0857", message, place, help, cause }));
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok([CODE, kernel.name.as_bytes()].concat())
    }
}

/// Weights by name.
#[derive(Default)]
struct Stored(Vec<(&'static str, Tensor)>);

impl WeightProvider for Stored {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let (_, tensor) = self.0.iter().find(|(own, _)| *own == name)?;
        Some(StoredWeight { dtype: tensor.dtype(), bytes: tensor.bytes().len() as u64 })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        let (_, tensor) = self.0.iter().find(|(own, _)| *own == name).expect("it was found");
        out.copy_from_slice(&tensor.bytes()[from as usize..][..out.len()]);
        Ok(())
    }
}

fn numbers<const N: usize>(shape: [usize; N], seed: usize) -> Tensor {
    let count = shape.iter().product();
    let value = |at: usize| ((at * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0;
    Tensor::from_f32(shape, &(0..count).map(value).collect::<Vec<_>>()).unwrap()
}

/// What the plans of these tests read.
fn weights() -> Stored {
    let long = numbers([40, 40], 3);
    Stored(vec![("w", numbers([8, 8], 1)), ("b", numbers([8], 2)), ("long", long)])
}

fn device_of(
    folder: &Folder,
    faked: &Faked,
    compiler: Counting,
    compiled: &str,
    launching: Launching,
) -> Arc<Gpu> {
    let own = choose::kernels("a GPU", (8, 0)).unwrap();
    let own = choose::Kernels { compiled: compiled.to_owned(), ..own };
    let target = targets::cuda().into_iter().find(|target| target.name == own.target).unwrap();
    let cache = Cache::open(KEPT, folder.0.to_str()).ok();
    let about = About {
        name: "cuda:0".to_owned(),
        words: String::new(),
        instructions: own.compiled.clone(),
        capacity: Some(1 << 30),
        target,
        warnings: Vec::new(),
    };
    let kernels = Kernels::new(own, Box::new(compiler), cache);
    let (turn, driver) = (Mutex::new(()), Box::new(faked.clone()));
    Arc::new(Gpu { about, kernels, processors: 4, launching, turn, driver })
}

fn device(folder: &Folder, faked: &Faked) -> Arc<Gpu> {
    device_of(folder, faked, Counting::default(), "sm_80", Launching::Graphs)
}

/// A driver whose kernels do nothing.
fn idle(late: bool) -> Faked {
    Faked::new(1 << 20, late, |_, _, _| {})
}

/// Two linears on a table that rows are picked of, with a state; views, weights and several outputs.
const STEPS: &str = "\
plan \"step\" {
  memory alignment=64 workspace=576 lower_bound=448 naive=832 persistent=0
  weight 0 \"w\" : f32[8,8]
  weight 1 \"b\" : f32[8]
  buffer %0 = input 0 + 0 : f32[4,8]
  buffer %1 = input 1 + 0 : i32[4]
  buffer %2 = input 2 + 0 : f32[2,8]
  buffer %3 = weight 0 + 0 : f32[8,8]
  buffer %4 = weight 1 + 0 : f32[8]
  buffer %12 = state 0 + 0 : f32[4,8]
  input \"x\" = %0
  input \"segments\" = %1
  input \"gate\" = %2
  output \"last\" = %14
  output \"s\" = %9
  output \"k\" = %8
  output \"mean\" = %10
  state \"past\" : f32[4,8] = %12 -> %13
  kernel k0 \"silu+reduce_mean\" rows i in 4, cols j in 8 {
    in a0: f32[4,8]
    out y0: f32[4,8]
    out y1: f32[4]
    v0 = a0[i*8 + j]
    v1 = silu(v0)
    v2 = mean_j(v1)
    y0[i,j] = v1
    y1[i] = v2
  }
  kernel k1 \"linear+gate_add\" anchor linear {
    y0 = a3 + linear(a0, a1, a2) * a4[a5[i]*8 + j]
  }
  kernel k2 \"linear*2\" anchor linear {
    y0 = linear(a0, a1)
    y1 = linear(a0, a2)
  }
  kernel k3 \"add+neg\" rows i in 1, cols j in 32 {
    in a0: f32[4,8]
    in a1: f32[4,8]
    out y0: f32[4,8]
    v0 = a0[i*32 + j]
    v1 = a1[i*32 + j]
    v2 = add(v0, v1)
    v3 = neg(v2)
    y0[i,j] = v3
  }
  kernel k4 \"silu\" rows i in 1, cols j in 32 {
    in a0: f32[4,8]
    out y0: f32[4,8]
    v0 = a0[i*32 + j]
    v1 = silu(v0)
    y0[i,j] = v1
  }
  %5, %10 = k0 %0 : workspace + 0 f32[4,8] \"h\", workspace + 128 f32[4] \"mean\"
  %6 = k1 %0, %3, %4, %5, %2, %1 : workspace + 0 f32[4,8] \"y\"
  %7, %8 = k2 %6, %3, %3 : workspace + 192 f32[4,8] \"q\", workspace + 320 f32[4,8] \"k\"
  %11 = k3 %7, %6 : workspace + 192 f32[4,8] \"a\"
  %9 = k4 %11 : workspace + 448 f32[4,8] \"s\"
  %14 = k4 %12 : output 0 + 0 f32[4,8] \"last\"
  %13 = k4 %14 : state 0 + 0 f32[4,8] \"next\"
}
";

/// `prepare` keeps what `step` adds, and a number of a weight in another type.
const SPLIT: &str = "\
plan \"prepare\" {
  memory alignment=64 workspace=0 lower_bound=0 naive=0 persistent=192
  buffer %0 = input 0 + 0 : f32[4,8]
  input \"x\" = %0
  kept \"k\" = %1
  kernel k0 \"silu\" rows i in 1, cols j in 32 {
    in a0: f32[4,8]
    out y0: f32[4,8]
    v0 = a0[i*32 + j]
    v1 = silu(v0)
    y0[i,j] = v1
  }
  %1 = k0 %0 : persistent + 64 f32[4,8] \"k\"
}

plan \"step\" {
  memory alignment=64 workspace=128 lower_bound=128 naive=128 persistent=192
  weight 0 \"long\" : bf16[40,40]
  buffer %0 = input 0 + 0 : f32[4,8]
  buffer %1 = persistent + 64 : f32[4,8]
  buffer %2 = weight 0 + 0 : bf16[40,40]
  input \"x\" = %0
  output \"y\" = %3
  output \"wide\" = %4
  kernel k0 \"add\" rows i in 1, cols j in 32 {
    in a0: f32[4,8]
    in a1: f32[4,8]
    out y0: f32[4,8]
    v0 = a0[i*32 + j]
    v1 = a1[i*32 + j]
    v2 = add(v0, v1)
    y0[i,j] = v2
  }
  kernel k1 \"cast\" rows i in 40, cols j in 40 {
    in a0: bf16[40,40]
    out y0: f32[40,40]
    v0 = a0[i*40 + j]
    y0[i,j] = v0
  }
  %3 = k0 %0, %1 : workspace + 0 f32[4,8] \"y\"
  %4 = k1 %2 : output 1 + 0 f32[40,40] \"wide\"
}
";

fn plans(text: &str) -> Vec<Plan> {
    let plans = parse_plans(text).unwrap_or_else(|error| panic!("{error:?}"));
    for plan in &plans {
        assert_eq!(anyid_ir::plan_verify::verify_plan(plan), [], "{}", plan.name);
    }
    plans
}

fn step() -> Plan {
    plans(STEPS).remove(0)
}

fn inputs(rows: [i32; 4]) -> Vec<Tensor> {
    vec![numbers([4, 8], 5), Tensor::from_i32([4], &rows).unwrap(), numbers([2, 8], 6)]
}

fn prepared(device: &Arc<Gpu>, plans: Vec<Plan>) -> Box<dyn Runner> {
    let named: Vec<&Plan> = plans.iter().collect();
    let loaded = device.clone().load(&named, Arc::new(weights()), &mut |_, _| true);
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.bytes(), device.weight_bytes(&named));
    loaded.prepare(plans).unwrap_or_else(|error| panic!("{error}"))
}

/// What a run gives: its outputs, and whether the device found them finite.
type Given = Result<(Vec<Tensor>, Option<bool>), RunError>;

fn run(
    runner: &mut dyn Runner,
    at: usize,
    inputs: &[Tensor],
    kept: Option<&mut Box<dyn Arena>>,
    states: Option<&mut Box<dyn Arena>>,
) -> Given {
    let plan = runner.plan(at);
    let mut made: Vec<Tensor> = plan
        .outputs
        .iter()
        .map(|port| Tensor::zeros(plan.buffer(port.buffer).ty.clone()))
        .collect();
    let given: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let mut taken: Vec<&mut [u8]> = made.iter_mut().map(Tensor::bytes_mut).collect();
    let mut finite = None;
    let call = Call {
        inputs: &given,
        outputs: &mut taken,
        kept: kept.map(|arena| &mut **arena),
        states: states.map(|arena| &mut **arena),
        finite: Some(&mut finite),
        ..Call::default()
    };
    runner.run(at, call).map(|()| (made, finite))
}

/// The calls with how often each stands in a row.
fn short(log: &[String]) -> String {
    let mut out: Vec<(String, usize)> = Vec::new();
    for call in log {
        match out.last_mut().filter(|(last, _)| last == call) {
            Some((_, count)) => *count += 1,
            None => out.push((call.clone(), 1)),
        }
    }
    let word = |(call, count): &(String, usize)| match count {
        1 => call.clone(),
        count => format!("{call}*{count}"),
    };
    out.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_run_copies_launches_graphs_with_two_under_way_and_copies_back() {
    let (folder, faked) = (Folder::new("order"), idle(true));
    let device = device(&folder, &faked);
    let mut runner = prepared(&device, vec![step()]);
    let mut states = runner.states(0).unwrap();
    faked.log();
    let mut once = |states: &mut Box<dyn Arena>| {
        run(&mut *runner, 0, &inputs([0, 1, 1, 0]), None, Some(states)).unwrap();
        short(&faked.log())
    };
    // Seven steps and four looks at outputs are six graphs.
    let recorded =
        "begin_capture launch*2 end_capture ".repeat(5) + "begin_capture launch end_capture ";
    let launched = "launch_graph record launch_graph record \
                    wait_for launch_graph record wait_for launch_graph record \
                    wait_for launch_graph record wait_for launch_graph record download*5 wait";
    let first = once(&mut states);
    assert_eq!(first, format!("upload*3 set {recorded}event*2 {launched}"));
    assert_eq!(once(&mut states), format!("upload*3 set {launched}"));
    // Another arena is other memory.
    let mut others = prepared(&device, vec![step()]).states(0).unwrap();
    faked.log();
    assert_eq!(once(&mut others), format!("upload*3 set {recorded}{launched}"));
    assert_eq!(once(&mut states), format!("upload*3 set {launched}"));
    assert_eq!(faked.held()[4], 12);
    drop((runner, states, others));
    assert_eq!(device.driver.room().unwrap().free, 1 << 20);
    drop(device);
    assert_eq!(faked.held(), [0; 5], "everything was given back");
}

#[test]
fn only_so_many_memories_are_resolved_at_a_time() {
    let (folder, faked) = (Folder::new("resolved"), idle(false));
    let device = device(&folder, &faked);
    let mut runner = prepared(&device, vec![step()]);
    let mut arenas: Vec<_> = (0..6).map(|_| runner.states(0).unwrap()).collect();
    for states in &mut arenas {
        run(&mut *runner, 0, &inputs([0; 4]), None, Some(states)).unwrap();
    }
    assert_eq!(faked.held()[4], 4 * 6);
    // The newest are there still, the oldest is resolved again.
    faked.log();
    run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut arenas[5])).unwrap();
    assert!(!short(&faked.log()).contains("capture"));
    run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut arenas[0])).unwrap();
    assert!(short(&faked.log()).contains("capture"));
}

#[test]
fn without_graphs_and_with_times_launches_go_out_one_by_one() {
    let (folder, faked) = (Folder::new("single"), idle(true));
    let device = device_of(&folder, &faked, Counting::default(), "sm_80", Launching::Single);
    let mut runner = prepared(&device, vec![step()]);
    let mut states = runner.states(0).unwrap();
    faked.log();
    run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states)).unwrap();
    let log = faked.log();
    assert!(!log.iter().any(|call| call.contains("graph")));
    assert_eq!(log.iter().filter(|call| *call == "launch").count(), 11);
    let plan = runner.plan(0);
    let outputs = plan.outputs.iter().map(|port| plan.buffer(port.buffer).ty.bytes() as usize);
    let mut made: Vec<Vec<u8>> = outputs.map(|bytes| vec![0; bytes]).collect();
    let mut taken: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
    let given = inputs([0; 4]);
    let given: Vec<&[u8]> = given.iter().map(Tensor::bytes).collect();
    let mut times = Times::new(Instant::now(), 7);
    let call = Call {
        inputs: &given,
        outputs: &mut taken,
        states: Some(&mut *states),
        times: Some(&mut times),
        ..Call::default()
    };
    runner.run(0, call).unwrap();
    let told = times.launches();
    assert_eq!(told.iter().map(|launch| launch.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    assert!(told.iter().all(|launch| launch.begin < launch.end));
    assert!(told.windows(2).all(|pair| pair[0].end == pair[1].begin));
}

/// What a GPU reports when it is next waited for is then the fault of the last launch.
#[test]
fn launches_that_are_waited_for_name_the_kernel_that_was_lost() {
    for (launching, named) in [(Launching::Waiting, true), (Launching::Graphs, false)] {
        let (folder, faked) = (Folder::new("waiting"), idle(true));
        let device = device_of(&folder, &faked, Counting::default(), "sm_80", launching);
        let mut runner = prepared(&device, vec![step()]);
        let mut states = runner.states(0).unwrap();
        // The third launch is that of the third step.
        faked.fail("wait", 2, Trouble::Lost);
        let error = run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states));
        match error {
            Err(RunError::Failed { label, fault }) => {
                assert_eq!(fault.code, "E0862");
                let third = runner.plan(0).steps[2].label().to_owned();
                assert_eq!(label, named.then_some(third), "{launching:?}");
            }
            other => assert!(!named, "{other:?}"),
        }
    }
}

/// The memory of a kernel's parameter.
#[expect(clippy::mut_from_ref, reason = "the test's driver says that nobody else uses it")]
fn memory(given: &[Parameter], at: usize) -> &mut [u8] {
    let Parameter::Memory(span) = given[at] else { panic!("no memory: {:?}", given[at]) };
    let base = std::ptr::with_exposed_provenance_mut(span.address as usize);
    // SAFETY: the faked driver has checked the span, and runs one kernel at a time.
    unsafe { std::slice::from_raw_parts_mut(base, span.bytes as usize) }
}

#[test]
fn an_index_that_a_kernel_reports_ends_the_run_with_the_step() {
    let folder = Folder::new("index");
    for late in [false, true] {
        let faked = Faked::new(1 << 20, late, |name, _, given| {
            if name.starts_with("linear_gate_add") {
                // The third row asks for row −7.
                let fault = 2u64 << 32 | u64::from(-7i32 as u32);
                let word =
                    |own: &Parameter| matches!(own, Parameter::Memory(span) if span.bytes == 8);
                let at = given.iter().position(word).expect("a place for the fault");
                memory(given, at).copy_from_slice(&fault.to_le_bytes());
            }
        });
        let device = device(&folder, &faked);
        let mut runner = prepared(&device, vec![step()]);
        let mut states = runner.states(0).unwrap();
        let error = run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states)).unwrap_err();
        assert_eq!(error, RunError::Index { label: "y".into(), index: -7, rows: 2 });
    }
}

#[test]
fn what_is_not_finite_is_found_on_the_device() {
    let folder = Folder::new("finite");
    let bad = Arc::new(AtomicBool::new(false));
    let switch = bad.clone();
    let faked = Faked::new(1 << 20, true, move |name, _, given| {
        if name.starts_with("finite_") && switch.load(Ordering::Relaxed) {
            memory(given, 1).copy_from_slice(&3u64.to_le_bytes());
        }
    });
    let device = device(&folder, &faked);
    let mut runner = prepared(&device, plans(SPLIT));
    let mut kept = runner.kept(0).unwrap();
    let x = [numbers([4, 8], 1)];
    for found in [true, false] {
        bad.store(!found, Ordering::Relaxed);
        run(&mut *runner, 0, &x, Some(&mut kept), None).unwrap();
        assert_eq!(kept.finite(), Some(found));
        let (_, finite) = run(&mut *runner, 1, &x, Some(&mut kept), None).unwrap();
        assert_eq!(finite, Some(found));
    }
}

#[test]
fn a_run_stops_with_at_most_two_graphs_under_way() {
    let (folder, stop) = (Folder::new("stop"), Arc::new(AtomicBool::new(false)));
    for late in [false, true] {
        let count = Arc::new(AtomicUsize::new(0));
        let (counted, flag) = (count.clone(), stop.clone());
        let faked = Faked::new(1 << 20, late, move |_, _, _| {
            if counted.fetch_add(1, Ordering::Relaxed) == 1 {
                flag.store(true, Ordering::Relaxed);
            }
        });
        let device = device(&folder, &faked);
        let mut runner = prepared(&device, vec![step()]);
        let mut states = runner.states(0).unwrap();
        stop.store(false, Ordering::Relaxed);
        let given = inputs([0; 4]);
        let done = with_stop(&stop, || run(&mut *runner, 0, &given, None, Some(&mut states)));
        assert_eq!(done.unwrap_err(), RunError::Stopped);
        let launched = count.load(Ordering::Relaxed);
        assert!(launched <= 4, "{launched} of 11 were launched");
        stop.store(false, Ordering::Relaxed);
        with_stop(&stop, || run(&mut *runner, 0, &given, None, Some(&mut states))).unwrap();
    }
}

#[test]
fn a_device_that_is_lost_says_so_and_everything_is_given_back() {
    let folder = Folder::new("lost");
    for (call, after) in
        [("launch_graph", 2), ("wait_for", 1), ("wait", 0), ("launch", 3), ("upload", 1)]
    {
        let faked = idle(true);
        let device = device(&folder, &faked);
        let mut runner = prepared(&device, vec![step()]);
        let mut states = runner.states(0).unwrap();
        faked.fail(call, after, Trouble::Lost);
        let error = run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states)).unwrap_err();
        let RunError::Failed { fault, .. } = error else { panic!("{call}: {error:?}") };
        assert_eq!((fault.code, &*fault.message), ("E0862", "cuda:0 was lost while it worked"));
        // States cannot be read any more, and are shown as NaN.
        states.read(0, &mut |bytes| assert!(bytes.iter().all(|byte| *byte == 0xFF), "{call}"));
        let again = run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states)).unwrap_err();
        assert!(matches!(again, RunError::Failed { fault, .. } if fault.code == "E0862"));
        drop((runner, states, device));
        assert_eq!(faked.held(), [0; 5], "{call}");
    }
}

#[test]
fn a_recording_that_fails_is_given_up_and_tried_again() {
    let (folder, faked) = (Folder::new("recording"), idle(true));
    let device = device(&folder, &faked);
    let mut runner = prepared(&device, vec![step()]);
    let mut states = runner.states(0).unwrap();
    for (call, after) in [("launch", 4), ("end_capture", 3), ("begin_capture", 1)] {
        faked.fail(call, after, Trouble::Other);
        let error = run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states)).unwrap_err();
        let RunError::Failed { fault, .. } = error else { panic!("{error:?}") };
        assert_eq!((fault.code, faked.held()[4]), ("E0860", 0), "{call}");
    }
    run(&mut *runner, 0, &inputs([0; 4]), None, Some(&mut states)).unwrap();
    assert_eq!(faked.held()[4], 6);
}

#[test]
fn memory_that_the_device_does_not_have_is_told_by_how_much() {
    let folder = Folder::new("memory");
    let split = plans(SPLIT);
    let named: Vec<&Plan> = split.iter().collect();
    let load =
        |device: &Arc<Gpu>| device.clone().load(&named, Arc::new(weights()), &mut |_, _| true);
    // The weight takes 3328 bytes with its gap.
    let faked = Faked::new(3000, true, |_, _, _| {});
    let error = load(&device(&folder, &faked)).err().unwrap();
    let LoadError::Failed(fault) = error else { panic!("{error}") };
    assert_eq!(fault.code, "E0603");
    assert_eq!(fault.message, "weights take 3328 B, 328 B more than cuda:0 has left");
    assert_eq!(faked.held(), [0; 5]);
    let faked = Faked::new(5000, true, |_, _, _| {});
    let loaded = load(&device(&folder, &faked)).unwrap();
    let LoadError::Failed(fault) = loaded.prepare(split.clone()).err().unwrap() else { panic!() };
    assert_eq!(fault.code, "E0603");
    assert!(fault.message.starts_with("inputs and outputs take"), "{}", fault.message);
    assert_eq!(faked.held()[..2], [0; 2]);
    // What outlives a run says what is free.
    let faked = Faked::new(1 << 20, true, |_, _, _| {});
    let runner = prepared(&device(&folder, &faked), split.clone());
    faked.fail("allocate", 0, Trouble::Memory);
    let refused = runner.kept(1).err().unwrap();
    assert_eq!(refused.bytes, 192);
    assert!(refused.free.is_some_and(|free| free < 1 << 20));
}

#[test]
fn weights_arrive_whole_through_two_pieces_in_turns() {
    let folder = Folder::new("weights");
    for late in [false, true] {
        let faked = Faked::new(1 << 20, late, |_, _, _| {});
        let device = device(&folder, &faked);
        let split = plans(SPLIT);
        let named: Vec<&Plan> = split.iter().collect();
        let mut told = Vec::new();
        let loaded = load::load(&device, &named, &weights(), &mut |done, total| {
            told.push((done, total));
            true
        });
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(told, [(0, 3200), (1024, 3200), (2048, 3200), (3072, 3200), (3200, 3200)]);
        let sent = "upload record upload record wait_for upload record wait_for upload record wait";
        assert!(short(&faked.log()).contains(sent));
        let mut seen = memory::Pinned::new(&device, 3200).unwrap();
        // SAFETY: it is looked at behind the wait.
        unsafe { seen.download(0, loaded.span("long", false)).unwrap() };
        device.driver.wait().unwrap();
        assert_eq!(seen.bytes(), numbers([40, 40], 3).cast(DType::Bf16).bytes());
    }
}

#[test]
fn weights_that_are_missing_wrong_or_not_wanted_any_more_are_errors() {
    let (folder, faked) = (Folder::new("faults"), idle(true));
    let device = device(&folder, &faked);
    let split = plans(SPLIT);
    let named: Vec<&Plan> = split.iter().collect();
    let load = |stored: Stored, go: bool| {
        device.clone().load(&named, Arc::new(stored), &mut |_, _| go).err().unwrap()
    };
    assert_eq!(load(Stored::default(), true), LoadError::Missing("long".into()));
    let short = Stored(vec![("long", numbers([40], 0))]);
    assert!(matches!(load(short, true), LoadError::Size { bytes: 160, .. }));
    assert_eq!(load(weights(), false), LoadError::Stopped);
    faked.fail("record", 2, Trouble::Lost);
    assert!(matches!(load(weights(), true), LoadError::Failed(fault) if fault.code == "E0862"));
    drop(device);
    assert_eq!(faked.held(), [0; 5]);
}

#[test]
fn code_is_compiled_once_and_what_is_damaged_old_or_refused_is_compiled_again() {
    let folder = Folder::new("code");
    let compiler = Counting::default();
    let made = || compiler.made.swap(0, Ordering::Relaxed);
    let prepare = |compiler: &Counting, compiled: &str| {
        let faked = idle(true);
        let device = device_of(&folder, &faked, compiler.clone(), compiled, Launching::Graphs);
        drop(prepared(&device, vec![step()]));
        drop(prepared(&device, vec![step()]));
    };
    // Five kernels, and one that looks at numbers.
    prepare(&compiler, "sm_80");
    assert_eq!(made(), 6);
    prepare(&compiler, "sm_80");
    assert_eq!(made(), 0, "it was kept");
    let newer = Counting { version: "2", ..compiler.clone() };
    prepare(&newer, "sm_80");
    assert_eq!(made(), 6, "by another version");
    prepare(&compiler, "sm_89");
    assert_eq!(made(), 6, "for another architecture");
    let files = || -> Vec<PathBuf> {
        let all = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|end| end == "cubin")).collect()
    };
    assert_eq!(files().len(), 18);
    for file in files() {
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    prepare(&compiler, "sm_80");
    assert_eq!(made(), 6, "it was damaged");
    // Whole, and still nothing that the driver takes.
    let cache = Cache::open(KEPT, folder.0.to_str()).unwrap();
    for file in files() {
        let key = file.file_stem().unwrap().to_string_lossy().into_owned();
        cache.write(&key, b"of another time").unwrap();
    }
    prepare(&compiler, "sm_80");
    assert_eq!(made(), 6, "the driver refused it");
}

#[test]
fn code_that_cannot_be_made_or_loaded_is_an_error() {
    let (folder, faked) = (Folder::new("refused"), idle(true));
    let prepare = |device: &Arc<Gpu>| {
        let plan = step();
        let loaded = device.clone().load(&[&plan], Arc::new(weights()), &mut |_, _| true).unwrap();
        match loaded.prepare(vec![plan]).err().expect("it fails") {
            LoadError::Failed(fault) => fault,
            other => panic!("{other}"),
        }
    };
    let unknown = device_of(&folder, &faked, Counting::default(), "sm_199", Launching::Graphs);
    assert_eq!(prepare(&unknown).code, "E0857");
    let old = device(&folder, &faked);
    faked.fail("module", 1, Trouble::Image);
    faked.fail("module", 1, Trouble::Image);
    let fault = prepare(&old);
    assert_eq!(fault.code, "E0861");
    assert!(fault.place.expect("the kernel is named").starts_with("kernel "));
}

#[test]
fn code_that_cannot_be_kept_is_compiled_by_every_process() {
    let (folder, compiler) = (Folder::new("unkept"), Counting::default());
    let made = || compiler.made.swap(0, Ordering::Relaxed);
    let opened = || {
        let (compiler, how) = (compiler.clone(), Launching::Graphs);
        device_of(&folder, &idle(true), compiler, "sm_80", how)
    };
    // The folder goes while the device is open.
    let device = opened();
    std::fs::remove_dir_all(&folder.0).unwrap();
    drop(prepared(&device, vec![step()]));
    assert_eq!(made(), 6);
    // It cannot be made.
    std::fs::write(&folder.0, b"a file").unwrap();
    let device = opened();
    drop(prepared(&device, vec![step()]));
    drop(prepared(&device, vec![step()]));
    assert_eq!(made(), 6, "once for the device");
    std::fs::remove_file(&folder.0).unwrap();
}

#[test]
fn a_gpu_that_is_not_there_is_told_in_words_and_with_a_code() {
    let open = |name: &str, settings: Settings| match Registry::default().open(name, &settings) {
        Err(error) => error,
        Ok(_) => panic!("{name} was opened"),
    };
    let error = open("cuda:0", Settings::default().with(GRAPHS, "some"));
    assert!(matches!(error, OpenError::Setting { name: "graphs", .. }), "{error:?}");
    assert_eq!(error.to_string(), "unknown way of launching: use on, off or wait");
    // Whatever there is, these are no numbers.
    for name in ["cuda:-1", "cuda:", "cuda:sm_80", "cuda:+0", "cuda:00"] {
        let error = open(name, Settings::default());
        assert!(matches!(&error, OpenError::NotThere(why) if why.contains("cuda:0")), "{error:?}");
    }
    // Where there are GPUs, this one is not among them.
    match open("cuda:4096", Settings::default()) {
        OpenError::NotThere(why) => assert!(why.contains("cuda"), "{why}"),
        OpenError::Failed(fault) => {
            assert!(["E0858", "E0859", "E0860"].contains(&fault.code), "{fault:?}");
        }
        other => panic!("{other:?}"),
    }
    let nowhere = Settings::default().with(NVRTC, "/nowhere");
    match open("cuda:0", nowhere) {
        OpenError::Failed(fault) => {
            let known = ["E0853", "E0856", "E0858", "E0859", "E0860"];
            assert!(known.contains(&fault.code), "{fault:?}");
        }
        OpenError::NotThere(_) => {}
        other => panic!("{other:?}"),
    }
    let fault = kernels::Compiler::find(Some("/nowhere"), (13, 0)).err().unwrap();
    assert_eq!(fault.code, "E0856");
    assert!(fault.help.unwrap().contains("ANYID_NVRTC"));
}

#[test]
fn what_is_measured_is_measured_and_given_back() {
    let (folder, faked) = (Folder::new("speed"), idle(true));
    let device = device(&folder, &faked);
    let measured = device.throughput(Duration::from_millis(1));
    assert!(measured.f32_gflops > 0.0 && measured.copy_gb_per_second > 0.0);
    assert!(measured.bf16_gflops.is_some_and(|rate| rate > 0.0));
    let [memory, pinned, _, events, graphs] = faked.held();
    assert_eq!([memory, pinned, events, graphs], [0; 4]);
    // A device that refuses tells nothing, and what runs next says why.
    faked.fail("allocate", 0, Trouble::Memory);
    assert_eq!(device.throughput(Duration::from_millis(1)).f32_gflops, 0.0);
}

/// Kernels that are executed: what the device gives is what the emulated device gives.
#[cfg(feature = "cuda-emulator")]
mod executed {
    use super::*;
    use crate::cuda::emit::{Architecture, Grid};
    use crate::cuda::emulator::stand_in::StandIn;
    use anyid_ir::TensorType;

    /// A driver that executes kernels; `None` where there is no compiler.
    fn executing(folder: &Folder, architecture: Architecture, all: &[Plan]) -> Option<Faked> {
        let libraries = folder.0.join("libraries");
        let stand_in = StandIn::open(libraries.to_str()?)?;
        let mut emitted: Vec<Emitted> =
            all.iter().flat_map(|plan| launches::emitted(plan, architecture)).collect();
        let floats = [DType::F32, DType::Bf16].map(|dtype| TensorType::new(dtype, [1]));
        emitted.extend(finite::kernels(floats.iter()));
        stand_in.load(emitted.iter());
        Some(Faked::new(1 << 24, true, move |name, grid: Grid, given: &[Parameter]| {
            // SAFETY: the faked driver has checked the memory, and runs one kernel at a time.
            unsafe { stand_in.launch(name, grid, given) };
        }))
    }

    /// The same device with kernels of another architecture.
    fn opened(folder: &Folder, faked: &Faked, architecture: Architecture) -> Arc<Gpu> {
        let mut device = device(folder, faked);
        let own = Arc::get_mut(&mut device).expect("nobody else has it");
        let capability = if architecture == Architecture::Sm90a { (9, 0) } else { (8, 0) };
        let kernels = choose::kernels("a GPU", capability).unwrap();
        let cache = Cache::open(KEPT, folder.0.to_str()).ok();
        own.kernels = Kernels::new(kernels, Box::new(Counting::default()), cache);
        device
    }

    fn emulated(architecture: Architecture, folder: &Folder) -> Arc<dyn Device> {
        let name = format!("cuda-emulated:{}", architecture.name());
        let settings = Settings::default().with("order", "ascending");
        let cache = folder.0.join("emulated");
        let settings = settings.with("cache", cache.to_str().expect("a name in Unicode"));
        Registry::default().open(&name, &settings).unwrap_or_else(|error| panic!("{error}"))
    }

    fn emulated_runner(device: &Arc<dyn Device>, plans: Vec<Plan>) -> Box<dyn Runner> {
        let named: Vec<&Plan> = plans.iter().collect();
        let loaded = device.clone().load(&named, Arc::new(weights()), &mut |_, _| true);
        loaded.unwrap_or_else(|error| panic!("{error}")).prepare(plans).unwrap()
    }

    fn bytes(tensors: &[Tensor]) -> Vec<&[u8]> {
        tensors.iter().map(Tensor::bytes).collect()
    }

    fn read(arena: &dyn Arena) -> Vec<u8> {
        let mut out = Vec::new();
        arena.read(0, &mut |bytes| out.extend_from_slice(bytes));
        out
    }

    #[test]
    fn plans_give_the_bits_of_the_emulated_device_and_states_stay() {
        let folder = Folder::new("executed");
        for architecture in Architecture::ALL {
            let Some(faked) = executing(&folder, architecture, &[step()]) else {
                println!("skipped: there is no C++ compiler");
                return;
            };
            let device = opened(&folder, &faked, architecture);
            let mut ours = prepared(&device, vec![step()]);
            let other = emulated(architecture, &folder);
            let mut theirs = emulated_runner(&other, vec![step()]);
            let [mut own, mut their] = [ours.states(0).unwrap(), theirs.states(0).unwrap()];
            assert_eq!(read(&*own), vec![0; 128], "zero at first");
            let start = numbers([4, 8], 9);
            own.write(0, start.bytes());
            their.write(0, start.bytes());
            for (seed, rows) in [[0, 1, 0, 1], [1, 1, 0, 0]].into_iter().enumerate() {
                let mut given = inputs(rows);
                given[0] = numbers([4, 8], 20 + seed);
                ours.fill(0xFF);
                let (a, finite) = run(&mut *ours, 0, &given, None, Some(&mut own)).unwrap();
                let (b, _) = run(&mut *theirs, 0, &given, None, Some(&mut their)).unwrap();
                assert_eq!(bytes(&a), bytes(&b), "run {seed}");
                assert_eq!(finite, Some(true));
                assert_eq!(read(&*own), read(&*their), "the state after run {seed}");
            }
            for (row, wrong) in [(1, 2), (3, -1)] {
                let mut rows = [0; 4];
                rows[row] = wrong;
                let error = run(&mut *ours, 0, &inputs(rows), None, Some(&mut own)).unwrap_err();
                let index = i64::from(wrong);
                assert_eq!(error, RunError::Index { label: "y".into(), index, rows: 2 });
            }
            let mut given = inputs([0; 4]);
            given[0].bytes_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            let (_, finite) = run(&mut *ours, 0, &given, None, Some(&mut own)).unwrap();
            assert_eq!(finite, Some(false));
        }
    }

    #[test]
    fn what_prepare_keeps_is_there_for_every_step_and_is_looked_at_on_the_device() {
        let folder = Folder::new("split");
        let all = plans(SPLIT);
        let Some(faked) = executing(&folder, Architecture::Sm80, &all) else {
            println!("skipped: there is no C++ compiler");
            return;
        };
        let device = opened(&folder, &faked, Architecture::Sm80);
        let mut ours = prepared(&device, all);
        let [mut first, mut second] = [ours.kept(0).unwrap(), ours.kept(0).unwrap()];
        // What lies between the values may hold anything.
        first.fill(0xFF);
        second.fill(0xFF);
        let x = [numbers([4, 8], 1)];
        let y = [numbers([4, 8], 2)];
        run(&mut *ours, 0, &x, Some(&mut first), None).unwrap();
        run(&mut *ours, 0, &y, Some(&mut second), None).unwrap();
        assert_eq!((first.finite(), second.finite()), (Some(true), Some(true)));
        let silu = |x: f64| x / (1.0 + (-x).exp());
        for (one, from) in [(true, &x), (false, &y), (true, &x)] {
            let kept = if one { &mut first } else { &mut second };
            let (made, finite) = run(&mut *ours, 1, &y, Some(kept), None).unwrap();
            assert_eq!(finite, Some(true));
            for ((made, a), b) in
                made[0].to_f64_vec().iter().zip(y[0].to_f64_vec()).zip(from[0].to_f64_vec())
            {
                assert!((made - (a + silu(b))).abs() < 1e-6, "{made} {a} {b}");
            }
            let wide = numbers([40, 40], 3).cast(DType::Bf16).cast(DType::F32);
            assert_eq!(made[1].bytes(), wide.bytes(), "the weight came whole");
        }
        let bad = Tensor::from_f32([4, 8], &[f32::INFINITY; 32]).unwrap();
        run(&mut *ours, 0, &[bad], Some(&mut first), None).unwrap();
        assert_eq!((first.finite(), second.finite()), (Some(false), Some(true)));
        let (_, finite) = run(&mut *ours, 1, &y, Some(&mut first), None).unwrap();
        assert_eq!(finite, Some(false));
    }

    #[test]
    fn values_are_shown_and_the_workspace_can_be_looked_at() {
        let folder = Folder::new("shown");
        let Some(faked) = executing(&folder, Architecture::Sm80, &[step()]) else {
            println!("skipped: there is no C++ compiler");
            return;
        };
        let device = opened(&folder, &faked, Architecture::Sm80);
        let mut ours = prepared(&device, vec![step()]);
        let other = emulated(Architecture::Sm80, &folder);
        let mut theirs = emulated_runner(&other, vec![step()]);
        let shown = |runner: &mut dyn Runner| {
            let mut seen = Vec::new();
            let mut states = runner.states(0).unwrap();
            let given = inputs([1, 0, 1, 0]);
            let given: Vec<&[u8]> = given.iter().map(Tensor::bytes).collect();
            let plan = runner.plan(0);
            let sizes = plan.outputs.iter().map(|port| plan.buffer(port.buffer).ty.bytes());
            let mut made: Vec<Vec<u8>> = sizes.map(|bytes| vec![0; bytes as usize]).collect();
            let mut taken: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
            let mut look = |label: &str, tensor: &Tensor| {
                seen.push((label.to_owned(), tensor.clone()));
            };
            let call = Call {
                inputs: &given,
                outputs: &mut taken,
                states: Some(&mut *states),
                trace: Some(&mut look),
                ..Call::default()
            };
            runner.run(0, call).unwrap();
            seen
        };
        let seen = shown(&mut *ours);
        let labels: Vec<&str> = seen.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["h", "mean", "y", "q", "k", "a", "s", "last", "next"]);
        assert_eq!(seen, shown(&mut *theirs));
        let mut bytes = [0; 128];
        ours.workspace(320, &mut bytes);
        assert_eq!(bytes[..], *seen[4].1.bytes(), "k lies at byte 320");
    }
}
