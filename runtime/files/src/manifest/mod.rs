//! Lines of manifests: JSON in which no key is there twice, read field by field, with all that is
//! wrong with a line in one look. What the fields mean is the business of whoever reads them.

mod field;
mod object;
pub mod once;

pub use field::Field;
pub use object::{Notes, Object, is_below, is_name, is_sha256, same_field};
