//! The composition root: the one place that names concrete stores and unpacks the configuration. It builds the flow
//! from its end to its beginning, spawns every background task by name, and on the way out stops them along the flow:
//! no new requests, drain, fsync, apply, checkpoint.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::applier::DeadLetters;
use crate::clock::Clock;
use crate::config::ServeConfig;
use crate::erasure::Eraser;
use crate::health::{Health, StoreHealth, TRAILING_HOUR_MS};
use crate::http::{self, Guard, Service, Tls};
use crate::ingest::Ingest;
use crate::journal::{self, Erasure, Journal};
use crate::keys::KeyRing;
use crate::query::{IndexState, Outcome, Queries, Sources};
use crate::telemetry::Metrics;
use following::{Following, House};
use roll::{Origin, Roll};
use stores::Follower;

pub mod commands;
mod following;
pub mod keys;
mod roll;
mod stores;

/// A request in flight at shutdown has this long.
const DRAIN: Duration = Duration::from_secs(10);
/// The applier has this long to follow what was acknowledged, and to make it durable; the journal keeps the rest.
const APPLY_THE_REST: Duration = Duration::from_secs(10);

/// What a start may wait for its index: a small one is then whole in the first answer, a large one is labelled.
const WHOLE_AT_START: Duration = Duration::from_millis(300);
const COUNT_ACTIVE_EVERY: Duration = Duration::from_secs(15);
/// A key that is revoked opens nothing within five seconds.
const LOOK_AT_FILES_EVERY: Duration = Duration::from_secs(1);

/// The running service.
pub struct App {
    address: SocketAddr,
    scheme: &'static str,
    journal: Journal,
    stop_http: CancellationToken,
    stop_jobs: CancellationToken,
    http: JoinHandle<()>,
    following: Arc<Following>,
    jobs: Vec<JoinHandle<()>>,
}

/// Runs the service until SIGTERM or SIGINT.
pub async fn serve(config: ServeConfig) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let app = App::start(config, Clock::system()).await?;
    println!("listening on {}://{}", app.scheme, app.address());
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

        let keys = config.keys.as_deref().map(KeyRing::open).transpose()?;
        let tls = config.tls.as_ref().map(|(certificate, key)| Tls::open(certificate, key)).transpose()?;
        let config = config.index;
        let options = journal::Options::new(config.data_dir.clone());
        let now = clock.now();
        let (journal, recovery) = tokio::task::spawn_blocking(move || Journal::open(options, now)).await??;
        if recovery.torn_bytes > 0 {
            warn!(bytes = recovery.torn_bytes, "cut a torn tail off the journal: it was never acknowledged");
        }

        let metrics = Metrics::new();
        let (roll, origin) = Roll::read(&config.data_dir, &config.stores)?;
        tell_origin(origin, &roll, &config.data_dir)?;
        let fleet = stores::fleet(&config.data_dir)?;
        let mut followers = Vec::new();
        for entry in &roll.entries {
            let follower = Follower::open((entry.name, &entry.choice), &config, &journal, &metrics, &fleet).await?;
            followers.push(Arc::new(follower));
        }
        let fed: Vec<_> = followers.iter().map(|follower| follower.fed.clone()).collect();
        let first = fed.first().context("there is no store")?.clone();

        let sources = Sources::new(fed.iter().map(|fed| fed.source().clone()).collect());
        let compared = metrics.clone();
        let compared = move |store, kind, outcome: Outcome| compared.shadow_answer(store, kind, outcome.word());
        let queries = Queries::new(sources.clone(), clock.clone(), config.retention, compared);
        let health = Health::new(clock.clone(), journal.clone(), fed, queries.clone(), recovery.newest_ts);
        let ingest = Ingest::new(journal.clone(), first.progress().watch_applied());
        let dir = config.data_dir.clone();
        let take_out = move |erasures: &[Erasure]| take_out_letters(&dir, erasures);
        let eraser = Eraser::new(journal.clone(), clock.clone(), config.retention, take_out);
        at_scrape(&metrics, &health, tls.as_ref());

        let stop_jobs = CancellationToken::new();
        let house = House {
            config,
            fleet,
            journal: journal.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            sources,
            health: health.clone(),
            ingest: ingest.clone(),
            eraser: eraser.clone(),
        };
        let following = Following::begin(house, roll, followers, stop_jobs.clone());
        let (worker, until) = (eraser.clone(), stop_jobs.clone());
        let erase = async move { until.run_until_cancelled(worker.keep_working()).await.unwrap_or(()) };
        let mut jobs = vec![tokio::spawn(erase), count_active(&stop_jobs, &queries, &metrics)];
        if keys.is_some() || tls.is_some() {
            jobs.push(follow_files(&stop_jobs, keys.clone(), tls.clone()));
        }
        let guard = keys.map_or_else(Guard::open, |keys| Guard::with(keys, clock.clone()));

        let whole = async {
            while first.source().state() != IndexState::Complete
                || eraser.is_unfinished()
                || health.probe(&first).await != StoreHealth::Up
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Either way the listener already takes connections; they wait this long at most.
        let _ = tokio::time::timeout(WHOLE_AT_START, whole).await;

        let stop_http = CancellationToken::new();
        let router = http::router(Arc::new(Service {
            guard,
            stores: following.clone(),
            ingest,
            queries,
            eraser,
            health,
            metrics,
            clock,
        }));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let http = tokio::spawn(http::serve(listener, tls, router, stop_http.clone(), DRAIN));
        Ok(Self { address, scheme, journal, stop_http, stop_jobs, http, following, jobs })
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
        self.following.stop().await;
        self.stop_jobs.cancel();
        for job in self.jobs {
            job.await?;
        }
        Ok(())
    }
}

