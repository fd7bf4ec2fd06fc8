//! A disk that fails when a test says so, under a service that is a process of its own: `faulty_disk.c` stands in for
//! the calls that reach it.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::eventually;
use super::process::Process;

/// What can be wrong with it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// No sync comes back.
    Stall,
    /// The next sync fails.
    FailOneSync,
    /// No directory can be synced, so no new name is safe.
    NoNames,
    /// No history of the embedded store can be synced.
    NoRuns,
    /// Nothing more fits.
    Full,
    /// Syncs say that they were done, and do nothing: what a power cut must show.
    NoSync,
}

impl Fault {
    const fn file(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::FailOneSync => "fail-one-sync",
            Self::NoNames => "no-names",
            Self::NoRuns => "no-runs",
            Self::Full => "full",
            Self::NoSync => "no-sync",
        }
    }
}

/// The disk; well at first.
pub(crate) struct FaultyDisk(TempDir);

impl FaultyDisk {
    /// `None`, said aloud, where there is no C compiler.
    pub(crate) fn new() -> Option<Self> {
        let dir = TempDir::new().expect("a directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/faulty_disk.c");
        let compiler = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(dir.path().join("faulty_disk.so"))
            .args([source, "-ldl"])
            .status();
        if let Err(error) = compiler {
            eprintln!("SKIPPED: no disk can be made to fail here, for there is no C compiler: {error}");
            return None;
        }
        assert!(compiler.is_ok_and(|status| status.success()), "the C compiler takes {source}");
        Some(Self(dir))
    }

    /// Serves from `dir` with the embedded store, on this disk.
    pub(crate) async fn serve(&self, dir: &Path) -> Process {
        Process::serve_with(dir, "embedded", |command| self.under(command)).await
    }

    /// Lets whatever `command` runs have this disk.
    pub(crate) fn under(&self, command: &mut tokio::process::Command) {
        command.env("LD_PRELOAD", self.0.path().join("faulty_disk.so")).env("FAULTY_DISK", self.0.path());
    }

    pub(crate) fn begin(&self, fault: Fault) {
        fs::write(self.0.path().join(fault.file()), "").expect("can be written");
    }

    pub(crate) fn end(&self, fault: Fault) {
        fs::remove_file(self.0.path().join(fault.file())).expect("it was begun");
    }

    /// Waits until a sync waits.
    pub(crate) async fn stalled(&self) {
        eventually("a sync", async || self.0.path().join("stalled").exists().then_some(())).await;
    }
}
