//! The commands that work on a data directory and its stores: what they print, and how they get at a store that a
//! service may be using. Redis is shared anyway, under an instance's name of their own. An embedded store belongs to
//! the process that holds the directory: it is rebuilt only when no process does, and compared by a look at its files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::roll::{Entry, Roll};
use super::stores::{self, embedded_dir};
use crate::applier::{DeadLetters, Replayed, Zeal, replay};
use crate::clock::Clock;
use crate::config::{IndexConfig, StoreChoice};
use crate::cutoff::Cutoff;
use crate::jobs::rebuild::{Rebuilt, rebuild as put_in};
use crate::jobs::verify::{Count, Findings, ON_THEIR_WAY_MS, verify as compare};
use crate::jobs::{rebuild, verify};
use crate::journal::{Checkpoint, Damage, Held, JournalId, Note, id_in};
use crate::model::Offset;
use crate::store::{FOREIGN, Store};

/// A store that cannot be asked is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);
/// Files that change while they are looked at are looked at again so often.
const TRIES: usize = 20;

/// `geotrail rebuild`: each of the stores, from the journal.
pub async fn rebuild(config: IndexConfig) -> anyhow::Result<bool> {
    let id = journal_of(&config)?;
    for Entry { name, choice, .. } in named(&config)? {
        let began = Instant::now();
        let rebuilt = match &choice {
            StoreChoice::Embedded => rebuild_embedded(&config, id, name, &choice).await?,
            StoreChoice::Redis(_) => {
                let store = opened(&config, &choice, own_name()).await?;
                put_into(&config, name, store).await?
            }
        };
        let Rebuilt { points, damage, .. } = rebuilt;
        let took = began.elapsed().as_secs_f64();
        let a_second = points as f64 / took.max(0.001);
        say(&format!("{name}: {points} points in {took:.2} s, {a_second:.0} points/s"))?;
        say_damage(damage)?;
    }
    Ok(true)
}

