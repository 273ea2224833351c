//! The interface of `sealer` in a program without C2PA: everything says that it is not offered.

use crate::manifest::Claims;
use crate::verdict::Statement;
use anyid_files::error::{Error, Result};
use anyid_guard::provenance::Provenance;
use std::path::Path;

/// What signs results: nothing, as none can be made.
#[derive(Debug)]
pub enum Sealer {}

fn not_offered<T>() -> Result<T> {
    let what = "this program was built without signed statements of origin (C2PA)";
    Err(Error::input("E1112", what)
        .help("use a released program, or build with `--features provenance`"))
}

impl Sealer {
    /// Refuses.
    ///
    /// # Errors
    /// E1112.
    pub fn open(_: &Provenance, _: Option<&Path>) -> Result<Self> {
        not_offered()
    }

    /// Who signs.
    pub fn signer(&self) -> &'static str {
        match *self {}
    }

    /// Signs.
    ///
    /// # Errors
    /// None: there is no such value.
    pub fn seal(&self, _: &Path, _: &str, _: &Claims) -> Result<()> {
        match *self {}
    }
}

/// Refuses.
///
/// # Errors
/// E1112.
pub fn read(_: &Path, _: &[&Path]) -> Result<Option<Statement>> {
    not_offered()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_c2pa_says_so() {
        let refused = Sealer::open(&Provenance::default(), None).unwrap_err();
        assert_eq!(refused.code(), "E1112");
        assert!(refused.help_text().is_some());
        assert_eq!(read(Path::new("x"), &[]).unwrap_err().code(), "E1112");
    }
}
