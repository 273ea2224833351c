//! Frames that are turned into colours when they are asked for, and only as far.
//!
//! Who looks at some frames of a video, or at few pixels of each, does not pay for the rest: of what
//! decoding takes, colours are as much as all else. [`super::visit_frames`] gives the same pixels.

use super::{RgbFrame, TimedFrame};
use crate::error::Result;

/// A frame of a file with its place in time, whose colours may still have to be made.
pub struct DecodedFrame<'f> {
    /// Presentation time in seconds; the first frame of a file is at 0.
    pub time: f64,
    /// How long it stays on screen, in seconds; 0 for a still.
    pub duration: f64,
    /// Width in pixels, as it is shown.
    pub width: usize,
    /// Height in pixels, as it is shown.
    pub height: usize,
    pixels: Pixels<'f>,
}

enum Pixels<'f> {
    Made(RgbFrame),
    Later(&'f dyn Uncoloured),
}

/// What a decoder gave, from which colours can be made.
pub(super) trait Uncoloured {
    /// The whole picture, as it is shown.
    ///
    /// # Errors
    /// `E0810` where the decoder gave less than a picture.
    fn image(&self) -> Result<RgbFrame>;

    /// The pixels where these columns and rows of the shown picture meet; none where that is no less
    /// work than all of it.
    ///
    /// # Errors
    /// `E0810` where the decoder gave less than a picture.
    fn picked(&self, columns: &[usize], rows: &[usize]) -> Result<Option<RgbFrame>>;
}

impl<'f> DecodedFrame<'f> {
    /// A frame of `width` x `height` that `source` can colour.
    pub(super) fn later(
        [time, duration]: [f64; 2],
        [width, height]: [usize; 2],
        source: &'f dyn Uncoloured,
    ) -> Self {
        Self { time, duration, width, height, pixels: Pixels::Later(source) }
    }

    /// The whole picture.
    ///
    /// # Errors
    /// `E0810` where the file is damaged in this frame.
    pub fn image(self) -> Result<RgbFrame> {
        match self.pixels {
            Pixels::Made(image) => Ok(image),
            Pixels::Later(source) => source.image(),
        }
    }

    /// A picture of the pixels where these columns and rows meet, in this order.
    ///
    /// # Errors
    /// `E0810` where the file is damaged in this frame.
    ///
    /// # Panics
    /// When a column or row lies outside of the picture.
    pub fn picked(&self, columns: &[usize], rows: &[usize]) -> Result<RgbFrame> {
        match &self.pixels {
            Pixels::Made(image) => Ok(pick(image, columns, rows)),
            Pixels::Later(source) => match source.picked(columns, rows)? {
                Some(picked) => Ok(picked),
                None => Ok(pick(&source.image()?, columns, rows)),
            },
        }
    }
}

impl From<TimedFrame> for DecodedFrame<'_> {
    fn from(frame: TimedFrame) -> Self {
        let TimedFrame { image, time, duration } = frame;
        let (width, height) = (image.width, image.height);
        Self { time, duration, width, height, pixels: Pixels::Made(image) }
    }
}

fn pick(image: &RgbFrame, columns: &[usize], rows: &[usize]) -> RgbFrame {
    let mut data = Vec::with_capacity(columns.len() * rows.len() * 3);
    for row in rows {
        let row = &image.data[row * image.width * 3..][..image.width * 3];
        for column in columns {
            data.extend_from_slice(&row[column * 3..column * 3 + 3]);
        }
    }
    RgbFrame { width: columns.len(), height: rows.len(), data }
}

#[cfg(test)]
mod tests {
    use super::super::writer::{VideoWriter, WriterOptions};
    use super::super::{ReadOptions, visit_decoded, visit_frames};
    use super::*;
    use crate::testing::TempFolder;
    use std::ops::ControlFlow;

    #[test]
    fn picked_pixels_are_those_of_whole_frames() {
        let folder = TempFolder::new();
        let (width, height) = (70, 46);
        let (columns, rows) = ([0, 3, 4, 31, 69], [0, 1, 7, 44, 45]);
        for ending in ["mp4", "gif"] {
            let path = folder.path().join(format!("a.{ending}"));
            let options = WriterOptions::default();
            let mut writer = VideoWriter::create(&path, width, height, 10.0, &options).unwrap();
            for t in 0..6 {
                let pixel = |at: usize| {
                    let (x, y) = (at % width, at / width);
                    [(x * 3 + t * 9) as u8, (y * 5) as u8, (200 - x - y) as u8]
                };
                writer.push(&(0..width * height).flat_map(pixel).collect::<Vec<u8>>()).unwrap();
            }
            writer.finish().unwrap();
            let mut whole = Vec::new();
            visit_frames(&path, &ReadOptions::default(), &mut |frame| {
                whole.push(frame);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
            let mut at = 0;
            visit_decoded(&path, &ReadOptions::default(), &mut |frame| {
                let expected = &whole[at];
                at += 1;
                let place = (frame.time, frame.duration, frame.width, frame.height);
                assert_eq!(place, (expected.time, expected.duration, width, height));
                let picked = frame.picked(&columns, &rows)?;
                assert_eq!(picked, pick(&expected.image, &columns, &rows), "{ending}");
                assert_eq!(frame.image()?, expected.image, "{ending}");
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
            assert_eq!((at, whole.len()), (6, 6), "{ending}");
        }
    }
}
