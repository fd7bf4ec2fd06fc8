//! The command line: its grammar, and which command does what. Flags come from the table of settings.
//!
//! Exit codes: 0 all went well; 1 it was tried and something failed; 2 it was asked for wrongly.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::clock::Clock;
use crate::config::{self, Flags, Problems, SETTINGS, Secret, Setting, Settings, redact};
use crate::fleet::client::Pass;
use crate::keys::{self, KeyFile, KeyId, Scope};
use crate::plan::{Demand, Kind, Plan};
use crate::{app, doctor, fleet, plan};

/// It was tried and something failed.
const FAILED: u8 = 1;
/// It was asked for wrongly.
const MISUSED: u8 = 2;

/// For so long a key can be valid.
const MAX_KEY_LIFE: Duration = config::MAX_RETENTION;

/// The grammar.
pub fn command() -> Command {
    let config_file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help(format!("A TOML file with settings [env: {}]", config::CONFIG_VARIABLE));
    Command::new("geotrail")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Where every driver is, and was, hour by hour")
        .after_help("Every flag is also a variable (--data-dir: GEOTRAIL_DATA_DIR) and a key of the file (data_dir).")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(config_file)
        .subcommand(Command::new("serve").about("Runs the service").args(flags_of(config::Command::Serve)))
        .subcommand(
            Command::new("simulate")
                .about("Drives a fleet through a city and reports it to a running service")
                .args(flags_of(config::Command::Simulate)),
        )
        .subcommand(
            Command::new("replay")
                .about("Sends a recorded trace to a running service")
                .arg(
                    Arg::new("file")
                        .value_name("FILE")
                        .required(true)
                        .value_parser(value_parser!(PathBuf))
                        .help("CSV with a header, or a point in JSON a line; also packed with gzip or zstd"),
                )
                .args(flags_of(config::Command::Replay)),
        )
        .subcommand(
            Command::new("rebuild")
                .about("Makes an empty or damaged store whole again from the journal; beside a running service too")
                .args(flags_of(config::Command::Rebuild)),
        )
        .subcommand(
            Command::new("verify")
                .about("Compares the journal with a store, point by point; exit 1 if anything is missing or differs")
                .args(flags_of(config::Command::Verify)),
        )
        .subcommand(
            Command::new("deadletter")
                .about("Looks after the points that a store refused")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    Command::new("list")
                        .about("Counts them by store, reason and hour")
                        .args(flags_of(config::Command::DeadLetterList)),
                )
                .subcommand(
                    Command::new("replay")
                        .about("Puts them into their store; what succeeds leaves the file")
                        .args(flags_of(config::Command::DeadLetterReplay)),
                ),
        )
        .subcommand(
            Command::new("doctor")
                .about(
                    "Audits any Redis for what the service needs and what makes it slow; exit 1 if anything is wrong",
                )
                .args(flags_of(config::Command::Doctor)),
        )
        .subcommand(key_command())
        .subcommand(
            Command::new("plan")
                .about("Reckons from measured figures what a fleet needs, and what is full first")
                .args(plan_flags()),
        )
        .subcommand(
            Command::new("config")
                .about("Looks after the configuration")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    Command::new("check")
                        .about("Checks flags, variables and file; shows what is in force and who said so")
                        .args(flags_of(config::Command::Serve)),
                ),
        )
}

fn flags_of(command: config::Command) -> impl Iterator<Item = Arg> {
    SETTINGS.iter().filter(move |setting| setting.commands.contains(&command)).map(|setting| {
        let mut help = setting.help.to_owned();
        if let Some(default) = setting.default.filter(|_| setting.value.is_some()) {
            help = format!("{help} [default: {default}]");
        }
        let flag = Arg::new(setting.name).long(setting.name).help(help).action(if setting.is_repeatable() {
            ArgAction::Append
        } else {
            ArgAction::Set
        });
        match setting.value {
            Some(value) => flag.value_name(value),
            None => flag.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
        }
    })
}

/// `key`, and what it takes.
fn key_command() -> Command {
    Command::new("key")
        .about("Makes, lists and revokes API keys; a running service follows within seconds")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("new")
                .about("Makes a key and prints it, this once; its hash goes into the file")
                .args(key_flags())
                .args(flags_of(config::Command::Key)),
        )
        .subcommand(Command::new("list").about("Lists the keys of the file").args(flags_of(config::Command::Key)))
        .subcommand(
            Command::new("revoke")
                .about("Takes a key out of the file")
                .arg(
                    Arg::new("id")
                        .value_name("ID")
                        .required(true)
                        .value_parser(|id: &str| KeyId::parse(id).ok_or("expected 8 hex digits, as `list` has them"))
                        .help("Of the key: the digits behind gtk_"),
                )
                .args(flags_of(config::Command::Key)),
        )
}

