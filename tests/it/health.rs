//! `/health` tells a silent fleet, to the second, and never waits for a store.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::app::Service;
use crate::harness::traffic::now_ms;
use crate::harness::{Backing, Kind, eventually, on_both_stores};
use crate::oracle::{Report, Seen, lately, rfc3339};

const HOUR_MS: i64 = 3_600_000;

fn at(ts: i64) -> Report {
    Report { driver: "cab".into(), seen: Seen { ts, lat: 52.0, lon: 21.0, ..Seen::default() } }
}

async fn health(service: &Service) -> (u16, Value) {
    let answer = service.get("/health").await;
    assert_eq!(answer.header("content-type"), "application/health+json");
    let head = service.send(service.request("HEAD", "/health")).await.expect("an answer");
    assert_eq!((head.status, head.body.len()), (answer.status, 0), "HEAD says the same, in fewer words");
    (answer.status, answer.json())
}

async fn silence_is_told_to_the_second(kind: Kind) {
    let backing = Backing::new(kind);
    // The silence runs across the turn of an hour, wherever in an hour it begins.
    for begins in ["13:59:58", "14:00:00", "14:30:00.500"] {
        let last = lately(begins);
        let service = Service::start(&backing.url, last).await;
        service.report(&[at(last)]).await;
        for (silent_ms, expected) in
            [(0, 200), (3_599_000, 200), (3_600_000, 200), (3_600_001, 503), (3_601_000, 503), (9_999_000, 503)]
        {
            service.set_now(last + silent_ms);
            let (status, body) = health(&service).await;
            assert_eq!(status, expected, "{silent_ms} ms after {begins}: {body}");
            assert_eq!(body["status"] == "fail", expected == 503, "{body}");
            assert_eq!(body["last_report_at"], rfc3339(last), "{body}");
            let age_s = body["last_report_age_s"].as_f64().expect("a number");
            assert!((age_s - silent_ms as f64 / 1_000.0).abs() < 1.0, "{body}");
        }
        // Whoever breaks the silence ends it.
        service.report(&[at(last + 9_999_000)]).await;
        assert_eq!(health(&service).await.0, 200);
        service.stop().await;
        if let Some(server) = &backing.server {
            server.cli(&["FLUSHALL"]);
        }
    }
}

async fn an_empty_service_is_silent(kind: Kind) {
    let backing = Backing::new(kind);
    let service = Service::start(&backing.url, lately("14:00:00")).await;
    let (status, body) = health(&service).await;
    assert_eq!((status, &body["status"]), (503, &Value::from("fail")), "{body}");
    assert!(body["last_report_at"].is_null(), "{body}");
    // That nobody reports is no reason to take no points.
    assert_eq!(service.get("/readyz").await.status, 200);
    assert_eq!(service.get("/livez").await.status, 200);
    service.stop().await;
}

async fn late_points_alone_are_silence(kind: Kind) {
    let backing = Backing::new(kind);
    let now = lately("14:00:00");
    let service = Service::start(&backing.url, now).await;
    service.report(&[at(now - HOUR_MS - 1), at(now - 20 * HOUR_MS)]).await;
    assert_eq!(health(&service).await.0, 503);
    service.report(&[at(now - HOUR_MS)]).await;
    assert_eq!(health(&service).await.0, 200);
    service.stop().await;
}

async fn a_phone_that_is_ahead_counts_as_now(kind: Kind) {
    let backing = Backing::new(kind);
    let now = lately("14:00:00");
    let service = Service::start(&backing.url, now).await;
    service.report(&[at(now + 119_000)]).await;
    let (status, body) = health(&service).await;
    assert_eq!((status, body["last_report_age_s"].as_f64()), (200, Some(0.0)), "{body}");
    service.stop().await;
}

async fn what_was_reported_before_a_restart_counts(kind: Kind) {
    let backing = Backing::new(kind);
    let now = lately("14:00:00");
    let service = Service::start(&backing.url, now).await;
    service.report(&[at(now)]).await;
    let service = service.restart().await;
    let (status, body) = health(&service).await;
    assert_eq!(status, 200, "{body}");
    service.set_now(now + HOUR_MS + 1);
    assert_eq!(health(&service).await.0, 503);
    service.stop().await;
}

on_both_stores! {
    silence_is_told_to_the_second,
    an_empty_service_is_silent,
    late_points_alone_are_silence,
    a_phone_that_is_ahead_counts_as_now,
    what_was_reported_before_a_restart_counts,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_asked_is_not_a_silent_fleet() {
    let backing = Backing::new(Kind::Redis);
    // A clock that differs from that of Redis would be told of.
    let now = now_ms();
    let service = Service::start(&backing.url, now).await;
    service.report(&[at(now)]).await;
    eventually("all well", async || (health(&service).await.1["status"] == "pass").then_some(())).await;
    backing.server.as_ref().expect("Redis has one").stop();
    let warned = eventually("a warning", async || {
        let began = Instant::now();
        let (status, body) = health(&service).await;
        assert!(began.elapsed() < Duration::from_millis(500), "two answers within 250 ms each");
        assert_eq!(status, 200, "its own points are recent: {body}");
        (body["status"] == "warn").then_some(body)
    })
    .await;
    assert!(warned.to_string().contains("redis"), "{warned}");
    // It goes on taking points, and then nobody reports: that is said too, and reads differently.
    assert_eq!(service.get("/readyz").await.status, 200);
    assert_eq!(service.try_post("/v1/points", &[at(now + 1)]).await.expect("an answer").status, 202);
    service.set_now(now + 2 * HOUR_MS);
    let (status, silent) = health(&service).await;
    assert_eq!((status, &silent["status"]), (503, &Value::from("fail")), "{silent}");
    assert!(silent.to_string().contains("unreachable"), "{silent}");
    backing.server.as_ref().expect("Redis has one").cont();
    let asked = eventually("an answer of the store", async || {
        let body = health(&service).await.1;
        (!body.to_string().contains("unreachable")).then_some(body)
    })
    .await;
    assert_eq!(asked["status"], "fail", "the store can be asked, and still nobody reports");
    service.set_now(now);
    eventually("all well again", async || (health(&service).await.1["status"] == "pass").then_some(())).await;
    service.stop().await;
}
