//! Numbers drawn at random: those that depend on a key alone, for what must be the same again, and
//! those of the system, for what nobody may guess.

pub use anyid_files::resample::Draws;
use anyid_files::{Error, Result};
use sha2::{Digest, Sha256};

/// `N` random bytes of the system.
///
/// # Errors
/// E1603 where the system has none.
pub fn secret<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|fault| {
        Error::input("E1603", format!("the system gives no random numbers: {fault}"))
            .help("wait until it has started wholly, and try again")
    })?;
    Ok(bytes)
}

/// A name of 128 random bits in hexadecimal, which nobody can guess.
///
/// # Errors
/// As [`secret`].
pub fn token() -> Result<String> {
    secret::<16>().map(|bytes| anyid_guard::hex(&bytes))
}

/// SHA-256 of a text in hexadecimal: what is kept of a token.
pub fn digest(text: &str) -> String {
    anyid_guard::hex(&Sha256::digest(text.as_bytes()))
}

/// Whether two texts are the same, in a time that depends on their lengths alone.
pub fn same(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_are_compared_as_wholes() {
        let (a, b) = (token().unwrap(), token().unwrap());
        assert!(a.len() == 32 && a != b);
        assert!(same(&a, &a) && !same(&a, &b) && !same(&a, &a[1..]));
    }
}
