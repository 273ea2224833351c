//! Which clips are of one person (`data.md` §5): groups that are given are verified, others are found
//! by comparing faces. Groups are never merged silently; copies of one clip are linked.

pub mod threshold;

use crate::filter::{cosine, unit};
use crate::records::{Clip, Group, schema};
use crate::settings::{GroupSettings, Layout};
use anyid_files::{Error, Result, error};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rows of embeddings that are compared at a time, so that both blocks stay in the cache.
const BLOCK: usize = 256;
/// Largest file of groups that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// What came of grouping.
#[derive(Debug, Default)]
pub struct Grouped {
    /// The groups.
    pub groups: Vec<Group>,
    /// Clips that are in none.
    pub left: Vec<String>,
}

/// Identities of files, as a file of groups gives them.
///
/// # Errors
/// E0911, E1210.
pub fn identities(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = crate::settings::text(path, LARGEST)?;
    let fault = |what: String| {
        Error::input("E1210", what)
            .at(path.display())
            .help("lines are `path,identity`, or it is a list of objects with \"shots\"")
    };
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |media: &str, identity: String, place: String| match known
        .insert(media.to_owned(), identity.clone())
    {
        Some(before) if before != identity => {
            let what = format!("{place}: {media} is of {identity} and of {before}");
            Err(fault(what))
        }
        _ => Ok(()),
    };
    if text.trim_start().starts_with('[') {
        let list: Vec<Value> =
            serde_json::from_str(&text).map_err(|e| fault(format!("this is not JSON: {e}")))?;
        for (at, object) in list.iter().enumerate() {
            let place = format!("object {}", at + 1);
            let shots = object["shots"].as_array();
            let shots = shots.ok_or_else(|| fault(format!("{place} has no list \"shots\"")))?;
            for shot in shots {
                let name = shot.as_str().or_else(|| shot["video"].as_str());
                let name = name.ok_or_else(|| fault(format!("{place} has a shot without name")))?;
                add(name, format!("person_{at:05}"), place.clone())?;
            }
        }
        return Ok(known);
    }
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || (at == 0 && line == "path,identity") {
            continue;
        }
        // A path may have commas, an identity has none.
        let parts = line.rsplit_once(',').filter(|(a, b)| !a.is_empty() && !b.trim().is_empty());
        let Some((media, identity)) = parts else {
            return Err(fault(format!("line {}: expected path,identity", at + 1)));
        };
        let media = media.strip_prefix('"').and_then(|m| m.strip_suffix('"')).unwrap_or(media);
        add(media, identity.trim().to_owned(), format!("line {}", at + 1))?;
    }
    Ok(known)
}

/// A name of at most 64 letters, digits, `_` and `-` for an identity; those that had to be changed
/// end in a hash, so that no two become one.
fn name_of(identity: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !identity.is_empty() && identity.len() <= 64 && identity.chars().all(fits) {
        return identity.to_owned();
    }
    let plain: String = identity.chars().map(|c| if fits(c) { c } else { '_' }).take(40).collect();
    format!("{plain}_{}", &crate::lines::hash(identity.as_bytes())[..12])
}

/// Members of sets that pairs join, in the order of their first members.
fn components(count: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..count).collect();
    fn root(parent: &mut [usize], mut at: usize) -> usize {
        while parent[at] != at {
            parent[at] = parent[parent[at]];
            at = parent[at];
        }
        at
    }
    for (a, b) in pairs {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        parent[a.max(b)] = a.min(b);
    }
    let mut sets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in 0..count {
        sets.entry(root(&mut parent, at)).or_default().push(at);
    }
    sets.into_values().collect()
}

/// Pairs whose cosine is `least` or more; embeddings are of length 1. In blocks, all with all.
fn near(rows: &[&[f32]], least: f64) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for first in (0..rows.len()).step_by(BLOCK) {
        for second in (first..rows.len()).step_by(BLOCK) {
            for a in first..(first + BLOCK).min(rows.len()) {
                for b in second.max(a + 1)..(second + BLOCK).min(rows.len()) {
                    if product(rows[a], rows[b]) >= least {
                        found.push((a, b));
                    }
                }
            }
        }
    }
    found
}

