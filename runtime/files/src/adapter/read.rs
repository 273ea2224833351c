//! Tensors of an adapter file, gathered by module and made into changes.
//!
//! Every tensor is looked at once: what it is for which module, then whether the tensors of a
//! module make one change, whether their shapes go together, and whether they go with the
//! network's. Nothing is guessed; what no rule knows is left to the caller as unmatched.

use std::collections::BTreeMap;
use std::path::Path;

use super::change::{Change, Factor, Factors, Product};
use super::keys::{Part, take_apart};
use super::modules::{Module, Modules, Prefix, Slot};
use super::settings::Settings;
use super::values::{alpha, finite, unusable};
use crate::checkpoint::{Weight, WeightSet};
use crate::error::{Error, Result};

/// What was found in a file.
pub(super) struct Found {
    pub(super) changes: Vec<Change>,
    pub(super) unmatched: Vec<String>,
    /// Kinds of prefixes and ways of spelling, one for each matched tensor.
    pub(super) spellings: Vec<(Prefix, &'static str)>,
    /// Tensors whose names are those of an adapter, matched or not.
    pub(super) recognised: usize,
}

/// The tensors of one module.
#[derive(Default)]
struct Group {
    /// The name without prefix, and all of it, as the file has it.
    name: String,
    spelled: String,
    way: &'static str,
    parts: BTreeMap<Part, String>,
}

/// Factors, their rank, and rows and columns of what they make.
struct Made {
    factors: Factors,
    rank: Option<u64>,
    size: (u64, u64),
}

/// What reading needs to know.
pub(super) struct Source<'a> {
    pub(super) set: &'a WeightSet,
    pub(super) modules: &'a Modules,
    pub(super) settings: &'a Settings,
    pub(super) path: &'a Path,
}

/// Reads every change of a file.
///
/// # Errors
/// E0363 to E0370; see [`Adapter::open`](super::Adapter::open).
pub(super) fn read(source: &Source<'_>) -> Result<Found> {
    let mut found =
        Found { changes: Vec::new(), unmatched: Vec::new(), spellings: Vec::new(), recognised: 0 };
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for name in source.set.names() {
        let Some((spelled, part, way)) = take_apart(name) else {
            found.unmatched.push(name.to_owned());
            continue;
        };
        found.recognised += 1;
        if let Part::Refused(what) = part {
            return Err(refused(&format!("`{name}` is {what}")));
        }
        if ["transformer_1.", "transformer_2."].iter().any(|pair| spelled.contains(pair)) {
            return Err(refused(&format!("`{name}` is for one of two transformers (Wan2.2-A14B)")));
        }
        let Some((position, prefix, bare)) = source.modules.spelled(spelled) else {
            found.unmatched.push(name.to_owned());
            continue;
        };
        found.spellings.push((prefix, way));
        let group = groups.entry(position).or_default();
        add(group, (name, spelled, bare), part, way)?;
    }
    for (position, group) in &groups {
        found.changes.push(source.change(&source.modules.list()[*position], group)?);
    }
    finite(source.set, &found.unmatched)?;
    Ok(found)
}

/// Puts a tensor to the others of its module.
fn add(
    group: &mut Group,
    (name, spelled, bare): (&str, &str, &str),
    part: Part,
    way: &'static str,
) -> Result<()> {
    let twice = |other: &str| {
        let what = format!("`{name}` and `{other}` are for the same module in two ways");
        Err(Error::input("E0366", what)
            .help("the file mixes two dialects or two adapters: keep the tensors of one of them"))
    };
    let first = group.parts.values().next();
    if let Some(other) = first.filter(|_| group.spelled != spelled) {
        return twice(other);
    }
    if !way.is_empty() && !group.way.is_empty() && way != group.way {
        return twice(first.map_or("", String::as_str));
    }
    if let Some(other) = group.parts.insert(part, name.to_owned()) {
        return twice(&other);
    }
    if !way.is_empty() {
        group.way = way;
    }
    (group.name, group.spelled) = (bare.to_owned(), spelled.to_owned());
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::input("E0367", what)
        .help("merge it with the program that made it and store the whole weights")
}

