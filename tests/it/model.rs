//! Moments, hours, places, measures and tags: what they take, what they refuse, and what comes back of them.

use geotrail::model::{Accuracy, Defect, Heading, Hour, InvalidTime, MAX_LAT, Position, Speed, Tags, Timestamp};
use proptest::prelude::*;

fn ms(text: &str) -> Result<i64, InvalidTime> {
    Timestamp::parse_rfc3339(text).map(Timestamp::as_ms)
}

fn hour(text: &str) -> String {
    Timestamp::parse_rfc3339(text).unwrap_or_else(|_| panic!("{text} is a time")).hour().to_string()
}

#[test]
fn offsets_lead_to_the_right_hour() {
    for (text, hour_of_it) in [
        ("2026-11-22T20:00:00.000Z", "2026112220"),
        ("2026-11-22T19:59:59.999Z", "2026112219"),
        ("2026-11-22t19:59:59z", "2026112219"),
        ("2026-11-22T19:59:59-00:00", "2026112219"),
        ("2026-11-23T01:44:59.999+05:45", "2026112219"),
        ("2026-11-23T01:45:00+05:45", "2026112220"),
        ("2026-11-22T00:30:00+01:00", "2026112123"),
        ("2026-12-31T23:30:00-01:00", "2027010100"),
        ("2024-02-29T00:00:00Z", "2024022900"),
        ("1969-12-31T23:59:59.999Z", "1969123123"),
    ] {
        assert_eq!(hour(text), hour_of_it, "{text}");
    }
}

#[test]
fn what_is_no_time() {
    for text in [
        "",
        "2026-11-22",
        "2026-11-22T24:00:00Z",
        "2026-11-22T23:60:00Z",
        "2026-11-22T23:59:60Z",
        "2026-11-22T19:58:45",
        "2026-11-22T19:58:45.123",
        "2026-11-22T19:58:45.Z",
        "2026-11-22T19:58:45,123Z",
        "2026-11-22T19:58Z",
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-11-22T19:58:45+24:00",
        "2026-11-22T19:58:45+05:60",
        "2026-11-22T19:58:45+0545",
        "2026-11-22T19:58:45+05",
        "2026-11-22T19:58:45ZZ",
        "2026-11-22T19:58:45Z ",
        " 2026-11-22T19:58:45Z",
        "2026-11-22 19:58:45Z",
        "1700000000000",
        "10000-01-01T00:00:00Z",
        "+2026-11-22T19:58:45Z",
        "2026-11-22T19:58:4\u{ff15}Z",
        "20261122T195845Z",
    ] {
        assert_eq!(ms(text), Err(InvalidTime), "{text}");
    }
}

#[test]
fn fractions_are_cut_never_rounded() {
    let digits = "999999999999";
    for len in 1..=12 {
        let text = format!("2026-11-22T19:59:59.{}Z", &digits[..len]);
        let kept = [900, 990, 999][len.min(3) - 1];
        assert_eq!(ms(&text), ms("2026-11-22T19:59:59Z").map(|second| second + kept), "{text}");
        assert_eq!(hour(&text), "2026112219", "{text}");
    }
    assert_eq!(ms("1970-01-01T00:00:00.0019Z"), Ok(1));
    assert_eq!(ms("1969-12-31T23:59:59.9999Z"), Ok(-1), "before 1970 too, towards the past");
    assert_eq!(ms("1970-01-01T00:00:00.05Z"), Ok(50));
}

#[test]
fn times_are_shown_in_utc_with_milliseconds() {
    assert_eq!(Timestamp::from_ms(1_795_377_525_120).to_string(), "2026-11-22T19:58:45.120Z");
    assert_eq!(Timestamp::from_ms(0).to_string(), "1970-01-01T00:00:00.000Z");
    assert_eq!(Timestamp::from_ms(-1).to_string(), "1969-12-31T23:59:59.999Z");
}

#[test]
fn hours_are_written_ten_digits_long() {
    for text in ["2026112219", "1970010100", "1969123123", "2024022923", "9999123123", "0001010100"] {
        assert_eq!(Hour::parse(text).map(|hour| hour.to_string()).as_deref(), Ok(text));
    }
    for text in ["2026112224", "2026022901", "20261122", "2026112a19", "+026112219", "202611221900", "", "２０２６"]
    {
        assert!(Hour::parse(text).is_err(), "{text}");
    }
    let hour = Hour::parse("2026112219").expect("an hour");
    assert_eq!(hour.start().to_string(), "2026-11-22T19:00:00.000Z");
    assert_eq!(hour.end(), hour.start().plus_ms(3_600_000));
    assert_eq!(hour.start().hour(), hour);
    assert_eq!(hour.end().plus_ms(-1).hour(), hour);
}

#[test]
fn places_at_the_limits() {
    for lat in [MAX_LAT, -MAX_LAT] {
        let place = Position::new(lat, 1.0).expect("within");
        assert!((place.lat() - lat).abs() < 1e-7 && place.lat().abs() <= MAX_LAT);
    }
    assert_eq!(Position::new(1.0, 180.0), Position::new(1.0, -180.0));
    assert_eq!(Position::new(1.0, 179.999_999_99), Position::new(1.0, -180.0), "rounded to the antimeridian");
    assert_eq!(Position::new(5e-324, 1.0), Position::new(-0.0, 1.0));
    for lon in [180.000_000_1, -180.000_000_1, -181.0, 1e308, f64::INFINITY, f64::NAN] {
        assert_eq!(Position::new(1.0, lon), Err(Defect::LonOutOfRange), "{lon}");
    }
}

