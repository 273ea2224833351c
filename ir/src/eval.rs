//! The reference interpreter: what a module computes, slowly and plainly.
//!
//! Values are doubles. In [`Mode::F32`] the result of every primitive is rounded to its declared
//! element type, with dots and reductions accumulated in doubles and rounded once; in
//! [`Mode::F64`] floating-point results are not rounded at all. Composites run through their
//! decomposition, so there is one definition of each. It is for tests and for checking backends:
//! one thread, quadratic attention, no limit on time. Modules must have passed the verifier.

mod dot;
mod error;
mod frame;
mod kernels;
mod limits;
mod liveness;
mod source;
#[cfg(test)]
mod tests;
mod trace;
mod walk;

pub use error::EvalError;
pub use source::{WeightSource, WeightsFrom};
pub use trace::{TraceEvent, TracePath};

use crate::decompose::decomposed;
use crate::graph::{Func, Module};
use crate::op::Op;
use crate::spelling::nearest;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};
use frame::Interpreter;
use liveness::Drops;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How results of floating-point type are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rounded to the declared type after every primitive, as a device would store them.
    F32,
    /// Never rounded, whatever their type: f32, bf16 and f16 values are all doubles, the roundings
    /// inside `timestep_embedding` included. Integers and truth values stay exact. For gradient
    /// checks and error measurements. Inputs and weights may be given as f64 where the module says
    /// another floating-point type, and floating-point outputs come back as f64.
    F64,
}

impl Mode {
    /// The type in which a value declared `ty` leaves the interpreter.
    fn outside(self, ty: &TensorType) -> TensorType {
        let wide = self == Self::F64 && ty.dtype.is_float();
        if wide { ty.with_dtype(DType::F64) } else { ty.clone() }
    }

    /// Whether a tensor of type `given` may stand for a value declared `ty`.
    fn admits(self, ty: &TensorType, given: &TensorType) -> bool {
        given == ty || *given == self.outside(ty)
    }
}

/// Receives the values of a run; see [`TraceEvent`].
pub type Trace<'t> = &'t mut dyn FnMut(&TraceEvent<'_>);

/// Runs the functions of one module.
///
/// ```
/// use anyid_ir::{DType, Evaluator, FuncBuilder, Mode, Module, Tensor, TensorType};
///
/// let mut module = Module::default();
/// let mut f = FuncBuilder::new(&module, "main");
/// let x = f.param("x", TensorType::new(DType::F32, [2]));
/// let y = f.add("y", x, x);
/// let func = f.finish(&[y]);
/// module.add(func);
///
/// let x = Tensor::from_f32([2], &[1.0, 2.0]).unwrap();
/// let out = Evaluator::new(&module, Mode::F32).run("main", &[x], &(), None).unwrap();
/// assert_eq!(out[0].as_f32().unwrap(), [2.0, 4.0]);
/// ```
pub struct Evaluator<'m> {
    module: &'m Module,
    mode: Mode,
    by_name: HashMap<&'m str, usize>,
    drops: Vec<Drops>,
    /// Decompositions by op and types. The key is the printed form, which is exact for the
    /// numbers in an op.
    composites: Mutex<HashMap<String, Arc<Prepared>>>,
}

/// A function that is not part of the module, with its value lifetimes.
struct Prepared {
    func: Func,
    drops: Drops,
}

impl<'m> Evaluator<'m> {
    /// An interpreter of `module`.
    pub fn new(module: &'m Module, mode: Mode) -> Self {
        let mut by_name = HashMap::new();
        for (i, func) in module.funcs.iter().enumerate() {
            by_name.entry(func.name.as_str()).or_insert(i);
        }
        let drops = module.funcs.iter().map(Drops::new).collect();
        Self { module, mode, by_name, drops, composites: Mutex::default() }
    }

    /// Runs function `func` on one tensor a parameter, in order, and gives one tensor a result. A
    /// function with index parameters is named with their values: `block<3>`.
    ///
    /// `trace` is called with every named result as soon as it is known. Errors: E1040 unknown
    /// function or index values, E1041 missing or surplus input, E1042 input of another type,
    /// E1043 missing weight or one of another type, E1044 `gather` outside its table, E1045 larger
    /// or deeper than the interpreter takes, E1046 a module that the verifier would refuse.
    pub fn run(
        &self,
        func: &str,
        inputs: &[Tensor],
        weights: &dyn WeightSource,
        trace: Option<Trace<'_>>,
    ) -> Result<Vec<Tensor>, EvalError> {
        let (func, index) = self.entry(func)?;
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        self.run_entry(func, &index, &inputs, weights, trace)
    }

