//! What every request passes on its way in and every answer on its way out.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, HOST, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Version};

use super::problem::Problem;
use super::{Service, query, router};

/// The most bytes of all header fields together. A request of ours needs a few hundred.
const MAX_FIELDS_BYTES: usize = 32 * 1_024;

/// Around everything: refuses what is not to be asked, survives what panics, times the answer, notes it, and seals it. One
/// layer for all of that, because the library copies all layers within a layer for each request.
pub(super) async fn pass(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let path = matched.as_ref().map(MatchedPath::as_str);
    let may_pass =
        check_head(&request).and_then(|()| service.guard.admit(&request, router::access(request.method(), path)));
    let mut response = match may_pass {
        Err(refusal) => refusal.into_response(),
        // The panic itself is logged where it is caught first, by the hook of `telemetry::start_log`.
        Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => Problem::Internal.into_response(),
        },
    };
    let route = path.unwrap_or("unmatched");
    let (status, took) = (response.status(), begun.elapsed());
    service.metrics.http_request(method, route, status.as_str(), took);
    let ms = took.as_micros() as f64 / 1_000.0;
    if status.is_server_error() {
        tracing::info!(method, route, status = status.as_u16(), ms, "answered");
    } else {
        tracing::debug!(method, route, status = status.as_u16(), ms, "answered");
    }
    if is_question(method, route) {
        query::label(&service, &mut response);
    }
    seal(&mut response);
    response
}

/// Whether this asks about drivers.
fn is_question(method: &str, route: &str) -> bool {
    let is_about_drivers = route.starts_with("/v1/") && !route.starts_with("/v1/admin/") && route != "/v1/points";
    is_about_drivers && matches!(method, "GET" | "HEAD")
}

/// Adds the headers that every answer has.
pub(super) fn seal(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Refuses a head that the HTTP library lets pass and we do not.
fn check_head(request: &Request) -> Result<(), Problem> {
    let hosts = request.headers().get_all(HOST).iter().count();
    // RFC 9112, 3.2: exactly one in HTTP/1.1; HTTP/1.0 does not know it.
    let is_host_wrong = hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11);
    if is_host_wrong {
        Err(Problem::MalformedRequest)
    } else if fields_bytes(request.headers()) > MAX_FIELDS_BYTES {
        Err(Problem::HeadTooLarge)
    } else {
        Ok(())
    }
}

/// The answer at a path that does not exist.
pub(super) async fn no_such_route() -> Problem {
    Problem::NoSuchRoute
}

/// The answer to a method that a path does not take; the router adds `Allow`.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::MethodNotAllowed
}

fn fields_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// Of a closed set, for a method may be any word.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
