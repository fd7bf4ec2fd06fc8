//! What can go wrong at the door of the journal: opening it, and appending to it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a journal was not opened. Damage is never a reason; see [`super::Recovery`].
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or another handle in this one, has it open.
    #[error("{} is in use by another geotrail process; each instance needs a data directory of its own", .0.display())]
    Locked(PathBuf),
    /// A newer geotrail wrote it. Nothing was touched.
    #[error("{} is of journal version {version}, and this geotrail knows version 1; nothing was changed", path.display())]
    UnsupportedVersion {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A segment of another journal lies in the directory. Nothing was touched.
    #[error("{} belongs to another journal than this directory; nothing was changed", .0.display())]
    Foreign(PathBuf),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Why an append was not acknowledged.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AppendError {
    /// As much is waiting for the disk as may. Nothing of the batch was kept.
    #[error("too much is waiting for the journal")]
    Overloaded,
    /// It could not be written or not be synced. Whether the batch is there after a restart is unknown.
    #[error("the journal could not be written")]
    Failed,
    /// The journal is shutting down. Nothing of the batch was kept.
    #[error("the journal is closed")]
    Closed,
}
