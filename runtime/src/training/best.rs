//! The best result of a run on the validation set: a file beside the checkpoint, which no checkpoint can give
//! back, and by which a run that goes on knows it again.
//!
//! A run that was killed may have written a better one behind its last checkpoint. Such a file says of which
//! update it is: the run comes to that update once more and writes the same bytes, or the file is of another
//! run.

use super::checkpoint::Position;
use super::result;
use crate::checkpoint::hash_file;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The best result as a run wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The update after which it was measured.
    updates: u64,
    /// SHA-256 of its file.
    sha256: String,
}

/// What there is of the best result where a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// What the checkpoint knows of.
    Known,
    /// One of a later update, which the run has still to come to.
    Later(u64),
    /// Nothing, where there was one.
    Gone,
}

impl Kept {
    /// The file at `path`, of update `updates`.
    ///
    /// # Errors
    /// E0310 and E0311 where it cannot be read.
    pub fn of(path: &Path, updates: u64) -> Result<Self> {
        Ok(Self { updates, sha256: hash_file(path)? })
    }
}

impl Best {
    /// That of a run at `position`, whose file is at `path` and which ends behind update `steps`.
    ///
    /// # Errors
    /// E0962 for a file that is not the one that the run wrote, or of an update that it does not come to.
    pub fn find(position: &Position, path: &Path, steps: u64) -> Result<Self> {
        let Position { best, kept, updates, row, .. } = position;
        if !path.exists() {
            return Ok(if best.is_some() { Self::Gone } else { Self::Known });
        }
        // An update whose measurement is still to be made is made once more as well.
        let again = |of: u64| of > *updates || (of == *updates && row.is_some());
        match (result::updates(path).filter(|of| again(*of)), kept) {
            (Some(of), _) if of > steps => Err(too_late(path, of)),
            (Some(of), _) => Ok(Self::Later(of)),
            // Checkpoints of before there was this have the measurement alone.
            (None, None) if best.is_some() => Ok(Self::Known),
            (None, None) => Err(refused(path, "is of another run: this one has none yet")),
            (None, Some(kept)) => match hash_file(path) {
                Ok(sha256) if sha256 == kept.sha256 => Ok(Self::Known),
                _ => Err(refused(
                    path,
                    &format!("was changed after update {}, of which it was", kept.updates),
                )),
            },
        }
    }

    /// Refuses one of a later update when the run has come to `updates` and wrote none that was better.
    ///
    /// # Errors
    /// E0962.
    pub fn check(self, path: &Path, updates: u64) -> Result<()> {
        match self {
            Self::Later(of) if of <= updates => {
                let what = format!("is of another run: update {of} of this one gave no better one");
                Err(refused(path, &what))
            }
            _ => Ok(()),
        }
    }

    /// Refuses one of a later update when the run is at its end.
    ///
    /// # Errors
    /// E0962.
    pub fn check_at_end(self, path: &Path) -> Result<()> {
        match self {
            Self::Later(of) => Err(too_late(path, of)),
            _ => Ok(()),
        }
    }
}

/// What is to be said of a best result that is no longer there.
pub fn gone(position: &Position) -> String {
    let of = position.kept.as_ref();
    let of = of.map_or(String::new(), |kept| format!(" of update {}", kept.updates));
    format!("the best result{of} is no longer there")
}

fn refused(path: &Path, what: &str) -> Error {
    Error::input("E0962", format!("the best result {what}")).at(path.display()).help(
        "restore it from a copy, or move it away: the run then goes on and writes the next one that is \
         better",
    )
}

fn too_late(path: &Path, of: u64) -> Error {
    refused(path, &format!("is of update {of}, to which the run does not come")).advised(format!(
        "set train.steps = {of} at least, restore the one that belongs to the checkpoint from a copy, or move \
         it away"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{SafetensorsWriter, pytorch_metadata};

    /// A result that says of which update it is.
    fn write(path: &Path, of: u64, what: &str) {
        let mut header = pytorch_metadata();
        header.insert("anyid.trained".to_owned(), format!("lora for {of} updates"));
        header.insert("what".to_owned(), what.to_owned());
        SafetensorsWriter::create(path, &[], &header).unwrap().finish().unwrap();
    }

    #[test]
    fn a_best_result_is_the_one_that_the_run_wrote_or_will_write_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter-best.safetensors");
        let none = Position { updates: 6, ..Position::default() };
        let refused = |position: &Position, said: &str| {
            let error = Best::find(position, &path, 10).unwrap_err();
            assert_eq!(error.code(), "E0962");
            assert!(error.message().contains(said), "{error}");
        };
        assert_eq!(Best::find(&none, &path, 10).unwrap(), Best::Known);
        write(&path, 4, "own");
        let kept = Some(Kept::of(&path, 4).unwrap());
        let own = Position { best: Some(0.5), kept, ..none.clone() };
        assert_eq!(Best::find(&own, &path, 10).unwrap(), Best::Known);
        refused(&none, "is of another run: this one has none yet");
        let early = Position { kept: None, ..own.clone() };
        assert_eq!(Best::find(&early, &path, 10).unwrap(), Best::Known, "nothing else is known");
        write(&path, 4, "other");
        refused(&own, "was changed after update 4");
        // Of a later update, and of one that is still to be measured.
        write(&path, 8, "better");
        assert_eq!(Best::find(&own, &path, 10).unwrap(), Best::Later(8));
        assert_eq!(Best::find(&none, &path, 8).unwrap(), Best::Later(8));
        let error = Best::find(&own, &path, 7).unwrap_err();
        assert!(error.message().contains("is of update 8, to which"), "{error}");
        write(&path, 6, "better");
        refused(&own, "was changed after");
        let open = Position { row: Some(serde_json::Map::new()), ..own.clone() };
        assert_eq!(Best::find(&open, &path, 10).unwrap(), Best::Later(6));
        std::fs::write(&path, b"nothing").unwrap();
        refused(&own, "was changed after");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Best::find(&own, &path, 10).unwrap(), Best::Gone);
        assert_eq!(gone(&own), "the best result of update 4 is no longer there");
    }

    #[test]
    fn one_of_a_later_update_has_to_be_made_again() {
        let path = Path::new("x");
        Best::Later(8).check(path, 7).unwrap();
        Best::Known.check(path, 8).unwrap();
        assert_eq!(Best::Later(8).check(path, 8).unwrap_err().code(), "E0962");
        assert_eq!(Best::Later(8).check_at_end(path).unwrap_err().code(), "E0962");
        Best::Gone.check_at_end(path).unwrap();
    }
}
