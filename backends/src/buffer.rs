//! 64-byte aligned memory that is allocated once.

/// Zeroed bytes aligned to a cache line.
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl AlignedBytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0; 64]); len.div_ceil(64)], len }
    }

    /// `len` zero bytes; `None` where the system does not give them.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        let count = len.div_ceil(64);
        let layout = std::alloc::Layout::array::<Line>(count).ok()?;
        if count == 0 {
            return Some(Self { lines: Vec::new(), len });
        }
        // SAFETY: the layout is not empty.
        let start = anyid_ir::memory::ask(|| unsafe { std::alloc::alloc_zeroed(layout) });
        if start.is_null() {
            return None;
        }
        // SAFETY: the memory comes from the global allocator with the layout of `count` lines, and
        // zero bytes are lines.
        let lines = unsafe { Vec::from_raw_parts(start.cast::<Line>(), count, count) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_zero_or_refused() {
        for len in [0, 1, 64, 1000] {
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
