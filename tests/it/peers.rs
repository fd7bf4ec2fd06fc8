//! What answers say of themselves while other instances on the same Redis are behind, away, or will not come back.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use geotrail::applier::FRESHNESS_BOUND;
use serde_json::Value;

use crate::harness::eventually;
use crate::harness::http::Http;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{at, now_ms};
use crate::oracle::Report;

/// Answered by Redis: it is more than the service has in memory.
const ACTIVE: &str = "/v1/active?max_age_s=7300&limit=1000";
/// Answered out of memory, where that has everything.
const RECENT: &str = "/v1/active?max_age_s=3600&limit=1000";
const INSTANCES: &str = "/v1/admin/instances";

/// So many drivers who reported a minute ago.
fn drivers(of: &str, count: usize) -> Vec<Report> {
    (0..count).map(|number| at(&format!("{of}-{number:04}"), now_ms() - 60_000)).collect()
}

/// Whether answers call themselves complete; if one does, it has all of `expected`, which was accepted longer than
/// [`FRESHNESS_BOUND`] ago: out of memory, what another instance has just put in follows a moment later.
async fn is_complete(service: &Http, expected: &[&[Report]]) -> bool {
    let of_redis = says_complete(service, ACTIVE, expected).await;
    says_complete(service, RECENT, expected).await && of_redis
}

async fn says_complete(service: &Http, question: &str, expected: &[&[Report]]) -> bool {
    let answer = service.get(question).await;
    if answer.status != 200 || answer.header("geotrail-index") != "complete" {
        return false;
    }
    let found: BTreeSet<String> = answer.page().0.into_iter().map(|driver| driver.id).collect();
    let missing = expected.iter().copied().flatten().filter(|report| !found.contains(&report.driver)).count();
    assert_eq!(missing, 0, "{question} calls itself complete, with {} drivers", found.len());
    true
}

async fn becomes_complete(service: &Http, expected: &[&[Report]], when: &str) {
    eventually(when, async || is_complete(service, expected).await.then_some(())).await;
}

async fn instances(service: &Http) -> Value {
    service.get(INSTANCES).await.json()
}

async fn own_id(service: &Http) -> String {
    instances(service).await["instance"].as_str().expect("an id").to_owned()
}

/// Waits until `service` says of `other` that it is in this state.
async fn sees(service: &Http, other: &str, state: &str) {
    eventually(state, async || {
        let others = instances(service).await["others"].as_array().cloned().unwrap_or_default();
        others.iter().any(|row| row["instance"] == other && row["state"] == state).then_some(())
    })
    .await;
}

/// Asks for a while: no answer may call itself complete.
async fn stays_incomplete(service: &Http, while_: Duration) {
    let until = tokio::time::Instant::now() + while_;
    while tokio::time::Instant::now() < until {
        for question in [ACTIVE, RECENT] {
            let answer = service.get(question).await;
            assert_ne!(answer.header("geotrail-index"), "complete", "{answer:?}");
        }
    }
}

async fn serve(dir: &Path, server: &RedisServer) -> Process {
    std::fs::create_dir_all(dir).expect("a directory");
    Process::serve(dir, &server.url()).await
}

