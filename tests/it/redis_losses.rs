//! What Redis lost is noticed, told as the right offset, and comes back whole when the journal is applied again; and
//! nothing else is taken for a loss. Against a real redis-server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use geotrail::model::{Offset, Point, Timestamp};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Batch, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::PATIENCE;
use crate::harness::redis::RedisServer;
use crate::redis_store::{
    assert_holds, assert_public_keys, batch, connected, id, now, options, point, points, track_bytes, works_again,
};

const ONE: &str = "00000000000000a1";
const TWO: &str = "00000000000000b2";
/// A batch ends this far behind the one before.
const STEP: usize = 1_000;

/// A journal of small batches, and how far it has been put in.
pub(crate) struct Follower {
    points: Vec<Point>,
    size: usize,
    pub(crate) at: usize,
    repeated_until: usize,
}

impl Follower {
    pub(crate) fn of(points: Vec<Point>, size: usize) -> Self {
        Self { points, size, at: 0, repeated_until: 0 }
    }

    fn is_done(&self) -> bool {
        self.at * self.size >= self.points.len()
    }

    /// Puts the next batch in, as an applier does: after an error it asks what was lost.
    async fn step(&mut self, store: &RedisStore) {
        let part = self.points.chunks(self.size).nth(self.at).expect("there is more");
        let end = ((self.at + 1) * STEP) as u64;
        let next = Batch { repeated: self.at < self.repeated_until, ..batch(part, end) };
        if store.apply(next).await.is_ok() {
            self.at += 1;
        } else {
            self.repeated_until = self.repeated_until.max(self.at + 1);
            self.audit(store).await;
        }
    }

    pub(crate) async fn audit(&mut self, store: &RedisStore) {
        if let Ok(Some(from)) = store.audit().await {
            self.rewind(from);
        }
    }

    pub(crate) fn rewind(&mut self, from: Offset) {
        self.repeated_until = self.repeated_until.max(self.at);
        self.at = usize::try_from(from.get()).expect("small") / STEP;
    }

    pub(crate) async fn run(&mut self, store: &RedisStore) {
        let begun = Instant::now();
        while !self.is_done() {
            self.step(store).await;
            assert!(begun.elapsed() < PATIENCE, "the store does not take it");
        }
    }
}

pub(crate) async fn nothing_is_missing(store: &RedisStore) {
    assert_eq!(store.audit().await.expect("Redis is there"), None);
}

#[tokio::test]
async fn whatever_is_gone_is_told_once_and_comes_back() {
    let all = points(1, 600, 30);
    let hour = all.iter().map(|point| point.fix.ts.hour()).min().expect("there are points");
    let key = |name: &str| format!("geotrail:{{{hour}}}:{name}");
    let driver = all.iter().find(|point| point.fix.ts.hour() == hour).expect("there is one").driver.to_string();
    let whole_hour = ["positions", "drivers", "roster", "fixes", "last", "marks"].map(key);
    let mut strikes: Vec<Vec<String>> = vec![
        vec!["FLUSHALL".into()],
        vec!["FLUSHDB".into(), "ASYNC".into()],
        vec!["SWAPDB".into(), "0".into(), "1".into()],
        std::iter::once("UNLINK".into()).chain(whole_hour.iter().cloned()).collect(),
        vec!["ZREM".into(), key("positions"), driver.clone()],
        vec!["SREM".into(), key("drivers"), driver.clone()],
        vec!["HDEL".into(), key("fixes"), driver],
        vec!["HDEL".into(), key("marks"), ONE.into()],
    ];
    strikes.extend(whole_hour.into_iter().map(|key| vec!["UNLINK".into(), key]));
    let server = RedisServer::start();
    let mut had = None;
    for strike in strikes {
        server.cli(&["FLUSHALL"]);
        let store = connected(&server, ONE).await;
        let mut journal = Follower::of(all.clone(), 60);
        journal.run(&store).await;
        nothing_is_missing(&store).await;
        let whole = track_bytes(&server);
        assert_eq!(*had.get_or_insert_with(|| whole.clone()), whole);

        server.cli(&strike.iter().map(String::as_str).collect::<Vec<_>>());
        // What an hour that is over lost is noticed without a write; so is what a new process finds.
        assert_eq!(store.audit().await.expect("Redis is there"), Some(Offset::START), "{strike:?}");
        assert_eq!(store.durable(), Offset::START);
        nothing_is_missing(&store).await;
        journal.rewind(Offset::START);
        journal.run(&store).await;
        nothing_is_missing(&store).await;
        assert_holds(&store, &all).await;
        assert_public_keys(&server, &all);
        for (track, bytes) in track_bytes(&server) {
            assert!(bytes <= whole[&track], "{strike:?}: {track} grew to {bytes} of {}", whole[&track]);
        }
    }
}