/// The sum of products, in eight sums side by side that a vector unit takes at once.
fn product(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f32; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for at in 0..8 {
            sums[at] += x[at] * y[at];
        }
    }
    f64::from(sums.iter().sum::<f32>() + rest)
}

/// The member that is nearest to all others, the first of equal ones.
fn medoid(rows: &[&[f32]]) -> usize {
    let mut sum = vec![0f64; rows.first().map_or(0, |row| row.len())];
    for row in rows {
        for (sum, value) in sum.iter_mut().zip(*row) {
            *sum += f64::from(*value);
        }
    }
    let along = |row: &[f32]| row.iter().zip(&sum).map(|(v, s)| f64::from(*v) * s).sum::<f64>();
    // The sum of cosines to all members is the product with the sum of all.
    let mut best = (0, f64::NEG_INFINITY);
    for (at, row) in rows.iter().enumerate() {
        let value = along(row);
        if value > best.1 {
            best = (at, value);
        }
    }
    best.0
}

/// Sets of members that look alike, chains taken apart: whoever is far from the middle of a set is
/// taken out, and those are looked at by themselves.
fn clusters(rows: &[&[f32]], edge: f64, chain: f64) -> Vec<Vec<usize>> {
    let mut done = Vec::new();
    let mut open: Vec<Vec<usize>> = components(rows.len(), near(rows, edge));
    while let Some(set) = open.pop() {
        let own: Vec<&[f32]> = set.iter().map(|at| rows[*at]).collect();
        let middle = own[medoid(&own)];
        let (stay, out): (Vec<usize>, Vec<usize>) =
            set.iter().partition(|at| product(rows[**at], middle) >= chain);
        if out.is_empty() || stay.is_empty() {
            done.push(set);
            continue;
        }
        // What is left of the set may hang together no longer.
        for part in [stay, out] {
            let own: Vec<&[f32]> = part.iter().map(|at| rows[*at]).collect();
            let sets = components(own.len(), near(&own, edge));
            open.extend(sets.into_iter().map(|set| set.iter().map(|at| part[*at]).collect()));
        }
    }
    done.sort();
    done
}

/// Sets of two or more clips that show the same frames.
fn copies(clips: &[&Clip], most: u32) -> Vec<Vec<String>> {
    let hashes: Vec<Vec<u64>> = clips
        .iter()
        .map(|clip| clip.hashes.iter().filter_map(|h| u64::from_str_radix(h, 16).ok()).collect())
        .collect();
    let mut pairs = Vec::new();
    for a in 0..clips.len() {
        for b in a + 1..clips.len() {
            let (one, other) = (&clips[a].span, &clips[b].span);
            let shared = one.start.max(other.start) < one.end.min(other.end);
            let file = shared && !one.sha256.is_empty() && one.sha256 == other.sha256;
            let alike = hashes[a].len() == 3
                && hashes[b].len() == 3
                && hashes[a].iter().zip(&hashes[b]).all(|(x, y)| (x ^ y).count_ones() <= most);
            if file || alike {
                pairs.push((a, b));
            }
        }
    }
    let named = |set: Vec<usize>| set.iter().map(|at| clips[*at].span.id.clone()).collect();
    components(clips.len(), pairs).into_iter().filter(|set| set.len() > 1).map(named).collect()
}

fn group(id: String, clips: &[&Clip], given: bool, settings: &GroupSettings) -> Group {
    let known: Vec<(&Clip, Vec<f32>)> =
        clips.iter().filter_map(|clip| Some((*clip, unit(clip.embedding.as_deref()?)))).collect();
    let rows: Vec<&[f32]> = known.iter().map(|(_, row)| row.as_slice()).collect();
    let middle = (!rows.is_empty()).then(|| medoid(&rows));
    let to_middle: Vec<f64> = match middle {
        Some(middle) => rows.iter().map(|row| cosine(row, rows[middle])).collect(),
        None => Vec::new(),
    };
    let outliers = known
        .iter()
        .zip(&to_middle)
        .filter(|(_, near)| given && **near < settings.outlier)
        .map(|((clip, _), _)| clip.span.id.clone())
        .collect();
    let cohesion = to_middle.iter().sum::<f64>() / to_middle.len().max(1) as f64;
    Group {
        schema: schema::GROUP.to_owned(),
        id,
        clips: clips.iter().map(|clip| clip.span.id.clone()).collect(),
        medoid: middle.map(|at| known[at].0.span.id.clone()),
        cohesion: middle.map(|_| (cohesion * 1e6).round() / 1e6),
        given,
        outliers,
        duplicates_of: Vec::new(),
        copies: copies(clips, settings.copies),
        other: serde_json::Map::new(),
    }
}

