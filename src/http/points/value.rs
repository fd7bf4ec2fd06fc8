//! Reading any JSON value to its end, whatever a field makes of it.
//!
//! serde's own way of ignoring a value skips over its text: lone surrogates, numbers beyond all range and any depth
//! of nesting pass unseen. Here every value is parsed, so that all of the body is JSON, or none of it is taken.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What a field makes of the value it finds. Values that an implementation does not ask for are read to their end.
pub(super) trait Take<'de>: Sized {
    /// What comes of it.
    type Value;

    /// Of a value of any kind that is not dealt with below.
    fn other(self) -> Self::Value;

    /// Of null.
    fn null(self) -> Self::Value {
        self.other()
    }

    /// Of a number.
    fn number(self, _number: f64) -> Self::Value {
        self.other()
    }

    /// Of a string.
    fn text(self, _text: &str) -> Self::Value {
        self.other()
    }

    /// Of an array, which must be read to its end.
    fn array<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        while array.next_element_seed(Taking(Skip))?.is_some() {}
        Ok(self.other())
    }

    /// Of an object, which must be read to its end.
    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        while object.next_entry_seed(Taking(Skip), Taking(Skip))?.is_some() {}
        Ok(self.other())
    }
}

/// Makes nothing of any value.
pub(super) struct Skip;

impl Take<'_> for Skip {
    type Value = ();

    fn other(self) {}
}

/// The bridge from serde to a [`Take`].
pub(super) struct Taking<T>(pub(super) T);

impl<'de, T: Take<'de>> DeserializeSeed<'de> for Taking<T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Take<'de>> Visitor<'de> for Taking<T> {
    type Value = T::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<T::Value, E> {
        Ok(self.0.null())
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<T::Value, E> {
        Ok(self.0.other())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T::Value, E> {
        Ok(self.0.number(value as f64))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T::Value, E> {
        Ok(self.0.number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T::Value, E> {
        Ok(self.0.number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T::Value, E> {
        Ok(self.0.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<T::Value, A::Error> {
        self.0.array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T::Value, A::Error> {
        self.0.object(object)
    }
}
