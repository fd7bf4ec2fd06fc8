//! Good requests at a bad moment: the store is being rebuilt, or there is none; the disk is full, fails, or cannot keep
//! up. Each test is named for its row of the table of bad input.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use geotrail::clock::Clock;
use geotrail::model::{DriverId, Timestamp};
use geotrail::query::{IndexState, Label, Queries, QueryError, Sight, Source, Sources};
use geotrail::store::Store as _;
use geotrail::store::embedded::{EmbeddedStore, Options as EmbeddedOptions};
use geotrail::store::redis::LEASE;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::app::Service;
use crate::harness::faulty_disk::{Fault, FaultyDisk};
use crate::harness::http::{Answer, Http};
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::{PATIENCE, eventually};
use crate::oracle::{Report, Seen, hour_name, hour_of, lately, rfc3339};

fn now() -> i64 {
    lately("14:00:01.250")
}

fn at(driver: &str, ts: i64) -> Report {
    Report { driver: driver.into(), seen: Seen { ts, lat: 52.0, lon: 21.0, ..Seen::default() } }
}

/// By this machine's clock, for services that are processes.
fn today(driver: &str) -> Report {
    let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    at(driver, i64::try_from(since_1970.as_millis()).expect("before the end of time"))
}

/// Every question there is.
fn questions() -> Vec<String> {
    let hour = hour_name(hour_of(now()));
    [
        "/v1/nearby?lat=52&lon=21",
        "/v1/nearby?lat=52&lon=21&hour=HOUR",
        "/v1/active?limit=10",
        "/v1/active/count?max_age_s=3600",
        "/v1/drivers/cab?",
        "/v1/drivers/cab/track?",
        "/v1/hours/HOUR/drivers?",
        "/v1/hours/HOUR/positions?",
        "/v1/density?resolution=7",
    ]
    .map(|question| question.replace("HOUR", &hour))
    .into()
}

fn check_503(answer: &Answer, code: &str, what: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status, answer.code().as_str()), (503, code), "{what}: {text}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    let retry_after_s: u64 =
        answer.header("retry-after").parse().unwrap_or_else(|_| panic!("{what}: no Retry-After"));
    assert!((1..=60).contains(&retry_after_s), "{what}: {retry_after_s} s");
}

/// A Redis that answers and takes nothing in any more.
fn refuse_writes(server: &RedisServer) {
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
}

