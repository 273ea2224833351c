//! Cases, the videos of each system, and who is shown which of them.
//!
//! Each matchup is our system against one other on the same case. A person gets equal shares of the
//! tasks and, in each, of the other systems; cases are drawn so that all are used about equally.

use crate::import::{Imported, InputSet};
use crate::media::{self, Part, Shown};
use crate::people::Role;
use crate::project::{Project, failed};
use crate::random::{self, Draws};
use crate::{Track, study};
use anyid_files::checkpoint::hash_file;
use anyid_files::error::unreadable;
use anyid_files::media::named::Folder;
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result, input};
use anyid_guard::audit::moment;
use anyid_guard::consent::{Demand, Records, Scope};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Largest file of cases, in bytes.
const LARGEST: u64 = 256 << 20;
/// Hidden checks of a person besides the matchups: the same item again, sides exchanged.
const REPEATS: usize = 2;
/// Items before one is repeated.
const LATER: usize = 20;

/// A system with the folder of its videos, and the table that names them if there is one.
#[derive(Clone, Debug)]
pub struct System {
    /// What it is called.
    pub name: String,
    /// Where its videos are.
    pub folder: PathBuf,
    /// A table with `case` and `path`.
    pub map: Option<PathBuf>,
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Cases {
    /// The file of cases, `anyid.case/1`.
    pub file: PathBuf,
    /// Where paths of references start; the folder of the file without it.
    pub root: Option<PathBuf>,
    /// All systems.
    pub systems: Vec<System>,
    /// The one that is compared with the others.
    pub ours: String,
    /// Folders of consent records; without any, whoever starts the study has the rights.
    pub consent: Option<Vec<PathBuf>>,
}

/// A person who is let in.
#[derive(Clone, Debug)]
pub struct Invited {
    /// The pseudonym.
    pub label: String,
    /// The token of the link.
    pub token: String,
}

fn bad(what: impl Into<String>) -> Error {
    Error::input("E1605", what)
}

/// A case of the file.
struct Case {
    id: String,
    task: String,
    prompt: String,
    preserve: Vec<String>,
    primary: PathBuf,
    value: Value,
}

/// Takes in the cases and videos; what was refused of them is in the result.
///
/// # Errors
/// E1605 for cases or systems that cannot be compared, E1604 without consent, E0911, E1603.
pub fn take(
    project: &Project,
    cases: &Cases,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Imported> {
    let mut names: Vec<&str> = cases.systems.iter().map(|system| system.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) || names.len() < 2 {
        return Err(bad("a study compares two systems or more, each with a name of its own")
            .at("--system")
            .help("give --system NAME=DIR for each of them"));
    }
    if !names.contains(&cases.ours.as_str()) {
        return Err(bad(format!("there is no system \"{}\"", cases.ours))
            .at("--ours")
            .help(format!("the systems are: {}", names.join(", "))));
    }
    let list = read_cases(cases)?;
    let consents = consents(cases, &list)?;
    let ids: Vec<&str> = list.iter().map(|case| case.id.as_str()).collect();
    let videos: Vec<BTreeMap<usize, PathBuf>> =
        cases.systems.iter().map(|system| videos(system, &ids)).collect::<Result<_>>()?;
    let ours = cases.systems.iter().position(|system| system.name == cases.ours).unwrap_or(0);
    let mut done = Imported::default();
    for (at, (case, consent)) in list.iter().zip(consents).enumerate() {
        match one(project, cases, &videos, ours, at, case, consent) {
            Ok((added, missing)) => {
                done.added += added;
                done.waiting += missing;
            }
            Err(error) if matches!(error.code(), "E1603" | "E1012") => return Err(error),
            Err(error) => done.refused.push((case.id.clone(), error)),
        }
        tell(at + 1, list.len());
    }
    if done.added == 0 {
        let why = match done.refused.first() {
            Some((case, error)) => format!(": case {case}: {}", error.message()),
            None => String::new(),
        };
        return Err(bad(format!("there is no case that two systems have a video of{why}"))
            .help("a video is called after its case, ID.mp4, or is named in a table"));
    }
    let text = include_str!("instructions.md");
    let mut file = AtomicFile::create(project.folder().join(study::INSTRUCTIONS))?;
    file.append(text.as_bytes())?;
    file.commit()?;
    Ok(done)
}

/// Takes in a case; its matchups, and the systems that have no video of it.
fn one(
    project: &Project,
    cases: &Cases,
    videos: &[BTreeMap<usize, PathBuf>],
    ours: usize,
    at: usize,
    case: &Case,
    consent: Option<String>,
) -> Result<(usize, usize)> {
    let copy = |system: usize| -> Result<Option<Shown>> {
        let Some(path) = videos[system].get(&at) else { return Ok(None) };
        let hash = hash_file(path)?;
        let clip = media::generated(path)?;
        let mut shown = media::write_clip(project, "media", &clip.frames, clip.fps)?;
        shown.original = Some((media::below(project, path, &hash)?, hash));
        Ok(Some(shown))
    };
    let missing = videos.iter().filter(|videos| !videos.contains_key(&at)).count();
    let Some(own) = copy(ours)? else { return Ok((0, missing)) };
    let mut others = Vec::new();
    for system in (0..videos.len()).filter(|system| *system != ours) {
        if let Some(shown) = copy(system)? {
            others.push((system, shown));
        }
    }
    let primary = media::reference(project, "refs", &case.primary, Part::default())?;
    let set = InputSet {
        group: case.value["person"].as_str().unwrap_or_default().to_owned(),
        sample: case.id.clone(),
        prompt: case.prompt.clone(),
        preserve: case.preserve.clone(),
        shown: vec![primary],
        described: case.value.clone(),
        task: Some(case.task.clone()),
        consent,
    };
    project.change(|work| {
        let set = set.insert(work)?;
        for (system, shown) in &others {
            let name = &cases.systems[*system].name;
            work.execute(
                "INSERT INTO matchup(name, input_set_id, asset_a, asset_b, system_a, system_b)
                 VALUES(?,?,?,?,?,?)",
                (
                    format!("{}/{name}", case.id),
                    set,
                    media::insert(work, &own)?,
                    media::insert(work, shown)?,
                    &cases.ours,
                    name,
                ),
            )
            .map_err(failed)?;
        }
        Ok(())
    })?;
    Ok((others.len(), missing))
}

fn read_cases(cases: &Cases) -> Result<Vec<Case>> {
    let path = &cases.file;
    let fault = |what: String| {
        bad(what).at(path.display()).help("give the file of cases that the videos were made of")
    };
    let large = |limit| fault(format!("a file of cases has at most {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |cause| unreadable(path, cause), large))?;
    let text = String::from_utf8(bytes).map_err(|_| fault("this is not UTF-8 text".to_owned()))?;
    let root = cases.root.as_deref().or(path.parent()).unwrap_or(Path::new("."));
    let mut list: Vec<Case> = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value =
            serde_json::from_str(line).map_err(|_| fault(format!("line {number} is not JSON")))?;
        let get = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let primary = match (value["primary"].as_str(), value["references"][0].as_str()) {
            (Some(primary), _) | (None, Some(primary)) => root.join(primary),
            (None, None) => PathBuf::new(),
        };
        let (id, prompt) = (get("id"), get("prompt"));
        if id.is_empty() || prompt.is_empty() || primary.as_os_str().is_empty() {
            let what = format!("line {number} has no id, prompt or primary reference");
            return Err(fault(what));
        }
        if list.iter().any(|case| case.id == id) {
            return Err(fault(format!("line {number}: there is another case \"{id}\"")));
        }
        let kept = value["preserve"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let preserve = kept.map(str::to_owned).collect();
        list.push(Case { id, task: get("task"), prompt, preserve, primary, value });
    }
    match list.is_empty() {
        true => Err(fault("the file has no cases".to_owned())),
        false => Ok(list),
    }
}

/// The consent record of each case.
fn consents(cases: &Cases, list: &[Case]) -> Result<Vec<Option<String>>> {
    let Some(folders) = &cases.consent else { return Ok(vec![None; list.len()]) };
    let records = Records::open(folders)?;
    let today = moment(SystemTime::now());
    let demand = Demand { scope: Scope::Study, today: &today[..10], adult: false, issuers: &[] };
    let one = |case: &Case| -> Result<Option<String>> {
        let hash = hash_file(&case.primary)?;
        match records.covers(&hash, &demand)? {
            Ok(id) => Ok(Some(id.to_owned())),
            Err(gap) => Err(Error::input("E1604", format!("{gap} for the person of {}", case.id))
                .at(case.primary.display())
                .help(
                    "give the folder of records whose scopes have `study` (--consent DIR), or say \
                     that you have the rights (--i-have-rights)",
                )),
        }
    };
    list.iter().map(one).collect()
}

/// The video of each case that a system has one of.
fn videos(system: &System, ids: &[&str]) -> Result<BTreeMap<usize, PathBuf>> {
    let System { name, folder, map } = system;
    Folder { name, folder, map: map.as_deref() }.videos(ids, "E1605")
}

/// Lets `people` in, each with a plan of `matchups` items, two repeated ones besides and one for
/// practice.
///
/// # Errors
/// E1605 where there is nothing to compare, E1603.
pub fn invite(project: &Project, people: usize, matchups: usize) -> Result<Vec<Invited>> {
    project.change(|work| {
        let mut list = work
            .prepare(
                "SELECT m.id, COALESCE(i.task, ''), m.system_b, i.sample_id, (SELECT COUNT(*)
                   FROM assignment s WHERE s.matchup_id = m.id) FROM matchup m
                 JOIN input_set i ON i.id = m.input_set_id
                 WHERE m.check_kind IS NULL AND m.split IS NULL ORDER BY m.id",
            )
            .map_err(failed)?;
        let mut all: Vec<Choice> = list
            .query_map([], |row| {
                Ok(Choice {
                    id: row.get(0)?,
                    task: row.get(1)?,
                    system: row.get(2)?,
                    case: row.get(3)?,
                    used: row.get(4)?,
                })
            })
            .and_then(Iterator::collect)
            .map_err(failed)?;
        if all.is_empty() {
            return Err(bad("there is nothing to compare").at(project.folder().display()));
        }
        let practice = practice(work, all[0].id)?;
        let before: i64 = work
            .query_row("SELECT COUNT(*) FROM annotator", [], |row| row.get(0))
            .map_err(failed)?;
        let mut invited = Vec::new();
        for number in 0..people {
            let token = random::token()?;
            let code = random::token()?[..6].to_uppercase();
            let label = format!("P-{code}");
            let id = project.add(work, &label, Role::Participant, &token)?;
            let key = format!("{}", before as usize + number);
            let mut draws = Draws::new(&project.salt, "plan", &key);
            let mut plan = plan(&mut all, matchups, before as usize + number, &mut draws);
            draws.shuffle(&mut plan);
            let repeated: Vec<i64> =
                plan.iter().take(REPEATS.min(plan.len() / LATER)).copied().collect();
            let mut order = 0;
            let mut sides = HashMap::new();
            let put = |matchup: i64, swap: bool, order: i64| {
                work.execute(
                    "INSERT INTO assignment(token, matchup_id, annotator_id, track, order_no, swap,
                     state) VALUES(?,?,?,'study',?,?,'open')",
                    (random::token()?, matchup, id, order, swap),
                )
                .map_err(failed)?;
                Ok::<(), Error>(())
            };
            put(practice, draws.below(2) == 1, -1)?;
            for matchup in &plan {
                let swap = project.swap(id, Track::Study, order);
                sides.insert(*matchup, swap);
                put(*matchup, swap, order)?;
                order += 1;
            }
            for matchup in repeated {
                let copy = repeat(work, matchup)?;
                put(copy, !sides[&matchup], order)?;
                order += 1;
            }
            invited.push(Invited { label, token });
        }
        Ok(invited)
    })
}

/// A matchup that can be drawn.
struct Choice {
    id: i64,
    task: String,
    system: String,
    case: String,
    used: i64,
}

/// The matchups of a person: each task its share, in it each system its own, the least used cases
/// first and no case twice while there are others. What is left over goes to others with each person.
fn plan(all: &mut [Choice], matchups: usize, person: usize, draws: &mut Draws) -> Vec<i64> {
    let mut tasks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for choice in all.iter() {
        let systems = tasks.entry(choice.task.clone()).or_default();
        if !systems.contains(&choice.system) {
            systems.push(choice.system.clone());
        }
    }
    let share = |total: usize, parts: usize, at: usize| {
        total / parts + usize::from((at + person) % parts < total % parts)
    };
    let mut chosen: Vec<i64> = Vec::new();
    let mut cases: HashMap<String, usize> = HashMap::new();
    for (at, (task, systems)) in tasks.iter().enumerate() {
        let own = share(matchups, tasks.len(), at);
        for (which, system) in systems.iter().enumerate() {
            for _ in 0..share(own, systems.len(), which) {
                let free = all.iter_mut().filter(|choice| {
                    choice.task == *task && choice.system == *system && !chosen.contains(&choice.id)
                });
                let drawn = free.min_by_key(|choice| {
                    let seen = cases.get(&choice.case).copied().unwrap_or(0);
                    (seen, choice.used, draws.bits())
                });
                if let Some(choice) = drawn {
                    choice.used += 1;
                    *cases.entry(choice.case.clone()).or_default() += 1;
                    chosen.push(choice.id);
                }
            }
        }
    }
    chosen
}

/// The item for practice: a copy of a matchup that does not count.
fn practice(work: &rusqlite::Connection, of: i64) -> Result<i64> {
    work.execute(
        "INSERT OR IGNORE INTO matchup(name, input_set_id, asset_a, asset_b, system_a, system_b,
         split) SELECT '~practice', input_set_id, asset_a, asset_b, system_a, system_b, 'practice'
         FROM matchup WHERE id = ?",
        [of],
    )
    .map_err(failed)?;
    let found = "SELECT id FROM matchup WHERE name = '~practice'";
    work.query_row(found, [], |row| row.get(0)).map_err(failed)
}

fn repeat(work: &rusqlite::Connection, of: i64) -> Result<i64> {
    work.execute(
        "INSERT INTO matchup(name, input_set_id, asset_a, asset_b, system_a, system_b, check_kind,
         repeat_of) SELECT name || '~' || ?, input_set_id, asset_a, asset_b, system_a, system_b,
         'repeat', id FROM matchup WHERE id = ?",
        (random::token()?, of),
    )
    .map_err(failed)?;
    Ok(work.last_insert_rowid())
}

