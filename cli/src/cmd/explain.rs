//! `explain`: prints the page of an error code from `docs/errors/`, which is built into the
//! program.

use crate::output;
use crate::render::Failure;
use anyid_ir::spelling::nearest;
use anyid_runtime::{Error, Result};
use clap::Args;

#[derive(Debug, Args)]
pub struct Explain {
    /// The code, such as E0901.
    #[arg(value_name = "CODE", required_unless_present = "list")]
    pub code: Option<String>,
    /// List every code with its title.
    #[arg(long)]
    pub list: bool,
}

/// Code and page, in order; the build script lists the folder.
const PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// Runs the verb.
///
/// # Errors
/// E0916 for an unknown code.
pub fn run(args: Explain) -> std::result::Result<(), Failure> {
    if args.list {
        let lines: Vec<String> = PAGES.iter().map(|(_, page)| title(page)).collect();
        output::print(&format!("{}\n", lines.join("\n")))?;
        return Ok(());
    }
    let page = page(&args.code.unwrap_or_default())?;
    output::print(page)?;
    Ok(())
}

/// The first line of a page without the `#`: `E0901: An impossible size`.
fn title(page: &str) -> String {
    page.lines().next().unwrap_or_default().trim_start_matches(['#', ' ']).to_owned()
}

fn page(code: &str) -> Result<&'static str> {
    let wanted = code.trim().to_ascii_uppercase();
    let wanted = match wanted.parse::<u32>() {
        Ok(number) => format!("E{number:04}"),
        Err(_) => wanted,
    };
    if let Some((_, page)) = PAGES.iter().find(|(code, _)| *code == wanted) {
        return Ok(page);
    }
    let help = match nearest(&wanted, PAGES.iter().map(|(code, _)| *code)) {
        Some(meant) => format!("is it {meant}? `anyid-rt explain --list` shows all"),
        None => "`anyid-rt explain --list` shows all codes".to_owned(),
    };
    Err(Error::input("E0916", format!("there is no error code {code}")).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_title_example_and_advice() {
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
            assert!(page.contains("## Example") && page.contains("## What to do"), "{code}");
        }
    }

    #[test]
    fn codes_are_found_however_they_are_typed() {
        for text in ["E0901", "e0901", "0901", "901"] {
            assert!(page(text).unwrap().starts_with("# E0901"), "{text}");
        }
        assert_eq!(page("E9999").unwrap_err().code(), "E0916");
    }
}
