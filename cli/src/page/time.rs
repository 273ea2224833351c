//! Measured times of launches: of every step on average over the runs, and of one run launch by
//! launch.

use anyid_runtime::engine::LaunchTime;
use serde_json::{Value, json};

/// One execution of a phase, in nanoseconds since the run began.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Position of its plan on the page.
    pub phase: usize,
    /// Its launches, in the order of their ends.
    pub launches: Vec<LaunchTime>,
}

impl Execution {
    /// From the begin of its first launch to the end of its last.
    fn span(&self) -> Option<(u64, u64)> {
        let begin = self.launches.iter().map(|launch| launch.begin).min()?;
        Some((begin, self.launches.iter().map(|launch| launch.end).max()?))
    }
}

/// Times of several runs that execute the same phases in the same order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The runs so far.
    runs: u32,
    /// For each phase, the nanoseconds of every step over all its executions.
    sums: Vec<Vec<u64>>,
    /// For each phase, how often it was executed in all runs.
    calls: Vec<u32>,
    /// The shortest run.
    shortest: Vec<Execution>,
}

impl Measured {
    /// No run yet of phases of so many steps.
    pub fn new(steps: impl IntoIterator<Item = usize>) -> Self {
        let sums: Vec<Vec<u64>> = steps.into_iter().map(|steps| vec![0; steps]).collect();
        Self { calls: vec![0; sums.len()], sums, ..Self::default() }
    }

    /// Adds a run.
    pub fn add(&mut self, run: Vec<Execution>) {
        self.runs += 1;
        for execution in &run {
            self.calls[execution.phase] += 1;
            for launch in &execution.launches {
                self.sums[execution.phase][launch.step] += launch.end - launch.begin;
            }
        }
        if self.shortest.is_empty() || length(&run) < length(&self.shortest) {
            self.shortest = run;
        }
    }

    /// Seconds of each step in one execution of its phase, and the shortest run with its times in
    /// nanoseconds.
    pub fn data(&self) -> Value {
        let mean = |(sums, calls): (&Vec<u64>, &u32)| -> Vec<f64> {
            let calls = f64::from((*calls).max(1));
            // To the nanosecond: more is noise and makes the page larger.
            sums.iter().map(|sum| (*sum as f64 / calls).round() * 1e-9).collect()
        };
        let seconds: Vec<Vec<f64>> = self.sums.iter().zip(&self.calls).map(mean).collect();
        let calls: Vec<u32> = self.calls.iter().map(|calls| calls / self.runs.max(1)).collect();
        let start = self.shortest.iter().filter_map(Execution::span).map(|span| span.0).min();
        let start = start.unwrap_or(0);
        let trace: Vec<Value> = self
            .shortest
            .iter()
            .map(|execution| {
                let column = |of: &dyn Fn(&LaunchTime) -> u64| -> Vec<u64> {
                    execution.launches.iter().map(of).collect()
                };
                json!({
                    "phase": execution.phase,
                    "step": column(&|launch| launch.step as u64),
                    "begin": column(&|launch| launch.begin - start),
                    "length": column(&|launch| launch.end - launch.begin),
                })
            })
            .collect();
        json!({ "runs": self.runs, "calls": calls, "seconds": seconds, "trace": trace })
    }
}

/// From the begin of a run's first launch to the end of its last.
fn length(run: &[Execution]) -> u64 {
    let spans = run.iter().filter_map(Execution::span);
    let (begin, end) = spans.fold((u64::MAX, 0), |(a, b), (begin, end)| (a.min(begin), b.max(end)));
    end.saturating_sub(begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(times: &[(usize, usize, u64, u64)]) -> Vec<Execution> {
        let one = |(phase, step, begin, end): &(usize, usize, u64, u64)| {
            let launches = vec![LaunchTime { step: *step, begin: *begin, end: *end }];
            Execution { phase: *phase, launches }
        };
        times.iter().map(one).collect()
    }

    #[test]
    fn steps_have_their_mean_and_the_shortest_run_is_shown() {
        let mut measured = Measured::new([1, 2]);
        measured.add(run(&[(0, 0, 10, 20), (1, 1, 30, 50), (1, 1, 60, 100)]));
        measured.add(run(&[(0, 0, 5, 25), (1, 1, 30, 32), (1, 1, 32, 34)]));
        let data = measured.data();
        assert_eq!((&data["runs"], &data["calls"]), (&json!(2), &json!([1, 2])));
        assert_eq!(data["seconds"], json!([[15.0 * 1e-9], [0.0, 16.0 * 1e-9]]));
        let first = json!({ "phase": 0, "step": [0], "begin": [0], "length": [20] });
        assert_eq!(data["trace"][0], first);
        assert_eq!(data["trace"][2]["begin"], json!([27]));
    }

    #[test]
    fn nothing_measured_is_no_fault() {
        let data = Measured::new([3]).data();
        assert_eq!(data["seconds"], json!([[0.0, 0.0, 0.0]]));
        assert_eq!(data["trace"], json!([]));
    }
}
