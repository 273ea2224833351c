//! Memory of a GPU, memory of the process for copies, and what outlives a run on the device. Each piece
//! is given back when nobody holds it any more.

use super::Gpu;
use super::driver::{Refused, Result};
use super::finite;
use crate::cuda::launches::Span;
use crate::device::{Arena, Value};
use crate::errors::NoMemory;
use std::any::Any;
use std::sync::Arc;

/// Memory of the GPU.
pub(super) struct Memory {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: u64,
}

impl Memory {
    /// `bytes` bytes, which hold anything.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<Self> {
        let address = if bytes > 0 { gpu.driver.allocate(bytes)? } else { 0 };
        Ok(Self { gpu: gpu.clone(), address, bytes })
    }

    pub(super) fn span(&self) -> Span {
        Span::dense(self.address, self.bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let _turn = self.gpu.turn();
            // What a failed run has left on the stream may use it.
            let _ = self.gpu.driver.wait();
            // SAFETY: it was allocated in `new`; the stream is empty, and whoever names the memory has it
            // from here.
            unsafe { self.gpu.driver.free(self.address) };
        }
    }
}

/// Memory of the process that copies are fast from and to.
pub(super) struct Pinned {
    gpu: Arc<Gpu>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: it is plain memory that this value alone names.
unsafe impl Send for Pinned {}
// SAFETY: as above; changes need an exclusive borrow.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let at = if bytes > 0 { gpu.driver.pin(bytes)? } else { std::ptr::dangling_mut() };
        if bytes > 0 {
            // SAFETY: the memory is new and has so many bytes.
            unsafe { at.write_bytes(0, bytes) };
        }
        Ok(Self { gpu: gpu.clone(), at, bytes })
    }

    /// The bytes, which no copy writes meanwhile.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes begin there, which were set in `new`.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// The bytes for writing, while no copy uses them.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }

    /// Starts to copy all of `to` from byte `from` on.
    ///
    /// # Safety
    /// Nothing is written here until the stream is past the copy, and both pieces are there until then.
    pub(super) unsafe fn upload(&self, from: usize, to: Span) -> Result<()> {
        let bytes = to.bytes as usize;
        let piece = &self.bytes()[from..from + bytes];
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: `piece` has as many bytes; the rest is as the caller says.
        unsafe { self.gpu.driver.upload(to.address, piece.as_ptr(), bytes) }
    }

    /// Starts to copy all of `from` to byte `to` and what follows.
    ///
    /// # Safety
    /// Nobody looks at what is written until the stream is past the copy, and both pieces are there until
    /// then.
    pub(super) unsafe fn download(&mut self, to: usize, from: Span) -> Result<()> {
        let bytes = from.bytes as usize;
        let piece = &mut self.bytes_mut()[to..to + bytes];
        if bytes == 0 {
            return Ok(());
        }
        let at = piece.as_mut_ptr();
        // SAFETY: `piece` has as many bytes; the rest is as the caller says.
        unsafe { self.gpu.driver.download(at, from.address, bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let _turn = self.gpu.turn();
            let _ = self.gpu.driver.wait();
            // SAFETY: it was made in `new`; the stream is empty, and nobody else names it.
            unsafe { self.gpu.driver.unpin(self.at) };
        }
    }
}

/// Values that outlive a run, at the offsets that the plan gives them.
pub(super) struct GpuArena {
    memory: Memory,
    values: Vec<Value>,
}

impl GpuArena {
    /// `bytes` zero bytes that hold `values`.
    pub(super) fn reserve(
        gpu: &Arc<Gpu>,
        bytes: u64,
        values: Vec<Value>,
    ) -> std::result::Result<Box<dyn Arena>, NoMemory> {
        let refused = |_: Refused| gpu.no_memory(bytes);
        let memory = Memory::new(gpu, bytes).map_err(refused)?;
        let mut arena = Self { memory, values };
        arena.set(0).map_err(refused)?;
        Ok(Box::new(arena))
    }

    /// The memory of an arena that [`Self::reserve`] has made.
    ///
    /// # Panics
    /// For an arena of another device.
    pub(super) fn span(arena: &mut dyn Arena) -> Span {
        let any: &mut dyn Any = arena;
        let own = any.downcast_mut::<Self>().expect("an arena goes to the device that made it");
        own.memory.span()
    }

    fn value(&self, at: usize) -> Span {
        let value = &self.values[at];
        self.memory.span().part(value.offset, value.ty.bytes())
    }

    fn set(&mut self, byte: u8) -> Result<()> {
        let Span { address, bytes, .. } = self.memory.span();
        if bytes == 0 {
            return Ok(());
        }
        let gpu = &self.memory.gpu;
        let _turn = gpu.turn();
        // SAFETY: the memory is this value's, which waits for the end.
        unsafe { gpu.driver.set(address, byte, bytes)? };
        gpu.driver.wait()
    }

    fn download(&self, from: Span, to: &mut [u8]) -> Result<()> {
        let gpu = &self.memory.gpu;
        let _turn = gpu.turn();
        // SAFETY: both pieces are there, have as many bytes, and nobody else uses them until this has
        // waited for the end.
        unsafe { gpu.driver.download(to.as_mut_ptr(), from.address, to.len())? };
        gpu.driver.wait()
    }

    fn upload(&mut self, to: Span, from: &[u8]) -> Result<()> {
        let gpu = &self.memory.gpu;
        let _turn = gpu.turn();
        // SAFETY: as in `download`.
        unsafe { gpu.driver.upload(to.address, from.as_ptr(), from.len())? };
        gpu.driver.wait()
    }
}

// A device that is lost shows NaN and takes nothing; its next run says what happened.
impl Arena for GpuArena {
    fn values(&self) -> &[Value] {
        &self.values
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    fn read(&self, at: usize, look: &mut dyn FnMut(&[u8])) {
        let from = self.value(at);
        let mut out = vec![0xFF; from.bytes as usize];
        if !out.is_empty() && self.download(from, &mut out).is_err() {
            out.fill(0xFF);
        }
        look(&out);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let to = self.value(at);
        assert_eq!(to.bytes, bytes.len() as u64, "as many bytes as the value has");
        if !bytes.is_empty() {
            let _ = self.upload(to, bytes);
        }
    }

    fn fill(&mut self, byte: u8) {
        let _ = self.set(byte);
    }

    fn finite(&self) -> Option<bool> {
        let values = self.values.iter().enumerate();
        let values: Vec<_> = values.map(|(at, value)| (&value.ty, self.value(at))).collect();
        finite::all(&self.memory.gpu, &values).ok()
    }
}
