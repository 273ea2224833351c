//! The command line's flags, declared once; help text comes from here.
//!
//! Where the meaning depends on more than the flag itself (sizes, names of solvers, recipes), the
//! text is kept as it was typed; the commands turn it into requests and report coded errors.

use anyid_runtime::{Backend, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Makes a video from references of a person and a prompt: a compiler and runtime for the AnyID
/// method on Wan2.2-TI2V-5B.
#[derive(Debug, Parser)]
#[command(name = "anyid-rt", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 success, 1 something is wrong with the input, 2 a bug in \
anyid-rt, 3 not enough memory, 130 interrupted. `anyid-rt explain CODE` explains an error.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print more about what is done.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print only results, warnings and errors, but no progress and no remarks.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// A seed as it is given: a number, or a request for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Number(u64),
    /// One that the program draws at random and records.
    Random,
}

impl std::str::FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            _ => text.parse().map(Self::Number).map_err(|_| {
                "a seed is a whole number from 0 to 18446744073709551615, or `random`".to_owned()
            }),
        }
    }
}

impl Command {
    /// Whether the result is wanted as JSON, and so is an error.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Generate(args) => args.json,
            Self::Inspect(args) => args.json,
            Self::Check(args) => args.json,
            Self::Compile(args) => args.json,
            Self::Kernels(args) => args.json,
            Self::Bisect(args) => args.json,
            Self::Compare(args) => args.json,
            Self::Lora(Lora::Inspect(args)) => args.json,
            Self::Train(args) => args.wants_json(),
            Self::Bench(args) => match &args.what {
                BenchWhat::Ops(args) => args.json,
                BenchWhat::Dit(args) => args.phase.json,
                BenchWhat::Vae(args) => args.phase.json,
                BenchWhat::Text(args) => args.phase.json,
                BenchWhat::Train(args) => args.phase.json,
            },
            Self::Init(_)
            | Self::Export(_)
            | Self::Opt(_)
            | Self::Dot(_)
            | Self::Run(_)
            | Self::Lora(_)
            | Self::Explain(_) => false,
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a video of a person from reference pictures or clips and a prompt.
    Generate(Box<Generate>),
    /// Write a model folder with random weights.
    Init(Init),
    /// Say what a checkpoint, model folder, adapter, IR file, plan, recipe, picture or video is.
    Inspect(Inspect),
    /// Write a built-in network as IR text.
    Export(Export),
    /// Parse and verify IR text and match it with weights.
    Check(Check),
    /// Compile IR text into a plan and report what it needs.
    Compile(Box<Compile>),
    /// Run passes over IR text and print the result.
    Opt(Opt),
    /// List the distinct kernels that IR text compiles to.
    Kernels(Kernels),
    /// Find the first rewrite of the compiler that changes a result.
    Bisect(Box<Bisect>),
    /// Draw a function as Graphviz text.
    Dot(Dot),
    /// Run a function of IR text, or a plan, on named tensors.
    Run(Run),
    /// Run a function in two ways and show the first value that differs.
    Compare(Compare),
    /// Inspect, convert, combine and merge adapters (LoRA).
    #[command(subcommand)]
    Lora(Lora),
    /// Train adapters (LoRA), preferences (DPO), or a whole transformer.
    #[command(subcommand)]
    Train(crate::cmd::train::args::Train),
    /// Explain an error code.
    Explain(Explain),
    /// Measure kernels and networks against the peak of this machine.
    Bench(Bench),
}

/// Precision of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    /// Everything in single precision.
    F32,
    /// bf16 inputs of matrix products, everything else in single precision.
    Bf16,
}

/// Element type of the transformer's residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResidualName {
    /// Single precision, as in the reference implementation.
    F32,
    /// bf16; sums are computed in single precision and rounded once.
    Bf16,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --model the built-in micro model is used: it shows the whole path \