/// Those of `key new`.
fn key_flags() -> [Arg; 3] {
    let name =
        |name: &str| keys::is_name(name).then(|| name.to_owned()).ok_or("expected 1 to 64 of A-Z a-z 0-9 _ . : @ -");
    let scope = |word: &str| Scope::parse(word).ok_or("expected `ingest`, `read` or `admin`");
    let duration = |text: &str| {
        let after = config::parse_duration(text).filter(|after| *after <= MAX_KEY_LIFE);
        after.ok_or("expected a duration with its unit, such as 90d, up to 3660d")
    };
    [
        Arg::new("name").long("name").value_name("NAME").required(true).value_parser(name).help("Whose it is"),
        Arg::new("scope")
            .long("scope")
            .value_name("SCOPE")
            .required(true)
            .action(ArgAction::Append)
            .value_parser(scope)
            .help("What it is for: `ingest`, `read` or `admin`; may be repeated"),
        Arg::new("expires")
            .long("expires")
            .value_name("DURATION")
            .value_parser(duration)
            .help("After which it opens nothing any more, such as 90d; without it, never"),
    ]
}

/// Those of `plan`: no settings, since nothing runs with them.
fn plan_flags() -> [Arg; 4] {
    let interval = |text: &str| config::parse_duration(text).ok_or("expected a duration with its unit, such as 4s");
    let drivers = |text: &str| plan::count(text).ok_or("expected a whole number, such as 1M or 250k");
    [
        Arg::new("drivers")
            .long("drivers")
            .value_name("N")
            .required(true)
            .value_parser(drivers)
            .help("How many drivers, such as 250k or 1M, up to 10M"),
        Arg::new("interval")
            .long("interval")
            .value_name("DURATION")
            .default_value("4s")
            .value_parser(interval)
            .help("How often each driver reports"),
        Arg::new("retention")
            .long("retention")
            .value_name("DURATION")
            .default_value("48h")
            .value_parser(interval)
            .help("How long points are kept"),
        Arg::new("store")
            .long("store")
            .value_name("STORE")
            .default_value("redis")
            .value_parser(["embedded", "redis"])
            .help("Where the index lives"),
    ]
}

/// Reads the command line, does what it says, and tells how it went.
pub async fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => {
            complain(error.render().to_string().trim_end());
            return ExitCode::from(MISUSED);
        }
        Err(help) => help.exit(),
    };
    let outcome = match matches.subcommand() {
        Some(("serve", matches)) => serve(matches).await,
        Some(("simulate", matches)) => simulate(matches).await,
        Some(("replay", matches)) => replay(matches).await,
        Some(("rebuild", matches)) => match index(matches, config::Command::Rebuild) {
            Ok(index) => app::commands::rebuild(index).await,
            Err(problems) => Err(problems.into()),
        },
        Some(("verify", matches)) => match index(matches, config::Command::Verify) {
            Ok(index) => app::commands::verify(index).await,
            Err(problems) => Err(problems.into()),
        },
        Some(("deadletter", matches)) => dead_letter(matches).await,
        Some(("doctor", matches)) => look_at_redis(matches).await,
        Some(("key", matches)) => key(matches),
        Some(("plan", matches)) => make_plan(matches),
        Some(("config", matches)) => check(matches),
        _ => unreachable!("the grammar knows no other command"),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            complain(&format!("error: {error:#}"));
            let misused = error.is::<Problems>() || error.is::<plan::Senseless>();
            ExitCode::from(if misused { MISUSED } else { FAILED })
        }
    }
}

async fn serve(matches: &ArgMatches) -> anyhow::Result<bool> {
    let config = settings(matches, config::Command::Serve)?.serve()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    app::serve(config).await?;
    Ok(true)
}

async fn simulate(matches: &ArgMatches) -> anyhow::Result<bool> {
    let config = settings(matches, config::Command::Simulate)?.simulate()?;
    let summary = fleet::simulate::run(&fleet::simulate::Options {
        to: config.to.expose().to_owned(),
        pass: pass(config.key.as_ref(), config.ca)?,
        drivers: config.drivers,
        interval: config.interval,
        duration: config.duration,
        seed: config.seed,
    })
    .await?;
    summary.print();
    Ok(summary.all_acknowledged())
}

