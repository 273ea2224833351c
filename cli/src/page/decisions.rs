//! What the compiler decided about a function: steps that became one kernel and kernels that did
//! not, values that share memory and values that do not, each with its rule or reason.

use super::names::Names;
use anyid_runtime::engine::Watched;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The decisions of the passes about a function. Each is the number of its reason, the value, and
/// the value that it was or was not joined with (the same where there is none).
pub fn data(watched: &Watched, names: &mut Names) -> Value {
    let mut reasons = Reasons::default();
    let fused: Vec<[usize; 3]> = watched
        .fused()
        // A kernel of rows that begins with one step has joined nothing yet.
        .filter(|made| made.with.is_some())
        .map(|made| {
            let label = names.label(&made.label);
            let with = made.with.as_deref().map_or(label, |with| names.label(with));
            [reasons.number(made.rule), label, with]
        })
        .collect();
    let apart: Vec<[usize; 3]> = watched
        .unfused
        .iter()
        .map(|edge| {
            let labels = [&edge.consumer, &edge.producer].map(|label| names.label(label));
            [reasons.number(&edge.reason), labels[0], labels[1]]
        })
        .collect();
    let shared: Vec<[usize; 3]> = watched
        .shared()
        .map(|made| {
            let label = names.label(&made.label);
            [reasons.number(made.rule), label, label]
        })
        .collect();
    let refused: Vec<[usize; 3]> = watched
        .refused
        .iter()
        .map(|refusal| {
            let labels = [&refusal.label, &refusal.with].map(|label| names.label(label));
            [reasons.number(refusal.reason), labels[0], labels[1]]
        })
        .collect();
    json!({
        "function": watched.func,
        "reasons": reasons.list,
        "fused": fused,
        "apart": apart,
        "shared": shared,
        "refused": refused,
    })
}

/// Numbers reasons in the order of their first use.
#[derive(Default)]
struct Reasons {
    list: Vec<String>,
    /// Only looked up, never gone through.
    known: HashMap<String, usize>,
}

impl Reasons {
    fn number(&mut self, reason: &str) -> usize {
        *self.known.entry(reason.to_owned()).or_insert_with(|| {
            self.list.push(reason.to_owned());
            self.list.len() - 1
        })
    }
}
