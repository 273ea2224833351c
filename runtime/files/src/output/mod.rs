//! What a run leaves behind: its results whole or not at all, its child programs never.
//!
//! Everything half made has one owner, the registry: files and folders under temporary names, and
//! the programs we start. [`stop`] and [`close`] shut it when the program is told to end. From
//! then on nothing new can be made or started, nothing gets its final name, children are killed
//! with their process groups and temporaries are removed. What a killed process could not remove
//! is recognised by its name and its missing owner, and swept by the next run that writes there.
//!
//! Which signal leads to which call, and the exit code, is the program's business.

mod atomic;
mod child;
mod fault;
mod folder;
mod leftover;
mod place;
mod registry;
mod together;

pub use atomic::AtomicFile;
pub use child::{Running, spawn};
pub use fault::write_error;
pub use folder::AtomicFolder;
pub use leftover::Swept;
pub use place::Existing;
pub use registry::{close, close_without_waiting, stop, stopped, take_swept};
pub use together::{Beside, Whole, commit, commit_with};