/// Groups the clips that are kept.
///
/// # Errors
/// E1210 where a file of groups is faulty or nothing says who is in which clip.
pub fn grouped(clips: &[Clip], settings: &GroupSettings) -> Result<Grouped> {
    let kept: Vec<&Clip> = clips.iter().filter(|clip| clip.keep).collect();
    let mut out = Grouped::default();
    let mut sets: Vec<(String, Vec<&Clip>)> = Vec::new();
    let given = settings.layout != Layout::Flat;
    if given {
        let file = match (settings.layout, &settings.file) {
            (Layout::File, Some(path)) => Some(identities(path)?),
            _ => None,
        };
        let mut by_name: BTreeMap<String, Vec<&Clip>> = BTreeMap::new();
        for clip in &kept {
            let media = clip.span.media.as_str();
            let identity = match &file {
                Some(known) => known.get(media).cloned(),
                None => media.split_once('/').map(|(folder, _)| folder.to_owned()),
            };
            match identity {
                Some(identity) => by_name.entry(name_of(&identity)).or_default().push(clip),
                None => out.left.push(clip.span.id.clone()),
            }
        }
        if by_name.is_empty() && !kept.is_empty() {
            let message = "no clip belongs to a group".to_owned();
            let help = match file {
                Some(_) => "paths in the file of groups are those below the folder of the videos",
                None => {
                    "put the clips of a person into a folder of their own, or compare faces: \
                         group.layout = \"flat\""
                }
            };
            return Err(Error::input("E1210", message).help(help));
        }
        sets.extend(by_name);
    } else {
        let known: Vec<&Clip> =
            kept.iter().copied().filter(|clip| clip.embedding.is_some()).collect();
        if known.is_empty() && !kept.is_empty() {
            return Err(Error::input("E1210", "no clip has an embedding of its face").help(
                "give embeddings with the detections, or say who is in which clip: \
                 group.layout = \"folders\" or \"file\"",
            ));
        }
        let unknown = kept.iter().filter(|clip| clip.embedding.is_none());
        out.left.extend(unknown.map(|clip| clip.span.id.clone()));
        let units: Vec<Vec<f32>> =
            known.iter().filter_map(|clip| clip.embedding.as_deref().map(unit)).collect();
        if units.windows(2).any(|pair| pair[0].len() != pair[1].len()) {
            return Err(Error::input("E1210", "embeddings have different lengths")
                .help("take all embeddings with one model"));
        }
        let rows: Vec<&[f32]> = units.iter().map(Vec::as_slice).collect();
        for set in clusters(&rows, settings.edge, settings.chain) {
            let members: Vec<&Clip> = set.iter().map(|at| known[*at]).collect();
            sets.push((format!("id_{:05}", sets.len()), members));
        }
    }
    for (id, members) in sets {
        if members.len() < 2 && !settings.keep_singletons {
            out.left.extend(members.iter().map(|clip| clip.span.id.clone()));
            continue;
        }
        out.groups.push(group(id, &members, given, settings));
    }
    told_duplicates(&mut out.groups, &kept, settings.duplicate);
    Ok(out)
}

