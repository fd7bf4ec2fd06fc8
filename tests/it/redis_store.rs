//! The Redis store against a real redis-server: the keys that other programs read, expiry, order of arrival, faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use geotrail::model::{
    DriverId, Fix, Hour, Offset, Point, Position, QuadCell, Resolution, Speed, Tag, Tags, Timestamp,
};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Batch, NearbyQuery, Store, StoreError, When, Window};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::redis::{RedisServer, eventually};

const RETENTION: Duration = Duration::from_hours(48);

pub(crate) fn options(server: &RedisServer, instance: &str) -> Options {
    Options {
        url: server.url(),
        ca: None,
        prefix: Options::PREFIX.into(),
        instance: instance.into(),
        shard_resolution: None,
        retention: RETENTION,
        deadline: Options::DEADLINE,
    }
}

pub(crate) async fn connected(server: &RedisServer, instance: &str) -> RedisStore {
    let store = RedisStore::connect(options(server, instance)).await.expect("a good URL");
    works_again(&store).await;
    store
}

pub(crate) async fn works_again(store: &RedisStore) {
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp::from_ms(since.as_millis() as i64)
}

pub(crate) fn window(seconds: i64) -> Window {
    Window { since: now().plus_ms(-seconds * 1_000), until: now().plus_ms(120_000) }
}

pub(crate) fn id(number: usize) -> DriverId {
    DriverId::new(&format!("driver-{number:05}")).expect("a good id")
}

pub(crate) fn point(driver: DriverId, ts: Timestamp, lat_e7: i32, lon_e7: i32) -> Point {
    let position = Position::from_e7(lat_e7, lon_e7).expect("on the map");
    Point { driver, fix: Fix { ts, position, speed: None, heading: None, accuracy: None, tags: Tags::NONE } }
}

/// Points in a city, in this hour and the three before; some share driver and millisecond and differ in the rest.
pub(crate) fn points(seed: u64, count: usize, drivers: usize) -> Vec<Point> {
    let mut rng = StdRng::seed_from_u64(seed);
    let base = now().hour().start();
    (0..count)
        .map(|_| {
            let step_ms = 300_000;
            let ts = base.plus_ms(-rng.random_range(0..36_i64) * step_ms + rng.random_range(0..2));
            let (lat, lon) = (rng.random_range(-200_000..200_000), rng.random_range(-200_000..200_000));
            let mut point = point(id(rng.random_range(0..drivers)), ts, 525_000_000 + lat, 134_000_000 + lon);
            point.fix.speed = Speed::from_steps(rng.random_range(0..5_000));
            if rng.random_range(0..3) == 0 {
                point.fix.tags = Tags::new(["van", "free"]).expect("good tags");
            }
            point
        })
        .collect()
}

pub(crate) fn batch(points: &[Point], end: u64) -> Batch<'_> {
    Batch {
        points,
        start: Offset::START,
        end: Offset::new(end),
        forget_before: now().plus_ms(-48 * 3_600_000),
        repeated: false,
    }
}

/// What must be in the store, by the simplest means.
pub(crate) fn expected_tracks(points: &[Point]) -> BTreeMap<DriverId, BTreeMap<Timestamp, Fix>> {
    let mut tracks: BTreeMap<DriverId, BTreeMap<Timestamp, Fix>> = BTreeMap::new();
    for Point { driver, fix } in points {
        let kept = tracks.entry(driver.clone()).or_default().entry(fix.ts).or_insert_with(|| fix.clone());
        if fix > kept {
            *kept = fix.clone();
        }
    }
    tracks
}

pub(crate) async fn assert_holds(store: &RedisStore, points: &[Point]) {
    assert_holds_since(store, points, window(24 * 3_600).since).await;
}

