//! The summary of plans, as text and as JSON: a table of phases, the peak with what is live there,
//! and whether the plans fit a budget.

use super::prediction::Prediction;
use crate::output::{bytes, duration, plural, table, told_apart};
use anyid_ir::kernel::Target;
use anyid_ir::plan::Plan;
use anyid_passes::fit::{Certificate, Change, Offer};
use anyid_passes::remat::Tried;
use anyid_passes::report::{Peak, PhaseSummary};
use anyid_runtime::engine::Registry;
use serde_json::{Value, json};
use std::time::Duration;

/// Largest number of live buffers that are listed.
const MOST_LIVE: usize = 12;

/// Figures of all phases.
pub struct Summary {
    target: &'static str,
    /// Whether this build has devices for it.
    runs: bool,
    phases: Vec<PhaseSummary>,
    prediction: Option<Prediction>,
    took: Duration,
    certificate: Option<Certificate>,
    /// What can be kept for the derivative, as far as it was planned; the last was taken.
    kept: Vec<Tried>,
}

impl Summary {
    /// The summary of `plans` for `target`, which took `took` to compile.
    pub fn new(
        target: &Target,
        plans: &[Plan],
        took: Duration,
        prediction: Option<Prediction>,
        certificate: Option<Certificate>,
    ) -> Self {
        let (target, runs) = (target.name, Registry::default().runs(target.name));
        let phases = plans.iter().map(PhaseSummary::of).collect();
        Self { target, runs, phases, prediction, took, certificate, kept: Vec::new() }
    }

    /// With the choices of what is kept for the derivative.
    pub fn kept(self, kept: Vec<Tried>) -> Self {
        Self { kept, ..self }
    }

    /// Seconds of each phase, if predicted.
    fn seconds(&self) -> Option<&Vec<f64>> {
        self.prediction.as_ref()?.seconds.as_ref()
    }

    /// The message that refuses a plan over its budget.
    pub fn over_budget(&self) -> Option<String> {
        let certificate = self.certificate.as_ref().filter(|c| !c.fits())?;
        let (needed, budget) = (certificate.needed.total(), certificate.budget);
        let [needed, budget] = told_apart([needed, budget]);
        Some(format!("the plan needs {needed}, the budget is {budget}"))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = self.phase_table();
        if !self.runs {
            let target = self.target;
            out.push_str(&format!("\nplanned for {target}, whose devices this build cannot run\n"));
        }
        if let Some(note) = self.prediction.as_ref().and_then(Prediction::note) {
            out.push_str(&format!("{note}\n"));
        }
        for phase in &self.phases {
            if let Some(peak) = &phase.peak {
                out.push_str(&peak_text(&phase.name, peak));
            }
        }
        if !self.kept.is_empty() {
            out.push_str(&kept_text(&self.kept));
        }
        if let Some(certificate) = &self.certificate {
            out.push_str(&certificate_text(certificate));
        }
        out.push_str(&format!("\ncompiled in {}\n", duration(self.took)));
        out
    }

