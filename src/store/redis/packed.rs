//! A fix as bytes whose lexicographic order is the order of [`Fix`]: what is newest is found by comparing bytes, in
//! Redis too, by a script that knows nothing of their meaning.
//!
//! | bytes | big-endian, unsigned |
//! |---|---|
//! | 3 | milliseconds since the hour began |
//! | 4 | latitude in steps of 1e-7 degrees, + 2^31 |
//! | 4 | longitude likewise |
//! | 2 | speed in steps of 1/50 m/s, + 1; 0: unknown |
//! | 2 | heading in tenths of a degree, + 1; 0: unknown |
//! | 3 | accuracy in decimetres, + 1; 0: unknown |
//! | rest | tags, joined by commas |
//!
//! Never here: more than one fix (`track_codec` packs many, smaller).

use crate::model::{Accuracy, Fix, Heading, Hour, Position, Speed, Tags};

const FIXED_BYTES: usize = 18;

/// Packs a fix of `hour`.
pub(super) fn pack(hour: Hour, fix: &Fix) -> Vec<u8> {
    let offset_ms = fix.ts.ms_since(hour.start());
    debug_assert!(fix.ts.hour() == hour, "a fix is packed into its own hour");
    let speed = fix.speed.map_or(0, |speed| speed.steps() + 1);
    let heading = fix.heading.map_or(0, |heading| heading.tenths() + 1);
    let accuracy = fix.accuracy.map_or(0, |accuracy| accuracy.dm() + 1);
    let mut bytes = Vec::with_capacity(FIXED_BYTES + fix.tags.joined().len());
    bytes.extend_from_slice(&(offset_ms as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&biased(fix.position.lat_e7()).to_be_bytes());
    bytes.extend_from_slice(&biased(fix.position.lon_e7()).to_be_bytes());
    bytes.extend_from_slice(&speed.to_be_bytes());
    bytes.extend_from_slice(&heading.to_be_bytes());
    bytes.extend_from_slice(&accuracy.to_be_bytes()[1..]);
    bytes.extend_from_slice(fix.tags.joined().as_bytes());
    bytes
}

/// Where the fix is that [`pack`] wrote as these bytes; `None` if it cannot have written them.
pub(super) fn position(bytes: &[u8]) -> Option<Position> {
    let coordinate = |at: usize| Some(unbiased(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
    Position::from_e7(coordinate(3)?, coordinate(7)?)
}

/// Reads what [`pack`] wrote; `None` if it cannot have written this.
pub(super) fn unpack(hour: Hour, bytes: &[u8]) -> Option<Fix> {
    let (fixed, tags) = bytes.split_at_checked(FIXED_BYTES)?;
    let number = |from: usize, to: usize| fixed[from..to].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let ts = hour.start().plus_ms(i64::from(number(0, 3)));
    let position = Position::from_e7(unbiased(number(3, 7)), unbiased(number(7, 11)))?;
    let known = |value: u32| value.checked_sub(1);
    let speed = known(number(11, 13)).map(|steps| Speed::from_steps(steps as u16).ok_or(())).transpose().ok()?;
    let heading =
        known(number(13, 15)).map(|tenths| Heading::from_tenths(tenths as u16).ok_or(())).transpose().ok()?;
    let accuracy = known(number(15, 18)).map(|dm| Accuracy::from_dm(dm).ok_or(())).transpose().ok()?;
    let tags = Tags::from_joined(std::str::from_utf8(tags).ok()?).ok()?;
    (ts < hour.end()).then_some(Fix { ts, position, speed, heading, accuracy, tags })
}

const fn biased(value: i32) -> u32 {
    (value as u32) ^ 1 << 31
}

const fn unbiased(value: u32) -> i32 {
    (value ^ 1 << 31) as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;

    const HOUR: Hour = Hour::from_number(495_000);

    fn fix() -> impl Strategy<Value = Fix> {
        let tags = prop::sample::select(vec!["", "a", "a,b", "ab", "b", "a-b", "a,_"]);
        (0..4_i64, -2..2_i32, -2..2_i32, 0..3_u16, 0..3_u16, 0..3_u32, tags).prop_map(
            |(ms, lat, lon, speed, heading, accuracy, tags)| Fix {
                ts: HOUR.start().plus_ms(ms * 1_199_999),
                position: Position::from_e7(lat * 425_000_000, lon * 900_000_000).expect("within the range"),
                speed: speed.checked_sub(1).and_then(|steps| Speed::from_steps(steps * 50_000)),
                heading: heading.checked_sub(1).and_then(|tenths| Heading::from_tenths(tenths * 3_599)),
                accuracy: accuracy.checked_sub(1).and_then(|dm| Accuracy::from_dm(dm * 1_000_000)),
                tags: Tags::from_joined(tags).expect("good tags"),
            },
        )
    }

    proptest! {
        #[test]
        fn comes_back_and_sorts_as_fixes_do(a in fix(), b in fix()) {
            prop_assert_eq!(unpack(HOUR, &pack(HOUR, &a)), Some(a.clone()));
            prop_assert_eq!(position(&pack(HOUR, &a)), Some(a.position));
            prop_assert_eq!(pack(HOUR, &a).cmp(&pack(HOUR, &b)), a.cmp(&b));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let place = position(&bytes);
            if let Some(fix) = unpack(HOUR, &bytes) {
                prop_assert_eq!(fix.ts.hour(), HOUR);
                prop_assert_eq!(place, Some(fix.position));
            }
        }
    }

    #[test]
    fn the_ends_of_the_hour_fit() {
        for ts in [HOUR.start(), HOUR.end().plus_ms(-1)] {
            let position = Position::from_e7(-850_511_287, -1_800_000_000).expect("the corner of the map");
            let fix = Fix { ts, position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
            assert_eq!(unpack(HOUR, &pack(HOUR, &fix)), Some(fix));
        }
        assert_eq!(unpack(HOUR, &[0xff; FIXED_BYTES]), None);
        assert_eq!(Timestamp::from_ms(0).hour().number(), 0);
    }
}
