//! Where every picture is put together: still ones, and the layers of animations.
//!
//! A format hands over layers (pixels, place, blending, disposal, delay); what is shown comes from
//! here, the same way for GIF, APNG and WebP. The canvas begins black and holds RGB: transparency
//! ends over black, and laying a layer over a canvas that already lies over black gives the same
//! picture as keeping the canvas transparent and laying it over black at the end. Background
//! colours that files name are not painted, as in every browser. Loop counts are not looked at: an
//! animation is shown once.

use super::super::{MediaKind, RgbFrame, SourceInfo, TimedFrame, Visit};
use super::Reading;
use crate::error::{Error, Result};
use ::image::metadata::Orientation;
use ::image::{DynamicImage, RgbImage};
use std::ops::ControlFlow;

/// Pixels of all frames of an animation together, counted as canvases and as layers.
const PIXELS: u64 = 1 << 33;

/// Decoded pixels, rows from the top without padding.
pub(super) enum Pixels {
    /// Three bytes a pixel.
    Rgb(Vec<u8>),
    /// Four bytes a pixel, alpha last and not multiplied in.
    Rgba(Vec<u8>),
}

/// How a layer meets the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blend {
    /// It replaces what was there, transparency included.
    Source,
    /// It is laid over what was there.
    Over,
}

/// What becomes of a layer's place once its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispose {
    /// It stays.
    Keep,
    /// It becomes transparent.
    Background,
    /// It becomes what it was before the layer.
    Previous,
}

/// A rectangle on the canvas; it may reach beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// One frame as its file holds it.
pub(super) struct Layer {
    pub(super) place: Place,
    pub(super) pixels: Pixels,
    pub(super) blend: Blend,
    pub(super) dispose: Dispose,
    /// Seconds on screen, as the file says.
    pub(super) delay: f64,
}

impl Layer {
    /// A picture by itself.
    pub(super) fn still(width: usize, height: usize, pixels: Pixels) -> Self {
        let place = Place { x: 0, y: 0, width, height };
        Self { place, pixels, blend: Blend::Source, dispose: Dispose::Keep, delay: 0.0 }
    }
}

/// What a format knows before the first pixel.
pub(super) struct Outline {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Frames that the file holds.
    pub(super) frames: usize,
    /// Pixels of all layers.
    pub(super) layer_pixels: u64,
    pub(super) orientation: Orientation,
    pub(super) warnings: Vec<String>,
}

/// Takes the layers from `next` (its argument counts them), composes them and shows the frames.
///
/// # Errors
/// `E0809` no frame, `E0830` too much over all, and those of `next` and `visit`.
pub(super) fn play<'a>(
    reading: &mut Reading<'a>,
    outline: Outline,
    visit: Visit<'_>,
    mut next: impl FnMut(&mut Reading<'a>, usize) -> Result<Layer>,
) -> Result<SourceInfo> {
    let Outline { width, height, frames, layer_pixels, orientation, warnings } = outline;
    let name = reading.name;
    if frames == 0 {
        return Err(Error::input("E0809", format!("the {name} holds no frame"))
            .at(reading.path.display())
            .help("export it again with at least one frame"));
    }
    let canvases = (width as u64 * height as u64).saturating_mul(frames as u64);
    let total = canvases.saturating_add(layer_pixels);
    if frames > 1 && total > PIXELS {
        return Err(Error::input(
            "E0830",
            format!("the {name} animation unpacks to {frames} frames of {width}x{height}"),
        )
        .at(reading.path.display())
        .help("cut it shorter or scale it down"));
    }
    let mut canvas = Canvas::new(width, height);
    let (mut time, mut shown, mut size) = (0.0f64, 0usize, (width, height));
    for index in 0..frames {
        let layer = next(reading, index)?;
        let duration = if frames == 1 { 0.0 } else { shown_for(layer.delay) };
        canvas.put(layer);
        let data = if index + 1 == frames {
            std::mem::take(&mut canvas.data)
        } else {
            canvas.data.clone()
        };
        let image = turn(RgbFrame { width, height, data }, orientation);
        size = (image.width, image.height);
        shown += 1;
        let flow = visit(TimedFrame { image, time, duration })?;
        time += duration;
        if flow == ControlFlow::Break(()) {
            break;
        }
    }
    let moving = frames > 1;
    Ok(SourceInfo {
        path: reading.path.to_path_buf(),
        kind: if moving { MediaKind::Video } else { MediaKind::Image },
        width: size.0,
        height: size.1,
        fps: moving.then(|| shown as f64 / time),
        frames: shown,
        total: Some(frames),
        sound: false,
        description: format!("{name} {}", if moving { "animation" } else { "picture" }),
        warnings,
    })
}

