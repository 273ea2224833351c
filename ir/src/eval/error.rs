//! Errors of the interpreter: coded, with place and help.

use crate::diag::Diagnostic;
use crate::graph::Func;
use crate::types::TensorType;

/// Why a run stopped: a code from E1040 to E1046, with the place `@func` or `@func: %name = op`.
pub type EvalError = Box<Diagnostic>;

/// `error` at a place; the first one given, which is the innermost, stays.
pub(super) fn placed(mut error: EvalError, place: impl FnOnce() -> String) -> EvalError {
    error.place.get_or_insert_with(place);
    error
}

pub(super) fn fault(code: &'static str, message: String, help: &str) -> EvalError {
    Box::new(Diagnostic::error(code, message).help(help))
}

fn in_func(func: &Func, error: EvalError) -> EvalError {
    placed(error, || format!("@{}", func.name))
}

pub(super) fn unknown_function(name: &str, meant: Option<&str>) -> EvalError {
    let otherwise = || "name a function of the module".to_owned();
    let help = meant.map_or_else(otherwise, |meant| format!("did you mean `{meant}`?"));
    fault("E1040", format!("there is no function @{name} in the module"), &help)
}

pub(super) fn bad_index(name: &str) -> EvalError {
    let message = format!("`{name}` does not name a function with index values");
    fault("E1040", message, "write whole numbers between angle brackets: `block<3>`")
}

pub(super) fn index_count(func: &Func, given: usize) -> EvalError {
    let wanted = func.index_params.len();
    let message = format!("@{} has {wanted} index parameters, {given} values given", func.name);
    let list = func.index_params.join(",");
    let help = match wanted {
        0 => format!("run it as `{}`", func.name),
        _ => format!("run it as `{}<{list}>` with numbers for the names", func.name),
    };
    fault("E1040", message, &help)
}

pub(super) fn missing(func: &Func, name: &str, ty: &TensorType) -> EvalError {
    let error = fault(
        "E1041",
        format!("input %{name} of type {ty} is missing"),
        "give one tensor for every parameter",
    );
    in_func(func, error)
}

pub(super) fn surplus(func: &Func, name: &str, meant: Option<&str>) -> EvalError {
    let params: Vec<&str> = func.param_types().map(|(name, _)| name).collect();
    let otherwise = || format!("its parameters are: {}", params.join(", "));
    let help = meant.map_or_else(otherwise, |meant| format!("did you mean `{meant}`?"));
    in_func(func, fault("E1041", format!("input {name} is not a parameter"), &help))
}

pub(super) fn wrong_input(
    func: &Func,
    name: &str,
    expected: &TensorType,
    given: &TensorType,
) -> EvalError {
    let error = fault(
        "E1042",
        format!("input %{name} is {given}, expected {expected}"),
        "shapes must match exactly; convert the element type with `Tensor::cast`",
    );
    in_func(func, error)
}

pub(super) fn weight(name: &str, message: &str) -> EvalError {
    fault(
        "E1043",
        format!("weight \"{name}\": {message}"),
        "the weights must hold every tensor of the module's manifest in its type",
    )
}

pub(super) fn outside_table(index: f64, rows: usize) -> EvalError {
    fault(
        "E1044",
        format!("gather of row {index} from a table of {rows} rows"),
        "indices count from 0; check token ids and segment numbers against the table",
    )
}

pub(super) fn too_large(what: &str, most: usize) -> EvalError {
    fault(
        "E1045",
        format!("{what} spans more than {most} elements"),
        "the interpreter is for small shapes; run the module on a backend",
    )
}

pub(super) fn too_deep(most: usize) -> EvalError {
    fault(
        "E1045",
        format!("calls and loops are nested more than {most} deep"),
        "the interpreter is for modules of ordinary depth",
    )
}

pub(super) fn broken(what: &str) -> EvalError {
    fault("E1046", format!("the module is malformed: {what}"), "run the verifier on it")
}
