//! What is learned among what is given, and pairs of one clip, found by what is in the files.
//!
//! The manifest is compared by names when it is read; here are copies under other names, and clips with
//! names of their own that share frames of one file. Other pixels of a frame, by another crop, are the same
//! frame. What was encoded otherwise, such as a clip that was compressed again, is not recognised.

use super::{Looked, Preparation};
use crate::error::{Result, plural};
use crate::media::standardise::Fit;
use crate::training::Event;
use crate::training::manifest::{Clip, Sample, Sure};
use anyid_files::manifest::Field;
use std::ops::Range;

/// A clip, and what is sure of it.
type Known<'c> = (&'c Clip, Sure);

impl Preparation<'_> {
    /// Targets that are among the references, and a pair of one clip, where names do not show it. What
    /// builds upon something that is not sure is left out.
    pub(super) fn copies(
        &self,
        targets: &[Known<'_>],
        references: &[Known<'_>],
        looked: &mut Looked<'_>,
    ) -> Result<Vec<(Field, String)>> {
        let mut faults = Vec::new();
        for (target, own) in targets {
            let named = |(reference, _): &&Known<'_>| reference.named_as(target);
            for (reference, other) in references.iter().filter(|known| !named(known)) {
                let sure = own.and(*other);
                if sure.file && sure.name && self.shares(target, reference, sure.frames, looked)? {
                    let (media, copy) = (target.media.display(), reference.media.display());
                    let what = match target.media == reference.media {
                        true => format!("both take the same frames of {media}"),
                        false => format!("{copy} is a copy of {media}"),
                    };
                    faults.push(format!("the target is among the references: {what}"));
                }
            }
        }
        if let [(chosen, own), (rejected, other)] = targets
            && own.and(*other).file
            && !chosen.one_file(rejected)
            && self.one_content(chosen, rejected, looked).is_some()
        {
            faults.push("the chosen and the rejected clip are the same".to_owned());
        }
        Ok(faults.into_iter().map(|what| (Field::Several, what)).collect())
    }

    /// Says of a pair that one clip goes on where the other ends. That is found out when clips are decoded,
    /// and not again of what is encoded already.
    pub(super) fn remark(&self, sample: &Sample, targets: &[String], looked: &mut Looked<'_>) {
        let read = targets.iter().all(|key| looked.missing.contains_key(key));
        let longer: Vec<bool> = targets.iter().map(|key| looked.longer.contains(key)).collect();
        let which = match longer[..] {
            [true, false] if read => "chosen",
            [false, true] if read => "rejected",
            _ => return,
        };
        let Sample { line, id, .. } = sample;
        let frames = plural(self.settings.video.frames, "frame");
        (looked.events)(Event::Warning(format!(
            "line {line} ({id}): the {which} clip is longer than the other; the first {frames} of \
             both are compared"
        )));
    }

    /// The hash of the files of two clips, where it is one.
    fn one_content(&self, one: &Clip, other: &Clip, looked: &Looked<'_>) -> Option<String> {
        let [one, other] = [one, other].map(|clip| looked.hashes.get(&clip.media));
        one.filter(|_| one == other).cloned()
    }

    /// Whether two clips have frames in common; `known` says whether it is known which they have.
    fn shares(
        &self,
        one: &Clip,
        other: &Clip,
        known: bool,
        looked: &mut Looked<'_>,
    ) -> Result<bool> {
        let Some(hash) = self.one_content(one, other, looked) else { return Ok(false) };
        if one.clip.is_none() || other.clip.is_none() {
            // A file without names of clips is one clip.
            return Ok(true);
        }
        if !known {
            return Ok(false);
        }
        let rate = match looked.rates.get(&hash) {
            Some(rate) => *rate,
            None => {
                let first = Clip { start: 0, frames: 1, crop: None, ..one.clone() };
                let read = self.read(&first, Fit::Inside)?;
                let rate = read.ok().and_then(|read| read.source.fps);
                *looked.rates.entry(hash).or_insert(rate)
            }
        };
        let [one, other] = [one, other].map(|clip| self.taken(clip, rate));
        Ok(one.start < other.end && other.start < one.end)
    }

    /// The frames of a source of `rate` frames a second that a clip is made of.
    pub(super) fn taken(&self, clip: &Clip, rate: Option<f64>) -> Range<usize> {
        let each = rate.map_or(1.0, |rate| rate / self.settings.video.fps);
        // The source frame that is nearest in time.
        let last = ((clip.frames - 1) as f64 * each + 0.5).floor() as usize;
        clip.start..clip.start.saturating_add(last).saturating_add(1)
    }
}
