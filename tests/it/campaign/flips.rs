//! A segment of 64 KiB with each of its bits flipped in turn, and cut off at each of its bytes in turn, through the
//! service's own reader and start: what is damaged is noticed, costs one record at most, and turns into nothing else.
//!
//! The segment ends with a record that is followed by another segment, so that nothing in it counts as a torn tail.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use geotrail::journal::{Damage, Journal, Options, Reader, Record};
use geotrail::model::{DriverId, Offset, Point, Tags};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Plan;
use crate::journal::{NOON, append, open, point, read_all, segments};

const BYTES: u64 = 64 << 10;
/// Points of a record; large ones, so that decoding them is not what takes the time.
const POINTS: u64 = 8;
const WORKERS: usize = 2;

/// A journal of two segments, the first of 64 KiB.
struct Original {
    dir: TempDir,
    segment: PathBuf,
    bytes: Vec<u8>,
    records: Vec<Record>,
}

impl Original {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let journal = open(dir.path());
        let mut number = 0;
        loop {
            let end = append(&journal, &[(number..number + POINTS).map(large).collect()])[0];
            number += POINTS;
            if end.get() > BYTES - 3_000 {
                break;
            }
        }
        // One that fills the rest, to a byte or so.
        let rest = BYTES - journal.committed().borrow().end.get();
        append(&journal, &[(number..number + rest / 370).map(large).collect()]);
        journal.shutdown();
        append(&open(dir.path()), &[vec![point(9_999)]]);
        let segment = segments(dir.path()).swap_remove(0);
        let bytes = fs::read(&segment).expect("it can be read");
        let records = read_all(&mut Reader::open(dir.path(), Offset::START));
        Self { dir, segment, bytes, records }
    }

    /// The same journal in a directory of its own; where its first segment lies.
    fn copy(&self, under: &Path) -> (TempDir, PathBuf) {
        let dir = TempDir::new_in(under).expect("a directory");
        fs::create_dir(dir.path().join("journal")).expect("can be made");
        for name in segments(self.dir.path()).iter().chain([&self.dir.path().join("journal/id")]) {
            fs::copy(name, dir.path().join("journal").join(name.file_name().expect("a name"))).expect("is copied");
        }
        let segment = dir.path().join("journal").join(self.segment.file_name().expect("a name"));
        (dir, segment)
    }
}

fn large(number: u64) -> Point {
    let mut point = point(number);
    point.driver = DriverId::new(&format!("{number:0>64}")).expect("well formed");
    let tags: Vec<String> = (0..8).map(|tag| format!("{tag:x<32}")).collect();
    point.fix.tags = Tags::new(tags.iter().map(String::as_str)).expect("well formed");
    point
}

#[derive(Clone, Copy, Default)]
struct Found {
    flips: usize,
    detected: usize,
    wrong: usize,
    most_records_lost: usize,
    points_miscounted: usize,
    cuts: usize,
    cuts_not_recovered: usize,
}

/// Flips every bit, and cuts at every byte, as far as the plan goes.
pub(crate) fn campaign(plan: &Plan) -> Value {
    let (began, original) = (Instant::now(), Original::new());
    let all = std::thread::scope(|scope| {
        let worker = |worker| {
            let original = &original;
            scope.spawn(move || {
                let mut found = Found::default();
                original.flip(worker, plan.every_nth_bit, &mut found);
                original.cut(worker, plan.every_nth_cut, &mut found);
                found
            })
        };
        let workers: Vec<_> = (0..WORKERS).map(worker).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not fail")).fold(Found::default(), sum)
    });
    let figures = json!({
        "segment_bytes": original.bytes.len(), "records": original.records.len() - 1, "flips": all.flips,
        "detected": all.detected, "wrong_points": all.wrong, "most_records_lost_to_one": all.most_records_lost,
        "points_miscounted": all.points_miscounted, "truncations": all.cuts,
        "truncations_not_recovered": all.cuts_not_recovered, "seconds": began.elapsed().as_secs(),
    });
    assert_eq!((all.detected, all.wrong, all.points_miscounted), (all.flips, 0, 0), "{figures}");
    assert!(all.most_records_lost <= 1 && all.cuts_not_recovered == 0, "{figures}");
    figures
}

fn sum(a: Found, b: Found) -> Found {
    Found {
        flips: a.flips + b.flips,
        detected: a.detected + b.detected,
        wrong: a.wrong + b.wrong,
        most_records_lost: a.most_records_lost.max(b.most_records_lost),
        points_miscounted: a.points_miscounted + b.points_miscounted,
        cuts: a.cuts + b.cuts,
        cuts_not_recovered: a.cuts_not_recovered + b.cuts_not_recovered,
    }
}

impl Original {
    fn flip(&self, worker: usize, every_nth: usize, found: &mut Found) {
        let (dir, segment) = self.copy(&std::env::temp_dir());
        let file = OpenOptions::new().write(true).open(segment).expect("it is ours");
        for bit in (0..self.bytes.len() * 8).step_by(every_nth).skip(worker).step_by(WORKERS) {
            let (at, flipped) = (bit / 8, self.bytes[bit / 8] ^ 1 << (bit % 8));
            file.write_all_at(&[flipped], at as u64).expect("can be written");
            let mut reader = Reader::open(dir.path(), Offset::START);
            let read = read_all(&mut reader);
            file.write_all_at(&self.bytes[at..=at], at as u64).expect("can be written");
            let mut here = read.iter().peekable();
            let lost: Vec<_> =
                self.records.iter().filter(|record| here.next_if(|read| *read == *record).is_none()).collect();
            found.flips += 1;
            // The header is there twice: one copy that is damaged costs nothing.
            let is_noticed = if at < 144 { lost.is_empty() } else { reader.damage().events == 1 };
            found.detected += usize::from(is_noticed);
            found.wrong += here.count();
            found.most_records_lost = found.most_records_lost.max(lost.len());
            let points: usize = lost.iter().map(|record| record.points.len()).sum();
            found.points_miscounted += usize::from(reader.damage().lost_points != points as u64);
        }
    }

    /// Alone in its directory and cut off, the segment is what a crash may leave. Syncs are not what this is about, so
    /// it happens in memory, where there is such a place.
    fn cut(&self, worker: usize, every_nth: usize, found: &mut Found) {
        let memory = Path::new("/dev/shm");
        let under = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        for len in (0..=self.bytes.len()).step_by(every_nth).skip(worker).step_by(WORKERS) {
            let (dir, segment) = self.copy(&under);
            for other in segments(dir.path()).into_iter().skip(1) {
                fs::remove_file(other).expect("it is ours");
            }
            fs::write(segment, &self.bytes[..len]).expect("can be written");
            let whole =
                self.records[..self.records.len() - 1].iter().take_while(|record| record.end.get() <= len as u64);
            let kept: Vec<&Point> = whole.flat_map(|record| &record.points).collect();
            found.cuts += 1;
            let is_recovered = Journal::open(Options::new(dir.path()), NOON).is_ok_and(|(journal, recovery)| {
                let mut reader = journal.reader(Offset::START);
                let read = read_all(&mut reader);
                recovery.points == kept.len() as u64
                    && read.iter().flat_map(|record| &record.points).eq(kept)
                    && reader.damage() == Damage::default()
                    && journal.is_writable()
            });
            found.cuts_not_recovered += usize::from(!is_recovered);
        }
    }
}

#[test]
fn short_flips_and_truncations() {
    eprintln!("{}", campaign(&Plan::short()));
}
