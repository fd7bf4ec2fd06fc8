//! A cluster of a test's own: three primaries with a third of the slots each, and a replica for each if wanted.
//!
//! Never here: what the store under test does with it.

use super::redis::{PASSWORD, RedisServer, eventually, free_port};

/// The slots of a primary to begin with: the first, and the one after the last.
const SHARES: [(u16, u16); 3] = [(0, 5_461), (5_461, 10_923), (10_923, 16_384)];

/// Running servers that know each other: first the primaries, then their replicas in the same order.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<RedisServer>,
    /// Where they speak TLS; none: they do not.
    tls_ports: Vec<u16>,
}

impl Cluster {
    /// Three primaries, and as many replicas if `replicated`; waits until all is well.
    pub(crate) fn start(replicated: bool) -> Self {
        Self::start_with(if replicated { 6 } else { 3 }, &[], false)
    }

    /// Three primaries that are started with more arguments, and speak TLS, with each other too.
    pub(crate) fn start_over_tls(extra: &[String]) -> Self {
        Self::start_with(3, extra, true)
    }

    fn start_with(count: usize, extra: &[String], is_tls: bool) -> Self {
        let ports: Vec<String> = (0..count).map(|_| free_port().to_string()).collect();
        let tls_ports: Vec<u16> = if is_tls { ports.iter().map(|_| free_port()).collect() } else { Vec::new() };
        let start = |(at, bus): (usize, &String)| {
            let tls_port = tls_ports.get(at).map(ToString::to_string);
            let mut arguments = vec![
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                bus,
                "--cluster-node-timeout",
                "1000",
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ];
            arguments.extend(extra.iter().map(String::as_str));
            arguments.extend(tls_port.iter().flat_map(|port| ["--tls-port", port]));
            RedisServer::start_with(&arguments)
        };
        let servers: Vec<RedisServer> = ports.iter().enumerate().map(start).collect();
        for (server, (first, end)) in servers.iter().zip(SHARES) {
            server.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]);
        }
        for (at, server) in servers.iter().enumerate() {
            server.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        for (at, bus) in ports.iter().enumerate().skip(1) {
            let port = tls_ports.get(at).copied().unwrap_or_else(|| servers[at].port());
            servers[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), bus]);
        }
        let cluster = Self { servers, tls_ports };
        let all_say =
            |what: &str| cluster.servers.iter().all(|server| server.cli(&["CLUSTER", "INFO"]).contains(what));
        eventually("all know each other", || all_say(&format!("cluster_known_nodes:{count}")));
        for (replica, primary) in cluster.servers.iter().skip(3).zip(&cluster.servers) {
            let id = primary.cli(&["CLUSTER", "MYID"]);
            // It must have heard that the other is a primary.
            eventually("it replicates", || replica.cli(&["CLUSTER", "REPLICATE", id.trim()]).trim() == "OK");
        }
        eventually("all is well", || all_say("cluster_state:ok") && all_say("cluster_slots_assigned:16384"));
        for replica in cluster.servers.iter().skip(3) {
            eventually("it has all", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        }
        cluster
    }

    /// As `--store` takes it; one server is enough to find the others, as long as it lives.
    pub(crate) fn url(&self) -> String {
        match self.tls_ports.get(2) {
            Some(port) => format!("rediss-cluster://geotrail:{PASSWORD}@127.0.0.1:{port}"),
            None => format!("redis-cluster://geotrail:{PASSWORD}@{}", self.servers[2].address()),
        }
    }

    /// The same, with all primaries.
    pub(crate) fn url_of_all(&self) -> String {
        let [first, second] = [0, 1].map(|at: usize| self.servers[at].address());
        format!("{}?node={first}&node={second}", self.url())
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        self.servers[2].cli(&["CLUSTER", "KEYSLOT", key]).trim().parse().expect("a slot")
    }

    /// Which primary has the slot of a key to begin with.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key);
        SHARES.iter().position(|(first, end)| (*first..*end).contains(&slot)).expect("all slots are shared out")
    }

    /// Moves a slot with all its keys, a few at a time, from one primary to another.
    pub(crate) fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from, to, slot) = (&self.servers[from], &self.servers[to], slot.to_string());
        let id = |server: &RedisServer| server.cli(&["CLUSTER", "MYID"]).trim().to_owned();
        let (from_id, to_id) = (id(from), id(to));
        let set = |server: &RedisServer, rest: &[&str]| {
            let answer = server.cli(&[&["CLUSTER", "SETSLOT", &slot], rest].concat());
            assert_eq!(answer.trim(), "OK", "{rest:?}");
        };
        set(to, &["IMPORTING", &from_id]);
        set(from, &["MIGRATING", &to_id]);
        loop {
            let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            let port = to.port().to_string();
            let command = [&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"], keys.as_slice()].concat();
            let answer = from.cli(&command);
            assert!(matches!(answer.trim(), "OK" | "NOKEY"), "{answer}");
        }
        set(to, &["NODE", &to_id]);
        set(from, &["NODE", &to_id]);
    }
}
