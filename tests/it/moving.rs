//! Moving house: stores are attached, given reads and detached while the service runs, and nobody notices.

use std::path::Path;

use serde_json::{Value, json};

use crate::erasure::{GONE, delete, everybody, gone_at, moments, traces_in_redis};
use crate::harness::cluster::Cluster;
use crate::harness::eventually;
use crate::harness::http::{Answer, Http};
use crate::harness::process::Process;
use crate::harness::redis::{PASSWORD, RedisServer, free_port};
use crate::harness::traffic::{Traffic, at, becomes_whole, now_ms, past, verify};
use crate::oracle::{hour_name, hour_of};

pub(crate) const STORES: &str = "/v1/admin/stores";

pub(crate) async fn admin(service: &Http, method: &str, path: &str, body: Option<Value>) -> Answer {
    let mut request = service.request(method, path);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    service.send(request).await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Attaches a store; its name.
pub(crate) async fn attach(service: &Http, url: &str) -> String {
    let answer = admin(service, "POST", STORES, Some(json!({"url": url, "shadow_percent": 100}))).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let row = answer.json();
    let name = row["name"].as_str().expect("a name").to_owned();
    assert_eq!(answer.header("location"), format!("{STORES}/{name}"));
    assert_eq!((&row["reads_percent"], &row["shadow_percent"]), (&json!(0), &json!(100)), "{row}");
    name
}

pub(crate) async fn share(service: &Http, name: &str, reads_percent: u8) {
    let wish = json!({ "reads_percent": reads_percent });
    let answer = admin(service, "PATCH", &format!("{STORES}/{name}"), Some(wish)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json()["stores"].clone();
    assert_eq!(row_of(&stores(service).await, name)["reads_percent"], reads_percent);
    let sum: u64 = told.as_array().expect("a list").iter().filter_map(|row| row["reads_percent"].as_u64()).sum();
    assert_eq!((&row_of(&told, name)["reads_percent"], sum), (&json!(reads_percent), 100), "{told}");
}

async fn detach(service: &Http, name: &str) -> Answer {
    admin(service, "DELETE", &format!("{STORES}/{name}"), None).await
}

pub(crate) async fn stores(service: &Http) -> Value {
    service.get(STORES).await.json()["stores"].clone()
}

pub(crate) fn row_of(stores: &Value, name: &str) -> Value {
    let rows = stores.as_array().expect("a list");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}: {stores}")).clone()
}

pub(crate) async fn filled(service: &Http, name: &str) {
    eventually("a store that has everything", async || {
        let row = row_of(&stores(service).await, name);
        (row["state"] == "up" && row["backlog_points"] == 0).then_some(())
    })
    .await;
}

async fn metric(service: &Http, begins: &str, holds: &str) -> u64 {
    let text = String::from_utf8_lossy(&service.get("/metrics").await.body).into_owned();
    let lines = text.lines().filter(|line| line.starts_with(begins) && line.contains(holds));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

async fn compared(service: &Http, outcome: &str) -> u64 {
    metric(service, "geotrail_shadow_answers_total{", &format!("outcome=\"{outcome}\"")).await
}

/// From the store `from` to the one at `url`, with traffic all the while; the name that it got.
async fn move_house(service: &Http, traffic: &Traffic, from: &str, url: &str) -> String {
    let to = attach(service, url).await;
    // Each is compared with the other, whoever is asked.
    let wish = json!({"shadow_percent": 100});
    assert_eq!(admin(service, "PATCH", &format!("{STORES}/{from}"), Some(wish)).await.status, 200);
    traffic.flows().await;
    filled(service, &to).await;
    for percent in [10, 50, 10, 100] {
        share(service, &to, percent).await;
        let refused = detach(service, if percent == 100 { &to } else { from }).await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "store_takes_reads"));
        let before = compared(service, "equal").await;
        traffic.flows().await;
        eventually("answers that were compared", async || (compared(service, "equal").await > before).then_some(()))
            .await;
    }
    assert_eq!(detach(service, from).await.status, 204);
    traffic.flows().await;
    to
}

