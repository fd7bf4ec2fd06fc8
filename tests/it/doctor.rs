//! `geotrail doctor`, through the real binary, against real servers: what is bad is found, what is fine is not complained
//! of, what is refused is unseen, and nothing is changed by looking.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::{Duration, Instant};

use geotrail::doctor::{CHECKS, needed};
use serde_json::Value;

use crate::cli::geotrail;
use crate::harness::authority::Authority;
use crate::harness::cluster::Cluster;
use crate::harness::process;
use crate::harness::redis::{PASSWORD, RedisServer, Sentinel, eventually, user};
use crate::harness::skewed_clock::SkewedClock;
use crate::harness::traffic::now_ms;
use crate::runbook::begun;
use crate::tls::has_tls;

const SECRET: &str = "pl4nted-s3cret";

/// What the doctor said.
struct Told {
    code: i32,
    report: Value,
    /// All that was printed.
    all: String,
}

impl Told {
    fn by(output: &Output) -> Self {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
        Self { code: output.status.code().unwrap_or(-1), report, all: format!("{stdout}{stderr}") }
    }

    fn findings(&self) -> impl Iterator<Item = &Value> {
        self.report["findings"].as_array().expect("a list").iter()
    }

    /// The first finding of a check, the worst first.
    fn of(&self, id: &str) -> &Value {
        let rank = |found: &&Value| match word(found, "severity") {
            "wrong" => 0,
            "warning" => 1,
            "unseen" => 2,
            _ => 3,
        };
        let found = self.findings().filter(|found| found["id"] == id).min_by_key(rank);
        found.unwrap_or_else(|| panic!("nothing of {id}: {}", self.all))
    }

    fn severity(&self, id: &str) -> &str {
        word(self.of(id), "severity")
    }

    fn seen(&self, id: &str) -> &str {
        word(self.of(id), "seen")
    }

    /// The ids of a severity.
    fn ids(&self, severity: &str) -> BTreeSet<&str> {
        self.findings().filter(|found| found["severity"] == severity).map(|found| word(found, "id")).collect()
    }

    /// What is wrong is this and nothing else.
    fn is_wrong_of(&self, ids: &[&str]) {
        let expected: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(self.ids("wrong"), expected, "{}", self.all);
        assert_eq!(self.code, i32::from(!ids.is_empty()), "{}", self.all);
    }
}

fn word<'a>(found: &'a Value, member: &str) -> &'a str {
    found[member].as_str().unwrap_or_else(|| panic!("no {member} in {found}"))
}

fn run(url: &str, arguments: &[&str]) -> Output {
    geotrail().arg("doctor").args(arguments).env("GEOTRAIL_REDIS", url).output().expect("it runs")
}

fn doctor(url: &str) -> Told {
    Told::by(&run(url, &["--json"]))
}

/// As the default user, who may do everything.
fn admin(server: &RedisServer) -> String {
    format!("redis://{}", server.address())
}

/// Has the server do something many times.
fn fill(server: &RedisServer, script: &str, arguments: &[&str]) {
    let answer = server.cli(&[&["EVAL", script, "0"], arguments].concat());
    assert!(!answer.contains("ERR"), "{answer}");
}

/// `tester` with these rules; the URL for it.
fn with_user(server: &RedisServer, rules: &[&str]) -> String {
    let password = format!(">{SECRET}");
    let answer = server.cli(&[&["ACL", "SETUSER", "tester", "reset", "on", &password], rules].concat());
    assert_eq!(answer.trim(), "OK", "{rules:?}");
    format!("redis://tester:{SECRET}@{}", server.address())
}

#[test]
fn nobody_there_is_wrong_and_told_like_anything_else() {
    let absent = RedisServer::absent();
    let told = doctor(&admin(&absent));
    told.is_wrong_of(&["reachable"]);
    assert!(told.seen("reachable").contains("connection refused"), "{}", told.all);
    assert_eq!(told.of("reachable")["node"], absent.address());
    assert_eq!((&told.report["redis"]["version"], &told.report["wrong"]), (&Value::Null, &Value::from(1)));
    let text = String::from_utf8(run(&admin(&absent), &[]).stdout).expect("UTF-8");
    assert!(text.contains("\nwrong\n  reachable "), "{text}");
    assert!(text.ends_with("\n1 wrong, 0 warnings, 0 unseen, 0 ok\n"), "{text}");
}

