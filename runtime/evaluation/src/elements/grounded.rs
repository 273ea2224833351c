//! Outlines by Grounding DINO, which finds the box of a phrase, and SAM, which outlines what is in it.

use super::words::Words;
use super::{Mask, Near, Outlines};
use crate::settings::Segment;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use anyid_study::encode::grounding::Grounding;
use anyid_study::encode::sam::{Prompt, Sam};
use anyid_study::geometry::overlap;

/// The networks with the words of phrases.
pub struct Grounded {
    grounding: Grounding,
    words: Words,
    sam: Sam,
}

impl Grounded {
    /// Opens the files.
    ///
    /// # Errors
    /// E0911, E1208, E1706.
    pub fn open(segment: &Segment) -> Result<Self> {
        let engine = segment.engine;
        Ok(Self {
            words: Words::open(&segment.vocabulary)?,
            grounding: Grounding::open(&segment.grounding, engine)?,
            sam: Sam::open(&segment.sam_encoder, &segment.sam_decoder, engine)?,
        })
    }
}

impl Outlines for Grounded {
    fn outlines(
        &self,
        image: &RgbFrame,
        phrases: &[&str],
        near: Option<&Near>,
    ) -> Result<Vec<Option<Mask>>> {
        let mut seen = None;
        let mut out = Vec::new();
        for phrase in phrases {
            let boxes = self.grounding.found(image, &self.words.numbers(phrase))?;
            // Without a face, nothing says which person is meant.
            let meant = boxes
                .into_iter()
                .find(|found| near.is_none_or(|near| overlap(&found.area, &near.person) > 0.0));
            let Some(found) = meant else {
                out.push(None);
                continue;
            };
            if seen.is_none() {
                seen = Some(self.sam.see(image)?);
            }
            let wanted = Prompt::Box(found.area);
            let mask = seen.as_ref().map(|seen| self.sam.mask(seen, &wanted)).transpose()?;
            out.push(mask.map(|mask| mask.pixels));
        }
        Ok(out)
    }
}
