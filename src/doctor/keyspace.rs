//! What the keys of a server are like, by a sample: whether they expire, and when; how big they are; and the settings that
//! decide what their end costs.
//!
//! Never here: a key's contents. Names are shown without whose track they are.

use std::collections::HashMap;

use super::catalogue::{
    BIG_KEYS, COMPACT_ENCODINGS, DATABASES, EXPIRY_BACKLOG, EXPIRY_BURST, HOUR_KEY_WITHOUT_EXPIRY,
    KEYS_WITHOUT_EXPIRY, LAZYFREE,
};
use super::finding::{Chart, Severity, bytes, count};
use super::node::{CONFIG_GET, Node, part};
use super::sample::{Key, Sample, length_of};
use crate::store::redis::{Trouble, hour_of, is_ours, shown};

/// SMEMBERS of so many takes 10 ms, the slow log's own threshold; no command of the contract goes over more than 1,000.
const BIG_ELEMENTS: u64 = 10_000;
/// DEL of a million took 203 ms (2 cores, Redis 7.0.15): of so many it takes 20, twice what the slow log calls slow.
const BLOCKING_ELEMENTS: u64 = 100_000;
/// What geotrail keeps in one key it reads and removes in small pieces, so a million is where sharding pays.
const OURS_BIG_ELEMENTS: u64 = 1_000_000;
/// A reply of so much fills buffers (COMMANDLOG of Valkey calls replies from here on large).
const BIG_BYTES: u64 = 1 << 20;
/// Redis looks at 20 keys a turn and gives itself 25 ms ten times a second: so many in one second keep it busy.
const BURST_KEYS: u64 = 1_000;
/// A share of the sample that chance does not make: geotrail's own keys are spread over 600 s, 0.2 % a second.
const BURST_PERCENT: u64 = 2;
/// And at least so many in the sample.
const BURST_SEEN: u64 = 20;
/// What Redis reckons is over and still there; it aims at less than 10 % (`active-expire-effort`).
const STALE_PERCENT: f64 = 25.0;
/// The contract's ceiling for one command.
const COMPACT_MOST: u64 = 1_000;
/// Of findings about many keys, so many are named.
const NAMED: usize = 3;

/// What a sample and the settings say.
pub(super) fn look(node: &Node, sample: &Sample, prefix: &str, chart: &mut Chart) {
    databases(node, chart);
    backlog(node, chart);
    compact_encodings(node, chart);
    expiries(node, sample, prefix, chart);
    let big = big_keys(node, sample, prefix, chart);
    lazyfree(node, &big, chart);
}

fn expiries(node: &Node, sample: &Sample, prefix: &str, chart: &mut Chart) {
    for asked in ["SCAN", "EXPIRETIME"] {
        if let Some(trouble) = sample.refusal(asked) {
            for check in [HOUR_KEY_WITHOUT_EXPIRY, KEYS_WITHOUT_EXPIRY, EXPIRY_BURST] {
                chart.unseen(check, asked, trouble);
            }
            return;
        }
    }
    let looked_at = looked_at(sample);
    let lasting = || sample.keys.iter().filter(|key| key.expires_at_s.is_none());
    let of_hours: Vec<&Key> = lasting().filter(|key| hour_of(prefix, &key.name).is_some()).collect();
    let others: Vec<&Key> = lasting().filter(|key| hour_of(prefix, &key.name).is_none()).collect();
    if of_hours.is_empty() {
        chart.fine(HOUR_KEY_WITHOUT_EXPIRY, &format!("none, {looked_at}"));
    } else {
        let seen = format!("{}, {looked_at}: {}", count(of_hours.len() as u64, "key"), named(&of_hours));
        let remedy = "EXPIRE each for the retention, and find who writes them: geotrail never leaves one without";
        chart.wrong(HOUR_KEY_WITHOUT_EXPIRY, &seen, remedy).figure("keys_in_sample", of_hours.len() as u64);
    }
    if others.is_empty() {
        chart.fine(KEYS_WITHOUT_EXPIRY, &format!("none, {looked_at}"));
    } else {
        let seen = format!("{}, {looked_at}: {}", count(others.len() as u64, "key"), named(&others));
        let remedy = "give them an expiry, or a Redis of their own";
        chart.warn(KEYS_WITHOUT_EXPIRY, &seen, remedy).figure("keys_in_sample", others.len() as u64);
    }
    burst(sample, of_keyspace(node, "keys"), &looked_at, chart);
}

