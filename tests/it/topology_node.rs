//! One Redis server and the way to it: names that look like messages.

use geotrail::model::{DriverId, Fix, Offset, Point, Position, Tags, Timestamp};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Batch, Store, Window};
use std::time::Duration;

use crate::harness::redis::RedisServer;

#[tokio::test]
async fn names_that_look_like_messages_are_names() {
    let server = RedisServer::start();
    let store = RedisStore::connect(Options {
        url: server.url(),
        ca: None,
        prefix: Options::PREFIX.into(),
        instance: "00000000000000aa".into(),
        retention: Duration::from_hours(48),
        deadline: Options::DEADLINE,
    })
    .await
    .unwrap();
    store.ping().await.unwrap();
    let now = Timestamp::from_ms(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64,
    );
    let points: Vec<Point> = ["message", "p", "q"]
        .into_iter()
        .map(|id| Point {
            driver: DriverId::new(id).unwrap(),
            fix: Fix {
                ts: now,
                position: Position::from_e7(1, 1).unwrap(),
                speed: None,
                heading: None,
                accuracy: None,
                tags: Tags::NONE,
            },
        })
        .collect();
    store
        .apply(Batch {
            points: &points,
            end: Offset::new(1),
            forget_before: now.plus_ms(-3_600_000),
            repeated: false,
        })
        .await
        .unwrap();
    let window = Window { since: now.plus_ms(-3_600_000), until: now.plus_ms(120_000) };
    println!("{:?}", store.active(window, None, 100).await);
    println!("{:?}", store.latest(&points[0].driver, window).await);
    println!("{:?}", store.active(window, None, 100).await);
}
