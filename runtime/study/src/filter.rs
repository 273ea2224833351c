//! From detections to clips: who the main person of a shot is, and whether it may be used
//! (`data.md` §3 and §4). Everything measured is kept, so that other gates need no new detection.

use crate::geometry::{area, overlap, size};
use crate::records::{Clip, Detection, Face, Person, Quality, schema};
use crate::settings::{FilterSettings, SingleSubject};
use std::collections::BTreeMap;

/// Overlap from which two boxes are one face.
const LINKED: f64 = 0.4;
/// Area of another face, over that of the largest, from which it counts.
const OTHER_FACE: f64 = 0.10;
/// With `largest`: area from which another face is too much.
const SECOND_FACE: f64 = 0.05;
/// Area of another person, over that of the main one, from which it counts.
const OTHER_PERSON: f64 = 0.25;
/// Least share of frames with exactly one face.
const ONE: f64 = 0.90;
/// Largest share of frames without a face.
const NONE: f64 = 0.10;
/// Largest share of frames with several faces, or persons.
const SEVERAL: f64 = 0.02;
/// Frames that the embedding of a clip is made of.
const BEST: usize = 5;

/// The cosine of two lists of numbers; 0 where one of them is nothing.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if a.len() == b.len() && norm > 0.0 { dot(a, b) / norm } else { 0.0 }
}

/// A list of numbers brought to length 1; as it is where it is nothing.
pub fn unit(values: &[f32]) -> Vec<f32> {
    let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let by = if norm > 0.0 { 1.0 / norm } else { 1.0 };
    values.iter().map(|v| (f64::from(*v) * by) as f32).collect()
}

/// The value at a share of the way through sorted values, the nearest one; 0 of none.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((share * last as f64).round() as usize).copied().unwrap_or(0.0)
}

/// The faces of the main person, at most one a frame: detections are linked from frame to frame, and
/// the track with the largest sum of score times area is taken.
fn main_track(faces: &[Face]) -> Vec<Face> {
    let mut frames: BTreeMap<usize, Vec<&Face>> = BTreeMap::new();
    for face in faces {
        frames.entry(face.f).or_default().push(face);
    }
    let mut tracks: Vec<Vec<&Face>> = Vec::new();
    for found in frames.values() {
        let mut pairs: Vec<(f64, f64, usize, usize)> = Vec::new();
        for (t, track) in tracks.iter().enumerate() {
            let last = track[track.len() - 1];
            for (d, face) in found.iter().enumerate() {
                let shared = overlap(&last.area, &face.area);
                if shared >= LINKED {
                    let both = last.embedding.as_deref().zip(face.embedding.as_deref());
                    pairs.push((shared, both.map_or(0.0, |(a, b)| cosine(a, b)), t, d));
                }
            }
        }
        // The largest overlap first, then the more alike, then the earlier.
        pairs.sort_by(|a, b| {
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then((a.2, a.3).cmp(&(b.2, b.3)))
        });
        let (mut taken, mut placed) = (vec![false; tracks.len()], vec![false; found.len()]);
        for (_, _, t, d) in pairs {
            if !taken[t] && !placed[d] {
                (taken[t], placed[d]) = (true, true);
                tracks[t].push(found[d]);
            }
        }
        let new = found.iter().zip(&placed).filter(|(_, placed)| !**placed);
        tracks.extend(new.map(|(face, _)| vec![*face]));
    }
    let weight = |track: &[&Face]| track.iter().map(|f| f.score * area(&f.area)).sum::<f64>();
    let mut best: Option<(f64, &Vec<&Face>)> = None;
    for track in &tracks {
        let weight = weight(track);
        if best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, track));
        }
    }
    best.map_or(Vec::new(), |(_, track)| track.iter().map(|face| (*face).clone()).collect())
}

