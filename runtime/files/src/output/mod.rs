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
mod direct;
mod fault;
mod folder;
mod leftover;
mod obstacle;
mod place;
mod registry;
mod together;

pub use atomic::AtomicFile;
pub use child::{Running, run, spawn, talk};
pub use direct::{is_direct, is_standard_output, open_direct, standard_output};
pub use fault::{check_way, make_folder, no_descriptor, too_many_files, write_error};
pub use folder::AtomicFolder;
pub use leftover::{Swept, is_temporary};
pub use place::{Existing, fresh_name, is_empty_folder};
pub use registry::{close, close_without_waiting, stop, stopped, take_swept};
pub use together::{Beside, Own, Whole, commit, commit_own, commit_with};
