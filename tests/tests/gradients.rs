//! Derivatives against differences of the function itself, in doubles: every op of the table, and the
//! networks.

use anyid_ir::WeightSource;
use anyid_ir::{
    BinaryFn, DType, Evaluator, FuncBuilder, Mode, Module, ReduceFn, Tensor, TensorType, UnaryFn,
};
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::loss::with_loss as with_objective;
use anyid_models::wan::reconstruction::{Latents, reconstruction};
use anyid_models::wan::slots::slots;
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_passes::driver::{Selection, drive};
use anyid_passes::pipeline::Phase;
use anyid_passes::{Asked, CompileError, CompileRequest, Gradient};
use anyid_tests::op_cases::{Built, Random, cases, seed_of};
use anyid_tests::plans::Stored;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// How far a derivative may be from the difference, relative to the largest of its parts.
const TOLERANCE: f64 = 1e-6;

/// `module` with a function `loss` of all that `f` takes, and of a factor for each element of its
/// floating-point results: the sum of the products.
fn with_loss(mut module: Module) -> Option<Module> {
    let func = module.func("f")?.clone();
    let floats: Vec<usize> =
        (0..func.results.len()).filter(|at| func.results[*at].dtype.is_float()).collect();
    if floats.is_empty() {
        return None;
    }
    let mut b = FuncBuilder::new(&module, "loss");
    let mut args = Vec::new();
    for (name, ty) in func.param_types() {
        args.push(b.param(name, ty.clone()));
    }
    let factors: Vec<_> = floats
        .iter()
        .map(|at| {
            let ty = TensorType::new(DType::F64, func.results[*at].shape.clone());
            b.param(&format!("factor{at}"), ty)
        })
        .collect();
    let made = b.call("y", "f", &[], &args);
    let mut loss = b.scalar("nothing", DType::F64, 0.0);
    for (at, factor) in floats.into_iter().zip(factors) {
        let wide = b.cast("wide", made[at], DType::F64);
        let product = b.binary("product", BinaryFn::Mul, wide, factor);
        let axes: Vec<usize> = (0..func.results[at].rank()).collect();
        let sum = match axes.is_empty() {
            true => product,
            false => b.reduce("sum", ReduceFn::Sum, product, &axes, false),
        };
        loss = b.add("loss", loss, sum);
    }
    let loss = b.rename(loss, "loss");
    let func = b.finish(&[loss]);
    module.add(func);
    Some(module)
}

/// Function `name` of `module` at a random point, with the integers that it takes.
fn network(name: &str, mut module: Module, integers: &[(&str, Tensor)]) -> Built {
    let func = module.func(name).expect("it was named").clone();
    let mut b = FuncBuilder::new(&module, "f");
    let args: Vec<_> = func.param_types().map(|(name, ty)| b.param(name, ty.clone())).collect();
    let made = b.call("y", name, &[], &args);
    let f = b.finish(&made);
    module.add(f);
    let mut random = Random(seed_of(name));
    // Weights that keep the size of what goes through them, as in a network at its beginning.
    let mut tensor = |ty: &TensorType| {
        let inner = ty.elements() / ty.shape.first().map_or(1, |rows| (*rows).max(1));
        let scale = if ty.rank() > 1 { (3.0 / inner as f64).sqrt() } else { 0.5 };
        let values: Vec<f64> =
            (0..ty.elements()).map(|_| scale * (random.unit() * 2.0 - 1.0)).collect();
        Tensor::from_f64s(ty.with_dtype(DType::F64), &values).expect("one value an element")
    };
    let mut inputs: Vec<(String, Tensor)> =
        module.weights.tensors().map(|(name, ty)| (name.to_owned(), tensor(ty))).collect();
    inputs.extend(integers.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())));
    Built { module, inputs, weights: Stored::default() }
}

/// The straight-line module of `loss` with its gradient by every floating-point input and weight, and
/// the names of these.
fn differentiated(module: &Module) -> Result<(Module, Vec<String>), CompileError> {
    let gradient = Gradient { of: "loss".into(), wrt: vec!["*".into()] };
    let request = CompileRequest::new(module, "loss").with_gradient(gradient);
    let lifted = request.clone().lifting(["*"]);
    let drive = |request| drive(request, &Selection::To(Phase::Optimised), &mut |_, _| ());
    let out = match drive(&lifted) {
        // It reads no weight.
        Err(error) if error.asked == Some(Asked::Lifted) => drive(&request)?,
        other => other?,
    };
    let straight = out.state.straight();
    let floats = straight.main().unwrap().param_types().filter(|(_, ty)| ty.dtype.is_float());
    let wrt = floats.map(|(name, _)| name.to_owned()).collect();
    Ok((straight, wrt))
}

