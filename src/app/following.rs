//! The stores that follow the journal while the service runs: each with its applier and its jobs; attached, given
//! shares of the reads and detached at run time. A change is on disk before it is made, so a start finds what was so.
//!
//! An attached store is no other than one that `--store` names: its own applier fills it from the journal, from the
//! beginning, and goes on. A detached one leaves nothing behind here, so the journal waits for it no longer.
//!
//! Never here: how points get into a store, or who is asked.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::roll::{Entry, Roll};
use super::stores::{Follower, embedded_dir, instances_file};
use super::{APPLY_THE_REST, every};
use crate::applier::DeadLetters;
use crate::clock::Clock;
use crate::config::{IndexConfig, StoreChoice};
use crate::erasure::{Eraser, Gate};
use crate::health::{Health, StoreHealth};
use crate::http::{Shares, StoreInUse, Stores, Unchanged};
use crate::ingest::Ingest;
use crate::jobs::retention;
use crate::journal::Journal;
use crate::query::Sources;
use crate::store::Standing;
use crate::store::redis::Fleet;
use crate::telemetry::Metrics;

const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_AGAIN: Duration = Duration::from_millis(100);
const FORGET_EVERY: Duration = Duration::from_mins(1);
/// How long a store that is to be attached may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Of a hundred answers, how many of an attached store's are compared unless told otherwise: enough to see a
/// difference within minutes, few enough that nobody notices.
const SHADOW_PERCENT: u8 = 10;

/// All that a store that is attached must be made known to.
#[derive(Clone)]
pub(super) struct House {
    pub(super) config: IndexConfig,
    pub(super) fleet: Arc<Fleet>,
    pub(super) journal: Journal,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) sources: Sources,
    pub(super) health: Health,
    pub(super) ingest: Ingest,
    pub(super) eraser: Eraser,
}

/// The stores, as they run.
pub(super) struct Following {
    house: House,
    stop_appliers: CancellationToken,
    stop_jobs: CancellationToken,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    roll: Roll,
    /// In the order of the roll.
    running: Vec<Running>,
}

struct Running {
    follower: Arc<Follower>,
    gate: Arc<Gate>,
    stop_applier: CancellationToken,
    stop_jobs: CancellationToken,
    applier: JoinHandle<()>,
    jobs: Vec<JoinHandle<()>>,
}

impl Following {
    /// Begins to feed and to look after `followers`, which are those of `roll`. Their jobs end with `stop_jobs`.
    pub(super) fn begin(
        house: House,
        roll: Roll,
        followers: Vec<Arc<Follower>>,
        stop_jobs: CancellationToken,
    ) -> Arc<Self> {
        let following = Arc::new(Self {
            house,
            stop_appliers: CancellationToken::new(),
            stop_jobs,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(State { roll, running: Vec::new() }),
        });
        for follower in followers {
            let running = following.run(follower);
            following.state.lock().running.push(running);
        }
        following.show_shares();
        following
    }

    /// Ends the appliers when they have applied what is committed, then the jobs.
    pub(super) async fn stop(&self) {
        let running = std::mem::take(&mut self.state.lock().running);
        self.stop_appliers.cancel();
        let (mut appliers, mut all_jobs, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        for Running { follower, gate, applier, jobs, .. } in running {
            appliers.push(applier);
            all_jobs.extend(jobs);
            leaving.push((follower, gate));
        }
        if tokio::time::timeout(APPLY_THE_REST, futures_util::future::join_all(appliers)).await.is_err() {
            warn!("a store did not take the rest in time; it will be applied at the next start");
        }
        self.stop_jobs.cancel();
        for job in all_jobs {
            // One that panicked has said so.
            let _ = job.await;
        }
        for (follower, gate) in leaving {
            let standing = match follower.fed.peers().standing() {
                Standing::Whole => Standing::Left,
                not_whole => not_whole,
            };
            self.house.eraser.leave(&gate, standing).await;
        }
    }

    fn run(self: &Arc<Self>, follower: Arc<Follower>) -> Running {
        let House { config, journal, clock, metrics, health, eraser, .. } = &self.house;
        let (stop_applier, stop_jobs) = (self.stop_appliers.child_token(), self.stop_jobs.child_token());
        follower.tell(metrics);
        let fed = &follower.fed;
        let so_far = fed.progress().watch_applied();
        let peers = fed.peers().clone();
        let gate = Arc::new(eraser.attach(follower.store.clone(), so_far, peers, follower.is_strange));
        let applier = follower.feed(gate.clone(), journal, clock, config.retention, stop_applier.clone());

        let probe = every(PROBE_EVERY, &stop_jobs, {
            let (health, fed) = (health.clone(), fed.clone());
            move || {
                let (health, fed) = (health.clone(), fed.clone());
                async move {
                    // One that is still opening is asked again soon, so that health is right from the start.
                    while health.probe(&fed).await != StoreHealth::Up {
                        tokio::time::sleep(PROBE_AGAIN).await;
                    }
                }
            }
        });
        let forget = every(FORGET_EVERY, &stop_jobs, {
            let (all, follower) = (self.clone(), follower.clone());
            move || {
                let (all, follower) = (all.clone(), follower.clone());
                async move { all.forget(&follower).await }
            }
        });
        let (eraser, until) = (eraser.clone(), stop_jobs.clone());
        let visited = gate.clone();
        let visit = async move { until.run_until_cancelled(eraser.keep_visiting(&visited)).await.unwrap_or(()) };
        let jobs = vec![probe, forget, tokio::spawn(visit)];
        Running { follower, gate, stop_applier, stop_jobs, applier, jobs }
    }

    async fn forget(&self, follower: &Follower) {
        let House { config, journal, clock, .. } = &self.house;
        let held = {
            let state = self.state.lock();
            state.running.iter().map(|running| running.follower.fed.progress().durable_offset()).min()
        };
        let forgotten =
            retention::forget(journal, &follower.store, held.unwrap_or_default(), clock, config.retention).await;
        if let Err(error) = forgotten {
            let store = follower.name;
            warn!(store, %error, "could not forget what is out of the retention; trying again");
        }
    }

    /// Keeps a changed roll. It is not in force yet.
    async fn note(&self, roll: &Roll) -> Result<(), Unchanged> {
        let (roll, dir) = (roll.clone(), self.house.config.data_dir.clone());
        match spawn_blocking(move || roll.save(&dir)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                warn!(%error, "a change of the stores could not be noted");
                Err(Unchanged::NotNoted)
            }
            Err(_) => Err(Unchanged::NotNoted),
        }
    }

