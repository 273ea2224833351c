//! `check`: parses and verifies an IR file and matches it with weights.

use crate::args::{ModuleArgs, WeightArgs};
use crate::modules::{self, Matched};
use crate::output;
use crate::render::{Failure, findings_json};
use anyid_ir::{Func, Module};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Print one JSON object, findings included.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E03xx for weights that do not match.
pub fn run(args: Check) -> Result<(), Failure> {
    let (module, findings) = modules::examine(&args.module)?;
    let broken = !findings.list.is_empty();
    if args.json && broken {
        let list = findings_json(&findings);
        let file = args.module.file.to_string_lossy();
        output::print_json(&json!({ "file": file, "ok": false, "findings": list }))?;
        return Err(Failure::Reported);
    }
    if broken {
        return Err(Failure::Findings(Box::new(findings)));
    }
    let matched = modules::find_weights(&module.weights, &args.weights)?;
    if args.json {
        let mut value = describe_json(&module);
        value["file"] = json!(args.module.file.to_string_lossy());
        value["ok"] = json!(true);
        value["findings"] = json!([]);
        value["matched"] = matched.as_ref().map_or(Value::Null, matched_json);
        output::print_json(&value)?;
        return Ok(());
    }
    let mut out = describe(&module);
    match &matched {
        Some(_) if module.weights.is_empty() => {}
        Some(matched) => {
            let count = output::plural(module.weights.len(), "weight");
            out.push_str(&format!("matched   {count} found: {}\n", matched.how));
            if !matched.extra.is_empty() {
                let extra = output::plural(matched.extra.len(), "tensor");
                out.push_str(&format!("unused    {extra} of the files\n"));
            }
        }
        None => out.push_str("matched   nothing: no --weights or --model given\n"),
    }
    out.push_str(&format!("{}: fine\n", args.module.file.display()));
    output::print(&out)?;
    Ok(())
}

fn matched_json(matched: &Matched) -> Value {
    json!({
        "network": matched.network.map(modules::Network::describe),
        "how": matched.how,
        "unused": matched.extra.len(),
    })
}

/// `@dit(%lat: f32[48,3,12,12], …) -> f32[48,3,12,12]`.
pub fn signature(func: &Func) -> String {
    let index = match func.index_params.as_slice() {
        [] => String::new(),
        names => format!("<{}>", names.join(", ")),
    };
    let params: Vec<String> =
        func.param_types().map(|(name, ty)| format!("%{name}: {ty}")).collect();
    let names = func.result_names();
    let results: Vec<String> =
        names.iter().zip(&func.results).map(|(name, ty)| format!("{name}: {ty}")).collect();
    // Streaming functions have dozens of states.
    let short = |list: Vec<String>| match list.len() {
        0..=8 => list.join(", "),
        more => format!("{}, … {} more", list[..6].join(", "), more - 6),
    };
    format!("@{}{index}({}) -> {}", func.name, short(params), short(results))
}

/// A module for people.
pub fn describe(module: &Module) -> String {
    let mut out = format!("module    @{}\n", module.name);
    if !module.dims.is_empty() {
        let dims: Vec<String> =
            module.dims.iter().map(|d| format!("{}={}", d.name, d.value)).collect();
        out.push_str(&format!("dims      {}\n", dims.join(" ")));
    }
    for func in &module.funcs {
        out.push_str(&format!("function  {}\n", signature(func)));
    }
    let ops: usize = module.funcs.iter().map(|f| f.walk().len()).sum();
    out.push_str(&format!("ops       {ops} in the text\n"));
    if !module.weights.is_empty() {
        let (tensors, parameters, bytes) = weights(module);
        out.push_str(&format!(
            "weights   {}, {} parameters, {}\n",
            output::plural(tensors, "tensor"),
            output::count(parameters),
            output::bytes(bytes)
        ));
    }
    out
}

/// Tensors, parameters and bytes of a manifest.
fn weights(module: &Module) -> (usize, u64, u64) {
    let sum = |f: &dyn Fn(&anyid_ir::TensorType) -> u64| {
        module.weights.tensors().map(|(_, ty)| f(ty)).sum()
    };
    (module.weights.len(), sum(&|ty| ty.elements() as u64), sum(&|ty| ty.bytes()))
}

/// A module for programs.
pub fn describe_json(module: &Module) -> Value {
    let (tensors, parameters, bytes) = weights(module);
    let funcs: Vec<Value> = module
        .funcs
        .iter()
        .map(|func| {
            let port = |name: &str, ty: String| json!({ "name": name, "type": ty });
            let inputs: Vec<Value> =
                func.param_types().map(|(n, ty)| port(n, ty.to_string())).collect();
            let names = func.result_names();
            let results: Vec<Value> =
                names.iter().zip(&func.results).map(|(n, ty)| port(n, ty.to_string())).collect();
            json!({
                "name": func.name,
                "index_params": func.index_params,
                "inputs": inputs,
                "results": results,
                "ops": func.walk().len(),
            })
        })
        .collect();
    let dims: Vec<Value> =
        module.dims.iter().map(|d| json!({ "name": d.name, "value": d.value })).collect();
    json!({
        "kind": "ir",
        "module": module.name,
        "dims": dims,
        "functions": funcs,
        "weights": { "tensors": tensors, "parameters": parameters, "bytes": bytes },
    })
}