in seconds, but its weights are random and its output is texture, not a person. Its defaults are \
192x192, 9 frames, 8 steps; those of a model folder are 1280x704, 121 frames, 50 steps.\n\n\
A recipe is written next to the result (OUT.recipe.json). `generate --recipe FILE -o OUT` repeats \
the run exactly; flags given together with --recipe override it."
)]
pub struct Generate {
    /// Pictures or clips of the person, up to 5; the first is the primary one. Without any, the
    /// video is made from the prompt alone.
    #[arg(long = "ref", value_name = "FILE", num_args = 1..)]
    pub references: Vec<PathBuf>,
    /// What the video should show.
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["recipe", "latents"])]
    pub prompt: Option<String>,
    /// Where the video goes: a .mp4 or .gif file, a folder for PNG frames, or - for standard
    /// output.
    #[arg(short, long = "output", value_name = "OUT",
        required_unless_present_any = ["recipe", "latents"])]
    pub output: Option<PathBuf>,
    /// Replace results that exist already: the video, its recipe, latents, the trace.
    #[arg(long)]
    pub force: bool,
    /// Format for standard output, a pipe or a device [default: mp4, or as the name says].
    #[arg(long, value_enum)]
    pub format: Option<FormatName>,
    /// Model folder (diffusers, or the original checkpoint's).
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// An adapter (LoRA) for the transformer with its scale [default: 1]; may be given several
    /// times.
    #[arg(long = "lora", value_name = "PATH[:SCALE]", allow_hyphen_values = true)]
    pub adapters: Vec<String>,
    /// Leave out tensors of adapters that are for no module of the model.
    #[arg(long)]
    pub allow_unmatched: bool,
    /// Accept adapters that were trained for another arrangement of the references.
    #[arg(long)]
    pub allow_mismatch: bool,
    /// Width and height in pixels, multiples of 32.
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub size: Option<String>,
    /// Number of frames, 4k+1.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub frames: Option<usize>,
    /// Frames per second of the result [default: 24].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub fps: Option<f64>,
    /// Sampling steps.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<usize>,
    /// Shift of the noise schedule [default: the model's].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,
    /// Guidance scale; 1 turns guidance off [default: 5].
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// unipc, euler or dpmpp [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub solver: Option<String>,
    /// wan or diffusers: where the noise levels come from [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Seed of the start noise: a number, or `random` for a new one in each run; the recipe records
    /// it [default: 0].
    #[arg(long, value_name = "N|random", allow_negative_numbers = true)]
    pub seed: Option<Seed>,
    /// Start noise from a safetensors file with a tensor `noise` of shape `C,F,h,w` or `1,C,F,h,w`.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub noise: Option<PathBuf>,
    /// Arithmetic of the networks [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
    /// Element type of the transformer's residual stream; bf16 takes less memory, and results
    /// differ slightly [default: f32].
    #[arg(long, value_enum)]
    pub residual: Option<ResidualName>,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Also write the final latents (tensor `latents` of shape `C,F,h,w`).
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// Only decode these latents: a file from --save-latents, or the file that a run leaves next to
    /// its result if decoding fails. Model, frame rate and output are taken from it unless given.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["references", "prompt", "size", "frames",
        "steps", "shift", "guidance", "solver", "schedule", "seed", "noise", "residual",
        "save_latents", "recipe", "adapters"])]
    pub latents: Option<PathBuf>,
    /// Check everything and show what each phase needs, then stop without writing anything.
    #[arg(long)]
    pub dry_run: bool,
    /// Repeat a run from its recipe.
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Write a trace of all launches as JSON, for Perfetto and chrome://tracing
    /// [default: the environment variable ANYID_RT_TRACE].
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Video formats that can go through a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    Mp4,
    Gif,
    Mkv,
    Webm,
    Mov,
}

impl From<FormatName> for anyid_runtime::media::writer::Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Mp4 => Self::Mp4,
            FormatName::Gif => Self::Gif,
            FormatName::Mkv => Self::Mkv,
            FormatName::Webm => Self::Webm,
            FormatName::Mov => Self::Mov,
        }
    }
}

#[derive(Debug, Args)]
pub struct Init {
    /// The folder to create.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Sizes: micro (about 4 MB) or wan2.2-ti2v-5b (about 24 GB).
    #[arg(long, value_name = "NAME", default_value = "micro")]
    pub preset: String,
    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// File or folder.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// List every tensor of a checkpoint.
    #[arg(long)]
    pub tensors: bool,
}

/// The networks that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// One evaluation of the diffusion transformer.
    Dit,
    /// The training loss of the transformer on one sample, to be compiled with --inject-lora or --lift
    /// and --grad loss.
    Loss,
    /// Pixels to latents, a whole clip.
    VaeEncode,
    /// Latents to pixels, a whole clip.
    VaeDecode,
    /// The text encoder.
    Text,
}

