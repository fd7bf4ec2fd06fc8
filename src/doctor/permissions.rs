//! Whether this user may run what the service runs, by ACL DRYRUN, which carries nothing out. Where that is not allowed,
//! what only reads is run on a key that nobody has, and of the rest nothing is known.
//!
//! The commands are those of the user in `docs/redis-keys.md`; `tests/it/doctor.rs` compares the two. Never here: a command
//! that writes, other than as an argument of ACL DRYRUN.

use super::catalogue::PERMISSIONS;
use super::finding::Chart;
use super::node::text;
use crate::store::redis::{Mode, Question, Reply, Server, Servers, Trouble, nobodys};

/// What the service does without a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// It cannot do its work.
    Fails,
    /// The same, of a cluster.
    FailsInCluster,
    /// The same, of a database that is not the first.
    FailsElsewhere,
    /// It works, and something is not told.
    Unknowing,
}

/// A command of the service: its name as access lists have it, arguments that fit it (`K` is a key), and whether it only
/// reads.
struct Need {
    name: &'static str,
    args: &'static str,
    reads: bool,
    without: Without,
}

const fn reads(name: &'static str, args: &'static str) -> Need {
    Need { name, args, reads: true, without: Without::Fails }
}

const fn writes(name: &'static str, args: &'static str) -> Need {
    Need { name, args, reads: false, without: Without::Fails }
}

const NEEDS: &[Need] = &[
    reads("ping", ""),
    Need { name: "select", args: "0", reads: false, without: Without::FailsElsewhere },
    reads("time", ""),
    writes("watch", "K"),
    writes("multi", ""),
    writes("exec", ""),
    // A script that is the one word `return`, and one key.
    writes("eval", "return 1 K"),
    writes("evalsha", "0 1 K"),
    reads("get", "K"),
    writes("set", "K v"),
    reads("getrange", "K 0 1"),
    writes("append", "K v"),
    reads("exists", "K"),
    writes("expireat", "K 1"),
    writes("pexpire", "K 1"),
    writes("unlink", "K"),
    reads("hget", "K f"),
    reads("hmget", "K f"),
    writes("hset", "K f v"),
    writes("hdel", "K f"),
    reads("hexists", "K f"),
    reads("hlen", "K"),
    writes("sadd", "K m"),
    writes("srem", "K m"),
    reads("scard", "K"),
    writes("zadd", "K 0 m"),
    writes("zrem", "K m"),
    reads("zcard", "K"),
    reads("zcount", "K 0 1"),
    reads("zrange", "K 0 1"),
    writes("zremrangebyscore", "K 0 1"),
    writes("xadd", "K * f v"),
    reads("xlen", "K"),
    reads("xrange", "K - + COUNT 1"),
    reads("xrevrange", "K + - COUNT 1"),
    reads("lrange", "K 0 1"),
    writes("rpush", "K v"),
    reads("llen", "K"),
    Need { name: "asking", args: "", reads: false, without: Without::FailsInCluster },
    Need { name: "cluster|slots", args: "", reads: true, without: Without::FailsInCluster },
    Need { name: "client|setname", args: "n", reads: false, without: Without::Unknowing },
    Need { name: "info", args: "", reads: true, without: Without::Unknowing },
    Need { name: "slowlog|get", args: "1", reads: true, without: Without::Unknowing },
];
/// Questions in one pipeline.
const AT_ONCE: usize = 16;
const DRYRUN: &str = "ACL DRYRUN";

/// The names of the commands that are looked for, as access lists have them.
pub fn needed() -> impl Iterator<Item = &'static str> {
    NEEDS.iter().map(|need| need.name)
}

/// Asks, one way or the other.
pub(super) async fn look(server: &mut Server, servers: &Servers, prefix: &str, chart: &mut Chart) {
    let key = nobodys(prefix);
    let needs: Vec<&Need> = NEEDS.iter().filter(|need| need.counts(servers)).collect();
    match by_dry_run(server, &needs, &key).await {
        Ok(missing) => judge(&missing, needs.len(), chart),
        Err((asked, trouble)) => {
            let reads: Vec<&Need> = needs.iter().filter(|need| need.reads).copied().collect();
            match by_reading(server, &reads, &key).await {
                Ok(missing) if !missing.is_empty() => {
                    judge(&missing, reads.len(), chart);
                    chart.unseen(PERMISSIONS, asked, &trouble);
                }
                Ok(_) => {
                    let found = chart.unseen(PERMISSIONS, asked, &trouble);
                    let also = format!("; the {} commands that only read may be run", reads.len());
                    found.seen += &also;
                    found.figure("tried", reads.len() as u64);
                }
                Err(trouble) => {
                    chart.unseen(PERMISSIONS, asked, &trouble);
                }
            }
        }
    }
}

