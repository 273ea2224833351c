//! When every launch ran, as a file that Perfetto and chrome://tracing open.
//!
//! One event a launch with its kernel, label, bytes and operations, inside one event for the run of
//! its phase; the device tells the times after a run. Off, nobody asks for them. On, a run of a phase
//! allocates a list of times before its first launch; what a kernel does is not changed.

use crate::error::Result;
use anyid_backends::device::LaunchTime;
use anyid_ir::plan::Plan;
use anyid_passes::cost::step_cost;
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Collects the runs of phases.
pub struct Tracer {
    origin: Instant,
    runs: Mutex<Vec<Run>>,
}

/// What a launch of a phase is.
struct Launch {
    kernel: String,
    label: String,
    flops: u64,
    bytes: u64,
}

/// The launches of a phase.
pub(super) struct Launches {
    phase: String,
    list: Vec<Launch>,
}

/// One run: when each launch began and ended, in nanoseconds.
struct Run {
    launches: Arc<Launches>,
    times: Vec<LaunchTime>,
}

impl Default for Tracer {
    fn default() -> Self {
        Self { origin: Instant::now(), runs: Mutex::default() }
    }
}

impl Tracer {
    /// A tracer whose time begins now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// When it was made.
    pub(super) fn origin(&self) -> Instant {
        self.origin
    }

    pub(super) fn launches(phase: &str, plan: &Plan) -> Arc<Launches> {
        let launch = |step: &anyid_ir::plan::Step| {
            let cost = step_cost(plan, step);
            let (kernel, label) = (step.kind().to_owned(), step.label().to_owned());
            Launch { kernel, label, flops: cost.flops, bytes: cost.bytes }
        };
        let list = plan.steps.iter().map(launch).collect();
        Arc::new(Launches { phase: phase.to_owned(), list })
    }

    /// Keeps a run that may have ended early.
    pub(super) fn record(&self, launches: &Arc<Launches>, times: &[LaunchTime]) {
        let run = Run { launches: launches.clone(), times: times.to_vec() };
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).push(run);
    }

    /// Everything so far in the trace event format.
    pub fn to_json(&self) -> String {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = vec![json!({
            "name": "process_name", "ph": "M", "pid": 1, "tid": 1,
            "args": { "name": "anyid-rt" },
        })];
        let event = |name: &str, category: &str, from: u64, to: u64, args: serde_json::Value| {
            // Microseconds.
            let [ts, dur] = [from, to - from].map(|nanoseconds| nanoseconds as f64 / 1e3);
            json!({
                "name": name, "cat": category, "ph": "X", "ts": ts, "dur": dur,
                "pid": 1, "tid": 1, "args": args,
            })
        };
        for run in runs.iter() {
            let Some(begin) = run.times.iter().map(|time| time.begin).min() else { continue };
            let end = run.times.iter().map(|time| time.end).max().unwrap_or(begin);
            let launched = json!({ "launches": run.times.len() });
            events.push(event(&run.launches.phase, "phase", begin, end, launched));
            for time in &run.times {
                let Launch { kernel, label, flops, bytes } = &run.launches.list[time.step];
                let args = json!({ "label": label, "flops": flops, "bytes": bytes });
                events.push(event(kernel, "launch", time.begin, time.end, args));
            }
        }
        let mut out = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
        let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
        out.push_str(&lines.join(",\n"));
        out.push_str("\n]}\n");
        out
    }

    /// Writes [`Self::to_json`].
    ///
    /// # Errors
    /// E101x where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::init::write_bytes(path, self.to_json().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Backend, Compiler, Inputs};
    use crate::weights::ModelWeights;
    use anyid_ir::{DType, FuncBuilder, Module, Op, Tensor, TensorType};

    #[test]
    fn every_launch_is_an_event_inside_its_phase() {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "main");
        let x = f.param("x", TensorType::new(DType::F32, [4, 8]));
        let a = f.op("a", Op::Silu, &[x], None);
        let b = f.pad("b", a, 0, 1, 0);
        let func = f.finish(&[b]);
        module.add(func);
        let tracer = Tracer::new();
        let backend = Backend::open("cpu", 1).unwrap().traced(tracer.clone());
        let set = crate::checkpoint::WeightSet::from_checkpoints(Vec::new()).unwrap();
        let weights = Arc::new(ModelWeights::as_named(set));
        let compiler = Compiler::new(&backend).phase("main", &module, "main").unwrap();
        let mut program = compiler.load(weights, &mut |_, _| true).unwrap();
        let tensor = Tensor::zeros(TensorType::new(DType::F32, [4, 8]));
        for _ in 0..2 {
            program.call("main", &Inputs::new().all([("x", &tensor)])).unwrap();
        }
        let value: serde_json::Value = serde_json::from_str(&tracer.to_json()).unwrap();
        let events = value["traceEvents"].as_array().unwrap();
        let named = |name: &str| -> Vec<&serde_json::Value> {
            events.iter().filter(|event| event["name"] == name).collect()
        };
        assert_eq!(events.len(), 1 + 2 * 3);
        let (phases, pads) = (named("main"), named("pad"));
        assert_eq!((phases.len(), pads.len()), (2, 2));
        for (phase, pad) in phases.iter().zip(pads) {
            let at = |event: &serde_json::Value| {
                let [ts, dur] = ["ts", "dur"].map(|field| event[field].as_f64().unwrap());
                (ts, ts + dur)
            };
            assert!(at(phase).0 <= at(pad).0 && at(pad).1 <= at(phase).1 + 1e-3);
            assert_eq!(pad["args"]["label"], "main/b");
            assert_eq!(pad["args"]["bytes"], (32 + 40) * 4);
            assert_eq!(phase["args"]["launches"], 2);
        }
    }
}
