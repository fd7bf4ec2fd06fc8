//! What was slow: the slow log, the commands that take as long as there are keys, the events of the latency monitor. Of a
//! command its name alone is taken: an argument may be somebody's id.
//!
//! Never here: an argument, an address or a name of a client.

use std::collections::BTreeMap;

use super::catalogue::{LATENCY_EVENTS, SLOW_COMMANDS, SLOW_LOG, SLOW_LOG_THRESHOLD};
use super::finding::{Chart, Severity, count, ms};
use super::node::{CONFIG_GET, Node, part, text};
use crate::clock::Clock;
use crate::store::redis::{Question, Reply, Server, Trouble};

/// Entries that are asked for. Each may hold 4 KiB of arguments, so all 128 would be half a megabyte.
const ENTRIES: usize = 64;
/// What happened longer ago is told, and judged by nobody.
const RECENT_S: i64 = 24 * 3_600;
/// No command of geotrail takes longer, and no other should.
const SLOW_US: u64 = 1_000;
/// What Redis itself calls slow, unless told otherwise.
const TOO_SLOW_US: u64 = 10_000;
/// The latency monitor's events: a tenth of a second is noticed.
const STALL_MS: u64 = 100;

/// Commands over everything there is, and what to run instead.
const OVER_EVERYTHING: [(&str, &str); 8] = [
    ("keys", "SCAN"),
    ("flushall", "FLUSHALL ASYNC"),
    ("flushdb", "FLUSHDB ASYNC"),
    ("georadius", "GEOSEARCH of a small radius"),
    ("georadius_ro", "GEOSEARCH of a small radius"),
    ("georadiusbymember", "GEOSEARCH of a small radius"),
    ("georadiusbymember_ro", "GEOSEARCH of a small radius"),
    ("save", "BGSAVE"),
];
/// Commands over whole keys, which are only slow if those are big.
const OVER_A_KEY: [(&str, &str); 12] = [
    ("del", "UNLINK"),
    ("smembers", "SSCAN"),
    ("hgetall", "HSCAN"),
    ("hkeys", "HSCAN"),
    ("hvals", "HSCAN"),
    ("sort", "sorting in the client"),
    ("sort_ro", "sorting in the client"),
    ("sunion", "SSCAN of each"),
    ("sinter", "SINTERCARD, or SSCAN of one"),
    ("sdiff", "SSCAN of one"),
    ("lrange", "LRANGE of at most 250"),
    ("zrange", "ZRANGE of at most 250"),
];

/// Asks for what was noted.
pub(super) async fn look(server: &mut Server, node: &Node, clock: &Clock, chart: &mut Chart) {
    let answer = server.ask(Question::of("SLOWLOG GET").arg(ENTRIES.to_string())).await;
    if let Some(answer) = chart.shown(SLOW_LOG, "SLOWLOG GET", answer) {
        slow_log(&entries(&answer), clock.now().as_ms() / 1_000, chart);
    }
    threshold(node, chart);
    let info = server.ask(Question::of("INFO commandstats")).await.and_then(|reply| text(&reply));
    if let Some(info) = chart.shown(SLOW_COMMANDS, "INFO commandstats", info) {
        commands(&info, chart);
    }
    let answer = server.ask(Question::of("LATENCY LATEST")).await;
    if let Some(answer) = chart.shown(LATENCY_EVENTS, "LATENCY LATEST", answer) {
        events(&answer, node, chart);
    }
}

/// An entry of the slow log.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at_s: i64,
    took_us: u64,
    command: String,
}

/// Each is an id, when (s), how long (µs), the command with arguments, and more in later versions.
fn entries(answer: &Reply) -> Vec<Entry> {
    let Reply::List(entries) = answer else { return Vec::new() };
    let read = |entry: &Reply| {
        let Reply::List(fields) = entry else { return None };
        let Reply::List(words) = fields.get(3)? else { return None };
        let took_us = u64::try_from(fields.get(2)?.integer()?).ok()?;
        let command = name(words.first()?.text().unwrap_or_default());
        Some(Entry { at_s: fields.get(1)?.integer()?, took_us, command })
    };
    entries.iter().filter_map(read).collect()
}