#[test]
fn a_server_that_hangs_is_not_waited_for() {
    let server = RedisServer::start();
    server.stop();
    let begun = Instant::now();
    let told = doctor(&admin(&server));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.cont();
    told.is_wrong_of(&["reachable"]);
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let server = RedisServer::start();
    let url = format!("redis://geotrail:{SECRET}@{}", server.address());
    let told = doctor(&url);
    told.is_wrong_of(&["reachable"]);
    assert_eq!(told.seen("reachable"), "WRONGPASS");
    let text = run(&url, &[]);
    let argument = geotrail().args(["doctor", "--redis", &url]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&argument.stderr).contains("--redis holds a password"));
    for output in [text, argument] {
        assert_eq!(output.status.code(), Some(1));
        let all = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!all.contains(SECRET), "{all}");
    }
    assert!(!told.all.contains(SECRET));
    server.cli(&["CONFIG", "SET", "requirepass", SECRET]);
    assert_eq!(doctor(&admin(&server)).seen("reachable"), "NOAUTH");
}

#[test]
fn a_replica_is_no_place_to_write() {
    let primary = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    eventually("it replicates", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    let told = doctor(&admin(&replica));
    told.is_wrong_of(&["role"]);
    assert!(word(told.of("role"), "remedy").contains(&primary.address()), "{}", told.all);
    eventually("its first word", || primary.cli(&["INFO", "replication"]).contains("state=online"));
    let told = doctor(&admin(&primary));
    told.is_wrong_of(&[]);
    assert_eq!(told.of("replicas")["figures"]["replicas"], 1);
    assert_eq!(told.severity("replication-lag"), "ok");
}

#[test]
fn a_policy_that_evicts_is_wrong_where_there_is_a_limit() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["eviction-policy"]);
    assert!(told.seen("eviction-policy").contains("volatile-lru"), "{}", told.all);
    assert_eq!(told.of("eviction-policy")["figures"]["maxmemory_bytes"], 100 << 20);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&[]);
    assert_eq!([told.severity("eviction-policy"), told.severity("memory-limit")], ["warning", "warning"]);
}

#[test]
fn what_was_evicted_and_what_is_nearly_full_is_told() {
    let server = RedisServer::start();
    fill(&server, "for i = 1, 500 do redis.call('SET', 'k' .. i, string.rep('x', 10000), 'EX', 9000 + i) end", &[]);
    let used = server.info("used_memory");
    server.cli(&["CONFIG", "SET", "maxmemory", &format!("{:.0}", used * 1.02)]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["memory-used"]);
    server.cli(&["CONFIG", "SET", "maxmemory", &format!("{:.0}", used * 1.15)]);
    assert_eq!(doctor(&admin(&server)).severity("memory-used"), "warning");
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    server.cli(&["CONFIG", "SET", "maxmemory", &format!("{:.0}", used - 500_000.0)]);
    eventually("some go", || {
        server.cli(&["SET", "one-more", "x", "EX", "9000"]);
        server.info("evicted_keys") > 0.0
    });
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("evicted-keys"), "warning");
}

