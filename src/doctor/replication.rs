//! Replicas as a primary tells of them: whether there are any, whether they keep up, whether it refuses writes for want of
//! them.
//!
//! Never here: a visit to a replica.

use super::catalogue::{MIN_REPLICAS, REPLICAS, REPLICATION_LAG};
use super::finding::{Chart, bytes, count};
use super::node::{CONFIG_GET, Node, part};
use crate::store::redis::Mode;

/// A replica tells how far it is every second; Redis takes one for lost after 10 (`min-replicas-max-lag`).
const LAG_S: u64 = 10;

/// A replica, as `slave0:ip=…,port=…,state=online,offset=…,lag=0` has it.
struct Replica<'a> {
    state: &'a str,
    lag_s: u64,
    behind_bytes: u64,
}

/// What INFO says.
pub(super) fn look(node: &Node, mode: Mode, chart: &mut Chart) {
    // What a replica says of its own replicas is another's business.
    if node.info("role").is_ok_and(|role| role != "master") {
        return;
    }
    let Some(number) = chart.of_info(REPLICAS, node.number("connected_slaves")) else { return };
    let seen = count(number, "replica");
    let found = match (number, mode) {
        (0, Mode::Standalone) => chart.fine(REPLICAS, "none: while it is away, another store answers, or nobody"),
        (0, Mode::Cluster) => chart.warn(REPLICAS, &seen, "add one: redis-cli --cluster add-node --cluster-slave"),
        (0, Mode::Sentinel) => chart.warn(REPLICAS, &seen, "add one: REPLICAOF at another server"),
        _ => chart.fine(REPLICAS, &seen),
    };
    found.figure("replicas", number);
    let offset = node.number("master_repl_offset").unwrap_or_default();
    let replicas: Vec<Replica<'_>> =
        (0..number).flat_map(|at| node.info(&format!("slave{at}"))).map(|line| Replica::read(line, offset)).collect();
    if number > 0 {
        lag(&replicas, chart);
    }
    min_replicas(node, &replicas, chart);
}

fn lag(replicas: &[Replica<'_>], chart: &mut Chart) {
    let absent = replicas.iter().filter(|replica| replica.state != "online").count();
    let lag_s = replicas.iter().map(|replica| replica.lag_s).max().unwrap_or_default();
    let behind = replicas.iter().map(|replica| replica.behind_bytes).max().unwrap_or_default();
    let seen = format!("{absent} not online; the slowest was heard {lag_s} s ago and is {} behind", bytes(behind));
    let found = if absent > 0 || lag_s >= LAG_S {
        chart.warn(REPLICATION_LAG, &seen, "see to the replica and what is between: INFO replication at both")
    } else {
        chart.fine(REPLICATION_LAG, &seen)
    };
    found.figure("not_online", absent as u64).figure("lag_s", lag_s).figure("behind_bytes", behind);
}

/// A primary that asks for replicas tells how many are good; one that asks for none does not.
fn min_replicas(node: &Node, replicas: &[Replica<'_>], chart: &mut Chart) {
    let Ok(good) = node.number("min_slaves_good_slaves") else {
        chart.fine(MIN_REPLICAS, "none are asked for");
        return;
    };
    let wanted = node.setting("min-replicas-to-write").map(|wanted| wanted.parse().unwrap_or(0_u64));
    let Some(wanted) = chart.shown(MIN_REPLICAS, CONFIG_GET, wanted) else { return };
    let seen = format!("min-replicas-to-write is {wanted}, {good} of {} keep up", replicas.len());
    let found = if good < wanted {
        chart.wrong(MIN_REPLICAS, &seen, "bring the replicas back, or CONFIG SET min-replicas-to-write 0")
    } else {
        chart.fine(MIN_REPLICAS, &seen)
    };
    found.figure("min_replicas_to_write", wanted).figure("good_replicas", good);
}

impl<'a> Replica<'a> {
    fn read(line: &'a str, primary_offset: u64) -> Self {
        let number = |name| part(line, name).and_then(|number| number.parse::<u64>().ok()).unwrap_or_default();
        Self {
            state: part(line, "state").unwrap_or_default(),
            lag_s: number("lag"),
            behind_bytes: primary_offset.saturating_sub(number("offset")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_read_as_redis_tells_of_it() {
        let replica = Replica::read("ip=10.0.0.2,port=6379,state=wait_bgsave,offset=70,lag=12", 100);
        assert_eq!((replica.state, replica.lag_s, replica.behind_bytes), ("wait_bgsave", 12, 30));
    }
}
