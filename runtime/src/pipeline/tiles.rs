//! Pictures cut into tiles that overlap, so that a half of the autoencoder needs less memory.
//!
//! Each tile goes through the network as if it were the whole picture. Where two tiles overlap, the
//! result goes from the one to the other along a straight line, as diffusers does it, but all tiles
//! have the same size and four that meet in a corner are mixed by the products of their weights.
//! The result differs from that of the whole picture: attention in the middle of the network sees
//! its tile alone, and convolutions see its edges. Nothing here knows how large a tile may be.

use super::Size;
use crate::model::Model;
use anyid_models::wan::{Geometry, vae::Half};

/// Latents that neighbouring tiles share at least, 64 pixels for Wan2.2.
pub(super) const OVERLAP: usize = 4;
/// Latents on the side of a tile at least: no latent is then in three tiles of one axis.
const LEAST: usize = 3 * OVERLAP;

/// Pixels on the side of a tile at least.
pub(super) fn least_side(geometry: Geometry) -> usize {
    LEAST * geometry.space
}

/// One axis of a picture, cut into tiles of one length. All counts are latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    length: usize,
    tile: usize,
    count: usize,
}

impl Axis {
    /// As few tiles as go if none is longer than `most`, or the least length of a tile.
    fn within(length: usize, most: usize) -> Self {
        let tile = |count: usize| (length + (count - 1) * OVERLAP).div_ceil(count);
        let fits = |count: &usize| tile(*count) <= most.max(LEAST);
        let count = (1..=length.max(1)).find(fits).unwrap_or(1);
        Self { length, tile: tile(count), count }
    }

    /// The first latent of tile `at`.
    fn start(self, at: usize) -> usize {
        at * (self.length - self.tile) / (self.count - 1).max(1)
    }

    /// What each row of the result of tile `at` counts, where there are `factor` for each latent and
    /// `patch` that lie together are treated alike.
    fn weights(self, at: usize, factor: usize, patch: usize) -> Vec<f32> {
        let mut out = vec![1.0; self.tile * factor];
        let shared = |before: usize| {
            (self.start(before) + self.tile - self.start(before + 1)) * (factor / patch)
        };
        if at > 0 {
            let shared = shared(at - 1);
            for (i, weight) in out[..shared * patch].iter_mut().enumerate() {
                *weight = (i / patch) as f32 / shared as f32;
            }
        }
        if at + 1 < self.count {
            let shared = shared(at);
            let begin = out.len() - shared * patch;
            for (i, weight) in out[begin..].iter_mut().enumerate() {
                *weight = 1.0 - (i / patch) as f32 / shared as f32;
            }
        }
        out
    }
}

/// A picture cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    rows: Axis,
    columns: Axis,
    space: usize,
    patch: usize,
}

/// One tile: its number among the rows of tiles and among their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile(usize, usize);

impl Tiling {
    /// [`Self::within`] for the autoencoder of `model`.
    pub(super) fn of(model: &Model, size: Size, most: Option<[usize; 2]>) -> Self {
        Self::within(size, model.geometry(), model.vae.patch_size, most)
    }

    /// As few tiles as go if none has more columns and rows of pixels than `most`; without that, the
    /// whole picture. `patch` pixels of a side are one column of the network.
    fn within(size: Size, geometry: Geometry, patch: usize, most: Option<[usize; 2]>) -> Self {
        let space = geometry.space;
        let [width, height] = most.unwrap_or([usize::MAX; 2]).map(|pixels| pixels / space);
        let rows = Axis::within(size.height / space, height);
        Self { rows, columns: Axis::within(size.width / space, width), space, patch }
    }

    /// Every way to cut the picture for the autoencoder of `model`, the one with the least work first.
    pub(super) fn choices(model: &Model, size: Size) -> Vec<Self> {
        Self::all(size, model.geometry(), model.vae.patch_size)
    }

