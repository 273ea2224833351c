//! `bench ops`: kernels of the CPU backend, compared with the peak of this machine.
//!
//! Shapes are those of the real model. Each kernel runs for a while, and the median time counts.
//! The peaks are measured on the same threads just before. The modules below measure whole
//! networks.

mod measure;
pub mod networks;
mod profile;
mod report;

use crate::args::BenchOps;
use crate::output::{self, duration};
use crate::progress::Progress;
use crate::render::Failure;
use anyid_backends::cpu::attention::{
    Attention, AttentionShape, Operand, OutputOperand, Precision, Source, Target, attention,
    scratch_bytes,
};
use anyid_backends::cpu::conv::{ConvShape, conv, conv_scratch_bytes, pack_conv};
use anyid_backends::cpu::gemm::{
    self, Dtype, Epilogue, Output, PackedMatrix, PanelKind, Slice, Weights, gemm,
    gemm_scratch_bytes,
};
use anyid_backends::cpu::{AlignedBytes, Cpu, Executable, Memory, Weights as LoadedWeights, peak};
use anyid_backends::{StoredWeight, WeightFault, WeightProvider};
use anyid_ir::{DType, FuncBuilder, Module, Op, Tensor, TensorType};
use anyid_passes::{CompileRequest, Options};
use anyid_runtime::sampling::NoiseStream;
use anyid_runtime::{Backend, Error};
use serde_json::json;
use std::time::{Duration, Instant};

/// What a kernel is measured against.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// f32 arithmetic.
    F32,
    /// bf16 arithmetic where the processor has it, else f32.
    Bf16,
    /// Copying memory.
    Memory,
}

/// A kernel to measure: its name, its bound, its operations (or bytes), and one run of it.
struct Case {
    name: String,
    bound: Bound,
    work: f64,
    /// Prepares the data and returns the run. Only the data of one kernel is held at a time.
    make: Box<dyn Fn(&Cpu) -> Kernel>,
}

/// One run of a prepared kernel.
type Kernel = Box<dyn FnMut(&Cpu)>;

