//! `man`: manual pages of the program and of every verb, made from the declarations of the flags.

use crate::args::Cli;
use crate::output;
use crate::render::Failure;
use anyid_runtime::files::{AtomicFolder, Existing};
use clap::{Args, CommandFactory};
use clap_mangen::Man as Page;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "man reads a page without installing it:\n  anyid-rt man | man -l -")]
pub struct Man {
    /// Write all pages into this folder, which is created [default: print that of the program].
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// E101x where the folder cannot be written.
pub fn run(args: &Man) -> Result<(), Failure> {
    let mut program = Cli::command();
    program.build();
    let Some(path) = &args.output else {
        output::print(&text(&program))?;
        return Ok(());
    };
    let folder = AtomicFolder::create(path, Existing::Keep)?;
    let mut count = 0;
    let mut open = vec![&program];
    while let Some(command) = open.pop() {
        // Such as `anyid-rt-train-lora`: what belongs together is built so.
        let name = command.get_display_name().unwrap_or(command.get_name());
        folder.write(&format!("{name}.1"), text(command).as_bytes())?;
        count += 1;
        open.extend(command.get_subcommands().filter(|verb| verb.get_name() != "help"));
    }
    let path = folder.commit()?;
    output::print(&format!("wrote {count} pages to {}\n", path.display()))?;
    Ok(())
}

/// A page in the language of manuals.
fn text(command: &clap::Command) -> String {
    let mut out = Vec::new();
    let page = Page::new(command.clone()).source(concat!("anyid-rt ", env!("CARGO_PKG_VERSION")));
    page.render(&mut out).expect("memory takes what is written");
    String::from_utf8_lossy(&out).into_owned()
}
