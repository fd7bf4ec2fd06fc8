//! What an answer always has, and what no answer and no log line ever has: anything that was sent.

use std::fs;

use serde_json::json;

use crate::harness::app::Service;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::{Backing, Kind, on_both_stores};
use crate::oracle::{Report, Seen, hour_name, hour_of, lately};

/// Stands for whatever must not come back.
const TOKEN: &str = "q7zcanaryx9k2mvw";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sent_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve_logging(dir.path(), "embedded", "trace").await;
    let gets = [
        "/v1/nearby?lat=T&lon=1",
        "/v1/nearby?lat=1&lon=T",
        "/v1/nearby?lat=1&lon=1&radius_m=T",
        "/v1/nearby?lat=1&lon=1&limit=T",
        "/v1/nearby?lat=1&lon=1&hour=T",
        "/v1/nearby?lat=1&lon=1&tags=T",
        "/v1/nearby?lat=1&lon=1&require=T",
        "/v1/nearby?lat=1&lon=1&T=1",
        "/v1/active?max_age_s=T",
        "/v1/active?cursor=T",
        "/v1/active?tags=T,!",
        "/v1/active?tags=T",
        "/v1/active/count?max_age_s=T",
        "/v1/active/count?T",
        "/v1/drivers/T",
        "/v1/drivers/T%20",
        "/v1/drivers/T/track",
        "/v1/drivers/x/track?from=T",
        "/v1/drivers/x/track?to=T",
        "/v1/drivers/x/track?cursor=T",
        "/v1/hours/T/drivers",
        "/v1/hours/T/positions",
        "/v1/hours/2026112212/drivers?cursor=T",
        "/v1/density?resolution=T",
        "/v1/density?max_age_s=T",
        "/health?T=1",
        "/livez?T=1",
        "/readyz?T=1",
        "/metrics?T=1",
        "/openapi.json?T=1",
        "/docs?T=1",
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/T",
        "/v1/T",
    ];
    let mut answers = Vec::new();
    for path in gets {
        let request = service.request("GET", &path.replace('T', TOKEN)).header("x-request-id", TOKEN);
        let request = request.header("authorization", format!("Bearer {TOKEN}")).header("cookie", TOKEN);
        let request = request.header("user-agent", TOKEN).header("accept-language", TOKEN);
        answers.push((path, service.send(request).await.expect("an answer")));
    }
    for accept in [TOKEN, "application/geo+json", "application/x-ndjson"] {
        answers.push(("/v1/active", service.get_as(accept, "/v1/active").await));
    }
    for method in [TOKEN, "PUT", "TRACE"] {
        let answer = service.send(service.request(method, "/v1/points")).await.expect("an answer");
        answers.push(("/v1/points", answer));
    }
    let posts = [
        ("/v1/points", "application/json", format!("[\"{TOKEN}\"")),
        ("/v1/points", "application/json", TOKEN.to_owned()),
        ("/v1/points", TOKEN, "[]".to_owned()),
        ("/v1/points?wait=q7zcanaryx9k2mvw", "application/json", "[]".to_owned()),
    ];
    for (path, media_type, body) in posts {
        answers.push(("/v1/points", service.post(path, media_type, body).await));
    }
    for field in ["driver_id", "ts", "lat", "lon", "speed_mps", "heading_deg", "accuracy_m", "tags", "other"] {
        for value in [json!(TOKEN), json!([format!("{TOKEN}!")]), json!({ TOKEN: TOKEN })] {
            let mut point = json!({"driver_id": "x", "ts": "2020-01-01T00:00:00Z", "lat": 1, "lon": 1});
            point[field] = value;
            let answer = service.post("/v1/points", "application/json", json!([point]).to_string()).await;
            assert_eq!(answer.status, 422, "{field}");
            answers.push(("/v1/points", answer));
        }
    }
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let good = json!([{"driver_id": TOKEN, "ts": now, "lat": 52.123_456_7, "lon": 21.765_432_1, "tags": [TOKEN]}]);
    answers.push(("/v1/points", service.post("/v1/points", "application/json", good.to_string()).await));

    for (path, answer) in &answers {
        let media_type = answer.header("content-type");
        let expected = match (answer.status, *path) {
            (200 | 503, "/health") => "application/health+json",
            (200, "/metrics") => "text/plain; version=0.0.4",
            (200, "/v1/active") => media_type,
            (200..=299, _) => "application/json",
            _ => "application/problem+json",
        };
        assert_eq!(media_type, expected, "{path}: {}", answer.status);
        assert!(!media_type.is_empty(), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        let heads: Vec<_> = answer.headers.values().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        assert!(!heads.concat().contains(TOKEN), "{path}: {heads:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(TOKEN), "{path}: it is echoed");
    }
    assert!(service.terminate().await.success());
    let log = fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("answered"), "everything is logged");
    for secret in [TOKEN, "52.1234567", "21.7654321"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "it is in the log");
    }
}

/// The same place in the notations in which it could be logged: as sent, as it is kept, as Redis keeps it.
fn spellings(place: &str) -> [String; 2] {
    [place.to_owned(), place.replace('.', "")]
}

