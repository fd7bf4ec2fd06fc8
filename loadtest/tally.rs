//! What a run counts: how long each request took from the moment it was due, and what became of it.
//!
//! Times are kept to three digits (hdrhistogram). A request that failed counts with the time after which it had. Never
//! here: what is made of the figures.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::caller::Outcome;
use super::mix::Kind;

/// A run's requests.
#[derive(Default)]
pub(crate) struct Tally {
    /// Microseconds from due to answered.
    times_us: BTreeMap<Kind, Histogram<u64>>,
    /// Requests that were answered well.
    pub(crate) good: u64,
    /// The points in them.
    pub(crate) points: u64,
    /// All others, by status, or `error`, `timeout`, `broken`, or `unsent`: too late to be sent at all.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Refusals after which the request was sent again, by status.
    pub(crate) came_back: BTreeMap<String, u64>,
    /// When the last request was settled, from the beginning.
    pub(crate) until: Duration,
}

/// Milliseconds within which so many of all requests were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Tally {
    /// Counts a request that took `took` from the moment it was due and was settled `at` from the beginning.
    pub(crate) fn add(&mut self, kind: Kind, points: u64, took: Duration, outcome: Option<Outcome>, at: Duration) {
        let times = self.times_us.entry(kind).or_insert_with(histogram);
        times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.until = self.until.max(at);
        let error = match outcome {
            Some(Outcome::Good) => {
                self.good += 1;
                self.points += points;
                return;
            }
            Some(Outcome::Refused { status, .. }) => status.to_string(),
            Some(Outcome::Error) => "error".to_owned(),
            Some(Outcome::TimedOut) => "timeout".to_owned(),
            Some(Outcome::Broken) => "broken".to_owned(),
            None => "unsent".to_owned(),
        };
        *self.errors.entry(error).or_default() += 1;
    }

    /// Counts a refusal that was not the end.
    pub(crate) fn came_back(&mut self, status: u16) {
        *self.came_back.entry(status.to_string()).or_default() += 1;
    }

    pub(crate) fn requests(&self) -> u64 {
        self.times_us.values().map(Histogram::len).sum()
    }

    /// Of all requests.
    pub(crate) fn latency(&self) -> Latency {
        let mut all = histogram();
        for times in self.times_us.values() {
            all.add(times).expect("all have the same bounds");
        }
        Latency::of(&all)
    }

    /// Of each kind, if there are several.
    pub(crate) fn latency_by_kind(&self) -> BTreeMap<Kind, Latency> {
        let kinds = self.times_us.iter().filter(|_| self.times_us.len() > 1);
        kinds.map(|(kind, times)| (*kind, Latency::of(times))).collect()
    }
}

impl Latency {
    fn of(times: &Histogram<u64>) -> Self {
        let at = |share| times.value_at_quantile(share) as f64 / 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: times.max() as f64 / 1e3 }
    }
}

/// From a microsecond to ten minutes.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are sound")
}