fn noted(dir: &Path, name: &str) -> bool {
    dir.join(format!("data/checkpoint-{name}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_house_is_moved_forth_and_back_under_load() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    service.report(&past()).await;
    service.caught_up().await;
    let traffic = Traffic::on(&service);
    traffic.flows().await;

    assert_eq!(move_house(&service, &traffic, "redis", &new.url()).await, "redis-2");
    eventually("a checkpoint of the new one", async || noted(dir.path(), "redis-2").then_some(())).await;
    assert!(!noted(dir.path(), "redis"), "nothing waits for the old one any more");
    // Nobody needs it.
    old.stop();
    traffic.flows().await;
    let (code, text) = verify(dir.path(), &new.url()).await;
    assert_eq!(code, 0, "{text}");
    old.cont();
    assert_eq!(move_house(&service, &traffic, "redis-2", &old.url()).await, "redis");
    assert_eq!(compared(&service, "different").await, 0);
    traffic.end().await;
    becomes_whole(&service, dir.path(), &old.url()).await;
    let metrics = String::from_utf8_lossy(&service.get("/metrics").await.body).into_owned();
    assert!(metrics.contains("geotrail_store_reads_percent{store=\"redis\"} 100"), "{metrics}");
    assert!(!metrics.contains("geotrail_store_reads_percent{store=\"redis-2\"}"), "{metrics}");
    assert!(service.terminate().await.success());
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("attached") && log.contains("detached") && !log.contains(PASSWORD), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_server_into_a_cluster() {
    let (old, new) = (RedisServer::start(), Cluster::start(false));
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    service.report(&past()).await;
    service.caught_up().await;
    let traffic = Traffic::on(&service);
    let to = move_house(&service, &traffic, "redis", &new.url()).await;
    let twice = new.url().replace(&new.servers[2].address(), &new.servers[0].address());
    let refused = admin(&service, "POST", STORES, Some(json!({ "url": twice }))).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "store_attached"), "{to} by another door");
    assert_eq!(compared(&service, "different").await, 0);
    traffic.end().await;
    becomes_whole(&service, dir.path(), &new.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_counted() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    let reports = past();
    service.report(&reports).await;
    let name = attach(&service, &new.url()).await;
    filled(&service, &name).await;
    let hour = hour_name(hour_of(reports[7].seen.ts));
    let paths = [format!("/v1/hours/{hour}/positions"), "/v1/drivers/parked-8".to_owned()];
    let ask = async || {
        for path in &paths {
            assert_eq!(service.get(path).await.header("geotrail-index"), "complete", "{path}");
        }
    };
    eventually("answers that are the same", async || {
        ask().await;
        (compared(&service, "equal").await > 1).then_some(())
    })
    .await;
    assert_eq!(compared(&service, "different").await, 0);
    // What another driver has there is as well formed, and no audit looks at it.
    let script = "return redis.call('HSET', KEYS[1], 'parked-7', redis.call('HGET', KEYS[1], 'parked-9'))";
    new.cli(&["EVAL", script, "1", &format!("geotrail:{{{hour}}}:fixes")]);
    eventually("a difference", async || {
        ask().await;
        let different = metric(&service, "geotrail_shadow_answers_total{kind=\"hour_positions\"", "different").await;
        (different > 0).then_some(())
    })
    .await;
    assert_eq!(metric(&service, "geotrail_shadow_answers_total{kind=\"latest\"", "different").await, 0);
    let metrics = String::from_utf8_lossy(&service.get("/metrics").await.body).into_owned();
    assert!(!metrics.contains("parked"), "{metrics}");
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_whole_gets_no_reads_if_another_is() {
    let (old, mut new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    service.report(&past()).await;
    let name = attach(&service, &new.url()).await;
    filled(&service, &name).await;
    share(&service, &name, 50).await;
    new.kill();
    let label = async || service.get("/v1/active/count").await.header("geotrail-index").to_owned();
    let state = async |state: &str| {
        eventually(state, async || (row_of(&stores(&service).await, &name)["state"] == state).then_some(())).await;
    };
    state("unreachable").await;
    for _ in 0..50 {
        assert_eq!(label().await, "complete", "the other one has a share, and is whole");
    }
    share(&service, &name, 100).await;
    assert_eq!(label().await, "fallback", "the other one stands in");
    let refused = detach(&service, "redis").await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "store_needed"));
    share(&service, &name, 0).await;
    assert_eq!(label().await, "complete", "a step back is one request");
    share(&service, &name, 100).await;
    new.restart();
    state("up").await;
    filled(&service, &name).await;
    eventually("answers of the new one", async || (label().await == "complete").then_some(())).await;
    assert_eq!(detach(&service, "redis").await.status, 204);
    assert_eq!(detach(&service, &name).await.code(), "store_takes_reads");
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changes_nothing() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    let before = stores(&service).await;
    let nobody = format!("redis://geotrail:{PASSWORD}@127.0.0.1:{}", free_port());
    let stranger = server.url().replace(PASSWORD, "some-other-password");
    let spelt = server.url().replace("127.0.0.1", "localhost");
    let one = format!("{STORES}/redis");
    let cases: Vec<(&str, &str, Value, u16, &str)> = vec![
        ("POST", STORES, json!({"url": "http://127.0.0.1:1"}), 400, "invalid_parameter"),
        ("POST", STORES, json!({"url": "redis://"}), 400, "invalid_parameter"),
        ("POST", STORES, json!({"url": ""}), 400, "invalid_parameter"),
        ("POST", STORES, json!({"url": "redis-sentinel://127.0.0.1:1"}), 400, "invalid_parameter"),
        ("POST", STORES, json!({"url": 7}), 400, "invalid_parameter"),
        ("POST", STORES, json!({}), 400, "missing_parameter"),
        ("POST", STORES, json!({"url": nobody, "reads_percent": 101}), 400, "invalid_parameter"),
        ("POST", STORES, json!({"url": nobody, "reads": 1}), 400, "unknown_parameter"),
        ("POST", STORES, json!([]), 400, "malformed_json"),
        ("POST", "/v1/admin/stores?url=x", json!({"url": nobody}), 400, "unknown_parameter"),
        ("POST", STORES, json!({"url": nobody}), 409, "store_unreachable"),
        ("POST", STORES, json!({"url": stranger}), 409, "store_attached"),
        ("POST", STORES, json!({"url": server.url()}), 409, "store_attached"),
        ("POST", STORES, json!({"url": spelt}), 409, "store_attached"),
        ("PATCH", &one, json!({}), 400, "missing_parameter"),
        ("PATCH", &one, json!({"reads_percent": -1}), 400, "invalid_parameter"),
        ("PATCH", &one, json!({"reads_percent": "50"}), 400, "invalid_parameter"),
        ("PATCH", &one, json!({"reads_percent": 12.5}), 400, "invalid_parameter"),
        ("PATCH", &one, json!({"url": nobody}), 400, "unknown_parameter"),
        ("PATCH", "/v1/admin/stores/redis-2", json!({"reads_percent": 1}), 404, "not_found"),
        ("DELETE", "/v1/admin/stores/redis-2", Value::Null, 404, "not_found"),
        ("DELETE", &one, Value::Null, 409, "store_takes_reads"),
        ("PUT", &one, Value::Null, 405, "method_not_allowed"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = admin(&service, method, path, (!body.is_null()).then_some(body.clone())).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path} {body}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains(PASSWORD) && !text.contains(&server.address()), "{text}");
    }
    let wrong = service.post(STORES, "text/plain", "{}").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (415, "unsupported_media_type"));
    assert!(!wrong.json()["detail"].to_string().contains("ndjson"), "points may be, not this: {wrong:?}");
    assert_eq!(service.post(STORES, "application/json", "{").await.code(), "malformed_json");
    let endless = service.post(STORES, "application/json", vec![b' '; 20_000]).await;
    assert_eq!((endless.status, endless.code().as_str()), (413, "body_too_large"));
    assert!(endless.json()["detail"].to_string().contains("at most 16384 bytes"), "{endless:?}");
    assert_eq!(stores(&service).await, before);
    assert!(!dir.path().join("data/stores.json").exists());
    let shown = before.to_string();
    assert!(shown.contains("geotrail:***@127.0.0.1") && !shown.contains(PASSWORD), "{shown}");

    // One after the other, until there are as many as there may be.
    let more = [RedisServer::start(), RedisServer::start()];
    attach(&service, &more[0].url()).await;
    attach(&service, "embedded").await;
    attach(&service, &more[1].url()).await;
    let answer = admin(&service, "POST", STORES, Some(json!({"url": nobody}))).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "too_many_stores"));
    filled(&service, "embedded").await;
    assert_eq!(detach(&service, "embedded").await.status, 204);
    assert!(!dir.path().join("data/embedded").exists(), "its files go with it");
    assert!(service.terminate().await.success());
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(!log.contains(PASSWORD) && !log.contains("some-other-password"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_the_stores_as_they_were() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    service.report(&past()).await;
    let name = attach(&service, &new.url()).await;
    share(&service, &name, 50).await;
    let shares = async |service: &Http| {
        let rows = stores(service).await;
        let rows = rows.as_array().expect("a list");
        rows.iter().map(|row| (row["name"].clone(), row["reads_percent"].clone())).collect::<Vec<_>>()
    };
    let half = shares(&service).await;
    // In mid-filling, perhaps.
    service.kill().await;
    let service = Process::serve(dir.path(), &old.url()).await;
    assert_eq!(shares(&service).await, half);
    service.report(&[at("cab", now_ms())]).await;
    filled(&service, &name).await;
    share(&service, &name, 100).await;
    assert_eq!(detach(&service, "redis").await.status, 204);
    service.kill().await;
    let gone = old.url();
    drop(old);

    // `--store` still names one that is gone for good; nobody asks it.
    let service = Process::serve(dir.path(), &gone).await;
    assert_eq!(shares(&service).await, [(json!(name), json!(100))]);
    service.report(&[at("cab", now_ms())]).await;
    assert!(service.terminate().await.success());
    let absent = RedisServer::absent();
    let service = Process::serve(dir.path(), &absent.url()).await;
    assert_eq!(shares(&service).await, [(json!("redis"), json!(100))], "whoever changes it has the last word");
    assert!(service.terminate().await.success());
    let service = Process::serve(dir.path(), &new.url()).await;
    service.report(&[at("cab", now_ms())]).await;
    becomes_whole(&service, dir.path(), &new.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_holds_again_when_it_names_the_new_store() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    service.report(&past()).await;
    let name = attach(&service, &new.url()).await;
    filled(&service, &name).await;
    share(&service, &name, 100).await;
    assert_eq!(detach(&service, "redis").await.status, 204);
    assert!(service.terminate().await.success());
    let applied_before = |log: &str| log.matches("a pass through the journal begins").count();
    let log = || std::fs::read_to_string(dir.path().join("log")).expect("a log");
    let before = applied_before(&log());
    let service = Process::serve(dir.path(), &new.url()).await;
    service.caught_up().await;
    assert_eq!(row_of(&stores(&service).await, &name)["reads_percent"], 100);
    assert!(service.terminate().await.success());
    assert_eq!(applied_before(&log()), before, "it keeps its checkpoint, so nothing is put in twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_reaches_every_store_and_one_that_comes_back() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &old.url()).await;
    service.report(&everybody(now_ms(), 40)).await;
    let name = attach(&service, &new.url()).await;
    filled(&service, &name).await;
    share(&service, &name, 100).await;
    assert_eq!(detach(&service, "redis").await.status, 204);
    // The old one does not hear of it.
    assert_eq!(delete(&service, GONE).await, Some(204));
    assert_eq!(traces_in_redis(&new), Vec::<String>::new());
    assert!(!traces_in_redis(&old).is_empty());
    let again = now_ms();
    service.report(&[gone_at(again)]).await;

    let back = attach(&service, &old.url()).await;
    filled(&service, &back).await;
    share(&service, &back, 100).await;
    assert_eq!(moments(&service, GONE).await, [again], "what was reported since is new");
    // Both at once.
    assert_eq!(delete(&service, GONE).await, Some(204));
    for server in [&old, &new] {
        assert_eq!(traces_in_redis(server), Vec::<String>::new());
    }
    assert!(service.terminate().await.success());
}
