//! The switches of the compiler: which passes run, and what is dumped, timed and explained.
//!
//! `opt`, `compile` and `kernels` share this; each decides what to do with the result.

use crate::args::PassArgs;
use crate::output::{duration, table};
use anyid_ir::kernel::Target;
use anyid_ir::{Func, Module};
use anyid_passes::driver::{Outcome, Record, Selection, drive};
use anyid_passes::fuse::UnfusedEdge;
use anyid_passes::pipeline::{PASSES, find};
use anyid_passes::rewrite::{Refusal, Rewrite};
use anyid_passes::{Asked, CompileError, Gradient, Keeping, LoraTarget, Options};
use anyid_runtime::engine::{CompileRequest, Registry, StateSpec, Watched, compile_error};
use anyid_runtime::init::write_bytes;
use anyid_runtime::places::Places;
use anyid_runtime::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How to compile, as the switches say.
///
/// # Errors
/// E0506 for a target that does not exist.
fn options(switches: &PassArgs) -> Result<Options> {
    Ok(Options {
        without: switches.without.clone(),
        target: target(&switches.target)?,
        stop_after: switches.stop_after,
        verify_each: switches.verify_each,
        explain: switches.explain_fusion || switches.explain_memory || switches.explain,
        ..Options::default()
    })
}

/// The target called `name`.
///
/// # Errors
/// E0506, with those that there are.
pub fn target(name: &str) -> Result<Target> {
    let registry = Registry::default();
    registry.target(name).ok_or_else(|| {
        let known: Vec<&str> = registry.targets().map(|(_, target)| target.name).collect();
        Error::input("E0506", format!("there is no target \"{name}\""))
            .at("--target")
            .help(format!("the targets are {}", known.join(", ")))
    })
}

/// `func` with `states`, split where inputs that `vary` are named, as the switches say.
///
/// # Errors
/// E0506 for a target that does not exist.
pub fn request<'m>(
    module: &'m Module,
    func: &Func,
    vary: &[String],
    states: &[StateSpec],
    switches: &PassArgs,
) -> Result<CompileRequest<'m>> {
    let request = CompileRequest::new(module, &func.name)
        .carrying(states.iter().cloned())
        .branches(inputs(&switches.branches))
        .with_lora(adapters(&switches.inject_lora)?)
        .lifting(switches.lift.iter())
        .with(&options(switches)?);
    let request = match vary {
        [] => request,
        names => request.varying(inputs(names)),
    };
    let Some(of) = &switches.grad else { return Ok(request) };
    let of = of.trim_start_matches('%').to_owned();
    let wrt = inputs(&switches.wrt).into_iter().map(str::to_owned).collect();
    let request = request.with_gradient(Gradient { of, wrt });
    let Some(remat) = &switches.remat else { return Ok(request) };
    Ok(request.keeping(remat.parse::<Keeping>().map_err(placed)?))
}

/// Adapters from `NAME=RANK:ALPHA`.
fn adapters(wishes: &[String]) -> Result<Vec<LoraTarget>> {
    let one = |wish: &String| {
        let (pattern, form) = wish.rsplit_once('=')?;
        let (rank, alpha) = form.split_once(':')?;
        let (rank, alpha) = (rank.trim().parse().ok()?, alpha.trim().parse().ok()?);
        Some(LoraTarget { pattern: pattern.trim().to_owned(), rank, alpha })
    };
    let fault = |wish: &String| {
        Error::input("E0523", format!("\"{wish}\" names no adapter"))
            .at("--inject-lora")
            .help("write a name, a rank and alpha, such as blocks.*.ffn.0=16:16")
    };
    wishes.iter().map(|wish| one(wish).ok_or_else(|| fault(wish))).collect()
}

/// Names of inputs as they are in the module, with or without `%` on the command line.
pub fn inputs(names: &[String]) -> Vec<&str> {
    names.iter().map(|name| name.trim_start_matches('%')).collect()
}

/// Whether `name` asks for the text after `pass`; checks the name.
///
/// # Errors
/// E0504.
pub fn shown(name: Option<&str>) -> Result<impl Fn(&str) -> bool + '_> {
    if let Some(name) = name.filter(|name| *name != "all") {
        find(PASSES, name).map_err(|error| compile_error(error).at("--print-after"))?;
    }
    Ok(move |pass: &str| name.is_some_and(|name| name == "all" || name == pass))
}

