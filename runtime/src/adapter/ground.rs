//! The weights that an adapter is used on, compared with those that it was trained on; and adapters that
//! would count twice.
//!
//! A merged model says in its header what was merged into which transformer, so it stands for that one
//! with the adapters on it. Adapters are compared by the SHA-256 of their files. Nothing is refused here.

use super::{Adapter, Base, Part, shown_scale};
use crate::error::Result;
use crate::weights::ModelWeights;
use std::collections::BTreeMap;

/// The key of the header that says which adapters were merged.
const MERGED: &str = "anyid.merged";
/// The key of the transformer that the first of them was merged into.
const MERGED_INTO: &str = "anyid.merged_into";

/// Weights that adapters are used on.
#[derive(Clone, Debug, PartialEq)]
pub struct Ground {
    /// Fingerprint of their files.
    pub fingerprint: String,
    /// Adapters that are merged into them.
    pub merged: Vec<Part>,
    /// Fingerprint of the transformer without these, where the header says so.
    pub root: Option<String>,
}

impl Ground {
    /// That of the weights of a transformer, without the adapters that are on them.
    ///
    /// # Errors
    /// E0330 to E0332 where the files cannot be read.
    pub fn of(weights: &ModelWeights) -> Result<Self> {
        let said = |key: &str| {
            let mut files = weights.without_adapters().files();
            files.find_map(|file| file.metadata().get(key).cloned())
        };
        let merged = said(MERGED).map_or_else(Vec::new, |text| Part::listed(&text));
        Ok(Self { fingerprint: weights.fingerprint()?, merged, root: said(MERGED_INTO) })
    }

    /// Says in the header of weights that they are these with `more` merged in.
    pub fn say_merged(&self, more: &[Part], header: &mut BTreeMap<String, String>) {
        let more = more.iter().filter(|part| part.counts());
        let all: Vec<Part> = self.merged.iter().chain(more).cloned().collect();
        header.insert(MERGED.to_owned(), Part::list(&all));
        // Models that were merged before this was said have no root, and neither has what is made of them.
        let root = match (&self.root, self.merged.is_empty()) {
            (None, true) => Some(&self.fingerprint),
            (root, _) => root.as_ref(),
        };
        header.extend(root.map(|root| (MERGED_INTO.to_owned(), root.clone())));
    }

    /// What is trained on these with the adapters `on`: the transformer that the header names, where it names
    /// one, with what is merged into it.
    pub fn base(&self, on: &[Part]) -> Base {
        match &self.root {
            Some(root) => {
                let adapters = self.merged.iter().chain(on).cloned().collect();
                Base { model: root.clone(), adapters }
            }
            None => Base { model: self.fingerprint.clone(), adapters: on.to_vec() },
        }
    }

    /// Says in the header of weights that they were trained from these with the adapters `on`: all of them are
    /// in there, but the weights stand for no others any more.
    pub fn say_trained(&self, on: &[Part], header: &mut BTreeMap<String, String>) {
        let all: Vec<Part> =
            self.merged.iter().chain(on.iter().filter(|part| part.counts())).cloned().collect();
        if !all.is_empty() {
            header.insert(MERGED.to_owned(), Part::list(&all));
        }
    }

    /// Which adapters an adapter was trained with that are not here, and the other way round, where `beside`
    /// is used with it; none where it was trained on another transformer.
    fn apart(&self, base: &Base, beside: &[Part]) -> Option<[Vec<Part>; 2]> {
        let merged: &[Part] = match base.model == self.fingerprint {
            true => &[],
            false if self.root.as_ref() == Some(&base.model) => &self.merged,
            false => return None,
        };
        let all = merged.iter().chain(beside).filter(|part| part.counts());
        let all: Vec<Part> = all.cloned().collect();
        Some([Part::without(&base.adapters, &all), Part::without(&all, &base.adapters)])
    }
}

/// What an adapter was trained on, where it says so.
pub fn base_of(adapter: &Adapter) -> Option<Base> {
    Base::of(&adapter.metadata)
}

