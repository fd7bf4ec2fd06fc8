//! What a store refuses for ever: a file beside its checkpoint, a JSON object a line, so that a person can read it and
//! a command can put the points in once the cause is gone. A point is in the file at most once.
//!
//! The service appends while a command takes lines out: both hold a lock, for as long as it takes to write the file.
//! A line is on disk before the applier goes on, so a line cut short by a crash belongs to a batch that comes again.
//!
//! Never here: a log line of what is in it. The file is for its owner alone.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::progress::SetAside;
use crate::model::{Accuracy, DriverId, Fix, Heading, Offset, Point, Position, Speed, Tags, Timestamp};

const PREFIX: &str = "deadletter-";
const SUFFIX: &str = ".ndjson";

/// A point that a store refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Letter {
    /// When it was set aside.
    pub at: Timestamp,
    /// Where in the journal its batch begins.
    pub offset: Offset,
    /// When its batch was received.
    pub received: Timestamp,
    /// The store's word for it; nothing that was sent.
    pub reason: String,
    /// What was refused.
    pub point: Point,
}

/// A letter as a line: numbers in the steps of the model, so that it comes back exactly.
#[derive(Serialize, Deserialize)]
struct Line {
    at_ms: i64,
    offset: u64,
    received_ms: i64,
    reason: String,
    driver_id: String,
    ts_ms: i64,
    lat_e7: i32,
    lon_e7: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_steps: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heading_tenths: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_dm: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tags: String,
}

/// The dead letters of one store.
#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    known: Mutex<Known>,
}

/// What the file held when it was last looked at.
#[derive(Debug, Default)]
struct Known {
    /// Its length, which file it is (it is replaced when letters are taken out), and when it was written.
    file: Option<(u64, u64, i64)>,
    points: HashSet<u64>,
    since: Option<Timestamp>,
}

