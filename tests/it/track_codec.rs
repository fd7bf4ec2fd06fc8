//! The track codec: what goes in comes out, and no bytes whatever make it panic.

use geotrail::model::{Accuracy, Fix, Heading, Hour, Position, Speed, Tags, Timestamp};
use geotrail::store::track_codec::{decode, encode_chunk};
use proptest::prelude::*;

const HOUR: Hour = Hour::from_number(498_595);

fn any_fix() -> impl Strategy<Value = Fix> {
    let ms = prop_oneof![(0..3_600_i64).prop_map(|second| second * 1_000), 0..3_600_000_i64];
    let lat = prop_oneof![-850_511_287..=850_511_287_i32, Just(850_511_287), 437_000_000..437_100_000];
    let lon = prop_oneof![-1_800_000_000..1_800_000_000_i32, Just(-1_800_000_000), 74_200_000..74_300_000];
    let speed = prop::option::of(0..=50_000_u16);
    let heading = prop::option::of(0..3_600_u16);
    let accuracy = prop::option::of(0..=1_000_000_u32);
    let tags = prop::sample::select(vec!["", "", "bike", "car,free", "a,b,c,d,e,f,g,h-with-a-long-name"]);
    (ms, lat, lon, speed, heading, accuracy, tags).prop_map(|(ms, lat, lon, speed, heading, accuracy, tags)| Fix {
        ts: HOUR.start().plus_ms(ms),
        position: Position::from_e7(lat, lon).expect("in range"),
        speed: speed.map(|steps| Speed::from_steps(steps).expect("in range")),
        heading: heading.map(|tenths| Heading::from_tenths(tenths).expect("in range")),
        accuracy: accuracy.map(|dm| Accuracy::from_dm(dm).expect("in range")),
        tags: Tags::from_joined(tags).expect("well formed"),
    })
}

proptest! {
    #[test]
    fn chunks_come_back_in_the_order_they_went_in(
        chunks in prop::collection::vec(prop::collection::vec(any_fix(), 0..20), 0..4),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            encode_chunk(HOUR, chunk, &mut bytes);
        }
        prop_assert_eq!(decode(HOUR, &bytes).expect("just encoded"), chunks.concat());
    }

    #[test]
    fn random_bytes_are_an_error_or_fixes_of_the_hour(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for fix in decode(HOUR, &bytes).unwrap_or_default() {
            prop_assert_eq!(fix.ts.hour(), HOUR);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_fixes_of_the_hour(
        fixes in prop::collection::vec(any_fix(), 1..20),
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut bytes = Vec::new();
        encode_chunk(HOUR, &fixes, &mut bytes);
        let at = flip.index(bytes.len());
        bytes[at] ^= 1 << bit;
        bytes.truncate(cut.index(bytes.len() + 1));
        for fix in decode(HOUR, &bytes).unwrap_or_default() {
            prop_assert_eq!(fix.ts.hour(), HOUR);
        }
    }
}

fn plain(ms: i64, lat: i32, lon: i32) -> Fix {
    Fix {
        ts: Timestamp::from_ms(HOUR.start().as_ms() + ms),
        position: Position::from_e7(lat, lon).expect("in range"),
        speed: None,
        heading: None,
        accuracy: None,
        tags: Tags::NONE,
    }
}

#[test]
fn a_lone_plain_point_takes_twelve_bytes_at_most() {
    for ms in [0, 3_599_000, 3_599_999] {
        let mut bytes = Vec::new();
        encode_chunk(HOUR, &[plain(ms, -850_511_287, 1_799_999_999)], &mut bytes);
        assert!(bytes.len() <= 12, "{} bytes", bytes.len());
    }
}

#[test]
fn a_chunk_must_begin_with_an_absolute_fix_of_its_hour() {
    let mut bytes = Vec::new();
    encode_chunk(HOUR, &[plain(0, 1, 1), plain(3_599_000, 2, 2)], &mut bytes);
    let absolute = 1 + 2 + 4 + 4;
    assert!(decode(HOUR, &bytes[absolute..]).is_err(), "a difference from nothing");
    bytes[1..3].copy_from_slice(&3_600_u16.to_le_bytes());
    assert!(decode(HOUR, &bytes).is_err(), "beyond the hour");
}