/// Runs the verb.
///
/// # Errors
/// E0918 for an impossible time, E0907 for the environment.
pub fn run(args: BenchOps) -> std::result::Result<(), Failure> {
    if !(0.001..=600.0).contains(&args.seconds) {
        return Err(bad_seconds(args.seconds).into());
    }
    let backend = Backend::open("cpu", args.threads)?;
    let cpu = backend.cpu();
    let time = Duration::from_secs_f64(args.seconds);
    let mut progress = Progress::new();
    progress.part("measuring the machine");
    let peak = peak::measure(cpu.pool(), cpu.level(), time.min(Duration::from_secs(1)));
    let ceiling = |bound: Bound| match bound {
        Bound::F32 => peak.f32_gflops,
        Bound::Bf16 => peak.bf16_gflops.unwrap_or(peak.f32_gflops),
        Bound::Memory => peak.copy_gb_per_second,
    };
    let mut rows = vec![["kernel", "time", "rate", "of peak"].map(str::to_owned).to_vec()];
    let mut list = Vec::new();
    for case in cases() {
        if args.only.as_ref().is_some_and(|part| !case.name.contains(part.as_str())) {
            continue;
        }
        progress.part(&case.name);
        let seconds = median(cpu, (case.make)(cpu), time).as_secs_f64();
        let rate = case.work / seconds * 1e-9;
        let share = rate / ceiling(case.bound);
        let unit = if case.bound == Bound::Memory { "GB/s" } else { "GFLOP/s" };
        rows.push(vec![
            case.name.clone(),
            duration_small(seconds),
            format!("{rate:.1} {unit}"),
            format!("{:.0} %", share * 100.0),
        ]);
        let key = if case.bound == Bound::Memory { "gb_per_second" } else { "gflops" };
        list.push(json!({
            "name": case.name, "seconds": seconds, key: rate, "share_of_peak": share,
        }));
    }
    progress.clear();
    let level = cpu.level().name();
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
        "{}, {level}; measured peak: f32 {:.0} GFLOP/s, bf16 {bf16}, copy {:.1} GB/s\n{}",
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

/// Median time of the runs that fit into about `time`, at least three, after one that does not
/// count.
fn median(cpu: &Cpu, mut kernel: Kernel, time: Duration) -> Duration {
    kernel(cpu);
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || (begun.elapsed() < time && times.len() < 1000) {
        let start = Instant::now();
        kernel(cpu);
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for kind in [PanelKind::F32, PanelKind::Bf16] {
        for (m, k, n) in [(2048, 3072, 14336), (1024, 3072, 3072), (2, 3072, 18432)] {
            out.push(linear(m, n, k, kind));
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        for rows in [4096, 1024] {
            out.push(heads(24, rows, 128, precision));
        }
    }
    for kind in [PanelKind::F32, PanelKind::Bf16] {
        out.push(convolution(256, [4, 64, 64], kind));
        out.push(convolution(512, [4, 32, 32], kind));
    }
    out.extend(row_kernels(4096, 3072));
    out
}

/// `len` values, normally distributed, in the type given.
fn values(dtype: DType, len: usize) -> Tensor {
    // A short sequence is repeated, because only the shape and finite values matter here.
    let mut stretch = vec![0f32; len.min(1 << 16)];
    NoiseStream::new(1, 1).fill(0, &mut stretch);
    let mut data = vec![0f32; len];
    for piece in data.chunks_mut(stretch.len().max(1)) {
        piece.copy_from_slice(&stretch[..piece.len()]);
    }
    let tensor = Tensor::from_f32([len], &data).expect("one value an element");
    if dtype == DType::F32 { tensor } else { tensor.cast(dtype) }
}

fn zeros(dtype: DType, len: usize) -> Tensor {
    Tensor::zeros(TensorType::new(dtype, [len]))
}

fn slice(tensor: &Tensor) -> Slice<'_> {
    match tensor.dtype() {
        DType::Bf16 => Slice::Bf16(tensor.as_bf16().expect("matched")),
        _ => Slice::F32(tensor.as_f32().expect("f32 or bf16")),
    }
}

fn source(tensor: &Tensor) -> Source<'_> {
    match tensor.dtype() {
        DType::Bf16 => Source::Bf16(tensor.as_bf16().expect("matched")),
        _ => Source::F32(tensor.as_f32().expect("f32 or bf16")),
    }
}

fn stored(kind: PanelKind) -> (DType, Dtype, Bound, &'static str) {
    match kind {
        PanelKind::F32 => (DType::F32, Dtype::F32, Bound::F32, "f32"),
        PanelKind::Bf16 => (DType::Bf16, Dtype::Bf16, Bound::Bf16, "bf16"),
    }
}

fn linear(m: usize, n: usize, k: usize, kind: PanelKind) -> Case {
    let (dtype, weight, bound, word) = stored(kind);
    // With few rows, nearly all the time goes into reading the weights.
    let small = m < 16;
    let work = if small { (n * k * weight.size()) as f64 } else { 2.0 * (m * n * k) as f64 };
    let make = move |cpu: &Cpu| -> Kernel {
        let (pool, level) = (cpu.pool(), cpu.level());
        let w = values(dtype, n * k);
        let packed =
            PackedMatrix::new(pool, level, Weights::row_major(w.bytes(), weight, k), (n, k), kind);
        drop(w);
        let x = values(dtype, m * k);
        let mut y = zeros(DType::F32, m * n);
        let bytes = gemm_scratch_bytes(level, (m, n, k), kind, pool.threads());
        let mut scratch = AlignedBytes::zeroed(bytes);
        Box::new(move |cpu| {
            let rows = gemm::Rows { data: slice(&x), stride: k };
            let data = y.as_f32_mut().expect("made as f32");
            let output = Output::F32 { data, stride: n };
            let (epilogue, scratch) = (Epilogue::default(), scratch.bytes_mut());
            gemm(cpu.pool(), cpu.level(), m, rows, packed.view(), &epilogue, output, scratch);
        })
    };
    let bound = if small { Bound::Memory } else { bound };
    Case { name: format!("linear {word} {m}x{k}x{n}"), bound, work, make: Box::new(make) }
}

fn heads(heads: usize, rows: usize, head_dim: usize, precision: Precision) -> Case {
    let (dtype, bound, word) = match precision {
        Precision::F32 => (DType::F32, Bound::F32, "f32"),
        Precision::Bf16 => (DType::Bf16, Bound::Bf16, "bf16"),
    };
    let shape = AttentionShape { batch: 1, heads, head_dim, queries: rows, keys: rows };
    let width = heads * head_dim;
    let make = move |cpu: &Cpu| -> Kernel {
        let [q, k, v] = std::array::from_fn(|_| values(dtype, rows * width));
        let mut y = zeros(DType::F32, rows * width);
        let bytes = scratch_bytes(cpu.level(), &shape, precision, false, cpu.pool().threads());
        let mut scratch = AlignedBytes::zeroed(bytes);
        Box::new(move |cpu| {
            let operand = |t| Operand { data: source(t), row_stride: width, batch_stride: 0 };
            let call = Attention {
                shape,
                precision,
                scale: 1.0 / (head_dim as f32).sqrt(),
                query: operand(&q),
                key: operand(&k),
                value: operand(&v),
                relative_bias: None,
                key_limit: None,
            };
            let data = Target::F32(y.as_f32_mut().expect("made as f32"));
            let output = OutputOperand { data, row_stride: width, batch_stride: 0 };
            attention(cpu.pool(), cpu.level(), &call, output, scratch.bytes_mut());
        })
    };
    let work = 4.0 * (heads * rows * rows * head_dim) as f64;
    Case {
        name: format!("attention {word} {heads}x{rows}x{head_dim}"),
        bound,
        work,
        make: Box::new(make),
    }
}

fn convolution(channels: usize, [frames, height, width]: [usize; 3], kind: PanelKind) -> Case {
    let (dtype, weight, bound, word) = stored(kind);
    let shape = ConvShape {
        input: [frames, height, width],
        cin: channels,
        cout: channels,
        kernel: [3; 3],
        stride: [1; 3],
        padding: [(1, 1); 3],
    };
    let make = move |cpu: &Cpu| -> Kernel {
        let (pool, level) = (cpu.pool(), cpu.level());
        let w = values(dtype, channels * shape.k());
        let packed = pack_conv(pool, level, &shape, (w.bytes(), weight), kind);
        drop(w);
        let x = values(dtype, shape.input.iter().product::<usize>() * channels);
        let mut y = zeros(DType::F32, shape.rows() * channels);
        let mut scratch =
            AlignedBytes::zeroed(conv_scratch_bytes(level, &shape, kind, pool.threads()));
        Box::new(move |cpu| {
            let data = y.as_f32_mut().expect("made as f32");
            let output = Output::F32 { data, stride: channels };
            let (pool, level) = (cpu.pool(), cpu.level());
            let (epilogue, scratch) = (Epilogue::default(), scratch.bytes_mut());
            conv(pool, level, &shape, slice(&x), packed.view(), &epilogue, output, scratch);
        })
    };
    let work = 2.0 * (shape.rows() * shape.k() * channels) as f64;
    let name = format!("conv3d {word} 3x3x3 {channels} channels {frames}x{height}x{width}");
    Case { name, bound, work, make: Box::new(make) }
}

/// Norms, an element-wise map and a plain copy, all bound by memory: plans of one launch.
fn row_kernels(rows: usize, width: usize) -> Vec<Case> {
    let case = |name: &str, op: Op, gains: usize| {
        let make = move |cpu: &Cpu| launch(cpu, op.clone(), [rows, width], gains);
        Case {
            name: format!("{name} f32 {rows}x{width}"),
            bound: Bound::Memory,
            work: 8.0 * (rows * width) as f64,
            make: Box::new(make),
        }
    };
    vec![
        case("layer_norm", Op::LayerNorm { eps: 1e-6 }, 0),
        case("rms_norm", Op::RmsNorm { eps: 1e-6, clamp: false }, 1),
        case("gelu", Op::Gelu, 0),
        case("copy", Op::Cast, 0),
    ]
}

/// The plan of `op` on rows in f32 and so many vectors, ready to run.
fn launch(cpu: &Cpu, op: Op, shape: [usize; 2], gains: usize) -> Kernel {
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "f");
    let ty = TensorType::new(DType::F32, shape);
    let mut operands = vec![f.param("x", ty.clone())];
    for at in 0..gains {
        operands.push(f.param(&format!("g{at}"), TensorType::new(DType::F32, [shape[1]])));
    }
    let result = f.op("y", op, &operands, Some(ty));
    let func = f.finish(&[result]);
    module.add(func);
    let options = Options { target: anyid_backends::cpu::target(), ..Options::default() };
    let plan = CompileRequest::new(&module, "f").with(&options).plan();
    let plan = plan.expect("one op compiles");
    let none = |_, _| true;
    let weights = LoadedWeights::load(cpu, &[&plan], &NoWeights, &mut { none });
    let weights = weights.expect("there are none");
    let executable = Executable::new(cpu, plan, &weights);
    let plan = executable.plan();
    let mut memory = Memory::new(plan.workspace_bytes, executable.scratch_bytes());
    let mut inputs = vec![values(DType::F32, shape[0] * shape[1])];
    inputs.extend((0..gains).map(|_| values(DType::F32, shape[1])));
    let mut y = zeros(DType::F32, shape[0] * shape[1]);
    let [mut kept, mut states] = [0, 0].map(AlignedBytes::zeroed);
    Box::new(move |cpu| {
        let given: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
        let out = &mut [y.bytes_mut()];
        let (memory, kept, states) = (&mut memory, &mut kept, &mut states);
        let go = &|| false;
        executable
            .run(cpu, &weights, &NoWeights, memory, kept, states, &given, out, go, None)
            .expect("a launch on memory alone");
    })
}

/// A model without weights.
struct NoWeights;

impl WeightProvider for NoWeights {
    fn find(&self, _: &str) -> Option<StoredWeight> {
        None
    }

    fn read(&self, name: &str, _: u64, _: &mut [u8]) -> std::result::Result<(), WeightFault> {
        unreachable!("\"{name}\" was never found")
    }
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
            assert!(cases[..at].iter().all(|other| other.name != case.name));
        }
    }
}
