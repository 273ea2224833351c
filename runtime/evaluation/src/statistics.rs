//! Intervals and paired differences (`evaluation.md` §7). What is counted is the case: its value is the mean
//! over its seeds.
//!
//! Intervals are percentiles of resampled means; systems are compared on the cases that all of them have.
//! Everything depends on the results alone, draws too.

pub mod noise;
#[cfg(test)]
pub mod sample;
pub mod signed_rank;

#[cfg(test)]
mod tests;

use crate::raw::{Case, Masks, Metric, Raw, Results, Task};
use crate::vlm::facts::{Group, said};
use anyid_files::resample::{Draws, holm, middle};
use serde_json::{Value, json};
use signed_rank::{Wilcoxon, wilcoxon};
use std::collections::{BTreeMap, BTreeSet};

/// Resamplings of an interval.
pub const RESAMPLINGS: usize = 10_000;

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample; none of fewer than two.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The middle 95 % of means over values drawn with replacement, as many of each stratum as it has; none of
/// fewer than two values. Draws depend on `name`.
pub fn bootstrap(strata: &[Vec<f64>], resamplings: usize, name: &str) -> Option<[f64; 2]> {
    let count: usize = strata.iter().map(Vec::len).sum();
    if count < 2 {
        return None;
    }
    let mut draws = Draws::new(b"0", "evaluation", name);
    let mut means: Vec<f64> = (0..resamplings)
        .map(|_| {
            let mut sum = 0.0;
            for stratum in strata {
                sum += stratum.iter().map(|_| stratum[draws.below(stratum.len())]).sum::<f64>();
            }
            sum / count as f64
        })
        .collect();
    Some(middle(&mut means))
}

/// A mean with what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Cases.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; none of one case.
    pub deviation: Option<f64>,
    /// The 95 % interval of the mean.
    pub interval: Option<[f64; 2]>,
}

impl Estimate {
    /// Of the values of cases by stratum.
    pub fn of(strata: &[Vec<f64>], resamplings: usize, name: &str) -> Option<Self> {
        let all: Vec<f64> = strata.iter().flatten().copied().collect();
        Some(Self {
            n: all.len(),
            mean: mean(&all)?,
            deviation: deviation(&all),
            interval: bootstrap(strata, resamplings, name),
        })
    }

    /// The least difference between two systems that so many cases can show: 1.96·sd/√n·√2.
    pub fn detectable(&self) -> Option<f64> {
        Some(1.96 * self.deviation? / (self.n as f64).sqrt() * std::f64::consts::SQRT_2)
    }

    fn json(&self) -> Value {
        json!({
            "n": self.n, "mean": self.mean, "deviation": self.deviation, "interval": self.interval,
            "detectable": self.detectable(),
        })
    }
}

/// Values by case, in strata of tasks.
type Values<'r> = BTreeMap<(Task, &'r str), f64>;

/// The values of a system, by task and case.
pub fn values<'r>(
    results: &'r Results,
    system: &str,
    metric: Metric,
    task: Option<Task>,
) -> Values<'r> {
    let tasks = Task::ALL.into_iter().filter(|own| task.is_none_or(|task| task == *own));
    tasks
        .flat_map(|task| {
            let of_task = results.values(system, metric, Some(task));
            of_task.into_iter().map(move |(unit, value)| ((task, unit), value))
        })
        .collect()
}

fn strata<'v>(values: impl Iterator<Item = (Task, &'v f64)>) -> Vec<Vec<f64>> {
    let mut found: BTreeMap<Task, Vec<f64>> = BTreeMap::new();
    values.for_each(|(task, value)| found.entry(task).or_default().push(*value));
    found.into_values().collect()
}

/// A paired comparison: the second less the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Cases that both have.
    pub n: usize,
    /// The mean of differences.
    pub difference: f64,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// The signed-rank test; none where nothing differs.
    pub wilcoxon: Option<Wilcoxon>,
    /// Its p value after Holm's correction over the metrics that were compared.
    pub holm: Option<f64>,
}

