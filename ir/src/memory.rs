//! Asking for memory that may be refused.
//!
//! What is large is asked for with [`ask`], so that a refusal is an answer to the caller. A program
//! may install an allocator that ends it in good order when any other allocation fails; that
//! allocator looks at [`is_asking`] to tell the two apart. It decides nothing and holds no memory.

use std::cell::Cell;

thread_local! {
    /// How many calls of `ask` this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Restores the depth, also when the question panics.
struct Asking;

impl Drop for Asking {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Runs `question`, which allocates fallibly (`try_reserve`, or `alloc` with a look at the result).
pub fn ask<T>(question: impl FnOnce() -> T) -> T {
    DEPTH.set(DEPTH.get() + 1);
    let _asking = Asking;
    question()
}

/// Whether this thread is inside [`ask`]. It allocates nothing, so an allocator may call it.
pub fn is_asking() -> bool {
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

/// An empty vector with room for `count` elements; `None` where the system does not give it.
pub fn room<T>(count: usize) -> Option<Vec<T>> {
    let mut out = Vec::new();
    ask(|| out.try_reserve_exact(count)).ok()?;
    Some(out)
}

/// `count` zero bytes; `None` where the system does not give them.
pub fn zeroed(count: usize) -> Option<Vec<u8>> {
    let mut out = room(count)?;
    out.resize(count, 0);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_known_while_it_lasts() {
        assert!(!is_asking());
        let inner = ask(|| (is_asking(), ask(is_asking), is_asking()));
        assert_eq!(inner, (true, true, true));
        let caught = std::panic::catch_unwind(|| ask(|| panic!("inside")));
        assert!(caught.is_err() && !is_asking());
    }

    #[test]
    fn what_no_system_has_is_refused() {
        assert!(room::<u64>(usize::MAX / 16).is_none());
        assert!(zeroed(isize::MAX as usize).is_none());
        assert_eq!(zeroed(3).unwrap(), [0; 3]);
    }
}
