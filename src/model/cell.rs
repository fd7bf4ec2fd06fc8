//! The cells of H3, by which an hour is spread over shards: which one a place lies in, and which of them a circle
//! touches. A cell is hexagonal, so what the quadtree needs of it is a disc that holds all of it.
//!
//! H3: <https://h3geo.org/docs/core-library/restable>; 15 hex digits name a cell.

use std::fmt;

use geo::{Distance, HaversineMeasure, Point as GeoPoint};

use super::{EARTH_RADIUS_M, MAX_LAT, Position, QuadCell};

/// How fine the cells are: 0, of 1,100 km from the centre to a corner, to 9, of 200 m.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution(h3o::Resolution);

impl Resolution {
    /// The finest.
    pub const MAX: u8 = 9;
    /// The coarsest.
    pub const COARSEST: Self = Self(h3o::Resolution::Zero);

    /// `None` above [`Self::MAX`].
    pub fn new(resolution: u8) -> Option<Self> {
        h3o::Resolution::try_from(resolution).ok().filter(|_| resolution <= Self::MAX).map(Self)
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u8::from(self.0).fmt(f)
    }
}

/// A cell. Shown as H3 writes it, such as `87283472bffffff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(h3o::CellIndex);

impl Cell {
    /// The cell that `position` lies in.
    pub fn containing(position: Position, resolution: Resolution) -> Self {
        Self(position.h3_cell(resolution.0))
    }

    /// Reads it as it is shown.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// A disc that holds all of it.
    pub fn disc(self) -> Disc {
        let middle = h3o::LatLng::from(self.0);
        let centre = Position::new(middle.lat().clamp(-MAX_LAT, MAX_LAT), middle.lng());
        let centre = centre.expect("the middle of a cell is a place, once it is within the map");
        // The farthest place of a convex shape is one of its corners.
        let corners = self.0.boundary();
        let farthest_m = corners.iter().map(|corner| distance_m(centre, *corner)).fold(0.0, f64::max);
        Disc { centre, reach_m: farthest_m.mul_add(ROUNDING, 1.0) }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The sides of a cell are not quite great circles: a hundredth is far more than they bulge.
const ROUNDING: f64 = 1.01;

fn distance_m(from: Position, to: h3o::LatLng) -> f64 {
    const SPHERE: HaversineMeasure = HaversineMeasure::new(EARTH_RADIUS_M);
    SPHERE.distance(GeoPoint::new(from.lon(), from.lat()), GeoPoint::new(to.lng(), to.lat()))
}

/// A circle on the globe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disc {
    centre: Position,
    reach_m: f64,
}

impl Disc {
    /// Whether it has a place in common with the circle of `radius_m` around `centre`.
    pub fn touches(&self, centre: Position, radius_m: f64) -> bool {
        self.centre.distance_m(centre) <= self.reach_m + radius_m
    }

    /// A few cells of the quadtree that hold all they have in common.
    pub fn common_with(&self, centre: Position, radius_m: f64) -> Vec<QuadCell> {
        let ((small, small_m), (large, large_m)) = if self.reach_m < radius_m {
            ((self.centre, self.reach_m), (centre, radius_m))
        } else {
            ((centre, radius_m), (self.centre, self.reach_m))
        };
        let cells = QuadCell::covering(small, small_m).into_iter();
        cells.filter(|cell| cell.min_distance_m(large) <= large_m).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// Anywhere, and more often where it is difficult: by the poles' limits, the antimeridian, a pentagon.
    fn place(rng: &mut StdRng) -> Position {
        let near = |rng: &mut StdRng, middle: f64| middle + rng.random_range(-0.05..0.05);
        let lat = match rng.random_range(0..5) {
            0 => 85.0 + rng.random_range(0.0..0.051),
            1 => -85.0 - rng.random_range(0.0..0.051),
            2 => near(rng, 64.7),
            _ => rng.random_range(-85.0..85.0),
        };
        let lon = match rng.random_range(0..5) {
            0 => rng.random_range(179.9..180.0),
            1 => rng.random_range(-180.0..-179.9),
            2 => near(rng, 10.536_2),
            _ => rng.random_range(-180.0..180.0),
        };
        Position::new(lat, lon).expect("on the map")
    }

    /// Some way from `from`, in steps of degrees.
    fn beside(rng: &mut StdRng, from: Position, metres: f64) -> Position {
        let deg = metres / 111_000.0;
        let lat = (from.lat() + rng.random_range(-deg..deg)).clamp(-MAX_LAT, MAX_LAT);
        let wide = (deg / lat.to_radians().cos()).min(180.0);
        let lon = (from.lon() + rng.random_range(-wide..wide) + 540.0).rem_euclid(360.0) - 180.0;
        Position::new(lat, lon).expect("on the map")
    }

    #[test]
    fn a_disc_holds_its_cell_and_what_a_circle_has_of_it() {
        let mut rng = StdRng::seed_from_u64(1);
        for number in 0..20_000_u32 {
            let resolution = Resolution::new((number % 10) as u8).expect("there is one");
            let centre = place(&mut rng);
            let radius_m = 10_f64.powf(rng.random_range(0.0..5.0));
            let there = beside(&mut rng, centre, radius_m);
            let disc = Cell::containing(there, resolution).disc();
            assert!(disc.centre.distance_m(there) <= disc.reach_m, "{there:?} in its cell of {resolution}");
            if centre.distance_m(there) > radius_m {
                continue;
            }
            assert!(disc.touches(centre, radius_m), "{there:?} within {radius_m} of {centre:?} at {resolution}");
            let cells = disc.common_with(centre, radius_m);
            let holds = cells.iter().filter(|cell| QuadCell::containing(there, cell.level()) == **cell).count();
            assert_eq!(holds, 1, "{there:?} within {radius_m} of {centre:?} at {resolution}: {cells:?}");
        }
    }

    #[test]
    fn a_disc_is_hardly_larger_than_its_cell() {
        let place = Position::new(52.5, 13.4).expect("on the map");
        for (resolution, most_m) in [(5, 11_000.0), (7, 1_700.0), (9, 260.0)] {
            let disc = Cell::containing(place, Resolution::new(resolution).expect("there is one")).disc();
            assert!(disc.reach_m < most_m, "{resolution}: {} m", disc.reach_m);
            assert!(!disc.touches(Position::new(53.5, 13.4).expect("on the map"), 50_000.0));
        }
    }
}
