//! Files that are read anew when they change. A change counts once it has stayed as it is from one look to the next, so
//! that nothing half written is read; what could not be read is tried again at every look.
//!
//! Never here: what stands in a file, when to look.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Files that belong together.
#[derive(Debug)]
pub struct Watched<const N: usize> {
    paths: [PathBuf; N],
    seen: [Option<Version>; N],
    is_read: bool,
    told: Option<String>,
}

/// Two that are equal are of the same file in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    /// Of the content or of who may read it.
    changed: (i64, i64),
}

impl<const N: usize> Watched<N> {
    /// Files that the caller reads right after this.
    pub fn new(paths: [&Path; N]) -> Self {
        let paths = paths.map(Path::to_owned);
        let seen = paths.each_ref().map(|path| Version::of(path));
        Self { paths, seen, is_read: true, told: None }
    }

    /// What `read` makes of the files, if they have changed since they were read. An error is given once, and tried again.
    pub fn look<T, E: Display>(&mut self, read: impl FnOnce() -> Result<T, E>) -> Option<Result<T, E>> {
        let now = self.paths.each_ref().map(|path| Version::of(path));
        if now != self.seen {
            (self.seen, self.is_read, self.told) = (now, false, None);
            return None;
        }
        if self.is_read {
            return None;
        }
        match read() {
            Ok(read) => {
                (self.is_read, self.told) = (true, None);
                Some(Ok(read))
            }
            Err(error) => {
                let words = Some(error.to_string());
                let is_known = self.told == words;
                self.told = words;
                (!is_known).then_some(Err(error))
            }
        }
    }
}

impl Version {
    /// Of what is at `path`, through links; `None` if there is nothing.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
