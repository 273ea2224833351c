//! `bench dit`, `bench vae`, `bench text`: what is measured of each network, and on which inputs.
//!
//! The modules are those of a real run. Weights and inputs are random and depend only on the sizes.
//! `prepare` of the transformer runs once before the timed steps, as in sampling; the autoencoder
//! goes through a clip chunk by chunk, as in decoding.

use super::measure::{Job, Setup, fits, measure};
use super::report;
use crate::cmd::bench::args::{BenchDit, BenchPhase, BenchText, BenchVae, Direction, Guided};
use crate::cmd::export::configs_of;
use crate::cmd::size;
use crate::output;
use crate::progress::Progress;
use crate::render::Failure;
use anyid_ir::plan::Branch;
use anyid_ir::text::{parse_module, print};
use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{self, DitSize, DitTypes};
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_models::wan::{Geometry, Precision};
use anyid_passes::Options;
use anyid_runtime::engine::{CompileRequest, Compiler, Inputs, Outputs, Prepared, Program, States};
use anyid_runtime::files::AtomicFile;
use anyid_runtime::init::{Preset, RandomWeights};
use anyid_runtime::pipeline::check_frames;
use anyid_runtime::pipeline::coder_phases;
use anyid_runtime::places::Places;
use anyid_runtime::sampling::NoiseStream;
use anyid_runtime::{Backend, Error, Result};
use serde_json::json;

/// Seed of the weights.
pub(super) const SEED: u64 = 1;

/// Rows of the text encoder's embedding table; no prompt reads more of it.
const VOCABULARY: usize = 1024;

/// Most tokens of a sequence.
const MOST_TOKENS: usize = 1 << 20;

/// Runs `bench dit`.
///
/// # Errors
/// E0908 for the preset, E0918 for numbers out of range, E0940 for sizes that do not fit in memory,
/// E05xx where the network cannot be compiled, and as [`measure`].
pub fn dit(args: BenchDit) -> std::result::Result<(), Failure> {
    let start = output::peak_memory();
    let timesteps = if args.all { 1 } else { 2 };
    let [tokens, text_tokens] = [args.tokens, args.text_tokens];
    let (config, size) = blocks(&args.phase, args.blocks, [tokens, text_tokens], timesteps)?;
    let precision = args.phase.precision.map_or(Precision::Bf16, Precision::from);
    let backend = args.phase.on.open()?;
    let types = DitTypes { precision, residual: args.residual.into() };
    // If only blocks are measured, each branch has a residual stream of its own, as after the first
    // block of a real run.
    let (module, func, varying, own): (Module, _, &[&str], &[&str]) = match args.all {
        true => (dit::dit(&config, &size, types), "dit", &["lat", "t"], &["txt"]),
        false => (dit::stack(&config, &size, types), "stack", &["x", "e"], &["x", "ctx"]),
    };
    let module = distinct(&args.phase, module);
    let own = if args.guided == Some(Guided::Auto) { own } else { &[] };
    let request = CompileRequest::new(&module, func).varying(varying.iter().copied());
    let compiler =
        compiler(&args.phase, &backend).add("step", request.branches(own.iter().copied()))?;
    let both = compiler.plans().any(|(_, plan)| plan.has_branches());
    let runs = if args.guided.is_some() && !both { 2 } else { 1 };
    fits(&compiler, runs)?;
    let part = if args.all { "whole step of " } else { "" };
    let named = output::plural(args.blocks, "block");
    let setup = Setup {
        start,
        title: format!("dit: {part}{named} of width {}, {tokens} tokens", config.width()),
        settings: vec![
            ("blocks", json!(args.blocks)),
            ("tokens", json!(tokens)),
            ("text_tokens", json!(text_tokens)),
            ("residual", json!(types.residual.name())),
            ("all", json!(args.all)),
            ("branches", json!(1 + usize::from(args.guided.is_some()))),
            ("runs", json!(runs)),
        ],
        precision,
        job: Box::new(Steps::new(&compiler, [size.timesteps, 1], runs)),
        compiler,
        weights: RandomWeights::new(&module.weights, SEED),
        calls: vec!["step"; runs],
    };
    finish(&args.phase, &backend, setup)
}

