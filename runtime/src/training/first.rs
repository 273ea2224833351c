//! The values that a run begins from, where it does not begin anew: those of an adapter, or of a whole
//! network.
//!
//! A file that does not fit is refused before anything is computed, with all that differs. What runs
//! leave is for `result.rs`.

use super::parameters::{Flat, Kind, Parameters, Values, stored};
use super::request::{count_once, listed};
use super::settings::{LoraSettings, Settings, TrainedNetwork};
use super::targets::{adapted, starred};
use crate::adapter::{
    Adapter, Factors, Ground, Tolerance, is_adapter, modules_of, other_start, used,
};
use crate::checkpoint::WeightSet;
use crate::engine::finite::DAMAGED;
use crate::error::{Error, Result, plural};
use crate::judge;
use crate::model::Model;
use crate::pipeline::Cancel;
use crate::weights::ModelWeights;
use anyid_backends::WeightProvider;
use anyid_ir::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What an interruption ends here.
const READING: &str = "while reading the first values";

/// Writes the values that a run begins from: those of an adapter, or of a whole network where all of it is
/// trained. `weights` are those of the network before.
///
/// # Errors
/// E0966 for an adapter of other targets, rank or alpha, E0972 for what is not such a network of this
/// form, E1002 where `cancel` says to stop, and those of reading adapters and checkpoints.
pub fn first_values(
    path: &Path,
    kind: Kind,
    (parameters, into): (&Parameters, &mut Flat),
    settings: &Settings,
    (model, weights): (&Model, &ModelWeights),
    cancel: &Cancel,
) -> Result<()> {
    match kind {
        Kind::Full => {
            let network = settings.train.network;
            let whole =
                whole_at(path, network, model)?.ok_or_else(|| not_whole(network, path, model))?;
            whole_values(path, (parameters, into), &whole, (network, weights), cancel)
        }
        Kind::Lora | Kind::Dpo => adapter_values(path, (parameters, into), weights, cancel),
    }
}

/// Refuses first values that are not finite: those of the file that was given, or of the model.
///
/// # Errors
/// E1001.
pub fn check_finite(
    given: Option<&Path>,
    parameters: &Parameters,
    values: &Flat,
    weights: &ModelWeights,
) -> Result<()> {
    let vectors: Vec<&[u8]> = values.iter().map(Tensor::bytes).collect();
    let Some(bad) = parameters.not_finite(Values::of(&vectors)) else { return Ok(()) };
    let name = &bad.name;
    Err(match given {
        Some(path) => {
            let what = format!("a non-finite value in the first values: {name} holds one");
            Error::input("E1001", what).at(path.display()).help("give another file")
        }
        None => {
            let name = weights.stored(name).unwrap_or_else(|| format!("\"{name}\""));
            let what = format!("a non-finite value in the model: its weight {name} holds one");
            Error::input("E1001", what).help(DAMAGED)
        }
    })
}

/// Refuses a file that a run cannot begin from, before anything is computed; a warning where it is an
/// adapter of another base.
///
/// # Errors
/// E0966 and E0972, E0378 for an adapter that is in the model already, and those of reading adapters and
/// checkpoints.
pub fn check_first(
    path: &Path,
    kind: Kind,
    settings: &Settings,
    model: &Model,
) -> Result<Option<String>> {
    let network = settings.train.network;
    match (kind, whole_at(path, network, model)?) {
        (Kind::Full, Some(_)) if !model.adapters.is_empty() => {
            let what = "these weights would replace the ones with the adapters of model.adapters";
            Err(Error::input("E0966", what).at(path.display()).help(
                "leave out model.adapters, or merge them into these weights with `anyid-rt lora merge`",
            ))
        }
        (Kind::Full, Some(_)) => Ok(None),
        (Kind::Full, None) => Err(not_whole(network, path, model)),
        (Kind::Lora | Kind::Dpo, Some(_)) => {
            Err(Error::input("E0966", "this is a whole transformer, not an adapter")
                .at(path.display())
                .help("put it into a copy of the model folder, and name that in model.path"))
        }
        (Kind::Lora | Kind::Dpo, None) => {
            let modules = modules_of(model.dit_weights.set());
            let adapter = crate::adapter::open(path, &modules, Tolerance::default())?;
            check_adapter(&adapter, settings, model)?;
            let ground = Ground::of(&model.dit_weights)?;
            let own = used(&format!("the first values, {}", path.display()), &adapter, 1.0)?;
            count_once(&ground, &own, &listed(model)).map_err(|error| error.at(path.display()))?;
            Ok(other_start(&adapter, &ground, &model.parts_on()))
        }
    }
}

/// The weights of a whole network; none for another file, and for a folder.
fn whole_at(path: &Path, network: TrainedNetwork, model: &Model) -> Result<Option<ModelWeights>> {
    if path.is_dir() {
        return Ok(None);
    }
    let set = WeightSet::open(path)?;
    let whole = !is_adapter(set.names());
    let found = match network.component(model) {
        Some(component) => ModelWeights::recognise(&set, component).ok(),
        None => judge::recognise(&set),
    };
    Ok(found.filter(|_| whole))
}

