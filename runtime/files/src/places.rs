//! Files that one run reads and writes: no two of them may be one file, unless both are read.
//!
//! Files are compared by what they are, not by how they are spelled: the same file under a link, a
//! hard link or another way through the folders is found, and so are two names that do not exist
//! yet but will be one, such as spellings that differ in case where the file system ignores that.
//! Standard output is a place like any other, whatever it was redirected to. Two results that would
//! be mixed in one pipe are refused too. Devices are nobody's file and not compared. Nothing is
//! opened.

use crate::error::{Error, Result};
use crate::output::{self, is_standard_output};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::path::{Path, PathBuf};

/// What is read and written.
#[derive(Clone, Debug, Default)]
pub struct Places {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// In words, such as `--ref`.
    what: String,
    path: PathBuf,
    use_: Use,
    found: Vec<Spot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Written,
    /// Written to standard output.
    Printed,
    /// Written as a whole folder: everything in it is replaced.
    Folder,
}

/// A file or a name for one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spot {
    /// What is there, if anything is.
    file: Option<Identity>,
    /// The folders that hold it, from the nearest up.
    above: Vec<Identity>,
    name: OsString,
}

/// Tells one file from all others of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity(Number);

#[cfg(unix)]
type Number = (u64, u64);
#[cfg(not(unix))]
type Number = PathBuf;

impl Identity {
    #[cfg(unix)]
    fn of(data: &Metadata, _: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self((data.dev(), data.ino())))
    }

    #[cfg(not(unix))]
    fn of(_: &Metadata, path: &Path) -> Option<Self> {
        std::fs::canonicalize(path).ok().map(Self)
    }

    fn at(path: &Path) -> Option<Self> {
        Self::of(&std::fs::metadata(path).ok()?, path)
    }
}

/// Where a clash happens that standard output is part of, for errors. No report of the error may go
/// there then.
pub const STANDARD_OUTPUT: &str = "standard output";

/// Most links followed from one name to the next.
const MOST_LINKS: usize = 40;
/// Most files of an input folder that are looked at.
const MOST_FILES: usize = 10_000;

impl Places {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file that is read; `what` names it in messages.
    pub fn reads(&mut self, what: impl Into<String>, path: &Path) -> &mut Self {
        // What is called `-` is standard output only where something is written.
        let path = if is_standard_output(path) { Path::new("./-") } else { path };
        self.add(what.into(), path, Use::Read)
    }

    /// Adds every file in a folder that is read, such as a model's.
    pub fn reads_folder(&mut self, what: impl Into<String>, folder: &Path) -> &mut Self {
        let what = what.into();
        let mut folders = vec![(folder.to_owned(), 0)];
        let mut left = MOST_FILES;
        while let Some((folder, depth)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                match std::fs::metadata(&path) {
                    // A model is not nested deeper; links in circles end here too.
                    Ok(data) if data.is_dir() && depth < 4 => folders.push((path, depth + 1)),
                    Ok(data) if data.is_file() && left > 0 => {
                        left -= 1;
                        self.add(what.clone(), &path, Use::Read);
                    }
                    _ => {}
                }
            }
        }
        self
    }

    /// Adds a file that is written.
    pub fn writes(&mut self, what: impl Into<String>, path: &Path) -> &mut Self {
        self.add(what.into(), path, Use::Written)
    }

    /// Adds what is written to standard output, wherever that leads.
    pub fn prints(&mut self, what: impl Into<String>) -> &mut Self {
        self.add(what.into(), Path::new("-"), Use::Printed)
    }

    /// Adds a folder that is written and holds nothing else afterwards.
    pub fn writes_folder(&mut self, what: impl Into<String>, path: &Path) -> &mut Self {
        self.add(what.into(), path, Use::Folder)
    }

    /// Whether two paths lead to one file, or will when they are written.
    pub fn are_one(one: &Path, other: &Path) -> bool {
        let (one, other) = (spots(one), spots(other));
        one.iter().any(|a| other.iter().any(|b| same(a, b)))
    }

    fn add(&mut self, what: String, path: &Path, use_: Use) -> &mut Self {
        let found = spots(path);
        self.entries.push(Entry { what, path: path.to_owned(), use_, found });
        self
    }

    /// Refuses files that are two things at once.
    ///
    /// # Errors
    /// E0950 for an output that is an input, E0951 for two outputs that are one file, E0952 for a
    /// file inside a folder that is written as a whole.
    pub fn check(&self) -> Result<()> {
        for (at, one) in self.entries.iter().enumerate() {
            for other in &self.entries[at + 1..] {
                if one.use_ != Use::Read || other.use_ != Use::Read {
                    apart(one, other)?;
                }
            }
        }
        Ok(())
    }
}

