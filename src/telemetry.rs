//! What the process tells of itself: its metrics, all in one struct, and its log.
//!
//! Labels come from closed sets in this code, never from what was sent. Handles are made ahead, so that counting is
//! an addition. What is not counted but is so at a moment (how far an applier lags, say) is asked for at the scrape.
//!
//! Never here: a driver id, a coordinate, a secret.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::model::{Defect, Timestamp};

/// The states a store can be in, as the metric has them.
pub const STORE_STATES: [&str; 7] = ["up", "rebuilding", "partial", "fallback", "unreachable", "foreign", "unknown"];

/// Half a millisecond to four seconds, doubling: an answer from memory, and one at its deadline.
const DURATION_BUCKETS_S: (f64, f64, usize) = (0.000_5, 2.0, 14);

/// Everything that is counted. Clones share it.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Registry,
    points_accepted: IntCounter,
    points_rejected: [IntCounter; Defect::CODES.len()],
    points_applied: IntCounterVec,
    journal_backlog: IntGaugeVec,
    fleet_last_report: Gauge,
    active_drivers: Gauge,
    http_request_duration: HistogramVec,
    store_operation_duration: HistogramVec,
    store_state: IntGaugeVec,
    rebuild_points: IntGaugeVec,
    deadletter_points: IntGaugeVec,
    applier_restarts: IntCounterVec,
    redis_slowlog_entries: IntCounterVec,
    redis_transaction_duration: HistogramVec,
    store_shares: [IntGaugeVec; 2],
    clock_skew: GaugeVec,
    shadow_answers: IntCounterVec,
    vendor_expiry: GaugeVec,
    at_scrape: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of their own, apart from those of any other service in the process.
    pub fn new() -> Self {
        let registry = Registry::new();
        let rejected = int_counters(
            &registry,
            "points_rejected_total",
            "Points refused, by the code of their defect.",
            &["code"],
        );
        registry.register(Box::new(ProcessCollector::for_self())).expect(WELL_FORMED);
        Self(Arc::new(Shared {
            points_accepted: register(
                &registry,
                IntCounter::new(
                    name("points_accepted_total"),
                    "Points made durable and acknowledged, repeats included.",
                )
                .expect(WELL_FORMED),
            ),
            points_rejected: Defect::CODES.map(|code| rejected.with_label_values(&[code])),
            points_applied: int_counters(&registry, "points_applied_total", "Points put into a store.", &["store"]),
            journal_backlog: int_gauges(
                &registry,
                "journal_backlog_points",
                "Points on disk that a store does not have yet.",
                &["store"],
            ),
            fleet_last_report: register(
                &registry,
                Gauge::new(
                    name("fleet_last_report_timestamp_seconds"),
                    "When any driver of the fleet last reported; 0 if none is known.",
                )
                .expect(WELL_FORMED),
            ),
            active_drivers: register(
                &registry,
                Gauge::new(
                    name("active_drivers"),
                    "Drivers who reported in the trailing hour; NaN while the store cannot be asked.",
                )
                .expect(WELL_FORMED),
            ),
            http_request_duration: histograms(
                &registry,
                "http_request_duration_seconds",
                "From a request's head to the head of its answer.",
                &["method", "route", "status"],
            ),
            store_operation_duration: histograms(
                &registry,
                "store_operation_duration_seconds",
                "How long an operation of a store took.",
                &["store", "operation"],
            ),
            store_state: int_gauges(
                &registry,
                "store_state",
                "1 for the state a store is in, 0 for the others.",
                &["store", "state"],
            ),
            rebuild_points: int_gauges(
                &registry,
                "rebuild_points",
                "Points still to be put into a store that is being made whole.",
                &["store"],
            ),
            deadletter_points: int_gauges(
                &registry,
                "deadletter_points",
                "Points that a store refused, set aside in a file.",
                &["store"],
            ),
            applier_restarts: int_counters(
                &registry,
                "applier_restarts_total",
                "How often an applier had to begin anew.",
                &["store"],
            ),
            redis_slowlog_entries: int_counters(
                &registry,
                "redis_slowlog_entries_total",
                "Entries of the slow log of Redis, by whose command it was.",
                &["client"],
            ),
            redis_transaction_duration: histograms(
                &registry,
                "redis_transaction_duration_seconds",
                "For how long a transaction held Redis, which its slow log does not tell.",
                &[],
            ),
            store_shares: store_shares(&registry),
            clock_skew: clock_skew(&registry),
            shadow_answers: shadow_answers(&registry),
            vendor_expiry: vendor_expiry(&registry),
            at_scrape: Mutex::default(),
            registry,
        }))
    }

    /// `points` were acknowledged.
    pub fn points_accepted(&self, points: usize) {
        self.0.points_accepted.inc_by(points as u64);
    }

    /// A point was refused with this code of [`Defect::CODES`].
    pub fn point_rejected(&self, code: &'static str) {
        if let Some(index) = Defect::CODES.iter().position(|known| *known == code) {
            self.0.points_rejected[index].inc();
        }
    }

    /// The counter of points put into a store.
    pub fn points_applied(&self, store: &'static str) -> IntCounter {
        self.0.points_applied.with_label_values(&[store])
    }

    /// The gauge of points a store does not have yet; its applier sets it, or [`Metrics::at_scrape`] does.
    pub fn journal_backlog(&self, store: &'static str) -> IntGauge {
        self.0.journal_backlog.with_label_values(&[store])
    }

    /// When the fleet last reported.
    pub fn set_fleet_last_report(&self, ts: Option<Timestamp>) {
        self.0.fleet_last_report.set(ts.map_or(0.0, |ts| ts.as_ms() as f64 / 1_000.0));
    }

    /// How many drivers are active; `None` if that is not known.
    pub fn set_active_drivers(&self, drivers: Option<u64>) {
        self.0.active_drivers.set(drivers.map_or(f64::NAN, |drivers| drivers as f64));
    }

    /// A request was answered.
    pub fn http_request(&self, method: &'static str, route: &str, status: &str, took: Duration) {
        self.0.http_request_duration.with_label_values(&[method, route, status]).observe(took.as_secs_f64());
    }

    /// The durations of an operation of a store.
    pub fn store_operation(&self, store: &'static str, operation: &'static str) -> Histogram {
        self.0.store_operation_duration.with_label_values(&[store, operation])
    }

    /// A store is in this one of [`STORE_STATES`].
    pub fn set_store_state(&self, store: &'static str, state: &'static str) {
        for known in STORE_STATES {
            self.0.store_state.with_label_values(&[store, known]).set(i64::from(known == state));
        }
    }

    /// By how much our clock is ahead of a store's; `None` if that is not known.
    pub fn set_clock_skew(&self, store: &'static str, skew_ms: Option<i64>) {
        if let Some(ms) = skew_ms {
            self.0.clock_skew.with_label_values(&[store]).set(ms as f64 / 1_000.0);
        }
    }

    /// The gauge of points still to be put into a store that is being made whole.
    pub fn rebuild_points(&self, store: &'static str) -> IntGauge {
        self.0.rebuild_points.with_label_values(&[store])
    }

    /// The gauge of points that a store refused.
    pub fn deadletter_points(&self, store: &'static str) -> IntGauge {
        self.0.deadletter_points.with_label_values(&[store])
    }

    /// The counter of an applier's restarts.
    pub fn applier_restarts(&self, store: &'static str) -> IntCounter {
        self.0.applier_restarts.with_label_values(&[store])
    }

    /// The counter of slow commands of `client`: `geotrail` for our own, `other` for all others'.
    pub fn redis_slowlog_entries(&self, client: &'static str) -> IntCounter {
        self.0.redis_slowlog_entries.with_label_values(&[client])
    }

    /// How long our transactions in Redis take, by Redis' own clock.
    pub fn redis_transactions(&self) -> Histogram {
        self.0.redis_transaction_duration.with_label_values(&[] as &[&str])
    }

    /// The shares of a store.
    pub fn set_store_shares(&self, store: &'static str, reads_percent: u8, shadow_percent: u8) {
        for (gauge, percent) in self.0.store_shares.iter().zip([reads_percent, shadow_percent]) {
            gauge.with_label_values(&[store]).set(i64::from(percent));
        }
    }

    /// An answer of a store was compared. The words come from closed sets.
    pub fn shadow_answer(&self, store: &'static str, kind: &'static str, outcome: &'static str) {
        self.0.shadow_answers.with_label_values(&[store, kind, outcome]).inc();
    }

    /// Nothing is so of a store at present, for it is none of ours any more. What was counted of it stays.
    pub fn forget_store(&self, store: &'static str) {
        let Shared { journal_backlog, rebuild_points, deadletter_points, store_shares, store_state, .. } = &*self.0;
        for gauge in [journal_backlog, rebuild_points, deadletter_points].into_iter().chain(store_shares) {
            // There may be none.
            let _ = gauge.remove_label_values(&[store]);
        }
        let _ = self.0.clock_skew.remove_label_values(&[store]);
        for state in STORE_STATES {
            let _ = store_state.remove_label_values(&[store, state]);
        }
    }

    /// When something bought from others runs out. The labels come from the configuration.
    pub fn set_vendor_expiry(&self, name: &str, owner: &str, kind: &str, ts: Timestamp) {
        self.0.vendor_expiry.with_label_values(&[name, owner, kind]).set(ts.as_ms() as f64 / 1_000.0);
    }

    /// `look` is called before each scrape, to set what is only known by looking. It must not wait.
    pub fn at_scrape(&self, look: impl Fn() + Send + 'static) {
        self.0.at_scrape.lock().push(Box::new(look));
    }

    /// Everything as Prometheus text, with its media type.
    pub fn scrape(&self) -> (&'static str, Vec<u8>) {
        for look in &*self.0.at_scrape.lock() {
            look();
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.registry.gather(), &mut text).expect("every metric has a name and a value");
        (prometheus::TEXT_FORMAT, text)
    }
}

