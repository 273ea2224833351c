//! Memory of a device: what is allocated at once, copies from and to it, and what outlives a run.
//!
//! Copies to the device go through memory of its own, from which a kernel moves them; so any part of an
//! allocation can be written, which cubecl does not offer.

use super::device::Portable;
use super::kernels::element::{Access, Quad, WIDEST};
use super::kernels::{Body, Moved};
use super::launch::{Bound, Launch, Object, Place, Range, Use};
use crate::Fault;
use crate::device::{Arena, Value};
use crate::errors::NoMemory;
use crate::places::Span;
use cubecl::prelude::*;
use cubecl::server::Handle;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Weights on a device, each in memory of its own.
pub(super) struct Loaded<R: Runtime> {
    pub(super) device: Arc<Portable<R>>,
    /// Number of each among the memories.
    pub(super) names: BTreeMap<String, usize>,
    pub(super) memories: Vec<Memory<R>>,
}

/// Memory of a device.
pub(super) struct Memory<R: Runtime> {
    device: Arc<Portable<R>>,
    pub(super) handle: Handle,
    pub(super) bytes: u64,
}

impl<R: Runtime> Memory<R> {
    /// `bytes` bytes, which hold anything; the device takes so many in one piece, as plans were checked.
    pub(super) fn new(device: &Arc<Portable<R>>, bytes: u64) -> Self {
        let whole = bytes.max(1).next_multiple_of(256);
        let handle = device.client.empty(whole as usize);
        Self { device: device.clone(), handle, bytes }
    }

    /// Writes bytes that begin at `from`, which is a multiple of four; up to three behind them change too.
    pub(super) fn write(&self, from: u64, bytes: &[u8]) {
        let most = self.device.limits.piece();
        for (at, piece) in bytes.chunks(most as usize).enumerate() {
            let from = from + at as u64 * most;
            let mut whole = piece.to_vec();
            whole.resize(piece.len().next_multiple_of(4), 0);
            let count = whole.len() as u64;
            let staging = self.device.client.create_from_slice(&whole);
            let to = Object::WORKSPACE.span(from + count).part(from, count);
            let launch = moving(&self.device, Some(Object::STAGING.span(count)), to, 0);
            start(&self.device, &launch, &|object| match object {
                Object::STAGING => &staging,
                _ => &self.handle,
            });
        }
    }

    /// Sets every byte.
    pub(super) fn fill(&self, byte: u8) {
        let whole = self.bytes.max(1).next_multiple_of(256);
        let word = u32::from_le_bytes([byte; 4]);
        let most = self.device.limits.piece();
        for from in (0..whole).step_by(most as usize) {
            let to = Object::WORKSPACE.span(whole).part(from, most.min(whole - from));
            let launch = moving(&self.device, None, to, word);
            start(&self.device, &launch, &|_| &self.handle);
        }
    }

    /// Reads bytes.
    pub(super) fn read(&self, from: u64, out: &mut [u8]) -> Result<(), Box<Fault>> {
        out.copy_from_slice(&read(&self.device, &self.handle, from, out.len() as u64)?);
        Ok(())
    }
}

/// A launch that moves words, or sets them to one.
fn moving<R: Runtime>(device: &Portable<R>, from: Option<Span>, to: Span, word: u32) -> Launch {
    let (from, to) = (from.map(Place::words), Place::words(to));
    let count = super::emit::words(to.span);
    let vectors = |place: &Place| place.is_wide(4, 4, 0);
    let wide = count.is_multiple_of(4) && from.iter().chain([&to]).all(vectors);
    let places: Vec<(&Place, Use)> = from
        .iter()
        .map(|place| (place, Use::Read { wide }))
        .chain([(&to, Use::Write { aligned: true, wide })])
        .collect();
    let count = if wide { count / 4 } else { count };
    let mut bound = Bound::new(&places, &device.limits);
    let (count_at, value) = (bound.size(count), bound.size(word as usize));
    let to = *bound.slots.last().expect("it is the last");
    let from = from.map(|_| bound.slots[0]);
    let moved = Moved { from, to, count: count_at, value };
    let threads = 256.min(device.limits.threads);
    bound.launch("moved", Body::Moved(moved), threads, count.div_ceil(threads as usize))
}

