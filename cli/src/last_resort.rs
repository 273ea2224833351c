//! Handles an allocation that fails unexpectedly: the program reports that memory has run out
//! (E0603), removes all partial files and ends with exit code 3.
//!
//! In this case the standard library ends the process by a signal, and stable Rust has no hook for
//! it (`set_alloc_error_hook` and `-Z oom=panic` are unstable, and an allocator must not unwind).
//! The allocator of this program is therefore the system's with one addition: if the system
//! refuses, and the thread is not [asking](anyid_ir::memory::is_asking), the call does not return.
//! This makes the file one of the two places with `unsafe`. Large amounts are requested elsewhere,
//! and refused with a message that says what they were for. This file is for the rest, including
//! decoders and parsers of other crates.
//!
//! While a thread ends the program, it uses a small reserve of memory.

use anyid_ir::memory::is_asking;
use anyid_runtime::files;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

/// The exit code of a run that does not fit.
const EXIT: i32 = 3;

/// The program's allocator.
pub struct Allocator;

// SAFETY: every call is the system's own, but for pointers into the reserve, which the system never
// sees: they are aligned and apart from each other (`Reserve::take`), and not given back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        let start = unsafe { System.alloc(layout) };
        if start.is_null() { refused(layout) } else { start }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on. The reserve is zero where it was not handed out before.
        let start = unsafe { System.alloc_zeroed(layout) };
        if start.is_null() { refused(layout) } else { start }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if !RESERVE.holds(start) {
            // SAFETY: not from the reserve, so from the system.
            unsafe { System.dealloc(start, layout) }
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !RESERVE.holds(start) {
            // SAFETY: as in `dealloc`.
            let moved = unsafe { System.realloc(start, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the caller's size is not zero and fits the alignment.
        let moved = refused(unsafe { Layout::from_size_align_unchecked(size, layout.align()) });
        if !moved.is_null() {
            // SAFETY: both hold the smaller of the two sizes and do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(start, moved, size.min(layout.size())) };
        }
        moved
    }
}

/// Reserved memory for ending the program.
struct Reserve {
    bytes: UnsafeCell<[u8; Self::SIZE]>,
    used: AtomicUsize,
}

// SAFETY: the bytes are reached through `take` alone, which hands out each of them once.
unsafe impl Sync for Reserve {}

static RESERVE: Reserve =
    Reserve { bytes: UnsafeCell::new([0; Reserve::SIZE]), used: AtomicUsize::new(0) };

impl Reserve {
    const SIZE: usize = 256 << 10;

    fn holds(&self, start: *const u8) -> bool {
        (start as usize).wrapping_sub(self.bytes.get() as usize) < Self::SIZE
    }

    /// Memory of this layout, or null when the reserve is used up.
    fn take(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get() as usize;
        let mut from = 0;
        let next = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            from = (base + used).checked_next_multiple_of(layout.align())? - base;
            from.checked_add(layout.size()).filter(|end| *end <= Self::SIZE)
        });
        match next {
            // SAFETY: `from` lies inside the reserve.
            Ok(_) => unsafe { self.bytes.get().cast::<u8>().add(from) },
            Err(_) => std::ptr::null_mut(),
        }
    }
}

thread_local! {
    /// Whether this thread is ending the program.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// Whether any thread is ending the program.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Called when the system refuses memory of this layout.
#[cold]
fn refused(layout: Layout) -> *mut u8 {
    if ENDS.try_with(Cell::get).unwrap_or(false) {
        let start = RESERVE.take(layout);
        if start.is_null() {
            std::process::exit(EXIT);
        }
        return start;
    }
    if is_asking() {
        return std::ptr::null_mut();
    }
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is ending the program; there is nothing to return to.
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    let _ = ENDS.try_with(|ends| ends.set(true));
    end(layout.size())
}

/// Memory that is returned to the system first when the program ends, because removing folders
/// takes memory that does not come from this allocator.
static BALLAST: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Large enough that freeing it returns it to the system at once.
const BALLAST_LAYOUT: Layout = match Layout::from_size_align(1 << 20, 64) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// Reserves memory for ending the program. Without it, files are still removed but folders are not.
pub fn prepare() {
    // SAFETY: the layout is not empty.
    let start = unsafe { System.alloc(BALLAST_LAYOUT) };
    BALLAST.store(start, Ordering::SeqCst);
}

fn end(bytes: usize) -> ! {
    let ballast = BALLAST.swap(std::ptr::null_mut(), Ordering::SeqCst);
    if !ballast.is_null() {
        // SAFETY: it came from the system with this layout, and was taken out of its place.
        unsafe { System.dealloc(ballast, BALLAST_LAYOUT) }
    }
    let mut text = Line { bytes: [0; 512], len: 0 };
    let _ = writeln!(
        text,
        "error[E0603]: the program ran out of memory: {bytes} bytes more cannot be had\n  \
         help: free memory, run smaller sizes, or raise the limit (`ulimit -v`)\n  \
         more: anyid-rt explain E0603"
    );
    say(&text.bytes[..text.len]);
    files::close_without_waiting();
    std::process::exit(EXIT)
}

/// Text in memory of a fixed size.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let count = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..][..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

/// Writes to standard error without its lock, which a waiting thread may hold.
#[cfg(unix)]
fn say(text: &[u8]) {
    use std::io::Write;
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor of standard error is open from start to end of the program, and is not
    // closed here.
    let file = unsafe { std::fs::File::from_raw_fd(2) };
    let _ = (&file).write_all(text);
    std::mem::forget(file);
}

#[cfg(not(unix))]
fn say(text: &[u8]) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_hands_out_aligned_memory_until_it_is_used_up() {
        let mut last = std::ptr::null_mut::<u8>();
        let mut given = 0;
        loop {
            let layout = Layout::from_size_align(1000, 64).unwrap();
            let next = RESERVE.take(layout);
            if next.is_null() {
                break;
            }
            assert!(RESERVE.holds(next) && (next as usize).is_multiple_of(64));
            assert!(last.is_null() || next as usize - last as usize >= 1000);
            (last, given) = (next, given + 1);
        }
        assert!((200..=262).contains(&given), "{given}");
        let other = Box::new(1u8);
        assert!(!RESERVE.holds(&*other) && !RESERVE.holds(std::ptr::null()));
        let layout = Layout::from_size_align(usize::MAX / 4, 64).unwrap();
        assert!(RESERVE.take(layout).is_null());
    }

    #[test]
    fn what_is_asked_for_may_be_refused() {
        assert!(anyid_ir::memory::zeroed(isize::MAX as usize / 2).is_none());
    }
}
