//! The way to one Redis server: names that look like messages, late replies, what a server may refuse, slow logs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use geotrail::model::{DriverId, Fix, Hour, Offset, Point, Position, Resolution, Tags, Timestamp};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Batch, NearbyQuery, Store, StoreError, When, Window};
use tokio::task::JoinSet;

use crate::harness::app::Service;
use crate::harness::eventually;
use crate::harness::redis::{PASSWORD, RedisServer, user};
use crate::harness::switch::Switch;
use crate::oracle::{Report, Seen};

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp::from_ms(since.as_millis() as i64)
}

pub(crate) fn options(url: String) -> Options {
    Options {
        url,
        ca: None,
        prefix: Options::PREFIX.into(),
        instance: "00000000000000aa".into(),
        shard_resolution: None,
        retention: Duration::from_hours(48),
        deadline: Options::DEADLINE,
    }
}

async fn connected(server: &RedisServer) -> RedisStore {
    let store = RedisStore::connect(options(server.url())).await.expect("a good URL");
    eventually("a connection", async || store.ping().await.ok()).await;
    store
}

pub(crate) fn place(number: i32) -> Position {
    Position::from_e7(525_000_000 + number, 134_000_000).expect("on the map")
}

pub(crate) fn point(driver: &str, ts: Timestamp, position: Position) -> Point {
    let fix = Fix { ts, position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
    Point { driver: DriverId::new(driver).expect("a good id"), fix }
}

pub(crate) fn batch(points: &[Point]) -> Batch<'_> {
    let forget_before = now().plus_ms(-48 * 3_600_000);
    Batch { points, start: Offset::START, end: Offset::new(1), forget_before, repeated: false }
}

fn report(driver: &str) -> Report {
    let seen = Seen { ts: now().as_ms(), lat: 52.5, lon: 13.4, ..Seen::default() };
    Report { driver: driver.into(), seen }
}

