//! `--trace` and `ANYID_RT_TRACE`: where the trace of a run goes.

use anyid_runtime::checkpoint::AtomicFile;
use anyid_runtime::engine::Tracer;
use anyid_runtime::{Backend, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A trace that is being taken, if one was asked for.
pub struct TraceFile(Option<(PathBuf, Arc<Tracer>)>);

impl TraceFile {
    /// The file that the flag names, or else the environment.
    ///
    /// # Errors
    /// E101x where it cannot be written.
    pub fn wanted(flag: Option<&Path>) -> Result<Self> {
        let set = std::env::var_os("ANYID_RT_TRACE").filter(|value| !value.is_empty());
        let Some(path) = flag.map(Path::to_owned).or(set.map(PathBuf::from)) else {
            return Ok(Self(None));
        };
        // Taken and given back: it tells early whether the trace can be written there.
        drop(AtomicFile::create(&path)?);
        Ok(Self(Some((path, Tracer::new()))))
    }

    /// `backend`, watched.
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
    pub fn write(&self) -> Result<()> {
        match &self.0 {
            Some((path, tracer)) => tracer.write(path),
            None => Ok(()),
        }
    }
}