/// Runs `bench vae`.
///
/// # Errors
/// E0901 and E0902 for the sizes, and as [`dit()`].
pub fn vae(args: BenchVae) -> std::result::Result<(), Failure> {
    let start = output::peak_memory();
    let (dit, config, _) = configs(&args.phase)?;
    let geometry = Geometry::of(&dit, &config);
    let [width, height] = size(&args.size)?;
    check_sides(width, height, config.spatial_factor())?;
    // Sides need not follow the rule of the transformer; the number of frames does.
    check_frames(args.frames, geometry).map_err(|e| e.at("--frames"))?;
    let precision = args.phase.precision.map_or(Precision::F32, Precision::from);
    let backend = args.phase.on.open()?;
    let sizes = VaeSize { height, width, chunk: 1 };
    let (half, word) = match args.direction {
        Direction::Encode => (Half::Encoder, "encode"),
        Direction::Decode => (Half::Decoder, "decode"),
    };
    let module = distinct(&args.phase, vae::coder(&config, &sizes, half, true, precision));
    let later = geometry.latent_frames(args.frames) - 1;
    let compiler = coder_phases(compiler(&args.phase, &backend), &module, half, later > 0)?;
    let mut calls = vec!["first"];
    calls.resize(1 + later, "next");
    fits(&compiler, 1)?;
    let frames = output::plural(args.frames, "frame");
    let setup = Setup {
        start,
        title: format!("vae: {word} {frames} of {width}x{height}"),
        settings: vec![
            ("direction", json!(word)),
            ("frames", json!(args.frames)),
            ("width", json!(width)),
            ("height", json!(height)),
        ],
        precision,
        job: Box::new(Chunks::new(&compiler, half, later)),
        compiler,
        weights: RandomWeights::new(&module.weights, SEED),
        calls,
    };
    finish(&args.phase, &backend, setup)
}

/// Runs `bench text`.
///
/// # Errors
/// As [`dit()`].
pub fn text(args: BenchText) -> std::result::Result<(), Failure> {
    let start = output::peak_memory();
    let (_, _, mut config) = configs(&args.phase)?;
    config.layers = in_range(args.layers, 1000, "--layers")?;
    config.vocab_size = config.vocab_size.min(VOCABULARY);
    let tokens = in_range(args.tokens, MOST_TOKENS, "--tokens")?;
    let precision = args.phase.precision.map_or(Precision::Bf16, Precision::from);
    let backend = args.phase.on.open()?;
    let module = anyid_models::wan::text::text(&config, tokens, precision);
    let module = distinct(&args.phase, module);
    let compiler = compiler(&args.phase, &backend).phase("text", &module, "text")?;
    fits(&compiler, 1)?;
    let layers = output::plural(args.layers, "layer");
    let setup = Setup {
        start,
        title: format!("text: {layers} of width {}, {tokens} tokens", config.d_model),
        settings: vec![("layers", json!(args.layers)), ("tokens", json!(tokens))],
        precision,
        job: Box::new(Steps::new(&compiler, [1, 1], 1)),
        compiler,
        weights: RandomWeights::new(&module.weights, SEED),
        calls: vec!["text"],
    };
    finish(&args.phase, &backend, setup)
}

fn configs(args: &BenchPhase) -> Result<(DitConfig, VaeConfig, TextConfig)> {
    if let Some(folder) = &args.model {
        let found = configs_of(folder)?;
        return Ok((found.dit, found.vae, found.text));
    }
    let preset: Preset = args.preset.parse().map_err(|e: Error| e.at("--preset"))?;
    Ok(preset.configs())
}

/// So many blocks of the transformer, and what they work on: tokens of the target, and of the text.
pub(super) fn blocks(
    args: &BenchPhase,
    count: usize,
    [tokens, text_tokens]: [usize; 2],
    timesteps: usize,
) -> Result<(DitConfig, DitSize)> {
    let (mut config, _, _) = configs(args)?;
    config.layers = in_range(count, 1000, "--blocks")?;
    let [frames, rows, columns] = grid(in_range(tokens, MOST_TOKENS, "--tokens")?);
    let text_tokens = in_range(text_tokens, MOST_TOKENS, "--text-tokens")?;
    let [_, tall, wide] = config.patch.map(|side| side as usize);
    let (height, width) = (tall * rows, wide * columns);
    Ok((config, DitSize { reference_frames: 0, frames, height, width, text_tokens, timesteps }))
}

/// `module`, where a page shows it with names that tell all values apart, as its text has them.
pub(super) fn distinct(args: &BenchPhase, module: Module) -> Module {
    match args.report {
        None => module,
        Some(_) => parse_module(&print(&module), &[]).expect("what is printed can be read"),
    }
}

