//! An open-loop load generator: requests at a fixed rate, each timed from the moment it was due, at the release build of
//! the service and, if asked for, at peers beside it. `make loadtest`; `loadtest --help` has what may be asked.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | what may be asked, and what is refused |
//! | `fleet`, `mix` | where drivers are; which request each arrival brings |
//! | `http`, `resp`, `postgis` | the words for it, to the service and to peers |
//! | `caller`, `schedule` | one connection; the open loop over all of them |
//! | `servers` | the processes that are started, stopped, and what they cost |
//! | `campaign`, `knee` | a whole run; the search for the highest rate |
//! | `tally`, `report`, `plot` | what is counted and told |

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) mod caller;
pub(crate) mod campaign;
pub(crate) mod fleet;
pub(crate) mod http;
pub(crate) mod knee;
pub(crate) mod mix;
pub(crate) mod options;
pub(crate) mod plot;
pub(crate) mod postgis;
pub(crate) mod report;
pub(crate) mod resp;
pub(crate) mod schedule;
pub(crate) mod servers;
pub(crate) mod tally;

use options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(why) = options.check(open_files()) {
        Options::command().error(ErrorKind::ValueValidation, why).exit();
    }
    // One thread: the generator may use one processor and no more, and can tell when that was not enough.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is asked for, or until a signal. Servers end with it either way.
async fn run(options: &Options) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let service = options.service.clone().map_or_else(of_the_same_build, Ok)?;
    // Beside the binaries, and not among temporary files: those may be in memory, where an fsync costs nothing.
    let under = std::env::current_exe()?.parent().context("a program is in a directory")?.to_path_buf();
    let mut json = options.json.as_ref().map(fs::File::create).transpose().context("--json: cannot be written")?;
    let mut lines = Vec::new();
    let tells = |line: &report::Line| {
        println!("{}", line.json());
        eprintln!("{}", line.text());
        if let Some(json) = &mut json {
            writeln!(json, "{}", line.json()).context("--json: cannot be written")?;
        }
        lines.push(line.clone());
        Ok(())
    };
    tokio::select! {
        outcome = campaign::run(options, &service, &under, tells) => outcome?,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
    if let Some(file) = &options.svg {
        fs::write(file, plot::svg(&lines)).context("--svg: cannot be written")?;
    }
    Ok(())
}

/// `target/release/geotrail`, of which this is `target/release/examples/loadtest`.
fn of_the_same_build() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let service = this.parent().and_then(|examples| examples.parent()).map(|build| build.join("geotrail"));
    let service = service.filter(|service| service.is_file());
    service.context("the service is not built; `cargo build --release` builds it")
}

/// How many files this process may have open, and those it starts too.
fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}
