//! What the contract of a store is tested with: stores to test, seeded fleets to put in, and every question there is,
//! each answer held against the oracle.

use std::any::Any;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use geotrail::model::{
    Accuracy, DriverId, Fix, Heading, Hour, Offset, Point, Position, Resolution, Speed, Tag, Tags, Timestamp,
};
use geotrail::store::{Batch, NearbyQuery, Page, Store, When, Window};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::harness::eventually;
use crate::harness::redis::RedisServer;
use crate::oracle::{Content, Oracle, Report, Seen, Which, hour_of, nearby_differs, parse_utc};

pub(super) const HOUR_MS: i64 = 3_600_000;
/// How far ahead a phone's clock may be.
pub(super) const AHEAD_MS: i64 = 120_000;
/// What two ways of computing a haversine may differ by.
pub(super) const SLACK_M: f64 = 0.001;
/// Redis forgets by its own clock, and the moments of these tests are fixed ones, so its retention covers them all.
pub(super) const KEEP: Duration = Duration::from_hours(50 * 365 * 24);

/// Ids of instances, as journals have them.
pub(super) const ONE: &str = "00000000000000a1";
pub(super) const TWO: &str = "00000000000000b2";

pub(super) fn now() -> i64 {
    parse_utc("2026-11-22T14:00:01Z")
}

// ---- The stores under test

/// A store that was opened, and what it lives on.
pub(super) struct Bench {
    pub(super) store: Arc<dyn Store>,
    pub(super) applied: u64,
    _lives_on: Box<dyn Any + Send + Sync>,
}

pub(super) type Make = fn() -> Pin<Box<dyn Future<Output = Bench>>>;

pub(super) fn embedded() -> Pin<Box<dyn Future<Output = Bench>>> {
    Box::pin(async {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open_embedded(dir.path()).await.0;
        Bench::new(store, dir)
    })
}

/// With little memory, so that most of a fleet is on disk when it is asked about.
pub(super) async fn open_embedded(dir: &Path) -> (Arc<dyn Store>, Option<Offset>) {
    use geotrail::store::embedded::{EmbeddedStore, Options};
    let options = Options { dir: dir.to_path_buf(), journal: "one".into(), memtable_bytes: 32 * 1_024 };
    let store = EmbeddedStore::new(options);
    let from = store.open("").await.expect("it opens");
    (Arc::new(store), from)
}

pub(super) fn redis() -> Pin<Box<dyn Future<Output = Bench>>> {
    Box::pin(async {
        let server = RedisServer::start();
        let store = open_redis(&server, ONE).await;
        Bench::new(store, server)
    })
}

/// Spread over buckets and cells of some 8 km and 1.2 km.
pub(super) fn redis_by_5() -> Pin<Box<dyn Future<Output = Bench>>> {
    Box::pin(sharded(5))
}

pub(super) fn redis_by_7() -> Pin<Box<dyn Future<Output = Bench>>> {
    Box::pin(sharded(7))
}

async fn sharded(resolution: u8) -> Bench {
    let server = RedisServer::start();
    let store = open_redis_by(&server, ONE, Some(resolution)).await;
    Bench::new(store, server)
}

pub(super) async fn open_redis(server: &RedisServer, instance: &str) -> Arc<dyn Store> {
    open_redis_by(server, instance, None).await
}

async fn open_redis_by(server: &RedisServer, instance: &str, shards: Option<u8>) -> Arc<dyn Store> {
    use geotrail::store::redis::{Options, RedisStore};
    let options = Options {
        url: server.url(),
        ca: None,
        prefix: "geotrail".into(),
        instance: instance.into(),
        shard_resolution: shards.map(|shards| Resolution::new(shards).expect("there is one")),
        retention: KEEP,
        deadline: Duration::from_secs(5),
    };
    let store = RedisStore::connect(options).await.expect("it connects");
    store.open("").await.expect("it opens");
    // It connects on its own, and says of itself whether it has.
    eventually("Redis", async || store.ping().await.ok()).await;
    Arc::new(store)
}

impl Bench {
    pub(super) fn new(store: Arc<dyn Store>, lives_on: impl Any + Send + Sync) -> Self {
        Self { store, applied: 0, _lives_on: Box::new(lives_on) }
    }

    pub(super) async fn apply(&mut self, reports: &[Report]) {
        self.apply_unless_before(reports, 0).await;
    }

    pub(super) async fn apply_unless_before(&mut self, reports: &[Report], forget_before: i64) {
        let points: Vec<Point> = reports.iter().map(point).collect();
        self.applied += 1_000;
        let end = Offset::new(self.applied);
        let batch = Batch {
            points: &points,
            start: Offset::START,
            end,
            forget_before: Timestamp::from_ms(forget_before),
            repeated: false,
        };
        self.store.apply(batch).await.expect("it applies");
    }
}