/// A compiler for `backend`, which keeps its reasons where a page shows them.
pub(super) fn compiler(args: &BenchPhase, backend: &Backend) -> Compiler {
    Compiler::new(backend).with(Options { explain: args.report.is_some(), ..Options::default() })
}

pub(super) fn finish(
    args: &BenchPhase,
    backend: &Backend,
    setup: Setup,
) -> std::result::Result<(), Failure> {
    let mut places = Places::new();
    if let Some(path) = &args.report {
        places.writes("--report", path);
    }
    places.prints("the report").check()?;
    // Before anything is measured, so that it fails early if the page cannot be written.
    let page = args.report.as_ref().map(AtomicFile::create).transpose()?;
    let found = measure(args, backend, setup, &mut Progress::new())?;
    if let Some((file, shown)) = page.zip(found.shown.as_ref()) {
        report::write_page(&found, shown, backend, file)?;
    }
    match args.json {
        true => output::print_json(&report::json(&found))?,
        false => output::print(&report::text(&found))?,
    }
    Ok(())
}

pub(super) fn in_range(value: usize, most: usize, flag: &str) -> Result<usize> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(Error::input("E0918", format!("{value} is not a number from 1 to {most}")).at(flag))
}

fn check_sides(width: usize, height: usize, factor: usize) -> Result<()> {
    let fits = |pixels: usize| pixels > 0 && pixels.is_multiple_of(factor) && pixels <= 32_768;
    if fits(width) && fits(height) {
        return Ok(());
    }
    let what = format!("{width}x{height}: sides are multiples of {factor} up to 32768");
    Err(Error::input("E0901", what)
        .at("--size")
        .help("the autoencoder halves both sides several times"))
}

/// Frames, rows and columns for `tokens` tokens in total, with four frames if that divides.
fn grid(tokens: usize) -> [usize; 3] {
    let frames = [4, 2, 1].into_iter().find(|n| tokens.is_multiple_of(*n)).unwrap_or(1);
    let area = tokens / frames;
    let root = area.isqrt().max(1);
    let rows = (1..=root).rev().find(|rows| area.is_multiple_of(*rows)).unwrap_or(1);
    [frames, rows, area / rows]
}

/// Values for input `number` of this name and type: noise, or what the name asks for, of samples that
/// have so many timesteps together, one more than they are where there are references.
fn input(name: &str, ty: &TensorType, number: usize, [timesteps, samples]: [usize; 2]) -> Tensor {
    let len = ty.elements();
    let shape = || ty.shape.iter().copied();
    let integers = |f: &dyn Fn(usize) -> i32| {
        let values: Vec<i32> = (0..len).map(f).collect();
        Tensor::from_i32(shape(), &values).expect("one value an element")
    };
    match (name, ty.dtype) {
        // A quarter of the tokens belong to references.
        ("seg", _) => integers(&|at| {
            let (own, clean) = (len / samples, timesteps - samples);
            if at % own < own / 4 * clean { 0 } else { (at / own + clean) as i32 }
        }),
        ("sigma" | "weight", _) => {
            let share = |at: usize| (at as f32 + 0.5) / len as f32;
            let values: Vec<f32> = (0..len).map(share).collect();
            Tensor::from_f32(shape(), &values).expect("one value an element")
        }
        (_, DType::I32) => integers(&|at| (at * 37 % 500) as i32),
        _ => {
            let mut values = vec![0f32; len];
            NoiseStream::new(SEED, number as u32).fill(0, &mut values);
            match name {
                "t" => values.fill(500.0),
                // Weights that are trained: adapters add something small.
                name if name.contains('.') => values.iter_mut().for_each(|x| *x *= 0.02),
                "rope" => {
                    for pair in values.as_chunks_mut::<2>().0 {
                        *pair = [pair[0].cos(), pair[0].sin()];
                    }
                }
                _ => {}
            }
            let tensor = Tensor::from_f32(shape(), &values).expect("one value an element");
            if ty.dtype == DType::F32 { tensor } else { tensor.cast(ty.dtype) }
        }
    }
}