/// What the page of instructions says, as the file in the project has it.
pub(crate) fn instructions(project: &Project) -> String {
    let path = project.folder().join(study::INSTRUCTIONS);
    let read = input::read(&path, 256 << 10).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    read.unwrap_or_else(|| include_str!("instructions.md").to_owned()).replace(
        "{contact}",
        match project.settings.contact.as_str() {
            "" => "the person who sent you the link",
            contact => contact,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_the_shares_of_tasks_and_systems_and_uses_cases_alike() {
        let mut all = Vec::new();
        for task in ["IPT2V", "IEPT2V"] {
            let systems: &[&str] =
                if task == "IPT2V" { &["a", "b", "c", "d"] } else { &["c", "d"] };
            for case in 0..50 {
                for system in systems {
                    all.push(Choice {
                        id: all.len() as i64,
                        task: task.to_owned(),
                        system: (*system).to_owned(),
                        case: format!("{task}-{case}"),
                        used: 0,
                    });
                }
            }
        }
        for person in 0..20 {
            let mut draws = Draws::new(b"", "plan", &person.to_string());
            let plan = plan(&mut all, 40, person, &mut draws);
            let count = |task: &str, system: &str| {
                let of = |id: &&i64| {
                    let choice = &all[**id as usize];
                    choice.task == task && choice.system == system
                };
                plan.iter().filter(of).count()
            };
            for system in ["a", "b", "c", "d"] {
                assert_eq!(count("IPT2V", system), 5);
            }
            assert_eq!((count("IEPT2V", "c"), count("IEPT2V", "d")), (10, 10));
            let mut cases: Vec<&str> =
                plan.iter().map(|id| all[*id as usize].case.as_str()).collect();
            cases.sort_unstable();
            cases.dedup();
            assert_eq!(cases.len(), 40, "a case came twice");
        }
        // 20 people × 5 of 50 cases, and × 10 of 50.
        let used: Vec<i64> = all.iter().map(|choice| choice.used).collect();
        assert!(used.iter().all(|used| (0..=5).contains(used)), "{used:?}");
    }
}
