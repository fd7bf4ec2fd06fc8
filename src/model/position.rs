//! Where: a place on the globe, and how far two are apart.

use geo::{Distance, HaversineMeasure, Point as GeoPoint};

use super::Defect;

/// The highest latitude, in degrees, either way: the limit of Redis GEO (of Web Mercator).
pub const MAX_LAT: f64 = 85.051_128_78;

/// Metres. Redis' sphere (`geohash_helper.c`), so that both stores agree to the millimetre. `geo`'s own default is
/// the GRS80 mean, 0.03 % shorter.
pub const EARTH_RADIUS_M: f64 = 6_372_797.560_856;

const STEPS_PER_DEG: f64 = 1e7;
/// [`MAX_LAT`] cut to whole steps: rounding it up would carry it past what GEOADD takes.
const MAX_LAT_STEPS: i32 = 850_511_287;
const HALF_TURN_STEPS: i32 = 1_800_000_000;

/// A place, in steps of 1e-7 degrees (1.1 cm): `lat` within ±85.0511287, `lon` from -180 up to, not including, 180.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    lat_e7: i32,
    lon_e7: i32,
}

impl Position {
    /// From degrees. 180 and -180 are one place, kept as -180: Redis encodes 180 past its last bit and then misses
    /// it. Says nothing of [`Defect::NullIsland`], which is a fault of a report, not of a place.
    pub fn new(lat: f64, lon: f64) -> Result<Self, Defect> {
        if lat.is_nan() || lat.abs() > MAX_LAT {
            return Err(Defect::LatOutOfRange { looks_swapped: looks_swapped(lat, lon) });
        }
        if lon.is_nan() || lon.abs() > 180.0 {
            return Err(Defect::LonOutOfRange);
        }
        let lat_e7 = ((lat * STEPS_PER_DEG).round() as i32).clamp(-MAX_LAT_STEPS, MAX_LAT_STEPS);
        let lon_e7 = (lon * STEPS_PER_DEG).round() as i32;
        Ok(Self { lat_e7, lon_e7: if lon_e7 == HALF_TURN_STEPS { -HALF_TURN_STEPS } else { lon_e7 } })
    }

    /// From steps of 1e-7 degrees; `None` outside the range.
    pub fn from_e7(lat_e7: i32, lon_e7: i32) -> Option<Self> {
        let within = (-MAX_LAT_STEPS..=MAX_LAT_STEPS).contains(&lat_e7)
            && (-HALF_TURN_STEPS..HALF_TURN_STEPS).contains(&lon_e7);
        within.then_some(Self { lat_e7, lon_e7 })
    }

    /// Latitude in degrees.
    pub fn lat(self) -> f64 {
        f64::from(self.lat_e7) / STEPS_PER_DEG
    }

    /// Longitude in degrees.
    pub fn lon(self) -> f64 {
        f64::from(self.lon_e7) / STEPS_PER_DEG
    }

    /// Latitude in steps of 1e-7 degrees, for encodings.
    pub const fn lat_e7(self) -> i32 {
        self.lat_e7
    }

    /// Longitude in steps of 1e-7 degrees, for encodings.
    pub const fn lon_e7(self) -> i32 {
        self.lon_e7
    }

    /// Metres along the great circle (haversine).
    pub fn distance_m(self, other: Self) -> f64 {
        const SPHERE: HaversineMeasure = HaversineMeasure::new(EARTH_RADIUS_M);
        SPHERE.distance(GeoPoint::new(self.lon(), self.lat()), GeoPoint::new(other.lon(), other.lat()))
    }

    /// The H3 cell it lies in.
    pub fn h3_cell(self, resolution: h3o::Resolution) -> h3o::CellIndex {
        h3o::LatLng::new(self.lat(), self.lon()).expect("both are finite").to_cell(resolution)
    }
}

/// Whether a latitude that is none would do as a longitude, and the longitude as a latitude. Up to 90 it is a true
/// latitude beyond our limit; and 0 is more often a default than the other half of a swap.
fn looks_swapped(lat: f64, lon: f64) -> bool {
    lat.abs() > 90.0 && lat.abs() <= 180.0 && lon.abs() <= MAX_LAT && lon != 0.0
}