/// Runs of one phase on the same inputs, one or more for a step of sampling. If there is a
/// `prepare`, it runs before each.
pub(in crate::cmd) struct Steps {
    /// The phase that runs where nothing is split off.
    phase: String,
    inputs: Vec<(String, Branch, Tensor)>,
    runs: usize,
    prepared: Vec<Prepared>,
    /// Made once, as in sampling and training.
    states: Option<States>,
    outputs: Outputs,
}

impl Steps {
    pub(in crate::cmd) fn new(compiler: &Compiler, timesteps: [usize; 2], runs: usize) -> Self {
        let mut inputs: Vec<(String, Branch, Tensor)> = Vec::new();
        for (_, plan) in compiler.plans() {
            for port in &plan.inputs {
                let same = |(name, branch, _): &(String, Branch, Tensor)| {
                    (name, *branch) == (&port.name, port.branch)
                };
                if !inputs.iter().any(same) {
                    let ty = &plan.buffer(port.buffer).ty;
                    let value = input(&port.name, ty, inputs.len(), timesteps);
                    inputs.push((port.name.clone(), port.branch, value));
                }
            }
        }
        let phase = compiler.plans().next().map_or("", |(name, _)| name).to_owned();
        let (prepared, outputs) = (Vec::new(), Outputs::default());
        Self { phase, inputs, runs, prepared, states: None, outputs }
    }
}

fn named(inputs: &[(String, Branch, Tensor)]) -> Inputs<'_> {
    let all = inputs.iter();
    all.fold(Inputs::new(), |out, (name, branch, tensor)| out.set_branch(*branch, name, tensor))
}

impl Job for Steps {
    fn begin(&mut self, program: &mut Program) -> Result<()> {
        let split = program.plan("prepare").is_some();
        for _ in 0..if split { self.runs } else { 0 } {
            self.prepared.push(program.prepare(&named(&self.inputs))?);
        }
        let phase = if split { "step" } else { self.phase.as_str() };
        self.outputs = program.outputs(phase)?;
        self.states = if split { None } else { Some(program.states(phase)?) };
        Ok(())
    }

    fn run(&mut self, program: &mut Program) -> Result<()> {
        let inputs = named(&self.inputs);
        for prepared in &mut self.prepared {
            program.step(prepared, &inputs, &mut self.outputs)?;
        }
        if let Some(states) = &mut self.states {
            program.run_with_states(&self.phase, &inputs, states, &mut self.outputs)?;
        }
        Ok(())
    }

    fn results(&self) -> Vec<&Tensor> {
        self.outputs.iter().map(|(_, tensor)| tensor).collect()
    }
}

/// Runs through a clip; each chunk continues the states of the previous one.
pub(in crate::cmd) struct Chunks {
    name: &'static str,
    pieces: Vec<Tensor>,
    states: Option<States>,
    results: Vec<Tensor>,
}

impl Chunks {
    pub(in crate::cmd) fn new(compiler: &Compiler, half: Half, later: usize) -> Self {
        let name = match half {
            Half::Encoder => "video",
            Half::Decoder => "z",
        };
        let mut pieces = Vec::new();
        for (at, (_, plan)) in compiler.plans().enumerate() {
            let port = plan.inputs.iter().find(|port| port.name == name);
            let ty = &plan.buffer(port.expect("a chunk has pixels or latents").buffer).ty;
            let count = if at == 0 { 1 } else { later };
            for _ in 0..count {
                pieces.push(input(name, ty, pieces.len(), [1, 1]));
            }
        }
        Self { name, pieces, states: None, results: Vec::new() }
    }
}

impl Job for Chunks {
    fn begin(&mut self, program: &mut Program) -> Result<()> {
        self.states = Some(program.states("first")?);
        Ok(())
    }

    fn run(&mut self, program: &mut Program) -> Result<()> {
        let states = self.states.as_mut().expect("it has begun");
        self.results.clear();
        for (at, piece) in self.pieces.iter().enumerate() {
            let inputs = Inputs::new().set(self.name, piece);
            let phase = if at == 0 { "first" } else { "next" };
            let outputs = program.call_with_states(phase, &inputs, states)?;
            self.results.append(&mut outputs.into_tensors());
        }
        Ok(())
    }

    fn results(&self) -> Vec<&Tensor> {
        self.results.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_the_tokens_asked_for() {
        assert_eq!(grid(320), [4, 8, 10]);
        assert_eq!(grid(1024), [4, 16, 16]);
        for tokens in 1..200 {
            assert_eq!(grid(tokens).iter().product::<usize>(), tokens);
        }
    }
}
