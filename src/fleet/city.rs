//! A made-up fleet in a city of straight streets: where each driver is, how fast, and what its phone says of it.
//!
//! A driver keeps to the streets of a grid, picks up speed, brakes for lights and corners, halts at the kerb to pick
//! somebody up or to set them down, and goes off duty now and then. The phone adds its error, which wanders rather
//! than jumps. All of it follows from the seed.
//!
//! Never here: the time of day, the network.

use std::f64::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Denver: a grid of streets along the compass, far from any sea to drive into.
const CENTRE_LAT: f64 = 39.739_2;
const CENTRE_LON: f64 = -104.990_3;
/// Metres of a degree of latitude, near enough for a made-up city.
const DEGREE_M: f64 = 111_195.0;
/// Blocks are longer from north to south.
const BLOCK_NS_M: f32 = 200.0;
const BLOCK_EW_M: f32 = 100.0;
/// The city reaches this many blocks from its centre: 9 km to every side.
const REACH_NS: i16 = 45;
const REACH_EW: i16 = 90;

const ACCELERATION: f32 = 2.0;
const BRAKING: f32 = 3.0;
const CORNER_SPEED: f32 = 4.0;
/// Motion is worked out in steps of at most this many seconds.
const STEP_S: f32 = 1.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vehicle {
    Car,
    Van,
    Bike,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    North,
    East,
    South,
    West,
}

/// Why the driver will be slow at the end of the stretch ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    Nothing,
    Corner,
    RedLight,
    Kerb,
}

#[derive(Clone, Debug)]
struct Driver {
    vehicle: Vehicle,
    busy: bool,
    /// The crossing it comes from.
    ns: i16,
    ew: i16,
    direction: Direction,
    /// Metres from that crossing, and where the stretch ends: the next crossing, or a kerb before it.
    along_m: f32,
    end_m: f32,
    ahead: Ahead,
    speed_mps: f32,
    /// What it would like to drive.
    cruise_mps: f32,
    /// Seconds it still stands.
    halt_s: f32,
    /// Seconds until it is busy or free again.
    fare_s: f32,
    /// Seconds until its shift or its break ends.
    duty_s: f32,
    on_duty: bool,
    /// The phone: how good its fix is, and how far off it is at the moment, in metres.
    accuracy_m: f32,
    off_north_m: f32,
    off_east_m: f32,
}

/// What a driver's phone reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Degrees.
    pub lat: f64,
    /// Degrees.
    pub lon: f64,
    /// Metres per second.
    pub speed_mps: f32,
    /// Degrees clockwise from north; a phone that stands does not know.
    pub heading_deg: Option<f32>,
    /// Metres.
    pub accuracy_m: f32,
    /// The kind of vehicle, and whether it is free.
    pub tags: [&'static str; 2],
}

/// A fleet in its city.
#[derive(Debug)]
pub struct City {
    drivers: Vec<Driver>,
    rng: StdRng,
}

impl City {
    /// With `drivers` drivers, all of them on duty and scattered over the streets, more of them towards the centre.
    pub fn new(drivers: u32, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drivers = (0..drivers).map(|_| Driver::new(&mut rng)).collect();
        Self { drivers, rng }
    }

    /// Drives one driver on for `seconds` and asks its phone; `None` while it is off duty.
    pub fn drive(&mut self, driver: usize, seconds: f32) -> Option<Report> {
        let driver = &mut self.drivers[driver];
        if !driver.serve(seconds, &mut self.rng) {
            return None;
        }
        let mut left_s = seconds;
        while left_s > 0.0 {
            driver.step(left_s.min(STEP_S), &mut self.rng);
            left_s -= STEP_S;
        }
        Some(driver.report(&mut self.rng))
    }
}

impl Driver {
    fn new(rng: &mut StdRng) -> Self {
        let vehicle = match rng.random_range(0..10) {
            0..7 => Vehicle::Car,
            7..9 => Vehicle::Van,
            _ => Vehicle::Bike,
        };
        // Of two throws the one nearer to the centre.
        let nearer = |rng: &mut StdRng, reach: i16| {
            let (a, b) = (rng.random_range(-reach..=reach), rng.random_range(-reach..=reach));
            if i16::abs(a) < i16::abs(b) { a } else { b }
        };
        let mut driver = Self {
            vehicle,
            busy: rng.random_bool(0.5),
            ns: nearer(rng, REACH_NS),
            ew: nearer(rng, REACH_EW),
            direction: Direction::ALL[rng.random_range(0..4)],
            along_m: 0.0,
            end_m: 0.0,
            ahead: Ahead::Nothing,
            speed_mps: 0.0,
            cruise_mps: 0.0,
            halt_s: 0.0,
            fare_s: rng.random_range(5.0..600.0),
            duty_s: rng.random_range(600.0..10_800.0),
            on_duty: true,
            accuracy_m: rng.random_range(3.0..15.0),
            off_north_m: 0.0,
            off_east_m: 0.0,
        };
        driver.enter_street(rng);
        driver.along_m = rng.random_range(0.0..driver.end_m);
        driver.speed_mps = driver.cruise_mps * rng.random_range(0.0..1.0);
        driver
    }

