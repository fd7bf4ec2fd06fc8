//! What may be asked of the generator. What makes no sense is refused before anything is started.
//!
//! Never here: starting anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use geotrail::plan::count;
use tokio_postgres::Config;

use super::knee::MOST_STEPS;
use super::mix::Mix;
use super::postgis;

/// The service takes so many connections at once, and closes one more as soon as it has accepted it.
const MOST_CONNECTIONS: usize = 10_000;
/// Files that a process has open beside its connections, at most.
const OTHER_FILES: usize = 100;
const MOST_DRIVERS: u64 = 1_000_000;
/// The most points the service takes in a request.
const MOST_POINTS: usize = 10_000;
const MOST_RATE: f64 = 200_000.0;
const MOST_SECONDS: u64 = 300;
/// A whole run takes no longer than this.
const MOST_TIME: Duration = Duration::from_hours(1);

/// Drives the release build of the service, and peers beside it, with a fixed rate of requests, and tells how long each
/// took from the moment it was due. Starts what it needs on loopback, and stops it again.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadtest")]
pub(crate) struct Options {
    /// The kinds of traffic, one after the other
    #[arg(long = "mix", value_enum, value_delimiter = ',', default_values = ["ingest", "single", "mixed", "dispatch"])]
    pub(crate) mixes: Vec<Mix>,
    /// Fleet sizes, up to 1M, such as 20k,100k: everything is run with each
    #[arg(long, value_delimiter = ',', default_value = "20k", value_parser = drivers)]
    pub(crate) drivers: Vec<usize>,
    /// Requests a second; with --limit-ms, where the search begins
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// How long a run, and each step of a search, lasts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub(crate) seconds: u64,
    /// Finds the highest rate whose p99 stays under so many milliseconds
    #[arg(long, value_parser = limit_ms)]
    pub(crate) limit_ms: Option<f64>,
    /// How many requests may be under way at once
    #[arg(long, value_parser = connections)]
    pub(crate) connections: Option<usize>,
    /// Points of a request of `ingest`
    #[arg(long, default_value_t = 1_000, value_parser = batch)]
    pub(crate) batch: usize,
    /// The store of the service; for `redis` a redis-server is started
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    pub(crate) store: Store,
    /// Drives a peer with the same fleet and questions in the same run
    #[arg(long = "peer", value_enum, value_delimiter = ',')]
    pub(crate) peers: Vec<Peer>,
    /// Where Tile38 listens
    #[arg(long, value_name = "HOST:PORT", value_parser = loopback)]
    pub(crate) peer_addr: Option<SocketAddr>,
    /// Where `PostGIS` is: `postgresql://USER:PASSWORD@127.0.0.1/NAME`, a database in which the user may make a table
    #[arg(long, value_name = "URL", value_parser = postgis::server)]
    pub(crate) peer_url: Option<Arc<Config>>,
    /// The process of Tile38 or `PostGIS`, whose processor time is told then, with that of its children
    #[arg(long, value_name = "PID")]
    pub(crate) peer_pid: Option<u32>,
    /// Also writes the lines of JSON here
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draws latency by percentile, and cost by fleet size, here
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The service; `geotrail` of the same build, unless told otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) service: Option<PathBuf>,
}

/// Where the service keeps its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    Embedded,
    Redis,
}

/// What people would pick instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Plain commands of a redis-server that is started
    Redis,
    /// One that listens at --peer-addr
    Tile38,
    /// A table in the database at --peer-url
    Postgis,
}

impl Options {
    /// What no option can be wrong about alone; `open_files` is how many files a process may have open.
    pub(crate) fn check(&self, open_files: usize) -> Result<(), String> {
        if self.peers.contains(&Peer::Tile38) != self.peer_addr.is_some() {
            return Err("--peer tile38 and --peer-addr HOST:PORT go together".to_owned());
        }
        if self.peers.contains(&Peer::Postgis) != self.peer_url.is_some() {
            return Err("--peer postgis and --peer-url URL go together".to_owned());
        }
        if self.peer_pid.is_some() && (self.peer_addr.is_some() == self.peer_url.is_some()) {
            return Err("--peer-pid is of the one peer that is not started here".to_owned());
        }
        if self.limit_ms.is_some() && self.mixes.contains(&Mix::Stampede) {
            return Err("--limit-ms: a stampede has no rate that could be searched for".to_owned());
        }
        if self.rate.is_some() && self.mixes == [Mix::Stampede] {
            return Err("--rate: a stampede brings every phone within a second".to_owned());
        }
        let smallest = self.drivers.iter().min().copied().unwrap_or_default();
        for mix in &self.mixes {
            let connections = self.connections_of(*mix);
            if connections + OTHER_FILES > open_files {
                return Err(format!(
                    "{connections} connections are more than this process may open, {open_files} files; see ulimit -n"
                ));
            }
            if *mix == Mix::Stampede && self.connections.is_some_and(|connections| connections > smallest) {
                return Err(format!("--connections: more than the {smallest} phones there are"));
            }
        }
        let most = self.most_time();
        if most > MOST_TIME {
            let minutes = most.as_secs() / 60;
            return Err(format!("that could take {minutes} minutes; ask for at most {}", MOST_TIME.as_secs() / 60));
        }
        Ok(())
    }

    pub(crate) fn connections_of(&self, mix: Mix) -> usize {
        let fewest = self.drivers.iter().min().copied().unwrap_or(1);
        self.connections.unwrap_or_else(|| mix.usual_connections().min(fewest))
    }

    /// How long one run, or one step of a search, has arrivals.
    pub(crate) const fn run(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// If everything is as slow as it may be.
    fn most_time(&self) -> Duration {
        let steps = if self.limit_ms.is_some() { MOST_STEPS as u32 } else { 1 };
        let contenders = 1 + self.peers.len() as u32;
        let each: Duration = self.mixes.iter().map(|mix| (self.run() + 2 * mix.patience()) * steps).sum();
        each * contenders * self.drivers.len() as u32
    }
}

fn drivers(text: &str) -> Result<usize, String> {
    let drivers = count(text).filter(|drivers| (1..=MOST_DRIVERS).contains(drivers));
    drivers.map(|drivers| drivers as usize).ok_or_else(|| "expected a number from 1 to 1M, such as 20k".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1.0..=MOST_RATE).contains(rate));
    rate.ok_or_else(|| format!("expected requests a second, from 1 to {MOST_RATE}"))
}

fn limit_ms(text: &str) -> Result<f64, String> {
    let limit = text.parse().ok().filter(|limit| (0.1..=4_000.0).contains(limit));
    limit.ok_or_else(|| "expected milliseconds, from 0.1 to 4000".to_owned())
}

fn connections(text: &str) -> Result<usize, String> {
    let connections = text.parse().ok().filter(|connections| (1..=MOST_CONNECTIONS).contains(connections));
    connections.ok_or_else(|| {
        format!("expected a number from 1 to {MOST_CONNECTIONS}, the most that the service takes at once")
    })
}

fn batch(text: &str) -> Result<usize, String> {
    let batch = text.parse().ok().filter(|batch| (1..=MOST_POINTS).contains(batch));
    batch.ok_or_else(|| format!("expected a number from 1 to {MOST_POINTS}, the most that the service takes at once"))
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback() && address.port() > 0);
    address.ok_or_else(|| "expected an address of this machine and a port, such as 127.0.0.1:9851".to_owned())
}
