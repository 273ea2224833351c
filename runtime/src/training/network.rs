//! The network under training: losses of samples, with and without derivatives.
//!
//! One program serves a whole run: phases with derivatives and without for each shape and number of
//! samples in a call, on one set of weights and one workspace. What is trained is given as inputs, so
//! the weights themselves never change. Inputs and results have their memory from the beginning;
//! derivatives are written into flat vectors as the optimiser takes them.

use super::dataset::Condition;
use super::fitting::Over;
use super::group::Calls;
use super::memory::Memory;
use super::objective::{Example, Objective};
use super::optimise;
use super::parameters::{Flat, Kind, Parameters, Values, targets};
use super::settings::Settings;
use crate::engine::finite::first_non_finite;
use crate::engine::{Backend, CompileRequest, Compiler, Inputs, Program, memory_check};
use crate::error::{Error, Result};
use crate::pipeline::{Cancel, tensor_f32};
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_passes::Gradient;
use anyid_passes::remat::Keeping;
use std::collections::{BTreeMap, BTreeSet};

/// What `@losses` gives of one sample: its loss, then what else is measured.
pub type Found = Vec<f64>;

/// What is compiled for a run.
pub struct Wanted<'w> {
    /// The objective.
    pub objective: &'w dyn Objective,
    /// The settings of the run.
    pub settings: &'w Settings,
    /// What is trained.
    pub kind: Kind,
    /// What goes through the network together.
    pub calls: &'w Calls,
    /// Whether losses are also asked for without derivatives.
    pub measured: bool,
    /// What is held beside the network and what is trained.
    pub beside: Memory,
    /// Ends compiling.
    pub cancel: &'w Cancel,
}

/// The loaded network.
pub struct Network<'l> {
    objective: Box<dyn Objective + 'l>,
    program: Program,
    /// What is trained.
    pub parameters: Parameters,
    /// The derivatives of the last call of [`Self::gradient`].
    pub gradient: Flat,
    /// Memory for calls, by shape and number of samples.
    stages: BTreeMap<(usize, usize), Stage>,
    /// What a run holds, without the plans of the optimiser.
    pub memory: Memory,
}

/// Inputs and small results of calls of one shape and number of samples.
struct Stage {
    inputs: Vec<Slot>,
    /// `%total`, the losses, and what else is measured of each sample.
    results: Vec<Tensor>,
    /// Where the derivative of each parameter is among the results of the plan.
    derivatives: Vec<usize>,
}

/// An input.
struct Slot {
    name: String,
    tensor: Tensor,
    /// Whether samples have no part in it.
    fixed: bool,
}

/// Name of the input with what the losses count.
const WEIGHT: &str = "weight";

/// Whether a phase has derivatives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Value,
    Gradient,
}

impl Phase {
    fn name(self, shape: usize, samples: usize) -> String {
        let what = if self == Self::Gradient { "grad" } else { "value" };
        format!("{what}.{shape}.{samples}")
    }
}

