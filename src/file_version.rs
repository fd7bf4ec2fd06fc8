//! By which a change of a file is noticed: looking costs no reading. A file that was replaced within the same tick of its
//! system's clock is another one all the same.
//!
//! Never here: what stands in a file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Two that are equal are of the same file in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    mode: u32,
}

impl FileVersion {
    /// Of what is at `path`, through links; `None` if there is nothing.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode(),
        })
    }
}