impl Pair {
    /// Compares values of the same cases; none without common ones. `names` are those of both sides, and
    /// decide draws in whichever order they come: exchanging the sides exchanges the sign and nothing else.
    pub fn of(
        first: &Values<'_>,
        second: &Values<'_>,
        names: [&str; 2],
        resamplings: usize,
    ) -> Option<Self> {
        if names[0] > names[1] {
            let turned = Self::of(second, first, [names[1], names[0]], resamplings)?;
            let interval = turned.interval.map(|[low, high]| [-high, -low]);
            let wilcoxon = turned.wilcoxon.map(Wilcoxon::turned);
            return Some(Self { difference: -turned.difference, interval, wilcoxon, ..turned });
        }
        let both =
            first.iter().filter_map(|(case, value)| Some((case.0, second.get(case)? - value)));
        let differences: Vec<(Task, f64)> = both.collect();
        let strata = strata(differences.iter().map(|(task, value)| (*task, value)));
        let estimate = Estimate::of(&strata, resamplings, &names.join("/"))?;
        let all: Vec<f64> = differences.iter().map(|(_, value)| *value).collect();
        Some(Self {
            n: estimate.n,
            difference: estimate.mean,
            interval: estimate.interval,
            wilcoxon: wilcoxon(&all),
            holm: None,
        })
    }

    /// Whether the interval excludes that there is no difference.
    pub fn differs(&self) -> bool {
        self.interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "n": self.n, "difference": self.difference, "interval": self.interval,
            "p": self.wilcoxon.map(|w| w.p), "exact": self.wilcoxon.map(|w| w.exact),
            "holm": self.holm,
        })
    }
}

/// Corrects the p values of a family, after Holm.
pub fn correct<'p>(family: impl Iterator<Item = &'p mut Pair>) {
    let mut all: Vec<&mut Pair> = family.filter(|pair| pair.wilcoxon.is_some()).collect();
    let values: Vec<f64> =
        all.iter().filter_map(|pair| pair.wilcoxon.map(|wilcoxon| wilcoxon.p)).collect();
    for (pair, value) in all.iter_mut().zip(holm(&values)) {
        pair.holm = Some(value);
    }
}

/// How a system stands in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The best, and more so than chance allows.
    Best,
    /// One of the two best, which cannot be told apart.
    Shared,
    /// Neither.
    None,
}

/// What a table shows of a system.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Over the cases that all systems of the column have.
    pub estimate: Estimate,
    /// With 0 for videos that are missing, over all cases that are asked.
    pub with_missing: f64,
    /// How it stands.
    pub mark: Mark,
}

/// A metric of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The metric.
    pub metric: Metric,
    /// By system; those that have no value are not there.
    pub cells: BTreeMap<String, Cell>,
    /// By two systems, the first before the second by name.
    pub pairs: BTreeMap<(String, String), Pair>,
}

/// A table: the cases of a task, or of both.
#[derive(Clone, Debug)]
pub struct Block {
    /// The task; none for both.
    pub task: Option<Task>,
    /// Metrics that have values, in the paper's order.
    pub columns: Vec<Column>,
}

impl Block {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.task.map_or("both", Task::name)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let column = |column: &Column| {
            let cells = column.cells.iter().map(|(system, cell)| {
                let mut own = cell.estimate.json();
                own["with_missing"] = json!(cell.with_missing);
                own["best"] = json!(cell.mark != Mark::None);
                (system.clone(), own)
            });
            let pairs = column.pairs.iter().map(|((a, b), pair)| {
                let mut own = pair.json();
                own["systems"] = json!([a, b]);
                own
            });
            json!({
                "metric": column.metric.name(), "systems": cells.collect::<serde_json::Map<_, _>>(),
                "pairs": pairs.collect::<Vec<_>>(),
            })
        };
        json!({ "task": self.name(), "metrics": self.columns.iter().map(column).collect::<Vec<_>>() })
    }
}

/// Whether a case asks for a metric: what is missing there is 0 in the second line.
pub fn applies(case: &Case, metric: Metric) -> bool {
    let says = |group| said(case).iter().any(|(element, _)| Group::of(*element) == group);
    match metric {
        Metric::HoliArc | Metric::HoliCur | Metric::Sta | Metric::Dyn => true,
        Metric::EleClip | Metric::EleDino => !case.preserve.is_empty(),
        Metric::App => says(Group::Appearance),
        Metric::Mot => says(Group::Motion),
        Metric::Bg => says(Group::Background),
    }
}

/// Whether a system's elements were outlined by boxes about the face: those numbers are compared with
/// nothing.
pub fn approximate(results: &Results, system: &str) -> bool {
    let mut own = results.raws.values().filter(|raw| raw.system == system);
    own.any(|raw| raw.elements.as_ref().is_some_and(|e| e.masks == Masks::Geometric))
}

