//! A program as a module again: one straight-line function that prints, verifies and evaluates.

use crate::program::{Origin, Program, Role};
use anyid_ir::{FuncBuilder, Module, Op, TensorType, ValueId};
use std::borrow::Cow;

/// Adds `program` to `module`, whose manifest must hold its weights, as function `name`.
/// Persistent values become parameters `persistent.N` after the inputs.
pub fn add_function(module: &mut Module, program: &Program, name: &str) {
    let mut f = FuncBuilder::new(module, name);
    let mut values: Vec<Option<ValueId>> = vec![None; program.values.len()];
    for port in &program.inputs {
        values[port.value as usize] = Some(f.param(&port.title(), program.ty(port.value).clone()));
    }
    for (at, value) in program.values.iter().enumerate() {
        if let Origin::Persistent(index) = value.origin {
            values[at] = Some(f.param(&format!("persistent.{index}"), value.ty.clone()));
        }
    }
    for (at, value) in program.values.iter().enumerate() {
        if let Origin::Weight(index) = value.origin {
            let whole = f.weight(&program.weights[index as usize].name);
            // Another shape of a weight.
            let same = f.ty(whole) == &value.ty;
            let view = |f: &mut FuncBuilder<'_>| {
                f.op("view", Op::Reshape, &[whole], Some(value.ty.clone()))
            };
            values[at] = Some(if same { whole } else { view(&mut f) });
        }
    }
    for step in &program.steps {
        let operands: Vec<ValueId> = step
            .operands
            .iter()
            .map(|v| values[*v as usize].expect("operands come first"))
            .collect();
        let types: Vec<TensorType> = step.results.iter().map(|v| program.ty(*v).clone()).collect();
        let made = f.op_of(step.label(), step.op.clone(), &operands, &types);
        for ((value, label), result) in step.results.iter().zip(&step.labels).zip(made) {
            values[*value as usize] = Some(f.rename(result, label));
        }
    }
    let mut results = Vec::new();
    let mut named = vec![false; program.values.len()];
    for (at, port) in program.outputs.iter().enumerate() {
        let value = port.value as usize;
        let result = values[value].expect("outputs were made");
        let made = matches!(program.values[value].origin, Origin::Step(..));
        if made && !std::mem::replace(&mut named[value], true) {
            // As the phases call it that read it.
            let name = match port.role {
                Role::Kept => Cow::Owned(format!("persistent.{at}")),
                _ => port.title(),
            };
            f.rename(result, &name);
        }
        results.push(result);
    }
    let func = f.finish(&results);
    module.add(func);
}

/// A module that holds nothing but straight-line functions, with the manifest and dims of `from`.
pub fn empty(from: &Module) -> Module {
    let (name, dims, weights) = (from.name.clone(), from.dims.clone(), from.weights.clone());
    Module { name, dims, weights, funcs: Vec::new() }
}
