//! A batch as bytes: a frame header, and the points behind it.
//!
//! No length is believed before the header's own checksum holds. That checksum also covers the segment's random salt
//! and the frame's own offset, so bytes left over from elsewhere, or sent by a client inside a point, cannot pass for a
//! frame. Points are decoded through the model's checked constructors: bytes cannot become a point that the edge would
//! have refused.
//!
//! Never here: files, sequence of frames, what to do about damage.

use crate::model::{Accuracy, DriverId, Fix, Heading, Point, Position, Speed, Tags, Timestamp};

/// Bytes of a frame header.
pub(super) const FRAME_LEN: usize = 44;
/// First bytes of every frame; where a reader that lost its footing looks for one.
pub(super) const FRAME_MAGIC: [u8; 4] = [0xf7, b'g', b't', 0x1a];

/// Flags, length of the id, an id of one byte, a time of one byte, a place.
const MIN_POINT_LEN: usize = 12;
const HAS_SPEED: u8 = 1;
const HAS_HEADING: u8 = 2;
const HAS_ACCURACY: u8 = 4;
const HAS_TAGS: u8 = 8;
const ALL_FLAGS: u8 = 15;
/// In the place of the flags: no point, but the room that an erased one took.
const ERASED: u8 = 16;
/// The flags and a length in two bytes; what follows is zero.
const ERASED_LEN: usize = 3;

/// What a frame header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) payload_len: u32,
    pub(super) points: u32,
    pub(super) payload_crc: u32,
    /// The sequence number of its first point.
    pub(super) first_point: u64,
    pub(super) received: Timestamp,
    /// The newest `ts` in it: start and retention need no more than the headers.
    pub(super) newest: Timestamp,
}

impl Frame {
    /// Header and payload.
    pub(super) const fn len(&self) -> u64 {
        FRAME_LEN as u64 + self.payload_len as u64
    }

    /// The sequence number behind its last point.
    pub(super) const fn points_end(&self) -> u64 {
        self.first_point.saturating_add(self.points as u64)
    }

    pub(super) fn encode(&self, salt: u64, offset: u64) -> [u8; FRAME_LEN] {
        let mut bytes = [0; FRAME_LEN];
        bytes[0..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.points.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_point.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.received.as_ms().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.newest.as_ms().to_le_bytes());
        let crc = header_crc(&bytes[..40], salt, offset);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that `bytes` begin with, if they are one, written for this place.
    pub(super) fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<FRAME_LEN>()?;
        let crc = u32_at(bytes, 40);
        if bytes[..4] != FRAME_MAGIC || header_crc(&bytes[..40], salt, offset) != crc {
            return None;
        }
        Some(Self {
            payload_len: u32_at(bytes, 4),
            points: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 12),
            first_point: u64_at(bytes, 16),
            received: Timestamp::from_ms(u64_at(bytes, 24) as i64),
            newest: Timestamp::from_ms(u64_at(bytes, 32) as i64),
        })
    }

    /// Whether this is the payload the header was written for.
    pub(super) fn holds(&self, payload: &[u8]) -> bool {
        crc32c::crc32c(payload) == self.payload_crc
    }

    /// The points that were not erased; `None` if the payload is damaged in any way.
    pub(super) fn decode_points(&self, payload: &[u8]) -> Option<Vec<Point>> {
        if !self.holds(payload) {
            return None;
        }
        let mut points = Vec::with_capacity((self.points as usize).min(payload.len() / MIN_POINT_LEN));
        let mut input = Input(payload);
        for _ in 0..self.points {
            if let Entry::Point(point) = decode_point(&mut input, self.received)? {
                points.push(point);
            }
        }
        input.0.is_empty().then_some(points)
    }

    /// Erases the points of every driver that `is_erased`, and says how many those were; `None` if the payload is
    /// damaged in any way. The checksum of the header is then right, that in the file is the caller's matter.
    pub(super) fn erase_points(
        &mut self,
        payload: &mut [u8],
        mut is_erased: impl FnMut(&DriverId) -> bool,
    ) -> Option<u32> {
        let mut places = Vec::new();
        let mut input = Input(payload);
        for _ in 0..self.points {
            let at = payload.len() - input.0.len();
            if let Entry::Point(point) = decode_point(&mut input, self.received)?
                && is_erased(&point.driver)
            {
                places.push(at..payload.len() - input.0.len());
            }
        }
        if !input.0.is_empty() {
            return None;
        }
        for place in &places {
            let room = &mut payload[place.clone()];
            room.fill(0);
            room[0] = ERASED;
            room[1..ERASED_LEN].copy_from_slice(&(place.len() as u16).to_le_bytes());
        }
        self.payload_crc = crc32c::crc32c(payload);
        Some(places.len() as u32)
    }
}

