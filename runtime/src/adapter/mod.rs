//! Adapters of the transformer: which modules they may change, whether they were trained for what
//! this program computes, what they were trained on, and weights with adapters in them.
//!
//! Reading and writing is done by `anyid_files::adapter`, which knows no network. Here the modules
//! of Wan's transformer are given to it in both namings, from the tensors of a model or, where
//! there is no model, by name alone.

mod ground;
mod merge;

use crate::checkpoint::WeightSet;
use crate::error::{Error, Result};
use anyid_files::adapter::KnownTensor;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::names::{self, Component};
use std::fmt;
use std::path::{Path, PathBuf};

pub use anyid_files::adapter::{
    Adapter, Base, Change, Dialect, Factors, Modules, Part, Written, combined, is_adapter,
    shown_scale, write,
};
pub use ground::{Ground, Used, base_of, on_top, other_base, other_start, parts_of, twice, used};
pub use merge::{Beside, Merged, OpenAdapters, merge};
pub(crate) use merge::{compare, copy_file, copy_model, weight_files};

/// Widths of the transformers of the family.
const FAMILY: &[(u64, &str)] = &[(1536, "Wan 1.3B"), (3072, "Wan2.2-TI2V-5B"), (5120, "Wan 14B")];

/// Blocks that are known by name where there is no model: more than any of the family has.
const BLOCKS: usize = 64;

/// The modules of a transformer whose weights have their canonical names.
pub fn modules_of(weights: &WeightSet) -> Modules {
    let tensors = weights.iter().map(|(name, weight)| KnownTensor {
        name: name.to_owned(),
        other: names::to_diffusers(Component::Dit, name),
        shape: Some(weight.shape.clone()),
    });
    let modules = Modules::new(tensors);
    match weights.tensor("patch_embedding.bias").map(|weight| weight.elements()) {
        Some(width) => modules.of_width(width, FAMILY),
        None => modules,
    }
}

/// The modules of any transformer of the family, by name alone: for adapters without a model.
pub fn modules_by_name() -> Modules {
    let config = DitConfig { layers: BLOCKS, ..DitConfig::ti2v_5b() };
    Modules::new(names::dit_tensors(&config).into_iter().map(|(name, _)| KnownTensor {
        other: names::to_diffusers(Component::Dit, &name),
        name,
        shape: None,
    }))
}

/// An adapter that is asked for, with its strength: `FILE` or `FILE:SCALE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The file or folder.
    pub path: PathBuf,
    /// What all of its changes are multiplied by.
    pub scale: f64,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at scale {}", self.path.display(), shown_scale(self.scale))
    }
}

impl Wanted {
    /// Reads `FILE` or `FILE:SCALE`. What exists under the whole text is a file without a scale.
    ///
    /// # Errors
    /// E0377 for a scale that is no finite number.
    pub fn parse(text: &str) -> Result<Self> {
        let whole = Self { path: PathBuf::from(text), scale: 1.0 };
        let Some((path, scale)) = text.rsplit_once(':').filter(|_| !whole.path.exists()) else {
            return Ok(whole);
        };
        match scale.trim().parse::<f64>() {
            Ok(scale) if scale.is_finite() => Ok(Self { path: PathBuf::from(path), scale }),
            // A colon in the name of a file that is not there is left to the error about the file.
            Err(_) if scale.contains(['/', '\\']) || !Path::new(path).exists() => Ok(whole),
            _ => Err(Error::input("E0377", format!("\"{scale}\" is not a scale"))
                .at(text)
                .help("write FILE or FILE:SCALE with a number, such as person.safetensors:0.8")),
        }
    }
}

/// What may be tolerated in adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Tensors that are for no module of the model are left out.
    pub unmatched: bool,
    /// Adapters that were trained for another arrangement of the references are used all the same.
    pub mismatch: bool,
}

/// Keys of an adapter's header and what this program does, which an adapter has to be trained for.
const TRAINED_FOR: [(&str, &[&str], &str); 3] = [
    // Positions enter only as differences: `negative` is `prepend`.
    ("anyid.rope_layout", &["prepend", "negative"], "the layout of references"),
    ("anyid.null_refs", &["match"], "the null references of guidance"),
    ("anyid.pad", &["black"], "the border around references"),
];