    /// Whether it is on duty, `seconds` later.
    fn serve(&mut self, seconds: f32, rng: &mut StdRng) -> bool {
        self.duty_s -= seconds;
        if self.duty_s <= 0.0 {
            self.on_duty = !self.on_duty;
            self.duty_s =
                if self.on_duty { rng.random_range(1_800.0..10_800.0) } else { rng.random_range(600.0..2_400.0) };
            self.speed_mps = 0.0;
        }
        self.on_duty
    }

    fn step(&mut self, seconds: f32, rng: &mut StdRng) {
        self.fare_s -= seconds;
        if self.halt_s > 0.0 {
            self.halt_s -= seconds;
            self.speed_mps = 0.0;
            return;
        }
        if self.fare_s <= 0.0 && self.ahead != Ahead::Kerb {
            self.pull_over();
        }
        let end_speed = match self.ahead {
            Ahead::Nothing => self.cruise_mps,
            Ahead::Corner => CORNER_SPEED,
            Ahead::RedLight | Ahead::Kerb => 0.0,
        };
        let left_m = (self.end_m - self.along_m).max(0.0);
        let brake_mps = (end_speed * end_speed + 2.0 * BRAKING * left_m).sqrt();
        let wanted = self.cruise_mps.min(brake_mps);
        let slowest = self.speed_mps - BRAKING * 1.5 * seconds;
        let fastest = self.speed_mps + ACCELERATION * seconds;
        // Braking towards a stop creeps ever slower: half a metre a second is enough to arrive.
        self.speed_mps = wanted.clamp(slowest.max(0.0), fastest).max(0.5);
        self.along_m += self.speed_mps * seconds;
        if self.along_m >= self.end_m {
            self.arrive(rng);
        }
    }

    /// Somebody is to be picked up or set down: a place on this side of the street, as far as braking takes.
    fn pull_over(&mut self) {
        let stop_m = self.along_m + self.speed_mps * self.speed_mps / (2.0 * BRAKING) + 5.0;
        if stop_m < self.end_m {
            self.ahead = Ahead::Kerb;
            self.end_m = stop_m;
        }
    }

    fn arrive(&mut self, rng: &mut StdRng) {
        match self.ahead {
            Ahead::Kerb => {
                self.along_m = self.end_m;
                self.halt_s = rng.random_range(15.0..60.0);
                self.speed_mps = 0.0;
                self.busy = !self.busy;
                self.fare_s =
                    if self.busy { rng.random_range(180.0..1_500.0) } else { rng.random_range(30.0..900.0) };
                self.ahead = Ahead::Nothing;
                self.end_m = self.direction.block_m();
                return;
            }
            Ahead::RedLight => {
                self.halt_s = rng.random_range(5.0..35.0);
                self.speed_mps = 0.0;
                self.along_m = self.end_m;
            }
            Ahead::Corner | Ahead::Nothing => {}
        }
        let over_m = self.along_m - self.end_m;
        let (ns, ew) = self.direction.blocks();
        self.ns += ns;
        self.ew += ew;
        if self.ahead == Ahead::Corner || self.leaves_city() {
            self.turn(rng);
        }
        self.enter_street(rng);
        self.along_m = over_m;
    }

    /// Left or right, whichever stays in the city.
    fn turn(&mut self, rng: &mut StdRng) {
        let before = self.direction;
        self.direction = if rng.random_bool(0.5) { before.right() } else { before.left() };
        if self.leaves_city() {
            self.direction = self.direction.right().right();
        }
    }

    fn enter_street(&mut self, rng: &mut StdRng) {
        let limits = match self.vehicle {
            Vehicle::Car => 8.0..20.0,
            Vehicle::Van => 7.0..16.0,
            Vehicle::Bike => 3.0..8.0,
        };
        self.cruise_mps = rng.random_range(limits);
        self.along_m = 0.0;
        self.end_m = self.direction.block_m();
        let (ns, ew) = self.direction.blocks();
        let last = (self.ns + 2 * ns).abs() > REACH_NS || (self.ew + 2 * ew).abs() > REACH_EW;
        self.ahead = match rng.random_range(0..10) {
            _ if last => Ahead::Corner,
            0..2 => Ahead::RedLight,
            2..5 => Ahead::Corner,
            _ => Ahead::Nothing,
        };
    }

