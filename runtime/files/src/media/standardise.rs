//! Brings a reference to the model's size and rate (`anyid.md` §2).
//!
//! Every frame is scaled by s = min(W/w, H/h), placed on a W x H canvas and kept as bytes; clips
//! are sampled to the model's rate and cut to 4k+1 frames (or another group than 4). The resampler follows PIL's arithmetic
//! (antialiased, horizontal then vertical, each pass rounded to bytes). Encoding is not done here.

use super::color::to_unit;
use super::{
    MediaKind, ReadOptions, RgbFrame, SourceInfo, TimedFrame, visit_decoded, visit_frames,
};
use crate::error::{Error, Result};
use std::ops::ControlFlow;
use std::path::Path;

/// What fills the canvas beside the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pad {
    /// RGB 0: the paper's null symbol, and the default.
    #[default]
    Black,
    /// RGB 255.
    White,
    /// RGB 128.
    Gray,
    /// The nearest pixel of the picture.
    Edge,
}

/// Where the picture stands on the canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// In the middle; an odd remainder goes right and down.
    #[default]
    Center,
    /// At the top left.
    TopLeft,
}

/// Resampling filter, antialiased when scaling down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// Three lobes.
    #[default]
    Lanczos,
    /// Keys' cubic with a = −1/2.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
        }
    }

    fn value(self, x: f64) -> f64 {
        let sinc = |x: f64| {
            let x = x * std::f64::consts::PI;
            if x == 0.0 { 1.0 } else { x.sin() / x }
        };
        let x = x.abs();
        match self {
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    }
}

/// How a picture of another shape is brought to the canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// Whole, with a border: references.
    #[default]
    Inside,
    /// Filling the canvas, with what is too much cut off at both ends: targets of training.
    Cover,
}

/// Most pixels of a side that references are brought to.
pub const MOST_SIDE: usize = 16_384;

/// What a reference is brought to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StandardiseOptions {
    /// Width of the canvas in pixels: that of the video to be made.
    pub width: usize,
    /// Height of the canvas in pixels.
    pub height: usize,
    /// Whether the picture stands inside the canvas or covers it.
    pub fit: Fit,
    /// Fill beside the picture.
    pub pad: Pad,
    /// Place of the picture.
    pub align: Align,
    /// Resampling filter.
    pub filter: Filter,
    /// Frames a second that clips are sampled to.
    pub fps: f64,
    /// Most frames kept of a clip; rounded down to a multiple of `group` and one.
    pub max_frames: usize,
    /// Frames of a latent frame after the first: clips are cut to a multiple of it and one.
    pub group: usize,
}

impl StandardiseOptions {
    /// The defaults for a canvas: black, centred, Lanczos, 24 frames a second, 121 frames.
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            fit: Fit::default(),
            pad: Pad::default(),
            align: Align::default(),
            filter: Filter::default(),
            fps: 24.0,
            max_frames: 121,
            group: 4,
        }
    }

    fn check(&self) -> Result<()> {
        let side = 1..=MOST_SIDE;
        if !side.contains(&self.width) || !side.contains(&self.height) {
            let what = format!("references cannot be brought to {}x{}", self.width, self.height);
            return Err(
                Error::input("E0813", what).help(format!("sides run from 1 to {MOST_SIDE} pixels"))
            );
        }
        if !(self.fps.is_finite() && self.fps > 0.0 && self.fps <= 1000.0) {
            let what = format!("references cannot be sampled to {} frames a second", self.fps);
            return Err(Error::input("E0813", what).help("give a rate above 0, such as 24"));
        }
        if self.max_frames == 0 {
            return Err(Error::input("E0813", "a reference needs at least one frame")
                .help("set the cap of frames to 1 or more; the default is 121"));
        }
        Ok(())
    }
}

/// A reference at the model's size and rate.
#[derive(Clone)]
pub struct Reference {
    /// Canvas width in pixels.
    pub width: usize,
    /// Canvas height in pixels.
    pub height: usize,
    /// Frames of interleaved RGB, one more than a multiple of the group,, `height * width * 3` bytes each.
    pub frames: Vec<Vec<u8>>,
    /// A single frame is an image, whatever the file was.
    pub kind: MediaKind,
    /// The file it came from.
    pub source: SourceInfo,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (width, height, frames) = (self.width, self.height, self.frames.len());
        write!(f, "Reference({width}x{height}, {frames} frames, {:?})", self.source)
    }
}

