//! The weight manifest: which tensors a module needs, by name template, with their types.
//!
//! A template such as `blocks.{l:0..30}.{self_attn,cross_attn}.{q,k,v,o}.weight` stands for every
//! expansion. Weight bytes are never part of a module; the runtime matches the manifest against
//! checkpoint headers before anything runs.

use crate::spelling::nearest;
use crate::types::TensorType;
use std::collections::HashMap;

/// One line of the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightEntry {
    /// Name with `{a,b}` alternatives and `{l:0..30}` ranges.
    pub template: String,
    /// Type of every tensor the template stands for.
    pub ty: TensorType,
}

/// The manifest: entries in source order and every expanded name.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Name of the set, for messages (`dit`, `vae`, …).
    pub name: String,
    entries: Vec<WeightEntry>,
    expanded: Vec<(String, usize)>,
    by_name: HashMap<String, usize>,
    /// Positions in `expanded` of the names that are alike but for numbers.
    by_wildcard: HashMap<String, Vec<usize>>,
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.entries == other.entries
    }
}

/// Why a template or an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The template's braces or ranges are malformed.
    Template(String),
    /// Two entries stand for the same name.
    Duplicate(String),
}

/// Most names one manifest may expand to; a guard against absurd ranges in source text.
const MOST_NAMES: usize = 1 << 20;

impl Manifest {
    /// An empty manifest called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds one entry and its expansions.
    pub fn add(&mut self, template: &str, ty: TensorType) -> Result<(), ManifestError> {
        let names = expand(template)?;
        if self.expanded.len() + names.len() > MOST_NAMES {
            return Err(ManifestError::Template(format!("more than {MOST_NAMES} names")));
        }
        if let Some(name) = names.iter().find(|name| self.by_name.contains_key(*name)) {
            return Err(ManifestError::Duplicate(name.clone()));
        }
        let entry = self.entries.len();
        self.entries.push(WeightEntry { template: template.to_owned(), ty });
        for name in names {
            self.by_wildcard.entry(wildcard(&name)).or_default().push(self.expanded.len());
            self.by_name.insert(name.clone(), entry);
            self.expanded.push((name, entry));
        }
        Ok(())
    }

    /// The entries as written.
    pub fn entries(&self) -> &[WeightEntry] {
        &self.entries
    }

    /// Every tensor: name and type, in order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.expanded.iter().map(|(name, entry)| (name.as_str(), &self.entries[*entry].ty))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.expanded.len()
    }

    /// Whether no tensor is declared.
    pub fn is_empty(&self) -> bool {
        self.expanded.is_empty()
    }

    /// Type of the tensor with exactly this name.
    pub fn get(&self, name: &str) -> Option<&TensorType> {
        self.by_name.get(name).map(|entry| &self.entries[*entry].ty)
    }

    /// Type of a path that may hold `{index}` segments: that of any tensor it can stand for.
    pub fn resolve(&self, path: &str) -> Option<&TensorType> {
        if !path.contains('{') {
            return self.get(path);
        }
        // The wildcard map also folds fixed numbers; only a full match of the rest counts.
        let alike = self.by_wildcard.get(&wildcard(path))?;
        let found = alike.iter().find(|at| stands_for(path, &self.expanded[**at].0))?;
        Some(&self.entries[self.expanded[*found].1].ty)
    }

    /// The declared name closest to `name`, for messages.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.expanded.iter().map(|(n, _)| n.as_str()))
    }
}

/// `a.b` from a scope and a relative path; either may be empty.
pub fn join_path(scope: &str, path: &str) -> String {
    match (scope.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => scope.to_owned(),
        _ => format!("{scope}.{path}"),
    }
}

/// `path` with every `{name}` segment replaced through `bind`; `None` if a name is unbound.
pub fn bind_path(path: &str, bind: impl Fn(&str) -> Option<u32>) -> Option<String> {
    if !path.contains('{') {
        return Some(path.to_owned());
    }
    let mut out = String::with_capacity(path.len());
    for (i, segment) in path.split('.').enumerate() {
        if i > 0 {
            out.push('.');
        }
        match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) => out.push_str(&bind(name)?.to_string()),
            None => out.push_str(segment),
        }
    }
    Some(out)
}

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit())
}

