//! A second reader of the journal, made from `docs/journal.md` alone: slow, simple, and with nothing of the service in it,
//! so that a mistake in the service's own reader cannot hide what the campaign looks for.
//!
//! Never here: repair, order of the service's making, what was sent.

use std::fs;
use std::path::Path;

const SEGMENT_HEADER: usize = 144;
const HEADER_COPY: usize = 72;
const RECORD_HEADER: usize = 44;
const MAGIC: [u8; 4] = [0xf7, 0x67, 0x74, 0x1a];

/// A point as the journal has it, in the units of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) driver: String,
    pub(crate) ts: i64,
    pub(crate) lat_e7: i32,
    pub(crate) lon_e7: i32,
    pub(crate) speed_50th: Option<u64>,
    pub(crate) heading_10th: Option<u64>,
    pub(crate) accuracy_dm: Option<u64>,
    pub(crate) tags: String,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// The points of each record, in the order of files and places.
    pub(crate) records: Vec<Vec<Found>>,
    /// Records whose header holds and whose payload does not.
    pub(crate) damaged: usize,
}

/// Reads all segments of a data directory.
pub(crate) fn read(data_dir: &Path) -> Read {
    let mut paths: Vec<_> = fs::read_dir(data_dir.join("journal"))
        .expect("a journal")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    // Twenty digits: the order of names is that of offsets.
    paths.sort();
    let mut all = Read::default();
    for path in paths {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("digits");
        let base = name.parse().expect("twenty digits");
        segment(&fs::read(&path).expect("a segment can be read"), base, &mut all);
    }
    all
}

fn segment(bytes: &[u8], base: u64, all: &mut Read) {
    let copies = [0, HEADER_COPY].map(|at| bytes.get(at..at + HEADER_COPY));
    let Some(salt) = copies.into_iter().flatten().find_map(|copy| header(copy, base)) else { return };
    let mut at = SEGMENT_HEADER;
    while at + RECORD_HEADER <= bytes.len() {
        let Some((payload_len, count, payload_crc, received)) = record_header(&bytes[at..], salt, base + at as u64)
        else {
            at += 1;
            continue;
        };
        let payload_at = at + RECORD_HEADER;
        let Some(payload) = bytes.get(payload_at..payload_at + payload_len) else {
            at += 1;
            continue;
        };
        match (crc32c(&[payload]) == payload_crc).then(|| points(payload, count, received)).flatten() {
            Some(points) => all.records.push(points),
            None => all.damaged += 1,
        }
        at = payload_at + payload_len;
    }
}

/// The salt of a whole copy.
fn header(copy: &[u8], base: u64) -> Option<u64> {
    let is_whole = &copy[..8] == b"geotrail"
        && number(copy, 8, 4) == 1
        && number(copy, 20, 8) == base
        && number(copy, 68, 4) == u64::from(crc32c(&[&copy[..68]]));
    is_whole.then(|| number(copy, 60, 8))
}

/// Length, number of points, checksum, moment of a record.
fn record_header(bytes: &[u8], salt: u64, offset: u64) -> Option<(usize, u64, u32, i64)> {
    if bytes[..4] != MAGIC {
        return None;
    }
    let crc = crc32c(&[&bytes[..40], &salt.to_le_bytes(), &offset.to_le_bytes()]);
    (number(bytes, 40, 4) == u64::from(crc)).then(|| {
        let (len, count, payload_crc) = (number(bytes, 4, 4), number(bytes, 8, 4), number(bytes, 12, 4));
        (len as usize, count, payload_crc as u32, number(bytes, 24, 8).cast_signed())
    })
}

fn points(payload: &[u8], count: u64, received: i64) -> Option<Vec<Found>> {
    let mut rest = payload;
    let mut points = Vec::new();
    for _ in 0..count {
        let flags = take(&mut rest, 1)?[0];
        if flags == 16 {
            let len = number(take(&mut rest, 2)?, 0, 2) as usize;
            take(&mut rest, len.checked_sub(3)?)?;
            continue;
        }
        let id_len = take(&mut rest, 1)?[0];
        let driver = String::from_utf8(take(&mut rest, id_len.into())?.to_vec()).ok()?;
        let zigzag = varint(&mut rest)?;
        let ago = if zigzag % 2 == 0 { (zigzag / 2) as i64 } else { -((zigzag / 2) as i64) - 1 };
        let lat_e7 = (number(take(&mut rest, 4)?, 0, 4) as u32).cast_signed();
        let lon_e7 = (number(take(&mut rest, 4)?, 0, 4) as u32).cast_signed();
        let mut point = Found { driver, ts: received - ago, lat_e7, lon_e7, ..Found::default() };
        if flags & 1 != 0 {
            point.speed_50th = Some(varint(&mut rest)?);
        }
        if flags & 2 != 0 {
            point.heading_10th = Some(varint(&mut rest)?);
        }
        if flags & 4 != 0 {
            point.accuracy_dm = Some(varint(&mut rest)?);
        }
        if flags & 8 != 0 {
            let len = varint(&mut rest)? as usize;
            point.tags = String::from_utf8(take(&mut rest, len)?.to_vec()).ok()?;
        }
        points.push(point);
    }
    rest.is_empty().then_some(points)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for nth in 0..10 {
        let byte = take(rest, 1)?[0];
        value += u64::from(byte % 128) << (7 * nth);
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// CRC32C (Castagnoli), reflected, of all parts as if they were one.
fn crc32c(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut crc = at as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[at] = crc;
            at += 1;
        }
        table
    };
    !parts.iter().flat_map(|part| part.iter()).fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ *byte)])
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283, "the check value of RFC 3720");
}

#[test]
fn the_fixtures_are_read_as_the_service_reads_them() {
    use geotrail::journal::Reader;
    use geotrail::model::Offset;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1");
    let mut compared = 0;
    for entry in fs::read_dir(fixtures).expect("fixtures") {
        let dir = entry.expect("an entry").path();
        if !dir.join("journal").is_dir() {
            continue;
        }
        let theirs = crate::journal::read_all(&mut Reader::open(&dir, Offset::START));
        let theirs: Vec<_> = theirs.iter().flat_map(|record| &record.points).collect();
        let ours: Vec<Found> = read(&dir).records.into_iter().flatten().collect();
        assert_eq!(ours.len(), theirs.len(), "{}", dir.display());
        for (own, other) in ours.iter().zip(theirs) {
            let place = (other.fix.position.lat_e7(), other.fix.position.lon_e7());
            assert_eq!((own.lat_e7, own.lon_e7), place);
            assert_eq!((own.driver.as_str(), own.ts), (other.driver.as_str(), other.fix.ts.as_ms()));
            assert_eq!(own.speed_50th, other.fix.speed.map(|speed| speed.steps().into()));
            assert_eq!(own.heading_10th, other.fix.heading.map(|heading| heading.tenths().into()));
            assert_eq!(own.accuracy_dm, other.fix.accuracy.map(|accuracy| accuracy.dm().into()));
            assert_eq!(own.tags, other.fix.tags.joined());
            compared += 1;
        }
    }
    assert!(compared > 0, "there are fixtures");
}
