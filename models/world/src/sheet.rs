//! Contact sheets: many frames in one picture.

use crate::error::{Error, Result};
use crate::set::Set;
use crate::world::{Painter, View, check_size};

/// A picture of bytes, red, green and blue of each pixel, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `width` × `height` × 3 bytes.
    pub pixels: Vec<u8>,
}

/// The largest number of pixels that a sheet may have.
const MOST_PIXELS: usize = 1 << 28;

/// Width and height of a sheet of so many frames across and down, of `size` × `size` pixels each with
/// `gap` pixels between them: to be asked before frames are painted.
///
/// # Errors
/// E0982 for a size that is no multiple of [`crate::SIDE`], E0984 for no frames and for more pixels
/// than a sheet may have.
pub fn sheet_sides(across: usize, down: usize, size: usize, gap: usize) -> Result<[usize; 2]> {
    check_size(size)?;
    if across == 0 || down == 0 {
        return Err(Error::new("E0984", "a sheet of no frames", "give at least one frame"));
    }
    let extent = |count: usize| count.checked_mul(size)?.checked_add((count - 1).checked_mul(gap)?);
    let sides = extent(across).zip(extent(down));
    let sides = sides.filter(|(width, height)| {
        width.checked_mul(*height).is_some_and(|pixels| pixels <= MOST_PIXELS)
    });
    sides.map(|(width, height)| [width, height]).ok_or_else(|| {
        let message = format!("a sheet of {across}x{down} frames of {size} pixels a side");
        Error::new("E0984", message, "show fewer or smaller ones")
    })
}

/// Frames of `size` × `size` pixels side by side, with `gap` white pixels between them. Rows may be
/// of different length; an empty frame leaves its place white.
///
/// # Errors
/// E0982 for a size that is no multiple of [`crate::SIDE`], E0984 for frames of another size, for
/// no frames, and for more pixels than a sheet may have.
pub fn sheet(rows: &[Vec<Vec<u8>>], size: usize, gap: usize) -> Result<Picture> {
    let across = rows.iter().map(Vec::len).max().unwrap_or(0);
    let [width, height] = sheet_sides(across, rows.len(), size, gap)?;
    let bytes = size * size * 3;
    let mut frames = rows.iter().flatten();
    if let Some(frame) = frames.find(|frame| !frame.is_empty() && frame.len() != bytes) {
        let message = format!("a frame of {} bytes, not {size}x{size}x3", frame.len());
        return Err(Error::new("E0984", message, "give red, green and blue of each pixel"));
    }
    let mut pixels = vec![255; width * height * 3];
    for (down, row) in rows.iter().enumerate() {
        for (along, frame) in row.iter().enumerate() {
            let (x, y) = (along * (size + gap), down * (size + gap));
            for (line, bytes) in frame.chunks_exact(size * 3).enumerate() {
                let at = ((y + line) * width + x) * 3;
                pixels[at..at + size * 3].copy_from_slice(bytes);
            }
        }
    }
    Ok(Picture { width, height, pixels })
}

impl Set {
    /// The row of this set in a contact sheet: its references (of videos the last frame), a gap as
    /// wide as a frame, and first and last frame of the target.
    ///
    /// # Errors
    /// E0982 for a size that no frame has.
    pub fn row(&self, size: usize) -> Result<Vec<Vec<u8>>> {
        let mut painter = Painter::new(size)?;
        let (world, identity) = (self.group.world(), &self.group.identity);
        let mut row = Vec::new();
        for reference in &self.references {
            let clip = self.group.clip(reference.clip)?;
            let views = self.group.views(reference.clip, reference.form)?;
            let last = views.last().expect("every form has a view");
            row.push(painter.frame(&world.scene(identity, &clip, *last)));
        }
        row.push(Vec::new());
        let target = self.group.clip(self.target)?;
        for time in [0.0, 1.0] {
            row.push(painter.frame(&world.scene(identity, &target, View::Frame(time))));
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ReferenceForm;
    use crate::set::Reference;
    use crate::world::{SIDE, World};

    #[test]
    fn sheets_hold_every_frame_in_its_place() {
        let frame = |value: u8| vec![value; SIDE * SIDE * 3];
        let rows = vec![vec![frame(1), Vec::new(), frame(3)], vec![frame(4)]];
        let picture = sheet(&rows, SIDE, 2).unwrap();
        assert_eq!((picture.width, picture.height), (3 * SIDE + 4, 2 * SIDE + 2));
        let at = |x: usize, y: usize| picture.pixels[(y * picture.width + x) * 3];
        assert_eq!([at(0, 0), at(SIDE - 1, SIDE - 1), at(2 * SIDE + 4, 0)], [1, 1, 3]);
        assert_eq!([at(SIDE, 0), at(SIDE + 2, 5), at(0, SIDE), at(SIDE + 2, SIDE + 2)], [255; 4]);
        assert_eq!(at(SIDE - 1, 2 * SIDE + 1), 4);
    }

    #[test]
    fn a_set_is_a_row() {
        let references = vec![
            Reference { clip: 1, form: ReferenceForm::Portrait },
            Reference { clip: 2, form: ReferenceForm::Video },
        ];
        let set = World::new(2).unwrap().set(5, 0, references, true).unwrap();
        let row = set.row(SIDE).unwrap();
        assert_eq!(row.iter().map(Vec::len).filter(|len| *len == 0).count(), 1);
        assert_eq!(sheet(&[row], SIDE, 0).unwrap().width, 5 * SIDE);
        assert_eq!(set.row(SIDE + 1).unwrap_err().code(), "E0982");
    }

    #[test]
    fn what_is_no_sheet_is_refused() {
        let refused = |rows: &[Vec<Vec<u8>>], size, gap| sheet(rows, size, gap).unwrap_err().code();
        assert_eq!(refused(&[], SIDE, 0), "E0984");
        assert_eq!(refused(&[vec![]], SIDE, 0), "E0984");
        assert_eq!(refused(&[vec![vec![0; 5]]], SIDE, 0), "E0984");
        assert_eq!(refused(&[vec![vec![]]], SIDE + 1, 0), "E0982");
        assert_eq!(refused(&[vec![vec![]; 2]], SIDE, usize::MAX), "E0984");
        assert_eq!(refused(&[vec![vec![]; 60_000]], SIDE, 6000), "E0984");
    }
}
