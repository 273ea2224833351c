//! Every kernel of the networks' plans on the device, by itself, on fresh inputs, against doubles.
//!
//! The plans are those of the device's target at the widths of the preset. Each distinct kernel runs
//! alone in memory full of NaN, twice for the same bits. Of those with many rows some are compared: the
//! first, the last, and one that is drawn anew in each tile of rows, so that a tile is not spoiled unseen.

use super::compare::{Distance, bound, distance};
use super::report::{Line, Verdict, short};
use super::teller::Teller;
use super::{Check, single};
use anyid_backends::check::cases::{Random, seed_of};
use anyid_backends::check::{Stored, sampled};
use anyid_ir::kernel::{Anchor, Kernel};
use anyid_ir::plan::{Plan, Root, Step};
use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_models::wan::Precision;
use anyid_models::wan::dit::{self, DitSize, DitTypes};
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_models::wan::{Residual, text};
use anyid_passes::cost::step_cost;
use anyid_runtime::init::Preset;
use anyid_runtime::pipeline::coder_phases;
use anyid_runtime::{CompileRequest, Compiler, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are compared at least, where there are as many.
const ROWS: usize = 64;

/// Rows of the largest tiles that kernels compute at once.
const TILE: usize = 128;

/// Rows that are compared where one takes long in doubles, and much memory: of an attention, which looks
/// at all keys for each.
const FEW: usize = 32;

/// Operations of a row that takes long.
const LONG: u64 = 200_000_000;

/// Fewest rows that a thread of its own computes in doubles.
const SHARE: usize = 8;

/// A kernel of a plan.
struct Found {
    plan: Plan,
    name: String,
}

impl Found {
    /// The place of its first use.
    fn label(&self) -> &str {
        self.plan.steps[0].label()
    }

    /// What it is summed up as.
    fn group(&self, network: &str) -> String {
        format!("{network} {}", group(&self.plan.steps[0].kernel))
    }
}

/// Runs the section.
///
/// # Errors
/// None of a single kernel.
pub fn run(check: &mut Check<'_>, teller: &mut Teller) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut networks: Vec<(&str, Vec<Found>)> = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (network, made) in
        [("dit", dit_plans(check)), ("vae", vae_plans(check)), ("text", text_plans(check))]
    {
        let plans = match made {
            Ok(plans) => plans,
            Err(error) => {
                if teller.begins(network, None) {
                    teller.push(Line::new("kernels", network, Verdict::Wrong, short(&error)));
                }
                continue;
            }
        };
        let mut all = distinct(&plans, &mut seen);
        for found in &mut all {
            found.name = format!("{network} {} ({})", found.name, found.label());
        }
        all.retain(|found| check.wants(&found.name));
        for found in &all {
            *counts.entry(found.group(network)).or_default() += 1;
        }
        networks.push((network, all));
    }
    counts.iter().for_each(|(group, count)| teller.expects(group, *count));
    for (network, all) in networks {
        let wanted = all.iter().enumerate().filter(|(ahead, _)| teller.wants(*ahead));
        single::compile(check, wanted.map(|(_, found)| found.plan.clone()).collect());
        let total = all.len() as u64;
        for (done, found) in all.into_iter().enumerate() {
            if !check.has(10.0) {
                break;
            }
            let (name, group) = (found.name.clone(), found.group(network));
            check.progress.update(done as u64, total, || name.clone());
            if !teller.begins(&name, Some(&group)) {
                continue;
            }
            let types = types(&found.plan);
            let line = match one(check, &found, teller) {
                Ok(Compared { worst, bound, rows }) => {
                    let figures = format!("{:.1e} of {:.0e}", worst.largest, bound.largest);
                    let share =
                        if bound.largest > 0.0 { worst.largest / bound.largest } else { 0.0 };
                    let line = Line::new("kernels", name, Verdict::Right, figures);
                    line.of(&group, share).with(json!({
                        "types": types, "largest": worst.largest, "length": worst.length,
                        "rows": rows,
                    }))
                }
                Err(why) => {
                    let line = Line::new("kernels", name, Verdict::Wrong, why);
                    let more = json!({ "types": types, "seed": check.seed });
                    line.of(&group, f64::INFINITY).with(more)
                }
            };
            teller.push(line);
        }
    }
    Ok(())
}

/// What kernels are summed up as.
fn group(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Row(_) => "rows",
        Kernel::Copy(_) => "copies",
        Kernel::Gather => "gathers",
        Kernel::Fill(_) => "tables",
        Kernel::Anchor(anchor) => match anchor.anchor {
            Anchor::Linear => "linear",
            Anchor::Dot { .. } => "dot",
            Anchor::Attention { .. } => "attention",
            Anchor::AttentionVjp { .. } => "attention_vjp",
            Anchor::Conv { .. } => "conv",
            Anchor::SegmentSum { .. } => "segment_sum",
        },
    }
}

