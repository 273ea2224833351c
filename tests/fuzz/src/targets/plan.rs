//! Plan files, executed.
//!
//! The text behind the header is changed and the header made to agree, so that what is tried is the
//! verifier and not the checksum. What is accepted is loaded and run as the command line runs it,
//! twice; then without the runtime in memory full of one byte and of another. All four runs must
//! give the same bits: whoever reads what was not written, or beside its memory, gives others.

use super::programs::{WORDS, is_small, modules, stored, values};
use super::{corpus, refused};
use crate::engine::{Outcome, Target, Verdict};
use crate::memory::fill_strips;
use crate::mutate;
use crate::rng::Rng;
use anyid_backends::Device;
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::{Module, Tensor};
use anyid_passes::CompileRequest;
use anyid_runtime::engine::{Compiler, PlanFile};
use anyid_runtime::{Backend, Error, Inputs};
use anyid_tests::devices;
use anyid_tests::plans::{Named, Plans, Stored};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// The target.
pub struct PlanFiles {
    backend: Backend,
    device: Arc<dyn Device>,
    /// The header up to the hash of the weights.
    header: String,
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn phases(module: &Module) -> Option<Vec<Vec<Plan>>> {
    let main = module.main()?;
    let mut out = vec![vec![CompileRequest::new(module, &main.name).plan().ok()?]];
    let first = main.param_types().next().map(|(name, _)| name.to_owned());
    if let Some(split) =
        first.and_then(|name| CompileRequest::new(module, &main.name).varying([&name]).split().ok())
    {
        out.push(split.to_vec());
    }
    Some(out)
}

impl PlanFiles {
    /// The target.
    pub fn new() -> Self {
        let backend = devices::first_backend(1);
        let device = backend.device().clone();
        let plan = phases(&modules(1)[0]).expect("it compiles").remove(0);
        let file = PlanFile::new(backend.target(), plan).unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8(file.to_bytes()).expect("plans are text");
        let (header, _) = text.split_once(" weights=").expect("the header names weights");
        Self { backend, device, header: header.to_owned() }
    }

    /// The file of these plans as text.
    fn signed(&self, body: &[u8]) -> Vec<u8> {
        let mut weights = String::new();
        if let Ok(plans) =
            std::str::from_utf8(body).map_err(drop).and_then(|text| parse_plans(text).map_err(drop))
        {
            let all = plans.iter().flat_map(|plan| &plan.weights);
            let by_name: BTreeMap<&str, _> = all.map(|w| (w.name.as_str(), w)).collect();
            for weight in by_name.values() {
                let _ = writeln!(weights, "{} : {}", weight.name, weight.ty);
            }
        }
        let header = format!(
            "{} weights={} bytes={} sha256={}\n",
            self.header,
            hash(weights.as_bytes()),
            body.len(),
            hash(body)
        );
        [header.as_bytes(), body].concat()
    }
}

impl Target for PlanFiles {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("plan");
        let compiled = modules(120);
        for plans in compiled.iter().filter_map(phases).flatten() {
            let text = print_plans(&plans);
            if text.len() < 6000 {
                out.push(text.into_bytes());
            }
        }
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::text(rng, data, self.words(), other);
        if !rng.once_in(8) {
            mend(data);
        }
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let file = match PlanFile::from_bytes(&self.signed(data), self.backend.target()) {
            Ok(file) => file,
            Err(error) => return refused(&error),
        };
        let printed = file.to_bytes();
        match PlanFile::from_bytes(&printed, self.backend.target()) {
            // Bytes rather than plans: a NaN is not equal to itself.
            Ok(again) if again.to_bytes() == printed => {}
            _ => return Err("printed again it is another plan".to_owned()),
        }
        if !file.phases().iter().all(is_small) {
            return Ok(Verdict::Refused("too large to run here".to_owned()));
        }
        match self.execute(file) {
            Ok(()) => Ok(Verdict::Taken),
            Err(Fault::Error(error)) => refused(&error),
            Err(Fault::Words(words)) => Err(words),
        }
    }
}

/// Writes the sizes of memory that the plans have into their text: a change would often be refused
/// for them alone. Text that cannot be read stays.
fn mend(data: &mut Vec<u8>) {
    let Ok(Ok(mut plans)) = std::str::from_utf8(data).map(parse_plans) else { return };
    for plan in &mut plans {
        let Some(known) = checked(plan) else { return };
        *plan = known;
    }
    *data = print_plans(&plans).into_bytes();
}

