//! Updates by Muon beside AdamW against the formula in f64, on every device.

use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::optimiser::{Extras, Group, Matrices, Numbers, Rates, update};
use anyid_runtime::engine::{CompileRequest, Compiler, Inputs, Program, StateSpec, States};
use anyid_tests::close::absolute;
use anyid_tests::devices;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Matrices row by row.
type Matrix = Vec<f64>;

/// a · b of `[rows, inner]` and `[inner, columns]`.
fn product(a: &[f64], b: &[f64], [rows, inner, columns]: [usize; 3]) -> Matrix {
    let mut out = vec![0.0; rows * columns];
    for row in 0..rows {
        for at in 0..inner {
            for column in 0..columns {
                out[row * columns + column] += a[row * inner + at] * b[at * columns + column];
            }
        }
    }
    out
}

fn transposed(a: &[f64], rows: usize, columns: usize) -> Matrix {
    (0..rows * columns).map(|at| a[at % rows * columns + at / rows]).collect()
}

/// The step for one matrix, as it is written down.
fn orthogonal(g: &[f64], rows: usize, columns: usize) -> Matrix {
    if rows > columns {
        let x = orthogonal(&transposed(g, rows, columns), columns, rows);
        let scale = (rows as f64 / columns as f64).sqrt();
        return transposed(&x, columns, rows).into_iter().map(|x| x * scale).collect();
    }
    let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt() + 1e-7;
    let mut x: Matrix = g.iter().map(|x| x / norm).collect();
    for _ in 0..5 {
        let gram = product(&x, &transposed(&x, rows, columns), [rows, columns, rows]);
        let square = product(&gram, &gram, [rows, rows, rows]);
        let factor: Matrix =
            gram.iter().zip(&square).map(|(m, m2)| -4.7750 * m + 2.0315 * m2).collect();
        let added = product(&factor, &x, [rows, rows, columns]);
        x = x.iter().zip(&added).map(|(x, added)| 3.4445 * x + added).collect();
    }
    x
}

/// Numbers that are the same in every run.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    };
    // f32 has all of them.
    (0..count).map(|_| next()).collect()
}

const RATES: [Rates; 2] = [
    Rates { rate: 0.01, weight_decay: 0.1, momentum: 0.0 },
    Rates { rate: 0.02, weight_decay: 0.01, momentum: 0.95 },
];
const AVERAGE: f64 = 0.9;
const CLIP: f64 = 0.5;

fn groups() -> Vec<Group> {
    let stack = |name: &str, count: usize, rows: usize, columns: usize| Group {
        name: name.to_owned(),
        elements: count * rows * columns,
        decays: true,
        rates: 1,
        matrices: Some(Matrices { rows, columns }),
    };
    let rest =
        Group { name: "rest".to_owned(), elements: 37, decays: false, rates: 0, matrices: None };
    vec![
        stack("wide", 3, 6, 20),
        rest,
        stack("tall", 2, 33, 7),
        stack("square", 1, 16, 16),
        // A kernel of 4 × 2·3·3, one of zeros beside it.
        stack("kernel", 2, 4, 18),
    ]
}

/// What is kept of one vector, by the formula.
struct Kept {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    a: Vec<f64>,
}

impl Kept {
    fn update(&mut self, group: &Group, g: &[f64], step: i32) {
        let Rates { rate, weight_decay, momentum } = RATES[group.rates];
        let [beta1, beta2] = [0.9, 0.98];
        let steps: Vec<f64> = match group.matrices {
            Some(Matrices { rows, columns }) => {
                let m = self.m.iter().zip(g).map(|(m, g)| momentum * m + g);
                self.m = m.collect();
                let ahead = self.m.iter().zip(g).map(|(m, g)| momentum * m + g);
                let ahead: Vec<f64> = ahead.collect();
                let each = ahead.chunks_exact(rows * columns);
                each.flat_map(|own| orthogonal(own, rows, columns)).collect()
            }
            None => {
                for ((m, v), g) in self.m.iter_mut().zip(&mut self.v).zip(g) {
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                }
                let each = self.m.iter().zip(&self.v).map(|(m, v)| {
                    let mean = m / (1.0 - f64::powi(beta1, step));
                    mean / ((v / (1.0 - f64::powi(beta2, step))).sqrt() + 1e-8)
                });
                each.collect()
            }
        };
        let decay = if group.decays { 1.0 - rate * weight_decay } else { 1.0 };
        for ((p, a), step) in self.p.iter_mut().zip(&mut self.a).zip(steps) {
            *p = *p * decay - rate * step;
            *a = AVERAGE * *a + (1.0 - AVERAGE) * *p;
        }
    }
}

fn vector(values: &[f64]) -> Tensor {
    Tensor::from_f64s(TensorType::new(DType::F32, [values.len()]), values).unwrap()
}