/// Types of operands and results in words.
fn types(plan: &Plan) -> String {
    let list = |ids: &[_]| -> String {
        let all: Vec<String> = plan.types(ids).iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    let step = &plan.steps[0];
    format!("{} -> {}", list(&step.operands), list(&step.results))
}

/// The distinct kernels of plans, each as a plan of its own.
fn distinct(plans: &[Plan], seen: &mut BTreeSet<String>) -> Vec<Found> {
    let mut out = Vec::new();
    for plan in plans {
        for step in &plan.steps {
            let alone = single::alone(plan, step);
            let own = &alone.steps[0];
            let places = |ids: &[_]| {
                let all = ids.iter().map(|id| alone.buffer(*id));
                let stored = |root: Root| matches!(root, Root::Weight(_));
                all.map(|each| format!("{} {:?} {}", each.ty, each.columns, stored(each.root)))
                    .collect::<Vec<_>>()
            };
            let key =
                format!("{:?} {:?} {:?}", step.kernel, places(&own.operands), places(&own.results));
            if seen.insert(key) {
                out.push(Found { plan: alone, name: step.kind().to_owned() });
            }
        }
    }
    out
}

/// What was compared: how far it is, how far it may be, and in how many rows.
struct Compared {
    worst: Distance,
    bound: Distance,
    rows: usize,
}

/// A kernel on fresh inputs, or what is wrong.
fn one(
    check: &Check<'_>,
    found: &Found,
    teller: &mut Teller,
) -> std::result::Result<Compared, String> {
    let plan = &found.plan;
    let step = &plan.steps[0];
    let operand_types: Vec<TensorType> = plan.types(&step.operands).into_iter().cloned().collect();
    let seed = check.seed ^ seed_of(&found.name);
    // The memory of operands, gaps between rows included.
    let (mut memory, mut inputs, mut weights) = (Vec::new(), Vec::new(), Stored::default());
    for (at, id) in step.operands.iter().enumerate() {
        let below = single::below(&step.kernel, &operand_types, at);
        let ty = single::memory(plan, *id);
        let tensor = single::fresh(&ty, below, seed.wrapping_add(at as u64));
        match plan.buffer(*id).root {
            Root::Weight(weight) => {
                weights.insert(plan.weights[weight as usize].name.clone(), tensor.clone());
            }
            _ => inputs.push(tensor.clone()),
        }
        memory.push(tensor);
    }
    let made = single::twice(check.backend, plan, &weights, &inputs)?;
    teller.idle();
    drop((inputs, weights));
    for (id, memory) in step.results.iter().zip(&made) {
        if !single::gaps_untouched(plan.buffer(*id), memory) {
            return Err("bytes between the rows of the result were written".to_owned());
        }
    }
    let cut = |ids: &[_], all: &[Tensor]| -> Vec<Tensor> {
        ids.iter().zip(all).map(|(id, memory)| single::cut(plan.buffer(*id), memory)).collect()
    };
    let (operands, results) = (cut(&step.operands, &memory), cut(&step.results, &made));
    drop((memory, made));
    let result_types: Vec<TensorType> = results.iter().map(|each| each.ty().clone()).collect();
    let only = rows(step, plan, &result_types, seed);
    let given = sampled::picked(&step.kernel, &results, &only);
    let wanted = reference(&step.kernel, &operands, &result_types, &only)?;
    let (mut worst, mut most) = (Distance::default(), Distance::default());
    for ((given, wanted), ty) in given.iter().zip(&wanted).zip(&result_types) {
        let others = operand_types.iter().map(|ty| ty.dtype).chain(inner(&step.kernel));
        let (apart, allowed) = (distance(given, wanted), bound(ty.dtype, others));
        if !apart.within(allowed) {
            return Err(format!(
                "{:.1e} from doubles, {:.0e} at most ({:.1e} in length, {:.0e} at most), {} rows of {}",
                apart.largest,
                allowed.largest,
                apart.length,
                allowed.length,
                only.len(),
                ty
            ));
        }
        if apart.largest * most.largest >= worst.largest * allowed.largest {
            (worst, most) = (apart, allowed);
        }
    }
    Ok(Compared { worst, bound: most, rows: only.len() })
}

/// What some rows have to be, computed by several threads.
fn reference(
    kernel: &Kernel,
    operands: &[Tensor],
    results: &[TensorType],
    only: &[usize],
) -> std::result::Result<Vec<Vec<f64>>, String> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let each = only.len().div_ceil(threads).max(SHARE);
    let parts: Vec<&[usize]> = only.chunks(each).collect();
    let part = |rows: &[usize]| sampled::reference(kernel, operands, results, rows);
    // Where a row cannot be computed alone, every part would compute all of them.
    if parts.len() < 2 || !sampled::alone(kernel, operands) {
        return part(only);
    }
    let made: Vec<_> = std::thread::scope(|scope| {
        let begun: Vec<_> = parts
            .iter()
            .map(|rows| {
                let part = &part;
                std::thread::Builder::new().spawn_scoped(scope, move || part(rows))
            })
            .collect();
        let done = begun.into_iter().zip(&parts);
        // What the system gives no thread for is computed here.
        done.map(|(begun, rows)| begun.map_or_else(|_| part(rows), join)).collect()
    });
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); results.len()];
    for made in made {
        all.iter_mut().zip(made?).for_each(|(all, own)| all.extend(own));
    }
    Ok(all)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|fault| std::panic::resume_unwind(fault))
}

