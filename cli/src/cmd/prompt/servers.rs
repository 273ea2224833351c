//! What of `prompt` asks servers: descriptions, comparisons, and the estimate of what they would cost.

use super::{Ask, CacheName, Calibrate, Parse};
use crate::output;
use anyid_runtime::study::prompt::cache::Mode;
use anyid_runtime::study::prompt::calibrate;
use anyid_runtime::study::prompt::elements::Elements;
use anyid_runtime::study::prompt::profile::Profile;
use anyid_runtime::study::prompt::server::client::Server;
use anyid_runtime::study::prompt::server::compare::{compare, compare_estimate, scores};
use anyid_runtime::study::prompt::server::exact;
use anyid_runtime::study::prompt::server::sort::sort;
use anyid_runtime::study::prompt::server::{Told, allowed, describe, describe_estimate, media};
use anyid_runtime::study::settings::Settings;
use anyid_runtime::{Error, Result};
use serde_json::json;
use std::path::Path;

/// The server of `prompt.compare`, which keeps its answers in a folder of results, if there is one.
fn comparing(config: &Path, out: Option<&Path>) -> Result<(Settings, Server)> {
    let settings = Settings::open(config)?;
    let profile = profile(config, &settings, settings.prompt.compare.as_deref(), "prompt.compare")?;
    let mode = if out.is_some() { Mode::ReadWrite } else { Mode::Off };
    let cache = out.unwrap_or(Path::new("")).join("cache");
    let variable = |name: &str| std::env::var(name).ok();
    Ok((settings, Server::open(&profile, &cache, mode, false, None, &variable)?))
}

/// Has a server compare the pairs of a calibration.
pub fn compared(
    args: &Calibrate,
    config: &Path,
    pairs: &[calibrate::Pair],
) -> Result<Vec<[Option<f64>; 7]>> {
    let (settings, server) = comparing(config, args.out.as_deref())?;
    let texts: Vec<_> = pairs.iter().map(|pair| (&pair.reference, &pair.target)).collect();
    scores(&texts, &server, &settings.prompt)
}

/// Has a server sort the sentences of a prompt.
pub fn sorted(args: &Parse, config: &Path) -> Result<Elements> {
    sort(&comparing(config, args.out.as_deref())?.1, &args.text)
}

/// The server that settings name.
pub fn profile(
    config: &Path,
    settings: &Settings,
    name: Option<&str>,
    key: &str,
) -> Result<Profile> {
    let profile = name.and_then(|name| settings.llm.get(name).cloned());
    profile.ok_or_else(|| {
        Error::input("E1201", format!("{key} names no server"))
            .at(config.display())
            .help("add [llm.NAME] with base_url and model, and the name to [prompt]")
    })
}

/// What is done with answers that are kept. Without a call no key is needed.
fn mode(args: &Ask) -> Mode {
    match args.cache {
        _ if args.dry_run => Mode::ReadOnly,
        CacheName::Rw => Mode::ReadWrite,
        CacheName::Ro => Mode::ReadOnly,
        CacheName::Off => Mode::Off,
    }
}

/// The server of a stage.
fn server(args: &Ask, settings: &Settings, describes: bool) -> Result<Server> {
    let (name, key) = match describes {
        true => (settings.prompt.describe.as_deref(), "prompt.describe"),
        false => (settings.prompt.compare.as_deref(), "prompt.compare"),
    };
    let profile = profile(&args.config, settings, name, key)?;
    let variable = |name: &str| std::env::var(name).ok();
    let (cache, most) = (args.out.join("cache"), args.max_cost);
    Server::open(&profile, &cache, mode(args), args.insecure_http, most, &variable)
}

/// Has servers describe the primaries of samples as they are cut out, and compare.
pub fn exactly(args: &Ask) -> Result<()> {
    let settings = Settings::open(&args.config)?;
    let (describing, comparing) = (server(args, &settings, true)?, server(args, &settings, false)?);
    let job = crate::cmd::data::in_folder(&args.out, &args.input, settings);
    if mode(args) != Mode::ReadOnly {
        let pictures = exact::pictures(&job, describing.profile())?;
        allowed(&args.out, &describing, pictures, args.yes)?;
    }
    let told = exact::exact(&job, &describing, &comparing)?;
    say(args, &told, "train.jsonl")
}

/// Has a server describe or compare.
pub fn asked(args: &Ask, describes: bool) -> Result<()> {
    let settings = Settings::open(&args.config)?;
    let server = server(args, &settings, describes)?;
    let job = crate::cmd::data::in_folder(&args.out, &args.input, settings);
    if args.dry_run {
        let found = match describes {
            true => describe_estimate(&job, &server)?,
            false => compare_estimate(&job, &server)?,
        };
        if args.json {
            return output::print_json(&json!(found));
        }
        let money = found.money.map_or("unknown price".to_owned(), |money| format!("{money:.4}"));
        return output::print(&format!(
            "at most {} requests, {} pictures, about {:.0} tokens in and {:.0} out, {money}\n",
            found.requests, found.pictures, found.tokens_in, found.tokens_out
        ));
    }
    let (told, file) = match describes {
        true => {
            if mode(args) != Mode::ReadOnly {
                let clips = job.clips_read()?;
                let kept = clips.iter().filter(|clip| clip.keep);
                let pictures = kept.map(|clip| media::pictures(clip, server.profile())).sum();
                allowed(&args.out, &server, pictures, args.yes)?;
            }
            (describe(&job, &server)?, "desc.jsonl")
        }
        false => (compare(&job, &server)?, "pairs.jsonl"),
    };
    say(args, &told, file)
}

/// Prints what came of asking, and where it is.
fn say(args: &Ask, told: &Told, file: &str) -> Result<()> {
    let path = args.out.join(file);
    if args.json {
        return output::print_json(&json!({"told": told, "file": path.display().to_string()}));
    }
    let costs = &told.costs;
    if let Some(agreement) = told.agreement {
        output::note(&format!("several pairs at once agree with single ones by {agreement:.3}"));
    }
    let money = costs.money.map_or("unknown price".to_owned(), |money| format!("{money:.4}"));
    output::print(&format!(
        "{} lines, {} refused, {} without a sound answer; {} calls, {} answers kept, {} tokens in, {} \
         out, {money}: {}\n",
        told.lines,
        told.refused,
        told.failed,
        costs.calls,
        costs.hits,
        costs.tokens_in,
        costs.tokens_out,
        path.display()
    ))
}