async fn assert_holds_since(store: &RedisStore, points: &[Point], since: Timestamp) {
    let window = Window { since, ..window(24 * 3_600) };
    let tracks = expected_tracks(points);
    let mut listed = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.active(window, after.as_ref(), 7).await.expect("Redis is there");
        for located in page.items {
            assert!(listed.insert(located.driver, located.fix).is_none(), "a driver is listed once");
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let newest: BTreeMap<DriverId, Fix> = tracks
        .iter()
        .map(|(driver, fixes)| (driver.clone(), fixes.values().last().expect("a fix").clone()))
        .collect();
    assert_eq!(listed, newest);
    assert_eq!(store.active_count(window).await.expect("Redis is there"), newest.len() as u64);
    let newest_ts = newest.values().map(|fix| fix.ts).max();
    assert_eq!(store.last_report(window).await.expect("Redis is there"), newest_ts);
    for (driver, fixes) in tracks {
        let track = store.track(&driver, window.since, window.until, 10_000).await.expect("Redis is there");
        assert_eq!(track, fixes.into_values().collect::<Vec<_>>());
        let latest = store.latest(&driver, window).await.expect("Redis is there");
        assert_eq!(latest.as_ref(), newest.get(&driver));
    }
}

/// What other programs see of an hour: `positions` and `drivers`.
pub(crate) fn assert_public_keys(server: &RedisServer, points: &[Point]) {
    let mut hours: BTreeMap<Hour, BTreeMap<&DriverId, &Fix>> = BTreeMap::new();
    for Point { driver, fix } in points {
        let newest = hours.entry(fix.ts.hour()).or_default().entry(driver).or_insert(fix);
        *newest = (*newest).max(fix);
    }
    for (hour, drivers) in hours {
        let members = server.cli(&["SMEMBERS", &format!("geotrail:{{{hour}}}:drivers")]);
        let members: BTreeSet<&str> = members.lines().collect();
        assert_eq!(members, drivers.keys().map(|driver| driver.as_str()).collect());
        let scores = server.cli(&["ZRANGE", &format!("geotrail:{{{hour}}}:positions"), "0", "-1", "WITHSCORES"]);
        let lines: Vec<&str> = scores.lines().collect();
        let scores: BTreeMap<&str, u64> =
            lines.chunks(2).map(|pair| (pair[0], pair[1].parse().expect("a whole score"))).collect();
        let score = |fix: &Fix| QuadCell::containing(fix.position, QuadCell::MAX_LEVEL).scores().start;
        assert_eq!(scores, drivers.into_iter().map(|(driver, fix)| (driver.as_str(), score(fix))).collect());
    }
}

pub(crate) fn assert_expiries(server: &RedisServer) -> usize {
    let script = "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
                  out[#out + 1] = key .. ' ' .. redis.call('EXPIRETIME', key) end return out";
    let answer = server.cli(&["EVAL", script, "0"]);
    for (key, expires) in answer.lines().filter_map(|line| line.split_once(' ')) {
        let hour = key.split(['{', '}', ':']).nth(2).and_then(|hour| Hour::parse(hour).ok());
        let hour = hour.expect("an hour in the braces");
        let over = hour.end().as_ms() / 1_000 + RETENTION.as_secs() as i64;
        // All but tracks are unlinked long before.
        let earliest = over + if key.contains(":track:") { 0 } else { 300 };
        let expires: i64 = expires.parse().expect("a number");
        assert!((earliest..=over + 600).contains(&expires), "{key} expires at {expires}");
    }
    answer.lines().count()
}

#[test]
fn scores_are_those_of_geoadd() {
    let server = RedisServer::start();
    let mut rng = StdRng::seed_from_u64(1);
    let (lat, lon) = (850_511_287, 1_800_000_000);
    let edges = [-lat, -lat + 1, -1, 0, 1, lat - 1, lat];
    let mut places: Vec<Position> = edges
        .iter()
        .flat_map(|lat_e7| [-lon, -lon + 1, -1, 0, 1, lon - 1].map(|lon_e7| Position::from_e7(*lat_e7, lon_e7)))
        .map(|place| place.expect("on the map"))
        .collect();
    places.extend(
        (0..3_000).map(|_| {
            Position::from_e7(rng.random_range(-lat..=lat), rng.random_range(-lon..lon)).expect("on the map")
        }),
    );
    for (slice, places) in places.chunks(500).enumerate() {
        let key = format!("geo{slice}");
        let mut command = vec!["GEOADD".to_owned(), key.clone()];
        for (at, place) in places.iter().enumerate() {
            command.extend([format!("{:.7}", place.lon()), format!("{:.7}", place.lat()), at.to_string()]);
        }
        server.cli(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let answer = server.cli(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]);
        let lines: Vec<&str> = answer.lines().collect();
        assert_eq!(lines.len(), 2 * places.len());
        for pair in lines.chunks(2) {
            let place = places[pair[0].parse::<usize>().expect("an index")];
            let score = QuadCell::containing(place, QuadCell::MAX_LEVEL).scores().start;
            assert_eq!(pair[1], score.to_string(), "at {place:?}");
        }
    }
}

#[tokio::test]
async fn any_order_of_arrival_through_any_instance_leaves_the_same() {
    for seed in 0..4 {
        let server = RedisServer::start();
        let stores = [connected(&server, "00000000000000aa").await, connected(&server, "00000000000000bb").await];
        let points = points(seed, 1_500, 60);
        let mut sent = points.clone();
        sent.extend_from_slice(&points[..700]);
        sent.shuffle(&mut StdRng::seed_from_u64(seed));
        let (ours, theirs) = sent.split_at(1_000);
        let write = async |store: &RedisStore, points: &[Point]| {
            for (number, slice) in points.chunks(170).enumerate() {
                store.apply(batch(slice, number as u64 * 1_000 + 1_000)).await.expect("Redis is there");
            }
        };
        tokio::join!(write(&stores[0], ours), write(&stores[1], theirs));
        for store in &stores {
            assert_holds(store, &points).await;
        }
        assert_public_keys(&server, &points);
        assert!(assert_expiries(&server) > 60);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_expires_from_the_moment_it_exists() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let points = points(9, 20_000, 2_000);
    let writing = async {
        for (number, slice) in points.chunks(500).enumerate() {
            store.apply(batch(slice, number as u64 + 1)).await.expect("Redis is there");
        }
    };
    let watching = async {
        // A watcher inside Redis: between any two commands it sees all there is.
        let script = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                      if redis.call('TTL', key) < 0 then n = n + 1 end end return n";
        for _ in 0..40 {
            let immortal = tokio::task::block_in_place(|| server.cli(&["EVAL", script, "0"]));
            assert_eq!(immortal.trim(), "0", "keys without an expiry");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writing, watching);
    assert!(store.apply(batch(&points[..1], 1)).await.is_ok());
}

#[tokio::test]
async fn a_batch_that_comes_again_does_not_grow_tracks() {
    let server = RedisServer::start();
    let mut store = connected(&server, "00000000000000aa").await;
    let points = points(3, 800, 20);
    store.apply(batch(&points, 5_000)).await.expect("Redis is there");
    let before = track_bytes(&server);
    for (part, end) in [(&points[..], 5_000), (&points[..100], 900), (&points[50..], 6_000)] {
        store.apply(Batch { repeated: true, ..batch(part, end) }).await.expect("Redis is there");
        store = connected(&server, "00000000000000aa").await;
        store.apply(Batch { repeated: true, ..batch(part, end) }).await.expect("Redis is there");
        assert_eq!(track_bytes(&server), before);
    }
    store.apply(batch(&points[..100], 7_000)).await.expect("Redis is there");
    assert_ne!(track_bytes(&server), before, "what is said to be new is appended unread");
    assert_holds(&store, &points).await;
}

#[tokio::test]
async fn a_repetition_fills_what_a_track_lacks() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let points = points(4, 800, 20);
    store.apply(batch(&points[..400], 1)).await.expect("Redis is there");
    store.apply(batch(&points[400..], 2)).await.expect("Redis is there");
    // Some are gone; of those, some are begun anew with what comes next.
    for (number, track) in track_bytes(&server).into_keys().enumerate() {
        if number % 3 == 0 {
            server.cli(&["UNLINK", &track]);
        }
    }
    store.apply(batch(&points[200..300], 3)).await.expect("Redis is there");
    for (part, end) in [(&points[..400], 1), (&points[400..], 2)] {
        store.apply(Batch { repeated: true, ..batch(part, end) }).await.expect("Redis is there");
    }
    assert_holds(&store, &points).await;
}

/// Hours that go earlier than the instance believes would each be taken for lost, one after the other.
#[tokio::test]
async fn a_repetition_with_a_longer_retention_prolongs_every_key() {
    let expiries = |server: &RedisServer| -> BTreeMap<String, i64> {
        let expiry = |key: &String| server.cli(&["EXPIRETIME", key]).trim().parse().expect("a number");
        server.keys().into_iter().map(|key| (key.clone(), expiry(&key))).collect()
    };
    for resolution in [None, Some(7)] {
        let server = RedisServer::start();
        let points = points(21, 300, 20);
        let options = |retention| {
            let shard_resolution = resolution.map(|number| Resolution::new(number).expect("there is one"));
            Options { retention, shard_resolution, ..options(&server, "00000000000000aa") }
        };
        let before = RedisStore::connect(options(RETENTION)).await.expect("a good URL");
        works_again(&before).await;
        before.apply(batch(&points, 1)).await.expect("Redis is there");
        let brief = expiries(&server);
        assert!(brief.len() > 20, "{brief:?}");
        let after = RedisStore::connect(options(RETENTION + Duration::from_hours(24))).await.expect("a good URL");
        works_again(&after).await;
        after.apply(Batch { repeated: true, ..batch(&points, 1) }).await.expect("Redis is there");
        let longer = expiries(&server);
        assert_eq!(longer.keys().collect::<Vec<_>>(), brief.keys().collect::<Vec<_>>());
        for (key, expiry) in brief {
            assert_eq!(longer[&key], expiry + 24 * 3_600, "{key}");
        }
    }
}

pub(crate) fn track_bytes(server: &RedisServer) -> BTreeMap<String, u64> {
    let tracks = server.keys().into_iter().filter(|key| key.contains(":track:"));
    tracks.map(|key| (key.clone(), server.cli(&["STRLEN", &key]).trim().parse().expect("a number"))).collect()
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_a_refusal_and_leaves_nothing_immortal() {
    for name in ["positions", "drivers", "roster", "fixes", "track:driver-00000"] {
        let server = RedisServer::start();
        let store = connected(&server, "00000000000000aa").await;
        let point = point(id(0), now(), 525_000_000, 134_000_000);
        let planted = format!("geotrail:{{{}}}:{name}", point.fix.ts.hour());
        server.cli(&["XADD", &planted, "*", "a", "b"]);
        let refused = store.apply(batch(std::slice::from_ref(&point), 1)).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{name}: {refused:?}");
        server.cli(&["UNLINK", &planted]);
        assert_expiries(&server);
        store.apply(batch(std::slice::from_ref(&point), 1)).await.expect("the key is gone");
        assert_holds(&store, std::slice::from_ref(&point)).await;
        assert_public_keys(&server, std::slice::from_ref(&point));
    }
}

#[tokio::test]
async fn an_hour_out_of_retention_is_never_written_and_forgotten_hours_go() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let old = point(id(1), now().plus_ms(-50 * 3_600_000), 525_000_000, 134_000_000);
    store.apply(batch(&[old], 1)).await.expect("it is only counted");
    assert_eq!(server.keys(), Vec::<String>::new());
    let points = points(5, 300, 10);
    store.apply(batch(&points, 2)).await.expect("Redis is there");
    let this_hour = now().hour().start();
    store.forget_before(this_hour.plus_ms(1)).await.expect("Redis is there");
    let left = server.keys().into_iter().filter(|key| !key.contains(":track:"));
    let kept = format!("{{{}}}", this_hour.hour());
    assert!(left.into_iter().all(|key| key.contains(&kept)), "{:?}", server.keys());
}

#[tokio::test]
async fn a_frozen_redis_costs_no_more_than_the_deadline() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let points = points(6, 400, 40);
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    server.stop();
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        let answer = store.active(window(3_600), None, 10).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        let written = store.apply(batch(&points, 2)).await;
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
        assert!(asked.elapsed() < 2 * Options::DEADLINE + Duration::from_secs(1), "the deadline holds");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(calls > 1);
    server.cont();
    works_again(&store).await;
    store.apply(batch(&points, 2)).await.expect("Redis is back");
    assert_holds(&store, &points).await;
}

#[tokio::test]
async fn redis_may_come_late_and_come_back_empty() {
    let mut server = RedisServer::absent();
    let store = RedisStore::connect(options(&server, "00000000000000aa")).await.expect("a good URL");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.active(window(3_600), None, 10).await, Err(StoreError::Unavailable(_))));
    server.restart();
    works_again(&store).await;
    let points = points(7, 400, 40);
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    assert_holds(&store, &points).await;
    server.kill();
    assert!(matches!(store.apply(batch(&points, 2)).await, Err(StoreError::Unavailable(_))));
    server.restart();
    works_again(&store).await;
    assert_eq!(store.latest(&points[0].driver, window(86_400)).await.expect("Redis is there"), None);
    assert_eq!(store.audit().await.expect("Redis is there"), Some(Offset::START));
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    assert_holds(&store, &points).await;
}

