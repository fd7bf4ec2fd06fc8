//! `POST /v1/points`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Service;
use super::accept::Form;
use super::carry_on::CarryOn;
use super::params::Params;
use super::points::{self, EnvelopeError, Format, MAX_BODY_BYTES, Rejected, Rules};
use super::problem::Problem;
use crate::ingest::Refusal;
use crate::model::{Offset, Point, Timestamp};

/// How long a body may take from its first byte to its last.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The bytes of all bodies that may be in memory at once, from a request's head until its points are read; one that
/// does not say how long it is counts as the longest. It is one for the process, as memory is.
static ROOM: Semaphore = Semaphore::const_new(256 << 20);

/// What became of a batch.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    accepted: usize,
    rejected: usize,
    errors: Vec<PointError>,
}

#[derive(Debug, Serialize)]
struct PointError {
    index: usize,
    code: &'static str,
    detail: String,
}

impl Receipt {
    /// Of so many accepted points, and these others.
    pub(crate) fn new(accepted: usize, rejected: &[Rejected]) -> Self {
        let error = |rejected: &Rejected| PointError {
            index: rejected.index,
            code: rejected.defect.code(),
            detail: rejected.defect.detail(),
        };
        Self { accepted, rejected: rejected.len(), errors: rejected.iter().map(error).collect() }
    }
}

/// Takes points in: 202 once they are on disk, 200 once the first store has them too.
pub(super) async fn post_points(State(service): State<Arc<Service>>, request: Request) -> Result<Response, Problem> {
    let params = Params::parse(request.uri().query(), &["wait"])?;
    let waits = params.read("wait", "be `applied`", |wait| (wait == "applied").then_some(()))?.is_some();
    let format = Format::from_headers(request.headers())?;
    let (body, room) = read(request.into_body()).await?;
    let now = service.clock.now();
    let retention_ms = i64::try_from(service.queries.retention().as_millis()).unwrap_or(i64::MAX);
    let parsed = points::parse(&body, format, &Rules { now, retention_ms })?;
    drop((body, room));
    let receipt = Receipt::new(parsed.points.len(), &parsed.rejected);
    let end = if parsed.points.is_empty() {
        None
    } else {
        // A client that goes away takes its handler with it, but not the bookkeeping of points that are on disk by then.
        Some(CarryOn::new(submit(service.clone(), parsed.points, now)).await?)
    };
    for rejected in &parsed.rejected {
        service.metrics.point_rejected(rejected.defect.code());
    }
    let Some(end) = end else { return Err(Problem::NoValidPoints(receipt)) };
    let is_applied = waits && service.ingest.wait_applied(end).await;
    let status = if is_applied { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = serde_json::to_vec(&receipt).expect("strings and numbers always serialize");
    Ok((status, [(CONTENT_TYPE, Form::Json.media_type())], body).into_response())
}

async fn submit(service: Arc<Service>, points: Vec<Point>, received: Timestamp) -> Result<Offset, Refusal> {
    let accepted = points.len();
    let newest = points.iter().map(|point| point.fix.ts).max();
    let end = service.ingest.submit(points, received).await?;
    service.metrics.points_accepted(accepted);
    if let Some(newest) = newest {
        service.health.reported(newest);
    }
    Ok(end)
}

/// The whole body and its share of [`ROOM`], if it is not too large and comes in time. One that says beforehand that
/// it is too large is not read at all.
async fn read(body: Body) -> Result<(Bytes, SemaphorePermit<'static>), Problem> {
    let announced_bytes = body.size_hint().upper().unwrap_or(MAX_BODY_BYTES as u64);
    if announced_bytes > MAX_BODY_BYTES as u64 {
        return Err(EnvelopeError::BodyTooLarge.into());
    }
    let room = ROOM.try_acquire_many(announced_bytes as u32).map_err(|_| Refusal::Overloaded)?;
    let read = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(Ok(body)) => Ok((body.to_bytes(), room)),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(EnvelopeError::BodyTooLarge.into()),
        Ok(Err(_)) => Err(Problem::MalformedRequest),
        Err(_) => Err(Problem::RequestTimeout),
    }
}
