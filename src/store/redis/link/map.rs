//! Which server has which slots, and how that is found out.
//!
//! Any server of a cluster knows (CLUSTER SLOTS); sentinels know the one primary. It is asked for when something points
//! at a change (a MOVED, a server that does not answer), and now and then anyway. Answers of servers may be stale;
//! whoever is sent astray by one is told so by a MOVED, whose word is taken at once for its slot.
//!
//! Never here: what is sent to whom.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::command::{Command, Reply};
use super::line::Line;
use super::node::{Node, Tally};
use super::place::{Address, Dial, Topology};

/// The slots of a cluster.
const SLOTS: usize = 16_384;
/// Whose slot nobody has.
const NOBODY: u16 = u16::MAX;
/// The map is asked for at least so often, and at most so often.
const REFRESH: Duration = Duration::from_secs(5);
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

/// What is known of all servers.
#[derive(Debug)]
pub(super) struct Territory {
    topology: Topology,
    dial: Dial,
    /// What watchdogs ask.
    probe: Command,
    map: ArcSwap<Map>,
    /// Held while the map is changed.
    changing: Mutex<()>,
    /// Wakes whoever asks for the map.
    pub(super) refresh: Notify,
    pub(super) tally: Arc<Tally>,
}

/// Who has what.
#[derive(Clone, Debug)]
pub(super) struct Map {
    /// Of each slot, the index of its primary.
    owners: Vec<u16>,
    /// Those that have slots.
    pub(super) primaries: Vec<Arc<Node>>,
    /// Others that an ASK led to.
    guests: Vec<Arc<Node>>,
    /// Where else the map can be had.
    replicas: Vec<Address>,
}

/// A range of slots, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The first slot.
    pub first: u16,
    /// The last slot, which is in it.
    pub last: u16,
    /// Who has it.
    pub primary: Address,
    /// Who copies it.
    pub replicas: Vec<Address>,
}

/// What CLUSTER SLOTS says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    ranges: Vec<(RangeInclusive<u16>, Address)>,
    replicas: Vec<Address>,
}

impl Map {
    /// Whoever has the slot.
    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        self.primaries.get(usize::from(self.owners[usize::from(slot)])).cloned()
    }

    /// A primary that answers, if there is one.
    pub(super) fn anyone(&self) -> Option<Arc<Node>> {
        self.primaries.iter().find(|node| node.answers()).or_else(|| self.primaries.first()).cloned()
    }

    fn find(&self, address: &Address) -> Option<Arc<Node>> {
        self.primaries.iter().chain(&self.guests).find(|node| node.address() == address).cloned()
    }
}

impl Territory {
    /// Of one server it knows all there is to know; of others nothing yet.
    pub(super) fn new(topology: Topology, dial: Dial, probe: Command) -> Self {
        let map = Map { owners: vec![NOBODY; SLOTS], primaries: vec![], guests: vec![], replicas: vec![] };
        let territory = Self {
            map: ArcSwap::from_pointee(map),
            changing: Mutex::new(()),
            refresh: Notify::new(),
            tally: Arc::default(),
            topology,
            dial,
            probe,
        };
        if let Topology::Single(address) = &territory.topology {
            territory.take(Layout::of_one(address.clone()));
        }
        territory
    }

    /// The number of the database.
    pub(super) fn database(&self) -> u8 {
        self.dial.database()
    }

    /// The map as it is now.
    pub(super) fn map(&self) -> Arc<Map> {
        self.map.load_full()
    }

