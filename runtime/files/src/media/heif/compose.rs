//! Putting pictures together: tiles in a grid, opacities, apertures, turns and mirroring.
//!
//! Everything is checked against the sizes of the frames that were really decoded. Order and
//! meaning are those of ISO/IEC 23008-12; rounding of apertures is that of the common library.

use super::items::{Bytes, Property};
use crate::media::{RgbFrame, oriented};
use ::image::metadata::Orientation;

/// A picture made of tiles of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Size of the whole, which the tiles cover at least.
    pub width: u32,
    pub height: u32,
}

impl Grid {
    /// From the data of a `grid` item.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(data);
        bytes.number(1)?;
        let wide = if bytes.number(1)? & 1 == 1 { 4 } else { 2 };
        let rows = bytes.number(1)? as usize + 1;
        let columns = bytes.number(1)? as usize + 1;
        let (width, height) = (bytes.number(wide)? as u32, bytes.number(wide)? as u32);
        Some(Self { rows, columns, width, height })
    }

    /// Whether tiles of this size cover the whole, each of them with a part that is seen: a row or
    /// column that nothing is seen of is a mistake somewhere.
    pub(super) fn covered(&self, wide: usize, high: usize) -> bool {
        let (width, height) = (self.width as usize, self.height as usize);
        wide * self.columns >= width
            && high * self.rows >= height
            && wide * (self.columns - 1) < width
            && high * (self.rows - 1) < height
    }

    /// The whole, from its tiles row by row; none when they do not cover it.
    pub(super) fn join(&self, tiles: &[RgbFrame]) -> Option<RgbFrame> {
        let first = tiles.first()?;
        let (wide, high) = (first.width, first.height);
        let (width, height) = (self.width as usize, self.height as usize);
        let fits = tiles.len() == self.rows * self.columns
            && tiles.iter().all(|tile| (tile.width, tile.height) == (wide, high))
            && self.covered(wide, high);
        if !fits {
            return None;
        }
        let mut data = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for column in 0..self.columns {
                let tile = &tiles[y / high * self.columns + column];
                let seen = wide.min(width - column * wide);
                data.extend_from_slice(&tile.data[y % high * wide * 3..][..seen * 3]);
            }
        }
        Some(RgbFrame { width, height, data })
    }
}

/// Puts a picture before black; both are of one size, the opacity is red, green and blue alike.
pub(super) fn over_black(frame: &mut RgbFrame, opacity: &RgbFrame) {
    for (value, alpha) in frame.data.iter_mut().zip(&opacity.data) {
        *value = ((u32::from(*value) * u32::from(*alpha) + 127) / 255) as u8;
    }
}

/// What a property does to a picture; none when it cannot be done.
pub(super) fn transform(frame: RgbFrame, property: &Property) -> Option<RgbFrame> {
    let turn = match property {
        Property::Rotation(0) => return Some(frame),
        Property::Rotation(1) => Orientation::Rotate270,
        Property::Rotation(2) => Orientation::Rotate180,
        Property::Rotation(_) => Orientation::Rotate90,
        Property::Mirror { sideways: true } => Orientation::FlipHorizontal,
        Property::Mirror { sideways: false } => Orientation::FlipVertical,
        Property::Aperture(aperture) => return crop(&frame, aperture),
        _ => return Some(frame),
    };
    Some(oriented::apply(frame, turn))
}

