//! Makes named tensors from files fit the parameters of a function.
//!
//! Few changes are allowed on purpose: an additional leading axis of size 1 is dropped,
//! floating-point types are converted into each other, and integers are converted to i32. Anything
//! else is an error.

use anyid_ir::spelling::nearest;
use anyid_ir::{DType, Func, Module, Op, Tensor, TensorType, ValueId};
use anyid_runtime::sampling::NoiseStream;
use anyid_runtime::weights::read_tensors;
use anyid_runtime::{Error, Result};
use std::path::Path;

/// Tensors with their names.
pub type Named = Vec<(String, Tensor)>;

/// Inputs of `func` from a file, in the order of its parameters, and the names in the file that are
/// not parameters.
///
/// # Errors
/// E03xx for the file, E1005 for a tensor that is missing or of another shape or type.
pub fn from_file(func: &Func, path: Option<&Path>) -> Result<(Named, Vec<String>)> {
    let ports: Vec<(String, TensorType)> =
        func.param_types().map(|(name, ty)| (name.to_owned(), ty.clone())).collect();
    from_ports(&ports, &format!("@{}", func.name), path)
}

/// [`from_file`] for inputs given by name and type, of what `owner` names.
///
/// # Errors
/// As [`from_file`].
pub fn from_ports(
    ports: &[(String, TensorType)],
    owner: &str,
    path: Option<&Path>,
) -> Result<(Named, Vec<String>)> {
    let mut given: Vec<(String, Option<Tensor>)> = match path {
        Some(path) => read_tensors(path)?.into_iter().map(|(name, t)| (name, Some(t))).collect(),
        None => Vec::new(),
    };
    let place = path.map_or_else(|| "no --inputs given".to_owned(), |p| p.display().to_string());
    let names: Vec<String> = given.iter().map(|(name, _)| name.clone()).collect();
    let mut inputs = Vec::new();
    for (number, (name, ty)) in ports.iter().enumerate() {
        let Some(at) = given.iter().position(|(n, _)| n == name) else {
            let help = match nearest(name, names.iter().map(String::as_str)) {
                Some(meant) => format!("is it the tensor \"{meant}\"? name it \"{name}\""),
                None if names.is_empty() => "give a safetensors file with --inputs".to_owned(),
                None => format!("the file has {}", shown(&names)),
            };
            let what = format!("input %{name}: {ty} of {owner} is missing");
            return Err(Error::input("E1005", what).at(place).help(help));
        };
        // Two phases may read one input: only the last of them takes it.
        let again = ports[number + 1..].iter().any(|(other, _)| other == name);
        let tensor = if again { given[at].1.clone() } else { given[at].1.take() };
        let tensor = tensor.expect("it is there until its last reader takes it");
        inputs.push((name.to_owned(), fit(name, tensor, ty).map_err(|e| e.at(&place))?));
    }
    let read = |name: &String| ports.iter().any(|(port, _)| port == name);
    let unused = names.into_iter().filter(|name| !read(name)).collect();
    Ok((inputs, unused))
}

/// The first ten names.
pub fn shown(names: &[String]) -> String {
    let ten: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
    let dots = if names.len() > 10 { ", …" } else { "" };
    format!("{}{dots}", ten.join(", "))
}

/// `tensor` converted to `wanted`, if the rules at the head of this file allow it.
///
/// # Errors
/// E1005 otherwise.
pub fn fit(name: &str, tensor: Tensor, wanted: &TensorType) -> Result<Tensor> {
    let bad = |tensor: &Tensor, help: &str| {
        Error::input("E1005", format!("input %{name} is {}, expected {wanted}", tensor.ty()))
            .help(help)
    };
    let batch = tensor.shape().first() == Some(&1) && tensor.shape()[1..] == wanted.shape[..];
    let tensor = match batch {
        true => {
            let shape = wanted.shape.iter().copied();
            tensor.reshaped(shape).map_err(|e| Error::internal("E1009", e.to_string()))?
        }
        false if tensor.shape() == &wanted.shape[..] => tensor,
        false => return Err(bad(&tensor, "only an additional leading axis of size 1 is dropped")),
    };
    let (have, want) = (tensor.dtype(), wanted.dtype);
    let convertible = have.is_float() && want.is_float() || have == DType::U8 && want == DType::I32;
    match () {
        () if have == want => Ok(tensor),
        () if convertible => Ok(tensor.cast(want)),
        () => Err(bad(&tensor, "only floats to floats and integers to i32 are converted")),
    }
}

/// Inputs of `func` from the file at `path`, or random ones.
///
/// # Errors
/// As [`from_file`].
pub fn given(module: &Module, func: &Func, path: Option<&Path>, seed: u64) -> Result<Named> {
    match path {
        Some(path) => Ok(from_file(func, Some(path))?.0),
        None => Ok(random(module, func, seed)),
    }
}