/// The error at the flag by which its cause was asked for.
pub fn placed(error: CompileError) -> Error {
    let flag = error.asked.map(|asked| match asked {
        Asked::Varying => "--vary",
        Asked::Branches => "--branches",
        Asked::States => "--state",
        Asked::Phase => "--to",
        Asked::Passes => "--passes",
        Asked::Without => "--without",
        Asked::Lora => "--inject-lora",
        Asked::Lifted => "--lift",
        Asked::Gradient => "--grad",
        Asked::Remat => "--remat",
    });
    let error = compile_error(error);
    match flag {
        Some(flag) => error.at(flag),
        None => error,
    }
}

/// Runs passes over what `request` asks for and dumps texts if that is requested. Also returned are
/// the name and the text of every pass for which `wanted` says yes. `places` are the files that the
/// verb reads and writes besides.
///
/// # Errors
/// E05xx of the passes, E0917 for the folder of `--dump-dir`, E095x and E101x for what is written
/// into it.
pub fn run<'m>(
    request: &CompileRequest<'m>,
    switches: &PassArgs,
    selection: &Selection,
    wanted: &dyn Fn(&str) -> bool,
    places: &Places,
) -> Result<(Outcome<'m>, Vec<(String, String)>)> {
    if let Some(folder) = &switches.dump_dir {
        make_folder(folder)?;
    }
    let (mut texts, mut dumps) = (Vec::new(), Vec::new());
    let mut number = 0;
    let outcome = drive(request, selection, &mut |pass, state| {
        let (dump, print) = (switches.dump_dir.is_some(), wanted(pass.name));
        if dump || print {
            let text = state.text();
            if dump {
                let name = format!("{number:02}-{}.{}", pass.name, state.extension());
                dumps.push((name, text.clone()));
            }
            if print {
                texts.push((pass.name.to_owned(), text));
            }
        }
        number += 1;
    });
    // This includes the texts before a pass that failed, which are the interesting ones then.
    if let Some(folder) = &switches.dump_dir {
        write_dumps(folder, &dumps, places)?;
    }
    Ok((outcome.map_err(placed)?, texts))
}

