//! What the store costs Redis, as the fleet grows: the figures of `docs/performance.md`. `make scale` runs it; a small
//! fleet goes through it in every test run, so that it does not rot.
//!
//! Beside each figure stands what a bare client costs in the same run (`bare`), for machines differ from hour to hour:
//! plain commands for the same, without newest-wins; GEOSEARCH; ZRANGE and GEOPOS; GEOADD of one member for the slow log.

mod bare;
mod fleet;
mod slow;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use geotrail::model::{Point, Position, Resolution};
use geotrail::query::PASS_ROWS;
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{NearbyQuery, Store, When, Window};

use self::bare::Bare;
use self::fleet::Fleet;
pub(crate) use self::fleet::Fleet as City;
use crate::harness::eventually;
use crate::harness::redis::RedisServer;
use crate::redis_store::{batch, options, works_again};

/// Points in one batch, as an applier reads them.
const BATCH: usize = 4_000;
/// Times the fleet reports, after the first.
const ROUNDS: usize = 4;
/// The tracks of an hour expire within so many seconds (`docs/redis-keys.md`).
const JITTER_S: usize = 600;
/// Times as many questions as are measured, that others asked before.
const OTHERS: usize = 24;
const RADII_M: [f64; 3] = [1_000.0, 3_000.0, 10_000.0];

/// A server whose slow log tells of everything over a millisecond.
struct Server {
    redis: RedisServer,
    commands: f64,
    cpu_s: f64,
}

impl Server {
    fn start() -> Self {
        let redis = RedisServer::start_with(&["--slowlog-log-slower-than", "1000", "--slowlog-max-len", "1000000"]);
        Self { redis, commands: 0.0, cpu_s: 0.0 }
    }

    fn cpu_now_s(&self) -> f64 {
        self.redis.info("used_cpu_user") + self.redis.info("used_cpu_sys")
    }

    fn begin(&mut self) {
        self.redis.cli(&["SLOWLOG", "RESET"]);
        self.commands = self.redis.info("total_commands_processed");
        self.cpu_s = self.cpu_now_s();
    }

    /// CPU time since then, in µs.
    fn cpu_us(&self) -> f64 {
        (self.cpu_now_s() - self.cpu_s) * 1e6
    }

    /// Slow-log entries per million commands since then, and the longest, in ms.
    fn slow(&self) -> String {
        let entries: f64 = self.redis.cli(&["SLOWLOG", "LEN"]).trim().parse().expect("a number");
        let script = "local most = 0 for _, entry in ipairs(redis.call('SLOWLOG', 'GET', 100000)) do \
                      most = math.max(most, entry[3]) end return most";
        let longest: f64 = self.redis.cli(&["EVAL", script, "0"]).trim().parse().unwrap_or_default();
        let of_a_million = entries * 1e6 / (self.redis.info("total_commands_processed") - self.commands);
        if entries == 0.0 { "0".into() } else { format!("{of_a_million:.0} ({:.1} ms)", longest / 1e3) }
    }

    /// What it took to write so many points since [`Self::begin`], which was at `begun`, when it had `full` bytes.
    fn written(&self, points: usize, begun: Instant, full: f64) -> Row {
        let points = points as f64;
        Row {
            write_us: self.cpu_us() / points,
            rate: points / begun.elapsed().as_secs_f64(),
            slow_writes: self.slow(),
            point_bytes: (self.memory() - full) / points,
            ..Row::default()
        }
    }

    /// What streams of changes take, in bytes: as much as is written in some seconds, however long an hour is.
    fn streams(&self) -> f64 {
        let script = "local at, sum = '0', 0 repeat \
                      local found = redis.call('SCAN', at, 'MATCH', '*:changes', 'COUNT', 10000) at = found[1] \
                      for _, key in ipairs(found[2]) do \
                      sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) end until at == '0' return sum";
        self.redis.cli(&["EVAL", script, "0"]).trim().parse().expect("a number")
    }

    /// Without those.
    fn memory(&self) -> f64 {
        self.redis.info("used_memory") - self.streams()
    }
}