/// A warning where `adapter` was trained on something else than it is used on; `beside` are the adapters
/// that are used with it.
pub fn other_base(adapter: &Adapter, ground: &Ground, beside: &[Part]) -> Option<String> {
    let (base, path) = (base_of(adapter)?, adapter.path.display());
    let Some([lacks, _]) = ground.apart(&base, beside) else {
        let merged = match beside.is_empty() {
            false => ", unless that is this one with the other adapters merged in",
            true => "",
        };
        let with = on_top(&base.adapters, " with ");
        let (trained_on, this) = (short(&base.model), short(&ground.fingerprint));
        return Some(format!(
            "{path}: it was trained on the transformer with fingerprint {trained_on}{with}, this one has \
             {this}: it will not do what it was trained for{merged}"
        ));
    };
    let all: Vec<Part> = ground.merged.iter().chain(beside).cloned().collect();
    let all = Part::summed(&all);
    let here = |part: &Part| {
        let own = all.iter().find(|own| own.sha256 == part.sha256);
        own.map_or(String::new(), |own| format!(" (here at scale {})", shown_scale(own.scale)))
    };
    let words: Vec<String> = lacks.iter().map(|part| words(part) + &here(part)).collect();
    (!lacks.is_empty()).then(|| {
        format!(
            "{path}: it was trained on this transformer with {}: without that it will not do what it was \
             trained for",
            words.join(" and ")
        )
    })
}

/// As [`other_base`], of an adapter that is trained on with `beside` in the weights, which have to be those
/// that it was trained with.
pub fn other_start(adapter: &Adapter, ground: &Ground, beside: &[Part]) -> Option<String> {
    let other = other_base(adapter, ground, beside);
    other.or_else(|| {
        let [_, more] = ground.apart(&base_of(adapter)?, beside)?;
        let more = on_top(&more, "");
        (!more.is_empty()).then(|| {
            format!(
                "{}: it was trained on this transformer without {more}, which is in the weights now",
                adapter.path.display()
            )
        })
    })
}

/// An adapter that is used, and what it is called.
pub type Used = (String, Part);

/// What an adapter of this name puts into weights.
///
/// # Errors
/// E0310 and E0330 to E0332 where its file cannot be read.
pub fn used(name: &str, adapter: &Adapter, scale: f64) -> Result<Vec<Used>> {
    let parts = Part::all_of(adapter, scale)?;
    let several = parts.len() > 1;
    let called = |part: Part| match several {
        true => (format!("adapter {} in {name}", short(&part.sha256)), part),
        false => (name.to_owned(), part),
    };
    Ok(parts.into_iter().map(called).collect())
}

/// The adapters themselves, without what they are called.
pub fn parts_of(used: &[Used]) -> Vec<Part> {
    used.iter().map(|(_, part)| part.clone()).collect()
}

/// Where one of `used` counts twice: beside another one of them, beside one of `before`, or as it is
/// `merged` into the weights. What does not count at all is left out.
pub fn twice(merged: &[Part], used: &[Used], before: &[Used]) -> Vec<String> {
    let mut out = Vec::new();
    for (at, (name, part)) in used.iter().enumerate().filter(|(_, (_, part))| part.counts()) {
        let same = |(_, other): &&Used| other.counts() && other.sha256 == part.sha256;
        if let Some((other, _)) = before.iter().chain(&used[..at]).find(same) {
            out.push(format!("{other} and {name} are the same adapter"));
        }
        let own = merged.iter().find(|own| own.counts() && own.sha256 == part.sha256);
        out.extend(own.map(|own| {
            format!("{name} is merged into the model already, at scale {}", shown_scale(own.scale))
        }));
    }
    out
}

/// Adapters in words, behind `before`; nothing where there is none.
pub fn on_top(parts: &[Part], before: &str) -> String {
    let words: Vec<String> = parts.iter().map(words).collect();
    if words.is_empty() { String::new() } else { format!("{before}{}", words.join(" and ")) }
}

fn words(part: &Part) -> String {
    format!("adapter {} at scale {}", short(&part.sha256), shown_scale(part.scale))
}

