//! What the slow log has of our writes, and of a client that brings one member a command into the same server at the same
//! time. A machine that pauses stops whatever Redis is at, so entries count by the time that commands take: where both have as
//! many in a second of theirs, ours are the machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use geotrail::model::Point;

use super::bare::Bare;
use super::fleet::Fleet;
use super::{ROUNDS, Server, connect, how, put};

const HEAD: &str = "\
| drivers | hours | ours: over 1 ms per million commands (longest) | that is, in so much time of commands \
| one member each, beside: per million (longest) | that is \
| a transaction as a whole, where the hour begins: p50 / p99 / p99.9, ms | where the fleet is known |
|---|---|---|---|---|---|---|---|";

/// What was seen of some commands.
#[derive(Default)]
struct Seen {
    commands: f64,
    took_s: f64,
    slow: f64,
    longest_ms: f64,
}

impl Seen {
    fn show(&self) -> String {
        let Self { commands, took_s, slow, longest_ms } = self;
        format!("{:.0} ({longest_ms:.1} ms) | {slow:.0} in {took_s:.1} s", slow * 1e6 / commands)
    }
}

/// What the server has seen of ours, and of the other client's, which alone sends GEOADD.
fn seen(server: &Server) -> [Seen; 2] {
    let mut both = <[Seen; 2]>::default();
    for line in server.redis.cli(&["INFO", "commandstats"]).lines() {
        let Some((name, told)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
            continue;
        };
        // What is in a transaction counts by itself; the rest is this measurement's.
        if ["exec", "info", "config|resetstat"].contains(&name) {
            continue;
        }
        let number = |field: &str| {
            let told = told.split(',').find_map(|told| told.strip_prefix(field)).expect("it is told");
            told.trim().parse::<f64>().expect("a number")
        };
        let seen = &mut both[usize::from(name == "geoadd")];
        seen.commands += number("calls=");
        seen.took_s += number("usec=") / 1e6;
    }
    let script = "local counts, longest = {0, 0}, {0, 0} for _, entry in ipairs(redis.call('SLOWLOG', 'GET', 1000000)) do \
                  local whose = entry[4][1] == 'GEOADD' and 2 or 1 counts[whose] = counts[whose] + 1 \
                  longest[whose] = math.max(longest[whose], entry[3]) end \
                  return {counts[1], longest[1], counts[2], longest[2]}";
    let told = server.redis.cli(&["EVAL", script, "0"]);
    let mut told = told.split_whitespace().map(|number| number.parse::<f64>().expect("a number"));
    for seen in &mut both {
        (seen.slow, seen.longest_ms) = (told.next().expect("four"), told.next().expect("four") / 1e3);
    }
    both
}

/// How long transactions held the server, which its slow log does not tell.
fn transactions(server: &Server) -> String {
    let stats = server.redis.cli(&["INFO", "latencystats"]);
    let told = stats.lines().find_map(|line| line.strip_prefix("latency_percentiles_usec_exec:"));
    let percentiles = told.expect("there were some").split(',').map(|told| {
        let us = told.split_once('=').and_then(|(_, us)| us.trim().parse::<f64>().ok());
        format!("{:.2}", us.expect("a number") / 1e3)
    });
    percentiles.collect::<Vec<_>>().join(" / ")
}

async fn fleet(drivers: usize, resolution: Option<u8>) -> ([Seen; 2], [String; 2]) {
    let mut server = Server::start();
    let store = connect(&server, resolution, "00000000000000aa").await;
    let mut fleet = Fleet::new(drivers);
    let mut reports: Vec<Vec<Point>> = (0..=ROUNDS).map(|_| fleet.report()).collect();
    let first = reports.remove(0);
    put(&store, &first).await;
    let beginning = transactions(&server);
    let mut beside = Bare::connect(&server.redis);
    beside.write_one_by_one(&first);
    server.begin();
    server.redis.cli(&["CONFIG", "RESETSTAT"]);
    let reports = Arc::new(reports);
    let (its, is_over) = (reports.clone(), Arc::new(AtomicBool::new(false)));
    let until = is_over.clone();
    let writing = std::thread::spawn(move || {
        let slices = its.iter().flat_map(|points| points.chunks(1_000)).cycle();
        slices.take_while(|_| !until.load(Ordering::Relaxed)).for_each(|points| beside.write_one_by_one(points));
    });
    for points in &*reports {
        put(&store, points).await;
    }
    is_over.store(true, Ordering::Relaxed);
    writing.join().expect("it does not panic");
    (seen(&server), [beginning, transactions(&server)])
}

pub(super) async fn table(sizes: &[usize], resolutions: &[Option<u8>]) {
    println!("\nThe slow log of writes, beside a client of one member a command at the same time:\n\n{HEAD}");
    for drivers in sizes {
        for resolution in resolutions {
            let ([ours, beside], [beginning, known]) = fleet(*drivers, *resolution).await;
            let (ours, beside) = (ours.show(), beside.show());
            println!("| {drivers} | {} | {ours} | {beside} | {beginning} | {known} |", how(*resolution));
        }
    }
}
