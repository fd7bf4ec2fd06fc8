//! Everything that is looked at: the id of each check, which never changes, and why it matters. `docs/doctor.md` has a row
//! for each, with its thresholds.
//!
//! Never here: a threshold, which stands beside the code that compares.

/// Something that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, in kebab case.
    pub id: &'static str,
    /// Why it matters, in a sentence.
    pub why: &'static str,
}

macro_rules! checks {
    ($($name:ident = $id:literal: $why:literal;)*) => {
        $(#[doc = $why] pub(super) const $name: Check = Check { id: $id, why: $why };)*

        /// Every check, in the order in which they are looked at.
        pub const CHECKS: &[Check] = &[$($name),*];
    };
}

checks! {
    SENTINELS = "sentinels": "Sentinels that do not agree, or are too few to, leave a dead primary in its place.";
    CLUSTER_SLOTS = "cluster-slots": "Hours whose slot nobody has can be neither written nor read.";
    CLUSTER_STATE = "cluster-state": "A cluster that calls itself failed answers nothing that has a key.";
    CLUSTER_NODES = "cluster-nodes": "A node that the others cannot reach is a copy less, or a part less.";
    CLUSTER_SPREAD = "cluster-spread": "The primary with the most slots is full, and busy, before the others.";
    CLUSTER_COVERAGE = "cluster-coverage": "With full coverage required, one missing primary silences all the others.";

    REACHABLE = "reachable": "What cannot be reached answers nothing: points wait in the journal, questions for another store.";
    PING = "ping": "Every write waits for two round trips, every question for one or more.";
    VERSION = "version": "Redis before 7.0 lacks commands that the store and this audit need.";
    MODE = "mode": "A server is spoken to as its URL says; one of another kind refuses most keys.";
    ROLE = "role": "A replica takes no writes.";
    LOADING = "loading": "A server that loads its dump answers nothing until it is done.";
    CLOCK = "clock": "Keys expire by the clock of Redis, points are taken by ours.";
    CONNECTIONS = "connections": "At the limit new connections are refused, those of geotrail too.";

    EVICTION_POLICY = "eviction-policy": "All keys of geotrail expire, so every policy but noeviction may take any of them.";
    EVICTED_KEYS = "evicted-keys": "What was evicted is missing from answers until all has been put in again from the journal.";
    MEMORY_LIMIT = "memory-limit": "Without a limit a full server is killed by its system rather than refusing writes.";
    MEMORY_USED = "memory-used": "With noeviction a full server refuses writes, and what is new waits in the journal.";
    MEMORY_RESIDENT = "memory-resident": "Fragments are memory paid for and not used; memory that is swapped out stalls whoever touches it.";

    HOUR_KEY_WITHOUT_EXPIRY = "hour-key-without-expiry": "A key of an hour that never expires is kept for ever, with its driver's positions.";
    KEYS_WITHOUT_EXPIRY = "keys-without-expiry": "Keys that never go fill the memory that hours need.";
    BIG_KEYS = "big-keys": "One command over a big key (DEL, SMEMBERS, HGETALL, its expiry) holds everybody else up.";
    LAZYFREE = "lazyfree": "Unless memory is freed in the background, the end of a big key holds everybody up.";
    EXPIRY_BURST = "expiry-burst": "Many keys that expire in the same second make Redis busy with nothing else.";
    EXPIRY_BACKLOG = "expiry-backlog": "Keys that are over and not gone yet take memory, and time of whoever meets them.";
    DATABASES = "databases": "All databases of a server share one thread, one limit of memory and one FLUSHALL.";
    COMPACT_ENCODINGS = "compact-encodings": "Collections in a compact encoding are answered whole, whatever COUNT says.";

    SLOW_LOG = "slow-log": "While one command runs, everybody else waits.";
    SLOW_LOG_THRESHOLD = "slow-log-threshold": "What the slow log does not note nobody can find.";
    SLOW_COMMANDS = "slow-commands": "These commands take as long as there are keys or elements.";
    LATENCY_EVENTS = "latency-events": "Stalls that no command causes (forks, expiry, the disk) show here alone.";
    ERROR_REPLIES = "error-replies": "Each of these errors is a command that was not carried out.";

    FORK_TIME = "fork-time": "While Redis forks for a dump or a replica, it answers nobody.";
    RDB = "rdb": "After a dump that failed Redis may refuse writes.";
    AOF = "aof": "After a failed write to the append-only file Redis refuses writes.";
    APPENDFSYNC = "appendfsync": "With appendfsync always every write waits for the disk.";

    REPLICAS = "replicas": "Without a replica nobody takes the place of a primary that dies.";
    REPLICATION_LAG = "replication-lag": "What a replica does not have yet is lost in a failover, and comes back from the journal alone.";
    MIN_REPLICAS = "min-replicas": "With fewer replicas than asked for Redis refuses writes.";

    PERMISSIONS = "permissions": "A command that this user may not run is a write, an answer or a figure that is missing.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CHECKS;

    #[test]
    fn every_check_has_an_id_of_its_own_and_one_sentence() {
        let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len());
        for check in CHECKS {
            assert!(check.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", check.id);
            assert!(check.why.ends_with('.') && check.why.len() < 110, "{}", check.why);
        }
    }
}
