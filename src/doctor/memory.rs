//! Memory: whether keys may be evicted or were, how full it is, how much of it is really there.
//!
//! Never here: which keys take it (`keyspace`).

use super::catalogue::{EVICTED_KEYS, EVICTION_POLICY, MEMORY_LIMIT, MEMORY_RESIDENT, MEMORY_USED};
use super::finding::{Chart, bytes, count};
use super::node::Node;

/// From here on a burst, or a pass that puts everything in again, may fill it.
const FULL_PERCENT: u64 = 80;
/// Clients' buffers and a fork's copies count too: writes are refused at any moment.
const TOO_FULL_PERCENT: u64 = 95;
/// Of smaller servers the ratios are those of the process, not of its data: Redis itself leaves alone what is below
/// (`active-defrag-ignore-bytes`).
const SMALL_BYTES: u64 = 100 << 20;
/// Resident to used: half as much again is lost to fragments. Redis' own MEMORY DOCTOR complains from 1.4 on.
const FRAGMENTED_PERCENT: u64 = 150;
/// Less is resident than used: the rest is swapped out. Memory that was never touched makes for some of that.
const SWAPPED_PERCENT: u64 = 80;
const NOEVICTION: &str = "noeviction";

/// All of it is in INFO.
pub(super) fn look(node: &Node, chart: &mut Chart) {
    policy(node, chart);
    if let Some(evicted) = chart.of_info(EVICTED_KEYS, node.number("evicted_keys")) {
        let seen = format!("{} since the start", count(evicted, "key"));
        let found = if evicted > 0 {
            chart.warn(EVICTED_KEYS, &seen, "forbid it (eviction-policy), then geotrail verify")
        } else {
            chart.fine(EVICTED_KEYS, &seen)
        };
        found.figure("evicted_keys", evicted);
    }
    used(node, chart);
    resident(node, chart);
}

fn policy(node: &Node, chart: &mut Chart) {
    let shown = node.number("maxmemory").and_then(|limit| Ok((limit, node.info("maxmemory_policy")?)));
    let Some((limit, policy)) = chart.of_info(EVICTION_POLICY, shown) else { return };
    let seen = format!("maxmemory-policy is {policy}, maxmemory is {}", limit_shown(limit));
    let remedy = "CONFIG SET maxmemory-policy noeviction, and in the server's configuration too";
    let found = match (policy, limit) {
        (NOEVICTION, _) => chart.fine(EVICTION_POLICY, &seen),
        // Nothing is evicted before there is a limit.
        (_, 0) => chart.warn(EVICTION_POLICY, &seen, remedy),
        _ => chart.wrong(EVICTION_POLICY, &seen, remedy),
    };
    found.figure("maxmemory_policy", policy).figure("maxmemory_bytes", limit);
    if limit == 0 {
        let remedy = "CONFIG SET maxmemory to three quarters of what the machine has for Redis";
        chart.warn(MEMORY_LIMIT, "maxmemory is not set", remedy).figure("maxmemory_bytes", 0);
    } else {
        chart.fine(MEMORY_LIMIT, &format!("maxmemory is {}", bytes(limit))).figure("maxmemory_bytes", limit);
    }
}

fn limit_shown(limit: u64) -> String {
    if limit == 0 { "not set".to_owned() } else { bytes(limit) }
}

fn used(node: &Node, chart: &mut Chart) {
    let shown = node.number("used_memory").and_then(|used| {
        let limit = node.number("maxmemory")?;
        // Without a limit, the machine's memory is one.
        let room = if limit > 0 { limit } else { node.number("total_system_memory")? };
        Ok((used, room, limit > 0))
    });
    let Some((used, room, is_limit)) = chart.of_info(MEMORY_USED, shown) else { return };
    let percent = used.saturating_mul(100) / room.max(1);
    let of = if is_limit { "maxmemory" } else { "the machine's memory" };
    let seen = format!("{} of {}, {percent} % of {of}", bytes(used), bytes(room));
    let remedy = "CONFIG SET maxmemory to more, a shorter --retention, or a cluster: geotrail plan reckons which";
    let found = match percent {
        TOO_FULL_PERCENT.. => chart.wrong(MEMORY_USED, &seen, remedy),
        FULL_PERCENT.. => chart.warn(MEMORY_USED, &seen, remedy),
        _ => chart.fine(MEMORY_USED, &seen),
    };
    found.figure("used_memory_bytes", used).figure("room_bytes", room).figure("used_percent", percent);
}

fn resident(node: &Node, chart: &mut Chart) {
    let shown = node.number("used_memory").and_then(|used| Ok((used, node.number("used_memory_rss")?)));
    let Some((used, resident)) = chart.of_info(MEMORY_RESIDENT, shown) else { return };
    let percent = resident.saturating_mul(100) / used.max(1);
    let seen = format!("{} resident for {} used", bytes(resident), bytes(used));
    let found = if used < SMALL_BYTES {
        chart.fine(MEMORY_RESIDENT, &seen)
    } else if percent >= FRAGMENTED_PERCENT {
        chart.warn(MEMORY_RESIDENT, &seen, "CONFIG SET activedefrag yes, or MEMORY PURGE")
    } else if percent < SWAPPED_PERCENT {
        chart.warn(MEMORY_RESIDENT, &seen, "give the machine memory, or swap nothing: vm.swappiness = 1")
    } else {
        chart.fine(MEMORY_RESIDENT, &seen)
    };
    found.figure("used_memory_bytes", used).figure("resident_bytes", resident);
}
