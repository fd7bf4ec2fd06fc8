//! A cluster of which one primary is dead or frozen, without a replica: what lies on the others goes on, what lies on it
//! is said to be missing, and comes again by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use geotrail::model::{Point, Resolution};
use geotrail::store::Store;
use geotrail::store::redis::{Options, RedisStore};
use serde_json::Value;

use crate::harness::app::Service;
use crate::harness::cluster::Cluster;
use crate::harness::eventually;
use crate::harness::http::{Answer, Http};
use crate::harness::redis::RedisServer;
use crate::oracle::{Report, Seen, hour_name, hour_of, rfc3339};
use crate::redis_store::{batch, id, now, options, point, works_again};

const HOUR_MS: i64 = 3_600_000;
/// Enough hours that every primary has some of an hour that is one shard.
const HOURS: i64 = 12;
/// Enough drivers that every primary has some of an hour that is many shards.
const DRIVERS: usize = 24;
/// Primaries.
const ALL: usize = 3;

/// Half past the last whole hour: the same hours whenever the test runs.
fn half_past() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    now - now.rem_euclid(HOUR_MS) - HOUR_MS / 2
}

fn name(driver: usize) -> String {
    format!("driver-{driver:02}")
}

/// Some 20 km of places, so that cells differ, and drivers move between them.
fn report(driver: &str, number: i64, ts: i64) -> Report {
    let lat = 52.5 + ((ts / 977 + number * 31) % 200) as f64 * 1e-3;
    Report { driver: driver.into(), seen: Seen { ts, lat, lon: 13.4, ..Seen::default() } }
}

/// What happens to a primary.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It comes back with nothing.
    DiesEmpty,
    /// It comes back with what it had some time before.
    DiesWithDump,
    Freezes,
}

struct Fleet {
    cluster: Cluster,
    service: Service,
    now: i64,
    reports: Vec<Report>,
    /// Milliseconds of the last round.
    round: i64,
}

impl Fleet {
    async fn new(shards: Option<u8>, and_also: &str) -> Self {
        let cluster = tokio::task::block_in_place(|| Cluster::start(false));
        let now = half_past();
        let shards = shards.map(|number| Resolution::new(number).expect("there is one"));
        let stores = format!("{}{and_also}", cluster.url_of_all());
        let service = Service::start_sharded(&stores, shards, now).await;
        let mut fleet = Self { cluster, service, now, reports: Vec::new(), round: -600_000 };
        let all: Vec<Report> = (0..HOURS).rev().flat_map(|back| fleet.everybody(back)).collect();
        fleet.service.report(&all).await;
        fleet.reports.extend(all);
        for server in &fleet.cluster.servers {
            assert!(!server.keys().is_empty(), "every primary has a part");
        }
        fleet
    }

    /// One report of each driver, so many hours ago.
    fn everybody(&mut self, back: i64) -> Vec<Report> {
        self.round += 1;
        let ts = self.now + self.round - back * HOUR_MS;
        (0..DRIVERS).map(|driver| report(&name(driver), driver as i64, ts)).collect()
    }

    /// Posts such reports; they are taken, whatever is dead.
    async fn goes_on(&mut self, back: i64) -> i64 {
        let more = self.everybody(back);
        let answer = self.service.try_post("/v1/points", &more).await.expect("an answer");
        assert_eq!(answer.status, 202, "ingest does not depend on Redis");
        let ts = more[0].seen.ts;
        self.reports.extend(more);
        ts
    }

    /// On which primary each driver is in an hour, by where its track is.
    fn owners(&self, hour: i64) -> BTreeMap<String, usize> {
        let hour = hour_name(hour);
        let mut owners = BTreeMap::new();
        for (at, server) in self.cluster.servers.iter().enumerate() {
            for key in server.keys().iter().filter(|key| key.contains(&hour)) {
                if let Some((_, driver)) = key.split_once(":track:") {
                    owners.insert(driver.to_owned(), at);
                }
            }
        }
        assert_eq!(owners.len(), DRIVERS);
        owners
    }

