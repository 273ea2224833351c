//! Weights, functions and loops: what flattening makes of them.

use super::{Built, Fill, OpCase, PRODUCTS, Tolerance, tensor};
use crate::check::Stored;
use anyid_ir::{DType, FuncBuilder, IndexArg, Module, Tensor, TensorType};

pub(super) fn cases() -> Vec<OpCase> {
    vec![
        case("weight as a result", Tolerance::EXACT, weights),
        case("return of a parameter, twice", Tolerance::EXACT, parameters),
        case("call with an index", Tolerance::singles(1e-5), calls),
        case("repeat with carries and stacks", Tolerance::singles(1e-5), repeats),
        case("yield from nested loops", Tolerance::singles(1e-5), nested),
        case("repeat without iterations", Tolerance::EXACT, idle),
    ]
}

fn case(name: &str, tolerance: Tolerance, build: fn(DType) -> Built) -> OpCase {
    OpCase { name: name.to_owned(), build: Box::new(build), dtypes: PRODUCTS.to_vec(), tolerance }
}

/// A module with weights `layers.0` … `layers.3`, each `[5,5]` with a `[5]` bias.
fn module(dtype: DType) -> (Module, Stored) {
    let mut module = Module { name: "case".into(), ..Module::default() };
    module.weights.name = "case".into();
    let mut stored = Stored::default();
    for (suffix, ty) in
        [("weight", TensorType::new(dtype, [5, 5])), ("bias", TensorType::new(DType::F32, [5]))]
    {
        module.weights.add(&format!("layers.{{l:0..4}}.{suffix}"), ty.clone()).expect("new names");
        for layer in 0..4 {
            stored.insert(format!("layers.{layer}.{suffix}"), input(&ty, layer + 7));
        }
    }
    (module, stored)
}

fn input(ty: &TensorType, seed: u64) -> Tensor {
    tensor(ty.clone(), &Fill::Within(-1.0, 1.0), seed)
}

fn rows(dtype: DType) -> TensorType {
    TensorType::new(dtype, [3, 5])
}

fn built(module: Module, weights: Stored) -> Built {
    let main = module.main().expect("a function was added");
    let inputs = main
        .param_types()
        .enumerate()
        .map(|(at, (name, ty))| (name.to_owned(), input(ty, at as u64)))
        .collect();
    Built { module, inputs, weights }
}

fn weights(dtype: DType) -> Built {
    let (mut module, stored) = module(dtype);
    let mut f = FuncBuilder::new(&module, "f");
    let w = f.weight("layers.2.weight");
    let flat = f.reshape("flat", w, [25]);
    let sliced = f.slice("sliced", w, 0, 2, 2);
    let bias = f.weight("layers.3.bias");
    let func = f.finish(&[w, flat, sliced, bias]);
    module.add(func);
    built(module, stored)
}

fn parameters(dtype: DType) -> Built {
    let (mut module, stored) = module(dtype);
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", rows(dtype));
    let y = f.reshape("y", x, [15]);
    let z = f.slice("z", x, 0, 1, 2);
    let func = f.finish(&[x, y, x, z]);
    module.add(func);
    built(module, stored)
}

/// `tanh(x · Wᵀ + b)` of layer `l`.
fn add_layer(module: &mut Module, dtype: DType) {
    let mut f = FuncBuilder::new(module, "layer").indexed(&["l"], "layers.{l}");
    let x = f.param("x", rows(dtype));
    let y = f.linear("y", x, "weight", Some("bias"), dtype);
    let y = f.unary("t", anyid_ir::UnaryFn::Tanh, y);
    let func = f.finish(&[y, x]);
    module.add(func);
}

fn calls(dtype: DType) -> Built {
    let (mut module, stored) = module(dtype);
    add_layer(&mut module, dtype);
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", rows(dtype));
    let first = f.call("first", "layer", &[IndexArg::Int(3)], &[x]);
    let second = f.call("second", "layer", &[IndexArg::Int(0)], &[first[0]]);
    let same = f.call("same", "layer", &[IndexArg::Int(3)], &[x]);
    let y = f.add("y", second[0], same[1]);
    let func = f.finish(&[y, same[0]]);
    module.add(func);
    built(module, stored)
}

fn repeats(dtype: DType) -> Built {
    let (mut module, stored) = module(dtype);
    add_layer(&mut module, dtype);
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", rows(dtype));
    let stack = f.param("stack", TensorType::new(dtype, [3, 3, 5]));
    let out = f.repeat("xs", "l", 1..4, &[("a", x), ("b", x)], &[("s", stack)], |f, c, s| {
        let y = f.call("y", "layer", &[IndexArg::Name("l".into())], &[c[0]]);
        let bias = f.weight("layers.{l}.bias");
        let bias = f.cast("bias", bias, dtype);
        let shifted = f.add("shifted", y[0], bias);
        let sum = f.add("sum", shifted, s[0]);
        // The carries change places.
        (vec![sum, c[0]], vec![shifted, c[1]])
    });
    let func = f.finish(&out);
    module.add(func);
    built(module, stored)
}

fn nested(dtype: DType) -> Built {
    let (mut module, stored) = module(dtype);
    add_layer(&mut module, dtype);
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", rows(dtype));
    let out = f.repeat("outer", "i", 0..2, &[("x", x)], &[], |f, c, _| {
        let inner = f.repeat("inner", "j", 1..3, &[("x", c[0])], &[], |f, c, _| {
            let i = f.call("i", "layer", &[IndexArg::Name("i".into())], &[c[0]]);
            let j = f.call("j", "layer", &[IndexArg::Name("j".into())], &[i[0]]);
            (vec![j[0]], vec![i[0]])
        });
        (vec![inner[0]], vec![inner[1]])
    });
    let func = f.finish(&out);
    module.add(func);
    built(module, stored)
}

fn idle(dtype: DType) -> Built {
    let (mut module, stored) = module(dtype);
    let mut f = FuncBuilder::new(&module, "f");
    let x = f.param("x", rows(dtype));
    let out = f.repeat("none", "l", 2..2, &[("x", x)], &[], |f, c, _| {
        (vec![f.add("twice", c[0], c[0])], Vec::new())
    });
    let func = f.finish(&out);
    module.add(func);
    built(module, stored)
}
