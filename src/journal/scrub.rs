//! Taking every byte of a driver out of the segments.
//!
//! A segment that holds points to be erased is written anew: the same name, length, offsets and numbers, the same bytes
//! of all other points, and filler where the erased ones were. It is fsynced before it takes the old one's name, so
//! whatever moment the process dies at, a segment is the old or the new one, whole; doing it again changes nothing.
//!
//! What is damaged cannot be read, so nobody can say whose it was: in a segment that an erasure looks through, damaged
//! stretches are overwritten with zeros. They counted as lost before, and they do afterwards.
//!
//! Never here: the segment being written (whoever notes an erasure begins a new one); which erasures there are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Shared;
use super::erasures::{Erasure, Stage, verdicts};
use super::files::{Files, sync_dir};
use super::record::{FRAME_LEN, FRAME_MAGIC, Frame};
use super::segment::{HEADER_LEN, Header, HeaderRead};

/// Carries out `erasures` in every segment that may hold something of them. On disk when this returns.
pub(super) fn scrub(shared: &Shared, erasures: &[Erasure]) -> io::Result<()> {
    let earlier = shared.erasures_scrubbed();
    // A driver that was erased before is in no segment from before that.
    let from = |erasure: &Erasure| {
        let own = |before: &&Erasure| erasure.driver.as_ref().is_some_and(|driver| before.is_of(driver));
        earlier.iter().filter(own).map(|before| before.end.get()).max().unwrap_or(0)
    };
    let spans: Vec<(u64, &Erasure)> = erasures.iter().map(|erasure| (from(erasure), erasure)).collect();
    let mut replaced = 0;
    for base in shared.files.segments()? {
        let here: Vec<&Erasure> = spans
            .iter()
            .filter(|(from, erasure)| (*from..erasure.end.get()).contains(&base))
            .map(|(_, erasure)| *erasure)
            .collect();
        if !here.is_empty() {
            // Retention must not take a name away while it is given anew.
            let _names_stay = shared.retaining.lock();
            replaced += u32::from(scrub_segment(&shared.files, base, &here)?);
        }
    }
    if replaced > 0 {
        sync_dir(shared.files.journal_dir())?;
    }
    tracing::info!(erasures = erasures.len(), segments = replaced, "erased from the journal");
    Ok(())
}

/// Removes what a scrub that was cut short left behind.
pub(super) fn remove_leftovers(files: &Files) -> io::Result<()> {
    for entry in fs::read_dir(files.journal_dir())? {
        let path = entry?.path();
        if Files::is_scrubbed(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Whether there was anything to do.
fn scrub_segment(files: &Files, base: u64, erasures: &[&Erasure]) -> io::Result<bool> {
    let path = files.segment(base);
    let mut bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let records = HEADER_LEN.min(bytes.len() as u64) as usize;
    let is_changed = match Header::decode(&bytes[..records], base) {
        HeaderRead::Valid(header) => erase(&mut bytes, header, erasures),
        HeaderRead::Damaged => blank(&mut bytes[records..]),
        HeaderRead::Unsupported(version) => {
            let text = format!("segment {base} is of journal version {version}, unknown to this geotrail");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    };
    if is_changed {
        write_anew(&path, &files.scrubbed(base), &bytes)?;
    }
    Ok(is_changed)
}

fn erase(bytes: &mut [u8], header: Header, erasures: &[&Erasure]) -> bool {
    let mut is_erased = verdicts(erasures);
    let mut is_changed = false;
    let mut at = HEADER_LEN as usize;
    while at < bytes.len() {
        let offset = header.base + at as u64;
        let whole =
            Frame::decode(&bytes[at..], header.salt, offset).filter(|frame| frame.len() <= (bytes.len() - at) as u64);
        let Some(mut frame) = whole else {
            let next = next_frame(bytes, at + 1, header).unwrap_or(bytes.len());
            is_changed |= blank(&mut bytes[at..next]);
            at = next;
            continue;
        };
        let (head, payload) = bytes[at..at + frame.len() as usize].split_at_mut(FRAME_LEN);
        at += FRAME_LEN + payload.len();
        let erased = if frame.holds(payload) { frame.erase_points(payload, &mut is_erased) } else { None };
        match erased {
            Some(0) => {}
            Some(_) => {
                head.copy_from_slice(&frame.encode(header.salt, offset));
                is_changed = true;
            }
            None => is_changed |= blank(payload),
        }
    }
    is_changed
}

/// Where the next whole frame begins.
fn next_frame(bytes: &[u8], from: usize, header: Header) -> Option<usize> {
    let magics =
        bytes.get(from..)?.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, window)| *window == FRAME_MAGIC);
    magics.map(|(at, _)| from + at).find(|at| {
        let frame = Frame::decode(&bytes[*at..], header.salt, header.base + *at as u64);
        frame.is_some_and(|frame| frame.len() <= (bytes.len() - at) as u64)
    })
}

/// Whether anything but zeros was there.
fn blank(bytes: &mut [u8]) -> bool {
    let was_blank = bytes.iter().all(|byte| *byte == 0);
    bytes.fill(0);
    !was_blank
}

fn write_anew(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    // Retention goes by it where nothing else can be read.
    file.set_modified(File::open(path)?.metadata()?.modified()?)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

impl Shared {
    fn erasures_scrubbed(&self) -> Vec<Erasure> {
        self.erasures.snapshot().into_iter().filter(|erasure| erasure.stage >= Stage::Scrubbed).collect()
    }
}
