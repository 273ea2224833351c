//! What is trained: named tensors, and the flat vectors in which the optimiser keeps them.
//!
//! The tensors of one block of the transformer lie in one vector, in the order of their names, what the
//! weight decay leaves out in another, and what is in a group of the settings in vectors of the group; for
//! Muon those of one shape in all blocks. Values are f32; where a network computes in another type, it rounds
//! them. First values of adapters come from the seed.

use super::rules::{GroupSettings, Method, group_of, matrix};
use super::settings::{LoraSettings, Settings};
use crate::engine::finite::scan;
use crate::error::Result;
use crate::init;
use crate::pipeline::Cancel;
use crate::weights::ModelWeights;
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::optimiser::{Group, Matrices};
use anyid_models::wan::names::Component;
use anyid_passes::LoraTarget;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An adapter, on samples.
    Lora,
    /// An adapter, on pairs.
    Dpo,
    /// Every weight of a network, on samples.
    Full,
}

impl Kind {
    /// What it is trained on, one of them: a sample or a pair.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Lora | Self::Full => "sample",
            Self::Dpo => "pair",
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Dpo => "dpo",
            Self::Full => "full",
        }
    }
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name, that of an input of the network.
    pub name: String,
    /// Its type in the network.
    pub ty: TensorType,
    group: usize,
    offset: usize,
}

impl Parameter {
    /// Which vector it is in, and where.
    pub fn place(&self) -> (usize, std::ops::Range<usize>) {
        (self.group, self.offset..self.offset + self.ty.elements())
    }

    /// Whether it is the second matrix of an adapter, which is zero at first.
    fn is_second(&self) -> bool {
        self.name.ends_with(".lora_B.weight")
    }
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// In the order of their names.
    pub list: Vec<Parameter>,
    /// The vectors.
    pub groups: Vec<Group>,
}

/// Values of all parameters, one tensor for each vector.
pub type Flat = Vec<Tensor>;

/// Values of all parameters where they lie: the vectors, as f32.
#[derive(Clone, Copy, Debug)]
pub struct Values<'v> {
    vectors: &'v [&'v [u8]],
    /// What the second matrix of every adapter is instead.
    zeros: Option<&'v [u8]>,
}

impl<'v> Values<'v> {
    /// Those of these vectors.
    pub fn of(vectors: &'v [&'v [u8]]) -> Self {
        Self { vectors, zeros: None }
    }

    /// These, with adapters that change nothing: the base's bits. `zeros` are [`Parameters::zeros_of`].
    pub fn of_base(self, zeros: &'v [u8]) -> Self {
        Self { zeros: Some(zeros), ..self }
    }

    /// What one parameter has.
    pub fn bytes(&self, parameter: &Parameter) -> &'v [u8] {
        let (group, range) = parameter.place();
        match self.zeros {
            Some(zeros) if parameter.is_second() => &zeros[..4 * range.len()],
            _ => &self.vectors[group][4 * range.start..4 * range.end],
        }
    }

    /// What one parameter has, as numbers.
    pub fn numbers(&self, parameter: &Parameter) -> &'v [f32] {
        bytemuck::cast_slice(self.bytes(parameter))
    }
}

impl Parameters {
    /// The first one that has a value which is not finite.
    pub fn not_finite(&self, values: Values<'_>) -> Option<&Parameter> {
        self.list.iter().find(|own| scan(DType::F32, values.bytes(own)).is_some())
    }
}

/// Most numbers of matrices that go through Muon together, unless one has more: the memory for it is a few
/// times that.
const STACK: usize = 1 << 24;

/// The adapters that settings ask for.
pub fn targets(lora: &LoraSettings) -> Vec<LoraTarget> {
    let (rank, alpha) = (lora.rank, lora.alpha);
    lora.targets
        .iter()
        .map(|pattern| LoraTarget { pattern: pattern.clone(), rank, alpha })
        .collect()
}

impl Parameters {
    /// Those that a plan gives derivatives of, in vectors as groups of settings want it. `component` says
    /// what else they are called.
    pub fn of_plan(plan: &Plan, groups: &[GroupSettings], component: Option<Component>) -> Self {
        let types: BTreeMap<&str, &TensorType> =
            plan.inputs.iter().map(|p| (p.name.as_str(), &plan.buffer(p.buffer).ty)).collect();
        let names = plan.outputs.iter().filter_map(|port| port.name.strip_prefix("grad."));
        Self::of(names.map(|name| (name, types[name])), groups, component)
    }

