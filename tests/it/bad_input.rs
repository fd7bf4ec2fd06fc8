//! Wrong and borderline requests over a real socket, and the exact answer each must get: nothing of what is refused
//! is stored or echoed, its neighbours are, and the next request on the connection is fine.

use serde_json::{Value, json};

use crate::harness::app::Service;
use crate::harness::process::Process;
use crate::harness::{Backing, Kind, on_both_stores};
use crate::oracle::{haversine_m, hour_name, hour_of, lately, parse_utc, rfc3339};

const HOUR_MS: i64 = 3_600_000;
/// No answer may hold what was sent; this stands in for it where a row has room for it.
const CANARY: &str = "zzcanaryzz";

fn now() -> i64 {
    parse_utc("2026-11-22T14:00:01.250Z")
}

async fn service() -> Service {
    Service::start("embedded", now()).await
}

fn good(driver: &str) -> Value {
    json!({"driver_id": driver, "ts": now() - 5_000, "lat": 52.0, "lon": 21.0})
}

/// A good point with some fields replaced; `null` here takes a field away.
fn with(driver: &str, fields: &Value) -> Value {
    let mut point = good(driver);
    for (name, value) in fields.as_object().expect("fields") {
        point[name] = value.clone();
    }
    point
}

/// What becomes of a point with these fields: `""` if it is taken, else its code.
fn points() -> Vec<(Value, &'static str)> {
    let n = now();
    vec![
        (json!({"ts": null}), "missing_field"),
        (json!({"lat": null}), "missing_field"),
        (json!({"lon": null}), "missing_field"),
        (json!({"speed_mps": null, "heading_deg": null, "accuracy_m": null, "tags": null}), ""),
        (json!({"lat": "52.1"}), "wrong_type"),
        (json!({"lat": CANARY}), "wrong_type"),
        (json!({"lat": true}), "wrong_type"),
        (json!({"lat": []}), "wrong_type"),
        (json!({"lon": {}}), "wrong_type"),
        (json!({"lat": 85.051_128_79}), "lat_out_of_range"),
        (json!({"lat": 90}), "lat_out_of_range"),
        (json!({"lat": -91}), "lat_out_of_range"),
        (json!({"lat": 1e308}), "lat_out_of_range"),
        (json!({"lat": 85.06}), "lat_out_of_range"),
        (json!({"lat": 121.47, "lon": 31.23}), "lat_out_of_range"),
        (json!({"lat": 85.051_128_78}), ""),
        (json!({"lat": -85.051_128_78}), ""),
        (json!({"lon": 180.000_000_1}), "lon_out_of_range"),
        (json!({"lon": -181}), "lon_out_of_range"),
        (json!({"lon": 1e308}), "lon_out_of_range"),
        (json!({"lon": 180}), ""),
        (json!({"lon": -180}), ""),
        (json!({"lat": 0, "lon": 0}), "null_island"),
        (json!({"lat": -0.0, "lon": 0.0}), "null_island"),
        (json!({"lat": 0, "lon": 0.000_000_1}), ""),
        (json!({"lat": 5e-324}), ""),
        (json!({"ts": n / 1_000}), "ts_too_old"),
        (json!({"ts": 0}), "ts_too_old"),
        (json!({"ts": -1}), "ts_too_old"),
        (json!({"ts": "1969-12-31T23:59:59Z"}), "ts_too_old"),
        (json!({"ts": n - 48 * HOUR_MS + 1_000}), ""),
        (json!({"ts": n - 48 * HOUR_MS - 1_000}), "ts_too_old"),
        (json!({"ts": n - 1_024 * 7 * 24 * HOUR_MS}), "ts_too_old"),
        (json!({"ts": n * 1_000}), "ts_in_future"),
        (json!({"ts": n * 1_000_000}), "ts_in_future"),
        (json!({"ts": "2038-01-19T03:14:08Z"}), "ts_in_future"),
        (json!({"ts": n + 119_000}), ""),
        (json!({"ts": n + 121_000}), "ts_in_future"),
        (json!({"ts": "9999-12-31T23:59:59Z"}), "ts_in_future"),
        (json!({"ts": "10000-01-01T00:00:00Z"}), "ts_invalid"),
        (json!({"ts": "2026-11-22T19:40:00.25+05:45"}), ""),
        (json!({"ts": "2026-11-22t13:59:59.999999z"}), ""),
        (json!({"ts": "2026-11-22T13:00:00-00:00"}), ""),
        (json!({"ts": "2026-11-22T24:00:00Z"}), "ts_invalid"),
        (json!({"ts": "2026-11-22T13:00:00"}), "ts_invalid"),
        (json!({"ts": "2026-02-30T13:00:00Z"}), "ts_invalid"),
        (json!({"ts": "2026-11-22T13:00:00+24:00"}), "ts_invalid"),
        (json!({"ts": "2026-11-22T13:00:60Z"}), "ts_invalid"),
        (json!({"ts": "2026-11-22 13:00:00Z"}), "ts_invalid"),
        (json!({"ts": "1700000000000"}), "ts_invalid"),
        (json!({"ts": ""}), "ts_invalid"),
        (json!({"ts": CANARY}), "ts_invalid"),
        (json!({"ts": true}), "wrong_type"),
        (json!({"ts": []}), "wrong_type"),
        (json!({"ts": 1_700_000_000_000.5}), "wrong_type"),
        (json!({"speed_mps": -5, "heading_deg": -1, "accuracy_m": -1}), ""),
        (json!({"heading_deg": 360}), ""),
        (json!({"heading_deg": 360.5}), "heading_invalid"),
        (json!({"heading_deg": 1e9}), "heading_invalid"),
        (json!({"speed_mps": 1_000}), ""),
        (json!({"speed_mps": 1_000.5}), "speed_invalid"),
        (json!({"accuracy_m": 0}), ""),
        (json!({"accuracy_m": 100_000}), ""),
        (json!({"accuracy_m": 100_001}), "accuracy_invalid"),
        (json!({"tags": vec!["x".repeat(32); 8]}), ""),
        (json!({"tags": (0..9).map(|n| n.to_string()).collect::<Vec<_>>()}), "tags_invalid"),
        (json!({"tags": ["x".repeat(33)]}), "tags_invalid"),
        (json!({"tags": [""]}), "tags_invalid"),
        (json!({"tags": ["Van"]}), "tags_invalid"),
        (json!({"tags": ["a b"]}), "tags_invalid"),
        (json!({"tags": "van"}), "wrong_type"),
        (json!({"tags": [1]}), "tags_invalid"),
        (json!({"tags": []}), ""),
        (json!({"tags": ["a", "a"]}), ""),
        (json!({"colour": CANARY, "__proto__": {}}), ""),
        // Several defects: the first in the order of the fields.
        (json!({"ts": true, "lat": 99, "lon": 999}), "wrong_type"),
        (json!({"lat": 99, "lon": 999, "tags": 1}), "lat_out_of_range"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_point_never_costs_its_neighbours() {
    let service = service().await;
    for (number, (fields, code)) in points().into_iter().enumerate() {
        let (subject, neighbour) = (format!("subject-{number}"), format!("neighbour-{number}"));
        let point = with(&subject, &fields);
        let body = json!([point, good(&neighbour)]).to_string();
        let answer = service.post("/v1/points?wait=applied", "application/json", body).await;
        assert_eq!(answer.status, 200, "{fields}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{fields}: it is echoed");
        let json = answer.json();
        let expected_code = if code.is_empty() { Value::Null } else { json!(code) };
        assert_eq!(json["errors"][0]["code"], expected_code, "{fields}: {json}");
        assert_eq!(json["accepted"], if code.is_empty() { 2 } else { 1 }, "{fields}: {json}");
        assert_eq!(service.get(&format!("/v1/drivers/{neighbour}")).await.status, 200, "{fields}");
        let stored = service.get(&format!("/v1/drivers/{subject}")).await;
        assert_eq!(stored.status, if code.is_empty() { 200 } else { 404 }, "{fields}");
        assert!(!String::from_utf8_lossy(&stored.body).contains(CANARY), "{fields}: it is stored");
        if !code.is_empty() {
            assert_eq!(json["errors"][0]["index"], 0);
            let alone = service.post("/v1/points", "application/json", json!([point]).to_string()).await;
            assert_eq!((alone.status, alone.code().as_str()), (422, "no_valid_points"), "{fields}");
            assert_eq!(alone.json()["errors"][0]["code"], code, "{fields}");
            assert_eq!(alone.header("content-type"), "application/problem+json");
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_legal_or_refused() {
    let service = service().await;
    let (long, longest) = ("x".repeat(65), "x".repeat(64));
    let refused = [
        "",
        " ",
        &long,
        "a\u{200b}b",
        "\u{202e}a",
        "１２",
        "a\u{0}b",
        "a\r\nb",
        "a\tb",
        "\u{1b}[31m",
        "{x}",
        "a}{b",
        "*",
        "?",
        "[a-z]",
        "\\",
        "../../etc/passwd",
        "a/b",
        "%00",
        "~zzcanaryzz",
        "a\r\nFLUSHALL",
        "$5",
        "'; DROP",
        "${jndi:x}",
        "<script>",
        ".",
        "..",
        "-x",
        "--help",
        ":",
    ];
    for id in refused {
        let body = json!([with(id, &json!({})), good("neighbour")]).to_string();
        let answer = service.post("/v1/points", "application/json", body).await;
        let json = answer.json();
        assert_eq!((answer.status, &json["errors"][0]["code"]), (202, &json!("driver_id_invalid")), "{id:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{id:?}");
    }
    for (id, code) in [
        (json!(1.5), "wrong_type"),
        (json!(true), "wrong_type"),
        (json!({}), "wrong_type"),
        (json!(1.0), "wrong_type"),
        (json!(-5), "driver_id_invalid"),
        (json!(null), "missing_field"),
    ] {
        let body = json!([with("x", &json!({ "driver_id": id })), good("neighbour")]).to_string();
        let answer = service.post("/v1/points", "application/json", body).await.json();
        assert_eq!(answer["errors"][0]["code"], code, "{id}");
    }
    for id in ["a:b", "NX", "CH", "inf", "CON", "_x", &longest, "0123", "123", "A", "a"] {
        let body = json!([good(id)]).to_string();
        assert_eq!(service.post("/v1/points?wait=applied", "application/json", body).await.status, 200, "{id}");
        let found = service.get(&format!("/v1/drivers/{id}")).await;
        assert_eq!((found.status, &found.json()["driver_id"]), (200, &json!(id)));
    }
    // A number is its decimal string.
    let number = with("x", &json!({"driver_id": 123, "ts": now()}));
    service.post("/v1/points?wait=applied", "application/json", json!([number]).to_string()).await;
    assert_eq!(service.get("/v1/drivers/123").await.json()["ts"], rfc3339(now()));
    assert_eq!(service.get("/v1/drivers/a%20b").await.code(), "driver_id_invalid");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_refused_whole() {
    let service = service().await;
    let (json, nd) = ("application/json", "application/x-ndjson");
    let good = good("refused").to_string();
    let text = |body: &str| body.replace("POINT", &good).into_bytes();
    let mut rows: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("text/plain", text("[POINT]"), 415, "unsupported_media_type"),
        ("application/xml", text("<a/>"), 415, "unsupported_media_type"),
        ("application/json; charset=utf-16", text("[POINT]"), 415, "unsupported_media_type"),
        (json, vec![], 400, "malformed_json"),
        (json, text("[]"), 422, "empty_batch"),
        (json, text(r#"{"points":[]}"#), 422, "empty_batch"),
        (nd, vec![], 422, "empty_batch"),
        (nd, text("\n\r\n\n"), 422, "empty_batch"),
        (nd, text("POINT\nzzcanaryzz\nPOINT"), 400, "malformed_json"),
        (json, text("[POINT] x"), 400, "malformed_json"),
        (json, text("[POINT][POINT]"), 400, "malformed_json"),
        (json, text("[POINT,]"), 400, "malformed_json"),
        (json, text("[POINT] // x"), 400, "malformed_json"),
        (json, text("['zzcanaryzz']"), 400, "malformed_json"),
        (json, text("\u{feff}[POINT]"), 400, "malformed_json"),
        (json, b"[{\"driver_id\":\"\xff\xfe\"}]".to_vec(), 400, "malformed_json"),
        (json, text(r#"[{"driver_id":"\ud800"}]"#), 400, "malformed_json"),
        (json, text("[{\"driver_id\":\"a\nb\"}]"), 400, "malformed_json"),
        (json, "[".repeat(129).into_bytes(), 400, "malformed_json"),
        (json, "[".repeat(100_000).into_bytes(), 400, "malformed_json"),
        (json, text(r#"[{"driver_id":"refused","ts":1,"lat":1,"lat":2,"lon":3}]"#), 400, "malformed_json"),
        (json, text(r#"{"points":[POINT],"points":[POINT]}"#), 400, "malformed_json"),
        (json, text("[POINT,10,000x]"), 400, "malformed_json"),
    ];
    for bare in [r#""x""#, "7", "null", "{}", r#"{"points":null}"#, r#"{"points":{}}"#, "POINT"] {
        rows.push((json, text(bare), 400, "malformed_json"));
    }
    for literal in ["NaN", "Infinity", "-Infinity", "01", "+1", ".5", "0x10", "1e400", "1E+999999999"] {
        let body = format!(r#"[{{"driver_id":"refused","ts":{},"lat":{literal},"lon":1}}]"#, now());
        rows.push((json, body.into_bytes(), 400, "malformed_json"));
    }
    rows.push((json, format!("[{}]", vec!["1"; 10_001].join(",")).into_bytes(), 413, "batch_too_large"));
    let mut over = text("[POINT]");
    over.resize((4 << 20) + 1, b' ');
    rows.push((json, over, 413, "body_too_large"));
    for (media_type, body, status, code) in rows {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = service.post("/v1/points", media_type, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{media_type}: {shown}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{shown}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{shown}");
    }
    // A valid batch, cut at every byte.
    let whole = format!("[{good}]");
    for end in 0..whole.len() {
        let answer = service.post("/v1/points", json, whole.as_bytes()[..end].to_vec()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed_json"), "cut at {end}");
    }
    let last = service.post("/v1/points?wait=applied", json, json!([self::good("last")]).to_string()).await;
    assert_eq!(last.status, 200, "the service is as good as before");
    assert_eq!(service.get("/v1/drivers/refused").await.status, 404, "nothing of it was stored");
    assert_eq!(service.get("/v1/active/count").await.json()["count"], 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_answered_or_refused_by_code() {
    let service = service().await;
    service.post("/v1/points?wait=applied", "application/json", json!([good("cab")]).to_string()).await;
    let near = "/v1/nearby?lat=52&lon=21";
    let mut rows = vec![
        ("/v1/nearby?lon=1".to_owned(), 400, "missing_parameter"),
        ("/v1/nearby?lat=1&lat=2&lon=1".to_owned(), 400, "invalid_parameter"),
        (format!("{near}&max_age_s=60&hour=2026112213"), 400, "invalid_parameter"),
        (format!("{near}&radus=5"), 400, "unknown_parameter"),
        (format!("{near}&zzcanaryzz=1"), 400, "unknown_parameter"),
        ("/v1/hours/2026112022/drivers".to_owned(), 200, ""),
        ("/v1/hours/2026112012/drivers".to_owned(), 404, "out_of_retention"),
        (format!("/v1/hours/{}/drivers", hour_name(hour_of(now()) + 5)), 200, ""),
        ("/v1/drivers/cab/track?from=2&to=1".to_owned(), 400, "invalid_parameter"),
        ("/v1/drivers/cab/track?from=zzcanaryzz".to_owned(), 400, "invalid_parameter"),
        ("/v1/drivers/cab/track?from=1&to=1".to_owned(), 200, ""),
        ("/v1/drivers/cab/track?from=2016-01-01T00:00:00Z".to_owned(), 200, ""),
        ("/v1/active?cursor=zzcanaryzz".to_owned(), 400, "invalid_cursor"),
        ("/v1/active?tags=A".to_owned(), 400, "invalid_parameter"),
        ("/v1/active?tags=a,,b".to_owned(), 400, "invalid_parameter"),
        ("/v1/active?tags=nobody-has-it".to_owned(), 200, ""),
        ("/v1/active?require=complete".to_owned(), 200, ""),
        ("/v1/active?require=x".to_owned(), 400, "invalid_parameter"),
        ("/v1/nothing".to_owned(), 404, "not_found"),
        ("/V1/active".to_owned(), 404, "not_found"),
        ("/v1/active/".to_owned(), 404, "not_found"),
        ("/v1/points".to_owned(), 405, "method_not_allowed"),
    ];
    let refused = |rows: &mut Vec<_>, path: &str, values: &[&str]| {
        rows.extend(values.iter().map(|value| (format!("{path}{value}"), 400, "invalid_parameter")));
    };
    let no_latitude = ["NaN", "inf", "1e400", "0x10", "1,5", "%201", "%EF%BC%91", "85.06", ""];
    refused(&mut rows, "/v1/nearby?lon=1&lat=", &no_latitude);
    refused(&mut rows, &format!("{near}&radius_m="), &["0", "-1", "NaN", "1e308", "100001"]);
    refused(&mut rows, &format!("{near}&limit="), &["0", "-1", "1001", "1000000000", "9223372036854775808", "10.5"]);
    refused(&mut rows, "/v1/active?limit=", &["0", "1001", "x"]);
    refused(&mut rows, "/v1/active?max_age_s=", &["0", "-1", "x", "172801"]);
    refused(&mut rows, "/v1/density?resolution=", &["-1", "16", "7.5"]);
    for hour in ["2026112224", "2026022901", "20261122", "zzcanaryzz"] {
        rows.push((format!("/v1/hours/{hour}/drivers"), 400, "invalid_parameter"));
    }
    for (path, status, code) in rows {
        let answer = service.get(&path).await;
        assert_eq!(answer.status, status, "{path}: {}", String::from_utf8_lossy(&answer.body));
        if status == 200 {
            assert_eq!(answer.json()["degraded"], false, "{path}");
        } else {
            assert_eq!(answer.code(), code, "{path}");
            assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
            assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{path}: it is echoed");
        }
    }
    let hint = service.get(&format!("{near}&radus=5")).await.json();
    assert!(hint["detail"].as_str().is_some_and(|detail| detail.contains("radius_m")), "{hint}");
    let html = service.get_as("text/html", "/v1/active").await;
    assert_eq!((html.status, html.code().as_str()), (406, "not_acceptable"));
    let wait = service.post("/v1/points?wait=x", "application/json", json!([good("x")]).to_string()).await;
    assert_eq!((wait.status, wait.code().as_str()), (400, "invalid_parameter"));
    service.stop().await;
}

/// Posts a batch and waits for it; gives the receipt.
async fn take(service: &Service, points: &[Value]) -> Value {
    let answer = service.post("/v1/points?wait=applied", "application/json", json!(points).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn track_of(service: &Service, driver: &str) -> Vec<Value> {
    let track = service.get(&format!("/v1/drivers/{driver}/track?from=0")).await.json();
    track["points"].as_array().unwrap_or_else(|| panic!("{track}")).clone()
}

async fn p15_p16_a_point_belongs_to_the_hour_of_its_ts_to_the_last_digit(kind: Kind) {
    let backing = Backing::new(kind);
    let noon = lately("12:00:00");
    let service = Service::start(&backing.url, noon).await;
    let today = &rfc3339(noon)[..10];
    let at = |driver: &str, ts: &str| with(driver, &json!({ "ts": format!("{today}T{ts}") }));
    let mut points = vec![
        at("sharp", "11:00:00.000Z"),
        at("just-before", "10:59:59.999Z"),
        at("not-rounded", "10:59:59.9999Z"),
        at("abroad", "16:44:59.999999999999+05:45"),
    ];
    let digits = "123456789012";
    points.extend((1..=12).map(|count| at(&format!("f{count}"), &format!("11:30:00.{}Z", &digits[..count]))));
    assert_eq!(take(&service, &points).await["accepted"], 16);
    for (driver, hours_ago, ts) in [
        ("sharp", 1, "11:00:00.000"),
        ("just-before", 2, "10:59:59.999"),
        ("not-rounded", 2, "10:59:59.999"),
        ("abroad", 2, "10:59:59.999"),
        ("f1", 1, "11:30:00.100"),
        ("f2", 1, "11:30:00.120"),
        ("f12", 1, "11:30:00.123"),
    ] {
        let newest = service.get(&format!("/v1/drivers/{driver}")).await.json();
        assert_eq!(newest["ts"], format!("{today}T{ts}Z"), "{driver}");
        let hour = hour_name(hour_of(noon) - hours_ago);
        let there = service.get(&format!("/v1/hours/{hour}/drivers")).await.json();
        assert!(there["drivers"].as_array().is_some_and(|ids| ids.contains(&json!(driver))), "{driver}: {there}");
    }
    service.stop().await;
}

async fn p4_p25_p30_wherever_it_is_it_comes_back_within_a_metre(kind: Kind) {
    let backing = Backing::new(kind);
    let now = lately("14:00:01.250");
    let service = Service::start(&backing.url, now).await;
    let point = |driver: &str, ts: i64, lat: &str, lon: &str| {
        format!(r#"{{"driver_id":"{driver}","ts":{ts},"lat":{lat},"lon":{lon}}}"#)
    };
    let places = [
        ("85.05112878", "12", 1),
        ("-85.05112878", "12", 1),
        ("10", "180", 1),
        // One place.
        ("10", "-180", 2),
        ("5e-324", "5", 1),
        ("-0.0", "1", 1),
        ("52.123456789012345678901234567890", "21.987654321098765432109876543210", 1),
        ("0.000000049999999999", "0.0000002", 1),
    ];
    for (number, (lat, lon, there)) in places.into_iter().enumerate() {
        // A second before it was 1,000 km away, and more.
        let driver = format!("far-{number}");
        let body = format!("[{},{}]", point(&driver, now - 1_000, "40", "100"), point(&driver, now, lat, lon));
        let answer = service.post("/v1/points?wait=applied", "application/json", body).await;
        assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(2)), "{lat} {lon}");
        let near = service.get(&format!("/v1/nearby?lat={lat}&lon={lon}&radius_m=1")).await.json();
        let rows = near["drivers"].as_array().unwrap_or_else(|| panic!("{near}"));
        assert_eq!(rows.len(), there, "{lat} {lon}: {near}");
        let sent = (lat.parse().expect("a number"), lon.parse().expect("a number"));
        for row in rows {
            let place = (row["lat"].as_f64().expect("a lat"), row["lon"].as_f64().expect("a lon"));
            assert!(haversine_m(place, sent) <= 1.0, "{lat} {lon}: {near}");
        }
    }
    service.stop().await;
}

async fn p26_p27_p28_repeats_disorder_and_one_bad_among_many(kind: Kind) {
    let (backing, now) = (Backing::new(kind), lately("14:00:01.250"));
    let good = |driver: &str| with(driver, &json!({ "ts": now - 5_000 }));
    let service = Service::start(&backing.url, now).await;
    let same = vec![good("same"); 1_000];
    for _ in 0..2 {
        let receipt = take(&service, &same).await;
        assert_eq!((&receipt["accepted"], &receipt["rejected"]), (&json!(1_000), &json!(0)));
    }
    assert_eq!(track_of(&service, "same").await.len(), 1);

    let backwards: Vec<_> =
        (0..100).map(|n| with("back", &json!({"ts": now - n * 1_000, "lat": 50.0 + n as f64 / 100.0}))).collect();
    take(&service, &backwards).await;
    for point in &backwards[1..] {
        take(&service, std::slice::from_ref(point)).await;
    }
    let newest = service.get("/v1/drivers/back").await.json();
    assert_eq!((&newest["ts"], &newest["lat"]), (&json!(rfc3339(now)), &json!(50.0)));
    let track = track_of(&service, "back").await;
    assert!(track.is_sorted_by_key(|point| point["ts"].as_str().map(str::to_owned)) && track.len() == 100);

    for at in [0, 500, 999] {
        let mut points: Vec<_> = (0..1_000).map(|n| good(&format!("of-{at}-{n}"))).collect();
        points[at]["lat"] = json!(99);
        let receipt = take(&service, &points).await;
        assert_eq!((&receipt["accepted"], &receipt["rejected"]), (&json!(999), &json!(1)), "at {at}");
        let expected = ("lat_out_of_range", at as u64);
        let error = &receipt["errors"][0];
        assert_eq!((error["code"].as_str(), error["index"].as_u64()), (Some(expected.0), Some(expected.1)));
        assert_eq!(service.get(&format!("/v1/drivers/of-{at}-{at}")).await.status, 404);
    }
    assert_eq!(service.get("/v1/active/count").await.json()["count"], 2 + 3 * 999);
    service.stop().await;
}

on_both_stores! {
    p15_p16_a_point_belongs_to_the_hour_of_its_ts_to_the_last_digit,
    p4_p25_p30_wherever_it_is_it_comes_back_within_a_metre,
    p26_p27_p28_repeats_disorder_and_one_bad_among_many,
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_of_two_at_one_moment_the_same_one_wins_on_every_instance_and_after_a_rebuild() {
    let (backing, now) = (Backing::new(Kind::Redis), lately("14:00:01.250"));
    let alone = Service::start("embedded", now).await;
    let shared = [Service::start(&backing.url, now).await, Service::start(&backing.url, now).await];
    let (south, north) = (json!({"ts": now, "lat": 52.0, "lon": 21.5}), json!({"ts": now, "lat": 52.1, "lon": 21.0}));
    for (driver, first, second) in [("up", &south, &north), ("down", &north, &south)] {
        let (first, second) = ([with(driver, first)], [with(driver, second)]);
        take(&alone, &first).await;
        take(&alone, &second).await;
        take(&shared[0], &first).await;
        take(&shared[1], &second).await;
    }
    let check = async |service: &Service, what: &str| {
        for driver in ["up", "down"] {
            let newest = service.get(&format!("/v1/drivers/{driver}")).await.json();
            assert_eq!((&newest["lat"], &newest["lon"]), (&json!(52.1), &json!(21.0)), "{what}, {driver}");
            let track = track_of(service, driver).await;
            assert_eq!(track.len(), 1, "{what}, {driver}");
            assert_eq!(track[0]["lat"], 52.1, "{what}, {driver}");
        }
    };
    check(&alone, "embedded").await;
    for service in &shared {
        check(service, "shared").await;
    }
    let alone = alone.restart().await;
    alone.caught_up().await;
    check(&alone, "embedded, again").await;
    for service in shared {
        service.stop().await;
    }
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_d10_d11_ids_that_are_too_long_or_no_whole_numbers() {
    let service = service().await;
    for (id, code) in [
        (format!("\"{}\"", "x".repeat(1 << 20)), "driver_id_invalid"),
        ("1.0".into(), "wrong_type"),
        ("1e3".into(), "wrong_type"),
        ("18446744073709551616".into(), "driver_id_invalid"),
        ("-18446744073709551616".into(), "driver_id_invalid"),
        ("123456789012345678901234567890".into(), "driver_id_invalid"),
    ] {
        let point = format!(r#"{{"driver_id":{id},"ts":{},"lat":52,"lon":21}}"#, now());
        let body = format!("[{point},{}]", good("neighbour"));
        let answer = service.post("/v1/points", "application/json", body).await;
        let json = answer.json();
        assert_eq!((answer.status, json["errors"][0]["code"].as_str()), (202, Some(code)), "{id:.40}");
        assert!(answer.body.len() < 1_000, "it is not echoed");
    }
    let largest = format!(r#"[{{"driver_id":18446744073709551615,"ts":{},"lat":52,"lon":21}}]"#, now());
    assert_eq!(service.post("/v1/points?wait=applied", "application/json", largest).await.status, 200);
    assert_eq!(service.get("/v1/drivers/18446744073709551615").await.status, 200);
    assert_eq!(service.get("/v1/drivers/18446744073709551616").await.status, 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_d6_no_id_becomes_a_line_of_the_log_or_a_command() {
    let backing = Backing::new(Kind::Redis);
    let server = backing.server.as_ref().expect("Redis has one");
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve_with(dir.path(), &backing.url, |command| {
        command.env("RUST_LOG", "geotrail=trace");
    })
    .await;
    let monitor = server.monitor();
    let ids = [
        "a\0b",
        "a\r\nFLUSHALL\r\n",
        "a\tb",
        "\u{1b}[31mzzcanaryzz",
        "\u{8}",
        "$5",
        "'; DROP",
        "${jndi:x}",
        "<script>",
    ];
    let ts = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("some day");
    for id in ids {
        let body = json!([with(id, &json!({ "ts": ts })), with("neighbour", &json!({ "ts": ts }))]).to_string();
        let answer = service.post("/v1/points?wait=applied", "application/json", body).await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["code"]),
            (200, &json!("driver_id_invalid")),
            "{id:?}"
        );
    }
    for line in monitor.finish(server) {
        for trace in ["FLUSHALL", "zzcanaryzz", "DROP", "jndi", "script>"] {
            assert!(!line.contains(trace), "{line}");
        }
    }
    assert!(service.terminate().await.success());
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    let posts = log.lines().filter(|line| line.contains("answered") && line.contains("/v1/points")).count();
    assert_eq!(posts, ids.len(), "one line for each request");
    let is_ours = |line: &str| line.get(..10).is_some_and(|date| line.starts_with("20") && date.contains('-'));
    assert!(log.lines().all(is_ours), "no line begins but where we begin one: {log}");
    assert!(!log.contains("zzcanaryzz") && !log.contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn q12_a_cursor_is_of_its_own_list_and_unchanged() {
    let service = service().await;
    let mut points: Vec<_> = (0..10).map(|n| good(&format!("cab-{n}"))).collect();
    points.extend((0..5).map(|n| with("cab-0", &json!({"ts": now() - 10_000 - n}))));
    take(&service, &points).await;
    let lists = [
        "/v1/active?max_age_s=3600",
        "/v1/active?max_age_s=3601",
        "/v1/active?tags=",
        "/v1/hours/2026112213/drivers?",
        "/v1/hours/2026112213/positions?",
        "/v1/drivers/cab-0/track?from=0",
        "/v1/drivers/cab-0/track?from=1",
    ];
    let mut cursors = Vec::new();
    for list in lists {
        let page = service.get(&format!("{list}&limit=2")).await.json();
        let cursor = page["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {page}")).to_owned();
        assert_eq!(service.get(&format!("{list}&cursor={cursor}")).await.status, 200, "{list}");
        cursors.push(cursor);
    }
    let refused = async |list: &str, cursor: &str| {
        let answer = service.get(&format!("{list}&cursor={cursor}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_cursor"), "{list}: {cursor}");
    };
    for (at, list) in lists.iter().enumerate() {
        for (other, cursor) in cursors.iter().enumerate() {
            // No age and no tags are what is meant where none are given.
            let is_same = other == at
                || (lists[at].starts_with("/v1/active") && lists[other].starts_with("/v1/active"))
                    && at != 1
                    && other != 1;
            if !is_same {
                refused(list, cursor).await;
            }
        }
        let cursor = &cursors[at];
        for cut in 1..cursor.len() {
            refused(list, &cursor[..cut]).await;
        }
        for place in 0..cursor.len() {
            for letter in ["A", "z", "_", "0"] {
                if cursor[place..=place] != *letter {
                    refused(list, &[&cursor[..place], letter, &cursor[place + 1..]].concat()).await;
                }
            }
        }
        refused(list, &format!("{cursor}A")).await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q13_q21_nobody_nothing_and_nowhere_are_told_apart() {
    let service = service().await;
    take(&service, &[good("known")]).await;
    for path in ["/v1/drivers/nobody", "/v1/drivers/nobody/track", "/v1/drivers/nobody/track?from=1&to=2"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }
    let nothing = service.get(&format!("/v1/drivers/known/track?from={}", now())).await;
    assert_eq!((nothing.status, &nothing.json()["points"]), (200, &json!([])));
    let nowhere = service.get("/v1/nearby?lat=-30&lon=100").await;
    let expected = json!({"drivers": [], "truncated": false, "degraded": false});
    assert_eq!((nowhere.status, nowhere.json()), (200, expected));
    service.stop().await;
}