const WELL_FORMED: &str = "names and labels are constants of this file, each once";

fn name(rest: &str) -> String {
    format!("geotrail_{rest}")
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(WELL_FORMED);
    collector
}

fn int_counters(registry: &Registry, rest: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name(rest), help), labels).expect(WELL_FORMED))
}

fn int_gauges(registry: &Registry, rest: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name(rest), help), labels).expect(WELL_FORMED))
}

fn store_shares(registry: &Registry) -> [IntGaugeVec; 2] {
    [
        int_gauges(
            registry,
            "store_reads_percent",
            "Of a hundred reads, how many a store should answer.",
            &["store"],
        ),
        int_gauges(
            registry,
            "store_shadow_percent",
            "Of a hundred reads that others answer, how many of a store's answers are compared.",
            &["store"],
        ),
    ]
}

fn clock_skew(registry: &Registry) -> GaugeVec {
    let help = "By how much this instance's clock is ahead of a store's, at least: what asking took is left out.";
    register(registry, GaugeVec::new(Opts::new(name("clock_skew_seconds"), help), &["store"]).expect(WELL_FORMED))
}

fn vendor_expiry(registry: &Registry) -> GaugeVec {
    let help = "When a thing bought from others runs out, since 1970.";
    let gauges = GaugeVec::new(Opts::new(name("vendor_expiry_seconds"), help), &["name", "owner", "kind"]);
    register(registry, gauges.expect(WELL_FORMED))
}

