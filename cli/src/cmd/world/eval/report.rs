//! The result of an evaluation, as a Markdown table and as JSON.

use super::args::{Arm, Given};
use super::keep::Verdicts;
use super::run::{HIDDEN, TRUTH};
use anyid_world::{Estimate, POOLED, Part, World, difference, estimate, measures};
use serde_json::{Map, Value, json};

/// What each arm comes to.
pub struct Table {
    measures: Vec<String>,
    /// The true clips, then the arms; what each clip gave to each measure.
    columns: Vec<(String, Vec<Vec<Part>>)>,
}

/// Measures of the arm `exchanged` alone: how like the person it is whose clip is to be made.
const OWN: [&str; 3] = ["own.large", "own.small", "own.identity"];

impl Table {
    /// The table of these arms on these groups, all of which were judged, by the judge whose measures have
    /// names that begin with `judge`.
    pub fn new(
        world: &World,
        arms: &[Arm],
        groups: &[u64],
        (verdicts, judge): (&Verdicts, &str),
    ) -> Self {
        let mut measures = measures(world);
        measures.insert(0, HIDDEN.to_owned());
        if arms.iter().any(|arm| arm.given == Given::Exchanged) {
            measures.extend(OWN.map(str::to_owned));
        }
        let names = std::iter::once(TRUTH).chain(arms.iter().map(|arm| arm.name.as_str()));
        let columns = names.map(|name| {
            let part = |measure: &String, group: &u64| {
                let parts = verdicts.of(name, *group);
                let part = parts.and_then(|parts| parts.get(&format!("{judge}{measure}")));
                part.copied().unwrap_or_default()
            };
            let rows = measures
                .iter()
                .map(|measure| groups.iter().map(|group| part(measure, group)).collect::<Vec<_>>());
            (name.to_owned(), rows.collect())
        });
        let columns = columns.collect();
        Self { measures, columns }
    }

    /// The estimates as one object: `ceiling.MEASURE` of the true clips, `arms.NAME.MEASURE`, and
    /// `differences.NAME.MEASURE`, an arm less the first one, within clips.
    pub fn json(&self) -> Value {
        let object = |each: &dyn Fn(usize) -> Option<Estimate>| -> Map<String, Value> {
            let named = self.measures.iter().enumerate();
            named.filter_map(|(at, name)| Some((name.clone(), number(&each(at)?)))).collect()
        };
        let of = |column: &[Vec<Part>]| object(&|at| estimate(&column[at]));
        let (truth, arms) = self.columns.split_first().expect("the true clips come first");
        let first = arms.first().map(|(_, column)| column);
        let arms_object: Map<String, Value> =
            arms.iter().map(|(name, column)| (name.clone(), of(column).into())).collect();
        let differences: Map<String, Value> = arms
            .iter()
            .skip(1)
            .zip(first.into_iter().cycle())
            .map(|((name, column), first)| {
                (name.clone(), object(&|at| difference(&first[at], &column[at])).into())
            })
            .collect();
        json!({"ceiling": of(&truth.1), "arms": arms_object, "differences": differences})
    }

    /// The estimates as Markdown: a row for each measure with a case, then the differences of the arms
    /// from the first one.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        head(&mut out, "measure", &names);
        for (at, measure) in self.measures.iter().enumerate() {
            let cells = self.columns.iter().map(|(_, column)| estimate(&column[at]));
            row(&mut out, measure, cells.collect());
        }
        if let [_, (first, base), others @ ..] = &self.columns[..]
            && !others.is_empty()
        {
            out.push_str(&format!("\nDifferences from `{first}`, within clips:\n\n"));
            let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
            head(&mut out, "measure", &names);
            for (at, measure) in self.measures.iter().enumerate() {
                let pooled = POOLED.contains(&measure.as_str()) || measure == HIDDEN;
                if pooled || measure.starts_with("colour") {
                    let cells = others.iter().map(|(_, column)| difference(&base[at], &column[at]));
                    row(&mut out, measure, cells.collect());
                }
            }
        }
        out
    }
}

/// A standard error that one clip does not have is null.
fn number(estimate: &Estimate) -> Value {
    json!({"value": estimate.value, "se": estimate.error, "n": estimate.cases})
}

fn head(out: &mut String, corner: &str, names: &[&str]) {
    let cells: Vec<String> = names.iter().map(|name| format!(" {name} |")).collect();
    out.push_str(&format!("| {corner} |{}\n|---|{}\n", cells.concat(), "---|".repeat(names.len())));
}

fn row(out: &mut String, name: &str, cells: Vec<Option<Estimate>>) {
    if cells.iter().all(Option::is_none) {
        return;
    }
    let cell = |estimate: Option<Estimate>| match estimate {
        Some(found) if found.error.is_finite() => {
            format!(" {:.3} ± {:.3} |", found.value, found.error)
        }
        Some(found) => format!(" {:.3} |", found.value),
        None => " |".to_owned(),
    };
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    out.push_str(&format!("| {name} |{}\n", cells.concat()));
}
