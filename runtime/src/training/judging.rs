//! What a trained judge reads in the videos of a run, beside what the samples' targets show.
//!
//! Contract: the videos of a checkpoint are read together, and what was read is one file. Where that is
//! missing, the videos are made again: a video is compressed, and a judge has to see the pixels.

use super::dataset::Dataset;
use super::labels::{Labelled, Labels, of_lines};
use super::settings::Settings;
use crate::engine::Backend;
use crate::error::{Error, Result};
use crate::files::{AtomicFile, Existing};
use crate::judge::Judge;
use crate::pipeline::Size;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The judge of a run, and what there is to read.
pub struct Judging {
    judge: Judge,
    shown: BTreeMap<String, Labels>,
    read: BTreeMap<String, Labels>,
}

/// How often the judge read what should be shown, and of how many cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Right {
    /// Cases that were right.
    pub right: u64,
    /// All cases.
    pub cases: u64,
}

impl Right {
    /// The share; none of no cases.
    pub fn share(self) -> Option<f64> {
        (self.cases > 0).then(|| self.right as f64 / self.cases as f64)
    }

    fn count(&mut self, right: bool) {
        self.right += u64::from(right);
        self.cases += 1;
    }
}

impl Judging {
    /// The judge of `run.judge`, for the videos of the first samples of a set.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(settings: &Settings, shown: &Dataset, backend: &Backend) -> Result<Option<Self>> {
        let ids = shown.items.iter().take(settings.run.samples).map(|item| item.id.as_str());
        Self::open(settings, &ids.collect::<Vec<_>>(), backend)
    }

    /// The judge of `run.judge`, for the videos of samples by id.
    ///
    /// # Errors
    /// Those of [`Judge::open`], E0998 for a judge of other frames, E0978 for a sample that does not say
    /// what it shows.
    pub fn open(settings: &Settings, ids: &[&str], backend: &Backend) -> Result<Option<Self>> {
        let Some(path) = &settings.run.judge else { return Ok(None) };
        let judge = Judge::open(path, backend).map_err(|error| {
            let from = settings.place("run.judge");
            let named = error.place().map(|file| format!("{file}, which is run.judge of {from}"));
            match named {
                Some(named) => error.placed(named),
                None => error.at(from),
            }
        })?;
        let of = settings.size();
        judge.sees(Size { frames: of.frames.min(2), ..of }).map_err(|error| {
            error
                .at(settings.place("run.judge"))
                .help("train a judge on clips of this size, or leave run.judge out")
        })?;
        let manifest = settings.data.validation.as_ref().unwrap_or(&settings.data.manifest);
        let lines = match ids {
            [] => Vec::new(),
            _ => of_lines(manifest, Labelled::Frames)?,
        };
        let all: BTreeMap<String, Labels> = lines.into_iter().collect();
        let mut shown = BTreeMap::new();
        for id in ids {
            let labels = all.get(*id).filter(|labels| !labels.is_empty()).ok_or_else(|| {
                let field = Labelled::Frames.field();
                Error::input("E0978", format!("sample {id} has no \"{field}\" for run.judge"))
                    .at(manifest.display())
                    .help("`world sample --shows` writes what targets show; or leave run.judge out")
            })?;
            shown.insert((*id).to_owned(), labels.clone());
        }
        Ok(Some(Self { judge, shown, read: BTreeMap::new() }))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.judge.bytes()
    }

    /// The file of what is read in the videos of update `step`, in `folder`.
    pub fn path(folder: &Path, step: u64) -> PathBuf {
        folder.join(format!("{step:06}.json"))
    }

    /// Reads the video of a sample: its first and its last picture, RGB bytes.
    ///
    /// # Errors
    /// As [`Judge::read`].
    pub fn look(&mut self, id: &str, [first, last]: [&[u8]; 2]) -> Result<()> {
        let frames: &[&[u8]] =
            if self.judge.size().frames == 1 { &[first] } else { &[first, last] };
        let classes = self.judge.read(frames)?;
        let slots = self.judge.slots().iter().zip(classes);
        let read = slots.map(|((name, classes), at)| (name.clone(), classes[at].clone()));
        self.read.insert(id.to_owned(), read.collect());
        Ok(())
    }

    /// Writes what was read in the videos of update `step`, and forgets it.
    ///
    /// # Errors
    /// E101x where it cannot be written.
    pub fn write(&mut self, folder: &Path, step: u64) -> Result<Right> {
        let read = std::mem::take(&mut self.read);
        let (all, slots) = compared(&self.shown, &read);
        let mut value = json!({"step": step, "accuracy": all.share(), "cases": all.cases});
        let mut own = Map::new();
        for (slot, right) in slots {
            own.insert(slot.to_owned(), json!({"accuracy": right.share(), "cases": right.cases}));
        }
        value["slots"] = own.into();
        value["read"] = json!(read);
        let mut file = AtomicFile::create_as(Self::path(folder, step), Existing::Overwrite)?;
        file.append(format!("{value:#}\n").as_bytes())?;
        file.commit()?;
        Ok(all)
    }
}

/// What was read, compared with what is shown: of all slots, and of each. What cannot be seen does not count.
fn compared<'s>(
    shown: &'s BTreeMap<String, Labels>,
    read: &BTreeMap<String, Labels>,
) -> (Right, BTreeMap<&'s str, Right>) {
    let (mut all, mut slots) = (Right::default(), BTreeMap::<&str, Right>::new());
    for (id, read) in read {
        for (slot, class) in shown.get(id).into_iter().flatten() {
            let Some(found) = read.get(slot) else { continue };
            all.count(found == class);
            slots.entry(slot).or_default().count(found == class);
        }
    }
    (all, slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(slot, class)| ((*slot).to_owned(), (*class).to_owned())).collect()
    }

    #[test]
    fn what_is_shown_is_compared_and_what_is_hidden_does_not_count() {
        let shown = BTreeMap::from([
            ("a".to_owned(), labels(&[("hair", "1"), ("skin", "2")])),
            ("b".to_owned(), labels(&[("hair", "0")])),
        ]);
        let read = BTreeMap::from([
            ("a".to_owned(), labels(&[("hair", "1"), ("skin", "0"), ("teeth", "1")])),
            ("b".to_owned(), labels(&[("hair", "0"), ("skin", "2")])),
        ]);
        let (all, slots) = compared(&shown, &read);
        assert_eq!(all, Right { right: 2, cases: 3 });
        assert_eq!(slots["hair"].share(), Some(1.0));
        assert_eq!(slots["skin"].share(), Some(0.0));
        assert_eq!((slots.len(), Right::default().share()), (2, None));
    }
}