fn burst(sample: &Sample, all: u64, looked_at: &str, chart: &mut Chart) {
    let mut seconds: HashMap<i64, u64> = HashMap::new();
    for at in sample.keys.iter().filter_map(|key| key.expires_at_s) {
        *seconds.entry(at).or_default() += 1;
    }
    let (at, most) = seconds.into_iter().max_by_key(|(at, keys)| (*keys, *at)).unwrap_or_default();
    let looked = sample.keys.len() as u64;
    let estimate = if sample.is_whole { most } else { most.saturating_mul(all) / looked.max(1) };
    let seen = format!("at most {} in one second, {looked_at}", count(estimate, "key"));
    let is_burst = estimate >= BURST_KEYS && most >= BURST_SEEN && most * 100 >= looked * BURST_PERCENT;
    if is_burst {
        let remedy = "spread their expiries: add a random part of some minutes to each EXPIRE";
        let found = chart.warn(EXPIRY_BURST, &seen, remedy);
        found.figure("keys_estimated", estimate).figure("expires_at_s", at);
    } else {
        chart.fine(EXPIRY_BURST, &seen).figure("keys_estimated", estimate);
    }
}

/// Those that are too big, the biggest first.
fn big_keys<'a>(node: &Node, sample: &'a Sample, prefix: &str, chart: &mut Chart) -> Vec<&'a Key> {
    for asked in ["SCAN", "TYPE", "EXPIRETIME"] {
        if let Some(trouble) = sample.refusal(asked) {
            chart.unseen(BIG_KEYS, asked, trouble);
            return Vec::new();
        }
    }
    for asked in ["MEMORY USAGE", "STRLEN", "LLEN", "SCARD", "ZCARD", "HLEN", "XLEN"] {
        if let Some(trouble) = sample.refusal(asked) {
            chart.unseen(BIG_KEYS, asked, trouble);
        }
    }
    let is_big = |key: &&Key| {
        let elements = elements(key);
        if is_ours(prefix, &key.name) {
            return elements >= OURS_BIG_ELEMENTS;
        }
        elements >= BIG_ELEMENTS || key.bytes.unwrap_or(key.length) >= BIG_BYTES && length_of(&key.kind).is_some()
    };
    let mut big: Vec<&Key> = sample.keys.iter().filter(is_big).collect();
    big.sort_by_key(|key| std::cmp::Reverse((elements(key), key.bytes, key.length)));
    let looked_at = looked_at(sample);
    let Some(biggest) = big.first() else {
        chart.fine(BIG_KEYS, &format!("none, {looked_at}"));
        return big;
    };
    let shown: Vec<String> = big.iter().take(NAMED).map(|key| sized(key)).collect();
    let seen = format!("{}, {looked_at}: {}{}", count(big.len() as u64, "key"), shown.join(", "), dots(big.len()));
    let blocks = big.iter().any(|key| !is_ours(prefix, &key.name) && blocks(node, key));
    let slices = "SSCAN or HSCAN instead of SMEMBERS or HGETALL";
    let (severity, remedy) = if is_ours(prefix, &biggest.name) {
        (Severity::Warning, "spread hours: --shard-resolution 5".to_owned())
    } else if blocks {
        let free = "UNLINK instead of DEL, or CONFIG SET lazyfree-lazy-user-del and lazyfree-lazy-expire yes";
        (Severity::Wrong, format!("{free}; {slices}"))
    } else {
        (Severity::Warning, format!("{slices}; better, divide them"))
    };
    let (elements, length) = (elements(biggest), biggest.bytes);
    let found = chart.judge(BIG_KEYS, severity, &seen, &remedy);
    found.figure("keys_in_sample", big.len() as u64).figure("most_elements", elements);
    if let Some(bytes) = length {
        found.figure("its_bytes", bytes);
    }
    big
}

/// Whether its end holds everybody up, as far as the settings are shown.
fn blocks(node: &Node, key: &Key) -> bool {
    let is_off = |name| node.setting(name).is_ok_and(|value| value == "no");
    let expires = key.expires_at_s.is_some();
    elements(key) >= BLOCKING_ELEMENTS
        && (is_off("lazyfree-lazy-user-del") || expires && is_off("lazyfree-lazy-expire"))
}

/// It matters only where something big expires.
fn lazyfree(node: &Node, big: &[&Key], chart: &mut Chart) {
    let Some(on_expiry) = chart.shown(LAZYFREE, CONFIG_GET, node.setting("lazyfree-lazy-expire")) else { return };
    let seen = format!("lazyfree-lazy-expire is {on_expiry}");
    let expiring = big.iter().filter(|key| key.expires_at_s.is_some() && elements(key) >= BIG_ELEMENTS).count();
    if on_expiry == "no" && expiring > 0 {
        let seen = format!("{seen}, and {} of the sample will expire", count(expiring as u64, "big key"));
        chart.warn(LAZYFREE, &seen, "CONFIG SET lazyfree-lazy-expire yes");
    } else {
        chart.fine(LAZYFREE, &seen);
    }
}

fn databases(node: &Node, chart: &mut Chart) {
    if let Some(trouble) = node.info("role").err() {
        chart.unseen(DATABASES, "INFO", &trouble);
        return;
    }
    let used = node.lines("db").filter_map(|line| part(line.split_once(':')?.1, "keys")).count() as u64;
    let seen = format!("{} with keys", count(used, "database"));
    let found = if used > 1 {
        chart.warn(DATABASES, &seen, "give each user of this Redis a server of its own")
    } else {
        chart.fine(DATABASES, &seen)
    };
    found.figure("databases", used);
}

