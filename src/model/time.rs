//! When: moments and hours.
//!
//! RFC 3339 is read here rather than by a library, because the contract refuses much of what libraries forgive
//! (`24:00`, second 60, a blank for `T`, a missing offset) and takes what they refuse (a fraction of 12 digits, cut
//! to milliseconds and never rounded into the next hour). The calendar itself is `jiff`'s.

use std::fmt;

use jiff::civil;
use thiserror::Error;

/// How far ahead of the service's clock a phone's may be: its points then count as now.
pub const MAX_AHEAD_MS: i64 = 120_000;

const MS_PER_HOUR: i64 = 3_600_000;

/// A moment: milliseconds since 1970-01-01T00:00:00Z. Shown as RFC 3339 in UTC with three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not RFC 3339 with an offset.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not an RFC 3339 time with an offset")]
pub struct InvalidTime;

/// The text is not `YYYYMMDDHH`.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not an hour written YYYYMMDDHH")]
pub struct InvalidHour;

impl Timestamp {
    /// From milliseconds since 1970.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// The hour it belongs to.
    pub fn hour(self) -> Hour {
        Hour(i32::try_from(self.0.div_euclid(MS_PER_HOUR)).unwrap_or(if self.0 < 0 { i32::MIN } else { i32::MAX }))
    }

    /// `ms` later (earlier if negative), stopping at the ends of the range.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this; negative if it is the other way round.
    pub const fn ms_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Written as `2026-11-22T19:58:45.123Z`; `None` for years of other than four digits.
    pub fn to_rfc3339(self) -> Option<[u8; 24]> {
        let time = jiff::Timestamp::from_millisecond(self.0).ok()?;
        let time = jiff::tz::Offset::UTC.to_datetime(time);
        let (year, ms) = (u16::try_from(time.year()).ok()?, time.subsec_nanosecond() as u32 / 1_000_000);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |at: usize, number: u32, digits: usize| {
            let mut rest = number;
            for digit in text[at..at + digits].iter_mut().rev() {
                *digit += (rest % 10) as u8;
                rest /= 10;
            }
        };
        put(0, year.into(), 4);
        put(5, time.month() as u32, 2);
        put(8, time.day() as u32, 2);
        put(11, time.hour() as u32, 2);
        put(14, time.minute() as u32, 2);
        put(17, time.second() as u32, 2);
        put(20, ms, 3);
        Some(text)
    }

    /// Reads `2026-11-22T19:58:45.123+05:45`; fractions beyond milliseconds are cut.
    pub fn parse_rfc3339(text: &str) -> Result<Self, InvalidTime> {
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(19).ok_or(InvalidTime)?;
        let punctuated = head[4] == b'-'
            && head[7] == b'-'
            && matches!(head[10], b'T' | b't')
            && head[13] == b':'
            && head[16] == b':';
        if !punctuated {
            return Err(InvalidTime);
        }
        let (year, month, day) = (number(&head[0..4])?, number(&head[5..7])?, number(&head[8..10])?);
        let (hour, minute, second) = (number(&head[11..13])?, number(&head[14..16])?, number(&head[17..19])?);
        if hour > 23 || minute > 59 || second > 59 {
            return Err(InvalidTime);
        }
        let (fraction_ms, zone) = fraction_ms(rest)?;
        let date = civil::Date::new(year as i16, month as i8, day as i8).map_err(|_| InvalidTime)?;
        let days = i64::from((date - civil::date(1970, 1, 1)).get_days());
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset_s(zone)?;
        Ok(Self(seconds * 1_000 + fraction_ms))
    }
}

/// All digits, as a number.
fn number(digits: &[u8]) -> Result<i64, InvalidTime> {
    digits.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + i64::from(digit - b'0')),
        _ => Err(InvalidTime),
    })
}

/// Splits `.123456+01:00` into 123 and the zone.
fn fraction_ms(rest: &[u8]) -> Result<(i64, &[u8]), InvalidTime> {
    let Some(fraction) = rest.strip_prefix(b".") else { return Ok((0, rest)) };
    let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return Err(InvalidTime);
    }
    let kept = number(&fraction[..digits.min(3)])?;
    Ok((kept * [100, 10, 1][digits.min(3) - 1], &fraction[digits..]))
}

/// The seconds that `Z`, `+05:45` or `-00:00` is ahead of UTC.
fn offset_s(zone: &[u8]) -> Result<i64, InvalidTime> {
    match zone {
        b"Z" | b"z" => Ok(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return Err(InvalidTime);
            }
            let seconds = hours * 3_600 + minutes * 60;
            Ok(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => Err(InvalidTime),
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_rfc3339() {
            Some(text) => f.write_str(str::from_utf8(&text).expect("digits and what stands between them")),
            // Other years have no RFC 3339 form; no accepted point can be there.
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// A UTC clock hour, half-open: hours since 1970. Written `YYYYMMDDHH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(i32);

impl Hour {
    /// From hours since 1970.
    pub const fn from_number(hours: i32) -> Self {
        Self(hours)
    }

    /// Hours since 1970.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Its first moment.
    pub fn start(self) -> Timestamp {
        Timestamp(i64::from(self.0) * MS_PER_HOUR)
    }

    /// The first moment after it.
    pub fn end(self) -> Timestamp {
        Timestamp((i64::from(self.0) + 1) * MS_PER_HOUR)
    }

    /// The one before.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Every hour from this to `last`, both included, newest first.
    pub fn newest_first(self, last: Self) -> impl DoubleEndedIterator<Item = Self> + Clone {
        (self.0..=last.0).rev().map(Self)
    }

    /// Reads `YYYYMMDDHH`.
    pub fn parse(text: &str) -> Result<Self, InvalidHour> {
        let bytes = text.as_bytes();
        if bytes.len() != 10 {
            return Err(InvalidHour);
        }
        let part = |range: std::ops::Range<usize>| number(&bytes[range]).map_err(|_| InvalidHour);
        let (year, month, day, hour) = (part(0..4)?, part(4..6)?, part(6..8)?, part(8..10)?);
        if hour > 23 {
            return Err(InvalidHour);
        }
        let date = civil::Date::new(year as i16, month as i8, day as i8).map_err(|_| InvalidHour)?;
        let days = (date - civil::date(1970, 1, 1)).get_days();
        Ok(Self(days * 24 + hour as i32))
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hour) = (self.0.div_euclid(24), self.0.rem_euclid(24));
        let days = jiff::Span::new().days(days.clamp(-719_528, 2_932_896));
        let date = civil::date(1970, 1, 1).saturating_add(days);
        // One number: keys are named by the thousand.
        let date = i64::from(date.year()) * 10_000 + i64::from(date.month()) * 100 + i64::from(date.day());
        write!(f, "{:010}", date * 100 + i64::from(hour))
    }
}
