//! How decoded frames are to be shown: colour, pixel shape, turn. Shared by both readers of video.
//!
//! A reader collects what its file says into a [`Display`] and gives every decoded frame to
//! [`Display::show`]: tone mapping first (`tone.rs`), then scaling to square pixels, then the turn,
//! as viewers do. The height as stored is kept and the width follows the pixels' shape. What cannot
//! be done becomes a warning. Reading the file's words is the readers' business.

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

/// How the frames of a video are to be shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Display {
    /// Shape of the stored pixels.
    pub pixels: PixelShape,
    /// Applied last.
    pub turn: Turn,
    /// Applied first; none for ordinary colours.
    pub tone: Option<ToneMap>,
}

impl Display {
    /// For a colour description, pixel shape and turn.
    pub(super) fn new(tags: &ColourTags, pixels: PixelShape, turn: Turn) -> Self {
        Self { pixels, turn, tone: ToneMap::new(tags) }
    }

    /// Width and height at which frames of `width` x `height` stored pixels are shown.
    pub(super) fn size(&self, width: usize, height: usize) -> (usize, usize) {
        let width = self.pixels.width(width);
        if self.turn.swap { (height, width) } else { (width, height) }
    }

    /// A decoded frame as it is to be seen.
    pub(super) fn show(&self, mut frame: RgbFrame) -> RgbFrame {
        if let Some(tone) = &self.tone {
            tone.apply(&mut frame.data);
        }
        let width = self.pixels.width(frame.width);
        if width != frame.width {
            frame = resize(&frame, width, frame.height, Filter::default());
        }
        self.turn.apply(frame)
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
}
