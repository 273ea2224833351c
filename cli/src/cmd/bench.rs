//! `bench ops`: single operations, compared with the peak of the device.
//!
//! Shapes are those of the real model. Each operation is a module of its own, which is compiled for the
//! device and runs for a while; the device reports how long its launches took, and the median counts.
//! The peaks are measured just before. The modules below measure whole networks.

pub mod args;
mod measure;
pub mod networks;
mod profile;
mod report;
pub mod rows;
pub mod train;

pub(in crate::cmd) use measure::Job;

use crate::cmd::bench::args::BenchOps;
use crate::output::{self, duration};
use crate::progress::Progress;
use crate::render::Failure;
use anyid_ir::{DType, FuncBuilder, Module, Op, ReduceFn, Tensor, TensorType};
use anyid_passes::Gradient;
use anyid_runtime::engine::{CompileRequest, Compiler, Inputs, Program};
use anyid_runtime::init::RandomWeights;
use anyid_runtime::sampling::NoiseStream;
use anyid_runtime::{Error, Result};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a kernel is measured against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cmd) enum Bound {
    /// f32 arithmetic.
    F32,
    /// bf16 arithmetic where the processor has it, else f32.
    Bf16,
    /// Copying memory.
    Memory,
}

/// How the figures come about, below the table.
const HOW: &str = "\
A peak is the best of many short runs of the instruction on registers alone, or of copies of 64 MiB
(bytes read and written), on all threads at once; a time is a median. busy: processor time that the
process got, as a share of its threads' time; much below that of other runs, the machine was shared.
";

/// An operation to measure: its name, its bound, its operations (or bytes), and itself.
pub(in crate::cmd) struct Case {
    pub(in crate::cmd) name: String,
    bound: Bound,
    pub(in crate::cmd) work: f64,
    /// A module of one function `f`.
    pub(in crate::cmd) module: Module,
    /// The inputs by which its result `loss` is differentiated, if it is.
    wrt: &'static [&'static str],
}

/// Runs the verb.
///
/// # Errors
/// E0918 for an impossible time, E0907 for the environment.
pub fn run(args: BenchOps) -> std::result::Result<(), Failure> {
    if !(0.001..=600.0).contains(&args.seconds) {
        return Err(bad_seconds(args.seconds).into());
    }
    let wanted = |case: &Case| args.only.as_ref().is_none_or(|part| case.name.contains(part));
    let cases: Vec<Case> = cases().into_iter().filter(wanted).collect();
    if cases.is_empty() {
        let part = args.only.as_deref().unwrap_or_default();
        return Err(Error::input("E0918", format!("no operation has \"{part}\" in its name"))
            .at("--only")
            .help("such as linear, attention, conv, norm; without --only all are measured")
            .into());
    }
    let backend = args.on.open()?;
    let time = Duration::from_secs_f64(args.seconds);
    let mut progress = Progress::new();
    progress.part("measuring the machine");
    let peak = backend.device().throughput(time.min(Duration::from_secs(1)));
    let ceiling = |bound: Bound| match (bound, peak.bf16_gflops) {
        (Bound::Memory, _) => (peak.copy_gb_per_second, "copy"),
        (Bound::Bf16, Some(rate)) => (rate, peak.instructions[1]),
        _ => (peak.f32_gflops, peak.instructions[0]),
    };
    let head = ["kernel", "time", "rate", "peak", "of", "of peak", "busy"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut list = Vec::new();
    for case in cases {
        progress.part(&case.name);
        let weights = RandomWeights::new(&case.module.weights, 1);
        let mut request = CompileRequest::new(&case.module, "f");
        if !case.wrt.is_empty() {
            let wrt = case.wrt.iter().map(|name| (*name).to_owned()).collect();
            let gradient = Gradient { of: "loss".to_owned(), wrt };
            request = request.with_gradient(gradient);
        }
        let compiler = Compiler::new(&backend).add("f", request)?;
        let mut program = compiler.load(Arc::new(weights), &mut |_, _| true)?;
        let func = case.module.func("f").expect("every case has it");
        let given: Vec<(&str, Tensor)> =
            func.param_types().map(|(name, ty)| (name, values(ty))).collect();
        let inputs = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
        let (seconds, busy) = median(&mut program, "f", &inputs, time, peak.threads)?;
        let rate = case.work / seconds * 1e-9;
        let (most, by) = ceiling(case.bound);
        let share = rate / most;
        let unit = if case.bound == Bound::Memory { "GB/s" } else { "GFLOP/s" };
        rows.push(vec![
            case.name.clone(),
            duration_small(seconds),
            format!("{rate:.1} {unit}"),
            format!("{most:.1}"),
            by.to_owned(),
            format!("{:.0} %", share * 100.0),
            busy.map_or_else(String::new, |busy| format!("{:.0} %", busy * 100.0)),
        ]);
        let key = if case.bound == Bound::Memory { "gb_per_second" } else { "gflops" };
        list.push(json!({
            "name": case.name, "seconds": seconds, key: rate, "peak": most, "peak_of": by,
            "share_of_peak": share, "busy": busy,
        }));
    }
    progress.clear();
    let level = &backend.about().instructions;
    if args.json {
        output::print_json(&json!({
            "threads": peak.threads,
            "instructions": level,
            "peak": {
                "f32_gflops": peak.f32_gflops,
                "bf16_gflops": peak.bf16_gflops,
                "copy_gb_per_second": peak.copy_gb_per_second,
            },
            "kernels": list,
        }))?;
        return Ok(());
    }
    let bf16 = peak.bf16_gflops.map_or("none (f32 is used)".into(), |g| format!("{g:.0} GFLOP/s"));
    output::print(&format!(
        "{}, {level}; measured peak: f32 {:.0} GFLOP/s, bf16 {bf16}, copy {:.1} GB/s\n{}{HOW}",
        output::plural(peak.threads, "thread"),
        peak.f32_gflops,
        peak.copy_gb_per_second,
        output::table(&rows)
    ))?;
    Ok(())
}

fn bad_seconds(seconds: f64) -> Error {
    Error::input("E0918", format!("{seconds} seconds cannot be measured"))
        .at("--seconds")
        .help("give a time from 0.001 to 600, such as 1")
}

fn duration_small(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => duration(Duration::from_secs_f64(s)),
    }
}