    fn phase_table(&self) -> String {
        let head = [
            "phase",
            "launches",
            "peak",
            "lower bound",
            "ratio",
            "naive",
            "persistent",
            "weights",
            "GFLOP",
            "moved",
            "between",
        ];
        let mut head: Vec<String> = head.map(str::to_owned).to_vec();
        head.extend(self.seconds().map(|_| "at least".to_owned()));
        let mut rows = vec![head];
        for (at, phase) in self.phases.iter().enumerate() {
            let mut row = vec![
                phase.name.clone(),
                phase.launches.to_string(),
                bytes(phase.peak_bytes),
                bytes(phase.lower_bound_bytes),
                format!("{:.4}", phase.ratio()),
                bytes(phase.naive_bytes),
                bytes(phase.persistent_bytes),
                bytes(phase.weights_resident_bytes),
                flops(phase.flops),
                bytes(phase.bytes_moved),
                bytes(phase.bytes_between),
            ];
            let time =
                |s: &Vec<f64>| duration(Duration::try_from_secs_f64(s[at]).unwrap_or_default());
            row.extend(self.seconds().map(time));
            rows.push(row);
        }
        table(&rows)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let phases: Vec<Value> = (0..self.phases.len()).map(|at| self.phase_json(at)).collect();
        let mut out = json!({
            "target": self.target,
            "runs_here": self.runs,
            "compile_seconds": self.took.as_secs_f64(),
            "phases": phases,
        });
        if let Some(prediction) = &self.prediction {
            out["predicted_from"] = json!(prediction.origin());
        }
        if !self.kept.is_empty() {
            out["kept_for_derivative"] = self.kept.iter().map(kept_json).collect();
        }
        if let Some(certificate) = &self.certificate {
            out["budget"] = certificate_json(certificate);
        }
        out
    }

    fn phase_json(&self, at: usize) -> Value {
        let phase = &self.phases[at];
        let mut out = json!({
            "name": phase.name,
            "peak_bytes": phase.peak_bytes,
            "lower_bound_bytes": phase.lower_bound_bytes,
            "ratio": phase.ratio(),
            "naive_bytes": phase.naive_bytes,
            "persistent_bytes": phase.persistent_bytes,
            "persistent": phase.persistent.iter().map(|(class, bytes)| {
                ((*class).to_owned(), json!(bytes))
            }).collect::<serde_json::Map<_, _>>(),
            "weights_resident_bytes": phase.weights_resident_bytes,
            "launches": phase.launches,
            "flops": phase.flops,
            "bytes_moved": phase.bytes_moved,
            "bytes_between": phase.bytes_between,
            "peak": phase.peak.as_ref().map(peak_json),
        });
        if let Some(seconds) = self.seconds() {
            out["predicted_seconds"] = json!(seconds[at]);
        }
        out
    }
}

fn flops(count: u64) -> String {
    let giga = count as f64 / 1e9;
    match giga {
        g if g >= 100.0 => format!("{g:.0}"),
        g if g >= 0.1 => format!("{g:.2}"),
        g => format!("{g:.6}"),
    }
}

fn peak_text(phase: &str, peak: &Peak) -> String {
    let mut out =
        format!("\npeak of {phase}: step {}, {} = {}\n", peak.step, peak.label, peak.kind);
    let mut rows: Vec<Vec<String>> = peak
        .live
        .iter()
        .take(MOST_LIVE)
        .map(|live| vec![format!("  {}", live.name), live.ty.clone(), bytes(live.bytes)])
        .collect();
    let rest = &peak.live[rows.len()..];
    if !rest.is_empty() {
        let sum = rest.iter().map(|live| live.bytes).sum();
        rows.push(vec![format!("  {} more", rest.len()), String::new(), bytes(sum)]);
    }
    out.push_str(&table(&rows));
    out
}

fn peak_json(peak: &Peak) -> Value {
    let live: Vec<Value> = peak
        .live
        .iter()
        .map(|live| json!({ "name": live.name, "type": live.ty, "bytes": live.bytes }))
        .collect();
    json!({ "step": peak.step, "name": peak.label, "op": peak.kind, "live": live })
}

/// What a change means, in words.
fn describe(change: Change) -> &'static str {
    match change {
        Change::Bf16Weights => "matrices and kernels stored as bf16 instead of f32",
        Change::Recompute => "compute in every step what prepare keeps (no --vary)",
        Change::Stream => {
            "stream the weights of repeats through two slots (`generate --budget` does)"
        }
    }
}

fn cost(offer: &Offer) -> String {
    match offer.change {
        Change::Bf16Weights => "8 significant bits in those weights instead of 24".to_owned(),
        Change::Recompute => format!("{} GFLOP more a step", flops(offer.flops)),
        Change::Stream => format!("{} brought in each step", bytes(offer.moved)),
    }
}

