//! Judging one point: the contract's fields in the contract's order, each by presence, kind, value. The first defect
//! is the point's.

use super::Rules;
use super::raw_point::{RawPoint, Scalar};
use crate::model::{Accuracy, Defect, DriverId, Fix, Heading, MAX_AHEAD_MS, Point, Position, Speed, Tags, Timestamp};

/// The point that `raw` stands for, or what is wrong with it.
pub(super) fn validate(raw: RawPoint<'_>, rules: &Rules) -> Result<Point, Defect> {
    let driver = driver(&raw.driver_id.required("driver_id")?)?;
    let ts = moment(&raw.ts.required("ts")?, rules)?;
    let position = position(raw.lat.required("lat")?, raw.lon.required("lon"))?;
    let speed = raw.speed_mps.optional("speed_mps")?.map_or(Ok(None), Speed::from_mps)?;
    let heading = raw.heading_deg.optional("heading_deg")?.map_or(Ok(None), Heading::from_deg)?;
    let accuracy = raw.accuracy_m.optional("accuracy_m")?.map_or(Ok(None), Accuracy::from_m)?;
    let tags = raw.tags.optional("tags")?.unwrap_or_default();
    let tags = Tags::new(tags.iter().map(AsRef::as_ref))?;
    Ok(Point { driver, fix: Fix { ts, position, speed, heading, accuracy, tags } })
}

fn driver(sent: &Scalar<'_>) -> Result<DriverId, Defect> {
    match sent {
        Scalar::Text(text) => DriverId::new(text),
        Scalar::Integer(digits) => digits.parse().map(DriverId::from_number).map_err(|_| Defect::DriverIdInvalid),
    }
}

fn moment(sent: &Scalar<'_>, rules: &Rules) -> Result<Timestamp, Defect> {
    let ts = match sent {
        Scalar::Text(text) => Timestamp::parse_rfc3339(text).map_err(|_| Defect::TsInvalid)?,
        Scalar::Integer(digits) => digits.parse().map(Timestamp::from_ms).map_err(|_| Defect::TsInvalid)?,
    };
    if ts < rules.now.plus_ms(-rules.retention_ms) {
        let looks_like_seconds = matches!(sent, Scalar::Integer(_)) && looks_like_seconds(ts.as_ms(), rules);
        Err(Defect::TsTooOld { looks_like_seconds })
    } else if ts > rules.now.plus_ms(MAX_AHEAD_MS) {
        Err(Defect::TsInFuture)
    } else {
        Ok(ts)
    }
}

/// Whether a number, taken as seconds, lies between 2001 and now: a backlog may be old, but not older than that.
fn looks_like_seconds(number: i64, rules: &Rules) -> bool {
    const YEAR_2001_S: i64 = 1_000_000_000;
    number >= YEAR_2001_S && number.saturating_mul(1_000) <= rules.now.plus_ms(MAX_AHEAD_MS).as_ms()
}

/// `lat` comes before `lon` also where `lon` is not even there, so its range is judged without.
fn position(lat: f64, lon: Result<f64, Defect>) -> Result<Position, Defect> {
    let position = Position::new(lat, lon.unwrap_or(f64::NAN)).map_err(|defect| match (defect, lon) {
        (Defect::LonOutOfRange, Err(of_lon)) => of_lon,
        _ => defect,
    })?;
    // The numbers as sent: 1e-9 would be kept as 0, and is not what a receiver without a fix sends.
    if lat == 0.0 && lon == Ok(0.0) { Err(Defect::NullIsland) } else { Ok(position) }
}
