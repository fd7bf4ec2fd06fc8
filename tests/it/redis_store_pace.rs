//! How many drivers a transaction has, by what Redis took for the last ones: few where an hour begins, more as soon as they are
//! known, and fewer while Redis is slow.

use std::sync::Arc;
use std::time::Duration;

use geotrail::model::Point;
use geotrail::store::Store;
use geotrail::store::redis::RedisStore;

use crate::harness::gate::Gate;
use crate::harness::redis::RedisServer;
use crate::redis_store::{assert_holds, batch};
use crate::redis_store_races::{ONE, assert_keys, connected, fleet};
use crate::sharding::resolution;

/// Batches within which it must be known what a driver takes.
const BATCHES: i64 = 60;

/// Puts in what a fleet that stands still reports, so many seconds into the hour. How many transactions that took.
async fn put(store: &RedisStore, gate: &Gate, seconds: i64, all: &mut Vec<Point>) -> usize {
    // At one place, so in one cell.
    let points: Vec<Point> = (0..3).flat_map(|part| fleet(part * 100, 0, seconds)).collect();
    let before = gate.passed();
    store.apply(batch(&points, seconds as u64 + 1)).await.expect("Redis is there");
    all.extend(points);
    gate.passed() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_small_where_an_hour_begins_and_grow_by_what_they_take() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let gate = Gate::before(&server).await;
        let store = connected(&server, gate.url(), ONE, cells).await;
        let (mut all, mut made) = (Vec::new(), Vec::new());
        for seconds in 0..BATCHES {
            made.push(put(&store, &gate, seconds, &mut all).await);
        }
        assert!(made.iter().min() < made.first(), "{made:?}");
        assert_keys(&server, &all, cells.map(resolution));
        assert_holds(&store, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_shrink_while_redis_is_slow() {
    let server = Arc::new(RedisServer::start());
    let gate = Gate::before(&server).await;
    let store = connected(&server, gate.url(), ONE, None).await;
    let (mut all, mut made) = (Vec::new(), Vec::new());
    made.push(put(&store, &gate, 0, &mut all).await);
    let halting = server.clone();
    // Most of the time it stands still, and never works for as long as a transaction takes.
    let halting = tokio::spawn(async move {
        loop {
            halting.stop();
            tokio::time::sleep(Duration::from_millis(1)).await;
            halting.cont();
            std::thread::sleep(Duration::from_micros(20));
        }
    });
    for seconds in 1..BATCHES {
        made.push(put(&store, &gate, seconds, &mut all).await);
    }
    halting.abort();
    let _ = halting.await;
    server.cont();
    assert!(made.iter().max() > made.first(), "{made:?}");
    assert_holds(&store, &all).await;
}