/// Writes the dumps, unless one of them would take the place of another file that the verb uses,
/// or of something that no dump could have been.
fn write_dumps(folder: &Path, dumps: &[(String, String)], places: &Places) -> Result<()> {
    let mut places = places.clone();
    for (name, _) in dumps {
        let path = folder.join(name);
        places.writes("--dump-dir", &path);
        let found = std::fs::symlink_metadata(&path);
        if found.is_ok_and(|found| !found.is_file()) {
            return Err(Error::input(
                "E1014",
                "a link, a folder or a pipe lies where a text would be dumped",
            )
            .at(path.display())
            .help("remove it, or name another folder"));
        }
    }
    places.check()?;
    for (name, text) in dumps {
        write_bytes(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The folder of one of several functions inside the folder for dumps.
///
/// # Errors
/// E0917 for a link, which could lead out of that folder.
pub fn inner_folder(folder: &Path, func: &Func) -> Result<PathBuf> {
    let dots = func.name.bytes().all(|byte| byte == b'.');
    // `.` and `..` are names of functions, but not of folders of their own.
    let name = if dots { func.name.replace('.', "%2e") } else { func.name.clone() };
    let inner = folder.join(name);
    match inner.is_symlink() {
        true => Err(Error::input("E0917", "a link lies where the folder of a function would be")
            .at(inner.display())
            .help("remove it, or name another folder")),
        false => Ok(inner),
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|fault| {
        Error::input("E0917", "the folder for dumps cannot be made")
            .at(folder.display())
            .help("give a folder that is there, or the name of a new one")
            .caused_by(fault)
    })
}

/// Whether a rewrite is the one at which `--stop-after` stopped the compiler.
fn reached(rewrite: &Rewrite, switches: &PassArgs) -> bool {
    switches.stop_after == Some(rewrite.number)
}

/// What `--time-passes`, `--explain-fusion`, `--explain-memory` and `--stop-after` add to a report.
pub fn report(watched: &[Watched], switches: &PassArgs) -> String {
    let mut out = String::new();
    for each in watched {
        if !switches.branches.is_empty() && !each.joins_branches() {
            out.push_str(&format!(
                "\nthe branches of @{} were not joined: its plans evaluate one at a time\n",
                each.func
            ));
        }
        if switches.time_passes {
            let head = ["pass", "rewrites", "size", "time"].map(str::to_owned).to_vec();
            let row = |record: &Record| {
                vec![
                    record.pass.to_owned(),
                    record.rewrites.to_string(),
                    record.size.to_string(),
                    duration(record.time),
                ]
            };
            let rows: Vec<Vec<String>> =
                std::iter::once(head).chain(each.records.iter().map(row)).collect();
            out.push_str(&format!("\npasses over @{}\n{}", each.func, table(&rows)));
        }
        if switches.explain_fusion {
            out.push_str(&format!("\nfused in @{}\n", each.func));
            for Rewrite { rule, label, with, .. } in each.fused() {
                match with {
                    Some(with) => out.push_str(&format!("  {with} + {label}: {rule}\n")),
                    None => out.push_str(&format!("  {label}: {rule}\n")),
                }
            }
            out.push_str(&format!("\nnot fused in @{}\n", each.func));
            for edge in &each.unfused {
                let UnfusedEdge { producer, consumer, reason } = edge;
                out.push_str(&format!("  {producer} -> {consumer}: {reason}\n"));
            }
            if each.unfused.is_empty() {
                out.push_str("  nothing: no value lies between two kernels\n");
            }
        }
        if switches.explain_memory {
            out.push_str(&format!("\nmemory shared in @{}\n", each.func));
            for Rewrite { rule, label, .. } in each.shared() {
                out.push_str(&format!("  {label}: {rule}\n"));
            }
            out.push_str(&format!("\nmemory not shared in @{}\n", each.func));
            for Refusal { label, with, reason } in &each.refused {
                out.push_str(&format!("  {label} over {with}: {reason}\n"));
            }
        }
        if let Some(last) = each.rewrites.last().filter(|last| reached(last, switches)) {
            let Rewrite { number, pass, rule, label, .. } = last;
            out.push_str(&format!("\nlast rewrite: {number}, {pass}: {rule}, {label}\n"));
        }
    }
    out
}

/// [`report`] as JSON.
pub fn report_json(watched: &[Watched], switches: &PassArgs, out: &mut Value) {
    let list: Vec<Value> = watched
        .iter()
        .map(|each| {
            let mut entry = json!({ "function": each.func });
            if !switches.branches.is_empty() {
                entry["branches_joined"] = each.joins_branches().into();
            }
            if switches.time_passes {
                let row = |r: &Record| {
                    let seconds = r.time.as_secs_f64();
                    json!({ "pass": r.pass, "rewrites": r.rewrites, "size": r.size, "seconds": seconds })
                };
                entry["passes"] = each.records.iter().map(row).collect();
            }
            if switches.explain_fusion {
                let row = |edge: &UnfusedEdge| {
                    let UnfusedEdge { producer, consumer, reason } = edge;
                    json!({ "producer": producer, "consumer": consumer, "reason": reason })
                };
                entry["not_fused"] = each.unfused.iter().map(row).collect();
                let row = |made: &Rewrite| {
                    let Rewrite { rule, label, with, .. } = made;
                    json!({ "consumer": label, "producer": with, "rule": rule })
                };
                entry["fused"] = each.fused().map(row).collect();
            }
            if switches.explain_memory {
                let row = |made: &Rewrite| json!({ "label": made.label, "rule": made.rule });
                entry["shared"] = each.shared().map(row).collect();
                let row = |refusal: &Refusal| {
                    let Refusal { label, with, reason } = refusal;
                    json!({ "label": label, "over": with, "reason": reason })
                };
                entry["not_shared"] = each.refused.iter().map(row).collect();
            }
            if let Some(last) = each.rewrites.last().filter(|last| reached(last, switches)) {
                let Rewrite { number, pass, rule, label, .. } = last;
                entry["last_rewrite"] =
                    json!({ "number": number, "pass": pass, "rule": rule, "label": label });
            }
            entry
        })
        .collect();
    let explained = switches.explain_fusion || switches.explain_memory;
    let asked = explained || switches.time_passes || !switches.branches.is_empty();
    if asked || switches.stop_after.is_some() {
        out["compiler"] = list.into();
    }
}