/// Bytes of an allocation, copied from the device when everything that was launched is done.
pub(super) fn read<R: Runtime>(
    device: &Portable<R>,
    handle: &Handle,
    from: u64,
    bytes: u64,
) -> Result<Vec<u8>, Box<Fault>> {
    let (first, end) = (from / 4 * 4, (from + bytes).next_multiple_of(4));
    let mut all = Vec::with_capacity((end - first) as usize);
    let most = device.limits.piece();
    for from in (first..end).step_by(most as usize) {
        let range = Range { object: Object::STAGING, from, to: end.min(from + most) };
        let read = device.client.read_one(part(handle, range));
        all.extend_from_slice(&read.map_err(|error| device.failed(format!("{error}")))?);
    }
    let inside = (from - first) as usize;
    Ok(all[inside..inside + bytes as usize].to_vec())
}

/// Bytes of an allocation, of which what cubecl rounded up is no part.
pub(super) fn part(handle: &Handle, range: Range) -> Handle {
    let behind = handle.size_in_used() - range.to;
    handle.clone().offset_start(range.from).offset_end(behind)
}

/// Starts a launch on the memory of each object.
pub(super) fn start<'m, R: Runtime>(
    device: &Portable<R>,
    launch: &Launch,
    memory: &dyn Fn(Object) -> &'m Handle,
) {
    let kernel = &launch.kernel;
    let settings = KernelSettings::default().cube_dim(CubeDim::new_1d(kernel.threads));
    let mut launcher = KernelLauncher::<R>::new(settings);
    let [word, atom, quad] = launcher.with_scope(|scope| {
        [u32::as_type(scope), Atomic::<u32>::as_type(scope), Quad::as_type(scope)]
    });
    for (range, access) in launch.ranges.iter().zip(&kernel.accesses) {
        let (ty, bytes) = match access {
            Access::Words => (word, 4),
            Access::Parts => (atom, 4),
            Access::Quads => (quad, WIDEST as u64),
        };
        let count = ((range.to - range.from) / bytes) as usize;
        let handle = part(memory(range.object), *range);
        // SAFETY: the range was cut to these words, and lies inside of the memory, as plans are verified.
        let argument = unsafe { ArrayArg::from_raw_parts(handle, count) };
        launcher.register_array(argument, ty);
    }
    launch.sizes.iter().for_each(|size| launcher.register_scalar(*size));
    let across = launch.cubes.min(u64::from(device.limits.cubes));
    let down = launch.cubes.div_ceil(across.max(1));
    let count = CubeCount::Static(across as u32, down as u32, 1);
    // SAFETY: kernels read and write elements of their operands and results alone, whose number and place
    // were verified with the plan; indices were looked at, and name row 0 where they are wrong.
    unsafe { launcher.launch_unchecked(count, (**kernel).clone(), &device.client) };
}

/// Values that outlive a run, at the offsets that the plan gives them.
pub(super) struct PortableArena<R: Runtime> {
    pub(super) memory: Memory<R>,
    values: Vec<Value>,
}

impl<R: Runtime> PortableArena<R> {
    /// `bytes` zero bytes that hold `values`.
    pub(super) fn reserve(
        device: &Arc<Portable<R>>,
        bytes: u64,
        values: Vec<Value>,
    ) -> Result<Box<dyn Arena>, NoMemory> {
        let memory = Memory::new(device, bytes);
        memory.fill(0);
        // Memory that the driver does not have is told when it is used.
        device.wait().map_err(|_| NoMemory::of(bytes))?;
        Ok(Box::new(Self { memory, values }))
    }

    /// The memory of an arena that [`Self::reserve`] has made.
    ///
    /// # Panics
    /// For an arena of another device.
    pub(super) fn handle(arena: &mut dyn Arena) -> &Handle {
        let any: &mut dyn Any = arena;
        let own = any.downcast_mut::<Self>().expect("an arena goes to the device that made it");
        &own.memory.handle
    }
}

// A device that is lost shows NaN and takes nothing; its next run says what happened.
impl<R: Runtime> Arena for PortableArena<R> {
    fn values(&self) -> &[Value] {
        &self.values
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    fn read(&self, at: usize, look: &mut dyn FnMut(&[u8])) {
        let value = &self.values[at];
        let mut out = vec![0xFF; value.ty.bytes() as usize];
        let _turn = self.memory.device.turn();
        if self.memory.read(value.offset, &mut out).is_err() {
            out.fill(0xFF);
        }
        look(&out);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let value = &self.values[at];
        assert_eq!(value.ty.bytes(), bytes.len() as u64, "as many bytes as the value has");
        let _turn = self.memory.device.turn();
        self.memory.write(value.offset, bytes);
    }

    fn fill(&mut self, byte: u8) {
        let _turn = self.memory.device.turn();
        self.memory.fill(byte);
    }
}
