//! The composition root: the one place that names concrete stores and unpacks the configuration. It builds the flow
//! from its end to its beginning, spawns every background task by name, and on the way out stops them along the flow:
//! no new requests, drain, fsync, apply, checkpoint.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::applier::{DeadLetters, Wholeness};
use crate::clock::Clock;
use crate::config::ServeConfig;
use crate::erasure::{Eraser, Gate};
use crate::health::{Health, StoreHealth, TRAILING_HOUR_MS};
use crate::http::{self, Service};
use crate::ingest::Ingest;
use crate::jobs::retention;
use crate::journal::{self, Erasure, Journal};
use crate::query::Queries;
use crate::telemetry::Metrics;
use stores::Follower;

pub mod commands;
mod stores;

/// A request in flight at shutdown has this long.
const DRAIN: Duration = Duration::from_secs(10);
/// The applier has this long to follow what was acknowledged, and to make it durable; the journal keeps the rest.
const APPLY_THE_REST: Duration = Duration::from_secs(10);

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
    appliers: Vec<JoinHandle<()>>,
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

        let config = config.index;
        let options = journal::Options::new(config.data_dir.clone());
        let now = clock.now();
        let (journal, recovery) = tokio::task::spawn_blocking(move || Journal::open(options, now)).await??;
        if recovery.torn_bytes > 0 {
            warn!(bytes = recovery.torn_bytes, "cut a torn tail off the journal: it was never acknowledged");
        }

        let metrics = Metrics::new();
        let mut followers = Vec::new();
        for named in stores::named(&config.stores) {
            followers.push(Follower::open(named, &config, &journal, &metrics).await?);
        }
        let first = followers.first().context("there is no store")?.fed.progress.clone();

        let sources = followers.iter().map(|follower| follower.fed.source.clone()).collect();
        let queries = Queries::new(sources, clock.clone(), config.retention);
        let fed = followers.iter().map(|follower| follower.fed.clone()).collect();
        let health = Health::new(clock.clone(), journal.clone(), fed, queries.clone(), recovery.newest_ts);
        let ingest = Ingest::new(journal.clone(), first.watch_applied());
        let fed = |follower: &Follower| (follower.store.clone(), follower.fed.progress.watch_applied());
        let dir = config.data_dir.clone();
        let take_out = move |erasures: &[Erasure]| take_out_letters(&dir, erasures);
        let fed = followers.iter().map(fed).collect();
        let eraser = Eraser::new(journal.clone(), fed, clock.clone(), config.retention, take_out);
        at_scrape(&metrics, &health);

        let stop_applier = CancellationToken::new();
        let follow = |(follower, gate): (&Follower, Gate)| {
            follower.feed(Arc::new(gate), &journal, &clock, config.retention, stop_applier.clone())
        };
        let appliers = followers.iter().zip(eraser.gates()).map(follow).collect();

        let stop_jobs = CancellationToken::new();
        let mut jobs = spawn_jobs(&stop_jobs, &journal, followers, &health, &queries, &metrics, &clock);
        jobs.extend(spawn_eraser(&eraser, &stop_jobs));

        let whole = async {
            while first.wholeness() != Wholeness::Whole
                || eraser.is_unfinished()
                || health.probe(0).await != StoreHealth::Up
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Either way the listener already takes connections; they wait this long at most.
        let _ = tokio::time::timeout(WHOLE_AT_START, whole).await;

        let stop_http = CancellationToken::new();
        let router = http::router(Arc::new(Service { ingest, queries, eraser, health, metrics, clock }));
        let http = tokio::spawn(http::serve(listener, router, stop_http.clone(), DRAIN));
        Ok(Self { address, journal, stop_http, stop_jobs, stop_applier, http, appliers, jobs })
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
        if tokio::time::timeout(APPLY_THE_REST, join_all(self.appliers)).await.is_err() {
            warn!("a store did not take the rest in time; it will be applied at the next start");
        }
        self.stop_jobs.cancel();
        for job in self.jobs {
            job.await?;
        }
        Ok(())
    }
}

/// Metrics that are read off where they are known, when they are asked for.
fn at_scrape(metrics: &Metrics, health: &Health) {
    let (health, told) = (health.clone(), metrics.clone());
    metrics.at_scrape(move || {
        let report = health.report();
        told.set_fleet_last_report(report.last_report);
        for store in &report.stores {
            told.set_store_state(store.name, store.state());
        }
    });
}

/// Takes what is to be erased out of what stores refused.
fn take_out_letters(dir: &Path, erasures: &[Erasure]) -> io::Result<()> {
    for store in DeadLetters::stores(dir)? {
        DeadLetters::of(dir, &store).take_out(|letter| {
            erasures.iter().any(|erasure| letter.offset < erasure.end && erasure.is_of(&letter.point.driver))
        })?;
    }
    Ok(())
}

fn spawn_eraser(eraser: &Eraser, stop: &CancellationToken) -> [JoinHandle<()>; 2] {
    let (visiting, working) = (eraser.clone(), eraser.clone());
    let (until, also_until) = (stop.clone(), stop.clone());
    [
        tokio::spawn(async move { until.run_until_cancelled(visiting.keep_visiting()).await.unwrap_or(()) }),
        tokio::spawn(async move { also_until.run_until_cancelled(working.keep_working()).await.unwrap_or(()) }),
    ]
}

fn spawn_jobs(
    stop: &CancellationToken,
    journal: &Journal,
    followers: Vec<Follower>,
    health: &Health,
    queries: &Queries,
    metrics: &Metrics,
    clock: &Clock,
) -> Vec<JoinHandle<()>> {
    let probe = |number| {
        let health = health.clone();
        every(PROBE_EVERY, stop, move || {
            let health = health.clone();
            async move {
                // One that is still opening is asked again soon, so that health is right from the start.
                while health.probe(number).await != StoreHealth::Up {
                    tokio::time::sleep(PROBE_AGAIN).await;
                }
            }
        })
    };
    let mut jobs: Vec<_> = (0..health.stores()).map(probe).collect();

    let all: Arc<[_]> = followers.iter().map(|follower| follower.fed.progress.clone()).collect();
    for Follower { name, store, .. } in followers {
        let (journal, clock, all, kept) = (journal.clone(), clock.clone(), all.clone(), queries.retention());
        jobs.push(every(FORGET_EVERY, stop, move || {
            let (journal, store, clock) = (journal.clone(), store.clone(), clock.clone());
            let held = all.iter().map(|progress| progress.durable_offset()).min().unwrap_or_default();
            async move {
                if let Err(error) = retention::forget(&journal, &store, held, &clock, kept).await {
                    warn!(store = name, %error, "could not forget what is out of the retention; trying again");
                }
            }
        }));
    }

    let (queries, metrics) = (queries.clone(), metrics.clone());
    jobs.push(every(COUNT_ACTIVE_EVERY, stop, move || {
        let (queries, metrics) = (queries.clone(), metrics.clone());
        async move {
            let trailing_hour = Duration::from_millis(TRAILING_HOUR_MS as u64);
            let count = queries.active_count(trailing_hour).await;
            metrics.set_active_drivers(count.ok().map(|answer| answer.value));
        }
    }));
    jobs
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
