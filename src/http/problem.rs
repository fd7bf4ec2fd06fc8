//! Errors as the outside sees them: RFC 9457, with a stable code. This file alone maps an error to a status.
//!
//! Every text here is our own: none is made from what a client sent.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use thiserror::Error;

use super::ingest::Receipt;
use super::points::EnvelopeError;
use super::query::GEOTRAIL_INDEX;
use super::stores::{MAX_WISH_BYTES, Unchanged};
use crate::erasure::Unfinished;
use crate::ingest::Refusal;
use crate::keys::Scope;
use crate::query::QueryError;

/// The least number of seconds after which to come again. Each caller is told up to twice as many, by lot, so that a
/// fleet that was turned away together does not return together.
const RETRY_AFTER_S: u64 = 2;

/// Why a request was not answered as it hoped. What an error of an inner layer tells about itself stays in the log.
#[derive(Debug, Error)]
pub(crate) enum Problem {
    #[error("malformed request")]
    MalformedRequest,
    #[error("the head is too large")]
    HeadTooLarge,
    #[error("no such route")]
    NoSuchRoute,
    #[error("no key, or none of ours")]
    Unauthenticated,
    /// The scope that is lacking.
    #[error("the key is for something else")]
    Forbidden(Scope),
    /// How long until the next try.
    #[error("too many wrong keys")]
    RateLimited(Duration),
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("not acceptable")]
    NotAcceptable,
    #[error("the body took too long")]
    RequestTimeout,
    #[error("a parameter is missing")]
    MissingParameter(&'static str),
    /// The parameter, and what it must be.
    #[error("a parameter is invalid")]
    InvalidParameter(&'static str, &'static str),
    /// The nearest that is known, if any is.
    #[error("a parameter is unknown")]
    UnknownParameter(Option<&'static str>),
    #[error("the cursor is invalid")]
    InvalidCursor,
    #[error("the driver id is invalid")]
    DriverIdInvalid,
    #[error("the envelope is wrong")]
    Envelope(#[from] EnvelopeError),
    #[error("the wish cannot be read")]
    Wish(EnvelopeError),
    #[error("no point is valid")]
    NoValidPoints(Receipt),
    #[error("refused")]
    Refused(#[from] Refusal),
    #[error("not erased")]
    NotErased(#[from] Unfinished),
    #[error("no answer")]
    Unanswered(#[from] QueryError),
    #[error("the stores stay as they are")]
    StoresUnchanged(#[from] Unchanged),
    #[error("the index is incomplete")]
    IndexIncomplete,
    #[error("internal")]
    Internal,
}

/// The members that every problem has, and those of a refused batch.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    receipt: Option<&'a Receipt>,
}

impl Problem {
    /// The status, the stable code, and the code in words.
    fn class(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed_request", "Malformed request"),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "malformed_request", "Malformed request")
            }
            Self::NoSuchRoute | Self::Unanswered(QueryError::NotFound | QueryError::NotFoundYet(_)) => {
                (StatusCode::NOT_FOUND, "not_found", "Not found")
            }
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "Unauthenticated"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Forbidden"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not_acceptable", "Not acceptable"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout", "Request timeout"),
            Self::MissingParameter(_) => (StatusCode::BAD_REQUEST, "missing_parameter", "Missing parameter"),
            Self::InvalidParameter(..) => (StatusCode::BAD_REQUEST, "invalid_parameter", "Invalid parameter"),
            Self::UnknownParameter(_) => (StatusCode::BAD_REQUEST, "unknown_parameter", "Unknown parameter"),
            Self::InvalidCursor => (StatusCode::BAD_REQUEST, "invalid_cursor", "Invalid cursor"),
            Self::DriverIdInvalid => (StatusCode::BAD_REQUEST, "driver_id_invalid", "Invalid driver id"),
            Self::Envelope(error) => (envelope_status(*error), error.code(), "The batch was not read"),
            Self::Wish(error) => (envelope_status(*error), error.code(), "The wish was not read"),
            Self::NoValidPoints(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no_valid_points", "No valid points"),
            Self::NotErased(Unfinished::UnderWay) => {
                (StatusCode::SERVICE_UNAVAILABLE, "erasure_under_way", "Erasure under way")
            }
            Self::Refused(Refusal::Overloaded) | Self::NotErased(Unfinished::Overloaded) => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded")
            }
            Self::Refused(Refusal::JournalUnavailable) | Self::NotErased(Unfinished::JournalUnavailable) => {
                (StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", "Journal unavailable")
            }
            Self::Refused(Refusal::ShuttingDown) | Self::NotErased(Unfinished::ShuttingDown) => {
                (StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "Shutting down")
            }
            Self::Unanswered(QueryError::OutOfRetention) => {
                (StatusCode::NOT_FOUND, "out_of_retention", "Out of retention")
            }
            Self::Unanswered(QueryError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "index_unavailable", "Index unavailable")
            }
            Self::IndexIncomplete => (StatusCode::SERVICE_UNAVAILABLE, "index_incomplete", "Index incomplete"),
            Self::StoresUnchanged(unchanged) => class_of_unchanged(unchanged),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::MalformedRequest => "the request is not well-formed HTTP".into(),
            Self::HeadTooLarge => "the header fields are too large".into(),
            Self::NoSuchRoute => "there is nothing at this path".into(),
            Self::Unauthenticated => "`Authorization: Bearer KEY` is required, with a key of this service".into(),
            Self::Forbidden(scope) => format!("this key lacks the scope `{}`", scope.word()),
            Self::RateLimited(_) => "too many wrong keys came from here, or with this id".into(),
            Self::MethodNotAllowed => "this path does not take this method; `Allow` names those it takes".into(),
            Self::NotAcceptable => {
                "a list comes as application/json, application/geo+json or application/x-ndjson, everything else as \
                 application/json"
                    .into()
            }
            Self::RequestTimeout => "the body did not arrive in time".into(),
            Self::MissingParameter(name) => format!("`{name}` is required"),
            Self::InvalidParameter(name, must) => format!("`{name}` must {must}"),
            Self::UnknownParameter(Some(nearest)) => {
                format!("no such parameter; the nearest known one is `{nearest}`")
            }
            Self::UnknownParameter(None) => "this request takes no parameters".into(),
            Self::InvalidCursor => {
                "`cursor` must be the `next_cursor` of an answer to this same request, unchanged".into()
            }
            Self::DriverIdInvalid => crate::model::Defect::DriverIdInvalid.detail(),
            Self::Envelope(error) => error.detail(),
            Self::Wish(EnvelopeError::BodyTooLarge) => format!("the body must be at most {MAX_WISH_BYTES} bytes"),
            Self::Wish(_) => "the body must be a JSON object, as application/json".into(),
            Self::NoValidPoints(_) => "no point of the batch is valid; `errors` says why, point by point".into(),
            Self::Refused(Refusal::Overloaded) => "more is waiting to be stored than can be held".into(),
            Self::Refused(Refusal::JournalUnavailable) => {
                "the points could not be made durable; sending them again is harmless".into()
            }
            Self::NotErased(Unfinished::UnderWay) => {
                "the erasure is on disk and will be carried out whatever happens; asking again tells whether it is done"
                    .into()
            }
            Self::NotErased(Unfinished::Overloaded) => "too many erasures are under way".into(),
            Self::NotErased(Unfinished::JournalUnavailable) => {
                "the erasure could not be made durable; asking again is harmless".into()
            }
            Self::Refused(Refusal::ShuttingDown) | Self::NotErased(Unfinished::ShuttingDown) => "this instance is shutting down".into(),
            Self::Unanswered(QueryError::NotFound | QueryError::NotFoundYet(_)) => "no such driver within the retention".into(),
            Self::Unanswered(QueryError::OutOfRetention) => "this hour is no longer kept".into(),
            Self::Unanswered(QueryError::Unavailable(_)) => "there is nothing to answer from at the moment".into(),
            Self::IndexIncomplete => {
                "the index is incomplete at the moment; without `require=complete` it answers with what it has".into()
            }
            Self::StoresUnchanged(unchanged) => detail_of_unchanged(unchanged),
            Self::Internal => "something went wrong here; it was noted".into(),
        }
    }

    /// Logs what went wrong inside, if something did: the caller is not told.
    pub(crate) fn note(&self) {
        if let Self::Unanswered(QueryError::Unavailable(error)) = self {
            tracing::warn!(%error, "a query could not be answered");
        }
    }

    /// Whether the connection cannot or should not be used again: part of the request is still on its way.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::MalformedRequest
                | Self::HeadTooLarge
                | Self::Unauthenticated
                | Self::Forbidden(_)
                | Self::RateLimited(_)
                | Self::RequestTimeout
                | Self::Envelope(EnvelopeError::BodyTooLarge)
                | Self::Wish(EnvelopeError::BodyTooLarge)
                | Self::Refused(Refusal::ShuttingDown)
        )
    }
}

fn class_of_unchanged(unchanged: &Unchanged) -> (StatusCode, &'static str, &'static str) {
    match unchanged {
        Unchanged::UrlWrong(_) => (StatusCode::BAD_REQUEST, "invalid_parameter", "Invalid parameter"),
        Unchanged::NoSuchStore | Unchanged::NoSuchInstance => (StatusCode::NOT_FOUND, "not_found", "Not found"),
        Unchanged::Unreachable => (StatusCode::CONFLICT, "store_unreachable", "Store unreachable"),
        Unchanged::Attached => (StatusCode::CONFLICT, "store_attached", "Store attached already"),
        Unchanged::Foreign => (StatusCode::CONFLICT, "store_foreign", "Another fleet's store"),
        Unchanged::TooMany => (StatusCode::CONFLICT, "too_many_stores", "Too many stores"),
        Unchanged::TakesReads => (StatusCode::CONFLICT, "store_takes_reads", "Store takes reads"),
        Unchanged::Needed => (StatusCode::CONFLICT, "store_needed", "Store needed"),
        Unchanged::InstanceIsThere => (StatusCode::CONFLICT, "instance_is_there", "Instance is there"),
        Unchanged::NotNoted => (StatusCode::SERVICE_UNAVAILABLE, "stores_not_noted", "Stores not noted"),
    }
}

fn detail_of_unchanged(unchanged: &Unchanged) -> String {
    match unchanged {
        Unchanged::UrlWrong(expected) => format!("`url` is wrong: {expected}"),
        Unchanged::NoSuchStore => "there is no store of this name; GET /v1/admin/stores lists them".into(),
        Unchanged::Unreachable => "the store does not answer, or not to this user; nothing was changed".into(),
        Unchanged::Attached => "the store is attached already, be it by another URL; nothing was changed".into(),
        Unchanged::Foreign => {
            "the store holds another fleet's data, and is left alone; `adopt` makes it ours; nothing was changed"
                .into()
        }
        Unchanged::TooMany => "there are as many stores as there may be; detach one first".into(),
        Unchanged::TakesReads => "the store has a share of the reads; give it to another one first".into(),
        Unchanged::Needed => "no other store is whole; wait until one is".into(),
        Unchanged::NoSuchInstance => "no other instance has this id; GET /v1/admin/instances lists them".into(),
        Unchanged::InstanceIsThere => "the instance is at work; only one that is away can be dismissed".into(),
        Unchanged::NotNoted => "the change could not be kept on disk; nothing was changed".into(),
    }
}

fn envelope_status(error: EnvelopeError) -> StatusCode {
    match error {
        EnvelopeError::UnsupportedMediaType | EnvelopeError::UnsupportedEncoding => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        EnvelopeError::MalformedEncoding | EnvelopeError::MalformedJson => StatusCode::BAD_REQUEST,
        EnvelopeError::BodyTooLarge | EnvelopeError::BatchTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        EnvelopeError::EmptyBatch => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.class();
        self.note();
        let receipt = if let Self::NoValidPoints(receipt) = &self { Some(receipt) } else { None };
        let r#type = format!("urn:geotrail:problem:{code}");
        let document = Document { r#type, title, status: status.as_u16(), detail: self.detail(), code, receipt };
        let body = serde_json::to_vec(&document).expect("strings and numbers always serialize");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, rand::random_range(RETRY_AFTER_S..=2 * RETRY_AFTER_S).into());
        }
        if let Self::RateLimited(wait) = self {
            headers.insert(RETRY_AFTER, (wait.as_secs() + 1).into());
        }
        if matches!(self, Self::Unauthenticated) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"geotrail\""));
        }
        if matches!(self, Self::Envelope(EnvelopeError::UnsupportedEncoding)) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        }
        // As it was when the answer was found: by now the index may be whole.
        if let Self::Unanswered(QueryError::NotFoundYet(index)) = self {
            headers.insert(GEOTRAIL_INDEX, HeaderValue::from_static(index.word()));
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    async fn answer(problem: Problem) -> (StatusCode, http::HeaderMap, serde_json::Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn has_the_members_of_rfc_9457_and_a_code() {
        let (status, headers, body) = answer(Problem::MissingParameter("lat")).await;
        assert_eq!(status, 400);
        assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:geotrail:problem:missing_parameter", "title": "Missing parameter", "status": 400,
                "detail": "`lat` is required", "code": "missing_parameter"
            })
        );
    }

    #[tokio::test]
    async fn every_503_says_when_to_come_again_and_nothing_of_the_inside() {
        let inside = Problem::Unanswered(QueryError::Unavailable(StoreError::Unavailable("10.0.0.7 refused".into())));
        for (problem, code) in [
            (inside, "index_unavailable"),
            (Problem::IndexIncomplete, "index_incomplete"),
            (Problem::Refused(Refusal::JournalUnavailable), "journal_unavailable"),
            (Problem::Refused(Refusal::Overloaded), "overloaded"),
            (Problem::Refused(Refusal::ShuttingDown), "shutting_down"),
        ] {
            let (status, headers, body) = answer(problem).await;
            assert_eq!((status.as_u16(), body["code"].as_str()), (503, Some(code)));
            let retry_after_s: u64 = headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
            assert!((RETRY_AFTER_S..=2 * RETRY_AFTER_S).contains(&retry_after_s));
            assert!(!body.to_string().contains("10.0.0.7"));
        }
    }

    #[tokio::test]
    async fn that_nobody_was_found_says_in_what() {
        let index = crate::query::IndexState::Rebuilding { as_of: None };
        let (status, headers, body) = answer(Problem::Unanswered(QueryError::NotFoundYet(index))).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (404, Some("not_found")));
        assert_eq!(headers[GEOTRAIL_INDEX], "rebuilding");
    }

    #[tokio::test]
    async fn a_batch_without_a_valid_point_keeps_its_receipt() {
        let defect = crate::model::Defect::NullIsland;
        let receipt = Receipt::new(0, &[super::super::points::Rejected { index: 3, defect }]);
        let (status, _, body) = answer(Problem::NoValidPoints(receipt)).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (422, Some("no_valid_points")));
        assert_eq!((body["accepted"].as_u64(), body["rejected"].as_u64()), (Some(0), Some(1)));
        assert_eq!(body["errors"][0]["index"], 3);
        assert_eq!(body["errors"][0]["code"], "null_island");
    }
}