#[test]
fn only_what_may_be_a_swap_is_called_one() {
    for (lat, lon, looks_swapped) in [
        (121.47, 31.23, true),
        (-122.4, 37.8, true),
        (180.0, -85.0, true),
        (91.0, 0.0, false),
        (85.051_128_79, 13.4, false),
        (90.0, 13.4, false),
        (121.47, 95.0, false),
        (180.1, 31.23, false),
        (1e308, 31.23, false),
        (f64::NAN, 31.23, false),
        (121.47, f64::NAN, false),
    ] {
        assert_eq!(Position::new(lat, lon), Err(Defect::LatOutOfRange { looks_swapped }), "{lat} {lon}");
    }
}

#[test]
fn negative_measures_are_unknown_and_great_ones_wrong() {
    assert_eq!(Speed::from_mps(-5.0), Ok(None));
    assert_eq!(Speed::from_mps(-5e-324), Ok(None));
    assert_eq!(Speed::from_mps(-0.0).map(|speed| speed.map(Speed::mps)), Ok(Some(0.0)));
    assert_eq!(Speed::from_mps(1_000.0).map(|speed| speed.map(Speed::mps)), Ok(Some(1_000.0)));
    assert_eq!(Speed::from_mps(1_000.001), Err(Defect::SpeedInvalid));
    assert_eq!(Heading::from_deg(-1.0), Ok(None));
    assert_eq!(Heading::from_deg(360.0).map(|heading| heading.map(Heading::deg)), Ok(Some(0.0)));
    assert_eq!(Heading::from_deg(359.999).map(|heading| heading.map(Heading::deg)), Ok(Some(359.9)));
    assert_eq!(Heading::from_deg(360.000_1), Err(Defect::HeadingInvalid));
    assert_eq!(Accuracy::from_m(-1.0), Ok(None));
    assert_eq!(Accuracy::from_m(0.0).map(|accuracy| accuracy.map(Accuracy::m)), Ok(Some(0.0)));
    assert_eq!(Accuracy::from_m(100_000.0).map(|accuracy| accuracy.map(Accuracy::m)), Ok(Some(100_000.0)));
    assert_eq!(Accuracy::from_m(100_000.1), Err(Defect::AccuracyInvalid));
    for wrong in [f64::NAN, f64::INFINITY, 1e308] {
        assert_eq!(Speed::from_mps(wrong), Err(Defect::SpeedInvalid));
        assert_eq!(Heading::from_deg(wrong), Err(Defect::HeadingInvalid));
        assert_eq!(Accuracy::from_m(wrong), Err(Defect::AccuracyInvalid));
    }
}

#[test]
fn tags_keep_their_order_and_count_once() {
    let tags = Tags::new(["van", "a-1", "van", "_"]).expect("valid");
    assert_eq!(tags.iter().collect::<Vec<_>>(), ["van", "a-1", "_"]);
    assert_eq!(Tags::from_joined(tags.joined()), Ok(tags));
    let longest = "a".repeat(32);
    assert!(Tags::new([longest.as_str(); 8]).is_ok());
    assert_eq!(Tags::new(["a"; 9]), Err(Defect::TagsInvalid));
    for tag in ["", "Van", "a b", "a,b", "é", &"a".repeat(33)] {
        assert_eq!(Tags::new([tag]), Err(Defect::TagsInvalid), "{tag}");
    }
    assert!(Tags::new([]).is_ok_and(|tags| tags.is_empty()));
}

proptest! {
    #[test]
    fn a_time_shown_is_read_back(ms in -62_135_596_800_000_i64..253_402_207_200_000) {
        let ts = Timestamp::from_ms(ms);
        prop_assert_eq!(Timestamp::parse_rfc3339(&ts.to_string()), Ok(ts));
    }

    #[test]
    fn an_hour_shown_is_read_back(number in -17_259_888_i32..70_389_504) {
        let hour = Hour::from_number(number);
        prop_assert_eq!(Hour::parse(&hour.to_string()), Ok(hour));
    }

    #[test]
    fn no_text_is_too_strange_for_a_time(text in ".{0,40}") {
        let _ = Timestamp::parse_rfc3339(&text);
        let _ = Hour::parse(&text);
    }

    #[test]
    fn a_place_is_kept_within_a_centimetre(lat in -MAX_LAT..MAX_LAT, lon in -180.0..180.0_f64) {
        let place = Position::new(lat, lon).expect("within");
        prop_assert!((place.lat() - lat).abs() <= 1.01e-7);
        let off = (place.lon() - lon).rem_euclid(360.0);
        prop_assert!(off.min(360.0 - off) <= 0.51e-7);
        prop_assert_eq!(Position::from_e7(place.lat_e7(), place.lon_e7()), Some(place));
    }

    #[test]
    fn measures_are_kept_as_fine_as_promised(mps in 0.0..=1_000.0_f64, deg in 0.0..360.0_f64, m in 0.0..=100_000.0_f64) {
        let speed = Speed::from_mps(mps).expect("within").expect("known");
        prop_assert!((speed.mps() - mps).abs() <= 0.010_001);
        prop_assert_eq!(Speed::from_steps(speed.steps()), Some(speed));
        let heading = Heading::from_deg(deg).expect("within").expect("known");
        prop_assert!((heading.deg() - deg).abs() <= 0.100_001);
        prop_assert_eq!(Heading::from_tenths(heading.tenths()), Some(heading));
        let accuracy = Accuracy::from_m(m).expect("within").expect("known");
        prop_assert!((accuracy.m() - m).abs() <= 0.050_001);
        prop_assert_eq!(Accuracy::from_dm(accuracy.dm()), Some(accuracy));
    }
}
