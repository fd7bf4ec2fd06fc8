//! Whether a server can be used at all: how quickly it answers, what it is, its clock, its connections, its errors.
//!
//! Never here: memory, keys, disks.

use std::time::{Duration, Instant};

use super::catalogue::{CLOCK, CONNECTIONS, ERROR_REPLIES, LOADING, MODE, PING, REACHABLE, ROLE, VERSION};
use super::finding::{Chart, Severity, ms};
use super::node::{Node, part};
use crate::clock::Clock;
use crate::store::redis::{Mode, Question, Reply, Server, Trouble};

/// Enough for a median that one stall does not move.
const PINGS: usize = 11;
/// A server in the same room answers within 1 ms, one in the same region within 2. A write of the service is two round
/// trips, and an answer has half a second in all before what it shows is called old (`applier::FRESHNESS_BOUND`).
const FAR_US: u64 = 10_000;
/// The longest of some that is no accident of the network: it is what people notice.
const STALL_US: u64 = 100_000;
/// Clocks that are set by a time server differ by milliseconds. The service itself warns from a minute on.
const SKEW_MS: i64 = 2_000;
/// Of the limit of connections: an instance of the service takes up to 17 to a server.
const MANY_PERCENT: u64 = 80;
/// Nothing is left for a second instance.
const TOO_MANY_PERCENT: u64 = 95;
/// The oldest that is supported, and tested.
const FLOOR: (u32, u32) = (7, 0);
/// Errors that tell of the server's state, not of a client's mistake.
const TELLING: [(&str, &str); 6] = [
    ("OOM", "raise maxmemory"),
    ("MISCONF", "see to the disk: LASTSAVE, INFO persistence"),
    ("NOREPLICAS", "see to the replicas: INFO replication"),
    ("BUSY", "shorten the scripts: SLOWLOG GET"),
    ("MASTERDOWN", "see to the primary: INFO replication"),
    ("CLUSTERDOWN", "see to the cluster: CLUSTER INFO"),
];

/// Which Redis it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Software {
    pub(super) name: &'static str,
    pub(super) version: String,
}

/// How long a PING takes, one after the other.
pub(super) async fn ping(server: &mut Server, chart: &mut Chart) {
    let mut took_us = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let begun = Instant::now();
        match server.ask(Question::of("PING")).await {
            Err(trouble @ Trouble::Away(_)) => {
                chart.unseen(PING, "PING", &trouble);
                return;
            }
            // An error is an answer too: Redis refuses even PING while it refuses writes.
            _ => took_us.push(begun.elapsed().as_micros() as u64),
        }
    }
    took_us.sort_unstable();
    let (median, longest) = (took_us[PINGS / 2], took_us[PINGS - 1]);
    let seen = format!("median {}, longest {} of {PINGS}", ms(median), ms(longest));
    let found = if median >= FAR_US {
        chart.warn(PING, &seen, "run geotrail beside its Redis, in the same zone")
    } else if longest >= STALL_US {
        chart.warn(PING, &seen, "redis-cli --latency-history shows whether that goes on, SLOWLOG GET why")
    } else {
        chart.fine(PING, &seen)
    };
    found.figure("median_us", median).figure("longest_us", longest);
}

/// What it is and in which state; what the URL takes it for is `mode`.
pub(super) fn look(node: &Node, mode: Mode, chart: &mut Chart) -> Option<Software> {
    let software = version(node, chart);
    if let Some(told) = chart.of_info(MODE, node.info("redis_mode")) {
        let fits = match mode {
            Mode::Cluster => told == "cluster",
            Mode::Standalone | Mode::Sentinel => told == "standalone",
        };
        let seen = format!("redis_mode is {told}");
        if fits {
            chart.fine(MODE, &seen);
        } else {
            chart.wrong(MODE, &seen, scheme_for(told));
        }
    }
    if let Some(role) = chart.of_info(ROLE, node.info("role")) {
        let seen = format!("role is {role}");
        if role == "master" {
            chart.fine(ROLE, &seen);
        } else {
            let [host, port] = [node.info("master_host"), node.info("master_port")].map(Result::unwrap_or_default);
            let remedy = format!("name its primary, {host}:{port}, or ask sentinels: redis-sentinel://");
            chart.wrong(ROLE, &seen, &remedy);
        }
    }
    if let Some(loading) = chart.of_info(LOADING, node.info("loading")) {
        if loading == "0" {
            chart.fine(LOADING, "it serves");
        } else {
            let left = node.number("loading_eta_seconds").unwrap_or_default();
            chart
                .wrong(LOADING, &format!("it loads its dump, for {left} s more"), "wait")
                .figure("loading_eta_seconds", left);
        }
    }
    connections(node, chart);
    errors(node, chart);
    software
}

