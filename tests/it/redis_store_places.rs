//! Cells that one process alone tells who is in them, in plain commands, and what becomes of that when somebody else comes,
//! or when what was given up arrives late.

use std::time::Duration;

use geotrail::model::{DriverId, Point};
use geotrail::store::redis::RedisStore;
use geotrail::store::{Batch, Store};
use tokio::sync::oneshot;

use crate::harness::gate::{Gate, Verdict};
use crate::harness::redis::{RedisServer, eventually};
use crate::redis_store::{assert_expiries, assert_holds, batch, id};
use crate::redis_store_races::{ONE, TWO, assert_keys, connected, fleet};
use crate::redis_store_writers::{somebody, transactions};
use crate::sharding::{assert_sharded_keys, resolution};

const CELLS: u8 = 7;

/// Somebody in a cell, so many seconds into the hour.
fn here(seconds: i64) -> Vec<Point> {
    somebody(0, seconds)
}

/// The same driver, in another cell.
fn elsewhere(seconds: i64) -> Vec<Point> {
    somebody(2, seconds)
}

/// How often a hash was asked for some of its fields.
fn lookups(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls="));
    calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap_or_default()
}

/// Gives a batch up when its bucket was written, and its cell is on the way.
async fn given_up(store: &RedisStore, gate: &mut Gate, batch: Batch<'_>) -> oneshot::Sender<Verdict> {
    gate.close();
    let holding = async {
        let bucket = gate.holds().await.expect("the gate is there");
        gate.close();
        bucket.send(Verdict::Pass).expect("the gate waits");
        gate.holds().await.expect("the gate is there")
    };
    let giving_up = tokio::time::timeout(Duration::from_millis(500), store.apply(batch));
    let (given_up, held) = tokio::join!(giving_up, holding);
    given_up.expect_err("it is held");
    held
}

/// What was held arrives after all.
fn arrives(server: &RedisServer, held: oneshot::Sender<Verdict>) {
    let by_then = transactions(server);
    held.send(Verdict::Pass).expect("the gate waits");
    eventually("what was held arrives", || transactions(server) > by_then);
}

