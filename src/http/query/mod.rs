//! The questions: reading what is asked, asking [`Queries`](crate::query::Queries), writing the answer.
//!
//! Every answer says how whole it is, in its body (but for `x-ndjson`, which has rows alone) and in a header. With
//! `require=complete` an answer that is less than whole is refused instead; a stream that turns so is broken off.

mod active;
mod ask;
mod density;
mod driver;
mod hours;
mod list;
mod nearby;

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};

use super::Service;
use super::accept::Form;
use super::problem::Problem;
use crate::query::{Answer, IndexState, QueryError};

pub(super) use active::{active, active_count};
pub(super) use ask::{Segment, driver_in_path};
pub(super) use density::density;
pub(super) use driver::{latest, track};
pub(super) use hours::{hour_drivers, hour_positions};
pub(super) use nearby::nearby;

pub(super) const GEOTRAIL_INDEX: HeaderName = HeaderName::from_static("geotrail-index");

/// How whole an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Require {
    /// As whole as it can be had.
    Whatever,
    /// Whole.
    Complete,
}

/// Gets an answer that is as whole as it has to be; that nothing was found is one too.
async fn fetch<T>(
    service: &Service,
    require: Require,
    answer: impl Future<Output = Result<Answer<T>, QueryError>>,
) -> Result<Answer<T>, Problem> {
    let check = |index: IndexState| match require {
        Require::Complete if index.is_degraded() => Err(Problem::IndexIncomplete),
        _ => Ok(index),
    };
    if require == Require::Complete {
        check(service.queries.index_state())?;
    }
    match answer.await {
        Ok(Answer { value, index }) => Ok(Answer { value, index: check(index)? }),
        Err(QueryError::NotFoundYet(index)) => check(index).and(Err(QueryError::NotFoundYet(index).into())),
        Err(QueryError::NotFound) => check(service.queries.index_state()).and(Err(QueryError::NotFound.into())),
        Err(error) => Err(error.into()),
    }
}

/// A whole body in a form, with its label.
fn respond(form: Form, index: IndexState, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(GEOTRAIL_INDEX, HeaderValue::from_static(index.word()));
    response
}

/// Puts the label on an answer that has none of its own, as errors have: that a driver is not found means less while the
/// index is being rebuilt.
pub(super) fn label(service: &Service, response: &mut Response) {
    if response.headers().contains_key(GEOTRAIL_INDEX) {
        return;
    }
    let index = service.queries.index_state();
    // "Complete" beside "cannot be asked" would only confuse.
    if index.is_degraded() || !response.status().is_server_error() {
        response.headers_mut().insert(GEOTRAIL_INDEX, HeaderValue::from_static(index.word()));
    }
}
