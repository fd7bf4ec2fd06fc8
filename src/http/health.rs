//! `/health` for the uptime monitor, `/livez` and `/readyz` for whatever runs the process. None of them waits for
//! anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{StatusCode, Uri};
use serde::Serialize;

use super::Service;
use super::accept::Form;
use super::params::Params;
use super::problem::Problem;
use super::render::Moment;
use crate::health::{Report, Status, StoreHealth, StoreReport};

/// `application/health+json`, as the draft of that name has it, and the members of the contract.
#[derive(Serialize)]
struct Document {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    last_report_at: Option<Moment>,
    last_report_age_s: Option<f64>,
    checks: BTreeMap<String, [Check; 1]>,
}

/// Members of our own are written as elsewhere in this service.
#[derive(Default, Serialize)]
struct Check {
    status: &'static str,
    #[serde(rename = "observedValue")]
    observed_value: String,
    /// Of a store: how whole it is, where that is less than whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog_points: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rebuild: Option<Rebuild>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadletter_points: Option<u64>,
}

/// How far a store is that is being made whole.
#[derive(Serialize)]
struct Rebuild {
    points_done: u64,
    points_total: u64,
}

/// Whether the fleet reports: 200 if it does, else 503.
pub(super) async fn health(State(service): State<Arc<Service>>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let report = service.health.report();
    let status = if report.status == Status::Fail { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::to_vec(&Document::from(&report)).expect("strings and numbers always serialize");
    Ok((status, [(CONTENT_TYPE, "application/health+json")], body).into_response())
}

/// Whether the process runs: it does.
pub(super) async fn livez(uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    Ok(word(StatusCode::OK, "alive"))
}

/// Whether points can be taken.
pub(super) async fn readyz(State(service): State<Arc<Service>>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    Ok(if service.ingest.is_ready() {
        word(StatusCode::OK, "ready")
    } else {
        word(StatusCode::SERVICE_UNAVAILABLE, "not ready")
    })
}

fn word(status: StatusCode, word: &str) -> Response {
    (status, [(CONTENT_TYPE, Form::Json.media_type())], format!("{{\"status\":\"{word}\"}}")).into_response()
}

impl From<&Report> for Document {
    fn from(report: &Report) -> Self {
        let is_degraded = report.index.is_degraded();
        let is_away = report.stores.iter().any(|store| store.health == StoreHealth::Unreachable);
        let has_dead_letters = report.stores.iter().any(|store| store.dead_letters > 0);
        let stores = report.stores.iter().map(|store| (format!("store:{}", store.name), Check::from(store)));
        let others = [
            (
                "index".into(),
                Check {
                    as_of: report.index.as_of().map(Moment),
                    ..check(if is_degraded { "warn" } else { "pass" }, report.index.word())
                },
            ),
            (
                "journal".into(),
                if report.journal_writable { check("pass", "writable") } else { check("fail", "not writable") },
            ),
        ];
        let notes = [
            (is_away, "a store cannot be asked"),
            (is_degraded, "queries are answered from less than everything"),
            (has_dead_letters, "a store refused points: see `geotrail deadletter list`"),
            (!report.journal_writable, "no points can be taken: the journal cannot be written"),
        ];
        let notes = notes.into_iter().filter(|(holds, _)| *holds).map(|(_, note)| note.to_owned());
        Self {
            status: match report.status {
                Status::Pass => "pass",
                Status::Warn => "warn",
                Status::Fail => "fail",
            },
            output: (report.status == Status::Fail).then(|| why_silent(&report.stores)),
            notes: notes.chain(report.stores.iter().filter_map(|store| store.trouble.clone())).collect(),
            last_report_at: report.last_report.map(Moment),
            last_report_age_s: report.last_report_age_ms.map(|ms| ms as f64 / 1_000.0),
            checks: stores.chain(others).map(|(name, check)| (name, [check])).collect(),
        }
    }
}

impl From<&StoreReport> for Check {
    fn from(store: &StoreReport) -> Self {
        let is_degraded = store.index.is_degraded();
        let (status, word) = match store.health {
            StoreHealth::Up if store.trouble.is_some() => ("warn", store.trouble.as_deref().unwrap_or_default()),
            StoreHealth::Up if is_degraded => ("warn", "up"),
            StoreHealth::Up => ("pass", "up"),
            StoreHealth::Unreachable if store.state() == "foreign" => {
                ("fail", store.trouble.as_deref().unwrap_or_default())
            }
            StoreHealth::Unreachable => ("fail", "unreachable"),
            StoreHealth::Unknown => ("warn", "not asked yet"),
        };
        Self {
            index: is_degraded.then(|| store.index.word()),
            as_of: store.index.as_of().map(Moment),
            backlog_points: Some(store.backlog_points).filter(|points| *points > 0),
            rebuild: store
                .pass
                .map(|pass| Rebuild { points_done: pass.points_done, points_total: pass.points_total }),
            deadletter_points: Some(store.dead_letters).filter(|points| *points > 0),
            ..check(status, word)
        }
    }
}

fn check(status: &'static str, observed_value: &str) -> Check {
    Check { status, observed_value: observed_value.to_owned(), ..Check::default() }
}

/// What silence means depends on who could be asked. An embedded store knows of this instance alone.
fn why_silent(stores: &[StoreReport]) -> &'static str {
    match stores.first().map_or(StoreHealth::Unknown, |store| store.health) {
        StoreHealth::Up if stores[0].trouble.is_some() => {
            "unknown: no driver has reported to this instance in the trailing hour, and the store, which knows of the \
             other instances, cannot tell all that it should"
        }
        StoreHealth::Up => "the fleet is silent: no driver has reported a position in the trailing hour",
        StoreHealth::Unreachable => {
            "unknown: no driver has reported to this instance in the trailing hour, and the store, which knows of the \
             other instances, cannot be asked"
        }
        StoreHealth::Unknown => {
            "unknown as yet: no driver has reported to this instance in the trailing hour, and the store has not been \
             asked since the start"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applier::Pass;
    use crate::model::Timestamp;
    use crate::query::IndexState;

    fn document(report: &Report) -> serde_json::Value {
        serde_json::to_value(Document::from(report)).unwrap()
    }

    const STORE: StoreReport = StoreReport {
        name: "redis",
        health: StoreHealth::Up,
        index: IndexState::Complete,
        backlog_points: 0,
        pass: None,
        dead_letters: 0,
        trouble: None,
        skew_ms: None,
        instances: BTreeMap::new(),
    };

    fn well() -> Report {
        Report {
            status: Status::Pass,
            last_report: Some(Timestamp::from_ms(1_795_377_525_123)),
            last_report_age_ms: Some(1_250),
            stores: vec![STORE],
            index: IndexState::Complete,
            journal_writable: true,
        }
    }

    #[test]
    fn a_fleet_that_reports_passes() {
        assert_eq!(
            document(&well()),
            serde_json::json!({
                "status": "pass",
                "last_report_at": "2026-11-22T19:58:45.123Z", "last_report_age_s": 1.25,
                "checks": {
                    "store:redis": [{"status": "pass", "observedValue": "up"}],
                    "index": [{"status": "pass", "observedValue": "complete"}],
                    "journal": [{"status": "pass", "observedValue": "writable"}],
                }
            })
        );
    }

    #[test]
    fn silence_and_ignorance_read_differently() {
        let silent = Report { status: Status::Fail, last_report: None, last_report_age_ms: None, ..well() };
        let ignorant =
            Report { stores: vec![StoreReport { health: StoreHealth::Unreachable, ..STORE }], ..silent.clone() };
        let partial = StoreReport { trouble: Some("partial".into()), ..STORE };
        let partial = document(&Report { stores: vec![partial], ..silent.clone() });
        assert!(partial["output"].as_str().unwrap().starts_with("unknown"));
        let (silent, ignorant) = (document(&silent), document(&ignorant));
        assert!(silent["output"].as_str().unwrap().starts_with("the fleet is silent"));
        assert!(ignorant["output"].as_str().unwrap().starts_with("unknown"));
        assert_eq!(silent["last_report_at"], serde_json::Value::Null);
        assert_eq!(ignorant["checks"]["store:redis"][0]["status"], "fail");
    }

    #[test]
    fn what_is_degraded_is_noted() {
        let as_of = Some(Timestamp::from_ms(0));
        let index = IndexState::Rebuilding { as_of };
        let pass = Some(Pass { points_done: 3, points_total: 7, ..Pass::default() });
        let stores = vec![StoreReport { index, backlog_points: 4, pass, dead_letters: 2, ..STORE }];
        let report = Report { status: Status::Warn, index, stores, journal_writable: false, ..well() };
        let document = document(&report);
        assert_eq!(document["notes"].as_array().unwrap().len(), 3);
        assert_eq!(
            document["checks"]["store:redis"][0],
            serde_json::json!({
                "status": "warn", "observedValue": "up", "index": "rebuilding", "as_of": "1970-01-01T00:00:00.000Z",
                "backlog_points": 4, "rebuild": {"points_done": 3, "points_total": 7}, "deadletter_points": 2,
            })
        );
        assert_eq!(document["checks"]["index"][0]["as_of"], "1970-01-01T00:00:00.000Z");
        assert_eq!(document["checks"]["journal"][0]["status"], "fail");
        let stores = vec![StoreReport { trouble: Some("writes are refused".into()), ..STORE }];
        let document = self::document(&Report { stores, ..report });
        assert_eq!(document["notes"][2], "writes are refused");
        assert_eq!(document["checks"]["store:redis"][0]["observedValue"], "writes are refused");
    }
}
