//! Row kernels as machine code, for AVX-512.
//!
//! The interpreter ([`run`](super::run)) is the specification: code gives the same bits, apart from
//! which NaN a NaN is. A kernel becomes a [`Program`], and equal programs have one code, which is made
//! when a plan is made ready and kept as long as the device is open. What has no program, and what
//! needs more registers than there are, is interpreted. Memory is written first and executable then,
//! never both; a system that refuses the second leaves everything to the interpreter.

// Other processors make programs and no code of them.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

#[cfg(target_arch = "x86_64")]
mod asm;
#[cfg(target_arch = "x86_64")]
mod code;
mod functions;
#[cfg(target_arch = "x86_64")]
mod generate;
mod lower;
mod program;
#[cfg(target_arch = "x86_64")]
mod reads;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(target_arch = "x86_64")]
mod sums;
#[cfg(target_arch = "x86_64")]
mod transfer;
#[cfg(target_arch = "x86_64")]
mod write;

#[cfg(target_arch = "x86_64")]
pub(super) use code::{Code, rows};
pub(super) use lower::lower;
pub(super) use program::Program;

use crate::cpu::simd::Level;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Code where there is none.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug)]
pub(super) enum Code {}

/// The code of a device, by program.
pub(in crate::cpu) struct Codes {
    allowed: bool,
    made: Mutex<HashMap<Program, Option<Arc<Code>>>>,
}

impl Codes {
    /// Code is made if it is `allowed` and the instructions are there.
    pub fn new(allowed: bool, level: Level) -> Self {
        let allowed = allowed && level.usable() >= Level::Avx512;
        Self { allowed, made: Mutex::default() }
    }

    /// Why the system does not let this program make code, where it does not.
    pub fn refused() -> Option<std::io::Error> {
        #[cfg(target_arch = "x86_64")]
        {
            // A lone `ret`.
            Code::mapped(&[0xc3]).err()
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// The code of a program, made if it is new.
    pub(super) fn code(&self, program: &Program) -> Option<Arc<Code>> {
        if !self.allowed {
            return None;
        }
        // Nothing panics while the lock is held that could leave it half changed.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = made.get(program) {
            return code.clone();
        }
        #[cfg(target_arch = "x86_64")]
        let code = Code::new(program).map(Arc::new);
        #[cfg(not(target_arch = "x86_64"))]
        let code = None;
        made.insert(program.clone(), code.clone());
        code
    }
}

#[cfg(test)]
mod tests;
