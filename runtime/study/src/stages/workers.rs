//! The threads of a part: items are worked on side by side, and what comes out is handed on in the order
//! of the items. What fails is about one file, whose line says so, or ends the run.

use super::items::Item;
use super::part::{Part, interrupted};
use crate::records::Failure;
use anyid_files::output::stopped;
use anyid_files::{Error, Kind, Result};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

/// What was made of an item.
pub(super) struct Made {
    pub(super) text: String,
    pub(super) records: usize,
    pub(super) error: bool,
}

/// Whether an error is about one file and not about the run.
fn of_file(error: &Error) -> bool {
    error.kind() == Kind::Input
        && (error.code().starts_with("E08") || ["E0967", "E1213"].contains(&error.code()))
}

fn made(item: &Item, schema: &str, outcome: Result<Vec<Value>>) -> Result<Made> {
    match outcome {
        Ok(values) => {
            let mut text = String::new();
            for value in &values {
                text.push_str(&value.to_string());
                text.push('\n');
            }
            Ok(Made { text, records: values.len(), error: false })
        }
        Err(fault) if of_file(&fault) => {
            let line = json!({"schema": schema, "media": item.media, "error": Failure::of(&fault)});
            Ok(Made { text: format!("{line}\n"), records: 1, error: true })
        }
        Err(fault) => Err(fault),
    }
}

impl Part<'_> {
    /// Works on items on several threads and hands on what comes out in their order.
    pub(super) fn chunk(
        &self,
        items: &[Item],
        work: &(dyn Fn(&Item) -> Result<Vec<Value>> + Sync),
        take: &mut dyn FnMut(&Item, Made) -> Result<()>,
    ) -> Result<()> {
        let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_fault: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel::<(usize, Result<Made>)>();
            let mut started = 0;
            for _ in 0..self.threads.clamp(1, items.len()) {
                let (send, next, ended) = (send.clone(), &next, &ended);
                let job = move || loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at).filter(|_| !ended.load(Ordering::Relaxed))
                    else {
                        break;
                    };
                    let outcome = match stopped() {
                        true => Err(interrupted(&self.folder)),
                        false => made(item, self.schema, work(item)),
                    };
                    ended.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    if send.send((at, outcome)).is_err() {
                        break;
                    }
                };
                let spawned =
                    std::thread::Builder::new().name("anyid-data".into()).spawn_scoped(scope, job);
                match spawned {
                    Ok(_) => started += 1,
                    Err(cause) if started == 0 => {
                        return Err(Error::threads(self.threads, 0, cause));
                    }
                    // Fewer threads take longer and make the same.
                    Err(_) => break,
                }
            }
            drop(send);
            let mut waiting: Vec<Option<Made>> = items.iter().map(|_| None).collect();
            let mut written = 0;
            for (at, outcome) in receive {
                match outcome {
                    Ok(made) => waiting[at] = Some(made),
                    Err(fault) => {
                        let mut first = first_fault.lock().unwrap_or_else(|e| e.into_inner());
                        first.get_or_insert(fault);
                        continue;
                    }
                }
                while let Some(made) = waiting.get_mut(written).and_then(Option::take) {
                    if let Err(fault) = take(&items[written], made) {
                        ended.store(true, Ordering::Relaxed);
                        return Err(fault);
                    }
                    written += 1;
                }
            }
            Ok(())
        })?;
        let fault = first_fault.into_inner().unwrap_or_else(|e| e.into_inner());
        fault.map_or(Ok(()), Err)
    }
}
