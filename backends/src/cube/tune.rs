//! The tile of a product: of a few, the one that takes the least time on the device, tried when a plan is
//! made ready and kept on disk.
//!
//! Every sum adds up its summands in the same order in all of them, so the choice changes no bit.

use super::compile;
use super::device::Portable;
use super::kernels::product::Product;
use super::kernels::{Body, Kernel};
use super::launch::{Launch, Limits, Object, Range};
use super::memory::start;
use crate::Fault;
use crate::cuda::cache::{Cache, Kept};
use crate::errors::OpenError;
use crate::registry::{Setting, Settings};
use cubecl::prelude::*;
use cubecl::server::Handle;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The setting of the folder for choices.
const CACHE: &str = "cache";
/// The setting of whether tiles are tried: `on` or `off`; by itself on GPUs.
const TUNE: &str = "tune";

/// Settings of the devices.
pub(super) const SETTINGS: &[Setting] = &[
    Setting { name: CACHE, variable: "ANYID_WGPU_CACHE" },
    Setting { name: TUNE, variable: "ANYID_WGPU_TUNE" },
];

const KEPT: Kept = Kept { folder: "wgpu", ending: "tiles", variable: "ANYID_WGPU_CACHE" };

/// How a product is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Threads along rows and along columns.
    pub(crate) side: usize,
    /// Summands that are loaded at once.
    pub(crate) depth: usize,
}

/// The tiles that are tried.
const TILES: [Tile; 5] = [
    Tile { side: 8, depth: 16 },
    Tile { side: 8, depth: 32 },
    Tile { side: 16, depth: 8 },
    Tile { side: 16, depth: 16 },
    Tile { side: 16, depth: 32 },
];

impl Tile {
    /// The tile of a product of `m` rows and `n` columns of which nothing else is known.
    pub(super) fn usual(m: usize, n: usize, limits: &Limits) -> Self {
        let large = limits.threads >= 256 && m >= 64 && n >= 64;
        Self { side: if large { 16 } else { 8 }, depth: 16 }
    }

    /// The tile of a product that units for matrices multiply, if the device has room for one.
    pub(super) fn of_units(m: usize, n: usize, limits: &Limits) -> Option<Self> {
        let usual = Self { depth: 32, ..Self::usual(m, n, limits) };
        let small = Self { side: 8, ..usual };
        let fits = |tile: &Self| {
            tile.side * tile.side <= limits.threads as usize
                && Product::bytes_of_units(*tile) <= limits.shared_bytes
        };
        [usual, small].into_iter().find(fits)
    }

    fn fits(self, limits: &Limits) -> bool {
        let enough = self.side * self.side <= limits.threads as usize;
        enough && 4 * Product::floats(self) <= limits.shared_bytes
    }
}

/// What is known of a device.
#[derive(Default)]
pub(super) struct Tiles {
    known: BTreeMap<String, Tile>,
    /// Whether those that are not known are tried.
    tries: bool,
    /// Where they are kept.
    cache: Option<Cache>,
    /// The device as the cache knows it.
    device: String,
}

impl Tiles {
    /// Those of a device that is called so, and is a processor or not; and what to tell the user of the folder
    /// in which they would be kept.
    pub(super) fn open(
        settings: &Settings,
        device: &str,
        processor: bool,
    ) -> Result<(Self, Option<String>), OpenError> {
        let tries = match settings.get(TUNE) {
            None | Some("") => !processor,
            Some("on") => true,
            Some("off") => false,
            Some(_) => {
                let message = "unknown way of choosing tiles: use on or off".to_owned();
                return Err(OpenError::Setting { name: TUNE, message });
            }
        };
        if !tries {
            return Ok((Self::default(), None));
        }
        let device = format!("{:016x}", crate::cuda::emit::digest_of(device.as_bytes()));
        let (cache, warning) = Cache::open_or_warn(KEPT, settings.get(CACHE));
        let kept = cache.as_ref().and_then(|cache| cache.read(&device)).unwrap_or_default();
        let known = read(&String::from_utf8_lossy(&kept));
        Ok((Self { known, tries, cache, device }, warning))
    }

    /// Writes them down; what cannot be kept is tried again by the next process.
    fn keep(&self) {
        if let Some(cache) = &self.cache {
            let _ = cache.write(&self.device, written(&self.known).as_bytes());
        }
    }
}

/// A line for each product: side, depth, what it is of.
fn written(known: &BTreeMap<String, Tile>) -> String {
    known.iter().map(|(of, Tile { side, depth })| format!("{side} {depth} {of}\n")).collect()
}

/// The tiles in a text; lines that say anything else are left out.
fn read(text: &str) -> BTreeMap<String, Tile> {
    let one = |line: &str| {
        let (side, rest) = line.split_once(' ')?;
        let (depth, of) = rest.split_once(' ')?;
        let own = Tile { side: side.parse().ok()?, depth: depth.parse().ok()? };
        TILES.contains(&own).then(|| (of.to_owned(), own))
    };
    text.lines().filter_map(one).collect()
}

