//! Persistence: whether the last dump and the last write succeeded, how long forks take, how often writes wait for the
//! disk. geotrail needs none of it: its journal is the truth.
//!
//! Never here: replication.

use super::catalogue::{AOF, APPENDFSYNC, FORK_TIME, RDB};
use super::finding::{Chart, ms};
use super::node::{CONFIG_GET, Node};

/// People notice a tenth of a second; Redis' own documents call 10 to 20 ms a GB normal.
const LONG_FORK_US: u64 = 100_000;
/// As long as the service waits for an answer at most (`store::redis::link::place`).
const TOO_LONG_FORK_US: u64 = 1_000_000;

/// What INFO and the settings say.
pub(super) fn look(node: &Node, chart: &mut Chart) {
    if let Some(fork_us) = chart.of_info(FORK_TIME, node.number("latest_fork_usec")) {
        let seen = if fork_us == 0 { "none yet".to_owned() } else { format!("the last took {}", ms(fork_us)) };
        let remedy = "dump from a replica (here CONFIG SET save ''), keep less on one server, no huge pages";
        let found = match fork_us {
            TOO_LONG_FORK_US.. => chart.wrong(FORK_TIME, &seen, remedy),
            LONG_FORK_US.. => chart.warn(FORK_TIME, &seen, remedy),
            _ => chart.fine(FORK_TIME, &seen),
        };
        found.figure("latest_fork_us", fork_us);
    }
    rdb(node, chart);
    let is_on = node.info("aof_enabled").map(|on| on != "0");
    let Some(is_on) = chart.of_info(AOF, is_on) else { return };
    if is_on {
        aof(node, chart);
    } else {
        chart.fine(AOF, "off");
        chart.fine(APPENDFSYNC, "of no matter: the append-only file is off");
    }
}

fn rdb(node: &Node, chart: &mut Chart) {
    let Some(status) = chart.of_info(RDB, node.info("rdb_last_bgsave_status")) else { return };
    let seen = format!("the last dump: {status}");
    if status == "ok" {
        chart.fine(RDB, &seen);
        return;
    }
    let remedy = "make room where its directory is (CONFIG GET dir), then BGSAVE";
    // Redis refuses writes if it is told to, and if it has moments at which it should dump by itself.
    let stops = node.setting("stop-writes-on-bgsave-error");
    let shown = stops.and_then(|stops| Ok(stops == "yes" && !node.setting("save")?.is_empty()));
    match shown {
        Ok(true) => {
            let seen = format!("{seen}; writes are refused until one succeeds (stop-writes-on-bgsave-error)");
            chart.wrong(RDB, &seen, remedy);
        }
        Ok(false) => {
            chart.warn(RDB, &seen, remedy);
        }
        Err(trouble) => {
            chart.warn(RDB, &seen, remedy);
            chart.unseen(RDB, CONFIG_GET, &trouble);
        }
    }
}

fn aof(node: &Node, chart: &mut Chart) {
    let shown =
        node.info("aof_last_write_status").and_then(|write| Ok((write, node.info("aof_last_bgrewrite_status")?)));
    if let Some((write, rewrite)) = chart.of_info(AOF, shown) {
        let seen = format!("the last write: {write}, the last rewrite: {rewrite}");
        let remedy = "make room where its directory is (CONFIG GET dir), then BGREWRITEAOF";
        if write != "ok" {
            chart.wrong(AOF, &seen, remedy);
        } else if rewrite != "ok" {
            chart.warn(AOF, &seen, remedy);
        } else {
            chart.fine(AOF, &seen);
        }
    }
    if let Some(policy) = chart.shown(APPENDFSYNC, CONFIG_GET, node.setting("appendfsync")) {
        let seen = format!("appendfsync is {policy}");
        if policy == "always" {
            chart.warn(APPENDFSYNC, &seen, "CONFIG SET appendfsync everysec: geotrail has its own journal");
        } else {
            chart.fine(APPENDFSYNC, &seen);
        }
    }
}
