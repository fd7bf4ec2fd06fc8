//! Who writes a shard of Redis alone, and what becomes of that when somebody else comes, or when what it gave up arrives
//! late.

use std::time::Duration;

use geotrail::model::Point;
use geotrail::store::{Batch, Store};

use crate::harness::gate::{Gate, Verdict};
use crate::harness::redis::{RedisServer, eventually};
use crate::redis_store::{assert_expiries, assert_holds, batch};
use crate::redis_store_races::{ONE, TWO, assert_keys, connected, fleet};
use crate::sharding::resolution;

/// One driver, so one transaction.
pub(crate) fn somebody(step: i32, seconds: i64) -> Vec<Point> {
    fleet(0, step, seconds)[..1].to_vec()
}

fn writer_keys(server: &RedisServer) -> Vec<String> {
    server.keys().into_iter().filter(|key| key.ends_with(":writer")).collect()
}

/// What the key says that is beside the only roster.
fn writer(server: &RedisServer) -> String {
    let keys = writer_keys(server);
    let with_roster = |key: &&String| server.keys().contains(&key.replace(":writer", ":roster"));
    let keys: Vec<&String> = keys.iter().filter(with_roster).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    server.cli(&["GET", keys[0]]).trim().into()
}

/// Transactions that were carried out or dropped.
pub(crate) fn transactions(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_exec:calls="));
    calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_names_who_writes_until_a_second_comes() {
    // Another process may bring the same journal: a rebuild by hand.
    for (second, cells) in [(ONE, None), (TWO, None), (ONE, Some(7)), (TWO, Some(7))] {
        let server = RedisServer::start();
        let first = connected(&server, server.url(), ONE, cells).await;
        first.apply(batch(&somebody(0, 10), 1)).await.expect("Redis is there");
        let name = writer(&server);
        first.apply(batch(&somebody(1, 20), 2)).await.expect("Redis is there");
        assert_eq!(writer(&server), name);
        assert_ne!(name, "several");
        let second = connected(&server, server.url(), second, cells).await;
        for _ in 0..2 {
            second.apply(batch(&somebody(2, 30), 3)).await.expect("Redis is there");
            assert_eq!(writer(&server), "several");
        }
        assert_expiries(&server);
        assert_holds(&second, &[somebody(0, 10), somebody(1, 20), somebody(2, 30)].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_given_up_and_arrives_late_is_dropped() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let store = connected(&server, gate.url(), ONE, cells).await;
        let (first, older, newer) = (somebody(0, 10), somebody(1, 20), somebody(2, 30));
        store.apply(batch(&first, 1)).await.expect("Redis is there");
        let name = writer(&server);
        gate.close();
        let older_batch = batch(&older, 2);
        let giving_up = tokio::time::timeout(Duration::from_millis(300), store.apply(older_batch));
        let (given_up, held) = tokio::join!(giving_up, gate.holds());
        given_up.expect_err("it is held");

        let both = [older, newer].concat();
        store.apply(Batch { repeated: true, ..batch(&both, 3) }).await.expect("it connects anew");
        assert_ne!(writer(&server), name);
        let by_then = transactions(&server);
        held.expect("the gate is there").send(Verdict::Pass).expect("the gate waits");
        eventually("what was held arrives", || transactions(&server) > by_then);
        let all = [first, both].concat();
        assert_holds(&store, &all).await;
        assert_keys(&server, &all, cells.map(resolution));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_that_it_is_not_alone_watches_the_tracks() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let slow = connected(&server, gate.url(), ONE, cells).await;
        let fast = connected(&server, server.url(), TWO, cells).await;
        let [first, oldest, older, newer] = [(0, 10), (1, 15), (2, 20), (3, 30)].map(|(step, at)| somebody(step, at));
        slow.apply(batch(&first, 1)).await.expect("Redis is there");
        gate.close();
        let overtaking = async {
            for points in [&oldest, &newer] {
                let held = gate.holds().await.expect("the gate is there");
                fast.apply(batch(points, 1)).await.expect("Redis is there");
                gate.close();
                held.send(Verdict::Pass).expect("the gate waits");
            }
            // What is written in the end.
            if let Ok(Some(held)) = tokio::time::timeout(Duration::from_secs(1), gate.holds()).await {
                held.send(Verdict::Pass).expect("the gate waits");
            }
        };
        let (written, ()) = tokio::join!(slow.apply(batch(&older, 2)), overtaking);
        written.expect("it looked again");
        let all = [first, oldest, older, newer].concat();
        assert_holds(&slow, &all).await;
        assert_keys(&server, &all, cells.map(resolution));
    }
}

/// The applier has one on its way; whoever puts back what an erasure took is another.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_one_store_wait_for_each_other() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let store = connected(&server, gate.url(), ONE, None).await;
    let (first, older, newer) = (somebody(0, 10), somebody(1, 20), somebody(2, 30));
    store.apply(batch(&first, 1)).await.expect("Redis is there");
    gate.close();
    let meanwhile = async {
        let held = gate.holds().await.expect("the gate is there");
        let newer = store.apply(batch(&newer, 3));
        let passing = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            held.send(Verdict::Pass).expect("the gate waits");
        };
        tokio::join!(newer, passing).0
    };
    let (older_written, newer_written) = tokio::join!(store.apply(batch(&older, 2)), meanwhile);
    older_written.and(newer_written).expect("Redis is there");
    assert_holds(&store, &[first, older, newer].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_erasure_overtakes_looks_again() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let slow = connected(&server, gate.url(), ONE, cells).await;
        let fast = connected(&server, server.url(), TWO, cells).await;
        let (first, second) = (somebody(0, 10), somebody(1, 20));
        slow.apply(batch(&first, 1)).await.expect("Redis is there");
        let by_then = gate.passed();
        gate.close();
        let meanwhile = async {
            let held = gate.holds().await.expect("the gate is there");
            fast.erase(&first[0].driver).await.expect("Redis is there");
            held.send(Verdict::Pass).expect("the gate waits");
        };
        let (written, ()) = tokio::join!(slow.apply(batch(&second, 2)), meanwhile);
        written.expect("it looks again");
        assert!(gate.passed() > by_then + 1, "it was not dropped");
        assert_holds(&slow, &second).await;
        assert_keys(&server, &second, cells.map(resolution));
        assert_expiries(&server);
    }
}

