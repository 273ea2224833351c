//! The operations on tiles as the processor has them.
//!
//! The compiler knows no tiles and keeps nothing in them, so what one of these blocks leaves in a
//! tile is there for the next one; blocks that the compiler must take to have effects stay in order.
//! That holds as long as nothing between them uses tiles itself, which kernels see to.

use super::{ROW_BYTES, ROWS, TileOps};
use std::arch::asm;

/// AMX.
pub(super) struct Amx;

/// The operand of `ldtilecfg`: the palette, then bytes of a row and rows of each tile.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight full tiles; there are no others.
static FULL: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: {
        let mut all = [0; 16];
        let mut tile = 0;
        while tile < 8 {
            all[tile] = ROW_BYTES as u16;
            tile += 1;
        }
        all
    },
    rows: {
        let mut all = [0; 16];
        let mut tile = 0;
        while tile < 8 {
            all[tile] = ROWS as u8;
            tile += 1;
        }
        all
    },
};

impl TileOps for Amx {
    fn configure() {
        // SAFETY: this body is chosen only where the processor has tiles and the system lets this
        // process use them; the operand is 64 bytes of a palette that was found there.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const FULL,
                options(nostack, readonly, preserves_flags));
        }
    }

    fn release() {
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn zero<const T: usize>() {
        // SAFETY: the caller's promise; no memory is touched.
        unsafe {
            asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(from: *const u8, pitch: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("tileloadd tmm{t}, [{from} + {pitch}*1]", t = const T, from = in(reg) from,
                pitch = in(reg) pitch, options(nostack, readonly, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn stream<const T: usize>(from: *const u8, pitch: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("tileloaddt1 tmm{t}, [{from} + {pitch}*1]", t = const T, from = in(reg) from,
                pitch = in(reg) pitch, options(nostack, readonly, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn multiply<const C: usize, const A: usize, const B: usize>() {
        // SAFETY: the caller's promise; no memory is touched.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack, nomem, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(to: *mut u8, pitch: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("tilestored [{to} + {pitch}*1], tmm{t}", t = const T, to = in(reg) to,
                pitch = in(reg) pitch, options(nostack, preserves_flags));
        }
    }
}
