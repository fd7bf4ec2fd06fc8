//! What an instance on Redis keeps in memory: as much as Redis has, whoever put it there, and never an erased driver.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use geotrail::model::{DriverId, Fix, Point, Position, Resolution, Timestamp};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Memory, NearbyQuery, Page, Standing, Store, Visit, When, Window};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::harness::eventually;
use crate::harness::gate::{Gate, Verdict};
use crate::harness::http::Answer;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{at, now_ms};
use crate::redis_store::{batch, connected, id, now, options, point, points, window, works_again};
use crate::redis_store_races::connected as connected_through;

const MINE: &str = "00000000000000aa";
const OTHERS: &str = "00000000000000bb";

type Newest = BTreeMap<DriverId, Fix>;

fn collect(page: Page<geotrail::store::Located>) -> Newest {
    assert_eq!(page.next, None, "it was all");
    page.items.into_iter().map(|located| (located.driver, located.fix)).collect()
}

/// Who is in memory, if that is all there is.
fn remembered(store: &RedisStore, window: Window) -> Option<Newest> {
    store.memory()?.page(window, None, 10_000).map(collect)
}

async fn held(store: &RedisStore, window: Window) -> Newest {
    let mut newest = Newest::new();
    let mut after = None;
    loop {
        let page = store.active(window, after.as_ref(), 1_000).await.expect("Redis is there");
        newest.extend(page.items.into_iter().map(|located| (located.driver, located.fix)));
        after = page.next;
        if after.is_none() {
            return newest;
        }
    }
}

/// Waits until memory has what is expected.
async fn remembers(store: &RedisStore, window: Window, when: &str, is_it: impl Fn(&Newest) -> bool) -> Newest {
    eventually(when, async || remembered(store, window).filter(|newest| is_it(newest))).await
}

fn near(centre: Position, limit: usize, window: Window) -> NearbyQuery {
    NearbyQuery { centre, radius_m: 3_000.0, limit, when: When::Within(window), tags: vec![] }
}

