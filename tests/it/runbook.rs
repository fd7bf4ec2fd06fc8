//! The runbook, run: every command of `docs/runbook.md`, in a shell, against a service in the state that its section
//! describes. A section that no test runs fails one too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::erasure::{GONE, everybody, gone_at};
use crate::harness::eventually;
use crate::harness::faulty_disk::{Fault, FaultyDisk};
use crate::harness::process::{Process, geotrail};
use crate::harness::redis::RedisServer;
use crate::harness::skewed_clock::SkewedClock;
use crate::harness::traffic::{at, becomes_whole, logged, now_ms, past};
use crate::https::{days_left, served};
use crate::moving::{attach, filled, stores};
use crate::oracle::{hour_name, hour_of};

/// One that hangs is broken off: longer than any wait that a section has.
const PATIENCE: Duration = Duration::from_mins(1);

/// A command, and what must stand in what it prints.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The commands of all sections, by title.
fn sections() -> BTreeMap<&'static str, Vec<Step>> {
    let mut sections: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    let (mut title, mut in_console) = ("", false);
    for line in include_str!("../../docs/runbook.md").lines() {
        match (in_console, line) {
            (false, "```console") => in_console = true,
            (true, "```") => in_console = false,
            (false, line) => title = line.strip_prefix("## ").unwrap_or(title),
            (true, line) => {
                let steps = sections.entry(title).or_default();
                if let Some(command) = line.strip_prefix("$ ") {
                    steps.push(Step { command: command.to_owned(), printed: Vec::new() });
                } else {
                    let step = steps.last_mut().expect("a block begins with a command");
                    step.printed.push(line.to_owned());
                }
            }
        }
    }
    sections
}

/// What the commands find in their environment.
struct Shell {
    variables: BTreeMap<&'static str, String>,
}

impl Shell {
    fn at(service: &Process, dir: &Path, store: &str) -> Self {
        let variables = [
            ("SERVICE", service.url().to_owned()),
            ("GEOTRAIL_DATA_DIR", dir.join("data").display().to_string()),
            ("GEOTRAIL_RETENTION", "72h".to_owned()),
            ("GEOTRAIL_STORE", store.to_owned()),
        ];
        Self { variables: variables.into() }
    }

