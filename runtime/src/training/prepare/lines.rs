//! The lines of manifests, read as settings say: what is wrong with them can be told before there is a model.

use super::in_words;
use crate::checkpoint::hash_file;
use crate::error::{Error, Result};
use crate::training::Settings;
use crate::training::faults::{Fault, refused};
use crate::training::manifest::{Clip, Manifest, Reading};
use crate::training::settings::TrainedNetwork;
use anyid_files::manifest::Field;
use anyid_study::pool::Wanted;
use std::path::Path;

/// How the lines of manifests are read.
#[derive(Clone, Copy)]
pub struct Lines<'l> {
    /// The settings of the run.
    pub settings: &'l Settings,
    /// Whether they are pairs.
    pub pairs: bool,
    /// What is trained, which decides what is wanted of a line.
    pub network: TrainedNetwork,
    /// Clips are cut to a multiple of so many frames and one.
    pub group: usize,
    /// Whether lengths and rates of targets are compared with those of the run.
    pub timed: bool,
}

impl Lines<'_> {
    /// The manifest at `path`.
    ///
    /// # Errors
    /// E0911 and E0959.
    pub fn open(&self, path: &Path) -> Result<Manifest> {
        let (data, video) = (&self.settings.data, &self.settings.video);
        let beside = path.parent().unwrap_or(Path::new(""));
        let reading = Reading {
            pairs: self.pairs,
            root: data.root.as_deref().unwrap_or(beside),
            locked: data.sha256.as_deref().filter(|_| path == data.manifest),
            frames: if self.timed { video.frames } else { 1 },
            group: self.group,
            labels: self.network.labelled(),
            fps: Some(video.fps).filter(|_| self.timed),
            drawn: (!self.pairs).then_some(Wanted {
                width: video.width,
                height: video.height,
                frames: video.frames,
                fps: video.fps,
            }),
        };
        let key = if path == data.manifest { "data.manifest" } else { "data.validation" };
        Manifest::open(path, &reading).map_err(|error| match error.code() {
            "E0911" => {
                let from = self.settings.place(key);
                error.placed(format!("{}, which is {key} of {from}", path.display()))
            }
            _ => error,
        })
    }

    /// What is wrong with all manifests of the settings: with their lines, and with files that are not there.
    /// No file of a clip is read.
    pub fn faults(&self) -> Vec<Error> {
        let data = &self.settings.data;
        let paths = std::iter::once(&data.manifest).chain(&data.validation);
        paths.filter_map(|path| self.check(path).err()).collect()
    }

    fn check(&self, path: &Path) -> Result<()> {
        let Manifest { samples, mut faults, remains, .. } = self.open(path)?;
        for sample in &samples {
            let targets = sample.targets.fields().zip(sample.targets.clips());
            let references = (1..).map(Field::Reference).zip(&sample.references);
            let clips = targets.chain(references);
            faults.extend(self.absent((sample.line, &sample.id), clips));
        }
        for own in &remains {
            let clips = own.clips.iter().filter(|(_, _, sure)| sure.file);
            let clips = clips.map(|(field, clip, _)| (*field, clip));
            faults.extend(self.absent((own.line, &own.id), clips));
        }
        faults.sort_by_key(|fault| fault.line);
        let lines = samples.len() + remains.len();
        match faults.is_empty() || self.settings.data.skip_faulty {
            true => Ok(()),
            false => Err(refused(&faults, lines, path, self.settings)),
        }
    }

    /// Faults of the clips of a line whose files are not there.
    fn absent<'c>(
        &self,
        (line, id): (usize, &str),
        clips: impl Iterator<Item = (Field, &'c Clip)>,
    ) -> Vec<Fault> {
        let read = |field: Field| match self.network {
            TrainedNetwork::Transformer => true,
            TrainedNetwork::Vae | TrainedNetwork::Judge => !field.is_reference(),
            TrainedNetwork::Text => false,
        };
        let clips = clips.filter(|(field, _)| read(*field));
        let faults = clips.filter_map(|(field, clip)| {
            let there = clip.media.metadata().is_ok();
            let error = if there { None } else { hash_file(&clip.media).err() }?;
            let what = format!("{field}{}", in_words(&error, &clip.media));
            Some(Fault { line, id: id.to_owned(), field, what })
        });
        faults.collect()
    }
}
