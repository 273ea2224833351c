//! `audit`: check, show and export the log of decisions.

use super::{SafeguardArgs, audit_log};
use crate::output::{self, plural};
use crate::render::Failure;
use anyid_runtime::files::{AtomicFile, Existing};
use anyid_runtime::safeguards::AuditLog;
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;

/// The verbs of `audit`.
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Check that no record was edited, removed or added.
    Verify(Verify),
    /// Show the newest records.
    Show(ShowLog),
    /// Write all records to one file.
    Export(Export),
}

/// Which log.
#[derive(Debug, Args)]
pub struct WhichLog {
    /// The log [default: that of the policy, or the state folder's].
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Flags of `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub log: WhichLog,
    /// The public key (ed25519:…) by which each hundredth record has to be signed.
    #[arg(long, value_name = "KEY")]
    pub signer: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `audit show`.
#[derive(Debug, Args)]
pub struct ShowLog {
    #[command(flatten)]
    pub log: WhichLog,
    /// How many records.
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    pub number: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `audit export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub log: WhichLog,
    /// The file to write, one record a line.
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: PathBuf,
}

impl AuditVerb {
    /// Whether JSON is wanted.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Verify(args) => args.json,
            Self::Show(args) => args.json,
            Self::Export(_) => false,
        }
    }
}

impl WhichLog {
    fn open(&self) -> Result<AuditLog> {
        let named = match &self.file {
            Some(path) => Some(path.clone()),
            None => SafeguardArgs::default().policy()?.audit_file.or_else(audit_log),
        };
        named.map(AuditLog::new).ok_or_else(|| {
            Error::input("E0911", "nothing says where the audit log is").help("give it: --file")
        })
    }
}

/// Runs the verb.
///
/// # Errors
/// E1108 for a log that was changed, E0911 for one that cannot be read, E101x for the export.
pub fn run(verb: AuditVerb) -> std::result::Result<(), Failure> {
    match verb {
        AuditVerb::Verify(args) => {
            let found = args.log.open()?.expecting(args.signer).verify()?;
            let files: Vec<String> = found.files.iter().map(|f| f.display().to_string()).collect();
            match args.json {
                true => output::print_json(&json!({
                    "records": found.records, "head": found.head, "files": files,
                    "signed": found.signed, "signers": found.signers,
                }))?,
                false => {
                    let signed = match found.signed {
                        0 => String::new(),
                        last => format!(
                            "; those up to {last} are signed by {}",
                            found.signers.join(", ")
                        ),
                    };
                    output::print(&format!(
                        "{} in order, in {}{signed}; the last hash is {}\n",
                        plural(found.records as usize, "record"),
                        files.join(", "),
                        found.head
                    ))?;
                }
            }
        }
        AuditVerb::Show(args) => {
            let mut newest: VecDeque<Value> = VecDeque::new();
            args.log.open()?.read(&mut |record| {
                newest.push_back(record.clone());
                if newest.len() > args.number {
                    newest.pop_front();
                }
                Ok(())
            })?;
            match args.json {
                true => output::print_json(&json!({ "records": newest }))?,
                false => {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let row = |record: &Value| {
                        let names = ["at", "event", "decision", "code", "watermark_id"];
                        let mut row = vec![record["seq"].to_string()];
                        row.extend(names.iter().map(|name| text(&record[*name])));
                        row
                    };
                    output::print(&output::table(&newest.iter().map(row).collect::<Vec<_>>()))?;
                }
            }
        }
        AuditVerb::Export(args) => {
            let mut file = AtomicFile::create_as(&args.output, Existing::Keep)?;
            let found = args
                .log
                .open()?
                .read(&mut |record| file.append(format!("{record}\n").as_bytes()))?;
            let path = file.commit()?;
            let count = plural(found.records as usize, "record");
            output::report(&format!("wrote {}: {count}\n", path.display()), &path)?;
        }
    }
    Ok(())
}