fn version(node: &Node, chart: &mut Chart) -> Option<Software> {
    // Valkey tells of a Redis that it takes the place of, and beside that of itself.
    let told = chart.of_info(VERSION, node.info("redis_version"))?;
    let numbers: Vec<u32> = told.split('.').map_while(|part| part.parse().ok()).collect();
    let software = match node.info("valkey_version") {
        Ok(version) => Software { name: "valkey", version: version.to_owned() },
        Err(_) => Software { name: "redis", version: told.to_owned() },
    };
    let seen = format!("{} {}", software.name, software.version);
    match numbers[..] {
        [major, minor, ..] if (major, minor) >= FLOOR => {
            chart.fine(VERSION, &seen);
        }
        [_, _, ..] => {
            chart.wrong(VERSION, &seen, "upgrade to Redis 7.0 or Valkey 7.2, or later");
        }
        _ => {
            chart.judge(VERSION, Severity::Unseen, &format!("{seen}: no version that can be read"), "");
        }
    }
    Some(software)
}

fn scheme_for(mode: &str) -> &'static str {
    match mode {
        "cluster" => "write the URL with redis-cluster://",
        "sentinel" => "write the URL with redis-sentinel://, and sentinelServiceName",
        _ => "write the URL with redis://",
    }
}

fn connections(node: &Node, chart: &mut Chart) {
    let shown = node.number("connected_clients").and_then(|connected| {
        // Before 7.0 INFO does not tell the limit.
        let most = node.number("maxclients").or_else(|_| {
            let setting = node.setting("maxclients")?;
            setting.parse().map_err(|_| Trouble::Told("no number for maxclients".to_owned()))
        });
        Ok((connected, most?, node.number("rejected_connections")?))
    });
    let Some((connected, most, rejected)) = chart.of_info(CONNECTIONS, shown) else { return };
    let blocked = node.number("blocked_clients").unwrap_or_default();
    let percent = connected * 100 / most.max(1);
    let seen = format!("{connected} of {most}, {blocked} blocked, {rejected} rejected since the start");
    let remedy = "CONFIG SET maxclients to more, or find who opens so many: CLIENT LIST";
    let found = if percent >= TOO_MANY_PERCENT {
        chart.wrong(CONNECTIONS, &seen, remedy)
    } else if percent >= MANY_PERCENT || rejected > 0 {
        chart.warn(CONNECTIONS, &seen, remedy)
    } else {
        chart.fine(CONNECTIONS, &seen)
    };
    found.figure("connected_clients", connected).figure("maxclients", most);
    found.figure("blocked_clients", blocked).figure("rejected_connections", rejected);
}

/// Errors answered since the start. Refusals of commands are not among them: some are this audit's own.
fn errors(node: &Node, chart: &mut Chart) {
    if let Err(trouble) = node.info("role") {
        chart.unseen(ERROR_REPLIES, "INFO", &trouble);
        return;
    }
    let mut told = Vec::new();
    for line in node.lines("errorstat_") {
        let Some((word, rest)) = line.split_once(':') else { continue };
        let number: u64 = part(rest, "count").and_then(|number| number.parse().ok()).unwrap_or_default();
        if let Some((word, remedy)) = TELLING.into_iter().find(|(telling, _)| *telling == word)
            && number > 0
        {
            told.push((word, number, remedy));
        }
    }
    if told.is_empty() {
        chart.fine(ERROR_REPLIES, "none that tells of the server's state");
        return;
    }
    let seen: Vec<String> = told.iter().map(|(word, number, _)| format!("{word} {number} times")).collect();
    let remedies: Vec<&str> = told.iter().map(|(.., remedy)| *remedy).collect();
    let seen = format!("{} since the start", seen.join(", "));
    let found = chart.warn(ERROR_REPLIES, &seen, &remedies.join("; "));
    for (word, number, _) in told {
        found.figure(&format!("{}_replies", word.to_lowercase()), number);
    }
}

