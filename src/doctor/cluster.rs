//! A cluster as its own servers tell of it: who has which slots, whether any has none, who has failed. Asked of the first
//! server that answers.
//!
//! Never here: what a primary is like, which is looked at one by one.

use std::collections::BTreeMap;
use std::time::Instant;

use super::catalogue::{
    CLUSTER_COVERAGE, CLUSTER_NODES, CLUSTER_SLOTS, CLUSTER_SPREAD, CLUSTER_STATE, MODE, REACHABLE,
};
use super::finding::{Chart, count};
use super::node::{CONFIG_GET, field, text};
use super::vitals;
use crate::store::redis::{Address, Question, Reply, Server, Servers, Share, Trouble};

const SLOTS: u64 = 16_384;
/// The most that a primary has, to the mean: redis-cli --cluster rebalance moves slots from 2 % on; half as much again
/// is what makes one full long before the others.
const UNEVEN_PERCENT: u64 = 150;

/// The primaries, as far as anybody tells; the findings about the whole.
pub(super) async fn look(servers: &Servers, until: Instant) -> (Vec<Address>, Vec<Chart>) {
    let (mut charts, mut away) = (Vec::new(), Vec::new());
    let mut primaries = None;
    for seed in servers.named() {
        let mut chart = Chart::of(&seed);
        match servers.connect(&seed, until).await {
            Ok(mut server) => {
                primaries = ask(&mut server, &mut chart).await;
                vitals::lost(&server, &mut chart);
                charts.push(chart);
            }
            Err(trouble) => away.push((seed, trouble)),
        }
        if primaries.is_some() {
            break;
        }
    }
    for (seed, trouble) in away {
        let mut chart = Chart::of(&seed);
        match &primaries {
            // It is looked at with the others.
            Some(primaries) if primaries.contains(&seed) => {}
            Some(_) => {
                let seen = format!("it is named in the URL, and {trouble}");
                chart.warn(REACHABLE, &seen, "start it again, or take it out of the URL");
            }
            None => vitals::unreachable(&trouble, &mut chart),
        }
        charts.push(chart);
    }
    (primaries.unwrap_or_default(), charts)
}

/// `None` if another must be asked.
async fn ask(server: &mut Server, chart: &mut Chart) -> Option<Vec<Address>> {
    let answer = match server.ask(Question::of("CLUSTER SLOTS")).await {
        Ok(answer) => answer,
        Err(Trouble::Told(_)) => {
            let seen = "CLUSTER SLOTS was answered with an error: it is no part of a cluster";
            chart.wrong(MODE, seen, "write the URL with redis://");
            return None;
        }
        Err(trouble @ Trouble::NotAllowed) => {
            // The service finds no server without it.
            let remedy = "let this user run CLUSTER SLOTS: ACL SETUSER with +cluster|slots";
            chart.wrong(CLUSTER_SLOTS, &format!("CLUSTER SLOTS {trouble}"), remedy);
            return None;
        }
        Err(Trouble::Away(_)) => return None,
    };
    let Some(shares) = server.shares(&answer) else {
        chart.unseen(CLUSTER_SLOTS, "CLUSTER SLOTS", &Trouble::Told("what cannot be read".to_owned()));
        return None;
    };
    slots(&shares, chart);
    let primaries = spread(&shares, chart);
    let info = server.ask(Question::of("CLUSTER INFO")).await.and_then(|reply| text(&reply));
    if let Some(info) = chart.shown(CLUSTER_STATE, "CLUSTER INFO", info) {
        state(&info, chart);
    }
    let nodes = server.ask(Question::of("CLUSTER NODES")).await.and_then(|reply| text(&reply));
    if let Some(nodes) = chart.shown(CLUSTER_NODES, "CLUSTER NODES", nodes) {
        failing(&nodes, chart);
    }
    coverage(server.ask(Question::of(CONFIG_GET).arg("cluster-require-full-coverage")).await, chart);
    Some(primaries)
}

fn slots(shares: &[Share], chart: &mut Chart) {
    let covered: u64 = shares.iter().map(size).sum();
    let missing = SLOTS.saturating_sub(covered);
    let found = if missing > 0 {
        let seen = format!("{} without a primary", count(missing, "slot"));
        chart.wrong(CLUSTER_SLOTS, &seen, "redis-cli --cluster fix, at any of its servers")
    } else {
        chart.fine(CLUSTER_SLOTS, "all 16384 have a primary")
    };
    found.figure("missing_slots", missing);
}

