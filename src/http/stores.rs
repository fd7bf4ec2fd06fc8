//! `/v1/admin/stores`: which stores follow the journal, and who of them answers how much. For moving house.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::Service;
use super::accept::Form;
use super::params::{Params, nearest};
use super::points::EnvelopeError;
use super::problem::Problem;
use super::query::Segment;
use crate::health::StoreReport;

/// The most bytes of a body that asks for a change.
pub(super) const MAX_WISH_BYTES: usize = 16 * 1_024;

/// A store that follows the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInUse {
    /// What it is called here, in metrics and in files.
    pub name: &'static str,
    /// Where it is; nothing secret.
    pub url: String,
    /// So many of a hundred reads it should answer.
    pub reads_percent: u8,
    /// Of so many of a hundred reads that others answer, its answer is compared.
    pub shadow_percent: u8,
}

/// What of a store is to change; `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// 0 to 100; the others get the rest.
    pub reads_percent: Option<u8>,
    /// 0 to 100.
    pub shadow_percent: Option<u8>,
    /// What it holds is ours from now on, even if another fleet wrote it.
    pub adopt: bool,
}

/// Why nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unchanged {
    /// What the URL should have been.
    #[error("the URL is wrong")]
    UrlWrong(String),
    /// Nobody answers there, or not to this user.
    #[error("the store cannot be asked")]
    Unreachable,
    /// It follows already, be it by another URL.
    #[error("the store is attached")]
    Attached,
    /// It holds another fleet's data.
    #[error("the store is another fleet's")]
    Foreign,
    /// There may be no more.
    #[error("too many stores")]
    TooMany,
    /// There is none of this name.
    #[error("no such store")]
    NoSuchStore,
    /// It has a share of the reads.
    #[error("the store takes reads")]
    TakesReads,
    /// It is the only one that is whole.
    #[error("the store is needed")]
    Needed,
    /// The change could not be kept on disk.
    #[error("the change could not be noted")]
    NotNoted,
    /// Nobody knows of it.
    #[error("no such instance")]
    NoSuchInstance,
    /// It is at work.
    #[error("the instance is there")]
    InstanceIsThere,
}

/// The stores that follow the journal, as they can be changed at run time. A change that has begun is carried out even
/// if whoever asked goes away.
#[async_trait]
pub trait Stores: Send + Sync {
    /// In the order in which they stand in for each other.
    fn list(&self) -> Vec<StoreInUse>;
    /// Begins to feed a store; its name.
    async fn attach(self: Arc<Self>, url: String, shares: Shares) -> Result<&'static str, Unchanged>;
    /// Gives a store other shares.
    async fn change(self: Arc<Self>, name: String, shares: Shares) -> Result<(), Unchanged>;
    /// The id of this instance's journal, by which others on its stores know it.
    fn instance(&self) -> String;
    /// Another instance will not come back: nobody waits for what it accepted any more.
    fn dismiss(&self, instance: &str) -> Result<(), Unchanged>;
    /// Lets go of a store, and of all that is noted of it here. What it holds stays there, and expires.
    async fn detach(self: Arc<Self>, name: String) -> Result<(), Unchanged>;
}