    /// Those of these names and types.
    pub fn of<'n>(
        named: impl IntoIterator<Item = (&'n str, &'n TensorType)>,
        groups: &[GroupSettings],
        component: Option<Component>,
    ) -> Self {
        let mut named: Vec<(&str, &TensorType)> = named.into_iter().collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        let mut out = Self { list: Vec::new(), groups: Vec::new() };
        // Names without the number of a further vector alike.
        let mut stems: Vec<String> = Vec::new();
        for (name, ty) in named {
            let own = group_of(groups, name, component);
            let muon = own.is_some_and(|own| groups[own].optimiser == Method::Muon);
            let matrices = matrix(&ty.shape).filter(|_| muon);
            // A vector stays one with axes of length one around it.
            let wide = ty.shape.iter().filter(|size| **size > 1).count();
            let decays = name.contains(".lora_") || wide > 1;
            let (stem, most) = stem(name, decays, own, matrices);
            let fits = |at: &usize| out.groups[*at].elements + ty.elements() <= most;
            let last = stems.iter().rposition(|known| *known == stem).filter(fits);
            let group = last.unwrap_or_else(|| {
                let before = stems.iter().filter(|known| **known == stem).count();
                let name = match before {
                    0 => stem.clone(),
                    before => format!("{stem}.{before}"),
                };
                let rates = own.map_or(0, |own| own + 1);
                out.groups.push(Group { name, elements: 0, decays, rates, matrices });
                stems.push(stem);
                out.groups.len() - 1
            });
            let offset = out.groups[group].elements;
            out.groups[group].elements += ty.elements();
            out.list.push(Parameter { name: name.to_owned(), ty: ty.clone(), group, offset });
        }
        out
    }

    /// The places of all vectors.
    pub fn places(&self) -> Vec<usize> {
        (0..self.groups.len()).collect()
    }

    /// Whether an input of the network is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.list.binary_search_by(|own| own.name.as_str().cmp(name)).is_ok()
    }

    /// Bytes of the inputs and results of a plan that are not of this length: what samples give and get.
    pub fn call_bytes(&self, plan: &Plan) -> u64 {
        let inputs = plan.inputs.iter().filter(|port| !self.has(&port.name));
        let results = plan.outputs.iter().filter(|port| !port.name.starts_with("grad."));
        let bytes = inputs.chain(results).map(|port| plan.buffer(port.buffer).ty.bytes());
        bytes.fold(0, u64::saturating_add)
    }

    /// How many numbers are trained.
    pub fn elements(&self) -> u64 {
        self.groups.iter().map(|group| group.elements as u64).sum()
    }

    /// Vectors of zeros.
    pub fn zeros(&self) -> Flat {
        let ty = |group: &Group| TensorType::new(DType::F32, [group.elements]);
        self.groups.iter().map(|group| Tensor::zeros(ty(group))).collect()
    }

    /// The values of one.
    pub fn values<'f>(&self, flat: &'f Flat, parameter: &Parameter) -> &'f [f32] {
        let (group, range) = parameter.place();
        &flat[group].as_f32().expect("vectors are f32")[range]
    }

    /// Zeros in place of the largest second matrix of an adapter.
    pub fn zeros_of(&self) -> Vec<u8> {
        let second = self.list.iter().filter(|parameter| parameter.is_second());
        vec![0; 4 * second.map(|parameter| parameter.ty.elements()).max().unwrap_or(0)]
    }

    /// Writes all values into vectors; each parameter is asked for once.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn fill(
        &self,
        into: &mut Flat,
        fill: &mut dyn FnMut(&Parameter, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        for parameter in &self.list {
            let (group, range) = parameter.place();
            fill(parameter, &mut into[group].as_f32_mut().expect("vectors are f32")[range])?;
        }
        Ok(())
    }

    /// The first values of a run: of an adapter A uniform within ±1/√in and B zero (`anyid.md` §4.2),
    /// of weights what the model has.
    ///
    /// # Errors
    /// E0330 to E0332 where the model cannot be read, E1002 where `cancel` says to stop.
    pub fn first(
        &self,
        into: &mut Flat,
        kind: Kind,
        settings: &Settings,
        weights: &ModelWeights,
        cancel: &Cancel,
    ) -> Result<()> {
        self.fill(into, &mut |parameter, values| {
            cancel.check("while reading the first values")?;
            match kind {
                Kind::Full => stored(weights, &parameter.name, 0, values)?,
                Kind::Lora | Kind::Dpo if parameter.is_second() => values.fill(0.0),
                Kind::Lora | Kind::Dpo => {
                    let bound = 1.0 / (parameter.ty.shape[1] as f32).sqrt();
                    let (seed, count) = (settings.train.seed, values.len());
                    let drawn = init::uniform(seed, &parameter.name, bound, count);
                    values.copy_from_slice(&drawn);
                }
            }
            Ok(())
        })
    }
}

