//! A place in the journal. It lives here because both the journal and the stores speak of it, and neither may import
//! the other.

use std::fmt;

/// A byte offset in the journal as a whole, counted over all segments, headers included. Offsets only grow; the
/// offset of a batch's end says "everything before is included".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The beginning of the first segment that was ever written.
    pub const START: Self = Self(0);

    /// The offset `bytes` from the beginning.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the beginning.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