/// Types that a kernel rounds to inside.
fn inner(kernel: &Kernel) -> Vec<DType> {
    match kernel {
        Kernel::Anchor(anchor) => [anchor.sums, anchor.activated].into_iter().flatten().collect(),
        Kernel::Row(row) => {
            let rounds = row.code.iter().filter_map(|instruction| match instruction {
                anyid_ir::kernel::Instruction::Round(dtype, _) => Some(*dtype),
                _ => None,
            });
            rounds.chain(row.results.iter().map(|ty| ty.dtype)).collect()
        }
        Kernel::Copy(_) | Kernel::Gather | Kernel::Fill(_) => Vec::new(),
    }
}

/// The rows that are compared.
fn rows(step: &Step, plan: &Plan, results: &[TensorType], seed: u64) -> Vec<usize> {
    let all = sampled::rows(&step.kernel, results);
    let long = step_cost(plan, step).flops / all.max(1) as u64 > LONG;
    drawn(all, if long { FEW } else { ROWS }, !long, seed)
}

/// The first row, the last, one of each tile if that is wanted, and as many others as make `least`.
fn drawn(all: usize, least: usize, tiles: bool, seed: u64) -> Vec<usize> {
    if all <= least {
        return (0..all).collect();
    }
    let mut random = Random(seed);
    let mut only = BTreeSet::from([0, 1, all - 1]);
    if tiles {
        for first in (0..all).step_by(TILE) {
            only.insert(first + random.below(TILE.min(all - first)));
        }
    }
    while only.len() < least {
        only.insert(random.below(all));
    }
    only.into_iter().collect()
}

