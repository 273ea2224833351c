//! Where a backend gets weight bytes from: by name and byte range, so that nothing has to be in
//! memory or mapped, and a source that fails while it is read is an error with a name.

use anyid_ir::DType;

/// How one tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredWeight {
    /// Stored element type, a floating-point type; the backend converts.
    pub dtype: DType,
    /// Bytes of all elements: little-endian, in row-major order.
    pub bytes: u64,
}

/// Why stored bytes could not be read: a coded error as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code, such as `E0330`.
    pub code: &'static str,
    /// What was wrong; it names the tensor.
    pub message: String,
    /// The file.
    pub place: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// What the system says.
    pub cause: Option<String>,
}

/// A source of weights by absolute name in the manifest's naming.
pub trait WeightProvider: Sync {
    /// How the tensor is stored, or `None` if there is none of that name. Shapes were checked
    /// before.
    fn find(&self, name: &str) -> Option<StoredWeight>;

    /// Fills `out` with stored bytes of a tensor that [`Self::find`] finds, `from` bytes behind its
    /// first. `from` and the length of `out` are multiples of the size of an element, and the range
    /// lies inside the tensor. Several threads may read at once.
    ///
    /// # Errors
    /// Where they cannot be had; `out` then holds anything.
    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault>;

    /// Where and under which name a tensor is stored, in words for a message; `None` where it has
    /// no other name than the one given.
    fn stored(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }
}
