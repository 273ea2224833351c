//! The verbs of the command line, and flags that several of them have. A verb's own flags stand with
//! the verb, in `cmd/`. Every flag is declared once, and help texts come from the declarations.
//!
//! Where the meaning depends on more than the flag itself (sizes, names of solvers, recipes), the
//! text is kept as it was typed; the commands turn it into requests and report coded errors.

#[cfg(feature = "annotate")]
use crate::cmd::annotate::AnnotateVerb;
use crate::cmd::bench::args::{Bench, BenchWhat};
use crate::cmd::bisect::Bisect;
use crate::cmd::check::Check;
use crate::cmd::compare::Compare;
use crate::cmd::compile::args::Compile;
use crate::cmd::completions::Completions;
use crate::cmd::convert::Convert;
use crate::cmd::data::args::DataVerb;
use crate::cmd::dot::Dot;
use crate::cmd::eval::EvalVerb;
use crate::cmd::explain::Explain;
use crate::cmd::export::Export;
use crate::cmd::generate::args::Generate;
use crate::cmd::gpu_check::GpuCheck;
use crate::cmd::init::Init;
use crate::cmd::inspect::Inspect;
use crate::cmd::kernels::Kernels;
use crate::cmd::lora::args::Lora;
use crate::cmd::man::Man;
use crate::cmd::opt::Opt;
use crate::cmd::prompt::PromptVerb;
use crate::cmd::run::Run;
use crate::cmd::safeguards::audit::AuditVerb;
use crate::cmd::safeguards::consent::ConsentVerb;
use crate::cmd::safeguards::policy::PolicyVerb;
use crate::cmd::safeguards::provenance::ProvenanceVerb;
use crate::cmd::safeguards::verify::Verify;
use crate::cmd::safeguards::watermark::WatermarkVerb;
#[cfg(feature = "serve")]
use crate::cmd::serve::Serve;
#[cfg(feature = "annotate")]
use crate::cmd::study::StudyVerb;
use crate::cmd::train::args::Train;
use crate::cmd::world::args::WorldVerb;
use crate::{output, render};
use anyid_runtime::engine::{AUTO, Best, Registry, Settings};
use anyid_runtime::{Backend, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Makes a video from references of a person and a prompt: a compiler and runtime for the AnyID
/// method on Wan2.2-TI2V-5B.
#[derive(Debug, Parser)]
#[command(name = "anyid-rt", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 success, 1 something is wrong with the input, 2 a bug in \
anyid-rt, 3 not enough memory, 4 nothing found (`watermark detect`), 130 \
interrupted. `anyid-rt explain CODE` explains an error.")]
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

impl Command {
    /// Whether the result is wanted as JSON, and so is an error.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Generate(args) => args.json,
            Self::Inspect(args) => args.json,
            Self::Check(args) => args.wants_json(),
            Self::Compile(args) => args.json,
            Self::Kernels(args) => args.json,
            Self::Bisect(args) => args.json,
            Self::Compare(args) => args.json,
            Self::Convert(args) => args.json,
            Self::Lora(Lora::Inspect(args)) => args.json,
            Self::Train(args) => args.wants_json(),
            Self::World(args) => args.wants_json(),
            Self::Data(args) => args.wants_json(),
            Self::Prompt(args) => args.wants_json(),
            Self::Eval(args) => args.wants_json(),
            #[cfg(feature = "annotate")]
            Self::Annotate(args) => args.wants_json(),
            #[cfg(feature = "annotate")]
            Self::Study(args) => args.wants_json(),
            Self::Watermark(args) => args.wants_json(),
            Self::Policy(args) => args.wants_json(),
            Self::Consent(args) => args.wants_json(),
            Self::Audit(args) => args.wants_json(),
            Self::Verify(args) => args.json,
            Self::Bench(args) => match &args.what {
                BenchWhat::Ops(args) => args.json,
                BenchWhat::Rows(args) => args.json,
                BenchWhat::Dit(args) => args.phase.json,
                BenchWhat::Vae(args) => args.phase.json,
                BenchWhat::Text(args) => args.phase.json,
                BenchWhat::Train(args) => args.phase.json,
            },
            Self::Provenance(_)
            | Self::Init(_)
            | Self::Export(_)
            | Self::Opt(_)
            | Self::Dot(_)
            | Self::Run(_)
            | Self::Lora(_)
            | Self::GpuCheck(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Explain(_) => false,
            #[cfg(feature = "serve")]
            Self::Serve(_) => false,
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a video of a person from reference pictures or clips and a prompt.
    Generate(Box<Generate>),
    /// Make videos for programs and browsers that ask over HTTP.
    #[cfg(feature = "serve")]
    Serve(Box<Serve>),
    /// Write a model folder with random weights.
    Init(Init),
    /// Say what a checkpoint, model folder, adapter, IR file, plan, recipe, picture or video is, or list
    /// the devices.
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
    /// Write the transformer or the text encoder of a model as one quantised file.
    Convert(Convert),
    /// Inspect, convert, combine and merge adapters (LoRA).
    #[command(subcommand)]
    Lora(Lora),
    /// Train adapters (LoRA), preferences (DPO), or a whole transformer.
    #[command(subcommand)]
    Train(Train),
    /// Paint people of the drawn world, write samples to train with, and measure what models keep.
    #[command(subcommand)]
    World(WorldVerb),
    /// Make samples to train with from a folder of videos.
    #[command(subcommand)]
    Data(DataVerb),
    /// Check prompts, and write those that say what changes.
    #[command(subcommand)]
    Prompt(PromptVerb),
    /// Write what methods are measured by.
    #[command(subcommand)]
    Eval(EvalVerb),
    /// Have people compare videos, and write pairs for `train dpo`.
    #[command(subcommand)]
    #[cfg(feature = "annotate")]
    Annotate(AnnotateVerb),
    /// Have people compare systems blindly, and say how often each was preferred.
    #[command(subcommand)]
    #[cfg(feature = "annotate")]
    Study(StudyVerb),
    /// Look for the invisible watermark of a video, and make keys for it.
    #[command(subcommand)]
    Watermark(WatermarkVerb),
    /// Show which safeguards are in force, and check policies.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Keep records of what people agreed to.
    #[command(subcommand)]
    Consent(ConsentVerb),
    /// Check and show the log of decisions.
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Say what is stated about a result, and whether it was changed since it was signed.
    Verify(Verify),
    /// Make the key of this installation, which signs results.
    #[command(subcommand)]
    Provenance(ProvenanceVerb),
    /// Explain an error code.
    Explain(Explain),
    /// Measure kernels and networks against the peak of this machine.
    Bench(Bench),
    /// Check that a GPU computes what it should, and how fast.
    GpuCheck(GpuCheck),
    /// Print the completions of a shell.
    Completions(Completions),
    /// Write the manual pages.
    Man(Man),
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

/// Which functions of a file are compiled, and how.
#[derive(Debug, Args)]
pub struct PhaseArgs {
    /// Functions, one phase each [default: the last].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub func: Vec<String>,
    /// Inputs that change in every step; the function is split into prepare and step.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
}

/// Switches for looking into the compiler.
#[derive(Clone, Debug, Default, Args)]
pub struct PassArgs {
    /// What to compile for: cpu, cuda:sm_80, cuda:sm_89, cuda:sm_90, cuda:sm_120 or wgpu. Another
    /// architecture of NVIDIA, such as cuda:sm_90a, stands for the one that its GPUs use. Only what is
    /// compiled for a device of this build runs here.
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
    /// Whether reasons are kept without being printed, for a page that shows them.
    #[arg(skip)]
    pub explain: bool,
}

impl PassArgs {
    /// Whether anything is wanted that only shows while passes run.
    pub fn watched(&self) -> bool {
        let explained = self.explain_fusion || self.explain_memory || self.explain;
        let explained = explained || self.time_passes;
        let asked = self.dump_dir.is_some() || self.stop_after.is_some();
        explained || asked || !self.branches.is_empty()
    }
}

/// Where something runs.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// The device to compute on: cpu, cuda:N in builds with it, or auto for the best that is usable here
    /// (`inspect devices` lists them).
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
    /// Number of threads; 0 uses all that the processor has. The result does not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub threads: usize,
}

impl DeviceArgs {
    /// How many threads are asked for.
    pub fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, |threads| threads.get()),
            threads => threads,
        }
    }

    /// The device, of whose warnings the user is told.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub fn open(&self) -> Result<Backend> {
        let backend = self.backend().map_err(|error| match error.code() {
            "E0904" | "E0560" => error.at(format!("--device {}", self.device)),
            "E0918" => error.at(format!("--threads {}", self.threads)),
            _ => error,
        })?;
        backend.about().warnings.iter().for_each(|warning| render::warn(warning));
        Ok(backend)
    }

    fn backend(&self) -> Result<Backend> {
        if self.device != AUTO {
            return Backend::open(&self.device, self.threads);
        }
        let settings = Settings::threads(self.threads);
        let Best { backend, passed } = Backend::best(&Registry::default(), &settings)?;
        if !output::quiet() {
            for (name, error) in passed {
                let why = format!("[{}] {}", error.code(), error.message());
                output::note(&format!("{name} is not usable: {why}"));
            }
            let about = backend.about();
            output::note(&format!("the device is {}: {}", about.name, about.words));
        }
        Ok(backend)
    }
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
