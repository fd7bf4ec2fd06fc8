//! What is told of a run: a line of JSON for programs, a line of text for people.
//!
//! Never here: measuring.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::mix::{Kind, Mix};
use super::tally::Latency;

/// Over this share of one processor the generator, not the server, may be what is measured.
const BUSY: f64 = 0.8;

/// A run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// When it ended.
    pub(crate) at: String,
    /// Who was driven.
    pub(crate) contender: String,
    pub(crate) mix: Mix,
    pub(crate) drivers: usize,
    pub(crate) connections: usize,
    pub(crate) points_a_request: usize,
    /// From the first request until the last was settled.
    pub(crate) seconds: f64,
    pub(crate) offered_per_s: f64,
    /// Good answers.
    pub(crate) achieved_per_s: f64,
    /// In good answers.
    pub(crate) points_per_s: f64,
    pub(crate) requests: u64,
    pub(crate) good: u64,
    /// Requests without a good answer, by status, or `error`, `timeout`, `broken`, `unsent`.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Refusals after which a request was sent again, by status.
    pub(crate) came_back: BTreeMap<String, u64>,
    /// From due to answered, of all requests.
    pub(crate) latency_ms: Latency,
    /// The same of each kind, where there are several.
    pub(crate) latency_ms_by_kind: BTreeMap<Kind, Latency>,
    pub(crate) costs: Costs,
    /// Of one processor, while requests were under way.
    pub(crate) generator_share: f64,
    /// Processor time of what answers (the service; of a peer, the peer) for a good answer.
    pub(crate) server_us_a_request: Option<f64>,
    /// The same for a point, of traffic that brings some.
    pub(crate) server_us_a_point: Option<f64>,
    /// Processor time of the Redis behind the service for a good answer.
    pub(crate) redis_us_a_request: Option<f64>,
    /// Until the store had everything, from the last answer on; nothing: it took too long.
    pub(crate) caught_up_s: Option<f64>,
    /// What a search found.
    pub(crate) knee: Option<Knee>,
}

/// Processor time, user and system, of a run, what followed from it in the background included; memory at its end; what
/// went to Redis and came from it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Costs {
    pub(crate) generator_us: u64,
    pub(crate) service_us: Option<u64>,
    pub(crate) redis_us: Option<u64>,
    /// Of a peer that was not started here.
    pub(crate) peer_us: Option<u64>,
    pub(crate) service_resident_mib: Option<f64>,
    pub(crate) redis_resident_mib: Option<f64>,
    pub(crate) redis_wire_bytes: Option<u64>,
}

/// The highest rate with p99 under a limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Knee {
    pub(crate) limit_ms: f64,
    /// Nothing: no rate held.
    pub(crate) rate_per_s: Option<f64>,
    /// How many runs it took.
    pub(crate) steps: usize,
}

impl Costs {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let less = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Self {
            generator_us: self.generator_us.saturating_sub(before.generator_us),
            service_us: less(self.service_us, before.service_us),
            redis_us: less(self.redis_us, before.redis_us),
            peer_us: less(self.peer_us, before.peer_us),
            redis_wire_bytes: less(self.redis_wire_bytes, before.redis_wire_bytes),
            ..*self
        }
    }

    /// Of what answers: the service, or a peer.
    pub(crate) fn server_us(&self, is_ours: bool) -> Option<u64> {
        if is_ours { self.service_us } else { self.redis_us.or(self.peer_us) }
    }
}

impl Line {
    /// The same run as what a search found.
    pub(crate) fn found(self, limit_ms: f64, rate_per_s: Option<f64>, steps: usize) -> Self {
        Self { knee: Some(Knee { limit_ms, rate_per_s, steps }), ..self }
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("all of it can be told in JSON")
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let Latency { p50, p99, p999, max, .. } = self.latency_ms;
        let mut text = format!(
            "{:17} {:8} {:>7} drivers  {:.0} of {:.0}/s  p50 {p50:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms",
            self.contender,
            format!("{:?}", self.mix).to_lowercase(),
            self.drivers,
            self.achieved_per_s,
            self.offered_per_s,
        );
        let mut add = |name: &str, value: Option<f64>, unit: &str| {
            if let Some(value) = value {
                let _infallible = write!(text, "  {name}{value:.1}{unit}");
            }
        };
        add("", self.server_us_a_request, " us/request");
        add(
            "",
            self.server_us_a_point.filter(|_| self.points_a_request > 1 || self.mix == Mix::Stampede),
            " us/point",
        );
        add("redis ", self.redis_us_a_request, " us/request");
        add("resident ", self.costs.service_resident_mib.or(self.costs.redis_resident_mib), " MiB");
        add("generator ", Some(self.generator_share * 100.0), " %");
        for (error, count) in &self.errors {
            let _infallible = write!(text, "  {error}: {count}");
        }
        if let Some(Knee { limit_ms, rate_per_s, .. }) = self.knee {
            let _infallible = match rate_per_s {
                Some(rate) => write!(text, "  knee at {limit_ms} ms: {rate:.0}/s"),
                None => write!(text, "  no rate keeps p99 under {limit_ms} ms"),
            };
        }
        if self.generator_share > BUSY {
            text.push_str("  !!! the generator was busy: its own limit may be what was measured");
        }
        text
    }
}
