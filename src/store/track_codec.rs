//! The track of one driver within one hour, as bytes: the form both stores keep history in.
//!
//! A *chunk* is one absolute fix and any number that follow as differences from the one before. Chunks can be
//! concatenated, so a store may append what it got without reading what it has. The order is that of arrival: late
//! points give negative differences. Nothing is lost or rounded; sorting and deduplicating is the reader's business.
//!
//! A fix is a byte of flags and then, integers little endian, "varint" meaning 7 bits a byte with the lowest first:
//!
//! | part | absolute | difference |
//! |---|---|---|
//! | time within the hour | u16 seconds or u24 ms | varint seconds or ms, the sign in the flags |
//! | latitude, longitude (1e-7°) | i32 each | zigzag varint each |
//! | speed, heading, accuracy, where flagged | zigzag varint from 0 | zigzag varint from the one before, or from 0 |
//! | tags, where flagged as given | varint length, then joined by commas | the same |
//!
//! Never here: files, keys, checksums.

use thiserror::Error;

use crate::model::{Accuracy, Fix, Heading, Hour, Position, Speed, Tags, Timestamp};

const ABSOLUTE: u8 = 1;
const WHOLE_SECONDS: u8 = 1 << 1;
const SPEED: u8 = 1 << 2;
const HEADING: u8 = 1 << 3;
const ACCURACY: u8 = 1 << 4;
const TAGS_SAME: u8 = 1 << 5;
const TAGS_GIVEN: u8 = 1 << 6;
const EARLIER: u8 = 1 << 7;

const MS_PER_SECOND: i64 = 1_000;

/// The bytes are not a sequence of chunks of this hour.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("malformed track")]
pub struct Malformed;

/// Appends `fixes`, all of `hour`, as one chunk; nothing if there are none.
pub fn encode_chunk<'a>(hour: Hour, fixes: impl IntoIterator<Item = &'a Fix>, out: &mut Vec<u8>) {
    let mut previous = None;
    for fix in fixes {
        encode(hour, previous, fix, out);
        previous = Some(fix);
    }
}

/// The fixes in `bytes`, any number of chunks of `hour`, in the order they were put in.
pub fn decode(hour: Hour, bytes: &[u8]) -> Result<Vec<Fix>, Malformed> {
    decoder(hour, bytes).collect()
}

/// As [`decode`], one at a time. After an error it ends.
pub const fn decoder(hour: Hour, bytes: &[u8]) -> Decoder<'_> {
    Decoder { hour, bytes, previous: None }
}

/// Reads fixes one at a time.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    hour: Hour,
    bytes: &'a [u8],
    previous: Option<Fix>,
}

impl Iterator for Decoder<'_> {
    type Item = Result<Fix, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let fix = self.fix();
        match &fix {
            Ok(fix) => self.previous = Some(fix.clone()),
            Err(Malformed) => self.bytes = &[],
        }
        Some(fix)
    }
}

fn encode(hour: Hour, previous: Option<&Fix>, fix: &Fix, out: &mut Vec<u8>) {
    debug_assert_eq!(fix.ts.hour(), hour, "a chunk is of one hour");
    let at = out.len();
    let mut flags = 0;
    out.push(0);
    let step_ms = fix.ts.ms_since(previous.map_or(hour.start(), |previous| previous.ts));
    let is_whole = step_ms % MS_PER_SECOND == 0;
    let step = if is_whole { step_ms / MS_PER_SECOND } else { step_ms };
    flags |= if is_whole { WHOLE_SECONDS } else { 0 };
    let (lat, lon) = (fix.position.lat_e7(), fix.position.lon_e7());
    if let Some(previous) = previous {
        flags |= if step < 0 { EARLIER } else { 0 };
        put_varint(out, step.unsigned_abs());
        put_signed(out, i64::from(lat) - i64::from(previous.position.lat_e7()));
        put_signed(out, i64::from(lon) - i64::from(previous.position.lon_e7()));
    } else {
        flags |= ABSOLUTE;
        out.extend_from_slice(&step.to_le_bytes()[..if is_whole { 2 } else { 3 }]);
        out.extend_from_slice(&lat.to_le_bytes());
        out.extend_from_slice(&lon.to_le_bytes());
    }
    let measures = [
        (SPEED, fix.speed.map(speed_units), previous.and_then(|fix| fix.speed).map(speed_units)),
        (HEADING, fix.heading.map(heading_units), previous.and_then(|fix| fix.heading).map(heading_units)),
        (ACCURACY, fix.accuracy.map(accuracy_units), previous.and_then(|fix| fix.accuracy).map(accuracy_units)),
    ];
    for (flag, value, before) in measures {
        if let Some(value) = value {
            flags |= flag;
            put_signed(out, value - before.unwrap_or(0));
        }
    }
    if !fix.tags.is_empty() {
        if previous.is_some_and(|previous| previous.tags == fix.tags) {
            flags |= TAGS_SAME;
        } else {
            flags |= TAGS_GIVEN;
            let joined = fix.tags.joined().as_bytes();
            put_varint(out, joined.len() as u64);
            out.extend_from_slice(joined);
        }
    }
    out[at] = flags;
}

