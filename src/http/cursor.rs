//! Cursors: where a list goes on. What they say is in them, so that they outlive a page, a process and a store; what
//! list they belong to is in their checksum, so that one of another list, or a damaged one, is told apart.
//!
//! ```text
//! base64url( version u8 | crc32c u32 le over version, list, mark | mark )
//! ```
//!
//! A cursor is no secret and no permission: one that is made up on purpose leads nowhere a parameter could not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::model::{DriverId, Timestamp};

const VERSION: u8 = 1;
const CHECKSUM: std::ops::Range<usize> = 1..5;

/// Where a list goes on, in the terms of its order.
pub(crate) trait Mark: Sized {
    /// The encoded form.
    fn to_bytes(&self) -> Vec<u8>;
    /// Reads the encoded form.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// After this driver, in a list in the order of ids.
impl Mark for DriverId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_str().into()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::new(str::from_utf8(bytes).ok()?).ok()
    }
}

/// From this moment on, in a track.
impl Mark for Timestamp {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_ms().to_le_bytes().into()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_ms(i64::from_le_bytes(bytes.try_into().ok()?)))
    }
}

/// The cursor that goes on from `mark` in `list`: the route and everything asked that decides what is in the list.
pub(crate) fn encode(list: &str, mark: &impl Mark) -> String {
    let mark = mark.to_bytes();
    let mut bytes = vec![VERSION];
    bytes.extend(checksum(list, &mark).to_le_bytes());
    bytes.extend(mark);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The mark in a cursor of `list`.
pub(crate) fn decode<M: Mark>(list: &str, cursor: &str) -> Result<M, Problem> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let sum = u32::from_le_bytes(bytes.get(CHECKSUM)?.try_into().ok()?);
        let mark = &bytes[CHECKSUM.end..];
        let is_ours = bytes[0] == VERSION && sum == checksum(list, mark);
        is_ours.then(|| M::from_bytes(mark)).flatten()
    };
    read().ok_or(Problem::InvalidCursor)
}

fn checksum(list: &str, mark: &[u8]) -> u32 {
    // No list holds a NUL, so no other pair of list and mark reads the same.
    [list.as_bytes(), b"\0", mark]
        .iter()
        .fold(crc32c::crc32c(&[VERSION]), |sum, part| crc32c::crc32c_append(sum, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "active 3600 van,idle";

    fn driver() -> DriverId {
        DriverId::new("driver:7").unwrap()
    }

    #[test]
    fn leads_back_to_its_mark() {
        assert_eq!(decode::<DriverId>(LIST, &encode(LIST, &driver())).unwrap(), driver());
        let ts = Timestamp::from_ms(1_795_377_525_123);
        assert_eq!(decode::<Timestamp>("track d", &encode("track d", &ts)).unwrap(), ts);
    }

    #[test]
    fn stays_readable_from_version_to_version() {
        assert_eq!(encode(LIST, &driver()), "ATb8zSdkcml2ZXI6Nw");
    }

    #[test]
    fn belongs_to_one_list() {
        let cursor = encode(LIST, &driver());
        for other in ["active 3601 van,idle", "active 3600 van", "hours 2026112219 drivers", ""] {
            assert!(matches!(decode::<DriverId>(other, &cursor), Err(Problem::InvalidCursor)), "{other}");
        }
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let cursor = encode(LIST, &driver());
        for cut in 0..cursor.len() {
            assert!(decode::<DriverId>(LIST, &cursor[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..cursor.len() {
            for bit in 0..7 {
                let mut bytes = cursor.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let flipped = String::from_utf8(bytes).unwrap();
                assert!(decode::<DriverId>(LIST, &flipped).is_err(), "bit {bit} of byte {at}");
            }
        }
        for forged in ["", "x", "=", "AAAAAAAA", "../../etc", &format!("{cursor}=="), &format!("{cursor}A"), "é"] {
            assert!(decode::<DriverId>(LIST, forged).is_err(), "{forged}");
        }
    }
}
