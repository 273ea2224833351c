//! How decoded frames are to be shown: colour, pixel shape, turn. Shared by both readers of video.
//!
//! A reader collects what its file says into a [`Display`] and gives every decoded frame to
//! [`Display::show`]: cropping to the clean aperture, tone mapping (`tone.rs`), scaling to square
//! pixels, then the turn, as viewers do. The height as stored is kept and the width follows the
//! pixels' shape. What cannot be done becomes a warning. Reading the file's words is the readers'
//! business.

use super::RgbFrame;
use super::color::ColourTags;
use super::standardise::{Filter, resize};
use super::tone::ToneMap;

/// A turn by quarters and mirroring: which source row or column an output one comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Rows become columns.
    pub swap: bool,
    /// The source is read from the right (after the swap: from the bottom).
    pub flip_x: bool,
    /// The source is read from the bottom (after the swap: from the right).
    pub flip_y: bool,
}

impl Turn {
    /// From a display matrix: x' = a·x + c·y, y' = b·x + d·y. None for anything that is not a
    /// quarter turn to within a degree.
    pub(super) fn from_matrix(a: f64, b: f64, c: f64, d: f64) -> Option<Self> {
        // The tangent of one degree.
        let small = |x: f64, y: f64| x.abs() <= 0.0175 * y.abs();
        if small(b, a) && small(c, d) && a != 0.0 && d != 0.0 {
            Some(Self { swap: false, flip_x: a < 0.0, flip_y: d < 0.0 })
        } else if small(a, b) && small(d, c) && b != 0.0 && c != 0.0 {
            Some(Self { swap: true, flip_x: c < 0.0, flip_y: b < 0.0 })
        } else {
            None
        }
    }

    fn apply(self, frame: RgbFrame) -> RgbFrame {
        if self == Self::default() {
            return frame;
        }
        let (w, h) = (frame.width, frame.height);
        let (width, height) = if self.swap { (h, w) } else { (w, h) };
        let mut data = Vec::with_capacity(frame.data.len());
        for y in 0..height {
            for x in 0..width {
                let along = if self.flip_x { width - 1 - x } else { x };
                let down = if self.flip_y { height - 1 - y } else { y };
                let (sx, sy) = if self.swap { (down, along) } else { (along, down) };
                let at = (sy * w + sx) * 3;
                data.extend_from_slice(&frame.data[at..at + 3]);
            }
        }
        RgbFrame { width, height, data }
    }
}

/// The shape of a pixel as width over height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PixelShape(f64);

impl Default for PixelShape {
    fn default() -> Self {
        Self(1.0)
    }
}

impl PixelShape {
    /// Shapes beyond this, either way, are not believed: the widest in use is 4:1.
    const MOST: f64 = 16.0;

    /// From a ratio; none when it says nothing (a zero on either side) or is absurd.
    pub(super) fn new(across: f64, down: f64) -> Option<Self> {
        let ratio = across / down;
        (ratio.is_finite() && (1.0 / Self::MOST..=Self::MOST).contains(&ratio))
            .then_some(Self(ratio))
    }

    /// The width at which a picture of `width` stored pixels is shown.
    pub(super) fn width(self, width: usize) -> usize {
        // A hair up, so that thirds such as 4:3 of 33 do not depend on the last bit.
        ((width as f64 * self.0 + 1e-6).round() as usize).max(1)
    }
}

/// A part of a picture, in stored pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crop {
    /// Columns left out on the left.
    pub left: usize,
    /// Rows left out above.
    pub top: usize,
    /// Columns that stay.
    pub width: usize,
    /// Rows that stay.
    pub height: usize,
}

impl Crop {
    /// The part that lies in a picture of `width` x `height`: left, top, width, height; all of it
    /// when none does.
    fn within(self, width: usize, height: usize) -> (usize, usize, usize, usize) {
        if self.left >= width || self.top >= height {
            return (0, 0, width, height);
        }
        let (wide, high) = (self.width.min(width - self.left), self.height.min(height - self.top));
        (self.left, self.top, wide, high)
    }

    fn apply(self, frame: RgbFrame) -> RgbFrame {
        let (left, top, width, height) = self.within(frame.width, frame.height);
        let rows = frame.data.chunks_exact((frame.width * 3).max(1)).skip(top).take(height);
        let data = rows.flat_map(|row| &row[left * 3..(left + width) * 3]).copied().collect();
        RgbFrame { width, height, data }
    }
}

/// How the frames of a video are to be shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Display {
    /// The part that is shown, where not all is: applied first.
    pub crop: Option<Crop>,
    /// Shape of the stored pixels.
    pub pixels: PixelShape,
    /// Applied last.
    pub turn: Turn,
    /// None for ordinary colours.
    pub tone: Option<ToneMap>,
}

impl Display {
    /// For a colour description, pixel shape and turn.
    pub(super) fn new(tags: &ColourTags, pixels: PixelShape, turn: Turn) -> Self {
        Self { crop: None, pixels, turn, tone: ToneMap::new(tags) }
    }

    /// Width and height at which frames of `width` x `height` stored pixels are shown.
    pub(super) fn size(&self, width: usize, height: usize) -> (usize, usize) {
        let whole = Crop { left: 0, top: 0, width, height };
        let (_, _, width, height) = self.crop.unwrap_or(whole).within(width, height);
        let width = self.pixels.width(width);
        if self.turn.swap { (height, width) } else { (width, height) }
    }