#[derive(Debug, Args)]
pub struct Export {
    /// The network.
    #[arg(value_enum)]
    pub network: Network,
    /// Take the configuration from this model folder, or from the folder of the network alone.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    pub model: Option<PathBuf>,
    /// Take the configuration of a preset: micro or wan2.2-ti2v-5b [default: micro].
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Width and height in pixels, multiples of 32 (of 16 for the autoencoder)
    /// [default: 192x192 for micro, else 1280x704].
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub size: Option<String>,
    /// Pixel frames, 4k+1 [default: 9 for micro, else 121].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub frames: Option<usize>,
    /// Pixel frames of each reference, 1 for a picture: 1,1,5.
    #[arg(long, alias = "refs", value_name = "F1,F2,…", value_delimiter = ',')]
    pub ref_frames: Vec<usize>,
    /// Rows of the text context (dit), or tokens of the prompt (text).
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Distinct timesteps [default: 2 with references, else 1].
    #[arg(long, value_name = "G")]
    pub timesteps: Option<usize>,
    /// The decoder takes the transformer's normalised latents and scales them back first.
    #[arg(long)]
    pub normalised: bool,
    /// Arithmetic of the network [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
    /// Element type of the transformer's residual stream; bf16 takes less memory, and results
    /// differ slightly.
    #[arg(long, value_enum, default_value = "f32")]
    pub residual: ResidualName,
    /// The file to write; `-` for standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: PathBuf,
}

/// Where the weights of an IR module come from.
#[derive(Debug, Args)]
pub struct WeightArgs {
    /// Model folder; the network is recognised by the module's weight names.
    #[arg(long, value_name = "DIR", conflicts_with = "weights")]
    pub model: Option<PathBuf>,
    /// Weight files: safetensors, or one index of shards.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub weights: Vec<PathBuf>,
    /// Accept tensors in the files that the module does not name.
    #[arg(long)]
    pub allow_extra: bool,
}

/// An IR file and the values of its free dims.
#[derive(Debug, Args)]
pub struct ModuleArgs {
    /// IR text.
    #[arg(value_name = "FILE.ir")]
    pub file: PathBuf,
    /// Value of a free dim.
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<String>,
}

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

/// What `compile` prints instead of its summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The module with its dims bound.
    Ir,
    /// The text of every kernel of the plans.
    Kernels,
    /// Steps and buffers with their places in memory.
    Plan,
    /// Every piece of workspace with its lifetime, as comma-separated values.
    Memory,
    /// The function as Graphviz text.
    Dot,
}

#[derive(Debug, Args)]
#[command(
    after_help = "With --vary the function becomes two phases: `prepare` computes what does not \
depend on the named inputs and runs once, `step` does the rest. Resident memory is weights + \
persistent + the largest peak. If this exceeds the budget, the exit code is 3, the changes that \
would make it fit are listed, and no plan is written."
)]
pub struct Compile {
    #[command(flatten)]
    pub module: ModuleArgs,
    /// Functions, one phase each [default: the last].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub func: Vec<String>,
    /// Inputs that change in every step; the function is split into prepare and step.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
    /// Pairs of an input and a result that are one tensor, carried from each run to the next:
    /// s0=n0, or s*=n* for all pairs of that form. A function without the input begins the state.
    #[arg(long = "state", value_name = "INPUT=RESULT,…", value_delimiter = ',')]
    pub states: Vec<String>,
    /// Memory that weights and plan may take together, such as 16GiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub budget: Option<String>,
    /// Print this instead of the summary.
    #[arg(long, value_enum, conflicts_with = "json")]
    pub emit: Option<Emit>,
    /// Stop after this phase (bound, optimised, fused or planned) and print the result, as `opt`
    /// does.
    #[arg(long, value_name = "PHASE",
        conflicts_with_all = ["emit", "json", "output", "budget", "predict"])]
    pub to: Option<String>,
    /// Predict the shortest time of each phase: on this machine, which is measured (for about a
    /// second), or, for a target without a device here, from what is stated about one.
    #[arg(long)]
    pub predict: bool,
    /// Number of threads to predict for; 0 assumes all that the processor has.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "predict")]
    pub threads: usize,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write the plan, for `run`; `-` for standard output.
    #[arg(short, long = "output", value_name = "FILE.plan")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub switches: PassArgs,
}

