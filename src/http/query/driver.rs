//! `GET /v1/drivers/{id}` and `GET /v1/drivers/{id}/track`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::ask::Segment;
use super::list::{self, Listing, Rows};
use super::{ask, fetch, respond};
use crate::health::TRAILING_HOUR_MS;
use crate::http::Service;
use crate::http::accept::Form;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::render;
use crate::model::{DriverId, MAX_AHEAD_MS, Point, Timestamp};
use crate::query::{Answer, Queries, QueryError};

/// Where a driver is.
pub(in crate::http) async fn latest(
    State(service): State<Arc<Service>>,
    segment: Segment,
    request: Request,
) -> Result<Response, Problem> {
    let driver = ask::driver_in_path(segment)?;
    let params = Params::parse(request.uri().query(), &["require"])?;
    let require = ask::require(&params)?;
    let form = Form::negotiate(request.headers(), Form::SINGLE)?;
    let Answer { value: located, index } = fetch(&service, require, service.queries.latest(&driver)).await?;
    Ok(respond(form, index, render::row(&located, index, service.queries.now())))
}

/// Where a driver was.
struct Track {
    driver: DriverId,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Track {
    /// From when to when, at the moment: the trailing hour, where nothing else is asked for, and all that counts as
    /// now.
    fn span(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let from = self.from.unwrap_or(now.plus_ms(-TRAILING_HOUR_MS));
        let to = self.to.unwrap_or(now.plus_ms(MAX_AHEAD_MS + 1));
        (from, to)
    }
}

impl Listing for Track {
    type Row = Point;
    type Mark = Timestamp;
    const MEMBER: &'static str = "points";

    fn identity(&self) -> String {
        let bound = |ts: Option<Timestamp>| ts.map_or("-".into(), |ts| ts.as_ms().to_string());
        format!("track {} {} {}", self.driver, bound(self.from), bound(self.to))
    }

    fn subject(&self) -> Option<&DriverId> {
        Some(&self.driver)
    }

    async fn page(
        &self,
        queries: &Queries,
        mark: Option<&Timestamp>,
        limit: usize,
    ) -> Result<Answer<Rows<Self>>, QueryError> {
        let (from, to) = self.span(queries.now());
        let from = mark.copied().unwrap_or(from);
        let Answer { value, index } = queries.track(&self.driver, from, to, limit).await?;
        let point = |fix| Point { driver: self.driver.clone(), fix };
        let rows = value.fixes.into_iter().map(point).collect();
        Ok(Answer { value: Rows { rows, next: value.next_from }, index })
    }
}

/// Lists where a driver was.
pub(in crate::http) async fn track(
    State(service): State<Arc<Service>>,
    segment: Segment,
    request: Request,
) -> Result<Response, Problem> {
    let driver = ask::driver_in_path(segment)?;
    let params = Params::parse(request.uri().query(), &["from", "to", "limit", "cursor", "require"])?;
    let (from, to) = (ask::moment(&params, "from")?, ask::moment(&params, "to")?);
    let track = Track { driver, from, to };
    let (from, to) = track.span(service.queries.now());
    if from > to {
        return Err(Problem::InvalidParameter("from", "not be after `to`"));
    }
    list::answer(service, request.headers(), &params, track).await
}