fn program(device: &str, groups: &[Group]) -> (Program, States) {
    let (module, carried) = update(groups, Extras { clip: true, average: true });
    let states = carried.into_iter();
    let states = states.map(|(name, input, output)| StateSpec { name, input, output });
    let request = CompileRequest::new(&module, "update").carrying(states);
    let backend = devices::backend(device, 2);
    let compiler = Compiler::new(&backend).add("update", request).unwrap_or_else(|e| panic!("{e}"));
    let none = anyid_tests::plans::Stored::default();
    let program = compiler.load(Arc::new(none), &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
    let states = program.states("update").unwrap();
    (program, states)
}

#[test]
fn updates_by_muon_and_adamw_are_the_formulas_on_every_device() {
    let groups = groups();
    for device in devices::names() {
        let (mut program, mut states) = program(device, &groups);
        let mut kept: Vec<Kept> = Vec::new();
        for (at, group) in (1..).zip(&groups) {
            let p = numbers(at, group.elements);
            for kind in ["p", "a"] {
                states.set(&format!("{kind}.{}", group.name), &vector(&p)).unwrap();
            }
            let zeros = vec![0.0; group.elements];
            let (m, v, a) = (zeros.clone(), zeros, p.clone());
            kept.push(Kept { p, m, v, a });
        }
        for step in 1..=4u64 {
            let gradient = |at: usize, group: &Group| {
                let mut values = numbers(100 * step + at as u64, group.elements);
                if group.name == "kernel" {
                    values[72..].fill(0.0);
                }
                values
            };
            let gradients: Vec<Vec<f64>> =
                groups.iter().enumerate().map(|(at, group)| gradient(at, group)).collect();
            let all = Numbers {
                rates: RATES.to_vec(),
                betas: [0.9, 0.98],
                epsilon: 1e-8,
                clip: CLIP,
                average: AVERAGE,
            };
            let mut inputs: BTreeMap<String, Tensor> = BTreeMap::new();
            for (name, number) in all.coefficients(step) {
                let ty = TensorType::new(DType::F32, []);
                inputs.insert(name, Tensor::from_f64s(ty, &[number]).unwrap());
            }
            for (group, values) in groups.iter().zip(&gradients) {
                inputs.insert(format!("g.{}", group.name), vector(values));
            }
            let given = inputs.iter().fold(Inputs::new(), |given, (name, t)| given.set(name, t));
            let outputs = program.call_with_states("update", &given, &mut states);
            let outputs = outputs.unwrap_or_else(|e| panic!("{e}"));
            let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            assert!(absolute(&outputs.get("norm").unwrap().to_f64_vec(), &[norm]) <= 1e-6 * norm);
            let shrink = CLIP / (norm + 1e-6);
            assert!(shrink < 1.0, "the gradients are scaled down");
            for ((group, kept), values) in groups.iter().zip(&mut kept).zip(&gradients) {
                let g: Vec<f64> = values.iter().map(|g| g * shrink).collect();
                kept.update(group, &g, step as i32);
            }
        }
        for (group, kept) in groups.iter().zip(&kept) {
            for (kind, expected) in [("p", &kept.p), ("m", &kept.m), ("a", &kept.a)] {
                let found = states.get(&format!("{kind}.{}", group.name)).unwrap().to_f64_vec();
                let worst = absolute(&found, expected);
                println!("{device}: {kind}.{} {worst:.1e}", group.name);
                // Rounding of values near 1/2 in f32, four times, and of steps of 0.02.
                assert!(worst <= 1e-6, "{device}: {kind}.{} {worst:e}", group.name);
            }
        }
        let zeros = &states.get("p.kernel").unwrap().to_f64_vec()[72..];
        let decay = (1.0f64 - 0.02 * 0.01).powi(4);
        let expected: Vec<f64> = numbers(5, 144)[72..].iter().map(|p| p * decay).collect();
        assert!(absolute(zeros, &expected) <= 1e-6, "no gradient is no step");
    }
}

/// Every singular value comes near 1, whatever the gradient's scale.
#[test]
fn a_step_has_rows_or_columns_that_are_nearly_orthogonal() {
    let [rows, columns] = [12, 40];
    let matrices = Some(Matrices { rows, columns });
    let group = Group { name: "w".into(), elements: 480, decays: false, rates: 0, matrices };
    let mut last: Option<Vec<f64>> = None;
    for scale in [1.0, 1e-3] {
        let (mut program, mut states) = program(devices::names()[0], std::slice::from_ref(&group));
        let all = Numbers {
            rates: vec![Rates { rate: 1.0, weight_decay: 0.0, momentum: 0.9 }],
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            clip: 1e9,
            average: 0.0,
        };
        let numbers_of = all.coefficients(1).into_iter().map(|(name, number)| {
            (name, Tensor::from_f64s(TensorType::new(DType::F32, []), &[number]).unwrap())
        });
        let mut inputs: BTreeMap<String, Tensor> = numbers_of.collect();
        let g: Vec<f64> = numbers(3, 480).into_iter().map(|g| g * scale).collect();
        inputs.insert("g.w".into(), vector(&g));
        let given = inputs.iter().fold(Inputs::new(), |given, (name, t)| given.set(name, t));
        program.call_with_states("update", &given, &mut states).unwrap_or_else(|e| panic!("{e}"));
        let step: Vec<f64> = states.get("p.w").unwrap().to_f64_vec().iter().map(|p| -p).collect();
        let gram = product(&step, &transposed(&step, rows, columns), [rows, columns, rows]);
        // The trace is the sum of the squares of singular values, of which none is far from 1.
        let trace: f64 = (0..rows).map(|at| gram[at * rows + at]).sum();
        assert!((0.6..1.4).contains(&(trace / rows as f64)), "{trace}");
        for (at, value) in gram.iter().enumerate().filter(|(at, _)| at / rows != at % rows) {
            assert!(value.abs() < 0.35, "rows {} and {}: {value}", at / rows, at % rows);
        }
        if let Some(last) = &last {
            assert!(
                absolute(&step, last) < 1e-3,
                "the scale of a gradient has no part in its step"
            );
        }
        last = Some(step);
    }
}