/// Puts in what it brings, twice: then it knows that it is alone.
async fn alone(store: &RedisStore, all: &[Point]) {
    for points in all.chunks(1) {
        store.apply(batch(points, 1)).await.expect("Redis is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tells_a_cell_alone_does_not_ask_what_the_cell_knows() {
    let server = RedisServer::start();
    let first = connected(&server, server.url(), ONE, Some(CELLS)).await;
    let second = connected(&server, server.url(), TWO, Some(CELLS)).await;
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    let turns = [
        (&first, here(10)),
        (&first, here(11)),
        (&first, elsewhere(12)),
        (&first, here(13)),
        (&second, elsewhere(14)),
        (&second, here(15)),
        (&first, elsewhere(16)),
        (&first, here(17)),
    ];
    for (store, points) in turns {
        let before = lookups(&server);
        store.apply(batch(&points, 1)).await.expect("Redis is there");
        asked.push(lookups(&server) - before);
        all.extend(points);
        assert_sharded_keys(&server, &all, resolution(CELLS));
        assert_expiries(&server);
    }
    // Two looks at the bucket, and one wherever something is counted: there and in each cell that is told. With others, one more
    // in each cell.
    assert_eq!((asked[1], asked[3], asked[7]), (4, 5, 7), "{asked:?}");
    assert_holds(&first, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_and_comes_after_its_repetition_brings_nobody_back() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let store = connected(&server, gate.url(), ONE, Some(CELLS)).await;
    let mut all = [here(10), here(15)].concat();
    alone(&store, &all).await;
    let older = here(20);
    let held = given_up(&store, &mut gate, batch(&older, 2)).await;
    let both = [older, elsewhere(30)].concat();
    store.apply(Batch { repeated: true, ..batch(&both, 3) }).await.expect("it connects anew");
    arrives(&server, held);
    all.extend(both);
    assert_keys(&server, &all, Some(resolution(CELLS)));
    assert_holds(&store, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_overtaken_by_another_tells_no_cell_what_is_over() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let slow = connected(&server, gate.url(), ONE, Some(CELLS)).await;
    let fast = connected(&server, server.url(), TWO, Some(CELLS)).await;
    let mut all = [here(10), here(15)].concat();
    alone(&slow, &all).await;
    let (older, newer) = (here(20), elsewhere(30));
    gate.close();
    let overtaking = async {
        let bucket = gate.holds().await.expect("the gate is there");
        gate.close();
        bucket.send(Verdict::Pass).expect("the gate waits");
        let cell = gate.holds().await.expect("the gate is there");
        fast.apply(batch(&newer, 1)).await.expect("Redis is there");
        cell.send(Verdict::Pass).expect("the gate waits");
    };
    let (written, ()) = tokio::join!(slow.apply(batch(&older, 2)), overtaking);
    written.expect("it looks again");
    all.extend([older, newer].concat());
    assert_keys(&server, &all, Some(resolution(CELLS)));
    assert_holds(&slow, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_and_comes_after_an_erasure_shows_nobody() {
    // Alone, and as one of several.
    for others in [false, true] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let slow = connected(&server, gate.url(), ONE, Some(CELLS)).await;
        let fast = connected(&server, server.url(), TWO, Some(CELLS)).await;
        if others {
            fast.apply(batch(&here(5), 1)).await.expect("Redis is there");
        }
        alone(&slow, &[here(10), here(15)].concat()).await;
        let held = given_up(&slow, &mut gate, batch(&here(20), 2)).await;
        fast.erase(&here(20)[0].driver).await.expect("Redis is there");
        arrives(&server, held);
        assert_keys(&server, &[], Some(resolution(CELLS)));
    }
}

/// It found out what is newest before the cell was its own: somebody else may have told the cell since, and an erasure have
/// taken away what says so.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_cell_to_itself_only_now_tells_it_nothing_unasked() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let slow = connected(&server, gate.url(), ONE, Some(CELLS)).await;
    let fast = connected(&server, server.url(), TWO, Some(CELLS)).await;
    // Two of one bucket, so that they are one slice.
    let of_one_bucket = |driver: &DriverId| crc32c::crc32c(driver.as_str().as_bytes()) % 32 == 7;
    let two: Vec<DriverId> = (0..).map(id).filter(of_one_bucket).take(2).collect();
    let at = |driver: usize, step: i32, seconds: i64| Point {
        driver: two[driver].clone(),
        ..fleet(0, step, seconds)[0].clone()
    };
    let mut all = vec![at(1, 0, 5), at(1, 0, 10)];
    fast.apply(batch(&all[..1], 1)).await.expect("Redis is there");
    slow.apply(batch(&all[1..], 1)).await.expect("Redis is there");

    // One comes into the cell, the other leaves it, and is back before the cell hears of that.
    let (older, newer) = ([at(0, 0, 20), at(1, 2, 20)], [at(1, 0, 30)]);
    gate.close();
    let overtaking = async {
        let bucket = gate.holds().await.expect("the gate is there");
        gate.close();
        bucket.send(Verdict::Pass).expect("the gate waits");
        let first = gate.holds().await.expect("the gate is there");
        gate.close();
        // The other cell, unless it goes over the same connection.
        let second = tokio::time::timeout(Duration::from_millis(300), gate.holds()).await.ok();
        fast.apply(batch(&newer, 2)).await.expect("Redis is there");
        fast.erase(&id(99_999)).await.expect("Redis is there");
        first.send(Verdict::Pass).expect("the gate waits");
        let second = match second {
            Some(second) => second,
            None => gate.holds().await,
        };
        second.expect("the gate is there").send(Verdict::Pass).expect("the gate waits");
    };
    let (written, ()) = tokio::join!(slow.apply(batch(&older, 2)), overtaking);
    written.expect("it looks again");
    all.extend(older.into_iter().chain(newer));
    assert_keys(&server, &all, Some(resolution(CELLS)));
    assert_holds(&slow, &all).await;
}