/// Delays up to 10 ms count as 100 ms, as browsers do for every format: so old files ask for "as
/// fast as possible".
fn shown_for(delay: f64) -> f64 {
    if delay < 0.0105 { 0.1 } else { delay }
}

/// Applies an orientation; most have none, which costs nothing.
fn turn(frame: RgbFrame, orientation: Orientation) -> RgbFrame {
    if orientation == Orientation::NoTransforms {
        return frame;
    }
    let image = RgbImage::from_raw(frame.width as u32, frame.height as u32, frame.data);
    let mut image = DynamicImage::from(image.expect("a frame holds three bytes a pixel"));
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    RgbFrame { width, height, data: image.into_rgb8().into_raw() }
}

/// The picture so far, over black.
struct Canvas {
    width: usize,
    height: usize,
    data: Vec<u8>,
    /// What happens to the last layer's place before the next one.
    pending: Option<(Place, Undo)>,
}

enum Undo {
    Clear,
    Restore(Vec<u8>),
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, data: Vec::new(), pending: None }
    }

    /// Disposes of the layer before and lays this one down.
    fn put(&mut self, layer: Layer) {
        let Place { x, y, width, height } = layer.place;
        let whole = (x, y, width, height) == (0, 0, self.width, self.height);
        let replaces = layer.blend == Blend::Source || matches!(layer.pixels, Pixels::Rgb(_));
        if whole && replaces && layer.dispose != Dispose::Previous {
            // Nothing of the canvas stays: no copy is needed.
            self.data = match layer.pixels {
                Pixels::Rgb(data) => data,
                Pixels::Rgba(data) => over_black(data),
            };
            self.pending =
                (layer.dispose == Dispose::Background).then_some((layer.place, Undo::Clear));
            return;
        }
        self.data.resize(self.width * self.height * 3, 0);
        self.settle();
        let seen = self.clip(layer.place);
        self.pending = match layer.dispose {
            Dispose::Keep => None,
            Dispose::Background => Some((seen, Undo::Clear)),
            Dispose::Previous => Some((seen, Undo::Restore(self.cut(seen)))),
        };
        for row in 0..seen.height {
            let to = self.row(seen, row);
            match &layer.pixels {
                Pixels::Rgb(data) => {
                    let from = row * width * 3;
                    to.copy_from_slice(&data[from..from + seen.width * 3]);
                }
                Pixels::Rgba(data) => {
                    let from = &data[row * width * 4..][..seen.width * 4];
                    for (to, from) in to.chunks_exact_mut(3).zip(from.chunks_exact(4)) {
                        mix(to, from, layer.blend);
                    }
                }
            }
        }
    }

    /// Carries out what the last layer left to do.
    fn settle(&mut self) {
        let Some((place, undo)) = self.pending.take() else { return };
        for row in 0..place.height {
            let to = self.row(place, row);
            match &undo {
                Undo::Clear => to.fill(0),
                Undo::Restore(before) => to.copy_from_slice(&before[row * to.len()..][..to.len()]),
            }
        }
    }

    /// The part of a place that lies on the canvas.
    fn clip(&self, place: Place) -> Place {
        let (x, y) = (place.x.min(self.width), place.y.min(self.height));
        let (width, height) = (place.width.min(self.width - x), place.height.min(self.height - y));
        Place { x, y, width, height }
    }

    fn row(&mut self, place: Place, row: usize) -> &mut [u8] {
        let start = ((place.y + row) * self.width + place.x) * 3;
        &mut self.data[start..start + place.width * 3]
    }

    fn cut(&mut self, place: Place) -> Vec<u8> {
        let mut kept = Vec::with_capacity(place.width * place.height * 3);
        for row in 0..place.height {
            kept.extend_from_slice(self.row(place, row));
        }
        kept
    }
}

/// Lays one pixel with alpha on a canvas that lies over black.
fn mix(to: &mut [u8], from: &[u8], blend: Blend) {
    let alpha = u32::from(from[3]);
    match (alpha, blend) {
        (255, _) => to.copy_from_slice(&from[..3]),
        (0, Blend::Over) => {}
        _ => {
            let rest = if blend == Blend::Over { 255 - alpha } else { 0 };
            for (to, from) in to.iter_mut().zip(from) {
                *to = ((u32::from(*from) * alpha + u32::from(*to) * rest + 127) / 255) as u8;
            }
        }
    }
}

/// RGBA over black, in the memory that it has.
fn over_black(mut rgba: Vec<u8>) -> Vec<u8> {
    let pixels = rgba.len() / 4;
    for pixel in 0..pixels {
        let mut shown = [0; 3];
        mix(&mut shown, &rgba[pixel * 4..pixel * 4 + 4], Blend::Source);
        rgba[pixel * 3..pixel * 3 + 3].copy_from_slice(&shown);
    }
    rgba.truncate(pixels * 3);
    rgba
}
