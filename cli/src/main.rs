//! `anyid-rt`: the command line of the AnyID runtime.
//!
//! The entry point reads the flags, runs the verb, prints errors and chooses the exit code: 0
//! success, 1 wrong input, 2 a bug of ours, 3 not enough memory, 4 nothing found, 5 found and not to be
//! believed, and 128 plus the number of the signal if a signal ended the run (130 for Ctrl-C). Everything that users of the library need is
//! in `anyid-runtime`, not here.

mod args;
mod cmd;
mod hints;
mod interrupt;
mod last_resort;
mod modules;
mod output;
mod page;
mod pictures;
mod progress;
mod recipe_text;
mod render;
mod tensors;
mod trace;

use crate::args::{Cli, Command};
use crate::cmd::bench::args::BenchWhat;
use anyid_runtime::{Error, Kind, recipe};
use clap::Parser;
use render::Failure;
use std::panic::PanicHookInfo;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: last_resort::Allocator = last_resort::Allocator;

/// Stack of the thread that does the work. The stack of the first thread grows as it is used, and
/// if the system has no address space left, it ends the process. This stack is reserved from the
/// start.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    last_resort::prepare();
    std::panic::set_hook(Box::new(report_panic));
    match anyid_backends::threads::start_with_stack("anyid-main", Some(STACK_BYTES), run) {
        Ok(work) => match work.join() {
            Ok(code) => ExitCode::from(code),
            // The panic hook has reported it.
            Err(_) => {
                interrupt::clean();
                ExitCode::from(2)
            }
        },
        Err(refused) => {
            render::report(&anyid_runtime::error::threads(refused).into());
            ExitCode::from(1)
        }
    }
}

fn run() -> u8 {
    // First, so that a signal at the very beginning is told of as well.
    let handlers = interrupt::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    output::set_level(cli.quiet, cli.verbose);
    let json = cli.command.wants_json();
    let outcome = handlers.map_err(Failure::from).and_then(|()| {
        interrupt::begin();
        dispatch(cli.command)
    });
    interrupt::say_swept();
    match outcome {
        // This also happens if a signal came too late to stop anything.
        Ok(code) => code,
        Err(failure) => {
            let (failure, ended) = interrupt::ended(failure);
            let code = match failure.kind() {
                Kind::Interrupted => ended.unwrap_or(interrupt::EXIT),
                Kind::Input => 1,
                Kind::Internal => 2,
                Kind::Budget => 3,
            };
            render::report(&failure);
            if json
                && !output::printed()
                && !is_clash_with_output(&failure)
                && let Some(value) = render::failure_json(&failure, code)
            {
                // If this cannot be printed either, the text above has reported it.
                let _ = output::print_json(&value);
            }
            code
        }
    }
}

/// Whether standard output is also another file of the run, which a report would damage.
fn is_clash_with_output(failure: &Failure) -> bool {
    matches!(failure, Failure::Error(error) if ["E0950", "E0951"].contains(&error.code())
        && error.place() == Some(anyid_runtime::places::STANDARD_OUTPUT))
}

/// Runs the verb and gives the exit code.
fn dispatch(command: Command) -> Result<u8, Failure> {
    let done = match command {
        Command::Watermark(verb) => return cmd::safeguards::watermark::run(verb),
        Command::Verify(args) => return cmd::safeguards::verify::run(&args),
        Command::Provenance(verb) => cmd::safeguards::provenance::run(verb),
        Command::Policy(verb) => cmd::safeguards::policy::run(verb),
        Command::Consent(verb) => cmd::safeguards::consent::run(verb),
        Command::Audit(verb) => cmd::safeguards::audit::run(verb),
        Command::Generate(args) => cmd::generate::run(*args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => cmd::serve::run(&args),
        Command::Init(args) => cmd::init::run(args),
        Command::Inspect(args) => cmd::inspect::run(args),
        Command::Export(args) => cmd::export::run(args),
        Command::Check(args) => cmd::check::run(args),
        Command::Compile(args) => cmd::compile::run(*args),
        Command::Opt(args) => cmd::opt::run(args),
        Command::Kernels(args) => cmd::kernels::run(args),
        Command::Bisect(args) => cmd::bisect::run(*args),
        Command::Dot(args) => cmd::dot::run(args),
        Command::Run(args) if cmd::run_plan::is_plan(&args.module.file) => cmd::run_plan::run(args),
        Command::Run(args) => cmd::run::run(args),
        Command::Compare(args) => cmd::compare::run(args),
        Command::Convert(args) => cmd::convert::run(&args),
        Command::Lora(args) => cmd::lora::run(args),
        Command::Train(args) => cmd::train::run(args),
        Command::World(args) => cmd::world::run(args),
        Command::Data(args) => cmd::data::run(args),
        Command::Prompt(args) => cmd::prompt::run(args),
        Command::Eval(args) => cmd::eval::run(args),
        #[cfg(feature = "annotate")]
        Command::Annotate(verb) => cmd::annotate::run(verb),
        #[cfg(feature = "annotate")]
        Command::Study(verb) => cmd::study::run(verb),
        Command::Explain(args) => cmd::explain::run(args),
        Command::GpuCheck(args) => cmd::gpu_check::run(args),
        Command::Completions(args) => cmd::completions::run(&args),
        Command::Man(args) => cmd::man::run(&args),
        Command::Bench(args) => match args.what {
            BenchWhat::Ops(args) => cmd::bench::run(args),
            BenchWhat::Rows(args) => cmd::bench::rows::run(*args),
            BenchWhat::Dit(args) => cmd::bench::networks::dit(args),
            BenchWhat::Vae(args) => cmd::bench::networks::vae(args),
            BenchWhat::Train(args) => cmd::bench::train::train(args),
            BenchWhat::Text(args) => cmd::bench::networks::text(args),
        },
    };
    done.map(|()| 0)
}

/// Help and version go to standard output; anything else is a coded error.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return u8::from(output::print(&error.to_string()).is_err());
    }
    let text = error.to_string();
    let Some(rest) = text.strip_prefix("error:") else {
        // Without a verb, clap prints the help.
        output::note(text.trim_end());
        return 1;
    };
    let (advice, value) = (hints::advice(error), hints::value(error));
    let mut fault = render::usage_error(rest.trim_start(), advice.as_deref());
    if let Some((message, help)) = value {
        fault.error = Error::input("E0900", message).help(advice.unwrap_or(help));
    }
    render::report_usage(&fault);
    if std::env::args_os().any(|word| word == "--json")
        && let Some(value) = render::failure_json(&fault.error.into(), 1)
    {
        let _ = output::print_json(&value);
    }
    1
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    let mut error = Error::internal("E1000", format!("a broken invariant: {message}"));
    if let Some(place) = info.location() {
        error = error.at(place);
    }
    render::report(&error.into());
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        output::note(&backtrace.to_string());
    }
}
