//! What a full Redis lets go of by itself is noticed and comes back; and a single track that is gone is found.

use geotrail::model::Resolution;
use geotrail::store::Store as _;
use geotrail::store::redis::RedisStore;

use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{Traffic, at, becomes_whole, logged, now_ms, past, verify};
use crate::oracle::{hour_name, hour_of};
use crate::redis_losses::{Follower, nothing_is_missing};
use crate::redis_store::{assert_holds, options, points, works_again};

const MAY_EVICT: &str = "maxmemory-policy is not noeviction";

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_lets_go_of_is_labelled_and_comes_back() {
    let server = RedisServer::start_with(&["--maxmemory", "200mb", "--maxmemory-policy", "allkeys-random"]);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    service.report(&[at("cab", now_ms())]).await;
    service.caught_up().await;
    eventually("a warning of the policy", async || {
        let health = service.get("/health").await.json();
        let told = health["checks"]["store:redis"][0]["observedValue"].as_str()?.contains(MAY_EVICT);
        (told && health["status"] == "warn").then_some(())
    })
    .await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;
    // A little of all keys, tracks for the most part.
    let used = server.info("used_memory");
    server.cli(&["CONFIG", "SET", "maxmemory", &format!("{:.0}", used - 30_000.0)]);
    eventually("that some go", async || (server.info("evicted_keys") > 0.0).then_some(())).await;
    eventually("a label", async || {
        (service.get("/v1/active/count").await.header("geotrail-index") != "complete").then_some(())
    })
    .await;
    server.cli(&["CONFIG", "SET", "maxmemory", "200mb"]);
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    logged(dir.path(), "let go of keys; putting everything in once more", 1).await;
    traffic.flows().await;
    // What was let go of since the last look is still to be noticed.
    eventually("that nothing is missing", async || (verify(dir.path(), &server.url()).await.0 == 0).then_some(()))
        .await;
    traffic.end().await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    let health = service.get("/health").await.json();
    assert!(!health.to_string().contains(MAY_EVICT), "{health}");
    assert!(service.terminate().await.success());
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    assert_eq!(log.matches("set its maxmemory-policy to noeviction").count(), 1, "told once: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_track_that_is_gone_comes_back_by_itself() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    let reports = past();
    service.report(&reports).await;
    service.caught_up().await;
    let seen = &reports[1_207];
    let key = format!("geotrail:{{{}}}:track:{}", hour_name(hour_of(seen.seen.ts)), seen.driver);
    assert_eq!(server.cli(&["UNLINK", &key]).trim(), "1");
    logged(dir.path(), "the store lost data", 1).await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert_eq!(server.cli(&["EXISTS", &key]).trim(), "1");
    assert!(service.terminate().await.success());
}

async fn finds_any_track(resolution: Option<u8>) {
    let server = RedisServer::start();
    let shard_resolution = resolution.and_then(Resolution::new);
    let instance = options(&server, "00000000000000a1");
    let store = RedisStore::connect(geotrail::store::redis::Options { shard_resolution, ..instance }).await;
    let store = store.expect("a good URL");
    works_again(&store).await;
    let all = points(11, 3_000, 700);
    let mut journal = Follower::of(all.clone(), 500);
    journal.run(&store).await;
    let tracks: Vec<String> = server.keys().into_iter().filter(|key| key.contains(":track:")).collect();
    for track in tracks.iter().step_by(tracks.len() / 3) {
        for _ in 0..20 {
            nothing_is_missing(&store).await;
        }
        assert_eq!(server.cli(&["UNLINK", track]).trim(), "1");
        let mut audits = 0;
        let from = loop {
            audits += 1;
            if let Some(from) = store.audit().await.expect("Redis is there") {
                break from;
            }
            assert!(audits < 500, "{track} is not missed");
        };
        journal.rewind(from);
        journal.run(&store).await;
        assert_eq!(server.cli(&["EXISTS", track]).trim(), "1");
    }
    assert_holds(&store, &all).await;
}

#[tokio::test]
async fn every_track_has_its_turn() {
    finds_any_track(None).await;
}

#[tokio::test]
async fn every_track_of_every_bucket_has_its_turn() {
    finds_any_track(Some(5)).await;
}
