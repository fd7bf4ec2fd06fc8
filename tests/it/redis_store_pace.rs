//! How many drivers a transaction has, by what Redis took for the last ones: few where an hour begins, more as soon as they are
//! known.

use geotrail::store::Store;

use crate::harness::redis::RedisServer;
use crate::redis_store::{assert_holds, batch};
use crate::redis_store_races::{ONE, assert_keys, connected, fleet};
use crate::redis_store_writers::transactions;
use crate::sharding::resolution;

/// Batches within which it must be known what a driver takes.
const BATCHES: i64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_small_where_an_hour_begins_and_grow_by_what_they_take() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let store = connected(&server, server.url(), ONE, cells).await;
        let (mut all, mut made) = (Vec::new(), Vec::new());
        for seconds in 0..BATCHES {
            // At one place, so in one cell.
            let points = fleet(0, 0, seconds);
            let before = transactions(&server);
            store.apply(batch(&points, seconds as u64 + 1)).await.expect("Redis is there");
            made.push(transactions(&server) - before);
            all.extend(points);
        }
        assert!(made.last() < made.first(), "{made:?}");
        assert_keys(&server, &all, cells.map(resolution));
        assert_holds(&store, &all).await;
    }
}
