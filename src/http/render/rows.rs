//! The rows that drivers and their points are.

use serde::{Serialize, Serializer};

use super::{Moment, Row, write};
use crate::model::{Accuracy, DriverId, Fix, Heading, Point, Position, Speed, Tags, Timestamp};
use crate::store::{Located, Near};

/// A DRIVER or a POINT of the contract; without its place, the properties of its feature.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    driver_id: &'a str,
    ts: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lat: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lon: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_mps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heading_deg: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<TagList<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_m: Option<f64>,
}

impl<'a> Report<'a> {
    /// A DRIVER: where it was and how long ago that is. A fix ahead of now is of now.
    pub(crate) fn of_driver(located: &'a Located, now: Timestamp) -> Self {
        let age_ms = now.ms_since(located.fix.ts).max(0);
        Self { age_s: Some(age_ms as f64 / 1_000.0), ..Self::of_point(&located.driver, &located.fix) }
    }

    fn of_point(driver: &'a DriverId, fix: &'a Fix) -> Self {
        Self {
            driver_id: driver.as_str(),
            ts: Moment(fix.ts),
            age_s: None,
            lat: Some(fix.position.lat()),
            lon: Some(fix.position.lon()),
            speed_mps: fix.speed.map(Speed::mps),
            heading_deg: fix.heading.map(Heading::deg),
            accuracy_m: fix.accuracy.map(Accuracy::m),
            tags: (!fix.tags.is_empty()).then_some(TagList(&fix.tags)),
            distance_m: None,
        }
    }

    fn of_near(near: &'a Near, now: Timestamp) -> Self {
        // Rounded to the millimetre: the digits beyond are noise of the arithmetic.
        let distance_m = (near.distance_m * 1_000.0).round() / 1_000.0;
        Self { distance_m: Some(distance_m), ..Self::of_driver(&near.located, now) }
    }
}

struct TagList<'a>(&'a Tags);

impl Serialize for TagList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}

#[derive(Serialize)]
struct Feature<G, P> {
    r#type: &'static str,
    geometry: G,
    properties: P,
}

#[derive(Serialize)]
struct Geometry {
    r#type: &'static str,
    coordinates: [f64; 2],
}

/// Writes what is at a position as a feature; its place goes from the properties into the geometry.
fn write_at(position: Position, report: Report<'_>, out: &mut Vec<u8>) {
    let geometry = Geometry { r#type: "Point", coordinates: [position.lon(), position.lat()] };
    let properties = Report { lat: None, lon: None, ..report };
    write(&Feature { r#type: "Feature", geometry, properties }, out);
}

impl Row for Located {
    fn write_json(&self, now: Timestamp, out: &mut Vec<u8>) {
        write(&Report::of_driver(self, now), out);
    }

    fn write_feature(&self, now: Timestamp, out: &mut Vec<u8>) {
        write_at(self.fix.position, Report::of_driver(self, now), out);
    }
}

impl Row for Near {
    fn write_json(&self, now: Timestamp, out: &mut Vec<u8>) {
        write(&Report::of_near(self, now), out);
    }

    fn write_feature(&self, now: Timestamp, out: &mut Vec<u8>) {
        write_at(self.located.fix.position, Report::of_near(self, now), out);
    }
}

impl Row for Point {
    fn write_json(&self, _: Timestamp, out: &mut Vec<u8>) {
        write(&Report::of_point(&self.driver, &self.fix), out);
    }

    fn write_feature(&self, _: Timestamp, out: &mut Vec<u8>) {
        write_at(self.fix.position, Report::of_point(&self.driver, &self.fix), out);
    }
}

/// Who, and nothing of where.
impl Row for DriverId {
    fn write_json(&self, _: Timestamp, out: &mut Vec<u8>) {
        write(self.as_str(), out);
    }

    fn write_feature(&self, _: Timestamp, out: &mut Vec<u8>) {
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
    fn no_position_prints_more_than_seven_decimals() {
        for e7 in [377_435_600, 1, -1, 850_511_287, 123_456_789, -377_749_301] {
            let lat = Position::from_e7(e7, 0).unwrap().lat();
            let printed = format!("{lat}");
            let decimals = printed.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            assert!(decimals <= 7, "{printed}");
        }
    }
}
