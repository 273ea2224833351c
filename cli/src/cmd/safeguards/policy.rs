//! `policy`: which safeguards are in force, and whether a policy is in order.

use super::SafeguardArgs;
use crate::output::{self, plural, table};
use crate::render::Failure;
use anyid_runtime::safeguards::policy::{Layer, Policy};
use anyid_runtime::safeguards::rules_of;
use anyid_runtime::safeguards::text::Finding;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The verbs of `policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Show which safeguards are in force, and who decided.
    Show(Show),
    /// Check a policy and its rules, and with --prompt what they say about a text.
    Check(CheckPolicy),
}

/// Flags of `policy show`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    pub safeguards: SafeguardArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `policy check`.
#[derive(Debug, Args)]
pub struct CheckPolicy {
    /// The policy [default: the one in force].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A text to try the rules on.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl PolicyVerb {
    /// Whether JSON is wanted.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Show(args) => args.json,
            Self::Check(args) => args.json,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Those of reading policies and rules.
pub fn run(verb: PolicyVerb) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Show(args) => {
            let policy = args.safeguards.policy()?;
            match args.json {
                true => output::print_json(&policy.to_json())?,
                false => output::print(&shown(&policy))?,
            }
        }
        PolicyVerb::Check(args) => check(&args)?,
    }
    Ok(())
}

fn shown(policy: &Policy) -> String {
    let value = policy.to_json();
    let text = |value: &Value| match value {
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows = value.as_object().into_iter().flatten();
    table(&rows.map(|(name, value)| vec![name.replace('_', " "), text(value)]).collect::<Vec<_>>())
}

fn check(args: &CheckPolicy) -> Result<(), Failure> {
    let policy = match &args.file {
        Some(path) => Policy::of(&[Layer::read(path)?])?,
        None => SafeguardArgs::default().policy()?,
    };
    let rules = rules_of(&policy)?;
    let verdict = args.prompt.as_ref().map(|text| rules.check(&[text], !policy.text_filter));
    if args.json {
        let finding = |finding: &Finding| {
            json!({
                "rule": finding.rule,
                "category": finding.category.name(),
                "action": finding.action.name(),
                "words": finding.words,
                "advice": finding.category.advice(),
            })
        };
        let value = json!({
            "rules": rules.rules().len(),
            "rules_sha256": rules.hash(),
            "locked": policy.locked.is_some(),
            "decision": verdict.as_ref().map(|verdict| verdict.decision()),
            "findings": verdict.map(|v| v.findings.iter().map(finding).collect::<Vec<_>>()),
        });
        output::print_json(&value)?;
        return Ok(());
    }
    let mut text = format!("in order, {}\n", plural(rules.rules().len(), "rule"));
    if let Some(verdict) = verdict {
        text.push_str(&format!("the text: {}\n", verdict.decision()));
        let row = |finding: &Finding| {
            let Finding { rule, category, action, words, .. } = finding;
            let cells = [action.name(), category.name(), rule.as_str(), words.as_str()];
            cells.map(str::to_owned).to_vec()
        };
        text.push_str(&table(&verdict.findings.iter().map(row).collect::<Vec<_>>()));
    }
    output::print(&text)?;
    Ok(())
}
