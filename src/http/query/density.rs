//! `GET /v1/density`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use h3o::Resolution;

use super::{ask, fetch, respond};
use crate::http::Service;
use crate::http::accept::Form;
use crate::http::params::{Params, whole};
use crate::http::problem::Problem;
use crate::http::render::{self, CellCount, More, Tail};
use crate::query::Answer;

/// How many active drivers each cell holds.
pub(in crate::http) async fn density(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Problem> {
    let params = Params::parse(request.uri().query(), &["resolution", "max_age_s", "require"])?;
    let resolution = params.read("resolution", "be a whole number from 0 to 15", |text| {
        Resolution::try_from(u8::try_from(whole(text)?).ok()?).ok()
    })?;
    let resolution = resolution.unwrap_or(Resolution::Seven);
    let max_age = ask::max_age(&params, service.queries.retention())?;
    let require = ask::require(&params)?;
    let form = Form::negotiate(request.headers(), Form::LIST)?;
    let Answer { value: cells, index } =
        fetch(&service, require, service.queries.density(resolution, max_age)).await?;
    let cells: Vec<_> = cells.into_iter().map(|(cell, drivers)| CellCount { cell, drivers }).collect();
    let tail = Tail { more: More::Nothing, index };
    let now = service.queries.now();
    let body = match form {
        Form::Json => render::json("cells", None, &cells, &tail, now),
        Form::GeoJson => render::feature_collection(&cells, &tail, now),
        Form::NdJson => render::lines(&cells, now),
    };
    Ok(respond(form, index, body))
}