/// Which are missing; or what was not answered.
async fn by_dry_run<'a>(
    server: &mut Server,
    needs: &[&'a Need],
    key: &str,
) -> Result<Vec<&'a Need>, (&'static str, Trouble)> {
    let whoami = "ACL WHOAMI";
    let user = server.ask(Question::of(whoami)).await.and_then(|reply| text(&reply));
    let user = user.map_err(|trouble| (whoami, trouble))?;
    let question = |need: &&Need| {
        let begun = Question::of(DRYRUN).arg(user.clone());
        need.words(key).into_iter().fold(begun, Question::arg)
    };
    let mut missing = Vec::new();
    for needs in needs.chunks(AT_ONCE) {
        let questions: Vec<Question> = needs.iter().map(question).collect();
        for (need, answer) in needs.iter().zip(server.ask_all(&questions).await) {
            match answer {
                Ok(Reply::Bytes(word)) if word.as_ref() == b"OK" => {}
                // It says who may not run what; or that there is no such command, for it was renamed.
                Ok(_) => missing.push(*need),
                // PING is always known: where it is not, ACL DRYRUN itself is not.
                Err(Trouble::Told(word)) if word == "ERR" && need.name != "ping" => missing.push(*need),
                Err(trouble) => return Err((DRYRUN, trouble)),
            }
        }
    }
    Ok(missing)
}

/// Which of these are refused. Every answer but a refusal says that it may be run: that there is no such key, or that it
/// is another's.
async fn by_reading<'a>(server: &mut Server, needs: &[&'a Need], key: &str) -> Result<Vec<&'a Need>, Trouble> {
    let question = |need: &&Need| {
        let mut words = need.words(key).into_iter();
        let begun = Question::of(&words.next().unwrap_or_default());
        words.fold(begun, Question::arg)
    };
    let mut missing = Vec::new();
    for needs in needs.chunks(AT_ONCE) {
        let questions: Vec<Question> = needs.iter().map(question).collect();
        for (need, answer) in needs.iter().zip(server.ask_all(&questions).await) {
            match answer {
                Err(Trouble::NotAllowed) => missing.push(*need),
                Err(trouble @ Trouble::Away(_)) => return Err(trouble),
                Ok(_) | Err(Trouble::Told(_)) => {}
            }
        }
    }
    Ok(missing)
}

fn judge(missing: &[&Need], looked_for: usize, chart: &mut Chart) {
    if missing.is_empty() {
        let seen = format!("all {looked_for} commands may be run");
        chart.fine(PERMISSIONS, &seen).figure("missing", 0);
        return;
    }
    let names: Vec<&str> = missing.iter().map(|need| need.name).collect();
    let seen = format!("{} of {looked_for} may not be run: {}", names.len(), names.join(", "));
    let remedy = "ACL SETUSER with the line of docs/redis-keys.md; it lacks ".to_owned()
        + &names.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    let found = if missing.iter().all(|need| need.without == Without::Unknowing) {
        chart.warn(PERMISSIONS, &seen, &remedy)
    } else {
        chart.wrong(PERMISSIONS, &seen, &remedy)
    };
    found.figure("missing", names.len() as u64);
}

impl Need {
    /// Whether the service runs it there.
    fn counts(&self, servers: &Servers) -> bool {
        match self.without {
            Without::Fails | Without::Unknowing => true,
            Without::FailsInCluster => servers.mode() == Mode::Cluster,
            Without::FailsElsewhere => servers.database() > 0,
        }
    }

    /// As it is sent.
    fn words(&self, key: &str) -> Vec<String> {
        let args = self.args.split_whitespace().map(|arg| if arg == "K" { key } else { arg });
        self.name.split('|').chain(args).map(str::to_owned).collect()
    }
}
