//! The processes that a run starts, and what processes cost. Each listens on loopback alone, writes into a directory of
//! its own, and is gone with its guard, however the run ends.
//!
//! Never here: requests, but for the one that shows that Redis is there.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

/// A server that is not there by then will not come.
const START_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A tick of `/proc/PID/stat`: Linux tells programs of 100 a second, whatever its own are.
const TICK_US: u64 = 10_000;

/// A process of ours.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Goes with the guard, after the process.
    dir: TempDir,
}

impl Server {
    /// `geotrail serve` on a free port, with its data in a new directory under `under`.
    pub(crate) fn geotrail(binary: &Path, under: &Path, store: &str) -> anyhow::Result<Self> {
        let dir = directory(under)?;
        let log = fs::File::create(dir.path().join("log")).context("its log cannot be written")?;
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", store, "--data-dir"]);
        command.arg(dir.path().join("data")).env("RUST_LOG", "error").stdout(Stdio::piped()).stderr(log);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GEOTRAIL_")) {
            command.env_remove(name);
        }
        let child = command
            .spawn()
            .with_context(|| format!("{} cannot be run; `cargo build --release` makes it", binary.display()))?;
        let mut server = Self { child, address: (Ipv4Addr::LOCALHOST, 0).into(), dir };
        let stdout = server.child.stdout.take().context("its output is not there")?;
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ends_with_the_process = BufReader::new(stdout).read_line(&mut line);
            let _nobody_waits_any_more = tell.send(line);
        });
        let line = told.recv_timeout(START_WITHIN).context("the service does not say where it listens")?;
        let address = line.trim().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let log = fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            bail!("the service did not start: {}", log.lines().last().unwrap_or("it said nothing"));
        };
        server.address = address;
        Ok(server)
    }

    /// `redis-server` on a free port, in memory alone.
    pub(crate) fn redis(under: &Path) -> anyhow::Result<Self> {
        let dir = directory(under)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())?;
        let child = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("redis-server cannot be run; `make redis-server` installs it")?;
        let mut server = Self { child, address, dir };
        let begun = Instant::now();
        while !is_redis(address) {
            if let Some(status) = server.child.try_wait()? {
                bail!("redis-server ended at once: {status}");
            }
            if begun.elapsed() > START_WITHIN {
                bail!("redis-server does not answer");
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that this Redis has received and sent.
    pub(crate) fn wire_bytes(&self) -> anyhow::Result<u64> {
        let (received, sent) = ("total_net_input_bytes:", "total_net_output_bytes:");
        let stats = tell_redis(self.address, b"INFO stats\r\n", sent).context("Redis does not tell of itself")?;
        let counts = stats.lines().filter_map(|line| line.strip_prefix(received).or_else(|| line.strip_prefix(sent)));
        Ok(counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum())
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

/// What a process used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time of all its threads, to 10 ms.
    pub(crate) cpu_us: u64,
    /// Of its memory what is resident now.
    pub(crate) resident_kib: u64,
}

/// Of the process `pid`.
pub(crate) fn usage(pid: u32) -> anyhow::Result<Usage> {
    let Stat { cpu_us, .. } = stat(pid).context("a process has ended before its time")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("a process has ended before its time")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap_or_default();
    Ok(Usage { cpu_us, resident_kib })
}

/// The processor time of `pid`, of its children, and of those that have ended.
pub(crate) fn family_cpu_us(pid: u32) -> anyhow::Result<u64> {
    let parent = stat(pid).context("--peer-pid: there is no such process")?;
    let entries = fs::read_dir("/proc").context("processes cannot be listed")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter_map(|other| stat(other).ok()).filter(|child| child.parent == pid);
    Ok(parent.cpu_us + parent.ended_us + children.map(|child| child.cpu_us + child.ended_us).sum::<u64>())
}

struct Stat {
    parent: u32,
    cpu_us: u64,
    /// Of its children that have ended.
    ended_us: u64,
}

fn stat(pid: u32) -> io::Result<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // Behind the name: the state, the parent, and from the twelfth on the times of user and system, twice.
    let us = |at: usize| fields.iter().skip(at).take(2).sum::<u64>() * TICK_US;
    Ok(Stat { parent: fields.get(1).copied().unwrap_or_default() as u32, cpu_us: us(11), ended_us: us(13) })
}

fn directory(under: &Path) -> anyhow::Result<TempDir> {
    let made = tempfile::Builder::new().prefix("loadtest-").tempdir_in(under);
    made.with_context(|| format!("no directory can be made in {}", under.display()))
}

fn is_redis(address: SocketAddr) -> bool {
    tell_redis(address, b"PING\r\n", "PONG\r\n").is_ok()
}

/// What a Redis answers to a command, up to and with the line in which `last` stands.
fn tell_redis(address: SocketAddr, command: &[u8], last: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, START_WITHIN)?;
    stream.set_read_timeout(Some(START_WITHIN))?;
    stream.write_all(command)?;
    let (mut reader, mut answer) = (BufReader::new(stream), String::new());
    loop {
        let line_at = answer.len();
        if reader.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if answer[line_at..].contains(last) {
            return Ok(answer);
        }
    }
}
