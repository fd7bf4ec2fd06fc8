//! A client of the service that knows only the contract.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::eventually;
use crate::oracle::{Report, Seen, parse_utc};

/// The service at an address.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    base: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// One DRIVER of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Driver {
    pub(crate) id: String,
    pub(crate) seen: Seen,
    pub(crate) distance_m: Option<f64>,
    pub(crate) age_s: Option<f64>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The stable code of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Of a page of a list: the drivers and the cursor of the next page.
    pub(crate) fn page(&self) -> (Vec<Driver>, Option<String>) {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let json = self.json();
        let rows = json["drivers"].as_array().unwrap_or_else(|| panic!("no drivers: {json}"));
        (rows.iter().map(Driver::read).collect(), json["next_cursor"].as_str().map(str::to_owned))
    }

    /// The values of an NDJSON answer.
    pub(crate) fn lines(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("a line is JSON")).collect()
    }
}

impl Driver {
    /// From a DRIVER, or from a bare id.
    pub(crate) fn read(json: &Value) -> Self {
        if let Some(id) = json.as_str() {
            return Self { id: id.to_owned(), seen: Seen::default(), distance_m: None, age_s: None };
        }
        let id = json["driver_id"].as_str().unwrap_or_else(|| panic!("no driver_id: {json}")).to_owned();
        let (distance_m, age_s) = (json["distance_m"].as_f64(), json["age_s"].as_f64());
        Self { id, seen: read_seen(json), distance_m, age_s }
    }
}

/// From a DRIVER or a POINT of an answer.
pub(crate) fn read_seen(json: &Value) -> Seen {
    let number = |name: &str| json[name].as_f64();
    let tags = json["tags"].as_array().into_iter().flatten();
    Seen {
        ts: parse_utc(json["ts"].as_str().unwrap_or_else(|| panic!("no ts: {json}"))),
        lat: number("lat").expect("a lat"),
        lon: number("lon").expect("a lon"),
        speed: number("speed_mps"),
        heading: number("heading_deg"),
        accuracy: number("accuracy_m"),
        tags: tags.map(|tag| tag.as_str().expect("a string").to_owned()).collect(),
    }
}

/// A report as a POINT.
pub(crate) fn point_json(report: &Report) -> Value {
    let seen = &report.seen;
    let mut point = Map::from_iter([
        ("driver_id".to_owned(), json!(report.driver)),
        ("ts".to_owned(), json!(seen.ts)),
        ("lat".to_owned(), json!(seen.lat)),
        ("lon".to_owned(), json!(seen.lon)),
    ]);
    for (name, value) in [("speed_mps", seen.speed), ("heading_deg", seen.heading), ("accuracy_m", seen.accuracy)] {
        if let Some(value) = value {
            point.insert(name.to_owned(), json!(value));
        }
    }
    if !seen.tags.is_empty() {
        point.insert("tags".to_owned(), json!(seen.tags));
    }
    Value::Object(point)
}

impl Http {
    /// `base` is `http://HOST:PORT`.
    pub(crate) fn new(base: impl Into<String>) -> Self {
        static TLS: OnceLock<()> = OnceLock::new();
        // Another test may have been first; whoever it was installed the same one.
        TLS.get_or_init(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_mins(1))
            .build()
            .expect("a client needs nothing from outside");
        Self { client, base: base.into() }
    }

    /// The same service, for a client that trusts these certificates alone.
    pub(crate) fn trusting(&self, pem: &std::path::Path) -> Self {
        let pem = std::fs::read(pem).expect("a file");
        let trusted = reqwest::Certificate::from_pem_bundle(&pem).expect("certificates");
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).tls_certs_only(trusted);
        Self { client: client.build().expect("a client needs nothing from outside"), base: self.base.clone() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// `None` if there was no answer.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.ok()?.to_vec();
        Some(Answer { status, headers, body })
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await.unwrap_or_else(|| panic!("no answer to {path}"))
    }

    pub(crate) async fn get_as(&self, accept: &str, path: &str) -> Answer {
        let request = self.request("GET", path).header("accept", accept);
        self.send(request).await.unwrap_or_else(|| panic!("no answer to {path}"))
    }

    pub(crate) async fn post(&self, path: &str, media_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = self.request("POST", path).header("content-type", media_type).body(body.into());
        self.send(request).await.unwrap_or_else(|| panic!("no answer to {path}"))
    }

    /// Posts reports; answers whatever comes.
    pub(crate) async fn try_post(&self, path: &str, reports: &[Report]) -> Option<Answer> {
        let body = Value::Array(reports.iter().map(point_json).collect()).to_string();
        self.send(self.request("POST", path).header("content-type", "application/json").body(body)).await
    }

    /// Posts reports that are all fine, and waits until the store has them.
    pub(crate) async fn report(&self, reports: &[Report]) {
        for batch in reports.chunks(10_000) {
            let answer = self.try_post("/v1/points?wait=applied", batch).await.expect("an answer");
            assert!(matches!(answer.status, 200 | 202), "{answer:?}");
            assert_eq!(answer.json()["accepted"], batch.len(), "{answer:?}");
            if answer.status == 202 {
                self.caught_up().await;
            }
        }
    }

    /// Waits until the index is whole.
    pub(crate) async fn caught_up(&self) {
        eventually("a whole index", async || {
            // Of more than the trailing hour, so that no answer out of memory speaks for a Redis that is found empty meanwhile.
            let answer = self.send(self.request("GET", "/v1/active/count?max_age_s=7200")).await?;
            let metrics = self.send(self.request("GET", "/metrics")).await?.body;
            // A complete index may still miss what was acknowledged within the freshness bound.
            let is_all_in = String::from_utf8_lossy(&metrics)
                .lines()
                .any(|line| line.starts_with("geotrail_journal_backlog_points{") && line.ends_with(" 0"));
            (answer.status == 200 && answer.header("geotrail-index") == "complete" && is_all_in).then_some(())
        })
        .await;
    }

    /// Everyone on all pages of a list. `path` ends in `?` or with a parameter.
    pub(crate) async fn all_pages(&self, path: &str, limit: usize) -> Vec<Driver> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let cursor_parameter = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let (page, next) = self.get(&format!("{path}&limit={limit}{cursor_parameter}")).await.page();
            assert!(page.len() <= limit, "{} on a page of {limit}", page.len());
            all.extend(page);
            match next {
                None => return all,
                next => cursor = next,
            }
        }
    }

    /// A driver's whole track between two moments, over all pages.
    pub(crate) async fn track(&self, driver: &str, from: i64, to: i64) -> Vec<Seen> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let cursor_parameter = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let path = format!("/v1/drivers/{driver}/track?from={from}&to={to}&limit=1000{cursor_parameter}");
            let answer = self.get(&path).await;
            assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
            let json = answer.json();
            assert_eq!(json["driver_id"], driver);
            all.extend(json["points"].as_array().expect("points").iter().map(read_seen));
            match json["next_cursor"].as_str() {
                None => return all,
                Some(next) => cursor = Some(next.to_owned()),
            }
        }
    }
}

/// How often each key occurs.
pub(crate) fn tally<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    items.into_iter().for_each(|item| *counts.entry(item).or_default() += 1);
    counts
}
