//! The service over TLS: its own certificate, renewed while it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::authority::Authority;
use crate::harness::eventually;
use crate::harness::http::Http;
use crate::harness::process::{Process, geotrail};
use crate::harness::traffic::{at, now_ms};

/// Puts the certificate `name` where the service finds it.
fn show(authority: &Authority, name: &str, dir: &Path) {
    for kind in ["key", "pem"] {
        let (new, path) = (dir.join(format!("new.{kind}")), dir.join(format!("tls.{kind}")));
        fs::copy(authority.file(&format!("{name}.{kind}")), &new).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(new, path).expect("a file");
    }
}

/// A service that shows a certificate for `localhost`, good for 30 days.
pub(crate) async fn served() -> (Authority, tempfile::TempDir, Process) {
    let authority = Authority::new();
    authority.issue("first", "ca", 30, "DNS:localhost,IP:127.0.0.1");
    let dir = tempfile::tempdir().expect("a directory");
    show(&authority, "first", dir.path());
    let service = Process::serve_with(dir.path(), "embedded", |command| {
        command.arg("--tls-cert").arg(dir.path().join("tls.pem")).arg("--tls-key").arg(dir.path().join("tls.key"));
    })
    .await;
    assert!(service.url().starts_with("https://127.0.0.1:"), "{}", service.url());
    (authority, dir, service)
}

fn address(service: &Http) -> &str {
    service.url().strip_prefix("https://").expect("TLS")
}

/// Days until what the service shows runs out, by its own count.
pub(crate) async fn days_left(client: &Http) -> f64 {
    let metrics = String::from_utf8(client.get("/metrics").await.body).expect("text");
    let name = r#"geotrail_vendor_expiry_seconds{kind="certificate",name="tls",owner="operator"} "#;
    let expires = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it is told");
    (expires.parse::<f64>().expect("seconds") - now_ms() as f64 / 1e3) / 86_400.0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_over_http_goes_over_https() {
    let (authority, _dir, service) = served().await;
    let client = service.trusting(&authority.file("ca.pem"));
    client.report(&[at("cab", now_ms())]).await;
    assert_eq!(client.get("/v1/active/count").await.json()["count"], 1);
    // The answer arrives, although the body is not read.
    let answer = client.post("/v1/points", "application/json", vec![b' '; 8 << 20]).await;
    assert_eq!(answer.code(), "body_too_large");
    let days = days_left(&client).await;
    assert!((29.0..31.0).contains(&days), "{days}");

    let stranger = service.trusting(&authority.file("stranger.pem"));
    assert!(stranger.send(stranger.request("GET", "/livez")).await.is_none(), "it is not trusted");
    let mut plain = TcpStream::connect(address(&service)).await.expect("it listens");
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is open");
    let mut answer = Vec::new();
    let _ended = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("alive"), "it answers whoever does not speak TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn s20_nothing_older_than_tls_1_2_is_spoken() {
    let (authority, _dir, service) = served().await;
    for (version, is_spoken) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false), ("-tls1", false)] {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", address(&service), version, "-verify_return_error", "-brief"]);
        // What openssl itself would not speak any more, it is told to.
        client.args(["-cipher", "ALL:@SECLEVEL=0", "-verify_hostname", "localhost", "-CAfile"]);
        let output = client.arg(authority.file("ca.pem")).stdin(std::process::Stdio::null()).output().await;
        let output = output.expect("openssl is installed");
        assert_eq!(output.status.success(), is_spoken, "{version}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_needs_no_restart() {
    let (authority, dir, service) = served().await;
    // From somebody else, so that it shows which one is there.
    authority.issue("second", "stranger", 60, "IP:127.0.0.1");
    let old = service.trusting(&authority.file("ca.pem"));
    assert_eq!(old.get("/livez").await.status, 200);
    show(&authority, "second", dir.path());
    let begun = Instant::now();
    let new = eventually("the new one is shown", async || {
        let client = service.trusting(&authority.file("stranger.pem"));
        client.send(client.request("GET", "/livez")).await.map(|_| client)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!((59.0..61.0).contains(&days_left(&new).await));
    assert_eq!(old.get("/livez").await.status, 200, "who is connected stays so");
    let late = service.trusting(&authority.file("ca.pem"));
    assert!(late.send(late.request("GET", "/livez")).await.is_none(), "the old one is shown no more");

    // What is wrong is told, and changes nothing.
    fs::write(dir.path().join("tls.pem"), "nothing").expect("a file");
    let is_told = || fs::read_to_string(dir.path().join("log")).expect("the log").contains("that of before is shown");
    crate::harness::redis::eventually("it is told", is_told);
    let client = service.trusting(&authority.file("stranger.pem"));
    assert_eq!(client.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_certificate_and_its_key_are_refused() {
    let authority = Authority::new();
    for name in ["one", "two"] {
        authority.issue(name, "ca", 2, "DNS:localhost");
    }
    fs::write(authority.file("nothing"), "canary").expect("a file");
    fs::copy(authority.file("one.key"), authority.file("open.key")).expect("a file");
    for (name, mode) in [("one.key", 0o600), ("two.key", 0o600), ("open.key", 0o644)] {
        fs::set_permissions(authority.file(name), fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    let cases = [
        ("one.pem", "one.key", None),
        ("nothing", "one.key", Some("nothing: there is no certificate in it")),
        ("one.key", "one.key", Some("one.key: there is no certificate in it")),
        ("one.pem", "nothing", Some("there is no private key in it")),
        ("one.pem", "one.pem", Some("there is no private key in it")),
        ("one.pem", "two.key", Some("two.key: it is not the key of the certificate")),
        ("one.pem", "open.key", Some("open.key: others may read or change it")),
        ("absent", "one.key", Some("absent: cannot be read")),
        ("one.pem", "absent", Some("absent: cannot be read")),
    ];
    for (certificate, key, refusal) in cases {
        fs::set_permissions(authority.file("nothing"), fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::set_permissions(authority.file("one.pem"), fs::Permissions::from_mode(0o600)).expect("it is ours");
        let mut check = geotrail();
        check.args(["config", "check", "--tls-cert"]).arg(authority.file(certificate));
        let output = check.arg("--tls-key").arg(authority.file(key)).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if refusal.is_some() { 2 } else { 0 }), "{certificate} {key}: {said}");
        assert!(refusal.is_none_or(|refusal| said.contains(refusal)) && !said.contains("canary"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_says_nothing_is_let_go_of() {
    let (_authority, _dir, service) = served().await;
    let mut silent = TcpStream::connect(address(&service)).await.expect("it listens");
    let begun = Instant::now();
    let read = tokio::time::timeout(Duration::from_secs(30), silent.read_u8()).await;
    read.expect("it is let go of").expect_err("nothing was said");
    assert!(begun.elapsed() > Duration::from_secs(5), "it had no time");
}

#[tokio::test(flavor = "multi_thread")]
async fn simulate_speaks_tls() {
    let (authority, _dir, service) = served().await;
    let begun = Instant::now();
    let cases = [("ca.pem", 0, "\"accepted\""), ("stranger.pem", 1, "not trusted"), ("absent", 1, "")];
    for (name, code, said) in cases {
        let mut command = geotrail();
        command.args([
            "simulate",
            "--to",
            service.url(),
            "--drivers",
            "5",
            "--interval",
            "500ms",
            "--duration",
            "1s",
        ]);
        let output = command.arg("--ca").arg(authority.file(name)).output().await.expect("it runs");
        let all = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{name}: {all}");
        assert!(all.contains(said), "{name}: {all}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "it waits for trust");
}
