//! Matchups: what is to be generated for a project, and what has been (annotate.md §2).
//!
//! `init` draws input sets from samples and writes the jobs of `generate`, two seeds each, everything
//! else equal. Finished pairs come in at any time, also while people answer; a pair that is not fit to
//! be compared is refused in words and the others come in.

use crate::check::damage;
use crate::media::{self, Part, Shown};
use crate::project::{Project, failed};
use crate::random::Draws;
use crate::table::{Row, Table};
use anyid_files::checkpoint::hash_file;
use anyid_files::error::{plural, unreadable};
use anyid_files::output::{AtomicFile, Existing};
use anyid_files::{Error, Result, input};
use rusqlite::OptionalExtension;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Largest manifest that is read, in bytes.
const LARGEST: u64 = 1 << 30;
/// Most clips of a person that are shown; keys have so many digits.
const CLIPS: usize = 9;
/// Faults that are listed.
const LISTED: usize = 20;
/// Elements that a picture can keep.
const KEPT: [&str; 4] = ["hairstyle", "clothing", "accessory", "background"];
/// The jobs that `init` writes.
pub const JOBS: &str = "jobs.jsonl";

/// What came of an import.
#[derive(Debug, Default)]
pub struct Imported {
    /// Matchups that are new.
    pub added: usize,
    /// Pairs of which a video is not there yet.
    pub waiting: usize,
    /// Pairs that were refused: their name and why.
    pub refused: Vec<(String, Error)>,
}

/// How input sets are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// How many.
    pub number: usize,
    /// Which ones, and in what order.
    pub seed: u64,
    /// The seeds of the two videos of the first set; those of the others follow them.
    pub seeds: Option<[u64; 2]>,
}

