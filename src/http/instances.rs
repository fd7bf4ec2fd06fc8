//! `/v1/admin/instances`: the other instances on our stores, how they stand, and how to say that one will not come back.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;

use super::Service;
use super::params::Params;
use super::problem::Problem;
use super::query::Segment;
use super::render::Moment;
use super::stores::{Unchanged, json};

#[derive(Serialize)]
struct Document {
    /// This one.
    instance: String,
    others: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    instance: String,
    store: &'static str,
    state: &'static str,
    seen_at: Moment,
}

/// All that are known, by store.
pub(super) async fn list(State(service): State<Arc<Service>>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let mut others = Vec::new();
    for store in service.health.report().stores {
        for (instance, peer) in store.instances {
            others.push(Row { instance, store: store.name, state: peer.word(), seen_at: Moment(peer.seen) });
        }
    }
    Ok(json(StatusCode::OK, &Document { instance: service.stores.instance(), others }))
}

/// Dismisses one that is away: 204.
pub(super) async fn dismiss(
    State(service): State<Arc<Service>>,
    segment: Segment,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Params::parse(uri.query(), &[])?;
    let path = segment.map_err(|_| Problem::from(Unchanged::NoSuchInstance))?;
    service.stores.dismiss(&path.0)?;
    Ok(StatusCode::NO_CONTENT)
}
