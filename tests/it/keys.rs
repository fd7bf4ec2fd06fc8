//! Who may call: API keys, made by the command, in the hands of real callers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use geotrail::http::{Access, table};
use geotrail::keys::Scope;
use reqwest::RequestBuilder;

use crate::harness::http::Answer;
use crate::harness::process::{Process, geotrail};

/// A directory with a file of keys, and a service that follows it.
struct Keyed {
    dir: tempfile::TempDir,
    service: Process,
}

impl Keyed {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("keys.toml");
        key(&file, &["new", "--name", "first", "--scope", "read"]).await;
        let service = serve(dir.path(), &file).await;
        Self { dir, service }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("keys.toml")
    }

    /// A key with these scopes, once the service knows it.
    async fn new_key(&self, scopes: &[Scope]) -> String {
        let mut arguments = vec!["new", "--name", "test"];
        arguments.extend(scopes.iter().flat_map(|scope| ["--scope", scope.word()]));
        let key = printed(&key(&self.file(), &arguments).await);
        self.until(&key, true).await;
        key
    }

    /// Waits until the service knows a key, or knows it no more: less than five seconds.
    async fn until(&self, key: &str, is_known: bool) {
        let begun = Instant::now();
        // Of what needs `read`; with another scope it is told that.
        while (self.ask("GET", "/metrics", Some(key)).await.status != 401) != is_known {
            assert!(begun.elapsed() < Duration::from_secs(5), "it takes too long");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn ask(&self, method: &str, path: &str, key: Option<&str>) -> Answer {
        let request = with_key(self.service.request(method, path), key);
        self.service.send(request).await.expect("an answer")
    }
}

fn with_key(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.header("authorization", format!("Bearer {key}")),
        None => request,
    }
}

async fn serve(dir: &Path, keys: &Path) -> Process {
    Process::serve_with(dir, "embedded", |command| {
        command.arg("--keys").arg(keys).env("RUST_LOG", "trace");
    })
    .await
}

async fn key(file: &Path, arguments: &[&str]) -> Output {
    geotrail().arg("key").args(arguments).arg("--keys").arg(file).output().await.expect("it runs")
}

/// The only line on stdout.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The id in a key.
fn id_of(key: &str) -> &str {
    key.split('_').nth(1).expect("an id")
}

