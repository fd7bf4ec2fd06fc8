//! What a body is, by its headers: `Content-Type` and `Content-Encoding`.
//!
//! Never here: a look at the body. What the headers say is what it is read as.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::EnvelopeError;

/// How to read a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub(super) syntax: Syntax,
    pub(super) encoding: Encoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// One document.
    Json,
    /// A document a line.
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Format {
    /// What the headers of a request say; the media type is judged first.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, EnvelopeError> {
        let syntax = only(headers, &CONTENT_TYPE).ok().flatten().and_then(syntax);
        let syntax = syntax.ok_or(EnvelopeError::UnsupportedMediaType)?;
        let encoding = only(headers, &CONTENT_ENCODING).ok().and_then(encoding);
        let encoding = encoding.ok_or(EnvelopeError::UnsupportedEncoding)?;
        Ok(Self { syntax, encoding })
    }
}

/// Neither of these headers makes sense in several lines, or with letters beyond ASCII.
struct Unclear;

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Unclear> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::to_str);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        _ => Err(Unclear),
    }
}

/// RFC 9110 8.3: type and subtype in any case, then parameters. A charset other than UTF-8 is refused, for the body
/// would be read as what it is not; other parameters change nothing.
fn syntax(content_type: &str) -> Option<Syntax> {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next()?;
    let is_utf8 = parts.filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        !name.eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
    });
    match essence {
        _ if !is_utf8 => None,
        json if json.eq_ignore_ascii_case("application/json") => Some(Syntax::Json),
        ndjson if ndjson.eq_ignore_ascii_case("application/x-ndjson") => Some(Syntax::Ndjson),
        _ => None,
    }
}

/// RFC 9110 8.4: codings in any case, `x-gzip` the same as `gzip`. Of a list, however short, none is unpacked: that
/// is how bombs are nested.
fn encoding(content_encoding: Option<&str>) -> Option<Encoding> {
    match content_encoding.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Some(Encoding::Identity),
        "gzip" | "x-gzip" => Some(Encoding::Gzip),
        "zstd" => Some(Encoding::Zstd),
        _ => None,
    }
}