/// What the vector of a parameter is called, and how many numbers it may have.
fn stem(
    name: &str,
    decays: bool,
    own: Option<usize>,
    matrices: Option<Matrices>,
) -> (String, usize) {
    let group = own.map_or(String::new(), |own| format!("group{}.", own + 1));
    if let Some(Matrices { rows, columns }) = matrices {
        return (format!("{group}matrices.{rows}.{columns}"), STACK);
    }
    let block: Vec<&str> = name.splitn(3, '.').collect();
    let block = match block[..] {
        ["blocks", number, _] => format!("blocks.{number}"),
        _ => "outside".to_owned(),
    };
    let end = if decays { "" } else { ".undecayed" };
    (format!("{group}{block}{end}"), usize::MAX)
}

/// Writes what a model has of a weight, from element `first` on, as f32. What it has not, and training
/// adds, begins with zeros.
///
/// # Errors
/// E0330 to E0332 where it cannot be read.
pub fn stored(weights: &ModelWeights, name: &str, first: usize, into: &mut [f32]) -> Result<()> {
    if weights.set().tensor(name).is_none() {
        into.fill(0.0);
        return Ok(());
    }
    weights.set().read_f32(name, first as u64, bytemuck::cast_slice_mut(into))
}

/// The root of the sum over the elements of a weight of what `square` makes of each: its place and
/// what the model has. They are read in pieces.
fn root(
    weights: &ModelWeights,
    name: &str,
    count: usize,
    square: &dyn Fn(usize, f32) -> f64,
) -> Result<f64> {
    let mut piece = vec![0f32; count.min(1 << 16)];
    let mut sum = 0.0;
    for first in (0..count).step_by(piece.len().max(1)) {
        let some = (count - first).min(piece.len());
        stored(weights, name, first, &mut piece[..some])?;
        for (at, value) in (first..).zip(&piece[..some]) {
            sum += square(at, *value);
        }
    }
    Ok(sum.sqrt())
}

/// How far a run has moved each of its targets: the norm of the change over that of the weight. What was
/// zero is left out.
///
/// # Errors
/// E0330 to E0332 where the model cannot be read.
pub fn moved(
    parameters: &Parameters,
    values: Values<'_>,
    kind: Kind,
    settings: &Settings,
    base: &BTreeMap<String, f64>,
    weights: &ModelWeights,
) -> Result<BTreeMap<String, f64>> {
    let mut out = BTreeMap::new();
    if kind == Kind::Full {
        for parameter in &parameters.list {
            let Some(norm) = base.get(&parameter.name) else { continue };
            let (name, now) = (&parameter.name, values.numbers(parameter));
            let change = |at: usize, before: f32| f64::from(now[at] - before).powi(2);
            out.insert(name.clone(), root(weights, name, now.len(), &change)? / norm);
        }
        return Ok(out);
    }
    let by_name: BTreeMap<&str, &Parameter> =
        parameters.list.iter().map(|parameter| (parameter.name.as_str(), parameter)).collect();
    for (name, a) in &by_name {
        let Some(module) = name.strip_suffix(".lora_A.weight") else { continue };
        let Some(norm) = base.get(module) else { continue };
        let b = by_name[format!("{module}.lora_B.weight").as_str()];
        let [rank, inputs] = [a.ty.shape[0], a.ty.shape[1]];
        let (a, b) = (values.numbers(a), values.numbers(b));
        // ‖B A‖² = Σ (A Aᵀ) ∘ (Bᵀ B), without the product itself.
        let mut square = 0.0;
        for i in 0..rank {
            for j in 0..rank {
                let row = |at: usize| &a[at * inputs..(at + 1) * inputs];
                let left: f64 = row(i).iter().zip(row(j)).map(|(x, y)| f64::from(x * y)).sum();
                let rows = b.chunks_exact(rank);
                let right: f64 = rows.map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
                square += left * right;
            }
        }
        let scale = settings.lora.alpha / settings.lora.rank as f64;
        out.insert(module.to_owned(), scale * square.max(0.0).sqrt() / norm);
    }
    Ok(out)
}

