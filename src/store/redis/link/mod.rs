//! The way to Redis, whatever its topology. Below this module alone is known what speaks to it: commands go out and
//! replies come in as types of our own. fred reads URLs, begins TLS and reckons slots; connections are our own, for the
//! reasons given in `wire`.
//!
//! Every primary has connections of its own (`node`), one of which carries all questions (`pipe`): a client of a whole
//! cluster stalls as a whole when one of its servers does. So the slots are ours to know (`map`): a pipeline is cut by
//! slot, its parts go to their servers at once, and what is answered with MOVED or ASK is sent where that says. A server
//! that answers nothing costs only what is asked of it. One server, or the primary that sentinels name, is a map with one
//! owner. `wire` is how commands and replies look on the way.
//!
//! What may be written only if nobody wrote meanwhile (`change`) goes over connections of its own (`line`). Who looks at
//! servers from outside has one to each as well (`servers`).
//!
//! Never here: a key, a script's text, what a reply means.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::RngExt as _;
use tokio::task::AbortHandle;

use self::command::{Failure, slot, unexpected};
use self::map::Territory;
use self::memory::field;
use self::node::Node;
use crate::store::StoreError;

pub(super) use self::change::Change;
pub use self::command::Reply;
pub(super) use self::command::{Command, NOT_ALLOWED, Script};
pub use self::map::Share;
pub use self::place::Address;
pub use self::servers::{Mode, Question, Server, Servers, Trouble};
pub(super) use self::wire::Request;

mod change;
mod command;
mod line;
mod map;
mod memory;
mod node;
mod pipe;
mod place;
mod servers;
mod slowlog;
mod wire;

/// How often commands may be sent anew because of what a server answered.
const ROUNDS: usize = 32;
/// Pauses before asking anew a server that cannot answer yet: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(160));

/// Connections that heal, to all primaries.
#[derive(Debug)]
pub(super) struct Link {
    territory: Arc<Territory>,
    upkeep: AbortHandle,
    /// So long a server is asked anew that says that it will answer soon.
    patience: Duration,
    /// What a new line must prove.
    whose: ArcSwapOption<Whose>,
}

/// How a server shows whose data it has.
#[derive(Debug)]
struct Whose {
    question: Command,
    answer: Bytes,
}

/// A command on its way, and the place of its reply.
#[derive(Debug)]
struct Pending {
    place: usize,
    command: Command,
    route: Route,
}

#[derive(Clone, Debug)]
enum Route {
    /// To whoever has its key's slot.
    Owner,
    /// To this one, which has it now.
    At(Arc<Node>),
    /// To this one, which is about to have it.
    Asking(Arc<Node>),
}

/// What goes to one server in one pipeline.
#[derive(Debug)]
struct Group {
    node: Arc<Node>,
    asking: bool,
    pending: Vec<Pending>,
}

impl Link {
    /// Begins to connect, and returns at once. `ca` is a file of certificates to trust instead of the system's; `key`
    /// is one that servers may be asked about. Must be called within a Tokio runtime.
    pub(super) fn open(url: &str, ca: Option<&Path>, deadline: Duration, key: Bytes) -> Result<Self, StoreError> {
        // fred's TLS takes rustls' process-wide provider; whoever installed one before us has the say.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (topology, dial) = place::read(url, ca, deadline)?;
        let territory = Arc::new(Territory::new(topology, dial, Command::on("EXISTS", key)));
        let upkeep = tokio::spawn(map::keep_up(territory.clone())).abort_handle();
        Ok(Self { territory, upkeep, patience: deadline / 2, whose: ArcSwapOption::empty() })
    }

    /// From now on, a new line is used only where `key` holds `answer`. In a cluster most servers do not have the key:
    /// there, a new line is used only if no connection was made or broken since it was looked at.
    pub(super) fn vouch(&self, key: Bytes, answer: String) {
        self.whose.store(Some(Arc::new(Whose { question: Command::on("GET", key), answer: answer.into() })));
    }

