//! Draws cases: persons with prompts (`evaluation.md` §2), and locks them with the references that they
//! are about.
//!
//! Each person has as many cases of a task as any other, give or take one, each prompt is used at most
//! once a task, and prompts are for the gender of the person while there are any.

mod pronouns;
#[cfg(test)]
mod tests;

use crate::raw::{Case, Task, is_name, schema};
use crate::set::{Gender, Set};
use anyid_files::checkpoint::hash_file;
use anyid_files::error::unreadable;
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result, input};
use anyid_study::prompt::benchmark::{Omission, fixed};
use anyid_study::prompt::elements::Elements;
use anyid_study::random::Draws;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 64 << 20;
/// What the seeds of videos begin with, and how far further seeds of a case are apart.
const FIRST_SEED: u64 = 1000;
const NEXT_SEED: u64 = 1_000_000;
/// The schema of a lock.
const LOCK: &str = "anyid.lock/1";

/// A prompt of a task, as `eval prompts` writes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Prompt {
    /// Its name.
    pub id: String,
    /// Whom its pronouns fit.
    pub gender: Gender,
    /// What it says.
    pub elements: Elements,
    /// All of it.
    pub prompt: String,
    /// Elements that it leaves to the primary reference.
    #[serde(default)]
    pub preserve: Vec<String>,
    /// The same in few words.
    #[serde(default)]
    pub prompt_short: Option<Value>,
}

/// Prompts of both tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    /// Those that say everything.
    pub ipt2v: Vec<Prompt>,
    /// Those without what references should keep.
    pub iept2v: Vec<Prompt>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::input("E1702", what)
}

fn lines(path: &Path) -> Result<Vec<Prompt>> {
    let wrong = |what: String| {
        bad(what).at(path.display()).help("write prompts with `eval prompts --out DIR`")
    };
    let large = |limit| wrong(format!("a file of prompts has at most {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |cause| unreadable(path, cause), large))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("this is not UTF-8 text".to_owned()))?;
    let mut list: Vec<Prompt> = Vec::new();
    let mut names = HashSet::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let prompt: Prompt = serde_json::from_str(line)
            .map_err(|cause| wrong(format!("line {number} is no prompt: {cause}")))?;
        if !is_name(&prompt.id) || !names.insert(prompt.id.clone()) {
            let what = format!("line {number}: \"{}\" is no name of its own", prompt.id);
            return Err(wrong(what));
        }
        if prompt.prompt.trim().is_empty() {
            return Err(wrong(format!("line {number} has an empty prompt")));
        }
        list.push(prompt);
    }
    Ok(list)
}

impl Prompts {
    /// The fixed set that comes with the program.
    pub fn built_in() -> Self {
        let read = |value: Value| -> Prompt {
            serde_json::from_value(value).expect("the fixed set is sound")
        };
        let all = fixed();
        let reduced = |(at, entry): (usize, &anyid_study::prompt::benchmark::Entry)| {
            read(entry.reduced(Omission::Main, at, 0, None))
        };
        Self {
            ipt2v: all.iter().map(|entry| read(entry.line(None))).collect(),
            iept2v: all.iter().enumerate().map(reduced).collect(),
        }
    }

    /// Those of a folder: `ipt2v.jsonl` and `iept2v.jsonl`.
    ///
    /// # Errors
    /// E0911, E1702.
    pub fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            ipt2v: lines(&folder.join("ipt2v.jsonl"))?,
            iept2v: lines(&folder.join("iept2v.jsonl"))?,
        })
    }

    fn of(&self, task: Task) -> &[Prompt] {
        match task {
            Task::Ipt2v => &self.ipt2v,
            Task::Iept2v => &self.iept2v,
        }
    }
}

/// How many cases are drawn.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Cases of each task.
    pub count: usize,
    /// What draws and the seeds of videos depend on.
    pub seed: u64,
    /// Seeds of each case.
    pub per_case: usize,
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// Draws the cases of a set.
///
/// # Errors
/// E1702 where there are not enough prompts.
pub fn draw(set: &Set, prompts: &Prompts, draw: &Draw) -> Result<Vec<Case>> {
    let mut out = Vec::new();
    if draw.count == 0 || draw.per_case == 0 {
        return Err(bad("there is nothing to draw").at("--n").help("draw one case or more"));
    }
    let mut number = 0;
    for task in &draw.tasks {
        let all = prompts.of(*task);
        if draw.count > all.len() {
            let what = format!("{} has {} prompts, and each is used once", task.name(), all.len());
            return Err(bad(what)
                .at("--n")
                .help("draw fewer, or write more prompts (eval prompts)"));
        }
        let mut draws = Draws::new(draw.seed, "cases", task.name());
        let mut chosen: Vec<(usize, &Prompt)> = Vec::new();
        let mut free: Vec<&Prompt> = all.iter().collect();
        let mut turns: Vec<usize> = Vec::new();
        while turns.len() < draw.count {
            let mut round: Vec<usize> = (0..set.people.len()).collect();
            shuffle(&mut round, &mut draws);
            turns.extend(round);
        }
        turns.truncate(draw.count);
        // Those that have a prompt of their gender first, so that none is taken from them.
        let mut left = Vec::new();
        for person in turns {
            match take(&mut free, Some(set.people[person].gender), &mut draws) {
                Some(prompt) => chosen.push((person, prompt)),
                None => left.push(person),
            }
        }
        for person in left {
            if let Some(prompt) = take(&mut free, None, &mut draws) {
                chosen.push((person, prompt));
            }
        }
        chosen.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
        for (person, prompt) in chosen {
            number += 1;
            let seed = FIRST_SEED * (draw.seed + 1) + number;
            let first = case(set, person, prompt, *task, prompts, seed)?;
            let further = (1..draw.per_case).map(|at| Case {
                id: format!("{}-s{}", first.id, at + 1),
                of: Some(first.id.clone()),
                seed: seed + NEXT_SEED * at as u64,
                ..first.clone()
            });
            let further: Vec<Case> = further.collect();
            out.push(first);
            out.extend(further);
        }
    }
    Ok(out)
}

