//! Samples to learn from: a target, references of the same person, and a prompt (`data.md` §6 and §7).
//!
//! Every sample depends on seed, epoch and its number alone. A target, or a copy of it, is never
//! among its references.

use crate::geometry::{self, Rect, between, size};
use crate::prompt::differ::{Difference, Differential};
use crate::prompt::elements::Elements;
use crate::prompt::similarity::{self, Similarity};
use crate::random::Draws;
use crate::records::{Clip, Face, Group, schema};
use crate::settings::{Forms, SampleSettings, TargetCrop};
use anyid_files::media::standardise::model_frames;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Frames of a reference at most.
const MOST_FRAMES: usize = 121;
/// Seconds of a reference at most.
const MOST_SECONDS: f64 = 5.0;
/// How often a crop that is too small is drawn again.
const TRIES: usize = 8;
/// How often a sample that cannot be made is drawn again.
const REDRAWS: u64 = 32;
/// A target may be enlarged by this.
const MOST_SCALE: f64 = 4.0 / 3.0;

/// What clips show and how alike they are.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// What each clip shows.
    pub described: BTreeMap<String, Elements>,
    /// How alike a reference (first) and a target are, where that was asked of a model.
    pub compared: BTreeMap<(String, String), [Option<f64>; 7]>,
    /// How texts are compared where it was not.
    pub similarity: Similarity,
    /// The model that described a clip, and under which name its answer is kept, where one did.
    pub describers: BTreeMap<String, [Value; 2]>,
    /// The model that compared a pair, where one did.
    pub judges: BTreeMap<(String, String), Value>,
}

/// A group whose clips can be drawn from.
struct Person<'p> {
    id: &'p str,
    clips: Vec<&'p Clip>,
    /// For each clip the set of copies that it is in.
    set: Vec<usize>,
    /// Clips that may be targets.
    targets: Vec<usize>,
}

/// What samples are drawn from.
pub struct Pool<'p> {
    people: Vec<Person<'p>>,
    weights: Vec<f64>,
    texts: &'p Texts,
    settings: &'p SampleSettings,
}

/// Whether a clip may be a target: long and large enough.
pub fn may_be_target(clip: &Clip, settings: &SampleSettings) -> bool {
    let span = &clip.span;
    let long = span.starts(settings.frames, settings.fps) > 0;
    let frame = [span.width, span.height];
    let crop = geometry::target(frame, [settings.width, settings.height], None);
    let scale = settings.width as f64 / size(&crop)[0].max(1.0);
    long && (settings.allow_upscale || scale <= MOST_SCALE)
}

/// A part of a clip as a line of the manifest has it, with where it is in time.
struct Part {
    value: Map<String, Value>,
    form: &'static str,
    /// Seconds into the file.
    time: f64,
}

