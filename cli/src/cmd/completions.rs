//! `completions`: prints what a shell needs to complete verbs, flags and their values. It follows from
//! the declarations of the flags.

use crate::args::Cli;
use crate::output;
use crate::render::Failure;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "Write them where the shell looks:\n  anyid-rt completions bash > \
~/.local/share/bash-completion/completions/anyid-rt\n  anyid-rt completions zsh > a folder of \
$fpath, as _anyid-rt\n  anyid-rt completions fish > ~/.config/fish/completions/anyid-rt.fish")]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Runs the verb.
///
/// # Errors
/// E0951 where they cannot be printed.
pub fn run(args: &Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "anyid-rt", &mut text);
    let text = String::from_utf8_lossy(&text);
    output::print(&match args.shell {
        // The function goes to a label for each verb, and takes a `-` in a name for a step to a verb
        // below in the labels, but not where it goes there. Without that word both are the same.
        Shell::Bash => text.replace("__subcmd__", "__"),
        _ => text.into_owned(),
    })?;
    Ok(())
}
