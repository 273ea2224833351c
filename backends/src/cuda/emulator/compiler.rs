//! The C++ compiler of the system: found by name, and called on source that a file holds.

use super::{failed, fault};
use crate::Fault;
use crate::errors::OpenError;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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

/// A compiler that is there.
pub(super) struct Compiler {
    program: String,
    version: String,
}

impl Compiler {
    /// The compiler called `program`, or the first of the usual names.
    pub(super) fn find(program: Option<&str>) -> Result<Self, OpenError> {
        let asked = program.filter(|program| !program.is_empty());
        let names = asked.map_or(NAMES.to_vec(), |program| vec![program]);
        let found = names.iter().find_map(|name| {
            let version = version(name)?;
            Some(Self { program: (*name).to_owned(), version })
        });
        found.ok_or_else(|| {
            failed(
                "E0850",
                format!("there is no C++ compiler: tried {}", names.join(", ")),
                Some("install one, or name it in ANYID_CUDA_EMULATED_COMPILER".to_owned()),
            )
        })
    }

    /// What it says that it is.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// What decides what it makes of a source.
    pub(super) fn key(&self) -> String {
        format!("{} {}", self.version, FLAGS.join(" "))
    }

    /// Makes the library `to` of `source`.
    pub(super) fn compile(&self, source: &Path, to: &Path) -> Result<(), Box<Fault>> {
        let mut command = Command::new(&self.program);
        command.args(FLAGS).arg("-o").arg(to).arg(source).stdin(Stdio::null());
        let refused = |message: String, cause: Option<String>| {
            let mut fault = fault("E0851", message, None);
            fault.place = Some(source.display().to_string());
            fault.cause = cause;
            Err(fault)
        };
        match command.output() {
            Ok(Output { status, .. }) if status.success() => Ok(()),
            Ok(Output { stderr, .. }) => {
                let said = String::from_utf8_lossy(&stderr);
                let first = said.lines().find(|line| line.contains("error"));
                let first = first.or(said.lines().next()).map(str::to_owned);
                refused(format!("{} does not compile the kernels", self.program), first)
            }
            Err(error) => {
                refused(format!("{} cannot be run", self.program), Some(error.to_string()))
            }
        }
    }
}

/// The first line that a compiler says about itself.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = said.lines().next().map(str::trim).filter(|line| !line.is_empty());
    first.filter(|_| output.status.success()).map(str::to_owned)
}