/// Its clock against ours.
pub(super) async fn clock(server: &mut Server, ours: &Clock, chart: &mut Chart) {
    let (before, begun) = (ours.now(), Instant::now());
    let answer = server.ask(Question::of("TIME")).await;
    let took = begun.elapsed();
    let Some(answer) = chart.shown(CLOCK, "TIME", answer) else { return };
    let Some(theirs_ms) = time_ms(&answer) else {
        chart.unseen(CLOCK, "TIME", &Trouble::Told("no time".to_owned()));
        return;
    };
    // It was read somewhere between: what the way took is in its favour.
    let ahead_ms = ahead_ms(theirs_ms, before.as_ms(), took);
    let seen = match ahead_ms {
        0 => "the same as ours, as far as the way tells".to_owned(),
        1.. => format!("{ahead_ms} ms ahead of ours"),
        _ => format!("{} ms behind ours", -ahead_ms),
    };
    let found = if ahead_ms.abs() >= SKEW_MS {
        chart.warn(CLOCK, &seen, "let both machines follow a time server: timedatectl set-ntp true")
    } else {
        chart.fine(CLOCK, &seen)
    };
    found.figure("ahead_ms", ahead_ms);
}

/// How far ahead a clock is that was read within `took` from `before_ms` on.
fn ahead_ms(theirs_ms: i64, before_ms: i64, took: Duration) -> i64 {
    let after_ms = before_ms.saturating_add(took.as_millis() as i64);
    if theirs_ms < before_ms { theirs_ms - before_ms } else { (theirs_ms - after_ms).max(0) }
}

/// Seconds and the microseconds beyond them, as strings.
fn time_ms(answer: &Reply) -> Option<i64> {
    let Reply::List(parts) = answer else { return None };
    let [s, us] = parts.as_slice() else { return None };
    let (s, us): (i64, i64) = (s.text()?.parse().ok()?, us.text()?.parse().ok()?);
    s.checked_mul(1_000)?.checked_add(us / 1_000)
}

/// A server that stopped answering while it was looked at.
pub(super) fn lost(server: &Server, chart: &mut Chart) {
    if let Some(why) = server.ended() {
        chart.findings.retain(|finding| finding.check != REACHABLE);
        let seen = format!("it stopped answering: {why}");
        chart.wrong(REACHABLE, &seen, "see whether it hangs: SLOWLOG GET, its log, its machine");
    }
}

/// What connecting came to.
pub(super) fn unreachable(why: &Trouble, chart: &mut Chart) {
    let (Trouble::Away(words) | Trouble::Told(words)) = why else {
        chart.wrong(REACHABLE, "a command was refused", "let this user run SELECT");
        return;
    };
    let remedy = match words.as_str() {
        "WRONGPASS" | "NOAUTH" | "ERR" => "see to the user and the password of the URL: ACL LIST at the server",
        words if words.starts_with("NOPERM") => "let this user run SELECT",
        words if words.starts_with("TLS") => "name the authority of its certificate: --redis-ca",
        _ => "see to the address of the URL, that redis-server runs there, and what is between",
    };
    chart.wrong(REACHABLE, words, remedy);
}

/// It can be asked.
pub(super) fn reached(took: Duration, chart: &mut Chart) {
    let took_us = took.as_micros() as u64;
    chart.fine(REACHABLE, &format!("connected in {}", ms(took_us))).figure("connect_us", took_us);
}

/// A server that loads shows nothing of its keys: they are not looked at.
pub(super) fn is_loading(node: &Node) -> bool {
    node.info("loading").is_ok_and(|loading| loading != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_way_takes_is_no_skew() {
        let took = Duration::from_millis(300);
        for (theirs, ahead) in [(1_000, 0), (1_150, 0), (1_300, 0), (1_301, 1), (999, -1), (61_300, 60_000)] {
            assert_eq!(ahead_ms(theirs, 1_000, took), ahead, "{theirs}");
        }
    }
}
