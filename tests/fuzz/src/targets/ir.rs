//! IR text: read, verified, printed, read again, compiled, and run by the interpreter and a device.
//!
//! Results must agree about as well as the interpreter's single precision agrees with its double.
//! Programs that amplify rounding (comparisons of computed numbers, differences of equal ones) may
//! disagree on some values; a disagreement counts where it is there with several others too.

use super::programs::{WORDS, is_small, modules, values};
use super::{corpus, shared};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_backends::Device;
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::{DType, Evaluator, Mode, Module, Tensor, TensorType, text};
use anyid_tests::close::difference;
use anyid_tests::devices;
use anyid_tests::plans::{Named, Stored, run_plan};
use std::sync::Arc;

/// The target.
pub struct Ir {
    device: Arc<dyn Device>,
}

impl Ir {
    /// The target.
    pub fn new() -> Self {
        Self { device: devices::first(1) }
    }
}

/// Nodes and calls of a module, loops counted as often as they run.
fn nodes(module: &Module) -> usize {
    module.funcs.iter().map(|func| func.walk().len()).sum()
}

impl Target for Ir {
    fn name(&self) -> &'static str {
        "ir"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("ir");
        out.extend(shared("ir/verify"));
        out.extend(shared("ir/roundtrip").into_iter().filter(|file| file.len() < 6000));
        out.extend(modules(120).iter().map(|module| text::print(module).into_bytes()));
        out.retain(|file| file.len() < 6000);
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        mutate::text(rng, data, self.words(), other);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let Ok(source) = std::str::from_utf8(data) else {
            let (_, found) = text::parse_bytes(data);
            let code = found.first().map_or("nothing", |found| found.code);
            return Ok(Verdict::Refused(code.to_owned()));
        };
        let module = match text::parse_module(source, &[]) {
            Ok(module) => module,
            Err(found) => {
                let code = found.first().map(|found| found.code);
                return Ok(Verdict::Refused(code.ok_or("refused without a reason")?.to_owned()));
            }
        };
        let printed = text::print(&module);
        let again = text::parse_module(&printed, &[])
            .map_err(|found| format!("printed it is refused: {:?}\n{printed}", found.first()))?;
        if text::print(&again) != printed {
            return Err(format!("printed again it is another text\n{printed}"));
        }
        let Some(main) = module.main().filter(|main| main.index_params.is_empty()) else {
            return Ok(Verdict::Taken);
        };
        let name = main.name.clone();
        let plan = match anyid_passes::CompileRequest::new(&module, &name).plan() {
            Ok(plan) => plan,
            Err(error) if error.is_internal() => return Err(format!("internal: {error}")),
            Err(error) => return Ok(Verdict::Refused(error.code.to_owned())),
        };
        if let Some(found) = verify_plan(&plan).first() {
            return Err(format!("its plan is refused: {} {:?}", found.message, found.place));
        }
        let printed = print_plans([&plan]);
        // Text rather than plans: a NaN is not equal to itself.
        if parse_plans(&printed).map(|plans| print_plans(&plans)).ok().as_ref() != Some(&printed) {
            return Err("its printed plan is another".to_owned());
        }
        if !is_small(&plan) || nodes(&module) > 400 || !few_elements(&module) {
            return Ok(Verdict::Taken);
        }
        let mut fault = None;
        for seed in 0..4 {
            match self.compare(&module, &name, &plan, seed) {
                Ok(()) => return Ok(Verdict::Taken),
                Err(words) => fault = Some(words),
            }
        }
        Err(fault.unwrap_or_default())
    }
}

/// Whether no value is large: the interpreter makes them all, also what the compiler folds away.
fn few_elements(module: &Module) -> bool {
    let values = module.funcs.iter().flat_map(|func| func.values.iter());
    let sizes = values.map(|(_, value)| value.ty.elements());
    sizes.fold(0usize, usize::saturating_add) < 200_000
}

impl Ir {
    fn compare(
        &self,
        module: &Module,
        name: &str,
        plan: &anyid_ir::plan::Plan,
        seed: u64,
    ) -> Result<(), String> {
        let mut weights = Stored::default();
        for (name, ty) in module.weights.tensors().filter(|(_, ty)| ty.elements() < 1 << 18) {
            weights.insert(name, values(name, ty, seed));
        }
        let main = module.func(name).ok_or("the main function has gone")?;
        let inputs: Named = main
            .param_types()
            .map(|(name, ty)| (name.to_owned(), values(name, ty, seed)))
            .collect();
        let given: Vec<Tensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let interpreted = |mode| Evaluator::new(module, mode).run(name, &given, &weights, None);
        let run = run_plan(&self.device, plan, &weights, &inputs, 0xFF);
        let singles = interpreted(Mode::F32);
        let (singles, run) = match (singles, run) {
            (Ok(singles), Ok(run)) => (singles, run),
            (Err(_), Err(_)) => return Ok(()),
            // What nobody reads is not computed: an index out of range may go unnoticed.
            (Err(error), Ok(_)) if error.code != "E1046" => return Ok(()),
            (Err(error), Ok(_)) => return Err(format!("only the interpreter fails: {error}")),
            (Ok(_), Err(error)) => return Err(format!("only the device fails: {error:?}")),
        };
        let exact = interpreted(Mode::F64).map_err(|error| format!("in doubles: {error}"))?;
        if run.len() != singles.len() {
            return Err(format!("{} results, not {}", run.len(), singles.len()));
        }
        // Kernels multiply half types as they are, and round what is between two products.
        let half = |ty: &TensorType| matches!(ty.dtype, DType::Bf16 | DType::F16);
        let values = module.funcs.iter().flat_map(|func| func.values.iter());
        let least = if values.map(|(_, value)| &value.ty).any(half) { 0.04 } else { 3e-4 };
        for (((name, given), singles), exact) in run.iter().zip(&singles).zip(&exact) {
            if given.ty() != singles.ty() {
                return Err(format!("%{name} is {}, not {}", given.ty(), singles.ty()));
            }
            let wide = |tensor: &Tensor| tensor.cast(exact.dtype());
            let own = difference(&wide(singles), exact);
            // Too much of the result is rounding, or singles overflow where doubles do not.
            if own > 0.02 {
                continue;
            }
            let error = difference(&wide(given), exact);
            let bound = least + 64.0 * own;
            if error > bound {
                return Err(format!("%{name} is {error:.1e} off, allowed {bound:.1e}"));
            }
        }
        Ok(())
    }
}
