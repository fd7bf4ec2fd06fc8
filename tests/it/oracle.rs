//! What the answers must be, worked out by brute force from raw reports.
//!
//! Nothing here comes from the service: own words, own haversine, own hours, own reader of traces. So a mistake in
//! the service's arithmetic cannot hide behind the same mistake here. It is slow on purpose: no index, no cell, no
//! search, only "look at every driver".

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The radius of the sphere on which the contract measures, in metres.
const RADIUS_M: f64 = 6_372_797.560_856;
const HOUR_MS: i64 = 3_600_000;

/// One raw report, as sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) driver: String,
    pub(crate) seen: Seen,
}

/// When, where and how, as sent; the time in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) ts: i64,
    pub(crate) lat: f64,
    pub(crate) lon: f64,
    pub(crate) speed: Option<f64>,
    pub(crate) heading: Option<f64>,
    pub(crate) accuracy: Option<f64>,
    pub(crate) tags: Vec<String>,
}

/// The content of a report in the units in which the service promises to tell two apart.
pub(crate) type Content = (i64, i64, Option<i64>, Option<i64>, Option<i64>, String);

/// A driver near a place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Neighbour {
    pub(crate) driver: String,
    pub(crate) seen: Seen,
    pub(crate) distance_m: f64,
}

/// Which report of each driver a question is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Which {
    /// The newest, if `since <= ts <= until`.
    Newest { since: i64, until: i64 },
    /// The last of the hour with this number (hours since 1970).
    LastOf(i64),
}

/// Everything that was reported, one report for each driver and millisecond.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    tracks: BTreeMap<String, BTreeMap<i64, Seen>>,
    last_of_hours: BTreeMap<i64, BTreeMap<String, i64>>,
}

impl Seen {
    /// Latitude and longitude in 1e-7 degrees, speed in 1/50 m/s, heading and accuracy in tenths, tags joined. Of two
    /// reports of one driver and millisecond the one with the greater content wins.
    pub(crate) fn content(&self) -> Content {
        let lon = steps(self.lon, 1e7);
        (
            steps(self.lat, 1e7).clamp(-850_511_287, 850_511_287),
            if lon == 1_800_000_000 { -1_800_000_000 } else { lon },
            self.speed.filter(|v| *v >= 0.0).map(|v| steps(v, 50.0)),
            self.heading.filter(|v| *v >= 0.0).map(|v| if v >= 360.0 { 0 } else { steps(v, 10.0).min(3_599) }),
            self.accuracy.filter(|v| *v >= 0.0).map(|v| steps(v, 10.0)),
            self.tags.join(","),
        )
    }

    fn has_all(&self, tags: &[&str]) -> bool {
        tags.iter().all(|tag| self.tags.iter().any(|own| own == tag))
    }
}

fn steps(value: f64, per_unit: f64) -> i64 {
    (value * per_unit).round() as i64
}

