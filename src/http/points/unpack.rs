//! Unpacking a body, never beyond [`MAX_UNPACKED_BYTES`]: a bomb of a few kilobytes costs what a large batch does.
//!
//! Never here: a guess. A body that is not wholly what its header declares is refused.

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::zstd_safe;

use super::media::Encoding;
use super::{EnvelopeError, MAX_UNPACKED_BYTES};

/// The base-2 logarithm of the largest window a zstd frame may ask for. It could not use more than the whole body.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;
const _: () = assert!(1 << ZSTD_WINDOW_LOG_MAX == MAX_UNPACKED_BYTES);

/// `ZSTD_error_frameParameter_windowTooLarge` (`zstd_errors.h`, where it is among the stable ones), in the form in
/// which the library returns errors.
const ZSTD_WINDOW_TOO_LARGE: usize = 16_usize.wrapping_neg();

/// The bytes that `body` stands for. Gzip members and zstd frames end to end are joined.
pub(super) fn unpack(body: &[u8], encoding: Encoding) -> Result<Cow<'_, [u8]>, EnvelopeError> {
    match encoding {
        Encoding::Identity => Ok(Cow::Borrowed(body)),
        // No member and no frame at all: the zstd library would take it for nothing packed well.
        Encoding::Gzip | Encoding::Zstd if body.is_empty() => Err(EnvelopeError::MalformedEncoding),
        Encoding::Gzip => read_bounded(MultiGzDecoder::new(body), body.len()),
        Encoding::Zstd => read_bounded(zstd_decoder(body).map_err(|error| refusal(&error))?, body.len()),
    }
}

fn zstd_decoder(body: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::Decoder::with_buffer(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn read_bounded(reader: impl Read, packed_bytes: usize) -> Result<Cow<'static, [u8]>, EnvelopeError> {
    /// Points in JSON usually shrink to between a fifth and a tenth.
    const USUAL_RATIO: usize = 8;
    let mut unpacked = Vec::with_capacity((packed_bytes * USUAL_RATIO).min(MAX_UNPACKED_BYTES + 1));
    reader.take(MAX_UNPACKED_BYTES as u64 + 1).read_to_end(&mut unpacked).map_err(|error| refusal(&error))?;
    if unpacked.len() > MAX_UNPACKED_BYTES { Err(EnvelopeError::BodyTooLarge) } else { Ok(unpacked.into()) }
}

fn refusal(error: &io::Error) -> EnvelopeError {
    if error.to_string() == zstd_safe::get_error_name(ZSTD_WINDOW_TOO_LARGE) {
        EnvelopeError::BodyTooLarge
    } else {
        EnvelopeError::MalformedEncoding
    }
}
