//! The latents of a run: stored the moment sampling ends, so that whatever fails later costs only
//! the decoding.
//!
//! Where they go is opened before the run. If they cannot be stored there after all, because the
//! disk is full or the folder is gone, they go where there is room, and the run says so and goes
//! on. Latents that were not requested never take the place of a file, and are removed when the
//! video is complete; nothing else is ever removed.

use super::FileOptions;
use crate::error::{Error, Kind, Result};
use crate::files::{self, AtomicFile, Existing, Own};
use crate::recipe::Recipe;
use crate::weights::write_tensors_in;
use anyid_ir::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Metadata key of a file of latents; its value is the recipe of their run.
pub const RECIPE_KEY: &str = "anyid-rt recipe";

/// Suffix of latents that were not requested.
const SUFFIX: &str = ".latents.safetensors";

/// Where the latents of a result are kept, if nothing hinders that.
pub(super) fn spare_beside(output: &Path) -> PathBuf {
    let clean: PathBuf = output.components().collect();
    let mut name = clean.file_name().unwrap_or_default().to_os_string();
    name.push(SUFFIX);
    clean.with_file_name(name)
}

/// The latents of a run.
pub(super) struct Kept {
    at: At,
    /// Where they were requested; `None` if they are only kept for the case of a failure.
    requested: Option<PathBuf>,
    /// Where the video goes.
    output: PathBuf,
    /// Words for a command that continues: what else it needs.
    flags: String,
    /// Why requested latents are nowhere.
    lost: Option<Error>,
}

enum At {
    /// Nowhere.
    None,
    /// A file that waits for them, and its name as it was given.
    Open(PathBuf, AtomicFile),
    /// Stored, under the name to show.
    Stored(PathBuf, Own),
}

impl Kept {
    /// Opens the file that `options` name, or one for the case of a failure. Without `sampling`
    /// there are no latents to keep.
    ///
    /// # Errors
    /// Those of [`AtomicFile::create_as`].
    pub(super) fn open(output: &Path, options: &FileOptions, sampling: bool) -> Result<Self> {
        let requested = options.save_latents.clone();
        let existing = options.writer.existing;
        let at = match &requested {
            Some(path) => At::Open(path.clone(), AtomicFile::create_as(path, existing)?),
            // The state of the last step has them, if it can be stored: see `store_without_state`.
            None if !sampling || options.state.is_some() => At::None,
            None => spare(output, existing)?,
        };
        let mut flags = String::new();
        if files::is_direct(output) {
            let ending = options.writer.format.map_or("mp4", |format| format.ending());
            flags = format!(" -o video.{ending}");
        } else if existing != Existing::Keep {
            flags = " --force".to_owned();
        }
        Ok(Self { at, requested, output: output.to_owned(), flags, lost: None })
    }

    /// Stores the latents; gives a warning if that was not possible where it should have been.
    ///
    /// # Errors
    /// Of kind `Interrupted` alone: everything else does not keep the run from decoding.
    pub(super) fn store(
        &mut self,
        latents: &Tensor,
        made: Option<&Recipe>,
    ) -> Result<Option<String>> {
        let (shown, file) = match std::mem::replace(&mut self.at, At::None) {
            At::Open(shown, file) => (shown, file),
            other => {
                self.at = other;
                return Ok(None);
            }
        };
        let target = file.path().to_owned();
        let first = match write(file, latents, made) {
            Ok(own) => {
                let name = if own.path() == target { shown } else { own.path().to_owned() };
                self.at = At::Stored(name, own);
                return Ok(None);
            }
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let failed =
            format!("the latents could not be stored in {} ({})", shown.display(), first.message());
        for path in elsewhere(&self.output) {
            let stored = AtomicFile::create_as(&path, Existing::Beside)
                .and_then(|file| write(file, latents, made));
            match stored {
                Ok(own) => {
                    let name = own.path().to_owned();
                    let warning = format!("{failed}: they are in {}", name.display());
                    self.at = At::Stored(name, own);
                    return Ok(Some(warning));
                }
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(_) => {}
            }
        }
        self.lost = self.requested.is_some().then_some(first);
        Ok(Some(format!("{failed}, nor anywhere else: if decoding fails, they are lost")))
    }

    /// As [`Self::store`], of a run whose state of the last step could not be stored: the latents are
    /// then kept as those of a run without one.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub(super) fn store_without_state(
        &mut self,
        latents: &Tensor,
        made: Option<&Recipe>,
    ) -> Result<Option<String>> {
        if matches!(self.at, At::None) {
            match spare(&self.output, Existing::Beside) {
                Ok(at) => self.at = at,
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => {
                    let what = error.message();
                    return Ok(Some(format!(
                        "the latents could be stored nowhere ({what}): if decoding fails, they are lost"
                    )));
                }
            }
        }
        self.store(latents, made)
    }