    fn all(size: Size, geometry: Geometry, patch: usize) -> Vec<Self> {
        let lengths = |pixels: usize| {
            let length = pixels / geometry.space;
            let mut axes: Vec<Axis> =
                (LEAST.min(length)..=length).map(|most| Axis::within(length, most)).collect();
            axes.dedup();
            axes
        };
        let mut all = Vec::new();
        for rows in lengths(size.height) {
            for columns in lengths(size.width) {
                all.push(Self { rows, columns, space: geometry.space, patch });
            }
        }
        all.sort_by_key(|tiling| {
            (tiling.count() * tiling.area(), tiling.count(), tiling.rows.count)
        });
        all
    }

    /// Whether the picture is in one piece.
    pub(super) fn is_whole(&self) -> bool {
        self.count() == 1
    }

    /// How many tiles there are.
    pub(super) fn count(&self) -> usize {
        self.rows.count * self.columns.count
    }

    /// Columns of tiles, and rows of them.
    pub(super) fn grid(&self) -> [usize; 2] {
        [self.columns.count, self.rows.count]
    }

    /// Latents of a tile.
    pub(super) fn area(&self) -> usize {
        self.rows.tile * self.columns.tile
    }

    /// Width and height of a tile in pixels.
    pub(super) fn pixels(&self) -> [usize; 2] {
        [self.columns.tile, self.rows.tile].map(|latents| latents * self.space)
    }

    /// Pixels that neighbouring tiles share at least.
    pub(super) fn overlap(&self) -> usize {
        OVERLAP * self.space
    }

    /// The tiles, row after row.
    pub(super) fn tiles(self) -> impl Iterator<Item = Tile> {
        let columns = self.columns.count;
        (0..self.count()).map(move |at| Tile(at / columns, at % columns))
    }

    /// Rows and columns of what a half reads for a tile.
    pub(super) fn tile_sides(&self, half: Half) -> [usize; 2] {
        let [factor, _] = self.factors(half);
        [self.rows, self.columns].map(|axis| axis.tile * factor)
    }

    /// Values per latent on a side of what a half reads, and of what it gives.
    fn factors(&self, half: Half) -> [usize; 2] {
        match half {
            Half::Encoder => [self.space, 1],
            Half::Decoder => [1, self.space],
        }
    }

    /// The part of planes of the whole picture that a half reads for a tile.
    pub(super) fn cut(&self, half: Half, Tile(row, column): Tile, planes: &[f32]) -> Vec<f32> {
        let [factor, _] = self.factors(half);
        let [height, width] = [self.rows, self.columns].map(|axis| axis.length * factor);
        let [top, left] =
            [self.rows.start(row), self.columns.start(column)].map(|latents| latents * factor);
        let [rows, columns] = [self.rows, self.columns].map(|axis| axis.tile * factor);
        let mut out = Vec::with_capacity(planes.len() / (height * width) * rows * columns);
        for plane in planes.chunks_exact(height * width) {
            for line in plane.chunks_exact(width).skip(top).take(rows) {
                out.extend_from_slice(&line[left..left + columns]);
            }
        }
        out
    }

