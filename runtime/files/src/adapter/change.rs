//! What an adapter does to one module, whatever dialect it came in.
//!
//! A change names tensors of the adapter's set. Its [`Derivation`]s are what the tensors stand for:
//! the product of factors without its scale, and so on. How they are added to a weight is said in
//! `apply`, how they are spelled in a file in `write`.

use crate::checkpoint::Derivation;

/// What an adapter does to a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Canonical path of the module.
    pub module: String,
    /// Its path in the other naming.
    pub other: String,
    /// The correction of the weight that is stored as factors.
    pub product: Option<Product>,
    /// Lengths of the rows or columns of the changed weight (DoRA).
    pub magnitude: Option<String>,
    /// Bias that goes with the product and has its scale.
    pub up_bias: Option<String>,
    /// Difference of the weight.
    pub diff: Option<String>,
    /// Difference of the bias.
    pub diff_bias: Option<String>,
    /// Difference of the modulation.
    pub diff_modulation: Option<String>,
}

/// A correction of a weight that is stored as factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The factors.
    pub factors: Factors,
    /// What the product of the factors is multiplied by.
    pub scale: f64,
    /// The rank; none where no factor is a product itself (LoKr).
    pub rank: Option<u64>,
}

/// Names of factors.
#[derive(Clone, Debug, PartialEq)]
pub enum Factors {
    /// LoRA: `up · down`.
    LowRank {
        /// From the rank to the rows, often called B.
        up: String,
        /// From the columns to the rank, often called A.
        down: String,
    },
    /// LoHa: `(w1_a · w1_b)` times `(w2_a · w2_b)`, element by element.
    LoHa([String; 4]),
    /// LoKr: the Kronecker product of two factors.
    LoKr(Box<[Factor; 2]>),
}

/// A factor of LoKr.
#[derive(Clone, Debug, PartialEq)]
pub enum Factor {
    /// A stored matrix.
    Whole(String),
    /// The product of two.
    Product(String, String),
}

impl Factor {
    /// What it is.
    pub fn derivation(&self) -> Derivation {
        match self {
            Self::Whole(name) => Derivation::tensor(name),
            Self::Product(a, b) => {
                Derivation::product(Derivation::tensor(a), Derivation::tensor(b))
            }
        }
    }

    fn names_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::Whole(name) => vec![name],
            Self::Product(a, b) => vec![a, b],
        }
    }
}

impl Factors {
    /// What they make, without scale.
    pub fn derivation(&self) -> Derivation {
        let tensor = |name: &String| Derivation::tensor(name);
        match self {
            Self::LowRank { up, down } => Derivation::product(tensor(up), tensor(down)),
            Self::LoHa([a, b, c, d]) => Derivation::Elementwise(Box::new([
                Derivation::product(tensor(a), tensor(b)),
                Derivation::product(tensor(c), tensor(d)),
            ])),
            Self::LoKr(parts) => {
                let [a, b] = parts.as_ref();
                Derivation::Kronecker(Box::new([a.derivation(), b.derivation()]))
            }
        }
    }

    /// Their kind as people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LowRank { .. } => "LoRA",
            Self::LoHa(_) => "LoHa",
            Self::LoKr(_) => "LoKr",
        }
    }
}

impl Product {
    /// Alpha: the scale times the rank.
    pub fn alpha(&self) -> f64 {
        self.scale * self.rank.map_or(1.0, |rank| rank as f64)
    }
}

impl Change {
    /// Nothing yet, of a module.
    pub(super) fn of(module: &str, other: &str) -> Self {
        Self {
            module: module.to_owned(),
            other: other.to_owned(),
            product: None,
            magnitude: None,
            up_bias: None,
            diff: None,
            diff_bias: None,
            diff_modulation: None,
        }
    }

    /// What it is, in words: `LoRA of rank 4 (scale 2), difference of the bias`.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        if let Some(product) = &self.product {
            let dora = if self.magnitude.is_some() { "DoRA" } else { product.factors.kind() };
            let rank = product.rank.map_or_else(String::new, |rank| format!(" of rank {rank}"));
            words.push(format!("{dora}{rank}, scale {}", product.scale));
        }
        for (there, what) in [
            (&self.up_bias, "bias"),
            (&self.diff, "difference of the weight"),
            (&self.diff_bias, "difference of the bias"),
            (&self.diff_modulation, "difference of the modulation"),
        ] {
            if there.is_some() {
                words.push(what.to_owned());
            }
        }
        words.join(", ")
    }

    /// Canonical names of the tensors that it changes.
    pub fn tensors(&self) -> Vec<String> {
        let weight = self.product.is_some() || self.diff.is_some();
        let bias = self.up_bias.is_some() || self.diff_bias.is_some();
        let leaves =
            [(weight, "weight"), (bias, "bias"), (self.diff_modulation.is_some(), "modulation")];
        let changed = leaves.iter().filter(|(changed, _)| *changed);
        changed.map(|(_, leaf)| format!("{}.{leaf}", self.module)).collect()
    }

    /// The same change of tensors that have other names.
    #[must_use]
    pub(super) fn renamed(&self, new: impl Fn(&str) -> String) -> Self {
        let mut change = self.clone();
        let mut names: Vec<&mut String> = Vec::new();
        match change.product.as_mut().map(|product| &mut product.factors) {
            None => {}
            Some(Factors::LowRank { up, down }) => names.extend([up, down]),
            Some(Factors::LoHa(list)) => names.extend(list),
            Some(Factors::LoKr(parts)) => {
                names.extend(parts.iter_mut().flat_map(Factor::names_mut));
            }
        }
        let rest = [
            &mut change.magnitude,
            &mut change.up_bias,
            &mut change.diff,
            &mut change.diff_bias,
            &mut change.diff_modulation,
        ];
        names.extend(rest.into_iter().flatten());
        names.into_iter().for_each(|name| *name = new(name));
        change
    }
}