/// The values of all results in doubles: the loss, then the gradients.
fn evaluate(module: &Module, inputs: &[(String, Tensor)]) -> Vec<Vec<f64>> {
    let evaluator = Evaluator::new(module, Mode::F64);
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let name = module.main().unwrap().name.clone();
    let made = evaluator.run_named(&name, &given, &(), None).unwrap();
    made.into_iter().map(|(_, tensor)| tensor.to_f64_vec()).collect()
}

/// Compares the gradient with the difference along a random direction. `None` where the function is
/// not finite there.
fn check(name: &str, built: Built) -> Result<Option<()>, CompileError> {
    let Built { module, inputs, weights } = built;
    let Some(module) = with_loss(module) else { return Ok(None) };
    let (straight, wrt) = differentiated(&module)?;
    let mut random = Random(seed_of(name));
    let mut point: Vec<(String, Tensor)> = Vec::new();
    let mut direction: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (param, ty) in straight.main().unwrap().param_types() {
        let given = inputs.iter().find(|(own, _)| own == param).map(|(_, tensor)| tensor.clone());
        let tensor = given
            .or_else(|| weights.weight(param, ty).ok().map(Cow::into_owned))
            .unwrap_or_else(|| {
                let values: Vec<f64> =
                    (0..ty.elements()).map(|_| random.unit() * 2.0 - 1.0).collect();
                Tensor::from_f64s(ty.clone(), &values).unwrap()
            });
        let tensor = if ty.dtype.is_float() { tensor.cast(DType::F64) } else { tensor };
        if ty.dtype.is_float() {
            let values = (0..ty.elements()).map(|_| random.unit() * 2.0 - 1.0).collect();
            direction.insert(param.to_owned(), values);
        }
        point.push((param.to_owned(), tensor));
    }
    let at = |step: f64| -> Vec<(String, Tensor)> {
        let moved = |(name, tensor): &(String, Tensor)| match direction.get(name) {
            None => (name.clone(), tensor.clone()),
            Some(way) => {
                let values = tensor.to_f64_vec();
                let values: Vec<f64> = values.iter().zip(way).map(|(x, u)| x + step * u).collect();
                (name.clone(), Tensor::from_f64s(tensor.ty().clone(), &values).unwrap())
            }
        };
        point.iter().map(moved).collect()
    };
    let here = evaluate(&straight, &at(0.0));
    let (mut along, mut size) = (0.0, 1.0f64);
    for (param, gradient) in wrt.iter().zip(&here[1..]) {
        for (g, u) in gradient.iter().zip(&direction[param]) {
            along += g * u;
            size = size.max((g * u).abs());
        }
    }
    // A small step for functions that bend much, as a norm of nearly nothing does.
    let mut least = f64::INFINITY;
    for step in [1e-5, 1e-6, 1e-7] {
        let [above, below] = [step, -step].map(|step| evaluate(&straight, &at(step))[0][0]);
        if !(above.is_finite() && below.is_finite()) {
            return Ok(None);
        }
        let difference = (above - below) / (2.0 * step);
        least = least.min((along - difference).abs() / size.max(difference.abs()));
        if least <= TOLERANCE {
            return Ok(Some(()));
        }
    }
    panic!("{name}: the gradient differs by {least:e}");
}

#[test]
fn every_op_has_the_derivative_that_differences_show() {
    let mut checked: BTreeMap<String, usize> = BTreeMap::new();
    let mut all: BTreeSet<String> = BTreeSet::new();
    for case in cases() {
        let op = case.name.split(' ').next().unwrap().to_owned();
        all.insert(op.clone());
        for dtype in case.dtypes.iter().filter(|dtype| matches!(dtype, DType::F32 | DType::F64)) {
            match check(&format!("{} {dtype}", case.name), (case.build)(*dtype)) {
                Ok(Some(())) => *checked.entry(op.clone()).or_default() += 1,
                Ok(None) => {}
                // There is nothing to differentiate by.
                Err(error) if error.code == "E0521" => {}
                Err(error) => assert_eq!((error.code, op.as_str()), ("E0522", "floor"), "{error}"),
            }
        }
    }
    // What has no floating-point operand, or is no op of a straight line.
    let without = ["const", "iota", "relative_bucket", "floor", "eq", "lt", "le", "gt", "ge"];
    let missing =
        all.iter().filter(|op| !checked.contains_key(*op) && !without.contains(&op.as_str()));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "{checked:?}");
}

fn integers(values: impl IntoIterator<Item = i32>) -> Tensor {
    let values: Vec<i32> = values.into_iter().collect();
    Tensor::from_i32([values.len()], &values).expect("one value an element")
}