/// Notes groups whose medoids are alike.
fn told_duplicates(groups: &mut [Group], clips: &[&Clip], least: f64) {
    let by_id: BTreeMap<&str, &Clip> =
        clips.iter().map(|clip| (clip.span.id.as_str(), *clip)).collect();
    let middle = |group: &Group| {
        let clip = by_id.get(group.medoid.as_deref()?)?;
        Some(unit(clip.embedding.as_deref()?))
    };
    let known: Vec<(usize, Vec<f32>)> =
        groups.iter().enumerate().filter_map(|(at, group)| Some((at, middle(group)?))).collect();
    let mut alike: BTreeSet<(usize, usize)> = BTreeSet::new();
    for (n, (a, one)) in known.iter().enumerate() {
        for (b, other) in &known[n + 1..] {
            if cosine(one, other) > least {
                alike.insert((*a, *b));
            }
        }
    }
    for (a, b) in alike {
        let (one, other) = (groups[a].id.clone(), groups[b].id.clone());
        groups[a].duplicates_of.push(other);
        groups[b].duplicates_of.push(one);
    }
}

/// Refuses a settings file that names no file of groups that can be read, before anything is done.
///
/// # Errors
/// E0911.
pub fn check_file(settings: &GroupSettings) -> Result<()> {
    let Some(path) = &settings.file else { return Ok(()) };
    std::fs::metadata(path).map(drop).map_err(|fault| error::unreadable(path, fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::{face, found};
    use crate::settings::FilterSettings;

    fn clip(id: &str, embedding: Option<Vec<f32>>) -> Clip {
        let faces = (0..20).map(|at| face(at * 12, 500.0, 200.0, 200.0)).collect();
        let mut clip = crate::filter::clip(found(id, faces), &FilterSettings::default());
        let id_hash = crate::lines::hash(id.as_bytes());
        clip.hashes = (0..3).map(|at| id_hash[16 * at..16 * at + 16].to_owned()).collect();
        Clip { embedding, ..clip }
    }

    fn turned(degrees: f32) -> Option<Vec<f32>> {
        Some(vec![degrees.to_radians().cos(), degrees.to_radians().sin()])
    }

    fn members(grouped: &Grouped) -> Vec<(&str, Vec<&str>)> {
        let names = |group: &'_ Group| group.clips.iter().map(|c| c.as_str().to_owned()).collect();
        let all: Vec<(&str, Vec<String>)> =
            grouped.groups.iter().map(|group| (group.id.as_str(), names(group))).collect();
        all.into_iter()
            .map(|(id, names)| (id, names.into_iter().map(|n| &*n.leak()).collect()))
            .collect()
    }

    #[test]
    fn folders_are_people_and_strangers_in_them_are_told() {
        let mut clips = vec![
            clip("a1", turned(0.0)),
            clip("a2", turned(10.0)),
            clip("a3", turned(100.0)),
            clip("b1", turned(5.0)),
            clip("b2", turned(5.0)),
            clip("c1", None),
            clip("loose", turned(0.0)),
        ];
        for clip in &mut clips[..6] {
            clip.span.media = format!("{}/{}.mp4", &clip.span.id[..1], clip.span.id);
        }
        let grouped = grouped(&clips, &GroupSettings::default()).unwrap();
        assert_eq!(members(&grouped), [("a", vec!["a1", "a2", "a3"]), ("b", vec!["b1", "b2"])]);
        assert_eq!(grouped.left, ["loose", "c1"]);
        assert_eq!(grouped.groups[0].outliers, ["a3"]);
        assert_eq!(grouped.groups[0].medoid.as_deref(), Some("a2"));
        assert_eq!(grouped.groups[0].duplicates_of, ["b"]);
        assert_eq!(grouped.groups[1].duplicates_of, ["a"]);
    }

    #[test]
    fn faces_are_compared_and_chains_taken_apart() {
        // A chain of steps of 40 degrees (cosine 0.77) from 0 to 160, and a pair opposite.
        let angles = [0.0, 40.0, 80.0, 120.0, 160.0, 250.0, 262.0, 205.0];
        let clips: Vec<Clip> =
            angles.iter().map(|angle| clip(&format!("c{angle}"), turned(*angle))).collect();
        let settings = GroupSettings {
            layout: Layout::Flat,
            edge: 0.76,
            chain: 0.70,
            ..GroupSettings::default()
        };
        let grouped = grouped(&clips, &settings).unwrap();
        assert!(grouped.groups.iter().all(|group| !group.given && group.clips.len() > 1));
        let by_name: BTreeMap<&str, &Clip> =
            clips.iter().map(|clip| (clip.span.id.as_str(), clip)).collect();
        for group in &grouped.groups {
            let middle = by_name[group.medoid.as_deref().unwrap()].embedding.as_deref().unwrap();
            for id in &group.clips {
                assert!(cosine(by_name[id.as_str()].embedding.as_deref().unwrap(), middle) >= 0.70);
            }
        }
        let all: usize = grouped.groups.iter().map(|group| group.clips.len()).sum();
        assert_eq!(all + grouped.left.len(), clips.len());
        // Whoever belongs together by the threshold alone is one group.
        let pairs = [clip("x", turned(0.0)), clip("y", turned(61.0)), clip("z", turned(200.0))];
        let flat = GroupSettings { layout: Layout::Flat, ..GroupSettings::default() };
        let found = super::grouped(&pairs, &flat).unwrap();
        assert_eq!(members(&found), [("id_00000", vec!["x", "y"])]);
        assert_eq!(found.left, ["z"]);
    }

    #[test]
    fn blocks_compare_all_with_all() {
        let rows: Vec<Vec<f32>> = (0..700).map(|at| vec![1.0, at as f32 / 700.0]).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        assert_eq!(near(&rows, 0.0).len(), 700 * 699 / 2);
        let long: Vec<f32> = (0..19).map(|at| at as f32).collect();
        assert_eq!(product(&long, &long), (0..19).map(|at| f64::from(at * at)).sum::<f64>());
    }

    #[test]
    fn copies_are_linked_by_hashes_or_by_their_file() {
        let mut clips = [clip("a", None), clip("b", None), clip("c", None), clip("d", None)];
        let near = u64::from_str_radix(&clips[0].hashes[1], 16).unwrap() ^ 0b1011;
        clips[1].hashes = clips[0].hashes.clone();
        clips[1].hashes[1] = format!("{near:016x}");
        for clip in &mut clips[2..] {
            clip.span.sha256 = "f".repeat(64);
        }
        let all: Vec<&Clip> = clips.iter().collect();
        assert_eq!(copies(&all, 4), [["a", "b"], ["c", "d"]]);
        assert_eq!(copies(&all, 2), [["c", "d"]]);
        clips[3].span.start = 240;
        assert_eq!(copies(&clips.iter().collect::<Vec<_>>(), 2), Vec::<Vec<String>>::new());
    }

    #[test]
    fn files_of_groups_are_csv_or_json_and_their_faults_are_named() {
        let folder = crate::testing::TempFolder::new("groups");
        let read = |text: &str| identities(&folder.write("groups", text));
        let known = read("path,identity\na/1.mp4,ann\n\"b,2.mp4\",bob\r\n").unwrap();
        assert_eq!(known["a/1.mp4"], "ann");
        assert_eq!(known["b,2.mp4"], "bob");
        let known = read(r#"[{"shots": ["x.mp4", "y.mp4"], "cap_list": ["", ""]}]"#).unwrap();
        assert_eq!(known["y.mp4"], "person_00000");
        for (text, part) in [
            ("a.mp4", "line 1: expected path,identity"),
            ("a.mp4,x\na.mp4,y", "line 2: a.mp4 is of y and of x"),
            ("[{}]", "object 1 has no list"),
            ("[1", "not JSON"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.code() == "E1210" && error.message().contains(part), "{error}");
        }
        assert_eq!(name_of("Ann_1"), "Ann_1");
        assert_ne!(name_of("Ann Ä"), name_of("Ann Ö"));
        assert!(name_of(&"ä".repeat(99)).len() <= 64);
    }

    #[test]
    fn without_anything_that_says_who_is_who_there_are_no_groups() {
        let clips = [clip("a", None), clip("b", None)];
        for layout in [Layout::Folders, Layout::Flat] {
            let settings = GroupSettings { layout, ..GroupSettings::default() };
            assert_eq!(grouped(&clips, &settings).unwrap_err().code(), "E1210");
        }
        assert!(grouped(&[], &GroupSettings::default()).unwrap().groups.is_empty());
    }
}