/// Passes bytes on to a server, holding some of its replies back for longer than the client waits.
async fn slow_now_and_then(server: &RedisServer, hold: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = RedisServer::url_at(&listener.local_addr().expect("it is bound").to_string());
    let upstream = server.address();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&upstream).await.expect("the server is there");
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), upstream.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(1);
                let mut bytes = vec![0; 4_096];
                while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                    if rng.random_range(0..25) == 0 {
                        tokio::time::sleep(hold).await;
                    }
                    if to_client.write_all(&bytes[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn late_replies_are_never_taken_for_others() {
    let server = RedisServer::start();
    let deadline = Duration::from_millis(200);
    let url = slow_now_and_then(&server, 2 * deadline).await;
    let points: Vec<Point> =
        (0..400).map(|number| point(id(number), now(), 525_000_000 + number as i32, 134_000_000)).collect();
    connected(&server, "00000000000000aa").await.apply(batch(&points, 1)).await.expect("Redis is there");

    let options = Options { url, deadline, ..options(&server, "00000000000000bb") };
    let store = Arc::new(RedisStore::connect(options).await.expect("a good URL"));
    works_again(&store).await;
    let mut askers = JoinSet::new();
    for asker in 0..8 {
        let (store, points) = (Arc::clone(&store), points.clone());
        askers.spawn(async move {
            let (mut right, mut late) = (0, 0);
            let begun = Instant::now();
            for point in points.iter().cycle().skip(asker * 50) {
                match store.latest(&point.driver, window(3_600)).await {
                    Ok(fix) => {
                        assert_eq!(fix.as_ref(), Some(&point.fix), "another's answer");
                        right += 1;
                    }
                    Err(StoreError::Unavailable(_)) => {
                        late += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
                if right >= 300 && late >= 10 {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_mins(1), "{right} right, {late} late");
            }
        });
    }
    while let Some(asker) = askers.join_next().await {
        asker.expect("every value belongs to its question");
    }
}

#[tokio::test]
async fn a_client_that_is_stuck_is_replaced() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let points = points(11, 100, 10);
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    server.stop();
    let begun = Instant::now();
    while store.rebuilds() == 0 {
        assert!(begun.elapsed() < Duration::from_mins(1), "nobody replaced it");
        let _ = tokio::time::timeout(Duration::from_millis(100), store.apply(batch(&points, 2))).await;
    }
    server.cont();
    let freed = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(freed.elapsed() < Duration::from_secs(2), "not in time: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.apply(batch(&points, 2)).await.expect("Redis is back");
    assert_holds(&store, &points).await;
}

#[tokio::test]
async fn the_first_call_finds_a_connection() {
    let server = RedisServer::start();
    let store = RedisStore::connect(options(&server, "00000000000000aa")).await.expect("a good URL");
    store.ping().await.expect("it waited for the connection");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_pipeline_is_one_of_the_batch() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    // From here on Redis knows the script, and answers each call by itself.
    let early = point(id(1), now().plus_ms(-30 * 3_600_000), 525_000_000, 134_000_000);
    store.apply(batch(&[early], 1)).await.expect("Redis is there");
    let ts = now();
    let points: Vec<Point> = (0..100).map(|number| point(id(number), ts, 525_000_000, 134_000_000)).collect();
    let planted = format!("geotrail:{{{}}}:track:{}", ts.hour(), id(55));
    server.cli(&["XADD", &planted, "*", "a", "b"]);
    for _ in 0..2 {
        let refused = store.apply(batch(&points, 2)).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        assert_eq!(store.durable(), Offset::new(1));
    }
    let marks = format!("geotrail:{{{}}}:marks", ts.hour());
    let mark = server.cli(&["HGET", &marks, "00000000000000aa"]);
    assert!(mark.starts_with("0;;"), "not all of it is in the tracks: {mark}");
    server.cli(&["UNLINK", &planted]);
    store.apply(batch(&points, 2)).await.expect("the key is gone");
    assert_holds_since(&store, &points, ts.plus_ms(-1)).await;
}

#[tokio::test]
async fn any_one_key_that_was_lost_comes_back_with_a_repetition() {
    let points = points(13, 400, 30);
    for name in [":positions", ":drivers", ":roster", ":fixes", ":last", ":marks", ":track:"] {
        let server = RedisServer::start();
        let store = connected(&server, "00000000000000aa").await;
        store.apply(batch(&points, 5_000)).await.expect("Redis is there");
        let lost: Vec<String> = server.keys().into_iter().filter(|key| key.contains(name)).collect();
        assert!(!lost.is_empty(), "{name}");
        for key in lost {
            server.cli(&["UNLINK", &key]);
        }
        assert!(store.audit().await.expect("Redis is there").is_some(), "{name}");
        store.apply(Batch { repeated: true, ..batch(&points, 5_000) }).await.expect("Redis is there");
        assert_holds(&store, &points).await;
        assert_public_keys(&server, &points);
        assert_expiries(&server);
    }
}

#[tokio::test]
async fn the_oldest_moment_of_the_retention_is_asked_about() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let now = now();
    let oldest = point(id(1), now.plus_ms(-48 * 3_600_000), 525_000_000, 134_000_000);
    store.apply(batch(std::slice::from_ref(&oldest), 1)).await.expect("Redis is there");
    let kept = Window { since: oldest.fix.ts, until: now.plus_ms(120_000) };
    assert_eq!(store.latest(&oldest.driver, kept).await.expect("an answer").as_ref(), Some(&oldest.fix));
    assert_eq!(store.active_count(kept).await.expect("an answer"), 1);
    assert_eq!(store.last_report(kept).await.expect("an answer"), Some(oldest.fix.ts));
    let when = When::Within(kept);
    let query = NearbyQuery { centre: oldest.fix.position, radius_m: 10.0, limit: 10, when, tags: vec![] };
    assert_eq!(store.nearby(&query).await.expect("an answer").0.len(), 1);
    let track = store.track(&oldest.driver, kept.since, kept.until, 10).await.expect("an answer");
    assert_eq!(track, [oldest.fix]);
}

#[tokio::test]
async fn a_question_about_all_time_is_one_about_the_retention() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let points = points(12, 200, 5);
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    let monitor = server.monitor();
    let (begin, end) = (Timestamp::from_ms(i64::MIN), Timestamp::from_ms(i64::MAX));
    let all_time = Window { since: begin, until: now().plus_ms(120_000) };
    for (driver, fixes) in expected_tracks(&points) {
        let fixes: Vec<Fix> = fixes.into_values().collect();
        for to in [end, now().plus_ms(120_000)] {
            assert_eq!(store.track(&driver, begin, to, 10_000).await.expect("an answer"), fixes);
        }
        assert_eq!(store.latest(&driver, all_time).await.expect("an answer").as_ref(), fixes.last());
    }
    assert_eq!(store.track(&id(9_999), begin, end, 10).await.expect("an answer"), []);
    assert_eq!(store.track(&id(0), begin, Timestamp::from_ms(0), 10).await.expect("an answer"), []);
    assert_eq!(store.latest(&id(9_999), all_time).await.expect("an answer"), None);
    let centre = points[0].fix.position;
    let when = When::Within(all_time);
    let query = NearbyQuery { centre, radius_m: 100_000.0, limit: 10, when, tags: vec![] };
    assert_eq!(store.nearby(&query).await.expect("an answer").0.len(), 5);
    assert_eq!(store.active_count(all_time).await.expect("an answer"), 5);
    assert!(store.last_report(all_time).await.expect("an answer").is_some());
    let asked = monitor.finish(&server).len();
    assert!(asked < 10_000, "{asked} commands");
}

#[tokio::test]
async fn a_crowd_at_one_spot_is_read_in_small_pieces() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let (lat_e7, lon_e7) = (525_000_000, 134_000_000);
    let ts = now().hour().previous().start();
    let crowd: Vec<Point> = (0..3_000).map(|number| point(id(number), ts, lat_e7, lon_e7)).collect();
    store.apply(batch(&crowd, 1)).await.expect("Redis is there");
    let monitor = server.monitor();
    let centre = Position::from_e7(lat_e7, lon_e7).expect("on the map");
    let when = When::During(ts.hour());
    let query = NearbyQuery { centre, radius_m: 10.0, limit: 1_000, when, tags: vec![] };
    let (near, truncated) = store.nearby(&query).await.expect("Redis is there");
    assert!(truncated);
    let found: Vec<DriverId> = near.into_iter().map(|near| near.located.driver).collect();
    assert_eq!(found, (0..1_000).map(id).collect::<Vec<_>>(), "of equals the first by id, out of all");
    let mut read = 0;
    for line in monitor.finish(&server) {
        let words: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        let [name, .., second_last, last] = words.as_slice() else { continue };
        let number = |word: &str| word.parse::<usize>().expect("a number");
        match (*name, words.len()) {
            ("ZRANGE", 4) => read += number(last) + 1 - number(second_last),
            ("ZRANGE", _) => assert!(line.contains("\"LIMIT\" \"0\""), "an offset is walked: {line}"),
            ("HMGET", arguments) => assert!(arguments <= 202, "{arguments} arguments"),
            _ => {}
        }
        if *name == "ZRANGE" {
            let limit = if *last == "WITHSCORES" { second_last } else { last };
            let elements = if words.len() == 4 { number(last) + 1 - number(second_last) } else { number(limit) };
            assert!(elements <= 250, "{elements} elements: {line}");
        }
    }
    // Each page is found by a dozen reads of one.
    assert!((2_750..3_300).contains(&read), "pages do not overlap: {read} by rank");
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_refused_without_repeating_it() {
    let server = RedisServer::absent();
    for (url, prefix) in [("redis://user:hunter2@[::bad", "geotrail"), (server.url().as_str(), "geo{trail}")] {
        let wrong = Options { url: url.into(), prefix: prefix.into(), ..options(&server, "00000000000000aa") };
        let error = RedisStore::connect(wrong).await.expect_err("it cannot be right");
        assert!(matches!(&error, StoreError::Refused(why) if !why.contains("hunter2")), "{error:?}");
    }
}

#[tokio::test]
async fn nearby_agrees_with_looking_at_everyone() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let mut points = points(8, 3_000, 900);
    // Many at one place: a cell of the finest level that holds more than one read.
    let crowd = (2_000..2_600).map(|number| point(id(number), now().plus_ms(-1_000), 525_000_000, 134_000_000));
    points.extend(crowd);
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    let centre = Position::from_e7(525_000_500, 134_000_500).expect("on the map");
    let tracks = expected_tracks(&points);
    for (seconds, radius_m, limit, tags) in [
        (3_600, 1_000.0, 10, vec![]),
        (3_600, 3_000.0, 1_000, vec![]),
        (12_000, 800.0, 650, vec![]),
        (12_000, 5_000.0, 20, vec![Tag::new("van").expect("a good tag")]),
    ] {
        let window = window(seconds);
        let mut all: Vec<(f64, &DriverId)> = tracks
            .iter()
            .map(|(driver, fixes)| (driver, fixes.values().last().expect("a fix")))
            .filter(|(_, fix)| fix.ts >= window.since && fix.tags.contains_all(&tags))
            .map(|(driver, fix)| (centre.distance_m(fix.position), driver))
            .filter(|(distance_m, _)| *distance_m <= radius_m)
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        let query = NearbyQuery { centre, radius_m, limit, when: When::Within(window), tags };
        let (near, truncated) = store.nearby(&query).await.expect("Redis is there");
        assert_eq!(truncated, all.len() > limit);
        let found: Vec<(f64, &DriverId)> = near.iter().map(|near| (near.distance_m, &near.located.driver)).collect();
        all.truncate(limit);
        assert_eq!(found, all);
    }
}

#[tokio::test]
async fn commands_are_small_and_none_is_forbidden() {
    let server = RedisServer::start();
    let store = connected(&server, "00000000000000aa").await;
    let monitor = server.monitor();
    let points = points(10, 6_000, 2_500);
    store.apply(batch(&points, 1)).await.expect("Redis is there");
    let window = window(48 * 3_600 - 60);
    let hour = now().hour().previous();
    let centre = points[0].fix.position;
    let query = |when| NearbyQuery { centre, radius_m: 100_000.0, limit: 1_000, when, tags: vec![] };
    assert_eq!(store.nearby(&query(When::Within(window))).await.expect("Redis is there").0.len(), 1_000);
    assert!(!store.nearby(&query(When::During(hour))).await.expect("Redis is there").0.is_empty());
    assert!(store.active(window, None, 1_000).await.expect("Redis is there").next.is_some());
    assert!(store.active_count(window).await.expect("Redis is there") > 2_000);
    assert!(!store.hour_drivers(hour, None, 1_000).await.expect("Redis is there").items.is_empty());
    assert!(!store.hour_positions(hour, None, 1_000).await.expect("Redis is there").items.is_empty());
    store.track(&points[0].driver, window.since, window.until, 1_000).await.expect("Redis is there");
    store.latest(&points[0].driver, window).await.expect("Redis is there");
    store.last_report(window).await.expect("Redis is there");
    store.forget_before(window.until.plus_ms(-3_600_000)).await.expect("Redis is there");

    let forbidden =
        ["KEYS", "SMEMBERS", "GEORADIUS", "GEOSEARCH", "DEL", "FLUSHALL", "FLUSHDB", "SCAN", "SSCAN", "HGETALL"];
    let mut commands = BTreeSet::new();
    for line in monitor.finish(&server) {
        let words: Vec<&str> = line.split("\" \"").collect();
        let Some(name) = words[0].split('"').nth(1) else { continue };
        assert!(!forbidden.contains(&name.to_uppercase().as_str()), "{line}");
        assert!(words.len() <= 260, "{} arguments: {name}", words.len());
        if name == "ZRANGE" {
            let words = line.trim_end_matches(" \"WITHSCORES\"").trim_end_matches('"');
            let count: usize = words.rsplit('"').next().expect("words").parse().expect("ends in its limit");
            assert!(count <= 250);
        }
        commands.insert(name.to_uppercase());
    }
    for used in ["EVALSHA", "ZADD", "APPEND", "EXPIREAT", "ZCOUNT", "ZRANGE", "HMGET", "GETRANGE", "GET", "UNLINK"] {
        assert!(commands.contains(used), "the monitor saw {used}: {commands:?}");
    }
    eventually("the server is well", || server.cli(&["PING"]).trim() == "PONG");
}
