//! The real binary as a child: started, killed, started again.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;
use super::http::Http;

/// A running `geotrail serve`. It derefs to a client of it; dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    http: Http,
}

/// Where the binary is: the one that was built with the tests, or the one that `FAULTS_BINARY` names.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("FAULTS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_geotrail").into(), PathBuf::from)
}

/// The binary, talking to nobody's environment but the test's.
pub(crate) fn geotrail() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GEOTRAIL_") {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    command
}

impl Process {
    /// Serves from `dir`, beside which it writes its log; returns once it says where it listens.
    pub(crate) async fn serve(dir: &Path, store: &str) -> Self {
        Self::serve_logging(dir, store, "info").await
    }

    /// The same, with a filter of its log.
    pub(crate) async fn serve_logging(dir: &Path, store: &str, filter: &str) -> Self {
        Self::serve_with(dir, store, |command| {
            command.env("RUST_LOG", filter);
        })
        .await
    }

    /// The same, with more said to the child.
    pub(crate) async fn serve_with(dir: &Path, store: &str, say_more: impl FnOnce(&mut Command)) -> Self {
        let mut command = geotrail();
        command.args(["serve", "--listen", "127.0.0.1:0", "--retention", "72h", "--store", store, "--data-dir"]);
        command.arg(dir.join("data"));
        say_more(&mut command);
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        Self::begin(dir, command).await.unwrap_or_else(|line| panic!("{line:?}\n{}", log()))
    }

    /// Runs a command that serves, with its log in `dir`; what it said if it ended before it listened.
    pub(crate) async fn begin(dir: &Path, mut command: Command) -> Result<Self, String> {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        if !command.as_std().get_envs().any(|(name, _)| name == "RUST_LOG") {
            command.env("RUST_LOG", "info");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it can be run");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        let first = tokio::time::timeout(PATIENCE, BufReader::new(stdout).read_line(&mut line)).await;
        first.expect("it starts in time").expect("its stdout can be read");
        match line.trim().strip_prefix("listening on ") {
            Some(base) => Ok(Self { child, http: Http::new(base) }),
            None => Err(line),
        }
    }

    /// Waits until it has ended by itself, or some other's doing, and then makes sure; says whether it had.
    pub(crate) async fn ends_within(mut self, patience: std::time::Duration) -> bool {
        let ended = tokio::time::timeout(patience, self.child.wait()).await.is_ok();
        if !ended {
            self.kill().await;
        }
        ended
    }

    /// While it has not been waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().expect("it has not been waited for");
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("it is ours");
    }

    /// As if the plug were pulled.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().await.expect("it is ours");
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").expect("it is ours")
    }
}

impl Deref for Process {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}
