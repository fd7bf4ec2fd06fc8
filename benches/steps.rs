//! Each step of a point's way alone, in the order of the way: read and judged, put into the embedded store, found again,
//! written as an answer. What needs the disk to be waited for is in `journal`.
//!
//! `cargo bench --bench steps` tells the time. `steps count STEP TIMES` only takes a step so many times and says nothing:
//! run under callgrind with 0 and with more, it tells instructions, which other programs on the machine do not change
//! (`make instructions`).

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use geotrail::http::points::{Format, Rules, parse};
use geotrail::http::render;
use geotrail::model::{
    Accuracy, Cell, DriverId, Fix, Heading, Offset, Point, Position, QuadCell, Resolution, Speed, Tags, Timestamp,
};
use geotrail::store::embedded::{EmbeddedStore, Options};
use geotrail::store::redis::fold::{Folded, fold};
use geotrail::store::{Batch, Near, NearbyQuery, Store, When, Window, track_codec};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::runtime::Runtime;

/// Ten minutes before an hour ends.
const NOW: Timestamp = Timestamp::from_ms(1_795_373_400_000);
/// Points of a batch.
const BATCH: u64 = 1_000;
/// Drivers in the store.
const DRIVERS: u64 = 100_000;
const TRAILING_HOUR: Window = Window { since: NOW.plus_ms(-3_600_000), until: NOW.plus_ms(120_000) };

/// A step: its name, what it handles each time it is taken, and how it is made ready.
type Step = (&'static str, Throughput, fn() -> Box<dyn FnMut()>);

const STEPS: &[Step] = &[
    ("points/parse_json", Throughput::Elements(BATCH), || parsing("application/json")),
    ("points/parse_ndjson", Throughput::Elements(BATCH), || parsing("application/x-ndjson")),
    ("model/validate", Throughput::Elements(BATCH), validating),
    ("track_codec/encode", Throughput::Elements(BATCH), encoding),
    ("track_codec/decode", Throughput::Elements(BATCH), decoding),
    ("fold/batch", Throughput::Elements(BATCH), folding),
    ("embedded/apply", Throughput::Elements(BATCH), applying),
    ("model/quad_cover", Throughput::Elements(1), || {
        each_place(|place, _| drop(black_box(QuadCell::covering(place, 3_000.0))))
    }),
    ("model/h3_cell_disc", Throughput::Elements(1), || {
        let resolution = Resolution::new(7).expect("there is one");
        each_place(move |place, _| {
            black_box(Cell::containing(place, resolution).disc());
        })
    }),
    ("embedded/nearby_10_in_1_km", Throughput::Elements(1), || asking(1_000.0, 10)),
    ("embedded/nearby_10_in_10_km", Throughput::Elements(1), || asking(10_000.0, 10)),
    ("embedded/nearby_1000_in_10_km", Throughput::Elements(1_000), || asking(10_000.0, 1_000)),
    ("embedded/active", Throughput::Elements(4_000), listing),
    ("embedded/track", Throughput::Elements(TRACK as u64), tracking),
    ("render/nearby_10", Throughput::Elements(10), || rendering(10)),
    ("render/nearby_1000", Throughput::Elements(1_000), || rendering(1_000)),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, name, times] = args.as_slice()
        && word == "count"
    {
        let (.., ready) = STEPS.iter().find(|(step, ..)| step == name).expect("one of the steps");
        let mut step = ready();
        (0..times.parse().expect("a number")).for_each(|_: u64| step());
        return;
    }
    let mut criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).configure_from_args();
    for (name, throughput, ready) in STEPS {
        let (module, step) = name.split_once('/').expect("a module and a step");
        let mut group = criterion.benchmark_group(module);
        group.throughput(throughput.clone());
        group.bench_function(step, |b| {
            let mut step = ready();
            b.iter(&mut step);
        });
        group.finish();
    }
    criterion.final_summary();
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Somewhere in a city, the nearer its centre the likelier.
    fn place(&mut self) -> Position {
        let mut off = || (0..4).map(|_| self.share()).sum::<f64>() / 4.0 - 0.5;
        Position::new(52.52 + 0.8 * off(), 13.4 + 1.3 * off()).expect("on the map")
    }
}

/// Calls `with` one place after the other, and the number of the call.
fn each_place(mut with: impl FnMut(Position, u64) + 'static) -> Box<dyn FnMut()> {
    let places: Vec<Position> = (0..1_024).map(|number| Random(number << 32).place()).collect();
    let mut number = 0;
    Box::new(move || {
        with(places[(number % 1_024) as usize], number);
        number += 1;
    })
}

