//! What the store costs Redis, as the fleet grows: not a test of anything, but the figures of `docs/redis-keys.md`.
//! `make scale` runs it.
//!
//! Beside each figure stands what a bare client costs in the same run: a pipeline of GEOADD of 100 members for writes,
//! commands of one member for the slow log, for machines differ from hour to hour.

use std::f64::consts::TAU;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use geotrail::model::{Point, Position, Resolution, Timestamp};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{NearbyQuery, Store, When, Window};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::redis::RedisServer;
use crate::redis_store::{batch, id, now, options, point, works_again};

/// Points in one batch, as an applier reads them.
const BATCH: usize = 4_000;
/// Times the fleet reports, after the first.
const ROUNDS: usize = 4;
const QUERIES: usize = 400;
/// The middle of the city.
const LAT: f64 = 52.5;
const LON: f64 = 13.4;
const M_PER_DEG: f64 = 111_226.0;

/// A metropolis of 60 by 60 km: 7 of 10 drivers stand in ten hot spots of 1.5 km, all move by 30 m.
struct Fleet {
    rng: StdRng,
    /// Metres east and north of the middle.
    places: Vec<(f64, f64)>,
    reported: usize,
}

impl Fleet {
    fn new(drivers: usize) -> Self {
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
        Self { rng, places, reported: 0 }
    }

    /// Where everybody is next, at a moment of an hour that is over.
    fn report(&mut self) -> Vec<Point> {
        let begun = hour_start().plus_ms(600_000 + 5_000 * self.reported as i64);
        self.reported += 1;
        let mut points = Vec::with_capacity(self.places.len());
        for (number, place) in self.places.iter_mut().enumerate() {
            let angle = self.rng.random_range(0.0..TAU);
            *place = (30.0_f64.mul_add(angle.cos(), place.0), 30.0_f64.mul_add(angle.sin(), place.1));
            let at = position(*place);
            let ts = begun.plus_ms(self.rng.random_range(0..5_000));
            points.push(point(id(number), ts, at.lat_e7(), at.lon_e7()));
        }
        points
    }

    /// Somewhere a customer may be: where a driver is.
    fn somewhere(&mut self) -> Position {
        let at = self.rng.random_range(0..self.places.len());
        position(self.places[at])
    }
}

fn position((east_m, north_m): (f64, f64)) -> Position {
    let lon = LON + east_m / (M_PER_DEG * LAT.to_radians().cos());
    Position::new(LAT + north_m / M_PER_DEG, lon).expect("in the city")
}

fn hour_start() -> Timestamp {
    now().hour().previous().start()
}

fn server() -> RedisServer {
    RedisServer::start_with(&["--slowlog-log-slower-than", "1000", "--slowlog-max-len", "1000000"])
}

fn cpu_s(server: &RedisServer) -> f64 {
    server.info("used_cpu_user") + server.info("used_cpu_sys")
}

/// Slow-log entries per million commands since the last time.
fn slow(server: &RedisServer, commands_before: f64) -> f64 {
    let entries: f64 = server.cli(&["SLOWLOG", "LEN"]).trim().parse().expect("a number");
    server.cli(&["SLOWLOG", "RESET"]);
    entries * 1e6 / (server.info("total_commands_processed") - commands_before)
}

/// Sends GEOADD of `members` points each, ten in a pipeline.
fn geoadd(server: &RedisServer, points: &[Point], members: usize) {
    let mut stream = TcpStream::connect(server.url().replace("redis://", "")).expect("the server is there");
    let mut answer = [0; 4_096];
    for pipeline in points.chunks(10 * members) {
        let mut bytes = Vec::new();
        let commands = pipeline.chunks(members);
        let expected = commands.len();
        for command in commands {
            let mut words = vec!["GEOADD".to_owned(), "positions".to_owned()];
            for Point { driver, fix } in command {
                let (lon, lat) = (fix.position.lon(), fix.position.lat());
                words.extend([format!("{lon:.7}"), format!("{lat:.7}"), driver.to_string()]);
            }
            write!(bytes, "*{}\r\n", words.len()).expect("memory takes all");
            for word in words {
                write!(bytes, "${}\r\n{word}\r\n", word.len()).expect("memory takes all");
            }
        }
        stream.write_all(&bytes).expect("it takes them");
        let mut answered = 0;
        while answered < expected {
            let count = stream.read(&mut answer).expect("it answers");
            answered += answer[..count].split(|byte| *byte == b'\n').count() - 1;
        }
    }
}