fn backlog(node: &Node, chart: &mut Chart) {
    let percent = node.info("expired_stale_perc").map(|percent| percent.parse::<f64>().unwrap_or_default());
    let Some(percent) = chart.of_info(EXPIRY_BACKLOG, percent) else { return };
    let seen = format!("{percent} % of the keys that expire are over and still there");
    let found = if percent >= STALE_PERCENT {
        let effort = node.setting("active-expire-effort").unwrap_or("1");
        let seen = format!("{seen}, with active-expire-effort {effort}");
        chart.warn(EXPIRY_BACKLOG, &seen, "CONFIG SET active-expire-effort 5; hz beyond 10 only helps besides")
    } else {
        chart.fine(EXPIRY_BACKLOG, &seen)
    };
    found.figure("stale_percent", percent);
}

fn compact_encodings(node: &Node, chart: &mut Chart) {
    let names = ["set-max-intset", "set-max-listpack", "zset-max-listpack", "hash-max-listpack"];
    let mut set: Vec<(&str, u64)> = Vec::new();
    let mut trouble: Option<Trouble> = None;
    for name in names {
        match node.setting(&format!("{name}-entries")) {
            Ok(value) => set.push((name, value.parse().unwrap_or_default())),
            // Sets have listpacks from 7.2 on.
            Err(Trouble::Told(_)) => {}
            Err(other) => trouble = Some(other),
        }
    }
    match trouble {
        Some(trouble) => {
            chart.unseen(COMPACT_ENCODINGS, CONFIG_GET, &trouble);
        }
        None if set.is_empty() => {
            chart.unseen(COMPACT_ENCODINGS, CONFIG_GET, &Trouble::Told("nothing of them".to_owned()));
        }
        None => {
            let high = set.iter().filter(|(_, most)| *most > COMPACT_MOST);
            let high: Vec<String> = high.map(|(name, most)| format!("{name}-entries {most}")).collect();
            if high.is_empty() {
                chart.fine(COMPACT_ENCODINGS, "all of at most 1,000 elements");
            } else {
                let remedy = "CONFIG SET each to 512 or less; what is there changes with its next growth";
                chart.warn(COMPACT_ENCODINGS, &high.join(", "), remedy);
            }
        }
    }
}

/// A figure of INFO keyspace, over all databases.
fn of_keyspace(node: &Node, name: &str) -> u64 {
    let databases = node.lines("db").filter_map(|line| line.split_once(':'));
    databases.filter_map(|(_, rest)| part(rest, name)?.parse::<u64>().ok()).sum()
}

/// A string has none.
fn elements(key: &Key) -> u64 {
    if key.kind == "string" { 0 } else { key.length }
}

fn sized(key: &Key) -> String {
    let size = match (key.kind.as_str(), key.bytes) {
        ("string", _) => bytes(key.length),
        (_, None) => count(key.length, "element"),
        (_, Some(all)) => format!("{}, {}", count(key.length, "element"), bytes(all)),
    };
    format!("{} ({} of {size})", shown(&key.name), key.kind)
}

fn named(keys: &[&Key]) -> String {
    let names: Vec<String> = keys.iter().take(NAMED).map(|key| shown(&key.name)).collect();
    format!("{}{}", names.join(", "), dots(keys.len()))
}

fn dots(keys: usize) -> &'static str {
    if keys > NAMED { ", ..." } else { "" }
}

fn looked_at(sample: &Sample) -> String {
    let keys = sample.keys.len() as u64;
    if sample.is_whole { format!("of all {keys}") } else { format!("of {keys} that were looked at") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::Address;

    fn key(name: &'static str, expires_at_s: Option<i64>) -> Key {
        Key { name: name.into(), kind: "set".into(), expires_at_s, length: 1, bytes: None }
    }

    fn judged(keys: Vec<Key>, all: u64) -> Severity {
        let mut chart = Chart::of(&Address::Tcp { host: "h".into(), port: 1 });
        let sample = Sample { is_whole: keys.len() as u64 == all, keys, refused: Vec::new() };
        burst(&sample, all, "", &mut chart);
        chart.findings[0].severity
    }

    #[test]
    fn a_burst_is_many_keys_and_a_share_that_chance_does_not_make() {
        let spread = |keys: i64, seconds: i64| (0..keys).map(|at| key("k", Some(at % seconds))).collect();
        assert_eq!(judged(spread(2_000, 600), 50_000_000), Severity::Ok, "as geotrail spreads them");
        assert_eq!(judged(spread(2_000, 10), 2_000), Severity::Ok, "few");
        assert_eq!(judged(spread(2_000, 10), 100_000), Severity::Warning);
        assert_eq!(judged(spread(2_000, 1), 2_000), Severity::Warning);
        assert_eq!(judged(Vec::new(), 0), Severity::Ok);
        assert_eq!(judged(vec![key("k", None)], 1), Severity::Ok);
    }
}