/// The marks expect no more than what is left from the moment when a loss is found. Whoever answers a question before
/// the service has heard of it must not take that for a whole index.
#[tokio::test]
async fn no_look_finds_everything_there_while_a_loss_is_being_told() {
    let server = RedisServer::start();
    let store = connected(&server, ONE).await;
    let mut journal = Follower::of(points(1, 600, 30), 60);
    journal.run(&store).await;
    for _ in 0..3 {
        assert!(store.glance().await.expect("Redis is there"), "nothing is gone");
        server.cli(&["FLUSHALL"]);
        assert!(!store.glance().await.expect("Redis is there"), "everything is");
        assert_eq!(store.audit().await.expect("Redis is there"), Some(Offset::START));
        assert!(!store.glance().await.expect("Redis is there"), "who was told has not told anybody yet");
        assert_eq!(store.durable(), Offset::START);
        nothing_is_missing(&store).await;
        assert!(store.glance().await.expect("Redis is there"), "everybody knows");
        journal.rewind(Offset::START);
        journal.run(&store).await;
    }
}

#[tokio::test]
async fn an_older_state_is_told_by_how_old_it_is() {
    let mut server = RedisServer::start();
    let store = connected(&server, ONE).await;
    let all = points(2, 1_000, 30);
    let mut journal = Follower::of(all.clone(), 100);
    while journal.at < 9 {
        journal.step(&store).await;
    }
    let marks = store.marks();
    // As a replica that lags by one batch, or a dump of some time ago.
    assert_eq!(server.cli(&["SAVE"]).trim(), "OK");
    journal.run(&store).await;
    let newer = store.marks();
    server.restart();
    works_again(&store).await;
    // What it knew when the last batch that it has began: the next one would have told it that this was complete.
    assert_eq!(store.audit().await.expect("Redis is there"), Some(Offset::new(8_000)));
    nothing_is_missing(&store).await;
    // A process that starts now finds the same.
    let again = connected(&server, ONE).await;
    assert_eq!(again.open(&newer).await.expect("Redis is there"), Some(Offset::new(8_000)));
    assert_eq!(again.open(&marks).await.expect("Redis is there"), None);
    journal.rewind(Offset::new(8_000));
    journal.run(&again).await;
    nothing_is_missing(&again).await;
    assert_holds(&again, &all).await;
    assert_public_keys(&server, &all);
}

#[tokio::test]
async fn a_write_after_the_loss_does_not_hide_it() {
    let server = RedisServer::start();
    let store = connected(&server, ONE).await;
    let all = points(3, 400, 20);
    for part in [&all[..200], &all[..0], &all[..1]] {
        let lost = Batch { repeated: true, ..batch(part, 5) };
        let after = batch(&all[200..], 6);
        server.cli(&["FLUSHALL"]);
        let store = connected(&server, ONE).await;
        store.apply(lost).await.expect("Redis is there");
        server.cli(&["FLUSHALL"]);
        assert_eq!(store.apply(after).await.is_err(), !part.is_empty(), "the mark is gone");
        assert_eq!(store.audit().await.expect("Redis is there").is_some(), !part.is_empty());
        store.apply(lost).await.expect("Redis is there");
        store.apply(Batch { repeated: true, ..after }).await.expect("Redis is there");
        nothing_is_missing(&store).await;
        let there: Vec<Point> = part.iter().chain(&all[200..]).cloned().collect();
        assert_holds(&store, &there).await;
    }
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_at_any_moment_loses_nothing() {
    for seed in 0..6 {
        let server = RedisServer::start();
        let stores = [connected(&server, ONE).await, connected(&server, TWO).await];
        let all = points(seed, 4_000, 60);
        let (left, right) = all.split_at(1_700);
        let mut journals = [Follower::of(left.to_vec(), 90), Follower::of(right.to_vec(), 70)];
        let strikes = async {
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_micros(rng.random_range(0..60_000))).await;
                let strike =
                    [&["FLUSHALL"][..], &["SWAPDB", "0", "1"], &["FLUSHDB", "ASYNC"]][rng.random_range(0..3)];
                tokio::task::block_in_place(|| server.cli(strike));
            }
        };
        let [one, two] = &mut journals;
        tokio::join!(one.run(&stores[0]), two.run(&stores[1]), strikes);
        for _ in 0..2 {
            for (journal, store) in journals.iter_mut().zip(&stores) {
                journal.audit(store).await;
                journal.run(store).await;
            }
        }
        for store in &stores {
            nothing_is_missing(store).await;
            assert_holds(store, &all).await;
        }
        assert_public_keys(&server, &all);
    }
}

