//! Which linears of the transformer get an adapter, by the patterns of `lora.targets`: checked before
//! anything is encoded or compiled, so that a mistake is found at once and with the names there are.

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::model::Model;
use anyid_ir::spelling::nearest;
use anyid_passes::grad::matches;
use std::collections::BTreeSet;

/// Names of the linears of a model, with outputs and inputs.
fn linears(model: &Model) -> Vec<(&str, [usize; 2])> {
    let weights = model.dit_weights.set().iter();
    let linear = weights.filter_map(|(name, weight)| match weight.shape[..] {
        [outputs, inputs] => Some((name.strip_suffix(".weight")?, [outputs, inputs])),
        _ => None,
    });
    linear.map(|(name, sizes)| (name, sizes.map(|size| size as usize))).collect()
}

/// The linears that get an adapter where these are the targets, with outputs and inputs.
pub fn adapted<'m>(targets: &[String], model: &'m Model) -> Vec<(&'m str, [usize; 2])> {
    let wanted = |name: &str| targets.iter().any(|target| matches(target, name));
    linears(model).into_iter().filter(|(name, _)| wanted(name)).collect()
}

/// Refuses patterns that no linear of `model` fits, and those whose linears all fit an earlier one.
///
/// # Errors
/// E0523.
pub fn check(settings: &Settings, model: &Model) -> Result<()> {
    let linears: Vec<&str> = linears(model).into_iter().map(|(name, _)| name).collect();
    let patterns = &settings.lora.targets;
    for (at, pattern) in patterns.iter().enumerate() {
        let fault = |message: String, help: String| {
            let place = settings.place("lora.targets");
            Err(Error::input("E0523", message).at(place).help(help))
        };
        let own: Vec<&&str> = linears.iter().filter(|name| matches(pattern, name)).collect();
        if own.is_empty() {
            let message = format!("no linear of the model is called \"{pattern}\"");
            return fault(message, meant(pattern.trim_end_matches(".weight"), &linears, "linears"));
        }
        let before = |name: &str| patterns[..at].iter().position(|other| matches(other, name));
        if own.iter().all(|name| before(name).is_some()) {
            let message = format!(
                "\"{pattern}\" of lora.targets adds nothing: all its linears fit an earlier target"
            );
            return fault(message, "leave it out: every linear gets one adapter".to_owned());
        }
    }
    Ok(())
}

/// Names with stars for numbers of blocks, each once.
pub fn starred<'n>(names: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
    let starred = |name: &str| {
        let parts = name.split('.').enumerate().map(|(at, part)| match at {
            1 if name.starts_with("blocks.") => "*",
            _ => part,
        });
        parts.collect::<Vec<_>>().join(".")
    };
    names.map(starred).collect()
}

/// Most names that a help lists.
const SHOWN: usize = 40;

/// The name that was probably meant, or those that there are, with stars for numbers of blocks. `what` is
/// what has names.
pub fn meant(pattern: &str, names: &[&str], what: &str) -> String {
    let names = starred(names.iter().copied());
    match nearest(pattern, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let some: Vec<&str> = names.iter().map(String::as_str).take(SHOWN).collect();
            let more = match names.len() - some.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("the {what} are {}{more}; a star stands for any text", some.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_fit_nothing_or_add_nothing_are_refused_with_the_names_there_are() {
        let model = Model::micro().unwrap();
        let check = |targets: &[&str]| {
            let mut settings = Settings::default();
            settings.lora.targets = targets.iter().map(|name| (*name).to_owned()).collect();
            check(&settings, &model)
        };
        check(&["blocks.*_attn.q", "blocks.0.ffn.*", "blocks.*.ffn.2"]).unwrap();
        for (targets, said, help) in [
            (&["blocks.*.ffn.3"][..], "\"blocks.*.ffn.3\"", "did you mean blocks.*.ffn."),
            (&["blocks.*.ffn.0.weight"], "\"blocks.*.ffn.0.weight\"", "blocks.*.ffn.0?"),
            (&["to_q"], "\"to_q\"", "the linears are blocks.*.cross_attn.k, "),
            (&["blocks.*", "blocks.*.ffn.0"], "\"blocks.*.ffn.0\" of lora.targets adds", "leave"),
            (&["blocks.0.ffn.0", "blocks.1.ffn.0", "blocks.*.ffn.0"], "adds nothing", "leave"),
        ] {
            let error = check(targets).unwrap_err();
            assert_eq!(error.code(), "E0523");
            assert!(error.message().contains(said), "{error}");
            assert!(error.help_text().unwrap().contains(help), "{error}");
        }
    }
}
