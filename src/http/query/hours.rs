//! `GET /v1/hours/{hour}/drivers` and `GET /v1/hours/{hour}/positions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::ask::{self, Segment};
use super::list::{self, Listing, Rows};
use crate::http::Service;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::model::{DriverId, Hour};
use crate::query::{Answer, Queries, QueryError};
use crate::store::Located;

const PARAMETERS: &[&str] = &["limit", "cursor", "require"];

/// Who reported in an hour.
struct Drivers(Hour);

impl Listing for Drivers {
    type Row = DriverId;
    type Mark = DriverId;
    const MEMBER: &'static str = "drivers";

    fn identity(&self) -> String {
        format!("hour drivers {}", self.0)
    }

    async fn page(
        &self,
        queries: &Queries,
        from: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Rows<Self>>, QueryError> {
        let Answer { value, index } = queries.hour_drivers(self.0, from, limit).await?;
        Ok(Answer { value: value.into(), index })
    }
}

/// Where each driver last was in an hour.
struct Positions(Hour);

impl Listing for Positions {
    type Row = Located;
    type Mark = DriverId;
    const MEMBER: &'static str = "drivers";

    fn identity(&self) -> String {
        format!("hour positions {}", self.0)
    }

    async fn page(
        &self,
        queries: &Queries,
        from: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Rows<Self>>, QueryError> {
        let Answer { value, index } = queries.hour_positions(self.0, from, limit).await?;
        Ok(Answer { value: value.into(), index })
    }
}

/// Lists who reported in an hour.
pub(in crate::http) async fn hour_drivers(
    State(service): State<Arc<Service>>,
    segment: Segment,
    request: Request,
) -> Result<Response, Problem> {
    let hour = ask::hour_in_path(segment)?;
    let params = Params::parse(request.uri().query(), PARAMETERS)?;
    list::answer(service, request.headers(), &params, Drivers(hour)).await
}

/// Lists where each driver last was in an hour.
pub(in crate::http) async fn hour_positions(
    State(service): State<Arc<Service>>,
    segment: Segment,
    request: Request,
) -> Result<Response, Problem> {
    let hour = ask::hour_in_path(segment)?;
    let params = Params::parse(request.uri().query(), PARAMETERS)?;
    list::answer(service, request.headers(), &params, Positions(hour)).await
}
