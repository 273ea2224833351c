//! Networks of the user's that measure pictures rather than find faces (`data.md` §3): what a picture is
//! alike to, the outline of a thing, and where a thing of a phrase is. For measurements; no step needs
//! them.

pub mod grounding;
pub mod pictures;
pub mod sam;
#[cfg(test)]
mod tests;