/// Switches for looking into the compiler.
#[derive(Clone, Debug, Default, Args)]
pub struct PassArgs {
    /// What to compile for: cpu, cuda:sm_80, cuda:sm_89, cuda:sm_90, cuda:sm_120 or wgpu. Only what
    /// is compiled for a device of this build runs here.
    #[arg(long, value_name = "NAME", default_value = "cpu", help_heading = "Compiler")]
    pub target: String,
    /// Inputs in which two branches differ; the branches are evaluated together where that is
    /// faster. The input of the second branch is called NAME.1.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',', help_heading = "Compiler")]
    pub branches: Vec<String>,
    /// Put a low-rank adapter beside every linear of this name (its weight's, without .weight); a star
    /// stands for any text. Its matrices are inputs NAME.lora_A.weight and NAME.lora_B.weight.
    #[arg(
        long,
        value_name = "NAME=RANK:ALPHA,…",
        value_delimiter = ',',
        help_heading = "Compiler"
    )]
    pub inject_lora: Vec<String>,
    /// Make these weights inputs, by name; a star stands for any text.
    #[arg(long, value_name = "WEIGHT,…", value_delimiter = ',', help_heading = "Compiler")]
    pub lift: Vec<String>,
    /// Compute the derivative of this output, a number, by the inputs of --wrt.
    #[arg(long, value_name = "OUTPUT", requires = "wrt", help_heading = "Compiler")]
    pub grad: Option<String>,
    /// Inputs to differentiate by, lifted weights included; a star stands for any text. The
    /// derivatives are outputs called grad.INPUT.
    #[arg(
        long,
        value_name = "INPUT,…",
        value_delimiter = ',',
        requires = "grad",
        help_heading = "Compiler"
    )]
    pub wrt: Vec<String>,
    /// What each block keeps for the derivative; the rest is computed again. From most memory to
    /// least: all, products, heads, attention, carry. carry:12,heads: the first 12 blocks another
    /// choice than the rest [default: all, and with --budget the fastest that fits].
    #[arg(long, value_name = "CHOICE", requires = "grad", help_heading = "Compiler")]
    pub remat: Option<String>,
    /// Leave these passes out.
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', help_heading = "Compiler")]
    pub without: Vec<String>,
    /// Make the first N rewrites only.
    #[arg(long, value_name = "N", help_heading = "Compiler")]
    pub stop_after: Option<u64>,
    /// Check the result of every pass.
    #[arg(long, help_heading = "Compiler")]
    pub verify_each: bool,
    /// Write the text after every pass into this folder, which is created: 00-specialize.ir, …
    #[arg(long, value_name = "DIR", help_heading = "Compiler")]
    pub dump_dir: Option<PathBuf>,
    /// Say which values were fused into one kernel and by which rule, and for each value between
    /// two kernels why they were not fused.
    #[arg(long, help_heading = "Compiler")]
    pub explain_fusion: bool,
    /// Say which results share memory with another value, and for each that could have why it
    /// does not.
    #[arg(long, help_heading = "Compiler")]
    pub explain_memory: bool,
    /// Say how long each pass took and how many rewrites it made.
    #[arg(long, help_heading = "Compiler")]
    pub time_passes: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Passes in order: specialize, inline, inject-lora (with --inject-lora); canonicalize, \
fold, cse, dce, lift (with --lift), grad and remat (with --grad), join-branches (with --branches), hoist (needs \
--vary: @prepare and @step); decompose, fuse, pack-linears; lower, schedule, split-rows, \
share-columns, alias, pack, assemble. The phases end with inject-lora (bound), hoist \
(optimised), pack-linears (fused) and assemble (planned). Passes that a named pass needs are run before it."
)]
pub struct Opt {
    #[command(flatten)]
    pub module: ModuleArgs,
    /// Run these passes in this order.
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', conflicts_with = "to")]
    pub passes: Vec<String>,
    /// Run all passes up to the end of this phase: bound, optimised, fused or planned
    /// [default: optimised].
    #[arg(long, value_name = "PHASE")]
    pub to: Option<String>,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Inputs that change in every step, for hoist.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
    /// Also print the text after this pass, or after all.
    #[arg(long, value_name = "PASS|all")]
    pub print_after: Option<String>,
    /// The file to write [default: standard output].
    #[arg(short, long = "output", value_name = "FILE.ir")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub switches: PassArgs,
}