/// The part of a picture inside an aperture: width, height, and offsets of its middle from the
/// picture's, as fractions.
fn crop(frame: &RgbFrame, aperture: &[(i64, i64); 4]) -> Option<RgbFrame> {
    let side = |(over, under): (i64, i64)| {
        (under > 0 && over > 0).then(|| (over as f64 / under as f64).round() as usize)
    };
    let (width, height) = (side(aperture[0])?, side(aperture[1])?);
    let start = |(over, under): (i64, i64), whole: usize, part: (i64, i64)| {
        if under <= 0 {
            return None;
        }
        let part = part.0 as f64 / part.1 as f64;
        let start = over as f64 / under as f64 + (whole as f64 - part) / 2.0;
        // Thirds and the like must not fall below a whole number by their last bit.
        let start = (start + 1e-9).floor();
        (start >= 0.0).then_some(start as usize)
    };
    let left = start(aperture[2], frame.width, aperture[0])?;
    let top = start(aperture[3], frame.height, aperture[1])?;
    let inside = |at: usize, part: usize, whole: usize| {
        part > 0 && at.checked_add(part).is_some_and(|end| end <= whole)
    };
    if !inside(left, width, frame.width) || !inside(top, height, frame.height) {
        return None;
    }
    let mut data = Vec::with_capacity(width * height * 3);
    for y in top..top + height {
        data.extend_from_slice(&frame.data[(y * frame.width + left) * 3..][..width * 3]);
    }
    Some(RgbFrame { width, height, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: usize, height: usize, value: u8) -> RgbFrame {
        RgbFrame { width, height, data: vec![value; width * height * 3] }
    }

    fn reds(frame: &RgbFrame) -> Vec<u8> {
        frame.data.chunks(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn tiles_are_joined_and_cut_to_the_whole() {
        let grid = Grid::parse(&[0, 0, 1, 1, 0, 3, 0, 3]).unwrap();
        assert_eq!(grid, Grid { rows: 2, columns: 2, width: 3, height: 3 });
        let tiles: Vec<RgbFrame> = (1..5).map(|value| flat(2, 2, value)).collect();
        assert_eq!(reds(&grid.join(&tiles).unwrap()), [1, 1, 2, 1, 1, 2, 3, 3, 4]);
        assert!(grid.join(&tiles[..3]).is_none());
        let larger = Grid { width: 5, ..grid };
        assert!(larger.join(&tiles).is_none());
        let smaller = Grid { width: 2, ..grid };
        assert!(smaller.join(&tiles).is_none());
        let wide = Grid::parse(&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 9]).unwrap();
        assert_eq!((wide.width, wide.height), (65536, 9));
        assert_eq!(Grid::parse(&[0, 0, 1, 1, 0, 3, 0]), None);
    }

    #[test]
    fn apertures_are_centred_and_must_lie_inside() {
        let data = (0..12).flat_map(|value| [value; 3]).collect();
        let frame = RgbFrame { width: 4, height: 3, data };
        let cut = |aperture| crop(&frame, &aperture).map(|f| (f.width, f.height, reds(&f)));
        assert_eq!(cut([(2, 1), (1, 1), (0, 1), (0, 1)]), Some((2, 1, vec![5, 6])));
        assert_eq!(cut([(2, 1), (1, 1), (1, 1), (-1, 1)]), Some((2, 1, vec![2, 3])));
        assert_eq!(cut([(2, 1), (1, 1), (2, 1), (0, 1)]), None);
        assert_eq!(cut([(2, 0), (1, 1), (0, 1), (0, 1)]), None);
        assert_eq!(cut([(i64::MAX, 1), (1, 1), (0, 1), (0, 1)]), None);
        assert_eq!(
            cut([(3, 1), (3, 1), (1, 2), (0, 1)]),
            Some((3, 3, vec![1, 2, 3, 5, 6, 7, 9, 10, 11]))
        );
    }

    #[test]
    fn turns_go_against_the_clock() {
        let frame = RgbFrame { width: 2, height: 1, data: vec![1, 1, 1, 2, 2, 2] };
        let turned = |property| transform(frame.clone(), &property).unwrap();
        assert_eq!(reds(&turned(Property::Rotation(1))), [2, 1]);
        assert_eq!(turned(Property::Rotation(1)).height, 2);
        assert_eq!(reds(&turned(Property::Rotation(2))), [2, 1]);
        assert_eq!(reds(&turned(Property::Rotation(3))), [1, 2]);
        assert_eq!(reds(&turned(Property::Mirror { sideways: true })), [2, 1]);
        assert_eq!(reds(&turned(Property::Mirror { sideways: false })), [1, 2]);
    }
}