fn small() -> DitSize {
    DitSize { reference_frames: 1, frames: 1, height: 4, width: 4, text_tokens: 3, timesteps: 2 }
}

/// `module` with a function `first` of the loss alone: what is measured beside it is no part of it.
fn only_first(mut module: Module) -> Module {
    let losses = module.func("losses").expect("an objective has losses").clone();
    let mut b = FuncBuilder::new(&module, "first");
    let given: Vec<_> = losses.param_types().map(|(name, ty)| b.param(name, ty.clone())).collect();
    let made = b.call("loss", "losses", &[], &given)[0];
    let func = b.finish(&[made]);
    module.add(func);
    module
}

/// All networks, by every weight and every input.
#[test]
fn networks_have_the_derivatives_that_differences_show() {
    let (config, size) = (DitConfig { layers: 1, ..DitConfig::micro() }, small());
    let tokens = size.tokens_per_frame(&config) as i32;
    let segments = integers((0..2 * tokens).map(|row| i32::from(row >= tokens)));
    let transformer = dit(&config, &size, Precision::F32);
    let text_config = TextConfig { layers: 1, ..TextConfig::micro() };
    let encoder = text(&text_config, 4, Precision::F32);
    let autoencoder = VaeConfig::micro();
    let picture = VaeSize { height: 16, width: 16, chunk: 1 };
    let clip = |half, module| vae::whole_clip(&autoencoder, &picture, half, module, 5);
    let pixels = clip(Half::Encoder, vae::encoder(&autoencoder, &picture));
    let latents = clip(Half::Decoder, vae::decoder(&autoencoder, &picture, true));
    let part = Latents { noise: 0.05, penalty: 0.01 };
    let objective = reconstruction(&autoencoder, &picture, 5, 1, part);
    let pictures = reconstruction(&autoencoder, &picture, 1, 2, part);
    let labelled = only_first(slots(&text_config, 3, 2, &[3, 2]));
    // Between whole numbers, which they are rounded to.
    let ids = Tensor::from_f32([2, 3], &[3.5, 1.5, 7.5, 2.5, 1.5, 0.5]).expect("six values");
    let networks = [
        ("losses", objective, vec![]),
        ("losses", pictures, vec![]),
        ("first", labelled, vec![("ids", ids)]),
        ("dit", transformer, vec![("seg", segments)]),
        ("text", encoder, vec![("ids", integers([3, 1, 7, 2]))]),
        ("encode", pixels, vec![]),
        ("decode", latents, vec![]),
    ];
    for (name, module, integers) in networks {
        let checked = check(name, network(name, module, &integers)).expect("it has a derivative");
        assert_eq!(checked, Some(()), "{name}");
    }
}

/// A preference as one graph: the errors of both clips, less those of the reference, and the loss of
/// their difference.
fn preference(config: &DitConfig, size: &DitSize, beta: f64) -> Module {
    let mut module = with_objective(dit(config, size, Precision::F32));
    let error = module.func("loss").expect("the objective").clone();
    let mut b = FuncBuilder::new(&module, "preference");
    let own = ["lat", "target"];
    let number = TensorType::new(DType::F32, []);
    let mut common = BTreeMap::new();
    let mut errors = Vec::new();
    for clip in ["chosen", "rejected"] {
        let mut args = Vec::new();
        for (name, ty) in error.param_types() {
            args.push(match own.contains(&name) {
                true => b.param(&format!("{clip}.{name}"), ty.clone()),
                false => {
                    *common.entry(name.to_owned()).or_insert_with(|| b.param(name, ty.clone()))
                }
            });
        }
        let error = b.call("error", "loss", &[], &args)[0];
        let reference = b.param(&format!("{clip}.reference"), number.clone());
        errors.push(b.binary("less", BinaryFn::Sub, error, reference));
    }
    let delta = b.binary("delta", BinaryFn::Sub, errors[0], errors[1]);
    let half = b.scalar("half", DType::F32, beta / 2.0);
    let x = b.mul("x", delta, half);
    let power = b.unary("power", UnaryFn::Exp, x);
    let one = b.scalar("one", DType::F32, 1.0);
    let sum = b.add("sum", power, one);
    let loss = b.unary("loss", UnaryFn::Log, sum);
    let func = b.finish(&[loss]);
    module.add(func);
    module
}