impl Source<'_> {
    fn weight(&self, name: &str) -> Result<&Weight> {
        let weight = self.set.tensor(name).expect("names come from the set");
        match weight.encoding.is_float() {
            true => Ok(weight),
            false => Err(unusable(&format!("`{name}` is {}, not floating-point", weight.encoding))),
        }
    }

    /// Rows, and columns with all further axes.
    fn matrix(&self, name: &str) -> Result<(u64, u64)> {
        let weight = self.weight(name)?;
        let (rows, row) = weight.shape.split_first().ok_or_else(|| misfit(name, weight, "axes"))?;
        Ok((*rows, row.iter().product()))
    }

    /// The change that the tensors of a module make.
    fn change(&self, module: &Module, group: &Group) -> Result<Change> {
        let part = |part: Part| group.parts.get(&part).cloned();
        let mut change = Change::of(&module.name, &module.other);
        change.magnitude = part(Part::Magnitude);
        change.up_bias = part(Part::UpBias);
        change.diff = part(Part::Diff);
        change.diff_bias = part(Part::DiffBias);
        change.diff_modulation = part(Part::DiffModulation);
        if let Some(Made { factors, rank, size }) = self.factors(group)? {
            let scale = self.scale(group, rank, &factors)?;
            change.product = Some(Product { factors, scale, rank });
            self.fits(module, &group.spelled, &module.weight, "weight", (size, rank))?;
        } else if let Some(alone) = [Part::Alpha, Part::Magnitude, Part::UpBias]
            .into_iter()
            .find_map(|part| group.parts.get(&part))
        {
            return Err(incomplete(&format!(
                "`{alone}` is there without the factors it belongs to"
            )));
        }
        self.check_rest(module, &change)?;
        Ok(change)
    }

    /// The factors of a product, if there are some.
    fn factors(&self, group: &Group) -> Result<Option<Made>> {
        let has = |part: Part| group.parts.contains_key(&part);
        let needs = |part: Part, what: &str| {
            group.parts.get(&part).cloned().ok_or_else(|| {
                incomplete(&format!("`{}` has {} without {what}", group.spelled, listed(group)))
            })
        };
        if has(Part::Down) || has(Part::Up) {
            let down = needs(Part::Down, "its first factor (A, down)")?;
            let up = needs(Part::Up, "its second factor (B, up)")?;
            let (rank, columns) = self.matrix(&down)?;
            let (rows, ups) = self.matrix(&up)?;
            same_rank(&down, rank, &up, ups)?;
            let factors = Factors::LowRank { up, down };
            return Ok(Some(Made { factors, rank: Some(rank), size: (rows, columns) }));
        }
        if (0..4).any(|at| has(Part::Hada(at))) {
            let mut names = Vec::new();
            for (at, what) in ["w1_a", "w1_b", "w2_a", "w2_b"].into_iter().enumerate() {
                names.push(needs(Part::Hada(at as u8), what)?);
            }
            let names: [String; 4] = names.try_into().expect("there are four");
            let [a, b, c, d] = &names;
            let (first, rank) = self.pair(a, b)?;
            let (second, _) = self.pair(c, d)?;
            if first != second {
                return Err(shapes(&format!(
                    "`{a}` and `{c}` make tensors of {first:?} and {second:?}"
                )));
            }
            let factors = Factors::LoHa(names);
            return Ok(Some(Made { factors, rank: Some(rank), size: first }));
        }
        if (0..6).any(|at| has(Part::Lokr(at))) {
            let (first, first_rank, a) = self.factor(group, 0, "w1")?;
            let (second, second_rank, b) = self.factor(group, 3, "w2")?;
            let size = a.0.checked_mul(b.0).zip(a.1.checked_mul(b.1));
            let size = size.ok_or_else(|| shapes(&format!("{a:?} and {b:?} are too large")))?;
            let factors = Factors::LoKr(Box::new([first, second]));
            return Ok(Some(Made { factors, rank: second_rank.or(first_rank), size }));
        }
        Ok(None)
    }

    /// Rows and columns of the product of two factors, and its rank.
    fn pair(&self, up: &str, down: &str) -> Result<((u64, u64), u64)> {
        let ((rows, ups), (rank, columns)) = (self.matrix(up)?, self.matrix(down)?);
        same_rank(down, rank, up, ups)?;
        Ok(((rows, columns), rank))
    }

    /// One of the two factors of LoKr, whole or as a product, with its rank and its size.
    fn factor(
        &self,
        group: &Group,
        first: u8,
        what: &str,
    ) -> Result<(Factor, Option<u64>, (u64, u64))> {
        let part = |at: u8| group.parts.get(&Part::Lokr(first + at)).cloned();
        let matrix = |name: &str| {
            let weight = self.weight(name)?;
            match weight.shape.len() {
                2 => self.matrix(name),
                _ => Err(misfit(name, weight, "two axes")),
            }
        };
        match (part(0), part(1), part(2)) {
            (Some(whole), None, None) => {
                let size = matrix(&whole)?;
                Ok((Factor::Whole(whole), None, size))
            }
            (None, Some(a), Some(b)) => {
                matrix(&a)?;
                matrix(&b)?;
                let (size, rank) = self.pair(&a, &b)?;
                Ok((Factor::Product(a, b), Some(rank), size))
            }
            _ => Err(incomplete(&format!(
                "`{}` has {}: its factor {what} is neither whole nor a product of two",
                group.spelled,
                listed(group)
            ))),
        }
    }

    /// What the product of factors is multiplied by: alpha over the rank.
    fn scale(&self, group: &Group, rank: Option<u64>, factors: &Factors) -> Result<f64> {
        let said = self.settings.rank(&group.name);
        if let (Some(said), Some(found), false) = (said, rank, matches!(factors, Factors::LoKr(_)))
            && said != found
        {
            let what =
                format!("`{}` has rank {found}, its configuration says {said}", group.spelled);
            return Err(Error::input("E0369", what)
                .help("the files are of two adapters: give the configuration of this one"));
        }
        let alpha = match group.parts.get(&Part::Alpha) {
            Some(name) => Some(alpha(self.set, name, self.path)?),
            None => self.settings.alpha(&group.name),
        };
        // A whole LoKr has no rank of its own; only PEFT scales it, by the rank it was asked for.
        let rank = rank.or(said.filter(|_| self.settings.peft)).map(|rank| rank as f64);
        Ok(match (alpha, rank) {
            (Some(alpha), Some(rank)) if self.settings.rslora => alpha / rank.sqrt(),
            (Some(alpha), Some(rank)) => alpha / rank,
            _ => 1.0,
        })
    }

    /// Checks a tensor of `found` rows and columns, made of factors of `rank`, against what the network has
    /// there.
    fn fits(
        &self,
        module: &Module,
        spelled: &str,
        slot: &Option<Slot>,
        what: &str,
        (found, rank): ((u64, u64), Option<u64>),
    ) -> Result<()> {
        let Some(slot) = slot else {
            return Err(shapes(&format!(
                "`{spelled}` changes the {what} of `{}`, which has none",
                module.name
            )));
        };
        let Some((rows, row)) = slot.shape.as_ref().and_then(|shape| shape.split_first()) else {
            return Ok(());
        };
        let expected = (*rows, row.iter().product::<u64>());
        if expected == found {
            return Ok(());
        }
        if let Some((own, other, name)) = self.modules.other_width((expected, found), rank) {
            let made_for = match name {
                Some(name) => format!("{name} ({other})"),
                None => format!("a model that is {other} wide"),
            };
            let what = format!("this adapter is for {made_for}, the model is {own} wide");
            return Err(Error::input("E0363", what).help(
                "adapters work with the model they were trained on; find one for this model",
            ));
        }
        Err(shapes(&format!(
            "`{spelled}` is for a tensor of {}x{}, but `{}` has {}x{}",
            found.0, found.1, slot.tensor, expected.0, expected.1
        )))
    }

    /// Checks everything but the product.
    fn check_rest(&self, module: &Module, change: &Change) -> Result<()> {
        for (name, slot, what) in [
            (&change.diff, &module.weight, "weight"),
            (&change.diff_bias, &module.bias, "bias"),
            (&change.up_bias, &module.bias, "bias"),
            (&change.diff_modulation, &module.modulation, "modulation"),
        ] {
            if let Some(name) = name {
                self.fits(module, name, slot, what, (self.matrix(name)?, None))?;
            }
        }
        let (Some(name), Some(slot)) = (&change.magnitude, &module.weight) else { return Ok(()) };
        let weight = self.weight(name)?;
        let Some((rows, row)) = slot.shape.as_ref().and_then(|shape| shape.split_first()) else {
            return Ok(());
        };
        let ones = |axes: &[u64]| axes.iter().all(|size| *size == 1);
        let fits = match weight.shape.split_first() {
            Some((first, rest)) if first == rows && ones(rest) => true,
            Some((1, rest)) => !rest.is_empty() && rest == row,
            _ => false,
        };
        if fits { Ok(()) } else { Err(misfit(name, weight, "a length for each row or column")) }
    }
}

fn same_rank(down: &str, rank: u64, up: &str, ups: u64) -> Result<()> {
    if rank > 0 && rank == ups {
        return Ok(());
    }
    Err(shapes(&format!("`{down}` has rank {rank}, `{up}` has {ups}")))
}

/// The last parts of the names of a module's tensors.
fn listed(group: &Group) -> String {
    let ends = group.parts.values().map(|name| format!("`{}`", &name[group.spelled.len()..]));
    ends.collect::<Vec<_>>().join(", ")
}

fn incomplete(what: &str) -> Error {
    Error::input("E0364", what).help("the file is incomplete: fetch or write it again")
}

fn shapes(what: &str) -> Error {
    Error::input("E0365", what).help("the adapter is damaged, or for another model")
}

fn misfit(name: &str, weight: &Weight, wanted: &str) -> Error {
    shapes(&format!("`{name}` has the shape {:?}, not {wanted}", weight.shape))
}
