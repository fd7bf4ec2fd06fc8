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
