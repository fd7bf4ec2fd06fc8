//! What may be remembered of a driver who was erased: enough to know the id again, not enough to read it.

use std::fmt;

use ring::hmac;

use super::DriverId;

const KEY_BYTES: usize = 16;
const MARK_BYTES: usize = 32;

/// A keyed hash of a driver's id: HMAC-SHA-256, under a key that was drawn for this one erasure and stands beside it.
/// So two erasures are never the same, not even of one driver; nobody has to agree on a key, keep it, or bring it
/// back; and whoever has a list of tombstones still has to try ids, at every one of them anew. Shown as 96 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tombstone {
    key: [u8; KEY_BYTES],
    mark: [u8; MARK_BYTES],
}

impl Tombstone {
    /// For `driver`, under a key that must be random.
    pub fn new(driver: &DriverId, key: [u8; KEY_BYTES]) -> Self {
        Self { key, mark: mark(driver, &key) }
    }

    /// Whether it is this driver's.
    pub fn is_of(&self, driver: &DriverId) -> bool {
        mark(driver, &self.key) == self.mark
    }

    /// Reads 96 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * (KEY_BYTES + MARK_BYTES) {
            return None;
        }
        let mut bytes = [0; KEY_BYTES + MARK_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        let (key, mark) = bytes.split_first_chunk()?;
        Some(Self { key: *key, mark: mark.try_into().ok()? })
    }
}

fn mark(driver: &DriverId, key: &[u8]) -> [u8; MARK_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), driver.as_str().as_bytes());
    tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

impl fmt::Display for Tombstone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.iter().chain(&self.mark).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_one_driver_and_reads_back() {
        let (one, other) = (DriverId::new("cab-1").unwrap(), DriverId::new("cab-2").unwrap());
        let stone = Tombstone::new(&one, [0xa5; 16]);
        assert!(stone.is_of(&one) && !stone.is_of(&other));
        assert_ne!(stone, Tombstone::new(&one, [0x5a; 16]), "each erasure has its own");
        let text = stone.to_string();
        assert_eq!(Tombstone::parse(&text), Some(stone));
        for wrong in ["", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")] {
            assert_eq!(Tombstone::parse(wrong), None, "{wrong}");
        }
    }

    /// RFC 4231 has no key of 16 bytes; this one was computed with OpenSSL.
    #[test]
    fn it_is_hmac_sha_256() {
        let stone = Tombstone::new(&DriverId::new("cab-1").unwrap(), [0x0b; 16]);
        assert_eq!(stone.to_string()[32..], *EXPECTED);
    }

    const EXPECTED: &str = "206f9a78ced2575eaec37dab6f59dce25b22211edc8c7e9a5ca47f3ec2139989";
}
