//! What the embedded store costs: processor time a point, bytes a point on disk, bytes a driver in memory, time a
//! question. Prints figures; asserts nothing. `cargo bench --bench embedded [history|fleets]`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use geotrail::model::{Accuracy, DriverId, Fix, Heading, Offset, Point, Position, Speed, Tags, Timestamp};
use geotrail::store::embedded::{EmbeddedStore, Options};
use geotrail::store::{Batch, NearbyQuery, Store, When, Window};

const START_MS: i64 = 1_794_960_000_000;
const BATCH: usize = 1_000;

/// A driver that drives through a city, turns now and then, and reports with the jitter of a phone's clock.
struct Vehicle {
    id: DriverId,
    lat: f64,
    lon: f64,
    mps: f64,
    deg: f64,
    seed: u64,
}

impl Vehicle {
    fn new(number: u64) -> Self {
        let id = DriverId::new(&format!("driver-{number:07}")).expect("well formed");
        let mut vehicle = Self { id, lat: 43.7, lon: 7.25, mps: 9.0, deg: 0.0, seed: number };
        (vehicle.lat, vehicle.lon) = (43.5 + 0.4 * vehicle.random(), 7.0 + 0.5 * vehicle.random());
        vehicle.deg = 360.0 * vehicle.random();
        vehicle
    }

    /// Splitmix64, as 0 to 1.
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.seed ^ self.seed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn report(&mut self, ms: i64, interval_s: f64) -> Point {
        self.mps = (self.mps + 4.0 * (self.random() - 0.5)).clamp(0.0, 25.0);
        self.deg = (self.deg + if self.random() < 0.2 { 180.0 * (self.random() - 0.5) } else { 4.0 * self.random() })
            .rem_euclid(360.0);
        let metres = self.mps * interval_s;
        self.lat = (self.lat + metres * self.deg.to_radians().cos() / 111_000.0).clamp(43.5, 43.9);
        self.lon = (self.lon + metres * self.deg.to_radians().sin() / 80_000.0).clamp(7.0, 7.5);
        let jitter_ms = (self.random() * 200.0) as i64;
        let fix = Fix {
            ts: Timestamp::from_ms(START_MS + ms + jitter_ms),
            position: Position::new(self.lat, self.lon).expect("in range"),
            speed: Speed::from_mps(self.mps).expect("in range"),
            heading: Heading::from_deg(self.deg).expect("in range"),
            accuracy: Accuracy::from_m(3.0 + 9.0 * self.random()).expect("in range"),
            tags: Tags::NONE,
        };
        Point { driver: self.id.clone(), fix }
    }
}

/// The process's own processor time (all threads), and its resident memory in bytes.
fn process() -> (Duration, u64) {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .map_or(Vec::new(), |rest| rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect());
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("always there");
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
    (Duration::from_millis((fields[11] + fields[12]) * 10), kib * 1_024)
}

fn bytes_in(dir: &Path) -> u64 {
    let length =
        |entry: std::io::Result<fs::DirEntry>| entry.and_then(|entry| entry.metadata()).map_or(0, |m| m.len());
    fs::read_dir(dir).expect("exists").map(length).sum()
}

async fn opened(dir: &Path) -> EmbeddedStore {
    let memtable_bytes = Options::DEFAULT_MEMTABLE_BYTES;
    let store = EmbeddedStore::new(Options { dir: dir.into(), journal: "one".into(), memtable_bytes });
    store.open("").await.expect("opens");
    store
}

/// A round of reports of everybody; the processor time that applying took.
async fn round(store: &EmbeddedStore, vehicles: &mut [Vehicle], ms: i64, interval_s: f64, end: &mut u64) -> Duration {
    let mut spent = Duration::ZERO;
    for some in vehicles.chunks_mut(BATCH) {
        let points: Vec<Point> = some.iter_mut().map(|vehicle| vehicle.report(ms, interval_s)).collect();
        *end += 1;
        let batch = Batch {
            points: &points,
            start: Offset::START,
            end: Offset::new(*end),
            forget_before: Timestamp::from_ms(0),
            repeated: false,
        };
        let begun = Instant::now();
        store.apply(batch).await.expect("applies");
        spent += begun.elapsed();
    }
    spent
}

