//! `provenance`: the key of this installation.

use super::state_folder;
use crate::output;
use crate::render::{self, Failure};
use anyid_runtime::Error;
use anyid_runtime::safeguards::statement;
use clap::{Args, Subcommand};
use std::time::SystemTime;

/// The verbs of `provenance`.
#[derive(Debug, Subcommand)]
pub enum ProvenanceVerb {
    /// Make a key that signs every result of this installation: `--signer local`.
    Init(Init),
}

/// Flags of `provenance init`.
#[derive(Debug, Args)]
pub struct Init {
    /// What its certificate says, for everybody who looks at a result.
    #[arg(long, value_name = "TEXT", default_value = "an installation of anyid-rt")]
    pub name: String,
}

/// Runs the verb.
///
/// # Errors
/// E1016 there is a key already, E1107 and E101x it cannot be made.
pub fn run(verb: ProvenanceVerb) -> Result<(), Failure> {
    let ProvenanceVerb::Init(args) = verb;
    let state = state_folder().ok_or_else(|| {
        Error::input("E1107", "nothing says where the key of this installation belongs")
            .help("set HOME or XDG_STATE_HOME")
    })?;
    let [certificates, key] = statement::init(&state, &args.name, SystemTime::now())?;
    render::warn(
        "LOCAL USE ONLY: no authority vouches for this key, and programs that check results say so",
    );
    output::print(&format!(
        "wrote {} and {}\nsign with it: --signer local\ncheck with it: anyid-rt verify FILE --trust {}\n",
        certificates.display(),
        key.display(),
        certificates.display()
    ))?;
    Ok(())
}
