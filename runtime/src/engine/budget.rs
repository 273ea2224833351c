//! Reads memory budgets: `16GiB`, `800 MB`, `1.5GiB`, or a number of bytes.

use crate::error::{Error, Result};

const UNITS: [(&str, u64); 10] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// The budget in bytes.
///
/// # Errors
/// E0602 for zero and for text that is not an amount of memory.
pub fn parse(text: &str) -> Result<u64> {
    let bad = |why: &str| {
        Error::input("E0602", format!("\"{text}\" {why}"))
            .help("write a number with a unit: 16GiB, 800MiB, 24GB")
    };
    let lower = text.trim().to_ascii_lowercase();
    let split = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
    let (Some((_, unit)), Ok(number)) = (unit, number.parse::<f64>()) else {
        return Err(bad("is not an amount of memory"));
    };
    let bytes = number * *unit as f64;
    match bytes {
        b if b < 1.0 => Err(bad("is no memory at all")),
        b if b >= (1u64 << 62) as f64 => Err(bad("is more than any machine has")),
        b => Ok(b as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        for (text, bytes) in [
            ("16GiB", 16 << 30),
            ("1.5 gib", 3 << 29),
            ("24GB", 24_000_000_000),
            ("800MiB", 800 << 20),
            ("64KiB", 64 << 10),
            ("1000", 1000),
            ("7 b", 7),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        let bad =
            ["", "0", "0GiB", "-1GiB", "GiB", "16 GiBs", "1e9", "nan", "inf", "1..5GB", "0.1b"];
        for text in bad.into_iter().chain(["99999999999TiB", "½GiB", "16GiB 4", "."]) {
            assert_eq!(parse(text).unwrap_err().code(), "E0602", "{text}");
        }
    }
}
