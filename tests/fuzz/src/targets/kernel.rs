//! Kernel text: read, verified, printed and read again; row kernels that pass are run.

use super::programs::{WORDS, is_small, modules, values};
use super::{corpus, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::memory::fill_strips;
use crate::mutate;
use crate::rng::Rng;
use anyid_backends::Device;
use anyid_ir::Kernel;
use anyid_ir::kernel::text::{parse_kernels, print_kernels};
use anyid_ir::plan::{Buffer, Plan, Port, Root, Step};
use anyid_ir::plan_text::distinct_kernels;
use anyid_ir::plan_verify::verify_plan;
use anyid_passes::CompileRequest;
use anyid_tests::devices;
use anyid_tests::plans::{Named, Stored, run_plan};
use std::sync::Arc;

/// The target.
pub struct Kernels {
    device: Arc<dyn Device>,
}

impl Kernels {
    /// The target.
    pub fn new() -> Self {
        Self { device: devices::first(1) }
    }
}

impl Target for Kernels {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("kernel");
        for file in shared("ir/kernels") {
            let text = String::from_utf8_lossy(&file).into_owned();
            let first = text.split("\n==").next().unwrap_or_default();
            out.push(first.as_bytes().to_vec());
        }
        for module in modules(60) {
            let Some(main) = module.main() else { continue };
            let Ok(plan) = CompileRequest::new(&module, &main.name).plan() else { continue };
            for kernel in distinct_kernels(&plan) {
                let text = print_kernels([kernel]).into_bytes();
                if !out.contains(&text) {
                    out.push(text);
                }
            }
        }
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::text(rng, data, self.words(), other);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else {
            return Ok(Verdict::Refused("not UTF-8".to_owned()));
        };
        let kernels = match parse_kernels(text) {
            Ok(kernels) => kernels,
            Err(found) => {
                let words: Vec<&str> = found.message.split(' ').take(2).collect();
                return Ok(Verdict::Refused(format!("{} {}", found.code, words.join(" "))));
            }
        };
        let printed = print_kernels(&kernels);
        let again = parse_kernels(&printed)
            .map_err(|found| format!("printed it cannot be read: {}\n{printed}", found.message))?;
        if print_kernels(&again) != printed {
            return Err(format!("printed again it is another text\n{printed}"));
        }
        let mut broken = None;
        for kernel in &kernels {
            match kernel.verify() {
                Ok(()) => self.execute(kernel)?,
                Err(rule) => {
                    let words: Vec<&str> = rule.split(' ').skip(1).take(2).collect();
                    broken = Some(words.join(" "));
                }
            }
        }
        match broken {
            Some(rule) => Ok(Verdict::Refused(rule)),
            None => Ok(Verdict::Taken),
        }
    }
}

impl Kernels {
    /// Runs a row kernel in memory full of one byte and of another.
    fn execute(&self, kernel: &Kernel) -> Result<(), String> {
        let Kernel::Row(row) = kernel else { return Ok(()) };
        let Some(plan) = plan_of(kernel, &row.operands, &row.results) else { return Ok(()) };
        // Plans have no empty buffers.
        let empty = plan.buffers.iter().any(|(_, buffer)| buffer.ty.elements() == 0);
        if empty || !is_small(&plan) {
            return Ok(());
        }
        if let Some(found) = verify_plan(&plan).first() {
            return Err(format!("a sound kernel in an unsound plan: {}", found.message));
        }
        let inputs: Named = plan
            .inputs
            .iter()
            .map(|port| {
                let ty = &plan.buffer(port.buffer).ty;
                (port.name.clone(), values(&port.name, ty, 0))
            })
            .collect();
        let run = |garbage| {
            fill_strips(garbage);
            let result = run_plan(&self.device, &plan, &Stored::default(), &inputs, garbage);
            fill_strips(0xA5);
            result.map_err(|error| format!("{error:?}"))
        };
        match (run(0xFF), run(0x3C)) {
            (a, b) if a == b => Ok(()),
            _ => Err("other memory gives other results".to_owned()),
        }
    }
}

/// A plan that launches `kernel` once on inputs; `None` where a size passes 64 bits.
fn plan_of(
    kernel: &Kernel,
    operands: &[anyid_ir::TensorType],
    results: &[anyid_ir::TensorType],
) -> Option<Plan> {
    let mut plan = Plan { name: "p".into(), ..Plan::default() };
    let mut step = Step {
        kernel: kernel.clone(),
        operands: smallvec(),
        results: smallvec(),
        labels: Vec::new(),
    };
    for (at, ty) in operands.iter().enumerate() {
        let root = Root::Input(at as u32);
        let buffer = plan.buffers.push(Buffer::dense(ty.clone(), root, 0));
        plan.inputs.push(Port { name: format!("a{at}"), branch: 0, buffer });
        step.operands.push(buffer);
    }
    let mut end = 0u64;
    for (at, ty) in results.iter().enumerate() {
        let root = Root::Workspace;
        let buffer = plan.buffers.push(Buffer::dense(ty.clone(), root, end));
        plan.outputs.push(Port { name: format!("y{at}"), branch: 0, buffer });
        step.results.push(buffer);
        step.labels.push(format!("y{at}"));
        let elements = ty.shape.iter().try_fold(1u64, |n, size| n.checked_mul(*size as u64))?;
        let bytes = elements.checked_mul(ty.dtype.bytes() as u64)?;
        end = end.checked_add(plan.alignment.round_up(bytes))?;
    }
    (plan.workspace_bytes, plan.lower_bound_bytes, plan.naive_bytes) = (end, end, end);
    plan.steps.push(step);
    Some(plan)
}

fn smallvec<V: Default>() -> V {
    V::default()
}