/// Draws input sets from a manifest of samples, writes their references and the jobs that render
/// them; how many there are.
///
/// # Errors
/// E1602 for lines that are no samples, E0911, those of decoding references, E101x.
pub fn draw(
    project: &Project,
    samples: &Path,
    root: Option<&Path>,
    drawing: Drawing,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<usize> {
    if let Some([a, b]) = drawing.seeds
        && a == b
    {
        return Err(Error::input("E1602", "the two seeds are the same")
            .at("--seeds")
            .help("the videos of a matchup have to differ: --seeds 1,2"));
    }
    let lines = read_samples(samples)?;
    let folder = samples.parent().unwrap_or(Path::new("."));
    let root = root.unwrap_or(folder);
    let mut groups: HashMap<String, Vec<&Value>> = HashMap::new();
    for line in &lines {
        groups.entry(group(line)).or_default().push(line);
    }
    let chosen = stratified(&lines, drawing);
    let mut copies: HashMap<String, Shown> = HashMap::new();
    let mut jobs = String::new();
    let all = chosen.len();
    for (at, sample) in chosen.into_iter().enumerate() {
        let name = format!("m_{:05}", at + 1);
        let mut keep = |value: &Value| -> Result<Shown> {
            let key = [
                &value["media"],
                &value["start"],
                &value["frame"],
                &value["frames"],
                &value["crop"],
            ]
            .map(Value::to_string)
            .join("|");
            if let Some(known) = copies.get(&key) {
                return Ok(known.clone());
            }
            let made =
                media::reference(project, "refs", &root.join(text(value, "media")), part(value))?;
            copies.insert(key, made.clone());
            Ok(made)
        };
        let own = sample["references"].as_array().map_or(&[][..], Vec::as_slice);
        let mut own: Vec<&Value> = own.iter().collect();
        own.sort_by_key(|reference| reference["role"] != "primary");
        let given = own.iter().map(|value| keep(value)).collect::<Result<Vec<Shown>>>()?;
        let mut shown = given.clone();
        for other in &groups[&group(sample)] {
            let clips = other["references"].as_array().into_iter().flatten();
            for clip in clips.chain(other.get("target")) {
                if shown.len() < CLIPS {
                    let copy = keep(clip)?;
                    if shown.iter().all(|known| known.sha256 != copy.sha256) {
                        shown.push(copy);
                    }
                }
            }
        }
        let described = described(sample, &own, &given);
        let set = InputSet {
            group: group(sample),
            sample: text(sample, "id").to_owned(),
            prompt: text(sample, "prompt").to_owned(),
            preserve: preserved(sample),
            shown,
            described,
            task: None,
            consent: None,
        };
        let seeds = seeds(drawing, at as u64);
        project.change(|work| {
            let id = set.insert(work)?;
            work.execute(
                "INSERT INTO planned VALUES(?, ?, ?, ?)",
                (&name, id, seeds[0] as i64, seeds[1] as i64),
            )
            .map_err(failed)?;
            Ok(())
        })?;
        let place =
            std::path::absolute(project.folder()).unwrap_or_else(|_| project.folder().into());
        let refs: Vec<PathBuf> = given.iter().map(|copy| place.join(&copy.path)).collect();
        for (side, seed) in ["a", "b"].into_iter().zip(seeds) {
            let job = json!({ "id": format!("{name}-{side}"), "ref": refs, "prompt": set.prompt,
                              "seed": seed });
            jobs.push_str(&format!("{job}\n"));
        }
        tell(at + 1, all);
    }
    let mut file = AtomicFile::create_as(project.folder().join(JOBS), Existing::Keep)?;
    file.append(jobs.as_bytes())?;
    file.commit()?;
    Ok(all)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Whose clips a sample is of; a sample without a group is one by itself.
fn group(sample: &Value) -> String {
    match text(sample, "group") {
        "" => text(sample, "id").to_owned(),
        group => group.to_owned(),
    }
}

fn part(value: &Value) -> Part {
    let whole = |key: &str| value[key].as_u64().map(|number| number as usize);
    let picture = matches!(value["form"].as_str(), Some("face" | "portrait"));
    let crop = value["crop"].as_array().and_then(|list| {
        let sides: Vec<usize> = list
            .iter()
            .map(|side| side.as_f64().map(|v| v.max(0.0) as usize))
            .collect::<Option<_>>()?;
        sides.try_into().ok()
    });
    Part {
        start: whole("frame").or(whole("start")).unwrap_or(0),
        frames: if picture { Some(1) } else { whole("frames") },
        crop,
    }
}

/// Elements that the prompt leaves to the reference.
fn preserved(sample: &Value) -> Vec<String> {
    let listed =
        |list: &Vec<Value>| list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if let Some(list) = sample["preserve"].as_array() {
        return listed(list);
    }
    let elements = &sample["elements"];
    let kept = |name: &&str| {
        let own = &elements[*name];
        own["keep"] == false && own["visible"] != false && own["text"] != "not visible"
    };
    KEPT.into_iter().filter(kept).map(str::to_owned).collect()
}

/// The sample as the trainer reads it, with the references that the videos were made of.
fn described(sample: &Value, own: &[&Value], given: &[Shown]) -> Value {
    let references: Vec<Value> = own
        .iter()
        .zip(given)
        .map(|(reference, copy)| {
            let role = reference.get("role").cloned().unwrap_or_else(|| "aux".into());
            let mut value = json!({ "form": reference["form"], "media": copy.path, "role": role,
                                    "sha256": copy.sha256 });
            if copy.frames > 1 {
                value["frames"] = copy.frames.into();
            }
            value
        })
        .collect();
    json!({ "references": references, "prompt": sample["prompt"] })
}

fn seeds(drawing: Drawing, at: u64) -> [u64; 2] {
    match drawing.seeds {
        Some([a, b]) => [a.wrapping_add(2 * at), b.wrapping_add(2 * at)],
        None => {
            let mut draws = Draws::new(&drawing.seed.to_le_bytes(), "seeds", &at.to_string());
            let first = draws.bits() >> 33;
            [first, first ^ (1 + draws.below(0x7fff_fffe) as u64)]
        }
    }
}

/// The samples of a manifest; all lines that are none are told of at once.
fn read_samples(path: &Path) -> Result<Vec<Value>> {
    let bad = |what: String| {
        Error::input("E1602", what)
            .at(path.display())
            .help("give a manifest of samples, such as `data sample` writes")
    };
    let large = |limit| bad(format!("a manifest has at most {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("this is not UTF-8 text".to_owned()))?;
    let (mut samples, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let read: Option<Value> = serde_json::from_str(line).ok();
        let fit = |value: &Value| {
            let filled = |key: &str| value[key].as_str().is_some_and(|text| !text.is_empty());
            filled("id")
                && filled("prompt")
                && value["references"].as_array().is_some_and(|list| {
                    !list.is_empty() && list.iter().all(|one| one["media"].is_string())
                })
        };
        match read.filter(fit) {
            Some(value) => samples.push(value),
            None => faults.push(number),
        }
    }
    if faults.is_empty() && !samples.is_empty() {
        return Ok(samples);
    }
    let listed: Vec<String> = faults.iter().take(LISTED).map(usize::to_string).collect();
    Err(bad(match faults.len() {
        0 => "the file has no lines".to_owned(),
        count => {
            let lines = plural(count, "line");
            format!("{lines} without id, prompt or references: {}", listed.join(", "))
        }
    }))
}

/// A number of references, and a set of kept elements.
type Stratum = (usize, Vec<String>);

/// The samples that are taken: one of each group first, and alike many of each number of references
/// and set of kept elements.
fn stratified(lines: &[Value], drawing: Drawing) -> Vec<&Value> {
    let rank =
        |value: &Value| Draws::new(&drawing.seed.to_le_bytes(), "sets", text(value, "id")).bits();
    let mut order: Vec<&Value> = lines.iter().collect();
    order.sort_by_key(|value| (rank(value), text(value, "id").to_owned()));
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut rounds: BTreeMap<usize, BTreeMap<Stratum, Vec<&Value>>> = BTreeMap::new();
    for value in order {
        let round = seen.entry(group(value)).or_default();
        let references = value["references"].as_array().map_or(0, Vec::len);
        let strata = rounds.entry(*round).or_default();
        strata.entry((references, preserved(value))).or_default().push(value);
        *round += 1;
    }
    let mut chosen = Vec::new();
    for strata in rounds.into_values() {
        let mut lists: Vec<_> = strata.into_values().map(Vec::into_iter).collect();
        while !lists.is_empty() {
            lists.retain_mut(|list| match list.next() {
                Some(value) => {
                    chosen.push(value);
                    true
                }
                None => false,
            });
        }
    }
    chosen.truncate(drawing.number);
    chosen
}

/// A condition under which two videos were made.
#[derive(Debug)]
pub(crate) struct InputSet {
    pub group: String,
    pub sample: String,
    pub prompt: String,
    pub preserve: Vec<String>,
    /// Clips of the person, the primary first.
    pub shown: Vec<Shown>,
    /// As the trainer reads it.
    pub described: Value,
    pub task: Option<String>,
    pub consent: Option<String>,
}

impl InputSet {
    pub(crate) fn insert(&self, work: &rusqlite::Connection) -> Result<i64> {
        let refs = self.shown.iter().map(|copy| media::insert(work, copy));
        let refs = refs.collect::<Result<Vec<i64>>>()?;
        work.execute(
            "INSERT INTO input_set(group_id, sample_id, prompt, preserve_json, primary_asset,
             refs_json, sample_json, task, consent) VALUES(?,?,?,?,?,?,?,?,?)",
            (
                &self.group,
                &self.sample,
                &self.prompt,
                json!(self.preserve).to_string(),
                refs.first(),
                json!(refs).to_string(),
                self.described.to_string(),
                &self.task,
                &self.consent,
            ),
        )
        .map_err(failed)?;
        Ok(work.last_insert_rowid())
    }
}

/// Two videos of one condition.
struct Pair<'p> {
    name: &'p str,
    set: i64,
    files: [PathBuf; 2],
    seeds: [Option<i64>; 2],
}

/// Takes in the pairs of `jobs.jsonl` whose videos are in `folder`.
///
/// # Errors
/// E1603; what is wrong with single pairs is in the result.
pub fn rendered(
    project: &Project,
    folder: &Path,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Imported> {
    let planned = {
        let database = project.database();
        let mut list = database
            .prepare(
                "SELECT name, input_set_id, seed_a, seed_b FROM planned WHERE NOT EXISTS
                 (SELECT 1 FROM matchup WHERE matchup.name = planned.name) ORDER BY name",
            )
            .map_err(failed)?;
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let list: Vec<(String, i64, i64, i64)> =
            list.query_map([], read).and_then(Iterator::collect).map_err(failed)?;
        list
    };
    let mut done = Imported::default();
    let all = planned.len();
    for (at, (name, set, seed_a, seed_b)) in planned.into_iter().enumerate() {
        let files = ["a", "b"].map(|side| folder.join(format!("{name}-{side}.mp4")));
        if files.iter().any(|file| !file.exists()) {
            done.waiting += 1;
            continue;
        }
        let pair = Pair { name: &name, set, files, seeds: [Some(seed_a), Some(seed_b)] };
        match take(project, &pair) {
            Ok(()) => done.added += 1,
            Err(error) => done.refused.push((name.clone(), fatal(error)?)),
        }
        tell(at + 1, all);
    }
    Ok(done)
}

/// An error of one pair; what stops all of them is passed on.
fn fatal(error: Error) -> Result<Error> {
    match error.code() {
        "E1603" | "E1012" => Err(error),
        _ if error.kind() == anyid_files::Kind::Interrupted => Err(error),
        _ => Ok(error),
    }
}

/// Takes in pairs of existing videos: a table with `path_a`, `path_b` and `prompt`, and if they are
/// known `id`, `references` and `preserve` (each separated by `;`), `group`, `seed_a`, `seed_b`.
/// Paths start at the folder of the table.
///
/// # Errors
/// E1602 for a file that is no such table, E1603; what is wrong with single pairs is in the result.
pub fn pairs(
    project: &Project,
    path: &Path,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Imported> {
    let table = Table::read(path, "E1602", &["path_a", "path_b", "prompt"])?;
    let root = path.parent().unwrap_or(Path::new("."));
    let mut done = Imported::default();
    let all = table.rows().count();
    for (at, (line, row)) in table.rows().enumerate() {
        let name = row.get("id").map_or_else(|| format!("m_{line:05}"), str::to_owned);
        let known = "SELECT 1 FROM matchup WHERE name = ?";
        let known = project.database().query_row(known, [&name], |_| Ok(())).optional();
        if known.map_err(failed)?.is_some() {
            continue;
        }
        match take_row(project, root, &name, row) {
            Ok(true) => done.added += 1,
            Ok(false) => done.waiting += 1,
            Err(error) => done.refused.push((name, fatal(error)?)),
        }
        tell(at + 1, all);
    }
    Ok(done)
}

/// Takes in a row; whether its videos are there.
fn take_row(project: &Project, root: &Path, name: &str, row: Row<'_>) -> Result<bool> {
    let lacking = |what: &str| Error::input("E1602", format!("the row has no {what}"));
    let file = |key: &str| row.get(key).map(|path| root.join(path)).ok_or_else(|| lacking(key));
    let files = [file("path_a")?, file("path_b")?];
    let prompt = row.get("prompt").ok_or_else(|| lacking("prompt"))?;
    if files.iter().any(|file| !file.exists()) {
        return Ok(false);
    }
    let list = |key: &str| -> Vec<String> {
        let parts = row.get(key).unwrap_or_default().split(';');
        parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let shown = list("references")
        .iter()
        .map(|path| media::reference(project, "refs", &root.join(path), Part::default()))
        .collect::<Result<Vec<Shown>>>()?;
    let references: Vec<Value> = shown
        .iter()
        .enumerate()
        .map(|(at, copy)| {
            let form = if copy.frames == 1 { "portrait" } else { "video" };
            let role = if at == 0 { "primary" } else { "aux" };
            let mut value =
                json!({ "form": form, "media": copy.path, "role": role, "sha256": copy.sha256 });
            if copy.frames > 1 {
                value["frames"] = copy.frames.into();
            }
            value
        })
        .collect();
    let set = InputSet {
        group: row.get("group").unwrap_or(name).to_owned(),
        sample: name.to_owned(),
        prompt: prompt.to_owned(),
        preserve: list("preserve"),
        described: json!({ "references": references, "prompt": prompt }),
        shown,
        task: None,
        consent: None,
    };
    let seed = |key: &str| row.get(key).and_then(|text| text.parse().ok());
    let looked = Looked::at(project, &files)?;
    let id = project.change(|work| set.insert(work))?;
    let pair = Pair { name, set: id, files, seeds: [seed("seed_a"), seed("seed_b")] };
    looked.put(project, &pair)?;
    Ok(true)
}

fn take(project: &Project, pair: &Pair<'_>) -> Result<()> {
    Looked::at(project, &pair.files)?.put(project, pair)
}

/// Two videos that were found fit, with their copies.
struct Looked {
    copies: [Shown; 2],
    damaged: Option<Shown>,
    same: bool,
}

impl Looked {
    fn at(project: &Project, files: &[PathBuf; 2]) -> Result<Self> {
        let hashes = [hash_file(&files[0])?, hash_file(&files[1])?];
        let clips = [media::generated(&files[0])?, media::generated(&files[1])?];
        media::comparable(&clips[0], &clips[1])?;
        let copy = |at: usize| -> Result<Shown> {
            let clip = &clips[at];
            let mut shown = media::write_clip(project, "media", &clip.frames, clip.fps)?;
            let original = media::below(project, &files[at], &hashes[at])?;
            shown.original = Some((original, hashes[at].clone()));
            Ok(shown)
        };
        // Whether this pair gives hidden checks besides depends on its content alone.
        let drawn = Draws::new(&project.salt, "checks", &hashes.concat()).unit();
        let share = project.settings.checks;
        let damaged = match drawn < 0.6 * share {
            true => {
                let frames = clips[0].frames.iter().enumerate();
                let frames: Vec<_> = frames
                    .map(|(at, frame)| damage(frame, &format!("{}/{at}", hashes[0])))
                    .collect();
                Some(media::write_clip(project, "media", &frames, clips[0].fps)?)
            }
            false => None,
        };
        let same = (0.6 * share..share).contains(&drawn);
        Ok(Self { copies: [copy(0)?, copy(1)?], damaged, same })
    }

    fn put(&self, project: &Project, pair: &Pair<'_>) -> Result<()> {
        project.change(|work| {
            let add = |name: &str, sides: [&Shown; 2], check: Option<&str>| -> Result<()> {
                let expected = (check == Some("degraded")).then_some("a");
                work.execute(
                    "INSERT INTO matchup(name, input_set_id, asset_a, asset_b, seed_a, seed_b,
                     check_kind, expected) VALUES(?,?,?,?,?,?,?,?)",
                    (
                        name,
                        pair.set,
                        media::insert(work, sides[0])?,
                        media::insert(work, sides[1])?,
                        pair.seeds[0],
                        pair.seeds[1],
                        check,
                        expected,
                    ),
                )
                .map_err(failed)?;
                Ok(())
            };
            let [a, b] = &self.copies;
            add(pair.name, [a, b], None)?;
            if let Some(damaged) = &self.damaged {
                add(&format!("{}~degraded", pair.name), [a, damaged], Some("degraded"))?;
            }
            if self.same {
                add(&format!("{}~same", pair.name), [a, a], Some("same"))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: &str, group: &str, references: usize) -> Value {
        let list: Vec<Value> = (0..references)
            .map(|at| json!({ "media": format!("{at}.png"), "form": "face" }))
            .collect();
        json!({ "id": id, "group": group, "prompt": "x", "references": list })
    }

    #[test]
    fn every_group_comes_before_any_comes_twice_and_strata_take_turns() {
        let mut lines = Vec::new();
        for group in 0..10 {
            for own in 0..4 {
                let references = if group < 5 { 1 } else { 3 };
                lines.push(sample(&format!("{group}-{own}"), &group.to_string(), references));
            }
        }
        let drawing = Drawing { number: 14, seed: 3, seeds: None };
        let chosen = stratified(&lines, drawing);
        let groups: Vec<&str> = chosen.iter().map(|value| text(value, "group")).collect();
        let mut first: Vec<&str> = groups[..10].to_vec();
        first.sort_unstable();
        first.dedup();
        assert_eq!((chosen.len(), first.len()), (14, 10));
        for pair in chosen.chunks(2) {
            let counts: Vec<usize> =
                pair.iter().map(|v| v["references"].as_array().unwrap().len()).collect();
            assert_eq!(counts, [1, 3]);
        }
        assert_eq!(chosen, stratified(&lines, drawing));
        let other = stratified(&lines, Drawing { seed: 4, ..drawing });
        assert_ne!(chosen, other);
    }

    #[test]
    fn seeds_of_a_matchup_differ() {
        for at in 0..1000 {
            let [a, b] = seeds(Drawing { number: 1, seed: 0, seeds: None }, at);
            assert!(a != b && a < 1 << 32 && b < 1 << 32);
        }
        let given = Drawing { number: 1, seed: 0, seeds: Some([11, 12]) };
        assert_eq!([seeds(given, 0), seeds(given, 1)], [[11, 12], [13, 14]]);
    }

    #[test]
    fn elements_that_the_prompt_leaves_out_are_kept() {
        let mut own = sample("a", "g", 1);
        assert!(preserved(&own).is_empty());
        own["elements"] = json!({
            "hairstyle": { "text": "short", "keep": false, "visible": true },
            "clothing": { "text": "a coat", "keep": false, "visible": false },
            "background": { "text": "a room", "keep": true, "visible": true },
            "action": { "text": "waves", "keep": false, "visible": true },
        });
        assert_eq!(preserved(&own), ["hairstyle"]);
        own["preserve"] = json!(["clothing"]);
        assert_eq!(preserved(&own), ["clothing"]);
    }
}
