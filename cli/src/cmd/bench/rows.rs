//! `bench rows`: the row kernels of plans at their real shapes, compared with a copy of memory.
//!
//! The functions of IR text are compiled as `kernels` does it. Each distinct row kernel then runs by
//! itself on memory as large as in its plan, in place where it runs in place there. The memory holds
//! zeros: no kernel takes longer for other numbers. What it reads and writes counts once.

use super::{bad_seconds, duration_small, median};
use crate::cmd::bench::args::BenchRows;
use crate::cmd::passes;
use crate::cmd::plans::{functions, plans};
use crate::modules;
use crate::output::{self, print, print_json, table};
use crate::progress::Progress;
use crate::render::Failure;
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::{Buffer, BufferId, Plan, Root, Step};
use anyid_ir::{DType, Manifest};
use anyid_passes::kernels::{KernelUse, kernels};
use anyid_runtime::Error;
use anyid_runtime::engine::{Compiler, Inputs};
use anyid_runtime::init::RandomWeights;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How the figures come about, below the table.
const HOW: &str = "\
Times are medians of one launch. GB/s is what it reads and writes, each byte once, and the peak a copy of
64 MiB on the same threads. busy: processor time that the process got, as a share of its threads' time.
";

/// Bytes between pieces of memory: a page, so that each begins as in a plan.
const APART: u64 = 4096;

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E05xx where it cannot be compiled, E0913 for functions, E0918 for an
/// impossible time or where there is no row kernel.
pub fn run(mut args: BenchRows) -> Result<(), Failure> {
    if !(0.001..=600.0).contains(&args.seconds) {
        return Err(bad_seconds(args.seconds).into());
    }
    // Plans are those of the device.
    let backend = args.on.open()?;
    let asked = passes::target(&args.switches.target)?.name;
    if asked != backend.target() && asked != "cpu" {
        let own = backend.target();
        let message = format!("the plan is for target {asked}, not for {own}");
        return Err(Error::input("E0514", message)
            .at("--target")
            .help("leave it out: kernels are measured on --device, in plans for it")
            .into());
    }
    backend.target().clone_into(&mut args.switches.target);
    let module = modules::read(&args.module)?;
    let funcs = functions(&module, &args.phases.func)?;
    let mut places = modules::reads(&args.module.file, None, None);
    places.prints("the table").check()?;
    let states = vec![Vec::new(); funcs.len()];
    let (plans, _) = plans(&module, &funcs, &states, &args.phases.vary, &args.switches, &places)?;
    let step = |kernel: &KernelUse| {
        let [plan, step] = kernel.launches[0];
        (&plans[plan], &plans[plan].steps[step])
    };
    let found: Vec<KernelUse> = kernels(&plans)
        .into_iter()
        .filter(|kernel| args.only.as_ref().is_none_or(|part| kernel.name.contains(part)))
        .filter(|kernel| {
            matches!(&step(kernel).1.kernel, Kernel::Row(row) if row.arithmetic == DType::F32)
        })
        .collect();
    if found.is_empty() {
        return Err(Error::input("E0918", "there is no row kernel in f32 to measure")
            .at(args.only.as_ref().map_or("FILE.ir", |_| "--only"))
            .help("anyid-rt kernels FILE.ir lists the kernels of a file")
            .into());
    }
    let time = Duration::from_secs_f64(args.seconds);
    let mut progress = Progress::new();
    progress.part("measuring the machine");
    let peak = backend.device().throughput(time.min(Duration::from_secs(1)));
    let copy = peak.copy_gb_per_second;
    let head = ["kernel", "rows", "types", "uses", "moved", "time", "GB/s", "of copy", "busy"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut list = Vec::new();
    for kernel in &found {
        progress.part(&kernel.name);
        let (plan, step) = step(kernel);
        let Kernel::Row(row) = &step.kernel else { continue };
        let compiler = Compiler::new(&backend).planned("row", alone(plan, step));
        let weights = Arc::new(RandomWeights::new(&Manifest::default(), 1));
        let mut program = compiler.load(weights, &mut |_, _| true)?;
        let (seconds, busy) = median(&mut program, "row", &Inputs::new(), time, peak.threads)?;
        let rate = kernel.cost.bytes as f64 / seconds * 1e-9;
        let of = |buffers: &[BufferId]| {
            let types = buffers.iter().map(|id| plan.buffer(*id).ty.dtype.name());
            types.collect::<Vec<_>>().join(" ")
        };
        let types = format!("{} -> {}", of(&step.operands), of(&step.results));
        rows.push(vec![
            kernel.name.clone(),
            format!("{} x {}", row.rows, row.width),
            types.clone(),
            kernel.launches.len().to_string(),
            output::bytes(kernel.cost.bytes),
            duration_small(seconds),
            format!("{rate:.1}"),
            format!("{:.0} %", rate / copy * 100.0),
            busy.map_or_else(String::new, |busy| format!("{:.0} %", busy * 100.0)),
        ]);
        list.push(json!({
            "name": kernel.name, "rows": row.rows, "width": row.width, "types": types,
            "launches": kernel.launches.len(), "bytes": kernel.cost.bytes, "seconds": seconds,
            "gb_per_second": rate, "share_of_copy": rate / copy, "busy": busy,
            "text": kernel.text,
        }));
    }
    progress.clear();
    let level = &backend.about().instructions;
    if args.json {
        print_json(&json!({
            "threads": peak.threads, "instructions": level, "copy_gb_per_second": copy,
            "kernels": list,
        }))?;
        return Ok(());
    }
    print(&format!(
        "{}, {level}; measured copy: {copy:.1} GB/s\n{}{HOW}",
        output::plural(peak.threads, "thread"),
        table(&rows)
    ))?;
    Ok(())
}

/// A plan of one step on workspace alone, whose pieces lie to each other as they did.
fn alone(plan: &Plan, step: &Step) -> Plan {
    let mut spans: Vec<(Root, u64, u64)> = step
        .operands
        .iter()
        .chain(&step.results)
        .map(|id| plan.buffer(*id))
        .map(|buffer| {
            let (start, end) = buffer.span().expect("a plan of ours is sound");
            (buffer.root, start, end)
        })
        .collect();
    spans.sort_unstable();
    // Pieces that touch each other, and where each begins in the workspace.
    let mut pieces: Vec<(Root, u64, u64, u64)> = Vec::new();
    let mut workspace = 0;
    for (root, start, end) in spans {
        match pieces.last_mut() {
            Some((own, _, until, _)) if *own == root && start < *until => *until = end.max(*until),
            _ => pieces.push((root, start, end, 0)),
        }
    }
    for (_, start, end, place) in &mut pieces {
        *place = workspace + *start % APART;
        workspace = (*place + *end - *start).next_multiple_of(APART);
    }
    let mut out = Plan {
        name: "row".to_owned(),
        alignment: plan.alignment,
        workspace_bytes: workspace,
        ..Plan::default()
    };
    let mut moved = |ids: &[BufferId]| -> Vec<BufferId> {
        let place = |buffer: &Buffer| {
            let inside = |piece: &&(Root, u64, u64, u64)| {
                piece.0 == buffer.root && (piece.1..=piece.2).contains(&buffer.offset)
            };
            let (_, start, _, place) = pieces.iter().rev().find(inside).expect("it was counted");
            place + buffer.offset - start
        };
        let add = |id: &BufferId| {
            let buffer = plan.buffer(*id);
            let offset = place(buffer);
            out.buffers.push(Buffer { root: Root::Workspace, offset, ..buffer.clone() })
        };
        ids.iter().map(add).collect()
    };
    let (operands, results) = (moved(&step.operands).into(), moved(&step.results).into());
    out.steps.push(Step { operands, results, ..step.clone() });
    out
}
