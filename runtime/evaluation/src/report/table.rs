//! The tables as Markdown and with commas, metrics in the paper's order.

use super::Found;
use crate::raw::{Metric, Results};
use crate::statistics::{Block, Cell, Mark, Pair, approximate};
use anyid_files::table::line;
use serde_json::Value;

/// What a table says of a system in a block besides its metrics.
pub(super) struct Beside {
    /// Share of frames with a face, in percent.
    pub coverage: Option<f64>,
    /// Cases that are asked.
    pub asked: u64,
    /// Videos that are there.
    pub there: u64,
    /// The mean cosine by ArcFace and by CurricularFace, times 100.
    pub cosines: [Option<f64>; 2],
}

/// Of a system and a block, over all of its own cases.
pub(super) fn beside(found: &Found<'_>, block: &Block, system: &str) -> Beside {
    let own = &found.summary["systems"][system];
    let raws = found.results.raws.values().filter(|raw| raw.system == system);
    let raws: Vec<_> = raws.filter(|raw| block.task.is_none_or(|task| raw.task == task)).collect();
    let mean = |value: &dyn Fn(&Value) -> Option<f64>| match block.task {
        Some(task) => value(&own["tasks"][task.name()]),
        None => {
            let all = own["tasks"].as_object().into_iter().flatten();
            let weighed = all.filter_map(|(_, task)| {
                Some((value(task)?, task["cases"].as_f64().unwrap_or_default()))
            });
            let (sum, count) =
                weighed.fold((0.0, 0.0), |(sum, all), (v, n)| (sum + v * n, all + n));
            (count > 0.0).then(|| sum / count)
        }
    };
    let plain = |metric: Metric| mean(&|task| task["metrics"][metric.name()]["plain"].as_f64());
    Beside {
        coverage: mean(&|task| task["coverage"].as_f64()).map(|share| 100.0 * share),
        asked: raws.len() as u64,
        there: raws.iter().filter(|raw| raw.video.is_some()).count() as u64,
        cosines: [plain(Metric::HoliArc), plain(Metric::HoliCur)],
    }
}

/// Systems of a block: those that are asked something in it.
pub(super) fn systems<'r>(results: &'r Results, block: &Block) -> Vec<&'r String> {
    let asked = |system: &&String| {
        results
            .raws
            .values()
            .any(|raw| raw.system == **system && block.task.is_none_or(|task| raw.task == task))
    };
    results.run.systems.iter().filter(asked).collect()
}

/// The cell of a system and metric.
pub(super) fn cell<'f>(block: &'f Block, metric: Metric, system: &str) -> Option<&'f Cell> {
    block.columns.iter().find(|column| column.metric == metric)?.cells.get(system)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

/// All tables in one, a row for each task and system.
pub(super) fn csv(found: &Found<'_>) -> String {
    let mut head: Vec<String> =
        ["task", "system", "asked", "videos", "coverage"].map(str::to_owned).to_vec();
    for metric in Metric::ALL {
        for part in ["", "_n", "_low", "_high", "_missing_as_0"] {
            head.push(format!("{}{part}", metric.name()));
        }
    }
    head.extend(["holi_arc_cosine", "holi_cur_cosine"].map(str::to_owned));
    let mut text = line(&head);
    for block in &found.blocks {
        for system in systems(found.results, block) {
            let beside = beside(found, block, system);
            let mut row = vec![
                block.name().to_owned(),
                system.clone(),
                beside.asked.to_string(),
                beside.there.to_string(),
                number(beside.coverage, 2),
            ];
            for metric in Metric::ALL {
                let cell = cell(block, metric, system);
                let end = |at: usize| cell.and_then(|c| c.estimate.interval).map(|i| i[at]);
                row.push(number(cell.map(|c| c.estimate.mean), 4));
                row.push(cell.map_or_else(String::new, |c| c.estimate.n.to_string()));
                row.extend([number(end(0), 4), number(end(1), 4)]);
                row.push(number(cell.map(|c| c.with_missing), 4));
            }
            row.extend(beside.cosines.map(|cosine| number(cosine, 4)));
            text.push_str(&line(&row));
        }
    }
    text
}

/// A pair with its metric, in the order of tables.
pub(super) fn pairs(block: &Block) -> impl Iterator<Item = (Metric, &str, &str, &Pair)> {
    block.columns.iter().flat_map(|column| {
        let all = column.pairs.iter();
        all.map(move |((a, b), pair)| (column.metric, a.as_str(), b.as_str(), pair))
    })
}