/// What it saw before is gone with the shard, so that what it brings is the newest now.
#[tokio::test(flavor = "multi_thread")]
async fn who_looked_before_a_shard_was_emptied_looks_again() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let slow = connected(&server, gate.url(), ONE, cells).await;
        let fast = connected(&server, server.url(), TWO, cells).await;
        let (older, newer) = (somebody(1, 20), somebody(2, 30));
        fast.apply(batch(&newer, 1)).await.expect("Redis is there");
        gate.close();
        let meanwhile = async {
            let held = gate.holds().await.expect("the gate is there");
            let roster = server.keys().into_iter().find(|key| key.ends_with(":roster")).expect("it is there");
            server.cli(&["UNLINK", &roster]);
            assert!(fast.audit().await.expect("Redis is there").is_some(), "it is missed");
            held.send(Verdict::Pass).expect("the gate waits");
        };
        let (written, ()) = tokio::join!(slow.apply(batch(&older, 1)), meanwhile);
        written.expect("it looks again");
        let fixes = server.keys().into_iter().find(|key| key.ends_with(":fixes"));
        let fixes = fixes.expect("what it brought is there");
        assert_eq!(server.cli(&["HLEN", &fixes]).trim(), "1");
        assert_expiries(&server);
    }
}

/// The key is evicted, and names another when it comes back: who looked before that, and watches tracks, must not come
/// between the looks and the writes of who is named.
#[tokio::test(flavor = "multi_thread")]
async fn who_looked_before_another_was_named_looks_again() {
    let server = RedisServer::start();
    let (mut gate, mut other_gate) = (Gate::before(&server).await, Gate::before(&server).await);
    let slow = connected(&server, gate.url(), ONE, None).await;
    let other = connected(&server, other_gate.url(), TWO, None).await;
    let (first, older, newer) = (somebody(0, 10), somebody(1, 20), somebody(2, 30));
    slow.apply(batch(&first, 1)).await.expect("Redis is there");
    let else_where = fleet(1, 0, 10)[..1].to_vec();
    other.apply(batch(&else_where, 1)).await.expect("Redis is there");
    assert_eq!(writer(&server), "several");

    // It begins to know that there are several.
    slow.apply(batch(&first, 1)).await.expect("Redis is there");
    gate.close();
    let meanwhile = async {
        let held = gate.holds().await.expect("the gate is there");
        server.cli(&["UNLINK", &writer_keys(&server)[0]]);
        other.apply(batch(&else_where, 2)).await.expect("Redis is there");
        assert_ne!(writer(&server), "several");
        other_gate.close();
        let overtaking = async {
            let other_held = other_gate.holds().await.expect("the gate is there");
            let by_then = transactions(&server);
            held.send(Verdict::Pass).expect("the gate waits");
            eventually("what was held arrives", || transactions(&server) > by_then);
            // Long enough to look again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            other_held.send(Verdict::Pass).expect("the gate waits");
        };
        tokio::join!(other.apply(batch(&older, 3)), overtaking).0
    };
    let (newer_written, older_written) = tokio::join!(slow.apply(batch(&newer, 2)), meanwhile);
    older_written.and(newer_written).expect("Redis is there");
    assert_holds(&slow, &[first, else_where, older, newer].concat()).await;
    assert_eq!(writer(&server), "several");
}