    /// The end of a run that made the video `written`; gives the latents that were requested, and
    /// removes others.
    ///
    /// # Errors
    /// E101x if requested latents could be stored nowhere.
    pub(super) fn done(self, written: &Path) -> Result<Option<PathBuf>> {
        if let Some(error) = self.lost {
            return Err(error.also(format!("the video is complete: {}", written.display())));
        }
        Ok(match self.at {
            At::Stored(path, _) if self.requested.is_some() => Some(path),
            At::Stored(_, own) => {
                own.remove();
                None
            }
            At::Open(..) | At::None => None,
        })
    }

    /// The end of a run whose result must not be: nothing of it stays.
    pub(super) fn discard(self) {
        if let At::Stored(_, own) = self.at {
            own.remove();
        }
    }

    /// What the user should know after the run has failed: where the latents are, if anywhere, and
    /// how to go on from there.
    pub(super) fn advice(self) -> Option<String> {
        let At::Stored(path, own) = self.at else { return None };
        if !own.is_file() {
            return None;
        }
        let shown = path.display();
        if !own.is_there() {
            return Some(format!(
                "the latents were stored in {shown}, but that file was moved or removed since"
            ));
        }
        let mut flags = self.flags;
        // The recipe names a folder that is gone.
        if !files::is_direct(&self.output)
            && self.output.parent().is_some_and(|f| !f.as_os_str().is_empty() && !f.is_dir())
            && let Some(name) = self.output.file_name()
        {
            flags.push_str(&format!(" -o {}", shell_word(Path::new(name))));
        }
        let word = shell_word(&path);
        Some(format!(
            "the latents are in {shown}: `anyid-rt generate --latents {word}{flags}` goes on from \
             there"
        ))
    }
}

/// Opens a file for latents that nobody requested.
fn spare(output: &Path, existing: Existing) -> Result<At> {
    let mut refused = None;
    if !files::is_direct(output) {
        let path = spare_beside(output);
        // Those of an earlier run are what its user was told to continue from: without leave to
        // replace anything they are an error, and they stay in any case.
        let existing = match existing {
            Existing::Keep => Existing::Keep,
            _ => Existing::Beside,
        };
        match AtomicFile::create_as(&path, existing) {
            Ok(file) => return Ok(At::Open(path, file)),
            Err(error) if error.code() == "E1016" => return Err(error),
            // The name of the video may leave no room for the suffix.
            Err(error) => refused = Some(error),
        }
    }
    for path in elsewhere(output) {
        match AtomicFile::create_as(&path, Existing::Beside) {
            Ok(file) => return Ok(At::Open(path, file)),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) => Err(error),
        None => Ok(At::None),
    }
}

/// Other places for latents, under names that nobody else uses: beside the video, in the folder
/// for temporary files, in the current folder.
fn elsewhere(output: &Path) -> Vec<PathBuf> {
    let beside = match output.parent() {
        _ if files::is_direct(output) => None,
        Some(folder) if !folder.as_os_str().is_empty() => Some(folder.to_owned()),
        _ => Some(PathBuf::from(".")),
    };
    let current = std::env::current_dir().ok();
    let folders = beside.into_iter().chain([std::env::temp_dir()]).chain(current);
    folders.map(|folder| files::fresh_name(&folder, "anyid-rt-", SUFFIX)).collect()
}

fn write(file: AtomicFile, latents: &Tensor, made: Option<&Recipe>) -> Result<Own> {
    let recipe = made.map(|made| (RECIPE_KEY.to_owned(), made.to_json().to_string()));
    let metadata: BTreeMap<String, String> = recipe.into_iter().collect();
    files::commit_own(write_tensors_in(file, [("latents", latents)], &metadata)?)
}

/// A path as one word of a shell, so that advice can be pasted.
pub(super) fn shell_word(path: &Path) -> String {
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    if bytes.first() == Some(&b'-') {
        // Not a flag.
        bytes.splice(..0, *b"./");
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(b);
    match String::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.bytes().all(|b| plain(&b)) => text,
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        // Control characters would not survive the terminal.
        other => {
            let bytes = other.map_or_else(|fault| fault.into_bytes(), String::into_bytes);
            let byte = |b: &u8| match b {
                b if plain(b) => char::from(*b).to_string(),
                b => format!("\\x{b:02x}"),
            };
            format!("$'{}'", bytes.iter().map(byte).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_advice_are_words_of_a_shell() {
        for (path, word) in [
            ("out/a-b_1.mp4", "out/a-b_1.mp4"),
            ("my film.mp4", "'my film.mp4'"),
            ("it's $HOME.mp4", r"'it'\''s $HOME.mp4'"),
            ("-x.mp4", "./-x.mp4"),
            ("a\nb", r"$'a\x0ab'"),
            ("größe", "'größe'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