/// Median seconds that the launches of a phase take, over the runs that fit into about `time`, at least
/// three, after one that does not count; and how busy so many threads were.
pub(in crate::cmd) fn median(
    program: &mut Program,
    phase: &str,
    inputs: &Inputs<'_>,
    time: Duration,
    threads: usize,
) -> Result<(f64, Option<f64>)> {
    let (mut states, mut outputs) = (program.states(phase)?, program.outputs(phase)?);
    program.time_launches(true);
    let mut run = || -> Result<f64> {
        program.run_with_states(phase, inputs, &mut states, &mut outputs)?;
        let runs = program.take_times();
        let launches = runs.iter().flat_map(|(_, times)| times.launches());
        Ok(launches.map(|launch| (launch.end - launch.begin) as f64 * 1e-9).sum())
    };
    run()?;
    let (begun, before) = (Instant::now(), output::processor_time());
    let mut times = Vec::new();
    while times.len() < 3 || (begun.elapsed() < time && times.len() < 1000) {
        times.push(run()?);
    }
    let busy = output::busy(before, begun.elapsed().as_secs_f64(), threads);
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], busy))
}

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for (m, k, n) in [(2048, 3072, 14336), (1024, 3072, 3072), (2, 3072, 18432)] {
            out.push(linear(m, n, k, dtype));
        }
    }
    for dtype in [DType::F32, DType::Bf16] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            out.push(dot(1024, transposed, dtype));
        }
    }
    for dtype in [DType::F32, DType::Bf16] {
        for rows in [4096, 1024] {
            out.push(heads(24, rows, 128, dtype));
            out.push(heads_back(24, rows, 128, dtype));
        }
    }
    for dtype in [DType::F32, DType::Bf16] {
        out.push(convolution(256, [4, 64, 64], dtype));
        out.push(convolution(512, [4, 32, 32], dtype));
    }
    for dtype in [DType::F32, DType::Bf16] {
        out.push(convolution_back(64, [4, 64, 64], dtype));
        out.push(convolution_back(256, [4, 32, 32], dtype));
    }
    out.extend(row_kernels(4096, 3072));
    out
}

/// Values of a type, normally distributed.
pub(in crate::cmd) fn values(ty: &TensorType) -> Tensor {
    let len = ty.elements();
    // A short sequence is repeated, because only the shape and finite values matter here.
    let mut stretch = vec![0f32; len.min(1 << 16)];
    NoiseStream::new(1, 1).fill(0, &mut stretch);
    let mut data = vec![0f32; len];
    for piece in data.chunks_mut(stretch.len().max(1)) {
        piece.copy_from_slice(&stretch[..piece.len()]);
    }
    let tensor = Tensor::from_f32(ty.shape.iter().copied(), &data).expect("one value an element");
    if ty.dtype == DType::F32 { tensor } else { tensor.cast(ty.dtype) }
}

