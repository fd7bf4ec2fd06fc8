//! What peers are told and asked, in RESP: plain commands of Redis, and those of Tile38 that do the same.
//!
//! Peers are given the cheapest form there is: a batch of Redis is one command, a batch of Tile38 one pipeline. They keep
//! the newest place of a driver and nothing else: no history, no newest-wins, nothing on disk before the answer. The
//! words for Tile38 follow its documentation and the grammar in its sources, and were never sent to one. Never here:
//! connections, time.

use std::io;

use tokio::io::AsyncRead;

use super::fleet::Fleet;
use super::http::{degrees, driver_id, more};
use super::mix::Ask;

/// The one key.
const KEY: &[u8] = b"loadtest:positions";
/// The trailing hour, twice, in seconds.
const EXPIRE_S: &[u8] = b"7200";

/// Writes the commands of Redis for `ask`, and returns how many there are.
pub(crate) fn write_redis(ask: Ask, fleet: &Fleet, out: &mut Vec<u8>) -> usize {
    match ask {
        Ask::Report { first, count, round } => {
            begin(2 + 3 * count, out);
            word(b"GEOADD", out);
            word(KEY, out);
            for driver in first..first + count {
                let place = fleet.place(driver, round);
                word(&written(|out| degrees(place.lon_e6, out)), out);
                word(&written(|out| degrees(place.lat_e6, out)), out);
                word(&written(|out| driver_id(driver, out)), out);
            }
            command(&[b"EXPIRE", KEY, EXPIRE_S], out);
            2
        }
        Ask::Nearby { who, radius_m } => {
            let (lat, lon) = centre(fleet, who);
            let radius = radius_m.to_string();
            command(
                &[
                    b"GEOSEARCH",
                    KEY,
                    b"FROMLONLAT",
                    &lon,
                    &lat,
                    b"BYRADIUS",
                    radius.as_bytes(),
                    b"m",
                    b"ASC",
                    b"COUNT",
                    b"10",
                    b"WITHCOORD",
                    b"WITHDIST",
                ],
                out,
            );
            1
        }
        Ask::Backlog { .. } => unreachable!("a peer keeps no history and is spared the stampede"),
    }
}

/// Writes the commands of Tile38 for `ask`, and returns how many there are.
pub(crate) fn write_tile38(ask: Ask, fleet: &Fleet, out: &mut Vec<u8>) -> usize {
    match ask {
        Ask::Report { first, count, round } => {
            for driver in first..first + count {
                let place = fleet.place(driver, round);
                let (lat, lon) =
                    (written(|out| degrees(place.lat_e6, out)), written(|out| degrees(place.lon_e6, out)));
                let id = written(|out| driver_id(driver, out));
                command(&[b"SET", b"loadtest", &id, b"EX", EXPIRE_S, b"POINT", &lat, &lon], out);
            }
            count
        }
        Ask::Nearby { who, radius_m } => {
            let (lat, lon) = centre(fleet, who);
            let radius = radius_m.to_string();
            command(
                &[b"NEARBY", b"loadtest", b"LIMIT", b"10", b"DISTANCE", b"POINT", &lat, &lon, radius.as_bytes()],
                out,
            );
            1
        }
        Ask::Backlog { .. } => unreachable!("a peer keeps no history and is spared the stampede"),
    }
}

fn centre(fleet: &Fleet, who: usize) -> (Vec<u8>, Vec<u8>) {
    let place = fleet.place(who, 0);
    (written(|out| degrees(place.lat_e6, out)), written(|out| degrees(place.lon_e6, out)))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    write(&mut out);
    out
}

/// Writes a command.
pub(crate) fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    begin(words.len(), out);
    for text in words {
        word(text, out);
    }
}

fn begin(words: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{words}\r\n").as_bytes());
}

fn word(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Reads `count` replies into `buffer`, which is emptied before; whether none of them was an error.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    count: usize,
    buffer: &mut Vec<u8>,
) -> io::Result<bool> {
    buffer.clear();
    let (mut at, mut is_good) = (0, true);
    for _ in 0..count {
        at = loop {
            match reply_end(buffer, at, &mut is_good)? {
                Some(end) => break end,
                None => more(stream, buffer).await?,
            }
        };
    }
    Ok(is_good)
}

/// Where the reply that begins at `at` ends; `None`: more of it is to come.
fn reply_end(bytes: &[u8], at: usize, is_good: &mut bool) -> io::Result<Option<usize>> {
    let Some(length) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, mut end) = (&bytes[at..at + length], at + length + 2);
    let number = || {
        let number =
            line.get(1..).and_then(|text| str::from_utf8(text).ok()).and_then(|text| text.parse::<i64>().ok());
        number.ok_or_else(|| io::Error::other("not RESP"))
    };
    match line.first() {
        Some(b'+' | b':') => {}
        Some(b'-') => *is_good = false,
        Some(b'$') => {
            if let Ok(length) = usize::try_from(number()?) {
                end += length + 2;
            }
        }
        Some(b'*') => {
            for _ in 0..number()? {
                match reply_end(bytes, end, is_good)? {
                    Some(inner) => end = inner,
                    None => return Ok(None),
                }
            }
        }
        _ => return Err(io::Error::other("not RESP")),
    }
    Ok((end <= bytes.len()).then_some(end))
}