#[derive(Serialize)]
struct Document {
    stores: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    url: String,
    state: &'static str,
    backlog_points: u64,
    reads_percent: u8,
    shadow_percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// All of them.
pub(super) async fn list(State(service): State<Arc<Service>>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    Ok(json(StatusCode::OK, &document(&service)))
}

/// Attaches one: 201 when it is being fed.
pub(super) async fn attach(
    State(service): State<Arc<Service>>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let wish = Wish::read(&headers, body, &["url", "reads_percent", "shadow_percent", "adopt"])?;
    let url = wish.text("url")?.ok_or(Problem::MissingParameter("url"))?;
    let (stores, shares) = (service.stores.clone(), wish.shares()?);
    let name = done(tokio::spawn(stores.attach(url, shares))).await?;
    let location = (LOCATION, format!("/v1/admin/stores/{name}"));
    let row = document(&service).stores.into_iter().find(|row| row.name == name);
    Ok(([location], json(StatusCode::CREATED, &row)).into_response())
}

/// Changes the shares of one, and tells of all.
pub(super) async fn change(
    State(service): State<Arc<Service>>,
    segment: Segment,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let wish = Wish::read(&headers, body, &["reads_percent", "shadow_percent", "adopt"])?;
    let shares = wish.shares()?;
    if shares == Shares::default() {
        return Err(Problem::MissingParameter("reads_percent"));
    }
    let stores = service.stores.clone();
    done(tokio::spawn(stores.change(name(segment)?, shares))).await?;
    Ok(json(StatusCode::OK, &document(&service)))
}

/// Detaches one: 204 when nothing here knows of it any more.
pub(super) async fn detach(
    State(service): State<Arc<Service>>,
    segment: Segment,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Params::parse(uri.query(), &[])?;
    let stores = service.stores.clone();
    done(tokio::spawn(stores.detach(name(segment)?))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// In a task of its own: a client that goes away takes its handler with it, but not half a change.
async fn done<T>(task: tokio::task::JoinHandle<Result<T, Unchanged>>) -> Result<T, Problem> {
    task.await.map_err(|_| Problem::Internal)?.map_err(Problem::from)
}

fn name(segment: Segment) -> Result<String, Problem> {
    segment.map(|path| path.0).map_err(|_| Unchanged::NoSuchStore.into())
}

fn document(service: &Service) -> Document {
    let reports: BTreeMap<&str, StoreReport> =
        service.health.report().stores.into_iter().map(|report| (report.name, report)).collect();
    let row = |store: StoreInUse| {
        let report = reports.get(store.name);
        Row {
            name: store.name,
            url: store.url,
            state: report.map_or("unknown", StoreReport::state),
            backlog_points: report.map_or(0, |report| report.backlog_points),
            reads_percent: store.reads_percent,
            shadow_percent: store.shadow_percent,
            trouble: report.and_then(|report| report.trouble.clone()),
        }
    };
    Document { stores: service.stores.list().into_iter().map(row).collect() }
}

pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let body = serde_json::to_vec(document).expect("strings and numbers always serialize");
    (status, [(CONTENT_TYPE, Form::Json.media_type())], body).into_response()
}

/// The members of a body.
struct Wish(Map<String, Value>);

impl Wish {
    /// A JSON object that has no members but the `known` ones.
    fn read(
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
        known: &[&'static str],
    ) -> Result<Self, Problem> {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case(Form::Json.media_type()) {
            return Err(Problem::Wish(EnvelopeError::UnsupportedMediaType));
        }
        let body = body.map_err(|_| Problem::Wish(EnvelopeError::BodyTooLarge))?;
        let members = serde_json::from_slice(&body).map_err(|_| Problem::Wish(EnvelopeError::MalformedJson));
        let members: Map<String, Value> = members?;
        match members.keys().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => Err(Problem::UnknownParameter(nearest(unknown, known))),
            None => Ok(Self(members)),
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Problem> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Problem::InvalidParameter(name, "be a string")),
        }
    }

    fn percent(&self, name: &'static str) -> Result<Option<u8>, Problem> {
        let wrong = Problem::InvalidParameter(name, "be a whole number from 0 to 100");
        let Some(value) = self.0.get(name) else { return Ok(None) };
        value
            .as_u64()
            .and_then(|percent| u8::try_from(percent).ok())
            .filter(|percent| *percent <= 100)
            .map_or(Err(wrong), |percent| Ok(Some(percent)))
    }

    fn shares(&self) -> Result<Shares, Problem> {
        let adopt = match self.0.get("adopt") {
            None => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err(Problem::InvalidParameter("adopt", "be `true`, or be left out")),
        };
        let (reads_percent, shadow_percent) = (self.percent("reads_percent")?, self.percent("shadow_percent")?);
        Ok(Shares { reads_percent, shadow_percent, adopt })
    }
}
