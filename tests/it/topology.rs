//! Redis on many servers: clusters and sentinels, whole, failing, and changing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use geotrail::model::{DriverId, Fix, Hour, Offset, Point, Position, Resolution, Tags, Timestamp};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Applied, Batch, Store, StoreError, Window};

use crate::harness::app::Service;
use crate::harness::cluster::Cluster;
use crate::harness::redis::{PASSWORD, RedisServer, Sentinel, eventually as soon};
use crate::harness::{PATIENCE, eventually};
use crate::oracle::{Report, Seen, hour_name, hour_of};
use crate::redis_store::{options, works_again};
use crate::scale::City;

const HOUR_MS: i64 = 3_600_000;
/// Enough hours that every primary has some.
const HOURS: i64 = 24;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn report(driver: &str, ts: i64) -> Report {
    let place = ts % 1_000_000;
    let seen = Seen { ts, lat: 52.5 + place as f64 / 1e7, lon: 13.4, ..Seen::default() };
    Report { driver: driver.into(), seen }
}

/// Each of `drivers` once an hour, newest first, at `now` and so many hours before.
fn everywhere(drivers: usize, now: i64, salt: i64) -> Vec<Report> {
    let hours = (0..HOURS).rev();
    hours
        .flat_map(|hour| (0..drivers).map(move |n| report(&format!("driver-{n:03}"), now - hour * HOUR_MS - salt)))
        .collect()
}

/// Every driver's whole track is what was reported, in any number of requests.
async fn assert_all_there(service: &Service, reports: &[Report], now: i64) {
    let mut tracks: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for report in reports {
        tracks.entry(&report.driver).or_default().push(report.seen.ts);
    }
    for (driver, mut expected) in tracks {
        expected.sort_unstable();
        expected.dedup();
        let track = service.track(driver, now - 47 * HOUR_MS, now + 1).await;
        assert_eq!(track.iter().map(|seen| seen.ts).collect::<Vec<_>>(), expected, "{driver}");
    }
}

