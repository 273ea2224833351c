//! Snapshots of a transformer block and of a residual block of the autoencoder on their way to a
//! plan: optimised, fused, planned; and of what the networks of the built-in model need. They show
//! what a change to a pass changes. Update them with `INSTA_UPDATE=always`, and say why in the commit.

use anyid_ir::plan::Plan;
use anyid_ir::{FuncBuilder, IndexArg, Module, text};
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::vae::{Half, VaeSize, decoder, encoder, states};
use anyid_passes::driver::{Selection, drive, unobserved};
use anyid_passes::pipeline::Phase;
use anyid_passes::program::{Origin, Port, Program, ValueIndex};
use anyid_passes::report::PhaseSummary;
use anyid_passes::{CompileRequest, Options, StateSpec, flatten, straight};
use anyid_tests::devices::target;
use std::collections::BTreeMap;
use std::fmt::Write;

fn options() -> Options {
    Options { target: target(), verify_each: true, ..Options::default() }
}

/// Optimised, fused and planned text of what is asked for.
fn phases(request: &CompileRequest<'_>) -> [String; 3] {
    let request = request.clone().with(&options());
    [Phase::Optimised, Phase::Fused, Phase::Planned].map(|phase| {
        let to = Selection::To(phase);
        let state = drive(&request, &to, &mut unobserved).unwrap().state;
        match phase {
            Phase::Optimised => text::print_func(state.straight().main().expect("a function")),
            _ => state.text(),
        }
    })
}

/// Plan text without what a page of it cannot hold: lists of weights, views of them, and the insides
/// of kernels.
fn brief(plan: &str) -> String {
    let mut inside = false;
    let kept = |line: &&str| {
        let begins = line.starts_with("  kernel ");
        let shown = !inside && !line.starts_with("  weight ") && !line.contains(" = weight ");
        inside = begins || (inside && *line != "  }");
        shown
    };
    plan.lines().filter(kept).map(|line| format!("{line}\n")).collect()
}

fn size() -> DitSize {
    DitSize { reference_frames: 1, frames: 1, height: 4, width: 4, text_tokens: 6, timesteps: 2 }
}

/// One block of the micro transformer by itself.
fn block(precision: Precision) -> Module {
    let mut module = dit(&DitConfig::micro(), &size(), precision);
    module.funcs.truncate(1);
    let params: Vec<_> =
        module.funcs[0].param_types().map(|(name, ty)| (name.to_owned(), ty.clone())).collect();
    let mut f = FuncBuilder::new(&module, "one");
    let values: Vec<_> = params.into_iter().map(|(name, ty)| f.param(&name, ty)).collect();
    let made = f.call("y", "block", &[IndexArg::Int(0)], &values);
    let func = f.finish(&made);
    module.add(func);
    module
}

#[test]
fn transformer_block_in_bf16() {
    let [optimised, fused, planned] = phases(&CompileRequest::new(&block(Precision::Bf16), "one"));
    insta::assert_snapshot!("dit_bf16_optimised", optimised);
    insta::assert_snapshot!("dit_bf16_fused", fused);
    insta::assert_snapshot!("dit_bf16_planned", brief(&planned));
}

#[test]
fn transformer_block_in_f32() {
    let [optimised, fused, planned] = phases(&CompileRequest::new(&block(Precision::F32), "one"));
    insta::assert_snapshot!("dit_f32_optimised", optimised);
    insta::assert_snapshot!("dit_f32_fused", fused);
    insta::assert_snapshot!("dit_f32_planned", brief(&planned));
}

/// The steps of `program` behind the one that makes `after` up to the one that makes `last`, as a
/// program with what they read as inputs, and what is read of them as outputs.
fn stretch(program: &Program, after: &str, last: &str) -> Program {
    let at = |label: &str| {
        let found = program.steps.iter().position(|step| step.label() == label);
        found.unwrap_or_else(|| panic!("no step {label}"))
    };
    let (from, to) = (at(after) + 1, at(last));
    let mut out = Program::default();
    let mut moved: BTreeMap<ValueIndex, ValueIndex> = BTreeMap::new();
    for step in &program.steps[from..=to] {
        for value in &step.operands {
            if moved.contains_key(value) {
                continue;
            }
            let ty = program.ty(*value).clone();
            let new = match program.values[*value as usize].origin {
                Origin::Weight(index) => {
                    out.weights.push(program.weights[index as usize].clone());
                    out.value(ty, Origin::Weight(out.weights.len() as u32 - 1))
                }
                _ => {
                    let name = program.name(*value);
                    let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
                    let new = out.value(ty, Origin::Input(out.inputs.len() as u32));
                    out.inputs.push(Port::new(name, new));
                    new
                }
            };
            moved.insert(*value, new);
        }
        let operands = step.operands.iter().map(|value| moved[value]).collect();
        moved.extend(step.results.iter().copied().zip(out.step_like(program, step, operands)));
    }
    for step in &program.steps[from..=to] {
        for (value, label) in step.results.iter().zip(&step.labels) {
            let later = program.steps[to + 1..].iter().any(|other| other.operands.contains(value));
            let returned = program.outputs.iter().any(|port| port.value == *value);
            if later || returned {
                let name = label.rsplit('/').next().unwrap_or_default().to_owned();
                out.outputs.push(Port::new(name, moved[value]));
            }
        }
    }
    out
}

