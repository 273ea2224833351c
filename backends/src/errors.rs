//! Why a device cannot be opened, weights cannot be loaded and plans cannot run: the errors that all
//! devices share. They are data; what a user is told, with which code, is the caller's to say.

use crate::Fault;
use crate::threads::ThreadsRefused;
use anyid_ir::TensorType;
use std::fmt;

/// Why a device cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no kind of device of that name.
    Unknown {
        /// The names there are, such as `cuda:N`.
        known: Vec<String>,
    },
    /// A kind of device that this build lacks.
    NotInBuild,
    /// There is no device of that number or variant; why, in words.
    NotThere(String),
    /// A [setting](crate::Settings) that cannot be used.
    Setting {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The system refuses threads.
    Threads(ThreadsRefused),
    /// Anything else, with a code of its own.
    Failed(Box<Fault>),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { known } => write!(f, "the devices are {}", known.join(", ")),
            Self::NotInBuild => f.write_str("this build lacks the device"),
            Self::NotThere(why) => f.write_str(why),
            Self::Setting { message, .. } => f.write_str(message),
            Self::Threads(refused) => refused.fmt(f),
            Self::Failed(fault) => f.write_str(&fault.message),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why weights could not be loaded or plans not be made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The provider has no tensor of that name.
    Missing(String),
    /// The stored bytes do not fit the type.
    Size {
        /// The tensor.
        name: String,
        /// The type the plan wants.
        ty: TensorType,
        /// Bytes stored.
        bytes: u64,
    },
    /// The stored bytes could not be read.
    Unreadable(Fault),
    /// There is no memory for a tensor.
    NoMemory {
        /// The tensor.
        name: String,
        /// Bytes wanted.
        bytes: u64,
    },
    /// There is no memory for what plans work in.
    NoWorkspace(NoMemory),
    /// The device failed, with a code of its own.
    Failed(Box<Fault>),
    /// The caller asked to stop.
    Stopped,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "there is no weight \"{name}\""),
            Self::Size { name, ty, bytes } => {
                write!(f, "weight \"{name}\" has {bytes} bytes, which do not make {ty}")
            }
            Self::Unreadable(fault) => f.write_str(&fault.message),
            Self::NoMemory { name, bytes } => {
                write!(f, "there is no memory for weight \"{name}\" ({bytes} bytes)")
            }
            Self::NoWorkspace(refused) => refused.fmt(f),
            Self::Failed(fault) => f.write_str(&fault.message),
            Self::Stopped => f.write_str("loading was stopped"),
        }
    }
}

impl std::error::Error for LoadError {}

/// Memory that a device does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory {
    /// Bytes wanted.
    pub bytes: u64,
    /// Bytes that the device has left, where it has memory of its own and tells.
    pub free: Option<u64>,
}

impl NoMemory {
    /// So many bytes that the system does not give.
    pub fn of(bytes: u64) -> Self {
        Self { bytes, free: None }
    }
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no memory for {} bytes", self.bytes)
    }
}

impl std::error::Error for NoMemory {}

/// Why a run ended early. Steps are named by their label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// The caller asked to stop.
    Stopped,
    /// No kernel for this op on these types.
    Unsupported {
        /// The step.
        label: String,
        /// The op's name.
        op: &'static str,
    },
    /// A row of a table was asked for that does not exist.
    Index {
        /// The step.
        label: String,
        /// The index.
        index: i64,
        /// Rows of the table.
        rows: usize,
    },
    /// Rows of a table that is read where it is stored could not be read.
    Weight {
        /// The step.
        label: String,
        /// What happened.
        fault: Box<Fault>,
    },
    /// The device failed, with a code of its own.
    Failed {
        /// The step, where it is known.
        label: Option<String>,
        /// What happened.
        fault: Box<Fault>,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the run was stopped"),
            Self::Unsupported { op, .. } => write!(f, "there is no kernel for {op}"),
            Self::Index { index, rows, .. } => {
                write!(f, "index {index} is outside the {rows} rows of a table")
            }
            Self::Weight { fault, .. } | Self::Failed { fault, .. } => f.write_str(&fault.message),
        }
    }
}

impl std::error::Error for RunError {}

/// The first of `indices` that is no row of a table of `rows` rows, as the error of the step
/// `label`. For devices that check on the host, and for what a kernel has reported.
///
/// # Errors
/// [`RunError::Index`].
pub fn check_rows(indices: &[i32], rows: usize, label: &str) -> Result<(), RunError> {
    let inside = |index: i32| usize::try_from(index).is_ok_and(|index| index < rows);
    match indices.iter().find(|index| !inside(**index)) {
        None => Ok(()),
        Some(index) => {
            Err(RunError::Index { label: label.to_owned(), index: i64::from(*index), rows })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_index_outside_a_table_is_named() {
        assert_eq!(check_rows(&[0, 1], 2, "x"), Ok(()));
        for (indices, index) in [(&[0, 2, -1][..], 2), (&[-1, 0], -1), (&[i32::MIN], i32::MIN)] {
            let index = i64::from(index);
            let wanted = RunError::Index { label: "x".into(), index, rows: 2 };
            assert_eq!(check_rows(indices, 2, "x"), Err(wanted));
        }
    }
}