impl Wanted<'_> {
    /// Compiles the network for every call that a run makes, with what blocks keep for the derivative by
    /// shape.
    ///
    /// # Errors
    /// E0523 for targets that no linear has, and other E05xx where it cannot be compiled; E0601 and
    /// E0602 for the budget; E1002 where it was told to stop.
    pub fn compile(&self, backend: &Backend) -> Result<(Compiler, BTreeMap<usize, Keeping>)> {
        let mut compiler = Compiler::new(backend).stopped_by(self.cancel.flag());
        let (mut kept, mut over) = (BTreeMap::new(), None::<Over>);
        'shapes: for shape in self.calls.shapes() {
            let sizes = self.calls.batches(shape, self.settings.train.batch);
            let mut keeping = None;
            for samples in &sizes {
                let module = self.objective.module(shape, *samples);
                let request = self.differentiated(&module);
                let name = Phase::Gradient.name(shape, *samples);
                compiler = match keeping {
                    // What the largest call keeps fits for all.
                    Some(keeping) => compiler.add(&name, request.keeping(keeping))?,
                    None => {
                        let fits = self.keeping(backend, &request, shape, *samples)?;
                        let (chosen, plan) = match fits {
                            Ok(chosen) => chosen,
                            // The budget is to be enough for all shapes.
                            Err(own) => {
                                over = over.filter(|over| over.needed >= own.needed).or(Some(own));
                                continue 'shapes;
                            }
                        };
                        keeping = Some(chosen);
                        kept.insert(shape, chosen);
                        match plan {
                            Some(plan) => compiler.planned(&name, plan),
                            None => compiler.add(&name, request.keeping(chosen))?,
                        }
                    }
                };
            }
            for samples in self.calls.measurements(shape).iter().filter(|_| self.measured) {
                let module = self.objective.module(shape, *samples);
                let (request, _) = self.request(CompileRequest::new(&module, "losses"));
                compiler = compiler.add(&Phase::Value.name(shape, *samples), request)?;
            }
            if self.settings.run.samples > 0 {
                let module = self.objective.module(shape, 1);
                let (request, _) = self.request(CompileRequest::new(&module, "dit"));
                compiler = compiler.add(&format!("sample.{shape}"), request)?;
            }
        }
        match over {
            Some(over) => Err(self.refused(&over)),
            None => Ok((compiler, kept)),
        }
    }

    /// Plans of the calls that samples go through, by shape and number of samples: with derivatives
    /// where there is one.
    pub fn stages<'p>(
        &'p self,
        compiler: &'p Compiler,
    ) -> impl Iterator<Item = ((usize, usize), &'p Plan)> + 'p {
        self.calls.shapes().flat_map(move |shape| {
            let batches = self.calls.batches(shape, self.settings.train.batch);
            let all = batches.into_iter().chain(self.calls.measurements(shape));
            let sizes: BTreeSet<usize> = all.collect();
            sizes.into_iter().filter_map(move |samples| {
                let plan = |phase: Phase| {
                    let name = phase.name(shape, samples);
                    compiler.plans().find(|(own, _)| *own == name).map(|(_, plan)| plan)
                };
                let plan = plan(Phase::Gradient).or_else(|| plan(Phase::Value));
                plan.map(|plan| ((shape, samples), plan))
            })
        })
    }

    /// What a plan with derivatives trains.
    pub fn parameters(&self, plan: &Plan) -> Parameters {
        let component = self.objective.weights().component();
        Parameters::of_plan(plan, &self.settings.group, component)
    }

    /// The plan with derivatives that takes most memory for a shape.
    pub fn largest<'p>(&self, compiler: &'p Compiler, shape: usize) -> &'p Plan {
        let samples = self.calls.batches(shape, self.settings.train.batch)[0];
        let name = Phase::Gradient.name(shape, samples);
        let mut plans = compiler.plans();
        plans.find(|(own, _)| *own == name).expect("it was compiled").1
    }

    /// A request for the derivative of what a module gives.
    pub(super) fn differentiated<'m>(&self, module: &'m Module) -> CompileRequest<'m> {
        let (request, wrt) = self.request(CompileRequest::new(module, "train"));
        request.with_gradient(Gradient { of: "total".into(), wrt })
    }

    /// `request` with what is trained as inputs, and the patterns of their names.
    fn request<'m>(&self, request: CompileRequest<'m>) -> (CompileRequest<'m>, Vec<String>) {
        match self.kind {
            Kind::Lora | Kind::Dpo => {
                let wrt = ["*.lora_A.weight", "*.lora_B.weight"].map(str::to_owned);
                (request.with_lora(targets(&self.settings.lora)), wrt.to_vec())
            }
            Kind::Full => {
                let tensors = request.module.weights.tensors();
                let names = tensors.map(|(name, _)| name.to_owned()).collect();
                (request.lifting(["*"]), names)
            }
        }
    }

    /// Bytes of the vectors of a run: what the optimiser keeps, what a call gives and the sum of a batch,
    /// and the sum of a pair whose members go through the network one after the other.
    pub fn vector_bytes(&self, parameters: &Parameters) -> u64 {
        let vectors = 2 + u64::from(self.calls.apart(self.kind));
        let kept = optimise::kept_bytes(parameters, self.settings);
        kept.saturating_add(4 * vectors * parameters.elements())
    }
}

