//! Whether the processor has tiles for bf16, and whether the system lets this process use them.
//!
//! Linux saves the tiles of threads that ask for them only, so a process asks once, for all of its
//! threads; a container or an old kernel may refuse. Other systems are not asked: there the level
//! does not exist.

use std::fmt;
use std::sync::OnceLock;

/// The processor has tiles, and the system does not let this process use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number of its error.
    pub errno: i32,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system does not let this program use AMX (error {})", self.errno)
    }
}

/// Whether tiles can be used; `Err(None)` where there are none. The process asks once.
pub(in super::super) fn tiles() -> Result<(), Option<Refused>> {
    static KNOWN: OnceLock<Result<(), Option<Refused>>> = OnceLock::new();
    *KNOWN.get_or_init(|| decide(system::has_tiles(), system::permission))
}

/// Asks for permission where there is something to ask for.
fn decide(has_tiles: bool, permission: fn() -> Result<(), i32>) -> Result<(), Option<Refused>> {
    if !has_tiles {
        return Err(None);
    }
    permission().map_err(|errno| Some(Refused { errno }))
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod system {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Whether the processor has `tdpbf16ps` on eight tiles of 16 rows of 64 bytes.
    pub(super) fn has_tiles() -> bool {
        /// Of leaf 7: AMX-BF16 and AMX-TILE.
        const AMX: u32 = 1 << 22 | 1 << 24;
        let leaves = __cpuid(0).eax;
        if leaves < 0x1d || __cpuid_count(7, 0).edx & AMX != AMX {
            return false;
        }
        let palette = __cpuid_count(0x1d, 1);
        let (tile_bytes, row_bytes) = (palette.eax >> 16, palette.ebx & 0xffff);
        let (tiles, rows) = (palette.ebx >> 16, palette.ecx & 0xffff);
        (tile_bytes, row_bytes, tiles, rows) == (1024, 64, 8, 16)
    }

    /// Asks the system to save tiles for the threads of this process.
    ///
    /// # Errors
    /// The number of the system's error.
    pub(super) fn permission() -> Result<(), i32> {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let answer: i64;
        // SAFETY: a system call that touches no memory of this process; it clobbers what is named.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        if answer == 0 { Ok(()) } else { Err(-answer as i32) }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod system {
    pub(super) fn has_tiles() -> bool {
        false
    }

    pub(super) fn permission() -> Result<(), i32> {
        unreachable!("there is nothing to ask for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_is_asked_for_where_there_are_tiles() {
        fn unasked() -> Result<(), i32> {
            panic!("there is nothing to ask for")
        }
        assert_eq!(decide(false, unasked), Err(None));
        assert_eq!(decide(true, || Ok(())), Ok(()));
        let refused = Refused { errno: 95 };
        assert_eq!(decide(true, || Err(95)), Err(Some(refused)));
        assert_eq!(refused.to_string(), "the system does not let this program use AMX (error 95)");
    }

    #[test]
    fn the_system_answers_the_same_every_time() {
        assert_eq!(tiles(), tiles());
        assert_eq!(tiles() == Err(None), !system::has_tiles());
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn a_processor_without_tiles_gets_no_permission() {
        if !system::has_tiles() {
            let errno = system::permission().unwrap_err();
            assert!((1..4096).contains(&errno), "{errno}");
        }
    }
}
