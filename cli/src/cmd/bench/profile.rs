//! Time of every step of the plans, grouped by what the steps run.
//!
//! A clock is read between the steps, which costs far less than any step. Copying outputs to the
//! caller belongs to no step and is not counted.

use anyid_passes::cost::{Cost, step_cost};
use anyid_runtime::engine::{Observer, Program};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Moments between the steps of a run.
pub struct Clock(Arc<Mutex<Vec<Instant>>>);

impl Clock {
    /// A clock that has not been read yet.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }

    /// Reads the clock whenever it is called.
    pub fn observer(&self) -> Observer {
        let moments = Arc::clone(&self.0);
        Arc::new(move || lock(&moments).push(Instant::now()))
    }

    /// Forgets all times but keeps the memory.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The times read since.
    pub fn take(&self) -> Vec<Instant> {
        lock(&self.0).clone()
    }
}

fn lock(moments: &Mutex<Vec<Instant>>) -> MutexGuard<'_, Vec<Instant>> {
    moments.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    /// For each call, where its plan's steps begin in `rows`, and how many there are.
    calls: Vec<(usize, usize)>,
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
            order.push(at);
        }
        Self { calls: order, rows, runs: 0 }
    }

    /// Adds the times of a run: one before every step and one after the last step of each call.
    pub fn add(&mut self, moments: &[Instant]) {
        let mut rest = moments;
        for (begin, steps) in &self.calls {
            let Some((call, later)) = rest.split_at_checked(steps + 1) else { return };
            for (row, pair) in self.rows[*begin..].iter_mut().zip(call.windows(2)) {
                row.time += pair[1] - pair[0];
            }
            rest = later;
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