    /// As [`Self::run`], with inputs by parameter name in any order and outputs with the names of
    /// [`Func::result_names`].
    pub fn run_named(
        &self,
        func: &str,
        inputs: &[(&str, &Tensor)],
        weights: &dyn WeightSource,
        trace: Option<Trace<'_>>,
    ) -> Result<Vec<(String, Tensor)>, EvalError> {
        let (at, index) = self.entry(func)?;
        let func = &self.module.funcs[at];
        for (name, _) in inputs {
            if !func.param_types().any(|(param, _)| param == *name) {
                let meant = nearest(name, func.param_types().map(|(param, _)| param));
                return Err(error::surplus(func, name, meant));
            }
        }
        let mut ordered = Vec::new();
        for (name, ty) in func.param_types() {
            let given = inputs.iter().find(|(given, _)| *given == name);
            ordered.push(given.ok_or_else(|| error::missing(func, name, ty))?.1);
        }
        let outputs = self.run_entry(at, &index, &ordered, weights, trace)?;
        Ok(func.result_names().into_iter().zip(outputs).collect())
    }

    fn run_entry(
        &self,
        func: usize,
        index: &[u32],
        inputs: &[&Tensor],
        weights: &dyn WeightSource,
        trace: Option<Trace<'_>>,
    ) -> Result<Vec<Tensor>, EvalError> {
        let entry = &self.module.funcs[func];
        let params: Vec<(&str, &TensorType)> = entry.param_types().collect();
        if let Some((name, ty)) = params.get(inputs.len()) {
            return Err(error::missing(entry, name, ty));
        }
        if inputs.len() > params.len() {
            return Err(error::surplus(entry, &format!("number {}", inputs.len()), None));
        }
        for ((name, ty), input) in params.iter().zip(inputs) {
            if !self.mode.admits(ty, input.ty()) {
                return Err(error::wrong_input(entry, name, ty, input.ty()));
            }
        }
        let mut run = Interpreter::new(self, weights, trace);
        let values = run.entry(func, index, inputs)?;
        let results = entry.results.iter().zip(values);
        results.map(|(ty, data)| self.tensor(ty, &data)).collect()
    }

    /// Splits `name<1,2>` and finds the function.
    fn entry(&self, name: &str) -> Result<(usize, Vec<u32>), EvalError> {
        let (plain, index) = match name.split_once('<') {
            Some((plain, rest)) => {
                let list = rest.strip_suffix('>').unwrap_or(rest);
                let index: Result<Vec<u32>, _> =
                    list.split(',').map(|i| i.trim().parse::<u32>()).collect();
                (plain, index.map_err(|_| error::bad_index(name))?)
            }
            None => (name, Vec::new()),
        };
        let Some(at) = self.by_name.get(plain) else {
            let meant = nearest(plain, self.module.funcs.iter().map(|f| f.name.as_str()));
            return Err(error::unknown_function(plain, meant));
        };
        let func = &self.module.funcs[*at];
        if func.index_params.len() != index.len() {
            return Err(error::index_count(func, index.len()));
        }
        Ok((*at, index))
    }

    fn composite(
        &self,
        op: &Op,
        operands: &[&TensorType],
        results: &[TensorType],
    ) -> Arc<Prepared> {
        let key = format!("{op:?} {operands:?} {results:?}");
        let mut cache = self.composites.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let types: Vec<TensorType> = operands.iter().map(|ty| (*ty).clone()).collect();
            let func = decomposed(op, &types, results);
            let drops = Drops::new(&func);
            Arc::new(Prepared { func, drops })
        };
        cache.entry(key).or_insert_with(make).clone()
    }

    fn tensor(&self, ty: &TensorType, values: &[f64]) -> Result<Tensor, EvalError> {
        Tensor::from_f64s(self.mode.outside(ty), values).map_err(|e| error::broken(&e.to_string()))
    }
}
