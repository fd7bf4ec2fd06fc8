//! `geotrail doctor`: looks at a Redis, any Redis, for what the service needs and for what makes Redis slow.
//!
//! - `catalogue` is what is looked at, `finding` what was found, `report` how it is told.
//! - `vitals`, `memory`, `disk`, `replication`, `slow`, `permissions` and `keyspace` with `sample` look at one server each;
//!   `node` is what that says of itself. `cluster` and `sentinel` look at the whole, and find the servers.
//!
//! It changes nothing and stops nobody: it never sends a command that writes, none that watches or runs a script, none
//! whose cost grows with what it looks at; it asks one thing after the other, so many times and no more, and has an end.
//! What is refused is told as unseen, with the command that was refused: never an error, and never a guess.
//!
//! Never here: a connection's making (`store::redis`), the service's own data directory, a password.

mod catalogue;
mod cluster;
mod disk;
mod finding;
mod keyspace;
mod memory;
mod node;
mod permissions;
mod replication;
mod report;
mod sample;
mod sentinel;
mod slow;
mod vitals;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future;

pub use self::catalogue::{CHECKS, Check};
pub use self::finding::{Finding, Severity};
pub use self::permissions::needed;
pub use self::report::Report;

use self::catalogue::REACHABLE;
use self::finding::Chart;
use self::node::Node;
use self::sample::Sample;
use self::vitals::Software;
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::redis::{Address, Mode, Servers};

/// Each exchange with a server.
const DEADLINE: Duration = Duration::from_secs(1);
/// All that is asked of one server.
const NODE_PATIENCE: Duration = Duration::from_secs(15);
/// All of it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Servers that are looked at side by side.
const AT_ONCE: usize = 8;

/// Which Redis, and how geotrail uses it.
#[derive(Clone)]
pub struct Options {
    /// As `--store` takes it. May hold a password.
    pub url: String,
    /// A file of certificates to trust where the URL asks for TLS; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// What the keys of geotrail begin with.
    pub prefix: String,
}

/// Looks. An error is a URL or a file of certificates that cannot be read; whatever the servers do is a finding.
pub async fn examine(options: &Options, clock: &Clock) -> Result<Report, StoreError> {
    let servers = Servers::of(&options.url, options.ca.as_deref(), DEADLINE)?;
    let until = Instant::now() + PATIENCE;
    let (nodes, mut charts) = match servers.mode() {
        Mode::Standalone => (servers.named(), Vec::new()),
        Mode::Cluster => cluster::look(&servers, until).await,
        Mode::Sentinel => {
            let (primary, charts) = sentinel::look(&servers, until).await;
            (primary.into_iter().collect(), charts)
        }
    };
    let mut software = None;
    for some in nodes.chunks(AT_ONCE) {
        let looks = some.iter().map(|address| look_at(&servers, address, options, clock, until));
        for (chart, told) in future::join_all(looks).await {
            charts.push(chart);
            software = software.or(told);
        }
    }
    Ok(Report {
        mode: servers.mode(),
        software,
        nodes: nodes.iter().map(ToString::to_string).collect(),
        findings: charts.into_iter().flat_map(|chart| chart.findings).collect(),
    })
}

/// One server, one question after the other.
async fn look_at(
    servers: &Servers,
    address: &Address,
    options: &Options,
    clock: &Clock,
    until: Instant,
) -> (Chart, Option<Software>) {
    let mut chart = Chart::of(address);
    let begun = Instant::now();
    if begun >= until {
        chart.judge(REACHABLE, Severity::Unseen, "no time was left for it", "");
        return (chart, None);
    }
    let mut server = match servers.connect(address, until.min(begun + NODE_PATIENCE)).await {
        Ok(server) => server,
        Err(trouble) => {
            vitals::unreachable(&trouble, &mut chart);
            return (chart, None);
        }
    };
    vitals::reached(begun.elapsed(), &mut chart);
    vitals::ping(&mut server, &mut chart).await;
    let node = Node::ask(&mut server).await;
    let software = vitals::look(&node, servers.mode(), &mut chart);
    vitals::clock(&mut server, clock, &mut chart).await;
    memory::look(&node, &mut chart);
    disk::look(&node, &mut chart);
    replication::look(&node, servers.mode(), &mut chart);
    slow::look(&mut server, &node, clock, &mut chart).await;
    // What a server says of its keys before it has them all is not true yet.
    if !vitals::is_loading(&node) {
        permissions::look(&mut server, servers, &options.prefix, &mut chart).await;
        let sample = Sample::take(&mut server).await;
        keyspace::look(&node, &sample, &options.prefix, &mut chart);
    }
    vitals::lost(&server, &mut chart);
    (chart, software)
}