    /// Whether servers tell of each other.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.topology, Topology::Cluster(_))
    }

    /// Whether somebody knows a new primary when the old one is none any more.
    pub(super) const fn is_known_by_others(&self) -> bool {
        !matches!(self.topology, Topology::Single(_))
    }

    /// Notes that a slot is at `address` now; the server there.
    pub(super) fn moved(&self, slot: u16, address: Address) -> Arc<Node> {
        self.refresh.notify_one();
        let _changing = self.changing.lock();
        let old = self.map();
        let mut map = (*old).clone();
        let index = self.primary(&mut map, &old, address);
        let node = map.primaries[index].clone();
        map.guests.retain(|guest| !Arc::ptr_eq(guest, &node));
        map.owners[usize::from(slot)] = index as u16;
        self.map.store(Arc::new(map));
        node
    }

    /// The server at `address`, which may have no slot yet.
    pub(super) fn guest(&self, address: Address) -> Arc<Node> {
        let _changing = self.changing.lock();
        let mut map = (*self.map()).clone();
        if let Some(node) = map.find(&address) {
            return node;
        }
        let node = self.node(&map, address);
        map.guests.push(node.clone());
        self.map.store(Arc::new(map));
        node
    }

    /// The index of the primary at `address` in `map`, where it is put if it is not there.
    fn primary(&self, map: &mut Map, known: &Map, address: Address) -> usize {
        if let Some(index) = map.primaries.iter().position(|node| *node.address() == address) {
            return index;
        }
        map.primaries.push(self.node(known, address));
        map.primaries.len() - 1
    }

    /// The known server at `address`, or a new one.
    fn node(&self, map: &Map, address: Address) -> Arc<Node> {
        map.find(&address)
            .unwrap_or_else(|| Arc::new(Node::start(&self.dial, address, self.tally.clone(), self.probe.clone())))
    }

    /// Takes a layout for the truth. Servers that have nothing in it are let go, guests only when they are known.
    fn take(&self, layout: Layout) {
        let _changing = self.changing.lock();
        let old = self.map();
        let mut map =
            Map { owners: vec![NOBODY; SLOTS], primaries: vec![], guests: vec![], replicas: layout.replicas };
        for (slots, address) in layout.ranges {
            let index = self.primary(&mut map, &old, address);
            map.owners[usize::from(*slots.start())..=usize::from(*slots.end())].fill(index as u16);
        }
        let is_needed = |guest: &&Arc<Node>| map.find(guest.address()).is_none() && guest.answers();
        map.guests = old.guests.iter().filter(is_needed).cloned().collect();
        self.map.store(Arc::new(map));
    }

    /// Asks for the layout; false if nobody knows.
    async fn ask(&self) -> bool {
        let layout = match &self.topology {
            Topology::Single(_) => return true,
            Topology::Cluster(seeds) => self.ask_cluster(seeds).await,
            Topology::Sentinel { sentinels, service } => {
                self.ask_sentinels(sentinels, service).await.map(Layout::of_one)
            }
        };
        let Some(layout) = layout else { return false };
        self.take(layout);
        true
    }

    /// The first to answer, of the primaries that do; else of all that were ever heard of.
    async fn ask_cluster(&self, seeds: &[Address]) -> Option<Layout> {
        let command = Command::keyless("CLUSTER").arg("SLOTS");
        let map = self.map();
        let primaries = map.primaries.iter().filter(|node| node.answers());
        let mut asked: FuturesUnordered<_> = primaries
            .map(|node| async {
                let replies = node.send(&[&command], false).await.ok()?;
                Layout::read(&replies.into_iter().next()?.ok()?, node.address())
            })
            .collect();
        while let Some(layout) = asked.next().await {
            if layout.is_some() {
                return layout;
            }
        }
        let known = seeds.iter().chain(&map.replicas).chain(map.primaries.iter().map(|node| node.address()));
        let mut asked: FuturesUnordered<_> = known
            .map(|address| {
                let command = &command;
                async move {
                    let reply = Line::ask_once(&self.dial, address, command).await.ok()?;
                    Layout::read(&reply, address)
                }
            })
            .collect();
        while let Some(layout) = asked.next().await {
            if layout.is_some() {
                return layout;
            }
        }
        None
    }

    /// The primary that most sentinels name. A sentinel that answers late or never is not waited for.
    async fn ask_sentinels(&self, sentinels: &[Address], service: &str) -> Option<Address> {
        let command = Command::keyless("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service.to_owned());
        let (dial, patience) = (&self.dial.of_sentinels(), self.dial.timeout() / 2);
        let asked = sentinels.iter().map(|sentinel| {
            let asking = Line::ask_once(dial, sentinel, &command);
            async move {
                let reply = tokio::time::timeout(patience, asking).await.ok()?.ok()?;
                let Reply::List(parts) = reply else { return None };
                let [host, port] = parts.as_slice() else { return None };
                Some(Address::Tcp { host: host.text()?.to_owned(), port: port.text()?.parse().ok()? })
            }
        });
        let mut votes: HashMap<Address, usize> = HashMap::new();
        for address in future::join_all(asked).await.into_iter().flatten() {
            *votes.entry(address).or_default() += 1;
        }
        votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(address, _)| address)
    }
}