/// The plan with its sizes as its buffers have them.
fn checked(plan: &Plan) -> Option<Plan> {
    // What the numbers mean is only known of plans whose ids are in range, which text ensures.
    let place = |id| plan.buffers.get(id).is_some();
    let ids = plan.steps.iter().flat_map(|step| step.reads().iter().chain(step.results()));
    let ports = plan.inputs.iter().chain(&plan.outputs).map(|port| &port.buffer);
    let states = plan.states.iter().flat_map(|s| s.before.iter().chain([&s.after]));
    if !ids.chain(ports).chain(states).all(|id| place(*id)) {
        return None;
    }
    let small = |bytes: u64| bytes < 1 << 56;
    if !plan.buffers.iter().all(|(_, b)| small(b.offset)) {
        return None;
    }
    let mut out = plan.clone();
    out.workspace_bytes = anyid_ir::plan_live::workspace(plan);
    (out.lower_bound_bytes, out.naive_bytes) = anyid_ir::plan_live::bounds(plan);
    Some(out)
}

enum Fault {
    Error(Error),
    Words(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<String> for Fault {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl PlanFiles {
    fn execute(&self, file: PlanFile) -> Result<(), Fault> {
        let (split, plans) = (file.split(), file.phases().to_vec());
        let weights = stored(plans.iter().flat_map(|plan| &plan.weights), 0);
        let mut inputs: Named = Vec::new();
        for plan in &plans {
            for port in &plan.inputs {
                let ty = &plan.buffer(port.buffer).ty;
                if !inputs.iter().any(|(name, t)| *name == port.name && t.ty() == ty) {
                    inputs.push((port.name.clone(), values(&port.name, ty, 0)));
                }
            }
        }
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
        fill_strips(0xA5);
        let compiler = Compiler::new(&self.backend).phases_of(file);
        let mut program = compiler.load(Arc::new(weights.clone()), &mut |_, _| true)?;
        let mut first: Vec<Vec<(String, Tensor)>> = Vec::new();
        for round in 0..2 {
            let mut results = Vec::new();
            if split {
                let mut prepared = program.prepare(&Inputs::new().all(given.iter().copied()))?;
                for _ in 0..2 {
                    let mut outputs = program.outputs("step")?;
                    let inputs = Inputs::new().all(given.iter().copied());
                    program.step(&mut prepared, &inputs, &mut outputs)?;
                    results.push(owned(outputs));
                }
            } else {
                for plan in &plans {
                    // States begin with zeros here.
                    let mut states = program.states(&plan.name)?;
                    let inputs = Inputs::new().all(given.iter().copied());
                    let outputs = program.call_with_states(&plan.name, &inputs, &mut states)?;
                    results.push(owned(outputs));
                }
            }
            if round == 0 {
                first = results;
            } else if first != results {
                return Err("a second run gives other results".to_owned().into());
            }
        }
        drop(program);
        for garbage in [0xFF, 0x3C] {
            fill_strips(garbage);
            let again = bare(&self.device, &plans, &weights, &inputs, garbage)?;
            fill_strips(0xA5);
            // Without the runtime states hold garbage at first, and the plans say what they read.
            let plain = plans.iter().all(|plan| plan.states.iter().all(|s| s.before.is_none()));
            let steps = if split { &again[1..] } else { &again[..] };
            if plain && !steps.iter().zip(&first).all(|(a, b)| a == b) {
                return Err(format!("in memory full of {garbage:#x} the results are others").into());
            }
        }
        Ok(())
    }
}

fn owned(outputs: anyid_runtime::Outputs) -> Named {
    let names: Vec<String> = outputs.iter().map(|(name, _)| name.into_owned()).collect();
    names.into_iter().zip(outputs.into_tensors()).collect()
}

/// The plans one after the other without the runtime.
fn bare(
    device: &Arc<dyn Device>,
    plans: &[Plan],
    weights: &Stored,
    inputs: &Named,
    garbage: u8,
) -> Result<Vec<Named>, String> {
    let list: Vec<&Plan> = plans.iter().collect();
    let mut loaded =
        Plans::new(device, &list, weights.shared(), garbage).map_err(|e| e.to_string())?;
    let run = |at| loaded.run(at, inputs).map_err(|error| format!("{error:?}"));
    (0..plans.len()).map(run).collect()
}
