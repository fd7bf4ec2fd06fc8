//! The sentinels of a URL: who answers, whether they name the same primary, whether they are enough to fail over.
//!
//! Never here: a change of what they watch.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::catalogue::{REACHABLE, SENTINELS};
use super::finding::{Chart, Severity, count};
use super::vitals;
use crate::store::redis::{Address, Question, Reply, Servers, Trouble};

/// With two, none can be lost: the one that is left is no majority.
const FEWEST: u64 = 3;

/// The primary that most of them name, and what was found of them.
pub(super) async fn look(servers: &Servers, until: Instant) -> (Option<Address>, Vec<Chart>) {
    let (mut charts, mut votes) = (Vec::new(), HashMap::<Address, usize>::new());
    let service = servers.service().unwrap_or_default();
    for sentinel in servers.named() {
        let mut chart = Chart::of(&sentinel);
        match servers.connect_sentinel(&sentinel, until).await {
            Ok(mut server) => {
                let address = Question::of("SENTINEL GET-MASTER-ADDR-BY-NAME").arg(service.to_owned());
                let told = server.ask(address).await;
                if let Some(primary) = primary(told, service, &mut chart) {
                    *votes.entry(primary).or_default() += 1;
                    let quorum = server.ask(Question::of("SENTINEL CKQUORUM").arg(service.to_owned())).await;
                    let about = server.ask(Question::of("SENTINEL MASTER").arg(service.to_owned())).await;
                    able(quorum, about, &mut chart);
                }
                vitals::lost(&server, &mut chart);
            }
            Err(trouble) => {
                let seen = format!("a sentinel {trouble}");
                chart.warn(REACHABLE, &seen, "start it again, or take it out of the URL");
            }
        }
        charts.push(chart);
    }
    if let Some(first) = charts.first_mut() {
        agreed(&votes, first);
    }
    (votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(address, _)| address), charts)
}

fn primary(told: Result<Reply, Trouble>, service: &str, chart: &mut Chart) -> Option<Address> {
    let told = chart.shown(SENTINELS, "SENTINEL GET-MASTER-ADDR-BY-NAME", told)?;
    let Reply::List(parts) = told else {
        let seen = format!("it knows no primary by the name {service}");
        chart.wrong(SENTINELS, &seen, "see to sentinelServiceName in the URL: SENTINEL MASTERS");
        return None;
    };
    let [host, port] = parts.as_slice() else { return None };
    Some(Address::Tcp { host: host.text()?.to_owned(), port: port.text()?.parse().ok()? })
}

/// Whether it could fail over now, by its own look.
fn able(quorum: Result<Reply, Trouble>, about: Result<Reply, Trouble>, chart: &mut Chart) {
    let about = about.map(|reply| pairs(&reply));
    let number = |name: &str| about.as_ref().ok()?.get(name)?.parse::<u64>().ok();
    let (all, replicas) = (number("num-other-sentinels").map(|others| others + 1), number("num-slaves"));
    let known = match (all, replicas) {
        (Some(all), Some(replicas)) => {
            format!("it knows {} and {}", count(all, "sentinel"), count(replicas, "replica"))
        }
        _ => "it does not tell whom it knows".to_owned(),
    };
    let add = "run at least three sentinels, on machines of their own";
    let found = match quorum {
        Ok(_) if all.is_some_and(|all| all < FEWEST) => {
            chart.warn(SENTINELS, &format!("enough for a failover now, and none to spare: {known}"), add)
        }
        Ok(_) => chart.fine(SENTINELS, &format!("enough for a failover: {known}")),
        Err(Trouble::Told(word)) if word == "NOQUORUM" => {
            chart.wrong(SENTINELS, &format!("too few for a failover: {known}"), "bring the other sentinels back")
        }
        Err(trouble) => chart.unseen(SENTINELS, "SENTINEL CKQUORUM", &trouble),
    };
    if let (Some(all), Some(replicas)) = (all, replicas) {
        found.figure("sentinels", all).figure("replicas", replicas);
    }
}

fn agreed(votes: &HashMap<Address, usize>, chart: &mut Chart) {
    match votes.len() {
        0 => {
            let seen = "no sentinel of the URL names a primary";
            chart.wrong(SENTINELS, seen, "see to the addresses and to sentinelServiceName in the URL");
        }
        1 => {}
        _ => {
            let mut names: Vec<String> = votes.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            let seen = format!("they name different primaries: {}", names.join(", "));
            chart.judge(SENTINELS, Severity::Wrong, &seen, "SENTINEL RESET at the one that is behind");
        }
    }
}

/// Names and values by turns.
fn pairs(reply: &Reply) -> BTreeMap<String, String> {
    let Reply::List(items) = reply else { return BTreeMap::new() };
    let texts: Vec<&str> = items.iter().map(|item| item.text().unwrap_or_default()).collect();
    texts.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}