/// Metres along the great circle.
pub(crate) fn haversine_m(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let (d_lat, d_lon) = (lat_b - lat_a, (b.1 - a.1).to_radians());
    let h = (d_lat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (d_lon / 2.0).sin().powi(2);
    2.0 * RADIUS_M * h.sqrt().min(1.0).asin()
}

/// Hours since 1970.
pub(crate) fn hour_of(ts: i64) -> i64 {
    ts.div_euclid(HOUR_MS)
}

/// `YYYYMMDDHH` of an hour since 1970.
pub(crate) fn hour_name(hour: i64) -> String {
    let (year, month, day) = civil(hour.div_euclid(24));
    format!("{year:04}{month:02}{day:02}{:02}", hour.rem_euclid(24))
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(ts: i64) -> String {
    let (year, month, day) = civil(ts.div_euclid(86_400_000));
    let ms = ts.rem_euclid(86_400_000);
    let (h, m, s, ms) = (ms / HOUR_MS, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// The last time that clocks in UTC showed `time`, such as `14:00:00.250`: for services on a Redis, which forgets by a
/// clock of its own.
pub(crate) fn lately(time: &str) -> i64 {
    let today = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let at = parse_utc(&format!("{}T{time}Z", &rfc3339(today)[..10]));
    if at <= today { at } else { at - 24 * HOUR_MS }
}

/// Milliseconds since 1970 of `2026-11-22T19:58:45Z` or `2026-11-22T19:58:45.123Z`.
pub(crate) fn parse_utc(text: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| -> i64 {
        text[range].parse().unwrap_or_else(|_| panic!("not a UTC time: {text}"))
    };
    assert!(text.ends_with('Z') && text.len() >= 20, "not a UTC time: {text}");
    let ms = if text.len() == 24 { number(20..23) } else { 0 };
    let days = days_since_1970(number(0..4), number(5..7), number(8..10));
    (((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19)) * 1_000 + ms
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts year by year and month by month: nobody asks about times far from 1970 here.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum();
    years + (1..month).map(|m| days_in(year, m)).sum::<i64>() + day - 1
}

fn civil(mut days: i64) -> (i64, i64, i64) {
    let (mut year, mut month) = (1970, 1);
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

impl Oracle {
    /// Of `reports`.
    pub(crate) fn of<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut oracle = Self::default();
        for report in reports {
            oracle.add(report.clone());
        }
        oracle
    }

    /// Takes one in. The order of calls makes no difference.
    pub(crate) fn add(&mut self, report: Report) {
        let Report { driver, seen } = report;
        let ts = seen.ts;
        let last = self.last_of_hours.entry(hour_of(ts)).or_default().entry(driver.clone()).or_insert(ts);
        *last = ts.max(*last);
        let track = self.tracks.entry(driver).or_default();
        match track.get(&ts) {
            Some(other) if other.content() >= seen.content() => {}
            _ => drop(track.insert(ts, seen)),
        }
    }

    /// As if nothing of the hours before that of `ts` had been reported.
    #[must_use]
    pub(crate) fn without_hours_before(&self, ts: i64) -> Self {
        let first = hour_of(ts) * HOUR_MS;
        let mut kept = Self::default();
        for (driver, track) in &self.tracks {
            for seen in track.range(first..).map(|(_, seen)| seen) {
                kept.add(Report { driver: driver.clone(), seen: seen.clone() });
            }
        }
        kept
    }

    /// Everyone who ever reported.
    pub(crate) fn drivers(&self) -> impl Iterator<Item = &str> {
        self.tracks.keys().map(String::as_str)
    }

    /// The number of reports, one for each driver and millisecond.
    pub(crate) fn len(&self) -> usize {
        self.tracks.values().map(BTreeMap::len).sum()
    }

    /// A driver's newest report.
    pub(crate) fn latest(&self, driver: &str) -> Option<&Seen> {
        self.tracks.get(driver)?.last_key_value().map(|(_, seen)| seen)
    }

    /// A driver's reports with `from <= ts < to`, oldest first.
    pub(crate) fn track(&self, driver: &str, from: i64, to: i64) -> Vec<&Seen> {
        let Some(track) = self.tracks.get(driver).filter(|_| from < to) else { return Vec::new() };
        track.range(from..to).map(|(_, seen)| seen).collect()
    }

    /// Each driver with the report that is asked about.
    pub(crate) fn located(&self, which: Which) -> BTreeMap<&str, &Seen> {
        match which {
            Which::Newest { since, until } => self
                .drivers()
                .filter_map(|driver| Some((driver, self.latest(driver)?)))
                .filter(|(_, seen)| (since..=until).contains(&seen.ts))
                .collect(),
            Which::LastOf(hour) => self
                .last_of_hours
                .get(&hour)
                .into_iter()
                .flatten()
                .map(|(driver, ts)| (driver.as_str(), &self.tracks[driver][ts]))
                .collect(),
        }
    }

    /// Every hour in which anyone reported.
    pub(crate) fn hours(&self) -> impl Iterator<Item = i64> {
        self.last_of_hours.keys().copied()
    }

    /// Who reported in an hour.
    pub(crate) fn hour_drivers(&self, hour: i64) -> BTreeSet<&str> {
        self.last_of_hours.get(&hour).into_iter().flatten().map(|(driver, _)| driver.as_str()).collect()
    }

    /// Everyone with all of `tags` within the radius, nearest first, at the same distance by id.
    pub(crate) fn nearby(&self, centre: (f64, f64), radius_m: f64, which: Which, tags: &[&str]) -> Vec<Neighbour> {
        let mut near: Vec<_> = self
            .located(which)
            .into_iter()
            .filter(|(_, seen)| seen.has_all(tags))
            .map(|(driver, seen)| Neighbour {
                driver: driver.to_owned(),
                seen: seen.clone(),
                distance_m: haversine_m(centre, (seen.lat, seen.lon)),
            })
            .filter(|near| near.distance_m <= radius_m)
            .collect();
        near.sort_by(|a, b| a.distance_m.total_cmp(&b.distance_m).then_with(|| a.driver.cmp(&b.driver)));
        near
    }

    /// The newest `ts` of the whole fleet, if it lies within.
    pub(crate) fn last_report(&self, since: i64, until: i64) -> Option<i64> {
        self.tracks
            .values()
            .filter_map(|track| track.keys().next_back().copied())
            .max()
            .filter(|ts| (since..=until).contains(ts))
    }

    /// How many drivers each H3 cell holds.
    pub(crate) fn density(&self, since: i64, until: i64, resolution: u8) -> BTreeMap<String, u64> {
        let resolution = h3o::Resolution::try_from(resolution).expect("0 to 15");
        let mut cells = BTreeMap::new();
        for seen in self.located(Which::Newest { since, until }).values() {
            let place = h3o::LatLng::new(seen.lat, seen.lon).expect("finite");
            *cells.entry(place.to_cell(resolution).to_string()).or_insert(0) += 1;
        }
        cells
    }
}

/// The difference between an answer to "who is near" and brute force; `None` if there is none. `slack_m` is how far a
/// distance may be off, so whoever is that close to the radius may be in or out, and neighbours that close to each
/// other may change places.
pub(crate) fn nearby_differs(
    answer: &[(String, f64)],
    truncated: bool,
    expected: &dyn Fn(f64) -> Vec<Neighbour>,
    radius_m: f64,
    limit: usize,
    slack_m: f64,
) -> Option<String> {
    let may = expected(radius_m + slack_m);
    let must = may.iter().filter(|near| near.distance_m <= radius_m - slack_m).count();
    let distances: BTreeMap<&str, f64> = may.iter().map(|near| (near.driver.as_str(), near.distance_m)).collect();
    if answer.len() < must.min(limit) || answer.len() > may.len().min(limit) {
        return Some(format!("{} found, {must} to {} expected, limit {limit}", answer.len(), may.len()));
    }
    if truncated != (may.len() > answer.len()) && truncated != (must > answer.len()) {
        return Some(format!("truncated is {truncated} for {} of {must}", answer.len()));
    }
    if answer.iter().map(|(driver, _)| driver).collect::<BTreeSet<_>>().len() != answer.len() {
        return Some("a driver is listed twice".into());
    }
    for (place, (driver, distance_m)) in answer.iter().enumerate() {
        match distances.get(driver.as_str()) {
            None => return Some(format!("{driver} is not near")),
            Some(own) if (own - distance_m).abs() > slack_m => {
                return Some(format!("{driver} is at {own} m, not at {distance_m} m"));
            }
            Some(_) if (may[place].distance_m - distance_m).abs() > slack_m => {
                return Some(format!(
                    "number {place} is at {distance_m} m, should be at {} m",
                    may[place].distance_m
                ));
            }
            Some(_) => {}
        }
    }
    None
}

/// The reports of a recorded trace (CSV with a header, gzipped), in the order of the file.
pub(crate) fn read_trace(path: &Path) -> Vec<Report> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = csv::Reader::from_reader(flate2::read::MultiGzDecoder::new(file));
    let mut reports = Vec::new();
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).expect("the trace is readable") {
        let number =
            |at: usize| row.get(at).filter(|field| !field.is_empty()).map(|field| field.parse().expect("f64"));
        let seen = Seen {
            ts: parse_utc(&row[1]),
            lat: number(2).expect("lat"),
            lon: number(3).expect("lon"),
            speed: number(4),
            heading: number(5),
            accuracy: number(6),
            tags: Vec::new(),
        };
        reports.push(Report { driver: row[0].to_owned(), seen });
    }
    reports
}

#[test]
fn the_oracle_can_tell_time() {
    assert_eq!(parse_utc("1970-01-02T00:00:00Z"), 86_400_000);
    for text in ["2026-11-22T19:58:45.123Z", "2024-02-29T23:59:59.999Z", "2000-03-01T00:00:00.000Z"] {
        assert_eq!(rfc3339(parse_utc(text)), text);
    }
    assert_eq!(hour_name(hour_of(parse_utc("2026-11-22T19:58:45.123Z"))), "2026112219");
}

#[test]
fn the_oracle_can_tell_distances() {
    // A degree along a meridian and along the equator, and half round the globe.
    let degree_m = RADIUS_M * std::f64::consts::PI / 180.0;
    assert!((haversine_m((10.0, 20.0), (11.0, 20.0)) - degree_m).abs() < 1e-6);
    assert!((haversine_m((0.0, 179.5), (0.0, -179.5)) - degree_m).abs() < 1e-6);
    assert!((haversine_m((0.0, 0.0), (0.0, 180.0)) - 180.0 * degree_m).abs() < 1e-6);
}