fn driver(number: u64) -> DriverId {
    DriverId::new(&format!("driver-{number:07}")).expect("well formed")
}

/// Where a driver is in a round: within 100 m of its home, a second on.
fn fix(number: u64, round: u64) -> Fix {
    let home = Random(number).place();
    let mut step = Random(number ^ round << 40);
    Fix {
        ts: NOW.plus_ms(round as i64 * 1_000 - 600_000),
        position: Position::new(home.lat() + 0.001 * step.share(), home.lon() + 0.001 * step.share())
            .expect("on the map"),
        speed: Speed::from_mps(20.0 * step.share()).expect("in range"),
        heading: Heading::from_deg(359.0 * step.share()).expect("in range"),
        accuracy: Accuracy::from_m(10.0 * step.share()).expect("in range"),
        tags: Tags::NONE,
    }
}

fn point(number: u64, round: u64) -> Point {
    Point { driver: driver(number), fix: fix(number, round) }
}

/// As a phone sends it.
fn json(Point { driver, fix }: &Point) -> String {
    let mut json = String::new();
    let (lat, lon, mps) = (fix.position.lat(), fix.position.lon(), fix.speed.map_or(0.0, Speed::mps));
    let (deg, metres) = (fix.heading.map_or(0.0, Heading::deg), fix.accuracy.map_or(0.0, Accuracy::m));
    write!(
        json,
        r#"{{"driver_id":"{driver}","ts":{},"lat":{lat:.7},"lon":{lon:.7},"speed_mps":{mps:.2},"heading_deg":{deg:.1},"accuracy_m":{metres:.1}}}"#,
        fix.ts.as_ms(),
    )
    .expect("a String takes everything");
    json
}

