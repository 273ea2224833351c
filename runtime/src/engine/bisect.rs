//! Which rewrite of the compiler changes a result: a binary search over their number.
//!
//! Rewrites are numbered over all passes, and a compiler stopped after any of them gives plans that
//! should still compute what the source says. So, if all rewrites together change a result, some
//! first number of them does; it is found in about log₂ of their number of runs. That none of the
//! later ones repairs what an earlier one broke is assumed.

use super::compiler::compile_error;
use super::{Backend, Compiler, Inputs, PlanFile};
use crate::error::{Error, Result};
use anyid_backends::WeightProvider;
use anyid_ir::Tensor;
use anyid_passes::CompileRequest;
use anyid_passes::driver::{Selection, drive, unobserved};
use anyid_passes::rewrite::Rewrite;
use std::sync::Arc;

/// What is compiled and run again and again.
pub struct Case<'c> {
    /// What to compile, of a verified module; the limit of rewrites is set by the search.
    pub request: CompileRequest<'c>,
    /// The weights.
    pub weights: Arc<dyn WeightProvider + Send + Sync>,
    /// Inputs by name.
    pub inputs: &'c [(String, Tensor)],
    /// The right results by name.
    pub expected: &'c [(String, Tensor)],
    /// Largest difference allowed, relative to the largest value of a result.
    pub tolerance: f64,
}

/// How far results are from the right ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The result that is furthest off.
    pub result: String,
    /// Its largest difference over its largest value; infinite where NaN stands against a number.
    pub relative: f64,
}

/// The first rewrite that changes a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Culprit {
    /// The rewrite.
    pub rewrite: Rewrite,
    /// The difference with it.
    pub with: Difference,
    /// The difference without it.
    pub without: Difference,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Bisection {
    /// Rewrites that the compiler makes.
    pub rewrites: u64,
    /// How often the function was compiled and run.
    pub runs: usize,
    /// The difference with all of them.
    pub all: Difference,
    /// The difference with none, where that was looked at.
    pub none: Option<Difference>,
    /// The first that changes a result; `None` where none does, or where the results are off
    /// without any.
    pub culprit: Option<Culprit>,
}

struct Trial {
    difference: Difference,
    rewrites: u64,
    last: Option<Rewrite>,
}

