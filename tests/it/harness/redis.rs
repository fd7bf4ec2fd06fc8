//! A redis-server of a test's own: on a free port, in memory only, gone with its guard. The service under test comes to
//! it as the user that `docs/redis-keys.md` tells operators to make, so a command that this user may not run fails the
//! test that runs it; tests look in as the default user.
//!
//! Never here: what the store under test does with it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The password of the service's user.
pub(crate) const PASSWORD: &str = "swordfish-of-the-tests";

/// The rules of the service's user, as the documentation has them.
pub(crate) fn user() -> String {
    let document = include_str!("../../../docs/redis-keys.md");
    let line =
        document.lines().find(|line| line.starts_with("user geotrail on ")).expect("the document has the line");
    assert!(line.contains(">PASSWORD "), "{line}");
    line.replace(">PASSWORD ", &format!(">{PASSWORD} "))
}

/// A port where nobody listens, below those that the system gives to clients.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add((std::process::id() as u16).wrapping_mul(61));
        let port = 11_000 + number % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running redis-server, killed on drop.
pub(crate) struct RedisServer {
    port: u16,
    extra: Vec<String>,
    dir: TempDir,
    child: Option<Child>,
}

/// A running sentinel, killed on drop.
pub(crate) struct Sentinel {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl Sentinel {
    /// Watches a primary under the name `fleet`, of which two sentinels must think the worst before they act.
    pub(crate) fn start(primary: &RedisServer) -> Self {
        Self::start_with(primary.port, free_port(), "")
    }

    /// Watches a primary that speaks TLS at `primary`, and speaks it itself, at `tls_port`, as its configuration says.
    pub(crate) fn start_over_tls(primary: u16, tls_port: u16, configuration: &str) -> Self {
        let lines = format!("{configuration}tls-port {tls_port}\ntls-replication yes\n");
        let mut sentinel = Self::start_with(primary, free_port(), &lines);
        sentinel.port = tls_port;
        sentinel
    }

    fn start_with(primary: u16, port: u16, more: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let config = dir.path().join("sentinel.conf");
        let lines = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\n{more}sentinel monitor fleet 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds fleet 1000\nsentinel failover-timeout fleet 3000\n",
            dir.path().display(),
        );
        std::fs::write(&config, lines).expect("a file");
        let child = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let sentinel = Self { port, child, _dir: dir };
        eventually("the sentinel answers", || sentinel.cli(&["PING"]).trim() == "PONG");
        sentinel
    }

    pub(crate) fn cli(&self, args: &[&str]) -> String {
        cli(self.port, args)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Freezes it.
    pub(crate) fn stop(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGSTOP).expect("it runs");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RedisServer {
    /// Starts one, and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments, such as `["--maxmemory", "10mb"]`.
    pub(crate) fn start_with(extra: &[&str]) -> Self {
        let mut server = Self::absent();
        server.extra = extra.iter().map(ToString::to_string).collect();
        server.restart();
        server
    }

    /// A port where nobody listens yet; [`Self::restart`] starts a server there.
    pub(crate) fn absent() -> Self {
        Self { port: free_port(), extra: Vec::new(), dir: TempDir::new().expect("a directory"), child: None }
    }

    /// Its URL, for the service.
    pub(crate) fn url(&self) -> String {
        Self::url_at(&self.address())
    }

    /// The URL of what listens at `address` in its place.
    pub(crate) fn url_at(address: &str) -> String {
        format!("redis://geotrail:{PASSWORD}@{address}")
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, if it runs, and starts an empty one at the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.dir.path())
            .args(["--user"])
            .args(user().split_whitespace().skip(1))
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        eventually("redis-server answers", || self.cli(&["PING"]).trim() == "PONG");
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes it: its sockets stay open, nothing is answered.
    pub(crate) fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("it runs");
    }

    /// Lets it go on.
    pub(crate) fn cont(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("it runs");
    }

    /// Runs a command through `redis-cli`, and gives what that prints when it does not print to a person.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        cli(self.port, args)
    }

    /// The same as the service's user.
    pub(crate) fn cli_as_user(&self, args: &[&str]) -> String {
        cli(self.port, &[&["--user", "geotrail", "--pass", PASSWORD, "--no-auth-warning"], args].concat())
    }

    /// Every key there is. For tests alone: it asks all of Redis.
    pub(crate) fn keys(&self) -> Vec<String> {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "--scan"])
            .output()
            .expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// A number out of INFO, such as `used_cpu_user`.
    pub(crate) fn info(&self, field: &str) -> f64 {
        let info = self.cli(&["INFO"]);
        let line =
            info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field is there");
        line.trim().parse().expect("a number")
    }

    /// Writes down every command from now on.
    pub(crate) fn monitor(&self) -> Monitor {
        let mut child = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "MONITOR"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli runs");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let sink = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().expect("not poisoned").push(line);
            }
        });
        let monitor = Monitor { child, seen, reader: Some(reader) };
        eventually("MONITOR begins", || !monitor.seen.lock().expect("not poisoned").is_empty());
        monitor
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().expect("it was started").id() as i32)
    }
}

fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output();
    String::from_utf8_lossy(&output.expect("redis-cli is installed").stdout).into_owned()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A listener to every command.
pub(crate) struct Monitor {
    child: Child,
    seen: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Monitor {
    /// The lines so far: `TIME [0 ADDRESS] "COMMAND" "ARGUMENT" …`; all of what `server` was asked before this call.
    pub(crate) fn finish(mut self, server: &RedisServer) -> Vec<String> {
        server.cli(&["ECHO", "the end of the monitor"]);
        let all = || self.seen.lock().expect("not poisoned").clone();
        eventually("the monitor is done", || all().iter().any(|line| line.contains("the end of the monitor")));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        all()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until it is so; at most 20 s.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