// ---- Between the oracle's words and the service's

pub(super) fn id(driver: &str) -> DriverId {
    DriverId::new(driver).expect("a legal id")
}

pub(crate) fn point(report: &Report) -> Point {
    let seen = &report.seen;
    let fix = Fix {
        ts: Timestamp::from_ms(seen.ts),
        position: Position::new(seen.lat, seen.lon).expect("a legal place"),
        speed: seen.speed.and_then(|v| Speed::from_mps(v).expect("a legal speed")),
        heading: seen.heading.and_then(|v| Heading::from_deg(v).expect("a legal heading")),
        accuracy: seen.accuracy.and_then(|v| Accuracy::from_m(v).expect("a legal accuracy")),
        tags: Tags::new(seen.tags.iter().map(String::as_str)).expect("legal tags"),
    };
    Point { driver: id(&report.driver), fix }
}

pub(super) fn content_of(fix: &Fix) -> (i64, Content) {
    let content = (
        i64::from(fix.position.lat_e7()),
        i64::from(fix.position.lon_e7()),
        fix.speed.map(|v| i64::from(v.steps())),
        fix.heading.map(|v| i64::from(v.tenths())),
        fix.accuracy.map(|v| i64::from(v.dm())),
        fix.tags.joined().to_owned(),
    );
    (fix.ts.as_ms(), content)
}

pub(super) fn content(seen: &Seen) -> (i64, Content) {
    (seen.ts, seen.content())
}

pub(super) fn hour(number: i64) -> Hour {
    Hour::from_number(i32::try_from(number).expect("an hour of our days"))
}

pub(super) fn window(since: i64, until: i64) -> Window {
    Window { since: Timestamp::from_ms(since), until: Timestamp::from_ms(until) }
}

/// What counts at `now` if it is no older than `age_ms`.
pub(super) fn trailing(age_ms: i64) -> Window {
    window(now() - age_ms, now() + AHEAD_MS)
}

pub(super) fn at(driver: &str, ts: i64, lat: f64, lon: f64) -> Report {
    Report { driver: driver.to_owned(), seen: Seen { ts, lat, lon, ..Seen::default() } }
}

// ---- Fleets

/// Where a fleet drives.
#[derive(Clone, Copy)]
pub(super) struct Region {
    pub(super) lat: (f64, f64),
    pub(super) lon: (f64, f64),
}

pub(super) const CITY: Region = Region { lat: (52.20, 52.26), lon: (20.95, 21.08) };
pub(super) const WORLD: Region = Region { lat: (-85.0, 85.0), lon: (-180.0, 180.0) };
/// Longitudes beyond 180 go on at -180.
pub(super) const ANTIMERIDIAN: Region = Region { lat: (-17.5, -16.5), lon: (179.5, 180.5) };
pub(super) const NORTHERN_LIMIT: Region = Region { lat: (84.0, 85.051_128_78), lon: (-180.0, 180.0) };
pub(super) const SOUTHERN_LIMIT: Region = Region { lat: (-85.051_128_78, -84.0), lon: (-180.0, 180.0) };

pub(super) fn place(rng: &mut StdRng, region: Region) -> (f64, f64) {
    // On the grid of 1e-7 degrees, so that distances are those of the kept places. Some stand right on the edges.
    let grid = |v: f64| (v * 1e7).round() / 1e7;
    let lat = match rng.random_range(0..20) {
        0 => region.lat.0,
        1 => region.lat.1,
        _ => grid(rng.random_range(region.lat.0..region.lat.1)),
    };
    let lon = match rng.random_range(0..20) {
        0 => grid(region.lon.0.midpoint(region.lon.1)),
        _ => grid(rng.random_range(region.lon.0..region.lon.1)),
    };
    (lat, if lon > 180.0 { grid(lon - 360.0) } else { lon })
}

/// Ids whose order by bytes is not the order of their making, of every length and letter that is allowed.
pub(super) fn driver_name(number: usize) -> String {
    match number % 5 {
        0 => format!("{number}"),
        1 => format!("cab-{number:03}"),
        2 => format!("Z:{number}"),
        3 => format!("_{number}.x"),
        _ => format!("{number:064}"),
    }
}