    fn on(service: &Process, dir: &Path, server: &RedisServer) -> Self {
        let admin = format!("redis://{}", server.address());
        Self::at(service, dir, &server.url()).with("REDIS", server.url()).with("ADMIN", admin)
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    /// Runs a section, in its order.
    async fn runs(&self, title: &str) {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_geotrail"));
        let folder = binary.parent().expect("it is in a folder").display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        let all = sections();
        for Step { command, printed } in all.get(title).unwrap_or_else(|| panic!("there is no section {title}")) {
            let run = Command::new("bash")
                .args(["-eu", "-c", command])
                .env("PATH", &path)
                .envs(&self.variables)
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = tokio::time::timeout(PATIENCE, run).await;
            let output = output.unwrap_or_else(|_| panic!("{title}: {command} does not end")).expect("bash runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{title}: {command}\n{text}\n{errors}");
            for part in printed {
                assert!(text.contains(part), "{title}: {command}\n{part} is missing from\n{text}\n{errors}");
            }
        }
    }
}

/// A Redis with a past, and a service on it that is whole.
pub(crate) async fn begun() -> (RedisServer, tempfile::TempDir, Process) {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    service.report(&past()).await;
    service.report(&[at("cab", now_ms())]).await;
    service.caught_up().await;
    (server, dir, service)
}

/// Waits until `/health` says it.
async fn told(service: &Process, word: &str) {
    eventually(word, async || {
        String::from_utf8_lossy(&service.get("/health").await.body).contains(word).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_gone_and_comes_back() {
    let (mut server, dir, service) = begun().await;
    told(&service, "\"pass\"").await;
    let shell = Shell::on(&service, dir.path(), &server);
    shell.runs("How it is").await;
    shell.runs("Redis is slow").await;
    server.kill();
    told(&service, "unreachable").await;
    shell.runs("Redis is gone").await;
    server.restart();
    shell.runs("Redis is back").await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_full_or_evicts() {
    let (server, dir, service) = begun().await;
    let shell = Shell::on(&service, dir.path(), &server);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = service.try_post("/v1/points", &[at("cab", now_ms())]).await.expect("an answer");
    assert_eq!(answer.status, 202);
    told(&service, "backlog_points").await;
    shell.runs("Redis is full").await;
    service.caught_up().await;
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    told(&service, "noeviction").await;
    shell.runs("Redis evicts").await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_holds_another_fleets_data() {
    let (server, dir, service) = begun().await;
    server.cli(&["SET", "geotrail:{fleet}:id", "0000000000000bad"]);
    told(&service, "another fleet").await;
    Shell::on(&service, dir.path(), &server).runs("Redis holds another fleet's data").await;
    service.caught_up().await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full() {
    let Some(disk) = FaultyDisk::new() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let service = disk.serve(dir.path()).await;
    service.report(&[at("cab", now_ms())]).await;
    disk.begin(Fault::Full);
    let refused = service.try_post("/v1/points", &[at("cab", now_ms())]).await.expect("an answer");
    assert_eq!(refused.code(), "journal_unavailable");
    Shell::at(&service, dir.path(), "embedded").runs("The disk is full or broken").await;
    disk.end(Fault::Full);
    eventually("points are taken", async || (service.get("/readyz").await.status == 200).then_some(())).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_partial() {
    let (server, dir, service) = begun().await;
    let hour = hour_name(hour_of(now_ms()));
    let track = format!("geotrail:{{{hour}}}:track:taxi");
    server.cli(&["XADD", &track, "*", "a", "b"]);
    let answer = service.try_post("/v1/points", &[at("taxi", now_ms())]).await.expect("an answer");
    assert_eq!(answer.status, 202);
    logged(dir.path(), "set aside as dead letters", 1).await;
    told(&service, "deadletter_points").await;
    let shell = Shell::on(&service, dir.path(), &server).with("HOUR", &hour).with("DRIVER", "taxi");
    shell.runs("An answer is partial").await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_missing() {
    let (server, dir, service) = begun().await;
    let away = tempfile::tempdir().expect("a directory");
    let other = Process::serve(away.path(), &server.url()).await;
    other.report(&[at("theirs", now_ms())]).await;
    let id = other.get("/v1/admin/instances").await.json()["instance"].as_str().expect("an id").to_owned();
    other.kill().await;
    told(&service, &id).await;
    server.cli(&["FLUSHALL"]);
    told(&service, "what it accepted is missing").await;
    Shell::on(&service, dir.path(), &server).with("INSTANCE", &id).runs("An instance is missing").await;
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_is_wrong() {
    let Some(clock) = SkewedClock::new(300_000) else { return };
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().expect("a directory"));
    let service = Process::serve_with(dir.path(), &server.url(), |command| clock.under(command)).await;
    service.report(&[at("cab", now_ms())]).await;
    told(&service, "clock").await;
    let shell = Shell::on(&service, dir.path(), &server);
    shell.runs("A clock is wrong").await;
    clock.set(0);
    shell.runs("The clock is right again").await;
    told(&service, "\"pass\"").await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_house() {
    let (server, dir, service) = begun().await;
    let new = RedisServer::start();
    Shell::on(&service, dir.path(), &server).with("NEW", new.url()).runs("Moving house").await;
    assert_eq!(stores(&service).await.as_array().expect("a list").len(), 1);
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_stuck() {
    let (server, dir, service) = begun().await;
    let mut other = RedisServer::start();
    service.report(&everybody(now_ms(), 3)).await;
    service.report(&[gone_at(now_ms())]).await;
    let name = attach(&service, &other.url()).await;
    filled(&service, &name).await;
    other.kill();
    told(&service, "unreachable").await;
    Shell::on(&service, dir.path(), &server).with("DRIVER", GONE).runs("An erasure is stuck").await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_in_wrong_hands() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = dir.path().join("keys.toml");
    let mut made = geotrail();
    made.args(["key", "new", "--name", "backend", "--scope", "read", "--keys"]).arg(&keys);
    let leaked = String::from_utf8(made.output().await.expect("it runs").stdout).expect("a key");
    let service = Process::serve_with(dir.path(), "embedded", |command| {
        command.arg("--keys").arg(&keys);
    })
    .await;
    let asking = service.request("GET", "/metrics").header("authorization", format!("Bearer {}", leaked.trim()));
    assert_eq!(service.send(asking).await.expect("an answer").status, 200);
    let shell = Shell::at(&service, dir.path(), "embedded").with("LEAKED", leaked.trim());
    shell.with("GEOTRAIL_KEYS", keys.display().to_string()).runs("A key is in wrong hands").await;
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_runs_out() {
    let (authority, dir, service) = served().await;
    authority.issue("second", "ca", 90, "IP:127.0.0.1");
    let file = |name: &str| authority.file(name).display().to_string();
    let own = |name: &str| dir.path().join(name).display().to_string();
    let shell = Shell::at(&service, dir.path(), "embedded").with("CA", file("ca.pem"));
    let shell = shell.with("GEOTRAIL_TLS_CERT", own("tls.pem")).with("GEOTRAIL_TLS_KEY", own("tls.key"));
    let shell = shell.with("NEW_CERT", file("second.pem")).with("NEW_KEY", file("second.key"));
    shell.runs("The certificate runs out").await;
    assert!(days_left(&service.trusting(&authority.file("ca.pem"))).await > 80.0);
    assert!(service.terminate().await.success());
}

#[test]
fn every_section_with_commands_is_run() {
    let own = include_str!("runbook.rs");
    for (title, steps) in sections() {
        assert!(!steps.is_empty());
        assert!(own.contains(&format!("runs(\"{title}\")")), "nobody runs the section {title}");
    }
}