fn pass(key: Option<&Secret>, ca: Option<PathBuf>) -> anyhow::Result<Pass> {
    Pass::new(key.map(Secret::expose), ca)
}

async fn replay(matches: &ArgMatches) -> anyhow::Result<bool> {
    let config = settings(matches, config::Command::Replay)?.replay()?;
    let file = matches.get_one::<PathBuf>("file").expect("the grammar requires a file").clone();
    let options = fleet::replay::Options {
        file,
        to: config.to.expose().to_owned(),
        pass: pass(config.key.as_ref(), config.ca)?,
        speed: config.speed,
        now: config.now,
    };
    let (summary, outcome) = fleet::replay::run(&options).await?;
    summary.print();
    outcome?;
    Ok(summary.all_acknowledged() && !summary.interrupted)
}

async fn dead_letter(matches: &ArgMatches) -> anyhow::Result<bool> {
    match matches.subcommand() {
        Some(("list", matches)) => {
            app::commands::list_dead_letters(&index(matches, config::Command::DeadLetterList)?)
        }
        Some(("replay", matches)) => {
            app::commands::replay_dead_letters(index(matches, config::Command::DeadLetterReplay)?).await
        }
        _ => unreachable!("the grammar knows no other command"),
    }
}

/// A journal and its indexes, as the flags of `command` and the other layers say.
fn index(matches: &ArgMatches, command: config::Command) -> Result<config::IndexConfig, Problems> {
    let (index, warnings) = settings(matches, command)?.index()?;
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
    Ok(index)
}

fn key(matches: &ArgMatches) -> anyhow::Result<bool> {
    let (verb, matches) = matches.subcommand().expect("the grammar requires a subcommand");
    let file = KeyFile::at(&settings(matches, config::Command::Key)?.keys()?);
    match verb {
        "new" => {
            let name = matches.get_one::<String>("name").expect("the grammar requires it").clone();
            let scopes = matches.get_many("scope").expect("the grammar requires it").copied().collect();
            app::keys::make(&file, name, scopes, matches.get_one("expires").copied())?;
        }
        "list" => app::keys::list(&file)?,
        "revoke" => app::keys::revoke(&file, matches.get_one("id").expect("the grammar requires it"))?,
        _ => unreachable!("the grammar knows no other command"),
    }
    Ok(true)
}

async fn look_at_redis(matches: &ArgMatches) -> anyhow::Result<bool> {
    let (config, warnings) = settings(matches, config::Command::Doctor)?.doctor()?;
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
    let options = doctor::Options { url: config.redis.expose().to_owned(), ca: config.ca, prefix: config.prefix };
    let report = doctor::examine(&options, &Clock::system()).await?;
    let text = if config.json { format!("{}\n", report.json()) } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(report.number(doctor::Severity::Wrong) == 0)
}

fn make_plan(matches: &ArgMatches) -> anyhow::Result<bool> {
    let duration = |name| *matches.get_one::<Duration>(name).expect("the grammar gives it a default");
    let demand = Demand {
        drivers: *matches.get_one("drivers").expect("the grammar requires it"),
        interval: duration("interval"),
        retention: duration("retention"),
        store: match matches.get_one::<String>("store").map(String::as_str) {
            Some("embedded") => Kind::Embedded,
            _ => Kind::Redis,
        },
    };
    std::io::stdout().write_all(Plan::new(demand)?.to_string().as_bytes())?;
    Ok(true)
}

fn check(matches: &ArgMatches) -> anyhow::Result<bool> {
    let (_, matches) = matches.subcommand().expect("the grammar requires a subcommand");
    let settings = settings(matches, config::Command::Serve)?;
    for warning in settings.serve()?.warnings {
        complain(&format!("warning: {warning}"));
    }
    std::io::stdout().write_all(settings.describe().as_bytes())?;
    Ok(true)
}

fn settings(matches: &ArgMatches, command: config::Command) -> Result<Settings, Problems> {
    let given = |setting: &'static Setting| {
        let ours = setting.commands.contains(&command);
        let given = if ours { matches.get_many::<String>(setting.name)? } else { return None };
        Some((setting, given.map(String::as_str).collect::<Vec<_>>().join(" ")))
    };
    let flags = Flags {
        config: matches.get_one::<PathBuf>("config").cloned(),
        values: SETTINGS.iter().filter_map(given).collect(),
    };
    Settings::load(flags, std::env::vars_os())
}

/// To people, on stderr, and never with a password in it.
fn complain(text: &str) {
    let _nobody_to_tell = writeln!(std::io::stderr(), "{}", redact(text));
}