    /// Waits for the first connections, no longer than `patience`.
    pub(super) async fn settled(&self, patience: Duration) {
        let all = async {
            while self.territory.map().primaries.is_empty() {
                tokio::time::sleep(PAUSES.0).await;
            }
            for node in &self.territory.map().primaries {
                node.settled(patience).await;
            }
        };
        // Whoever comes without a connection is told so by every call.
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Connections that no longer answered and were let go.
    pub(super) fn rebuilds(&self) -> u64 {
        self.territory.tally.rebuilds.load(Ordering::Relaxed)
    }

    /// Entries that came into the slow logs: of clients of our name, and of others.
    pub(super) fn slow_log_entries(&self) -> (u64, u64) {
        let tally = &self.territory.tally;
        (tally.slow_own.load(Ordering::Relaxed), tally.slow_others.load(Ordering::Relaxed))
    }

    /// Primaries that cannot be asked now. What needs none of them is answered all the same.
    pub(super) fn missing(&self) -> usize {
        let map = self.territory.map();
        let silent = map.primaries.iter().filter(|node| !node.answers()).count();
        silent.max(usize::from(map.primaries.is_empty()))
    }

    /// How many primaries cannot be asked now, of how many, if others can.
    pub(super) fn outage(&self) -> Option<(usize, usize)> {
        let (missing, primaries) = (self.missing(), self.territory.map().primaries.len());
        (1..primaries).contains(&missing).then_some((missing, primaries))
    }

    /// Whether whoever has this key has been silent for so long that nobody waits for it, while others answer.
    pub(super) fn is_away(&self, key: &[u8]) -> bool {
        let map = self.territory.map();
        let is_away = map.owner(slot(key)).is_none_or(|node| node.is_given_up());
        is_away && map.primaries.iter().any(|node| node.answers())
    }

    /// Whether there can be more than one primary.
    pub(super) fn is_cluster(&self) -> bool {
        self.territory.is_cluster()
    }

    /// Connections made so far, to any server: one that comes back may have lost what it had.
    pub(super) fn arrivals(&self) -> u64 {
        self.territory.tally.arrivals.load(Ordering::Acquire)
    }

    /// Whether any primary answers.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let (map, ping) = (self.territory.map(), Command::keyless("PING"));
        let (ping, mut trouble) = ([&ping], nobody());
        let mut asked: FuturesUnordered<_> = map.primaries.iter().map(|node| node.send(&ping, false)).collect();
        while let Some(answer) = asked.next().await {
            match answer.and_then(|replies| replies.into_iter().collect::<Result<Vec<_>, _>>()) {
                Ok(_) => return Ok(()),
                Err(failure) => trouble = failure,
            }
        }
        Err(trouble.into())
    }

    /// The run id of each primary that tells, with the number of the database.
    pub(super) async fn servers(&self) -> Vec<String> {
        let command = Command::keyless("INFO").arg("server");
        let map = self.territory.map();
        let asked = [&command];
        let answers = future::join_all(map.primaries.iter().map(|node| node.send(&asked, false))).await;
        let told = answers.into_iter().filter_map(|answer| answer.ok()?.pop()?.ok());
        let run_id = |info: Reply| Some(field(info.text()?, "run_id")?.to_owned());
        let database = self.territory.database();
        told.filter_map(run_id).map(|run_id| format!("{run_id}/{database}")).collect()
    }

    /// How often a connection was made or broke, of any server: whoever remembers something of what is there asks again
    /// when this has changed.
    pub(super) fn connections(&self) -> u64 {
        self.territory.tally.connections.load(Ordering::Acquire)
    }

    /// Keys that servers let go of by themselves, since the first look at each.
    pub(super) fn evictions(&self) -> u64 {
        self.territory.tally.evictions.load(Ordering::Acquire)
    }

    /// Whether any primary may let go of keys by itself.
    pub(super) fn may_evict(&self) -> bool {
        self.territory.map().primaries.iter().any(|node| node.may_evict())
    }

    /// Sends commands, those for one server in one pipeline. The replies, in order, if there is no error among them.
    /// All that can be done is done, even if there is. A call of a script that a server does not know is sent again with
    /// its text.
    pub(super) async fn run(&self, commands: Vec<Command>) -> Result<Vec<Reply>, StoreError> {
        self.each(commands).await.into_iter().collect()
    }

    /// Like [`Link::run`], for who can do without some of the replies.
    pub(super) async fn each(&self, commands: Vec<Command>) -> Vec<Result<Reply, StoreError>> {
        self.send(commands).await.into_iter().map(|reply| reply.map_err(StoreError::from)).collect()
    }

    /// Sends one command.
    pub(super) async fn ask(&self, command: Command) -> Result<Reply, StoreError> {
        let mut replies = self.run(vec![command]).await?;
        replies.pop().ok_or_else(unexpected)
    }