async fn same_as_redis(resolution: Option<u8>, seed: u64) {
    let server = RedisServer::start();
    let shard_resolution = resolution.map(|number| Resolution::new(number).expect("there is one"));
    let connect = async |instance: &str| {
        let store = RedisStore::connect(Options { shard_resolution, ..options(&server, instance) }).await;
        let store = store.expect("a good URL");
        works_again(&store).await;
        store
    };
    let (mine, others) = (connect(MINE).await, connect(OTHERS).await);
    let mut all = points(seed, 3_000, 300);
    let (before, after) = all.split_at(1_000);
    others.apply(batch(before, 1)).await.expect("Redis is there");
    let window = window(3_600);
    remembers(&mine, window, "what was there is in memory", |_| true).await;

    // Late ones, repeated ones, the same driver through both.
    let mut rng = StdRng::seed_from_u64(seed);
    let mut after = [after, &before[..200]].concat();
    after.shuffle(&mut rng);
    for (turn, slice) in after.chunks(150).enumerate() {
        let (one, other) = slice.split_at(rng.random_range(0..slice.len()));
        let end = turn as u64 + 2;
        let (one, other) = tokio::join!(mine.apply(batch(one, end)), others.apply(batch(other, end)));
        one.and(other).expect("Redis is there");
    }
    let expected = held(&mine, window).await;
    assert!(expected.len() > 20, "{}", expected.len());
    for store in [&mine, &others] {
        remembers(store, window, "memory has all that Redis has", |newest| *newest == expected).await;
        let memory: &dyn Memory = store.memory().expect("it has one");
        assert_eq!(memory.count(window), Some(expected.len() as u64));
        all.shuffle(&mut rng);
        for Point { fix, .. } in &all[..20] {
            let query = near(fix.position, rng.random_range(1..40), window);
            let found = eventually("it is in memory", async || memory.near(&query, window)).await;
            assert_eq!(found, store.nearby(&query).await.expect("Redis is there"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_what_redis_has_whoever_put_it_there() {
    for seed in 0..3 {
        same_as_redis(None, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_what_the_cells_of_redis_have() {
    same_as_redis(Some(5), 7).await;
}

/// A change whose entry is gone is not waited for: everything is read anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_may_have_been_missed_is_noticed() {
    let server = RedisServer::start();
    let (mine, others) = (connected(&server, MINE).await, connected(&server, OTHERS).await);
    let known = point(id(1), now(), 525_000_000, 134_000_000);
    others.apply(batch(std::slice::from_ref(&known), 1)).await.expect("Redis is there");
    let window = window(3_600);
    remembers(&mine, window, "it is in memory", |newest| newest.contains_key(&id(1))).await;
    let next = point(id(2), now(), 525_000_000, 134_000_000);
    others.apply(batch(std::slice::from_ref(&next), 2)).await.expect("Redis is there");
    remembers(&mine, window, "an entry was read", |newest| newest.contains_key(&id(2))).await;

    let hour = format!("geotrail:{{{}}}", known.fix.ts.hour());
    let script = "redis.call('HSET', KEYS[1], ARGV[2], redis.call('HGET', KEYS[1], ARGV[1])) \
                  redis.call('ZADD', KEYS[2], 0, ARGV[2]) redis.call('XTRIM', KEYS[3], 'MAXLEN', 0)";
    let keys = ["fixes", "roster", "changes"].map(|name| format!("{hour}:{name}"));
    let stranger = id(3);
    let ids = [id(1).to_string(), stranger.to_string()];
    let args = ["EVAL", script, "3", &keys[0], &keys[1], &keys[2], &ids[0], &ids[1]];
    server.cli(&args);
    remembers(&mine, window, "it was read anew", |newest| newest.contains_key(&stranger)).await;
}

/// Two instances by cells, the first of them behind a gate that can keep it from reading what is new.
async fn reader_and_writer(server: &RedisServer) -> (Gate, RedisStore, RedisStore) {
    let gate = Gate::holding(b":changes\r\n", server).await;
    let mine = connected_through(server, gate.url(), MINE, Some(7)).await;
    (gate, mine, connected_through(server, server.url(), OTHERS, Some(7)).await)
}

/// Drivers of one bucket.
fn of_bucket(bucket: u32, drivers: usize, ts: Timestamp) -> Vec<Point> {
    let of_it = (0..).map(id).filter(|driver| crc32c::crc32c(driver.as_str().as_bytes()) % 32 == bucket);
    of_it.take(drivers).map(|driver| point(driver, ts, 525_000_000, 134_000_000)).collect()
}

/// Writes so few at a time that they are one slice, while nobody reads what is new.
async fn write_unread(gate: &mut Gate, others: &RedisStore, points: &[Point]) {
    gate.close();
    let held = gate.holds().await.expect("the gate is there");
    for points in points.chunks(10) {
        others.apply(batch(points, 1)).await.expect("Redis is there");
    }
    held.send(Verdict::Pass).expect("it is held");
}

/// A stream that begins, and is full before it was ever read, may have dropped its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_dropped_before_it_was_first_read_is_noticed() {
    let server = RedisServer::start();
    let (mut gate, mine, others) = reader_and_writer(&server).await;
    let window = window(3_600);
    remembers(&mine, window, "nobody is there", Newest::is_empty).await;
    // The stream of a bucket keeps 64 slices at least, and that is more than one for 25 of so many drivers.
    let drivers = 1_000;
    for bucket in 0..3 {
        write_unread(&mut gate, &others, &of_bucket(bucket, drivers, now())).await;
        let all = drivers * (bucket as usize + 1);
        remembers(&mine, window, "all of them", |newest| newest.len() == all).await;
    }
}

fn ranges_read(server: &RedisServer) -> String {
    let stats = server.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_zrange:")).expect("all was read");
    line.split(',').next().expect("how often").to_owned()
}

/// A large fleet takes long to be read, and reports meanwhile: its streams hold more.
#[tokio::test(flavor = "multi_thread")]
async fn who_falls_behind_by_some_reports_of_a_large_fleet_follows_on() {
    let server = RedisServer::start();
    let (mut gate, mine, others) = reader_and_writer(&server).await;
    let (window, ts) = (window(3_600), now());
    let all = of_bucket(0, 5_000, ts.plus_ms(-1_000));
    others.apply(batch(&all, 1)).await.expect("Redis is there");
    remembers(&mine, window, "all is in memory", |newest| newest.len() == all.len()).await;
    let before = ranges_read(&server);
    let reported = of_bucket(0, 1_000, ts);
    write_unread(&mut gate, &others, &reported).await;
    let is_new = |newest: &Newest| reported.iter().all(|point| newest[&point.driver] == point.fix);
    remembers(&mine, window, "what was reported is in memory", is_new).await;
    assert_eq!(ranges_read(&server), before, "nothing was read anew");
}

/// Whoever says that it is whole may have put in a moment ago what it had owed for long: what was read before that does not
/// count any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_instance_owed_is_there_when_it_is_heard_to_be_whole() {
    let server = RedisServer::start();
    let (mine, others) = (connected(&server, MINE).await, connected(&server, OTHERS).await);
    let visits = async |store: &RedisStore, standing: Standing| {
        let visit = Visit { lines: &[], keep: Duration::from_mins(1), standing: Some(standing) };
        let board = store.board(visit).await.expect("Redis is there").expect("it has a board");
        board.roll.into_iter().any(|said| said.instance == OTHERS && said.standing == Standing::Whole)
    };
    let window = window(3_600);
    for n in 0..20 {
        visits(&others, Standing::Behind(None)).await;
        assert!(!visits(&mine, Standing::Whole).await, "it is behind");
        remembers(&mine, window, "all so far is in memory", |newest| newest.len() == n).await;
        let owed = point(id(n), now(), 525_000_000, 134_000_000);
        others.apply(batch(&[owed], n as u64 + 1)).await.expect("Redis is there");
        visits(&others, Standing::Whole).await;
        assert!(visits(&mine, Standing::Whole).await, "it is whole");
        if let Some(newest) = remembered(&mine, window) {
            assert!(newest.contains_key(&id(n)), "round {n}: it was owed");
        }
    }
}

/// As soon as an erasure is done, no instance has the driver in memory: not one that read it as a change, nor one that
/// found it there and has seen no change since.
#[tokio::test(flavor = "multi_thread")]
async fn an_erased_driver_is_in_no_memory() {
    let server = RedisServer::start();
    let (mine, others) = (connected(&server, MINE).await, connected(&server, OTHERS).await);
    let all: Vec<Point> = (0..8).map(|n| point(id(n), now(), 525_000_000, 134_000_000)).collect();
    mine.apply(batch(&all, 1)).await.expect("Redis is there");
    let window = window(3_600);
    for (n, Point { driver, .. }) in all.iter().enumerate() {
        if n % 2 == 1 {
            let changes = format!("geotrail:{{{}}}:changes", all[0].fix.ts.hour());
            server.cli(&["UNLINK", &changes]);
        }
        let left = all.len() - n;
        for store in [&mine, &others] {
            remembers(store, window, "it is in memory", |newest| newest.len() == left).await;
        }
        mine.erase(driver).await.expect("Redis is there");
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            for store in [&mine, &others] {
                let has_it = remembered(store, window).is_some_and(|newest| newest.contains_key(driver));
                assert!(!has_it, "{driver} is erased");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The hours that are in memory move on with the questions.
#[tokio::test(flavor = "multi_thread")]
async fn memory_goes_on_into_the_next_hour() {
    let server = RedisServer::start();
    let (mine, others) = (connected(&server, MINE).await, connected(&server, OTHERS).await);
    let now_window = window(3_600);
    let early = point(id(1), now_window.since.plus_ms(1_000), 525_000_000, 134_000_000);
    others.apply(batch(std::slice::from_ref(&early), 1)).await.expect("Redis is there");
    remembers(&mine, now_window, "it is in memory", |newest| newest.contains_key(&id(1))).await;

    let in_an_hour =
        Window { since: now_window.since.plus_ms(3_600_000), until: now_window.until.plus_ms(3_600_000) };
    let late = point(id(2), in_an_hour.until, 525_000_000, 134_000_000);
    others.apply(batch(std::slice::from_ref(&late), 2)).await.expect("Redis is there");
    remembers(&mine, in_an_hour, "the next hour is in memory", |newest| {
        newest.contains_key(&id(2)) && !newest.contains_key(&id(1))
    })
    .await;
    assert_eq!(remembered(&mine, window(24 * 3_600)), None, "of a day it has too little");
}

/// An instance whose clock is ahead accepts what lies beyond the window of the others: memory shows it as Redis does.
#[tokio::test(flavor = "multi_thread")]
async fn a_fix_beyond_the_window_is_in_memory_as_in_redis() {
    let server = RedisServer::start();
    let (mine, others) = (connected(&server, MINE).await, connected(&server, OTHERS).await);
    // In the middle of an hour, whenever this runs.
    let until = now().hour().start().plus_ms(1_800_000);
    let window = Window { since: until.plus_ms(-3_600_000), until };
    let beyond = |n: usize, ms: i64| point(id(n), until.plus_ms(ms), 525_000_000, 134_000_000);
    let (early, ahead) = ([beyond(1, -1_000), beyond(2, -1_000)], [beyond(1, 600_000), beyond(2, 3_600_000)]);
    mine.apply(batch(&early, 1)).await.expect("Redis is there");
    remembers(&mine, window, "both are in memory", |newest| newest.len() == 2).await;
    for (store, end) in [(&others, 1), (&mine, 2)] {
        store.apply(batch(&ahead, end)).await.expect("Redis is there");
        let expected = held(&mine, window).await;
        assert_eq!(expected[&id(1)], ahead[0].fix);
        assert_eq!(expected[&id(2)], early[1].fix);
        remembers(&mine, window, "memory has what Redis has", |newest| *newest == expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_out_of_memory_takes_nothing_of_redis() {
    const ASKED: usize = 200;
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    let reports: Vec<_> = (0..30).map(|number| at(&format!("cab-{number:02}"), now_ms() - 1_000)).collect();
    service.report(&reports).await;
    let (lat, lon) = (reports[0].seen.lat, reports[0].seen.lon);
    let questions = [
        format!("/v1/nearby?lat={lat}&lon={lon}&radius_m=100000&limit=50"),
        "/v1/active?limit=100".to_owned(),
        "/v1/active/count".to_owned(),
    ];
    let says = |answer: &Answer| match answer.json()["count"].as_u64() {
        Some(count) => count as usize,
        None => answer.page().0.len(),
    };
    for question in &questions {
        eventually(question, async || {
            let whole = service.get(question).await;
            if whole.header("geotrail-index") != "complete" {
                return None;
            }
            let before = server.info("total_commands_processed");
            for _ in 0..ASKED {
                let answer = service.get(question).await;
                assert_eq!((answer.status, says(&answer)), (200, says(&whole)), "{question}");
            }
            // What goes on in the background is some dozens a second.
            let took = server.info("total_commands_processed") - before;
            (took < ASKED as f64).then_some(())
        })
        .await;
    }
    let metrics = String::from_utf8(service.get("/metrics").await.body).expect("text");
    for operation in ["nearby_in_memory", "active_in_memory", "active_count_in_memory"] {
        let counted =
            format!(r#"geotrail_store_operation_duration_seconds_count{{operation="{operation}",store="redis"}} "#);
        let count = metrics.lines().find_map(|line| line.strip_prefix(&counted)).expect("it is counted");
        // Whatever Redis was asked for took two commands at least.
        assert!(count.parse::<usize>().expect("a number") >= ASKED / 2, "{operation}: {count}");
    }
}