const EVER: Window = Window { since: Timestamp::from_ms(0), until: Timestamp::from_ms(i64::MAX) };

async fn ask_nearby(store: &EmbeddedStore, when: When, times: u32) -> Duration {
    let mut asker = Vehicle::new(99);
    let begun = Instant::now();
    for _ in 0..times {
        let (lat, lon) = (43.5 + 0.4 * asker.random(), 7.0 + 0.5 * asker.random());
        let centre = Position::new(lat, lon).expect("in range");
        let query = NearbyQuery { centre, radius_m: 3_000.0, limit: 10, when, tags: Vec::new() };
        std::hint::black_box(store.nearby(&query).await.expect("answers"));
    }
    begun.elapsed() / times
}

async fn history(drivers: u64, rounds: i64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(dir.path()).await;
    let mut vehicles: Vec<Vehicle> = (0..drivers).map(Vehicle::new).collect();
    let (mut end, mut applying, mut peak) = (0, Duration::ZERO, 0);
    let before = process();
    for index in 0..rounds {
        applying += round(&store, &mut vehicles, index * 10_000, 10.0, &mut end).await;
        peak = peak.max(process().1);
    }
    store.flush().await.expect("flushes");
    let after = process();
    let points = drivers * rounds as u64;
    println!("history: {drivers} drivers, {points} points");
    println!("  apply: {:.3} us a point on the applier's thread", applying.as_secs_f64() * 1e6 / points as f64);
    println!(
        "  all processor time, making the points included: {:.3} us a point",
        after.0.saturating_sub(before.0).as_secs_f64() * 1e6 / points as f64
    );
    println!("  VmRSS: {} MiB before, {} MiB peak, {} MiB after", before.1 >> 20, peak >> 20, after.1 >> 20);
    println!("  disk: {:.2} B a point", bytes_in(&dir.path().join("embedded")) as f64 / points as f64);
    let hour = Timestamp::from_ms(START_MS).hour();
    let begun = Instant::now();
    ask_nearby(&store, When::During(hour), 1).await;
    println!(
        "  nearby in a past hour: {:?} at first, {:?} then",
        begun.elapsed(),
        ask_nearby(&store, When::During(hour), 1_000).await
    );
    let begun = Instant::now();
    let track = store.track(&vehicles[7].id, hour.start(), hour.end(), 1_000).await.expect("answers");
    println!("  track of an hour: {} points in {:?}", track.len(), begun.elapsed());
    let begun = Instant::now();
    let page = store.hour_positions(hour, None, 1_000).await.expect("answers");
    println!("  hour_positions: a page of {} in {:?}", page.items.len(), begun.elapsed());
    drop(store);
    let begun = Instant::now();
    let store = opened(dir.path()).await;
    println!("  reopened in {:?}, at offset {} of {end}", begun.elapsed(), store.durable());
}

async fn fleet(drivers: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(dir.path()).await;
    let mut vehicles: Vec<Vehicle> = (0..drivers).map(Vehicle::new).collect();
    let mut end = 0;
    let before = process();
    let joining = round(&store, &mut vehicles, 0, 0.0, &mut end).await;
    store.flush().await.expect("flushes");
    let after = process();
    let moving = round(&store, &mut vehicles, 10_000, 10.0, &mut end).await;
    let per = |spent: Duration| spent.as_secs_f64() * 1e6 / drivers as f64;
    println!("fleet: {drivers} drivers");
    println!("  apply: {:.3} us a new driver, {:.3} us a moving one", per(joining), per(moving));
    println!("  resident: {} B a driver", after.1.saturating_sub(before.1) / drivers);
    println!("  nearby, limit 10: {:?}", ask_nearby(&store, When::Within(EVER), 20_000).await);
    let begun = Instant::now();
    let count = store.active_count(EVER).await.expect("answers");
    println!("  active_count: {count} in {:?}", begun.elapsed());
}

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if what != "history" {
            for drivers in [20_000, 100_000, 1_000_000] {
                fleet(drivers).await;
            }
        }
        if what != "fleets" {
            history(5_000, 8_640).await;
        }
    });
}
