//! One element of a batch as it was sent: its fields sorted into "absent", "of the wrong kind" and a value that may
//! still be wrong.
//!
//! `driver_id` and `ts` are kept as text, because to a JSON parser 1 and 1.0 beyond 64 bits are alike, and to the
//! contract they are not. That text has only been skipped over by the parser, so it is checked here.

use std::borrow::Cow;

use compact_str::CompactString;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess};
use serde_json::value::RawValue;

use super::value::{Skip, Take, Taking};
use crate::model::{Defect, Tags};

/// What one field of a point held.
#[derive(Default)]
pub(super) enum Field<T> {
    /// Nothing, or null.
    #[default]
    Absent,
    /// A value of a kind it cannot have.
    WrongType,
    /// A value of the right kind.
    Value(T),
}

impl<T> Field<T> {
    /// The value of a field that must be there.
    pub(super) fn required(self, name: &'static str) -> Result<T, Defect> {
        self.optional(name)?.ok_or(Defect::MissingField(name))
    }

    /// The value of a field that may be there.
    pub(super) fn optional(self, name: &'static str) -> Result<Option<T>, Defect> {
        match self {
            Self::Absent => Ok(None),
            Self::WrongType => Err(Defect::WrongType(name)),
            Self::Value(value) => Ok(Some(value)),
        }
    }
}

/// A value that may be a string or a whole number.
pub(super) enum Scalar<'de> {
    /// The string, unescaped.
    Text(Cow<'de, str>),
    /// The number as written: an optional minus and digits, of any length.
    Integer(&'de str),
}

/// A point as sent.
#[derive(Default)]
pub(super) struct RawPoint<'de> {
    pub(super) driver_id: Field<Scalar<'de>>,
    pub(super) ts: Field<Scalar<'de>>,
    pub(super) lat: Field<f64>,
    pub(super) lon: Field<f64>,
    pub(super) speed_mps: Field<f64>,
    pub(super) heading_deg: Field<f64>,
    pub(super) accuracy_m: Field<f64>,
    /// What is no string stands here as an empty one, which no tag is either.
    pub(super) tags: Field<Vec<CompactString>>,
}

/// Takes an element of a batch: a point, or `None` for what is no object.
pub(super) struct Element;

#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    DriverId,
    Ts,
    Lat,
    Lon,
    SpeedMps,
    HeadingDeg,
    AccuracyM,
    Tags,
    #[serde(other)]
    Unknown,
}

impl<'de> Take<'de> for Element {
    type Value = Option<RawPoint<'de>>;

    fn other(self) -> Self::Value {
        None
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut point = RawPoint::default();
        let mut seen = 0_u16;
        while let Some(key) = object.next_key()? {
            let bit = 1 << key as u16;
            if seen & bit != 0 && !matches!(key, Key::Unknown) {
                return Err(A::Error::custom("repeated field"));
            }
            seen |= bit;
            match key {
                Key::DriverId => point.driver_id = scalar(object.next_value()?)?,
                Key::Ts => point.ts = scalar(object.next_value()?)?,
                Key::Lat => point.lat = object.next_value_seed(Taking(Number))?,
                Key::Lon => point.lon = object.next_value_seed(Taking(Number))?,
                Key::SpeedMps => point.speed_mps = object.next_value_seed(Taking(Number))?,
                Key::HeadingDeg => point.heading_deg = object.next_value_seed(Taking(Number))?,
                Key::AccuracyM => point.accuracy_m = object.next_value_seed(Taking(Number))?,
                Key::Tags => point.tags = object.next_value_seed(Taking(Texts))?,
                Key::Unknown => object.next_value_seed(Taking(Skip))?,
            }
        }
        Ok(Some(point))
    }
}

struct Number;

impl Take<'_> for Number {
    type Value = Field<f64>;

    fn other(self) -> Self::Value {
        Field::WrongType
    }

    fn null(self) -> Self::Value {
        Field::Absent
    }

    fn number(self, number: f64) -> Self::Value {
        Field::Value(number)
    }
}

struct Texts;

impl<'de> Take<'de> for Texts {
    type Value = Field<Vec<CompactString>>;

    fn other(self) -> Self::Value {
        Field::WrongType
    }

    fn null(self) -> Self::Value {
        Field::Absent
    }

    fn array<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = array.next_element_seed(Taking(Text))? {
            // One too many is enough to see that there are too many.
            if texts.len() <= Tags::MAX {
                texts.push(text);
            }
        }
        Ok(Field::Value(texts))
    }
}

struct Text;

impl Take<'_> for Text {
    type Value = CompactString;

    fn other(self) -> Self::Value {
        CompactString::const_new("")
    }

    fn text(self, text: &str) -> Self::Value {
        CompactString::new(text)
    }
}

/// Judges the text of a value that the parser has only skipped over.
fn scalar<E: Error>(value: &RawValue) -> Result<Field<Scalar<'_>>, E> {
    /// Any number of so many digits is within the range of numbers.
    const SURELY_IN_RANGE: usize = 300;
    let text = value.get();
    Ok(match text.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            Field::Value(Scalar::Text(Cow::Borrowed(&text[1..text.len() - 1])))
        }
        [b'"', ..] => Field::Value(Scalar::Text(Cow::Owned(serde_json::from_str(text).map_err(E::custom)?))),
        [b'-' | b'0'..=b'9', rest @ ..] => {
            let is_integer = rest.iter().all(u8::is_ascii_digit);
            if !is_integer || text.len() > SURELY_IN_RANGE {
                serde_json::from_str::<f64>(text).map_err(E::custom)?;
            }
            if is_integer { Field::Value(Scalar::Integer(text)) } else { Field::WrongType }
        }
        b"null" => Field::Absent,
        b"true" | b"false" => Field::WrongType,
        _ => {
            // It was found at most this deep, and what the parser allows from here on counts from there.
            let in_its_place = format!("[[[{text}]]]");
            let mut deserializer = serde_json::Deserializer::from_str(&in_its_place);
            Taking(Skip).deserialize(&mut deserializer).map_err(E::custom)?;
            Field::WrongType
        }
    })
}