#[derive(Debug, Args)]
pub struct Kernels {
    #[command(flatten)]
    pub module: ModuleArgs,
    /// Functions, one phase each [default: the last].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub func: Vec<String>,
    /// Inputs that change in every step; the function is split into prepare and step.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
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

#[derive(Debug, Args)]
#[command(
    after_help = "Results are compared with those of the interpreter. If all rewrites together \
change a result by more than the tolerance, a binary search over their number finds the first \
that does."
)]
pub struct Bisect {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Safetensors file with the inputs by name [default: random inputs].
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub inputs: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Largest difference allowed, relative to the largest value of the result.
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    pub tolerance: f64,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Inputs that change in every step; the function is split into prepare and step.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
    /// Leave these passes out.
    #[arg(long, value_name = "PASS,…", value_delimiter = ',')]
    pub without: Vec<String>,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Dot {
    #[command(flatten)]
    pub module: ModuleArgs,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Inputs are found by name. An additional leading axis of size 1 (a batch of one) \
is dropped. Floating-point tensors are converted to the type that the module wants, 64-bit \
integers to i32; nothing else is converted."
)]
pub struct Run {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Safetensors file with the inputs by name.
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Safetensors file for the results, under their names; `-` for standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: PathBuf,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Use the reference interpreter instead of a device.
    #[arg(long)]
    pub interp: bool,
    /// Write a trace of all launches as JSON, for Perfetto and chrome://tracing
    /// [default: the environment variable ANYID_RT_TRACE].
    #[arg(long, value_name = "FILE", conflicts_with = "interp")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub on: DeviceArgs,
}

/// A way to run a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Reference interpreter; every result is rounded to its type.
    Interp,
    /// Reference interpreter in double precision throughout.
    InterpF64,
    /// A device by name.
    Device(String),
}

