//! The videos of systems, found by their names (`evaluation.md` §3).

use crate::raw::{Case, Task, is_name};
use anyid_files::media::named::Folder;
use anyid_files::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A system: a folder of videos.
#[derive(Clone, Debug, PartialEq)]
pub struct System {
    /// What it is called.
    pub name: String,
    /// Where its videos are.
    pub folder: PathBuf,
    /// A table with `case` and `path`.
    pub map: Option<PathBuf>,
    /// Tasks that it is asked for; all without any.
    pub tasks: BTreeSet<Task>,
    /// What has to be known of it, such as which prompts it was given.
    pub note: Option<String>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::input("E1703", what)
}

impl System {
    /// A system from `NAME=DIR[,TABLE]`.
    ///
    /// # Errors
    /// E1703.
    pub fn parse(text: &str) -> Result<Self> {
        let form = "write it as NAME=DIR, or NAME=DIR,map.csv";
        let parsed =
            text.split_once('=').filter(|(name, rest)| !name.is_empty() && !rest.is_empty());
        let (name, rest) = parsed
            .ok_or_else(|| bad(format!("\"{text}\" is no system")).at("--system").help(form))?;
        if !is_name(name) {
            return Err(bad(format!("\"{name}\" cannot name a system"))
                .at("--system")
                .help("names have letters, digits, \".\", \"_\" and \"-\", at most 64"));
        }
        let (folder, map) = match rest.split_once(',') {
            Some((folder, map)) => (folder, Some(PathBuf::from(map))),
            None => (rest, None),
        };
        Ok(Self {
            name: name.to_owned(),
            folder: folder.into(),
            map,
            tasks: BTreeSet::new(),
            note: None,
        })
    }

    /// Whether a case is asked of it.
    pub fn asks(&self, case: &Case) -> bool {
        self.tasks.is_empty() || self.tasks.contains(&case.task)
    }
}

/// Where the video of each case is, by its place among the cases, for each system by its name.
pub type Videos = BTreeMap<String, BTreeMap<usize, PathBuf>>;

/// Finds the videos of all systems.
///
/// # Errors
/// E1703 for systems of the same name, for videos that are ambiguous, and for a system without any.
pub fn locate(systems: &[System], cases: &[Case]) -> Result<Videos> {
    let ids: Vec<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    let mut all = Videos::new();
    for system in systems {
        let System { name, folder, map, .. } = system;
        let found = Folder { name, folder, map: map.as_deref() }.videos(&ids, "E1703")?;
        if found.is_empty() {
            return Err(bad(format!("{name} has no video of any case"))
                .at(folder.display())
                .help("a video is called after its case, ID.mp4, or is named in a table"));
        }
        if all.insert(name.clone(), found).is_some() {
            return Err(bad(format!("there are two systems \"{name}\""))
                .at("--system")
                .help("give each system a name of its own"));
        }
    }
    if all.is_empty() {
        return Err(bad("there is no system to score").at("--system").help(
            "give the videos of each system: --system NAME=DIR, as many times as there are systems",
        ));
    }
    Ok(all)
}
