//! From the body of a request to points: media type, encoding, syntax, envelope, points, in this order.
//!
//! Two kinds of fault are kept apart. One in the envelope fails the whole request ([`EnvelopeError`]); one in a point
//! costs that point alone ([`Defect`]). What is not JSON in the strictest reading is a fault of the envelope, also
//! deep inside a field nobody asked about: no two parsers can then read two different requests.
//!
//! | file | from | to |
//! |---|---|---|
//! | `media` | headers | [`Format`] |
//! | `unpack` | bytes on the wire | bytes, bounded |
//! | `json` | text | each element of the batch |
//! | `raw_point` | an element | its fields, not judged yet |
//! | `value` | any JSON value | what a field makes of it |
//! | `validate` | fields | [`Point`] or [`Defect`] |
//!
//! Never here: I/O, a clock, axum, a status code, a text that repeats what was sent.

mod json;
mod media;
mod raw_point;
mod unpack;
mod validate;
mod value;

use thiserror::Error;

pub use media::Format;

use crate::model::{Defect, Point, Timestamp};
use media::Syntax;
use raw_point::RawPoint;

/// The longest body on the wire.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// The longest body once unpacked.
pub const MAX_UNPACKED_BYTES: usize = 16 << 20;
/// The most points of one request.
pub const MAX_POINTS: usize = 10_000;

/// What decides whether a time is acceptable.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The service's clock.
    pub now: Timestamp,
    /// How far back, in milliseconds, a point may lie.
    pub retention_ms: i64,
}

/// What a well-formed request held. Never empty: every element is a point or a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What was accepted, in the order sent.
    pub points: Vec<Point>,
    /// How many were sent.
    pub received: usize,
    /// What was refused, by rising index.
    pub rejected: Vec<Rejected>,
}

/// A point that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its place among the points sent, from 0.
    pub index: usize,
    /// Why.
    pub defect: Defect,
}

/// Why a whole request was refused. Its text is for the caller, and says nothing of what was sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum EnvelopeError {
    /// Neither of the two media types, or not in UTF-8.
    #[error("the body must be application/json or application/x-ndjson, in UTF-8")]
    UnsupportedMediaType,
    /// An encoding other than one of gzip and zstd.
    #[error("the body may be encoded as gzip or as zstd, once")]
    UnsupportedEncoding,
    /// Not what its encoding declares, cut short, or followed by something else.
    #[error("the body cannot be unpacked as its Content-Encoding says")]
    MalformedEncoding,
    /// Not JSON, or not an array of points, or a field of the service's is repeated.
    #[error(
        "the body must be valid JSON: an array of points, or an object with them in `points`; as NDJSON, an object a \
         line; no field twice"
    )]
    MalformedJson,
    /// Over [`MAX_BODY_BYTES`] or [`MAX_UNPACKED_BYTES`].
    #[error("the body must be at most 4 MiB, and 16 MiB unpacked")]
    BodyTooLarge,
    /// Over [`MAX_POINTS`].
    #[error("a request may hold at most 10000 points")]
    BatchTooLarge,
    /// No point at all.
    #[error("the request holds no points")]
    EmptyBatch,
}

impl EnvelopeError {
    /// The stable code of the contract.
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::MalformedEncoding => "malformed_encoding",
            Self::MalformedJson => "malformed_json",
            Self::BodyTooLarge => "body_too_large",
            Self::BatchTooLarge => "batch_too_large",
            Self::EmptyBatch => "empty_batch",
        }
    }

    /// A sentence for the person who sent it.
    pub fn detail(self) -> String {
        self.to_string()
    }
}

/// Reads `body`, as it came over the wire, and judges each point by `rules`. Takes time in proportion to the unpacked
/// body, and memory for at most [`MAX_UNPACKED_BYTES`] of it and for [`MAX_POINTS`] points.
pub fn parse(body: &[u8], format: Format, rules: &Rules) -> Result<Parsed, EnvelopeError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(EnvelopeError::BodyTooLarge);
    }
    let unpacked = unpack::unpack(body, format.encoding)?;
    let text = str::from_utf8(&unpacked).map_err(|_| EnvelopeError::MalformedJson)?;
    let mut batch = Batch::new(rules, text.len());
    let well_formed = match format.syntax {
        Syntax::Json => json::read_document(text, &mut batch),
        Syntax::Ndjson => json::read_lines(text, &mut batch),
    };
    well_formed.map_err(|_| EnvelopeError::MalformedJson)?;
    batch.finish()
}

/// What has been read so far. Past [`MAX_POINTS`] it only counts, so that the syntax of the rest is still judged.
struct Batch<'r> {
    rules: &'r Rules,
    parsed: Parsed,
}

impl<'r> Batch<'r> {
    /// Bytes of a point with everything in it, about: so that most batches never move.
    const USUAL_POINT_BYTES: usize = 100;

    fn new(rules: &'r Rules, text_bytes: usize) -> Self {
        let points = Vec::with_capacity((text_bytes / Self::USUAL_POINT_BYTES + 1).min(MAX_POINTS));
        Self { rules, parsed: Parsed { points, received: 0, rejected: Vec::new() } }
    }

    /// Takes the next element; `None` is one that is no object.
    fn add(&mut self, element: Option<RawPoint<'_>>) {
        let index = self.parsed.received;
        self.parsed.received += 1;
        if index >= MAX_POINTS {
            return;
        }
        let judged = element.ok_or(Defect::WrongType("point")).and_then(|raw| validate::validate(raw, self.rules));
        match judged {
            Ok(point) => self.parsed.points.push(point),
            Err(defect) => self.parsed.rejected.push(Rejected { index, defect }),
        }
    }

    fn finish(self) -> Result<Parsed, EnvelopeError> {
        match self.parsed.received {
            0 => Err(EnvelopeError::EmptyBatch),
            1..=MAX_POINTS => Ok(self.parsed),
            _ => Err(EnvelopeError::BatchTooLarge),
        }
    }
}