impl<'p> Pool<'p> {
    /// From groups and clips. Clips that are told to be outliers are left out.
    pub fn new(
        groups: &'p [Group],
        clips: &'p [Clip],
        texts: &'p Texts,
        settings: &'p SampleSettings,
    ) -> Self {
        let by_id: BTreeMap<&str, &Clip> =
            clips.iter().map(|clip| (clip.span.id.as_str(), clip)).collect();
        let mut people = Vec::new();
        for group in groups {
            let outliers: BTreeSet<&String> = group.outliers.iter().collect();
            let members = group.clips.iter().filter(|id| !outliers.contains(id));
            let clips: Vec<&Clip> = members
                .filter_map(|id| by_id.get(id.as_str()).copied())
                .filter(|clip| clip.keep && !clip.usable.is_empty())
                .collect();
            let set_of = |(at, clip): (usize, &&Clip)| {
                let sets = group.copies.iter().position(|set| set.contains(&clip.span.id));
                sets.map_or(group.copies.len() + at, |set| set)
            };
            let set: Vec<usize> = clips.iter().enumerate().map(set_of).collect();
            let sayable = |at: &usize| {
                let texts = texts.described.get(&clips[*at].span.id);
                texts.is_some_and(|texts| texts.iter().next().is_some())
            };
            let targets: Vec<usize> = (0..clips.len())
                .filter(|at| may_be_target(clips[*at], settings))
                .filter(|at| set.iter().any(|other| *other != set[*at]))
                .filter(sayable)
                .collect();
            if !targets.is_empty() {
                people.push(Person { id: &group.id, clips, set, targets });
            }
        }
        let weight = |person: &Person<'_>| match settings.by_size {
            true => (person.clips.len() as f64).sqrt(),
            false => 1.0,
        };
        let weights = people.iter().map(weight).collect();
        Self { people, weights, texts, settings }
    }

    /// People of whom there are samples.
    pub fn len(&self) -> usize {
        self.people.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// Sample `index` of an epoch; none where nothing could be drawn.
    pub fn sample(&self, epoch: u64, index: u64) -> Option<Value> {
        (0..REDRAWS).find_map(|round| {
            let key = format!("{epoch}/{index}/{round}");
            self.drawn(epoch, index, &mut Draws::new(self.settings.seed, "instance", key))
        })
    }

    fn drawn(&self, epoch: u64, index: u64, draws: &mut Draws) -> Option<Value> {
        if self.people.is_empty() {
            return None;
        }
        let settings = self.settings;
        let person = &self.people[draws.weighted(&self.weights)];
        let target_at = person.targets[draws.below(person.targets.len())];
        let [least, most] = settings.references;
        let wanted = least + draws.below(most - least + 1);
        // One clip of each set of copies, none of the target's.
        let mut order: Vec<usize> = (0..person.clips.len()).collect();
        for at in 0..order.len() {
            let other = at + draws.below(order.len() - at);
            order.swap(at, other);
        }
        let mut sets: BTreeSet<usize> = BTreeSet::from([person.set[target_at]]);
        order.retain(|at| sets.insert(person.set[*at]));
        order.truncate(wanted);
        let mut parts: Vec<(usize, Part)> = Vec::new();
        for at in order {
            let forms = match (&settings.primary_forms, parts.is_empty()) {
                (Some(forms), true) => forms,
                _ => &settings.forms,
            };
            parts
                .extend(reference(person.clips[at], forms, settings, draws).map(|part| (at, part)));
        }
        if parts.is_empty() {
            return None;
        }
        let first = parts.len();
        let mut tries = 0;
        while settings.repeat_clips && parts.len() < wanted && tries < TRIES {
            tries += 1;
            let at = parts[draws.below(first)].0;
            let Some(part) = reference(person.clips[at], &settings.forms, settings, draws) else {
                continue;
            };
            let near = |(other, before): &(usize, Part)| {
                *other == at && before.form == part.form && (before.time - part.time).abs() < 1.0
            };
            if !parts.iter().any(near) {
                parts.push((at, part));
            }
        }
        let target_clip = person.clips[target_at];
        let (primary_clip, form) = (person.clips[parts[0].0], parts[0].1.form);
        let full = draws.unit() < settings.full_prompt;
        let prompt = self.prompt(primary_clip, target_clip, form, full)?;
        let target = target(target_clip, settings, draws);
        let references: Vec<Value> = parts
            .into_iter()
            .enumerate()
            .map(|(at, (_, part))| {
                let mut value = Map::new();
                let role = if at == 0 { "primary" } else { "aux" };
                value.insert("role".into(), role.into());
                value.extend(part.value);
                value.into()
            })
            .collect();
        let mut sample = json!({
            "schema": schema::SAMPLE,
            "id": format!("s_{epoch}_{index:06}"),
            "group": person.id,
            "seed": settings.seed,
            "target": target,
            "references": references,
            "prompt": prompt.prompt,
            "prompt_full": prompt.full,
            "elements": prompt.table,
            "prompt_style": settings.style.name(),
        });
        if let Some(asked) = self.asked(primary_clip, target_clip) {
            sample["provenance"] = asked;
        }
        Some(sample)
    }

    /// The models that a prompt is made by, and the names of their answers; none where there are none.
    fn asked(&self, primary: &Clip, target: &Clip) -> Option<Value> {
        let pair = (primary.span.id.clone(), target.span.id.clone());
        let seen = [&pair.1, &pair.0].map(|clip| self.texts.describers.get(clip));
        let judge = self.texts.judges.get(&pair);
        let model = seen.iter().flatten().map(|[model, _]| model).next();
        model.or(judge)?;
        let cache = seen.iter().flatten().map(|[_, cache]| cache).filter(|name| name.is_string());
        let cache: Vec<&Value> = cache.collect();
        Some(json!({"vlm": model, "llm": judge, "cache": cache}))
    }

    fn prompt(
        &self,
        primary: &Clip,
        target: &Clip,
        form: &str,
        full: bool,
    ) -> Option<Differential> {
        let described = self.texts.described.get(&target.span.id)?;
        let pair = (primary.span.id.clone(), target.span.id.clone());
        let scores = match (self.texts.compared.get(&pair), self.texts.described.get(&pair.0)) {
            (Some(scores), _) => *scores,
            (None, Some(other)) => similarity::scores(other, described, self.texts.similarity),
            (None, None) => [None; 7],
        };
        let difference = Difference {
            target: described,
            scores: &scores,
            form,
            gamma: self.settings.gamma,
            style: self.settings.style,
            full,
        };
        difference.prompt()
    }
}