    async fn strike(&mut self, fault: Fault, at: usize) {
        let server = &mut self.cluster.servers[at];
        match fault {
            Fault::Freezes => server.stop(),
            Fault::DiesEmpty => server.kill(),
            Fault::DiesWithDump => {
                assert_eq!(server.cli(&["SAVE"]).trim(), "OK");
                self.goes_on(0).await;
                self.goes_on(3).await;
                self.service.caught_up().await;
                self.cluster.servers[at].kill();
            }
        }
    }

    fn mend(&mut self, fault: Fault, at: usize) {
        let server = &mut self.cluster.servers[at];
        match fault {
            Fault::Freezes => server.cont(),
            Fault::DiesEmpty | Fault::DiesWithDump => tokio::task::block_in_place(|| server.restart()),
        }
    }

    /// The newest report of a driver, and the times of all.
    fn expected(&self) -> BTreeMap<&str, BTreeSet<i64>> {
        let mut tracks: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        for report in &self.reports {
            tracks.entry(&report.driver).or_default().insert(report.seen.ts);
        }
        tracks
    }

    /// Everything is in, and every answer has it.
    async fn assert_whole(&self) {
        self.service.caught_up().await;
        for (driver, expected) in self.expected() {
            let track = self.service.track(driver, self.now - 47 * HOUR_MS, self.now + 1).await;
            let found: BTreeSet<i64> = track.iter().map(|seen| seen.ts).collect();
            assert_eq!(found, expected, "{driver}");
            let latest = self.service.get(&format!("/v1/drivers/{driver}")).await;
            assert_eq!(latest.header("geotrail-index"), "complete");
        }
        let newest = self.expected().into_iter().map(|(driver, all)| (driver, *all.last().expect("one")));
        let newest: BTreeMap<&str, i64> = newest.collect();
        let found = |drivers: Vec<crate::harness::http::Driver>| -> BTreeMap<String, i64> {
            drivers.into_iter().map(|driver| (driver.id, driver.seen.ts)).collect()
        };
        let expected: BTreeMap<String, i64> = newest.iter().map(|(id, ts)| ((*id).to_owned(), *ts)).collect();
        assert_eq!(found(self.service.all_pages("/v1/active?", 10).await), expected);
        assert_eq!(found(self.service.get(NEARBY).await.page().0), expected);
        for back in 0..HOURS {
            let hour = hour_name(hour_of(self.now) - back);
            let listed = self.service.all_pages(&format!("/v1/hours/{hour}/drivers?"), 10).await;
            assert_eq!(listed.len(), newest.len());
        }
    }
}

const NEARBY: &str = "/v1/nearby?lat=52.6&lon=13.4&radius_m=30000&limit=100";

/// Asks all the time. Whatever is called complete has everybody; whatever is not is labelled or refused.
struct Witness {
    is_over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<String>>,
    partial: Arc<AtomicUsize>,
}

impl Witness {
    fn of(service: &Http, now: i64) -> Self {
        let (is_over, partial) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, counted, service) = (is_over.clone(), partial.clone(), service.clone());
        let task = tokio::spawn(async move {
            let mut wrong = Vec::new();
            for turn in 0_i64.. {
                if until.load(Ordering::SeqCst) {
                    break;
                }
                let hour = hour_name(hour_of(now) - turn % HOURS);
                let path = match turn % 6 {
                    0 => "/v1/active/count".to_owned(),
                    1 => format!("/v1/hours/{hour}/drivers?limit=1000"),
                    2 => NEARBY.to_owned(),
                    3 => "/v1/density".to_owned(),
                    4 => {
                        format!("/v1/drivers/{}/track?from={}", name(turn as usize % DRIVERS), now - HOURS * HOUR_MS)
                    }
                    _ => format!("/v1/hours/{hour}/positions?limit=1000"),
                };
                let begun = Instant::now();
                let answer = service.get(&path).await;
                let took = begun.elapsed();
                if let Err(what) = judge(&path, &answer) {
                    wrong.push(format!("{path}: {what}: {} {:?}", answer.status, answer.headers));
                }
                if took > Duration::from_secs(5) {
                    wrong.push(format!("{path} took {took:?}"));
                }
                counted.fetch_add(usize::from(answer.header("geotrail-index") == "partial"), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            wrong
        });
        Self { is_over, task, partial }
    }

    async fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        let wrong = self.task.await.expect("it does not panic");
        assert!(wrong.is_empty(), "{} times, first: {}", wrong.len(), wrong[0]);
        assert!(self.partial.load(Ordering::SeqCst) > 0);
    }
}