    /// Whether frames of this width are shown as they are stored.
    pub(super) fn is_plain(&self, width: usize) -> bool {
        let unmoved = self.crop.is_none() && self.turn == Turn::default();
        unmoved && self.tone.is_none() && self.pixels.width(width) == width
    }

    /// A decoded frame as it is to be seen.
    pub(super) fn show(&self, mut frame: RgbFrame) -> RgbFrame {
        if let Some(crop) = self.crop {
            frame = crop.apply(frame);
        }
        if let Some(tone) = &self.tone {
            tone.apply(&mut frame.data);
        }
        self.shaped(frame)
    }

    /// Scaled to square pixels and turned.
    fn shaped(&self, mut frame: RgbFrame) -> RgbFrame {
        let width = self.pixels.width(frame.width);
        if width != frame.width {
            frame = resize(&frame, width, frame.height, Filter::default());
        }
        self.turn.apply(frame)
    }

    /// As [`Display::show`], from 16-bit samples, which HDR needs for its dark parts.
    pub(super) fn show_deep(&self, width: usize, height: usize, rgb: &[u16]) -> RgbFrame {
        let data = match &self.tone {
            Some(tone) => tone.convert_deep(rgb),
            None => rgb.iter().map(|v| ((u32::from(*v) * 255 + 32767) / 65535) as u8).collect(),
        };
        let frame = RgbFrame { width, height, data };
        self.shaped(match self.crop {
            Some(crop) => crop.apply(frame),
            None => frame,
        })
    }

    /// What a user should know about the conversion of colours, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        self.tone.as_ref().map(|tone| tone.warning().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: usize, height: usize) -> RgbFrame {
        let data = (0..width * height).flat_map(|i| [i as u8; 3]).collect();
        RgbFrame { width, height, data }
    }

    fn firsts(frame: &RgbFrame) -> Vec<u8> {
        frame.data.chunks(3).map(|p| p[0]).collect()
    }

    #[test]
    fn quarter_turns_move_pixels_as_the_matrix_says() {
        const ONE: f64 = 1.0;
        // 0 1 2
        // 3 4 5
        let turn = |a, b, c, d| {
            let turned = Turn::from_matrix(a, b, c, d).unwrap().apply(numbered(3, 2));
            (turned.width, turned.height, firsts(&turned))
        };
        assert_eq!(turn(ONE, 0.0, 0.0, ONE), (3, 2, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(turn(0.0, ONE, -ONE, 0.0), (2, 3, vec![3, 0, 4, 1, 5, 2])); // clockwise
        assert_eq!(turn(-ONE, 0.0, 0.0, -ONE), (3, 2, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(turn(0.0, -ONE, ONE, 0.0), (2, 3, vec![2, 5, 1, 4, 0, 3]));
        assert_eq!(turn(-ONE, 0.0, 0.0, ONE), (3, 2, vec![2, 1, 0, 5, 4, 3]));
        assert_eq!(turn(ONE, 0.0, 0.0, -ONE), (3, 2, vec![3, 4, 5, 0, 1, 2]));
        assert_eq!(turn(0.0, ONE, ONE, 0.0), (2, 3, vec![0, 3, 1, 4, 2, 5]));
        // A quarter turn by rounded sines is one still; an eighth is not.
        assert_eq!(turn(1e-5, ONE, -ONE, -1e-5), (2, 3, vec![3, 0, 4, 1, 5, 2]));
        assert_eq!(Turn::from_matrix(ONE, ONE, -ONE, ONE), None);
        assert_eq!(Turn::from_matrix(0.0, 0.0, 0.0, 0.0), None);
    }

    #[test]
    fn pixels_are_shown_square() {
        let wide = PixelShape::new(4.0, 3.0).unwrap();
        assert_eq!([96, 33, 1].map(|width| wide.width(width)), [128, 44, 1]);
        let narrow = PixelShape::new(1.0, 16.0).unwrap();
        assert_eq!(narrow.width(4), 1);
        for (across, down) in [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (17.0, 1.0), (1.0, 65535.0)] {
            assert_eq!(PixelShape::new(across, down), None);
        }
        let turn = Turn { swap: true, flip_x: true, flip_y: false };
        let display = Display::new(&ColourTags::default(), wide, turn);
        let shown = display.show(numbered(3, 2));
        assert_eq!((shown.width, shown.height), display.size(3, 2));
        assert_eq!((shown.width, shown.height), (2, 4));
        assert_eq!(display.warning(), None);
    }

    #[test]
    fn pictures_are_cropped_before_they_are_turned() {
        // 0 1 2
        // 3 4 5
        let show = |left, top, width, height| {
            let crop = Some(Crop { left, top, width, height });
            let turn = Turn { flip_x: true, ..Turn::default() };
            let display = Display { crop, turn, ..Display::default() };
            let shown = display.show(numbered(3, 2));
            assert_eq!((shown.width, shown.height), display.size(3, 2));
            firsts(&shown)
        };
        assert_eq!(show(1, 0, 2, 1), [2, 1]);
        assert_eq!(show(1, 1, 99, 99), [5, 4]);
        assert_eq!(show(3, 0, 1, 1), [2, 1, 0, 5, 4, 3]);
    }
}
