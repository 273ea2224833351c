//! The op table on the device: every case in all its types, on inputs that no run before had, against
//! the interpreter, in memory full of NaN, twice for the same bits.

use super::compare::distance;
use super::report::{Line, Verdict};
use super::teller::Teller;
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

/// What all of them are summed up as.
const GROUP: &str = "op table";

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
pub fn run(check: &mut Check<'_>, teller: &mut Teller) -> Result<()> {
    let all: Vec<OpCase> = cases().into_iter().filter(|case| check.wants(&case.name)).collect();
    let list: Vec<(&OpCase, DType)> =
        all.iter().flat_map(|case| case.dtypes.iter().map(move |dtype| (case, *dtype))).collect();
    let total = list.len();
    teller.expects(GROUP, total);
    let mut done = 0;
    for group in list.chunks(TOGETHER) {
        if !check.has(5.0) {
            break;
        }
        let before = done;
        done += group.len();
        if teller.passes(group.len()) {
            continue;
        }
        let ready = group.iter().enumerate().map(|(ahead, (case, dtype))| {
            teller.wants(ahead).then(|| Ready::new(check, case, *dtype))
        });
        let ready: Vec<Option<_>> = ready.collect();
        let plans = ready.iter().flatten().flatten().map(|ready| ready.plan.clone());
        single::compile(check, plans.collect());
        for (at, ((case, dtype), ready)) in group.iter().zip(ready).enumerate() {
            if !check.has(1.0) {
                break;
            }
            let name = format!("{} {dtype}", case.name);
            let place = (before + at + 1) as u64;
            check.progress.update(place, total as u64, || format!("{place} of {total} cases"));
            if !teller.begins(&name, Some(GROUP)) {
                continue;
            }
            let ready = ready.expect("what is begun was wanted");
            let line = match ready.and_then(|ready| ready.compare(check, teller)) {
                Ok(share) => {
                    let figures = format!("{:.0} % of its bound", share * 100.0);
                    Line::new("ops", name, Verdict::Right, figures).of(GROUP, share)
                }
                Err(why) => {
                    let line = Line::new("ops", name, Verdict::Wrong, why);
                    line.of(GROUP, f64::INFINITY).with(json!({ "seed": check.seed }))
                }
            };
            teller.push(line);
        }
    }
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
    fn compare(&self, check: &Check<'_>, teller: &mut Teller) -> std::result::Result<f64, String> {
        let Self { tolerance, module, inputs, weights, plan } = self;
        let given = |name: &str| inputs.iter().find(|(own, _)| own == name).map(|(_, own)| own);
        let ordered = plan.inputs.iter().map(|port| given(&port.name).expect("it is an input"));
        let ordered: Vec<Tensor> = ordered.cloned().collect();
        let made = single::twice(check.backend, plan, weights, &ordered)?;
        teller.idle();
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