fn shuffle<T>(list: &mut [T], draws: &mut Draws) {
    for at in (1..list.len()).rev() {
        list.swap(at, draws.below(at + 1));
    }
}

/// Takes a prompt of a gender, or any.
fn take<'p>(
    free: &mut Vec<&'p Prompt>,
    gender: Option<Gender>,
    draws: &mut Draws,
) -> Option<&'p Prompt> {
    let fits: Vec<usize> = (0..free.len())
        .filter(|at| gender.is_none_or(|gender| free[*at].gender == gender))
        .collect();
    let at = (!fits.is_empty()).then(|| fits[draws.below(fits.len())])?;
    Some(free.remove(at))
}

fn case(
    set: &Set,
    person: usize,
    prompt: &Prompt,
    task: Task,
    prompts: &Prompts,
    seed: u64,
) -> Result<Case> {
    let person = &set.people[person];
    let rewritten = prompt.gender != person.gender;
    let suited = |text: &str| match rewritten {
        true => pronouns::rewritten(text, person.gender),
        false => text.to_owned(),
    };
    let mut elements = Elements::default();
    for (element, text) in prompt.elements.iter() {
        elements.set(element, suited(text));
    }
    let full = match task {
        Task::Ipt2v => None,
        Task::Iept2v => prompts.ipt2v.iter().find(|full| full.id == prompt.id),
    };
    let mut short = prompt.prompt_short.clone();
    if let Some(Value::String(text)) = short.as_mut().map(|short| &mut short["prompt"]) {
        *text = suited(text);
    }
    let id = format!("{}-{}-{}", task.name(), person.id, prompt.id);
    if !is_name(&id) {
        return Err(bad(format!("\"{id}\" is too long to name files")));
    }
    Ok(Case {
        schema: schema::CASE.to_owned(),
        id,
        of: None,
        task,
        person: person.id.clone(),
        prompt_id: prompt.id.clone(),
        prompt: suited(&prompt.prompt),
        prompt_short: short,
        prompt_full: full.map(|full| suited(&full.prompt)),
        elements,
        preserve: prompt.preserve.clone(),
        references: person.references.clone(),
        primary: person.references[0].clone(),
        seed,
        rewritten,
        other: Map::new(),
    })
}

/// What a file of cases was locked with.
#[derive(Serialize, Deserialize)]
struct Lock {
    schema: String,
    /// Hash of the cases.
    cases: String,
    /// Hashes of the references by their files.
    references: BTreeMap<String, String>,
}

/// Where the lock of a file of cases is.
fn lock_path(cases: &Path) -> PathBuf {
    cases.with_extension("lock.json")
}

/// Writes cases, and beside them their hash and those of all references.
///
/// # Errors
/// E0911 for references, E101x.
pub fn write(path: &Path, list: &[Case], root: &Path) -> Result<()> {
    let mut references = BTreeMap::new();
    for file in list.iter().flat_map(|case| &case.references) {
        if !references.contains_key(file) {
            references.insert(file.clone(), hash_file(root.join(file))?);
        }
    }
    let mut text = String::new();
    for case in list {
        text.push_str(&format!("{}\n", json!(case)));
    }
    let cases = anyid_study::lines::hash(text.as_bytes());
    let lock = Lock { schema: LOCK.to_owned(), cases, references };
    let mut file = AtomicFile::create(path)?;
    file.append(text.as_bytes())?;
    let mut beside = AtomicFile::create(lock_path(path))?;
    beside.append(format!("{:#}\n", json!(lock)).as_bytes())?;
    anyid_files::output::commit(vec![file.finish()?, beside.finish()?]).map(drop)
}

/// The hashes of references that cases were locked with; none where they were not locked.
///
/// # Errors
/// E0911, E1702 where the cases were changed since.
pub fn locked(path: &Path) -> Result<BTreeMap<String, String>> {
    let beside = lock_path(path);
    if !beside.is_file() {
        return Ok(BTreeMap::new());
    }
    let wrong = |place: &Path, what: String| {
        bad(what).at(place.display()).help(
            "restore the file as `eval cases` wrote it, or draw the cases again into another file",
        )
    };
    let large = |limit| wrong(&beside, format!("a lock has at most {limit} bytes"));
    let bytes = input::read(&beside, LARGEST)
        .map_err(|refusal| refusal.coded(&beside, |cause| unreadable(&beside, cause), large))?;
    let lock: Lock = serde_json::from_slice(&bytes)
        .map_err(|cause| wrong(&beside, format!("this is no lock: {cause}")))?;
    match lock.cases == hash_file(path)? {
        true => Ok(lock.references),
        false => Err(wrong(path, "the cases were changed after they were locked".to_owned())),
    }
}
