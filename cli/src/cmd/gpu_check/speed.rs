//! How fast the device is: single kernels by its own events, whole steps by the clock, each with its
//! share of what large products reach, and with PyTorch's time for the same work where it is there.

use super::report::{Line, Verdict, short};
use super::teller::{Message, Teller};
use super::torch::{Torch, Work};
use super::{Check, Preset};
use crate::cmd::bench::{self, Case, networks};
use anyid_ir::DType;
use anyid_models::wan::dit::{self, DitSize, DitTypes};
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_models::wan::{Precision, Residual};
use anyid_passes::report::PhaseSummary;
use anyid_runtime::engine::Throughput;
use anyid_runtime::init::RandomWeights;
use anyid_runtime::pipeline::coder_phases;
use anyid_runtime::{CompileRequest, Compiler, Inputs, Result};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that PyTorch is waited for.
const TORCH: Duration = Duration::from_secs(75);

/// What other figures are shares of.
struct Ceilings {
    /// Operations a second of large products in bf16, of the device or of PyTorch.
    product: f64,
    torch: Torch,
}

/// Sizes that are measured.
struct Sizes {
    tokens: usize,
    /// Frames, rows and columns of latents, and of a clip with five pictures in front.
    target: [usize; 3],
    references: usize,
    conv: (usize, [usize; 3]),
    /// Rows and columns of pixels, and chunks of a clip.
    decode: ([usize; 2], usize),
}

impl Sizes {
    fn of(preset: Preset) -> Self {
        match preset {
            // 1280x704 with 121 frames: 27,280 tokens, 31,680 with five pictures.
            Preset::Ti2v5b => Self {
                tokens: 27_280,
                target: [31, 44, 80],
                references: 5,
                conv: (512, [4, 88, 160]),
                decode: ([704, 1280], 31),
            },
            Preset::Micro | Preset::Small | Preset::World => Self {
                tokens: 24,
                target: [2, 4, 6],
                references: 1,
                conv: (16, [1, 4, 4]),
                decode: ([32, 32], 2),
            },
        }
    }
}

