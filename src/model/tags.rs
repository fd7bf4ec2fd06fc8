//! Tags of a point: vehicle class, availability, and what else a fleet tells its drivers apart by.

use compact_str::CompactString;

use super::Defect;

/// One tag: 1 to 32 of `a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(CompactString);

impl Tag {
    /// The longest tag, in bytes.
    pub const MAX_BYTES: usize = 32;

    /// Checks `tag`.
    pub fn new(tag: &str) -> Result<Self, Defect> {
        let is_fine = (1..=Self::MAX_BYTES).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if is_fine { Ok(Self(CompactString::new(tag))) } else { Err(Defect::TagsInvalid) }
    }

    /// The tag as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The tags of one point, in the order sent, each once; mostly none. Kept as one comma-separated string, which no
/// tag can contain, so that the usual handful needs no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags(CompactString);

impl Tags {
    /// The most tags of one point.
    pub const MAX: usize = 8;
    /// No tags.
    pub const NONE: Self = Self(CompactString::const_new(""));

    /// Checks each tag; one sent twice counts once, but all that were sent count towards the limit of 8.
    pub fn new<'a>(tags: impl IntoIterator<Item = &'a str>) -> Result<Self, Defect> {
        let mut kept = Self::NONE;
        for (index, tag) in tags.into_iter().enumerate() {
            let tag = Tag::new(tag)?;
            if index == Self::MAX {
                return Err(Defect::TagsInvalid);
            }
            if !kept.contains(&tag) {
                if !kept.0.is_empty() {
                    kept.0.push(',');
                }
                kept.0.push_str(tag.as_str());
            }
        }
        Ok(kept)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each tag, in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|tag| !tag.is_empty())
    }

    /// Whether `tag` is among them.
    pub fn contains(&self, tag: &Tag) -> bool {
        self.iter().any(|own| own == tag.as_str())
    }

    /// Whether all of `tags` are among them.
    pub fn contains_all(&self, tags: &[Tag]) -> bool {
        tags.iter().all(|tag| self.contains(tag))
    }

    /// The tags joined by commas, for encodings; at most 263 bytes.
    pub fn joined(&self) -> &str {
        &self.0
    }

    /// From the joined form, checking each.
    pub fn from_joined(joined: &str) -> Result<Self, Defect> {
        if joined.is_empty() { Ok(Self::NONE) } else { Self::new(joined.split(',')) }
    }
}