impl Entry {
    /// What it is and where, in words.
    fn shown(&self) -> String {
        match self.use_ {
            Use::Printed => format!("{} on standard output", self.what),
            _ => format!("{} {}", self.what, self.path.display()),
        }
    }
}

fn apart(one: &Entry, other: &Entry) -> Result<()> {
    let met = |test: &dyn Fn(&Spot, &Spot) -> bool| {
        one.found.iter().any(|a| other.found.iter().any(|b| test(a, b)))
    };
    let both = format!("{} and {}", one.shown(), other.shown());
    if met(&same) {
        let (code, help) = match (one.use_, other.use_) {
            (Use::Read, _) | (_, Use::Read) => {
                ("E0950", "what is read would be lost: choose another name for the output")
            }
            _ => ("E0951", "one would replace the other: choose another name for one of them"),
        };
        let written = if one.use_ == Use::Read { other } else { one };
        let error = Error::input(code, format!("{both} are the same file"));
        let place = match [one, other].iter().any(|entry| is_standard_output(&entry.path)) {
            true => STANDARD_OUTPUT.to_owned(),
            false => written.path.display().to_string(),
        };
        return Err(error.at(place).help(help));
    }
    for (folder, inner) in [(one, other), (other, one)] {
        let inside =
            |a: &Spot, b: &Spot| if folder.path == one.path { within(a, b) } else { within(b, a) };
        if folder.use_ == Use::Folder && met(&inside) {
            let message = format!(
                "{} lies in the folder {}, which {} replaces as a whole",
                inner.shown(),
                folder.path.display(),
                folder.what
            );
            return Err(Error::input("E0952", message)
                .at(inner.path.display())
                .help("choose a place outside of that folder"));
        }
    }
    Ok(())
}

/// Whether two spots are one file, now or once both are written.
fn same(one: &Spot, other: &Spot) -> bool {
    match (&one.file, &other.file) {
        (Some(one), Some(other)) => one == other,
        (None, None) => match (one.above.first(), other.above.first()) {
            (Some(a), Some(b)) if a == b => one.name == other.name,
            _ => false,
        },
        // One exists: a name that led to it would exist too.
        _ => false,
    }
}

/// Whether `inner` lies in the folder `folder`.
fn within(folder: &Spot, inner: &Spot) -> bool {
    folder.file.as_ref().is_some_and(|folder| inner.above.contains(folder))
}

/// What a path leads to: the file at its end and, where a link leads to nothing yet, every name on
/// the way.
fn spots(path: &Path) -> Vec<Spot> {
    if path.as_os_str().is_empty() {
        return Vec::new();
    }
    if is_standard_output(path) {
        return standard_output();
    }
    match std::fs::metadata(path) {
        Ok(data) if is_pipe(&data) => return only(Identity::of(&data, path)),
        // Devices are not compared.
        Ok(data) if !data.is_file() && !data.is_dir() => return Vec::new(),
        _ => {}
    }
    let mut out = Vec::new();
    let mut path: PathBuf = path.components().collect();
    for _ in 0..MOST_LINKS {
        out.extend(spot(&path));
        let Ok(next) = std::fs::read_link(&path) else { break };
        path = folder_of(&path).join(next);
    }
    out
}

/// Something without a name that anything else could lie beside.
fn only(file: Option<Identity>) -> Vec<Spot> {
    let spot = |file| Spot { file: Some(file), above: Vec::new(), name: OsString::new() };
    file.map(spot).into_iter().collect()
}

