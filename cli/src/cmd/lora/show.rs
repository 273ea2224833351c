//! What an adapter is, in words and as JSON: for `lora inspect`, and for `inspect` of an adapter.

use crate::output::{self, bytes, plural};
use anyid_runtime::Result;
use anyid_runtime::adapter::{Adapter, Ground, Part, base_of, on_top, other_base};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A description.
pub struct Shown {
    pub text: String,
    pub json: Value,
    pub warnings: Vec<String>,
}

/// Whether a folder is that of an adapter.
pub fn is_adapter_folder(path: &Path) -> bool {
    ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"]
        .iter()
        .any(|name| path.join(name).is_file())
}

/// Describes an adapter, with every module where `list` is set. `ground` is the transformer that it is
/// compared with.
///
/// # Errors
/// E0330 to E0332 where its file has changed.
pub fn shown(adapter: &Adapter, list: bool, ground: Option<&Ground>) -> Result<Shown> {
    let dialect = adapter.dialect.map_or("of bare names", |dialect| dialect.name());
    let set = adapter.tensors();
    let words = |list: Vec<String>| list.join(", ");
    let ranks = words(adapter.ranks().iter().map(u64::to_string).collect());
    let scales = words(adapter.scales().iter().map(f64::to_string).collect());
    // How many modules there are of each kind, by what they are changed by.
    let mut kinds: BTreeMap<(String, String), usize> = BTreeMap::new();
    for change in &adapter.changes {
        let rest = change.module.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let short = match (rest, change.module.starts_with("blocks.")) {
            (Some((_, rest)), _) => rest.to_owned(),
            (None, true) => "block".to_owned(),
            (None, false) => change.module.clone(),
        };
        *kinds.entry((short, change.describe())).or_default() += 1;
    }
    let mut text = match adapter.dialect {
        Some(dialect) => format!("adapter as {dialect} writes it\n"),
        None => "adapter with bare names\n".to_owned(),
    };
    let size = bytes(set.total_bytes());
    text.push_str(&format!("tensors   {}, {size}\n", plural(set.len(), "tensor")));
    text.push_str(&format!("modules   {}", adapter.changes.len()));
    for (name, list) in [("rank", &ranks), ("scale", &scales)] {
        if !list.is_empty() {
            text.push_str(&format!(", {name} {list}"));
        }
    }
    text.push('\n');
    let base = base_of(adapter);
    if let Some(base) = &base {
        let which = match ground {
            Some(own) if own.fingerprint == base.model => ": this model",
            Some(own) if own.root.as_ref() == Some(&base.model) => ": this model, before merging",
            Some(_) => ": another model than this",
            None => "",
        };
        let short: String = output::plain(&base.model).chars().take(64).collect();
        text.push_str(&format!("base      {short}{which}\n"));
        for part in &base.adapters {
            let part = on_top(std::slice::from_ref(part), "with ");
            text.push_str(&format!("          {}\n", output::plain(&part)));
        }
    }
    for ((module, what), count) in &kinds {
        text.push_str(&format!("  {count:>4} × {module}: {what}\n"));
    }
    for name in adapter.unmatched.iter().take(10) {
        text.push_str(&format!("unknown   {}\n", output::plain(name)));
    }
    if adapter.unmatched.len() > 10 {
        text.push_str(&format!("unknown   … ({} in all)\n", adapter.unmatched.len()));
    }
    for (key, value) in &adapter.metadata {
        // What is said of its use is there to be read.
        let most = if key == "anyid.use" { 2000 } else { 100 };
        let short: String = output::plain(value).chars().take(most).collect();
        text.push_str(&format!("metadata  {}: {short}\n", output::plain(key)));
    }
    let mut json = json!({
        "kind": "adapter",
        "dialect": dialect,
        "tensors": set.len(),
        "bytes": set.total_bytes(),
        "modules": adapter.changes.len(),
        "ranks": adapter.ranks(),
        "scales": adapter.scales(),
        "unmatched": adapter.unmatched,
        "metadata": adapter.metadata,
        "base_model": base.as_ref().map(|base| &base.model),
        "base_adapters": base.iter().flat_map(|base| &base.adapters).map(Part::to_json)
            .collect::<Vec<_>>(),
        "fingerprint": set.fingerprint()?,
    });
    if list {
        let mut rows = Vec::new();
        for change in &adapter.changes {
            let what = change.describe();
            text.push_str(&format!("  {}: {what}\n", change.module));
            rows.push(json!({ "module": change.module, "change": what }));
        }
        json["list"] = json!(rows);
    }
    let mut warnings = adapter.warnings.clone();
    warnings.extend(ground.and_then(|own| other_base(adapter, own, &[])));
    Ok(Shown { text, json, warnings })
}
