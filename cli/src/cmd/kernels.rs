//! `kernels`: lists the distinct kernels of a plan, how often each runs and what it costs.

use super::passes;
use super::plans::{functions, plans};
use crate::args::{ModuleArgs, PassArgs, PhaseArgs};
use crate::modules;
use crate::output::{bytes, print, print_json, table};
use crate::render::Failure;
use anyid_passes::kernels::{KernelUse, kernels};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Kernels {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub phases: PhaseArgs,
    /// Print the hash and the name of each kernel. Equal kernels have equal hashes in every run.
    #[arg(long, conflicts_with_all = ["text", "json"])]
    pub hash: bool,
    /// Print the text of every kernel.
    #[arg(long, conflicts_with = "json")]
    pub text: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub switches: PassArgs,
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E05xx where it cannot be compiled, E0913 for functions.
pub fn run(args: Kernels) -> Result<(), Failure> {
    let module = modules::read(&args.module)?;
    let funcs = functions(&module, &args.phases.func)?;
    let mut places = modules::reads(&args.module.file, None, None);
    places.prints("the list").check()?;
    let states = vec![Vec::new(); funcs.len()];
    let (plans, watched) =
        plans(&module, &funcs, &states, &args.phases.vary, &args.switches, &places)?;
    let found = kernels(&plans);
    if args.hash {
        let mut out = String::new();
        for kernel in &found {
            out.push_str(&format!("{:016x} {}\n", kernel.hash, kernel.name));
        }
        print(&out)?;
        return Ok(());
    }
    if args.json {
        let launches: usize = found.iter().map(|kernel| kernel.launches.len()).sum();
        let list: Vec<Value> = found.iter().map(entry).collect();
        let mut out = json!({ "launches": launches, "kernels": list });
        passes::report_json(&watched, &args.switches, &mut out);
        print_json(&out)?;
        return Ok(());
    }
    let mut out = if args.text { texts(&found) } else { overview(&found) };
    out.push_str(&passes::report(&watched, &args.switches));
    print(&out)?;
    Ok(())
}

fn types(kernel: &KernelUse) -> String {
    let results = kernel.results.join(", ");
    match kernel.operands.is_empty() {
        true => format!("-> {results}"),
        false => format!("{} -> {results}", kernel.operands.join(", ")),
    }
}

fn overview(found: &[KernelUse]) -> String {
    let head = ["kernel", "launches", "GFLOP", "moved"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for kernel in found {
        rows.push(vec![
            kernel.name.clone(),
            kernel.launches.len().to_string(),
            format!("{:.3}", kernel.cost.flops as f64 / 1e9),
            bytes(kernel.cost.bytes),
        ]);
    }
    // Types differ too much in length, so they are the last column.
    let lines = table(&rows);
    let types = std::iter::once("operands -> results".to_owned()).chain(found.iter().map(types));
    let lines: String =
        lines.lines().zip(types).map(|(line, types)| format!("{line}  {types}\n")).collect();
    let launches: usize = found.iter().map(|kernel| kernel.launches.len()).sum();
    format!("{lines}{} kernels, {launches} launches; figures of one launch\n", found.len())
}

/// The text of every kernel.
pub fn texts(found: &[KernelUse]) -> String {
    let mut out = String::new();
    for kernel in found {
        let KernelUse { launches, first, text, .. } = kernel;
        let count = launches.len();
        out.push_str(&format!("// {count} of: {}\n// first: {first}\n{text}\n", types(kernel)));
    }
    out
}

fn entry(kernel: &KernelUse) -> Value {
    json!({
        "name": kernel.name,
        "hash": format!("{:016x}", kernel.hash),
        "launches": kernel.launches.len(),
        "operands": kernel.operands,
        "results": kernel.results,
        "flops": kernel.cost.flops,
        "bytes": kernel.cost.bytes,
        "first": kernel.first,
        "text": kernel.text,
    })
}