#[test]
fn a_big_key_whose_end_holds_everybody_up_is_wrong() {
    let server = RedisServer::start();
    server.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    let members = "for i = 1, tonumber(ARGV[2]) do redis.call('SADD', ARGV[1], 'member-' .. i) end";
    fill(&server, members, &["planted-set", "150000"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["big-keys"]);
    assert!(told.seen("big-keys").contains("planted-set (set of 150000 elements"), "{}", told.all);
    assert_eq!(told.of("big-keys")["figures"]["most_elements"], 150_000);
    assert_eq!([told.severity("keys-without-expiry"), told.severity("slow-log-threshold")], ["warning", "warning"]);
    server.cli(&["CONFIG", "SET", "lazyfree-lazy-user-del", "yes"]);
    doctor(&admin(&server)).is_wrong_of(&[]);
    // Once it expires, that is what frees it.
    server.cli(&["EXPIRE", "planted-set", "9000"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["big-keys"]);
    assert_eq!(told.severity("lazyfree"), "warning");
    server.cli(&["CONFIG", "SET", "lazyfree-lazy-expire", "yes"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&[]);
    assert_eq!([told.severity("big-keys"), told.severity("lazyfree")], ["warning", "ok"]);
    // As many of ours are read and removed in small pieces.
    server.cli(&["RENAME", "planted-set", "geotrail:{2026112218}:drivers"]);
    assert_eq!(doctor(&admin(&server)).severity("big-keys"), "ok");
}

#[test]
fn a_key_of_an_hour_without_expiry_is_wrong_and_never_tells_whose_it_is() {
    let server = RedisServer::start();
    fill(&server, "for i = 1, 300 do redis.call('SET', 'k' .. i, 'v', 'EX', 9000 + i) end", &[]);
    server.cli(&["SET", "geotrail:{2026112218}:track:driver-of-the-secret", "x"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["hour-key-without-expiry"]);
    assert!(told.seen("hour-key-without-expiry").contains("geotrail:{2026112218}:track:*"), "{}", told.all);
    assert!(!told.all.contains("driver-of-the-secret"), "{}", told.all);
    assert_eq!(told.severity("keys-without-expiry"), "ok");
    let told = Told::by(&run(&admin(&server), &["--json", "--redis-prefix", "another"]));
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("keys-without-expiry"), "warning");
    assert!(!told.all.contains("driver-of-the-secret"), "{}", told.all);
    server.cli(&["EXPIRE", "geotrail:{2026112218}:track:driver-of-the-secret", "9000"]);
    doctor(&admin(&server)).is_wrong_of(&[]);
}

#[test]
fn keys_that_expire_in_one_second_are_found_and_keys_that_are_spread_are_not() {
    let server = RedisServer::start();
    let keys = "for i = 1, 6000 do redis.call('SET', 'k' .. i, 'v', 'EXAT', ARGV[1] + i % ARGV[2]) end";
    let at_s = now_ms() / 1_000 + 9_000;
    fill(&server, keys, &[&at_s.to_string(), "1"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("expiry-burst"), "warning", "{}", told.all);
    let figures = &told.of("expiry-burst")["figures"];
    assert_eq!((&figures["keys_estimated"], &figures["expires_at_s"]), (&Value::from(6_000), &Value::from(at_s)));
    fill(&server, keys, &[&at_s.to_string(), "600"]);
    assert_eq!(doctor(&admin(&server)).severity("expiry-burst"), "ok");
}

#[test]
fn commands_over_everything_are_found_in_the_slow_log_by_their_names_alone() {
    let server = RedisServer::start();
    let keys = "for i = 1, 300000 do redis.call('SET', 'a-rather-long-name-' .. i, 'v', 'EX', 9000 + i % 600) end";
    fill(&server, keys, &[]);
    server.cli(&["SLOWLOG", "RESET"]);
    server.cli(&["CONFIG", "RESETSTAT"]);
    server.cli(&["SET", "small", "v", "EX", "9000"]);
    server.cli(&["DEL", "small"]);
    doctor(&admin(&server)).is_wrong_of(&[]);
    for _ in 0..3 {
        server.cli(&["KEYS", "*argument-of-the-secret*"]);
    }
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["slow-log"]);
    assert!(told.seen("slow-log").contains("KEYS 3 times, at most"), "{}", told.all);
    assert!(word(told.of("slow-log"), "remedy").contains("SCAN instead of KEYS"), "{}", told.all);
    assert!(told.of("slow-log")["figures"]["longest_us"].as_u64().is_some_and(|us| us >= 10_000), "{}", told.all);
    assert_eq!(told.severity("slow-commands"), "warning");
    assert_eq!(told.of("slow-commands")["figures"]["keys_calls"], 3);
    assert!(!told.seen("slow-commands").contains("DEL"), "small keys alone: {}", told.all);
    assert!(!told.all.contains("secret"), "{}", told.all);
}

#[test]
fn who_may_not_run_what_the_service_runs_is_told_which() {
    let server = RedisServer::start();
    let everything = ["~*", "&*", "+@all"];
    doctor(&with_user(&server, &everything)).is_wrong_of(&[]);
    let told = doctor(&with_user(&server, &["~*", "&*", "+@all", "-zadd", "-evalsha"]));
    told.is_wrong_of(&["permissions"]);
    assert!(told.seen("permissions").ends_with("may not be run: evalsha, zadd"), "{}", told.all);
    assert!(word(told.of("permissions"), "remedy").ends_with("+evalsha +zadd"), "{}", told.all);
    let told = doctor(&with_user(&server, &["~another:*", "&*", "+@all"]));
    told.is_wrong_of(&["permissions"]);
    let told = doctor(&with_user(&server, &["~*", "&*", "+@all", "-client|setname"]));
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("permissions"), "warning");
    assert!(!told.all.contains(SECRET), "{}", told.all);
    // Who may not ask what it may is found out as far as reading goes.
    let told = doctor(&with_user(&server, &["~*", "&*", "+@all", "-acl", "-zrange"]));
    told.is_wrong_of(&["permissions"]);
    assert!(told.seen("permissions").ends_with("may not be run: zrange"), "{}", told.all);
}

#[test]
fn the_user_of_the_documentation_has_all_it_needs() {
    let server = RedisServer::start();
    let told = doctor(&server.url());
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("permissions"), "unseen");
    assert!(told.seen("permissions").starts_with("ACL WHOAMI was refused; the "), "{}", told.all);
    assert!(!told.all.contains(PASSWORD), "{}", told.all);
}

#[test]
fn the_commands_that_are_looked_for_are_those_of_the_documentation() {
    let line = user();
    let allowed: BTreeSet<&str> = line.split(' ').filter_map(|word| word.strip_prefix('+')).collect();
    assert_eq!(needed().collect::<BTreeSet<_>>(), allowed);
}

#[test]
fn what_is_refused_is_unseen_and_never_an_error() {
    let server = RedisServer::start();
    fill(&server, "redis.call('SET', 'geotrail:{2026112218}:last', '1')", &[]);
    let hidden = ["-config", "-slowlog", "-latency", "-acl", "-scan", "-memory", "-cluster", "-debug"];
    let told = doctor(&with_user(&server, &[&["~*", "&*", "+@all"], &hidden[..]].concat()));
    told.is_wrong_of(&[]);
    let unseen = told.ids("unseen");
    for id in ["slow-log", "slow-log-threshold", "latency-events", "lazyfree", "big-keys", "expiry-burst"] {
        assert!(unseen.contains(id), "{id}: {}", told.all);
    }
    assert_eq!(told.seen("slow-log"), "SLOWLOG GET was refused");
    assert!(word(told.of("slow-log"), "remedy").contains("let this user run SLOWLOG GET"), "{}", told.all);
    assert_eq!(told.report["unseen"], told.findings().filter(|found| found["severity"] == "unseen").count());
    // Without INFO next to nothing is known.
    let told = doctor(&with_user(&server, &[&["~*", "&*", "+@all", "-info"], &hidden[..]].concat()));
    told.is_wrong_of(&[]);
    for id in ["version", "mode", "role", "eviction-policy", "memory-used", "fork-time", "replicas", "databases"] {
        assert_eq!(told.severity(id), "unseen", "{id}: {}", told.all);
    }
    assert_eq!(told.report["redis"]["version"], Value::Null);
    let output = run(&with_user(&server, &["~*", "&*", "+@all", "-scan"]), &[]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("\nunseen\n") && text.contains("SCAN was refused"), "{text}");
}

#[test]
fn a_fresh_server_is_fine_and_every_check_is_told() {
    let server = RedisServer::start();
    let told = doctor(&admin(&server));
    told.is_wrong_of(&[]);
    assert_eq!(told.ids("warning"), BTreeSet::from(["memory-limit"]), "{}", told.all);
    assert!(told.ids("unseen").is_empty(), "{}", told.all);
    let report = told.report.as_object().expect("an object");
    assert_eq!(report.keys().collect::<Vec<_>>(), ["findings", "redis", "unseen", "warnings", "wrong"]);
    let redis = &report["redis"];
    assert_eq!((&redis["mode"], &redis["nodes"][0]), (&Value::from("standalone"), &Value::from(server.address())));
    assert!(redis["version"].is_string() && redis["software"].is_string(), "{redis}");
    let known: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    let found: BTreeSet<&str> = told.findings().map(|found| word(found, "id")).collect();
    let elsewhere = BTreeSet::from([
        "sentinels",
        "cluster-slots",
        "cluster-state",
        "cluster-nodes",
        "cluster-spread",
        "cluster-coverage",
        "replication-lag",
    ]);
    assert_eq!(known.difference(&found).copied().collect::<BTreeSet<_>>(), elsewhere, "{}", told.all);
    assert!(found.is_subset(&known), "{}", told.all);
    for found in told.findings() {
        let members: Vec<&String> = found.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["figures", "id", "node", "remedy", "seen", "severity", "why"]);
    }
    let text = String::from_utf8(run(&admin(&server), &[]).stdout).expect("UTF-8");
    assert!(text.contains("\nwarning\n  memory-limit ") && text.contains("\nok\n"), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.starts_with("0 wrong, 1 warning, 0 unseen, ")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_service_runs_nothing_is_wrong() {
    let (server, _dir, service) = begun().await;
    for url in [admin(&server), server.url()] {
        let told = tokio::task::block_in_place(|| doctor(&url));
        told.is_wrong_of(&[]);
    }
    let told = tokio::task::block_in_place(|| doctor(&admin(&server)));
    for id in ["keys-without-expiry", "hour-key-without-expiry", "big-keys", "expiry-burst", "permissions"] {
        assert_eq!(told.severity(id), "ok", "{}", told.all);
    }
    assert!(service.terminate().await.success());
}

/// What is under `"COMMAND"` in a line of MONITOR.
fn command_in(line: &str) -> Option<String> {
    Some(line.split_once("] \"")?.1.split('"').next()?.to_lowercase())
}

#[test]
fn it_writes_nothing_asks_little_and_holds_nobody_up() {
    let server = RedisServer::start();
    let keys = "for i = 1, 5000 do redis.call('SET', 'k' .. i, 'v', 'EX', 9000 + i) end \
                for i = 1, 2000 do redis.call('HSET', 'hash', i, i) redis.call('ZADD', 'zset', i, i) \
                redis.call('SADD', 'set', 'm' .. i) redis.call('RPUSH', 'list', i) \
                redis.call('XADD', 'stream', '*', 'f', i) end";
    fill(&server, keys, &[]);
    let before = server.cli(&["DBSIZE"]);
    server.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]);
    server.cli(&["CONFIG", "RESETSTAT"]);
    let monitor = server.monitor();
    let told = doctor(&admin(&server));
    let lines = monitor.finish(&server);
    told.is_wrong_of(&[]);
    assert_eq!(server.cli(&["DBSIZE"]), before);
    let asked: Vec<String> = lines.iter().filter_map(|line| command_in(line)).filter(|name| name != "echo").collect();
    let may_ask = [
        "acl",
        "client",
        "config",
        "expiretime",
        "hlen",
        "info",
        "latency",
        "llen",
        "memory",
        "ping",
        "scan",
        "scard",
        "slowlog",
        "strlen",
        "time",
        "type",
        "xlen",
        "zcard",
    ];
    let others: BTreeSet<&String> = asked.iter().filter(|name| !may_ask.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(asked.len() > 2_000 && asked.len() < 10_000, "a part of the keys: {} commands", asked.len());
    let scans: Vec<&String> = lines.iter().filter(|line| line.contains("\"SCAN\"")).collect();
    assert!((10..=20).contains(&scans.len()), "{}", scans.len());
    assert!(scans.iter().all(|line| line.ends_with("\"COUNT\" \"100\"")), "{scans:?}");
    // Those for administrators are not shown to MONITOR, and counted all the same.
    let stats = server.cli(&["INFO", "commandstats"]);
    let counted = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
    let counted: BTreeSet<&str> = counted.map(|(name, _)| name).filter(|name| name.contains('|')).collect();
    let asked =
        ["acl|dryrun", "acl|whoami", "client|setname", "config|get", "latency|latest", "memory|usage", "slowlog|get"];
    let own = BTreeSet::from(["config|resetstat"]);
    assert_eq!(counted.difference(&own).copied().collect::<BTreeSet<_>>(), BTreeSet::from(asked));
    // The noise of the machine may hold up one look, not each of three.
    let is_quick = || {
        server.cli(&["SLOWLOG", "RESET"]);
        doctor(&admin(&server));
        !server.cli(&["SLOWLOG", "GET", "128"]).lines().any(|line| line.trim() == "geotrail")
    };
    assert!((0..3).any(|_| is_quick()), "{}", server.cli(&["SLOWLOG", "GET", "128"]));
}

#[test]
fn every_primary_of_a_cluster_is_looked_at_and_what_is_missing_is_wrong() {
    let mut cluster = Cluster::start(false);
    let url = format!("redis-cluster://{}", cluster.servers[2].address());
    let told = doctor(&url);
    told.is_wrong_of(&[]);
    assert_eq!(told.report["redis"]["nodes"].as_array().expect("a list").len(), 3);
    let pinged: BTreeSet<&str> =
        told.findings().filter(|found| found["id"] == "ping").map(|found| word(found, "node")).collect();
    assert_eq!(pinged.len(), 3, "{}", told.all);
    assert_eq!([told.severity("replicas"), told.severity("cluster-slots")], ["warning", "ok"], "{}", told.all);
    doctor(&cluster.url()).is_wrong_of(&[]);
    // The same server by the scheme of a single one.
    doctor(&admin(&cluster.servers[2])).is_wrong_of(&["mode"]);

    cluster.servers[1].cli(&["SET", &key_of(&cluster, 1), "v"]);
    let told = doctor(&url);
    told.is_wrong_of(&["hour-key-without-expiry"]);
    assert_eq!(told.of("hour-key-without-expiry")["node"], cluster.servers[1].address());
    cluster.servers[1].cli(&["FLUSHALL"]);

    eventually("a slot without a primary", || {
        // Again, for what was on its way between them may bring it back.
        for server in &cluster.servers {
            server.cli(&["CLUSTER", "DELSLOTS", "7"]);
        }
        doctor(&url).severity("cluster-slots") == "wrong"
    });
    let told = doctor(&url);
    assert_eq!(told.of("cluster-slots")["figures"]["missing_slots"], 1, "{}", told.all);
    cluster.servers[0].cli(&["CLUSTER", "ADDSLOTS", "7"]);
    eventually("all slots again", || doctor(&url).code == 0);

    cluster.servers[0].kill();
    eventually("the others miss it", || doctor(&url).severity("cluster-nodes") == "wrong");
    let told = doctor(&url);
    assert_eq!(told.of("reachable")["node"], cluster.servers[0].address(), "{}", told.all);
    assert_eq!([told.severity("reachable"), told.severity("cluster-nodes")], ["wrong", "wrong"], "{}", told.all);
    // Nobody of those who are named.
    doctor(&format!("redis-cluster://{}", cluster.servers[0].address())).is_wrong_of(&["reachable"]);
}

/// The key of an hour that a primary has.
fn key_of(cluster: &Cluster, owner: usize) -> String {
    let keys = (0..24).map(|hour| format!("geotrail:{{20261122{hour:02}}}:last"));
    keys.into_iter().find(|key| cluster.owner(key) == owner).expect("each has some hours")
}

#[test]
fn sentinels_are_asked_whether_they_could_fail_over() {
    let primary = RedisServer::start();
    let sentinel = Sentinel::start(&primary);
    let url = |name: &str| format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName={name}", sentinel.port());
    // It wants two of two, and there is one.
    let told = doctor(&url("fleet"));
    told.is_wrong_of(&["sentinels"]);
    assert!(told.seen("sentinels").starts_with("too few for a failover"), "{}", told.all);
    assert_eq!(told.of("role")["node"], primary.address(), "the primary is looked at too");
    sentinel.cli(&["SENTINEL", "SET", "fleet", "quorum", "1"]);
    let told = doctor(&url("fleet"));
    told.is_wrong_of(&[]);
    assert_eq!([told.severity("sentinels"), told.severity("replicas")], ["warning", "warning"], "{}", told.all);
    let told = doctor(&url("stranger"));
    told.is_wrong_of(&["sentinels"]);
    assert_eq!(told.report["redis"]["nodes"], Value::Array(Vec::new()));
}

#[test]
fn settings_that_have_writes_refused_are_wrong() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("dumps");
    std::fs::create_dir(&path).expect("a directory");
    let server = RedisServer::start_with(&["--dir", path.to_str().expect("a path"), "--save", "3600 100000"]);
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&["min-replicas"]);
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    std::fs::remove_dir_all(&path).expect("it can be removed");
    server.cli(&["BGSAVE"]);
    eventually("a dump that failed", || server.cli(&["INFO"]).contains("rdb_last_bgsave_status:err"));
    doctor(&admin(&server)).is_wrong_of(&["rdb"]);
    server.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    let told = doctor(&admin(&server));
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("rdb"), "warning");
    let two = "for db = 0, 1 do redis.call('SELECT', db) redis.call('SET', 'a', 'v', 'EX', 900) end";
    fill(&server, two, &[]);
    server.cli(&["CONFIG", "SET", "zset-max-listpack-entries", "5000"]);
    let told = doctor(&admin(&server));
    for id in ["databases", "compact-encodings"] {
        assert_eq!(told.severity(id), "warning", "{}", told.all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_differs_by_seconds_is_told_of() {
    let Some(clock) = SkewedClock::new(-90_000) else { return };
    let server = RedisServer::start();
    let mut command = process::geotrail();
    command.args(["doctor", "--json"]).env("GEOTRAIL_REDIS", admin(&server));
    clock.under(&mut command);
    let told = Told::by(&command.output().await.expect("it runs"));
    told.is_wrong_of(&[]);
    assert_eq!(told.severity("clock"), "warning", "{}", told.all);
    let ahead_ms = told.of("clock")["figures"]["ahead_ms"].as_i64().expect("a number");
    assert!((85_000..=95_000).contains(&ahead_ms), "{ahead_ms}");
}

#[test]
fn tls_is_for_servers_that_can_show_who_they_are() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    authority.issue("good", "ca", 2, "DNS:localhost");
    let (_server, port) = authority.server("good");
    let url = format!("rediss://geotrail:{PASSWORD}@localhost:{port}");
    let ca = authority.file("ca.pem").display().to_string();
    Told::by(&run(&url, &["--json", "--redis-ca", &ca])).is_wrong_of(&[]);
    let told = doctor(&url);
    told.is_wrong_of(&["reachable"]);
    assert!(told.seen("reachable").starts_with("TLS: invalid peer certificate"), "{}", told.all);
    assert!(word(told.of("reachable"), "remedy").contains("--redis-ca"), "{}", told.all);
}

#[test]
fn the_url_comes_by_flag_variable_or_file_and_wrong_usage_is_exit_2() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let url = write("url", &format!("{}\n", server.url()));
    let settings = write("geotrail.toml", &format!("redis = \"{}\"\njson = true\n", server.url()));
    let broken = write("broken", &format!("redis://geotrail:{SECRET}@h:port\n"));
    let plain = admin(&server);
    for arguments in [
        &["--redis", plain.as_str(), "--json"][..],
        &["--redis-file", &url, "--json"],
        &["--config", &settings],
        &["--config", &settings, "--redis-file", &url],
    ] {
        let output = geotrail().arg("doctor").args(arguments).output().expect("it runs");
        Told::by(&output).is_wrong_of(&[]);
    }
    let wrong: [(&[&str], &str); 8] = [
        (&[], "--redis: say which Redis to look at"),
        (&["--redis", "embedded"], "--redis: expected a URL that begins with redis://"),
        (&["--redis", "http://127.0.0.1"], "--redis: expected a URL that begins with redis://"),
        (&["--redis", &plain, "--redis-file", &url], "both say where Redis is; give one"),
        (&["--redis-file", &broken], "`redis`: expected redis:// and where it is"),
        (&["--redis-file", "absent"], "absent: cannot be read"),
        (&["--redis", &plain, "--redis-ca", &url], "Redis is not reached by TLS"),
        (&["--redis", &plain, "--fix"], "--fix"),
    ];
    for (arguments, reason) in wrong {
        let output = geotrail().arg("doctor").args(arguments).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.starts_with("error: ") && told.contains(reason), "{arguments:?}: {told}");
        assert!(output.stdout.is_empty() && !told.contains(SECRET), "{arguments:?}: {told}");
    }
}

#[test]
fn every_finding_is_in_the_document() {
    let document = include_str!("../../docs/doctor.md");
    let (_, findings) = document.split_once("\n## Findings\n").expect("there is such a section");
    let rows: Vec<&str> =
        findings.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(id, _)| id).collect();
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len(), "none is there twice");
    let known: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), known);
    for check in CHECKS {
        assert!(document.contains(check.why), "docs/doctor.md lacks: {}", check.why);
    }
}