#[cfg(unix)]
fn is_pipe(data: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    data.file_type().is_fifo() || data.file_type().is_socket()
}

#[cfg(not(unix))]
fn is_pipe(_: &Metadata) -> bool {
    false
}

/// Where standard output leads: a file, a pipe, or nothing that is compared.
#[cfg(unix)]
fn standard_output() -> Vec<Spot> {
    let opened = output::standard_output().ok();
    let Some(found) = opened.and_then(|file| file.metadata().ok()) else { return Vec::new() };
    if !found.is_file() && !is_pipe(&found) {
        return Vec::new();
    }
    let mut out = only(Identity::of(&found, Path::new("-")));
    // The system may tell its name too, and so the folders that hold it.
    if let Ok(name) = std::fs::read_link("/proc/self/fd/1") {
        out.extend(spot(&name).filter(|spot| spot.file == out[0].file));
    }
    out
}

#[cfg(not(unix))]
fn standard_output() -> Vec<Spot> {
    Vec::new()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn spot(path: &Path) -> Option<Spot> {
    let folder = std::fs::canonicalize(folder_of(path)).ok()?;
    let above = folder.ancestors().filter_map(Identity::at).collect();
    let mut name = path.file_name().map_or_else(OsString::new, OsStr::to_os_string);
    let file = Identity::at(path);
    if file.is_none() && ignores_case(&folder) {
        name = OsString::from(name.to_string_lossy().to_lowercase());
    }
    Some(Spot { file, above, name })
}

/// Whether names in `folder` that differ in case only are one name, as far as can be seen without
/// writing: whether a file there, or the folder itself, is found under a name of other case.
fn ignores_case(folder: &Path) -> bool {
    let inside = std::fs::read_dir(folder).ok();
    let inside = inside.into_iter().flatten().flatten().map(|entry| entry.path()).take(64);
    let mut names = inside.chain([folder.to_owned()]).filter_map(|path| {
        let other = path.with_file_name(other_case(path.file_name()?)?);
        Some((path, other))
    });
    match names.next() {
        Some((path, other)) => {
            let found = Identity::at(&path);
            // Both names listed: two links to one file where case counts.
            let listed = || {
                std::fs::read_dir(folder_of(&other)).is_ok_and(|mut entries| {
                    entries.any(|e| e.is_ok_and(|e| Some(&*e.file_name()) == other.file_name()))
                })
            };
            found.is_some() && found == Identity::at(&other) && !listed()
        }
        None => cfg!(any(windows, target_os = "macos")),
    }
}

/// A name in the other case; `None` without letters.
fn other_case(name: &OsStr) -> Option<OsString> {
    let text = name.to_str()?;
    let swap = |c: char| match c.is_ascii_lowercase() {
        true => c.to_ascii_uppercase(),
        false => c.to_ascii_lowercase(),
    };
    let other: String = text.chars().map(swap).collect();
    (other != text).then(|| OsString::from(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    fn code(places: &Places) -> Option<&'static str> {
        places.check().err().map(|error| error.code())
    }

    #[test]
    fn an_output_that_is_an_input_is_refused_under_every_spelling() {
        let folder = TempFolder::new();
        let file = folder.write("in.png", b"x");
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let mut spellings = vec![
            file.clone(),
            folder.path().join("./in.png"),
            folder.path().join("sub/../in.png"),
            folder.path().join("sub/..//./in.png"),
        ];
        let hard = folder.path().join("hard.png");
        std::fs::hard_link(&file, &hard).unwrap();
        spellings.push(hard);
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            for (name, to) in [("link.png", "in.png"), ("twice.png", "link.png"), ("up", ".")] {
                symlink(to, folder.path().join(name)).unwrap();
            }
            spellings.extend(["link.png", "twice.png", "up/in.png"].map(|n| folder.path().join(n)));
        }
        for one in &spellings {
            for other in &spellings {
                let mut places = Places::new();
                places.reads("--ref", one).writes("--output", other);
                assert_eq!(code(&places), Some("E0950"), "{} {}", one.display(), other.display());
                let mut places = Places::new();
                places.writes("--output", one).writes("--trace", other);
                assert_eq!(code(&places), Some("E0951"), "{} {}", one.display(), other.display());
                let mut places = Places::new();
                places.reads("--ref", one).reads("--noise", other);
                assert_eq!(code(&places), None, "reading twice is fine");
            }
        }
        let mut places = Places::new();
        places.reads("--ref", &file).writes("--output", &folder.path().join("in.png.mp4"));
        assert_eq!(code(&places), None);
    }

    #[test]
    fn names_that_do_not_exist_yet_are_compared_too() {
        let folder = TempFolder::new();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        for (one, other, same) in [
            ("a", "a", true),
            ("a", "sub/../a", true),
            ("a", "b", false),
            ("a", "sub/a", false),
            ("sub/", "sub", true),
            ("no/a", "no/a", false),
        ] {
            let mut places = Places::new();
            places.writes("x", &at(one)).writes("y", &at(other));
            assert_eq!(code(&places).is_some(), same, "{one} {other}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("new", at("hanging")).unwrap();
            let mut places = Places::new();
            places.writes("x", &at("hanging")).writes("y", &at("new"));
            assert_eq!(code(&places), Some("E0951"), "a link to a file that is not there yet");
        }
    }

    #[test]
    fn nothing_lies_in_a_folder_that_is_replaced() {
        let folder = TempFolder::new();
        let at = |name: &str| folder.path().join(name);
        folder.write("frames/frame_00000.png", b"x");
        for inner in ["frames/l.safetensors", "frames/frame_00000.png", "frames/../frames/new"] {
            let mut places = Places::new();
            places.writes_folder("--output", &at("frames")).writes("--save-latents", &at(inner));
            assert_eq!(code(&places), Some("E0952"), "{inner}");
            let mut places = Places::new();
            places.reads("--ref", &at(inner)).writes_folder("--output", &at("frames/"));
            assert_eq!(code(&places), Some("E0952"), "{inner}");
        }
        let mut places = Places::new();
        places.writes_folder("--output", &at("frames")).writes("recipe", &at("frames.recipe.json"));
        assert_eq!(code(&places), None);
    }

    #[test]
    fn files_of_a_folder_that_is_read_are_inputs() {
        let folder = TempFolder::new();
        folder.write("model/vae/weights", b"x");
        let at = |name: &str| folder.path().join(name);
        let mut places = Places::new();
        places.reads_folder("--model", &at("model")).writes("--output", &at("model/vae/weights"));
        assert_eq!(code(&places), Some("E0950"));
        let mut places = Places::new();
        places.reads_folder("--model", &at("model")).writes("--output", &at("model/vae/out.mp4"));
        assert_eq!(code(&places), None);
        let mut places = Places::new();
        places.reads_folder("--model", &at("model")).writes_folder("--output", &at("model/vae"));
        assert_eq!(code(&places), Some("E0952"));
    }

    #[test]
    fn devices_are_nobodys_file() {
        let mut places = Places::new();
        let path = Path::new("/dev/null");
        places.writes("x", path).writes("y", path).reads("z", path);
        assert_eq!(code(&places), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pipe_takes_one_result() {
        use std::os::fd::AsRawFd;
        let (reader, writer) = std::io::pipe().unwrap();
        let path = PathBuf::from(format!("/dev/fd/{}", writer.as_raw_fd()));
        let mut places = Places::new();
        places.writes("x", &path);
        assert_eq!(code(&places), None);
        places.writes("y", &path);
        assert_eq!(code(&places), Some("E0951"));
        drop(reader);
    }

    #[test]
    fn case_is_told_from_what_is_there() {
        let folder = TempFolder::new();
        folder.write("Name", b"x");
        let sensitive = !folder.path().join("nAME").exists();
        assert_eq!(ignores_case(folder.path()), !sensitive);
        let mut places = Places::new();
        let at = |name: &str| folder.path().join(name);
        places.writes("x", &at("out.mp4")).writes("y", &at("OUT.mp4"));
        assert_eq!(code(&places).is_some(), !sensitive);
        assert_eq!(other_case(OsStr::new("a1.Png")), Some("A1.pNG".into()));
        assert_eq!(other_case(OsStr::new("12.34")), None);
    }
}