/// A largest relative difference.
///
/// # Errors
/// E0918 for anything but a number that is at least 0.
pub fn tolerance(value: f64) -> Result<f64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Error::input("E0918", format!("{value} is not a tolerance"))
        .at("--tolerance")
        .help("give a number from 0, such as 1e-4"))
}

/// Random inputs for `func`: normally distributed floats, integers that index every table they are
/// used on.
pub fn random(module: &Module, func: &Func, seed: u64) -> Named {
    let mut inputs = Vec::new();
    for (at, value) in func.params().iter().enumerate() {
        let ty = func.ty(*value);
        let mut noise = vec![0f32; ty.elements()];
        NoiseStream::new(seed, 1000 + at as u32).fill(0, &mut noise);
        let rows = rows(module, func, *value, 0).unwrap_or(2) as f64;
        let values: Vec<f64> = noise
            .iter()
            .map(|v| match ty.dtype {
                DType::I32 => (f64::from(*v).abs() * 1e6) % rows.max(1.0),
                DType::U8 => f64::from(*v).abs() * 64.0,
                DType::Bool => f64::from(u8::from(*v > 0.0)),
                _ => f64::from(*v),
            })
            .collect();
        let tensor = Tensor::from_f64s(ty.clone(), &values).expect("one value an element");
        inputs.push((func.values[*value].name.clone(), tensor));
    }
    inputs
}

/// Fewest rows of the tables that `value` indexes in `func` and what it calls.
fn rows(module: &Module, func: &Func, value: ValueId, depth: usize) -> Option<usize> {
    let mut least: Option<usize> = None;
    let mut see = |rows: Option<usize>| {
        least = match (least, rows) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    };
    for id in func.walk() {
        let node = &func.nodes[id];
        for (at, operand) in node.operands.iter().enumerate().filter(|(_, o)| **o == value) {
            match &node.op {
                Op::Call { func: callee, .. } if depth < 64 => {
                    if let Some(callee) = module.func(callee) {
                        see(callee
                            .params()
                            .get(at)
                            .and_then(|p| rows(module, callee, *p, depth + 1)));
                    }
                }
                // The tables are all operands except the index and the rows that it belongs to.
                Op::Gather => see(func.ty(node.operands[0]).shape.first().copied()),
                Op::Modulate | Op::GateAdd if *operand == *node.operands.last()? => {
                    see(func.ty(node.operands[node.operands.len() - 2]).shape.first().copied());
                }
                _ => {}
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::FuncBuilder;

    #[test]
    fn batches_of_one_and_float_types_are_made_to_fit() {
        let tensor = || Tensor::from_f32([1, 2], &[1.0, 2.0]).unwrap();
        let wanted = TensorType::new(DType::Bf16, [2]);
        assert_eq!(fit("x", tensor(), &wanted).unwrap().ty(), &wanted);
        for wrong in [TensorType::new(DType::F32, [3]), TensorType::new(DType::I32, [2])] {
            assert_eq!(fit("x", tensor(), &wrong).unwrap_err().code(), "E1005");
        }
        let two = Tensor::from_f32([2, 2], &[0.0; 4]).unwrap();
        assert!(fit("x", two, &TensorType::new(DType::F32, [2])).is_err());
    }

    #[test]
    fn an_input_of_two_phases_is_given_to_both() {
        let name = format!("anyid-ports-{}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        let tensor = Tensor::from_f32([2], &[1.0, 2.0]).unwrap();
        let tensors = ["x", "y", "z"].map(|name| (name, &tensor));
        anyid_runtime::weights::write_tensors(&path, tensors, &Default::default()).unwrap();
        let ports = [("x", DType::F32), ("y", DType::F32), ("x", DType::Bf16)]
            .map(|(name, dtype)| (name.to_owned(), TensorType::new(dtype, [2])));
        let (inputs, unused) = from_ports(&ports, "the plan", Some(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        let given: Vec<_> = inputs.iter().map(|(n, t)| (n.clone(), t.ty().clone())).collect();
        assert_eq!((given.as_slice(), unused), (&ports[..], vec!["z".to_owned()]));
    }

    #[test]
    fn random_integers_stay_inside_the_tables() {
        let mut module = Module::default();
        let mut f = FuncBuilder::new(&module, "main");
        let table = f.param("table", TensorType::new(DType::F32, [3, 4]));
        let at = f.param("at", TensorType::new(DType::I32, [50]));
        let rows = f.op("rows", Op::Gather, &[table, at], None);
        let func = f.finish(&[rows]);
        module.add(func);
        let inputs = random(&module, module.main().unwrap(), 7);
        let at = inputs[1].1.as_i32().unwrap();
        assert!(at.iter().all(|i| (0..3).contains(i)) && at.contains(&2), "{at:?}");
    }
}
