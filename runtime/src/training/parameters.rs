//! What is trained: named tensors, and the flat vectors in which the optimiser keeps them.
//!
//! The tensors of one block of the transformer lie in one vector, in the order of their names, and
//! what the weight decay leaves out in another. Values are f32; where a network computes in another
//! type, it rounds them. First values of adapters come from the seed.

use super::settings::{LoraSettings, Settings};
use crate::error::{Error, Result};
use crate::init;
use crate::model::Model;
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::optimiser::Group;
use anyid_passes::LoraTarget;
use std::collections::BTreeMap;

/// What a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An adapter, on samples.
    Lora,
    /// An adapter, on pairs.
    Dpo,
    /// Every weight of the transformer, on samples.
    Full,
}

impl Kind {
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

/// The adapters that settings ask for.
pub fn targets(lora: &LoraSettings) -> Vec<LoraTarget> {
    let (rank, alpha) = (lora.rank, lora.alpha);
    lora.targets
        .iter()
        .map(|pattern| LoraTarget { pattern: pattern.clone(), rank, alpha })
        .collect()
}

impl Parameters {
    /// Those that a plan gives derivatives of.
    pub fn of_plan(plan: &Plan) -> Self {
        let types: BTreeMap<&str, &TensorType> =
            plan.inputs.iter().map(|p| (p.name.as_str(), &plan.buffer(p.buffer).ty)).collect();
        let names = plan.outputs.iter().filter_map(|port| port.name.strip_prefix("grad."));
        Self::of(names.map(|name| (name, types[name])))
    }

    /// Those of these names and types.
    pub fn of<'n>(named: impl IntoIterator<Item = (&'n str, &'n TensorType)>) -> Self {
        let mut named: Vec<(&str, &TensorType)> = named.into_iter().collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        let mut out = Self { list: Vec::new(), groups: Vec::new() };
        for (name, ty) in named {
            let decays = name.contains(".lora_") || ty.rank() > 1;
            let block: Vec<&str> = name.splitn(3, '.').collect();
            let block = match block[..] {
                ["blocks", number, _] => format!("blocks.{number}"),
                _ => "outside".to_owned(),
            };
            let block = if decays { block } else { format!("{block}.undecayed") };
            let group = out.groups.iter().position(|group| group.name == block);
            let group = group.unwrap_or_else(|| {
                out.groups.push(Group { name: block, elements: 0, decays });
                out.groups.len() - 1
            });
            let offset = out.groups[group].elements;
            out.groups[group].elements += ty.elements();
            out.list.push(Parameter { name: name.to_owned(), ty: ty.clone(), group, offset });
        }
        out
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
    /// E0330 to E0332 where the model cannot be read.
    pub fn first(
        &self,
        into: &mut Flat,
        kind: Kind,
        settings: &Settings,
        model: &Model,
    ) -> Result<()> {
        self.fill(into, &mut |parameter, values| {
            match kind {
                Kind::Full => stored(model, &parameter.name, 0, values)?,
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

/// Writes what a model has of a weight, from element `first` on, as f32.
///
/// # Errors
/// E0330 to E0332 where it cannot be read.
fn stored(model: &Model, name: &str, first: usize, into: &mut [f32]) -> Result<()> {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(into);
    model.dit_weights.set().read_f32(name, first as u64, bytes)
}

/// The root of the sum over the elements of a weight of what `square` makes of each: its place and
/// what the model has. They are read in pieces.
fn root(
    model: &Model,
    name: &str,
    count: usize,
    square: &dyn Fn(usize, f32) -> f64,
) -> Result<f64> {
    let mut piece = vec![0f32; count.min(1 << 16)];
    let mut sum = 0.0;
    for first in (0..count).step_by(piece.len().max(1)) {
        let some = (count - first).min(piece.len());
        stored(model, name, first, &mut piece[..some])?;
        for (at, value) in (first..).zip(&piece[..some]) {
            sum += square(at, *value);
        }
    }
    Ok(sum.sqrt())
}

/// How far a run has moved each of its targets: the norm of the change over that of the weight.
///
/// # Errors
/// E0330 to E0332 where the model cannot be read.
pub fn moved(
    parameters: &Parameters,
    values: Values<'_>,
    kind: Kind,
    settings: &Settings,
    base: &BTreeMap<String, f64>,
    model: &Model,
) -> Result<BTreeMap<String, f64>> {
    let mut out = BTreeMap::new();
    if kind == Kind::Full {
        for parameter in &parameters.list {
            let (name, now) = (&parameter.name, values.numbers(parameter));
            let change = |at: usize, before: f32| f64::from(now[at] - before).powi(2);
            out.insert(name.clone(), root(model, name, now.len(), &change)? / base[name]);
        }
        return Ok(out);
    }
    let by_name: BTreeMap<&str, &Parameter> =
        parameters.list.iter().map(|parameter| (parameter.name.as_str(), parameter)).collect();
    for (name, a) in &by_name {
        let Some(module) = name.strip_suffix(".lora_A.weight") else { continue };
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
        out.insert(module.to_owned(), scale * square.max(0.0).sqrt() / base[module]);
    }
    Ok(out)
}

/// The norms of the weights that a run changes, by target.
///
/// # Errors
/// E0330 to E0332 where the model cannot be read.
pub fn norms(parameters: &Parameters, kind: Kind, model: &Model) -> Result<BTreeMap<String, f64>> {
    let mut out = BTreeMap::new();
    let mut add = |target: &str, weight: &str| -> Result<()> {
        let set = model.dit_weights.set();
        let count = set.tensor(weight).map_or(0, |weight| weight.elements());
        let norm = root(model, weight, count as usize, &|_, value| f64::from(value).powi(2))?;
        out.insert(target.to_owned(), norm.max(f64::MIN_POSITIVE));
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

/// The error of an adapter that a run cannot begin from.
pub fn unfit(message: String, place: &std::path::Path) -> Error {
    Error::input("E0966", message).at(place.display()).help(
        "give an adapter of the same targets and rank, or set lora.targets and lora.rank to its",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_a_block_lie_together_and_vectors_do_not_decay() {
        let [matrix, vector] =
            [vec![2, 3], vec![3]].map(|shape| TensorType::new(DType::F32, shape));
        let parameters = Parameters::of([
            ("head.head.weight", &matrix),
            ("blocks.0.ffn.0.weight", &matrix),
            ("blocks.0.ffn.0.bias", &vector),
            ("blocks.1.self_attn.q.lora_A.weight", &matrix),
            ("blocks.0.ffn.2.weight", &matrix),
        ]);
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
    fn the_way_of_an_adapter_is_the_norm_of_its_product() {
        let model = Model::micro().unwrap();
        let mut settings = Settings::default();
        settings.lora.rank = 2;
        settings.lora.alpha = 6.0;
        let [a, b] = [[2, 3], [4, 2]].map(|shape| TensorType::new(DType::F32, shape));
        let parameters = Parameters::of([("m.lora_A.weight", &a), ("m.lora_B.weight", &b)]);
        let values: Vec<f32> = (0..14).map(|k| (k as f32 * 0.7).sin()).collect();
        let vectors: [&[u8]; 1] = [bytemuck::cast_slice(&values)];
        let base = BTreeMap::from([("m".to_owned(), 5.0)]);
        let given = Values::of(&vectors);
        let found = moved(&parameters, given, Kind::Lora, &settings, &base, &model).unwrap();
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
