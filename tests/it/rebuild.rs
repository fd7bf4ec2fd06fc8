//! `rebuild` and `verify`, and the order in which a pass goes through a journal.

use std::fs;

use geotrail::applier::{History, Stretch, Supply};
use geotrail::journal::{Journal, Options, Reader};
use geotrail::model::{DriverId, Fix, Hour, Offset, Point, Position, Tags, Timestamp};

use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{at, becomes_whole, logged, now_ms, past, run, verify};
use crate::oracle::{hour_name, hour_of};

async fn rebuild(dir: &std::path::Path, store: &str) -> (i32, String) {
    run(&["rebuild"], dir, &["--retention", "72h", "--store", store]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_fills_an_empty_redis_beside_a_running_service_and_repairs_a_damaged_one() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), "embedded").await;
    let reports = past();
    service.report(&reports).await;
    eventually("that they are old enough to count", async || {
        let (code, text) = verify(dir.path(), &server.url()).await;
        (code == 1 && text.contains("1500 compared, 1500 missing")).then_some(())
    })
    .await;
    for _ in 0..2 {
        let (code, text) = rebuild(dir.path(), &server.url()).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("redis: 1500 points in") && text.contains("points/s"), "{text}");
        let (code, text) = verify(dir.path(), &server.url()).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("1500 compared, 0 missing, 0 differ"), "{text}");
        assert!(!text.contains("parked"), "it tells whose: {text}");
    }

    let hour = hour_name(hour_of(reports[7].seen.ts));
    let key = |name: &str| format!("geotrail:{{{hour}}}:{name}");
    for damage in [
        vec!["UNLINK".to_owned(), key("track:parked-7")],
        vec!["ZREM".to_owned(), key("roster"), "parked-7".to_owned()],
        vec!["HDEL".to_owned(), key("fixes"), "parked-7".to_owned()],
        vec!["UNLINK".to_owned(), key("fixes"), key("roster"), key("positions"), key("drivers"), key("last")],
    ] {
        server.cli(&damage.iter().map(String::as_str).collect::<Vec<_>>());
        let (code, text) = verify(dir.path(), &server.url()).await;
        assert_eq!(code, 1, "after {damage:?}: {text}");
        let (code, text) = rebuild(dir.path(), &server.url()).await;
        assert_eq!(code, 0, "{text}");
        let (code, text) = verify(dir.path(), &server.url()).await;
        assert_eq!(code, 0, "after {damage:?}: {text}");
    }
    for key in server.keys() {
        let ttl: i64 = server.cli(&["TTL", &key]).trim().parse().expect("a number");
        assert!(ttl > 0, "{key} has no TTL");
    }
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_store_is_rebuilt_when_nobody_uses_it_and_compared_at_any_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), "embedded").await;
    service.report(&past()).await;
    let (code, text) = rebuild(dir.path(), "embedded").await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("while no service runs"), "{text}");
    assert!(service.terminate().await.success());

    for entry in fs::read_dir(dir.path().join("data/embedded")).expect("it was written") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-")) {
            fs::write(&path, "not what was written").expect("can be written");
        }
    }
    let (code, text) = verify(dir.path(), "embedded").await;
    assert_eq!(code, 1, "{text}");
    let (code, text) = rebuild(dir.path(), "embedded").await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("embedded: 1500 points in"), "{text}");

    let service = Process::serve(dir.path(), "embedded").await;
    eventually("that they are old enough to count", async || {
        let (code, text) = verify(dir.path(), "embedded").await;
        assert_eq!(code, 0, "beside a running service: {text}");
        text.contains("points in tracks: 1500 compared").then_some(())
    })
    .await;
    service.caught_up().await;
    let hour = hour_name(hour_of(now_ms()) - 3);
    let listed = service.get(&format!("/v1/hours/{hour}/drivers?limit=1000")).await;
    assert!(!listed.page().0.is_empty(), "{listed:?}");
    assert!(service.terminate().await.success());
    let names: Vec<_> = fs::read_dir(dir.path().join("data")).expect("it is there").collect();
    let left_over = names.iter().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("verify-"));
    assert!(!left_over, "verify leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_index_that_was_deleted_comes_back_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), "embedded").await;
    service.report(&past()).await;
    assert!(service.terminate().await.success());
    fs::remove_dir_all(dir.path().join("data/embedded")).expect("it was there");
    let service = Process::serve(dir.path(), "embedded").await;
    service.caught_up().await;
    service.kill().await;
    // Killed before or after it wrote anything: what the checkpoint says holds.
    let service = Process::serve(dir.path(), "embedded").await;
    service.caught_up().await;
    assert!(service.terminate().await.success());
    let service = Process::serve(dir.path(), "embedded").await;
    becomes_whole(&service, dir.path(), "embedded").await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_no_journal_say_so() {
    let dir = tempfile::tempdir().expect("a directory");
    for command in ["rebuild", "verify"] {
        let (code, text) = run(&[command], dir.path(), &["--store", "embedded"]).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("there is no journal in"), "{text}");
    }
}