    fn leaves_city(&self) -> bool {
        let (ns, ew) = self.direction.blocks();
        (self.ns + ns).abs() > REACH_NS || (self.ew + ew).abs() > REACH_EW
    }

    fn report(&mut self, rng: &mut StdRng) -> Report {
        // The error forgets a tenth of itself with each report and gets as much news: it wanders within the accuracy.
        let news_m = self.accuracy_m * 0.2;
        self.off_north_m = self.off_north_m * 0.9 + news_m * gaussian(rng);
        self.off_east_m = self.off_east_m * 0.9 + news_m * gaussian(rng);
        self.accuracy_m = (self.accuracy_m + gaussian(rng) * 0.5).clamp(3.0, 25.0);
        let (ns, ew) = self.direction.blocks();
        let north_m = f32::from(self.ns) * BLOCK_NS_M + f32::from(ns) * self.along_m + self.off_north_m;
        let east_m = f32::from(self.ew) * BLOCK_EW_M + f32::from(ew) * self.along_m + self.off_east_m;
        let moves = self.speed_mps > 0.5;
        let speed_mps = if moves { (self.speed_mps + 0.3 * gaussian(rng)).max(0.0) } else { 0.0 };
        let heading_deg = moves.then(|| (self.direction.degrees() + 3.0 * gaussian(rng)).rem_euclid(360.0));
        Report {
            lat: CENTRE_LAT + f64::from(north_m) / DEGREE_M,
            lon: CENTRE_LON + f64::from(east_m) / (DEGREE_M * CENTRE_LAT.to_radians().cos()),
            speed_mps,
            heading_deg,
            accuracy_m: self.accuracy_m,
            tags: [self.vehicle.tag(), if self.busy { "busy" } else { "free" }],
        }
    }
}

impl Vehicle {
    const fn tag(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Van => "van",
            Self::Bike => "bike",
        }
    }
}

impl Direction {
    const ALL: [Self; 4] = [Self::North, Self::East, Self::South, Self::West];

    const fn degrees(self) -> f32 {
        self as u8 as f32 * 90.0
    }

    const fn right(self) -> Self {
        Self::ALL[(self as usize + 1) % 4]
    }

    const fn left(self) -> Self {
        Self::ALL[(self as usize + 3) % 4]
    }

    /// Blocks to the north and to the east.
    const fn blocks(self) -> (i16, i16) {
        match self {
            Self::North => (1, 0),
            Self::East => (0, 1),
            Self::South => (-1, 0),
            Self::West => (0, -1),
        }
    }

    const fn block_m(self) -> f32 {
        match self {
            Self::North | Self::South => BLOCK_NS_M,
            Self::East | Self::West => BLOCK_EW_M,
        }
    }
}

/// A number of the standard normal distribution (Box and Muller 1958).
fn gaussian(rng: &mut StdRng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * u.ln()).sqrt() * (TAU * v).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_like_traffic_and_the_same_way_for_a_seed() {
        let mut city = City::new(200, 7);
        let mut twin = City::new(200, 7);
        let (mut stood, mut drove, mut was_off, mut tag_changes) = (0, 0, 0, 0);
        let mut last: Vec<Option<Report>> = vec![None; 200];
        for _ in 0..720 {
            for (driver, before) in last.iter_mut().enumerate() {
                let report = city.drive(driver, 5.0);
                assert_eq!(report, twin.drive(driver, 5.0));
                let Some(now) = &report else {
                    was_off += 1;
                    *before = None;
                    continue;
                };
                assert!((0.0..=22.0).contains(&now.speed_mps) && (3.0..=25.0).contains(&now.accuracy_m));
                assert!((now.lat - CENTRE_LAT).abs() < 0.09 && (now.lon - CENTRE_LON).abs() < 0.12);
                assert!(now.heading_deg.is_none_or(|heading| (0.0..=360.0).contains(&heading)));
                let counter = if now.speed_mps > 1.0 { &mut drove } else { &mut stood };
                *counter += 1;
                if let Some(before) = before {
                    let north_m = (now.lat - before.lat) * DEGREE_M;
                    let east_m = (now.lon - before.lon) * DEGREE_M * CENTRE_LAT.to_radians().cos();
                    assert!(north_m.hypot(east_m) < 5.0 * 20.0 + 60.0, "nobody jumps");
                    tag_changes += i32::from(now.tags[1] != before.tags[1]);
                    assert_eq!(now.tags[0], before.tags[0]);
                }
                *before = report;
            }
        }
        assert!(drove > stood && stood > drove / 10, "{drove} {stood}");
        assert!(was_off > 100 && tag_changes > 200, "{was_off} {tag_changes}");
        assert_ne!(City::new(200, 8).drive(0, 5.0), City::new(200, 7).drive(0, 5.0));
    }
}
