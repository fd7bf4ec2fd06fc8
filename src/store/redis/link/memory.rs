//! What INFO tells of a server's memory: whether it may let go of keys by itself, and how often it did.
//!
//! All keys here expire, so every policy but `noeviction` may take any of them.
//!
//! Never here: what was lost by that. Nobody can tell.

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// There is a limit, and a policy that takes keys when it is reached.
    pub(super) may_evict: bool,
    /// Keys taken since the server was started.
    evicted: u64,
}

/// The last count of a server; `None` before the first, whose keys were taken before our time.
#[derive(Debug, Default)]
pub(super) struct Evicted(Option<u64>);

impl Memory {
    /// Reads INFO with the sections `memory` and `stats`.
    pub(super) fn read(info: &str) -> Option<Self> {
        let limit: u64 = field(info, "maxmemory")?.parse().ok()?;
        let policy = field(info, "maxmemory_policy")?;
        let evicted = field(info, "evicted_keys")?.parse().ok()?;
        Some(Self { may_evict: limit > 0 && policy != "noeviction", evicted })
    }
}

impl Evicted {
    /// How many keys were taken since the last look.
    pub(super) fn look(&mut self, memory: Memory) -> u64 {
        let last = self.0.replace(memory.evicted).unwrap_or(memory.evicted);
        // A server that was started anew counts anew.
        memory.evicted.checked_sub(last).unwrap_or(memory.evicted)
    }
}

/// A field of what INFO tells.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(limit: u64, policy: &str, evicted: u64) -> Option<Memory> {
        Memory::read(&format!(
            "# Memory\r\nmaxmemory:{limit}\r\nmaxmemory_human:x\r\nmaxmemory_policy:{policy}\r\nevicted_keys:{evicted}\r\n"
        ))
    }

    #[test]
    fn only_a_limit_with_a_policy_takes_keys() {
        for (limit, policy, may_evict) in
            [(0, "allkeys-lru", false), (1, "noeviction", false), (1, "volatile-ttl", true), (1, "allkeys-lru", true)]
        {
            assert_eq!(memory(limit, policy, 0).map(|memory| memory.may_evict), Some(may_evict), "{policy}");
        }
        assert_eq!(Memory::read("maxmemory:1\r\n"), None);
    }

    #[test]
    fn what_was_taken_is_counted_from_the_first_look_on() {
        let mut evicted = Evicted::default();
        let looks =
            [7, 7, 9, 2, 2].map(|count| evicted.look(memory(1, "allkeys-lru", count).expect("it is well formed")));
        assert_eq!(looks, [0, 0, 2, 2, 0]);
    }
}