/// What every part of a clip says of where it is from.
fn source(clip: &Clip) -> Map<String, Value> {
    let mut value = Map::new();
    value.insert("clip".into(), clip.span.id.clone().into());
    value.insert("media".into(), clip.span.media.clone().into());
    if !clip.span.sha256.is_empty() {
        value.insert("sha256".into(), clip.span.sha256.clone().into());
    }
    value
}

fn whole(part: &Rect) -> Value {
    part.map(|side| side as i64).to_vec().into()
}

/// The box of the person in a frame, between those in which it was detected.
fn person_at(clip: &Clip, f: usize) -> Option<Rect> {
    let after = clip.persons.partition_point(|person| person.f < f);
    let (before, after) = (after.checked_sub(1), clip.persons.get(after));
    match (before.map(|at| &clip.persons[at]), after) {
        (Some(a), Some(b)) => {
            Some(between(&a.area, &b.area, (f - a.f) as f64 / (b.f - a.f) as f64))
        }
        (Some(one), None) | (None, Some(one)) => Some(one.area),
        (None, None) => None,
    }
}

fn face_at(clip: &Clip, f: usize) -> Option<&Face> {
    clip.faces.iter().find(|face| face.f == f)
}

fn reference(
    clip: &Clip,
    forms: &Forms,
    settings: &SampleSettings,
    draws: &mut Draws,
) -> Option<Part> {
    let mut weights = [forms.face, forms.portrait, forms.video];
    while weights.iter().any(|weight| *weight > 0.0) {
        let form = draws.weighted(&weights);
        let made = match form {
            0 | 1 => still(clip, form == 0, draws),
            _ => video(clip, settings, draws),
        };
        if made.is_some() {
            return made;
        }
        // What cannot be made of this clip is not asked for again.
        weights[form] = 0.0;
    }
    None
}

/// A face or a portrait in a frame that is drawn.
fn still(clip: &Clip, of_face: bool, draws: &mut Draws) -> Option<Part> {
    let frame = [clip.span.width, clip.span.height];
    for _ in 0..TRIES {
        let f = clip.usable[draws.below(clip.usable.len())];
        let Some(face) = face_at(clip, f) else { continue };
        let drawn = match of_face {
            true => geometry::face(&face.area, frame, draws).map(|crop| (None, crop)),
            false => {
                let person = person_at(clip, f);
                let person = person.unwrap_or_else(|| geometry::person_of(&face.area, frame));
                geometry::portrait(&face.area, &person, frame, draws)
                    .map(|(kind, crop)| (Some(kind), crop))
            }
        };
        let Some((kind, crop)) = drawn else { continue };
        let form = if of_face { "face" } else { "portrait" };
        let mut value = Map::new();
        value.insert("form".into(), form.into());
        value.extend(kind.map(|kind| ("kind".to_owned(), Value::from(kind.name()))));
        value.extend(source(clip));
        value.insert("frame".into(), f.into());
        value.insert("crop".into(), whole(&crop));
        return Some(Part { value, form, time: clip.span.seconds(f) });
    }
    None
}

/// A piece of a clip, cut to the one region that holds the person.
fn video(clip: &Clip, settings: &SampleSettings, draws: &mut Draws) -> Option<Part> {
    let span = &clip.span;
    let length = span.duration;
    let seconds = draws.between(length.min(1.0), length.clamp(1.0, MOST_SECONDS));
    let mut frames = model_frames((seconds * settings.fps) as usize, 4).clamp(1, MOST_FRAMES);
    while frames > 4 && span.starts(frames, settings.fps) == 0 {
        frames -= 4;
    }
    if frames < 5 {
        return None;
    }
    let start = span.start + draws.below(span.starts(frames, settings.fps));
    let used = start..span.until(start, frames, settings.fps);
    let persons: Vec<Rect> = used.clone().filter_map(|f| person_at(clip, f)).collect();
    let within = |face: &&Face| used.contains(&face.f);
    let faces: Vec<Rect> = clip.faces.iter().filter(within).map(|face| face.area).collect();
    let crop = geometry::region(&persons, &faces, [span.width, span.height]);
    let mut value = Map::new();
    value.insert("form".into(), "video".into());
    value.extend(source(clip));
    for (key, number) in [
        ("start", json!(start)),
        ("frames", json!(frames)),
        ("fps", json!(settings.fps)),
        ("src_fps", json!(span.fps)),
        ("crop", whole(&crop)),
    ] {
        value.insert(key.into(), number);
    }
    Some(Part { value, form: "video", time: span.seconds(start) })
}