/// From nothing, with the directory held: its files are an index, and may be what is damaged.
async fn rebuild_embedded(
    config: &IndexConfig,
    id: JournalId,
    name: &'static str,
    choice: &StoreChoice,
) -> anyhow::Result<Rebuilt> {
    let dir = &config.data_dir;
    let _held = Held::take(dir).context("an embedded store is rebuilt while no service runs on it")?;
    let checkpoint = Checkpoint::new(dir, name, id);
    // Before anything else: if this ends half-way, the next start begins from the beginning.
    checkpoint.save(&Note::default())?;
    match fs::remove_dir_all(embedded_dir(dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let store = opened(config, choice, id.to_string()).await?;
    let rebuilt = put_into(config, name, store.clone()).await?;
    checkpoint.save(&Note { offset: rebuilt.end, marks: store.marks() })?;
    Ok(rebuilt)
}

async fn put_into(config: &IndexConfig, name: &str, store: Arc<dyn Store>) -> Result<Rebuilt, rebuild::RebuildError> {
    let bar = bar();
    let letters = DeadLetters::of(&config.data_dir, name);
    let tell = |done, all| show(&bar, done, all);
    let rebuilt = put_in(&config.data_dir, store, letters, Clock::system(), config.retention, tell).await;
    bar.finish_and_clear();
    rebuilt
}

/// `geotrail verify`: whether each of the stores has what the journal has.
pub async fn verify(config: IndexConfig) -> anyhow::Result<bool> {
    let id = journal_of(&config)?;
    let mut all_whole = true;
    for Entry { name, choice, .. } in named(&config)? {
        let findings = match &choice {
            StoreChoice::Embedded => {
                let (_copy, store, until) = look_at_embedded(&config, id, name, &choice).await?;
                say(&format!(
                    "{name}: compared up to offset {until} of the journal: what follows is not in its files"
                ))?;
                compared(&config, Some(until), store).await?
            }
            StoreChoice::Redis(_) => {
                let store = stores::open(&choice, &config, own_name(), &stores::fleet(&config.data_dir)?).await?;
                compared(&config, None, store).await?
            }
        };
        report(name, &findings)?;
        all_whole &= findings.is_whole();
    }
    Ok(all_whole)
}

/// The files of an embedded store as they lie there, and up to where they should hold the journal.
async fn look_at_embedded(
    config: &IndexConfig,
    id: JournalId,
    name: &str,
    choice: &StoreChoice,
) -> anyhow::Result<(Copy, Arc<dyn Store>, Offset)> {
    let checkpoint = Checkpoint::new(&config.data_dir, name, id);
    for _ in 0..TRIES {
        // The files may be ahead of the checkpoint; and where a pass still owes something, they say more than they hold.
        let noted = checkpoint.read()?.unwrap_or_default().offset;
        let copy = Copy::of(&config.data_dir)?;
        let at_copy = IndexConfig { data_dir: copy.dir.clone(), ..config.clone() };
        let store = stores::open(choice, &at_copy, id.to_string(), &stores::fleet(&config.data_dir)?).await?;
        // Files of two moments do not fit together, and then nothing of them counts.
        if store.open("").await?.unwrap_or_default() >= noted {
            return Ok((copy, store, noted));
        }
    }
    bail!("the files of the embedded store are damaged: `geotrail rebuild` makes them anew")
}

async fn compared(
    config: &IndexConfig,
    until: Option<Offset>,
    store: Arc<dyn Store>,
) -> Result<Findings, verify::VerifyError> {
    let bar = bar();
    let tell = |done, all| show(&bar, done, all);
    let findings = compare(&config.data_dir, until, store, &Clock::system(), config.retention, tell).await;
    bar.finish_and_clear();
    findings
}

fn report(name: &str, findings: &Findings) -> std::io::Result<()> {
    let Findings { points, positions, rosters, newest, on_their_way, damage } = *findings;
    for (what, Count { compared, missing, differing }) in [
        ("points in tracks", points),
        ("last positions of drivers in hours", positions),
        ("drivers of hours", rosters),
        ("newest positions of drivers", newest),
    ] {
        say(&format!("{name}: {what}: {compared} compared, {missing} missing, {differing} differ"))?;
    }
    if on_their_way > 0 {
        let seconds = ON_THEIR_WAY_MS / 1_000;
        say(&format!("{name}: {on_their_way} points left out: received less than {seconds} s before, or meanwhile"))?;
    }
    say_damage(damage)
}

/// `geotrail deadletter list`: how many, of what kind; never whose.
pub fn list_dead_letters(config: &IndexConfig) -> anyhow::Result<bool> {
    let names = DeadLetters::stores(&config.data_dir).context("cannot read the data directory")?;
    let mut kinds: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for name in names {
        for letter in DeadLetters::of(&config.data_dir, &name).read()? {
            let hour = letter.point.fix.ts.hour().to_string();
            *kinds.entry((name.clone(), letter.reason, hour)).or_default() += 1;
        }
    }
    for ((name, reason, hour), points) in &kinds {
        say(&format!("{name}: {points} points of hour {hour}: {reason}"))?;
    }
    say(&format!("{} points", kinds.values().sum::<u64>()))?;
    Ok(true)
}

/// `geotrail deadletter replay`: into each of the stores, what it refused.
pub async fn replay_dead_letters(config: IndexConfig) -> anyhow::Result<bool> {
    let id = journal_of(&config)?;
    let mut none_left = true;
    for Entry { name, choice, .. } in named(&config)? {
        let letters = DeadLetters::of(&config.data_dir, name);
        let (_held, instance) = match &choice {
            StoreChoice::Embedded => {
                let held = Held::take(&config.data_dir).context("an embedded store belongs to the service on it")?;
                (Some(held), id.to_string())
            }
            StoreChoice::Redis(_) => (None, own_name()),
        };
        let store = opened(&config, &choice, instance).await?;
        let replayed =
            replay(&letters, &*store, &Cutoff::new(Clock::system(), config.retention), Zeal::Thorough).await?;
        let Replayed { points, refused } = replayed;
        say(&format!("{name}: {points} points put in, {refused} refused again"))?;
        none_left &= refused == 0;
    }
    Ok(none_left)
}

/// The stores by the names that the service has for them.
fn named(config: &IndexConfig) -> anyhow::Result<Vec<Entry>> {
    let (roll, _) = Roll::read(&config.data_dir, &config.stores)?;
    let is_given = |entry: &Entry| config.stores.iter().any(|store| store.to_string() == entry.choice.to_string());
    Ok(roll.entries.into_iter().filter(is_given).collect())
}

fn journal_of(config: &IndexConfig) -> anyhow::Result<JournalId> {
    let dir = config.data_dir.display();
    id_in(&config.data_dir)?.with_context(|| format!("there is no journal in {dir}"))
}

/// No instance's: what it notes in a shared store concerns no service.
fn own_name() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// A store that is ready to be written to.
async fn opened(config: &IndexConfig, choice: &StoreChoice, instance: String) -> anyhow::Result<Arc<dyn Store>> {
    let store = stores::open(choice, config, instance, &stores::fleet(&config.data_dir)?).await?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.open("").await {
        if Instant::now() > deadline || store.trouble().as_deref() == Some(FOREIGN) {
            return Err(error.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(store)
}

/// The files of an embedded store under names of our own, so that opening them changes nothing of the store. None is
/// ever written again under its first name. Removed on drop.
struct Copy {
    dir: PathBuf,
}

impl Copy {
    fn of(data_dir: &Path) -> anyhow::Result<Self> {
        let copy = Self { dir: data_dir.join(format!("verify-{}", std::process::id())) };
        for _ in 0..TRIES {
            match copy.link(&embedded_dir(data_dir)) {
                Ok(()) => return Ok(copy),
                // The service replaced a file meanwhile, or has not written any.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("the embedded store has no files yet, or they change too fast to be looked at")
    }

    fn link(&self, from: &Path) -> std::io::Result<()> {
        let to = embedded_dir(&self.dir);
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&to)?,
        }
        // The manifest first: what it names then is there as long as it is, and what it does not name is left out.
        fs::hard_link(from.join("manifest"), to.join("manifest"))?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            if name != "manifest" {
                fs::hard_link(from.join(&name), to.join(&name))?;
            }
        }
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left over is in nobody's way.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Shows where a person watches, and nowhere else.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {percent}% {eta}");
    ProgressBar::new(1).with_style(style.expect("the template above is sound"))
}

fn show(bar: &ProgressBar, done: u64, all: u64) {
    bar.set_length(all);
    bar.set_position(done);
}

fn say_damage(damage: Damage) -> std::io::Result<()> {
    if damage == Damage::default() {
        return Ok(());
    }
    let Damage { lost_points, damaged_bytes, .. } = damage;
    say(&format!("journal: {lost_points} points cannot be read, in {damaged_bytes} damaged bytes"))
}

/// To whoever asked, on stdout.
fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
