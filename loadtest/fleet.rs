//! The fleet that is reported and asked about: a metropolis of 60 by 60 km in which 7 of 10 drivers stand in ten hot
//! spots, each driver going up and down a street of its own, 30 m from one report to the next.
//!
//! Where a driver is follows from its number and from how often it has reported, so requests can be made at any rate, in
//! any order and by any task without a lock. Never here: time, requests.

use std::f64::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The middle of the city, degrees; two digits before the point wherever a driver gets to.
const LAT: f64 = 52.5;
const LON: f64 = 13.4;
/// Metres of a degree of latitude.
const DEGREE_M: f64 = 111_226.0;
/// From the middle to an edge, metres.
const REACH_M: f64 = 30_000.0;
const HOT_SPOTS: usize = 10;
const SHARE_IN_HOT_SPOTS: f64 = 0.7;
/// How far the drivers of a hot spot stand from its middle along either axis (standard deviation), metres.
const SPREAD_M: f64 = 1_500.0;
/// From one report to the next, metres.
const MOVE_M: f64 = 30.0;
/// A street is so many moves long.
const STREET_MOVES: u32 = 20;

/// All drivers. The same number of them stands in the same places in every run.
pub(crate) struct Fleet {
    homes: Vec<Home>,
}

/// Where a driver began, and where its street goes.
struct Home {
    lat_e6: i32,
    lon_e6: i32,
    /// A move, in millionths of a degree.
    step_lat_e6: i16,
    step_lon_e6: i16,
    /// Whole degrees from 100 to 359: always three digits.
    heading_deg: u16,
}

/// What a driver reports of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Millionths of a degree.
    pub(crate) lat_e6: u32,
    /// Millionths of a degree.
    pub(crate) lon_e6: u32,
    /// Whole degrees from 100 to 359.
    pub(crate) heading_deg: u16,
}

impl Fleet {
    pub(crate) fn new(drivers: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let anywhere = |rng: &mut StdRng| (rng.random_range(-REACH_M..REACH_M), rng.random_range(-REACH_M..REACH_M));
        let spots: Vec<(f64, f64)> = (0..HOT_SPOTS).map(|_| anywhere(&mut rng)).collect();
        let home = |_| {
            let (mut east_m, mut north_m) = if rng.random_bool(SHARE_IN_HOT_SPOTS) {
                spots[rng.random_range(0..HOT_SPOTS)]
            } else {
                return Home::new(anywhere(&mut rng), &mut rng);
            };
            // Box and Muller 1958: two numbers of the normal distribution at once.
            let away_m = SPREAD_M * (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = rng.random_range(0.0..TAU);
            east_m += away_m * angle.cos();
            north_m += away_m * angle.sin();
            Home::new((east_m, north_m), &mut rng)
        };
        Self { homes: (0..drivers).map(home).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.homes.len()
    }

    /// Where `driver` is when it reports for the `round`th time.
    pub(crate) fn place(&self, driver: usize, round: u32) -> Place {
        let home = &self.homes[driver];
        let along = round % (2 * STREET_MOVES);
        let moves = along.min(2 * STREET_MOVES - along) as i32;
        Place {
            lat_e6: (home.lat_e6 + moves * i32::from(home.step_lat_e6)) as u32,
            lon_e6: (home.lon_e6 + moves * i32::from(home.step_lon_e6)) as u32,
            heading_deg: home.heading_deg,
        }
    }
}

impl Home {
    fn new((east_m, north_m): (f64, f64), rng: &mut StdRng) -> Self {
        let angle = rng.random_range(0.0..TAU);
        let lon_degree_m = DEGREE_M * LAT.to_radians().cos();
        Self {
            lat_e6: ((LAT + north_m / DEGREE_M) * 1e6).round() as i32,
            lon_e6: ((LON + east_m / lon_degree_m) * 1e6).round() as i32,
            step_lat_e6: (MOVE_M * angle.sin() / DEGREE_M * 1e6).round() as i16,
            step_lon_e6: (MOVE_M * angle.cos() / lon_degree_m * 1e6).round() as i16,
            heading_deg: rng.random_range(100..360),
        }
    }
}

/// A number that looks like chance and follows from `number` (splitmix64).
pub(crate) fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}