/// A piece of a clip that has the length and shape of targets.
fn target(clip: &Clip, settings: &SampleSettings, draws: &mut Draws) -> Value {
    let span = &clip.span;
    let start = span.start + draws.below(span.starts(settings.frames, settings.fps));
    let subject = (settings.target_crop == TargetCrop::Subject).then(|| {
        let used = start..span.until(start, settings.frames, settings.fps);
        let persons: Vec<Rect> = used.filter_map(|f| person_at(clip, f)).collect();
        let first = persons.first().copied();
        persons.iter().fold(first, |all, one| all.map(|all| geometry::union(&all, one)))
    });
    let frame = [span.width, span.height];
    let wanted = [settings.width, settings.height];
    let crop = geometry::target(frame, wanted, subject.flatten().as_ref());
    let mut value = source(clip);
    for (key, number) in [
        ("start", json!(start)),
        ("frames", json!(settings.frames)),
        ("fps", json!(settings.fps)),
        ("src_fps", json!(span.fps)),
        ("crop", whole(&crop)),
    ] {
        value.insert(key.into(), number);
    }
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::{face, found};
    use crate::prompt::elements::Element;
    use crate::settings::{FilterSettings, GroupSettings};

    fn clips(groups: usize, each: usize) -> Vec<Clip> {
        let mut out = Vec::new();
        for group in 0..groups {
            for at in 0..each {
                let faces = (0..20).map(|f| face(f * 12, 480.0 + f as f64, 180.0, 220.0)).collect();
                let found = found(&format!("g{group}_{at}"), faces);
                let mut clip = crate::filter::clip(found, &FilterSettings::default());
                clip.span.media = format!("g{group}/{at}.mp4");
                clip.hashes = Vec::new();
                out.push(clip);
            }
        }
        out
    }

    fn texts(clips: &[Clip]) -> Texts {
        let mut texts = Texts::default();
        for clip in clips {
            let mut elements = Elements::default();
            elements.set(Element::Shot, "Static close-up shot.");
            elements.set(Element::Action, format!("He does number {}.", clip.span.id));
            texts.described.insert(clip.span.id.clone(), elements);
        }
        texts
    }

    #[test]
    fn targets_are_never_among_their_references_and_all_is_as_probable_as_set() {
        let clips = clips(4, 8);
        let mut groups = crate::group::grouped(&clips, &GroupSettings::default()).unwrap().groups;
        // Two clips of each group are one.
        for group in &mut groups {
            group.copies = vec![vec![group.clips[0].clone(), group.clips[1].clone()]];
        }
        let texts = texts(&clips);
        let settings = SampleSettings { repeat_clips: false, ..SampleSettings::default() };
        let pool = Pool::new(&groups, &clips, &texts, &settings);
        assert_eq!(pool.len(), 4);
        let (mut numbers, mut forms, mut people) = ([0usize; 5], [0usize; 3], [0usize; 4]);
        let (draws, mut references) = (100_000u64, 0);
        for index in 0..draws {
            let sample = pool.sample(0, index).unwrap();
            let list = sample["references"].as_array().unwrap();
            let target = sample["target"]["clip"].as_str().unwrap();
            let mut seen = BTreeSet::new();
            for reference in list {
                let clip = reference["clip"].as_str().unwrap();
                assert_ne!(clip, target);
                assert_eq!(clip[..2], target[..2], "another person");
                let copies = [&target[2..], &clip[2..]];
                assert!(!(copies.contains(&"_0") && copies.contains(&"_1")), "a copy");
                assert!(seen.insert(clip.to_owned()));
                let names = ["face", "portrait", "video"];
                forms[names.iter().position(|n| reference["form"] == *n).unwrap()] += 1;
                references += 1;
            }
            numbers[list.len() - 1] += 1;
            people[target[1..2].parse::<usize>().unwrap()] += 1;
        }
        let near = |count: usize, all: usize, share: f64| {
            let (mean, all) = (all as f64 * share, all as f64);
            (count as f64 - mean).abs() <= 3.0 * (all * share * (1.0 - share)).sqrt()
        };
        assert!(numbers.iter().all(|count| near(*count, draws as usize, 0.2)), "{numbers:?}");
        assert!(people.iter().all(|count| near(*count, draws as usize, 0.25)), "{people:?}");
        assert!(forms.iter().all(|count| near(*count, references, 1.0 / 3.0)), "{forms:?}");
    }

    #[test]
    fn the_models_that_made_a_prompt_are_named() {
        let clips = clips(1, 2);
        let groups = crate::group::grouped(&clips, &GroupSettings::default()).unwrap().groups;
        let mut texts = texts(&clips);
        let settings = SampleSettings::default();
        let first = |texts: &Texts| {
            Pool::new(&groups, &clips, texts, &settings).sample(0, 0).unwrap()["provenance"].clone()
        };
        assert_eq!(first(&texts), Value::Null);
        let ids = clips.iter().map(|clip| clip.span.id.clone());
        texts.describers = ids.map(|id| (id.clone(), [json!("seer"), json!(id)])).collect();
        let found = first(&texts);
        assert_eq!((&found["vlm"], &found["llm"]), (&json!("seer"), &Value::Null));
        assert_eq!(found["cache"].as_array().unwrap().len(), 2);
        let [target, primary] = [0, 1].map(|at| found["cache"][at].as_str().unwrap().to_owned());
        texts.judges.insert((primary, target), json!("judge"));
        assert_eq!(first(&texts)["llm"], "judge");
    }

    #[test]
    fn parts_lie_in_their_clips_and_frames() {
        let clips = clips(1, 3);
        let groups = crate::group::grouped(&clips, &GroupSettings::default()).unwrap().groups;
        let texts = texts(&clips);
        for target_crop in [TargetCrop::Centre, TargetCrop::Subject] {
            let settings = SampleSettings { target_crop, ..SampleSettings::default() };
            let pool = Pool::new(&groups, &clips, &texts, &settings);
            let mut most = 0;
            for index in 0..2000 {
                let sample = pool.sample(3, index).unwrap();
                let list = sample["references"].as_array().unwrap();
                most = most.max(list.len());
                for part in list.iter().chain([&sample["target"]]) {
                    let crop: Vec<i64> = serde_json::from_value(part["crop"].clone()).unwrap();
                    assert!(crop[0] >= 0 && crop[1] >= 0 && crop[2] <= 1280 && crop[3] <= 720);
                    let start = part["start"].as_u64().or(part["frame"].as_u64()).unwrap();
                    let frames = part["frames"].as_u64().unwrap_or(1);
                    assert!(start + frames <= 240 && frames % 4 == 1, "{part}");
                }
            }
            // Further parts of two clips make up for those that are not there.
            assert_eq!(most, 5);
        }
    }

    #[test]
    fn samples_depend_on_seed_epoch_and_number_alone() {
        let clips = clips(3, 4);
        let groups = crate::group::grouped(&clips, &GroupSettings::default()).unwrap().groups;
        let texts = texts(&clips);
        let settings = SampleSettings::default();
        let pool = Pool::new(&groups, &clips, &texts, &settings);
        assert_eq!(pool.sample(1, 7), Pool::new(&groups, &clips, &texts, &settings).sample(1, 7));
        assert_ne!(pool.sample(1, 7), pool.sample(2, 7));
        let other = SampleSettings { seed: 1, ..settings.clone() };
        assert_ne!(pool.sample(1, 7), Pool::new(&groups, &clips, &texts, &other).sample(1, 7));
    }

    #[test]
    fn clips_that_are_short_or_small_are_no_targets() {
        let mut clip = clips(1, 1).remove(0);
        let settings = SampleSettings::default();
        assert!(may_be_target(&clip, &settings));
        clip.span.end = 120;
        assert!(!may_be_target(&clip, &settings));
        clip.span.end = 121;
        assert!(may_be_target(&clip, &settings));
        clip.span.fps = 30.0;
        assert!(!may_be_target(&clip, &settings));
        clip.span.end = 151;
        assert!(may_be_target(&clip, &settings));
        (clip.span.width, clip.span.height) = (940, 540);
        assert!(!may_be_target(&clip, &settings));
        assert!(may_be_target(&clip, &SampleSettings { allow_upscale: true, ..settings }));
    }
}
