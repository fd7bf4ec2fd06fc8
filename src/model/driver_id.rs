//! Who: the id of a driver.

use std::fmt;

use compact_str::{CompactString, ToCompactString};

use super::Defect;

/// A driver's id: 1 to 64 of `A-Z a-z 0-9 _ . : -`, the first a letter, a digit or `_`. So it is safe in a key, a
/// file name and a command line, and `~` is free for ids of our own. Up to 24 bytes it needs no allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverId(CompactString);

impl DriverId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Checks `id`.
    pub fn new(id: &str) -> Result<Self, Defect> {
        let bytes = id.as_bytes();
        let first_is_fine = bytes.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let rest_is_fine = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-'));
        if bytes.len() <= Self::MAX_BYTES && first_is_fine && rest_is_fine {
            Ok(Self(CompactString::new(id)))
        } else {
            Err(Defect::DriverIdInvalid)
        }
    }

    /// A whole number is taken as its decimal string.
    pub fn from_number(id: u64) -> Self {
        Self(id.to_compact_string())
    }

    /// The id as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for DriverId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