/// What decides which tile is best for a launch: all but what happens to the sums; rows to the next power of
/// two.
fn of(product: &Product, launch: &Launch) -> String {
    let [m, pages] = [product.rows, product.pages].map(|at| launch.sizes[at].next_power_of_two());
    let Product { sides, left, right, n, k, .. } = product;
    format!("{pages} {m} {n} {k} {} {} {sides:?}", left.dtype, right.dtype)
}

/// Gives every product of these launches its tile.
///
/// # Errors
/// Those of a device that fails.
pub(super) fn all<'l, R: Runtime>(
    device: &Arc<Portable<R>>,
    launches: impl Iterator<Item = &'l mut Launch>,
) -> Result<(), Box<Fault>> {
    let mut tiles = device.tiles.lock().unwrap_or_else(PoisonError::into_inner);
    if !tiles.tries {
        return Ok(());
    }
    let before = tiles.known.len();
    for launch in launches {
        let Body::Product(product) = &launch.kernel.body else { continue };
        // Units add up as they like, so another tile could change bits.
        if product.units {
            continue;
        }
        let of = of(product, launch);
        let known = tiles.known.get(&of).copied().filter(|tile| tile.fits(&device.limits));
        let best = match known {
            Some(tile) => tile,
            None => {
                let best = quickest(device, launch, product.tile)?;
                tiles.known.insert(of, best);
                best
            }
        };
        if best != product.tile {
            *launch = tiled(launch, product, best);
        }
    }
    if tiles.known.len() > before {
        tiles.keep();
    }
    Ok(())
}

/// A launch with another tile.
fn tiled(launch: &Launch, product: &Product, tile: Tile) -> Launch {
    let product = Product { tile, ..product.clone() };
    let [m, pages] = [product.rows, product.pages].map(|at| launch.sizes[at] as usize);
    let (threads, cubes) = (product.threads(), product.cubes(m, pages) as u64);
    let Kernel { name, accesses, sizes, .. } = &*launch.kernel;
    let body = Body::Product(Arc::new(product));
    let kernel = Arc::new(Kernel::new(name.clone(), body, accesses.clone(), *sizes, threads));
    Launch { kernel, cubes, ..launch.clone() }
}

/// Times a tile is measured, and launches of a measurement that is short.
const TIMES: usize = 3;
const TOGETHER: u32 = 8;
const SHORT: Duration = Duration::from_millis(5);

/// The tile in which the launch takes the least time on memory that holds anything; `usual` if the device has
/// no room to try.
fn quickest<R: Runtime>(
    device: &Arc<Portable<R>>,
    launch: &Launch,
    usual: Tile,
) -> Result<Tile, Box<Fault>> {
    let Body::Product(product) = &launch.kernel.body else { return Ok(usual) };
    let bytes = |range: &Range| range.to - range.from;
    let memory: Vec<Handle> =
        launch.ranges.iter().map(|range| device.client.empty(bytes(range) as usize)).collect();
    let own = |(at, range): (usize, &Range)| Range {
        object: Object(at as u32),
        from: 0,
        to: bytes(range),
    };
    let ranges = launch.ranges.iter().enumerate().map(own).collect();
    let apart = Launch { ranges, ..launch.clone() };
    let mut best: Option<(Duration, Tile)> = None;
    for tile in TILES.into_iter().filter(|tile| tile.fits(&device.limits)) {
        let launch = tiled(&apart, product, tile);
        let took = compile::all(device, std::iter::once(&launch.kernel)).and_then(|()| {
            let run = |times: u32| {
                let begun = Instant::now();
                for _ in 0..times {
                    start(device, &launch, &|object| &memory[object.0 as usize]);
                }
                device.wait().map(|()| begun.elapsed() / times)
            };
            // The first is slow for other reasons.
            let times = if run(1)? < SHORT { TOGETHER } else { 1 };
            (0..TIMES).map(|_| run(times)).try_fold(Duration::MAX, |least, one| Ok(least.min(one?)))
        });
        match took {
            Ok(took) if best.is_none_or(|(least, _)| took < least) => best = Some((took, tile)),
            Ok(_) => {}
            // A tile that the device does not take, or has no room for.
            Err(fault) if matches!(fault.code, "E0871" | "E0603") => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(best.map_or(usual, |(_, tile)| tile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_and_what_is_no_choice_is_not_read() {
        let known: BTreeMap<String, Tile> =
            [("1 64 64 64 f32 f32 Linear { stride: 64 }".to_owned(), TILES[1])].into();
        let text = written(&known);
        assert_eq!(text, "8 32 1 64 64 64 f32 f32 Linear { stride: 64 }\n");
        assert_eq!(read(&text), known);
        assert_eq!(read("7 32 x\n8 x y\n8\n\n16 16 z z\n"), [("z z".to_owned(), TILES[3])].into());
    }
}