fn judge(path: &str, answer: &Answer) -> Result<(), String> {
    let label = answer.header("geotrail-index");
    if answer.status == 503 && answer.code() == "index_unavailable" {
        return Ok(());
    }
    if answer.status == 404 {
        // The primary is back, and empty as yet.
        return if label == "complete" { Err("not found".into()) } else { Ok(()) };
    }
    let json = answer.json();
    let rows = |member: &str| json[member].as_array().map_or(0, Vec::len);
    let count = match path.split(['?', '/']).nth(2) {
        _ if path.starts_with("/v1/active/count") => json["count"].as_u64().unwrap_or_default() as usize,
        _ if path.starts_with("/v1/density") => {
            let cells = json["cells"].as_array().into_iter().flatten();
            cells.map(|cell| cell["drivers"].as_u64().unwrap_or_default() as usize).sum()
        }
        // Each hour has a report of each driver from the beginning.
        _ if path.contains("/track") => rows("points").min(HOURS as usize) / HOURS as usize * DRIVERS,
        _ => rows("drivers"),
    };
    match (answer.status, label) {
        (200, "complete") if count != DRIVERS => Err(format!("complete, with {count}")),
        (200, "complete") if json["degraded"] == false => Ok(()),
        (200, "partial" | "rebuilding") if count > DRIVERS => Err(format!("too many: {count}")),
        (200, "partial" | "rebuilding") if json["degraded"] == true && json["index"]["state"] == label => Ok(()),
        _ => Err(format!("neither whole, nor labelled, nor unavailable: {json}")),
    }
}

/// Whether a driver's newest point has this `ts`, and nothing else is said of the index than that it is partial.
async fn is_at(service: &Http, driver: &str, ts: i64) -> Option<()> {
    let answer = service.get(&format!("/v1/drivers/{driver}")).await;
    (answer.status == 200 && answer.header("geotrail-index") == "partial").then_some(())?;
    (answer.json()["ts"] == rfc3339(ts)).then_some(())
}