impl DeadLetters {
    /// Of the store `name`, in the data directory `dir`. Reads nothing yet.
    pub fn of(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(format!("{PREFIX}{name}{SUFFIX}")), known: Mutex::default() }
    }

    /// The names of all stores that have a file of dead letters in `dir`, in order.
    pub fn stores(dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            names.extend(name.map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Adds letters, but for points that are in the file, and says how many that makes; they are on disk when this
    /// returns.
    pub(super) async fn add(self: Arc<Self>, letters: Vec<Letter>) -> io::Result<SetAside> {
        let work = move || {
            if !letters.is_empty() {
                self.append(&letters)?;
            }
            self.count()
        };
        spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn append(&self, letters: &[Letter]) -> io::Result<()> {
        let _lock = self.lock()?;
        self.look()?;
        let mut known = self.known.lock();
        let mut lines = Vec::new();
        let mut added = Vec::new();
        for letter in letters {
            let print = print_of(&letter.point);
            if !known.points.contains(&print) && !added.contains(&print) {
                added.push(print);
                lines.extend(line_of(letter));
            }
        }
        let is_new = !self.path.exists();
        let mut file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(&self.path)?;
        // Behind what a crash cut short, a line begins anew.
        let end = file.seek(SeekFrom::End(0))?;
        if end > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                lines.insert(0, b'\n');
            }
        }
        file.write_all(&lines)?;
        file.sync_all()?;
        if is_new {
            sync_parent(&self.path)?;
        }
        known.points.extend(added);
        known.since = known.since.into_iter().chain(letters.iter().map(|letter| letter.received)).min();
        known.file = Some(identity(&file.metadata()?));
        Ok(())
    }

    /// How many points are set aside, and since when. Reads the file if it is another than before. Blocking.
    pub fn count(&self) -> io::Result<SetAside> {
        self.look()?;
        let known = self.known.lock();
        Ok(SetAside { points: known.points.len() as u64, since: known.since })
    }

    fn look(&self) -> io::Result<()> {
        let mut known = self.known.lock();
        let file = match fs::metadata(&self.path) {
            Ok(metadata) => Some(identity(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if file != known.file {
            let letters = self.read()?;
            *known = Known {
                file,
                points: letters.iter().map(|letter| print_of(&letter.point)).collect(),
                since: letters.iter().map(|letter| letter.received).min(),
            };
        }
        Ok(())
    }

    /// Every letter that can be read. Blocking.
    pub fn read(&self) -> io::Result<Vec<Letter>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(bytes.split(|byte| *byte == b'\n').filter_map(letter_of).collect())
    }

    /// Takes out every letter that `is_done`; the others stay. How many went. Blocking.
    pub fn take_out(&self, is_done: impl Fn(&Letter) -> bool) -> io::Result<usize> {
        if !self.path.exists() {
            return Ok(0);
        }
        let _lock = self.lock()?;
        let letters = self.read()?;
        let left: Vec<&Letter> = letters.iter().filter(|letter| !is_done(letter)).collect();
        let gone = letters.len() - left.len();
        if gone > 0 {
            let lines: Vec<u8> = left.into_iter().flat_map(line_of).collect();
            let temporary = self.path.with_extension("new");
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&lines)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            sync_parent(&self.path)?;
        }
        Ok(gone)
    }

    /// On a file of its own, for the letters' is replaced.
    fn lock(&self) -> io::Result<File> {
        let path = self.path.with_extension("lock");
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64, i64) {
    (metadata.len(), metadata.ino(), metadata.mtime_nsec())
}

fn print_of(point: &Point) -> u64 {
    let mut hasher = DefaultHasher::new();
    point.hash(&mut hasher);
    hasher.finish()
}

fn line_of(letter: &Letter) -> Vec<u8> {
    let Letter { at, offset, received, reason, point: Point { driver, fix } } = letter;
    let line = Line {
        at_ms: at.as_ms(),
        offset: offset.get(),
        received_ms: received.as_ms(),
        reason: reason.clone(),
        driver_id: driver.as_str().to_owned(),
        ts_ms: fix.ts.as_ms(),
        lat_e7: fix.position.lat_e7(),
        lon_e7: fix.position.lon_e7(),
        speed_steps: fix.speed.map(Speed::steps),
        heading_tenths: fix.heading.map(Heading::tenths),
        accuracy_dm: fix.accuracy.map(Accuracy::dm),
        tags: fix.tags.joined().to_owned(),
    };
    let mut bytes = serde_json::to_vec(&line).expect("strings and numbers always serialize");
    bytes.push(b'\n');
    bytes
}

fn letter_of(line: &[u8]) -> Option<Letter> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let fix = Fix {
        ts: Timestamp::from_ms(line.ts_ms),
        position: Position::from_e7(line.lat_e7, line.lon_e7)?,
        speed: line.speed_steps.and_then(Speed::from_steps),
        heading: line.heading_tenths.and_then(Heading::from_tenths),
        accuracy: line.accuracy_dm.and_then(Accuracy::from_dm),
        tags: Tags::from_joined(&line.tags).ok()?,
    };
    Some(Letter {
        at: Timestamp::from_ms(line.at_ms),
        offset: Offset::new(line.offset),
        received: Timestamp::from_ms(line.received_ms),
        reason: line.reason,
        point: Point { driver: DriverId::new(&line.driver_id).ok()?, fix },
    })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(driver: &str, ts_ms: i64) -> Letter {
        let fix = Fix {
            ts: Timestamp::from_ms(ts_ms),
            position: Position::from_e7(521_234_567, -1_234_567).unwrap(),
            speed: Speed::from_steps(625),
            heading: None,
            accuracy: Accuracy::from_dm(48),
            tags: Tags::new(["van", "free"]).unwrap(),
        };
        Letter {
            at: Timestamp::from_ms(9),
            offset: Offset::new(144),
            received: Timestamp::from_ms(8),
            reason: "WRONGTYPE".into(),
            point: Point { driver: DriverId::new(driver).unwrap(), fix },
        }
    }

    #[test]
    fn letters_come_back_exactly_once_each_and_leave_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetters::of(dir.path(), "redis");
        assert_eq!(letters.count().unwrap(), SetAside::default());
        letters.append(&[letter("a", 1), letter("b", 2), letter("a", 1)]).unwrap();
        letters.append(&[letter("b", 2), letter("c", 3)]).unwrap();
        let all = [letter("a", 1), letter("b", 2), letter("c", 3)];
        assert_eq!(letters.read().unwrap(), all);
        let mode = fs::metadata(&letters.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(DeadLetters::stores(dir.path()).unwrap(), ["redis"]);

        let other = DeadLetters::of(dir.path(), "redis");
        assert_eq!(other.take_out(|letter| letter.point.driver.as_str() == "b").unwrap(), 1);
        let left = SetAside { points: 2, since: Some(Timestamp::from_ms(8)) };
        assert_eq!(letters.count().unwrap(), left, "another process took one out");
        letters.append(&[letter("b", 2)]).unwrap();
        assert_eq!(letters.count().unwrap().points, 3);
    }

    #[test]
    fn a_line_cut_short_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetters::of(dir.path(), "redis");
        letters.append(&[letter("a", 1), letter("b", 2)]).unwrap();
        let file = OpenOptions::new().write(true).open(&letters.path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 7).unwrap();
        assert_eq!(letters.count().unwrap().points, 1);
        letters.append(&[letter("b", 2)]).unwrap();
        assert_eq!(letters.read().unwrap(), [letter("a", 1), letter("b", 2)]);
    }
}
