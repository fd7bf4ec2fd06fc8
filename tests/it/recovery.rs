//! Redis loses what it had, refuses, or is another than before: points are taken all along, no answer claims to be
//! complete that is not, and the state becomes whole again by itself. Each test is named for its row of the list of
//! faults that the service must survive.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use geotrail::applier::{Applier, DeadLetters, Progress, Wholeness};
use geotrail::clock::Clock;
use geotrail::journal::{Journal, Options};
use geotrail::model::{DriverId, Fix, Hour, Offset, Point, Position, Tags, Timestamp};
use geotrail::store::embedded::{EmbeddedStore, Options as EmbeddedOptions};
use geotrail::store::{Applied, Batch, Board, Located, Near, NearbyQuery, Page, Store, StoreError, Visit, Window};
use tokio_util::sync::CancellationToken;

use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::switch::Switch;
use crate::harness::traffic::{Traffic, at, becomes_whole, logged, now_ms, past, run, verify};
use crate::oracle::{hour_name, hour_of};

const LOST: &str = "the store lost data";
const HOUR_MS: i64 = 3_600_000;

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// A service with a past on Redis, with traffic; after `fault` something must have been lost, and come back.
async fn loses_and_recovers(server: &mut RedisServer, fault: impl FnOnce(&mut RedisServer)) {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    fault(server);
    logged(dir.path(), LOST, 1).await;
    service.caught_up().await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_redis_killed_comes_back_empty() {
    loses_and_recovers(&mut RedisServer::start(), RedisServer::restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_flushall() {
    loses_and_recovers(&mut RedisServer::start(), |server| drop(server.cli(&["FLUSHALL"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_flushdb_async() {
    loses_and_recovers(&mut RedisServer::start(), |server| drop(server.cli(&["FLUSHDB", "ASYNC"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_swapdb() {
    loses_and_recovers(&mut RedisServer::start(), |server| drop(server.cli(&["SWAPDB", "0", "1"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_key_of_an_hour_unlinked() {
    loses_and_recovers(&mut RedisServer::start(), |server| {
        // One that nobody writes to any more.
        let hour = hour_name(hour_of(now_ms() - 3 * HOUR_MS));
        server.cli(&["UNLINK", &format!("geotrail:{{{hour}}}:fixes")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_flushed_twice_the_second_time_in_mid_rebuild() {
    loses_and_recovers(&mut RedisServer::start(), |server| {
        server.cli(&["FLUSHALL"]);
        std::thread::sleep(Duration::from_millis(20));
        server.cli(&["FLUSHALL"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_replaced_by_an_empty_server() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let switch = Switch::to(first.port()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &url(switch.port())).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    switch.turn_to(second.port());
    logged(dir.path(), LOST, 1).await;
    service.caught_up().await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &second.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_replaced_while_the_service_was_down() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &first.url()).await;
    service.report(&past()).await;
    assert!(service.terminate().await.success());
    let service = Process::serve(dir.path(), &second.url()).await;
    becomes_whole(&service, dir.path(), &second.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_out_of_memory() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    logged(dir.path(), "OOM", 1).await;
    traffic.flows().await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    service.caught_up().await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_readonly() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    logged(dir.path(), "cannot apply", 1).await;
    traffic.flows().await;
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    service.caught_up().await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_failover_to_a_lagging_replica() {
    let mut primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start();
    let replication = Switch::to(primary.port()).await;
    let switch = Switch::to(primary.port()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &url(switch.port())).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    replica.cli(&["REPLICAOF", "127.0.0.1", &replication.port().to_string()]);
    eventually("a replica in step", async || {
        replica.cli(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    })
    .await;
    traffic.flows().await;
    replication.swallow();
    // These reach the primary alone, late points of an hour long past among them.
    let late: Vec<_> = (0..500).map(|n| at(&format!("late-{n}"), now_ms() - 4 * HOUR_MS)).collect();
    service.report(&late).await;
    traffic.flows().await;
    primary.kill();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    switch.turn_to(replica.port());
    logged(dir.path(), LOST, 1).await;
    service.caught_up().await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &replica.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_redis_away_for_long_is_never_an_empty_answer() {
    let mut server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    server.kill();
    // More than the live hand takes on: it becomes history, and goes in newest first.
    for round in 0..8 {
        let many: Vec<_> =
            (0..10_000).map(|n| at(&format!("queued-{}", n % 1_000), now_ms() - n - round * 10_000)).collect();
        let answer = service.try_post("/v1/points", &many).await.expect("an answer");
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    assert_eq!(service.get("/v1/active/count").await.code(), "index_unavailable");
    assert_eq!(service.get("/readyz").await.status, 200);
    server.restart();
    service.caught_up().await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_in_mid_rebuild_rebuilds_again() {
    let mut server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    for round in 0..20 {
        let many: Vec<_> =
            (0..10_000).map(|n| at(&format!("cab-{}", n % 2_000), now_ms() - n - round * 10_000)).collect();
        service.report(&many).await;
    }
    server.restart();
    logged(dir.path(), LOST, 1).await;
    service.kill().await;
    let service = Process::serve(dir.path(), &server.url()).await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_poison_record_holds_nobody_up_and_is_put_in_later() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    let poisoned = now_ms() - 10 * HOUR_MS;
    let key = format!("geotrail:{{{}}}:positions", hour_name(hour_of(poisoned)));
    server.cli(&["SET", &key, "not a geo set"]);
    let batch: Vec<_> = (0..40).map(|n| at(&format!("cab-{n}"), if n < 30 { now_ms() } else { poisoned })).collect();
    assert_eq!(service.try_post("/v1/points", &batch).await.expect("an answer").status, 202);
    logged(dir.path(), "dead letters", 1).await;

    // The others are in, and what is not complete is not called so.
    let cab = eventually("one of the others", async || {
        let answer = service.get("/v1/drivers/cab-3").await;
        assert_ne!(answer.header("geotrail-index"), "complete", "{answer:?}");
        (answer.status == 200 && answer.header("geotrail-index") == "partial").then_some(answer)
    })
    .await;
    assert_eq!(cab.json()["index"]["state"], "partial", "{cab:?}");
    let metrics = String::from_utf8_lossy(&service.get("/metrics").await.body).into_owned();
    assert!(metrics.contains("geotrail_deadletter_points{store=\"redis\"} 10"), "{metrics}");
    assert!(service.get("/health").await.json().to_string().contains("\"deadletter_points\":10"));
    let listed = run(&["deadletter", "list"], dir.path(), &[]).await;
    assert_eq!(listed.0, 0, "{listed:?}");
    assert!(listed.1.contains("redis: 10 points of hour") && !listed.1.contains("cab-"), "{listed:?}");
    let arguments = ["--retention", "72h", "--store", &server.url()];
    let (code, text) = run(&["deadletter", "replay"], dir.path(), &arguments).await;
    assert_eq!(code, 1, "the cause is still there: {text}");
    assert!(text.contains("0 points put in, 10 refused again"), "{text}");

    server.cli(&["UNLINK", &key]);
    let (code, text) = run(&["deadletter", "replay"], dir.path(), &arguments).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("10 points put in, 0 refused again"), "{text}");
    service.caught_up().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn f38_an_instance_that_was_away_brings_its_points_on_its_return() {
    let server = RedisServer::start();
    let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let first = Process::serve(one.path(), &server.url()).await;
    let second = Process::serve(other.path(), &server.url()).await;
    first.report(&past()).await;
    let theirs: Vec<_> = (0..200).map(|n| at(&format!("second-{n}"), now_ms() - n * 60_000)).collect();
    second.report(&theirs).await;
    first.kill().await;
    server.cli(&["FLUSHALL"]);
    logged(other.path(), LOST, 1).await;
    let first = Process::serve(one.path(), &server.url()).await;
    becomes_whole(&first, one.path(), &server.url()).await;
    becomes_whole(&second, other.path(), &server.url()).await;
    assert!(first.terminate().await.success());
    assert!(second.terminate().await.success());
}

/// An embedded store that panics when it is told to.
struct Fragile {
    inner: EmbeddedStore,
    /// So many calls of `apply` panic.
    panics: AtomicUsize,
    /// Whoever is called so makes it panic always.
    poison: Option<DriverId>,
}

#[async_trait]
impl Store for Fragile {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError> {
        self.inner.open(marks).await
    }

    fn marks(&self) -> String {
        self.inner.marks()
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        self.inner.audit().await
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        self.inner.glance().await
    }

    async fn board(&self, visit: Visit<'_>) -> Result<Option<Board>, StoreError> {
        self.inner.board(visit).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.now().await
    }

    fn is_partial(&self) -> bool {
        self.inner.is_partial()
    }

    fn evictions(&self) -> u64 {
        self.inner.evictions()
    }

    fn omissions(&self) -> u64 {
        self.inner.omissions()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        let is_poisoned = batch.points.iter().any(|point| Some(&point.driver) == self.poison.as_ref());
        let panics = self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(!is_poisoned && panics.is_err(), "as it was told to");
        self.inner.apply(batch).await
    }

    fn durable(&self) -> Offset {
        self.inner.durable()
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush().await
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.inner.forget_before(cutoff).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.inner.erase(driver).await
    }

    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        self.inner.latest(driver, window).await
    }

    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        self.inner.nearby(query).await
    }

    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.inner.active(window, after, limit).await
    }

    async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        self.inner.active_count(window).await
    }

    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        self.inner.track(driver, from, to, limit).await
    }

    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        self.inner.hour_drivers(hour, after, limit).await
    }

    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.inner.hour_positions(hour, after, limit).await
    }

    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        self.inner.last_report(window).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
}

fn point(id: &str, ts: Timestamp) -> Point {
    let position = Position::new(52.0, 21.0).expect("in range");
    let fix = Fix { ts, position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
    Point { driver: DriverId::new(id).expect("well formed"), fix }
}

/// Applies a hundred drivers, `poison` among them, to a store that panics; returns once everybody else is in.
async fn survives(dir: &Path, panics: usize, poison: Option<&str>) -> (Arc<Progress>, u64) {
    let now = Hour::from_number(498_590).start();
    let (journal, _) = Journal::open(Options::new(dir), now).expect("opens");
    let options = EmbeddedOptions { dir: dir.into(), journal: journal.id().to_string(), memtable_bytes: 64 << 20 };
    let poison = poison.map(|id| DriverId::new(id).expect("well formed"));
    let poisoned = u64::from(poison.is_some());
    let inner = EmbeddedStore::new(options);
    let store = Arc::new(Fragile { inner, panics: AtomicUsize::new(panics), poison });
    let progress = Arc::new(Progress::new(journal.committed()));
    let stop = CancellationToken::new();
    let clock = Clock::from_fn(move || now);
    let retention = Duration::from_hours(48);
    let applier = Applier::new(journal.clone(), store.clone(), progress.clone(), clock, retention);
    let applier = tokio::spawn(applier.supervised(stop.clone()));
    journal.append((0..100).map(|n| point(&format!("cab-{n}"), now)).collect(), now).await.expect("is taken");
    let window = Window { since: now, until: now };
    eventually("everybody else", async || {
        let count = store.active_count(window).await.ok()?;
        (progress.backlog_points() == 0 && count == 100 - poisoned).then_some(())
    })
    .await;
    stop.cancel();
    applier.await.expect("the supervisor does not panic");
    journal.close().await;
    (progress, poisoned)
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_panic_is_an_accident_and_costs_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (progress, _) = survives(dir.path(), 2, None).await;
    assert_eq!(progress.set_aside().points, 0);
    assert!(matches!(progress.wholeness(), Wholeness::Whole), "{progress:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_the_point_that_makes_a_store_panic_is_set_aside_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    survives(dir.path(), 0, Some("cab-42")).await;
    let letters = DeadLetters::of(dir.path(), "embedded").read().expect("can be read");
    let ids: Vec<&str> = letters.iter().map(|letter| letter.point.driver.as_str()).collect();
    assert_eq!(ids, ["cab-42"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_a_point_does_not_pass_for_whole() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    let early: Vec<_> = past();
    service.report(&early).await;
    assert!(service.terminate().await.success());
    // Nobody is there to notice.
    let hour = hour_name(hour_of(early[0].seen.ts));
    server.cli(&["UNLINK", &format!("geotrail:{{{hour}}}:track:parked-0")]);
    eventually("the points to be old enough", async || {
        let (code, text) = verify(dir.path(), &server.url()).await;
        (code == 1 && text.contains("1 missing")).then_some(())
    })
    .await;
}
