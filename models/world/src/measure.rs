//! What many verdicts come to: shares that were read rightly, colour errors, and how sure they are.
//!
//! The cases of one clip are not independent of each other: whoever misses the skin misses the ears
//! too. So a clip is the unit: a measure is the sum over the clips by the number of cases, with the
//! standard error of a ratio of sums, and two arms are compared by the differences within clips.

use crate::contrast::Feature;
use crate::judge::Verdict;
use crate::person::{Attribute, Element, Slot};
use crate::set::Set;
use std::collections::BTreeMap;

/// What one clip gives to a measure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// How many cases were right, or the sum of their errors.
    pub sum: f64,
    /// The cases.
    pub cases: f64,
}

/// What clips give to measures, by name.
pub type Parts = BTreeMap<String, Part>;

/// A measure over many clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The share or mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Cases that it is of.
    pub cases: f64,
}

/// The colours of [`Verdict::colours`], and the elements that two of them belong to.
const COLOURS: [(&str, Option<Element>); 3] =
    [("skin", None), ("hair", Some(Element::Hairstyle)), ("clothes", Some(Element::Clothing))];

/// Measures that pool others: the ones that tables begin with.
pub const POOLED: [&str; 5] = ["large", "small", "identity", "mentioned", "inherited"];

/// What the verdict on a clip of `set` gives: `large`, `small` and `identity` pool attributes,
/// `mentioned` and `inherited` elements by whether the set's differential prompt names them,
/// whichever prompt the clip was made with; each attribute and slot has a measure of its name, and
/// `colour.skin`, `colour.hair` and `colour.clothes` are mean differences of colours, the latter two
/// also by whether the primary hands them on (`colour.hair.kept`, `colour.hair.changed`). An element
/// is right where all slots of it that can be seen are.
pub fn parts(set: &Set, verdict: &Verdict) -> Parts {
    let mut out = Parts::new();
    let mut add = |name: &str, sum: f64| {
        let part = out.entry(name.to_owned()).or_default();
        part.sum += sum;
        part.cases += 1.0;
    };
    let mut elements: BTreeMap<Element, bool> = BTreeMap::new();
    for reading in verdict.readings.iter().filter(|reading| reading.visible) {
        let right = f64::from(u8::from(reading.right()));
        add(reading.feature.name(), right);
        match reading.feature {
            Feature::Attribute(attribute) => {
                add("identity", right);
                add(if Attribute::LARGE.contains(&attribute) { "large" } else { "small" }, right);
            }
            Feature::Slot(slot) => {
                let all = elements.entry(slot.element()).or_insert(true);
                *all &= reading.right();
            }
        }
    }
    let differential = set.differential();
    let mentioned = |element: &Element| differential.mentioned.contains(element);
    for (element, right) in &elements {
        let name = if mentioned(element) { "mentioned" } else { "inherited" };
        add(name, f64::from(u8::from(*right)));
    }
    for ((name, element), error) in COLOURS.iter().zip(verdict.colours) {
        let Some(error) = error else { continue };
        add(&format!("colour.{name}"), error);
        if let Some(element) = element {
            let kept = if mentioned(element) { "changed" } else { "kept" };
            add(&format!("colour.{name}.{kept}"), error);
        }
    }
    out
}

/// The measure that clips come to: a ratio of sums with its standard error; none without a case.
pub fn estimate(clips: &[Part]) -> Option<Estimate> {
    let sum: f64 = clips.iter().map(|part| part.sum).sum();
    let cases: f64 = clips.iter().map(|part| part.cases).sum();
    let count = clips.iter().filter(|part| part.cases > 0.0).count() as f64;
    if count == 0.0 {
        return None;
    }
    let value = sum / cases;
    let off = |part: &Part| (part.sum - value * part.cases).powi(2);
    let squares: f64 = clips.iter().map(off).sum();
    // One clip tells nothing of how far clips differ.
    let error = match count > 1.0 {
        true => (squares * count / (count - 1.0)).sqrt() / cases,
        false => f64::NAN,
    };
    Some(Estimate { value, error, cases })
}

/// The mean difference of a measure between two arms, `others` less `clips`, over the clips that both
/// have cases of, each clip counting as much; none without such a clip.
pub fn difference(clips: &[Part], others: &[Part]) -> Option<Estimate> {
    let mean = |part: &Part| (part.cases > 0.0).then(|| part.sum / part.cases);
    let apart = clips
        .iter()
        .zip(others)
        .filter_map(|(one, other)| Some(Part { sum: mean(other)? - mean(one)?, cases: 1.0 }));
    estimate(&apart.collect::<Vec<_>>())
}

