//! How a scene becomes pixels.
//!
//! Pixels are painted shape by shape, back to front. A pixel is covered by `½ - d` of its own
//! size, where `d` is the distance of its middle from the edge of the shape in pixels, bounded to
//! 0..1; that is what makes edges smooth. Only the rectangle around a shape is computed, eight
//! pixels of a row at a time.

use crate::arithmetic::{LANES, Lanes, clamp};
use crate::form::Rect;
use crate::scene::{Scene, Space};

/// A frame of `size` × `size` pixels in f32, red, green and blue apart.
///
/// It is used again for many frames, so that none is allocated for.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    size: usize,
    planes: [Vec<f32>; 3],
    /// x of each column, for the camera of the scene at hand.
    columns: Vec<f32>,
}

/// A part of a frame in whole pixels; `left` and `right` are multiples of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) right: usize,
    pub(crate) bottom: usize,
}

impl Region {
    /// The smallest region that holds both.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }
}

/// Half a pixel in units of the world.
fn half_pixel(scene: &Scene, size: usize) -> f32 {
    1.0 / (size as f32 * scene.camera.zoom)
}

impl Canvas {
    /// A canvas of `size` × `size` pixels, `size` being a multiple of eight.
    pub(crate) fn new(size: usize) -> Self {
        debug_assert!(size.is_multiple_of(LANES));
        let plane = || vec![0.0; size * size];
        Self { size, planes: [plane(), plane(), plane()], columns: vec![0.0; size] }
    }

    /// The size of a side, in pixels.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// All of the frame.
    pub(crate) fn whole(&self) -> Region {
        Region { left: 0, top: 0, right: self.size, bottom: self.size }
    }

    /// The pixels that a rectangle of the world touches.
    fn region(&self, scene: &Scene, rect: Rect) -> Region {
        let (camera, size) = (scene.camera, self.size as f32);
        // The inverse of `paint`'s coordinates. Casts of what is beyond a type end at its bounds.
        let pixel = |at: f32, middle: f32| (((at - middle) * camera.zoom + 1.0) * size - 1.0) / 2.0;
        let first = |at: f32, middle| (pixel(at, middle) as i64).clamp(0, size as i64) as usize;
        let last = |at: f32, middle| {
            (pixel(at, middle) as i64).saturating_add(2).clamp(0, size as i64) as usize
        };
        Region {
            left: first(rect.left, camera.x) / LANES * LANES,
            top: first(rect.top, camera.y),
            right: last(rect.right, camera.x).next_multiple_of(LANES),
            bottom: last(rect.bottom, camera.y),
        }
    }

    /// Where two scenes of the same camera and head differ; none where they do not.
    pub(crate) fn changed(&self, one: &Scene, other: &Scene) -> Option<Region> {
        let rect = one.changed(other, half_pixel(one, self.size))?;
        let region = self.region(one, rect);
        (region.left < region.right && region.top < region.bottom).then_some(region)
    }

    /// Paints `region` of a scene. Pixels outside of it are left as they are.
    pub(crate) fn paint(&mut self, scene: &Scene, region: Region) {
        let camera = scene.camera;
        let size = self.size as f32;
        for (column, x) in self.columns.iter_mut().enumerate() {
            *x = ((2.0 * column as f32 + 1.0) / size - 1.0) / camera.zoom + camera.x;
        }
        // What is covered wholly becomes the colour exactly only if nothing was there before.
        for row in region.top..region.bottom {
            for plane in &mut self.planes {
                plane[row * self.size + region.left..row * self.size + region.right].fill(0.0);
            }
        }
        let pad = half_pixel(scene, self.size);
        let sharpness = 1.0 / (2.0 / size / camera.zoom);
        let [cos, sin] = scene.tilt;
        for shape in &scene.shapes {
            let part = self.region(scene, scene.bounds(shape, pad)).and(region);
            for row in part.top..part.bottom {
                let y = ((2.0 * row as f32 + 1.0) / size - 1.0) / camera.zoom + camera.y;
                for left in (part.left..part.right).step_by(LANES) {
                    let x = Lanes(lanes(&self.columns[left..]));
                    let y = Lanes::all(y);
                    let (x, y) = match shape.space {
                        Space::World => (x, y),
                        Space::Head => {
                            let (x, y) = (x - scene.head[0], y - scene.head[1]);
                            (x * cos + y * sin, x * -sin + y * cos)
                        }
                    };
                    let distance = shape.form.distance(x, y);
                    let cover = (-(distance * sharpness) + 0.5).map(|c| clamp(c, 0.0, 1.0));
                    if cover.0 == [0.0; LANES] {
                        continue;
                    }
                    let colours = shape.paint.at(x, y);
                    for (plane, colour) in self.planes.iter_mut().zip(colours) {
                        let pixels = &mut plane[row * self.size + left..][..LANES];
                        let before = Lanes(lanes(pixels));
                        let after = before + cover * (colour - before);
                        pixels.copy_from_slice(&after.0);
                    }
                }
            }
        }
    }