/// A command's name and nothing else, however it was written.
fn name(word: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let is_one = !word.is_empty() && word.len() <= 32 && word.chars().all(is_name);
    if is_one { word.to_ascii_lowercase() } else { "(no name)".to_owned() }
}

fn instead(command: &str) -> Option<&'static str> {
    let mut known = OVER_EVERYTHING.iter().chain(&OVER_A_KEY);
    known.find(|(name, _)| *name == command).map(|(_, instead)| *instead)
}

fn slow_log(entries: &[Entry], now_s: i64, chart: &mut Chart) {
    let recent: Vec<&Entry> = entries.iter().filter(|entry| now_s - entry.at_s <= RECENT_S).collect();
    let longest_us = recent.iter().map(|entry| entry.took_us).max().unwrap_or_default();
    // By name: how many, and the longest.
    let mut names: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for entry in recent.iter().filter(|entry| entry.took_us >= SLOW_US) {
        let (number, longest) = names.entry(&entry.command).or_default();
        *number += 1;
        *longest = (*longest).max(entry.took_us);
    }
    let noted = count(entries.len() as u64, "command");
    if names.is_empty() {
        let seen = format!("{noted} noted, none of the last 24 hours that took a millisecond");
        chart.fine(SLOW_LOG, &seen).figure("entries", entries.len() as u64);
        return;
    }
    let mut worst: Vec<(&str, (u64, u64))> = names.into_iter().collect();
    worst.sort_by_key(|(_, (_, longest))| std::cmp::Reverse(*longest));
    let shown: Vec<String> = worst
        .iter()
        .map(|(name, (number, longest))| format!("{} {number} times, at most {}", name.to_uppercase(), ms(*longest)))
        .collect();
    let seen = format!("{noted} noted; of the last 24 hours: {}", shown.join("; "));
    let mut remedies: Vec<String> = Vec::new();
    let mut severity = Severity::Warning;
    for (name, (_, longest)) in &worst {
        if let Some(instead) = instead(name) {
            remedies.push(format!("{instead} instead of {}", name.to_uppercase()));
            if *longest >= TOO_SLOW_US {
                severity = Severity::Wrong;
            }
        }
    }
    if remedies.is_empty() {
        remedies.push("SLOWLOG GET shows with what, and from where".to_owned());
    }
    let found = chart.judge(SLOW_LOG, severity, &seen, &remedies.join("; "));
    found.figure("entries", entries.len() as u64).figure("longest_us", longest_us);
}

fn threshold(node: &Node, chart: &mut Chart) {
    let shown = node.setting("slowlog-log-slower-than").map(|value| value.parse::<i64>().unwrap_or_default());
    let shown = shown.and_then(|us| Ok((us, node.setting("slowlog-max-len")?)));
    let Some((us, most)) = chart.shown(SLOW_LOG_THRESHOLD, CONFIG_GET, shown) else { return };
    let seen = format!("slowlog-log-slower-than is {us} us, slowlog-max-len is {most}");
    let found = if us < 0 || us as u64 > TOO_SLOW_US || most == "0" {
        let remedy = "CONFIG SET slowlog-log-slower-than 1000, CONFIG SET slowlog-max-len 128";
        chart.warn(SLOW_LOG_THRESHOLD, &seen, remedy)
    } else {
        chart.fine(SLOW_LOG_THRESHOLD, &seen)
    };
    found.figure("slower_than_us", us);
}