fn points(hour: Hour, count: i64) -> Vec<Point> {
    let position = Position::new(52.0, 21.0).expect("in range");
    let fix = |ts| Fix { ts, position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
    let driver = DriverId::new("cab").expect("well formed");
    (0..count).map(|n| Point { driver: driver.clone(), fix: fix(hour.start().plus_ms(n)) }).collect()
}

/// What runs ahead of Redis waits in the journal, and goes in as history. That it was never in is known: nobody reads what
/// Redis has of the drivers.
#[tokio::test(flavor = "multi_thread")]
async fn what_ran_ahead_of_redis_is_put_in_unread() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    service.caught_up().await;
    server.cli(&["CLIENT", "PAUSE", "900", "ALL"]);
    let now = now_ms();
    let drivers: Vec<String> = (0..900).map(|n| format!("{n:0>60}")).collect();
    for round in 0..50 {
        let reports: Vec<_> = drivers.iter().map(|driver| at(driver, now - round * 1_000)).collect();
        assert_eq!(service.try_post("/v1/points", &reports).await.expect("an answer").status, 202);
    }
    logged(dir.path(), "a pass through the journal begins", 1).await;
    service.caught_up().await;
    let commands = server.cli(&["INFO", "commandstats"]);
    let calls = |name: &str| {
        let rest = commands.split_once(&format!("cmdstat_{name}:calls=")).map_or("0", |(_, rest)| rest);
        rest.split(',').next().and_then(|calls| calls.parse::<usize>().ok()).expect("a number")
    };
    assert!(calls("append") > drivers.len(), "{commands}");
    // What was under way when Redis did not answer may be in.
    assert!(calls("getrange") <= 2 * drivers.len(), "{commands}");
    assert!(service.terminate().await.success());
}

/// Each point's moment, in the order in which a pass meets them; of an hour in that of time.
fn moments(history: &mut History, most: usize) -> Vec<Timestamp> {
    let mut moments = Vec::new();
    while let Some(chunk) = history.next(most).expect("can be read") {
        moments.extend(chunk.points.iter().map(|point| point.fix.ts));
    }
    in_time(moments)
}

/// The hours as they come, each in the order of time.
fn in_time(mut moments: Vec<Timestamp>) -> Vec<Timestamp> {
    moments.chunk_by_mut(|a, b| a.hour() == b.hour()).for_each(<[Timestamp]>::sort);
    moments
}

const fn stretch(from: Offset, to: Offset) -> Stretch {
    Stretch { from, to, repeated: true, is_news: false }
}

/// A journal of four hours, three batches of ten points each; and where each batch begins.
async fn four_hours(dir: &std::path::Path) -> (Journal, Vec<Hour>, Vec<Offset>) {
    let first = Hour::from_number(498_590);
    let hours: Vec<Hour> = (0..4).map(|n| Hour::from_number(first.number() + n)).collect();
    let (journal, _) = Journal::open(Options::new(dir), first.start()).expect("opens");
    let mut ends = vec![Offset::START];
    for hour in &hours {
        for _ in 0..3 {
            ends.push(journal.append(points(*hour, 10), hour.start()).await.expect("is taken"));
        }
    }
    (journal, hours, ends)
}

