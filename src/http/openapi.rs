//! `GET /openapi.json`: all that the service answers, in the words of `OpenAPI`; and `GET /docs`: a page to read that and
//! to try it.
//!
//! Both are files written by hand. `tests/it/openapi.rs` holds the document to the table of routes and to what a running
//! service takes and answers. The page has everything in it that it needs: its policy lets a browser run the one script
//! and the one style that are in it, by their hashes, and ask this service; and nothing else.
//!
//! Never here: what a route does, and who may ask for it.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, Uri};
use ring::digest::{SHA256, digest};

use super::accept::Form;
use super::params::Params;
use super::problem::Problem;

/// Stands in the file for the version of the service.
const NO_VERSION: &str = r#""version": "0.0.0""#;
const PAGE: &str = include_str!("docs.html");

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let version = concat!(r#""version": ""#, env!("CARGO_PKG_VERSION"), '"');
    include_str!("openapi.json").replacen(NO_VERSION, version, 1).into()
});

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (script, style) = (hash_of("script"), hash_of("style"));
    let policy = format!(
        "default-src 'none'; connect-src 'self'; script-src '{script}'; style-src '{style}'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("it is ASCII")
});

/// The hash of what stands in the only `element` of the page, as a policy names it.
fn hash_of(element: &str) -> String {
    let begun = PAGE.split_once(&format!("<{element}>"));
    let (text, _) = begun.and_then(|(_, rest)| rest.split_once(&format!("</{element}>"))).expect("the page has one");
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

/// Makes both ready, so that nobody who asks waits for that.
pub(super) fn make_ready() {
    LazyLock::force(&DOCUMENT);
    LazyLock::force(&POLICY);
}

/// The document.
pub(super) async fn document(uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    Ok(([(CONTENT_TYPE, Form::Json.media_type())], DOCUMENT.clone()).into_response())
}

/// The page.
pub(super) async fn docs(uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, POLICY.clone()),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((headers, PAGE).into_response())
}
