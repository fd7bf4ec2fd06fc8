//! The parameters that several questions share, with the bounds and defaults of the contract.

use std::time::Duration;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;

use super::Require;
use crate::health::TRAILING_HOUR_MS;
use crate::http::params::{Params, whole};
use crate::http::problem::Problem;
use crate::model::{DriverId, Hour, Tag, Tags, Timestamp};

/// The most rows of a page.
pub(super) const MAX_LIMIT: u64 = 1_000;

/// `require`, which every question has.
pub(super) fn require(params: &Params) -> Result<Require, Problem> {
    let require =
        params.read("require", "be `complete`", |text| (text == "complete").then_some(Require::Complete))?;
    Ok(require.unwrap_or(Require::Whatever))
}

/// `limit`.
pub(super) fn limit(params: &Params, default: u64) -> Result<usize, Problem> {
    let limit = params.whole("limit", "be a whole number from 1 to 1000", &(1..=MAX_LIMIT))?;
    Ok(limit.unwrap_or(default) as usize)
}

/// `max_age_s`: the trailing hour, where nothing else is asked for and so much is kept.
pub(super) fn max_age(params: &Params, retention: Duration) -> Result<Duration, Problem> {
    let must = "be a whole number of seconds from 1 to the retention";
    let max_age_s = params.whole("max_age_s", must, &(1..=retention.as_secs()))?;
    let trailing_hour = Duration::from_millis(TRAILING_HOUR_MS.unsigned_abs());
    Ok(max_age_s.map_or(trailing_hour.min(retention), Duration::from_secs))
}

/// `tags`: none, or up to eight.
pub(super) fn tags(params: &Params) -> Result<Vec<Tag>, Problem> {
    let tags = params.read("tags", "be at most 8 of 1 to 32 of a-z 0-9 _ -, parted by commas", |text| {
        let tags = text.split(',').filter(|_| !text.is_empty()).map(|tag| Tag::new(tag).ok());
        tags.collect::<Option<Vec<_>>>().filter(|tags| tags.len() <= Tags::MAX)
    })?;
    Ok(tags.unwrap_or_default())
}

/// A moment: RFC 3339, or integer milliseconds since 1970.
pub(super) fn moment(params: &Params, name: &'static str) -> Result<Option<Timestamp>, Problem> {
    params.read(name, "be RFC 3339 with an offset, or integer milliseconds since 1970", |text| {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        match whole(digits) {
            Some(ms) => i64::try_from(ms).ok().map(|ms| Timestamp::from_ms(sign * ms)),
            None => Timestamp::parse_rfc3339(text).ok(),
        }
    })
}

/// `hour`, of the query string.
pub(super) fn hour(params: &Params) -> Result<Option<Hour>, Problem> {
    params.read("hour", HOUR, |text| Hour::parse(text).ok())
}

/// The one segment of a path that is not fixed.
pub(in crate::http) type Segment = Result<Path<String>, PathRejection>;

/// `hour`, of the path.
pub(super) fn hour_in_path(segment: Segment) -> Result<Hour, Problem> {
    in_path(segment, Problem::InvalidParameter("hour", HOUR), |text| Hour::parse(text).ok())
}

/// The driver's id, of the path.
pub(in crate::http) fn driver_in_path(segment: Segment) -> Result<DriverId, Problem> {
    in_path(segment, Problem::DriverIdInvalid, |text| DriverId::new(text).ok())
}

fn in_path<T>(segment: Segment, invalid: Problem, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
    match segment {
        // Two slashes in a row: not a path of ours.
        Ok(Path(text)) if text.is_empty() => Err(Problem::NoSuchRoute),
        Ok(Path(text)) => read(&text).ok_or(invalid),
        // Not UTF-8, so neither an id nor an hour.
        Err(_) => Err(invalid),
    }
}

const HOUR: &str = "be a UTC hour written YYYYMMDDHH";

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params<'_> {
        Params::parse(Some(query), &["limit", "max_age_s", "tags", "from", "hour", "require"]).unwrap()
    }

    const RETENTION: Duration = Duration::from_hours(48);

    #[test]
    fn limits_are_from_1_to_1000() {
        assert_eq!(limit(&params(""), 10).unwrap(), 10);
        assert_eq!(limit(&params("limit=1000"), 10).unwrap(), 1_000);
        for wrong in ["0", "-1", "1001", "1e9", "9223372036854775808", "10.5", ""] {
            assert!(limit(&params(&format!("limit={wrong}")), 10).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ages_are_from_1_to_the_retention() {
        assert_eq!(max_age(&params(""), RETENTION).unwrap(), Duration::from_hours(1));
        assert_eq!(max_age(&params(""), Duration::from_mins(1)).unwrap(), Duration::from_mins(1));
        assert_eq!(max_age(&params("max_age_s=172800"), RETENTION).unwrap(), RETENTION);
        for wrong in ["0", "-1", "x", "172801", "1.5", "NaN"] {
            assert!(max_age(&params(&format!("max_age_s={wrong}")), RETENTION).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_are_at_most_eight() {
        assert!(tags(&params("tags=")).unwrap().is_empty());
        assert_eq!(tags(&params("tags=a,b")).unwrap().len(), 2);
        assert_eq!(tags(&params("tags=a,b,c,d,e,f,g,h")).unwrap().len(), 8);
        for wrong in ["A", "a,,b", ",", "a,b,c,d,e,f,g,h,i", "a b"] {
            assert!(tags(&params(&format!("tags={wrong}"))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_of_either_kind() {
        let read = |text: &str| moment(&params(&format!("from={text}")), "from").map(|ts| ts.unwrap().as_ms());
        assert_eq!(read("1795377525123").unwrap(), 1_795_377_525_123);
        assert_eq!(read("-1").unwrap(), -1);
        for same in ["2026-11-22T20:58:45.123+01:00", "2026-11-22T20:58:45.123%2B01:00", "2026-11-22T19:58:45.123Z"] {
            assert_eq!(read(same).unwrap(), 1_795_377_525_123, "{same}");
        }
        for wrong in ["", "-", "now", "2026-11-22", "2026-11-22T19:58:45", "9223372036854775808", "1.5", "--1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hours_are_real_hours() {
        let segment = |text: &str| hour_in_path(Ok(Path(text.into())));
        assert!(segment("2026112223").is_ok());
        for wrong in ["2026112224", "2026022901", "20261122", "+026112223"] {
            assert!(matches!(segment(wrong), Err(Problem::InvalidParameter("hour", _))), "{wrong}");
            assert!(hour(&params(&format!("hour={wrong}"))).is_err(), "{wrong}");
        }
        assert!(matches!(segment(""), Err(Problem::NoSuchRoute)));
    }

    #[test]
    fn ids_in_a_path_are_checked() {
        let segment = |text: &str| driver_in_path(Ok(Path(text.into())));
        assert!(segment("a:b").is_ok());
        for wrong in ["~canary", "..", "a/b", "\0"] {
            assert!(matches!(segment(wrong), Err(Problem::DriverIdInvalid)), "{wrong}");
        }
        assert!(matches!(segment(""), Err(Problem::NoSuchRoute)));
    }

    #[test]
    fn nothing_but_complete_can_be_required() {
        assert_eq!(require(&params("")).unwrap(), Require::Whatever);
        assert_eq!(require(&params("require=complete")).unwrap(), Require::Complete);
        assert!(require(&params("require=x")).is_err());
        assert!(require(&params("require=")).is_err());
    }
}
