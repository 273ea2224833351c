//! Runs the passes of the [pipeline](crate::pipeline): which ones, how far, checked, timed, watched.
//!
//! A pass that is left out runs without being allowed any rewrite; what brings a program to the
//! next level happens all the same. After a pass the rules of its level are checked where that was
//! asked for, and in any case at the end of a phase and in builds with debug assertions.

use crate::pipeline::{Pass, Phase};
use crate::rewrite::{Refusal, Rewrite, Rewrites};
use crate::state::{Compilation, Context, Level};
use crate::{Asked, CompileError, CompileRequest, Options};
use std::time::{Duration, Instant};

/// Which passes run.
#[derive(Clone, Debug)]
pub enum Selection {
    /// All of them.
    All,
    /// Those of the phases up to and with this one.
    To(Phase),
    /// These, in this order, and before each what its level requires.
    Named(Vec<String>),
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct Record {
    /// The pass.
    pub pass: &'static str,
    /// How long it took, its check not counted.
    pub time: Duration,
    /// Rewrites it made.
    pub rewrites: u64,
    /// Steps, groups or kernels afterwards.
    pub size: usize,
}

/// The outcome of a run.
pub struct Outcome<'m> {
    /// What is left, at the level of the last pass.
    pub state: Compilation<'m>,
    /// Every pass that ran, in order.
    pub records: Vec<Record>,
    /// Every rewrite that was made, in order.
    pub rewrites: Vec<Rewrite>,
    /// Sharing of memory that was not made, where reasons were asked for.
    pub refused: Vec<Refusal>,
}

/// Called with each pass that ran and what it left.
pub type Observer<'w> = &'w mut dyn FnMut(&Pass, &Compilation<'_>);

/// Runs the passes that `selection` names over the function that `request` asks for.
///
/// # Errors
/// E0501 to E0505, E0508 and E0509 where request or selection are at fault, E0507 (a broken
/// invariant) where the result of a pass does not verify, E1002 where it was told to stop.
pub fn drive<'m>(
    request: &CompileRequest<'m>,
    selection: &Selection,
    observe: Observer<'_>,
) -> Result<Outcome<'m>, CompileError> {
    let options = &request.options;
    for name in &options.without {
        crate::pipeline::find_optional(options.passes, name)?;
    }
    let passes = selected(options, selection, request.varying.is_some())?;
    let mut state = Compilation::new(request);
    let rewrites = Rewrites::new(options.stop_after).explaining(options.explain);
    let mut context = Context { request, rewrites };
    let mut records = Vec::with_capacity(passes.len());
    for (at, (pass, enabled)) in passes.iter().enumerate() {
        if options.stopped() {
            return Err(CompileError::stopped());
        }
        let before = context.rewrites.done();
        context.rewrites.begin(pass.name, *enabled);
        let begun = Instant::now();
        (pass.run)(&mut state, &mut context)?;
        let time = begun.elapsed();
        let rewrites = context.rewrites.done() - before;
        records.push(Record { pass: pass.name, time, rewrites, size: state.size() });
        let ends = passes.get(at + 1).is_none_or(|(next, _)| next.phase != pass.phase);
        // Before the check, so that what breaks a rule can be looked at.
        observe(pass, &state);
        // Plans were checked when they were assembled.
        let due = ends && state.level() < Level::Plan;
        if options.verify_each || cfg!(debug_assertions) || due {
            state.verify().map_err(|why| {
                let number = context.rewrites.done();
                let message = format!("after pass {} (rewrite {number}): {why}", pass.name);
                CompileError::new("E0507", message).at(format!("@{}", request.func))
            })?;
        }
    }
    let (rewrites, refused) = context.rewrites.into_record();
    Ok(Outcome { state, records, rewrites, refused })
}

