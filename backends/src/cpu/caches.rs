//! Hints to the caches: what will be read soon, and what is written past them.
//!
//! A hint changes no result. Other processors than x86-64 are given none.

/// Hints that `bytes` bytes from `from` will be read at once; any address will do.
#[inline(always)]
pub(super) fn prefetch(from: *const u8, bytes: usize) {
    hint::<false>(from, bytes);
}

/// Like [`prefetch`], for what is read or written a little later: it stays out of the first cache.
#[inline(always)]
pub(super) fn prefetch_later(from: *const u8, bytes: usize) {
    hint::<true>(from, bytes);
}

/// Asks for every line.
#[inline(always)]
fn hint<const LATER: bool>(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let at = from.wrapping_add(offset).cast();
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            match LATER {
                false => _mm_prefetch::<_MM_HINT_T0>(at),
                true => _mm_prefetch::<_MM_HINT_T1>(at),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

/// Makes what this thread has streamed past the caches visible to others before whatever it writes
/// next.
#[inline(always)]
pub(super) fn end_streams() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