/// The beginning of a digest.
fn short(digest: &str) -> String {
    let some: String = digest.chars().take(12).collect();
    some + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(sha256: &str, scale: f64) -> Part {
        Part { sha256: sha256.to_owned(), scale }
    }

    fn ground(fingerprint: &str, merged: &[Part], root: Option<&str>) -> Ground {
        let (fingerprint, merged) = (fingerprint.to_owned(), merged.to_vec());
        Ground { fingerprint, merged, root: root.map(str::to_owned) }
    }

    #[test]
    fn what_was_trained_on_adapters_needs_them_however_they_come() {
        let base = Base { model: "m".into(), adapters: vec![part("x", 3.0), part("y", 0.5)] };
        let both = [part("y", 0.5), part("x", 3.0)];
        let bare = ground("m", &[], None);
        let apart = |ground: &Ground, beside: &[Part]| ground.apart(&base, beside);
        assert_eq!(apart(&bare, &both), Some([vec![], vec![]]));
        assert_eq!(apart(&bare, &[part("x", 3.0)]), Some([vec![part("y", 0.5)], vec![]]));
        let [lacks, more] = apart(&bare, &[part("x", 1.0), part("y", 0.5)]).unwrap();
        assert_eq!((lacks, more), (vec![part("x", 3.0)], vec![part("x", 1.0)]));
        // Merged, in whole or in part, and into something else.
        assert_eq!(apart(&ground("n", &both, Some("m")), &[]), Some([vec![], vec![]]));
        let half = ground("n", &both[1..], Some("m"));
        assert_eq!(apart(&half, &both[..1]), Some([vec![], vec![]]));
        assert_eq!(apart(&half, &[]), Some([vec![part("y", 0.5)], vec![]]));
        assert_eq!(apart(&ground("n", &both, Some("o")), &[]), None);
        assert_eq!(apart(&ground("n", &both, None), &[]), None);
        // Once is not twice, and twice a half is once.
        let twice = Base { model: "m".into(), adapters: vec![part("x", 1.0), part("x", 1.0)] };
        let [lacks, _] = bare.apart(&twice, &[part("x", 1.0)]).unwrap();
        assert_eq!(lacks, [part("x", 2.0)]);
        let halves = [part("x", 1.5), part("y", 0.5), part("x", 1.5)];
        assert_eq!(apart(&bare, &halves), Some([vec![], vec![]]));
    }

    #[test]
    fn headers_of_merged_weights_keep_what_was_merged_before() {
        let mut header = BTreeMap::new();
        ground("m", &[], None).say_merged(&[part("x", 2.0)], &mut header);
        assert_eq!(
            (Part::listed(&header[MERGED]), &header[MERGED_INTO][..]),
            (vec![part("x", 2.0)], "m")
        );
        ground("n", &[part("x", 2.0)], Some("m")).say_merged(&[part("y", 1.0)], &mut header);
        assert_eq!(Part::listed(&header[MERGED]), [part("x", 2.0), part("y", 1.0)]);
        assert_eq!(header[MERGED_INTO], "m");
        // What was only converted stands for what it was converted from.
        let mut header = BTreeMap::new();
        ground("m", &[], None).say_merged(&[], &mut header);
        assert_eq!((Part::listed(&header[MERGED]), &header[MERGED_INTO][..]), (vec![], "m"));
        ground("n", &[], Some("m")).say_merged(&[part("y", 1.0)], &mut header);
        assert_eq!(header[MERGED_INTO], "m");
        let mut header = BTreeMap::new();
        ground("m", &[part("x", 2.0)], Some("l")).say_trained(&[part("y", 1.0)], &mut header);
        assert_eq!(Part::listed(&header[MERGED]), [part("x", 2.0), part("y", 1.0)]);
        assert!(!header.contains_key(MERGED_INTO), "it is another one now");
        let mut header = BTreeMap::new();
        ground("n", &[part("x", 2.0)], None).say_merged(&[part("y", 1.0)], &mut header);
        assert!(!header.contains_key(MERGED_INTO), "nobody knows");
        assert_eq!(Part::listed("no list"), []);
    }

    #[test]
    fn an_adapter_counts_twice_beside_itself_and_where_it_is_merged() {
        let used = |name: &str, sha256: &str, scale| (name.to_owned(), part(sha256, scale));
        let bare = [];
        let two = [used("a", "x", 1.0), used("b", "x", 0.5)];
        assert_eq!(twice(&bare, &two, &[]), ["a and b are the same adapter"]);
        assert_eq!(twice(&bare, &two[..1], &two[1..]), ["b and a are the same adapter"]);
        assert_eq!(twice(&bare, &[used("a", "x", 1.0), used("b", "y", 1.0)], &[]), [""; 0]);
        assert_eq!(twice(&bare, &[used("a", "x", 1.0), used("b", "x", 0.0)], &[]), [""; 0]);
        let merged = [part("x", 0.25)];
        let said = "a is merged into the model already, at scale 0.25";
        assert_eq!(twice(&merged, &two[..1], &[]), [said]);
    }
}
