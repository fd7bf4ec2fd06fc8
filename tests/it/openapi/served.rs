//! A running service and what it says of itself, and how tests ask it.

use serde_json::Value;

use super::document::{Document, Operation};
use crate::harness::http::Answer;
use crate::harness::process::Process;
use crate::harness::traffic::now_ms;
use crate::oracle::{Report, Seen, hour_name, hour_of};

/// The place in the document.
const PLACE: (f64, f64) = (39.739_2, -104.990_3);
/// A driver with a long track.
const TRACKED: &str = "tracked";

/// A running service and what it says of itself.
pub(super) struct Served {
    pub(super) service: Process,
    pub(super) document: Document,
    pub(super) now: i64,
    pub(super) _dir: tempfile::TempDir,
}

impl Served {
    pub(super) async fn on(stores: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let service = Process::serve(dir.path(), stores).await;
        let document = Document::of(&service).await;
        Self { service, document, now: now_ms(), _dir: dir }
    }

    pub(super) async fn start() -> Self {
        Self::on("embedded").await
    }

    /// The path of an operation, such as somebody might ask for.
    pub(super) fn path(&self, template: &str) -> String {
        let path = template.replace("{id}", TRACKED).replace("{hour}", &hour_name(hour_of(self.now)));
        path.replace("{name}", "redis-4")
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let request = self.service.request(method, path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let body = body.into();
        let request = if body.is_empty() { request } else { request.body(body) };
        self.service.send(request).await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// Panics where an answer is not as the document says of the operation.
    pub(super) fn check(&self, method: &str, template: &str, answer: &Answer) {
        let faults = self.document.faults_of(method, template, answer);
        let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(1_000)]);
        assert!(
            faults.is_empty(),
            "{method} {template}: {} {faults:#?}\n{:?}\n{text}",
            answer.status,
            answer.headers
        );
    }

    /// The parameters without which a question is none, as the document has them.
    pub(super) fn required<'a>(&'a self, operation: &Operation<'a>) -> Vec<(&'a str, String)> {
        let all = self.document.parameters(operation, "query").into_iter();
        all.filter(|parameter| parameter["required"] == true)
            .map(|parameter| (name_of(parameter), self.given(parameter)))
            .collect()
    }

    /// A parameter as somebody would give it who has only read the document.
    pub(super) fn given(&self, parameter: &Value) -> String {
        let schema = self.document.resolved(&parameter["schema"]);
        let said = [&parameter["example"], &schema["default"], &schema["enum"][0]];
        said.into_iter().find(|value| !value.is_null()).map_or_else(|| "x".to_owned(), spelled)
    }

    /// A fleet that tells the defaults of all questions from what is near them: along a line, 5 m from each other, some of
    /// them silent for almost an hour, some for longer; and one with a long track.
    pub(super) async fn report_fleet(&self) {
        let report = |driver: String, ts: i64, metres: f64| {
            let seen = Seen { ts, lat: PLACE.0 + metres / 111_226.0, lon: PLACE.1, ..Seen::default() };
            Report { driver, seen }
        };
        let age_ms = |number: u16| match number % 5 {
            4 => 4_000_000,
            3 => 3_500_000,
            _ => 0,
        };
        let line = (0..2_000_u16)
            .map(|number| report(format!("cab:{number}"), self.now - age_ms(number), f64::from(number) * 5.0));
        let track = (0..1_100).map(|second| report(TRACKED.into(), self.now - second * 1_000, 9_500.0));
        let mut fleet: Vec<_> = line.chain(track).collect();
        fleet[0].seen.speed = Some(8.3);
        fleet[0].seen.heading = Some(359.9);
        fleet[0].seen.accuracy = Some(5.0);
        fleet[0].seen.tags = vec!["car".into(), "free".into()];
        self.service.report(&fleet).await;
        self.service.caught_up().await;
    }
}

pub(super) fn name_of(parameter: &Value) -> &str {
    parameter["name"].as_str().expect("a name")
}

pub(super) fn spelled(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(spelled).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

pub(super) fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Of a body that is JSON.
pub(super) const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
