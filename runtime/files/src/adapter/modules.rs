//! The modules of a network that adapters can change, by every name that files use for them.
//!
//! The caller gives the tensors of the network in its two namings; this file knows no network. A
//! name in a file may carry a prefix, and may have underscores where the network has dots. Such
//! names are ambiguous by themselves (`blocks_0_cross_attn_norm_q`), so they are only looked up in
//! a table that is made of all modules (`formats.md` §5).

use std::collections::HashMap;

/// A tensor of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTensor {
    /// Its canonical name.
    pub name: String,
    /// Its name in the other naming.
    pub other: String,
    /// Its shape; none where only names are known.
    pub shape: Option<Vec<u64>>,
}

/// A tensor of a module that an adapter may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The canonical name of the tensor.
    pub tensor: String,
    /// Its shape, where it is known.
    pub shape: Option<Vec<u64>>,
}

/// A module of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Its canonical path, such as `blocks.0.self_attn.q`.
    pub name: String,
    /// Its path in the other naming, such as `blocks.0.attn1.to_q`.
    pub other: String,
    /// `NAME.weight`.
    pub weight: Option<Slot>,
    /// `NAME.bias`.
    pub bias: Option<Slot>,
    /// `NAME.modulation`.
    pub modulation: Option<Slot>,
}

/// The modules of a network.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    list: Vec<Module>,
    by_name: HashMap<String, usize>,
    by_underscored: HashMap<String, usize>,
    /// Width of the network, and the widths by which others of the family are known.
    width: Option<u64>,
    family: &'static [(u64, &'static str)],
}

/// What files put before the names of modules, longest first.
const PREFIXES: [(&str, Prefix); 10] = [
    ("base_model.model.transformer.", Prefix::Peft),
    ("base_model.model.unet.", Prefix::Peft),
    ("model.diffusion_model.", Prefix::Plain),
    ("base_model.model.", Prefix::Peft),
    ("diffusion_model.", Prefix::Plain),
    ("transformer.", Prefix::Transformer),
    ("pipe.dit.", Prefix::Plain),
    ("unet.", Prefix::Plain),
    ("model.", Prefix::Plain),
    ("", Prefix::None),
];

/// What files put before names with underscores.
const UNDERSCORED: [&str; 4] = ["lora_transformer_", "lora_unet__", "lora_unet_", "lycoris_"];

/// Kinds of prefixes, as far as they tell who wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    None,
    Plain,
    Transformer,
    Peft,
    Underscored,
}

impl Modules {
    /// The modules that these tensors are in.
    pub fn new(tensors: impl IntoIterator<Item = KnownTensor>) -> Self {
        let mut modules = Self::default();
        for KnownTensor { name, other, shape } in tensors {
            let Some((path, leaf)) = name.rsplit_once('.') else { continue };
            let position = match modules.by_name.get(path) {
                Some(position) => *position,
                None => {
                    let position = modules.list.len();
                    let module = Module { name: path.to_owned(), ..Module::default() };
                    modules.list.push(module);
                    modules.name(path, position);
                    position
                }
            };
            if leaf == "weight" || leaf == "bias" {
                let other = other.rsplit_once('.').map_or("", |(path, _)| path);
                modules.name(other, position);
                modules.list[position].other = other.to_owned();
            }
            let module = &mut modules.list[position];
            let slot = match leaf {
                "weight" => &mut module.weight,
                "bias" => &mut module.bias,
                "modulation" => &mut module.modulation,
                _ => continue,
            };
            *slot = Some(Slot { tensor: name, shape });
        }
        modules
    }

    fn name(&mut self, path: &str, position: usize) {
        self.by_name.insert(path.to_owned(), position);
        self.by_underscored.insert(path.replace('.', "_"), position);
    }