/// The norms of the weights that a run changes, by target, where they are not zero.
///
/// # Errors
/// E0330 to E0332 where the model cannot be read, E1002 where `cancel` says to stop.
pub fn norms(
    parameters: &Parameters,
    kind: Kind,
    weights: &ModelWeights,
    cancel: &Cancel,
) -> Result<BTreeMap<String, f64>> {
    let mut out = BTreeMap::new();
    let mut add = |target: &str, weight: &str| -> Result<()> {
        cancel.check("while reading the model")?;
        let Some(stored) = weights.set().tensor(weight) else { return Ok(()) };
        let count = stored.elements() as usize;
        let norm = root(weights, weight, count, &|_, value| f64::from(value).powi(2))?;
        if norm > 0.0 {
            out.insert(target.to_owned(), norm);
        }
        Ok(())
    };
    for parameter in &parameters.list {
        match (kind, parameter.name.strip_suffix(".lora_A.weight")) {
            (Kind::Full, _) => add(&parameter.name, &parameter.name)?,
            (_, Some(module)) => add(module, &format!("{module}.weight"))?,
            (_, None) => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_a_block_lie_together_and_vectors_do_not_decay() {
        let [matrix, vector] =
            [vec![2, 3], vec![3]].map(|shape| TensorType::new(DType::F32, shape));
        let named = [
            ("head.head.weight", &matrix),
            ("blocks.0.ffn.0.weight", &matrix),
            ("blocks.0.ffn.0.bias", &vector),
            ("blocks.1.self_attn.q.lora_A.weight", &matrix),
            ("blocks.0.ffn.2.weight", &matrix),
        ];
        let parameters = Parameters::of(named, &[], None);
        let groups: Vec<(&str, usize, bool)> =
            parameters.groups.iter().map(|g| (g.name.as_str(), g.elements, g.decays)).collect();
        assert_eq!(
            groups,
            [
                ("blocks.0.undecayed", 3, false),
                ("blocks.0", 12, true),
                ("blocks.1", 6, true),
                ("outside", 6, true)
            ]
        );
        let (mut next, mut flat) = (0.0, parameters.zeros());
        let filled = parameters.fill(&mut flat, &mut |_, values| {
            next += 1.0;
            values.fill(next);
            Ok(())
        });
        filled.unwrap();
        let vectors: Vec<&[u8]> = flat.iter().map(Tensor::bytes).collect();
        for (at, parameter) in (1..).zip(&parameters.list) {
            let values = Values::of(&vectors).numbers(parameter);
            assert_eq!(values, vec![at as f32; parameter.ty.elements()], "{}", parameter.name);
        }
        assert_eq!(parameters.elements(), 27);
    }

    #[test]
    fn matrices_for_muon_lie_together_by_their_shapes_as_far_as_there_is_room() {
        let f32s = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
        let (square, kernel, bias) = (f32s(&[4, 4]), f32s(&[4, 2, 2, 1]), f32s(&[4]));
        let large = f32s(&[2, STACK / 4]);
        let group = |pattern: &str, optimiser| GroupSettings {
            patterns: vec![pattern.to_owned()],
            optimiser,
            ..GroupSettings::default()
        };
        let groups = [group("*.q.weight", Method::AdamW), group("*.weight", Method::Muon)];
        let named = [
            ("blocks.0.q.weight", &square),
            ("blocks.0.k.weight", &square),
            ("blocks.1.k.weight", &square),
            ("blocks.1.conv.weight", &kernel),
            ("blocks.1.k.bias", &bias),
            ("large.0.weight", &large),
            ("large.1.weight", &large),
            ("large.2.weight", &large),
        ];
        let parameters = Parameters::of(named, &groups, None);
        let found: Vec<(&str, usize, usize, bool)> = parameters
            .groups
            .iter()
            .map(|g| (g.name.as_str(), g.elements, g.rates, g.matrices.is_some()))
            .collect();
        assert_eq!(
            found,
            [
                ("group2.matrices.4.4", 48, 2, true),
                ("group1.blocks.0", 16, 1, false),
                ("blocks.1.undecayed", 4, 0, false),
                ("group2.matrices.2.4194304", STACK, 2, true),
                ("group2.matrices.2.4194304.1", STACK / 2, 2, true),
            ]
        );
    }

    #[test]
    fn the_way_of_an_adapter_is_the_norm_of_its_product() {
        let model = crate::model::Model::micro().unwrap();
        let mut settings = Settings::default();
        settings.lora.rank = 2;
        settings.lora.alpha = 6.0;
        let [a, b] = [[2, 3], [4, 2]].map(|shape| TensorType::new(DType::F32, shape));
        let parameters =
            Parameters::of([("m.lora_A.weight", &a), ("m.lora_B.weight", &b)], &[], None);
        let values: Vec<f32> = (0..14).map(|k| (k as f32 * 0.7).sin()).collect();
        let vectors: [&[u8]; 1] = [bytemuck::cast_slice(&values)];
        let base = BTreeMap::from([("m".to_owned(), 5.0)]);
        let (given, weights) = (Values::of(&vectors), &model.dit_weights);
        let found = moved(&parameters, given, Kind::Lora, &settings, &base, weights).unwrap();
        let (a, b) = (&values[..6], &values[6..]);
        let mut square = 0.0;
        for row in 0..4 {
            for column in 0..3 {
                let product = b[2 * row] * a[column] + b[2 * row + 1] * a[3 + column];
                square += f64::from(product).powi(2);
            }
        }
        let expected = 3.0 * square.sqrt() / 5.0;
        assert!((found["m"] - expected).abs() < 1e-6 * expected, "{found:?} {expected}");
    }
}
