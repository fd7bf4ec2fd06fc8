//! The parts of an hour that each live in one slot of a cluster.
//!
//! Unsharded, an hour is one shard. Sharded, it is many: a *bucket* holds what belongs to a driver, whichever way it
//! drives, and is chosen by a hash of its id; a *place* holds who is in an H3 cell; and one more knows the cells.
//! Shards are shown as they stand in the hash tag of a key.
//!
//! Never here: keys.

use std::fmt;

use crate::model::{Cell, DriverId, Hour, Position, Resolution};

/// A part of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shard {
    hour: Hour,
    part: Part,
}

/// Which part. The buckets stand last: they lie on every node, so an audit, which begins at the end, begins with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// All of it; of a sharded hour, what is not in the other parts.
    Whole,
    /// Who is in this cell.
    Place(Cell),
    /// The drivers with this hash.
    Bucket(u8),
}

impl Shard {
    /// The shard named after the hour alone.
    pub(super) const fn whole(hour: Hour) -> Self {
        Self { hour, part: Part::Whole }
    }

    /// The shard of a cell.
    pub(super) const fn place(hour: Hour, cell: Cell) -> Self {
        Self { hour, part: Part::Place(cell) }
    }

    /// The same part of another hour.
    pub(super) const fn in_hour(self, hour: Hour) -> Self {
        Self { hour, ..self }
    }

    /// Its hour.
    pub(super) const fn hour(self) -> Hour {
        self.hour
    }

    /// Which part of it.
    pub(super) const fn part(self) -> Part {
        self.part
    }

    /// Reads it as it is shown.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (hour, part) = match text.split_once(':') {
            None => (text, Part::Whole),
            Some((hour, part)) => (hour, Part::parse(part)?),
        };
        Some(Self { hour: Hour::parse(hour).ok()?, part })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hour.fmt(f)?;
        match self.part {
            Part::Whole => Ok(()),
            Part::Bucket(number) => write!(f, ":b{}", bucket_name(number)),
            Part::Place(cell) => write!(f, ":{cell}"),
        }
    }
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('b') {
            Some(name) if name.len() == 2 => {
                (0..BUCKETS as u8).find(|number| bucket_name(*number) == name).map(Self::Bucket)
            }
            _ => Cell::parse(text).map(Self::Place),
        }
    }
}

/// How hours are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each is one shard.
    Whole,
    /// Buckets, and places of this size.
    Sharded(Resolution),
}

impl Layout {
    /// The shard with what belongs to `driver`.
    pub(super) fn bucket(self, hour: Hour, driver: &DriverId) -> Shard {
        let part = match self {
            Self::Whole => Part::Whole,
            Self::Sharded(_) => Part::Bucket((crc32c::crc32c(driver.as_str().as_bytes()) % BUCKETS as u32) as u8),
        };
        Shard { hour, part }
    }

    /// The other way to divide; which size its cells have matters to nobody who has their names.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Whole => Self::Sharded(Resolution::COARSEST),
            Self::Sharded(_) => Self::Whole,
        }
    }

    /// How many buckets an hour has.
    pub(super) const fn buckets(self) -> usize {
        match self {
            Self::Whole => 1,
            Self::Sharded(_) => BUCKETS,
        }
    }

    /// The bucket with this number, below [`Self::buckets`].
    pub(super) const fn bucket_number(self, hour: Hour, number: usize) -> Shard {
        let part = match self {
            Self::Whole => Part::Whole,
            Self::Sharded(_) => Part::Bucket(number as u8),
        };
        Shard { hour, part }
    }

    /// The cell that stands for `position`; `None` where there are no cells.
    pub(super) fn cell(self, position: Position) -> Option<Cell> {
        match self {
            Self::Whole => None,
            Self::Sharded(resolution) => Some(Cell::containing(position, resolution)),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("none"),
            Self::Sharded(resolution) => resolution.fmt(f),
        }
    }
}

/// Enough that up to ten primaries share an hour evenly, within a quarter. Few enough that the hashes of a fleet of 20,000
/// are hash tables already: up to 512 fields Redis keeps them as lists, and every field costs a walk.
const BUCKETS: usize = 32;
const SLOT_BITS: u32 = 14;
const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Two letters each, chosen so that the 64 slots of any hour's buckets lie one in each 64th of all slots. CRC16 is
/// linear: behind the ten digits of an hour, the slot is a constant of the hour XOR the checksum of what follows. So
/// endings whose checksums differ in the upper six bits of the slot give slots that do, whatever the hour.
const NAMES: [[u8; 2]; BUCKETS] = {
    let mut names = [[0; 2]; BUCKETS];
    let mut at = 0;
    while at < LETTERS.len() * LETTERS.len() {
        let name = [LETTERS[at / LETTERS.len()], LETTERS[at % LETTERS.len()]];
        let slot = crc16(&[b':', b'b', name[0], name[1]]) & ((1 << SLOT_BITS) - 1);
        let nth = (slot >> (SLOT_BITS - BUCKETS.ilog2())) as usize;
        if names[nth][0] == 0 {
            names[nth] = name;
        }
        at += 1;
    }
    names
};

fn bucket_name(number: u8) -> &'static str {
    std::str::from_utf8(&NAMES[usize::from(number) % BUCKETS]).expect("the letters are ASCII")
}

/// The checksum that slots are made of: CRC16 as of XMODEM (Redis cluster specification, appendix A).
const fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    let mut at = 0;
    while at < bytes.len() {
        crc ^= (bytes[at] as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        at += 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_buckets_of_any_hour_are_spread_evenly() {
        assert_eq!(crc16(b"123456789"), 0x31C3, "the check value of the specification");
        let layout = Layout::Sharded(Resolution::new(7).expect("there is one"));
        for hour in [0, 495_000, 495_001, 876_543] {
            let shards = (0..BUCKETS).map(|number| layout.bucket_number(Hour::from_number(hour), number));
            let slots = shards.map(|shard| crc16(shard.to_string().as_bytes()) & 0x3FFF);
            let parts: BTreeSet<u16> = slots.map(|slot| slot >> 8).collect();
            assert_eq!(parts.len(), BUCKETS);
        }
    }

    #[test]
    fn shards_are_read_as_they_are_shown() {
        let hour = Hour::from_number(495_000);
        let resolution = Resolution::new(5).expect("there is one");
        let cell = Cell::containing(Position::new(52.5, 13.4).expect("a place"), resolution);
        let mut shards = vec![Shard::whole(hour), Shard::place(hour, cell)];
        shards.extend((0..BUCKETS).map(|number| Layout::Sharded(resolution).bucket_number(hour, number)));
        for shard in shards {
            assert_eq!(Shard::parse(&shard.to_string()), Some(shard), "{shard}");
        }
        for wrong in ["", "2026", "2026112213:", "2026112213:b", "2026112213:b!!", "2026112213:x", "x:b00"] {
            assert_eq!(Shard::parse(wrong), None, "{wrong}");
        }
    }
}