/// The person that a face belongs to: the box that holds most of it, the largest of equal ones.
fn person_with<'p>(face: &Face, persons: &'p [Person]) -> Option<&'p Person> {
    let held = |person: &Person| {
        let [a, b] = [&face.area, &person.area];
        area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]) / area(a).max(1.0)
    };
    let mut best: Option<(&Person, f64)> = None;
    for person in persons.iter().filter(|person| person.f == face.f) {
        let share = held(person);
        let more = |(other, most): (&Person, f64)| {
            share > most || (share == most && area(&person.area) > area(&other.area))
        };
        if share >= 0.5 && best.is_none_or(more) {
            best = Some((person, share));
        }
    }
    best.map(|(person, _)| person)
}

fn shorter(face: &Face) -> f64 {
    let [width, height] = size(&face.area);
    width.min(height)
}

fn usable(face: &Face, gates: &FilterSettings) -> bool {
    let turned =
        face.pose.is_some_and(|[yaw, _, roll]| yaw.abs() <= gates.yaw && roll.abs() <= gates.roll);
    turned && shorter(face) >= gates.face_min && face.score >= gates.score
}

/// The mean of the best faces' embeddings, of length 1.
fn embedding(faces: &[&Face]) -> Option<Vec<f32>> {
    let worth = |face: &Face| {
        let yaw = face.pose.map_or(90.0, |pose| pose[0]);
        face.score * face.blur.max(0.0).sqrt() * yaw.to_radians().cos()
    };
    let mut known: Vec<&&Face> = faces.iter().filter(|face| face.embedding.is_some()).collect();
    known.sort_by(|a, b| worth(b).total_cmp(&worth(a)).then(a.f.cmp(&b.f)));
    known.truncate(BEST);
    let units: Vec<Vec<f32>> =
        known.iter().filter_map(|face| face.embedding.as_deref().map(unit)).collect();
    let first = units.first()?;
    let sum = |at: usize| units.iter().map(|values| values.get(at).copied().unwrap_or(0.0)).sum();
    Some(unit(&(0..first.len()).map(sum).collect::<Vec<f32>>()))
}

/// The least cosine between the first, the middle and the last face of which it is known.
fn least_cosine(faces: &[&Face]) -> Option<f64> {
    let known: Vec<&[f32]> = faces.iter().filter_map(|face| face.embedding.as_deref()).collect();
    if known.len() < 2 {
        return None;
    }
    let three = [known[0], known[known.len() / 2], known[known.len() - 1]];
    let pairs = [(0, 1), (0, 2), (1, 2)].map(|(a, b)| cosine(three[a], three[b]));
    Some(pairs.into_iter().fold(1.0, f64::min))
}

fn motion(faces: &[Face]) -> f64 {
    let distance = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let ways: Vec<f64> = faces
        .windows(2)
        .map(|pair| {
            let eyes = distance(pair[0].kps[0], pair[0].kps[1]).max(1.0);
            let points = pair[0].kps.iter().zip(&pair[1].kps);
            points.map(|(a, b)| distance(*a, *b)).sum::<f64>() / 5.0 / eyes
        })
        .collect();
    ways.iter().sum::<f64>() / ways.len().max(1) as f64
}

