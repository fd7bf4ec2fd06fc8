//! `DELETE /v1/drivers/{id}`.

use std::sync::Arc;

use axum::extract::State;
use http::{StatusCode, Uri};

use super::Service;
use super::params::Params;
use super::problem::Problem;
use super::query::{Segment, driver_in_path};

/// Erases all that was accepted of a driver until now: 204 when nothing of it is left. Of a driver who is not known
/// nothing is left either.
pub(super) async fn delete_driver(
    State(service): State<Arc<Service>>,
    segment: Segment,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    let driver = driver_in_path(segment)?;
    Params::parse(uri.query(), &[])?;
    // In a task of its own: a client that goes away takes its handler with it, but not half an erasure.
    let erased = tokio::spawn(async move { service.eraser.erase(&driver).await });
    erased.await.map_err(|_| Problem::Internal)??;
    Ok(StatusCode::NO_CONTENT)
}
