//! The op table on the device: every case in all its types, on inputs that no run before had, against
//! the interpreter, in memory full of NaN, twice for the same bits.

use super::compare::distance;
use super::report::{Line, Report, Verdict};
use super::{Check, single};
use anyid_backends::check::Stored;
use anyid_backends::check::cases::{Built, OpCase, Random, Tolerance, cases, seed_of};
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Evaluator, Mode, Module, Tensor};
use anyid_passes::{CompileRequest, Options};
use anyid_runtime::Result;
use serde_json::json;

/// Cases whose kernels are compiled together.
const TOGETHER: usize = 64;

/// A case on fresh inputs, with its plan.
struct Ready {
    tolerance: Tolerance,
    module: Module,
    inputs: Vec<(String, Tensor)>,
    weights: Stored,
    plan: Plan,
}

/// Runs the section.
///
/// # Errors
/// None of a single case.
pub fn run(check: &mut Check<'_>, report: &mut Report) -> Result<()> {
    let all: Vec<OpCase> = cases().into_iter().filter(|case| check.wants(&case.name)).collect();
    let list: Vec<(&OpCase, DType)> =
        all.iter().flat_map(|case| case.dtypes.iter().map(move |dtype| (case, *dtype))).collect();
    let total = list.len() as u64;
    let (mut done, mut wrong, mut worst) = (0u64, 0, (0.0, String::new()));
    for group in list.chunks(TOGETHER) {
        if !check.has(5.0) {
            break;
        }
        let ready: Vec<_> =
            group.iter().map(|(case, dtype)| Ready::new(check, case, *dtype)).collect();
        let plans = ready.iter().flatten().map(|ready| ready.plan.clone());
        single::compile(check.backend, plans.collect());
        for ((case, dtype), ready) in group.iter().zip(ready) {
            if !check.has(1.0) {
                break;
            }
            let name = format!("{} {dtype}", case.name);
            done += 1;
            check.progress.update(done, total, || format!("{done} of {total} cases"));
            let line = match ready.and_then(|ready| ready.compare(check)) {
                Ok(share) => {
                    if share > worst.0 {
                        worst = (share, name.clone());
                    }
                    let figures = format!("{:.0} % of its bound", share * 100.0);
                    Line::new("ops", name, Verdict::Right, figures)
                }
                Err(why) => {
                    wrong += 1;
                    Line::new("ops", name, Verdict::Wrong, why).with(json!({ "seed": check.seed }))
                }
            };
            report.push(line.detail());
        }
    }
    let verdict = match (done, wrong) {
        (0, _) => Verdict::Left,
        (_, 0) => Verdict::Right,
        _ => Verdict::Wrong,
    };
    let mut figures = format!("{} of {done} cases right", done - wrong);
    if worst.0 > 0.0 {
        figures.push_str(&format!(
            "; nearest to its bound: {:.0} % ({})",
            worst.0 * 100.0,
            worst.1
        ));
    }
    if done < total {
        figures.push_str(&format!("; {} left out for want of time", total - done));
    }
    report.push(Line::new("ops", "op table", verdict, figures).sum());
    Ok(())
}

impl Ready {
    /// A case, or why it has no plan.
    fn new(check: &Check<'_>, case: &OpCase, dtype: DType) -> std::result::Result<Self, String> {
        let Built { module, mut inputs, weights: stored } = (case.build)(dtype);
        let mut random = Random(check.seed ^ seed_of(&case.name));
        let mut shuffle = |tensor: &Tensor| shuffled(tensor, &mut random);
        inputs.iter_mut().for_each(|(_, tensor)| *tensor = shuffle(tensor));
        let mut weights = Stored::default();
        for (name, tensor) in stored.iter() {
            weights.insert(name, shuffle(tensor));
        }
        let target = check.backend.about().target.clone();
        let options = Options { target, ..Options::default() };
        let plan = CompileRequest::new(&module, "f").with(&options).plan();
        let plan = plan.map_err(|error| error.to_string())?;
        Ok(Self { tolerance: case.tolerance, module, inputs, weights, plan })
    }

    /// The largest share of a bound that is used up, or what is wrong.
    fn compare(&self, check: &Check<'_>) -> std::result::Result<f64, String> {
        let Self { tolerance, module, inputs, weights, plan } = self;
        let given = |name: &str| inputs.iter().find(|(own, _)| own == name).map(|(_, own)| own);
        let ordered = plan.inputs.iter().map(|port| given(&port.name).expect("it is an input"));
        let ordered: Vec<Tensor> = ordered.cloned().collect();
        let made = single::twice(check.backend, plan, weights, &ordered)?;
        let tensors: Vec<Tensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let wanted = Evaluator::new(module, Mode::F32).run("f", &tensors, weights, None);
        let wanted = wanted.map_err(|error| error.message.clone())?;
        let mut share = 0f64;
        for (made, wanted) in made.iter().zip(&wanted) {
            let largest = distance(&made.to_f64_vec(), &wanted.to_f64_vec()).largest;
            let bound = tolerance.of(made.dtype());
            if largest > bound {
                return Err(format!("{largest:.1e} from the interpreter, {bound:.0e} at most"));
            }
            if bound > 0.0 {
                share = share.max(largest / bound);
            }
        }
        Ok(share)
    }
}

/// The elements in another order: fresh inputs of the same kind.
fn shuffled(tensor: &Tensor, random: &mut Random) -> Tensor {
    let size = tensor.dtype().bytes();
    let mut elements: Vec<&[u8]> = tensor.bytes().chunks_exact(size).collect();
    for at in (1..elements.len()).rev() {
        elements.swap(at, random.below(at + 1));
    }
    Tensor::from_bytes(tensor.ty().clone(), &elements.concat()).expect("as many elements")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_elements_are_the_same_ones() {
        let tensor = Tensor::from_i32([5, 3], &(0..15).collect::<Vec<i32>>()).unwrap();
        let other = shuffled(&tensor, &mut Random(7));
        assert_ne!(other, tensor);
        let mut values = other.as_i32().unwrap().to_vec();
        values.sort_unstable();
        assert_eq!(values, (0..15).collect::<Vec<i32>>());
    }
}