#[tokio::test]
async fn a_pass_takes_the_newest_hour_first_and_each_point_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, hours, ends) = four_hours(dir.path()).await;
    let hour_of_hour = |hour: &Hour, batches: usize| {
        let of_hour: Vec<_> = points(*hour, 10).into_iter().map(|point| point.fix.ts).collect();
        of_hour.repeat(batches)
    };

    for most in [1, 15, 1_000] {
        let mut history = History::new(journal.reader(Offset::START));
        history.add(stretch(Offset::START, ends[12]));
        let expected: Vec<_> = hours.iter().rev().flat_map(|hour| hour_of_hour(hour, 3)).collect();
        assert_eq!(moments(&mut history, most), in_time(expected));
        assert_eq!(history.from(), None);
    }

    // From the middle of an hour to the middle of another, with another stretch behind; in a directory as it lies.
    let mut history = History::new(Reader::open(dir.path(), Offset::START));
    history.add(stretch(ends[2], ends[8]));
    history.add(stretch(ends[11], ends[12]));
    let expected = [
        hour_of_hour(&hours[3], 1),
        hour_of_hour(&hours[2], 2),
        hour_of_hour(&hours[1], 3),
        hour_of_hour(&hours[0], 1),
    ];
    assert_eq!(moments(&mut history, 7), in_time(expected.concat()));

    journal.close().await;
}

#[tokio::test]
async fn what_is_read_ahead_or_given_back_is_owed_until_it_is_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, hours, ends) = four_hours(dir.path()).await;
    let mut supply = Supply::new(History::new(journal.reader(Offset::START)));
    supply.add(Stretch { is_news: true, ..stretch(ends[5], ends[12]) });
    let mut met = Vec::new();
    while let Some(chunk) = supply.next().await.expect("can be read") {
        let points = chunk.points.len();
        assert_eq!(supply.while_putting(points, async { Err::<(), _>("it is away") }).await, Err("it is away"));
        let (start, hour) = (chunk.start, chunk.points[0].fix.ts.hour());
        supply.give_back(chunk);
        // It may begin where the segment does; never later.
        assert!(supply.from().is_some_and(|from| from <= start), "{:?}, not {start:?}", supply.from());
        assert!(supply.has_news());

        let chunk = supply.next().await.expect("can be read").expect("it was given back");
        assert_eq!((chunk.start, chunk.points.len(), chunk.repeated), (start, points, true));
        let moments: Vec<Timestamp> = chunk.points.iter().map(|point| point.fix.ts).collect();
        assert!(moments.is_sorted() && moments.iter().all(|ts| ts.hour() == hour));
        met.push((hour, points));
        assert_eq!(supply.while_putting(points, async { Ok::<_, ()>(()) }).await, Ok(()));
    }
    assert_eq!(met, [(hours[3], 30), (hours[2], 30), (hours[1], 10)]);
    assert_eq!((supply.from(), supply.has_news()), (None, false));
    journal.close().await;
}

#[tokio::test]
async fn a_loss_takes_the_place_of_what_was_owed_and_read_ahead() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _, ends) = four_hours(dir.path()).await;
    let mut supply = Supply::new(History::new(journal.reader(Offset::START)));
    supply.add(stretch(ends[2], ends[8]));
    let chunk = supply.next().await.expect("can be read").expect("there is some");
    assert_eq!(supply.while_putting(chunk.points.len(), async { Ok::<_, ()>(()) }).await, Ok(()));
    supply.widen(ends[5], ends[12]);
    assert_eq!(supply.from(), Some(ends[2]));
    let mut points = 0;
    while let Some(chunk) = supply.next().await.expect("can be read") {
        assert!(chunk.repeated);
        points += chunk.points.len();
        assert_eq!(supply.while_putting(chunk.points.len(), async { Ok::<_, ()>(()) }).await, Ok(()));
    }
    assert_eq!(points, 100);
    journal.close().await;
}