/// A path of a route, such as somebody might ask for.
fn path_of(route: &str) -> String {
    let path = route.replace("{id}", "d1").replace("{hour}", "2026112212").replace("{name}", "redis");
    path + if route == "/v1/nearby" { "?lat=1&lon=1" } else { "" }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_every_route_asks_for_its_scope_and_for_no_other() {
    let keyed = Keyed::start().await;
    let mut keys = Vec::new();
    for scope in Scope::ALL {
        keys.push((scope, keyed.new_key(&[scope]).await));
    }
    let none = {
        // `key new` wants a scope; a file may be written by hand.
        let key = keyed.new_key(&[Scope::Read]).await;
        let text = fs::read_to_string(keyed.file()).expect("the keys");
        let (before, after) = text.split_once(&format!("id = \"{}\"", id_of(&key))).expect("it is there");
        let after = after.replacen("scopes = [\"read\"]", "scopes = []", 1);
        fs::write(keyed.file(), format!("{before}id = \"{}\"{after}", id_of(&key))).expect("the keys");
        key
    };
    keyed.until_forbidden(&none).await;
    let free: BTreeSet<&str> = ["/health", "/livez", "/readyz", "/openapi.json", "/docs"].into();
    let mut seen = BTreeSet::new();
    for (method, route, access) in table() {
        let (method, path) = (method.as_str(), path_of(route));
        let needed = match access {
            Access::Free => {
                assert!(free.contains(route), "{route} needs no key");
                assert_ne!(keyed.ask(method, &path, None).await.status, 401, "{route}");
                continue;
            }
            Access::Needs(scope) => scope,
        };
        let expected = match (method, route) {
            ("POST", "/v1/points") => Scope::Ingest,
            ("DELETE", _) => Scope::Admin,
            (_, route) if route.starts_with("/v1/admin/") => Scope::Admin,
            _ => Scope::Read,
        };
        assert_eq!(needed, expected, "{method} {route}");
        seen.insert(needed);
        for wrong in [None, Some("gtk_00000000_0"), Some("")] {
            let answer = keyed.ask(method, &path, wrong).await;
            assert!(matches!(answer.status, 401 | 429), "{method} {route} {wrong:?}: {}", answer.status);
        }
        let answer = keyed.ask(method, &path, Some(&none)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{method} {route}");
        for (scope, key) in &keys {
            let answer = keyed.ask(method, &path, Some(key)).await;
            if *scope == needed {
                assert!(!matches!(answer.status, 401 | 403 | 429), "{method} {route}: {}", answer.status);
            } else {
                assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{method} {route} {scope:?}");
            }
        }
        if method == "GET" {
            assert_eq!(keyed.ask("HEAD", &path, None).await.status, 401, "HEAD {route}");
        }
    }
    // Whatever else a path might take would need a key as well.
    for (_, route, _) in table() {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            let is_in_table = table().any(|(known, of, _)| of == route && known == method);
            if !is_in_table {
                assert_eq!(keyed.ask(method, &path_of(route), None).await.status, 405, "{method} {route}");
            }
        }
    }
    assert_eq!(seen.len(), Scope::ALL.len());
    assert_eq!(keyed.ask("GET", "/v1/nothing", None).await.status, 404);
    assert_eq!(keyed.ask("PUT", "/v1/points", None).await.status, 405);
}

impl Keyed {
    async fn until_forbidden(&self, key: &str) {
        let begun = Instant::now();
        while self.ask("GET", "/metrics", Some(key)).await.status != 403 {
            assert!(begun.elapsed() < Duration::from_secs(5), "it takes too long");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_comes_in_the_header_and_nowhere_else() {
    let keyed = Keyed::start().await;
    let key = keyed.new_key(&[Scope::Read]).await;
    let ask = async |headers: &[(&str, String)], path: &str| {
        let request = keyed.service.request("GET", path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        keyed.service.send(request).await.expect("an answer").status
    };
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
        assert_eq!(ask(&[("authorization", format!("{scheme} {key}"))], "/v1/active").await, 200, "{scheme}");
    }
    let bearer = format!("Bearer {key}");
    let wrong: [&[(&str, String)]; 7] = [
        &[("authorization", key.clone())],
        &[("authorization", format!("Basic {key}"))],
        &[("authorization", format!("Bearer{key}"))],
        &[("authorization", format!("Bearer {key}x"))],
        &[("authorization", format!("Bearer {}", &key[..key.len() - 1]))],
        &[("authorization", bearer.clone()), ("authorization", bearer)],
        &[("x-api-key", key.clone())],
    ];
    for headers in wrong {
        assert_eq!(ask(headers, "/v1/active").await, 401, "{headers:?}");
    }
    assert_eq!(ask(&[], &format!("/v1/active?key={key}")).await, 401);
    let answer = keyed.ask("GET", "/v1/active", None).await;
    assert_eq!(
        (answer.code().as_str(), answer.header("www-authenticate")),
        ("unauthenticated", "Bearer realm=\"geotrail\"")
    );
    assert_eq!((answer.header("cache-control"), answer.header("x-content-type-options")), ("no-store", "nosniff"));
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_keys_are_rotated_and_revoked_under_load() {
    let keyed = Keyed::start().await;
    let old = keyed.new_key(&[Scope::Ingest]).await;
    let body = r#"{"driver_id":"d1","ts":TS,"lat":52.5,"lon":13.4}"#;
    let now_ms = crate::redis_store::now().as_ms();
    let send = async |key: &str| {
        let body = body.replace("TS", &now_ms.to_string());
        let request = keyed.service.request("POST", "/v1/points").header("content-type", "application/x-ndjson");
        keyed.service.send(with_key(request, Some(key)).body(body)).await.expect("an answer").status
    };
    let until = Instant::now() + Duration::from_secs(3);
    let load = async {
        let mut count = 0;
        while Instant::now() < until {
            assert_eq!(send(&old).await, 202);
            count += 1;
        }
        count
    };
    let (new, count) = tokio::join!(keyed.new_key(&[Scope::Ingest]), load);
    assert!(count > 10, "{count} requests are no load");
    assert_eq!((send(&old).await, send(&new).await), (202, 202), "both are valid");

    assert!(key(&keyed.file(), &["revoke", id_of(&old)]).await.status.success());
    keyed.until(&old, false).await;
    assert_eq!((send(&old).await, send(&new).await), (401, 202));
    let twice = key(&keyed.file(), &["revoke", id_of(&old)]).await;
    assert_eq!(twice.status.code(), Some(1), "{}", String::from_utf8_lossy(&twice.stderr));

    let listed = printed(&key(&keyed.file(), &["list"]).await);
    assert!(listed.contains(id_of(&new)) && !listed.contains(id_of(&old)), "{listed}");
    let secret = new.rsplit('_').next().expect("a secret");
    let mut files = 0;
    let mut dirs = vec![keyed.dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            files += 1;
            let bytes = fs::read(&path).expect("a file");
            let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{} has the key", path.display());
        }
    }
    assert!(files > 3, "the log and the journal are among them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_when_it_was_said_to() {
    let keyed = Keyed::start().await;
    let brief = printed(&key(&keyed.file(), &["new", "--name", "x", "--scope", "read", "--expires", "3s"]).await);
    keyed.until(&brief, true).await;
    keyed.until(&brief, false).await;
    let listed = printed(&key(&keyed.file(), &["list"]).await);
    let line = listed.lines().find(|line| line.starts_with(id_of(&brief))).expect("it is listed");
    assert!(line.ends_with("(over)"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_who_tries_keys_is_slowed_down_and_nobody_else() {
    let keyed = Keyed::start().await;
    let good = keyed.new_key(&[Scope::Read]).await;
    let tampered = format!("gtk_{}_{}", id_of(&good), "A".repeat(43));
    let mut slowed = 0;
    for number in 0..1_000 {
        let wrong = if number % 2 == 0 { &tampered } else { "gtk_12345678_x" };
        let answer = keyed.ask("GET", "/v1/active", Some(wrong)).await;
        match answer.status {
            401 => {}
            429 => {
                assert_eq!(answer.code(), "rate_limited");
                let after: u64 = answer.header("retry-after").parse().expect("seconds");
                assert!((1..=30).contains(&after), "{after} s");
                slowed += 1;
            }
            other => panic!("{other}"),
        }
        if number % 50 == 0 {
            assert_eq!(keyed.ask("GET", "/v1/active", Some(&good)).await.status, 200);
        }
    }
    assert!(slowed > 900, "{slowed} of 1,000 were slowed down");
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_nothing_is_unpacked_for_a_caller_without_a_key() {
    let keyed = Keyed::start().await;
    let key = keyed.new_key(&[Scope::Ingest]).await;
    let bomb = zstd::encode_all(&vec![b'['; 64 << 20][..], 3).expect("memory takes all");
    let post = async |key: Option<&str>| {
        let request = keyed.service.request("POST", "/v1/points").header("content-type", "application/json");
        let request = with_key(request.header("content-encoding", "zstd"), key).body(bomb.clone());
        keyed.service.send(request).await.expect("an answer")
    };
    assert_eq!(post(None).await.code(), "unauthenticated");
    assert_eq!(post(Some(&key)).await.code(), "body_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn s19_a_file_of_keys_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys.toml");
    printed(&key(&file, &["new", "--name", "x", "--scope", "read"]).await);
    assert_eq!(fs::metadata(&file).expect("it was made").permissions().mode() & 0o777, 0o600);
    let link = dir.path().join("link.toml");
    symlink(&file, &link).expect("a link");
    let check = async |path: &Path| {
        let output = geotrail().args(["config", "check", "--keys"]).arg(path).output().await.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (mode, is_fine) in
        [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o604, false), (0o660, false)]
    {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
        for path in [&file, &link] {
            let (code, said) = check(path).await;
            assert_eq!(code, Some(if is_fine { 0 } else { 2 }), "{mode:o} {said}");
            assert!(is_fine || said.contains("--keys: ") && said.contains("chmod 600"), "{said}");
        }
    }
    // Through a link, what it leads to is written, and can be read by whoever could.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
    printed(&key(&link, &["new", "--name", "y", "--scope", "read"]).await);
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o640);
    assert_eq!(printed(&key(&file, &["list"]).await).lines().count(), 3);
    assert!(link.is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_lost_of_many_that_are_made_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = (0..20).map(|number| {
        let mut command = geotrail();
        command.args(["key", "new", "--keys", "keys.toml", "--scope", "read", "--name", &format!("n{number}")]);
        command.current_dir(dir.path());
        async move { printed(&command.output().await.expect("it runs")) }
    });
    let keys = futures_util::future::join_all(made).await;
    let listed = printed(&key(&dir.path().join("keys.toml"), &["list"]).await);
    for key in &keys {
        assert!(listed.contains(id_of(key)), "{key} is not in\n{listed}");
    }
    for key_made in keys {
        assert!(key(&dir.path().join("keys.toml"), &["revoke", id_of(&key_made)]).await.status.success());
    }
    // A list of none is one; nothing is left behind.
    assert_eq!(printed(&key(&dir.path().join("keys.toml"), &["list"]).await).lines().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_wrong_place_does_not_show() {
    let secret = "gtk_1f3a90c2_s3cr-et_canary";
    for arguments in [
        &["serve", "--keys", secret][..],
        &["key", "revoke", "--keys", "x", secret],
        &["key", "list", "--keys", secret],
        &["simulate", "--key-file", secret],
        &["simulate", "--ca", secret],
        &["serve", secret],
    ] {
        let output = geotrail().args(arguments).output().await.expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!String::from_utf8_lossy(&said).contains("canary"), "{}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_that_is_wrong_is_told_by_its_line_and_never_quoted() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys.toml");
    printed(&key(&file, &["new", "--name", "x", "--scope", "read"]).await);
    let good = fs::read_to_string(&file).expect("the keys");
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replacen(from, to, 1)
    };
    let entry = &good[good.find("[[key]]").expect("one")..];
    let cases = [
        (replaced("name = ", "nam = "), ":5: expected `[[key]]`"),
        (replaced("name = \"x\"", "name = \"canary q7z\""), ":3: expected 1 to 64"),
        (replaced("\"read\"", "\"canary\""), ":3: expected some of"),
        (replaced("sha256 = \"", "sha256 = \"canary"), ":3: expected 64"),
        (replaced("id = \"", "id = \"canary"), ":3: expected 8"),
        (replaced("scopes", "expires = \"canary\"\nscopes"), ":3: expected a time"),
        (format!("{good}\n{entry}"), ": expected another `id`"),
        (format!("{good}canary = 1\n"), ": expected `[[key]]`"),
        ("gtk_canary".to_owned(), ":1: expected `[[key]]`"),
        (String::new(), ":1: expected `[[key]]`"),
    ];
    for (text, expected) in cases {
        fs::write(&file, &text).expect("the keys");
        let output = geotrail().args(["serve", "--keys"]).arg(&file).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && !said.contains("canary"), "{said}\n{text}");
    }
    let absent = geotrail().args(["serve", "--keys"]).arg(dir.path().join("absent")).output().await.expect("it runs");
    assert_eq!(absent.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slip_in_the_file_locks_nobody_out() {
    let keyed = Keyed::start().await;
    let key = keyed.new_key(&[Scope::Read]).await;
    let good = fs::read(keyed.file()).expect("the keys");
    let log = || fs::read_to_string(keyed.dir.path().join("log")).expect("the log");
    let slips: [fn(&Path); 4] = [
        |file| fs::write(file, "[[key]]\n").expect("the keys"),
        |file| fs::write(file, "").expect("the keys"),
        |file| fs::remove_file(file).expect("the keys"),
        |file| {
            fs::write(file, "").expect("the keys");
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("it is ours");
        },
    ];
    for (number, slip) in slips.into_iter().enumerate() {
        slip(&keyed.file());
        let told = || log().matches("the file of API keys is wrong").count() > number;
        crate::harness::redis::eventually("it is told", told);
        assert_eq!(keyed.ask("GET", "/v1/active", Some(&key)).await.status, 200);
    }
    let known_by_then = log().matches("the file of API keys has changed").count();
    fs::write(keyed.file(), good).expect("the keys");
    fs::set_permissions(keyed.file(), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let is_known = || log().matches("the file of API keys has changed").count() > known_by_then;
    crate::harness::redis::eventually("it is read again", is_known);
    assert_eq!(keyed.ask("GET", "/v1/active", Some(&key)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulate_and_replay_call_with_a_key() {
    let keyed = Keyed::start().await;
    let key_file = keyed.dir.path().join("key");
    let run = async |arguments: &[&str], with_key: bool| {
        let mut command = geotrail();
        command.args(arguments).args(["--to", keyed.service.url()]);
        if with_key {
            command.arg("--key-file").arg(&key_file);
        }
        command.output().await.expect("it runs")
    };
    fs::write(&key_file, keyed.new_key(&[Scope::Ingest]).await + "\n").expect("a file");
    let trace = keyed.dir.path().join("trace.csv");
    let ts = crate::redis_store::now().as_ms();
    fs::write(&trace, format!("driver_id,ts,lat,lon\nd1,{ts},52.5,13.4\n")).expect("a trace");
    let simulate = ["simulate", "--drivers", "5", "--interval", "1s", "--duration", "2s"];
    let replay = ["replay", trace.to_str().expect("a path")];
    for arguments in [&simulate[..], &replay] {
        let without = run(arguments, false).await;
        assert_eq!(without.status.code(), Some(1), "{arguments:?}");
        assert!(String::from_utf8_lossy(&without.stdout).contains("unauthenticated"), "{without:?}");
        let with = run(arguments, true).await;
        assert_eq!(with.status.code(), Some(0), "{arguments:?} {with:?}");
    }
    fs::write(&key_file, "two\nlines").expect("a file");
    assert_eq!(run(&replay, true).await.status.code(), Some(2));
}