/// The mean with 0 for videos that are missing.
fn with_missing(
    results: &Results,
    system: &str,
    metric: Metric,
    task: Option<Task>,
) -> Option<f64> {
    let mut found: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let value = |raw: &Raw| match raw.video {
        Some(_) => raw.value(metric, results.run.norms),
        None => Some(0.0),
    };
    for case in results.cases.iter().filter(|case| applies(case, metric)) {
        if task.is_some_and(|task| task != case.task) {
            continue;
        }
        let raw = results.raws.get(&(system.to_owned(), case.id.clone()));
        found.entry(case.unit()).or_default().extend(raw.and_then(value));
    }
    let means: Vec<f64> = found.values().filter_map(|all| mean(all)).collect();
    mean(&means)
}

/// The tables of a run: for each task, and for both together.
pub fn blocks(results: &Results, resamplings: usize) -> Vec<Block> {
    let there: BTreeSet<Task> = results.raws.values().map(|raw| raw.task).collect();
    let mut tasks: Vec<Option<Task>> = there.iter().copied().map(Some).collect();
    tasks.extend((there.len() > 1).then_some(None));
    let block = |task| {
        let columns = Metric::ALL.into_iter().filter_map(|metric| {
            let column = column(results, metric, task, resamplings);
            (!column.cells.is_empty()).then_some(column)
        });
        let mut block = Block { task, columns: columns.collect() };
        let pairs: BTreeSet<(String, String)> =
            block.columns.iter().flat_map(|column| column.pairs.keys().cloned()).collect();
        for pair in pairs {
            correct(block.columns.iter_mut().filter_map(|column| column.pairs.get_mut(&pair)));
        }
        block
    };
    tasks.into_iter().map(block).collect()
}

fn column(results: &Results, metric: Metric, task: Option<Task>, resamplings: usize) -> Column {
    let elements = matches!(metric, Metric::EleClip | Metric::EleDino);
    let name = task.map_or("both", Task::name);
    let systems = results.run.systems.iter();
    let mut own: Vec<(&String, Values<'_>)> = systems
        .filter(|system| !(elements && approximate(results, system)))
        .map(|system| (system, values(results, system, metric, task)))
        .filter(|(_, values)| !values.is_empty())
        .collect();
    own.sort_by_key(|(system, _)| *system);
    let common: BTreeSet<(Task, &str)> = match own.split_first() {
        Some(((_, first), others)) => {
            let all = first.keys();
            all.filter(|case| others.iter().all(|(_, own)| own.contains_key(*case)))
                .copied()
                .collect()
        }
        None => BTreeSet::new(),
    };
    own.iter_mut().for_each(|(_, values)| values.retain(|case, _| common.contains(case)));
    let mut cells = BTreeMap::new();
    for (system, values) in &own {
        let strata = strata(values.iter().map(|((task, _), value)| (*task, value)));
        let key = format!("{name}/{}/{system}", metric.name());
        if let Some(estimate) = Estimate::of(&strata, resamplings, &key) {
            let all = with_missing(results, system, metric, task);
            let with_missing = all.unwrap_or(estimate.mean);
            let cell = Cell { estimate, with_missing, mark: Mark::None };
            cells.insert((*system).clone(), cell);
        }
    }
    let mut pairs = BTreeMap::new();
    for (at, (a, first)) in own.iter().enumerate() {
        for (b, second) in &own[at + 1..] {
            let keys = [a, b].map(|system| format!("{name}/{}/{system}", metric.name()));
            if let Some(pair) = Pair::of(first, second, [&keys[0], &keys[1]], resamplings) {
                pairs.insert(((*a).clone(), (*b).clone()), pair);
            }
        }
    }
    mark(&mut cells, &pairs);
    Column { metric, cells, pairs }
}

/// Marks the best of a column: alone where its paired interval against the next excludes 0, else both.
fn mark(cells: &mut BTreeMap<String, Cell>, pairs: &BTreeMap<(String, String), Pair>) {
    let mut order: Vec<(String, f64)> =
        cells.iter().map(|(system, cell)| (system.clone(), cell.estimate.mean)).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let [(first, _), (second, _), ..] = &order[..] else { return };
    let key = match first < second {
        true => (first.clone(), second.clone()),
        false => (second.clone(), first.clone()),
    };
    let alone = pairs.get(&key).is_some_and(Pair::differs);
    let marks = [(first, if alone { Mark::Best } else { Mark::Shared }), (second, Mark::Shared)];
    for (system, mark) in marks.into_iter().take(if alone { 1 } else { 2 }) {
        if let Some(cell) = cells.get_mut(system) {
            cell.mark = mark;
        }
    }
}
