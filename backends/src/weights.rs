//! Where a backend gets weight bytes from.

use anyid_ir::DType;
use std::borrow::Cow;

/// The stored bytes of one tensor, in any alignment.
#[derive(Clone, Debug)]
pub struct WeightData<'a> {
    /// Stored element type, a floating-point type; the backend converts.
    pub dtype: DType,
    /// Little-endian elements in row-major order.
    pub bytes: Cow<'a, [u8]>,
}

/// A source of weights by absolute name in the manifest's naming.
pub trait WeightProvider: Sync {
    /// The tensor, or `None` if there is none of that name. Shapes were checked before.
    fn get(&self, name: &str) -> Option<WeightData<'_>>;

    /// Says that the stored bytes of `name` will not be read again soon.
    fn release(&self, name: &str) {
        let _ = name;
    }

    /// Where and under which name a tensor is stored, in words for a message; `None` where it has
    /// no other name than the one given.
    fn stored(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }
}