    /// As many replies as commands.
    async fn send(&self, commands: Vec<Command>) -> Vec<Result<Reply, Failure>> {
        let begun = Instant::now();
        let mut replies: Vec<Option<Result<Reply, Failure>>> = commands.iter().map(|_| None).collect();
        let mut pending: Vec<Pending> = commands
            .into_iter()
            .enumerate()
            .map(|(place, command)| Pending { place, command, route: Route::Owner })
            .collect();
        let mut pause = PAUSES.0;
        for round in 0.. {
            let mut later = false;
            let groups = self.groups(std::mem::take(&mut pending), &mut replies);
            let answers = future::join_all(groups.into_iter().map(Group::send)).await;
            for (node, asked, reply) in answers.into_iter().flatten() {
                let failure = match reply {
                    Err(failure) if round < ROUNDS => failure,
                    other => {
                        replies[asked.place] = Some(other);
                        continue;
                    }
                };
                match self.again(&node, asked, failure) {
                    Ok((asked, is_later)) => {
                        // In time the slot may have another owner.
                        later |= is_later;
                        pending.push(asked);
                    }
                    Err((place, failure)) => replies[place] = Some(Err(failure)),
                }
            }
            if pending.is_empty() {
                break;
            }
            if later {
                if begun.elapsed() >= self.patience {
                    for Pending { place, .. } in pending {
                        replies[place] = Some(Err(Failure::Again("not ready in time".into())));
                    }
                    break;
                }
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(jittered).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
        replies.into_iter().map(|reply| reply.unwrap_or_else(|| Err(nobody()))).collect()
    }

    /// By server, each in the order of `pending`. What has none is settled.
    fn groups(&self, pending: Vec<Pending>, replies: &mut [Option<Result<Reply, Failure>>]) -> Vec<Group> {
        let map = self.territory.map();
        let mut groups: Vec<Group> = Vec::new();
        let mut put = |node: Arc<Node>, asking, pending| {
            let group = groups.iter_mut().find(|group| Arc::ptr_eq(&group.node, &node) && group.asking == asking);
            match group {
                Some(group) => group.pending.push(pending),
                None => groups.push(Group { node, asking, pending: vec![pending] }),
            }
        };
        for pending in pending {
            let (node, asking) = match (&pending.route, pending.command.slot()) {
                (Route::At(node), _) => (Some(node.clone()), false),
                (Route::Asking(node), _) => (Some(node.clone()), true),
                (Route::Owner, Some(slot)) => (map.owner(slot), false),
                (Route::Owner, None) => (map.anyone(), false),
            };
            if let Some(node) = node {
                put(node, asking, pending);
            } else {
                self.territory.refresh.notify_one();
                replies[pending.place] = Some(Err(nobody()));
            }
        }
        groups
    }

    /// What to do with a command after a failure: send it again, maybe later; or its failure.
    fn again(
        &self,
        node: &Arc<Node>,
        mut asked: Pending,
        failure: Failure,
    ) -> Result<(Pending, bool), (usize, Failure)> {
        if failure == Failure::NoScript {
            asked.command.spell_out();
            return Ok((asked, false));
        }
        match self.elsewhere(node, asked.command.slot(), &failure) {
            Some((route, is_later)) => {
                asked.route = route;
                Ok((asked, is_later))
            }
            None => Err((asked.place, failure)),
        }
    }

    /// Where to send what `node` did not do, if that is of use, and whether later.
    fn elsewhere(&self, node: &Arc<Node>, slot: Option<u16>, failure: &Failure) -> Option<(Route, bool)> {
        if *failure == Failure::ReadOnly {
            node.renew();
        }
        match failure {
            Failure::Moved(address) if self.territory.is_cluster() => {
                let address = address.clone().or_host_of(node.address());
                Some((Route::At(self.territory.moved(slot?, address)), false))
            }
            Failure::Ask(address) if self.territory.is_cluster() => {
                let address = address.clone().or_host_of(node.address());
                Some((Route::Asking(self.territory.guest(address)), false))
            }
            Failure::Again(_) => Some((Route::Owner, true)),
            Failure::ReadOnly if self.territory.is_known_by_others() => {
                self.territory.refresh.notify_one();
                Some((Route::Owner, true))
            }
            _ => {
                self.territory.refresh.notify_one();
                None
            }
        }
    }
}

impl Group {
    /// Each command with its reply, and who gave it.
    async fn send(self) -> Vec<(Arc<Node>, Pending, Result<Reply, Failure>)> {
        let Self { node, asking, pending } = self;
        let commands: Vec<&Command> = pending.iter().map(|pending| &pending.command).collect();
        match node.send(&commands, asking).await {
            Ok(replies) => {
                pending.into_iter().zip(replies).map(|(pending, reply)| (node.clone(), pending, reply)).collect()
            }
            Err(failure) => {
                let failed = |pending: Pending| (node.clone(), pending, Err(failure.clone()));
                pending.into_iter().map(failed).collect()
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

fn nobody() -> Failure {
    Failure::Down("it is not known who has these keys".into())
}