    /// Puts in force what the state says.
    fn take_effect(&self) {
        let fed: Vec<_> = self.state.lock().running.iter().map(|running| running.follower.fed.clone()).collect();
        let House { sources, health, ingest, .. } = &self.house;
        if let Some(first) = fed.first() {
            ingest.follow(first.progress().watch_applied());
        }
        sources.set(fed.iter().map(|fed| fed.source().clone()).collect());
        health.set_stores(fed);
        self.show_shares();
    }

    fn show_shares(&self) {
        let state = self.state.lock();
        for (entry, running) in state.roll.entries.iter().zip(&state.running) {
            running.follower.fed.source().set_shares(entry.reads_percent, entry.shadow_percent);
            self.house.metrics.set_store_shares(entry.name, entry.reads_percent, entry.shadow_percent);
        }
    }

    /// Opens a store that is none of ours yet, if it is there.
    async fn opened(&self, name: &'static str, choice: &StoreChoice, adopt: bool) -> Result<Follower, Unchanged> {
        let House { config, fleet, journal, metrics, .. } = &self.house;
        let opened = Follower::open((name, choice), config, journal, metrics, fleet).await;
        let follower = opened.map_err(|_| Unchanged::UrlWrong("it cannot be read as the URL of a Redis".into()))?;
        if *choice == StoreChoice::Embedded {
            return Ok(follower);
        }
        let answers = async {
            while follower.store.ping().await.is_err() && !follower.is_foreign().await {
                tokio::time::sleep(PROBE_AGAIN).await;
            }
        };
        tokio::time::timeout(ANSWERS_WITHIN, answers).await.map_err(|_| Unchanged::Unreachable)?;
        if adopt {
            follower.adopt().await.map_err(|_| Unchanged::Unreachable)?;
        }
        if follower.is_foreign().await {
            return Err(Unchanged::Foreign);
        }
        let servers = follower.servers().await;
        let others: Vec<Arc<Follower>> =
            self.state.lock().running.iter().map(|running| running.follower.clone()).collect();
        for other in others {
            if other.servers().await.iter().any(|server| servers.contains(server)) {
                return Err(Unchanged::Attached);
            }
        }
        Ok(follower)
    }
}

#[async_trait]
impl Stores for Following {
    fn list(&self) -> Vec<StoreInUse> {
        let in_use = |entry: &Entry| StoreInUse {
            name: entry.name,
            url: entry.choice.to_string(),
            reads_percent: entry.reads_percent,
            shadow_percent: entry.shadow_percent,
        };
        self.state.lock().roll.entries.iter().map(in_use).collect()
    }

