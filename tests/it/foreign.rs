//! A Redis that holds another fleet's data is left alone, whoever comes to it and however.

use serde_json::json;

use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::switch::Switch;
use crate::harness::traffic::{Traffic, becomes_whole, past, run, verify};
use crate::moving::{STORES, admin, attach, filled, stores};

const ID: &str = "geotrail:{fleet}:id";

/// Every key with what it holds and when it expires.
fn contents(server: &RedisServer) -> String {
    let script = "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do out[#out + 1] = key .. ' ' .. \
                  redis.sha1hex(redis.call('DUMP', key)) .. ' ' .. redis.call('PEXPIRETIME', key) end \
                  table.sort(out) return out";
    let contents = server.cli(&["EVAL", script, "0"]);
    assert!(contents.lines().count() > 300, "{contents}");
    contents
}

/// A server full of the data of a fleet that nobody here knows.
async fn theirs() -> RedisServer {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    assert!(service.terminate().await.success());
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn another_fleets_server_behind_the_same_address_is_left_alone() {
    let (ours, theirs) = (RedisServer::start(), theirs().await);
    let switch = Switch::to(ours.port()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &RedisServer::url_at(&format!("127.0.0.1:{}", switch.port()))).await;
    service.report(&past()).await;
    service.caught_up().await;
    let before = contents(&theirs);
    let traffic = Traffic::on(&service);
    traffic.flows().await;

    for turn in 1..=3 {
        switch.turn_to(theirs.port());
        let health = eventually("that it is noticed", async || {
            let health = service.get("/health").await.json();
            let told = health["checks"]["store:redis"][0]["observedValue"].as_str()?.contains("another fleet's");
            told.then_some(health)
        })
        .await;
        assert_eq!(health["status"], "warn", "{health}");
        let answer = service.get("/v1/active/count").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "index_unavailable"));
        let metrics = String::from_utf8_lossy(&service.get("/metrics").await.body).into_owned();
        assert!(metrics.contains("geotrail_store_state{state=\"foreign\",store=\"redis\"} 1"), "{metrics}");
        assert_eq!(stores(&service).await[0]["state"], "foreign");
        traffic.flows().await;
        assert_eq!(contents(&theirs), before);
        switch.turn_to(ours.port());
        eventually("our own again", async || {
            (service.get("/v1/active/count").await.header("geotrail-index") == "complete").then_some(())
        })
        .await;
        traffic.flows().await;
        let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
        assert_eq!(log.matches("holds another fleet's data: nothing").count(), turn, "once each time: {log}");
    }
    assert_eq!(contents(&theirs), before);
    traffic.end().await;
    becomes_whole(&service, dir.path(), &ours.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_touches_it_until_it_is_adopted() {
    let (ours, theirs) = (RedisServer::start(), theirs().await);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &ours.url()).await;
    service.report(&past()).await;
    let before = contents(&theirs);
    let refused = admin(&service, "POST", STORES, Some(json!({"url": theirs.url()}))).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "store_foreign"));
    for command in ["rebuild", "verify"] {
        // There is nothing to compare as long as all of it is new.
        eventually(command, async || {
            let arguments = ["--retention", "72h", "--store", &theirs.url()];
            let (code, text) = run(&[command], dir.path(), &arguments).await;
            (code == 1 && text.contains("another fleet's data")).then_some(())
        })
        .await;
    }
    assert_eq!(contents(&theirs), before);
    assert_eq!(stores(&service).await.as_array().expect("a list").len(), 1);
    let wrong = admin(&service, "POST", STORES, Some(json!({"url": theirs.url(), "adopt": 1}))).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "invalid_parameter"));
    let adopted = admin(&service, "POST", STORES, Some(json!({"url": theirs.url(), "adopt": true}))).await;
    assert_eq!(adopted.status, 201, "{adopted:?}");
    filled(&service, "redis-2").await;
    assert_eq!(theirs.cli(&["GET", ID]), ours.cli(&["GET", ID]));
    assert_eq!(verify(dir.path(), &theirs.url()).await.0, 0);
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_attached_is_adopted_where_it_stands() {
    let (ours, theirs) = (RedisServer::start(), theirs().await);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &ours.url()).await;
    service.report(&past()).await;
    assert!(service.terminate().await.success());
    let before = contents(&theirs);
    let service = Process::serve(dir.path(), &theirs.url()).await;
    eventually("that it is noticed", async || (stores(&service).await[0]["state"] == "foreign").then_some(())).await;
    assert_eq!(service.get("/readyz").await.status, 200);
    assert_eq!(contents(&theirs), before);
    let one = format!("{STORES}/redis");
    let adopted = admin(&service, "PATCH", &one, Some(json!({"adopt": true}))).await;
    assert_eq!(adopted.status, 200, "{adopted:?}");
    service.caught_up().await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_one_fleet_share_its_id_and_put_it_back() {
    let server = RedisServer::start();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let first = Process::serve(dirs[0].path(), &server.url()).await;
    first.report(&past()).await;
    let second = Process::serve(dirs[1].path(), &server.url()).await;
    second.report(&past()).await;
    let noted = |at: usize| std::fs::read_to_string(dirs[at].path().join("data/fleet")).expect("it is noted");
    assert_eq!((noted(0), noted(1)), (server.cli(&["GET", ID]), noted(0)));
    let log = |at: usize| std::fs::read_to_string(dirs[at].path().join("log")).expect("a log");
    assert!(log(1).contains("joined the fleet") && !log(0).contains("joined the fleet"));
    let ttl_s: i64 = server.cli(&["TTL", ID]).trim().parse().expect("a number");
    assert!(ttl_s > 29 * 86_400, "{ttl_s}");
    server.cli(&["FLUSHALL"]);
    eventually("the same id", async || (server.cli(&["GET", ID]) == noted(0)).then_some(())).await;
    for service in [first, second] {
        service.caught_up().await;
        assert!(service.terminate().await.success());
    }
    // A new server of our own, and a service that remembers.
    let empty = RedisServer::start();
    let again = Process::serve(dirs[1].path(), &empty.url()).await;
    // What the other instance accepted is not there.
    let other = eventually("the other is missed", async || {
        let others = again.get("/v1/admin/instances").await.json()["others"].clone();
        (others[0]["state"] == "missing").then(|| others[0]["instance"].as_str().expect("an id").to_owned())
    })
    .await;
    let dismissed = again.send(again.request("DELETE", &format!("/v1/admin/instances/{other}"))).await;
    assert_eq!(dismissed.expect("an answer").status, 204);
    again.caught_up().await;
    assert_eq!(empty.cli(&["GET", ID]), noted(0));
    let name = attach(&again, &server.url()).await;
    filled(&again, &name).await;
    assert!(again.terminate().await.success());
    assert_eq!(log(1).matches("joined the fleet").count(), 1);
}