/// Reports of a fleet over the five hours before [`now`] and the two minutes after, with late ones, repeated ones and
/// ties.
pub(super) fn fleet(seed: u64, drivers: usize, each: usize, region: Region) -> Vec<Report> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut reports = Vec::new();
    for number in 0..drivers {
        let driver = driver_name(number);
        // Some fell silent a while ago.
        let newest = if number % 4 == 0 { now() - rng.random_range(0..5 * HOUR_MS) } else { now() + AHEAD_MS };
        for _ in 0..each {
            let ts = rng.random_range(now() - 5 * HOUR_MS..=newest);
            // Whole seconds now and then, so that neighbours share a moment.
            let ts = if rng.random_bool(0.3) { ts - ts.rem_euclid(1_000) } else { ts };
            let (lat, lon) = place(&mut rng, region);
            let tags: &[&str] = [&[][..], &["van"], &["van", "free"], &["free"]][rng.random_range(0..4)];
            let mut upto = |most: f64| rng.random_bool(0.7).then(|| rng.random_range(0.0..most));
            let (pace, heading, accuracy) = (upto(60.0), upto(360.0), upto(3_000.0));
            let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
            let report =
                Report { driver: driver.clone(), seen: Seen { ts, lat, lon, speed: pace, heading, accuracy, tags } };
            if rng.random_bool(0.05) {
                let (lat, lon) = place(&mut rng, region);
                reports.push(Report { seen: Seen { lat, lon, ..report.seen.clone() }, ..report.clone() });
            }
            if rng.random_bool(0.05) {
                reports.push(report.clone());
            }
            reports.push(report);
        }
    }
    reports.shuffle(&mut rng);
    reports
}

// ---- Asking for everything

#[derive(Clone, Copy, Debug)]
pub(super) enum Listing {
    Active(Window),
    Drivers(Hour),
    Positions(Hour),
}

pub(super) type Row = (String, Option<(i64, Content)>);

pub(super) async fn page(
    store: &dyn Store,
    what: Listing,
    after: Option<&DriverId>,
    limit: usize,
) -> (Vec<Row>, Option<DriverId>) {
    let located = |page: Page<geotrail::store::Located>| {
        let rows = page.items.into_iter().map(|one| (one.driver.to_string(), Some(content_of(&one.fix))));
        (rows.collect(), page.next)
    };
    match what {
        Listing::Active(window) => located(store.active(window, after, limit).await.expect("a page")),
        Listing::Positions(hour) => located(store.hour_positions(hour, after, limit).await.expect("a page")),
        Listing::Drivers(hour) => {
            let page = store.hour_drivers(hour, after, limit).await.expect("a page");
            (page.items.into_iter().map(|driver| (driver.to_string(), None)).collect(), page.next)
        }
    }
}

/// Follows `next` to the end: rows come in ascending order of ids, so each driver at most once.
pub(super) async fn all(store: &dyn Store, what: Listing, limit: usize) -> Vec<Row> {
    let (mut rows, mut after) = (Vec::<Row>::new(), None::<DriverId>);
    loop {
        let (more, next) = page(store, what, after.as_ref(), limit).await;
        assert!(more.len() <= limit, "{what:?}: {} rows for a limit of {limit}", more.len());
        for row in more {
            let last = rows.last().map(|(driver, _)| driver.as_str());
            assert!(last < Some(&row.0), "{what:?}, limit {limit}: {} after {last:?}", row.0);
            assert!(after.as_ref().map(DriverId::as_str) < Some(row.0.as_str()), "{what:?}: a row before its page");
            rows.push(row);
        }
        match next {
            None => return rows,
            Some(next) => {
                assert!(after.as_ref() < Some(&next), "{what:?}: the cursor stands still at {next}");
                after = Some(next);
            }
        }
    }
}

pub(super) fn expected(oracle: &Oracle, what: Listing) -> Vec<Row> {
    let which = match what {
        Listing::Active(window) => Which::Newest { since: window.since.as_ms(), until: window.until.as_ms() },
        Listing::Drivers(hour) | Listing::Positions(hour) => Which::LastOf(i64::from(hour.number())),
    };
    let with_fix = !matches!(what, Listing::Drivers(_));
    let row = |(driver, seen): (&str, &Seen)| (driver.to_owned(), with_fix.then(|| content(seen)));
    oracle.located(which).into_iter().map(row).collect()
}

pub(super) async fn check_listing(store: &dyn Store, oracle: &Oracle, what: Listing, limit: usize) {
    assert_eq!(all(store, what, limit).await, expected(oracle, what), "{what:?}, limit {limit}");
}

#[derive(Clone, Debug)]
pub(super) struct Around {
    pub(super) centre: (f64, f64),
    pub(super) radius_m: f64,
    pub(super) limit: usize,
    pub(super) when: When,
    pub(super) tags: Vec<&'static str>,
}

pub(super) async fn ask_nearby(store: &dyn Store, ask: &Around) -> (Vec<(String, f64, (i64, Content))>, bool) {
    let query = NearbyQuery {
        centre: Position::new(ask.centre.0, ask.centre.1).expect("a legal place"),
        radius_m: ask.radius_m,
        limit: ask.limit,
        when: ask.when,
        tags: ask.tags.iter().map(|tag| Tag::new(tag).expect("a legal tag")).collect(),
    };
    let (near, truncated) = store.nearby(&query).await.expect("an answer");
    let row = |near: geotrail::store::Near| {
        (near.located.driver.to_string(), near.distance_m, content_of(&near.located.fix))
    };
    (near.into_iter().map(row).collect(), truncated)
}