/// The transformer, with and without what `prepare` takes out of the steps.
fn dit_plans(check: &Check<'_>) -> Result<Vec<Plan>> {
    let (mut config, _, _) = check.preset.configs();
    // Every block is the same.
    config.layers = config.layers.min(2);
    let size = match check.preset {
        // 1280x704 with 121 frames: 27,280 tokens, and one picture as a reference.
        Preset::Ti2v5b => DitSize {
            reference_frames: 1,
            frames: 31,
            height: 44,
            width: 80,
            text_tokens: 512,
            timesteps: 2,
        },
        Preset::Micro | Preset::Small | Preset::World => DitSize {
            reference_frames: 1,
            frames: 2,
            height: 4,
            width: 6,
            text_tokens: 12,
            timesteps: 2,
        },
    };
    let types = DitTypes { precision: precision(check), residual: Residual::F32 };
    let module = dit::dit(&config, &size, types);
    let request = CompileRequest::new(&module, "dit").varying(["lat", "t"]);
    Ok(plans(Compiler::new(check.backend).add("step", request)?))
}

/// Both halves of the autoencoder, for the first chunk of a clip and for later ones.
fn vae_plans(check: &Check<'_>) -> Result<Vec<Plan>> {
    let (_, config, _) = check.preset.configs();
    let factor = config.spatial_factor();
    let [height, width] = match check.preset {
        Preset::Ti2v5b => [6 * factor, 8 * factor],
        Preset::Micro | Preset::Small | Preset::World => [2 * factor, 3 * factor],
    };
    let size = VaeSize { height, width, chunk: 1 };
    let mut all = Vec::new();
    for half in [Half::Encoder, Half::Decoder] {
        let module: Module = vae::coder(&config, &size, half, true, Precision::F32);
        all.extend(plans(coder_phases(Compiler::new(check.backend), &module, half, true)?));
    }
    Ok(all)
}

fn text_plans(check: &Check<'_>) -> Result<Vec<Plan>> {
    let (_, _, mut config) = check.preset.configs();
    config.layers = config.layers.min(2);
    config.vocab_size = config.vocab_size.min(1024);
    let tokens = if check.preset == Preset::Ti2v5b { 512 } else { 12 };
    let module = text::text(&config, tokens, precision(check));
    Ok(plans(Compiler::new(check.backend).phase("text", &module, "text")?))
}

fn precision(check: &Check<'_>) -> Precision {
    if check.preset == Preset::Ti2v5b { Precision::Bf16 } else { Precision::F32 }
}

fn plans(compiler: Compiler) -> Vec<Plan> {
    compiler.plans().map(|(_, plan)| plan.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_of_rows_has_a_row_that_is_compared() {
        let rows = drawn(27_280, ROWS, true, 5);
        let tiles: BTreeSet<usize> = rows.iter().map(|row| row / TILE).collect();
        assert_eq!(tiles.len(), 27_280usize.div_ceil(TILE));
        assert!(rows.len() <= tiles.len() + 3 && rows.contains(&0) && rows.contains(&27_279));
        assert_ne!(rows, drawn(27_280, ROWS, true, 6), "they are drawn anew");
        let places: BTreeSet<usize> = rows.iter().map(|row| row % TILE).collect();
        assert!(places.len() > TILE / 2, "all over the tiles: {places:?}");
        assert_eq!(drawn(27_280, FEW, false, 5).len(), FEW);
        assert_eq!(drawn(50, ROWS, true, 5), (0..50).collect::<Vec<_>>());
        assert_eq!(drawn(300, ROWS, true, 5).len(), ROWS);
    }

    #[test]
    fn rows_that_several_threads_compute_are_in_order() {
        let text = "kernel k0 \"linear\" anchor linear {\n  y0 = linear(a0, a1)\n}\n";
        let kernel = anyid_ir::kernel::text::parse_kernels(text).unwrap().remove(0);
        let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
        let operands = [single::fresh(&ty(&[90, 6]), 1, 3), single::fresh(&ty(&[4, 6]), 1, 4)];
        let (results, only) = ([ty(&[90, 4])], (0..90).rev().collect::<Vec<_>>());
        let whole = sampled::reference(&kernel, &operands, &results, &only).unwrap();
        assert_eq!(reference(&kernel, &operands, &results, &only).unwrap(), whole);
    }
}