/// Opens an adapter for a network, and checks that it matches and was trained for what this program
/// computes. What was tolerated is among its warnings.
///
/// # Errors
/// Those of [`Adapter::open`] and [`Adapter::require_matches`], and E0372 for another layout, null
/// state or border.
pub fn open(path: &Path, modules: &Modules, tolerance: Tolerance) -> Result<Adapter> {
    let mut adapter = Adapter::open(path, modules)?;
    adapter.require_matches(tolerance.unmatched)?;
    for (key, known, what) in TRAINED_FOR {
        let Some(said) = adapter.metadata.get(key) else { continue };
        if known.contains(&said.as_str()) {
            continue;
        }
        let message = format!("it was trained with {what} `{said}`; here it is `{}`", known[0]);
        if !tolerance.mismatch {
            return Err(Error::input("E0372", message).at(adapter.path.display()).help(
                "use it with the program it was trained for, or accept other results with \
                 --allow-mismatch",
            ));
        }
        adapter.warnings.push(format!("{}: {message}", adapter.path.display()));
    }
    Ok(adapter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::weights::write_tensors;
    use anyid_ir::Tensor;
    use std::collections::BTreeMap;

    #[test]
    fn scales_follow_the_last_colon() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a:0.5");
        std::fs::write(&file, b"x").unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let wanted = |text: &str| Wanted::parse(text).map(|w| (text_of(&w.path), w.scale));
        fn text_of(path: &Path) -> String {
            path.to_str().unwrap().to_owned()
        }
        assert_eq!(wanted("a.safetensors").unwrap(), ("a.safetensors".into(), 1.0));
        assert_eq!(wanted("a.safetensors:0.8").unwrap(), ("a.safetensors".into(), 0.8));
        assert_eq!(wanted("a:b:-2e-1").unwrap(), ("a:b".into(), -0.2));
        assert_eq!(wanted("C:\\a\\b").unwrap(), ("C:\\a\\b".into(), 1.0));
        assert_eq!(wanted(&text(&file)).unwrap(), (text(&file), 1.0), "the file is there");
        assert_eq!(wanted(&format!("{}:2", text(&file))).unwrap(), (text(&file), 2.0));
        for scale in ["nan", "inf", "much", ""] {
            let error = wanted(&format!("{}:{scale}", text(&file))).unwrap_err();
            assert_eq!(error.code(), "E0377", "{scale}");
        }
        assert_eq!(wanted("none:much").unwrap().1, 1.0, "left to the error about the file");
    }

    #[test]
    fn modules_by_name_are_those_of_a_model() {
        let model = Model::micro().unwrap();
        let own = modules_of(model.dit_weights.set());
        let all = modules_by_name();
        for module in own.list() {
            let same = all.find(&module.name).unwrap();
            assert_eq!(
                (&same.other, same.weight.is_some()),
                (&module.other, module.weight.is_some())
            );
        }
        assert!(all.find("blocks.39.ffn.2").is_some());
    }

    #[test]
    fn adapters_for_other_arrangements_are_refused_unless_that_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (a, b) =
            (Tensor::from_f32([1, 3072], &[0.5; 3072]), Tensor::from_f32([3072, 1], &[0.5; 3072]));
        let (a, b) = (a.unwrap(), b.unwrap());
        let tensors = [
            ("blocks.1.self_attn.q.lora_A.weight", &a),
            ("blocks.1.self_attn.q.lora_B.weight", &b),
        ];
        let accept = Tolerance { mismatch: true, ..Tolerance::default() };
        for (key, value, fine) in [
            ("anyid.rope_layout", "prepend", true),
            ("anyid.rope_layout", "negative", true),
            ("anyid.rope_layout", "append", false),
            ("anyid.rope_layout", "append_gap(2)", false),
            ("anyid.null_refs", "match", true),
            ("anyid.null_refs", "single", false),
            ("anyid.pad", "white", false),
        ] {
            let header = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            write_tensors(&path, tensors, &header).unwrap();
            let modules = modules_by_name();
            match open(&path, &modules, Tolerance::default()) {
                Ok(adapter) => assert!(fine && adapter.warnings.is_empty(), "{key} {value}"),
                Err(error) => {
                    assert_eq!((error.code(), fine), ("E0372", false), "{key} {value}");
                    assert!(error.message().contains(value), "{error}");
                    let accepted = open(&path, &modules, accept).unwrap();
                    assert!(accepted.warnings[0].contains(value), "{:?}", accepted.warnings);
                }
            }
        }
        // An adapter of the published model on a model of another width.
        let micro = modules_of(Model::micro().unwrap().dit_weights.set());
        let error = open(&path, &micro, accept).unwrap_err();
        assert_eq!(error.code(), "E0363", "{error}");
        assert!(error.message().contains("Wan2.2-TI2V-5B (3072)"), "{error}");
    }
}