fn wildcard(name: &str) -> String {
    let fold = |segment: &str| {
        if is_number(segment) || segment.starts_with('{') { "*".into() } else { segment.to_owned() }
    };
    name.split('.').map(fold).collect::<Vec<_>>().join(".")
}

/// Whether a path can mean `name`, of as many segments.
fn stands_for(path: &str, name: &str) -> bool {
    let means = |(p, n): (&str, &str)| p == n || (p.starts_with('{') && is_number(n));
    path.split('.').zip(name.split('.')).all(means)
}

/// Every name a template stands for, in order.
pub fn expand(template: &str) -> Result<Vec<String>, ManifestError> {
    let bad = |why: &str| ManifestError::Template(format!("{why} in \"{template}\""));
    let mut names = vec![String::new()];
    let mut rest = template;
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, tail) = rest.split_at(open);
        if tail.starts_with('}') {
            return Err(bad("a closing brace without an opening one"));
        }
        let close = tail.find('}').ok_or_else(|| bad("an opening brace without a closing one"))?;
        let inside = &tail[1..close];
        let choices: Vec<String> = if let Some((_, range)) = inside.split_once(':') {
            let (lo, hi) = range.split_once("..").ok_or_else(|| bad("a range without `..`"))?;
            let parse = |s: &str| s.trim().parse::<u32>().map_err(|_| bad("a malformed range"));
            let (lo, hi) = (parse(lo)?, parse(hi)?);
            if (hi.saturating_sub(lo) as usize) > MOST_NAMES {
                return Err(bad("an absurdly long range"));
            }
            (lo..hi).map(|i| i.to_string()).collect()
        } else {
            inside.split(',').map(|s| s.trim().to_owned()).collect()
        };
        if choices.iter().any(|c| c.is_empty() || c.contains('{')) {
            return Err(bad("an empty or nested alternative"));
        }
        if names.len() * choices.len() > MOST_NAMES {
            return Err(bad("too many alternatives"));
        }
        names = names
            .iter()
            .flat_map(|prefix| choices.iter().map(move |c| format!("{prefix}{literal}{c}")))
            .collect();
        rest = &tail[close + 1..];
    }
    for name in &mut names {
        name.push_str(rest);
    }
    if names.iter().any(String::is_empty) {
        return Err(bad("an empty name"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

    #[test]
    fn templates_expand_in_order_and_resolve_by_pattern() {
        let mut manifest = Manifest::new("dit");
        let small = TensorType::new(DType::F32, [4]);
        let large = TensorType::new(DType::F32, [8]);
        manifest.add("blocks.{l:0..3}.{a,b}.weight", small.clone()).unwrap();
        manifest.add("text.{0,2}.bias", large.clone()).unwrap();
        assert_eq!(manifest.len(), 8);
        let names: Vec<_> = manifest.tensors().map(|(n, _)| n.to_owned()).collect();
        assert_eq!(names[0], "blocks.0.a.weight");
        assert_eq!(names[1], "blocks.0.b.weight");
        assert_eq!(manifest.resolve("blocks.{l}.b.weight"), Some(&small));
        assert_eq!(manifest.resolve("blocks.{l}.c.weight"), None);
        assert_eq!(manifest.get("text.2.bias"), Some(&large));
        assert_eq!(manifest.get("text.1.bias"), None);
        assert_eq!(manifest.nearest("text.2.bais"), Some("text.2.bias"));
    }

    #[test]
    fn malformed_templates_and_duplicates_are_refused() {
        for bad in ["a.{l:0..", "a.}b", "a.{l:x..2}", "a.{l:0-2}", "a.{,b}", "", "a.{b{c}}"] {
            assert!(expand(bad).is_err(), "{bad}");
        }
        assert!(expand("a.{l:0..4000000000}").is_err());
        let mut manifest = Manifest::new("m");
        let ty = TensorType::new(DType::F32, [1]);
        manifest.add("a.{b,c}", ty.clone()).unwrap();
        assert_eq!(manifest.add("a.c", ty), Err(ManifestError::Duplicate("a.c".into())));
    }
}