/// The primaries, and how evenly they share.
fn spread(shares: &[Share], chart: &mut Chart) -> Vec<Address> {
    let mut primaries: BTreeMap<String, (Address, u64)> = BTreeMap::new();
    for share in shares {
        let known = primaries.entry(share.primary.to_string()).or_insert_with(|| (share.primary.clone(), 0));
        known.1 += size(share);
    }
    let most = primaries.values().map(|(_, slots)| *slots).max().unwrap_or_default();
    let all: u64 = primaries.values().map(|(_, slots)| *slots).sum();
    let number = primaries.len() as u64;
    let seen = format!("{} share {all} slots, at most {most} on one", count(number, "primary").replace("ys", "ies"));
    let found = if number > 1 && most * number * 100 > all * UNEVEN_PERCENT {
        chart.warn(CLUSTER_SPREAD, &seen, "redis-cli --cluster rebalance, at any of its servers")
    } else {
        chart.fine(CLUSTER_SPREAD, &seen)
    };
    found.figure("primaries", number).figure("most_slots", most);
    primaries.into_values().map(|(address, _)| address).collect()
}

fn size(share: &Share) -> u64 {
    u64::from(share.last.saturating_sub(share.first)) + 1
}

fn state(info: &str, chart: &mut Chart) {
    let Some(state) = field(info, "cluster_state") else {
        chart.unseen(CLUSTER_STATE, "CLUSTER INFO", &Trouble::Told("nothing of cluster_state".to_owned()));
        return;
    };
    let seen = format!("cluster_state is {state}");
    if state == "ok" {
        chart.fine(CLUSTER_STATE, &seen);
    } else {
        chart.wrong(CLUSTER_STATE, &seen, "see cluster-slots, cluster-nodes and reachable; CLUSTER INFO");
    }
}

/// A line each: id, address, flags, primary, …, the state of the link, slots.
fn failing(nodes: &str, chart: &mut Chart) {
    let (mut primaries, mut replicas, mut all) = (Vec::new(), Vec::new(), 0_u64);
    for line in nodes.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, address, flags, _, _, _, _, link, slots @ ..] = words.as_slice() else { continue };
        all += 1;
        let has = |flag| flags.split(',').any(|known| known == flag);
        if !has("fail") && !has("fail?") && (has("myself") || *link == "connected") {
            continue;
        }
        let address = address.split(['@', ',']).next().unwrap_or_default();
        // One that was failed over, and has nothing any more, is as good as a replica.
        if has("master") && !slots.is_empty() { primaries.push(address) } else { replicas.push(address) }
    }
    let remedy = "start it again, or CLUSTER FORGET it at all others";
    let seen = |gone: &[&str]| format!("of {}, not reached by the others: {}", count(all, "node"), gone.join(", "));
    if !primaries.is_empty() {
        let number = primaries.len() as u64;
        chart.wrong(CLUSTER_NODES, &seen(&primaries), remedy).figure("failing_primaries", number);
    }
    if !replicas.is_empty() {
        let number = replicas.len() as u64;
        chart.warn(CLUSTER_NODES, &seen(&replicas), remedy).figure("failing_replicas", number);
    }
    if primaries.is_empty() && replicas.is_empty() {
        chart.fine(CLUSTER_NODES, &format!("all {all} reach each other")).figure("nodes", all);
    }
}

fn coverage(answer: Result<Reply, Trouble>, chart: &mut Chart) {
    let value = answer.and_then(|reply| match reply {
        Reply::List(pair) => pair.get(1).map_or_else(|| Err(Trouble::Told("nothing".to_owned())), text),
        _ => Err(Trouble::Told("no list".to_owned())),
    });
    let Some(value) = chart.shown(CLUSTER_COVERAGE, CONFIG_GET, value) else { return };
    let seen = format!("cluster-require-full-coverage is {value}");
    if value == "no" {
        chart.fine(CLUSTER_COVERAGE, &seen);
    } else {
        chart.warn(CLUSTER_COVERAGE, &seen, "CONFIG SET cluster-require-full-coverage no, at every server");
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn who_has_failed_is_read_as_redis_tells_of_it() {
        let lines = [
            "a 10.0.0.1:1@11 myself,master - 0 0 1 connected 0-5460",
            "b 10.0.0.2:1@11,name master,fail - 0 0 2 disconnected 5461-10922",
            "c 10.0.0.3:1@11 slave,fail? a 0 0 1 connected",
            "d 10.0.0.4:1@11 master,fail - 0 0 3 disconnected",
        ];
        let mut chart = Chart::of(&Address::Tcp { host: "h".into(), port: 1 });
        failing(&lines.join("\n"), &mut chart);
        let told: Vec<(Severity, &str)> =
            chart.findings.iter().map(|found| (found.severity, found.seen.as_str())).collect();
        let expected = [
            (Severity::Wrong, "of 4 nodes, not reached by the others: 10.0.0.2:1"),
            (Severity::Warning, "of 4 nodes, not reached by the others: 10.0.0.3:1, 10.0.0.4:1"),
        ];
        assert_eq!(told, expected);
    }
}