    /// Adds what a half gave for a tile to planes of the whole picture, which begin as zeros.
    pub(super) fn add(
        &self,
        half: Half,
        Tile(row, column): Tile,
        given: &[f32],
        planes: &mut [f32],
    ) {
        let [_, factor] = self.factors(half);
        let patch = if half == Half::Decoder { self.patch } else { 1 };
        let [height, width] = [self.rows, self.columns].map(|axis| axis.length * factor);
        let [top, left] =
            [self.rows.start(row), self.columns.start(column)].map(|latents| latents * factor);
        let down = self.rows.weights(row, factor, patch);
        let across = self.columns.weights(column, factor, patch);
        let parts = given.chunks_exact(down.len() * across.len());
        for (plane, part) in planes.chunks_exact_mut(height * width).zip(parts) {
            let lines = plane.chunks_exact_mut(width).skip(top);
            let weighted = part.chunks_exact(across.len()).zip(&down);
            for (line, (part, down)) in lines.zip(weighted) {
                let to = &mut line[left..left + across.len()];
                for ((to, value), across) in to.iter_mut().zip(part).zip(&across) {
                    *to += value * (down * across);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry::TI2V_5B;

    fn size(columns: usize, rows: usize) -> Size {
        Size { width: 16 * columns, height: 16 * rows, frames: 1 }
    }

    #[test]
    fn tiles_cover_an_axis_and_share_what_they_must() {
        for length in 1..200 {
            for most in 0..length + 3 {
                let axis = Axis::within(length, most);
                assert!(axis.tile <= most.max(LEAST) && axis.tile <= length, "{axis:?}");
                assert_eq!(axis.count == 1, axis.tile == length, "{axis:?}");
                let ends = [axis.start(0), axis.start(axis.count - 1) + axis.tile];
                assert_eq!(ends, [0, length], "{axis:?}");
                let mut sums = vec![0.0f32; length];
                for at in 0..axis.count {
                    let weights = axis.weights(at, 1, 1);
                    let own = &mut sums[axis.start(at)..];
                    own.iter_mut().zip(&weights).for_each(|(sum, weight)| *sum += weight);
                }
                assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{axis:?} {sums:?}");
                for at in 1..axis.count {
                    let shared = axis.start(at - 1) + axis.tile - axis.start(at);
                    assert!((OVERLAP..=OVERLAP + 3).contains(&shared), "{axis:?}");
                    let behind = if at > 1 { axis.start(at - 2) + axis.tile } else { 0 };
                    assert!(behind <= axis.start(at), "three tiles share a latent: {axis:?}");
                }
            }
        }
    }

    #[test]
    fn pictures_that_are_cut_come_together_again() {
        let tiling = Tiling::within(size(31, 29), GEOMETRY, 2, Some([208, 240]));
        assert_eq!((tiling.grid(), tiling.pixels()), ([3, 3], [208, 208]));
        for half in [Half::Encoder, Half::Decoder] {
            let [read, _] = tiling.factors(half);
            let plane = 31 * 29 * read * read;
            let picture: Vec<f32> = (0..2 * plane).map(|i| (i % 977) as f32).collect();
            // The network is nearest neighbours here, or every sixteenth pixel.
            let run = |values: &[f32], width: usize| -> Vec<f32> {
                let lines = values.chunks_exact(width);
                match half {
                    Half::Decoder => lines
                        .flat_map(|line| std::iter::repeat_n(line, 16))
                        .flat_map(|line| line.iter().flat_map(|v| [*v; 16]))
                        .collect(),
                    Half::Encoder => {
                        let lines = lines.step_by(16);
                        lines.flat_map(|line| line.iter().step_by(16).copied()).collect()
                    }
                }
            };
            let whole = run(&picture, 31 * read);
            let mut together = vec![0.0; whole.len()];
            for tile in tiling.tiles() {
                let cut = tiling.cut(half, tile, &picture);
                let given = run(&cut, tiling.columns.tile * read);
                tiling.add(half, tile, &given, &mut together);
            }
            let worst = whole.iter().zip(&together).map(|(a, b)| (a - b).abs());
            assert!(worst.fold(0.0, f32::max) < 1e-3, "{half:?}");
        }
    }

    #[test]
    fn the_least_work_comes_first_and_tiles_are_found_again_by_their_size() {
        let all = Tiling::all(size(80, 44), GEOMETRY, 2);
        assert!(all[0].is_whole() && all.len() > 20);
        let work: Vec<usize> = all.iter().map(|tiling| tiling.count() * tiling.area()).collect();
        assert!(work.is_sorted());
        for tiling in all {
            let again = Tiling::within(size(80, 44), GEOMETRY, 2, Some(tiling.pixels()));
            assert_eq!(again, tiling);
        }
        let small = Tiling::all(size(6, 6), GEOMETRY, 2);
        assert!(small.len() == 1 && small[0].is_whole());
    }
}
