//! Time of every step of the plans, grouped by what the steps run.
//!
//! The device reports when each launch ran. Copying outputs to the caller belongs to no step and is not
//! counted.

use anyid_passes::cost::{Cost, step_cost};
use anyid_runtime::engine::{Program, Times};
use std::collections::BTreeMap;
use std::time::Duration;

/// A step of a plan with the time it took.
pub struct Row {
    /// The phase it is in.
    pub phase: &'static str,
    /// Scope and name of what it makes.
    pub label: String,
    /// What it runs.
    pub kind: String,
    /// Type of its first result.
    pub ty: String,
    /// Operations and bytes of one execution.
    pub cost: Cost,
    /// Executions in one run.
    pub calls: u32,
    /// Time of its executions in one run, on average over the runs.
    pub time: Duration,
}

/// All steps of a kind.
pub struct Group {
    /// What they run.
    pub kind: String,
    /// Executions in one run.
    pub launches: u32,
    /// Operations and bytes of one run.
    pub cost: Cost,
    /// Time in one run.
    pub time: Duration,
}

/// Times of the steps of a run.
pub struct Profile {
    /// For each call, where its plan's steps begin in `rows`.
    calls: Vec<usize>,
    rows: Vec<Row>,
    runs: u32,
}

impl Profile {
    /// An empty profile of runs that call these phases one after the other.
    pub fn new(program: &Program, calls: &[&'static str]) -> Self {
        let mut begins: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut rows: Vec<Row> = Vec::new();
        let mut order = Vec::new();
        for phase in calls {
            let Some(plan) = program.plan(phase) else { continue };
            let at = *begins.entry(phase).or_insert_with(|| {
                let begin = rows.len();
                rows.extend(plan.steps.iter().map(|step| {
                    Row {
                        phase,
                        label: step.label().to_owned(),
                        kind: step.kind().to_owned(),
                        ty: step
                            .results()
                            .first()
                            .map_or_else(String::new, |id| plan.buffer(*id).ty.to_string()),
                        cost: step_cost(plan, step),
                        calls: 0,
                        time: Duration::ZERO,
                    }
                }));
                (begin, plan.steps.len())
            });
            for row in &mut rows[at.0..at.0 + at.1] {
                row.calls += 1;
            }
            order.push(at.0);
        }
        Self { calls: order, rows, runs: 0 }
    }

    /// Adds the times of a run, call by call.
    pub fn add(&mut self, calls: &[(String, Times)]) {
        for (begin, (_, times)) in self.calls.iter().zip(calls) {
            for launch in times.launches() {
                let time = Duration::from_nanos(launch.end - launch.begin);
                self.rows[begin + launch.step].time += time;
            }
        }
        self.runs += 1;
    }

    /// All steps, the slowest first.
    pub fn rows(&self) -> Vec<Row> {
        let mut out: Vec<Row> = self
            .rows
            .iter()
            .map(|row| Row {
                label: row.label.clone(),
                kind: row.kind.clone(),
                ty: row.ty.clone(),
                time: row.time / self.runs.max(1),
                ..*row
            })
            .collect();
        out.sort_by_key(|row| std::cmp::Reverse(row.time));
        out
    }

    /// The steps by kind, the slowest kind first.
    pub fn groups(&self) -> Vec<Group> {
        let mut kinds: BTreeMap<String, Group> = BTreeMap::new();
        for row in self.rows() {
            let group = kinds.entry(row.kind.clone()).or_insert_with(|| Group {
                kind: row.kind.clone(),
                launches: 0,
                cost: Cost::default(),
                time: Duration::ZERO,
            });
            group.launches += row.calls;
            group.cost.flops += row.cost.flops * u64::from(row.calls);
            group.cost.bytes += row.cost.bytes * u64::from(row.calls);
            group.time += row.time;
        }
        let mut out: Vec<Group> = kinds.into_values().collect();
        out.sort_by_key(|group| std::cmp::Reverse(group.time));
        out
    }
}