/// CPU time of a process, user and system, in seconds: by default of this one.
fn own_cpu_s(pid: Option<u32>) -> f64 {
    let path = pid.map_or_else(|| "/proc/self/stat".to_owned(), |pid| format!("/proc/{pid}/stat"));
    let stat = std::fs::read_to_string(path).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("it has a name").split_whitespace().collect();
    // In ticks, of which there are 100 a second on Linux.
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// One row of the table; what does not apply stays empty.
#[derive(Default)]
struct Row {
    drivers: usize,
    how: String,
    write_us: f64,
    own_us: Option<f64>,
    rate: f64,
    nearby_ms: Vec<f64>,
    /// Where others asked before.
    again_ms: Vec<f64>,
    listed_us: f64,
    slow_writes: String,
    slow_reads: String,
    driver_bytes: f64,
    /// What streams take, of each driver.
    stream_bytes: f64,
    point_bytes: f64,
}

const HEAD: &str = "\
| drivers | hours | Redis: a point, µs | geotrail: a point, µs | points/s | nearby 10 at 1 / 3 / 10 km, ms \
| where many asked before, ms | a listed driver, µs | writes over 1 ms per million (longest) | reads over 1 ms \
| bytes a driver | in streams | bytes a track point |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

impl Row {
    fn print(&self) {
        let own = self.own_us.map_or_else(String::new, |own| format!("{own:.1}"));
        let by_radius = |ms: &[f64]| ms.iter().map(|ms| format!("{ms:.2}")).collect::<Vec<_>>().join(" / ");
        println!(
            "| {} | {} | {:.1} | {own} | {:.0} | {} | {} | {:.2} | {} | {} | {:.0} | {:.0} | {:.1} |",
            self.drivers,
            self.how,
            self.write_us,
            self.rate,
            by_radius(&self.nearby_ms),
            by_radius(&self.again_ms),
            self.listed_us,
            self.slow_writes,
            self.slow_reads,
            self.driver_bytes,
            self.stream_bytes,
            self.point_bytes
        );
    }
}

/// A fleet that a bare client has written.
struct WrittenBare {
    server: Server,
    client: Bare,
    fleet: Fleet,
    row: Row,
}

fn write_bare(drivers: usize) -> WrittenBare {
    let mut server = Server::start();
    let mut client = Bare::connect(&server.redis);
    let mut fleet = Fleet::new(drivers);
    let empty = server.memory();
    client.write(&fleet.report());
    let driver_bytes = (server.memory() - empty) / drivers as f64;
    let full = server.memory();
    let reports: Vec<Vec<Point>> = (0..ROUNDS).map(|_| fleet.report()).collect();
    server.begin();
    let begun = Instant::now();
    for points in &reports {
        client.write(points);
    }
    let how = "plain commands".to_owned();
    let row = Row { drivers, how, driver_bytes, ..server.written(drivers * ROUNDS, begun, full) };
    WrittenBare { server, client, fleet, row }
}

fn bare(drivers: usize, queries: usize) -> Row {
    let WrittenBare { mut server, mut client, mut fleet, row } = write_bare(drivers);
    server.begin();
    let mut nearby_ms = Vec::new();
    for radius_m in RADII_M {
        let before = server.cpu_us();
        // A wide circle in a big fleet takes a tenth of a second.
        let asked = queries.min((2e9 / (radius_m * radius_m * drivers as f64).max(1e7) * 1e4) as usize).max(5);
        for _ in 0..asked {
            client.geosearch(fleet.somewhere(), radius_m);
        }
        nearby_ms.push((server.cpu_us() - before) / 1e3 / asked as f64);
    }
    let before = server.cpu_us();
    client.list(&fleet.report());
    let listed_us = (server.cpu_us() - before) / drivers as f64;
    Row { nearby_ms, listed_us, slow_reads: server.slow(), ..row }
}

fn nearby(centre: Position, radius_m: f64, window: Window) -> NearbyQuery {
    NearbyQuery { centre, radius_m, limit: 10, when: When::Within(window), tags: vec![] }
}

/// A fleet that we have written.
struct Written {
    server: Server,
    store: RedisStore,
    fleet: Fleet,
    row: Row,
}

/// What hours are called that are divided so.
fn how(resolution: Option<u8>) -> String {
    resolution.map_or_else(|| "whole".to_owned(), |number| format!("by {number}"))
}

async fn connect(server: &Server, resolution: Option<u8>, instance: &str) -> RedisStore {
    let shard_resolution = resolution.map(|number| Resolution::new(number).expect("there is one"));
    let options = Options { shard_resolution, ..options(&server.redis, instance) };
    let store = RedisStore::connect(options).await.expect("a good URL");
    works_again(&store).await;
    store
}

async fn put(store: &RedisStore, points: &[Point]) {
    for (number, slice) in points.chunks(BATCH).enumerate() {
        store.apply(batch(slice, number as u64 + 1)).await.expect("Redis is there");
    }
}

/// Another instance brings points: from then on nobody writes alone.
async fn join_in(server: &Server, resolution: Option<u8>, points: &[Point]) {
    put(&connect(server, resolution, "00000000000000bb").await, points).await;
}

/// Writes a fleet; `among_others`, if somebody else has written the same drivers.
async fn write(drivers: usize, resolution: Option<u8>, among_others: bool) -> Written {
    let mut server = Server::start();
    let store = connect(&server, resolution, "00000000000000aa").await;
    let mut fleet = Fleet::new(drivers);
    let empty = server.memory();
    let first = fleet.report();
    put(&store, &first).await;
    if among_others {
        join_in(&server, resolution, &first).await;
    }
    let driver_bytes = (server.memory() - empty) / drivers as f64;
    let full = server.memory();
    let reports: Vec<Vec<Point>> = (0..ROUNDS).map(|_| fleet.report()).collect();
    server.begin();
    let (begun, cpu_before_s) = (Instant::now(), own_cpu_s(None));
    for points in &reports {
        put(&store, points).await;
    }
    let own_us = Some((own_cpu_s(None) - cpu_before_s) * 1e6 / (drivers * ROUNDS) as f64);
    let row = server.written(drivers * ROUNDS, begun, full);
    let stream_bytes = server.streams() / drivers as f64;
    let row = Row { drivers, how: how(resolution), own_us, driver_bytes, stream_bytes, ..row };
    Written { server, store, fleet, row }
}

async fn ours(drivers: usize, resolution: Option<u8>, queries: usize) -> Row {
    let Written { mut server, store, mut fleet, row } = write(drivers, resolution, false).await;
    server.begin();
    let window = fleet.window();
    let mut ask = async |radius_m: f64| {
        let before = server.cpu_us();
        for _ in 0..queries {
            let query = nearby(fleet.somewhere(), radius_m, window);
            let (near, _) = store.nearby(&query).await.expect("Redis is there");
            assert!(!near.is_empty(), "a driver stood there");
        }
        (server.cpu_us() - before) / 1e3 / queries as f64
    };
    let (mut nearby_ms, mut again_ms) = (Vec::new(), Vec::new());
    for radius_m in RADII_M {
        // The first questions find out where drivers stand close.
        ask(radius_m).await;
        nearby_ms.push(ask(radius_m).await);
    }
    for turn in 0..OTHERS {
        ask(RADII_M[turn % RADII_M.len()]).await;
    }
    for radius_m in RADII_M {
        again_ms.push(ask(radius_m).await);
    }
    let before = server.cpu_us();
    let (mut after, mut listed) = (None, 0);
    loop {
        let page = store.active(window, after.as_ref(), PASS_ROWS).await.expect("Redis is there");
        listed += page.items.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, drivers);
    let listed_us = (server.cpu_us() - before) / drivers as f64;
    Row { nearby_ms, again_ms, listed_us, slow_reads: server.slow(), ..row }
}

/// What it costs to keep in memory what another instance writes, and to answer out of it.
async fn in_memory(drivers: usize, resolution: Option<u8>, queries: usize, rest_s: u64) -> String {
    let mut server = Server::start();
    let writer = connect(&server, resolution, "00000000000000aa").await;
    let reader = connect(&server, resolution, "00000000000000bb").await;
    let mut fleet = Fleet::new(drivers);
    put(&writer, &fleet.report()).await;
    let window = fleet.window();
    let memory = reader.memory().expect("it has one");
    server.begin();
    let begun = Instant::now();
    eventually("all are in memory", async || memory.count(window).filter(|count| *count == drivers as u64)).await;
    let (took_s, read_us) = (begun.elapsed().as_secs_f64(), server.cpu_us() / drivers as f64);

    server.begin();
    tokio::time::sleep(Duration::from_secs(rest_s)).await;
    let follow_ms = server.cpu_us() / 1e3 / rest_s as f64;
    let own_before_s = own_cpu_s(None);
    for turn in 0..100 * queries {
        let radius_m = RADII_M[turn % RADII_M.len()];
        let query = nearby(fleet.somewhere(), radius_m, window);
        eventually("it is in memory", async || memory.near(&query, window)).await;
    }
    let own_us = (own_cpu_s(None) - own_before_s) * 1e6 / (100 * queries) as f64;
    format!(
        "read in {took_s:.2} s, {read_us:.1} µs of Redis a driver; then {follow_ms:.1} ms of Redis a second; \
         nearby 10: {own_us:.0} µs of geotrail, none of Redis"
    )
}

/// The longest PING of a client that does nothing else while `work` is done, in ms.
async fn longest_ping_ms(server: &Server, work: impl Future<Output = ()>) -> f64 {
    let (mut client, is_over) = (Bare::connect(&server.redis), Arc::new(AtomicBool::new(false)));
    let until = is_over.clone();
    let pinging = std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !until.load(Ordering::Relaxed) {
            longest = longest.max(client.ping());
            std::thread::sleep(Duration::from_micros(200));
        }
        longest
    });
    work.await;
    is_over.store(true, Ordering::Relaxed);
    pinging.join().expect("it does not panic").as_secs_f64() * 1e3
}

