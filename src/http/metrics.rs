//! `GET /metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Uri;
use http::header::CONTENT_TYPE;

use super::Service;
use super::params::Params;
use super::problem::Problem;
use crate::health::TRAILING_HOUR_MS;

/// How long a scrape waits for the store to count the active drivers.
const COUNT_DEADLINE: Duration = Duration::from_millis(500);

/// Everything that is measured, with what is only known by asking asked now.
pub(super) async fn metrics(State(service): State<Arc<Service>>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let report = service.health.report();
    service.metrics.set_fleet_last_report(report.last_report);
    for store in &report.stores {
        service.metrics.set_store_state(store.name, store.state());
    }
    let count = service.queries.active_count(Duration::from_millis(TRAILING_HOUR_MS.unsigned_abs()));
    let count = tokio::time::timeout(COUNT_DEADLINE, count).await;
    service.metrics.set_active_drivers(count.ok().and_then(Result::ok).map(|answer| answer.value));
    let (media_type, text) = service.metrics.scrape();
    Ok(([(CONTENT_TYPE, media_type)], text).into_response())
}
