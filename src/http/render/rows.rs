//! The rows that drivers and their points are. They are written by hand: their numbers are whole steps of powers of ten,
//! and nothing in them needs an escape.

use serde::Serialize;

use super::decimal::{write_decimal, write_moment};
use super::{Row, write};
use crate::model::{Accuracy, DriverId, Fix, Heading, Point, Speed, Timestamp};
use crate::store::{Located, Near};

/// A DRIVER or a POINT of the contract.
#[derive(Clone, Copy)]
struct Report<'a> {
    driver: &'a DriverId,
    fix: &'a Fix,
    age_ms: Option<i64>,
    distance_mm: Option<i64>,
}

impl<'a> Report<'a> {
    const fn of_point(driver: &'a DriverId, fix: &'a Fix) -> Self {
        Self { driver, fix, age_ms: None, distance_mm: None }
    }

    /// A DRIVER: where it was and how long ago that is. A fix ahead of now is of now.
    fn of_driver(located: &'a Located, now: Timestamp) -> Self {
        let age_ms = now.ms_since(located.fix.ts).max(0);
        Self { age_ms: Some(age_ms), ..Self::of_point(&located.driver, &located.fix) }
    }

    fn of_near(near: &'a Near, now: Timestamp) -> Self {
        // To the millimetre: the digits beyond are noise of the arithmetic.
        let distance_mm = (near.distance_m * 1_000.0).round() as i64;
        Self { distance_mm: Some(distance_mm), ..Self::of_driver(&near.located, now) }
    }

    fn write_json(self, out: &mut Vec<u8>) {
        self.write(true, out);
    }