fn names(changes: &[Change]) -> String {
    changes.iter().map(|change| change.name()).collect::<Vec<_>>().join(" and ")
}

/// What can be kept for the derivative, with the share of work that is done twice.
fn kept_text(kept: &[Tried]) -> String {
    let least = kept.iter().map(|tried| tried.cost.flops).min().unwrap_or(0);
    let mut rows = vec![["kept", "memory", "GFLOP", "again"].map(str::to_owned).to_vec()];
    rows.extend(kept.iter().enumerate().map(|(at, tried)| {
        let again = tried.cost.flops.saturating_sub(least) as f64 / least.max(1) as f64;
        let taken = if at + 1 == kept.len() { " (taken)" } else { "" };
        vec![
            format!("{}{taken}", tried.keeping),
            bytes(tried.memory.total()),
            flops(tried.cost.flops),
            format!("{:.1} %", again * 100.0),
        ]
    }));
    format!("\nkept for the derivative\n{}", table(&rows))
}

fn kept_json(tried: &Tried) -> Value {
    json!({
        "choice": tried.keeping.to_string(),
        "bytes": tried.memory.total(),
        "flops": tried.cost.flops,
    })
}

fn certificate_text(certificate: &Certificate) -> String {
    let needed = certificate.needed;
    let parts = format!(
        "weights {} + persistent {} + workspace {} = {}",
        bytes(needed.weights),
        bytes(needed.persistent),
        bytes(needed.workspace),
        bytes(needed.total())
    );
    let budget = certificate.budget;
    if certificate.fits() {
        let spare = bytes(budget - needed.total());
        return format!("\nfits the budget of {} with {spare} to spare: {parts}\n", bytes(budget));
    }
    let missing = bytes(needed.total() - budget);
    let mut out = format!("\nover the budget of {} by {missing}: {parts}\n", bytes(budget));
    for offer in &certificate.offers {
        out.push_str(&format!(
            "  {}: saves {}; costs {}\n    {}\n",
            offer.change.name(),
            bytes(offer.saves),
            cost(offer),
            describe(offer.change)
        ));
    }
    match &certificate.fitting {
        Some((changes, total)) => {
            let verb = if changes.len() == 1 { "fits" } else { "fit together" };
            out.push_str(&format!("{} {verb}: {}\n", names(changes), bytes(*total)));
        }
        None if certificate.offers.is_empty() => {
            out.push_str(
                "none of the changes that can be computed from the module saves anything\n",
            );
        }
        None => {
            let all = plural(certificate.offers.len(), "change");
            out.push_str(&format!("with {all} it still needs {}\n", bytes(certificate.least)));
        }
    }
    if certificate.fitting.is_none() {
        out.push_str("smaller sizes shrink what is live at the peak (see above)\n");
    }
    out
}

fn certificate_json(certificate: &Certificate) -> Value {
    let offers: Vec<Value> = certificate
        .offers
        .iter()
        .map(|offer| {
            json!({
                "change": offer.change.name(),
                "saves_bytes": offer.saves,
                "flops_more_per_step": offer.flops,
                "bytes_streamed_per_step": offer.moved,
                "available": offer.change.available(),
            })
        })
        .collect();
    let fitting = certificate.fitting.as_ref().map(|(changes, total)| {
        let names: Vec<&str> = changes.iter().map(|change| change.name()).collect();
        json!({ "changes": names, "resident_bytes": total })
    });
    let needed = certificate.needed;
    json!({
        "budget_bytes": certificate.budget,
        "resident_bytes": needed.total(),
        "weights_bytes": needed.weights,
        "persistent_bytes": needed.persistent,
        "workspace_bytes": needed.workspace,
        "fits": certificate.fits(),
        "changes": offers,
        "fitting": fitting,
        "least_bytes": certificate.least,
    })
}
