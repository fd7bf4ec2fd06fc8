//! `GET /v1/nearby`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::{ask, fetch, respond};
use crate::http::Service;
use crate::http::accept::Form;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::render::{self, More, Tail};
use crate::model::{Defect, Position};
use crate::query::{Answer, Moment, Nearby};

const MAX_RADIUS_M: f64 = 100_000.0;
const DEFAULT_RADIUS_M: f64 = 3_000.0;
const DEFAULT_LIMIT: u64 = 10;

const LAT: &str = "be a number of degrees within ±85.05112878";
const LON: &str = "be a number of degrees within ±180";
const RADIUS: &str = "be a number of metres over 0, at most 100000";

/// Who is near, nearest first.
pub(in crate::http) async fn nearby(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Problem> {
    let known = ["lat", "lon", "radius_m", "limit", "max_age_s", "hour", "tags", "require"];
    let params = Params::parse(request.uri().query(), &known)?;
    let centre = centre(&params)?;
    let radius_m = params.number("radius_m", RADIUS)?.unwrap_or(DEFAULT_RADIUS_M);
    if radius_m <= 0.0 || radius_m > MAX_RADIUS_M {
        return Err(Problem::InvalidParameter("radius_m", RADIUS));
    }
    let limit = ask::limit(&params, DEFAULT_LIMIT)?;
    let max_age = ask::max_age(&params, service.queries.retention())?;
    let moment = match ask::hour(&params)? {
        Some(_) if params.text("max_age_s").is_some() => {
            return Err(Problem::InvalidParameter("max_age_s", "not be given together with `hour`"));
        }
        Some(hour) => Moment::Hour(hour),
        None => Moment::MaxAge(max_age),
    };
    let tags = ask::tags(&params)?;
    let require = ask::require(&params)?;
    let form = Form::negotiate(request.headers(), Form::LIST)?;
    let ask = Nearby { centre, radius_m, limit, moment, tags };
    let Answer { value: (drivers, truncated), index } =
        fetch(&service, require, service.queries.nearby(&ask)).await?;
    let tail = Tail { more: More::Truncated(truncated), index };
    let now = service.queries.now();
    let body = match form {
        Form::Json => render::json("drivers", None, &drivers, &tail, now),
        Form::GeoJson => render::feature_collection(&drivers, &tail, now),
        Form::NdJson => render::lines(&drivers, now),
    };
    Ok(respond(form, index, body))
}

fn centre(params: &Params) -> Result<Position, Problem> {
    let lat = params.number("lat", LAT)?.ok_or(Problem::MissingParameter("lat"))?;
    let lon = params.number("lon", LON)?.ok_or(Problem::MissingParameter("lon"))?;
    Position::new(lat, lon).map_err(|defect| match defect {
        Defect::LatOutOfRange { .. } => Problem::InvalidParameter("lat", LAT),
        _ => Problem::InvalidParameter("lon", LON),
    })
}
