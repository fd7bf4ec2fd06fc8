//! More shards, or more drivers, than there is time for within the deadline of a call: what goes through all of them takes as
//! many steps as that takes, each in time by itself.

use std::time::Duration;

use geotrail::model::{Offset, Point};
use geotrail::store::Store;
use geotrail::store::redis::{Options, RedisStore};

use crate::harness::redis::RedisServer;
use crate::harness::switch::Switch;
use crate::redis_store::{batch, id, now, options, point, window, works_again};
use crate::redis_store_races::ONE;
use crate::sharding::resolution;

const DEADLINE: Duration = Duration::from_millis(500);
/// How long a round trip takes: some steps, and the deadline of one call would be over.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Hours that are kept: as few as there may be, since an erasure asks each.
const RETENTION: Duration = Duration::from_hours(2);
const CELLS: usize = 3_000;

async fn connected(server: &RedisServer, url: String, cells: Option<u8>, deadline: Duration) -> RedisStore {
    let shard_resolution = cells.map(resolution);
    let options = Options { url, shard_resolution, retention: RETENTION, deadline, ..options(server, ONE) };
    let store = RedisStore::connect(options).await.expect("a good URL");
    works_again(&store).await;
    store
}

/// The same server, far away.
async fn far(server: &RedisServer, cells: Option<u8>) -> (RedisStore, Switch) {
    let switch = Switch::to(server.port()).await;
    let url = RedisServer::url_at(&format!("127.0.0.1:{}", switch.port()));
    let store = connected(server, url, cells, DEADLINE).await;
    switch.slow_down(ROUND_TRIP / 2);
    (store, switch)
}

/// Drivers in the last hour, each in a cell of its own: one in a hundredth of a degree.
fn apart(drivers: usize) -> Vec<Point> {
    let ts = now().hour().previous().start().plus_ms(60_000);
    let place = |n: usize| (500_000_000 + (n / 60) as i32 * 100_000, 130_000_000 + (n % 60) as i32 * 150_000);
    (0..drivers).map(|n| point(id(n), ts, place(n).0, place(n).1)).collect()
}

async fn put(server: &RedisServer, cells: Option<u8>, all: &[Point]) -> RedisStore {
    let near = connected(server, server.url(), cells, Options::DEADLINE).await;
    for (number, points) in all.chunks(500).enumerate() {
        near.apply(batch(points, number as u64 + 1)).await.expect("Redis is there");
    }
    near
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shards_are_opened_audited_erased_from_and_forgotten() {
    let server = RedisServer::start();
    let all = apart(CELLS);
    let near = put(&server, Some(9), &all).await;
    let seen = |keys: Vec<String>| keys.into_iter().filter(|key| key.ends_with(":seen")).collect::<Vec<_>>();
    assert_eq!(seen(server.keys()).len(), CELLS);
    let (far, _switch) = far(&server, Some(9)).await;
    assert_eq!(far.open(&near.marks()).await.expect("it has the time"), None);
    assert_eq!(far.audit().await.expect("it has the time"), None);

    far.erase(&id(7)).await.expect("it has the time");
    assert!(!server.keys().iter().any(|key| key.ends_with(id(7).as_str())));
    assert_eq!(seen(server.keys()).len(), CELLS - 1);
    assert_eq!(far.audit().await.expect("it has the time"), None, "what was erased is not lost");

    server.cli(&["UNLINK", &seen(server.keys())[0]]);
    let mut lost = None;
    // Older shards have their turn after some audits.
    for _ in 0..20 {
        lost = far.audit().await.expect("it has the time");
        if lost.is_some() {
            break;
        }
    }
    assert_eq!(lost, Some(Offset::START));

    far.forget_before(now().hour().start().plus_ms(1)).await.expect("it has the time");
    let of_it = format!("{{{}", all[0].fix.ts.hour());
    let left = server.keys().into_iter().filter(|key| key.contains(&of_it) && !key.contains(":track:"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_drivers_are_counted() {
    let server = RedisServer::start();
    let all = apart(9_000);
    put(&server, None, &all).await;
    let (far, _switch) = far(&server, None).await;
    assert_eq!(far.active_count(window(7_200)).await.expect("it has the time"), 9_000);
}
