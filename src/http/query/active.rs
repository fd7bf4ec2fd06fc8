//! `GET /v1/active` and `GET /v1/active/count`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use super::list::{self, Listing, Rows};
use super::{ask, fetch, respond};
use crate::http::Service;
use crate::http::accept::Form;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::render;
use crate::model::{DriverId, Tag};
use crate::query::{Answer, Queries, QueryError};
use crate::store::Located;

/// Who is active.
struct Active {
    max_age: Duration,
    tags: Vec<Tag>,
}

impl Listing for Active {
    type Row = Located;
    type Mark = DriverId;
    const MEMBER: &'static str = "drivers";

    fn identity(&self) -> String {
        let tags: Vec<_> = self.tags.iter().map(Tag::as_str).collect();
        format!("active {} {}", self.max_age.as_secs(), tags.join(","))
    }

    async fn page(
        &self,
        queries: &Queries,
        from: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Rows<Self>>, QueryError> {
        let Answer { value, index } = queries.active(self.max_age, &self.tags, from, limit).await?;
        Ok(Answer { value: value.into(), index })
    }
}

/// Lists the active drivers.
pub(in crate::http) async fn active(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Problem> {
    let params = Params::parse(request.uri().query(), &["max_age_s", "limit", "cursor", "tags", "require"])?;
    let max_age = ask::max_age(&params, service.queries.retention())?;
    let tags = ask::tags(&params)?;
    list::answer(service, request.headers(), &params, Active { max_age, tags }).await
}

/// Counts the active drivers.
pub(in crate::http) async fn active_count(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Count {
        count: u64,
    }
    let params = Params::parse(request.uri().query(), &["max_age_s", "require"])?;
    let max_age = ask::max_age(&params, service.queries.retention())?;
    let require = ask::require(&params)?;
    let form = Form::negotiate(request.headers(), Form::SINGLE)?;
    let Answer { value: count, index } = fetch(&service, require, service.queries.active_count(max_age)).await?;
    Ok(respond(form, index, render::object(&Count { count }, index)))
}
