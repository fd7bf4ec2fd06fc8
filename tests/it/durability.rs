//! What happens around the journal and its indexes: a journal that was taken away, a checkpoint that cannot be written,
//! a clock that jumps, an index that nobody feeds. Each test is a way to lose a point, or to be told an untruth.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use geotrail::applier::{Applier, Progress, Wholeness};
use geotrail::clock::Clock;
use geotrail::jobs::retention;
use geotrail::journal::{Journal, Options};
use geotrail::model::{DriverId, Fix, Hour, Offset, Point, Position, Tags, Timestamp};
use geotrail::store::embedded::{EmbeddedStore, Options as EmbeddedOptions};
use geotrail::store::{Batch, Store, Window};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::faulty_disk::{Fault, FaultyDisk};
use crate::harness::process::Process;
use crate::harness::{Backing, Kind, eventually, on_both_stores};
use crate::oracle::{Report, Seen};

const RETENTION: Duration = Duration::from_hours(48);
const TURN: Hour = Hour::from_number(498_590);

fn clock(now: Timestamp) -> Clock {
    Clock::from_fn(move || now)
}

fn point(id: &str, ts: Timestamp) -> Point {
    let position = Position::new(52.0, 21.0).expect("in range");
    let fix = Fix { ts, position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
    Point { driver: DriverId::new(id).expect("well formed"), fix }
}

fn report(driver: &str) -> Report {
    let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    let ts = i64::try_from(since_1970.as_millis()).expect("before the end of time");
    Report { driver: driver.to_owned(), seen: Seen { ts, lat: 52.0, lon: 21.0, ..Seen::default() } }
}

/// A journal, an embedded store that follows it, and how far that has come.
struct Following {
    journal: Journal,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    applier: JoinHandle<()>,
}

impl Following {
    fn start(dir: &std::path::Path, now: Timestamp) -> Self {
        let (journal, _) = Journal::open(Options::new(dir), now).expect("opens");
        let options =
            EmbeddedOptions { dir: dir.into(), journal: journal.id().to_string(), memtable_bytes: 64 << 20 };
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::new(options));
        let progress = Arc::new(Progress::new(journal.committed()));
        let stop = CancellationToken::new();
        let applier = Applier::new(journal.clone(), store.clone(), progress.clone(), clock(now), RETENTION);
        let stopped = stop.clone();
        let applier = tokio::spawn(async move { applier.run(stopped).await.expect("it goes on to the end") });
        Self { journal, store, progress, stop, applier }
    }

    async fn whole(&self) {
        eventually("a whole index", async || {
            (self.progress.backlog_points() == 0 && self.progress.wholeness() == Wholeness::Whole).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.applier.await.expect("it does not panic");
        self.journal.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_with_nothing_to_apply_the_index_is_whole_and_stays_so() {
    let (dir, now) = (tempfile::tempdir().expect("a directory"), TURN.start());
    let first = Following::start(dir.path(), now);
    let end = first.journal.append(vec![point("cab", now)], now).await.expect("is taken");
    first.whole().await;
    first.stop().await;

    let second = Following::start(dir.path(), now);
    second.whole().await;
    assert_eq!(second.progress.watch_applied().borrow().end(), end);
    eventually("what is durable since the last run", async || {
        (second.progress.durable_offset() == end).then_some(())
    })
    .await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_keeps_an_hour_as_long_as_the_stores_do() {
    let (dir, began) = (tempfile::tempdir().expect("a directory"), TURN.start());
    let following = Following::start(dir.path(), began);
    following.journal.append(vec![point("early", began)], began).await.expect("is taken");
    let next = TURN.end();
    following.journal.append(vec![point("later", next)], next).await.expect("is taken");
    following.whole().await;
    following.store.flush().await.expect("flushes");
    let held = following.store.durable();
    let Following { journal, store, .. } = &following;
    let forget = async |now: Timestamp| {
        retention::forget(journal, store, held, &clock(now), RETENTION).await.expect("forgets");
        journal.stats().segments
    };
    let half_past = began.plus_ms(1_800_000 + 48 * 3_600_000);
    assert_eq!(forget(half_past).await, 2, "half of the hour is still within the retention");
    assert_eq!(forget(next.plus_ms(48 * 3_600_000)).await, 1, "all of it is over");
    following.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_and_only_waits_to_be_written_does_not_keep_the_journal() {
    let (dir, began) = (tempfile::tempdir().expect("a directory"), TURN.start());
    let following = Following::start(dir.path(), began);
    for ts in [began, TURN.end()] {
        following.journal.append(vec![point("cab", ts)], ts).await.expect("is taken");
    }
    following.whole().await;
    let over = clock(TURN.end().plus_ms(48 * 3_600_000));
    eventually("the first segment to go", async || {
        let held = following.progress.durable_offset();
        retention::forget(&following.journal, &following.store, held, &over, RETENTION).await.expect("forgets");
        (following.journal.stats().segments == 1).then_some(())
    })
    .await;
    following.stop().await;
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_a_while_does_not_keep_points_out() {
    let (dir, now) = (tempfile::tempdir().expect("a directory"), TURN.start());
    let store = EmbeddedStore::new(EmbeddedOptions {
        dir: dir.path().into(),
        journal: "one".into(),
        memtable_bytes: 64 << 20,
    });
    store.open("").await.expect("opens");
    let in_a_year = now.plus_ms(365 * 24 * 3_600_000);
    store.forget_before(in_a_year).await.expect("forgets");
    let points = [point("cab", now)];
    let end = Offset::new(1);
    store
        .apply(Batch {
            points: &points,
            start: Offset::START,
            end,
            forget_before: now.plus_ms(-3_600_000),
            repeated: false,
        })
        .await
        .expect("applies");
    let window = Window { since: now, until: now };
    assert_eq!(store.active_count(window).await.expect("answers"), 1);
    store.flush().await.expect("flushes");
    let hour = store.hour_positions(now.hour(), None, 10).await.expect("answers");
    assert_eq!(hour.items.len(), 1, "it is on disk too");
}

async fn an_index_of_another_journal_is_not_taken_for_one_of_this(kind: Kind) {
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    let many: Vec<_> = (0..500).map(|n| report(&format!("old-{n}"))).collect();
    service.report(&many).await;
    assert!(service.terminate().await.success());
    fs::remove_dir_all(dir.path().join("data/journal")).expect("it is there");

    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&[report("new")]).await;
    service.kill().await;
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    assert_eq!(service.get("/v1/drivers/new").await.status, 200);
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_written_holds_nothing_up() {
    let backing = Backing::new(Kind::Redis);
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(dir.path().join("data/checkpoint-redis.new")).expect("can be made");
    let service = Process::serve(dir.path(), &backing.url).await;
    for (reported, driver) in ["first", "second", "third"].into_iter().enumerate() {
        service.report(&[report(driver)]).await;
        eventually("a checkpoint that could not be written", async || {
            let log = fs::read_to_string(dir.path().join("log")).ok()?;
            (log.matches("cannot write the checkpoint").count() > reported).then_some(())
        })
        .await;
    }
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_cannot_be_synced_is_not_relied_on() {
    let Some(disk) = FaultyDisk::new() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let service = disk.serve(dir.path()).await;
    service.report(&[report("cab")]).await;
    disk.begin(Fault::NoRuns);
    assert!(service.terminate().await.success());
    let log = fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("flush at shutdown failed"), "{log}");
    let manifest = dir.path().join("data/embedded/manifest");
    assert!(!manifest.exists(), "nothing is named that a power cut could take");
    let service = Process::serve(dir.path(), "embedded").await;
    service.caught_up().await;
    let track = service.get("/v1/drivers/cab/track").await.json();
    assert_eq!(track["points"].as_array().map(Vec::len), Some(1), "the journal has it: {track}");
    assert!(service.terminate().await.success());
}

/// Waits until the service has tried in vain to put something into its store.
async fn tried_in_vain(dir: &std::path::Path) {
    eventually("a batch that cannot be applied", async || {
        fs::read_to_string(dir.join("log")).ok()?.contains("cannot apply").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_refused_comes_after_a_restart() {
    for is_killed in [true, false] {
        let backing = Backing::new(Kind::Redis);
        let server = backing.server.as_ref().expect("Redis has one");
        let dir = tempfile::tempdir().expect("a directory");
        let service = Process::serve(dir.path(), &backing.url).await;
        service.report(&[report("before")]).await;
        // It answers all the while, so nothing hints at a loss: only the checkpoint knows that something is missing.
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        let answer = service.try_post("/v1/points", &[report("refused")]).await.expect("an answer");
        assert_eq!(answer.status, 202);
        tried_in_vain(dir.path()).await;
        if is_killed {
            service.kill().await;
        } else {
            assert!(service.terminate().await.success());
        }
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        let service = Process::serve(dir.path(), &backing.url).await;
        service.caught_up().await;
        for driver in ["before", "refused"] {
            let found = service.get(&format!("/v1/drivers/{driver}")).await;
            assert_eq!(found.status, 200, "{driver}, killed: {is_killed}");
            let track = service.get(&format!("/v1/drivers/{driver}/track")).await.json();
            assert_eq!(track["points"].as_array().map(Vec::len), Some(1), "{driver}, killed: {is_killed}");
        }
        assert!(service.terminate().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_redis_did_not_take_comes_after_a_restart() {
    let mut backing = Backing::new(Kind::Redis);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    let server = backing.server.as_mut().expect("Redis has one");
    server.stop();
    let answer = service.try_post("/v1/points", &[report("cab")]).await.expect("an answer");
    assert_eq!(answer.status, 202);
    tried_in_vain(dir.path()).await;
    service.kill().await;
    // What lies in its socket goes with it.
    server.restart();
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    assert_eq!(service.get("/v1/drivers/cab").await.status, 200);
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_refused_comes_once_it_takes_it() {
    let backing = Backing::new(Kind::Redis);
    let server = backing.server.as_ref().expect("Redis has one");
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&[report("before")]).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = service.try_post("/v1/points", &[report("refused")]).await.expect("an answer");
    assert_eq!(answer.status, 202);
    tried_in_vain(dir.path()).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    service.report(&[report("after")]).await;
    service.caught_up().await;
    for driver in ["before", "refused", "after"] {
        assert_eq!(service.get(&format!("/v1/drivers/{driver}")).await.status, 200, "{driver}");
    }
    assert!(service.terminate().await.success());
}

on_both_stores! { an_index_of_another_journal_is_not_taken_for_one_of_this }
