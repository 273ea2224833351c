//! Whether what the passes of a case left computes what its source does.
//!
//! Programs are run by the interpreter, where every bit has to be the same. Then the same passes run
//! with what leads on to a plan, and the plan runs on a device in memory full of NaN; that is compared
//! within the rounding of its element types.

use crate::case::Case;
use anyid_ir::plan::title;
use anyid_ir::{DType, Evaluator, Mode, Module, Tensor, TensorType};
use anyid_passes::driver::{Selection, drive, unobserved};
use anyid_passes::state::Level;
use anyid_tests::close::difference;
use anyid_tests::devices;
use anyid_tests::op_cases::{noise, seed_of};
use anyid_tests::plans::{Named, Plans, Stored};

/// Nothing where both compute the same.
pub fn same(case: &Case, without: Option<&str>) -> Result<(), String> {
    if case.not_run.is_some() {
        return Ok(());
    }
    let module = &case.module;
    let func = module.main().expect("there is a function");
    let inputs: Named =
        func.param_types().map(|(name, ty)| (name.to_owned(), number(ty, name))).collect();
    let mut weights = Stored::default();
    for (name, ty) in module.weights.tensors() {
        weights.insert(name, noise(ty.clone(), seed_of(name)));
    }
    // Where two branches are one program, the second's inputs and outputs have other names.
    let second = |name: &str| title(name, 1).into_owned();
    let doubled: Named = func
        .param_types()
        .filter(|(name, _)| case.is_doubled(name))
        .map(|(name, ty)| (second(name), number(ty, &second(name))))
        .collect();
    let other: Named = inputs
        .iter()
        .map(|(name, tensor)| {
            let own = doubled.iter().find(|(twin, _)| *twin == second(name));
            (name.clone(), own.map_or(tensor, |(_, twin)| twin).clone())
        })
        .collect();
    let mut want = Named::new();
    let names = func.result_names();
    for (given, name) in [(&inputs, None), (&other, Some(second))] {
        let results = interpreted(module, &func.name, given, &weights)?;
        let names = names.iter().map(|own| name.map_or(own.clone(), |second| second(own)));
        want.extend(names.zip(results));
    }
    let wanted = |name: &str| {
        let found = want.iter().find(|(own, _)| own == name);
        found.map(|(_, tensor)| tensor).ok_or(format!("the source has no result %{name}"))
    };
    let inputs: Named = inputs.into_iter().chain(doubled).collect();
    let request = case.request(without);
    let run = |selection: &Selection| drive(&request, selection, &mut unobserved);
    let out = run(&case.selection()).map_err(|error| error.to_string())?;
    if out.state.level() == Level::Program {
        let straight = out.state.straight();
        let given = match out.state.is_split() {
            false => interpreted(&straight, &func.name, &inputs, &weights)?,
            true => {
                let kept = interpreted(&straight, "prepare", &inputs, &weights)?;
                let names = (0..kept.len()).map(|at| format!("persistent.{at}"));
                let all: Named = inputs.iter().cloned().chain(names.zip(kept)).collect();
                interpreted(&straight, "step", &all, &weights)?
            }
        };
        let names = out.state.parts.last().map_or(&[][..], |part| &part.program.outputs);
        if given.len() != names.len() || given.len() < names.len().min(func.results.len()) {
            return Err("what is left has other results".to_owned());
        }
        for (given, port) in given.iter().zip(names) {
            let name = port.title();
            if !equal(given, wanted(&name)?) {
                return Err(format!("what is left computes other bits of %{name}"));
            }
        }
    }
    if case.has_states() {
        return Ok(());
    }
    let rest = match case.selection() {
        Selection::Named(mut names) => {
            names.push("assemble".to_owned());
            Selection::Named(names)
        }
        _ => Selection::All,
    };
    let out = run(&rest).map_err(|error| error.to_string())?;
    let plans: Vec<_> = out.state.parts.iter().filter_map(|part| part.plan.as_ref()).collect();
    let device = devices::first(2);
    let mut running =
        Plans::new(&device, &plans, weights.shared(), 0xFF).map_err(|error| error.to_string())?;
    let mut given = Named::new();
    for at in 0..plans.len() {
        given = running.run(at, &inputs).map_err(|error| format!("{error:?}"))?;
    }
    for (name, given) in &given {
        let error = difference(given, wanted(name)?);
        let bound = match given.dtype() {
            DType::Bf16 | DType::F16 => 2e-2,
            _ => 2e-5,
        };
        if error > bound {
            return Err(format!("the plan gives another %{name}: {error:.1e} off"));
        }
    }
    Ok(())
}

/// Equal bits; which NaN it is may differ.
fn equal(a: &Tensor, b: &Tensor) -> bool {
    let number = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    let numbers = |tensor: &Tensor| tensor.to_f64_vec().into_iter().map(number).collect::<Vec<_>>();
    a.ty() == b.ty() && numbers(a) == numbers(b)
}

/// Random numbers; integers are rows 0 and 1 of some table.
fn number(ty: &TensorType, name: &str) -> Tensor {
    if ty.dtype.is_float() {
        return noise(ty.clone(), seed_of(name));
    }
    let values: Vec<f64> = (0..ty.elements()).map(|at| (at % 2) as f64).collect();
    Tensor::from_f64s(ty.clone(), &values).expect("one value an element")
}

fn interpreted(
    module: &Module,
    func: &str,
    inputs: &[(String, Tensor)],
    weights: &Stored,
) -> Result<Vec<Tensor>, String> {
    let func = module.func(func).ok_or("there is no such function")?;
    let given: Vec<Tensor> = func
        .param_types()
        .map(|(name, _)| {
            let found = inputs.iter().find(|(other, _)| other == name);
            found.map(|(_, tensor)| tensor.clone()).ok_or(format!("no input {name}"))
        })
        .collect::<Result<_, _>>()?;
    Evaluator::new(module, Mode::F32)
        .run(&func.name, &given, weights, None)
        .map_err(|error| error.to_string())
}