fn speed_units(speed: Speed) -> i64 {
    i64::from(speed.steps())
}

fn heading_units(heading: Heading) -> i64 {
    i64::from(heading.tenths())
}

fn accuracy_units(accuracy: Accuracy) -> i64 {
    i64::from(accuracy.dm())
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}

impl Decoder<'_> {
    fn fix(&mut self) -> Result<Fix, Malformed> {
        let [flags] = self.take()?;
        let previous = self.previous.take();
        let previous = match (flags & ABSOLUTE != 0, &previous) {
            (true, _) if flags & (EARLIER | TAGS_SAME) == 0 => None,
            (false, Some(previous)) => Some(previous),
            _ => return Err(Malformed),
        };
        let ts = self.ts(flags, previous)?;
        let position = self.position(previous)?;
        let speed = self.measure(flags & SPEED != 0, previous.and_then(|fix| fix.speed).map(speed_units))?;
        let heading = self.measure(flags & HEADING != 0, previous.and_then(|fix| fix.heading).map(heading_units))?;
        let accuracy =
            self.measure(flags & ACCURACY != 0, previous.and_then(|fix| fix.accuracy).map(accuracy_units))?;
        Ok(Fix {
            ts,
            position,
            speed: checked(speed, |units| Speed::from_steps(u16::try_from(units).ok()?))?,
            heading: checked(heading, |units| Heading::from_tenths(u16::try_from(units).ok()?))?,
            accuracy: checked(accuracy, |units| Accuracy::from_dm(u32::try_from(units).ok()?))?,
            tags: self.tags(flags, previous)?,
        })
    }

    fn ts(&mut self, flags: u8, previous: Option<&Fix>) -> Result<Timestamp, Malformed> {
        let is_whole = flags & WHOLE_SECONDS != 0;
        let step = match (previous, is_whole) {
            (None, true) => i64::from(u16::from_le_bytes(self.take()?)),
            (None, false) => {
                let [low, mid, high] = self.take()?;
                i64::from(u32::from_le_bytes([low, mid, high, 0]))
            }
            (Some(_), _) => i64::try_from(self.varint()?).map_err(|_| Malformed)?,
        };
        let step = if flags & EARLIER != 0 { -step } else { step };
        let step_ms = step.checked_mul(if is_whole { MS_PER_SECOND } else { 1 }).ok_or(Malformed)?;
        let ts = previous.map_or(self.hour.start(), |previous| previous.ts).plus_ms(step_ms);
        if ts.hour() == self.hour { Ok(ts) } else { Err(Malformed) }
    }

    fn position(&mut self, previous: Option<&Fix>) -> Result<Position, Malformed> {
        let (lat, lon) = if let Some(Fix { position, .. }) = previous {
            let lat = i64::from(position.lat_e7()).checked_add(self.signed()?);
            let lon = i64::from(position.lon_e7()).checked_add(self.signed()?);
            let narrow = |e7: Option<i64>| e7.and_then(|e7| i32::try_from(e7).ok()).ok_or(Malformed);
            (narrow(lat)?, narrow(lon)?)
        } else {
            (i32::from_le_bytes(self.take()?), i32::from_le_bytes(self.take()?))
        };
        Position::from_e7(lat, lon).ok_or(Malformed)
    }

    fn measure(&mut self, is_given: bool, before: Option<i64>) -> Result<Option<i64>, Malformed> {
        if is_given { self.signed()?.checked_add(before.unwrap_or(0)).map(Some).ok_or(Malformed) } else { Ok(None) }
    }

    fn tags(&mut self, flags: u8, previous: Option<&Fix>) -> Result<Tags, Malformed> {
        match (flags & TAGS_SAME != 0, flags & TAGS_GIVEN != 0) {
            (false, false) => Ok(Tags::NONE),
            (true, false) => previous.map(|previous| previous.tags.clone()).ok_or(Malformed),
            (false, true) => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                let (joined, rest) = self.bytes.split_at_checked(length).ok_or(Malformed)?;
                self.bytes = rest;
                let joined = std::str::from_utf8(joined).map_err(|_| Malformed)?;
                Tags::from_joined(joined).map_err(|_| Malformed)
            }
            (true, true) => Err(Malformed),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

fn checked<T>(units: Option<i64>, check: impl FnOnce(i64) -> Option<T>) -> Result<Option<T>, Malformed> {
    units.map(|units| check(units).ok_or(Malformed)).transpose()
}