async fn no_log_tells_who_or_where(kind: Kind) {
    let (lat, lon) = ("52.1234567", "21.7654321");
    let (asked_lat, asked_lon) = ("52.1299993", "21.7699997");
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve_logging(dir.path(), &backing.url, "trace").await;
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let hour = hour_name(hour_of(now));
    let post = async |ts: i64, wait: &str| {
        let body = format!(
            r#"[{{"driver_id":"{TOKEN}","ts":{ts},"lat":{lat},"lon":{lon},"tags":["{TOKEN}"],"speed_mps":1.2}}]"#
        );
        service.post(&format!("/v1/points{wait}"), "application/json", body).await
    };
    assert_eq!(post(now, "?wait=applied").await.status, 200);
    let near = format!("/v1/nearby?lat={asked_lat}&lon={asked_lon}");
    let questions = [
        near.clone(),
        format!("{near}&tags={TOKEN}"),
        format!("{near}&hour={hour}"),
        format!("/v1/active?tags={TOKEN}"),
        "/v1/active?limit=1".into(),
        "/v1/active/count".into(),
        format!("/v1/drivers/{TOKEN}"),
        format!("/v1/drivers/{TOKEN}/track"),
        format!("/v1/hours/{hour}/drivers"),
        format!("/v1/hours/{hour}/positions"),
        "/v1/density".into(),
        "/health".into(),
        "/metrics".into(),
    ];
    for question in &questions {
        assert_eq!(service.get(question).await.status, 200, "{question}");
    }
    let streamed = service.get_as("application/x-ndjson", "/v1/active").await;
    assert!(String::from_utf8_lossy(&streamed.body).contains(TOKEN));
    let mut secrets = vec![TOKEN.to_owned()];
    secrets.extend([lat, lon, asked_lat, asked_lon].iter().flat_map(|place| spellings(place)));
    if let Some(server) = &backing.server {
        let positions = server.keys().into_iter().find(|key| key.ends_with(":positions")).expect("it was applied");
        let score = server.cli(&["ZSCORE", &positions, TOKEN]);
        assert!(score.trim().len() > 10, "{score}");
        secrets.push(score.trim().to_owned());
        // Redis repeats arguments in its errors: of a read, and of a write.
        let track = server.keys().into_iter().find(|key| key.contains(":track:")).expect("it was applied");
        server.cli(&["UNLINK", &track]);
        server.cli(&["XADD", &track, "*", TOKEN, TOKEN]);
        assert_eq!(service.get(&format!("/v1/drivers/{TOKEN}/track")).await.status, 503);
        assert_eq!(post(now + 1, "").await.status, 202);
        crate::harness::eventually("a point that was set aside", async || {
            fs::read_to_string(dir.path().join("log")).ok()?.contains("dead letters").then_some(())
        })
        .await;
        server.stop();
        for question in &questions[..9] {
            crate::harness::eventually("memory is not relied on any more", async || {
                (service.get(question).await.status == 503).then_some(())
            })
            .await;
        }
        server.cont();
    }
    // What comes back from the journal is no more anybody's business than what comes in.
    service.kill().await;
    let service = Process::serve_logging(dir.path(), &backing.url, "trace").await;
    crate::harness::eventually("an answer", async || {
        (service.get("/v1/active/count").await.status == 200).then_some(())
    })
    .await;
    assert!(service.terminate().await.success());
    let log = fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("answered") && log.contains("applying the journal"), "everything is logged");
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "it is in the log");
    }
}

on_both_stores! { no_log_tells_who_or_where }

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_repeats_in_its_errors_goes_no_further() {
    // To a command that it does not have, Redis answers with the arguments.
    let server = RedisServer::start_with(&["--rename-command", "GETRANGE", ""]);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve_logging(dir.path(), &server.url(), "trace").await;
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let seen = Seen { ts: now, lat: 52.0, lon: 21.0, ..Seen::default() };
    service.report(&[Report { driver: TOKEN.into(), seen }]).await;
    let key = format!("geotrail:{{{}}}:track:{TOKEN}", hour_name(hour_of(now)));
    assert!(server.cli(&["GETRANGE", &key, "0", "9"]).contains(TOKEN), "else this shows nothing");
    let answer = service.get(&format!("/v1/drivers/{TOKEN}/track")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "index_unavailable"));
    assert!(!String::from_utf8_lossy(&answer.body).contains(TOKEN), "it is echoed");
    assert!(service.terminate().await.success());
    let log = fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("a query could not be answered"), "the failure is logged");
    assert_eq!(log.lines().find(|line| line.contains(TOKEN)), None, "it is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_finished_is_broken_off() {
    const DRIVERS: usize = 60_000;
    let backing = Backing::new(Kind::Redis);
    let now = lately("14:00:00");
    let service = Service::start(&backing.url, now).await;
    let seen = Seen { ts: now, lat: 52.0, lon: 21.0, ..Seen::default() };
    let fleet: Vec<_> =
        (0..DRIVERS).map(|driver| Report { driver: format!("cab-{driver}"), seen: seen.clone() }).collect();
    service.report(&fleet).await;

    // More than what is in memory.
    let ask = || service.request("GET", "/v1/active?max_age_s=86400").header("accept", "application/x-ndjson").send();
    let whole = ask().await.expect("an answer").bytes().await.expect("a whole body");
    assert_eq!(whole.split(|byte| *byte == b'\n').count(), DRIVERS + 1, "each line ends, the last one too");

    let mut broken = ask().await.expect("an answer");
    assert_eq!(broken.status().as_u16(), 200);
    let first = broken.chunk().await.expect("it begins").expect("there is something");
    assert!(!first.is_empty());
    backing.server.as_ref().expect("Redis has one").stop();
    let end = loop {
        match broken.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break "as if whole",
            Err(_) => break "broken off",
        }
    };
    assert_eq!(end, "broken off");
    backing.server.as_ref().expect("Redis has one").cont();
    service.stop().await;
}