/// One fault from beginning to end, with a restart of the service in the middle if wanted.
async fn survives(mut fleet: Fleet, fault: Fault, at: usize, restarts: bool) -> Fleet {
    let this_hour = hour_of(fleet.now);
    let owners = fleet.owners(this_hour);
    let on_it = |driver: &str| owners[driver] == at;
    let dead: Vec<&String> = owners.keys().filter(|driver| on_it(driver)).collect();
    let alive: Vec<&String> = owners.keys().filter(|driver| !on_it(driver)).collect();
    // What lies on it is reported first, so that the rest would have to wait for it.
    let not_on_it = |back: i64| -> Vec<String> {
        let owners = fleet.owners(this_hour - back);
        owners.into_iter().filter(|(_, owner)| *owner != at).map(|(driver, _)| driver).collect()
    };
    let missing = (1..HOURS).find(|back| not_on_it(*back).len() < DRIVERS).expect("it has some");
    let others = (1..HOURS).find(|back| *back != missing && !not_on_it(*back).is_empty()).expect("they have some");
    let told_late = not_on_it(others);
    let mut witness = Witness::of(&fleet.service, fleet.now);
    fleet.strike(fault, at).await;
    let begun = Instant::now();
    for turn in 0..=usize::from(restarts) {
        if turn == 1 {
            witness.end().await;
            fleet.service = fleet.service.restart().await;
            witness = Witness::of(&fleet.service, fleet.now);
        }
        fleet.goes_on(missing).await;
        let ts = fleet.goes_on(0).await;
        let late = fleet.goes_on(others).await;
        for driver in &alive {
            eventually("its newest point", async || is_at(&fleet.service, driver, ts).await).await;
        }
        // Late points of another hour, wherever that hour or that driver is not on the dead one.
        let path = |driver: &str| format!("/v1/drivers/{driver}/track?from={late}&to={}", late + 1);
        for driver in &told_late {
            let answer = eventually("a late point", async || {
                let answer = fleet.service.get(&path(driver)).await;
                (answer.status == 200 && answer.json()["points"].as_array().is_some_and(|points| points.len() == 1))
                    .then_some(answer)
            })
            .await;
            assert_eq!(answer.header("geotrail-index"), "partial");
        }
        for driver in &dead {
            for path in [format!("/v1/drivers/{driver}"), format!("/v1/drivers/{driver}/track")] {
                let answer = fleet.service.get(&path).await;
                assert_eq!((answer.status, answer.code().as_str()), (503, "index_unavailable"), "{path}");
            }
        }
    }
    eprintln!("{fault:?} on {at}: {} on it, {} not; {:?}", dead.len(), alive.len(), begun.elapsed());
    let refused = fleet.service.get("/v1/active?require=complete").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "index_incomplete"));
    if alive.is_empty() {
        // The hour before has them all, where they no longer are.
        let before = format!("{NEARBY}&max_age_s=7200");
        for path in ["/v1/active", "/v1/active/count", "/v1/active?max_age_s=7200", "/v1/density", NEARBY, &before] {
            let answer = fleet.service.get(path).await;
            assert_eq!((answer.status, answer.code().as_str()), (503, "index_unavailable"), "{path}");
        }
    } else {
        let active = fleet.service.get("/v1/active?limit=1000").await;
        let found: BTreeSet<String> = active.page().0.into_iter().map(|driver| driver.id).collect();
        assert_eq!(found, alive.iter().map(|driver| (*driver).clone()).collect(), "all that can be known");
        let count = fleet.service.get("/v1/active/count").await.json();
        assert_eq!((&count["count"], &count["degraded"]), (&Value::from(alive.len()), &Value::from(true)));
    }
    let health = eventually("health that names it", async || {
        let answer = fleet.service.get("/health").await;
        let health = answer.json();
        // The clock of these tests is not that of Redis, which is said as well.
        let value = health["checks"]["store:redis"][0]["observedValue"].as_str().unwrap_or_default();
        value.starts_with("partial: 1 of 3 primaries cannot be asked").then_some((answer.status, health))
    })
    .await;
    assert_eq!((health.0, &health.1["status"]), (200, &Value::from("warn")), "{}", health.1);
    let metrics = String::from_utf8_lossy(&fleet.service.get("/metrics").await.body).into_owned();
    assert!(metrics.contains("geotrail_store_state{state=\"partial\",store=\"redis\"} 1"), "{metrics}");
    // Who waits for points of the living hears that they are in, of the others that they are on disk.
    if let (Some(dead), Some(alive), Fault::Freezes) = (dead.first(), alive.first(), fault) {
        // Late, so that it matters nowhere but where the driver's track is.
        fleet.round += 1;
        let ts = fleet.now + fleet.round - 300_000;
        for (driver, status) in [(alive, 200), (dead, 202)] {
            let one = report(driver, 0, ts);
            let answer = fleet.service.try_post("/v1/points?wait=applied", std::slice::from_ref(&one)).await;
            assert_eq!(answer.expect("an answer").status, status, "{driver}");
            fleet.reports.push(one);
        }
    }
    fleet.mend(fault, at);
    fleet.assert_whole().await;
    witness.end().await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn one_primary_less_and_hours_that_are_one_shard() {
    let fleet = Fleet::new(None, "").await;
    let newest = fleet.owners(hour_of(fleet.now))[&name(0)];
    let fleet = survives(fleet, Fault::DiesEmpty, (newest + 1) % ALL, true).await;
    let fleet = survives(fleet, Fault::Freezes, newest, false).await;
    fleet.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_primary_less_and_hours_that_are_many_shards() {
    let fleet = Fleet::new(Some(7), "").await;
    let fleet = survives(fleet, Fault::Freezes, 0, true).await;
    let fleet = survives(fleet, Fault::DiesWithDump, 1, false).await;
    let fleet = survives(fleet, Fault::DiesEmpty, 2, false).await;
    fleet.service.stop().await;
}

/// Of two that are away, the one with the newest hour stays away longer: what the other was owed does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_primary_was_owed_does_not_wait_for_another() {
    let mut fleet = Fleet::new(None, "").await;
    let owner = |fleet: &Fleet, back: i64| fleet.owners(hour_of(fleet.now) - back)[&name(0)];
    let longer = owner(&fleet, 0);
    let back = (1..HOURS).find(|back| owner(&fleet, *back) != longer).expect("others have some");
    let shorter = owner(&fleet, back);
    fleet.strike(Fault::Freezes, shorter).await;
    let ts = fleet.goes_on(back).await;
    let newest = fleet.goes_on(0).await;
    eventually("what came after it", async || is_at(&fleet.service, &name(0), newest).await).await;
    fleet.strike(Fault::Freezes, longer).await;
    // By then it is not waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.mend(Fault::Freezes, shorter);
    let path = format!("/v1/drivers/{}/track?from={ts}&to={}", name(0), ts + 1);
    eventually("what it was owed", async || {
        let answer = fleet.service.get(&path).await;
        (answer.status == 200 && answer.json()["points"].as_array().is_some_and(|points| points.len() == 1))
            .then_some(())
    })
    .await;
    fleet.mend(Fault::Freezes, longer);
    fleet.assert_whole().await;
    fleet.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_cannot_be_reached_keeps_no_other_from_being_forgotten() {
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(false));
    let options = Options { url: cluster.url_of_all(), ..options(&cluster.servers[0], "00000000000000aa") };
    let store = RedisStore::connect(options).await.expect("a good URL");
    works_again(&store).await;
    let all: Vec<Point> =
        (1..=HOURS).map(|back| point(id(1), now().plus_ms(-back * HOUR_MS), 525_000_000, 134_000_000)).collect();
    store.apply(batch(&all, 1)).await.expect("Redis is there");
    let big = |server: &RedisServer| {
        let keys = server.keys().into_iter();
        keys.filter(|key| !key.contains(":track:") && !key.contains("{erasures")).collect::<Vec<_>>()
    };
    let oldest = all[HOURS as usize - 1].fix.ts.hour();
    let dead = cluster.owner(&format!("geotrail:{{{oldest}}}:fixes"));
    assert!(cluster.servers.iter().all(|server| !big(server).is_empty()), "every primary has some");
    cluster.servers[dead].kill();
    let this_hour = now().hour().start().plus_ms(1);
    let is_forgotten = store.forget_before(this_hour).await;
    assert!(is_forgotten.is_err(), "one could not be reached");
    for (at, server) in cluster.servers.iter().enumerate() {
        assert!(at == dead || big(server).is_empty(), "{:?}", big(server));
    }
    tokio::task::block_in_place(|| cluster.servers[dead].restart());
    eventually("the rest goes too", async || store.forget_before(this_hour).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_store_answers_for_a_partial_one_and_nobody_is_erased_by_halves() {
    let mut fleet = Fleet::new(None, " embedded").await;
    let at = fleet.owners(hour_of(fleet.now))[&name(0)];
    fleet.strike(Fault::DiesEmpty, at).await;
    fleet.goes_on(0).await;
    let is_fallback = |answer: &Answer| (answer.status, answer.header("geotrail-index")) == (200, "fallback");
    let count = eventually("the whole one", async || {
        let count = fleet.service.get("/v1/active/count").await;
        is_fallback(&count).then_some(count.json())
    })
    .await;
    assert_eq!((&count["count"], &count["degraded"]), (&Value::from(DRIVERS), &Value::from(true)));
    for path in [NEARBY, "/v1/active", "/v1/drivers/driver-00", "/v1/drivers/driver-00/track"] {
        let answer = fleet.service.get(path).await;
        assert!(is_fallback(&answer), "{path}: {answer:?}");
    }
    let gone = name(7);
    let erase = async || {
        let path = format!("/v1/drivers/{gone}");
        fleet.service.send(fleet.service.request("DELETE", &path)).await.expect("an answer")
    };
    let answer = erase().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "erasure_under_way"));

    fleet.mend(Fault::DiesEmpty, at);
    eventually("the end of the erasure", async || {
        let answer = fleet.service.get(&format!("/v1/drivers/{gone}")).await;
        (answer.status == 404 && answer.header("geotrail-index") == "complete").then_some(())
    })
    .await;
    fleet.reports.retain(|report| report.driver != gone);
    fleet.assert_whole().await;
    for server in &fleet.cluster.servers {
        assert!(!server.keys().iter().any(|key| key.ends_with(&gone)), "of whom nothing is left");
    }
    fleet.service.stop().await;
}