/// Metrics that are read off where they are known, when they are asked for.
fn at_scrape(metrics: &Metrics, health: &Health, tls: Option<&Tls>) {
    let (health, tls, told) = (health.clone(), tls.cloned(), metrics.clone());
    metrics.at_scrape(move || {
        if let Some(tls) = &tls {
            told.set_vendor_expiry("tls", "operator", "certificate", tls.expires());
        }
        let report = health.report();
        told.set_fleet_last_report(report.last_report);
        for store in &report.stores {
            told.set_store_state(store.name, store.state());
            told.set_clock_skew(store.name, store.skew_ms);
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

/// Says where the stores come from, if not from the configuration alone.
fn tell_origin(origin: Origin, roll: &Roll, dir: &Path) -> io::Result<()> {
    match origin {
        Origin::Configuration => Ok(()),
        Origin::File => {
            warn!(
                stores = roll.entries.len(),
                "the stores are those of the last change at run time, not those of `store`"
            );
            Ok(())
        }
        Origin::Damaged => {
            error!("what was changed of the stores at run time cannot be read: `store` holds");
            Ok(())
        }
        Origin::NewConfiguration => {
            warn!("`store` was changed: it holds, and what was changed at run time before does not");
            roll.save(dir)
        }
    }
}

fn count_active(stop: &CancellationToken, queries: &Queries, metrics: &Metrics) -> JoinHandle<()> {
    let (queries, metrics) = (queries.clone(), metrics.clone());
    every(COUNT_ACTIVE_EVERY, stop, move || {
        let (queries, metrics) = (queries.clone(), metrics.clone());
        async move {
            let trailing_hour = Duration::from_millis(TRAILING_HOUR_MS as u64);
            let count = queries.active_count(trailing_hour).await;
            metrics.set_active_drivers(count.ok().map(|answer| answer.value));
        }
    })
}

/// Follows the files of the keys and of the certificate.
fn follow_files(stop: &CancellationToken, keys: Option<KeyRing>, tls: Option<Tls>) -> JoinHandle<()> {
    every(LOOK_AT_FILES_EVERY, stop, move || {
        let (keys, tls) = (keys.clone(), tls.clone());
        async move {
            let look = move || {
                keys.iter().for_each(KeyRing::refresh);
                tls.iter().for_each(Tls::refresh);
            };
            if let Err(error) = tokio::task::spawn_blocking(look).await {
                error!(%error, "the files of keys and certificate were not looked at");
            }
        }
    })
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