/// CPU time of Redis per point, in µs; of a bare client.
fn bare(drivers: usize) -> f64 {
    let server = server();
    let mut fleet = Fleet::new(drivers);
    geoadd(&server, &fleet.report(), 100);
    let before_s = cpu_s(&server);
    for _ in 0..ROUNDS {
        geoadd(&server, &fleet.report(), 100);
    }
    (cpu_s(&server) - before_s) * 1e6 / (drivers * ROUNDS) as f64
}

/// Slow-log entries per million commands of one member each.
fn bare_slow(drivers: usize) -> f64 {
    let server = server();
    let mut fleet = Fleet::new(drivers);
    let before = server.info("total_commands_processed");
    for _ in 0..ROUNDS {
        geoadd(&server, &fleet.report(), 1);
    }
    slow(&server, before)
}

async fn measure(drivers: usize, resolution: Option<u8>) {
    let server = server();
    let shard_resolution = resolution.map(|number| Resolution::new(number).expect("there is one"));
    let options = Options { shard_resolution, ..options(&server, "00000000000000aa") };
    let store = RedisStore::connect(options).await.expect("a good URL");
    works_again(&store).await;
    let mut fleet = Fleet::new(drivers);
    let mut end = 0;
    let mut put = async |points: Vec<Point>| {
        for slice in points.chunks(BATCH) {
            end += 1;
            store.apply(batch(slice, end)).await.expect("Redis is there");
        }
    };
    put(fleet.report()).await;
    let (before_s, commands, begun) = (cpu_s(&server), server.info("total_commands_processed"), Instant::now());
    for _ in 0..ROUNDS {
        put(fleet.report()).await;
    }
    let points = (drivers * ROUNDS) as f64;
    let write_us = (cpu_s(&server) - before_s) * 1e6 / points;
    let rate = points / begun.elapsed().as_secs_f64();
    let slow_writes = slow(&server, commands);

    let commands = server.info("total_commands_processed");
    let window = Window { since: hour_start(), until: now().plus_ms(120_000) };
    let mut nearby_ms = Vec::new();
    for radius_m in [1_000.0, 3_000.0, 10_000.0] {
        let before_s = cpu_s(&server);
        for _ in 0..QUERIES {
            let centre = fleet.somewhere();
            let query = NearbyQuery { centre, radius_m, limit: 10, when: When::Within(window), tags: vec![] };
            store.nearby(&query).await.expect("Redis is there");
        }
        nearby_ms.push(format!("{:.2}", (cpu_s(&server) - before_s) * 1e3 / QUERIES as f64));
    }
    let before_s = cpu_s(&server);
    let mut after = None;
    let mut listed = 0;
    loop {
        let page = store.active(window, after.as_ref(), 1_000).await.expect("Redis is there");
        listed += page.items.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, drivers);
    let listed_us = (cpu_s(&server) - before_s) * 1e6 / drivers as f64;
    let slow_reads = slow(&server, commands);
    let layout = resolution.map_or_else(|| "whole".to_owned(), |number| format!("by {number}"));
    println!(
        "| {drivers} | {layout} | {write_us:.1} | {rate:.0} | {} | {listed_us:.2} | {slow_writes:.0} | {slow_reads:.0} |",
        nearby_ms.join(" / "),
    );
}

#[tokio::test]
#[ignore = "it measures"]
async fn what_a_fleet_costs_redis() {
    let sizes = std::env::var("SCALE_DRIVERS").unwrap_or_else(|_| "20000 100000".into());
    println!("Redis CPU, and slow-log entries (1 ms) per million commands.\n");
    println!(
        "| drivers | hours | a point, µs | points/s | nearby 10 at 1 / 3 / 10 km, ms | a listed driver, µs \
         | slow writes | slow reads |\n|---|---|---|---|---|---|---|---|"
    );
    for drivers in sizes.split_whitespace().map(|size| size.parse().expect("SCALE_DRIVERS holds whole numbers")) {
        let (bare_us, slow) = (bare(drivers), bare_slow(drivers));
        println!("| {drivers} | bare GEOADD | {bare_us:.1} | | | | {slow:.0} | |");
        measure(drivers, None).await;
        measure(drivers, Some(7)).await;
    }
}