    async fn attach(self: Arc<Self>, url: String, shares: Shares) -> Result<&'static str, Unchanged> {
        let _turn = self.turn.lock().await;
        let choice = StoreChoice::parse(&url).map_err(Unchanged::UrlWrong)?;
        let mut roll = self.state.lock().roll.clone();
        if roll.entries.iter().any(|entry| entry.choice.to_string() == choice.to_string()) {
            return Err(Unchanged::Attached);
        }
        let name = roll.free_name(&choice).ok_or(Unchanged::TooMany)?;
        // What a crash may have left of another of this name.
        self.remove_notes(name, &choice).await.map_err(|_| Unchanged::NotNoted)?;
        let follower = self.opened(name, &choice, shares.adopt).await?;
        let shadow_percent = shares.shadow_percent.unwrap_or(SHADOW_PERCENT);
        info!(store = name, at = %choice, "attached");
        roll.entries.push(Entry { name, choice, reads_percent: 0, shadow_percent });
        roll.share(roll.entries.len() - 1, shares.reads_percent.unwrap_or(0));
        self.note(&roll).await?;
        let running = self.run(Arc::new(follower));
        {
            let mut state = self.state.lock();
            state.roll = roll;
            state.running.push(running);
        }
        self.take_effect();
        Ok(name)
    }

    async fn change(self: Arc<Self>, name: String, shares: Shares) -> Result<(), Unchanged> {
        let _turn = self.turn.lock().await;
        let mut roll = self.state.lock().roll.clone();
        let number = roll.entries.iter().position(|entry| entry.name == name).ok_or(Unchanged::NoSuchStore)?;
        if shares.adopt {
            let follower = self.state.lock().running[number].follower.clone();
            follower.adopt().await.map_err(|_| Unchanged::Unreachable)?;
            info!(store = follower.name, "adopted: what it holds is our fleet's from now on");
        }
        if let Some(shadow_percent) = shares.shadow_percent {
            roll.entries[number].shadow_percent = shadow_percent;
        }
        if let Some(reads_percent) = shares.reads_percent {
            roll.share(number, reads_percent);
        }
        self.note(&roll).await?;
        let Entry { name, reads_percent, shadow_percent, .. } = roll.entries[number];
        info!(store = name, reads_percent, shadow_percent, "shares changed");
        self.state.lock().roll = roll;
        self.show_shares();
        Ok(())
    }

    fn instance(&self) -> String {
        self.house.journal.id().to_string()
    }

    fn dismiss(&self, instance: &str) -> Result<(), Unchanged> {
        let followers: Vec<_> = self.state.lock().running.iter().map(|running| running.follower.clone()).collect();
        let known: Vec<_> =
            followers.iter().filter(|follower| follower.fed.peers().list().contains_key(instance)).collect();
        if known.is_empty() {
            return Err(Unchanged::NoSuchInstance);
        }
        let now = self.house.clock.now();
        if known.iter().all(|follower| !follower.fed.peers().dismiss(instance, now)) {
            return Err(Unchanged::InstanceIsThere);
        }
        info!(instance, "dismissed: nobody waits for what it accepted any more");
        Ok(())
    }

    async fn detach(self: Arc<Self>, name: String) -> Result<(), Unchanged> {
        let _turn = self.turn.lock().await;
        let mut roll = self.state.lock().roll.clone();
        let number = roll.entries.iter().position(|entry| entry.name == name).ok_or(Unchanged::NoSuchStore)?;
        let Entry { name, choice, reads_percent, .. } = roll.entries.remove(number);
        if reads_percent > 0 {
            return Err(Unchanged::TakesReads);
        }
        let is_needed = {
            let state = self.state.lock();
            let is_whole = |number: usize| state.running[number].follower.fed.source().is_whole();
            is_whole(number) && !(0..state.running.len()).any(|other| other != number && is_whole(other))
        };
        if is_needed {
            return Err(Unchanged::Needed);
        }
        self.note(&roll).await?;
        let Running { gate, stop_applier, stop_jobs, applier, jobs, .. } = {
            let mut state = self.state.lock();
            state.roll = roll;
            state.running.remove(number)
        };
        self.take_effect();
        stop_applier.cancel();
        let abort = applier.abort_handle();
        if tokio::time::timeout(APPLY_THE_REST, applier).await.is_err() {
            abort.abort();
        }
        stop_jobs.cancel();
        for job in jobs {
            let _ = job.await;
        }
        // Whoever goes on answering from it lacks what we accept from now on.
        let now = self.house.clock.now();
        self.house.eraser.leave(&gate, Standing::Behind(Some(now))).await;
        self.house.eraser.detach(name);
        self.house.metrics.forget_store(name);
        info!(store = name, at = %choice, "detached");
        // It is out of the roll: what is left over is in nobody's way, and goes with the next of this name.
        if let Err(error) = self.remove_notes(name, &choice).await {
            warn!(store = name, %error, "what was noted of a detached store could not be removed");
        }
        Ok(())
    }
}

impl Following {
    /// Removes all that lies in the data directory for a store that does not follow the journal.
    async fn remove_notes(&self, name: &'static str, choice: &StoreChoice) -> io::Result<()> {
        let House { config, journal, .. } = &self.house;
        let (dir, checkpoint) = (config.data_dir.clone(), journal.checkpoint(name));
        let instances = instances_file(&dir, name);
        let is_embedded = *choice == StoreChoice::Embedded;
        let remove = move || {
            checkpoint.remove()?;
            DeadLetters::of(&dir, name).take_out(|_| true)?;
            if_there(fs::remove_file(instances))?;
            if is_embedded { if_there(fs::remove_dir_all(embedded_dir(&dir))) } else { Ok(()) }
        };
        spawn_blocking(remove).await.map_err(io::Error::other)?
    }
}

/// What is not there need not be removed.
fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