/// Searches. `progress` is called with the number of each run.
///
/// # Errors
/// E05xx where the function cannot be compiled, E0301 for weights, E1005 and E1006 where it cannot
/// run.
pub fn bisect(
    backend: &Backend,
    case: &Case<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<Bisection> {
    let mut runs = 0;
    let mut trial = |limit: Option<u64>| {
        runs += 1;
        progress(runs);
        run(backend, case, limit)
    };
    let all = trial(None)?;
    let good = |trial: &Trial| trial.difference.relative <= case.tolerance;
    let rewrites = all.rewrites;
    let (mut none, mut culprit) = (None, None);
    if !good(&all) {
        let mut low = trial(Some(0))?;
        none = Some(low.difference.clone());
        if good(&low) && rewrites > 0 {
            let mut high = trial(Some(rewrites))?;
            // Good after `from` rewrites, wrong after `to`.
            let (mut from, mut to) = (0, rewrites);
            while to - from > 1 {
                let middle = from + (to - from) / 2;
                let at = trial(Some(middle))?;
                if good(&at) {
                    (from, low) = (middle, at);
                } else {
                    (to, high) = (middle, at);
                }
            }
            let rewrite = high.last.clone().ok_or_else(|| {
                Error::internal("E0507", "the compiler made fewer rewrites than it was allowed")
            })?;
            let (with, without) = (high.difference, low.difference);
            culprit = Some(Culprit { rewrite, with, without });
        }
    }
    Ok(Bisection { rewrites, runs, all: all.difference, none, culprit })
}

fn run(backend: &Backend, case: &Case<'_>, limit: Option<u64>) -> Result<Trial> {
    let mut request = case.request.clone();
    request.options.stop_after = limit;
    let outcome = drive(&request, &Selection::All, &mut unobserved).map_err(compile_error)?;
    let split = outcome.state.is_split();
    let plans = outcome.state.parts.into_iter().filter_map(|part| part.plan).collect();
    let file = PlanFile::new(backend.target(), plans)?;
    let mut program =
        Compiler::new(backend).phases_of(file).load(case.weights.clone(), &mut |_, _| true)?;
    let inputs = Inputs::new().all(case.inputs.iter().map(|(name, t)| (name.as_str(), t)));
    let outputs = if split {
        let mut prepared = program.prepare(&inputs)?;
        let mut outputs = program.outputs("step")?;
        program.step(&mut prepared, &inputs, &mut outputs)?;
        outputs
    } else {
        program.call(&request.func, &inputs)?
    };
    let mut worst = Difference { result: String::new(), relative: 0.0 };
    for ((name, given), (_, right)) in outputs.iter().zip(case.expected) {
        let relative = relative(given, right);
        if relative > worst.relative || worst.result.is_empty() {
            worst = Difference { result: name.into_owned(), relative };
        }
    }
    let (rewrites, last) = (outcome.rewrites.len() as u64, outcome.rewrites.last().cloned());
    Ok(Trial { difference: worst, rewrites, last })
}

/// Largest difference over the largest finite value of `right`; equal infinities and NaN are equal.
fn relative(given: &Tensor, right: &Tensor) -> f64 {
    let (mut largest, mut scale) = (0f64, 0f64);
    for (x, y) in given.to_f64_vec().into_iter().zip(right.to_f64_vec()) {
        if y.is_finite() {
            scale = scale.max(y.abs());
        }
        let apart = (x - y).abs();
        largest = largest.max(match x == y || (x.is_nan() && y.is_nan()) {
            true => 0.0,
            false if apart.is_nan() => f64::INFINITY,
            false => apart,
        });
    }
    if largest == 0.0 { 0.0 } else { largest / scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::ModelWeights;
    use anyid_ir::{DType, Evaluator, FuncBuilder, Mode, Module, Op, TensorType};
    use anyid_passes::CompileError;
    use anyid_passes::Options;
    use anyid_passes::pipeline::{PASSES, Pass};
    use anyid_passes::state::Compilation;
    use anyid_passes::state::Context;

    /// A rewrite that nobody should make: GELU for SiLU.
    fn wrong(
        state: &mut Compilation<'_>,
        context: &mut Context<'_>,
    ) -> std::result::Result<(), CompileError> {
        for part in &mut state.parts {
            for step in &mut part.program.steps {
                if step.op == Op::Silu && context.rewrites.allow("silu becomes gelu", step.label())
                {
                    step.op = Op::Gelu;
                }
            }
        }
        Ok(())
    }

    fn module() -> Module {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "main");
        let ty = TensorType::new(DType::F32, [3, 8]);
        let (x, c) = (f.param("x", ty.clone()), f.param("c", ty));
        let flat = f.reshape("flat", c, [24]);
        let back = f.reshape("back", flat, [3, 8]);
        let early = f.op("early", Op::Silu, &[back], None);
        let sum = f.add("sum", x, early);
        let late = f.op("late", Op::Silu, &[sum], None);
        let func = f.finish(&[late]);
        module.add(func);
        module
    }

    fn searched(
        table: &'static [Pass],
        varying: Option<&[&str]>,
        tolerance: f64,
        off: Option<f32>,
    ) -> Bisection {
        let module = module();
        let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
        let tensor = Tensor::from_f32([3, 8], &values).unwrap();
        let inputs = [("x".to_owned(), tensor.clone()), ("c".to_owned(), tensor)];
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut expected =
            Evaluator::new(&module, Mode::F32).run_named("main", &given, &(), None).unwrap();
        if let Some(off) = off {
            expected[0].1.as_f32_mut().unwrap()[5] += off;
        }
        let set = crate::checkpoint::WeightSet::from_checkpoints(Vec::new()).unwrap();
        let mut request = CompileRequest::new(&module, "main")
            .with(&Options { passes: table, ..Options::default() });
        request.varying = varying.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        let case = Case {
            request,
            weights: Arc::new(ModelWeights::as_named(set)),
            inputs: &inputs,
            expected: &expected,
            tolerance,
        };
        let backend = Backend::open("cpu", 1).unwrap();
        let mut seen = 0;
        let found = bisect(&backend, &case, &mut |run| seen = run).unwrap();
        assert_eq!(found.runs, seen);
        found
    }

    fn sabotaged() -> &'static [Pass] {
        let mut table = PASSES.to_vec();
        let at = table.iter().position(|pass| pass.name == "fold").unwrap();
        table.insert(at, Pass { name: "sabotage", run: wrong, ..table[at] });
        table.leak()
    }

    #[test]
    fn a_wrong_rewrite_is_found_and_named() {
        for varying in [None, Some(&["x"][..])] {
            let found = searched(sabotaged(), varying, 1e-4, None);
            let culprit = found.culprit.expect("it is there");
            assert_eq!(culprit.rewrite.pass, "sabotage");
            assert_eq!(culprit.rewrite.rule, "silu becomes gelu");
            assert_eq!(culprit.rewrite.label, "main/early");
            assert!(culprit.with.relative > 1e-2 && culprit.without.relative < 1e-5);
            assert_eq!(culprit.with.result, "late");
            assert!(found.rewrites > 5 && found.none.is_some());
            assert!(found.runs < 12, "{} runs for {}", found.runs, found.rewrites);
        }
    }

    #[test]
    fn without_a_wrong_rewrite_nothing_is_found() {
        let found = searched(PASSES, None, 1e-4, None);
        assert_eq!((found.culprit, found.none, found.runs), (None, None, 1));
        let tolerant = searched(sabotaged(), None, 10.0, None);
        assert_eq!(tolerant.culprit, None);
    }

    #[test]
    fn a_result_that_is_off_without_any_rewrite_is_told_apart() {
        let found = searched(PASSES, None, 1e-4, Some(0.5));
        assert_eq!(found.culprit, None);
        assert!(found.none.unwrap().relative > 0.1 && found.all.relative > 0.1);
    }

    #[test]
    fn differences_are_relative_and_mind_special_numbers() {
        let tensor = |values: &[f32]| Tensor::from_f32([values.len()], values).unwrap();
        assert_eq!(relative(&tensor(&[1.5, -4.0]), &tensor(&[1.0, -4.0])), 0.125);
        let special = tensor(&[f32::NAN, f32::INFINITY, 1.0]);
        assert_eq!(relative(&special, &special), 0.0);
        assert!(relative(&tensor(&[f32::NAN]), &tensor(&[1.0])).is_infinite());
        assert!(relative(&tensor(&[1.0]), &tensor(&[0.0])).is_infinite());
    }
}
