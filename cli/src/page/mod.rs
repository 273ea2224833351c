//! A page that shows plans: memory over launches, kernels against the machine, decisions of the
//! compiler, launches in time.
//!
//! The page is one HTML file that asks for nothing outside of itself: a template (the files in
//! `template/`) with the data as JSON between its code and its text. The same plans give the same
//! bytes. What the page looks like is decided in the template alone, and what it says here. All
//! text from plans is data; the template's code puts it into the page as text, never as markup.

mod decisions;
mod names;
mod phase;
mod time;

use anyid_ir::DType;
use anyid_ir::kernel::{Anchor, Kernel, Machine};
use anyid_ir::plan::Plan;
use anyid_passes::cost::step_seconds;
use anyid_passes::kernels::{KernelUse, kernels};
use anyid_runtime::Result;
use anyid_runtime::engine::{Throughput, Watched};
use anyid_runtime::files::AtomicFile;
use names::Names;
use serde_json::{Value, json};
pub use time::{Execution, Measured};

/// The text of the page, with a mark where each of the parts below goes.
const TEXT: &str = include_str!("template/page.html");
const STYLE: &str = include_str!("template/page.css");
/// The code, in the order in which it runs.
const CODE: [&str; 7] = [
    include_str!("template/data.js"),
    include_str!("template/draw.js"),
    include_str!("template/memory.js"),
    include_str!("template/kernels.js"),
    include_str!("template/timeline.js"),
    include_str!("template/decisions.js"),
    include_str!("template/page.js"),
];

/// What a page shows.
pub struct Page<'p> {
    /// What was compiled or measured.
    pub title: String,
    /// The target's name.
    pub target: &'p str,
    /// Facts about the run for the head of the page, each a name and a value.
    pub facts: Vec<(&'p str, String)>,
    /// The plans of all phases.
    pub plans: &'p [Plan],
    /// What the passes did, for each function; `prepare` and `step` are of one.
    pub watched: &'p [Watched],
    /// What times are compared with or follow from, if anything is known.
    pub machine: Option<&'p Machine>,
    /// Where the machine's figures come from, in a few words.
    pub origin: &'static str,
    /// Measured times.
    pub measured: Option<&'p Measured>,
}

impl Page<'_> {
    /// Everything that the page shows.
    fn data(&self) -> Value {
        let mut names = Names::default();
        let found = kernels(self.plans);
        let mut of: Vec<Vec<usize>> =
            self.plans.iter().map(|plan| vec![0; plan.steps.len()]).collect();
        for (number, kernel) in found.iter().enumerate() {
            for [plan, step] in &kernel.launches {
                of[*plan][*step] = number;
            }
        }
        let phases: Vec<Value> = self
            .plans
            .iter()
            .zip(&of)
            .enumerate()
            .map(|(at, (plan, of))| {
                let mut phase = phase::data(plan, of, &mut names);
                // Phases of several functions come in their order; a split function has two.
                phase["function"] = json!(at.min(self.watched.len().saturating_sub(1)));
                phase
            })
            .collect();
        let kernels: Vec<Value> = found.iter().map(|kernel| self.kernel(kernel)).collect();
        let decisions: Vec<Value> =
            self.watched.iter().map(|each| decisions::data(each, &mut names)).collect();
        let mut out = json!({
            "title": self.title,
            "version": env!("CARGO_PKG_VERSION"),
            "target": self.target,
            "facts": self.facts,
            "machine": self.machine.map(|machine| machine_data(machine, self.origin)),
            "kernels": kernels,
            "phases": phases,
            "decisions": decisions,
        });
        if let Some(measured) = self.measured {
            out["measured"] = measured.data();
        }
        out["names"] = names.data();
        out
    }

    fn kernel(&self, kernel: &KernelUse) -> Value {
        let [plan, step] = kernel.launches[0];
        let plan = &self.plans[plan];
        let step = &plan.steps[step];
        json!({
            "name": kernel.name,
            "class": class(&step.kernel),
            "hash": format!("{:016x}", kernel.hash),
            "operands": kernel.operands,
            "results": kernel.results,
            "text": kernel.text,
            "flops": kernel.cost.flops,
            "bytes": kernel.cost.bytes,
            // At the least, for one launch.
            "seconds": self.machine.map(|machine| step_seconds(plan, step, machine)),
        })
    }

    /// The page as HTML.
    pub fn html(&self) -> String {
        let data = embedded(&self.data().to_string());
        let title = escaped(&self.title);
        let code = CODE.concat();
        let mut out = String::with_capacity(TEXT.len() + STYLE.len() + code.len() + data.len());
        // The text is cut at the marks once, so that what is put in is not searched for marks.
        for (at, piece) in TEXT.split("<!--@").enumerate() {
            let (mark, rest) = match at {
                0 => ("", piece),
                _ => piece.split_once("-->").expect("every mark of the template is closed"),
            };
            out.push_str(match mark {
                "" => "",
                "title" => &title,
                "style" => STYLE,
                "data" => &data,
                "code" => &code,
                other => panic!("the template has an unknown mark {other}"),
            });
            out.push_str(rest);
        }
        out
    }

    /// Writes the page.
    ///
    /// # Errors
    /// E101x.
    pub fn write(&self, mut file: AtomicFile) -> Result<()> {
        file.append(self.html().as_bytes())?;
        file.commit()?;
        Ok(())
    }
}

fn machine_data(machine: &Machine, origin: &str) -> Value {
    let rates: Vec<Value> =
        machine.products.iter().map(|(dtype, rate)| json!([dtype.to_string(), rate])).collect();
    json!({
        "origin": origin,
        "rates": rates,
        "bytes": machine.bytes_per_second,
        "launch": machine.launch_seconds,
    })
}

/// What a device that was measured can do at most.
pub fn machine(peak: &Throughput) -> Machine {
    let half = peak.bf16_gflops.unwrap_or(peak.f32_gflops);
    Machine {
        products: vec![(DType::F32, peak.f32_gflops * 1e9), (DType::Bf16, half * 1e9)],
        bytes_per_second: peak.copy_gb_per_second * 1e9,
        launch_seconds: 0.0,
    }
}

/// What kind of work a kernel does, in the words of the page's legend.
fn class(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Row(_) => "rows",
        Kernel::Copy(_) => "copy",
        Kernel::Gather | Kernel::Fill(_) => "table",
        Kernel::Anchor(anchor) => match anchor.anchor {
            Anchor::Attention { .. } | Anchor::AttentionVjp { .. } => "attention",
            Anchor::Conv { .. } => "convolution",
            Anchor::SegmentSum { .. } => "rows",
            Anchor::Linear | Anchor::Dot { .. } => "product",
        },
    }
}

/// JSON that may stand in a script element: no `<`, which could end it.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