/// An observer that does nothing.
pub fn unobserved(_: &Pass, _: &Compilation<'_>) {}

/// A pass that will run, and whether it may rewrite.
type Chosen = (&'static Pass, bool);

fn selected(
    options: &Options,
    selection: &Selection,
    split: bool,
) -> Result<Vec<Chosen>, CompileError> {
    let table = options.passes;
    let on = |pass: &'static Pass| (pass, options.runs(pass.name));
    let names = match selection {
        Selection::All => return Ok(table.iter().map(on).collect()),
        Selection::To(phase) => {
            return Ok(table.iter().filter(|pass| pass.phase <= *phase).map(on).collect());
        }
        Selection::Named(names) => names,
    };
    let mut chosen: Vec<Chosen> = Vec::new();
    // Positions of the table up to here have run or are left out.
    let mut reached = 0;
    for (number, name) in names.iter().enumerate() {
        let pass = crate::pipeline::find(table, name)?;
        let at = table.iter().position(|other| other.name == *name).expect("it was found");
        if name == "hoist" && !split {
            let message = "hoist needs to know which inputs change per step";
            let error = CompileError::new("E0503", message).about(Asked::Varying);
            return Err(error.help("name them with --vary"));
        }
        if at < reached {
            if !pass.optional {
                continue;
            }
            // Passes over programs run in any order and any number of times.
            let beyond = chosen.iter().find(|(other, _)| !other.keeps_programs());
            if let Some((first, _)) = beyond {
                let on = pass.level.name();
                let earlier = &names[..number];
                if earlier.contains(name) && first.name == name {
                    let message = format!("{name} is named twice");
                    let error = CompileError::new("E0504", message).about(Asked::Passes);
                    return Err(error.help("name it once"));
                }
                // What ended it may have run because a pass that was named needs it.
                let before = if first.name == name { &*earlier[0] } else { first.name };
                let message = format!("{name} works on {on}, which {} ends", first.name);
                let error = CompileError::new("E0504", message).about(Asked::Passes);
                return Err(error.help(format!("name {name} before {before}")));
            }
        }
        // What makes the level it works on runs first, without a rewrite unless it is named itself.
        let before = table.get(reached..at).unwrap_or_default();
        let needed = before.iter().filter(|other| !other.optional || other.makes_level);
        chosen.extend(needed.map(|other| (other, !other.optional)));
        chosen.push(on(pass));
        reached = reached.max(at + 1);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::{DType, FuncBuilder, Module, TensorType};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn names(selection: &[&str], split: bool) -> Result<Vec<String>, CompileError> {
        let named = Selection::Named(selection.iter().map(|n| (*n).to_owned()).collect());
        let chosen = selected(&Options::default(), &named, split)?;
        let shown = |(pass, on): Chosen| format!("{}{}", if on { "" } else { "-" }, pass.name);
        Ok(chosen.into_iter().map(shown).collect())
    }

    #[test]
    fn named_passes_bring_what_they_need() {
        let of = |list: &[&str]| names(list, false).unwrap().join(" ");
        assert_eq!(of(&["inline"]), "specialize inline");
        assert_eq!(of(&["dce", "cse", "dce"]), "specialize inline inject-lora dce cse dce");
        let asked = "specialize inline inject-lora lift grad remat decompose";
        assert_eq!(of(&["lower"]), format!("{asked} -fuse lower"));
        assert_eq!(of(&["fuse", "lower"]), format!("{asked} fuse lower"));
        assert_eq!(of(&["assemble"]), format!("{asked} -fuse lower -alias -pack assemble"));
        assert_eq!(of(&["inline", "inline"]), "specialize inline");
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        let code = |list: &[&str]| names(list, false).unwrap_err().code;
        assert_eq!(code(&["fuse", "cse"]), "E0504");
        assert_eq!(code(&["lower", "pack-linears"]), "E0504");
        assert_eq!(code(&["alias", "schedule"]), "E0504");
        assert_eq!(code(&["fuse", "fuse"]), "E0504");
        assert_eq!(code(&["fold", "fuze"]), "E0504");
        assert_eq!(code(&["hoist"]), "E0503");
        assert!(names(&["hoist", "cse"], true).is_ok());
    }

    fn module() -> Module {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let ty = TensorType::new(DType::F32, [4, 8]);
        let mut f = FuncBuilder::new(&module, "f");
        let (x, c) = (f.param("x", ty.clone()), f.param("c", ty));
        let fixed = f.add("fixed", c, c);
        let again = f.add("again", c, c);
        let flat = f.reshape("flat", again, [32]);
        let back = f.reshape("back", flat, [4, 8]);
        let y = f.add("y", x, back);
        let z = f.mul("z", y, fixed);
        let func = f.finish(&[z]);
        module.add(func);
        module
    }

    fn run(options: &Options, selection: &Selection) -> (String, Vec<Record>, u64) {
        let module = module();
        let request = CompileRequest::new(&module, "f").varying(["x"]).with(options);
        let out = drive(&request, selection, &mut unobserved).unwrap();
        (out.state.text(), out.records, out.rewrites.len() as u64)
    }

    #[test]
    fn every_level_has_its_text_and_is_checked() {
        let options = Options { verify_each: true, ..Options::default() };
        for (phase, part) in [
            (Phase::Bound, "func @f("),
            (Phase::Optimised, "func @prepare("),
            (Phase::Fused, "rows 1 x 32"),
            (Phase::Planned, "plan \"prepare\" {"),
        ] {
            let (text, records, _) = run(&options, &Selection::To(phase));
            let part = part.replace("rows 1 x 32", "rows 4 x 8");
            assert!(text.contains(&part), "{part}\n{text}");
            assert!(records.iter().all(|record| record.size > 0 || record.pass == "specialize"));
        }
    }

    #[test]
    fn each_pass_alone_can_be_left_out_and_then_rewrites_nothing() {
        let of = |records: &[Record], name: &str| {
            records.iter().find(|record| record.pass == name).map(|record| record.rewrites)
        };
        let (_, all, _) = run(&Options::default(), &Selection::All);
        for name in ["canonicalize", "cse", "hoist", "fuse", "pack"] {
            assert!(of(&all, name) > Some(0), "{name}: {all:?}");
        }
        for pass in crate::pipeline::PASSES.iter().filter(|pass| pass.optional) {
            let options = Options { verify_each: true, ..Options::default() }.off(pass.name);
            let (_, records, _) = run(&options, &Selection::All);
            assert_eq!(of(&records, pass.name), Some(0), "{pass:?}");
        }
        let module = module();
        let wrong = Options::default().off("lower");
        let error = CompileRequest::new(&module, "f").with(&wrong).plan().unwrap_err();
        assert_eq!(error.code, "E0504");
    }

    #[test]
    fn any_number_of_rewrites_leaves_a_sound_plan() {
        let (_, _, total) = run(&Options::default(), &Selection::All);
        assert!(total > 5, "{total}");
        for limit in 0..=total {
            let options =
                Options { verify_each: true, stop_after: Some(limit), ..Options::default() };
            let (_, _, done) = run(&options, &Selection::All);
            assert_eq!(done, limit);
        }
    }

    #[test]
    fn compiling_that_is_told_to_stop_ends_in_front_of_the_next_pass() {
        let stop = Arc::new(AtomicBool::new(false));
        let options = Options { stop: Some(stop.clone()), ..Options::default() };
        let module = module();
        let request = CompileRequest::new(&module, "f").with(&options);
        assert!(request.plan().is_ok());
        let mut seen = Vec::new();
        let outcome = drive(&request, &Selection::All, &mut |pass, _| {
            seen.push(pass.name);
            stop.store(pass.name == "canonicalize", Ordering::Relaxed);
        });
        let error = outcome.err().expect("it was stopped");
        assert!(error.is_stopped() && error.code == "E1002", "{error}");
        assert_eq!(seen.last(), Some(&"canonicalize"), "{seen:?}");
    }

    #[test]
    fn a_pass_that_breaks_a_rule_is_named() {
        fn broken(state: &mut Compilation<'_>, _: &mut Context<'_>) -> Result<(), CompileError> {
            state.parts[0].program.steps[0].operands[0] = 99;
            Ok(())
        }
        let mut table = crate::pipeline::PASSES.to_vec();
        let at = table.iter().position(|pass| pass.name == "canonicalize").unwrap();
        table[at].run = broken;
        let options = Options { passes: table.leak(), verify_each: true, ..Options::default() };
        let module = module();
        let error = CompileRequest::new(&module, "f").with(&options).plan().unwrap_err();
        assert_eq!(error.code, "E0507");
        assert!(error.message.contains("after pass canonicalize"), "{error}");
    }
}