    /// Says how wide the network is and how wide others of its family are, for messages.
    #[must_use]
    pub fn of_width(mut self, width: u64, family: &'static [(u64, &'static str)]) -> Self {
        self.width = Some(width);
        self.family = family;
        self
    }

    /// The modules, in the order of the tensors.
    pub fn list(&self) -> &[Module] {
        &self.list
    }

    /// The module of this name in either naming.
    pub fn find(&self, name: &str) -> Option<&Module> {
        self.by_name.get(name).map(|position| &self.list[*position])
    }

    /// The module that a file means by a name with its prefix: its position, the kind of prefix,
    /// and the name without it.
    pub(super) fn spelled<'n>(&self, name: &'n str) -> Option<(usize, Prefix, &'n str)> {
        for (prefix, kind) in PREFIXES {
            if let Some(rest) = name.strip_prefix(prefix)
                && let Some(position) = self.by_name.get(rest)
            {
                return Some((*position, kind, rest));
            }
        }
        UNDERSCORED.iter().find_map(|prefix| {
            let rest = name.strip_prefix(prefix)?;
            let position = self.by_underscored.get(&rest.replace('.', "_"))?;
            Some((*position, Prefix::Underscored, rest))
        })
    }

    /// The width of the network and that of another one, with the name that its family has it by, if a
    /// tensor of `found` rows and columns where the network has `expected` shows that the adapter is for
    /// the other. `rank` is that of the factors, which have their own sizes where they are exchanged.
    pub(super) fn other_width(
        &self,
        (expected, found): ((u64, u64), (u64, u64)),
        rank: Option<u64>,
    ) -> Option<(u64, u64, Option<&'static str>)> {
        let width = self.width?;
        let axes = [(expected.0, found.0), (expected.1, found.1)];
        let mut seen = axes.iter().filter(|(own, _)| *own == width).map(|(_, other)| *other);
        let other = seen.next().filter(|other| *other != width)?;
        let one = seen.all(|more| more == other) && rank != Some(width);
        let known = self.family.iter().find(|(known, _)| *known == other).map(|(_, name)| *name);
        one.then_some((width, other, known))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::modules;
    use super::*;

    #[test]
    fn a_module_has_many_names() {
        let modules = modules();
        for (name, module, kind) in [
            ("blocks.0.self_attn.q", "blocks.0.self_attn.q", Prefix::None),
            ("blocks.1.attn1.to_out.0", "blocks.1.self_attn.o", Prefix::None),
            ("diffusion_model.blocks.0.ffn.0", "blocks.0.ffn.0", Prefix::Plain),
            ("model.diffusion_model.blocks.0.ffn.0", "blocks.0.ffn.0", Prefix::Plain),
            ("model.head.head", "head.head", Prefix::Plain),
            ("pipe.dit.blocks.0.norm3", "blocks.0.norm3", Prefix::Plain),
            ("transformer.blocks.0.norm2", "blocks.0.norm3", Prefix::Transformer),
            ("transformer.blocks.0.cross_attn.k", "blocks.0.cross_attn.k", Prefix::Transformer),
            ("base_model.model.proj_out", "head.head", Prefix::Peft),
            ("base_model.model.unet.head.head", "head.head", Prefix::Peft),
            ("lora_unet_blocks_0_ffn_2", "blocks.0.ffn.2", Prefix::Underscored),
            ("lora_unet__blocks_0_ffn_2", "blocks.0.ffn.2", Prefix::Underscored),
            ("lora_unet_blocks_1.cross_attn.o", "blocks.1.cross_attn.o", Prefix::Underscored),
            (
                "lora_unet_blocks_0_cross_attn_norm_q",
                "blocks.0.cross_attn.norm_q",
                Prefix::Underscored,
            ),
            ("lycoris_blocks_1_attn2_to_out_0", "blocks.1.cross_attn.o", Prefix::Underscored),
            ("lora_transformer_proj_out", "head.head", Prefix::Underscored),
            ("blocks.1", "blocks.1", Prefix::None),
        ] {
            let (position, found, _) = modules.spelled(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((modules.list()[position].name.as_str(), found), (module, kind), "{name}");
        }
        for name in ["", "blocks.2.self_attn.q", "blocks_0_ffn_2", "diffusion_model.", "scale"] {
            assert!(modules.spelled(name).is_none(), "{name}");
        }
    }

    #[test]
    fn no_two_modules_share_a_name() {
        let modules = modules();
        let mut names: HashMap<String, &str> = HashMap::new();
        for module in modules.list() {
            for name in [&module.name, &module.other].into_iter().filter(|name| !name.is_empty()) {
                let underscored = name.replace('.', "_");
                if let Some(earlier) = names.insert(underscored, &module.name) {
                    assert_eq!(earlier, module.name);
                }
            }
        }
        assert_eq!(
            modules.find("head").unwrap().modulation.as_ref().unwrap().shape,
            Some(vec![1, 2, 32])
        );
    }
}
