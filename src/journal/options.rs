//! Where a journal lies, and how large its parts may grow.

use std::path::PathBuf;

/// How to open a journal.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; segments go to `journal/` in it. Made, for the owner alone, if it is missing.
    pub dir: PathBuf,
    /// A segment is closed once it holds this many bytes. One may be larger by the last batch in it.
    pub segment_bytes: u64,
    /// At most this many encoded bytes wait for the disk; beyond, appends are refused. A single larger batch is taken
    /// when nothing else waits.
    pub max_waiting_bytes: usize,
}

impl Options {
    /// Segments of 64 MiB (some three million points; scanned at start in a fraction of a second), and 64 MiB
    /// waiting, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 64 << 20, max_waiting_bytes: 64 << 20 }
    }
}
