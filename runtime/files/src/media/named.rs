//! Videos of a folder that are called after what they are of: `ID.mp4`, a name with the id in it, or
//! any name that a table gives to an id.

use crate::error::{Error, Result};
use crate::table::Table;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Endings of names of videos.
const ENDINGS: [&str; 8] = ["mp4", "mov", "webm", "mkv", "m4v", "gif", "avi", "apng"];

/// A folder of videos, and the table that names them if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'f> {
    /// What messages call it.
    pub name: &'f str,
    /// Where the videos are.
    pub folder: &'f Path,
    /// A table with `case` and `path`.
    pub map: Option<&'f Path>,
}

impl Folder<'_> {
    /// The video of each id, by its place in `ids`. Ids without one are not there.
    ///
    /// # Errors
    /// `code` where an id has two videos, a video may be of two ids, the table names an id that there is
    /// not, or the folder cannot be read; E0911.
    pub fn videos(&self, ids: &[&str], code: &'static str) -> Result<BTreeMap<usize, PathBuf>> {
        let fault = |what: String| {
            Error::input(code, format!("{}: {what}", self.name)).at(self.folder.display())
        };
        let mut found: BTreeMap<usize, PathBuf> = BTreeMap::new();
        let mut put = |at: usize, path: PathBuf| match found.insert(at, path.clone()) {
            Some(other) if other != path => {
                let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
                let (one, two) = (name(&other), name(&path));
                let (one, two) = (one.unwrap_or_default(), two.unwrap_or_default());
                Err(fault(format!("case {} has two videos, {one} and {two}", ids[at]))
                    .help("remove one of them, or name the right one in a table: NAME=DIR,map.csv"))
            }
            _ => Ok(()),
        };
        if let Some(map) = self.map {
            for (line, row) in Table::read(map, code, &["case", "path"])?.rows() {
                let (case, path) =
                    (row.get("case").unwrap_or_default(), row.get("path").unwrap_or_default());
                let bad = |what: String| Error::input(code, what).at(map.display());
                if path.is_empty() {
                    return Err(bad(format!("line {line} has no path")));
                }
                let at = ids
                    .iter()
                    .position(|id| *id == case)
                    .ok_or_else(|| bad(format!("line {line}: there is no case \"{case}\"")))?;
                put(at, self.folder.join(path))?;
            }
            // A file that the table names and that is not there is a missing video.
            found.retain(|_, path| path.exists());
            return Ok(found);
        }
        let entries = std::fs::read_dir(self.folder).map_err(|cause| {
            fault("its folder cannot be read".to_owned())
                .caused_by(cause)
                .help("give the folder that has its videos")
        })?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for path in files {
            let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
            let video = ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()));
            if !video || path.is_dir() {
                continue;
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(at) = ids.iter().position(|id| *id == stem) {
                put(at, path)?;
                continue;
            }
            let inside: Vec<usize> =
                (0..ids.len()).filter(|at| contains(&stem, ids[*at])).collect();
            // An id that is a part of another one that fits as well is not meant.
            let longest = |at: &&usize| {
                let longer = |other: &usize| other != *at && contains(ids[*other], ids[**at]);
                !inside.iter().any(longer)
            };
            match *inside.iter().filter(longest).collect::<Vec<_>>() {
                [at] => put(*at, path)?,
                [] => {}
                [one, two, ..] => {
                    let (one, two) = (ids[*one], ids[*two]);
                    let what = format!("{stem} may be of case {one} and of case {two}");
                    return Err(fault(what).help("name its case in a table: NAME=DIR,map.csv"));
                }
            }
        }
        Ok(found)
    }
}

/// Whether a name has an id in it that is not a part of a longer word.
fn contains(name: &str, id: &str) -> bool {
    name.match_indices(id).any(|(at, _)| {
        let outside = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
        outside(name[..at].chars().next_back()) && outside(name[at + id.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    const IDS: [&str; 3] = ["IPT2V-001-P017", "IPT2V-001-P017-s2", "IEPT2V-001-P017"];

    fn found(files: &[&str], map: Option<&str>) -> Result<Vec<(usize, String)>> {
        let folder = TempFolder::new();
        for file in files {
            folder.write(file, "x");
        }
        let map = map.map(|text| folder.write("map.csv", text));
        let asked = Folder { name: "other", folder: folder.path(), map: map.as_deref() };
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let all = asked.videos(&IDS, "E1605")?;
        Ok(all.into_iter().map(|(at, path)| (at, name(path))).collect())
    }

    #[test]
    fn names_of_other_programs_are_found_by_the_id_in_them() {
        let files = ["IPT2V-001-P017.mp4", "out_IPT2V-001-P017-s2_final.mp4", "notes.txt"];
        let expected = [(0, files[0].to_owned()), (1, files[1].to_owned())];
        assert_eq!(found(&files, None).unwrap(), expected);
        // A part of a longer word is no id.
        let files = ["clip_IEPT2V-001-P017.MP4", "IPT2V-001-P0179.mp4", "XIPT2V-001-P017.mp4"];
        let named = found(&files, None).unwrap();
        assert_eq!(named, [(2, "clip_IEPT2V-001-P017.MP4".to_owned())]);
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let twice = found(&["IPT2V-001-P017.mp4", "a_IPT2V-001-P017.mov"], None).unwrap_err();
        assert!(twice.code() == "E1605" && twice.message().contains("two videos"), "{twice}");
        let both = found(&["IPT2V-001-P017_IEPT2V-001-P017.mp4"], None).unwrap_err();
        assert!(both.message().contains("may be of case"), "{both}");
        let unknown = found(&[], Some("case,path\nP9,a.mp4\n")).unwrap_err();
        assert!(unknown.message().contains("line 2: there is no case \"P9\""), "{unknown}");
    }

    #[test]
    fn tables_name_any_file() {
        let map = "case,path\nIPT2V-001-P017,7.mp4\nIEPT2V-001-P017,8.mp4\n";
        assert_eq!(found(&["7.mp4"], Some(map)).unwrap(), [(0, "7.mp4".to_owned())]);
        let twice = "case,path\nIPT2V-001-P017,7.mp4\nIPT2V-001-P017,8.mp4\n";
        assert!(found(&["7.mp4"], Some(twice)).unwrap_err().message().contains("two videos"));
    }
}
