//! Safeguards: what a run refuses, what it marks its results with, and what it writes down.
//!
//! Everything here is deterministic host code on plain values. Nothing knows a model, a device or
//! the terminal; the runtime calls it at fixed places, and the command line shows what it says.
//! These measures deter and inform. They do not stop somebody who owns weights and source.

pub mod audit;
pub mod consent;
pub mod models;
pub mod policy;
pub mod provenance;
pub mod signature;
pub mod text;
mod time;
pub mod watermark;

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a hexadecimal text of this length.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(out)
}