impl Set {
    /// The prompt that names what the primary does not hand on, whatever the prompt of the set is.
    pub fn differential(&self) -> crate::prompt::Prompt {
        let clip = |number| self.group.clip(number).expect("a set's clips were checked");
        let primary = self.references[0];
        let (target, from) = (clip(self.target), clip(primary.clip));
        self.group.world().differential_prompt(&target, &from, primary.form)
    }
}

/// The names of all measures of a world that [`parts`] may give, in the order of tables.
pub fn measures(world: &crate::world::World) -> Vec<String> {
    let mut out: Vec<String> = POOLED.map(str::to_owned).into();
    out.extend(Attribute::ALL.map(|attribute| attribute.name().to_owned()));
    out.extend(world.slots().map(|slot: Slot| slot.name().to_owned()));
    for (name, element) in COLOURS {
        out.push(format!("colour.{name}"));
        if element.is_some() {
            out.extend(["kept", "changed"].map(|how| format!("colour.{name}.{how}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Split;
    use crate::judge::Judge;
    use crate::person::Identity;
    use crate::set::Sampling;
    use crate::world::{Painter, SIDE, View, World};

    fn part(sum: f64, cases: f64) -> Part {
        Part { sum, cases }
    }

    #[test]
    fn shares_have_the_error_of_clips() {
        assert_eq!(estimate(&[]), None);
        assert_eq!(estimate(&[part(0.0, 0.0)]), None);
        // Ten clips of one case each: the usual error of a share, of 10 - 1.
        let clips: Vec<Part> = (0..10).map(|at| part(f64::from(u8::from(at < 7)), 1.0)).collect();
        let found = estimate(&clips).unwrap();
        assert_eq!((found.value, found.cases), (0.7, 10.0));
        assert!((found.error - (0.7f64 * 0.3 / 9.0).sqrt()).abs() < 1e-12);
        // Cases that go together within clips tell as much as one of each.
        let clips: Vec<Part> = clips.iter().map(|one| part(3.0 * one.sum, 3.0)).collect();
        let together = estimate(&clips).unwrap();
        assert!((together.error - found.error).abs() < 1e-12);
        // A clip without a case counts for nothing.
        let more: Vec<Part> = clips.iter().copied().chain([part(0.0, 0.0)]).collect();
        assert_eq!(estimate(&more), Some(together));
        assert!(estimate(&[part(1.0, 2.0)]).unwrap().error.is_nan());
    }

    #[test]
    fn arms_are_compared_within_clips() {
        let one = [part(1.0, 2.0), part(0.0, 0.0), part(3.0, 3.0), part(0.0, 1.0)];
        let other = [part(2.0, 2.0), part(1.0, 1.0), part(3.0, 3.0), part(0.5, 1.0)];
        let found = difference(&one, &other).unwrap();
        assert_eq!(found.cases, 3.0);
        assert!((found.value - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(difference(&one, &one).unwrap().value, 0.0);
        assert_eq!(difference(&one[..1], &[part(0.0, 0.0)]), None);
    }

    #[test]
    fn true_clips_are_right_and_others_are_not() {
        let world = World::new(2).unwrap();
        let sampling = Sampling::new(Split::HeldOut.some(0, 30).unwrap());
        let (mut judge, mut painter) = (Judge::new(world), Painter::new(SIDE).unwrap());
        let names = measures(&world);
        for index in 0..6 {
            let set = world.sample(&sampling, 1, index).unwrap();
            let clip = set.group.clip(set.target).unwrap();
            let other = world.group(set.group.number() + 1).unwrap();
            let times = [0.0, 1.0];
            let mut judged = |shown: &Identity, expected: &Identity| {
                let frame = |time| painter.frame(&world.scene(shown, &clip, View::Frame(time)));
                let frames = times.map(frame);
                let frames = frames.each_ref().map(Vec::as_slice);
                parts(&set, &judge.clip(&frames, SIDE, &times, expected, &clip).unwrap())
            };
            let found = judged(&set.group.identity, &set.group.identity);
            assert!(found.keys().all(|name| names.contains(name)), "{found:?}");
            for (name, part) in &found {
                let share = part.sum / part.cases;
                let fine = if name.starts_with("colour") { share < 0.02 } else { share == 1.0 };
                assert!(fine, "{name}: {share}");
            }
            let elements = found.get("mentioned").map_or(0.0, |part| part.cases)
                + found.get("inherited").map_or(0.0, |part| part.cases);
            assert!((6.0..=8.0).contains(&elements), "{elements}");
            // A clip of somebody else is more like that one.
            let theirs = judged(&other.identity, &other.identity)["identity"];
            let own = judged(&other.identity, &set.group.identity)["identity"];
            assert!(theirs.sum / theirs.cases > own.sum / own.cases, "{theirs:?} {own:?}");
        }
    }
}
