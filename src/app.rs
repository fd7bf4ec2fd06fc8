//! The composition root: the one place that names concrete stores and unpacks the configuration. It builds the flow
//! from its end to its beginning, spawns every background task by name, and on the way out stops them along the flow:
//! no new requests, drain, fsync, apply, checkpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::applier::{Applier, Progress, Wholeness};
use crate::clock::Clock;
use crate::config::{ServeConfig, StoreChoice};
use crate::erasure::Eraser;
use crate::health::{Health, Report, StoreHealth, TRAILING_HOUR_MS};
use crate::http::{self, Service};
use crate::ingest::Ingest;
use crate::jobs::retention;
use crate::journal::{self, Journal};
use crate::query::{IndexState, Label, Queries};
use crate::store::embedded::EmbeddedStore;
use crate::store::measured::Measured;
use crate::store::redis::RedisStore;
use crate::store::{Store, embedded, redis};
use crate::telemetry::Metrics;

/// A request in flight at shutdown has this long.
const DRAIN: Duration = Duration::from_secs(10);
/// The applier has this long to follow what was acknowledged, and to make it durable; the journal keeps the rest.
const APPLY_THE_REST: Duration = Duration::from_secs(10);
/// A Redis call ends by then, one way or the other.
const REDIS_DEADLINE: Duration = Duration::from_secs(2);

const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_AGAIN: Duration = Duration::from_millis(100);
/// What a start may wait for its index: a small one is then whole in the first answer, a large one is labelled.
const WHOLE_AT_START: Duration = Duration::from_millis(300);
const FORGET_EVERY: Duration = Duration::from_mins(1);
const COUNT_ACTIVE_EVERY: Duration = Duration::from_secs(15);

/// The running service.
pub struct App {
    address: SocketAddr,
    journal: Journal,
    stop_http: CancellationToken,
    stop_jobs: CancellationToken,
    stop_applier: CancellationToken,
    http: JoinHandle<()>,
    applier: JoinHandle<()>,
    jobs: Vec<JoinHandle<()>>,
}

/// Runs the service until SIGTERM or SIGINT.
pub async fn serve(config: ServeConfig) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let app = App::start(config, Clock::system()).await?;
    println!("listening on http://{}", app.address());
    signals.received().await;
    info!("stopping");
    app.stop().await
}

impl App {
    /// Returns once points can be taken; the index may still be on its way.
    pub async fn start(config: ServeConfig, clock: Clock) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;

        let options = journal::Options::new(config.data_dir.clone());
        let now = clock.now();
        let (journal, recovery) = tokio::task::spawn_blocking(move || Journal::open(options, now)).await??;
        if recovery.torn_bytes > 0 {
            warn!(bytes = recovery.torn_bytes, "cut a torn tail off the journal: it was never acknowledged");
        }

        let metrics = Metrics::new();
        let inner = open_store(&config, &journal).await?;
        let name = inner.name();
        let observing = metrics.clone();
        let store: Arc<dyn Store> = Arc::new(Measured::new(inner, move |operation, took| {
            observing.store_operation(name, operation).observe(took.as_secs_f64());
        }));

        let progress = Arc::new(Progress::new(journal.committed()));
        let label = label(&progress);
        let health = Health::new(clock.clone(), journal.clone(), store.clone(), label.clone(), recovery.newest_ts);
        let queries = Queries::new(store.clone(), label, clock.clone(), config.retention);
        let ingest = Ingest::new(journal.clone(), progress.watch_applied());
        let followers = vec![(store.clone(), progress.watch_applied())];
        let eraser = Eraser::new(journal.clone(), followers, clock.clone(), config.retention);
        at_scrape(&metrics, name, &progress, &health);

        let stop_applier = CancellationToken::new();
        let gate = Arc::new(eraser.gates().next().expect("there is a gate for each store, and there is a store"));
        let applier = Applier::new(journal.clone(), gate, progress.clone(), clock.clone(), config.retention);
        let applier = spawn_applier(applier, stop_applier.clone());

        let stop_jobs = CancellationToken::new();
        let mut jobs = spawn_jobs(&stop_jobs, &journal, &store, &progress, &health, &queries, &metrics, &clock);
        jobs.extend(spawn_eraser(&eraser, &stop_jobs));

        let whole = async {
            while progress.wholeness() != Wholeness::Whole
                || eraser.is_unfinished()
                || health.probe().await != StoreHealth::Up
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Either way the listener already takes connections; they wait this long at most.
        let _ = tokio::time::timeout(WHOLE_AT_START, whole).await;

        let stop_http = CancellationToken::new();
        let router = http::router(Arc::new(Service { ingest, queries, eraser, health, metrics, clock }));
        let http = tokio::spawn(http::serve(listener, router, stop_http.clone(), DRAIN));
        Ok(Self { address, journal, stop_http, stop_jobs, stop_applier, http, applier, jobs })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops along the flow.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop_http.cancel();
        self.http.await?;
        self.journal.close().await;
        self.stop_applier.cancel();
        if tokio::time::timeout(APPLY_THE_REST, self.applier).await.is_err() {
            warn!("the store did not take the rest in time; it will be applied at the next start");
        }
        self.stop_jobs.cancel();
        for job in self.jobs {
            job.await?;
        }
        Ok(())
    }
}

