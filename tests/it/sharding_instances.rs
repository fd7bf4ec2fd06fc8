//! Many instances on one Redis: however the points of a fleet are divided among them, in whatever order they come, how
//! often they come again, and wherever a write is broken off, the state in the end is the fold of all points.

use std::time::Duration;

use geotrail::model::{Point, Tags};
use geotrail::store::redis::RedisStore;
use geotrail::store::{Batch, Store};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::harness::redis::RedisServer;
use crate::redis_losses::nothing_is_missing;
use crate::redis_store::{assert_holds, assert_public_keys, batch, connected, id, now, point};
use crate::sharding::{assert_sharded_keys, resolution, sharded};

/// So many ways to bring points, each from a seed of its own: 100, or what `SEEDS` says in the environment.
fn seeds() -> u64 {
    std::env::var("SEEDS").map_or(100, |seeds| seeds.parse().expect("SEEDS is a number"))
}

/// A few drivers who cross the borders of cells all the time, with ties.
fn fleet(rng: &mut StdRng) -> Vec<Point> {
    let base = now().hour().start();
    let mut points = Vec::new();
    for _ in 0..rng.random_range(10..60) {
        let ts = base.plus_ms(-rng.random_range(0..2) * 3_600_000 + rng.random_range(0..8));
        // Steps of 2 km along a line: each in a cell of its own, or two in one.
        let lat = 525_000_000 + rng.random_range(0..5) * 180_000 + rng.random_range(0..2) * 1_000;
        let mut point = point(id(rng.random_range(0..4)), ts, lat, 134_000_000);
        if rng.random_range(0..5) == 0 {
            point.fix.tags = Tags::new(["van"]).expect("a good tag");
        }
        points.push(point);
    }
    points
}

/// Puts the points in as an instance does that crashes now and then: broken off at any moment, and taken up again from
/// somewhere before.
async fn feed(store: &RedisStore, points: &[Point], mut rng: StdRng) {
    let batches: Vec<&[Point]> = points.chunks(5).collect();
    let (mut at, mut repeated_until) = (0, 0);
    while at < batches.len() {
        let next = Batch { repeated: at < repeated_until, ..batch(batches[at], at as u64 + 1) };
        match rng.random_range(0..10) {
            0 => {
                let soon = Duration::from_micros(rng.random_range(0..3_000));
                let _ = tokio::time::timeout(soon, store.apply(next)).await;
                repeated_until = repeated_until.max(at + 1);
                at = rng.random_range(0..=at);
            }
            1 => tokio::task::yield_now().await,
            _ => {
                if store.apply(next).await.is_err() {
                    repeated_until = repeated_until.max(at + 1);
                    continue;
                }
                at += 1;
            }
        }
    }
}

async fn any_way_to_bring_them_leaves_the_fold(server: &RedisServer, stores: &[RedisStore], cells: Option<u8>) {
    for seed in 0..seeds() {
        eprintln!("seed {seed}");
        server.cli(&["FLUSHALL"]);
        let mut rng = StdRng::seed_from_u64(seed);
        let points = fleet(&mut rng);
        let mut sent = points.clone();
        for _ in 0..points.len() / 4 {
            sent.push(points[rng.random_range(0..points.len())].clone());
        }
        sent.shuffle(&mut rng);
        for store in stores {
            assert_eq!(store.open("").await.expect("Redis is there"), None);
        }
        let parts = sent.chunks(sent.len().div_ceil(stores.len()));
        let feeds = stores.iter().zip(parts).map(|(store, part)| {
            let rng = StdRng::seed_from_u64(rng.random());
            feed(store, part, rng)
        });
        futures_util::future::join_all(feeds).await;
        for store in stores {
            nothing_is_missing(store).await;
        }
        assert_holds(&stores[0], &points).await;
        match cells {
            None => assert_public_keys(server, &points),
            Some(number) => assert_sharded_keys(server, &points, resolution(number)),
        }
    }
}

fn instance(number: usize) -> String {
    format!("{number:016x}")
}

async fn run(instances: usize, cells: Option<u8>) {
    let server = RedisServer::start();
    let mut stores = Vec::new();
    for number in 0..instances {
        stores.push(match cells {
            None => connected(&server, &instance(number)).await,
            Some(cells) => sharded(&server, &instance(number), cells).await,
        });
    }
    any_way_to_bring_them_leaves_the_fold(&server, &stores, cells).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_unsharded() {
    run(2, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_instances_unsharded() {
    run(4, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_sharded() {
    run(2, Some(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_instances_sharded() {
    run(4, Some(8)).await;
}