impl Reference {
    /// Values that [`Reference::write_planar`] writes: `3 * T * H * W`.
    pub fn planar_len(&self) -> usize {
        3 * self.frames.len() * self.width * self.height
    }

    /// Writes the model's input, v/127.5 − 1 in [−1, 1], channels outermost: `[3, T, H, W]`:
    /// channel c of frame t at (y, x) is at `((c·T + t)·H + y)·W + x`.
    ///
    /// # Errors
    /// `E0813` when `out` is not [`Reference::planar_len`] long.
    pub fn write_planar(&self, out: &mut [f32]) -> Result<()> {
        if out.len() != self.planar_len() {
            let what = format!("a reference of {} values, given {}", self.planar_len(), out.len());
            return Err(Error::internal("E0813", what));
        }
        let table: [f32; 256] = std::array::from_fn(|v| to_unit(v as u8));
        let plane = self.width * self.height;
        for (channel, planes) in out.chunks_exact_mut(plane * self.frames.len()).enumerate() {
            for (frame, values) in self.frames.iter().zip(planes.chunks_exact_mut(plane)) {
                for (pixel, value) in frame.chunks_exact(3).zip(values) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
        Ok(())
    }
}

/// Reads and standardises a reference. Of a clip only the sampled frames are kept, already at
/// canvas size; decoding stops when the cap is reached. `seen` is told behind every frame that was
/// decoded how many are kept, and ends the reading with its error.
///
/// # Errors
/// As [`visit_frames`], `E0813` for impossible options, and those of `seen`.
pub fn read_reference(
    path: &Path,
    options: &StandardiseOptions,
    read: &ReadOptions,
    seen: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Reference> {
    options.check()?;
    let mut sampler = Sampler::new(options);
    let source = visit_frames(path, read, &mut |frame| {
        let flow = sampler.push(frame)?;
        seen(sampler.frames.len())?;
        Ok(flow)
    })?;
    let mut frames = sampler.finish()?;
    let kept = model_frames(frames.len(), options.group);
    frames.truncate(kept);
    let kind = if kept == 1 { MediaKind::Image } else { MediaKind::Video };
    Ok(Reference { width: options.width, height: options.height, frames, kind, source })
}

/// A part of a clip, in the source's own frames and pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Segment {
    /// The first frame, counted as they are shown.
    pub start: usize,
    /// Left, top, right and bottom of what is taken, in pixels; all of the picture without it.
    pub crop: Option<[f64; 4]>,
}

/// Reads a part of a clip: from frame `segment.start` on, sampled to `options.fps` by the times of
/// the frames that were decoded, at most `options.max_frames`, each cropped and brought to the
/// canvas. Gives as many frames as there are, whether 4k+1 or not.
///
/// # Errors
/// As [`read_reference`]; `E0967` where the clip ends before the segment or the crop does not lie
/// in the picture.
pub fn read_segment(
    path: &Path,
    segment: &Segment,
    options: &StandardiseOptions,
    read: &ReadOptions,
    seen: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Reference> {
    options.check()?;
    let mut sampler = Sampler::new(options);
    let (mut index, mut origin) = (0, 0.0);
    let source = visit_decoded(path, read, &mut |frame| {
        let at = index;
        index += 1;
        if at < segment.start {
            return Ok(ControlFlow::Continue(()));
        }
        if at == segment.start {
            origin = frame.time;
        }
        let (time, duration) = (frame.time - origin, frame.duration);
        let mut image = frame.image()?;
        if let Some(crop) = segment.crop {
            image = cropped(&image, crop).map_err(|error| error.at(path.display()))?;
        }
        let flow = sampler.push(TimedFrame { image, time, duration })?;
        seen(sampler.frames.len())?;
        Ok(flow)
    })?;
    if index <= segment.start {
        let message = format!("frame {} is asked for, the clip has {index}", segment.start);
        return Err(Error::input("E0967", message)
            .at(path.display())
            .help("frames are counted from 0; name one that the clip has"));
    }
    let frames = sampler.finish()?;
    let kind = if frames.len() == 1 { MediaKind::Image } else { MediaKind::Video };
    Ok(Reference { width: options.width, height: options.height, frames, kind, source })
}

/// The pixels between whole sides of a crop.
fn cropped(frame: &RgbFrame, crop: [f64; 4]) -> Result<RgbFrame> {
    let [left, top, right, bottom] = crop.map(f64::round);
    let inside = left >= 0.0
        && top >= 0.0
        && left < right
        && top < bottom
        && right <= frame.width as f64
        && bottom <= frame.height as f64;
    if !inside {
        let (width, height) = (frame.width, frame.height);
        let message = format!("the crop {crop:?} does not lie in a picture of {width}x{height}");
        return Err(Error::input("E0967", message).help(
            "a crop is left, top, right and bottom in pixels of the picture as it is shown",
        ));
    }
    let [left, top, right, bottom] = [left, top, right, bottom].map(|side| side as usize);
    let rows = frame.data.chunks_exact(frame.width * 3).skip(top).take(bottom - top);
    let data = rows.flat_map(|row| &row[left * 3..right * 3]).copied().collect();
    Ok(RgbFrame { width: right - left, height: bottom - top, data })
}

/// The middle of a picture that has the shape of the canvas, scaled to it.
fn cover(frame: &RgbFrame, options: &StandardiseOptions) -> Result<RgbFrame> {
    let (width, height) = (frame.width as f64, frame.height as f64);
    let shape = options.width as f64 / options.height as f64;
    let inner =
        [width.min(height * shape), height.min(width / shape)].map(|side| side.round().max(1.0));
    let [left, top] = [((width - inner[0]) / 2.0).floor(), ((height - inner[1]) / 2.0).floor()];
    let middle = cropped(frame, [left, top, left + inner[0], top + inner[1]])?;
    Ok(resize(&middle, options.width, options.height, options.filter))
}

/// The largest multiple of `group` and one that is at most n; 0 of none.
pub fn model_frames(n: usize, group: usize) -> usize {
    if n == 0 { 0 } else { (n - 1) / group.max(1) * group.max(1) + 1 }
}

/// Picks source frames by nearest presentation time: target frame k, at k/fps, takes the source
/// frame nearest in time, a tie going to the later one. For a constant rate that is the latest
/// frame at or before k/fps plus half a source frame. The clip ends when its last frame does.
struct Sampler<'a> {
    options: &'a StandardiseOptions,
    /// The newest source frame, standardised when first needed.
    newest: Option<(TimedFrame, Option<Vec<u8>>)>,
    frames: Vec<Vec<u8>>,
}

/// Times closer than this are the same (seconds).
const SAME: f64 = 1e-6;

impl<'a> Sampler<'a> {
    fn new(options: &'a StandardiseOptions) -> Self {
        Self { options, newest: None, frames: Vec::new() }
    }

    /// Takes a source frame; breaks when enough frames are kept.
    fn push(&mut self, frame: TimedFrame) -> Result<ControlFlow<()>> {
        if let Some((before, _)) = &self.newest {
            self.emit_until((before.time + frame.time) / 2.0)?;
        }
        self.newest = Some((frame, None));
        let full = self.frames.len() >= model_frames(self.options.max_frames, self.options.group);
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Gives the newest frame to every target time before `end`.
    fn emit_until(&mut self, end: f64) -> Result<()> {
        let cap = model_frames(self.options.max_frames, self.options.group);
        let Some((frame, ready)) = &mut self.newest else { return Ok(()) };
        while self.frames.len() < cap && self.frames.len() as f64 / self.options.fps < end - SAME {
            let data = match ready {
                Some(data) => data.clone(),
                None => ready.insert(standardise(&frame.image, self.options)?.data).clone(),
            };
            self.frames.push(data);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        let last = self.newest.as_ref().map(|(frame, _)| frame.time + frame.duration);
        // A still has no duration, yet is one frame.
        self.emit_until(last.unwrap_or(0.0).max(2.0 * SAME))?;
        Ok(self.frames)
    }
}

/// Scales one picture to fit the canvas and pads it, or to cover it.
///
/// # Errors
/// `E0813` for impossible options or an empty picture.
pub fn standardise(frame: &RgbFrame, options: &StandardiseOptions) -> Result<RgbFrame> {
    options.check()?;
    if frame.data.is_empty() || frame.data.len() != frame.width * frame.height * 3 {
        let what = format!("a picture of {}x{} is not filled", frame.width, frame.height);
        return Err(Error::internal("E0813", what));
    }
    if options.fit == Fit::Cover {
        return cover(frame, options);
    }
    let (width, height) = (options.width, options.height);
    let scale = (width as f64 / frame.width as f64).min(height as f64 / frame.height as f64);
    let side =
        |source: usize, limit: usize| ((source as f64 * scale).round() as usize).clamp(1, limit);
    let (inner_width, inner_height) = (side(frame.width, width), side(frame.height, height));
    let inner = resize(frame, inner_width, inner_height, options.filter);
    let (left, top) = match options.align {
        Align::Center => ((width - inner_width) / 2, (height - inner_height) / 2),
        Align::TopLeft => (0, 0),
    };
    let fill = match options.pad {
        Pad::Black | Pad::Edge => 0,
        Pad::White => 255,
        Pad::Gray => 128,
    };
    let mut data = vec![fill; width * height * 3];
    for (y, row) in data.chunks_exact_mut(width * 3).enumerate() {
        let inside = y >= top && y < top + inner_height;
        if !inside && options.pad != Pad::Edge {
            continue;
        }
        let source_y = y.saturating_sub(top).min(inner_height - 1);
        let source = &inner.data[source_y * inner_width * 3..][..inner_width * 3];
        row[left * 3..(left + inner_width) * 3].copy_from_slice(source);
        if options.pad == Pad::Edge {
            let (first, last) = (&source[..3], &source[source.len() - 3..]);
            row[..left * 3].chunks_exact_mut(3).for_each(|p| p.copy_from_slice(first));
            let right = &mut row[(left + inner_width) * 3..];
            right.chunks_exact_mut(3).for_each(|p| p.copy_from_slice(last));
        }
    }
    Ok(RgbFrame { width, height, data })
}

/// Fraction bits of the weights: room for the sign and the overshoot of the filter in 32 bits.
const BITS: u32 = 22;

/// The source pixels that one output pixel is made of.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Weights along one axis: the filter is widened by the scale when shrinking, cut at the edges and
/// normalised to sum 1.
fn taps(source: usize, target: usize, filter: Filter) -> Vec<Taps> {
    let scale = source as f64 / target as f64;
    let widen = scale.max(1.0);
    let support = filter.support() * widen;
    let tap = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let end = ((center + support + 0.5) as usize).min(source);
        let exact: Vec<f64> = (first..end)
            .map(|position| filter.value((position as f64 - center + 0.5) / widen))
            .collect();
        let sum: f64 = exact.iter().sum();
        let weight = |w: &f64| (w / sum * f64::from(1u32 << BITS)).round() as i32;
        Taps { first, weights: exact.iter().map(weight).collect() }
    };
    (0..target).map(tap).collect()
}

fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resamples to `width` x `height` (both at least 1), each axis rounded to bytes.
pub fn resize(frame: &RgbFrame, width: usize, height: usize, filter: Filter) -> RgbFrame {
    let mut wide = frame.data.clone();
    if width != frame.width {
        let taps = taps(frame.width, width, filter);
        wide = Vec::with_capacity(width * frame.height * 3);
        for row in frame.data.chunks_exact(frame.width * 3) {
            for tap in &taps {
                let mut sums = [1 << (BITS - 1); 3];
                for (pixel, weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                wide.extend(sums.map(to_byte));
            }
        }
    }
    if height == frame.height {
        return RgbFrame { width, height, data: wide };
    }
    let stride = width * 3;
    let mut data = Vec::with_capacity(stride * height);
    let mut sums = vec![0i32; stride];
    for tap in taps(frame.height, height, filter) {
        sums.fill(1 << (BITS - 1));
        for (row, weight) in wide[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        data.extend(sums.iter().map(|sum| to_byte(*sum)));
    }
    RgbFrame { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    fn flat(width: usize, height: usize, shade: u8) -> RgbFrame {
        RgbFrame { width, height, data: vec![shade; width * height * 3] }
    }

    fn shade(frame: &RgbFrame, x: usize, y: usize) -> u8 {
        frame.data[(y * frame.width + x) * 3]
    }

    #[test]
    fn pictures_fit_the_canvas_and_are_padded() {
        let mut options = StandardiseOptions::new(64, 32);
        let out = standardise(&flat(10, 10, 200), &options).unwrap();
        assert_eq!((out.width, out.height, out.data.len()), (64, 32, 64 * 32 * 3));
        // 32x32 in the middle: columns 16 to 47.
        assert_eq!([15, 16, 47, 48].map(|x| shade(&out, x, 7)), [0, 200, 200, 0]);
        options.align = Align::TopLeft;
        options.pad = Pad::White;
        let out = standardise(&flat(10, 10, 200), &options).unwrap();
        assert_eq!([0, 31, 32, 63].map(|x| shade(&out, x, 31)), [200, 200, 255, 255]);
        options.align = Align::Center;
        options.pad = Pad::Gray;
        let out = standardise(&flat(100, 10, 9), &options).unwrap();
        // 64x6 in the middle: rows 13 to 18.
        assert_eq!([12, 13, 18, 19].map(|y| shade(&out, 0, y)), [128, 9, 9, 128]);
        options.pad = Pad::Edge;
        let out = standardise(&flat(3, 9, 77), &options).unwrap();
        assert!(out.data.iter().all(|v| *v == 77));
    }

    #[test]
    fn extreme_shapes_keep_at_least_one_pixel() {
        let options = StandardiseOptions::new(64, 32);
        for (width, height) in [(1, 1), (5000, 1), (1, 5000), (64, 32), (63, 32)] {
            let out = standardise(&flat(width, height, 50), &options).unwrap();
            assert_eq!(out.data.len(), 64 * 32 * 3);
            assert!(out.data.contains(&50));
        }
    }

    #[test]
    fn resampling_matches_pil_to_the_byte() {
        // A ramp of 7x5 taken to 4x3 and 11x8 by Pillow 12's LANCZOS and BICUBIC.
        let data = (0..35u32).flat_map(|i| [(i * 29 % 256) as u8; 3]).collect();
        let ramp = RgbFrame { width: 7, height: 5, data };
        let red = |frame: RgbFrame| frame.data.chunks(3).map(|p| p[0]).collect::<Vec<u8>>();
        assert_eq!(red(resize(&ramp, 4, 3, Filter::Lanczos)), PIL_LANCZOS_4X3);
        assert_eq!(red(resize(&ramp, 4, 3, Filter::Bicubic)), PIL_BICUBIC_4X3);
        assert_eq!(red(resize(&ramp, 11, 8, Filter::Lanczos))[..11], PIL_LANCZOS_11X8_ROW);
        assert_eq!(resize(&ramp, 7, 5, Filter::Lanczos), ramp);
    }

    const PIL_LANCZOS_4X3: [u8; 12] = [103, 49, 77, 143, 178, 179, 104, 61, 67, 130, 198, 172];
    const PIL_BICUBIC_4X3: [u8; 12] = [100, 53, 84, 140, 172, 173, 103, 70, 75, 129, 189, 170];
    const PIL_LANCZOS_11X8_ROW: [u8; 11] = [0, 0, 12, 55, 82, 99, 112, 126, 146, 169, 180];

    #[test]
    fn frames_are_picked_by_nearest_time() {
        let picks = |fps: f64, count: usize, cap: usize| {
            let mut options = StandardiseOptions::new(1, 1);
            options.max_frames = cap;
            let mut sampler = Sampler::new(&options);
            for index in 0..count {
                let image = flat(1, 1, index as u8);
                let time = index as f64 / fps;
                let frame = TimedFrame { image, time, duration: 1.0 / fps };
                if sampler.push(frame).unwrap() == ControlFlow::Break(()) {
                    break;
                }
            }
            sampler.finish().unwrap().iter().map(|f| f[0]).collect::<Vec<u8>>()
        };
        assert_eq!(picks(24.0, 7, 121), [0, 1, 2, 3, 4, 5, 6]);
        // 2.5 s are 60 frames; of five source frames one is left out.
        let thirty = picks(30.0, 75, 121);
        assert_eq!((thirty.len(), &thirty[..9]), (60, &[0, 1, 3, 4, 5, 6, 8, 9, 10][..]));
        assert_eq!(picks(60.0, 10, 121), [0, 3, 5, 8]);
        assert_eq!(picks(12.0, 4, 121), [0, 1, 1, 2, 2, 3, 3, 3]);
        assert_eq!(picks(24.0, 200, 121).len(), 121);
        assert_eq!(picks(24.0, 200, 8).len(), 5);
        assert_eq!(picks(1000.0, 3, 121), [0]);
    }

    #[test]
    fn clips_keep_four_k_plus_one_frames() {
        let pairs = [(0, 0), (1, 1), (4, 1), (5, 5), (8, 5), (9, 9), (60, 57), (121, 121)];
        for (given, kept) in pairs {
            assert_eq!(model_frames(given, 4), kept);
        }
    }

    #[test]
    fn references_become_planar_values() {
        let folder = TempFolder::new();
        let path = folder.write("a", include_bytes!("testdata/b_frames.mp4"));
        let mut options = StandardiseOptions::new(8, 4);
        let reference =
            read_reference(&path, &options, &ReadOptions::default(), &mut |_| Ok(())).unwrap();
        // 0.4 s at 24 a second are 10 frames, of which 9 are kept.
        assert_eq!((reference.frames.len(), reference.kind), (9, MediaKind::Video));
        let mut out = vec![9.0; reference.planar_len()];
        reference.write_planar(&mut out).unwrap();
        assert_eq!(out.len(), 3 * 9 * 4 * 8);
        let at = |c: usize, t: usize, y: usize, x: usize| out[((c * 9 + t) * 4 + y) * 8 + x];
        assert_eq!(at(0, 0, 0, 0), -1.0);
        let pixel = |t: usize, c: usize| reference.frames[t][(2 * 8 + 4) * 3 + c];
        for (c, t) in [(0, 0), (1, 5), (2, 8)] {
            assert_eq!(at(c, t, 2, 4), f32::from(pixel(t, c)) / 127.5 - 1.0);
        }
        assert!(at(0, 8, 2, 4) > at(0, 1, 2, 4));
        assert_eq!(reference.write_planar(&mut out[1..]).unwrap_err().code(), "E0813");

        options.max_frames = 4;
        let reference =
            read_reference(&path, &options, &ReadOptions::default(), &mut |_| Ok(())).unwrap();
        assert_eq!((reference.frames.len(), reference.kind), (1, MediaKind::Image));
    }

    #[test]
    fn segments_begin_at_a_frame_and_are_cropped() {
        let folder = TempFolder::new();
        let path = folder.write("a", include_bytes!("testdata/b_frames.mp4"));
        let options = StandardiseOptions { fit: Fit::Cover, ..StandardiseOptions::new(8, 4) };
        let read = |segment: &Segment| {
            read_segment(&path, segment, &options, &ReadOptions::default(), &mut |_| Ok(()))
        };
        let whole = read(&Segment::default()).unwrap();
        assert_eq!(whole.frames.len(), 10, "0.4 s at 24 a second, not cut to 4k+1");
        let later = read(&Segment { start: 3, ..Segment::default() }).unwrap();
        assert!(later.frames.len() < 10 && later.frames[0] != whole.frames[0]);
        assert_eq!(later.frames.last(), whole.frames.last());
        let mut picture = flat(8, 4, 9);
        picture.data[..3].fill(200);
        let left = cropped(&picture, [1.0, 0.0, 7.6, 3.0]).unwrap();
        assert_eq!((left.width, left.height), (7, 3), "whole pixels");
        assert!(left.data.iter().all(|v| *v == 9));
        let (w, h) = (whole.source.width as f64, whole.source.height as f64);
        let full = Segment { start: 0, crop: Some([0.0, 0.0, w, h]) };
        assert_eq!(read(&full).unwrap().frames, whole.frames);
        for bad in [
            Segment { start: 1000, crop: None },
            Segment { start: 0, crop: Some([0.0, 0.0, w + 1.0, h]) },
            Segment { start: 0, crop: Some([4.0, 0.0, 4.0, h]) },
            Segment { start: 0, crop: Some([0.0, f64::NAN, w, h]) },
        ] {
            assert_eq!(read(&bad).unwrap_err().code(), "E0967", "{bad:?}");
        }
    }

    #[test]
    fn targets_cover_the_canvas() {
        let options = StandardiseOptions { fit: Fit::Cover, ..StandardiseOptions::new(64, 32) };
        for (width, height) in [(10, 10), (100, 10), (3, 9), (64, 32), (1, 1)] {
            let out = standardise(&flat(width, height, 77), &options).unwrap();
            assert_eq!(out.data.len(), 64 * 32 * 3);
            assert!(out.data.iter().all(|v| *v == 77), "{width}x{height}");
        }
        // Of a square with a border above and below, the middle half is left.
        let mut square = flat(8, 8, 50);
        square.data[..2 * 8 * 3].fill(200);
        square.data[6 * 8 * 3..].fill(200);
        assert!(standardise(&square, &options).unwrap().data.iter().all(|v| *v == 50));
    }

    #[test]
    fn impossible_options_are_refused() {
        let picture = flat(4, 4, 0);
        let good = StandardiseOptions::new(64, 32);
        for bad in [
            StandardiseOptions { width: 0, ..good },
            StandardiseOptions { height: 99_999, ..good },
            StandardiseOptions { fps: f64::NAN, ..good },
            StandardiseOptions { fps: 0.0, ..good },
            StandardiseOptions { max_frames: 0, ..good },
        ] {
            assert_eq!(standardise(&picture, &bad).unwrap_err().code(), "E0813");
        }
        let broken = RgbFrame { width: 5, height: 4, data: vec![0; 48] };
        assert_eq!(standardise(&broken, &good).unwrap_err().code(), "E0813");
    }
}