    /// As a feature; its place goes from the properties into the geometry.
    fn write_feature(self, out: &mut Vec<u8>) {
        let position = self.fix.position;
        out.extend_from_slice(br#"{"type":"Feature","geometry":{"type":"Point","coordinates":["#);
        write_decimal::<7>(position.lon_e7().into(), out);
        out.push(b',');
        write_decimal::<7>(position.lat_e7().into(), out);
        out.extend_from_slice(br#"]},"properties":"#);
        self.write(false, out);
        out.push(b'}');
    }

    fn write(self, has_place: bool, out: &mut Vec<u8>) {
        let Self { driver, fix, age_ms, distance_mm } = self;
        out.extend_from_slice(br#"{"driver_id":""#);
        out.extend_from_slice(driver.as_str().as_bytes());
        out.extend_from_slice(br#"","ts":""#);
        write_moment(fix.ts, out);
        out.push(b'"');
        member::<3>(br#","age_s":"#, age_ms, out);
        if has_place {
            member::<7>(br#","lat":"#, Some(fix.position.lat_e7()), out);
            member::<7>(br#","lon":"#, Some(fix.position.lon_e7()), out);
        }
        member::<2>(br#","speed_mps":"#, fix.speed.map(Speed::hundredths), out);
        member::<1>(br#","heading_deg":"#, fix.heading.map(Heading::tenths), out);
        member::<1>(br#","accuracy_m":"#, fix.accuracy.map(Accuracy::dm), out);
        for (index, tag) in fix.tags.iter().enumerate() {
            out.extend_from_slice(if index == 0 { br#","tags":[""# } else { br#"",""# });
            out.extend_from_slice(tag.as_bytes());
        }
        if !fix.tags.is_empty() {
            out.extend_from_slice(br#""]"#);
        }
        member::<3>(br#","distance_m":"#, distance_mm, out);
        out.push(b'}');
    }
}

/// A member that is a number, if it is known: `steps` of ten to the minus `DECIMALS`.
fn member<const DECIMALS: usize>(name: &[u8], steps: Option<impl Into<i64>>, out: &mut Vec<u8>) {
    if let Some(steps) = steps {
        out.extend_from_slice(name);
        write_decimal::<DECIMALS>(steps.into(), out);
    }
}

impl Row for Located {
    fn write_json(&self, now: Timestamp, out: &mut Vec<u8>) {
        Report::of_driver(self, now).write_json(out);
    }

    fn write_feature(&self, now: Timestamp, out: &mut Vec<u8>) {
        Report::of_driver(self, now).write_feature(out);
    }
}

impl Row for Near {
    fn write_json(&self, now: Timestamp, out: &mut Vec<u8>) {
        Report::of_near(self, now).write_json(out);
    }

    fn write_feature(&self, now: Timestamp, out: &mut Vec<u8>) {
        Report::of_near(self, now).write_feature(out);
    }
}

impl Row for Point {
    fn write_json(&self, _: Timestamp, out: &mut Vec<u8>) {
        Report::of_point(&self.driver, &self.fix).write_json(out);
    }

    fn write_feature(&self, _: Timestamp, out: &mut Vec<u8>) {
        Report::of_point(&self.driver, &self.fix).write_feature(out);
    }
}

/// Who, and nothing of where.
impl Row for DriverId {
    fn write_json(&self, _: Timestamp, out: &mut Vec<u8>) {
        write(self.as_str(), out);
    }

    fn write_feature(&self, _: Timestamp, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Feature<'a> {
            r#type: &'static str,
            geometry: (),
            properties: Who<'a>,
        }
        #[derive(Serialize)]
        struct Who<'a> {
            driver_id: &'a str,
        }
        write(&Feature { r#type: "Feature", geometry: (), properties: Who { driver_id: self.as_str() } }, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Position, Tags};

    const NOW: Timestamp = Timestamp::from_ms(1_795_377_600_000);

    fn located(ts: Timestamp) -> Located {
        let fix = Fix {
            ts,
            position: Position::new(37.743_56, 180.0).unwrap(),
            speed: Speed::from_mps(12.34).unwrap(),
            heading: Heading::from_deg(359.9).unwrap(),
            accuracy: Accuracy::from_m(5.0).unwrap(),
            tags: Tags::new(["van", "idle"]).unwrap(),
        };
        Located { driver: DriverId::new("d").unwrap(), fix }
    }

    fn bare(ts: Timestamp) -> Located {
        let Located { driver, fix } = located(ts);
        Located { driver, fix: Fix { speed: None, heading: None, accuracy: None, tags: Tags::NONE, ..fix } }
    }

    fn json(row: &impl Row) -> String {
        let mut out = vec![];
        row.write_json(NOW, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn feature(row: &impl Row) -> String {
        let mut out = vec![];
        row.write_feature(NOW, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_driver_has_an_age_and_what_is_known() {
        assert_eq!(
            json(&located(NOW.plus_ms(-1_500))),
            concat!(
                r#"{"driver_id":"d","ts":"2026-11-22T19:59:58.500Z","age_s":1.5,"lat":37.74356,"lon":-180.0,"#,
                r#""speed_mps":12.34,"heading_deg":359.9,"accuracy_m":5.0,"tags":["van","idle"]}"#
            )
        );
        assert_eq!(
            json(&bare(NOW.plus_ms(90_000))),
            r#"{"driver_id":"d","ts":"2026-11-22T20:01:30.000Z","age_s":0.0,"lat":37.74356,"lon":-180.0}"#
        );
    }

    #[test]
    fn a_point_has_no_age() {
        let Located { driver, fix } = bare(NOW);
        assert_eq!(
            json(&Point { driver, fix }),
            r#"{"driver_id":"d","ts":"2026-11-22T20:00:00.000Z","lat":37.74356,"lon":-180.0}"#
        );
    }

    #[test]
    fn a_feature_has_its_place_in_the_geometry_alone() {
        let near = Near { located: bare(NOW), distance_m: 12.345_678_9 };
        assert_eq!(
            feature(&near),
            concat!(
                r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[-180.0,37.74356]},"#,
                r#""properties":{"driver_id":"d","ts":"2026-11-22T20:00:00.000Z","age_s":0.0,"distance_m":12.346}}"#
            )
        );
    }

    #[test]
    fn a_row_is_json_whose_numbers_are_those_of_the_model() {
        for (e7, steps) in [(377_435_600, 0), (1, 1), (-1, 49), (850_511_287, 50_000), (-123_456_789, 333)] {
            let fix = Fix {
                position: Position::from_e7(e7, -e7).unwrap(),
                speed: Speed::from_steps(steps),
                heading: Heading::from_tenths(steps % 3_600),
                accuracy: Accuracy::from_dm(steps.into()),
                ..located(NOW).fix
            };
            let near = Near { located: Located { fix: fix.clone(), ..located(NOW) }, distance_m: f64::from(steps) };
            let row: serde_json::Value = serde_json::from_str(&json(&near)).unwrap();
            for (member, value) in [
                ("lat", fix.position.lat()),
                ("lon", fix.position.lon()),
                ("speed_mps", fix.speed.unwrap().mps()),
                ("heading_deg", fix.heading.unwrap().deg()),
                ("accuracy_m", fix.accuracy.unwrap().m()),
                ("distance_m", near.distance_m),
            ] {
                assert_eq!(row[member].as_f64(), Some(value), "{member} of {row}");
            }
            let feature: serde_json::Value = serde_json::from_str(&feature(&near)).unwrap();
            assert_eq!(feature["geometry"]["coordinates"][1], row["lat"]);
            assert_eq!(feature["properties"]["tags"], row["tags"]);
        }
    }
}
