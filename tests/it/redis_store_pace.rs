//! How many drivers a transaction has, by what Redis took for the last ones: few where an hour begins, more as soon as they are
//! known, and fewer while Redis is slow.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

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
/// So many make a transaction several times as long.
const WATCHING: usize = 100;

/// Writes somebody, so that it is known whose the hour and the cell are: else transactions meet, and are made again.
async fn begin(store: &RedisStore, all: &mut Vec<Point>) {
    let points = &fleet(0, 0, 0)[..1];
    store.apply(batch(points, 1)).await.expect("Redis is there");
    all.extend_from_slice(points);
}

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
        begin(&store, &mut all).await;
        for seconds in 1..BATCHES {
            made.push(put(&store, &gate, seconds, &mut all).await);
        }
        assert!(made.iter().min() < made.first(), "{made:?}");
        assert_keys(&server, &all, cells.map(resolution));
        assert_holds(&store, &all).await;
    }
}

/// Somebody who is told of every command, and never listens.
fn watching(server: &RedisServer) -> TcpStream {
    let mut watching = TcpStream::connect(server.address()).expect("the server is there");
    watching.write_all(b"MONITOR\r\n").expect("the server is there");
    let mut answer = [0; 5];
    watching.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"+OK\r\n");
    watching
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_shrink_while_redis_is_slow() {
    let server = RedisServer::start();
    let gate = Gate::before(&server).await;
    let store = connected(&server, gate.url(), ONE, None).await;
    let (mut all, mut made) = (Vec::new(), Vec::new());
    begin(&store, &mut all).await;
    made.push(put(&store, &gate, 1, &mut all).await);
    // Each command takes longer for each of them.
    let watching: Vec<TcpStream> = (0..WATCHING).map(|_| watching(&server)).collect();
    for seconds in 2..BATCHES / 4 {
        made.push(put(&store, &gate, seconds, &mut all).await);
    }
    drop(watching);
    assert!(made.iter().max() > made.first(), "{made:?}");
    assert_holds(&store, &all).await;
}