/// Runs the section.
///
/// # Errors
/// None of a single measurement.
pub fn run(check: &mut Check<'_>, teller: &mut Teller) -> Result<()> {
    let sizes = Sizes::of(check.preset);
    let (config, _, _) = check.preset.configs();
    let (width, ffn, heads) = (config.width(), config.ffn_dim, config.heads);
    let text = if check.preset == Preset::Ti2v5b { 512 } else { 12 };
    let products = [[width, width], [3 * width, width], [ffn, width], [width, ffn]];
    let mut cases: Vec<(Case, &'static str, Vec<usize>)> = Vec::new();
    for [n, k] in products {
        let m = sizes.tokens;
        cases.push((bench::linear(m, n, k, DType::Bf16), "linear", vec![m, n, k]));
    }
    let attention = vec![heads, sizes.tokens, config.head_dim];
    cases.push((
        bench::heads(heads, sizes.tokens, config.head_dim, DType::Bf16),
        "attention",
        attention,
    ));
    let (channels, grid) = sizes.conv;
    let conv = [&[channels][..], &grid].concat();
    cases.push((bench::convolution(channels, grid, DType::Bf16), "conv", conv));
    let block = vec![sizes.tokens, width, heads, ffn, text];

    let names = cases.iter().map(|(case, ..)| &*case.name).chain(["block", "step", "decode"]);
    let wanted = names.filter(|name| check.wants(name)).count();
    if wanted == 0 {
        return Ok(());
    }
    check.progress.part("PyTorch");
    let mut work: Vec<Work> = cases
        .iter()
        .map(|(case, kind, sizes)| Work { name: case.name.clone(), kind, sizes: sizes.clone() })
        .collect();
    work.push(Work { name: "product".into(), kind: "linear", sizes: vec![8192; 3] });
    work.push(Work { name: "copy".into(), kind: "copy", sizes: vec![1 << 30] });
    work.push(Work { name: "block".into(), kind: "block", sizes: block });
    let torch = match check.preset {
        Preset::Ti2v5b if check.has(60.0) => Torch::measure(&work, TORCH),
        _ => Torch::without("PyTorch was not asked"),
    };
    let about = json!(torch.about);
    teller.tell(&Message::Version { name: "pytorch".to_owned(), value: about });
    check.progress.part("what the device can do");
    // The shares of what comes later need them in every process.
    let first = teller.begins("what the device can do", None);
    let peak = check.backend.device().throughput(Duration::from_millis(500));
    let (lines, ceilings) = ceilings(&peak, torch);
    lines.into_iter().filter(|_| first).for_each(|line| teller.push(line));

    for (case, _, _) in &cases {
        let name = case.name.clone();
        if !check.wants(&name) {
            continue;
        }
        if !check.has(10.0) {
            teller.push(Line::new("speed", name, Verdict::Left, "no time was left"));
            continue;
        }
        if !teller.begins(&name, None) {
            continue;
        }
        check.progress.part(&name);
        let line = match kernel(check, case) {
            Ok(seconds) => ceilings.line(name, case.work, seconds, json!({})),
            Err(error) => Line::new("speed", name, Verdict::Wrong, short(&error)),
        };
        teller.push(line);
    }
    type Measure = fn(&mut Check<'_>, &Sizes, usize) -> Result<Vec<(String, f64, f64)>>;
    let whole: [(&str, f64, Measure); 3] =
        [("block", 15.0, self::block), ("step", 90.0, steps), ("decode", 40.0, decode)];
    for (name, about, measure) in whole {
        if !check.wants(name) {
            continue;
        }
        if !check.has(if check.preset == Preset::Ti2v5b { about } else { 1.0 }) {
            teller.push(Line::new("speed", name, Verdict::Left, "no time was left"));
            continue;
        }
        if !teller.begins(name, None) {
            continue;
        }
        check.progress.part(name);
        match measure(check, &sizes, text) {
            Ok(all) => {
                for (name, flops, seconds) in all {
                    teller.push(ceilings.line(name, flops, seconds, json!({})));
                }
            }
            Err(error) => teller.push(Line::new("speed", name, Verdict::Wrong, short(&error))),
        }
    }
    Ok(())
}

/// The ceilings, and the lines that tell of them.
fn ceilings(peak: &Throughput, torch: Torch) -> (Vec<Line>, Ceilings) {
    let own = peak.bf16_gflops.unwrap_or(peak.f32_gflops) * 1e9;
    let theirs = torch.seconds("product").map(|seconds| 2.0 * 8192f64.powi(3) / seconds);
    let product = theirs.unwrap_or(0.0).max(own);
    let verdict = if own > 0.0 { Verdict::Right } else { Verdict::Wrong };
    let beside = |rate: Option<f64>, unit: &str| {
        rate.map_or_else(String::new, |rate| format!(", PyTorch {rate:.1} {unit}"))
    };
    let figures = format!(
        "bf16 {:.1} TFLOP/s{}; f32 {:.1} TFLOP/s",
        own * 1e-12,
        beside(theirs.map(|rate| rate * 1e-12), "TFLOP/s"),
        peak.f32_gflops * 1e-3
    );
    let more = json!({ "own": own, "pytorch": theirs, "f32": peak.f32_gflops * 1e9 });
    let products = Line::new("speed", "ceiling of products", verdict, figures).with(more);
    let copy = torch.seconds("copy").map(|seconds| 2.0 * f64::from(1 << 30) / seconds * 1e-9);
    let figures = format!("{:.0} GB/s{}", peak.copy_gb_per_second, beside(copy, "GB/s"));
    let verdict = if peak.copy_gb_per_second > 0.0 { Verdict::Right } else { Verdict::Wrong };
    let more = json!({ "gb_per_second": peak.copy_gb_per_second, "pytorch": copy });
    let copies = Line::new("speed", "ceiling of copies", verdict, figures).with(more);
    (vec![products, copies], Ceilings { product, torch })
}

impl Ceilings {
    fn line(&self, name: String, flops: f64, seconds: f64, mut more: Value) -> Line {
        let rate = flops / seconds;
        let mut figures = format!("{}, {:.1} TFLOP/s", time(seconds), rate * 1e-12);
        let share = (self.product > 0.0).then(|| rate / self.product);
        if let Some(share) = share {
            figures.push_str(&format!(", {:.0} % of the ceiling", share * 100.0));
        }
        let short = name.split(',').next().unwrap_or(&name);
        let theirs = self.torch.seconds(short);
        if let Some(theirs) = theirs {
            figures.push_str(&format!(", PyTorch {}", time(theirs)));
        }
        more["seconds"] = json!(seconds);
        more["flops"] = json!(flops);
        more["share"] = json!(share);
        more["pytorch_seconds"] = json!(theirs);
        let right = seconds.is_finite() && seconds > 0.0;
        let verdict = if right { Verdict::Right } else { Verdict::Wrong };
        Line::new("speed", name, verdict, figures).with(more)
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// Median seconds of the launches of a case.
fn kernel(check: &Check<'_>, case: &Case) -> Result<f64> {
    let weights = RandomWeights::new(&case.module.weights, check.seed);
    let compiler = Compiler::new(check.backend).add("f", CompileRequest::new(&case.module, "f"))?;
    let mut program = compiler.load(Arc::new(weights), &mut |_, _| true)?;
    let func = case.module.func("f").expect("every case has it");
    let given: Vec<_> = func.param_types().map(|(name, ty)| (name, bench::values(ty))).collect();
    let inputs = Inputs::new().all(given.iter().map(|(name, tensor)| (*name, tensor)));
    let time = if check.preset == Preset::Ti2v5b { 300 } else { 1 };
    bench::median(&mut program, "f", &inputs, Duration::from_millis(time), 1)
        .map(|(seconds, _)| seconds)
}

/// Median seconds of runs by the clock, after one that does not count.
fn clocked(check: &Check<'_>, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let most = if check.preset == Preset::Ti2v5b { 5 } else { 1 };
    let mut times = Vec::new();
    while times.len() < most && (times.is_empty() || check.has(5.0)) {
        let begun = Instant::now();
        run()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn types(check: &Check<'_>) -> DitTypes {
    let precision = if check.preset == Preset::Ti2v5b { Precision::Bf16 } else { Precision::F32 };
    DitTypes { precision, residual: Residual::F32 }
}

/// One block of the transformer.
fn block(check: &mut Check<'_>, sizes: &Sizes, text: usize) -> Result<Vec<(String, f64, f64)>> {
    let (mut config, _, _) = check.preset.configs();
    config.layers = 1;
    let [frames, height, width] = sizes.target;
    let size =
        DitSize { reference_frames: 0, frames, height, width, text_tokens: text, timesteps: 1 };
    let module = dit::stack(&config, &size, types(check));
    let request = CompileRequest::new(&module, "stack");
    let compiler = Compiler::new(check.backend).add("stack", request)?;
    let name = format!("block, {} tokens", size.tokens(&config));
    Ok(vec![phase(check, compiler, &module, name, 1)?])
}

/// A phase of random weights on random inputs: its name, operations and seconds.
fn phase(
    check: &Check<'_>,
    compiler: Compiler,
    module: &anyid_ir::Module,
    name: String,
    timesteps: usize,
) -> Result<(String, f64, f64)> {
    let flops: u64 = compiler.plans().map(|(_, plan)| PhaseSummary::of(plan).flops).sum();
    let mut job = networks::Steps::new(&compiler, [timesteps, 1], 1);
    let weights = RandomWeights::new(&module.weights, check.seed);
    let mut program = compiler.load(Arc::new(weights), &mut |_, _| true)?;
    bench::Job::begin(&mut job, &mut program)?;
    let seconds = clocked(check, || bench::Job::run(&mut job, &mut program))?;
    Ok((name, flops as f64, seconds))
}

/// A whole step without references and with as many as there may be.
fn steps(check: &mut Check<'_>, sizes: &Sizes, text: usize) -> Result<Vec<(String, f64, f64)>> {
    let (config, _, _) = check.preset.configs();
    let [frames, height, width] = sizes.target;
    let mut out = Vec::new();
    for reference_frames in [0, sizes.references] {
        let timesteps = 1 + usize::from(reference_frames > 0);
        let size =
            DitSize { reference_frames, frames, height, width, text_tokens: text, timesteps };
        let module = dit::dit(&config, &size, types(check));
        let request = CompileRequest::new(&module, "dit");
        let compiler = Compiler::new(check.backend).add("dit", request)?;
        let name = format!("step, {} tokens", size.tokens(&config));
        if !out.is_empty() && !check.has(45.0) && check.preset == Preset::Ti2v5b {
            break;
        }
        out.push(phase(check, compiler, &module, name, timesteps)?);
    }
    Ok(out)
}

/// A clip out of its latents, chunk by chunk.
fn decode(check: &mut Check<'_>, sizes: &Sizes, _: usize) -> Result<Vec<(String, f64, f64)>> {
    let (_, config, _) = check.preset.configs();
    let ([height, width], chunks) = sizes.decode;
    let size = VaeSize { height, width, chunk: 1 };
    let precision = types(check).precision;
    let module = vae::coder(&config, &size, Half::Decoder, true, precision);
    let compiler = coder_phases(Compiler::new(check.backend), &module, Half::Decoder, chunks > 1)?;
    let of = |name: &str| {
        let plan = compiler.plans().find(|(own, _)| *own == name).map(|(_, plan)| plan);
        plan.map_or(0, |plan| PhaseSummary::of(plan).flops) as f64
    };
    let flops = of("first") + (chunks - 1) as f64 * of("next");
    let mut job = networks::Chunks::new(&compiler, Half::Decoder, chunks - 1);
    let weights = RandomWeights::new(&module.weights, check.seed);
    let mut program = compiler.load(Arc::new(weights), &mut |_, _| true)?;
    bench::Job::begin(&mut job, &mut program)?;
    let seconds = clocked(check, || bench::Job::run(&mut job, &mut program))?;
    let frames = 1 + 4 * (chunks - 1);
    Ok(vec![(format!("decode, {width}x{height}, {frames} frames"), flops, seconds)])
}
