//! Several stores on one journal: the first answers; where it cannot, another does, and says so.

use geotrail::store::redis::LEASE;
use serde_json::Value;

use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{Traffic, at, becomes_whole, now_ms, past, verify};

#[tokio::test(flavor = "multi_thread")]
async fn another_store_answers_while_the_first_cannot_and_says_so() {
    let mut server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let stores = format!("{} embedded", server.url());
    let service = Process::serve(dir.path(), &stores).await;
    service.report(&past()).await;
    service.caught_up().await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    server.kill();
    let answer = eventually("an answer of the other store", async || {
        let answer = service.get("/v1/active?max_age_s=172800&limit=1000").await;
        (answer.status == 200 && answer.header("geotrail-index") == "fallback").then_some(answer)
    })
    .await;
    let body = answer.json();
    assert_eq!(
        (&body["degraded"], &body["index"]["state"]),
        (&Value::from(true), &Value::from("fallback")),
        "{body}"
    );
    assert!(body["index"]["as_of"].is_string(), "{body}");
    assert!(answer.page().0.len() >= 300, "everybody whom this instance knows");
    let refused = service.get("/v1/active?require=complete").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "index_incomplete"));
    assert!(!refused.header("retry-after").is_empty());
    let health = eventually("health of both", async || {
        let health = service.get("/health").await.json();
        (health["checks"]["store:redis"][0]["observedValue"] == "unreachable").then_some(health)
    })
    .await;
    assert_eq!(health["status"], "warn", "{health}");
    assert_eq!(health["checks"]["store:embedded"][0]["observedValue"], "up", "{health}");
    assert_eq!(health["checks"]["index"][0]["observedValue"], "fallback", "{health}");
    eventually("a backlog that is told", async || {
        let health = service.get("/health").await.json();
        health["checks"]["store:redis"][0]["backlog_points"].as_u64().filter(|points| *points > 0)
    })
    .await;
    let metrics = String::from_utf8_lossy(&service.get("/metrics").await.body).into_owned();
    for line in [
        "geotrail_store_state{state=\"unreachable\",store=\"redis\"} 1",
        "geotrail_store_state{state=\"up\",store=\"embedded\"} 1",
        "geotrail_points_applied_total{store=\"embedded\"}",
        "geotrail_journal_backlog_points{store=\"redis\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing from\n{metrics}");
    }

    // Empty, it comes back; until it is whole the other one answers.
    server.restart();
    eventually("the first again", async || {
        (service.get("/v1/active/count").await.header("geotrail-index") == "complete").then_some(())
    })
    .await;
    traffic.flows().await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_store_follows_by_itself_and_a_restart_changes_nothing() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let stores = format!("{} {} embedded", first.url(), second.url());
    let service = Process::serve(dir.path(), &stores).await;
    service.report(&past()).await;
    second.stop();
    // Whoever waits, waits for the first alone.
    let waited = service.try_post("/v1/points?wait=applied", &[at("cab", now_ms())]).await.expect("an answer");
    assert_eq!(waited.status, 200, "{waited:?}");
    second.cont();
    assert!(service.terminate().await.success());
    let service = Process::serve(dir.path(), &stores).await;
    for server in [&first, &second] {
        eventually("a store that has everything", async || {
            let (code, text) = verify(dir.path(), &server.url()).await;
            (code == 0 && !text.contains("left out")).then_some(())
        })
        .await;
    }
    let health = service.get("/health").await.json();
    for store in ["store:redis", "store:redis-2", "store:embedded"] {
        assert!(health["checks"][store].is_array(), "{health}");
    }
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_answer_from_nothing_is_answered() {
    let mut server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    // From now on there is something in memory, which answers for a lease after Redis was last read and no longer.
    service.caught_up().await;
    server.kill();
    tokio::time::sleep(LEASE).await;
    for path in ["/v1/active", "/v1/active/count", "/v1/drivers/parked-1", "/v1/nearby?lat=52&lon=21", "/v1/density"]
    {
        let answer = service.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "index_unavailable"), "{path}");
    }
    let answer = service.try_post("/v1/points", &[at("cab", now_ms())]).await.expect("an answer");
    assert_eq!(answer.status, 202);
    assert_eq!(service.get("/readyz").await.status, 200);
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn stores_are_parted_by_blanks_wherever_they_are_named() {
    let check = async |arguments: &[&str], variable: Option<&str>| {
        let mut command = crate::harness::process::geotrail();
        command.args(["config", "check"]).args(arguments).env_remove("GEOTRAIL_STORE");
        if let Some(stores) = variable {
            command.env("GEOTRAIL_STORE", stores);
        }
        let output = command.output().await.expect("the binary runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    };
    let both = "store = \"redis://127.0.0.1:1 embedded\"";
    let one_by_one = check(&["--store", "redis://127.0.0.1:1", "--store", "embedded"], None).await;
    let at_once = check(&["--store", "redis://127.0.0.1:1 embedded"], None).await;
    let variable = check(&[], Some(" redis://127.0.0.1:1\tembedded ")).await;
    assert!(one_by_one.0 == Some(0) && one_by_one.1.contains(both), "{one_by_one:?}");
    assert!(at_once.0 == Some(0) && at_once.1.contains(both), "{at_once:?}");
    assert_eq!(variable.0, Some(0), "{variable:?}");
    for (stores, wrong) in [
        ("embedded embedded", "expected each store once"),
        ("redis://h:1 redis://h:1", "expected each store once"),
        ("redis://h:1 redis://h:2 redis://h:3 redis://h:4 embedded", "expected at most 4 stores"),
        ("redis://h:1 memory", "expected `embedded`, or a URL"),
        (" ", "expected `embedded`, or a URL"),
    ] {
        let (code, text) = check(&["--store", stores], None).await;
        assert!(code == Some(2) && text.contains(wrong), "{stores}: {text}");
    }
}
