//! Recorded traces, replayed by the real binary into the real binary, and every answer held against brute force.
//!
//! The traces lie beside the repository. Where they are not there, these tests say so and do nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::harness::http::{Driver, Http, read_seen, tally};
use crate::harness::process::{Process, geotrail};
use crate::harness::{Backing, Kind, on_both_stores};
use crate::oracle::{Oracle, Report, Seen, Which, haversine_m, hour_name, nearby_differs, read_trace};

const HOUR_MS: i64 = 3_600_000;
const RETENTION_MS: i64 = 72 * HOUR_MS;
/// What is asked at the same time.
const AT_ONCE: usize = 4;

async fn trace_a(kind: Kind) {
    replay_and_compare(kind, "trace-a").await;
}

async fn trace_c(kind: Kind) {
    replay_and_compare(kind, "trace-c").await;
}

on_both_stores! { trace_a, trace_c }

async fn replay_and_compare(kind: Kind, name: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../shared/data/{name}/points.csv.gz"));
    if !file.exists() {
        eprintln!("SKIPPED: no {}: nothing was compared", file.display());
        return;
    }
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    let replay = geotrail()
        .args(["replay", "--now", "--to", service.url()])
        .arg(&file)
        .output()
        .await
        .expect("the binary was built");
    let output = String::from_utf8_lossy(&replay.stdout);
    assert!(replay.status.success(), "{output}\n{}", String::from_utf8_lossy(&replay.stderr));
    service.caught_up().await;

    let recorded = read_trace(&file);
    let newest = recorded.iter().max_by_key(|report| report.seen.ts).expect("the trace has points");
    let shifted = Driver::read(&service.get(&format!("/v1/drivers/{}", newest.driver)).await.json());
    let shift = shifted.seen.ts - newest.seen.ts;
    // How long ago the replay began only decides about points that were just then getting too old: there are none.
    let (too_old, sent): (Vec<_>, Vec<_>) = recorded
        .into_iter()
        .map(|report| Report { seen: Seen { ts: report.seen.ts + shift, ..report.seen }, ..report })
        .partition(|report| report.seen.ts < shifted.seen.ts - RETENTION_MS);
    let oracle = Oracle::of(&sent);

    let counts: Value = serde_json::from_str(output.lines().last().unwrap_or_default()).expect("counts in JSON");
    assert_eq!(counts["sent"], sent.len() + too_old.len(), "{counts}");
    assert_eq!(counts["accepted"], sent.len(), "{counts}");
    let rejected: BTreeMap<_, _> = [("ts_too_old", too_old.len())].into_iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(counts["rejected"], serde_json::json!(rejected));

    check_tracks(&service, &oracle).await;
    check_hours(&service, &oracle).await;
    check_active(&service, &oracle).await;
    check_nearby(&service, &oracle).await;
    assert!(service.terminate().await.success());
}

fn same(found: &Seen, expected: &Seen) -> bool {
    found.ts == expected.ts && haversine_m((found.lat, found.lon), (expected.lat, expected.lon)) <= 1.0
}

/// Every point of every driver, once.
async fn check_tracks(http: &Http, oracle: &Oracle) {
    stream::iter(oracle.drivers().map(str::to_owned).collect::<Vec<_>>())
        .for_each_concurrent(AT_ONCE, async |driver| {
            let expected = oracle.track(&driver, 0, i64::MAX);
            let (from, to) = (expected[0].ts, expected[expected.len() - 1].ts + 1);
            let answer =
                http.get_as("application/x-ndjson", &format!("/v1/drivers/{driver}/track?from={from}&to={to}")).await;
            let found: Vec<Seen> = answer.lines().iter().map(read_seen).collect();
            assert_eq!(found.len(), expected.len(), "points of a track");
            for (found, expected) in found.iter().zip(expected) {
                assert!(same(found, expected), "{driver}: {found:?}, should be {expected:?}");
            }
        })
        .await;
}

