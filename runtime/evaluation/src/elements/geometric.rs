//! Outlines by the box of the face alone: approximate, for who has no networks that outline things.

use super::{CLOTHES, HAIR, Mask, Near, Outlines, PERSON};
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use anyid_study::geometry::Rect;

/// Boxes about the face.
pub struct Geometric;

fn boxed(area: &Rect, without: Option<&Rect>, image: &RgbFrame) -> Mask {
    let inside =
        |area: &Rect, x: f64, y: f64| x >= area[0] && x < area[2] && y >= area[1] && y < area[3];
    let at = |at: usize| {
        let (x, y) = ((at % image.width) as f64 + 0.5, (at / image.width) as f64 + 0.5);
        inside(area, x, y) && !without.is_some_and(|without| inside(without, x, y))
    };
    (0..image.width * image.height).map(at).collect()
}

impl Outlines for Geometric {
    fn outlines(
        &self,
        image: &RgbFrame,
        phrases: &[&str],
        near: Option<&Near>,
    ) -> Result<Vec<Option<Mask>>> {
        let of = |phrase: &&str| {
            let Near { face, person } = near?;
            let [left, top, right, bottom] = *face;
            let (width, height) = (right - left, bottom - top);
            match *phrase {
                // Above the face and beside it, without the face itself.
                HAIR => {
                    let around =
                        [left - 0.4 * width, top - 0.6 * height, right + 0.4 * width, bottom];
                    let inner = [left, top + 0.2 * height, right, bottom];
                    Some(boxed(&around, Some(&inner), image))
                }
                // The trunk: as wide as the person, from below the chin on.
                CLOTHES => {
                    let trunk = [person[0], bottom + 0.3 * height, person[2], person[3]];
                    Some(boxed(&trunk, None, image))
                }
                PERSON => Some(boxed(person, None, image)),
                _ => None,
            }
        };
        Ok(phrases.iter().map(of).collect())
    }
}
