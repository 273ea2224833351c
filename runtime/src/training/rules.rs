//! Groups of parameters with an optimiser and a learning rate of their own: the `[[group]]` tables of
//! settings.
//!
//! A parameter belongs to the first group that has a pattern for one of its names, that of the original files
//! or that of model folders; what no group has is updated as `[train]` says. Patterns are checked before anything is encoded or compiled, with the names there are.

use super::parameters::Kind;
use super::settings::Settings;
use super::targets::{adapted, meant};
use crate::error::{Error, Result};
use crate::judge;
use crate::model::Model;
use anyid_models::judge::manifest;
use anyid_models::optimiser::Matrices;
use anyid_models::wan::names::{Component, Naming, to_diffusers};
use anyid_passes::grad::matches;
use serde::{Deserialize, Deserializer, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeSet;

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
pub fn group_of(
    groups: &[GroupSettings],
    name: &str,
    component: Option<Component>,
) -> Option<usize> {
    let fitting = |pattern: &String| fits(pattern, name, component);
    groups.iter().position(|group| group.patterns.iter().any(fitting))
}

/// Whether a pattern is for one of the two names of a parameter: its own, which is that of the original
/// files, or that of folders in the layout of diffusers.
fn fits(pattern: &str, name: &str, component: Option<Component>) -> bool {
    let other = || component.is_some_and(|own| matches(pattern, &in_folders(own, name)));
    matches(pattern, name) || other()
}

/// What a parameter is called in folders in the layout of diffusers.
fn in_folders(component: Component, name: &str) -> String {
    for end in ["lora_A.weight", "lora_B.weight"] {
        if let Some(linear) = name.strip_suffix(end) {
            let weight = to_diffusers(component, &format!("{linear}weight"));
            return format!("{}{end}", weight.trim_end_matches("weight"));
        }
    }
    to_diffusers(component, name)
}

/// The names that a pattern was probably written for: of those of the original files and of those in folders
/// the ones that share more words with it, and the kind of the model itself where it fits neither better.
fn written_for<'n>(
    pattern: &str,
    own: &'n [String],
    other: &'n [String],
    usual: Naming,
) -> &'n [String] {
    let words = |names: &[String]| {
        let known: BTreeSet<&str> = names.iter().flat_map(|name| name.split('.')).collect();
        pattern.split('.').filter(|word| known.contains(word)).count()
    };
    match (words(own).cmp(&words(other)), usual) {
        (Ordering::Greater, _) | (Ordering::Equal, Naming::Original) => own,
        (Ordering::Less, _) | (Ordering::Equal, Naming::Diffusers | Naming::LlamaCpp) => other,
    }
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
            let linears = adapted(&settings.lora.targets, model).into_iter();
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
    let weights = settings.train.network.weights(model);
    let component = weights.and_then(|weights| weights.component());
    let naming = weights.map_or(Naming::Original, |weights| weights.naming());
    let mut taken: Vec<&str> = Vec::new();
    for (number, group) in (1..).zip(&settings.group) {
        let place = settings.place(&format!("group.{number}.match"));
        for pattern in &group.patterns {
            let own = trained.iter().map(|(name, _)| name.as_str());
            let own: Vec<&str> = own.filter(|name| fits(pattern, name, component)).collect();
            if own.is_empty() {
                let message = format!("no trained parameter is called \"{pattern}\"");
                let own: Vec<String> = trained.iter().map(|(name, _)| name.clone()).collect();
                let other = own.iter().map(|name| match component {
                    Some(component) => in_folders(component, name),
                    None => name.clone(),
                });
                let other: Vec<String> = other.collect();
                let names = written_for(pattern, &own, &other, naming);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
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
            group_of(&settings.group, name, component).is_some_and(|own| own + 1 == number)
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

#[cfg(test)]
mod tests {
    use super::super::settings::TrainedNetwork;
    use super::*;

    fn settings(network: TrainedNetwork, pattern: &str) -> Settings {
        let mut settings = Settings::default();
        settings.train.network = network;
        let patterns = vec![pattern.to_owned()];
        settings.group = vec![GroupSettings { patterns, ..GroupSettings::default() }];
        settings
    }

    #[test]
    fn parameters_are_found_by_the_names_of_folders_as_well() {
        let model = Model::micro().unwrap();
        for (network, kind, own, other) in [
            (
                TrainedNetwork::Transformer,
                Kind::Full,
                "blocks.*.self_attn.q.weight",
                "blocks.*.attn1.to_q.weight",
            ),
            (
                TrainedNetwork::Transformer,
                Kind::Lora,
                "blocks.*.cross_attn.o.lora_A.weight",
                "blocks.*.attn2.to_out.0.lora_A.weight",
            ),
            (TrainedNetwork::Vae, Kind::Full, "*.residual.2.weight", "*.resnets.*.conv1.weight"),
            (
                TrainedNetwork::Text,
                Kind::Full,
                "blocks.*.ffn.fc2.weight",
                "encoder.block.*.layer.1.DenseReluDense.wo.weight",
            ),
        ] {
            let component = network.weights(&model).and_then(|weights| weights.component());
            let found = |pattern: &str| -> Vec<String> {
                let settings = settings(network, pattern);
                check(&settings, kind, &model).unwrap_or_else(|error| panic!("{error}"));
                let names = trained(&settings, kind, &model).into_iter().map(|(name, _)| name);
                names.filter(|name| group_of(&settings.group, name, component).is_some()).collect()
            };
            assert_eq!(found(own), found(other), "{other}");
            assert!(!found(own).is_empty());
        }
    }

    #[test]
    fn a_name_is_suggested_in_the_words_that_were_written() {
        let model = Model::micro().unwrap();
        for (network, pattern, help) in [
            (
                TrainedNetwork::Transformer,
                "blocks.*.self_atn.q.weight",
                "did you mean blocks.*.self_attn.q.weight?",
            ),
            (
                TrainedNetwork::Transformer,
                "blocks.*.atn1.to_q.weight",
                "blocks.*.attn1.to_q.weight?",
            ),
            (
                TrainedNetwork::Vae,
                "encoder.mid_block.resnets.0.conv11.weight",
                "did you mean encoder.mid_block.resnets.0.conv1.weight?",
            ),
            (TrainedNetwork::Vae, "encoder.conv11.weight", "did you mean encoder.conv1.weight?"),
        ] {
            let error = check(&settings(network, pattern), Kind::Full, &model).unwrap_err();
            assert_eq!(error.code(), "E0965");
            assert!(error.help_text().unwrap().contains(help), "{pattern}: {error}");
        }
    }
}
