//! The fleet whose cost is measured.

use std::f64::consts::TAU;

use geotrail::model::{DriverId, Point, Position};
use geotrail::store::Window;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::redis_store::{now, point};

/// The middle of the city.
const LAT: f64 = 52.5;
const LON: f64 = 13.4;
const M_PER_DEG: f64 = 111_226.0;

/// A metropolis of 60 by 60 km: 7 of 10 drivers stand in ten hot spots of 1.5 km, all move by 30 m.
pub(crate) struct Fleet {
    rng: StdRng,
    /// Metres east and north of the middle.
    places: Vec<(f64, f64)>,
    reported: usize,
    window: Window,
}

impl Fleet {
    pub(crate) fn new(drivers: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let anywhere = |rng: &mut StdRng| (rng.random_range(-3e4..3e4), rng.random_range(-3e4..3e4));
        let spots: Vec<(f64, f64)> = (0..10).map(|_| anywhere(&mut rng)).collect();
        let place = |_| {
            if !rng.random_bool(0.7) {
                return anywhere(&mut rng);
            }
            let (east, north) = spots[rng.random_range(0..spots.len())];
            let away_m = 1_500.0 * (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = rng.random_range(0.0..TAU);
            (away_m.mul_add(angle.cos(), east), away_m.mul_add(angle.sin(), north))
        };
        let places = (0..drivers).map(place).collect();
        let window = Window { since: now().hour().previous().start(), until: now().plus_ms(120_000) };
        Self { rng, places, reported: 0, window }
    }

    /// Where everybody is next, at a moment of an hour that is over.
    pub(crate) fn report(&mut self) -> Vec<Point> {
        let begun = self.window.since.plus_ms(600_000 + 5_000 * self.reported as i64);
        self.reported += 1;
        let mut points = Vec::with_capacity(self.places.len());
        for (number, place) in self.places.iter_mut().enumerate() {
            let angle = self.rng.random_range(0.0..TAU);
            *place = (30.0_f64.mul_add(angle.cos(), place.0), 30.0_f64.mul_add(angle.sin(), place.1));
            let at = position(*place);
            let ts = begun.plus_ms(self.rng.random_range(0..5_000));
            let driver = DriverId::new(&format!("drv-{number:08}")).expect("a good id");
            points.push(point(driver, ts, at.lat_e7(), at.lon_e7()));
        }
        points
    }

    /// From the beginning of that hour until the fleet came to be; what goes on may last longer than an hour.
    pub(super) const fn window(&self) -> Window {
        self.window
    }

    /// Somewhere a customer may be: where a driver is.
    pub(super) fn somewhere(&mut self) -> Position {
        let at = self.rng.random_range(0..self.places.len());
        position(self.places[at])
    }
}

fn position((east_m, north_m): (f64, f64)) -> Position {
    let lon = LON + east_m / (M_PER_DEG * LAT.to_radians().cos());
    Position::new(LAT + north_m / M_PER_DEG, lon).expect("in the city")
}