/// 25 % from even at most.
#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_an_hour_of_a_city_lie_evenly_on_all_primaries() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(false));
    let shard_resolution = Some(Resolution::new(7).expect("there is one"));
    let (url, server) = (cluster.url_of_all(), &cluster.servers[0]);
    let options = Options { url, shard_resolution, ..options(server, "00000000000000aa") };
    let store = RedisStore::connect(options).await.expect("a good URL");
    works_again(&store).await;
    let city = City::new(10_000).report();
    for (number, points) in city.chunks(1_000).enumerate() {
        store.apply(batch(points, number as u64 + 1)).await.expect("Redis is there");
    }
    let keys: Vec<f64> = cluster.servers.iter().map(|server| server.keys().len() as f64).collect();
    let even = keys.iter().sum::<f64>() / keys.len() as f64;
    assert!(keys.iter().all(|keys| (0.75..=1.25).contains(&(keys / even))), "{keys:?}");
    assert!(even > 3_000.0, "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_answers_everything_and_survives_the_death_of_a_primary() {
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(true));
    let now = now_ms();
    let service = Service::start(&cluster.url(), now).await;
    let mut reports = everywhere(12, now, 0);
    service.report(&reports).await;
    for server in &cluster.servers[..3] {
        assert!(!server.keys().is_empty(), "every primary has a part");
    }
    assert_all_there(&service, &reports, now).await;
    assert_eq!(service.all_pages("/v1/active?max_age_s=3600", 5).await.len(), 12);
    assert_eq!(service.get("/v1/active/count?max_age_s=86400").await.json()["count"], 12);
    assert_eq!(service.get("/v1/drivers/driver-003").await.json()["driver_id"], "driver-003");
    assert_eq!(service.get("/v1/nearby?lat=52.5&lon=13.4&limit=20&radius_m=20000").await.page().0.len(), 12);
    for hour in (0..HOURS).map(|back| hour_name(hour_of(now) - back)) {
        assert_eq!(service.all_pages(&format!("/v1/hours/{hour}/drivers?"), 5).await.len(), 12, "{hour}");
        assert_eq!(service.all_pages(&format!("/v1/hours/{hour}/positions?"), 5).await.len(), 12, "{hour}");
    }

    // A primary dies in the middle of it; what is acknowledged meanwhile is there afterwards.
    let begun = Instant::now();
    for salt in 1.. {
        if salt == 3 {
            cluster.servers[0].kill();
        }
        let more = everywhere(4, now, salt);
        let answer = service.try_post("/v1/points", &more).await.expect("an answer");
        assert_eq!(answer.status, 202, "ingest does not depend on Redis");
        reports.extend(more);
        let has_failed_over = cluster.servers[3].cli(&["ROLE"]).starts_with("master");
        if salt > 12 && has_failed_over {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "no failover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    service.caught_up().await;
    assert_all_there(&service, &reports, now).await;

    // Another freezes; the others go on, and so does the replica in its place. It comes back as a replica of that.
    cluster.servers[1].stop();
    let begun = Instant::now();
    for salt in 1_000.. {
        let more = everywhere(4, now, salt);
        let answer = service.try_post("/v1/points", &more).await.expect("an answer");
        assert_eq!(answer.status, 202, "ingest does not depend on Redis");
        reports.extend(more);
        let has_failed_over = cluster.servers[4].cli(&["ROLE"]).starts_with("master");
        if salt > 1_012 && has_failed_over {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "no failover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    service.caught_up().await;
    assert_all_there(&service, &reports, now).await;
    cluster.servers[1].cont();
    let more = everywhere(4, now, 2_000);
    service.report(&more).await;
    reports.extend(more);
    assert_all_there(&service, &reports, now).await;
    service.stop().await;
}

fn point(driver: &str, ts: i64) -> Point {
    let position = Position::from_e7(525_000_000 + (ts % 1_000_000) as i32, 134_000_000).expect("on the map");
    let fix =
        Fix { ts: Timestamp::from_ms(ts), position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
    Point { driver: DriverId::new(driver).expect("a good id"), fix }
}

fn batch(points: &[Point], end: u64) -> Batch<'_> {
    let forget_before = Timestamp::from_ms(now_ms() - 48 * HOUR_MS);
    Batch { points, start: Offset::START, end: Offset::new(end), forget_before, repeated: false }
}

async fn connected(url: String) -> RedisStore {
    let options = Options {
        url,
        ca: None,
        prefix: Options::PREFIX.into(),
        instance: "00000000000000aa".into(),
        shard_resolution: None,
        retention: Duration::from_hours(48),
        deadline: Options::DEADLINE,
    };
    let store = RedisStore::connect(options).await.expect("a good URL");
    eventually("all primaries", async || (store.missing_primaries() == 0).then_some(())).await;
    store
}

fn since(hours: i64) -> Window {
    let now = now_ms();
    Window { since: Timestamp::from_ms(now - hours * HOUR_MS), until: Timestamp::from_ms(now + 120_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_costs_what_lies_on_it_and_nothing_else() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(false));
    let store = connected(cluster.url()).await;
    // No report can be in the next hour, which may lie anywhere.
    let now = now_ms();
    let now = now.min(Timestamp::from_ms(now).hour().end().as_ms() - 121_000);
    let by_owner = tokio::task::block_in_place(|| {
        let mut by_owner: [Vec<Point>; 3] = Default::default();
        for back in 0..HOURS {
            let ts = now - back * HOUR_MS;
            let hour = Timestamp::from_ms(ts).hour();
            by_owner[cluster.owner(&format!("geotrail:{{{hour}}}:positions"))].push(point("driver-1", ts));
        }
        by_owner
    });
    assert!(by_owner.iter().all(|points| !points.is_empty()), "every primary has some hours");
    for (points, end) in by_owner.iter().zip(1..) {
        store.apply(batch(points, end)).await.expect("all are there");
    }
    // The newest hour is on a living one.
    let newest = by_owner.iter().position(|points| points.iter().any(|point| point.fix.ts.as_ms() == now));
    let frozen = (newest.expect("somewhere") + 1) % 3;
    let service = Service::start(&cluster.url(), now).await;
    service.report(&[report("driver-2", now)]).await;
    assert_eq!(store.missing_primaries(), 0);
    cluster.servers[frozen].stop();

    let hour_of = |point: &Point| point.fix.ts.hour();
    eventually("it is missed", async || (store.missing_primaries() == 1).then_some(())).await;
    store.ping().await.expect("the others answer");
    for (owner, points) in by_owner.iter().enumerate() {
        let begun = Instant::now();
        let applied = store.apply(batch(points, 100 + owner as u64)).await;
        let listed = store.hour_drivers(hour_of(&points[0]), None, 10).await;
        assert!(begun.elapsed() < 2 * Options::DEADLINE, "{:?}", begun.elapsed());
        if owner == frozen {
            assert_eq!(applied.expect("the others answer"), Applied::Partly);
            assert!(matches!(listed, Err(StoreError::Unavailable(_))), "{listed:?}");
        } else {
            assert_eq!(applied.expect("this one is not frozen"), Applied::Whole);
            assert!(listed.expect("this one is not frozen").items.contains(&points_driver()));
        }
    }
    let day = Window { since: Timestamp::from_ms(now - 24 * HOUR_MS), until: Timestamp::from_ms(now) };
    let latest = store.latest(&points_driver(), day).await.expect("the newest hour is there");
    assert_eq!(latest.map(|fix| fix.ts.as_ms()), Some(now));

    for _ in 0..5 {
        let begun = Instant::now();
        let health = service.get("/health").await;
        assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
        assert_eq!(health.status, 200, "drivers have reported");
        let answer = service.try_post("/v1/points", &everywhere(2, now, 1)).await.expect("an answer");
        assert_eq!(answer.status, 202);
    }
    eventually("a warning", async || (service.get("/health").await.json()["status"] == "warn").then_some(())).await;
    assert_eq!(service.get("/v1/drivers/driver-2").await.status, 200, "its newest hour is on a living primary");

    cluster.servers[frozen].cont();
    eventually("it is back", async || (store.missing_primaries() == 0).then_some(())).await;
    store.apply(batch(&by_owner[frozen], 200)).await.expect("it is back");
    service.caught_up().await;
    assert_all_there(&service, &everywhere(2, now, 1), now).await;
    service.stop().await;
}

fn points_driver() -> DriverId {
    DriverId::new("driver-1").expect("a good id")
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_may_move_under_load() {
    let cluster = Arc::new(tokio::task::block_in_place(|| Cluster::start(false)));
    let store = Arc::new(connected(cluster.url()).await);
    let now = now_ms();
    let moving = Arc::new(AtomicBool::new(true));
    let mover = tokio::task::spawn_blocking({
        let (cluster, moving) = (cluster.clone(), moving.clone());
        move || {
            for round in 1..3 {
                for back in 0..HOURS {
                    let hour: Hour = Timestamp::from_ms(now - back * HOUR_MS).hour();
                    let key = format!("geotrail:{{{hour}}}:positions");
                    let (slot, first) = (cluster.slot(&key), cluster.owner(&key));
                    cluster.move_slot(slot, (first + round - 1) % 3, (first + round) % 3);
                }
            }
            moving.store(false, Ordering::SeqCst);
        }
    });
    let mut written = Vec::new();
    let mut reads = 0;
    for number in 0_i64.. {
        let points: Vec<Point> = (0..HOURS)
            .flat_map(|back| (0..3).map(move |n| point(&format!("driver-{n}"), now - back * HOUR_MS - number)))
            .collect();
        let begun = Instant::now();
        // A slot on its way may be answered with TRYAGAIN for as long as it takes; whoever writes repeats.
        while let Err(error) = store.apply(batch(&points, number as u64 + 1)).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            assert!(begun.elapsed() < PATIENCE, "{error}");
        }
        written.extend(points);
        if let Ok(latest) = store.latest(&points_driver(), since(24)).await {
            assert_eq!(latest.map(|fix| fix.ts.as_ms()), Some(now), "an answer is never less than the truth");
            reads += 1;
        }
        if !moving.load(Ordering::SeqCst) {
            break;
        }
    }
    mover.await.expect("all slots were moved");
    assert!(reads > 0);
    for n in 0..3 {
        let driver = format!("driver-{n}");
        let mut expected: Vec<i64> = written
            .iter()
            .filter(|point| point.driver.as_str() == driver)
            .map(|point| point.fix.ts.as_ms())
            .collect();
        expected.sort_unstable();
        let window = since(48);
        let id = DriverId::new(&driver).expect("a good id");
        let track = store.track(&id, window.since, window.until, 100_000).await.expect("nothing moves any more");
        assert_eq!(track.iter().map(|fix| fix.ts.as_ms()).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_lead_to_the_new_primary() {
    let (mut primary, replica, sentinels) = tokio::task::block_in_place(|| {
        let primary = RedisServer::start();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        soon("it replicates", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        let sentinels = [(); 3].map(|()| Sentinel::start(&primary));
        for sentinel in &sentinels {
            soon("they know each other and the replica", || {
                let told = sentinel.cli(&["SENTINEL", "MASTER", "fleet"]);
                let lines: Vec<&str> = told.lines().collect();
                let is = |name: &str, value: &str| lines.windows(2).any(|pair| pair == [name, value]);
                is("num-other-sentinels", "2") && is("num-slaves", "1")
            });
        }
        (primary, replica, sentinels)
    });
    let [first, second, third] = [0, 1, 2].map(|at: usize| sentinels[at].port());
    let url = format!(
        "redis-sentinel://geotrail:{PASSWORD}@127.0.0.1:{first}?sentinelServiceName=fleet&node=127.0.0.1:{second}\
         &node=127.0.0.1:{third}"
    );
    let now = now_ms();
    let service = Service::start(&url, now).await;
    let mut reports = everywhere(5, now, 0);
    service.report(&reports).await;
    soon("it has been replicated", || replica.cli(&["DBSIZE"]) == primary.cli(&["DBSIZE"]));
    primary.kill();
    let more = everywhere(5, now, 1);
    let answer = service.try_post("/v1/points", &more).await.expect("an answer");
    assert_eq!(answer.status, 202, "ingest does not depend on Redis");
    reports.extend(more);
    eventually("a failover", async || replica.cli(&["ROLE"]).starts_with("master").then_some(())).await;
    // One of them frozen does not matter.
    sentinels[0].stop();
    service.caught_up().await;
    assert_all_there(&service, &reports, now).await;
    service.stop().await;
}
