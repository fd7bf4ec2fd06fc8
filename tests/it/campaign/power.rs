//! The plug pulled under load: an ext4 of its own on a loop file, in a mount namespace of its own, shut down by the call
//! that file-system developers test with. What was not synced is gone, unlike after a kill, which leaves the page cache.
//!
//! An acknowledgement counts if it was received before the plug was pulled. One that comes afterwards proves nothing: in
//! the shut-down file system a sync that is under way may be called done though its blocks are gone (seen with a bare loop
//! of write and sync, on Linux 6.18, in 11 of 60 cuts; never of a sync that had come back before). A machine without power
//! answers nobody.
//!
//! It takes the right to mount. Where that is missing, nothing is said about power cuts but that: aloud, and in the
//! figures.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::kills::serve;
use super::load::{Load, Verdict};
use super::{Plan, percentile};
use crate::harness::eventually;
use crate::harness::faulty_disk::{Fault, FaultyDisk};
use crate::harness::process::{Process, binary};

/// Cuts of one file system; then a new one.
const CUTS_EACH: usize = 25;
/// Cuts of a service whose syncs do nothing: it must lose, or the cuts cut nothing.
const CONTROL_CUTS: usize = 3;

/// A file system whose power can be cut.
struct Plug {
    dir: TempDir,
    /// Holds the namespace in which it is mounted.
    holder: Child,
    cutter: PathBuf,
}