/// A journal that is put in once more, as by a process that has lost its checkpoint, meets what it brought before, and
/// its marks expect nothing yet. What is gone by the time it is written must not have been taken for there.
#[tokio::test(flavor = "multi_thread")]
async fn hours_deleted_between_reading_and_writing_come_back() {
    let server = RedisServer::start();
    let all = points(7, 2_000, 20);
    let mut rng = StdRng::seed_from_u64(7);
    let mut struck_in_time = 0;
    for _ in 0..20 {
        Follower::of(all.clone(), 1_000).run(&connected(&server, ONE).await).await;
        let store = connected(&server, ONE).await;
        store.audit().await.expect("Redis is there");
        let hours: Vec<String> = server.keys().into_iter().filter(|key| key.contains("{2")).collect();
        let delete = format!("UNLINK {}\r\n", hours.join(" "));
        let mut striker = TcpStream::connect(server.address()).expect("Redis listens");
        let later = Duration::from_micros(rng.random_range(0..8_000));
        let strike = tokio::task::spawn_blocking(move || {
            // A timer is too coarse.
            let begun = Instant::now();
            while begun.elapsed() < later {
                std::hint::spin_loop();
            }
            striker.write_all(delete.as_bytes()).expect("Redis reads");
            striker.read_exact(&mut [0]).expect("Redis answers");
        });
        let mut applied = Vec::new();
        for (at, part) in all.chunks(1_000).enumerate() {
            let again = Batch { repeated: true, ..batch(part, ((at + 1) * STEP) as u64) };
            applied.push(store.apply(again).await);
        }
        strike.await.expect("it strikes");
        let audit = store.audit().await.expect("Redis is there");
        if applied.iter().all(Result::is_ok) && audit.is_none() {
            struck_in_time += 1;
            assert_holds(&store, &all).await;
        }
    }
    assert!(struck_in_time > 0, "nothing was deleted before the first write");
}

#[tokio::test]
async fn what_one_instance_finds_missing_all_of_them_bring_again() {
    let server = RedisServer::start();
    let stores = [connected(&server, ONE).await, connected(&server, TWO).await];
    let all = points(5, 800, 40);
    let mut journals = [Follower::of(all[..400].to_vec(), 100), Follower::of(all[400..].to_vec(), 100)];
    for (journal, store) in journals.iter_mut().zip(&stores) {
        journal.run(store).await;
    }
    let hour = all[0].fix.ts.hour();
    server.cli(&["UNLINK", &format!("geotrail:{{{hour}}}:fixes")]);
    for (journal, store) in journals.iter_mut().zip(&stores) {
        journal.audit(store).await;
        assert_eq!(journal.at, 0);
        journal.run(store).await;
    }
    for store in &stores {
        nothing_is_missing(store).await;
        assert_holds(store, &all).await;
    }
    assert_public_keys(&server, &all);
}

#[tokio::test]
async fn marks_of_another_layout_ask_for_everything() {
    let server = RedisServer::start();
    let store = connected(&server, ONE).await;
    assert_eq!(store.open("").await.expect("nothing to ask"), None);
    for strange in ["7;2026112213=5", "none", "none;=", "2026112213=5", "none;2026112213=5"] {
        assert_eq!(store.open(strange).await.expect("nothing to ask"), Some(Offset::START), "{strange}");
    }
}

#[tokio::test]
async fn what_is_forgotten_or_expires_is_not_lost() {
    let server = RedisServer::start();
    let all = points(6, 600, 30);
    let hours = |number: i64| now().hour().start().plus_ms(-number * 3_600_000);
    // The last whole hour goes in two seconds, the ones before are gone: written late, they expire at once.
    let retention = Duration::from_millis((now().ms_since(hours(0)) + 2_000) as u64);
    let stores = [
        connected(&server, ONE).await,
        RedisStore::connect(Options { prefix: "geotrail:brief".into(), retention, ..options(&server, TWO) })
            .await
            .expect("a good URL"),
    ];
    for store in &stores {
        let mut journal = Follower::of(all.clone(), 100);
        journal.run(store).await;
        nothing_is_missing(store).await;
    }
    let brief = || server.keys().iter().filter(|key| key.starts_with("geotrail:brief:")).count();
    let begun = Instant::now();
    let (most, mut alarms) = (brief(), 0);
    while brief() == most && begun.elapsed() < Duration::from_secs(20) {
        alarms += usize::from(stores[1].audit().await.expect("Redis is there").is_some());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(alarms, 0);
    // Another instance is ahead in forgetting.
    let ahead = connected(&server, TWO).await;
    for cutoff in [hours(5), hours(2).plus_ms(1), hours(1).plus_ms(7), hours(0).plus_ms(1)] {
        stores[0].forget_before(cutoff).await.expect("Redis is there");
        nothing_is_missing(&stores[0]).await;
        let kept = Timestamp::from_ms(cutoff.as_ms());
        let late = point(id(1), cutoff.plus_ms(3_600_000), 525_000_000, 134_000_000);
        let next = Batch { forget_before: kept, ..batch(std::slice::from_ref(&late), 90_000) };
        ahead.apply(next).await.expect("Redis is there");
        stores[0].apply(next).await.expect("Redis is there");
        nothing_is_missing(&stores[0]).await;
        nothing_is_missing(&ahead).await;
    }
}