fn shadow_answers(registry: &Registry) -> IntCounterVec {
    int_counters(
        registry,
        "shadow_answers_total",
        "Answers of a store that were compared with another's, by the kind of question and what came out.",
        &["store", "kind", "outcome"],
    )
}

fn histograms(registry: &Registry, rest: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let (start, factor, count) = DURATION_BUCKETS_S;
    let buckets = prometheus::exponential_buckets(start, factor, count).expect(WELL_FORMED);
    let opts = HistogramOpts::new(name(rest), help).buckets(buckets);
    register(registry, HistogramVec::new(opts, labels).expect(WELL_FORMED))
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The log cannot be started.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter is not one that `tracing-subscriber` reads.
    #[error("the log filter cannot be read: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A log was started before.
    #[error("the log was started twice")]
    Twice,
}

/// Starts the log of the process, on stderr; `filter` is such as `info` or `geotrail=debug,warn`. A panic is logged by
/// its place alone, for its words may hold what was sent.
pub fn start_log(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked");
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        metrics.points_accepted(2);
        metrics.point_rejected("null_island");
        metrics.points_applied("embedded").inc();
        metrics.at_scrape({
            let backlog = metrics.journal_backlog("embedded");
            move || backlog.set(7)
        });
        metrics.set_fleet_last_report(Some(Timestamp::from_ms(1_500)));
        metrics.set_active_drivers(None);
        metrics.http_request("GET", "/health", "200", Duration::from_millis(1));
        metrics.store_operation("redis", "apply").observe(0.1);
        metrics.set_store_state("redis", "partial");
        metrics.redis_slowlog_entries("geotrail").inc();
        metrics.redis_transactions().observe(0.000_9);
        metrics.set_clock_skew("redis", Some(-7_200_500));
        metrics.set_vendor_expiry("map", "ops", "licence", Timestamp::from_ms(2_000));
        let text = String::from_utf8(metrics.scrape().1).unwrap();
        for line in [
            "geotrail_points_accepted_total 2",
            "geotrail_points_rejected_total{code=\"null_island\"} 1",
            "geotrail_points_rejected_total{code=\"ts_too_old\"} 0",
            "geotrail_points_applied_total{store=\"embedded\"} 1",
            "geotrail_journal_backlog_points{store=\"embedded\"} 7",
            "geotrail_fleet_last_report_timestamp_seconds 1.5",
            "geotrail_active_drivers NaN",
            "geotrail_http_request_duration_seconds_count{method=\"GET\",route=\"/health\",status=\"200\"} 1",
            "geotrail_store_operation_duration_seconds_count{operation=\"apply\",store=\"redis\"} 1",
            "geotrail_store_state{state=\"partial\",store=\"redis\"} 1",
            "geotrail_store_state{state=\"up\",store=\"redis\"} 0",
            "geotrail_redis_slowlog_entries_total{client=\"geotrail\"} 1",
            "geotrail_redis_transaction_duration_seconds_bucket{le=\"0.0005\"} 0",
            "geotrail_redis_transaction_duration_seconds_bucket{le=\"0.001\"} 1",
            "geotrail_clock_skew_seconds{store=\"redis\"} -7200.5",
            "geotrail_vendor_expiry_seconds{kind=\"licence\",name=\"map\",owner=\"ops\"} 2",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is missing from\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
