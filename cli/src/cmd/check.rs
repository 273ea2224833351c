//! `check`: parses and verifies an IR file, matches it with weights, and compiles its kernels for a
//! device. Nothing is computed. `check refs` looks at references instead (`check_refs`).

use crate::args::{DeviceArgs, ModuleArgs, WeightArgs};
use crate::cmd::check_refs::{self, Refs};
use crate::modules::{self, Matched};
use crate::output;
use crate::render::{Failure, findings_json};
use anyid_ir::{Func, Module};
use anyid_runtime::{CompileRequest, Compiler, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What else is checked; a file of one of these names is `./NAME`.
#[derive(Debug, Subcommand)]
pub enum CheckVerb {
    /// Say whether references of a person are any good: sizes, blur, near duplicates, faces and views.
    Refs(Refs),
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Check {
    #[command(subcommand)]
    pub what: Option<CheckVerb>,
    #[command(flatten)]
    pub module: Option<ModuleArgs>,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Compile every function without index parameters for this device, kernels of GPUs to their
    /// machine code.
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Print one JSON object, findings included.
    #[arg(long)]
    pub json: bool,
}

impl Check {
    /// Whether JSON is printed.
    pub fn wants_json(&self) -> bool {
        match &self.what {
            Some(CheckVerb::Refs(args)) => args.json,
            None => self.json,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E03xx for weights that do not match; with a device those of opening it,
/// E05xx where it cannot run a function, E0851 and E0857 for kernels that do not compile. Those of
/// [`check_refs::run`].
pub fn run(args: Check) -> std::result::Result<(), Failure> {
    if let Some(CheckVerb::Refs(refs)) = &args.what {
        return Ok(check_refs::run(refs)?);
    }
    let text = args.module.as_ref().expect("the parser asks for a file where there is no verb");
    let (module, findings) = modules::examine(text)?;
    let broken = !findings.list.is_empty();
    if args.json && broken {
        let list = findings_json(&findings);
        let file = text.file.to_string_lossy();
        output::print_json(&json!({ "file": file, "ok": false, "findings": list }))?;
        return Err(Failure::Reported);
    }
    if broken {
        return Err(Failure::Findings(Box::new(findings)));
    }
    let matched = modules::find_weights(&module.weights, &args.weights)?;
    let compiled = args.device.as_deref().map(|name| compiled(&module, name)).transpose()?;
    if args.json {
        let mut value = describe_json(&module);
        value["file"] = json!(text.file.to_string_lossy());
        value["ok"] = json!(true);
        value["findings"] = json!([]);
        value["device"] = compiled.as_ref().map_or(Value::Null, |compiled| {
            json!({
                "name": compiled.name, "target": compiled.target, "functions": compiled.functions,
                "launches": compiled.launches,
            })
        });
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
    if let Some(Compiled { name, target, functions, launches }) = compiled {
        let (functions, launches) =
            (output::plural(functions, "function"), output::plural(launches, "launch"));
        out.push_str(&format!("compiled  {functions} for {name} ({target}), {launches}\n"));
    }
    out.push_str(&format!("{}: fine\n", text.file.display()));
    output::print(&out)?;
    Ok(())
}

/// What was compiled for a device.
struct Compiled {
    name: String,
    target: &'static str,
    functions: usize,
    launches: usize,
}

/// Compiles the functions of a module for a device, and has it get their kernels ready.
fn compiled(module: &Module, name: &str) -> Result<Compiled> {
    let device = DeviceArgs { device: name.to_owned(), threads: 0 };
    let backend = device.open()?;
    let mut compiler = Compiler::new(&backend);
    let mut functions = 0;
    for func in module.funcs.iter().filter(|func| func.index_params.is_empty()) {
        compiler = compiler.add(&func.name, CompileRequest::new(module, &func.name))?;
        functions += 1;
    }
    let launches = compiler.plans().map(|(_, plan)| plan.steps.len()).sum();
    compiler.kernels_compile()?;
    let about = backend.about();
    Ok(Compiled { name: about.name.clone(), target: about.target.name, functions, launches })
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