/// Who reported in each hour, and where each was last.
async fn check_hours(http: &Http, oracle: &Oracle) {
    for hour in oracle.hours().collect::<Vec<_>>() {
        let name = hour_name(hour);
        let drivers = http.get_as("application/x-ndjson", &format!("/v1/hours/{name}/drivers")).await;
        let drivers = tally(
            drivers
                .lines()
                .iter()
                .map(|line| line.as_str().or_else(|| line["driver_id"].as_str()).expect("an id").to_owned()),
        );
        let expected = tally(oracle.hour_drivers(hour).into_iter().map(str::to_owned));
        assert_eq!(drivers, expected, "who reported in {name}");
        let positions = http.get_as("application/x-ndjson", &format!("/v1/hours/{name}/positions")).await;
        let positions: Vec<_> = positions.lines().iter().map(Driver::read).collect();
        check_located(&positions, &oracle.located(Which::LastOf(hour)));
    }
}

fn check_located(found: &[Driver], expected: &BTreeMap<&str, &Seen>) {
    assert!(tally(found.iter().map(|driver| &driver.id)).values().all(|times| *times == 1), "someone is there twice");
    assert_eq!(found.len(), expected.len());
    for driver in found {
        let expected = expected.get(driver.id.as_str()).expect("nobody else is there");
        assert!(same(&driver.seen, expected), "{driver:?}, should be {expected:?}");
    }
}

/// Every active driver, once, page by page and in one stream.
async fn check_active(http: &Http, oracle: &Oracle) {
    // All of the retention: nobody leaves while this is asked.
    let max_age_s = RETENTION_MS / 1_000;
    let everyone = oracle.located(Which::Newest { since: 0, until: i64::MAX });
    let path = format!("/v1/active?max_age_s={max_age_s}");
    for limit in [97, 1_000] {
        check_located(&http.all_pages(&path, limit).await, &everyone);
    }
    let streamed = http.get_as("application/x-ndjson", &path).await;
    check_located(&streamed.lines().iter().map(Driver::read).collect::<Vec<_>>(), &everyone);
    let count = http.get(&format!("/v1/active/count?max_age_s={max_age_s}")).await.json();
    assert_eq!(count["count"], everyone.len());
    assert_eq!(count["degraded"], false);
}

/// Who was near 200 places, now and in every hour.
async fn check_nearby(http: &Http, oracle: &Oracle) {
    let mut rng = StdRng::seed_from_u64(200);
    let hours: Vec<_> = oracle.hours().collect();
    let drivers: Vec<_> = oracle.drivers().collect();
    let mut asks = Vec::new();
    for number in 0..200 {
        // Somewhere near someone, so that most circles hold some.
        let near = oracle.latest(drivers[rng.random_range(0..drivers.len())]).expect("known");
        let centre = (near.lat + rng.random_range(-0.02..0.02), near.lon + rng.random_range(-0.02..0.02));
        let radius_m = [100.0, 500.0, 3_000.0, 20_000.0, 100_000.0][number % 5];
        let limit = [1, 10, 100, 1_000][number % 4];
        // Each place is asked about in several hours, so that all of them have their turn.
        for turn in 0..4 {
            let hour = hours[(number * 4 + turn) % hours.len()];
            asks.push((centre, radius_m, limit, Some(hour)));
        }
        asks.push((centre, radius_m, limit, None));
    }
    stream::iter(asks)
        .for_each_concurrent(AT_ONCE, async |(centre, radius_m, limit, hour)| {
            let when = match hour {
                Some(hour) => format!("hour={}", hour_name(hour)),
                None => format!("max_age_s={}", RETENTION_MS / 1_000),
            };
            let which = hour.map_or(Which::Newest { since: 0, until: i64::MAX }, Which::LastOf);
            let (lat, lon) = centre;
            let path = format!("/v1/nearby?lat={lat}&lon={lon}&radius_m={radius_m}&limit={limit}&{when}");
            let answer = http.get(&path).await;
            let truncated = answer.json()["truncated"].as_bool().expect("said");
            let (found, _) = answer.page();
            let located = oracle.located(which);
            let rows: Vec<_> =
                found.iter().map(|driver| (driver.id.clone(), driver.distance_m.expect("a distance"))).collect();
            // A place comes back within a metre, and a distance with it.
            let truth = |radius_m: f64| oracle.nearby(centre, radius_m, which, &[]);
            if let Some(difference) = nearby_differs(&rows, truncated, &truth, radius_m, limit, 1.0) {
                panic!("{path}: {difference}");
            }
            assert!(found.iter().all(|driver| same(&driver.seen, located[driver.id.as_str()])), "{path}");
        })
        .await;
}