impl<'l> Network<'l> {
    /// Loads the network of an objective.
    ///
    /// # Errors
    /// As [`Wanted::compile`], E0603 where there is no memory for it, E0330 to E0332 where the weights
    /// cannot be read.
    pub fn open(
        objective: Box<dyn Objective + 'l>,
        backend: &Backend,
        (settings, kind): (&Settings, Kind),
        (calls, measured, beside): (&Calls, bool, Memory),
        cancel: &Cancel,
    ) -> Result<Self> {
        let objective_of = &*objective;
        let wanted =
            Wanted { objective: objective_of, settings, kind, calls, measured, beside, cancel };
        let (compiler, _) = wanted.compile(backend)?;
        let shape = calls.shapes().next();
        let shape = shape.ok_or_else(|| Error::internal("E1009", "there is no sample"))?;
        let largest = wanted.largest(&compiler, shape);
        let parameters = wanted.parameters(largest);
        let memory = beside.with(&wanted, &compiler, &parameters);
        let mut stages = BTreeMap::new();
        for (call, plan) in wanted.stages(&compiler) {
            stages.insert(call, Stage::of(plan, &*objective, &parameters, call)?);
        }
        let program = compiler.load_until(objective.weights().clone(), &cancel.flag())?;
        let gradient = parameters.zeros();
        Ok(Self { objective, program, parameters, gradient, stages, memory })
    }

    /// What it is trained for.
    pub fn objective(&self) -> &(dyn Objective + 'l) {
        &*self.objective
    }

