//! `inspect devices`: what can be computed on here, and why the rest cannot.

use super::Found;
use crate::output::bytes;
use anyid_runtime::Backend;
use anyid_runtime::engine::{Looked, Registry, Settings};
use serde_json::{Value, json};

/// Every device, and what `--device auto` takes.
pub fn list() -> Found {
    let (registry, settings) = (Registry::default(), Settings::default());
    let looked = Backend::look(&registry, &settings);
    let best = Backend::best(&registry, &settings).ok();
    let best = best.map(|best| best.backend.about().name.clone());
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    for Looked { name, backend } in looked {
        let (text, value) = described(&name, backend.as_ref());
        rows.push((name, text));
        list.push(value);
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = "devices\n".to_owned();
    for (name, said) in rows {
        text.push_str(&format!("{name:width$}  {said}\n"));
    }
    if let Some(best) = &best {
        text.push_str(&format!("--device auto takes {best}\n"));
    }
    let json = json!({ "kind": "devices", "devices": list, "auto": best });
    Found { text, json, warnings: Vec::new() }
}

fn described(
    name: &str,
    device: std::result::Result<&Backend, &anyid_runtime::Error>,
) -> (String, Value) {
    match device {
        Ok(backend) => {
            let about = backend.about();
            let memory = about.capacity.map_or_else(String::new, |all| format!(", {}", bytes(all)));
            let text = format!("usable: {}{memory}, plans for {}", about.words, about.target.name);
            let value = json!({
                "name": name, "usable": true, "words": about.words,
                "instructions": about.instructions, "target": about.target.name,
                "memory_bytes": about.capacity, "warnings": about.warnings,
            });
            (text, value)
        }
        Err(error) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            let shown = cause.as_ref().map_or_else(String::new, |cause| format!(" ({cause})"));
            let text = match error.help_text() {
                // The message says only that it is not there.
                Some(help) if ["E0904", "E0560"].contains(&error.code()) => {
                    format!("not usable: [{}] {help}", error.code())
                }
                _ => format!("not usable: [{}] {}{shown}", error.code(), error.message()),
            };
            let value = json!({
                "name": name, "usable": false, "code": error.code(), "reason": error.message(),
                "cause": cause, "help": error.help_text(),
            });
            (text, value)
        }
    }
}
