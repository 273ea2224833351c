//! What a plan needs, for people and programs: memory with its peak explained, launches, work.

use crate::cost;
use anyid_ir::Entity;
use anyid_ir::plan::Plan;
use anyid_ir::plan_live::{Lifetime, lifetimes, live_bytes};

/// A buffer that is in use at the peak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveBuffer {
    /// Scope and name of the value.
    pub name: String,
    /// Its type.
    pub ty: String,
    /// Bytes, rounded up to the alignment.
    pub bytes: u64,
}

/// The step during which most workspace is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peak {
    /// Its position in the plan.
    pub step: usize,
    /// Its label.
    pub label: String,
    /// What it runs; `output` where the outputs are the peak.
    pub kind: String,
    /// What is in use, largest first.
    pub live: Vec<LiveBuffer>,
}

/// Figures of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseSummary {
    /// Name of the phase.
    pub name: String,
    /// Bytes of workspace the plan reserves.
    pub peak_bytes: u64,
    /// Largest sum of live bytes at one step.
    pub lower_bound_bytes: u64,
    /// Sum of all workspace buffers, as if none were reused.
    pub naive_bytes: u64,
    /// Bytes that outlive a run: the sum of `persistent`.
    pub persistent_bytes: u64,
    /// What outlives a run, by class: `prepared` is kept from `prepare` for every `step`, `states`
    /// goes from each run to the next.
    pub persistent: [(&'static str, u64); 2],
    /// Bytes of the weights it reads, all of them resident.
    pub weights_resident_bytes: u64,
    /// Number of steps.
    pub launches: usize,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes_moved: u64,
    /// Those of them that the kernels between products, attention and convolutions move, and that the
    /// ends of these read.
    pub bytes_between: u64,
    /// Where the peak is; `None` for a plan without workspace.
    pub peak: Option<Peak>,
}

impl PhaseSummary {
    /// The figures of `plan`.
    pub fn of(plan: &Plan) -> Self {
        let cost = cost::plan_cost(plan);
        Self {
            name: plan.name.clone(),
            peak_bytes: plan.workspace_bytes,
            lower_bound_bytes: plan.lower_bound_bytes,
            naive_bytes: plan.naive_bytes,
            persistent_bytes: plan.persistent_bytes.saturating_add(plan.state_bytes()),
            persistent: [("prepared", plan.persistent_bytes), ("states", plan.state_bytes())],
            weights_resident_bytes: plan.weight_bytes(),
            launches: plan.steps.len(),
            flops: cost.flops,
            bytes_moved: cost.bytes,
            bytes_between: cost.bytes_between,
            peak: peak(plan),
        }
    }

    /// Workspace over lower bound: 1 is the least possible; 1 for a plan without workspace.
    pub fn ratio(&self) -> f64 {
        match self.lower_bound_bytes {
            0 => 1.0,
            bound => self.peak_bytes as f64 / bound as f64,
        }
    }
}

/// The label of what a step wrote; a state's old value, which none wrote, has the state's name.
pub fn label(plan: &Plan, life: &Lifetime) -> String {
    let step = plan.steps.get(life.from);
    let at = step.and_then(|step| step.results.iter().position(|id| *id == life.buffer));
    let label = step.zip(at).and_then(|(step, at)| step.labels.get(at));
    let state = || plan.states.iter().find(|state| state.before == Some(life.buffer));
    match label {
        Some(label) => label.clone(),
        None => state().map_or(String::new(), |state| state.name.clone()),
    }
}

fn peak(plan: &Plan) -> Option<Peak> {
    let (lives, _) = lifetimes(plan);
    let live = live_bytes(&lives, plan.steps.len());
    let most = *live.iter().max()?;
    let step = live.iter().position(|bytes| *bytes == most).filter(|_| most > 0)?;
    let mut at: Vec<LiveBuffer> = lives
        .iter()
        .filter(|life| life.from <= step && step <= life.to)
        .map(|life| LiveBuffer {
            name: label(plan, life),
            ty: plan.buffer(life.buffer).ty.to_string(),
            bytes: life.bytes,
        })
        .collect();
    at.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    let (label, kind) = match plan.steps.get(step) {
        Some(step) => (step.label().to_owned(), step.kind().to_owned()),
        None => ("outputs".to_owned(), "output".to_owned()),
    };
    Some(Peak { step, label, kind, live: at })
}

/// Every piece of workspace as a table: `buffer,name,type,offset,bytes,first,last`, in the order of
/// writing. `last` is the number of steps for an output.
pub fn memory_table(plan: &Plan) -> String {
    let mut out = String::from("phase,buffer,name,type,offset,bytes,first,last\n");
    for life in lifetimes(plan).0 {
        let ty = plan.buffer(life.buffer).ty.to_string();
        let cells = [plan.name.as_str(), &label(plan, &life), &ty].map(cell);
        let [phase, name, ty] = cells;
        let Lifetime { buffer, from, to, offset, bytes } = life;
        let buffer = buffer.index();
        out.push_str(&format!("{phase},{buffer},{name},{ty},{offset},{bytes},{from},{to}\n"));
    }
    out
}

/// A cell of a comma-separated table.
fn cell(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::text::parse_module;

    #[test]
    fn results_of_one_kernel_have_names_of_their_own() {
        let text = "module @m\nweights @w {\n  \"{q,k}\" : f32[16,16]\n}\n\
            func @f(%x: f32[4,16]) -> f32[4,16] {\n  %q = linear %x, $q\n  \
            %k = linear %x, $k\n  %y = attention %q, %k, %k {heads=1, scale=0.5}\n  return %y\n}";
        let plan =
            crate::CompileRequest::new(&parse_module(text, &[]).unwrap(), "f").plan().unwrap();
        let peak = PhaseSummary::of(&plan).peak.unwrap();
        let names: Vec<&str> = peak.live.iter().map(|buffer| buffer.name.as_str()).collect();
        assert_eq!(names, ["f/k", "f/q"]);
        assert_eq!((peak.label.as_str(), peak.kind.as_str()), ("f/k", "linear*2"));
        let table = memory_table(&plan);
        assert!(table.contains(",f/q,\"f32[4,16]\",0,256,0,1\n"), "{table}");
        assert!(table.contains(",f/k,\"f32[4,16]\",256,256,0,1\n"), "{table}");
    }
}