/// The clip that a shot is, by what was detected in it.
pub fn clip(found: Detection, gates: &FilterSettings) -> Clip {
    let Detection { shot: span, sampled, hashes, faces, persons, other, .. } = found;
    let main = main_track(&faces);
    let main_persons: Vec<Person> =
        main.iter().filter_map(|face| person_with(face, &persons).cloned()).collect();
    let n = sampled.len();
    let of_all = |count: usize| count as f64 / n.max(1) as f64;
    // How many faces, and persons, each frame has.
    let (mut none, mut one, mut several, mut crowded, mut second) = (0, 0, 0, 0, 0);
    for frame in &sampled {
        let here: Vec<f64> =
            faces.iter().filter(|face| face.f == *frame).map(|face| area(&face.area)).collect();
        let largest = here.iter().copied().fold(0.0, f64::max);
        let count = |share: f64| here.iter().filter(|size| **size >= share * largest).count();
        match count(OTHER_FACE) {
            0 => none += 1,
            1 => one += 1,
            _ => several += 1,
        }
        second += usize::from(count(SECOND_FACE) > 1);
        let own = main_persons.iter().find(|person| person.f == *frame);
        let most = own.map_or(0.0, |person| area(&person.area));
        let others = persons.iter().filter(|person| person.f == *frame);
        let large = others.filter(|person| area(&person.area) >= OTHER_PERSON * most).count();
        crowded += usize::from(own.is_some() && large > 1);
    }
    let used: Vec<&Face> = main.iter().filter(|face| usable(face, gates)).collect();
    let median = |value: &dyn Fn(&Face) -> f64| quantile(main.iter().map(value).collect(), 0.5);
    let yaws: Vec<f64> = main.iter().filter_map(|face| Some(face.pose?[0].abs())).collect();
    let from_front = |[yaw, pitch, _]: [f64; 3]| {
        yaw.abs() <= gates.front_yaw && gates.front_pitch.is_none_or(|most| pitch.abs() <= most)
    };
    let front = main.iter().filter(|face| face.pose.is_some_and(from_front)).count();
    let quality = Quality {
        n,
        single: of_all(one),
        none: of_all(none),
        several: of_all(several),
        persons: of_all(crowded),
        blur_med: median(&|face| face.blur),
        face_med: median(&shorter),
        yaw_p90: quantile(yaws, 0.9),
        front: front as f64 / main.len().max(1) as f64,
        luma_med: median(&|face| face.luma),
        extremes_med: median(&|face| face.extremes),
        motion: motion(&main),
        cosine: least_cosine(&used),
    };
    let single = match gates.single_subject {
        SingleSubject::Strict => [
            (quality.single < ONE, "not_single"),
            (quality.several > SEVERAL, "several_faces"),
            (quality.persons > SEVERAL, "several_persons"),
        ],
        SingleSubject::Largest => {
            [(of_all(second) > SEVERAL, "several_faces"), (false, ""), (false, "")]
        }
    };
    let rules = [
        (main.is_empty(), "no_face"),
        (span.width.min(span.height) < gates.frame_side, "small_frame"),
        (span.duration < gates.seconds, "short"),
        (quality.none > NONE, "face_missing"),
    ];
    let of_faces = [
        (used.is_empty(), "no_usable_frame"),
        (quality.face_med < gates.face_median, "small_face"),
        (median(&|face| face.score) < gates.score, "unsure"),
        (quality.blur_med < gates.blur, "blurred"),
        (quality.front < gates.front_share, "turned_away"),
        (quality.luma_med < gates.luma[0], "dark"),
        (quality.luma_med > gates.luma[1], "bright"),
        (quality.extremes_med > gates.extremes, "clipped"),
        (quality.cosine.is_some_and(|least| least < gates.cosine), "subject_changes"),
    ];
    // Without a face nothing can be said of it.
    let of_faces = of_faces.into_iter().chain(single).filter(|_| !main.is_empty());
    let reasons: Vec<String> = rules
        .into_iter()
        .chain(of_faces)
        .filter(|(fails, _)| *fails)
        .map(|(_, reason)| reason.to_owned())
        .collect();
    let usable = used.iter().map(|face| face.f).collect();
    let whole = embedding(&used);
    let faces = main.into_iter().map(|face| Face { embedding: None, ..face }).collect();
    Clip {
        schema: schema::CLIP.to_owned(),
        span,
        faces,
        persons: main_persons,
        usable,
        hashes,
        embedding: whole,
        quality,
        keep: reasons.is_empty(),
        reasons,
        other,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::face::TEMPLATE;
    use crate::geometry::{Rect, person_of};
    use crate::records::Span;

    pub(crate) fn face(f: usize, left: f64, top: f64, side: f64) -> Face {
        let kps = TEMPLATE.map(|p| [left + p[0] * side / 112.0, top + p[1] * side / 112.0]);
        let area = [left, top, left + side, top + side];
        Face {
            f,
            area,
            kps,
            score: 0.9,
            blur: 100.0,
            luma: 120.0,
            extremes: 0.0,
            pose: Some([2.0, 0.0, 1.0]),
            embedding: None,
        }
    }

    pub(crate) fn found(id: &str, faces: Vec<Face>) -> Detection {
        let frame = [1280, 720];
        let span = Span {
            id: id.to_owned(),
            media: format!("{id}.mp4"),
            sha256: String::new(),
            start: 0,
            end: 240,
            fps: 24.0,
            width: frame[0],
            height: frame[1],
            duration: 10.0,
            times: Vec::new(),
        };
        let person = |face: &Face| Person {
            f: face.f,
            area: person_of(&face.area, frame),
            score: 0.9,
            derived: true,
        };
        Detection {
            schema: schema::DETECTION.to_owned(),
            shot: span,
            sampled: (0..20).map(|at| at * 12).collect(),
            hashes: vec!["0".repeat(16); 3],
            persons: faces.iter().map(person).collect(),
            faces,
            other: serde_json::Map::new(),
        }
    }

    fn steady() -> Vec<Face> {
        (0..20).map(|at| face(at * 12, 500.0 + at as f64 * 3.0, 200.0, 200.0)).collect()
    }

    fn reasons(change: impl Fn(&mut Detection)) -> Vec<String> {
        let mut detection = found("a", steady());
        change(&mut detection);
        clip(detection, &FilterSettings::default()).reasons
    }

    #[test]
    fn pitch_counts_only_where_it_is_known_well() {
        let mut detection = found("a", steady());
        detection.faces.iter_mut().for_each(|face| face.pose = Some([2.0, -50.0, 1.0]));
        let mut settings = crate::settings::Settings::default();
        assert!(clip(detection.clone(), &settings.gates()).keep);
        settings = crate::settings::Settings::parse(
            "[detect.pose]\nkind = \"1k3d68\"\npath = \"m.onnx\"\n",
        )
        .unwrap();
        assert_eq!(clip(detection.clone(), &settings.gates()).reasons, ["turned_away"]);
        settings.filter.front_pitch = Some(60.0);
        assert!(clip(detection, &settings.gates()).keep);
    }

    #[test]
    fn a_steady_clip_is_kept_with_what_was_measured() {
        let clip = clip(found("a", steady()), &FilterSettings::default());
        assert!(clip.keep && clip.reasons.is_empty(), "{:?}", clip.reasons);
        assert_eq!((clip.faces.len(), clip.persons.len(), clip.usable.len()), (20, 20, 20));
        assert_eq!((clip.quality.single, clip.quality.face_med), (1.0, 200.0));
        assert!((clip.quality.motion - 3.0 / (200.0 / 112.0 * 35.2358)).abs() < 1e-3);
    }

    #[test]
    fn each_gate_has_its_reason() {
        type Change = fn(&mut Detection);
        let gates: [(&str, Change); 12] = [
            ("small_frame", |d| d.shot.height = 359),
            ("short", |d| d.shot.duration = 0.99),
            ("no_face", |d| d.faces.clear()),
            ("small_face", |d| {
                d.faces.iter_mut().for_each(|f| f.area[2] = f.area[0] + 95.0);
            }),
            ("unsure", |d| d.faces.iter_mut().for_each(|f| f.score = 0.59)),
            ("blurred", |d| d.faces.iter_mut().for_each(|f| f.blur = 39.0)),
            ("turned_away", |d| {
                d.faces.iter_mut().take(11).for_each(|f| f.pose = Some([61.0, 0.0, 0.0]));
            }),
            ("no_usable_frame", |d| {
                d.faces.iter_mut().for_each(|f| f.pose = Some([0.0, 0.0, 46.0]));
            }),
            ("dark", |d| d.faces.iter_mut().for_each(|f| f.luma = 39.0)),
            ("bright", |d| d.faces.iter_mut().for_each(|f| f.luma = 221.0)),
            ("clipped", |d| d.faces.iter_mut().for_each(|f| f.extremes = 0.26)),
            ("face_missing", |d| d.faces.truncate(17)),
        ];
        for (reason, change) in gates {
            let found = reasons(change);
            assert!(found.iter().any(|r| r == reason), "{reason}: {found:?}");
        }
        // Each by itself, but for those that follow from another.
        assert_eq!(reasons(gates[5].1), ["blurred"]);
        assert_eq!(reasons(gates[3].1), ["small_face"]);
        // 60 degrees and a tenth of missing frames are still right.
        assert!(reasons(|d| d.faces.truncate(18)).is_empty());
    }

    #[test]
    fn a_second_subject_is_told_by_its_size_and_how_often_it_is_there() {
        let with = |side: f64, frames: usize| {
            move |d: &mut Detection| {
                let more = (0..frames).map(|at| face(at * 12, 100.0, 100.0, side));
                d.faces.extend(more.collect::<Vec<_>>());
            }
        };
        assert!(reasons(with(200.0 * 0.09f64.sqrt(), 20)).is_empty());
        assert_eq!(reasons(with(200.0 * 0.11f64.sqrt(), 20)), ["not_single", "several_faces"]);
        // One of 20 frames is more than 2 %.
        assert_eq!(reasons(with(150.0, 1)), ["several_faces"]);
        let gates =
            FilterSettings { single_subject: SingleSubject::Largest, ..FilterSettings::default() };
        let kept = |share: f64| {
            let mut detection = found("a", steady());
            with(200.0 * share.sqrt(), 20)(&mut detection);
            clip(detection, &gates).keep
        };
        assert!(kept(0.045) && !kept(0.055));
        // Another person without a face.
        let person = |scale: f64| {
            move |d: &mut Detection| {
                for at in 0..20 {
                    let own = d.persons[at].area;
                    let [width, height] = size(&own);
                    let area = [0.0, 0.0, width * scale, height * scale];
                    d.persons.push(Person { f: at * 12, area, score: 0.9, derived: false });
                }
            }
        };
        assert_eq!(reasons(person(0.51)), ["several_persons"]);
        assert!(reasons(person(0.49)).is_empty());
    }

    #[test]
    fn the_main_person_is_followed_through_a_crowd() {
        let mut faces = steady();
        // A larger one for three frames, and one that crosses.
        faces.extend((3..6).map(|at| face(at * 12, 20.0, 20.0, 260.0)));
        faces.extend((0..20).map(|at| face(at * 12, 1000.0 - at as f64 * 3.0, 230.0, 80.0)));
        let clip = clip(found("a", faces), &FilterSettings::default());
        assert_eq!(clip.faces.len(), 20);
        let inside = |area: &Rect| (499.0..600.0).contains(&area[0]);
        assert!(clip.faces.iter().all(|face| inside(&face.area)), "{:?}", clip.faces);
    }

    #[test]
    fn a_change_of_the_subject_is_seen_by_its_embedding() {
        let mut faces = steady();
        for (at, face) in faces.iter_mut().enumerate() {
            face.embedding = Some(if at < 15 { vec![1.0, 0.0] } else { vec![0.3, 1.0] });
        }
        let changed = clip(found("a", faces.clone()), &FilterSettings::default());
        assert_eq!(changed.reasons, ["subject_changes"]);
        faces.truncate(14);
        for (at, face) in faces.iter_mut().enumerate() {
            face.f = at * 12;
        }
        let mut same = found("a", faces);
        same.sampled.truncate(14);
        let same = clip(same, &FilterSettings::default());
        assert!(same.keep && same.embedding == Some(vec![1.0, 0.0]), "{same:?}");
        assert_eq!(unit(&[3.0, 4.0]), [0.6, 0.8]);
    }
}