/// An hour goes: its keys are unlinked, and as many of its tracks expire as their jitter lets go in so many seconds.
async fn death(drivers: usize, seconds: u64) -> String {
    let server = Server::start();
    server.redis.cli(&["CONFIG", "SET", "latency-monitor-threshold", "10"]);
    let store = connect(&server, None, "00000000000000aa").await;
    let points = Fleet::new(drivers).report();
    put(&store, &points).await;
    let hour = points[0].fix.ts.hour();
    let tracks: Vec<String> =
        points.iter().map(|point| format!("geotrail:{{{hour}}}:track:{}", point.driver)).collect();
    let rest = Duration::from_secs(seconds);
    let idle_ms = longest_ping_ms(&server, tokio::time::sleep(rest)).await;
    server.redis.cli(&["LATENCY", "RESET"]);
    let unlinking = async {
        store.forget_before(hour.end().plus_ms(1)).await.expect("Redis is there");
    };
    let unlinked_ms = longest_ping_ms(&server, unlinking).await;
    let left: Vec<String> = server.redis.keys().into_iter().filter(|key| !key.contains(":track:")).collect();
    assert!(left.is_empty(), "{left:?}");
    let expiring = &tracks[..tracks.len() * seconds as usize / JITTER_S];
    Bare::connect(&server.redis).expire_within(expiring, seconds);
    let expired_ms = longest_ping_ms(&server, tokio::time::sleep(rest)).await;
    let events = server.redis.cli(&["LATENCY", "LATEST"]).split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "longest PING {unlinked_ms:.1} ms while its keys are unlinked, {expired_ms:.1} ms while {} tracks \
         expire in {seconds} s, {idle_ms:.1} ms in {seconds} s of nothing; LATENCY over 10 ms: {}",
        expiring.len(),
        if events.is_empty() { "none" } else { &events }
    )
}