#[tokio::test]
async fn names_that_look_like_messages_are_names() {
    let server = RedisServer::start();
    let store = connected(&server).await;
    let groups: [&[&str]; 5] = [
        &["message", "x", "y"],
        &["smessage", "x", "y"],
        &["subscribe", "x", "y", "z"],
        &["pmessage", "x", "y", "z"],
        &["pmessage", "pubsub", "x", "y", "z"],
    ];
    for (back, names) in groups.iter().zip(0..).map(|(names, back)| (back, names)) {
        let ts = now().plus_ms(-back * 3_600_000);
        let hour: Hour = ts.hour();
        let points: Vec<Point> = names.iter().map(|name| point(name, ts, place(0))).collect();
        store.apply(batch(&points)).await.expect("Redis is there");
        let listed = store.hour_drivers(hour, None, 100).await.expect("Redis is there").items;
        assert_eq!(listed.iter().map(DriverId::as_str).collect::<Vec<_>>(), *names);
        let query =
            NearbyQuery { centre: place(0), radius_m: 100.0, limit: 10, when: When::During(hour), tags: vec![] };
        let (near, _) = store.nearby(&query).await.expect("Redis is there");
        assert_eq!(near.iter().map(|near| near.located.driver.as_str()).collect::<Vec<_>>(), *names);
    }
    store.ping().await.expect("replies still belong to their questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_commands_of_a_question_are_read_at_once() {
    let server = RedisServer::start();
    let shard_resolution = Some(Resolution::new(5).expect("there is one"));
    let options = Options { shard_resolution, ..options(server.url()) };
    let store = RedisStore::connect(options).await.expect("a good URL");
    eventually("a connection", async || store.ping().await.ok()).await;
    let points: Vec<Point> = (0..40).map(|number| point(&format!("driver-{number}"), now(), place(number))).collect();
    store.apply(batch(&points)).await.expect("Redis is there");
    let when = When::Within(Window { since: now().plus_ms(-3_600_000), until: now().plus_ms(120_000) });
    let query = NearbyQuery { centre: place(0), radius_m: 1_000.0, limit: 20, when, tags: vec![] };
    let told = || ["total_commands_processed", "total_reads_processed"].map(|name| server.info(name));
    let before = told();
    for _ in 0..50 {
        assert_eq!(store.nearby(&query).await.expect("Redis is there").0.len(), 20);
    }
    let after = told();
    let [commands, reads] = [after[0] - before[0], after[1] - before[1]];
    // Whose newest fixes lie in many buckets is looked up in as many commands.
    assert!(commands > 50.0 * 15.0, "{commands} commands");
    assert!(reads < commands / 3.0, "{commands} commands in {reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_a_replica_now_is_not_asked_over_old_connections() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let switch = Switch::to(old.port()).await;
    let url = RedisServer::url_at(&format!("127.0.0.1:{}", switch.port()));
    let store = RedisStore::connect(options(url)).await.expect("a good URL");
    eventually("a connection", async || store.ping().await.ok()).await;
    store.apply(batch(&[point("first", now(), place(0))])).await.expect("Redis is there");
    // A failover as a name or an address in front sees it: whoever is connected stays so.
    old.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    switch.lead_to(new.port());
    let second = point("second", now(), place(1));
    let written = async || {
        // It has none of what was put in: an audit tells.
        let _ = store.audit().await;
        store.apply(batch(std::slice::from_ref(&second))).await.ok()
    };
    eventually("a write", written).await;
    assert!(!new.keys().is_empty(), "it went to the new primary");
    let window = Window { since: now().plus_ms(-3_600_000), until: now().plus_ms(120_000) };
    let found = async || store.latest(&second.driver, window).await.ok().flatten();
    assert_eq!(eventually("an answer", found).await, second.fix);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_belongs_to_its_question_after_a_frozen_server_thaws() {
    let server = RedisServer::start();
    let store = Arc::new(connected(&server).await);
    let points: Vec<Point> =
        (0..200).map(|number| point(&format!("driver-{number}"), now(), place(number))).collect();
    store.apply(batch(&points)).await.expect("Redis is there");
    let until = Instant::now() + Duration::from_secs(7);
    let mut askers = JoinSet::new();
    for asker in 0..8 {
        let (store, points) = (store.clone(), points.clone());
        askers.spawn(async move {
            let window = Window { since: now().plus_ms(-3_600_000), until: now().plus_ms(120_000) };
            let (mut right, mut late) = (0, 0);
            for point in points.iter().cycle().skip(asker * 25) {
                match store.latest(&point.driver, window).await {
                    Ok(fix) => {
                        assert_eq!(fix.as_ref(), Some(&point.fix), "another's answer");
                        right += 1;
                    }
                    Err(StoreError::Unavailable(_)) => {
                        late += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
                if Instant::now() > until && right > 0 {
                    return (right, late);
                }
            }
            unreachable!("the points never end")
        });
    }
    // Longer than a pipeline waits, shorter than it takes to give the client up; then longer than that.
    for frozen_ms in [1_200, 2_500] {
        server.stop();
        tokio::time::sleep(Duration::from_millis(frozen_ms)).await;
        server.cont();
        eventually("it is back", async || store.ping().await.ok()).await;
    }
    while let Some(asker) = askers.join_next().await {
        let (right, late) = asker.expect("every value belongs to its question");
        assert!(right > 0 && late > 0, "{right} right, {late} late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_commands_are_counted_by_whose_they_are() {
    let server = RedisServer::start_with(&["--slowlog-log-slower-than", "0"]);
    let service = Service::start(&server.url(), now().as_ms()).await;
    service.report(&[report("driver-1")]).await;
    let names = || -> Vec<bool> {
        let clients = server.cli(&["CLIENT", "LIST"]);
        clients
            .lines()
            .filter(|line| line.contains("user=geotrail "))
            .map(|line| line.contains(" name=geotrail "))
            .collect()
    };
    let all_named = || {
        let names = names();
        !names.is_empty() && names.into_iter().all(|is_named| is_named)
    };
    eventually("a name", async || all_named().then_some(())).await;
    assert_ne!(server.cli(&["CLIENT", "KILL", "USER", "geotrail"]).trim(), "0");
    eventually("a name after reconnecting", async || all_named().then_some(())).await;
    for client in ["geotrail", "other"] {
        eventually("both are counted", async || {
            server.cli(&["PING"]);
            let metrics = String::from_utf8(service.get("/metrics").await.body).expect("text");
            let name = format!("geotrail_redis_slowlog_entries_total{{client=\"{client}\"}} ");
            let count = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name.as_str()))
                .expect("it is there from the start");
            (count.parse::<u64>().expect("a count") > 0).then_some(())
        })
        .await;
    }
    eventually("transactions are timed", async || {
        let metrics = String::from_utf8(service.get("/metrics").await.body).expect("text");
        let name = "geotrail_redis_transaction_duration_seconds_";
        let number = |which: &str| -> f64 {
            let told = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(which));
            told.expect("it is there from the start").trim().parse().expect("a number")
        };
        (number("count") > 0.0 && number("sum") > 0.0).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_managed_server_refuses_is_done_without() {
    let server = RedisServer::start();
    for refused in ["-client", "-slowlog", "-info", "-config", "-latency", "-function"] {
        assert_eq!(server.cli(&["ACL", "SETUSER", "geotrail", refused]).trim(), "OK");
    }
    let service = Service::start(&server.url(), now().as_ms()).await;
    service.report(&[report("driver-1")]).await;
    assert_eq!(service.get("/v1/drivers/driver-1").await.status, 200);
    let status = async || service.get("/health").await.json()["status"].as_str().map(str::to_owned);
    eventually("all well", async || (status().await.as_deref() == Some("pass")).then_some(())).await;

    assert_eq!(server.cli(&["ACL", "SETUSER", "geotrail", "-eval", "-evalsha"]).trim(), "OK");
    let answer = service.try_post("/v1/points", &[report("driver-2")]).await.expect("an answer");
    assert_eq!(answer.status, 202, "points are taken all the same");
    let health = eventually("it is said", async || {
        let health = service.get("/health").await.json();
        health.to_string().contains("writes are refused").then_some(health)
    })
    .await;
    assert_eq!(health["status"], "warn", "{health}");
    assert!(!health.to_string().contains(PASSWORD) && !health.to_string().contains("driver-2"), "{health}");
    assert_eq!(server.cli(&["ACL", "SETUSER", "geotrail", "+eval", "+evalsha"]).trim(), "OK");
    service.caught_up().await;
    assert_eq!(service.get("/v1/drivers/driver-2").await.status, 200);
    eventually("all well again", async || (status().await.as_deref() == Some("pass")).then_some(())).await;
    service.stop().await;
}

/// Without the board nothing is applied, so no write of a point is refused either.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_scripts_from_the_beginning_says_so_too() {
    let server = RedisServer::start();
    assert_eq!(server.cli(&["ACL", "SETUSER", "geotrail", "-eval", "-evalsha"]).trim(), "OK");
    let service = Service::start(&server.url(), now().as_ms()).await;
    let says = async |words: &str| service.get("/health").await.json().to_string().contains(words).then_some(());
    eventually("it is said", async || says("writes are refused").await).await;
    let answer = service.try_post("/v1/points", &[report("driver-1")]).await.expect("an answer");
    assert_eq!(answer.status, 202, "points are taken all the same");
    assert_eq!(server.cli(&["ACL", "SETUSER", "geotrail", "+eval", "+evalsha"]).trim(), "OK");
    service.caught_up().await;
    assert_eq!(service.get("/v1/drivers/driver-1").await.status, 200);
    eventually("all well again", async || says("\"status\":\"pass\"").await).await;
    service.stop().await;
}

#[test]
fn the_documented_user_may_do_nothing_else() {
    let server = RedisServer::start();
    for refused in [
        &["KEYS", "geotrail:*"][..],
        &["SCAN", "0"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "dir"],
        &["DEL", "geotrail:a"],
        &["GET", "another:key"],
        &["SET", "another:key", "1"],
        &["EVAL", "return redis.call('GET', 'another:key')", "0"],
        &["ACL", "LIST"],
        &["CLIENT", "KILL", "ID", "1"],
        &["CLUSTER", "RESET"],
        &["SLOWLOG", "RESET"],
        &["PUBLISH", "a", "b"],
    ] {
        let answer = server.cli_as_user(refused);
        assert!(
            answer.contains("NOPERM") || answer.contains("can't run") || answer.contains("can't access"),
            "{refused:?}: {answer}"
        );
    }
    assert_eq!(server.cli_as_user(&["SET", "geotrail:a", "1"]).trim(), "OK");
}

/// Names of commands in the text, each after one of `marks`.
fn called(text: &str, marks: &[&str]) -> BTreeSet<String> {
    let words = marks.iter().flat_map(|mark| text.split(mark).skip(1));
    words.map(|rest| rest.split(['"', '\'']).next().unwrap_or_default().to_lowercase()).collect()
}

#[test]
fn the_documented_user_may_do_what_the_store_does_and_no_more() {
    // What calls and connections are made of, and what scripts are told to call.
    let by_itself = ["eval", "evalsha", "asking"];
    let told = ["exists", "scard", "zcard", "hlen", "llen", "zrem", "srem", "hdel", "unlink"];
    let mut used: BTreeSet<String> = by_itself.into_iter().chain(told).map(str::to_owned).collect();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).expect("a source");
            used.append(&mut called(
                &text,
                &["Command::on(\"", "Command::keyless(\"", ".command(\"", ".put(\"", "redis.call('", "redis.pcall('"],
            ));
        }
    }
    // Nobody needs leave for the last.
    for other in ["sentinel", "auth"] {
        used.remove(other);
    }
    let line = user();
    let allowed: BTreeSet<String> = line
        .split_whitespace()
        .filter_map(|rule| rule.strip_prefix('+'))
        .map(|rule| rule.split('|').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(allowed, used, "left: `docs/redis-keys.md`; right: the sources");
}