fn parsing(content_type: &'static str) -> Box<dyn FnMut()> {
    let points: Vec<String> = (0..BATCH).map(|number| json(&point(number, 0))).collect();
    let body = match content_type {
        "application/json" => format!(r#"{{"points":[{}]}}"#, points.join(",")),
        _ => points.join("\n"),
    };
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let format = Format::from_headers(&headers).expect("one of ours");
    let rules = Rules { now: NOW, retention_ms: 48 * 3_600_000 };
    let read = move || parse(black_box(body.as_bytes()), format, &rules).expect("a valid batch");
    assert_eq!(read().points.len() as u64, BATCH, "every point is judged to its end");
    Box::new(move || drop(black_box(read())))
}

fn validating() -> Box<dyn FnMut()> {
    let sent: Vec<(String, String, f64, f64)> = (0..BATCH)
        .map(|number| point(number, 0))
        .map(|Point { driver, fix }| (driver.to_string(), fix.ts.to_string(), fix.position.lat(), fix.position.lon()))
        .collect();
    Box::new(move || {
        for (driver, ts, lat, lon) in black_box(&sent) {
            let fix = Fix {
                ts: Timestamp::parse_rfc3339(ts).expect("a time"),
                position: Position::new(*lat, *lon).expect("on the map"),
                speed: Speed::from_mps(*lat).expect("in range"),
                heading: Heading::from_deg(*lat).expect("in range"),
                accuracy: Accuracy::from_m(*lat).expect("in range"),
                tags: Tags::new(["van", "idle"]).expect("tags"),
            };
            black_box(Point { driver: DriverId::new(driver).expect("an id"), fix });
        }
    })
}

/// An hour of one driver.
fn hour() -> Vec<Fix> {
    (0..BATCH).map(|round| fix(1, round)).filter(|fix| fix.ts.hour() == NOW.hour()).collect()
}

fn encoding() -> Box<dyn FnMut()> {
    let fixes = hour();
    assert_eq!(fixes.len() as u64, BATCH);
    let mut bytes = Vec::new();
    Box::new(move || {
        bytes.clear();
        track_codec::encode_chunk(NOW.hour(), black_box(&fixes), &mut bytes);
        black_box(&bytes);
    })
}

fn decoding() -> Box<dyn FnMut()> {
    let mut bytes = Vec::new();
    track_codec::encode_chunk(NOW.hour(), &hour(), &mut bytes);
    Box::new(move || drop(black_box(track_codec::decode(NOW.hour(), black_box(&bytes)))))
}

/// An embedded store with everybody in it.
struct City {
    runtime: Runtime,
    store: EmbeddedStore,
    end: u64,
    _dir: tempfile::TempDir,
}

impl City {
    fn new(drivers: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let memtable_bytes = Options::DEFAULT_MEMTABLE_BYTES;
        let store = EmbeddedStore::new(Options { dir: dir.path().into(), journal: "one".into(), memtable_bytes });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(store.open("")).expect("opens");
        let mut city = Self { runtime, store, end: 0, _dir: dir };
        for first in (0..drivers).step_by(BATCH as usize) {
            let points: Vec<Point> = (first..drivers.min(first + BATCH)).map(|number| point(number, 0)).collect();
            city.apply(&points);
        }
        city
    }

    fn apply(&mut self, points: &[Point]) {
        self.end += 1;
        let end = Offset::new(self.end);
        let batch =
            Batch { points, start: Offset::START, end, forget_before: Timestamp::from_ms(0), repeated: false };
        self.runtime.block_on(self.store.apply(batch)).expect("applies");
    }

    fn nearby(&self, centre: Position, radius_m: f64, limit: usize) -> Vec<Near> {
        let query = NearbyQuery { centre, radius_m, limit, when: When::Within(TRAILING_HOUR), tags: Vec::new() };
        self.runtime.block_on(self.store.nearby(&query)).expect("answers").0
    }
}

/// Of each driver two points, as they come: all drivers, then all of them again.
fn folding() -> Box<dyn FnMut()> {
    let points: Vec<Point> = (0..BATCH).map(|number| point(Random(number % (BATCH / 2)).next(), number)).collect();
    assert_eq!(fold(&points, Timestamp::from_ms(0)).len() as u64, BATCH / 2);
    Box::new(move || {
        let folded = fold(black_box(&points), Timestamp::from_ms(0));
        drop(black_box(folded.iter().map(Folded::chunk).collect::<Vec<_>>()));
    })
}

/// Everybody moves, a batch after the other.
fn applying() -> Box<dyn FnMut()> {
    let mut city = City::new(DRIVERS);
    let rounds = DRIVERS / BATCH * 2;
    let batches: Vec<Vec<Point>> = (0..rounds)
        .map(|batch| {
            let first = batch * BATCH % DRIVERS;
            (first..first + BATCH).map(|number| point(number, 1 + batch * BATCH / DRIVERS)).collect()
        })
        .collect();
    let mut taken: i64 = 0;
    Box::new(move || {
        let mut points = batches[taken as usize % batches.len()].clone();
        // Later than ever before, but in the same hour for long enough.
        for point in &mut points {
            point.fix.ts = point.fix.ts.plus_ms(taken / rounds as i64 * 2_000);
        }
        taken += 1;
        city.apply(&points);
    })
}

fn asking(radius_m: f64, limit: usize) -> Box<dyn FnMut()> {
    let city = City::new(DRIVERS);
    each_place(move |centre, _| drop(black_box(city.nearby(centre, radius_m, limit))))
}

fn listing() -> Box<dyn FnMut()> {
    let city = City::new(DRIVERS);
    each_place(move |_, number| {
        let after = driver(number * 4_000 % (DRIVERS - 4_000));
        let page = city.runtime.block_on(city.store.active(TRAILING_HOUR, Some(&after), 4_000)).expect("answers");
        assert_eq!(black_box(page).items.len(), 4_000);
    })
}

/// Points of a track that is read.
const TRACK: usize = 720;

/// Of one among a hundred, from disk.
fn tracking() -> Box<dyn FnMut()> {
    let mut city = City::new(0);
    for round in 0..TRACK as u64 {
        let points: Vec<Point> = (0..100).map(|number| point(number, round)).collect();
        city.apply(&points);
    }
    city.runtime.block_on(city.store.flush()).expect("flushes");
    let who: Vec<DriverId> = (0..100).map(driver).collect();
    each_place(move |_, number| {
        let hour = NOW.hour();
        let track = city.store.track(&who[number as usize % 100], hour.start(), hour.end(), 10_000);
        assert_eq!(black_box(city.runtime.block_on(track)).expect("answers").len(), TRACK);
    })
}

fn rendering(rows: usize) -> Box<dyn FnMut()> {
    let found = Arc::new(City::new(10_000).nearby(Random(0).place(), 100_000.0, rows));
    assert_eq!(found.len(), rows);
    Box::new(move || drop(black_box(render::lines(black_box(&found), NOW))))
}
