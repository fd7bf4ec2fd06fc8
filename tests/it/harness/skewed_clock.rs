//! A clock that is wrong, under a service that is a process of its own: `skewed_clock.c` stands in for the calls that tell
//! the time of day. The monotonic clock stays right, as it does when somebody sets a machine's time.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

/// The clock of one process; right at first.
pub(crate) struct SkewedClock(TempDir);

impl SkewedClock {
    /// `None`, said aloud, where there is no C compiler.
    pub(crate) fn new(ahead_ms: i64) -> Option<Self> {
        let clock = Self(TempDir::new().expect("a directory"));
        clock.set(ahead_ms);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/skewed_clock.c");
        let library = clock.0.path().join("skewed_clock.so");
        let compiler =
            Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(library).args([source, "-ldl"]).status();
        if let Err(error) = compiler {
            eprintln!("SKIPPED: no clock can be set wrong here, for there is no C compiler: {error}");
            return None;
        }
        assert!(compiler.is_ok_and(|status| status.success()), "the C compiler takes {source}");
        Some(clock)
    }

    /// Lets whatever `command` runs have this clock.
    pub(crate) fn under(&self, command: &mut tokio::process::Command) {
        command.env("LD_PRELOAD", self.0.path().join("skewed_clock.so"));
        command.env("FAULTY_CLOCK", self.0.path().join("ahead"));
    }

    /// From now on it is ahead by so much; behind, if that is negative.
    pub(crate) fn set(&self, ahead_ms: i64) {
        use std::os::unix::fs::FileExt as _;
        // In its place, for who runs by it looks there.
        let file = fs::File::options().create(true).truncate(false).write(true).open(self.0.path().join("ahead"));
        file.expect("a file").write_all_at(&ahead_ms.to_ne_bytes(), 0).expect("it can be written");
    }
}
