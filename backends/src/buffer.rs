//! 64-byte aligned memory that is allocated once.

/// Zeroed bytes aligned to a cache line.
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// From so many bytes on, memory is asked for in large pages.
const LARGE: usize = 2 << 20;

impl AlignedBytes {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If the system does not give them.
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|| panic!("no memory of {len} bytes"))
    }

    /// `len` zero bytes; `None` where the system does not give them.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        let count = len.div_ceil(64);
        let layout = std::alloc::Layout::array::<Line>(count).ok()?;
        if count == 0 {
            return Some(Self { lines: Vec::new(), len });
        }
        // SAFETY: the layout is not empty.
        let start = anyid_ir::memory::ask(|| unsafe { std::alloc::alloc(layout) });
        if start.is_null() {
            return None;
        }
        if layout.size() >= LARGE {
            prefer_large_pages(start, layout.size());
        }
        // SAFETY: the memory comes from the global allocator with the layout of `count` lines, and
        // zero bytes are lines.
        let lines = unsafe {
            start.write_bytes(0, layout.size());
            Vec::from_raw_parts(start.cast::<Line>(), count, count)
        };
        Some(Self { lines, len })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `lines` are at least `len` plain bytes.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The bytes for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Asks for large pages behind memory that nobody has touched yet: products walk through hundreds of
/// megabytes, and looking up small pages costs them some percent of their time. A system that has none
/// to give changes nothing.
#[cfg(target_os = "linux")]
fn prefer_large_pages(start: *mut u8, bytes: usize) {
    let page = rustix::param::page_size();
    let skip = start.align_offset(page);
    let whole = bytes.saturating_sub(skip) / page * page;
    // SAFETY: whole pages inside an allocation of the caller's; their contents stay.
    let advised = unsafe {
        let first = start.wrapping_add(skip).cast();
        rustix::mm::madvise(first, whole, rustix::mm::Advice::LinuxHugepage)
    };
    // It is a wish: kernels without large pages refuse it.
    let _ = advised;
}

#[cfg(not(target_os = "linux"))]
fn prefer_large_pages(_: *mut u8, _: usize) {}

/// Gives memory that was freed back to the system, so that a later phase may have all that the plans
/// leave it. The allocator of glibc keeps freed blocks below 32 MiB otherwise; others decide themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back_freed() {
    // SAFETY: it has no precondition and touches free blocks alone.
    unsafe { libc::malloc_trim(0) };
}

/// Gives memory that was freed back to the system, where that has to be asked for.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_freed() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_zero_or_refused() {
        for len in [0, 1, 64, 1000, LARGE + 100] {
            let mut given = AlignedBytes::try_zeroed(len).unwrap();
            assert_eq!(given.bytes(), AlignedBytes::zeroed(len).bytes());
            assert_eq!(given.bytes().as_ptr().align_offset(64), 0);
            given.bytes_mut().fill(7);
        }
        for len in [usize::MAX, isize::MAX as usize, isize::MAX as usize / 2] {
            assert!(AlignedBytes::try_zeroed(len).is_none(), "{len}");
        }
    }
}
