//! `anyid-fuzz TARGET [--runs N] [--seconds S] [--seed N] [--input FILE] [--artifacts FOLDER]`
//!
//! Runs a target on many inputs, or on one file. Exit code 0 where nothing failed, 1 where something
//! did: the input is printed in hexadecimal and lies in a file. The inputs are run in a child
//! process, so that a crash is reported like a failure.

use anyid_fuzz::engine::{Options, current_path, fuzz, hex, once};
use anyid_fuzz::{memory, targets};
use std::process::{Command, ExitCode};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: memory::Guarded = memory::Guarded;

const CHILD: &str = "ANYID_FUZZ_CHILD";

struct Call {
    target: String,
    options: Options,
    input: Option<String>,
}

fn call() -> Result<Call, String> {
    let mut options = Options { runs: u64::MAX, ..Options::default() };
    let (mut target, mut input) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--runs" => options.runs = number(value()?)?,
            "--seconds" => options.seconds = Some(number(value()?)?),
            "--seed" => options.seed = number(value()?)?,
            "--memory" => options.memory = number(value()?)? as usize,
            "--input" => input = Some(value()?),
            "--artifacts" => options.artifacts = value()?.into(),
            name if target.is_none() && !name.starts_with('-') => target = Some(name.to_owned()),
            _ => return Err(format!("{word} is not understood")),
        }
    }
    if options.runs == u64::MAX && options.seconds.is_none() {
        options.runs = 10_000;
    }
    let names: Vec<&str> = targets::all().iter().map(|target| target.name()).collect();
    let target = target.ok_or_else(|| format!("name a target: {}", names.join(", ")))?;
    Ok(Call { target, options, input })
}

fn main() -> ExitCode {
    let call = match call() {
        Ok(call) => call,
        Err(what) => {
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    };
    if std::env::var_os(CHILD).is_some() {
        return child(&call);
    }
    let status = std::env::current_exe().and_then(|own| {
        Command::new(own).args(std::env::args_os().skip(1)).env(CHILD, "1").status()
    });
    match status {
        Ok(status) => match status.code() {
            Some(code) => ExitCode::from(code as u8),
            None => {
                let path = current_path(&call.target, &call.options);
                println!("{}: the process died: {status}", call.target);
                println!("the input is in {}; its first bytes:", path.display());
                print!("{}", hex(&std::fs::read(&path).unwrap_or_default()));
                ExitCode::from(1)
            }
        },
        Err(fault) => {
            eprintln!("the child process does not start: {fault}");
            ExitCode::from(2)
        }
    }
}

fn child(call: &Call) -> ExitCode {
    let Some(target) = targets::named(&call.target) else {
        eprintln!("there is no target {}", call.target);
        return ExitCode::from(2);
    };
    if let Some(input) = &call.input {
        let data = match std::fs::read(input) {
            Ok(data) => data,
            Err(fault) => {
                eprintln!("{input}: {fault}");
                return ExitCode::from(2);
            }
        };
        return match once(&*target, &call.options, &data) {
            Ok(verdict) => {
                println!("{}: {verdict:?}", call.target);
                ExitCode::SUCCESS
            }
            Err(failure) => {
                print!("{failure}");
                ExitCode::from(1)
            }
        };
    }
    let begun = Instant::now();
    match fuzz(&*target, &call.options) {
        Ok(summary) => {
            let seconds = begun.elapsed().as_secs_f64();
            println!("{}", summary.report(&call.target, call.options.seed, seconds));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            print!("{failure}");
            ExitCode::from(1)
        }
    }
}
