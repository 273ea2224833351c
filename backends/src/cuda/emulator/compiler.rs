//! The C++ compiler of the system: found by name, and called on source that a file holds.

use super::{failed, fault};
use crate::Fault;
use crate::errors::OpenError;
use crate::registry::Programs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Names that are tried where none is asked for.
const NAMES: [&str; 3] = ["c++", "g++", "clang++"];

/// What every call gets. Sums are rounded after every operation and memory may be looked at as other
/// types, as on a GPU; the code throws nothing and needs no library but those of C.
const FLAGS: [&str; 10] = [
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-w",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
];

/// Longest that a program may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// A compiler that is there.
pub(super) struct Compiler {
    program: String,
    version: String,
    programs: Programs,
}

impl Compiler {
    /// The compiler called `program`, or the first of the usual names.
    pub(super) fn find(program: Option<&str>) -> Result<Self, OpenError> {
        let asked = program.filter(|program| !program.is_empty());
        let names = asked.map_or(NAMES.to_vec(), |program| vec![program]);
        let found = names.iter().find_map(|name| {
            let version = version(name)?;
            let (program, programs) = ((*name).to_owned(), Programs::default());
            Some(Self { program, version, programs })
        });
        found.ok_or_else(|| {
            failed(
                "E0850",
                format!("there is no C++ compiler: tried {}", names.join(", ")),
                Some("install one, or name it in ANYID_CUDA_EMULATED_COMPILER".to_owned()),
            )
        })
    }

    /// The compiler, which is run in this way.
    pub(super) fn run_by(self, programs: Programs) -> Self {
        Self { programs, ..self }
    }

    /// What it says that it is.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// What decides what it makes of a source.
    pub(super) fn key(&self) -> String {
        format!("{} {}", self.version, FLAGS.join(" "))
    }

    /// Makes the library `to` of `source`. A source that is refused stays, for whoever looks into the
    /// fault.
    pub(super) fn compile(&self, source: &Path, to: &Path) -> Result<(), Box<Fault>> {
        let mut command = Command::new(&self.program);
        command.args(FLAGS).arg("-o").arg(to).arg(source);
        let refused = |message: String, cause: Option<String>| {
            let mut fault = fault("E0851", message, None);
            fault.place = Some(source.display().to_string());
            fault.cause = cause;
            Err(fault)
        };
        match (self.programs.0)(&mut command, &[source, to]) {
            Ok(Output { status, .. }) if status.success() => Ok(()),
            Ok(Output { status, stderr, .. }) if status.code().is_some() => {
                let said = String::from_utf8_lossy(&stderr);
                let first = said.lines().find(|line| line.contains("error"));
                let first = first.or(said.lines().next()).map(str::to_owned);
                refused(format!("{} does not compile the kernels", self.program), first)
            }
            other => {
                // It was ended, or never began.
                [source, to].iter().for_each(|file| drop(std::fs::remove_file(file)));
                let why = match other {
                    Ok(Output { status, .. }) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                refused(format!("{} cannot be run", self.program), Some(why))
            }
        }
    }
}

/// The first line that a compiler says about itself; `None` for what is no compiler of C++.
fn version(program: &str) -> Option<String> {
    let said = within(PATIENCE, Command::new(program).arg("--version"))?;
    let first = said.lines().next().map(str::trim).filter(|line| !line.is_empty())?;
    let mut nothing = Command::new(program);
    nothing.args(["-std=c++17", "-dM", "-E", "-x", "c++", "/dev/null"]);
    let macros = within(PATIENCE, &mut nothing)?;
    macros.contains("__cplusplus").then(|| first.to_owned())
}

/// What a program prints, if it ends well and in time.
fn within(limit: Duration, command: &mut Command) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut pipe = child.stdout.take()?;
    let reader = std::thread::Builder::new().spawn(move || {
        let mut said = Vec::new();
        std::io::Read::read_to_end(&mut pipe, &mut said).map(|_| said)
    });
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let status = status?;
    let said = reader.ok()?.join().ok()?.ok()?;
    status.success().then(|| String::from_utf8_lossy(&said).into_owned())
}