pub(super) async fn check_nearby(store: &dyn Store, oracle: &Oracle, ask: &Around) {
    let (near, truncated) = ask_nearby(store, ask).await;
    let which = match ask.when {
        When::Within(window) => Which::Newest { since: window.since.as_ms(), until: window.until.as_ms() },
        When::During(hour) => Which::LastOf(i64::from(hour.number())),
    };
    let found: Vec<_> = near.iter().map(|(driver, distance_m, _)| (driver.clone(), *distance_m)).collect();
    let truth = |radius_m: f64| oracle.nearby(ask.centre, radius_m, which, &ask.tags);
    if let Some(difference) = nearby_differs(&found, truncated, &truth, ask.radius_m, ask.limit, SLACK_M) {
        panic!("{ask:?}: {difference}");
    }
    let located = oracle.located(which);
    for (driver, _, fix) in &near {
        assert_eq!(*fix, content(located[driver.as_str()]), "{ask:?}: {driver}");
    }
}

/// Every question there is, against the oracle.
pub(super) async fn check_everything(store: &dyn Store, oracle: &Oracle, region: Region, seed: u64) {
    check_everything_kept(store, oracle, region, seed, 0).await;
}

/// The same where nothing before `kept_from` is kept: nobody asks for a track from before that (the query layer sees
/// to it), so a store may take its time with those.
pub(super) async fn check_everything_kept(
    store: &dyn Store,
    oracle: &Oracle,
    region: Region,
    seed: u64,
    kept_from: i64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let windows = [1_000, 60_000, HOUR_MS, 5 * HOUR_MS + HOUR_MS / 2].map(trailing);
    for window in windows {
        check_listing(store, oracle, Listing::Active(window), 1_000).await;
        let count = store.active_count(window).await.expect("a count");
        assert_eq!(count, expected(oracle, Listing::Active(window)).len() as u64, "{window:?}");
        let last = store.last_report(window).await.expect("an answer").map(Timestamp::as_ms);
        assert_eq!(last, oracle.last_report(window.since.as_ms(), window.until.as_ms()), "{window:?}");
    }
    let this_hour = hour_of(now());
    for number in this_hour - 7..=this_hour + 1 {
        check_listing(store, oracle, Listing::Drivers(hour(number)), 1_000).await;
        check_listing(store, oracle, Listing::Positions(hour(number)), 1_000).await;
    }
    for driver in oracle.drivers() {
        for window in windows {
            let latest = store.latest(&id(driver), window).await.expect("an answer");
            let truth = oracle.latest(driver).filter(|seen| window.since.as_ms() <= seen.ts);
            assert_eq!(latest.as_ref().map(content_of), truth.map(content), "latest of {driver}, {window:?}");
        }
        let (a, b) = (rng.random_range(-6 * HOUR_MS..HOUR_MS), rng.random_range(-6 * HOUR_MS..HOUR_MS));
        for (from, to) in [(-7 * HOUR_MS, HOUR_MS), (a.min(b), a.max(b))] {
            check_track(store, oracle, driver, (now() + from).max(kept_from), now() + to, 1_000).await;
        }
    }
    for _ in 0..40 {
        let ask = Around {
            centre: place(&mut rng, region),
            radius_m: [50.0, 500.0, 3_000.0, 20_000.0, 100_000.0][rng.random_range(0..5)],
            limit: [1, 2, 10, 1_000][rng.random_range(0..4)],
            when: match rng.random_range(0..2) {
                0 => When::Within(windows[rng.random_range(0..windows.len())]),
                _ => When::During(hour(this_hour - rng.random_range(0..7))),
            },
            tags: [vec![], vec!["van"], vec!["free", "van"], vec!["boat"]][rng.random_range(0..4)].clone(),
        };
        check_nearby(store, oracle, &ask).await;
    }
}

pub(super) async fn check_track(store: &dyn Store, oracle: &Oracle, driver: &str, from: i64, to: i64, limit: usize) {
    let (start, end) = (Timestamp::from_ms(from), Timestamp::from_ms(to));
    let track = store.track(&id(driver), start, end, limit).await.expect("a track");
    let track: Vec<_> = track.iter().map(content_of).collect();
    let truth: Vec<_> = oracle.track(driver, from, to).into_iter().take(limit).map(content).collect();
    assert_eq!(track, truth, "track of {driver} from {from} to {to}, limit {limit}");
}

pub(super) async fn check_fleet(make: Make, seed: u64, region: Region) {
    let mut bench = make().await;
    let reports = fleet(seed, 60, 25, region);
    for batch in reports.chunks(97) {
        bench.apply(batch).await;
    }
    check_everything(&*bench.store, &Oracle::of(&reports), region, seed).await;
}
