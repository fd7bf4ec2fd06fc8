//! The rows of a density: H3 cells and how many drivers each holds.

use geo::orient::{Direction, Orient};
use serde::{Serialize, Serializer};

use super::{Row, write};
use crate::model::Timestamp;

/// A cell and the number of drivers in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellCount {
    /// Which cell.
    pub(crate) cell: h3o::CellIndex,
    /// How many drivers.
    pub(crate) drivers: u64,
}

#[derive(Serialize)]
struct Properties {
    h3: Name,
    drivers: u64,
}

/// A cell's index in hexadecimal.
struct Name(h3o::CellIndex);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A `GeoJSON` polygon, or several where the cell lies on both sides of the antimeridian (RFC 7946, 3.1.9).
#[derive(Serialize)]
#[serde(tag = "type", content = "coordinates")]
enum Outline {
    Polygon(Rings),
    MultiPolygon(Vec<Rings>),
}

/// Closed rings of `[lon, lat]`, the outer one counter-clockwise.
type Rings = Vec<Vec<[f64; 2]>>;

impl CellCount {
    const fn properties(self) -> Properties {
        Properties { h3: Name(self.cell), drivers: self.drivers }
    }

    fn outline(self) -> Outline {
        let polygons = geo::MultiPolygon::from(self.cell).orient(Direction::Default);
        let mut rings: Vec<Rings> = polygons.iter().map(rings).collect();
        match rings.pop() {
            Some(only) if rings.is_empty() => Outline::Polygon(only),
            last => Outline::MultiPolygon(rings.into_iter().chain(last).collect()),
        }
    }
}

fn rings(polygon: &geo::Polygon) -> Rings {
    let all = std::iter::once(polygon.exterior()).chain(polygon.interiors());
    all.map(|ring| ring.coords().map(|corner| [rounded(corner.x), rounded(corner.y)]).collect()).collect()
}

/// To seven decimals, as all positions.
fn rounded(deg: f64) -> f64 {
    (deg * 1e7).round() / 1e7
}

impl Row for CellCount {
    fn write_json(&self, _: Timestamp, out: &mut Vec<u8>) {
        write(&self.properties(), out);
    }

    fn write_feature(&self, _: Timestamp, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Feature {
            r#type: &'static str,
            geometry: Outline,
            properties: Properties,
        }
        write(&Feature { r#type: "Feature", geometry: self.outline(), properties: self.properties() }, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_at(lat: f64, lon: f64, resolution: h3o::Resolution) -> CellCount {
        CellCount { cell: h3o::LatLng::new(lat, lon).unwrap().to_cell(resolution), drivers: 3 }
    }

    fn feature(count: CellCount) -> serde_json::Value {
        let mut out = vec![];
        count.write_feature(Timestamp::from_ms(0), &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    /// Twice the signed area of a closed ring: positive if counter-clockwise.
    fn doubled_area(ring: &[[f64; 2]]) -> f64 {
        ring.windows(2).map(|edge| edge[0][0] * edge[1][1] - edge[1][0] * edge[0][1]).sum()
    }

    #[test]
    fn a_cell_is_named_in_hexadecimal() {
        let mut out = vec![];
        let cell = "87283472bffffff".parse().unwrap();
        CellCount { cell, drivers: 2 }.write_json(Timestamp::from_ms(0), &mut out);
        assert_eq!(out, br#"{"h3":"87283472bffffff","drivers":2}"#);
    }

    #[test]
    fn outlines_are_closed_and_counter_clockwise() {
        for (lat, lon, resolution) in [
            (37.77, -122.42, h3o::Resolution::Seven),
            (-33.9, 151.2, h3o::Resolution::Fifteen),
            (0.1, 179.999_9, h3o::Resolution::Four),
            (-17.0, -179.999_9, h3o::Resolution::Two),
            (84.9, 10.0, h3o::Resolution::Zero),
        ] {
            let outline = count_at(lat, lon, resolution).outline();
            let polygons = match outline {
                Outline::Polygon(rings) => vec![rings],
                Outline::MultiPolygon(polygons) => polygons,
            };
            assert!(!polygons.is_empty());
            for ring in polygons.iter().map(|rings| &rings[0]) {
                assert_eq!(ring.first(), ring.last(), "{lat} {lon}");
                assert!(doubled_area(ring) > 0.0, "{lat} {lon}");
                assert!(ring.iter().all(|[lon, lat]| lon.abs() <= 180.0 && lat.abs() <= 90.0));
            }
        }
    }

    #[test]
    fn a_cell_on_the_antimeridian_is_split() {
        assert_eq!(feature(count_at(37.77, -122.42, h3o::Resolution::Seven))["geometry"]["type"], "Polygon");
        let split = feature(count_at(-17.0, 180.0, h3o::Resolution::Four));
        assert_eq!(split["geometry"]["type"], "MultiPolygon");
        assert_eq!(split["geometry"]["coordinates"].as_array().unwrap().len(), 2);
        assert_eq!(split["properties"]["drivers"], 3);
    }
}