/// The error of a file that is something else than a network of the kind that is trained: with what it is.
fn not_whole(network: TrainedNetwork, path: &Path, model: &Model) -> Error {
    let wanted = network.described();
    let message = match what_is(path, model) {
        Some(found) => format!("this is {found}, not a whole {wanted}"),
        None => format!("this is not a whole {wanted}"),
    };
    unlike(message, network, path)
}

/// What a file or folder is, as far as that can be told.
fn what_is(path: &Path, model: &Model) -> Option<String> {
    if path.is_dir() {
        return Some("a folder".to_owned());
    }
    let set = WeightSet::open(path).ok()?;
    if is_adapter(set.names()) {
        return Some("an adapter".to_owned());
    }
    let is = |network: &TrainedNetwork| match network.component(model) {
        Some(component) => ModelWeights::recognise(&set, component).is_ok(),
        None => judge::recognise(&set).is_some(),
    };
    let found = TrainedNetwork::ALL.into_iter().find(is);
    let some = || set.names().take(2).collect::<Vec<_>>().join(", ");
    Some(match found {
        Some(network) => format!("a whole {}", network.described()),
        None => format!("a file of {} other tensors ({} …)", set.names().count(), some()),
    })
}

/// The error of a file that is not the network that is trained.
fn unlike(message: String, network: TrainedNetwork, path: &Path) -> Error {
    Error::input("E0972", message).at(path.display()).help(format!(
        "give the {}.safetensors of a run of `train full` for a model of these sizes",
        network.file()
    ))
}

/// The values of a whole network. What training adds to it begins as ever.
fn whole_values(
    path: &Path,
    (parameters, into): (&Parameters, &mut Flat),
    weights: &ModelWeights,
    (network, before): (TrainedNetwork, &ModelWeights),
    cancel: &Cancel,
) -> Result<()> {
    let (set, own) = (weights.set(), before.set());
    parameters.fill(into, &mut |parameter, values| {
        cancel.check(READING)?;
        let shape: Vec<u64> = parameter.ty.shape.iter().map(|size| *size as u64).collect();
        let there = set.tensor(&parameter.name).map(|weight| &weight.shape);
        if there != Some(&shape) && own.tensor(&parameter.name).is_some() {
            let (name, sizes) = (&parameter.name, sizes(&shape));
            let message = match there {
                Some(there) => {
                    format!("{name} is {} there, the model has {sizes}", self::sizes(there))
                }
                None => format!("{name} of {sizes} is not there"),
            };
            return Err(unlike(message, network, path));
        }
        stored(weights, &parameter.name, 0, values)
    })
}

/// Sizes as `64x32`.
fn sizes(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    sizes.join("x")
}

/// What an adapter changes, and how.
#[derive(Default)]
struct Form<'f> {
    /// Something that no run trains.
    odd: Option<String>,
    ranks: BTreeSet<u64>,
    alphas: Vec<f32>,
    linears: BTreeSet<&'f str>,
}

impl<'f> Form<'f> {
    fn of(adapter: &'f Adapter) -> Self {
        let mut out = Self::default();
        for change in &adapter.changes {
            let product = change.product.as_ref();
            let product = product.filter(|own| matches!(own.factors, Factors::LowRank { .. }));
            let rest = [&change.magnitude, &change.up_bias, &change.diff];
            let rest = rest.into_iter().chain([&change.diff_bias, &change.diff_modulation]);
            let (Some(product), 0) = (product, rest.flatten().count()) else {
                let what = format!("{} for {}", change.describe(), change.module);
                let what = format!("{what}, a run trains products of two matrices alone");
                out.odd.get_or_insert(what);
                continue;
            };
            out.ranks.extend(product.rank);
            let alpha = product.alpha() as f32;
            if !out.alphas.contains(&alpha) {
                out.alphas.push(alpha);
            }
            out.linears.insert(change.module.as_str());
        }
        out
    }

    /// That of the adapter that a run with these settings leaves; its linears are known with a model.
    fn trained(lora: &LoraSettings, model: Option<&'f Model>) -> Self {
        Self {
            odd: None,
            ranks: BTreeSet::from([lora.rank as u64]),
            alphas: vec![lora.alpha as f32],
            linears: model.map_or_else(BTreeSet::new, |model| linears(&lora.targets, model)),
        }
    }