fn header_crc(header: &[u8], salt: u64, offset: u64) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(header), &place)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Appends one point.
pub(super) fn encode_point(point: &Point, received: Timestamp, out: &mut Vec<u8>) {
    let Fix { ts, position, speed, heading, accuracy, tags } = &point.fix;
    let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
    out.push(
        flag(speed.is_some(), HAS_SPEED)
            | flag(heading.is_some(), HAS_HEADING)
            | flag(accuracy.is_some(), HAS_ACCURACY)
            | flag(!tags.is_empty(), HAS_TAGS),
    );
    let id = point.driver.as_str().as_bytes();
    out.push(id.len() as u8);
    out.extend_from_slice(id);
    let late_ms = received.as_ms().wrapping_sub(ts.as_ms());
    encode_varint(((late_ms << 1) ^ (late_ms >> 63)) as u64, out);
    out.extend_from_slice(&position.lat_e7().to_le_bytes());
    out.extend_from_slice(&position.lon_e7().to_le_bytes());
    if let Some(speed) = speed {
        encode_varint(speed.steps().into(), out);
    }
    if let Some(heading) = heading {
        encode_varint(heading.tenths().into(), out);
    }
    if let Some(accuracy) = accuracy {
        encode_varint(accuracy.dm().into(), out);
    }
    if !tags.is_empty() {
        let joined = tags.joined().as_bytes();
        encode_varint(joined.len() as u64, out);
        out.extend_from_slice(joined);
    }
}

/// What stands in the place of a point.
enum Entry {
    Point(Point),
    Erased,
}

fn decode_point(input: &mut Input<'_>, received: Timestamp) -> Option<Entry> {
    let flags = input.byte()?;
    if flags == ERASED {
        let len = usize::from(u16::from_le_bytes(input.bytes(2)?.try_into().ok()?));
        return input.bytes(len.checked_sub(ERASED_LEN)?).map(|_| Entry::Erased);
    }
    if flags > ALL_FLAGS {
        return None;
    }
    let id_len = usize::from(input.byte()?);
    let driver = DriverId::new(input.text(id_len)?).ok()?;
    let zigzag = input.varint()?;
    let late_ms = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let ts = Timestamp::from_ms(received.as_ms().wrapping_sub(late_ms));
    let lat_e7 = u32_at(input.bytes(4)?, 0) as i32;
    let lon_e7 = u32_at(input.bytes(4)?, 0) as i32;
    let position = Position::from_e7(lat_e7, lon_e7)?;
    let mut speed = None;
    if flags & HAS_SPEED != 0 {
        speed = Some(Speed::from_steps(input.varint()?.try_into().ok()?)?);
    }
    let mut heading = None;
    if flags & HAS_HEADING != 0 {
        heading = Some(Heading::from_tenths(input.varint()?.try_into().ok()?)?);
    }
    let mut accuracy = None;
    if flags & HAS_ACCURACY != 0 {
        accuracy = Some(Accuracy::from_dm(input.varint()?.try_into().ok()?)?);
    }
    let mut tags = Tags::NONE;
    if flags & HAS_TAGS != 0 {
        let len = input.varint()?.try_into().ok()?;
        tags = Tags::from_joined(input.text(len)?).ok()?;
    }
    Some(Entry::Point(Point { driver, fix: Fix { ts, position, speed, heading, accuracy, tags } }))
}

/// Seven bits a byte, lowest first; the high bit says that more follow.
fn encode_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes yet to be decoded. Every step answers `None` rather than read past the end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn text(&mut self, len: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
