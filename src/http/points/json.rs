//! The two shapes of a batch: one JSON document, or one a line.
//!
//! Never here: what a point must hold. Whatever is wrong here is wrong with the whole request.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::Batch;
use super::raw_point::Element;
use super::value::{Skip, Taking};

/// Reads `[POINT,…]` or `{"points":[POINT,…]}`, in which other keys are ignored.
pub(super) fn read_document(text: &str, batch: &mut Batch<'_>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_any(Envelope(batch))?;
    deserializer.end()
}

/// Reads a POINT a line. Blank lines count for nothing.
pub(super) fn read_lines(text: &str, batch: &mut Batch<'_>) -> serde_json::Result<()> {
    for line in text.split('\n').map(|line| line.trim_matches([' ', '\t', '\r'])).filter(|line| !line.is_empty()) {
        let mut deserializer = serde_json::Deserializer::from_str(line);
        batch.add(Taking(Element).deserialize(&mut deserializer)?);
        deserializer.end()?;
    }
    Ok(())
}

struct Envelope<'b, 'r>(&'b mut Batch<'r>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Points,
    #[serde(other)]
    Unknown,
}

impl<'de> Visitor<'de> for Envelope<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of points, or an object with `points`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        PointList(self.0).visit_seq(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = object.next_key()? {
            match key {
                Key::Points if found => return Err(A::Error::duplicate_field("points")),
                Key::Points => {
                    object.next_value_seed(PointList(self.0))?;
                    found = true;
                }
                Key::Unknown => object.next_value_seed(Taking(Skip))?,
            }
        }
        if found { Ok(()) } else { Err(A::Error::missing_field("points")) }
    }
}

struct PointList<'b, 'r>(&'b mut Batch<'r>);

impl<'de> DeserializeSeed<'de> for PointList<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for PointList<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of points")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element_seed(Taking(Element))? {
            self.0.add(element);
        }
        Ok(())
    }
}