impl From<&str> for Way {
    fn from(name: &str) -> Self {
        match name {
            "interp" => Self::Interp,
            "interp-f64" => Self::InterpF64,
            _ => Self::Device(name.to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub struct Compare {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// The first way: interp, interp-f64 (double precision throughout) or a device such as cpu.
    /// Errors are relative to its values.
    #[arg(long, value_name = "WAY", default_value = "interp")]
    pub a: Way,
    /// The second way.
    #[arg(long, value_name = "WAY", default_value = "cpu")]
    pub b: Way,
    /// Safetensors file with the inputs by name [default: random inputs].
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub inputs: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Largest difference allowed, relative to the largest value of the tensor.
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    pub tolerance: f64,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Number of threads; 0 uses all that the processor has.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What is done with adapters.
#[derive(Debug, Subcommand)]
pub enum Lora {
    /// Say what an adapter changes, by which rank and scale.
    Inspect(LoraInspect),
    /// Write an adapter in another dialect.
    Convert(LoraConvert),
    /// Join several adapters into one of summed rank, exactly.
    Combine(LoraCombine),
    /// Write a model, or a transformer's checkpoint, with adapters merged into its weights.
    Merge(LoraMerge),
}

#[derive(Debug, Args)]
pub struct LoraInspect {
    /// The adapter: a file, or PEFT's folder.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Compare it with this model's tensors.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// List every module.
    #[arg(long)]
    pub modules: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How an adapter is written, and what it is compared with.
#[derive(Debug, Args)]
pub struct AdapterOutput {
    /// The dialect: comfyui, diffsynth, diffusers, peft (a folder) or musubi.
    #[arg(long, value_name = "DIALECT", default_value = "comfyui")]
    pub to: String,
    /// The file to write; for peft a folder.
    #[arg(short, long = "output", value_name = "OUT")]
    pub output: PathBuf,
    /// Compare what is read with this model's tensors.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Leave out tensors that are for no module that is known.
    #[arg(long)]
    pub allow_unmatched: bool,
    /// Replace an existing result.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct LoraConvert {
    /// The adapter: a file, or PEFT's folder.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub write: AdapterOutput,
}

#[derive(Debug, Args)]
pub struct LoraCombine {
    /// The adapters, each with its scale [default: 1].
    #[arg(value_name = "PATH[:SCALE]", required = true, num_args = 1..)]
    pub adapters: Vec<String>,
    #[command(flatten)]
    pub write: AdapterOutput,
}

#[derive(Debug, Args)]
pub struct LoraMerge {
    /// A model folder, a checkpoint file of the transformer, or the index of its shards.
    #[arg(value_name = "BASE")]
    pub base: PathBuf,
    /// An adapter with its scale [default: 1]; may be given several times.
    #[arg(long = "lora", value_name = "PATH[:SCALE]", required = true)]
    pub adapters: Vec<String>,
    /// The folder to write, or the file where BASE is one.
    #[arg(short, long = "output", value_name = "OUT")]
    pub output: PathBuf,
    /// Leave out tensors that are for no module of the model.
    #[arg(long)]
    pub allow_unmatched: bool,
    /// Accept adapters that were trained for another arrangement of the references.
    #[arg(long)]
    pub allow_mismatch: bool,
    /// Replace an existing result.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The code, such as E0901.
    #[arg(value_name = "CODE", required_unless_present = "list")]
    pub code: Option<String>,
    /// List every code with its title.
    #[arg(long)]
    pub list: bool,
}

/// Where something runs.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// The device to compute on: cpu.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
    /// Number of threads; 0 uses all that the processor has. The result does not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub threads: usize,
}

impl DeviceArgs {
    /// The device.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub fn open(&self) -> Result<Backend> {
        Backend::open(&self.device, self.threads)
    }
}

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Single operations.
    Ops(BenchOps),
    /// Blocks of the diffusion transformer, or a whole sampling step of it.
    Dit(BenchDit),
    /// One half of the autoencoder on a clip.
    Vae(BenchVae),
    /// The text encoder.
    Text(BenchText),
    /// Blocks of the diffusion transformer with low-rank adapters, forward and backward.
    Train(BenchTrain),
}

/// What measurements of networks have in common.
#[derive(Debug, Args)]
#[command(
    after_help = "Weights are random and made in memory. A first run does not count, and the times \
of the other runs do not include loading and packing. Memory is shown as the plans state it and as \
the peak of the process."
)]
pub struct BenchPhase {
    /// Sizes of the network: micro or wan2.2-ti2v-5b.
    #[arg(long, value_name = "NAME", default_value = "wan2.2-ti2v-5b")]
    pub preset: String,
    /// Arithmetic of the network [default: f32 for the autoencoder, else bf16].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
    /// Number of timed runs.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
    pub repeats: usize,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Also time every step of the plans, in further runs.
    #[arg(long)]
    pub profile: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchDit {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Number of blocks, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub blocks: usize,
    /// Tokens of the sequence.
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true)]
    pub tokens: usize,
    /// Rows of the text context.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub text_tokens: usize,
    /// Element type of the transformer's residual stream; bf16 takes less memory, and results
    /// differ slightly.
    #[arg(long, value_enum, default_value = "f32")]
    pub residual: ResidualName,
    /// Measure the whole step with embeddings, time path and head, not only the blocks.
    #[arg(long)]
    pub all: bool,
    /// Evaluate both branches of guidance: together where the compiler finds that faster, or apart.
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, default_missing_value = "auto")]
    pub guided: Option<Guided>,
}

/// How the branches of guidance are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guided {
    /// As in sampling.
    Auto,
    /// One after the other.
    Apart,
}

/// A half of the autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// Pixels to latents.
    Encode,
    /// Latents to pixels.
    Decode,
}

#[derive(Debug, Args)]
pub struct BenchVae {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Which half.
    #[arg(long, value_enum, default_value = "decode")]
    pub direction: Direction,
    /// Pixel frames, 4k+1; one run processes all of them.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub frames: usize,
    /// Width and height in pixels, multiples of 16.
    #[arg(long, value_name = "WxH", default_value = "256x256", allow_hyphen_values = true)]
    pub size: String,
}

#[derive(Debug, Args)]
pub struct BenchText {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Layers of the encoder.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub layers: usize,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub tokens: usize,
}

#[derive(Debug, Args)]
pub struct BenchTrain {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Number of blocks, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub blocks: usize,
    /// Tokens of the sequence.
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true)]
    pub tokens: usize,
    /// Rows of the text context.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub text_tokens: usize,
    /// Rank of the adapters, which all matrices of attention and feed-forward have.
    #[arg(long, value_name = "N", default_value_t = 128, allow_negative_numbers = true)]
    pub rank: usize,
    /// Element type of the transformer's residual stream.
    #[arg(long, value_enum, default_value = "f32")]
    pub residual: ResidualName,
}

#[derive(Debug, Args)]
pub struct BenchOps {
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Approximate time for which each operation is measured, in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub seconds: f64,
    /// Measure only operations whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declarations_are_consistent() {
        Cli::command().debug_assert();
    }
}
