//! `--trace` and `ANYID_RT_TRACE`: where the trace of a run goes.

use crate::output;
use anyid_runtime::engine::Tracer;
use anyid_runtime::files::{AtomicFile, Existing};
use anyid_runtime::{Backend, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A trace that is being taken, if one was requested.
pub struct TraceFile(Option<(AtomicFile, Arc<Tracer>)>);

/// Where the trace goes: to the file of the flag, or else of the environment variable.
pub fn path(flag: Option<&Path>) -> Option<PathBuf> {
    let set = || std::env::var_os("ANYID_RT_TRACE").filter(|value| !value.is_empty());
    flag.map(Path::to_owned).or_else(|| set().map(PathBuf::from))
}

impl TraceFile {
    /// None.
    pub fn none() -> Self {
        Self(None)
    }

    /// The file that the flag or else the environment variable names; `existing` applies to the
    /// flag.
    ///
    /// # Errors
    /// E101x where it cannot be written.
    pub fn wanted(flag: Option<&Path>, existing: Existing) -> Result<Self> {
        let Some(path) = path(flag) else { return Ok(Self(None)) };
        let existing = if flag.is_some() { existing } else { Existing::Overwrite };
        let file = AtomicFile::create_as(&path, existing)?;
        // The trace of a run that was told to stop is useful, too.
        file.keep_when_stopped();
        Ok(Self(Some((file, Tracer::new()))))
    }

    /// `backend`, with its launches recorded.
    pub fn watch(&self, backend: Backend) -> Backend {
        match &self.0 {
            Some((_, tracer)) => backend.traced(tracer.clone()),
            None => backend,
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// E101x.
    pub fn write(self) -> Result<()> {
        let Some((mut file, tracer)) = self.0 else { return Ok(()) };
        file.append(tracer.to_json().as_bytes())?;
        let wanted = file.path().to_owned();
        let path = file.commit()?;
        if path != wanted {
            output::note(&format!(
                "{} appeared there in the meantime; the trace is {}",
                wanted.display(),
                path.display()
            ));
        }
        Ok(())
    }
}