/// A probability in few characters.
pub(super) fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The report as Markdown.
pub(super) fn markdown(found: &Found<'_>) -> String {
    let mut text = "# Evaluation\n\n".to_owned();
    if let Some(warning) = found.drift() {
        text.push_str(&format!("> **Warning.** {warning}\n\n"));
    }
    for block in &found.blocks {
        text.push_str(&format!("## {}\n\n", title(block)));
        let mut head = vec!["system".to_owned()];
        head.extend(block.columns.iter().map(|column| column.metric.title().to_owned()));
        head.extend(["coverage", "videos", "cos Arc", "cos Cur"].map(str::to_owned));
        text.push_str(&row(&head));
        text.push_str(&row(&vec!["---".to_owned(); head.len()]));
        for system in systems(found.results, block) {
            let mut cells = vec![system.clone()];
            for column in &block.columns {
                cells.push(column.cells.get(system).map_or("–".to_owned(), |cell| {
                    let mean = format!("{:.2}", cell.estimate.mean);
                    match cell.mark {
                        Mark::Best => format!("**{mean}**"),
                        Mark::Shared => format!("{mean} ="),
                        Mark::None => mean,
                    }
                }));
            }
            let beside = beside(found, block, system);
            cells.push(beside.coverage.map_or("–".to_owned(), |share| format!("{share:.1} %")));
            cells.push(format!("{} of {}", beside.there, beside.asked));
            cells.extend(beside.cosines.map(|c| c.map_or("–".to_owned(), |c| format!("{c:.2}"))));
            text.push_str(&row(&cells));
            if beside.there < beside.asked {
                let mut zero = vec![format!("{system}, missing = 0")];
                zero.extend(block.columns.iter().map(|column| {
                    let cell = column.cells.get(system);
                    cell.map_or("–".to_owned(), |cell| format!("{:.2}", cell.with_missing))
                }));
                zero.extend(vec![String::new(); 4]);
                text.push_str(&row(&zero));
            }
        }
        let counts = block.columns.iter().map(|column| {
            column.cells.values().next().map_or(0, |cell| cell.estimate.n).to_string()
        });
        let mut counts: Vec<String> = ["n".to_owned()].into_iter().chain(counts).collect();
        counts.extend(vec![String::new(); 4]);
        text.push_str(&row(&counts));
        text.push_str(&format!("\n{LEGEND}\n\n"));
        let compared: Vec<_> = pairs(block).collect();
        if !compared.is_empty() {
            let head = ["metric", "systems", "difference", "95 % interval", "p", "Holm", "n"];
            text.push_str(&row(&head.map(str::to_owned)));
            text.push_str(&row(&head.map(|_| "---".to_owned())));
        }
        for (metric, a, b, pair) in compared {
            text.push_str(&row(&[
                metric.title().to_owned(),
                format!("{b} − {a}"),
                format!("{:+.2}", pair.difference),
                interval(pair),
                pair.wilcoxon.map_or("–".to_owned(), |w| probability(w.p)),
                pair.holm.map_or("–".to_owned(), probability),
                pair.n.to_string(),
            ]));
        }
        text.push('\n');
    }
    let rough: Vec<&String> = found
        .results
        .run
        .systems
        .iter()
        .filter(|system| approximate(found.results, system))
        .collect();
    if !rough.is_empty() {
        let names: Vec<&str> = rough.into_iter().map(String::as_str).collect();
        text.push_str(&format!(
            "Elements of {} were outlined by boxes about the face, which is approximate: they are in no \
             table.\n\n",
            names.join(", ")
        ));
    }
    if let Some(people) = &found.people {
        text.push_str(
            "## Beside people\n\n| metric | videos | Spearman | Kendall |\n|---|---|---|---|\n",
        );
        for (metric, own) in people.as_object().into_iter().flatten() {
            let shown = |key: &str| number(own[key].as_f64(), 3);
            let cells =
                [metric.clone(), own["videos"].to_string(), shown("spearman"), shown("kendall")];
            text.push_str(&row(&cells));
        }
    }
    text
}

/// What marks in tables mean.
pub(super) const LEGEND: &str = "Means over the cases that all systems have. Bold is the best by more than \
     chance: its paired interval against the next excludes 0. With = the two best cannot be told apart. Holi \
     of unrelated faces is about 50, not 0.";

/// What a block is called.
pub(super) fn title(block: &Block) -> &'static str {
    match block.task {
        Some(crate::raw::Task::Ipt2v) => "IPT2V: prompts that say everything",
        Some(crate::raw::Task::Iept2v) => "IEPT2V: elements are kept from the reference",
        None => "Both tasks",
    }
}

/// The interval of a difference as text.
pub(super) fn interval(pair: &Pair) -> String {
    pair.interval.map_or("–".to_owned(), |[low, high]| format!("{low:+.2} to {high:+.2}"))
}
