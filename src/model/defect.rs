//! Why a point was refused. The codes are part of the contract; the details are for people, and never echo what was
//! sent.

/// What is wrong with one point. A point has at most one: the first in the order of the contract's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defect {
    /// A required field is absent or null.
    MissingField(&'static str),
    /// A field holds a JSON value of the wrong kind.
    WrongType(&'static str),
    /// Not 1 to 64 of `A-Z a-z 0-9 _ . : -` beginning with a letter, a digit or `_`; or not a whole number ≥ 0.
    DriverIdInvalid,
    /// Not RFC 3339 with an offset, nor integer milliseconds.
    TsInvalid,
    /// Older than the retention.
    TsTooOld {
        /// Whether the number would make sense as seconds, a common slip.
        looks_like_seconds: bool,
    },
    /// More than 120 s ahead.
    TsInFuture,
    /// Beyond ±85.05112878.
    LatOutOfRange {
        /// Whether `lat` and `lon` look swapped.
        looks_swapped: bool,
    },
    /// Beyond ±180.
    LonOutOfRange,
    /// Exactly 0,0: what a receiver without a fix sends.
    NullIsland,
    /// Over 1,000 m/s.
    SpeedInvalid,
    /// Over 360 degrees.
    HeadingInvalid,
    /// Over 100,000 m.
    AccuracyInvalid,
    /// Not at most 8 tags of 1 to 32 of `a-z 0-9 _ -`.
    TagsInvalid,
}

impl Defect {
    /// Every code, for the metric whose label it is.
    pub const CODES: [&'static str; 13] = [
        "missing_field",
        "wrong_type",
        "driver_id_invalid",
        "ts_invalid",
        "ts_too_old",
        "ts_in_future",
        "lat_out_of_range",
        "lon_out_of_range",
        "null_island",
        "speed_invalid",
        "heading_invalid",
        "accuracy_invalid",
        "tags_invalid",
    ];

    /// The stable code of the contract.
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingField(_) => "missing_field",
            Self::WrongType(_) => "wrong_type",
            Self::DriverIdInvalid => "driver_id_invalid",
            Self::TsInvalid => "ts_invalid",
            Self::TsTooOld { .. } => "ts_too_old",
            Self::TsInFuture => "ts_in_future",
            Self::LatOutOfRange { .. } => "lat_out_of_range",
            Self::LonOutOfRange => "lon_out_of_range",
            Self::NullIsland => "null_island",
            Self::SpeedInvalid => "speed_invalid",
            Self::HeadingInvalid => "heading_invalid",
            Self::AccuracyInvalid => "accuracy_invalid",
            Self::TagsInvalid => "tags_invalid",
        }
    }

    /// A sentence for the person who sent it.
    pub fn detail(self) -> String {
        match self {
            Self::MissingField(field) => format!("`{field}` is required"),
            Self::WrongType(field) => format!("`{field}` is of the wrong JSON type"),
            Self::DriverIdInvalid => {
                "`driver_id` must be 1 to 64 of A-Z a-z 0-9 _ . : - and begin with a letter, a digit or _; or a whole \
                 number from 0"
                    .into()
            }
            Self::TsInvalid => "`ts` must be RFC 3339 with an offset, or integer milliseconds since 1970".into(),
            Self::TsTooOld { looks_like_seconds: true } => {
                "`ts` is older than the retention; it looks like seconds, where milliseconds are expected".into()
            }
            Self::TsTooOld { looks_like_seconds: false } => "`ts` is older than the retention".into(),
            Self::TsInFuture => "`ts` is more than 120 s ahead of the service's clock".into(),
            Self::LatOutOfRange { looks_swapped: true } => {
                "`lat` must lie within ±85.05112878; lat and lon look swapped".into()
            }
            Self::LatOutOfRange { looks_swapped: false } => "`lat` must lie within ±85.05112878".into(),
            Self::LonOutOfRange => "`lon` must lie within ±180".into(),
            Self::NullIsland => "exactly 0,0 is what a receiver without a fix sends".into(),
            Self::SpeedInvalid => "`speed_mps` must be at most 1000".into(),
            Self::HeadingInvalid => "`heading_deg` must be at most 360".into(),
            Self::AccuracyInvalid => "`accuracy_m` must be at most 100000".into(),
            Self::TagsInvalid => "`tags` must be at most 8 strings of 1 to 32 of a-z 0-9 _ -".into(),
        }
    }
}
