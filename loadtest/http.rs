//! As much of HTTP/1.1 as a generator needs to be cheap: requests written digit by digit into a buffer that is used
//! again, answers read to their end and looked at no further than their status.
//!
//! Bodies have one length for one number of points, since every field has a width of its own. Never here: chunked
//! answers (nothing that is asked for has any), connections, time.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::fleet::{Fleet, Place};
use super::mix::{Ask, BACKLOG_EVERY, BACKLOG_POINTS};

/// Of an id: `drv-00000001` has twelve characters.
const ID_DIGITS: usize = 8;
/// Longer answers are not expected of anything that is asked.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What the service asks for, in seconds.
    pub(crate) retry_after_s: Option<u64>,
    /// Where the body begins in the buffer that was read into.
    pub(crate) body_at: usize,
}

/// Writes the request for `ask` at `now_ms`, milliseconds since 1970.
pub(crate) fn write(ask: Ask, fleet: &Fleet, now_ms: u64, out: &mut Vec<u8>) {
    match ask {
        Ask::Report { first, count, round } => {
            let point = |n| (first + n, now_ms, fleet.place(first + n, round));
            post((0..count).map(point), out);
        }
        Ask::Backlog { driver } => {
            let point = |n| {
                let age_ms = u64::from(BACKLOG_POINTS - 1 - n) * BACKLOG_EVERY.as_millis() as u64;
                (driver, now_ms - age_ms, fleet.place(driver, n))
            };
            post((0..BACKLOG_POINTS).map(point), out);
        }
        Ask::Nearby { who, radius_m } => {
            let place = fleet.place(who, 0);
            out.extend_from_slice(b"GET /v1/nearby?lat=");
            degrees(place.lat_e6, out);
            out.extend_from_slice(b"&lon=");
            degrees(place.lon_e6, out);
            out.extend_from_slice(format!("&radius_m={radius_m}&limit=10").as_bytes());
            out.extend_from_slice(b" HTTP/1.1\r\nHost: loadtest\r\n\r\n");
        }
    }
}

/// Writes a request for a page.
pub(crate) fn get(path: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("GET {path} HTTP/1.1\r\nHost: loadtest\r\n\r\n").as_bytes());
}

fn post(points: impl ExactSizeIterator<Item = (usize, u64, Place)>, out: &mut Vec<u8>) {
    const POINT: usize = br#"{"driver_id":"drv-00000000","ts":0000000000000,"lat":00.000000,"lon":00.000000,"speed_mps":00.0,"heading_deg":000}"#.len();
    let length = points.len() * (POINT + 1) + 1;
    let head = "POST /v1/points HTTP/1.1\r\nHost: loadtest\r\nContent-Type: application/json\r\n";
    out.extend_from_slice(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes());
    let body_at = out.len();
    for (driver, ts, place) in points {
        let before: &[u8] = if out.len() == body_at { b"[" } else { b"," };
        out.extend_from_slice(before);
        out.extend_from_slice(br#"{"driver_id":""#);
        driver_id(driver, out);
        out.extend_from_slice(br#"","ts":"#);
        digits(ts, 13, out);
        out.extend_from_slice(br#","lat":"#);
        degrees(place.lat_e6, out);
        out.extend_from_slice(br#","lon":"#);
        degrees(place.lon_e6, out);
        // From 10.0 to 19.9: a speed that differs, and has three digits.
        out.extend_from_slice(br#","speed_mps":1"#);
        let speed = (u64::from(place.lat_e6) + ts) % 100;
        digits(speed / 10, 1, out);
        out.push(b'.');
        digits(speed % 10, 1, out);
        out.extend_from_slice(br#","heading_deg":"#);
        digits(u64::from(place.heading_deg), 3, out);
        out.push(b'}');
    }
    out.push(b']');
    debug_assert_eq!(out.len() - body_at, length, "every point has the same length");
}

/// `drv-00000001`
pub(crate) fn driver_id(driver: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"drv-");
    digits(driver as u64, ID_DIGITS, out);
}

/// `52.123456`
pub(crate) fn degrees(e6: u32, out: &mut Vec<u8>) {
    digits(u64::from(e6 / 1_000_000), 2, out);
    out.push(b'.');
    digits(u64::from(e6 % 1_000_000), 6, out);
}

/// The last `width` digits of a number.
fn digits(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + width, b'0');
    for digit in out[at..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Reads an answer to its end into `buffer`, which is emptied before.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Answer> {
    buffer.clear();
    let mut looked = 0;
    let body_at = loop {
        more(stream, buffer).await?;
        if let Some(at) = buffer[looked..].windows(4).position(|four| four == b"\r\n\r\n") {
            break looked + at + 4;
        }
        looked = buffer.len().saturating_sub(3);
    };
    let head = str::from_utf8(&buffer[..body_at]).map_err(io::Error::other)?;
    let status = head.get(9..12).filter(|_| head.starts_with("HTTP/1.1 ")).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no answer in HTTP/1.1"))?;
    let length = header(head, "content-length").ok_or_else(|| io::Error::other("an answer without a length"))?;
    let retry_after_s = header(head, "retry-after");
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_ANSWER_BYTES);
    let end = body_at + length.ok_or_else(|| io::Error::other("an answer of unexpected length"))?;
    while buffer.len() < end {
        more(stream, buffer).await?;
    }
    Ok(Answer { status, retry_after_s, body_at })
}

/// Reads what has come, at least a byte.
pub(crate) async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn header(head: &str, name: &str) -> Option<u64> {
    head.lines().find_map(|line| {
        let (this, value) = line.split_once(':')?;
        this.eq_ignore_ascii_case(name).then(|| value.trim().parse().ok())?
    })
}