/// The output `of` of a function and its derivative by the weights of the blocks, at `point`.
fn derivative(
    module: &Module,
    func: &str,
    of: &str,
    point: &BTreeMap<String, Tensor>,
) -> (f64, Vec<(String, Vec<f64>)>) {
    let wrt = vec!["blocks.*".to_owned()];
    let gradient = Gradient { of: of.to_owned(), wrt: wrt.clone() };
    let request = CompileRequest::new(module, func).lifting(["*"]).with_gradient(gradient);
    let out = drive(&request, &Selection::To(Phase::Optimised), &mut |_, _| ());
    let straight = out.expect("it has a derivative").state.straight();
    let main = straight.main().expect("the function");
    let given: Vec<(&str, &Tensor)> =
        main.param_types().map(|(name, _)| (name, &point[name])).collect();
    let evaluator = Evaluator::new(&straight, Mode::F64);
    let mut made = evaluator.run_named(&main.name, &given, &(), None).expect("it runs").into_iter();
    let value = made.next().expect("the output").1.to_f64_vec()[0];
    (value, made.map(|(name, tensor)| (name.to_string(), tensor.to_f64_vec())).collect())
}

/// The joint graph against differences, and against c · (∇e⁺ − ∇e⁻) of the supervised graph run twice
/// (anyid.md §4.6).
#[test]
fn both_ways_to_the_derivative_of_a_preference_agree() {
    let (config, size) = (DitConfig { layers: 1, ..DitConfig::micro() }, small());
    let beta = 3.0;
    let tokens = size.tokens_per_frame(&config) as i32;
    let segments = integers((0..2 * tokens).map(|row| i32::from(row >= tokens)));
    let module = preference(&config, &size, beta);
    let built = network("preference", module.clone(), &[("seg", segments)]);
    let mut point: BTreeMap<String, Tensor> = built.inputs.iter().cloned().collect();
    let mut random = Random(11);
    for (name, ty) in module.func("preference").expect("it was made").param_types() {
        point.entry(name.to_owned()).or_insert_with(|| {
            let values: Vec<f64> = (0..ty.elements()).map(|_| random.unit() * 2.0 - 1.0).collect();
            Tensor::from_f64s(ty.with_dtype(DType::F64), &values).expect("one value an element")
        });
    }
    let (loss, joint) = derivative(&module, "preference", "loss", &point);
    let sides = ["chosen", "rejected"].map(|clip| {
        let mut own = point.clone();
        for name in ["lat", "target"] {
            own.insert(name.to_owned(), point[&format!("{clip}.{name}")].clone());
        }
        let (error, gradient) = derivative(&module, "loss", "loss", &own);
        (error - point[&format!("{clip}.reference")].to_f64_vec()[0], gradient)
    });
    let x = beta / 2.0 * (sides[0].0 - sides[1].0);
    let c = beta / 2.0 / (1.0 + (-x).exp());
    assert!((loss - x.exp().ln_1p()).abs() < 1e-12, "{loss}");
    let mut largest = 0.0f64;
    for ((name, joint), (plus, minus)) in joint.iter().zip(sides[0].1.iter().zip(&sides[1].1)) {
        let size = joint.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
        for (own, (plus, minus)) in joint.iter().zip(plus.1.iter().zip(&minus.1)) {
            assert!((own - c * (plus - minus)).abs() <= 1e-9 * size, "{name}: {own}");
        }
        largest = largest.max(size);
    }
    assert!(joint.len() > 20 && largest > 1e-2, "{} {largest}", joint.len());
    assert_eq!(check("preference", built).expect("it has a derivative"), Some(()));
}
/// A product back reads its weight in the form that the product itself reads.
#[test]
fn frozen_weights_are_in_memory_once() {
    let device = anyid_tests::devices::open("cpu", 1);
    for dtype in [DType::F32, DType::Bf16] {
        let mut module = Module::default();
        module.weights.add("w", TensorType::new(dtype, [96, 80])).unwrap();
        let mut b = FuncBuilder::new(&module, "loss");
        let x = b.param("x", TensorType::new(dtype, [40, 80]));
        let y = b.linear("y", x, "w", None, DType::F32);
        let square = b.mul("square", y, y);
        let loss = b.reduce("loss", ReduceFn::Sum, square, &[0, 1], false);
        let func = b.finish(&[loss]);
        module.add(func);
        let options = anyid_passes::Options {
            target: device.about().target.clone(),
            ..anyid_passes::Options::default()
        };
        let forward = CompileRequest::new(&module, "loss").with(&options);
        let gradient = Gradient { of: "loss".into(), wrt: vec!["x".into()] };
        let back = forward.clone().with_gradient(gradient);
        let [forward, back] = [forward, back].map(|request| request.plan().unwrap());
        assert!(back.steps.len() > forward.steps.len());
        assert_eq!(device.weight_bytes(&[&back]), device.weight_bytes(&[&forward]), "{dtype}");
    }
}