/// `cmdstat_keys:calls=1,usec=20,usec_per_call=20.00,…`, since the start: when, nobody knows, so it is no more than a
/// warning.
fn commands(info: &str, chart: &mut Chart) {
    let mut told: Vec<(&str, u64, f64, &str)> = Vec::new();
    for line in info.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let calls: u64 = part(rest, "calls").and_then(|calls| calls.parse().ok()).unwrap_or_default();
        let mean_us: f64 = part(rest, "usec_per_call").and_then(|mean| mean.parse().ok()).unwrap_or_default();
        let is_slow = mean_us >= SLOW_US as f64 || OVER_EVERYTHING.iter().any(|(known, _)| *known == name);
        if let Some(instead) = instead(name).filter(|_| calls > 0 && is_slow) {
            told.push((name, calls, mean_us, instead));
        }
    }
    if told.is_empty() {
        chart.fine(SLOW_COMMANDS, "none of them since the start, or of small keys alone");
        return;
    }
    let seen: Vec<String> = told
        .iter()
        .map(|(name, calls, mean_us, _)| format!("{} {calls} times, {mean_us:.0} us each", name.to_uppercase()))
        .collect();
    let remedies: Vec<String> =
        told.iter().map(|(name, _, _, instead)| format!("{instead} instead of {}", name.to_uppercase())).collect();
    let remedy = format!("{}; CONFIG RESETSTAT, and look again tomorrow", remedies.join("; "));
    let found = chart.warn(SLOW_COMMANDS, &format!("{} since the start", seen.join("; ")), &remedy);
    for (name, calls, mean_us, _) in told {
        found.figure(&format!("{name}_calls"), calls).figure(&format!("{name}_mean_us"), mean_us);
    }
}

/// Each is a name, when it was last (s), how long then, how long at most (ms).
fn events(answer: &Reply, node: &Node, chart: &mut Chart) {
    let Reply::List(events) = answer else {
        chart.unseen(LATENCY_EVENTS, "LATENCY LATEST", &Trouble::Told("no list".to_owned()));
        return;
    };
    let read = |event: &Reply| {
        let Reply::List(fields) = event else { return None };
        Some((name(fields.first()?.text()?), u64::try_from(fields.get(3)?.integer()?).ok()?))
    };
    let events: Vec<(String, u64)> = events.iter().filter_map(read).collect();
    let Some(longest) = events.iter().map(|(_, most)| *most).max() else {
        let is_off = node.setting("latency-monitor-threshold") == Ok("0");
        chart.fine(LATENCY_EVENTS, if is_off { "none: the monitor is off" } else { "none" });
        return;
    };
    let seen: Vec<String> = events.iter().map(|(name, most)| format!("{name} at most {most} ms")).collect();
    let found = if longest >= STALL_MS {
        let remedy = "LATENCY DOCTOR says what each means; LATENCY RESET once it is mended";
        chart.warn(LATENCY_EVENTS, &seen.join(", "), remedy)
    } else {
        chart.fine(LATENCY_EVENTS, &seen.join(", "))
    };
    found.figure("longest_ms", longest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::Address;

    fn entry(at_s: i64, took_us: i64, words: &[&'static str]) -> Reply {
        let words = words.iter().map(|word| Reply::Bytes((*word).into())).collect();
        Reply::List(vec![Reply::Integer(1), Reply::Integer(at_s), Reply::Integer(took_us), Reply::List(words)])
    }

    fn judged(log: Vec<Reply>, now_s: i64) -> (Severity, String) {
        let mut chart = Chart::of(&Address::Tcp { host: "h".into(), port: 1 });
        slow_log(&entries(&Reply::List(log)), now_s, &mut chart);
        let found = chart.findings.remove(0);
        (found.severity, found.seen + &found.remedy)
    }

    #[test]
    fn what_was_slow_is_judged_by_its_name_its_time_and_its_age() {
        let keys = |at_s, took_us| vec![entry(at_s, took_us, &["KEYS", "secret"])];
        assert_eq!(judged(keys(100, 50_000), 200).0, Severity::Wrong);
        assert_eq!(judged(keys(100, 5_000), 200).0, Severity::Warning);
        assert_eq!(judged(keys(100, 5), 200).0, Severity::Ok, "everything is noted");
        assert_eq!(judged(keys(100, 50_000), 100 + RECENT_S + 1).0, Severity::Ok, "long ago");
        assert_eq!(judged(vec![entry(1, 50_000, &["evalsha", "secret"])], 2).0, Severity::Warning);
        assert_eq!(judged(Vec::new(), 2).0, Severity::Ok);
        for log in [keys(1, 50_000), vec![entry(1, 50_000, &["a secret", "b"])], vec![entry(1, 50_000, &[""])]] {
            let (_, told) = judged(log, 2);
            assert!(!told.contains("secret"), "{told}");
        }
        assert!(entries(&Reply::List(vec![Reply::Nil, Reply::List(vec![])])).is_empty());
    }
}