/// A module of one function, made by `build`, with one weight `w`.
fn module(
    weight: Option<TensorType>,
    build: impl FnOnce(&mut FuncBuilder<'_>) -> anyid_ir::ValueId,
) -> Module {
    results(weight, |f| vec![build(f)])
}

/// A module of one function of several results.
fn results(
    weight: Option<TensorType>,
    build: impl FnOnce(&mut FuncBuilder<'_>) -> Vec<anyid_ir::ValueId>,
) -> Module {
    let mut module = Module { name: "bench".into(), ..Module::default() };
    if let Some(ty) = weight {
        module.weights.add("w", ty).expect("it is the only one");
    }
    let mut f = FuncBuilder::new(&module, "f");
    let made = build(&mut f);
    let func = f.finish(&made);
    module.add(func);
    module
}

fn ty<const N: usize>(dtype: DType, shape: [usize; N]) -> TensorType {
    TensorType::new(dtype, shape)
}

fn bound(dtype: DType) -> Bound {
    if dtype == DType::Bf16 { Bound::Bf16 } else { Bound::F32 }
}

pub(in crate::cmd) fn linear(m: usize, n: usize, k: usize, dtype: DType) -> Case {
    // With few rows, nearly all the time goes into reading the weights.
    let small = m < 16;
    let work = if small { n * k * dtype.bytes() } else { 2 * m * n * k } as f64;
    let module = module(Some(ty(dtype, [n, k])), |f| {
        let x = f.param("x", ty(dtype, [m, k]));
        f.linear("y", x, "w", None, DType::F32)
    });
    let bound = if small { Bound::Memory } else { bound(dtype) };
    Case { name: format!("linear {dtype} {m}x{k}x{n}"), bound, work, module, wrt: &[] }
}

/// A product of two square matrices of activations; a side that is turned is read along its columns.
fn dot(size: usize, transposed: [bool; 2], dtype: DType) -> Case {
    let module = module(None, |f| {
        let sides = ["a", "b"].map(|name| f.param(name, ty(dtype, [size, size])));
        f.op("y", Op::Dot { transposed }, &sides, Some(ty(DType::F32, [])))
    });
    let [a, b] = transposed.map(|turned| if turned { "T" } else { "" });
    let name = format!("dot {dtype} {size}x{size}x{size} A{a} B{b}");
    Case { name, bound: bound(dtype), work: 2.0 * size.pow(3) as f64, module, wrt: &[] }
}

pub(in crate::cmd) fn heads(heads: usize, rows: usize, head_dim: usize, dtype: DType) -> Case {
    let width = heads * head_dim;
    let module = module(None, |f| {
        let all = ["q", "k", "v"].map(|name| f.param(name, ty(dtype, [rows, width])));
        let op =
            Op::Attention { heads, scale: 1.0 / (head_dim as f64).sqrt(), lse: false, last: 1 };
        f.op("y", op, &all, Some(ty(DType::F32, [])))
    });
    let work = 4.0 * (heads * rows * rows * head_dim) as f64;
    let name = format!("attention {dtype} {heads}x{rows}x{head_dim}");
    Case { name, bound: bound(dtype), work, module, wrt: &[] }
}

/// The cotangents of an attention's queries, keys and values.
fn heads_back(heads: usize, rows: usize, head_dim: usize, dtype: DType) -> Case {
    let width = heads * head_dim;
    let module = results(None, |f| {
        let [q, k, v, out, d] =
            ["q", "k", "v", "out", "d"].map(|name| f.param(name, ty(dtype, [rows, width])));
        let sums = f.param("sums", ty(DType::F32, [heads, rows]));
        // Weights of about one over the number of keys.
        let most = f.scalar("most", DType::F32, (rows as f64).ln());
        let sums = f.add("log_sums", sums, most);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let op = Op::AttentionVjp { heads, scale, bias: false, last: 1 };
        f.op_of("y", op, &[q, k, v, out, sums, d], &[])
    });
    let work = 10.0 * (heads * rows * rows * head_dim) as f64;
    let name = format!("attention_vjp {dtype} {heads}x{rows}x{head_dim}");
    Case { name, bound: bound(dtype), work, module, wrt: &[] }
}

pub(in crate::cmd) fn convolution(
    channels: usize,
    [frames, height, width]: [usize; 3],
    dtype: DType,
) -> Case {
    let kernel = [channels, channels, 3, 3, 3];
    let module = module(Some(ty(dtype, kernel)), |f| {
        let x = f.param("x", ty(dtype, [frames, height, width, channels]));
        let w = f.weight("w");
        let op = Op::Conv { stride: [1; 3], pad: [[1, 1]; 3] };
        f.op("y", op, &[x, w], Some(ty(DType::F32, [])))
    });
    let work = 2.0 * (frames * height * width * 27 * channels * channels) as f64;
    let name = format!("conv3d {dtype} 3x3x3 {channels} channels {frames}x{height}x{width}");
    Case { name, bound: bound(dtype), work, module, wrt: &[] }
}

/// A causal convolution forward, and back by its picture and its kernel.
fn convolution_back(channels: usize, [frames, height, width]: [usize; 3], dtype: DType) -> Case {
    let module = module(None, |f| {
        let picture = ty(dtype, [frames, height, width, channels]);
        let [x, d] = ["x", "d"].map(|name| f.param(name, picture.clone()));
        let w = f.param("w", ty(dtype, [channels, channels, 3, 3, 3]));
        let op = Op::Conv { stride: [1; 3], pad: [[2, 0], [1, 1], [1, 1]] };
        let y = f.op("y", op, &[x, w], Some(ty(DType::F32, [])));
        let d = f.cast("wide", d, DType::F32);
        let product = f.mul("product", y, d);
        f.reduce("loss", ReduceFn::Sum, product, &[0, 1, 2, 3], false)
    });
    let work = 6.0 * (frames * height * width * 27 * channels * channels) as f64;
    let grid = format!("{frames}x{height}x{width}");
    let name = format!("conv3d and back {dtype} 3x3x3 {channels} channels {grid}");
    Case { name, bound: bound(dtype), work, module, wrt: &["x", "w"] }
}

/// Norms, an element-wise map and a plain copy, all bound by memory: plans of one launch.
fn row_kernels(rows: usize, width: usize) -> Vec<Case> {
    let x = ty(DType::F32, [rows, width]);
    let map = |op: Op| {
        module(None, |f| {
            let x = f.param("x", x.clone());
            f.op("y", op, &[x], None)
        })
    };
    let rms = module(Some(ty(DType::F32, [width])), |f| {
        let (x, gain) = (f.param("x", x.clone()), f.weight("w"));
        f.op("y", Op::RmsNorm { eps: 1e-6, clamp: false }, &[x, gain], None)
    });
    let copy = module(None, |f| {
        let half = ty(DType::F32, [rows / 2, width]);
        let [a, b] = ["a", "b"].map(|name| f.param(name, half.clone()));
        f.op("y", Op::Concat { axis: 0 }, &[a, b], None)
    });
    let columns = Op::Reduce { f: ReduceFn::Sum, axes: [0].into_iter().collect(), keep: false };
    let segments = module(None, |f| {
        let (x, of) = (f.param("x", x.clone()), f.param("of", ty(DType::I32, [rows])));
        f.op("y", Op::SegmentSum { segments: 2 }, &[x, of], None)
    });
    let case = |name: &str, module: Module| Case {
        name: format!("{name} f32 {rows}x{width}"),
        bound: Bound::Memory,
        work: 8.0 * (rows * width) as f64,
        module,
        wrt: &[],
    };
    // These write next to nothing.
    let sums = |name: &str, module: Module| {
        let case = case(name, module);
        Case { work: case.work / 2.0, ..case }
    };
    vec![
        case("layer_norm", map(Op::LayerNorm { eps: 1e-6 })),
        case("rms_norm", rms),
        case("gelu", map(Op::Gelu)),
        case("copy", copy),
        sums("reduce_sum over rows", map(columns)),
        sums("segment_sum", segments),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fitting_units() {
        assert_eq!(duration_small(2.5e-5), "25.0 us");
        assert_eq!(duration_small(0.0125), "12.50 ms");
        assert_eq!(duration_small(2.0), "2.00 s");
    }

    #[test]
    fn every_case_has_a_name_of_its_own_and_work() {
        let cases = cases();
        for (at, case) in cases.iter().enumerate() {
            assert!(case.work > 0.0);
            assert_eq!(anyid_ir::verify::verify(&case.module), [], "{}", case.name);
            assert!(cases[..at].iter().all(|other| other.name != case.name));
        }
    }
}