fn take_writes(server: &RedisServer) {
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn q18_q19_what_is_being_rebuilt_says_so_and_is_refused_where_all_is_required() {
    let server = RedisServer::start();
    let service = Service::start(&server.url(), now()).await;
    service.report(&[at("cab", now() - 1_000)]).await;
    for question in &questions() {
        let whole = service.get(&format!("{question}&require=complete")).await;
        assert_eq!((whole.status, whole.header("geotrail-index")), (200, "complete"), "{question}: {whole:?}");
        assert_eq!(whole.json()["degraded"], false, "{question}");
        assert!(whole.json().get("index").is_none(), "{question}: nothing to say of a whole index");
    }

    refuse_writes(&server);
    assert_eq!(service.try_post("/v1/points", &[at("van", now())]).await.expect("an answer").status, 202);
    eventually("a label", async || {
        (service.get("/v1/active/count").await.header("geotrail-index") == "rebuilding").then_some(())
    })
    .await;
    service.set_now(now() + 60_000);
    for question in &questions() {
        let part = service.get(question).await;
        let body = part.json();
        assert_eq!((part.status, part.header("geotrail-index")), (200, "rebuilding"), "{question}: {body}");
        let index = json!({"state": "rebuilding", "as_of": rfc3339(now())});
        assert_eq!((&body["degraded"], &body["index"]), (&json!(true), &index), "{question}");
        let refused = service.get(&format!("{question}&require=complete")).await;
        check_503(&refused, "index_incomplete", question);
        assert_eq!(refused.header("geotrail-index"), "rebuilding", "{question}");
        let wrong = service.get(&format!("{question}&require=x")).await;
        assert_eq!((wrong.status, wrong.code().as_str()), (400, "invalid_parameter"), "{question}");
    }
    for form in ["application/geo+json", "application/x-ndjson"] {
        let part = service.get_as(form, "/v1/active").await;
        assert_eq!((part.status, part.header("geotrail-index")), (200, "rebuilding"), "{form}");
        check_503(&service.get_as(form, "/v1/active?require=complete").await, "index_incomplete", form);
    }
    // That somebody is not there, or nobody, is said with the same reserve.
    assert_eq!(service.get("/v1/drivers/van").await.header("geotrail-index"), "rebuilding");
    assert_eq!(service.get("/v1/nearby?lat=10&lon=10").await.json()["degraded"], true);

    take_writes(&server);
    service.caught_up().await;
    let whole = service.get("/v1/drivers/van?require=complete").await;
    assert_eq!((whole.status, &whole.json()["degraded"]), (200, &json!(false)));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q19_a_stream_that_must_be_complete_is_broken_off_once_it_is_not() {
    const DRIVERS: usize = 60_000;
    let server = RedisServer::start();
    let service = Service::start(&server.url(), now()).await;
    let fleet: Vec<_> = (0..DRIVERS).map(|driver| at(&format!("cab-{driver}"), now())).collect();
    service.report(&fleet).await;
    let ask = |path| service.request("GET", path).header("accept", "application/x-ndjson").send();
    let mut all = ask("/v1/active?require=complete").await.expect("an answer");
    let any = ask("/v1/active").await.expect("an answer");
    assert_eq!((all.status().as_u16(), any.status().as_u16()), (200, 200));
    refuse_writes(&server);
    assert_eq!(service.try_post("/v1/points", &[at("van", now())]).await.expect("an answer").status, 202);
    eventually("a label", async || {
        (service.get("/v1/active/count").await.header("geotrail-index") == "rebuilding").then_some(())
    })
    .await;
    let end = loop {
        match all.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break "as if whole",
            Err(_) => break "broken off",
        }
    };
    assert_eq!(end, "broken off");
    // Whoever takes what there is gets it to the end.
    let whole = any.text().await.expect("it goes on");
    assert_eq!(whole.lines().count(), DRIVERS);
    take_writes(&server);
    service.stop().await;
}

/// Questions to an empty store, of which each look sees what `sight` says of its number.
async fn questions_to(dir: &Path, sight: impl Fn(usize) -> Sight + Send + Sync + 'static) -> Queries {
    let options = EmbeddedOptions { dir: dir.into(), journal: "one".into(), memtable_bytes: 1 << 20 };
    let store = Arc::new(EmbeddedStore::new(options));
    store.open("").await.expect("opens");
    let looks = AtomicUsize::new(0);
    let label = Label::from_fn(move || sight(looks.fetch_add(1, Ordering::SeqCst)));
    let source = Source::new(store, label);
    source.set_shares(100, 0);
    let sources = Sources::new(vec![Arc::new(source)]);
    Queries::new(sources, Clock::from_fn(|| Timestamp::from_ms(0)), Duration::from_hours(48), |_, _, _| {})
}

/// The index becomes whole between the answer and its being written: the answer was still made from less.
#[tokio::test(flavor = "multi_thread")]
async fn q18_nobody_found_in_half_an_index_is_not_called_complete() {
    let dir = tempfile::tempdir().expect("a directory");
    let queries = questions_to(dir.path(), |look| {
        let state = if look == 0 { IndexState::Rebuilding { as_of: None } } else { IndexState::Complete };
        Sight { state, losses: 0 }
    })
    .await;
    let driver = DriverId::new("cab").expect("well formed");
    let answer = queries.latest(&driver).await;
    assert!(matches!(answer, Err(QueryError::NotFoundYet(IndexState::Rebuilding { .. }))), "{answer:?}");
    assert!(matches!(queries.latest(&driver).await, Err(QueryError::NotFound)), "now that it is whole");
}

/// Lost and made up for between two looks that both see a whole index.
#[tokio::test(flavor = "multi_thread")]
async fn q18_an_answer_during_which_something_was_lost_is_not_called_complete() {
    let dir = tempfile::tempdir().expect("a directory");
    let sight = |look: usize| Sight { state: IndexState::Complete, losses: (look as u64).min(1) };
    let queries = questions_to(dir.path(), sight).await;
    let minute = Duration::from_mins(1);
    let answer = queries.active_count(minute).await.expect("an answer");
    assert!(answer.index.is_degraded(), "{answer:?}");
    let answer = queries.active_count(minute).await.expect("an answer");
    assert!(!answer.index.is_degraded(), "nothing more was lost: {answer:?}");
}

/// Nobody writes, and the service looks after its store once a second: whoever asks before that is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn q18_an_answer_made_after_an_unnoticed_loss_is_not_called_complete() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    for round in 0..5 {
        service.report(&[today("cab")]).await;
        service.caught_up().await;
        server.cli(&["FLUSHALL"]);
        let answer = service.get("/v1/active?max_age_s=3600").await;
        let is_complete = answer.header("geotrail-index") == "complete";
        assert!(!is_complete || answer.page().0.len() == 1, "round {round}: {answer:?}");
    }
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn q20_without_a_store_there_is_an_error_and_never_an_empty_list() {
    let mut server = RedisServer::absent();
    let service = Service::start(&server.url(), now()).await;
    assert_eq!(service.try_post("/v1/points", &[at("cab", now())]).await.expect("an answer").status, 202);
    let check = async |when: &str| {
        for question in &questions() {
            check_503(&service.get(question).await, "index_unavailable", &format!("{when}: {question}"));
        }
        for form in ["application/geo+json", "application/x-ndjson"] {
            check_503(&service.get_as(form, "/v1/active").await, "index_unavailable", form);
        }
        assert_eq!(service.get("/readyz").await.status, 200, "{when}: points are taken all the same");
    };
    check("never there").await;
    // What is wrong with the question is said first.
    assert_eq!(service.get("/v1/nearby?lat=52&lon=300").await.code(), "invalid_parameter");
    server.restart();
    service.caught_up().await;
    assert_eq!(service.get("/v1/drivers/cab").await.status, 200, "what was accepted meanwhile is there");
    assert_eq!(service.get("/v1/nearby?lat=10&lon=10").await.page().0, [], "now nobody is nobody");
    server.kill();
    // What is in memory answers for so long.
    tokio::time::sleep(LEASE).await;
    check("gone").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q22_whoever_waits_for_a_store_that_is_away_is_told_it_is_on_disk() {
    let server = RedisServer::start();
    let service = Service::start(&server.url(), now()).await;
    server.stop();
    let answer = service.try_post("/v1/points?wait=applied", &[at("cab", now())]).await.expect("an answer");
    assert_eq!((answer.status, &answer.json()["accepted"]), (202, &json!(1)), "{answer:?}");
    server.cont();
    service.caught_up().await;
    assert_eq!(service.get("/v1/drivers/cab").await.status, 200);
    service.stop().await;
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("data/journal")).expect("a journal");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

async fn accepts(service: &Http, driver: &str) {
    let report = today(driver);
    eventually("points to be taken again", async || {
        let answer = service.try_post("/v1/points", std::slice::from_ref(&report)).await?;
        (answer.status == 202).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_a_sync_that_fails_is_never_acknowledged() {
    let Some(disk) = FaultyDisk::new() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let service = disk.serve(dir.path()).await;
    accepts(&service, "before").await;
    let segments_before = segments(dir.path());

    disk.begin(Fault::Stall);
    let posted = tokio::spawn({
        let http = (*service).clone();
        async move { http.try_post("/v1/points", &[today("failed")]).await.expect("an answer") }
    });
    disk.stalled().await;
    // Whoever answers before the sync comes back has answered by now, and wrongly.
    disk.begin(Fault::FailOneSync);
    disk.end(Fault::Stall);
    check_503(&posted.await.expect("it does not panic"), "journal_unavailable", "a failed sync");

    // A segment of which only the name could be lost is no better.
    disk.begin(Fault::NoNames);
    disk.begin(Fault::FailOneSync);
    eventually("a segment that could not be made", async || {
        let answer = service.try_post("/v1/points", &[today("failed")]).await.expect("an answer");
        check_503(&answer, "journal_unavailable", "a name that is not safe");
        let log = fs::read_to_string(dir.path().join("log")).expect("a log");
        log.contains("no fresh journal segment").then_some(())
    })
    .await;
    disk.end(Fault::NoNames);

    accepts(&service, "after").await;
    let newest = segments(dir.path()).pop();
    assert!(!segments_before.contains(&newest.expect("a segment")), "nothing goes behind what may not be on disk");
    service.kill().await;
    let service = Process::serve(dir.path(), "embedded").await;
    service.caught_up().await;
    for driver in ["before", "after"] {
        assert_eq!(service.get(&format!("/v1/drivers/{driver}")).await.status, 200, "{driver}");
    }
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_a_full_disk_is_told_and_recovered_from() {
    let Some(disk) = FaultyDisk::new() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let service = disk.serve(dir.path()).await;
    service.report(&[today("before")]).await;
    disk.begin(Fault::Full);
    let batch: Vec<_> = (0..100).map(|n| today(&format!("refused-{n}"))).collect();
    for _ in 0..3 {
        let answer = service.try_post("/v1/points", &batch).await.expect("an answer");
        check_503(&answer, "journal_unavailable", "a full disk");
    }
    assert_eq!(service.get("/readyz").await.status, 503);
    assert_eq!(service.get("/livez").await.status, 200);
    let health = service.get("/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("warn")), "drivers reported, all the same");
    assert_eq!(service.get("/v1/drivers/before").await.status, 200, "questions are answered as ever");
    disk.end(Fault::Full);
    eventually("readiness", async || (service.get("/readyz").await.status == 200).then_some(())).await;
    accepts(&service, "after").await;
    service.kill().await;
    let service = Process::serve(dir.path(), "embedded").await;
    service.caught_up().await;
    for driver in ["before", "after"] {
        assert_eq!(service.get(&format!("/v1/drivers/{driver}")).await.status, 200, "{driver}");
    }
    assert!(service.terminate().await.success());
}

/// A batch that is small on the wire and large in the journal.
fn heavy() -> Vec<u8> {
    let tags: Vec<_> = (0..8).map(|n| format!("{n:x<32}")).collect();
    let ts = today("").seen.ts;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for n in 0..10_000 {
        let point = json!({"driver_id": "x".repeat(64), "ts": ts - n, "lat": 52.0, "lon": 21.0, "tags": tags});
        writeln!(packed, "{point}").expect("into memory");
    }
    packed.finish().expect("into memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_more_than_the_disk_can_take_is_refused_and_what_waits_is_kept() {
    /// At over 3 MB each, far more than may wait.
    const POSTS: usize = 30;
    let Some(disk) = FaultyDisk::new() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let service = disk.serve(dir.path()).await;
    disk.begin(Fault::Stall);
    let body = heavy();
    let mut posts = JoinSet::new();
    for _ in 0..POSTS {
        let request = service.request("POST", "/v1/points").header("content-type", "application/x-ndjson");
        let request = request.header("content-encoding", "gzip").body(body.clone());
        let http = (*service).clone();
        posts.spawn(async move { http.send(request).await.expect("an answer") });
    }
    let first = tokio::time::timeout(PATIENCE, posts.join_next()).await.expect("some are refused while others wait");
    check_503(&first.expect("there are some").expect("no panic"), "overloaded", "a queue that is full");
    assert_eq!(service.get("/readyz").await.status, 200, "it will pass");
    disk.end(Fault::Stall);
    let (mut taken, mut refused) = (0, 1);
    while let Some(answer) = posts.join_next().await {
        let answer = answer.expect("no panic");
        if answer.status == 202 {
            taken += 1;
        } else {
            check_503(&answer, "overloaded", "a queue that is full");
            refused += 1;
        }
    }
    assert!(taken > 0 && taken + refused == POSTS, "{taken} taken, {refused} refused");
    accepts(&service, "after").await;
    service.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_more_bodies_than_memory_should_hold_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), "embedded").await;
    let address = service.url().strip_prefix("http://").expect("a plain address").to_owned();
    let mut dawdlers = Vec::new();
    // Each says nothing of how long its body is, and could bring the longest.
    for _ in 0..64 {
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        let head = "POST /v1/points HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n";
        stream.write_all(head.as_bytes()).await.expect("it is taken");
        dawdlers.push(stream);
    }
    let refused = eventually("a refusal", async || {
        let answer = service.try_post("/v1/points", &[today("refused")]).await?;
        (answer.status != 202).then_some(answer)
    })
    .await;
    check_503(&refused, "overloaded", "bodies of 256 MiB");
    assert_eq!(service.get("/readyz").await.status, 200);
    drop(dawdlers);
    accepts(&service, "after").await;
    assert!(tokio::time::timeout(Duration::from_mins(1), service.terminate()).await.expect("in time").success());
}