impl Plug {
    /// An error says what is missing.
    fn new() -> Result<Self, String> {
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let cutter = dir.path().join("power_cut");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/power_cut.c");
        done(Command::new("cc").arg("-o").arg(&cutter).arg(source))?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        done(Command::new("truncate").args(["-s", "256M"]).arg(&image))?;
        done(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=1,nodiscard"]).arg(&image))?;
        let mut holder = Command::new("unshare");
        holder.args(["-m", "sh", "-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("piped");
        let _ = BufReader::new(stdout).read_line(&mut line);
        let plug = Self { dir, holder, cutter };
        if line.trim() != "ready" {
            return Err("no mount namespace of our own".into());
        }
        plug.mount()?;
        Ok(plug)
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// The disk, as those outside of the namespace see it.
    fn disk_from_outside(&self) -> PathBuf {
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(self.disk().strip_prefix("/").expect("absolute"))
    }

    /// A command that runs where the disk is mounted.
    fn within(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.holder.id().to_string(), "--"]).arg(program);
        command
    }

    fn mount(&self) -> Result<(), String> {
        done(self.within("mount").args(["-o", "loop"]).arg(self.dir.path().join("image")).arg(self.disk()))
    }

    fn unmount(&self) -> Result<(), String> {
        done(self.within("umount").arg(self.disk()))
    }

    /// Has somebody stand by at the plug.
    fn arm(&self) -> Armed {
        let mut command = self.within(&self.cutter);
        let mut child =
            command.arg(self.disk()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        expect_word(&mut said, "ready");
        Armed { child, said }
    }

    /// The service on this disk, with syncs that do what they say, or not.
    async fn serve(&self, no_syncs: Option<&FaultyDisk>) -> Process {
        let mut command = tokio::process::Command::from(self.within(binary()));
        for argument in serve(&self.disk().join("data")).as_std().get_args() {
            command.arg(argument);
        }
        command.env("RUST_LOG", "warn").kill_on_drop(true);
        if let Some(disk) = no_syncs {
            disk.under(&mut command);
        }
        Process::begin(self.dir.path(), command).await.expect("it starts after a power cut")
    }
}

/// Whoever stands by at the plug.
struct Armed {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Armed {
    /// Pulls it. Returns when it is out.
    fn pull(mut self) {
        self.child.stdin.take().expect("piped").write_all(b"!").expect("it waits for it");
        expect_word(&mut self.said, "done");
        self.child.wait().expect("it is ours");
    }
}

fn expect_word(said: &mut BufReader<ChildStdout>, word: &str) {
    let mut line = String::new();
    said.read_line(&mut line).expect("it says something");
    assert_eq!(line.trim(), word, "the plug can be pulled");
}

impl Drop for Plug {
    fn drop(&mut self) {
        let _ = self.unmount();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

/// Cuts the power until that was done as often as planned, or the time is over.
pub(crate) async fn campaign(plan: &Plan) -> Value {
    if let Err(missing) = Plug::new() {
        eprintln!("SKIPPED: no power can be cut here: {missing}");
        return json!({ "skipped": format!("no power can be cut here: {}", missing.lines().next().unwrap_or_default()) });
    }
    let deadline = Instant::now() + plan.cuts_take;
    let lanes = (0..2).map(|lane| lane_of(plan.seed + 100 + lane, plan.cuts / 2, deadline));
    let (mut verdict, mut cuts, mut back_ms) = (Verdict::default(), 0, Vec::new());
    for (other, count, times) in join_all(lanes).await {
        verdict.add(other);
        cuts += count;
        back_ms.extend(times);
    }
    let control = match FaultyDisk::new() {
        None => json!("skipped: there is no C compiler"),
        Some(disk) => {
            disk.begin(Fault::NoSync);
            let lost = round(&mut StdRng::seed_from_u64(plan.seed), CONTROL_CUTS, Some(&disk), &mut vec![]).await;
            assert!(lost.lost > 0, "without syncs a power cut must lose: {lost:?}");
            json!({ "cycles": CONTROL_CUTS, "acknowledged": lost.acknowledged, "lost": lost.lost })
        }
    };
    let figures = json!({
        "cycles": cuts, "acknowledged": verdict.acknowledged, "lost": verdict.lost,
        "half_batches": verdict.half_batches, "invented": verdict.invented, "refused": verdict.refused,
        "start_ms_p50": percentile(&mut back_ms, 0.5), "start_ms_p99": percentile(&mut back_ms, 0.99),
        "lost_per_cut_below": 3.0 / cuts.max(1) as f64, "control_without_syncs": control,
    });
    verdict.assert_sound();
    figures
}

async fn lane_of(seed: u64, cuts: usize, deadline: Instant) -> (Verdict, usize, Vec<f64>) {
    let (mut rng, mut verdict, mut done, mut back_ms) = (StdRng::seed_from_u64(seed), Verdict::default(), 0, vec![]);
    while done < cuts && Instant::now() < deadline {
        let now = CUTS_EACH.min(cuts - done);
        verdict.add(round(&mut rng, now, None, &mut back_ms).await);
        done += now;
    }
    (verdict, done, back_ms)
}

/// So many cuts of one file system.
async fn round(rng: &mut StdRng, cuts: usize, no_syncs: Option<&FaultyDisk>, back_ms: &mut Vec<f64>) -> Verdict {
    let plug = Plug::new().expect("it could be made before");
    let load = Load::start();
    for _ in 0..cuts {
        let (began, before) = (Instant::now(), load.acknowledged());
        let service = plug.serve(no_syncs).await;
        back_ms.push(began.elapsed().as_secs_f64() * 1e3);
        load.to(Some((*service).clone()));
        eventually("an acknowledgement", async || (load.acknowledged() > before).then_some(())).await;
        let armed = plug.arm();
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..120))).await;
        // Whatever is answered from here on is answered by a machine that would be dark: the kernel may still call a
        // sync done whose blocks it has lost with the power.
        load.hears_no_more();
        armed.pull();
        service.kill().await;
        load.to(None);
        plug.unmount().expect("nobody is there any more");
        plug.mount().expect("the disk comes back");
    }
    // The last start settles what the last cut left.
    let service = plug.serve(None).await;
    assert!(service.terminate().await.success());
    load.judge(&plug.disk_from_outside().join("data")).await
}