/// F38: an instance and its journal are away while Redis loses everything. What only it has cannot come back before it
/// does; until then nobody pretends, and everybody says who is missed.
#[tokio::test(flavor = "multi_thread")]
async fn f38_an_instance_away_during_a_rebuild_is_named_until_it_is_back_or_dismissed() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let (home, away) = (dir.path().join("home"), dir.path().join("away"));
    let (ours, theirs) = (drivers("ours", 20), drivers("theirs", 30));
    let (one, other) = (serve(&home, &server).await, serve(&away, &server).await);
    one.report(&ours).await;
    other.report(&theirs).await;
    let both: [&[Report]; 2] = [&ours, &theirs];
    // Redis has it now; what is in memory follows.
    eventually("an answer of Redis", async || says_complete(&one, ACTIVE, &both).await.then_some(())).await;
    tokio::time::sleep(FRESHNESS_BOUND).await;
    becomes_complete(&one, &both, "both are in").await;
    let id = own_id(&other).await;
    sees(&one, &id, "whole").await;
    let refused = one.send(one.request("DELETE", &format!("{INSTANCES}/{id}"))).await.expect("an answer");
    assert_eq!((refused.status, refused.code()), (409, "instance_is_there".into()));
    let unknown = one.send(one.request("DELETE", &format!("{INSTANCES}/nobody"))).await.expect("an answer");
    assert_eq!((unknown.status, unknown.code()), (404, "not_found".into()));

    // What it had is in, so its absence alone takes nothing away.
    other.kill().await;
    sees(&one, &id, "silent").await;
    assert!(is_complete(&one, &both).await);
    let health = one.get("/health").await;
    assert!(health.status == 200 && health.json()["notes"].to_string().contains(&id), "{health:?}");

    server.cli(&["FLUSHALL"]);
    sees(&one, &id, "missing").await;
    eventually("our own part is back, and no more", async || {
        let answer = one.get(ACTIVE).await;
        assert_ne!(answer.header("geotrail-index"), "complete", "{answer:?}");
        let is_ours = answer.status == 200 && answer.page().0.len() == 20;
        (is_ours && answer.header("geotrail-index") == "partial").then_some(())
    })
    .await;
    assert_eq!(one.get(ACTIVE).await.json()["degraded"], Value::Bool(true));
    assert!(one.get("/health").await.json()["notes"].to_string().contains(&format!("instance {id} is away since")));
    let strict = one.get(&format!("{ACTIVE}&require=complete")).await;
    assert_eq!((strict.status, strict.code()), (503, "index_incomplete".into()));
    // Redis does not know of it any more; a new process does.
    one.kill().await;
    let one = serve(&home, &server).await;
    stays_incomplete(&one, Duration::from_secs(1)).await;
    sees(&one, &id, "missing").await;

    let other = serve(&away, &server).await;
    becomes_complete(&one, &both, "it is back").await;
    becomes_complete(&other, &both, "it knows that it is").await;

    // A machine that will not come back.
    other.kill().await;
    server.cli(&["FLUSHALL"]);
    sees(&one, &id, "missing").await;
    let gone = one.send(one.request("DELETE", &format!("{INSTANCES}/{id}"))).await.expect("an answer");
    assert_eq!(gone.status, 204);
    becomes_complete(&one, &[&ours], "nobody is waited for").await;
    assert_eq!(one.get("/health").await.json()["status"], "pass");
    one.terminate().await;
    let one = serve(&home, &server).await;
    becomes_complete(&one, &[&ours], "nobody is waited for by a new process").await;
    assert_eq!(instances(&one).await["others"], Value::Array(Vec::new()));
    assert!(one.terminate().await.success());
}

/// An instance that only answers has put nothing in that it could miss. It must not take for whole what others are
/// still putting back.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_accepted_nothing_knows_of_a_loss_all_the_same() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let reader = serve(&dir.path().join("reader"), &server).await;
    let writer = serve(&dir.path().join("writer"), &server).await;
    let all = drivers("cab", 900);
    // A past that takes some time to put back, newest hour first; what is asked for comes last.
    let hours_ago = |hours: i64| all.iter().map(move |report| at(&report.driver, now_ms() - hours * 3_600_000));
    for hours in 2..8 {
        writer.report(&hours_ago(hours).collect::<Vec<_>>()).await;
    }
    writer.report(&all).await;
    eventually("an answer of Redis", async || says_complete(&reader, ACTIVE, &[&all]).await.then_some(())).await;
    tokio::time::sleep(FRESHNESS_BOUND).await;
    let id = own_id(&writer).await;
    for round in 0..3 {
        becomes_complete(&reader, &[&all], "all is in").await;
        sees(&reader, &id, "whole").await;
        server.cli(&["FLUSHALL"]);
        let until = tokio::time::Instant::now() + Duration::from_secs(1);
        while tokio::time::Instant::now() < until {
            is_complete(&reader, &[&all]).await;
        }
        eprintln!("round {round} is over");
    }
    becomes_complete(&reader, &[&all], "all is in once more").await;
    // One that goes in peace leaves everything behind, and nobody misses it.
    assert!(writer.terminate().await.success());
    sees(&reader, &id, "left").await;
    assert!(is_complete(&reader, &[&all]).await);
    assert_eq!(reader.get("/health").await.json()["status"], "pass");
    assert!(reader.terminate().await.success());
}
