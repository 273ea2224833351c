//! Groups of parameters with an optimiser and a learning rate of their own: the `[[group]]` tables of
//! settings.
//!
//! A parameter belongs to the first group that has a pattern for its name; what no group has is updated as
//! `[train]` says. Patterns are checked before anything is encoded or compiled, with the names there are.

use super::parameters::Kind;
use super::settings::Settings;
use super::targets::{adapted, meant};
use crate::error::{Error, Result};
use crate::judge;
use crate::model::Model;
use anyid_models::judge::manifest;
use anyid_models::optimiser::Matrices;
use anyid_passes::grad::matches;
use serde::{Deserialize, Deserializer, Serialize};

/// What updates parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By the mean and the mean square of each gradient.
    #[default]
    AdamW,
    /// By the momentum of a matrix, made orthogonal.
    Muon,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupSettings {
    /// Names of parameters; a star stands for any text.
    #[serde(rename = "match", deserialize_with = "one_or_several")]
    pub patterns: Vec<String>,
    /// What updates them.
    pub optimiser: Method,
    /// Learning rate; that of `[train]` without it.
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay; that of `[train]` without it.
    pub weight_decay: Option<f64>,
    /// Of the gradients, for Muon; 0.95 without it.
    pub momentum: Option<f64>,
}

/// Momentum of Muon where none is given.
pub const MOMENTUM: f64 = 0.95;

/// Text, or a list of texts.
fn one_or_several<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a name in quotes, or a list of names")]
    enum Either {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Either::deserialize(from)? {
        Either::One(one) => vec![one],
        Either::Several(several) => several,
    })
}

/// The number of the group that a parameter belongs to, from 0; none for the rest.
pub fn group_of(groups: &[GroupSettings], name: &str) -> Option<usize> {
    groups.iter().position(|group| group.patterns.iter().any(|pattern| matches(pattern, name)))
}

/// The matrix that a parameter of a shape is: outputs by all else, for a kernel of a convolution as well.
pub fn matrix(shape: &[usize]) -> Option<Matrices> {
    let (rows, rest) = shape.split_first()?;
    let columns = rest.iter().product();
    (!rest.is_empty() && *rows > 1 && columns > 1).then_some(Matrices { rows: *rows, columns })
}

/// Names and shapes of what a run trains.
fn trained(settings: &Settings, kind: Kind, model: &Model) -> Vec<(String, Vec<usize>)> {
    let shape = |shape: &[u64]| shape.iter().map(|size| *size as usize).collect::<Vec<usize>>();
    match kind {
        Kind::Full => match settings.train.network.weights(model) {
            Some(weights) => weights
                .set()
                .iter()
                .map(|(name, weight)| (name.to_owned(), shape(&weight.shape)))
                .collect(),
            // Names and numbers of axes do not depend on the classes.
            None => {
                let manifest = manifest(&judge::trained(settings.size()), &[2]);
                let tensors = manifest.tensors();
                tensors.map(|(name, ty)| (name.to_owned(), ty.shape.to_vec())).collect()
            }
        },
        Kind::Lora | Kind::Dpo => {
            let rank = settings.lora.rank;
            let linears = adapted(settings, model).into_iter();
            let each = linears.flat_map(|(linear, [outputs, inputs])| {
                [("A", vec![rank, inputs]), ("B", vec![outputs, rank])]
                    .map(|(end, shape)| (format!("{linear}.lora_{end}.weight"), shape))
            });
            each.collect()
        }
    }
}

/// Refuses patterns that no parameter fits or that add nothing, and Muon for what is no matrix.
///
/// # Errors
/// E0965 and E0968.
pub fn check(settings: &Settings, kind: Kind, model: &Model) -> Result<()> {
    if settings.group.is_empty() {
        return Ok(());
    }
    let trained = trained(settings, kind, model);
    let mut taken: Vec<&str> = Vec::new();
    for (number, group) in (1..).zip(&settings.group) {
        let place = settings.place(&format!("group.{number}.match"));
        for pattern in &group.patterns {
            let own = trained.iter().map(|(name, _)| name.as_str());
            let own: Vec<&str> = own.filter(|name| matches(pattern, name)).collect();
            if own.is_empty() {
                let message = format!("no trained parameter is called \"{pattern}\"");
                let names: Vec<&str> = trained.iter().map(|(name, _)| name.as_str()).collect();
                let help = meant(pattern, &names, "parameters");
                return Err(Error::input("E0965", message).at(place).help(help));
            }
            if own.iter().all(|name| taken.contains(name)) {
                let message = format!(
                    "\"{pattern}\" of group {number} adds nothing: all its parameters fit an earlier \
                     pattern"
                );
                let help =
                    "leave it out, or put its group in front: the first one that fits counts";
                return Err(Error::input("E0965", message).at(place).help(help));
            }
            let new: Vec<&str> = own.into_iter().filter(|name| !taken.contains(name)).collect();
            taken.extend(new);
        }
        if group.optimiser != Method::Muon {
            continue;
        }
        let own = trained.iter().filter(|(name, _)| {
            group_of(&settings.group, name).is_some_and(|own| own + 1 == number)
        });
        if let Some((name, shape)) = own.into_iter().find(|(_, shape)| matrix(shape).is_none()) {
            let message = format!(
                "Muon is for matrices, and {name}, of group {number}, has the sizes {shape:?}"
            );
            return Err(Error::input("E0968", message).at(place).help(
                "narrow the pattern, or take such parameters into a group with AdamW in front of it",
            ));
        }
    }
    Ok(())
}
