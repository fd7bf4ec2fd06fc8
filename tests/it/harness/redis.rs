//! A redis-server of a test's own: on a free port, in memory only, gone with its guard.
//!
//! Never here: what the store under test does with it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A running redis-server, killed on drop.
pub(crate) struct RedisServer {
    port: u16,
    extra: Vec<String>,
    dir: TempDir,
    child: Option<Child>,
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
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        Self { port, extra: Vec::new(), dir: TempDir::new().expect("a directory"), child: None }
    }

    /// `redis://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, if it runs, and starts an empty one at the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.dir.path())
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
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(args).output();
        String::from_utf8_lossy(&output.expect("redis-cli is installed").stdout).into_owned()
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