async fn table(sizes: &[usize], resolutions: &[Option<u8>], queries: usize, rest_s: u64) {
    println!("{HEAD}");
    for drivers in sizes {
        bare(*drivers, queries).print();
        for resolution in resolutions {
            ours(*drivers, *resolution, queries).await.print();
        }
    }
    println!("\nThe death of an hour:\n");
    for drivers in sizes {
        println!("- {drivers} drivers: {}", death(*drivers, rest_s).await);
    }
    println!("\nOut of memory, where another instance wrote:\n");
    for drivers in sizes {
        for resolution in resolutions {
            let how = how(*resolution);
            let told = in_memory(*drivers, *resolution, queries, rest_s.div_ceil(6)).await;
            println!("- {drivers} drivers, {how}: {told}");
        }
    }
}

/// What is to be measured: sizes of fleets, and ways to divide hours.
fn asked() -> (Vec<usize>, Vec<Option<u8>>) {
    let sizes = std::env::var("SCALE_DRIVERS").unwrap_or_else(|_| "20000 100000".into());
    let sizes = sizes.split_whitespace().map(|size| size.parse().expect("SCALE_DRIVERS holds whole numbers"));
    let hours = std::env::var("SCALE_HOURS").unwrap_or_else(|_| "whole 5 7".into());
    (sizes.collect(), hours.split_whitespace().map(|how| how.parse().ok()).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn what_a_fleet_costs_redis() {
    let (sizes, hours) = asked();
    table(&sizes, &hours, 400, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn what_the_slow_log_has() {
    let (sizes, hours) = asked();
    slow::table(&sizes, &hours).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn what_writes_cost_in_turns() {
    let (sizes, hours) = asked();
    turns::table(&sizes, &hours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_measurement_runs() {
    let hours = [None, Some(7)];
    table(&[300], &hours, 5, 1).await;
    slow::table(&[300], &hours).await;
    turns::table(&[300], &hours).await;
}