    /// Red, green and blue of a row, from `left` to `right`.
    pub(crate) fn row(&self, row: usize, left: usize, right: usize) -> [&[f32]; 3] {
        let at = row * self.size;
        [0, 1, 2].map(|part| &self.planes[part][at + left..at + right])
    }

    /// Writes the frame as bytes, red, green and blue of each pixel in turn.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let [red, green, blue] = &self.planes;
        for (at, pixel) in out.chunks_exact_mut(3).enumerate() {
            for (byte, part) in pixel.iter_mut().zip([red[at], green[at], blue[at]]) {
                *byte = (clamp(part, 0.0, 1.0) * 255.0 + 0.5) as u8;
            }
        }
    }
}

/// The first eight values of a slice.
#[inline(always)]
fn lanes(values: &[f32]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    out.copy_from_slice(&values[..LANES]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::person::{Attribute, Slot};
    use crate::scene::{Paint, Shape};
    use crate::world::{View, World};

    /// Scenes of many people, near and far.
    fn scenes() -> impl Iterator<Item = Scene> {
        (0..90).map(|number| {
            let world = World::new(1 + number as u32 % 2).unwrap();
            let group = world.group(number).unwrap();
            let time = number as f32 / 90.0;
            let view = [View::Frame(time), View::Face(time), View::Portrait(time)];
            let clip = group.clip(number as usize % 7).unwrap();
            world.scene(&group.identity, &clip, view[number as usize % 3])
        })
    }

    #[test]
    fn nothing_is_covered_beyond_its_bounds() {
        const SIZE: usize = 48;
        for scene in scenes() {
            let (zoom, [cos, sin]) = (scene.camera.zoom, scene.tilt);
            let middle = |at: usize| ((2 * at + 1) as f32 / SIZE as f32 - 1.0) / zoom;
            for shape in &scene.shapes {
                let white = Paint::Flat([1.0; 3]);
                let shape = Shape { paint: white, ..shape.clone() };
                let alone = Scene { shapes: vec![shape.clone()], ..scene.clone() };
                let mut canvas = Canvas::new(SIZE);
                let whole = canvas.whole();
                canvas.paint(&alone, whole);
                // Every pixel, without looking at bounds.
                for at in 0..SIZE * SIZE {
                    let x = middle(at % SIZE) + scene.camera.x;
                    let y = middle(at / SIZE) + scene.camera.y;
                    let (dx, dy) = (x - scene.head[0], y - scene.head[1]);
                    let (x, y) = match shape.space {
                        Space::World => (x, y),
                        Space::Head => (dx * cos + dy * sin, dx * -sin + dy * cos),
                    };
                    let distance = shape.form.distance(Lanes::all(x), Lanes::all(y)).0[0];
                    let cover = (0.5 - distance * (SIZE as f32 * zoom / 2.0)).clamp(0.0, 1.0);
                    let painted = canvas.planes[0][at];
                    assert!((cover - painted).abs() < 1e-3, "{cover} {painted} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn a_part_is_painted_like_the_whole() {
        let world = World::new(2).unwrap();
        for number in 0..40 {
            let group = world.group(number).unwrap();
            let (identity, clip) = (&group.identity, group.clip(0).unwrap());
            let view = View::Frame(0.7);
            let own = world.scene(identity, &clip, view);
            let mut others = Vec::new();
            for attribute in Attribute::ALL {
                let class = (identity.class(attribute) + 1) % attribute.classes();
                others.push(world.scene(&identity.with(attribute, class), &clip, view));
            }
            for slot in [Slot::HairStyle, Slot::ClothingColour, Slot::Accessory, Slot::Background] {
                let class = (clip.class(slot) + 1) % world.classes(slot);
                others.push(world.scene(identity, &clip.with(slot, class), view));
            }
            for other in others {
                let [mut part, mut whole] = [Canvas::new(48), Canvas::new(48)];
                let all = whole.whole();
                part.paint(&own, all);
                whole.paint(&other, all);
                if let Some(region) = part.changed(&own, &other) {
                    part.paint(&other, region);
                }
                assert!(part.planes == whole.planes, "person {number}");
            }
        }
    }
}
