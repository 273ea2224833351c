//! An allocator that counts, and that notices writes beside what was allocated.
//!
//! Every piece lies between two strips of a known byte. They are looked at when the piece is given
//! back; a byte that changed ends the process. What the strips hold can be chosen, so that code that
//! reads beside its memory gives other results with other strips.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static FILL: AtomicU8 = AtomicU8::new(0xA5);

/// Bytes of a strip, at least; in front it is as long as the alignment.
const STRIP: usize = 64;

/// Sets what strips hold from here on.
pub fn fill_strips(byte: u8) {
    FILL.store(byte, Ordering::Relaxed);
}

/// Begins counting: the bytes in use now.
pub fn begin() -> usize {
    let now = LIVE.load(Ordering::Relaxed);
    PEAK.store(now, Ordering::Relaxed);
    now
}

/// Most bytes in use since [`begin`]; 0 where the process has another allocator.
pub fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// The allocator: `#[global_allocator] static A: Guarded = Guarded;`.
pub struct Guarded;

fn places(layout: Layout) -> Option<(usize, Layout)> {
    let front = layout.align().max(STRIP);
    let size = layout.size().checked_add(front)?.checked_add(STRIP)?;
    Some((front, Layout::from_size_align(size, layout.align()).ok()?))
}

/// Writes the strips of a piece and counts it.
///
/// # Safety
/// `base` is a piece of [`places`].
unsafe fn taken(base: *mut u8, front: usize, size: usize) -> *mut u8 {
    let byte = FILL.load(Ordering::Relaxed);
    // SAFETY: both strips lie inside the piece.
    unsafe {
        base.write_bytes(byte, front);
        base.add(front + size).write_bytes(byte, STRIP);
    }
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(live, Ordering::Relaxed);
    // SAFETY: inside the piece.
    unsafe { base.add(front) }
}

// SAFETY: pieces are the system's, with room in front and behind that nobody is told of.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((front, whole)) = places(layout) else { return std::ptr::null_mut() };
        // SAFETY: the size is not 0; a piece is as long as `whole` says.
        unsafe {
            let base = System.alloc(whole);
            if base.is_null() { base } else { taken(base, front, layout.size()) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((front, whole)) = places(layout) else { return std::ptr::null_mut() };
        // SAFETY: as above.
        unsafe {
            let base = System.alloc_zeroed(whole);
            if base.is_null() { base } else { taken(base, front, layout.size()) }
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let Some((front, whole)) = places(layout) else { return };
        // SAFETY: the piece was made with this layout, so both strips are there.
        unsafe {
            let base = at.sub(front);
            let byte = *base;
            let strip = |start: *const u8, length: usize| {
                std::slice::from_raw_parts(start, length).iter().all(|found| *found == byte)
            };
            if !strip(base, front) || !strip(at.add(layout.size()), STRIP) {
                // Nothing may be allocated here.
                std::process::abort();
            }
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            System.dealloc(base, whole);
        }
    }
}