impl Layout {
    fn of_one(address: Address) -> Self {
        Self { ranges: vec![(0..=SLOTS as u16 - 1, address)], replicas: vec![] }
    }

    /// What `teller` answered to CLUSTER SLOTS. `None` if it knows of no slots.
    fn read(reply: &Reply, teller: &Address) -> Option<Self> {
        let mut layout = Self::default();
        for Share { first, last, primary, replicas } in shares(reply, teller)? {
            layout.ranges.push((first..=last, primary));
            layout.replicas.extend(replicas);
        }
        (!layout.ranges.is_empty()).then_some(layout)
    }
}

/// What `teller` answered to CLUSTER SLOTS: of each range its first and last slot, its primary, its replicas; each
/// server as host, port, id and more. A host that is nothing or empty is the teller's.
pub(super) fn shares(reply: &Reply, teller: &Address) -> Option<Vec<Share>> {
    let Reply::List(ranges) = reply else { return None };
    let server = |fields: &Reply| {
        let Reply::List(fields) = fields else { return None };
        let host = fields.first()?.text().unwrap_or_default().to_owned();
        let port = u16::try_from(fields.get(1)?.integer()?).ok().filter(|port| *port > 0)?;
        (host != "?").then(|| Address::Tcp { host, port }.or_host_of(teller))
    };
    let slot = |field: &Reply| u16::try_from(field.integer()?).ok().filter(|slot| usize::from(*slot) < SLOTS);
    let share = |range: &Reply| {
        let Reply::List(fields) = range else { return None };
        let (first, last) = (slot(fields.first()?)?, slot(fields.get(1)?)?);
        let replicas = fields.iter().skip(3).filter_map(server).collect();
        Some(Share { first, last, primary: server(fields.get(2)?)?, replicas })
    };
    ranges.iter().map(share).collect()
}

/// Asks for the map when somebody wants it, and now and then.
pub(super) async fn keep_up(territory: Arc<Territory>) {
    if !territory.is_known_by_others() {
        return;
    }
    loop {
        let known = territory.ask().await;
        tokio::time::sleep(REFRESH_PAUSE).await;
        if known {
            // Whether it was wanted or time has passed, it is asked for again.
            let _ = tokio::time::timeout(REFRESH, territory.refresh.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    fn list(items: impl IntoIterator<Item = Reply>) -> Reply {
        Reply::List(items.into_iter().collect())
    }

    #[test]
    fn a_layout_is_read_as_redis_tells_it() {
        let text = |text: &'static str| Reply::Bytes(text.into());
        let server = |host: Reply, port| list([host, Reply::Integer(port), text("id"), list([])]);
        let range = |first, last, rest: Vec<Reply>| {
            list([Reply::Integer(first), Reply::Integer(last)].into_iter().chain(rest))
        };
        let reply = list([
            range(0, 8191, vec![server(text("a"), 1), server(text("b"), 2), server(text("?"), 3)]),
            range(8192, 16383, vec![server(Reply::Nil, 7001)]),
        ]);
        let layout = Layout::read(&reply, &tcp("teller", 9)).unwrap();
        assert_eq!(layout.ranges, [(0..=8191, tcp("a", 1)), (8192..=16383, tcp("teller", 7001))]);
        assert_eq!(layout.replicas, [tcp("b", 2)]);
        for odd in [
            list([]),
            Reply::Nil,
            list([Reply::Nil]),
            list([range(0, 16384, vec![server(text("a"), 1)])]),
            list([range(0, 1, vec![server(text("a"), 0)])]),
            list([range(0, 1, vec![])]),
        ] {
            assert_eq!(Layout::read(&odd, &tcp("teller", 9)), None);
        }
    }
}