    /// Where it is another one than settings train, line by line; of linears where the model is known.
    fn apart(&self, lora: &LoraSettings, model: Option<&Model>) -> Vec<String> {
        let mut rows: Vec<String> = self.odd.iter().cloned().collect();
        let listed = |all: Vec<String>| all.join(", ");
        if self.ranks.iter().any(|rank| *rank != lora.rank as u64) {
            let all = listed(self.ranks.iter().map(u64::to_string).collect());
            rows.push(format!("rank {all}, lora.rank is {}", lora.rank));
        }
        let wanted = lora.alpha as f32;
        if self.alphas.iter().any(|alpha| (alpha - wanted).abs() > 1e-6 * wanted) {
            let all = listed(self.alphas.iter().map(f32::to_string).collect());
            rows.push(format!("alpha {all}, lora.alpha is {}", lora.alpha));
        }
        let Some(model) = model else { return rows };
        let (own, asked) = (&self.linears, linears(&lora.targets, model));
        let named = |names: Vec<&&str>| {
            let some: Vec<&str> = names.iter().take(2).map(|name| **name).collect();
            let more = if names.len() > some.len() { ", …" } else { "" };
            format!("{} ({}{more})", plural(names.len(), "linear"), some.join(", "))
        };
        let lacks: Vec<&&str> = asked.difference(own).collect();
        if !lacks.is_empty() {
            rows.push(format!("nothing for {} of lora.targets", named(lacks)));
        }
        let more: Vec<&&str> = own.difference(&asked).collect();
        if !more.is_empty() {
            rows.push(format!("{} that lora.targets does not have", named(more)));
        }
        rows
    }
}

/// The linears of a model that get an adapter where these are the targets.
fn linears<'m>(targets: &[String], model: &'m Model) -> BTreeSet<&'m str> {
    adapted(targets, model).into_iter().map(|(name, _)| name).collect()
}

/// Where what a run under settings `from` leaves is nothing that one under `to` can begin with, line by
/// line: as far as settings tell, and of the linears of an adapter where the model is known.
pub fn apart(kind: Kind, from: &Settings, to: &Settings, model: Option<&Model>) -> Vec<String> {
    let network = to.train.network;
    match (kind, network) {
        (Kind::Lora | Kind::Dpo, _) => Form::trained(&from.lora, model).apart(&to.lora, model),
        (Kind::Full, TrainedNetwork::Judge) => {
            // Of its sizes, this one alone decides a shape.
            let [then, now] = [from, to].map(|settings| judge::trained(settings.size()).frames);
            let row = || format!("a judge of {}, this one looks at {now}", plural(then, "frame"));
            if then == now { Vec::new() } else { vec![row()] }
        }
        (Kind::Full, _) => Vec::new(),
    }
}

/// Refuses an adapter that is not one of those that the settings train, with all that differs.
///
/// # Errors
/// E0966.
fn check_adapter(adapter: &Adapter, settings: &Settings, model: &Model) -> Result<()> {
    let form = Form::of(adapter);
    let rows = form.apart(&settings.lora, Some(model));
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = rows.into_iter().map(|row| format!("\n  {row}")).collect();
    let message =
        format!("the adapter is not of the form that the settings train: it has{}", rows.concat());
    let Form { odd, ranks, alphas, linears: own } = form;
    let help = match (ranks.first(), &alphas[..]) {
        (Some(rank), [alpha]) if ranks.len() == 1 && odd.is_none() => {
            let asked = &settings.lora;
            let mut others = Vec::new();
            if *rank != asked.rank as u64 {
                others.push(format!("lora.rank = {rank}"));
            }
            if (alpha - asked.alpha as f32).abs() > 1e-6 * alpha.abs() {
                others.push(format!("lora.alpha = {alpha:?}"));
            }
            if linears(&asked.targets, model) != own {
                let targets: Vec<String> = starred(own.iter().copied()).into_iter().collect();
                others.push(match linears(&targets, model) == own {
                    true => format!("lora.targets = {targets:?}"),
                    false => "lora.targets to its linears".to_owned(),
                });
            }
            format!(
                "set {}, or name the adapter in model.adapters and train another one on top of it",
                others.join(", ")
            )
        }
        _ => "name it in model.adapters and train another adapter on top of it".to_owned(),
    };
    Err(Error::input("E0966", message).at(adapter.path.display()).help(help))
}

/// The values of an adapter that was checked.
fn adapter_values(
    path: &Path,
    (parameters, into): (&Parameters, &mut Flat),
    weights: &ModelWeights,
    cancel: &Cancel,
) -> Result<()> {
    let adapter = crate::adapter::open(path, &modules_of(weights.set()), Tolerance::default())?;
    let set = adapter.tensors();
    let mut ends: BTreeMap<String, String> = BTreeMap::new();
    for change in &adapter.changes {
        let Some(product) = &change.product else { continue };
        let Factors::LowRank { up, down } = &product.factors else { continue };
        ends.insert(format!("{}.lora_A.weight", change.module), down.clone());
        ends.insert(format!("{}.lora_B.weight", change.module), up.clone());
    }
    parameters.fill(into, &mut |parameter, values| {
        cancel.check(READING)?;
        let shape: Vec<u64> = parameter.ty.shape.iter().map(|size| *size as u64).collect();
        let name = ends.get(&parameter.name);
        let found = name.and_then(|name| Some((name, set.tensor(name)?)));
        let Some((name, _)) = found.filter(|(_, weight)| weight.shape == shape) else {
            let message = format!("the adapter has no {} of {}", parameter.name, sizes(&shape));
            return Err(Error::input("E0966", message)
                .at(path.display())
                .help("the file was changed meanwhile: start again"));
        };
        set.read_f32(name, 0, bytemuck::cast_slice_mut(values))
    })
}