async fn open_store(config: &ServeConfig, journal: &Journal) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match &config.store {
        StoreChoice::Embedded => Arc::new(EmbeddedStore::new(embedded::Options {
            dir: config.data_dir.clone(),
            journal: journal.id().to_string(),
            memtable_bytes: embedded::Options::DEFAULT_MEMTABLE_BYTES,
        })),
        StoreChoice::Redis(url) => {
            let options = redis::Options {
                url: url.expose().to_owned(),
                prefix: config.redis_prefix.clone(),
                instance: journal.id().to_string(),
                retention: config.retention,
                deadline: REDIS_DEADLINE,
            };
            Arc::new(RedisStore::connect(options).await?)
        }
    })
}

/// What the applier's progress makes of an answer.
fn label(progress: &Arc<Progress>) -> Label {
    let progress = progress.clone();
    Label::from_fn(move || match progress.wholeness() {
        Wholeness::Whole => IndexState::Complete,
        Wholeness::Behind(as_of) => IndexState::Rebuilding { as_of },
    })
}

/// Metrics that are read off where they are known, when they are asked for.
fn at_scrape(metrics: &Metrics, store: &'static str, progress: &Arc<Progress>, health: &Health) {
    let (progress, health, told) = (progress.clone(), health.clone(), metrics.clone());
    let (applied, backlog) = (metrics.points_applied(store), metrics.journal_backlog(store));
    metrics.at_scrape(move || {
        applied.inc_by(progress.points_applied().saturating_sub(applied.get()));
        backlog.set(i64::try_from(progress.backlog_points()).unwrap_or(i64::MAX));
        let report = health.report();
        told.set_fleet_last_report(report.last_report);
        told.set_store_state(store, store_state(&report));
    });
}

/// The state of a store in the words of the metric.
fn store_state(report: &Report) -> &'static str {
    match report.store {
        StoreHealth::Unreachable => "unreachable",
        StoreHealth::Unknown => "unknown",
        StoreHealth::Up if report.index.is_degraded() => report.index.word(),
        StoreHealth::Up => "up",
    }
}

fn spawn_applier(applier: Applier, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = applier.run(stop).await {
            error!(%error, "the applier ended; points are still taken, answers are labelled");
        }
    })
}

fn spawn_eraser(eraser: &Eraser, stop: &CancellationToken) -> [JoinHandle<()>; 2] {
    let (visiting, working) = (eraser.clone(), eraser.clone());
    let (until, also_until) = (stop.clone(), stop.clone());
    [
        tokio::spawn(async move { until.run_until_cancelled(visiting.keep_visiting()).await.unwrap_or(()) }),
        tokio::spawn(async move { also_until.run_until_cancelled(working.keep_working()).await.unwrap_or(()) }),
    ]
}

#[expect(clippy::too_many_arguments, reason = "the composition root hands out everything there is")]
fn spawn_jobs(
    stop: &CancellationToken,
    journal: &Journal,
    store: &Arc<dyn Store>,
    progress: &Arc<Progress>,
    health: &Health,
    queries: &Queries,
    metrics: &Metrics,
    clock: &Clock,
) -> Vec<JoinHandle<()>> {
    let probing = health.clone();
    let probe = every(PROBE_EVERY, stop, move || {
        let health = probing.clone();
        async move {
            // One that is still opening is asked again soon, so that health is right from the start.
            while health.probe().await != StoreHealth::Up {
                tokio::time::sleep(PROBE_AGAIN).await;
            }
        }
    });

    let (journal, store, progress, clock) = (journal.clone(), store.clone(), progress.clone(), clock.clone());
    let kept = queries.retention();
    let forget = every(FORGET_EVERY, stop, move || {
        let (journal, store, clock) = (journal.clone(), store.clone(), clock.clone());
        let held = progress.durable_offset();
        async move {
            if let Err(error) = retention::forget(&journal, &store, held, &clock, kept).await {
                warn!(%error, "could not forget what is out of the retention; trying again");
            }
        }
    });

    let (queries, metrics) = (queries.clone(), metrics.clone());
    let count = every(COUNT_ACTIVE_EVERY, stop, move || {
        let (queries, metrics) = (queries.clone(), metrics.clone());
        async move {
            let trailing_hour = Duration::from_millis(TRAILING_HOUR_MS as u64);
            let count = queries.active_count(trailing_hour).await;
            metrics.set_active_drivers(count.ok().map(|answer| answer.value));
        }
    });
    vec![probe, forget, count]
}

/// Runs `job` now and then again and again, with `pause` between, until `stop`.
fn every<F, J>(pause: Duration, stop: &CancellationToken, job: J) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send,
    J: Fn() -> F + Send + Sync + 'static,
{
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = async { job().await; tokio::time::sleep(pause).await; } => {}
                () = stop.cancelled() => return,
            }
        }
    })
}

/// The signals that ask the process to end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