/// The first residual block of the decoder with the frames it keeps from one chunk to the next.
#[test]
fn residual_block() {
    let size = VaeSize { height: 32, width: 32, chunk: 1 };
    let module = decoder(&VaeConfig::micro(), &size, true);
    let whole = flatten::flatten(&module, "next").unwrap();
    let block = stretch(&whole, "next/n0", "next/mid.resnet0");
    block.verify().unwrap();
    let mut one = straight::empty(&module);
    straight::add_function(&mut one, &block, "residual");
    let position =
        |list: &[Port], name: &str| list.iter().position(|port| port.name == name).unwrap();
    let kept = |at: usize| StateSpec {
        name: format!("s{at}"),
        input: Some(position(&block.inputs, &format!("s{at}"))),
        output: position(&block.outputs, &format!("n{at}")),
    };
    let request = CompileRequest::new(&one, "residual").carrying([kept(1), kept(2)]);
    let [optimised, fused, planned] = phases(&request);
    insta::assert_snapshot!("residual_optimised", optimised);
    insta::assert_snapshot!("residual_fused", fused);
    insta::assert_snapshot!("residual_planned", planned);
}

/// A line of the table for a plan.
fn row(what: &str, plan: &Plan, out: &mut String) {
    let summary = PhaseSummary::of(plan);
    let peak = summary.peak.as_ref().map_or("nothing", |peak| &peak.label);
    writeln!(
        out,
        "{what:<8} {:<8} {:>3} launches, workspace {} of {} without reuse, least {}; prepared {}, \
         states {}; weights {}; {} operations, {} bytes moved; peak at {peak}",
        summary.name,
        summary.launches,
        summary.peak_bytes,
        summary.naive_bytes,
        summary.lower_bound_bytes,
        plan.persistent_bytes,
        plan.state_bytes(),
        summary.weights_resident_bytes,
        summary.flops,
        summary.bytes_moved,
    )
    .expect("writing to a string does not fail");
}

#[test]
fn what_the_built_in_model_needs() {
    let (mut out, options) = (String::new(), options());
    for precision in [Precision::Bf16, Precision::F32] {
        let module = dit(&DitConfig::micro(), &size(), precision);
        let [prepare, step] = CompileRequest::new(&module, "dit")
            .varying(["lat", "t"])
            .with(&options)
            .split()
            .unwrap();
        let what = format!("dit {}", precision.name());
        row(&what, &prepare, &mut out);
        row(&what, &step, &mut out);
        let module = anyid_models::wan::text::text(&TextConfig::micro(), 16, precision);
        let plan = CompileRequest::new(&module, "text").with(&options).plan().unwrap();
        row(&format!("umT5 {}", precision.name()), &plan, &mut out);
    }
    let size = VaeSize { height: 64, width: 64, chunk: 1 };
    for half in [Half::Encoder, Half::Decoder] {
        let module = match half {
            Half::Encoder => encoder(&VaeConfig::micro(), &size),
            Half::Decoder => decoder(&VaeConfig::micro(), &size, true),
        };
        for name in ["first", "next"] {
            let func = module.func(name).unwrap();
            let spec = |(at, (input, output)): (usize, (Option<usize>, usize))| StateSpec {
                name: format!("s{at}"),
                input,
                output,
            };
            let specs: Vec<_> = states(half, func).into_iter().enumerate().map(spec).collect();
            let plan = CompileRequest::new(&module, name)
                .with(&options)
                .carrying(specs.iter().cloned())
                .plan()
                .unwrap();
            row(&format!("{half:?}"), &plan, &mut out);
        }
    }
    insta::assert_snapshot!(out);
}