    /// What is found of samples of one shape, in their order.
    ///
    /// # Errors
    /// E1001 with sample and node for a non-finite value.
    pub fn losses(&mut self, examples: &[Example<'_>], values: Values<'_>) -> Result<Vec<Found>> {
        self.call(Phase::Value, examples, values)
    }

    /// As [`Self::losses`]; the derivatives of the weighted sum are in [`Self::gradient`] then.
    ///
    /// # Errors
    /// E1001 with sample and node for a non-finite value.
    pub fn differentiate(
        &mut self,
        examples: &[Example<'_>],
        values: Values<'_>,
    ) -> Result<Vec<Found>> {
        self.call(Phase::Gradient, examples, values)
    }

    /// The velocity of noisy latents at a timestep under a condition, as sampling asks for it.
    ///
    /// # Errors
    /// E1001 with `place` and node for a non-finite value.
    pub fn velocity(
        &mut self,
        (latents, time, condition): (&Tensor, f32, &Condition),
        values: Values<'_>,
        place: &str,
    ) -> Result<Vec<f32>> {
        let shape = condition.references.shape()[1];
        let times: &[f32] = if shape > 0 { &[0.0, time] } else { &[time] };
        let times = tensor_f32([times.len()], times)?;
        let segments = self.objective.fixed("seg", shape, 1)?;
        let phase = format!("sample.{shape}");
        let plan = self.program.plan(&phase);
        let text = plan.and_then(|plan| {
            let port = plan.inputs.iter().find(|port| port.name == "txt")?;
            let ty = &plan.buffer(port.buffer).ty;
            let bytes = condition.text.bytes().get(..ty.bytes() as usize)?;
            Tensor::from_bytes(ty.clone(), bytes).ok()
        });
        let inputs = Inputs::new()
            .set("ref", &condition.references)
            .set("txt", text.as_ref().unwrap_or(&condition.text))
            .set("lat", latents)
            .set("t", &times)
            .all(segments.as_ref().map(|segments| ("seg", segments)));
        let inputs = trained(inputs, &self.parameters, values);
        let outputs = self.program.call(&phase, &inputs)?;
        if !self.program.gave_finite(&outputs) {
            let origin = self.program.origin(&phase, &inputs, None, None)?.unwrap_or_default();
            return Err(origin.error(place));
        }
        Ok(outputs.get("v")?.to_f32_vec())
    }

    fn call(
        &mut self,
        phase: Phase,
        examples: &[Example<'_>],
        values: Values<'_>,
    ) -> Result<Vec<Found>> {
        let (shape, samples) = (self.objective.shape(examples[0].item), examples.len());
        let none = || Error::internal("E1009", format!("no plan for {samples} of shape {shape}"));
        let stage = self.stages.get_mut(&(shape, samples)).ok_or_else(none)?;
        stage.fill(&*self.objective, examples)?;
        let name = phase.name(shape, samples);
        self.run(phase, (shape, samples), &name, values)?;
        if !self.is_finite(phase, (shape, samples)) {
            return Err(self.fault(phase, examples, &name, values)?);
        }
        let stage = &self.stages[&(shape, samples)];
        let found = |at: usize| {
            let numbers = stage.results[1..].iter().map(|tensor| tensor.as_f32());
            numbers.map(|all| f64::from(all.expect("losses are f32")[at])).collect()
        };
        Ok((0..samples).map(found).collect())
    }

    /// Runs a phase on what its stage holds.
    fn run(
        &mut self,
        phase: Phase,
        stage: (usize, usize),
        name: &str,
        values: Values<'_>,
    ) -> Result<()> {
        let Stage { inputs, results, derivatives } =
            self.stages.get_mut(&stage).expect("it was found");
        let inputs = trained(named(inputs), &self.parameters, values);
        let mut into: Vec<&mut [u8]> = Vec::new();
        match phase {
            Phase::Value => into.extend(results[1..].iter_mut().map(Tensor::bytes_mut)),
            Phase::Gradient => {
                let count = results.len() + derivatives.len();
                let mut places: Vec<Option<&mut [u8]>> = Vec::new();
                places.extend(results.iter_mut().map(|tensor| Some(tensor.bytes_mut())));
                places.resize_with(count, || None);
                // Parameters lie in their vectors in the order of the list.
                let mut rest: Vec<&mut [u8]> =
                    self.gradient.iter_mut().map(Tensor::bytes_mut).collect();
                for (parameter, at) in self.parameters.list.iter().zip(derivatives) {
                    let (group, range) = parameter.place();
                    let left = std::mem::take(&mut rest[group]);
                    let (own, left) = left.split_at_mut(4 * range.len());
                    (places[*at], rest[group]) = (Some(own), left);
                }
                into.extend(places.into_iter().flatten());
            }
        }
        self.program.call_into(name, &inputs, &mut into)
    }

    /// The error of a call that gave a non-finite value: the sample that it came from, and the node.
    fn fault(
        &mut self,
        phase: Phase,
        examples: &[Example<'_>],
        name: &str,
        values: Values<'_>,
    ) -> Result<Error> {
        let key = (self.objective.shape(examples[0].item), examples.len());
        let stage = "it was found";
        let mut places: Vec<String> = Vec::new();
        for example in examples {
            // In every place, so that no other has a part in what comes out.
            let alone = vec![*example; examples.len()];
            self.stages.get_mut(&key).expect(stage).fill(&*self.objective, &alone)?;
            self.stages.get_mut(&key).expect(stage).only_first();
            self.run(phase, key, name, values)?;
            if !self.is_finite(phase, key) {
                places = vec![self.objective.place(example)];
                break;
            }
            places.push(self.objective.place(example));
        }
        if places.len() > 1 {
            // Each by itself is finite, and their sum is not.
            self.stages.get_mut(&key).expect(stage).fill(&*self.objective, examples)?;
        }
        let inputs = trained(named(&self.stages[&key].inputs), &self.parameters, values);
        let origin = self.program.origin(name, &inputs, None, None)?.unwrap_or_default();
        Ok(origin.error(&places.join(" and ")))
    }

    /// Whether all that a call gave is finite.
    fn is_finite(&self, phase: Phase, stage: (usize, usize)) -> bool {
        let finite = |tensor: &Tensor| first_non_finite(tensor).is_none();
        self.stages[&stage].results.iter().all(finite)
            && (phase == Phase::Value || self.gradient.iter().all(finite))
    }
}

impl Stage {
    /// Memory for the inputs and results of a plan.
    fn of(
        plan: &Plan,
        objective: &dyn Objective,
        parameters: &Parameters,
        (shape, samples): (usize, usize),
    ) -> Result<Self> {
        let mut inputs = Vec::new();
        for port in plan.inputs.iter().filter(|port| !parameters.has(&port.name)) {
            let fixed = objective.fixed(&port.name, shape, samples)?;
            let (fixed, tensor) = match fixed {
                Some(tensor) => (true, tensor),
                None => {
                    let ty = &plan.buffer(port.buffer).ty;
                    (false, memory_check::zeros(ty, "samples of a call")?)
                }
            };
            inputs.push(Slot { name: port.name.clone(), tensor, fixed });
        }
        let place = |name: &str| plan.outputs.iter().position(|port| port.name == name);
        let derivatives =
            parameters.list.iter().filter_map(|own| place(&format!("grad.{}", own.name)));
        let derivatives: Vec<usize> = derivatives.collect();
        let found = plan.outputs.iter().filter(|port| !port.name.starts_with("grad."));
        let number = TensorType::new(DType::F32, []);
        let types = found.map(|port| &plan.buffer(port.buffer).ty);
        let types = types.filter(|ty| ty.rank() == 1);
        let results = std::iter::once(&number).chain(types).cloned().map(Tensor::zeros);
        Ok(Self { inputs, results: results.collect(), derivatives })
    }

    /// Writes what samples give.
    fn fill(&mut self, objective: &dyn Objective, examples: &[Example<'_>]) -> Result<()> {
        for Slot { name, tensor, .. } in self.inputs.iter_mut().filter(|slot| !slot.fixed) {
            let all = tensor.as_f32_mut().expect("what samples give is f32");
            let own = all.len() / examples.len();
            for (example, into) in examples.iter().zip(all.chunks_exact_mut(own)) {
                match name.as_str() {
                    WEIGHT => into.fill(example.weight as f32),
                    _ => objective.fill(example, name, into)?,
                }
            }
        }
        Ok(())
    }

    /// Lets only the first sample count.
    fn only_first(&mut self) {
        for Slot { tensor, .. } in self.inputs.iter_mut().filter(|slot| slot.name == WEIGHT) {
            tensor.as_f32_mut().expect("what samples give is f32")[1..].fill(0.0);
        }
    }
}

fn named(inputs: &[Slot]) -> Inputs<'_> {
    Inputs::new().all(inputs.iter().map(|slot| (slot.name.as_str(), &slot.tensor)))
}

/// `inputs` with what is trained.
fn trained<'n>(inputs: Inputs<'n>, parameters: &'n Parameters, values: Values<'n>) -> Inputs<'n> {
    parameters
        .list
        .iter()
        .fold(inputs, |inputs, own| inputs.set_bytes(&own.name, &own.ty, values.bytes(own)))
}

#[cfg(test)]
mod tests {
    use super::super::cache::Cache;
    use super::super::dataset::{Dataset, Item, Sizes};
    use super::super::draws::{Draw, Levels};
    use super::super::learner::Numbers;
    use super::super::manifest::Clip;
    use super::*;
    use crate::weights::ModelWeights;
    use anyid_ir::{FuncBuilder, ReduceFn, UnaryFn};
    use std::sync::Arc;

    /// √(w · x), for the numbers x that lines have.
    struct Roots(Arc<ModelWeights>);

    impl Objective for Roots {
        fn weights(&self) -> &Arc<ModelWeights> {
            &self.0
        }

        fn shape(&self, _: &Item) -> usize {
            0
        }

        fn stream(&self, _: usize) -> usize {
            1
        }

        fn describe(&self, _: usize) -> String {
            "numbers".to_owned()
        }

        fn tokens(&self, _: usize) -> Option<usize> {
            None
        }

        fn drawn(&self) -> bool {
            false
        }

        fn module(&self, _: usize, samples: usize) -> Module {
            let mut module = Module { name: "roots".into(), ..Module::default() };
            let ty = TensorType::new(DType::F32, [1, 2]);
            module.weights.add("w.weight", ty).unwrap();
            let mut b = FuncBuilder::new(&module, "losses");
            let x = b.param("x", TensorType::new(DType::F32, [samples, 2]));
            let weight = b.weight("w.weight");
            let products = b.mul("products", x, weight);
            let sums = b.reduce("sums", ReduceFn::Sum, products, &[1], false);
            let loss = b.unary("loss", UnaryFn::Sqrt, sums);
            let func = b.finish(&[loss]);
            module.add(func);
            anyid_models::wan::loss::weighted(module, &["loss"])
        }

        fn fixed(&self, _: &str, _: usize, _: usize) -> Result<Option<Tensor>> {
            Ok(None)
        }

        fn fill(&self, example: &Example<'_>, _: &str, into: &mut [f32]) -> Result<()> {
            into.fill([0.0, 1.0, 4.0, f32::INFINITY][example.item.line]);
            Ok(())
        }

        fn place(&self, example: &Example<'_>) -> String {
            format!("sample {}", example.item.id)
        }

        fn weight(&self, _: &Draw) -> f64 {
            1.0
        }

        fn logged(&self, _: &Item, _: &[f64], _: f64) -> Numbers {
            Numbers::new()
        }
    }

    /// What comes of lines under the same weight of their losses: losses, or the error.
    fn run(lines: &[usize], weight: f64) -> Result<Vec<Found>> {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (text, held) = (String::new(), Arc::default());
        let [manifest, black, empty] = [(); 3].map(|()| text.clone());
        let (items, excluded) = (Vec::new(), Vec::new());
        let (slots, text_rows, sizes) = (Vec::new(), 0, Sizes::default());
        let data = Dataset {
            manifest,
            styles: Default::default(),
            consents: Vec::new(),
            items,
            slots,
            excluded,
            cache,
            black,
            empty,
            text_rows,
            sizes,
            held,
        };
        let (media, clip) = (std::path::PathBuf::new(), None);
        let clip = Clip { media, clip, start: 0, frames: 1, said: None, crop: None, sha256: None };
        let item = |line: &usize| Item {
            id: format!("s_{line}"),
            line: *line,
            targets: Vec::new(),
            references: Vec::new(),
            text: text.clone(),
            tokens: Vec::new(),
            classes: Vec::new(),
            shown: [clip.clone(), clip.clone()],
            read: Vec::new(),
        };
        let items: Vec<Item> = lines.iter().map(item).collect();
        let mut settings = Settings::default();
        settings.train.batch = lines.len() as u64;
        let none = ModelWeights::as_named(crate::checkpoint::WeightSet::default());
        let calls = Calls::new(&settings.train, Kind::Full, [(0, 1)]);
        let backend = Backend::open("cpu", 1).unwrap();
        let objective = Box::new(Roots(Arc::new(none)));
        let run = (&settings, Kind::Full);
        let asked = (&calls, true, Memory::default());
        let mut network = Network::open(objective, &backend, run, asked, &Cancel::new()).unwrap();
        let vectors: [&[u8]; 1] = [bytemuck::cast_slice(&[0.5f32; 2])];
        let values = Values::of(&vectors);
        let draw = Draw::of(&settings.train, &Levels::new(&settings.train), "s", 0, 0);
        let example = |item| Example { data: &data, item, member: 0, draw, learned: true, weight };
        let examples: Vec<Example<'_>> = items.iter().map(example).collect();
        let found = network.differentiate(&examples, values)?;
        assert_eq!(network.losses(&examples, values).unwrap(), found);
        let slope: f32 = lines.iter().map(|line| weight as f32 * [0.0, 0.5, 1.0][*line]).sum();
        assert_eq!(network.gradient[0].to_f32_vec(), [slope; 2]);
        Ok(found)
    }

    #[test]
    fn samples_of_a_call_have_losses_of_their_own_and_one_derivative() {
        assert_eq!(run(&[1, 2, 2], 0.5).unwrap(), [[1.0], [2.0], [2.0]]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_that_of_its_sample() {
        // The root has no derivative at 0, and the loss is fine there.
        for (lines, place) in [
            ([1, 0, 2], "sample s_0, node "),
            ([1, 2, 3], "sample s_3, node "),
            ([0, 3, 1], "sample s_0, node "),
        ] {
            let error = run(&lines, 1.0).unwrap_err();
            assert_eq!(error.code(), "E1001");
            assert!(error.message().contains(place), "{error}");
        }
        // None of them by itself.
        let error = run(&[2, 2, 1], 1.5e38).unwrap_err();
        assert!(error.message().contains("sample s_2 and sample s_2 and sample s_1"), "{error}");
    }
}
