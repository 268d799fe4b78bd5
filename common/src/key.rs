//! Canonical bytes of keys: one encoding for routing, state and order.
//!
//! The bytes are *ordered* (comparing them as bytes compares the values, as Rust's `Ord` would for derived
//! types) and *self-delimiting* (the bytes of a sequence of keys, one after the other, mean that sequence alone).
//!
//! | value | bytes |
//! | --- | --- |
//! | `bool` | `00` or `01` |
//! | unsigned integer | big-endian at its own width |
//! | signed integer | the same, with the sign bit flipped |
//! | `f32`, `f64` | -0.0 as 0.0, every NaN as one; positive: sign bit flipped, negative: all bits flipped; NaN last |
//! | `char` | its number, 4 bytes big-endian |
//! | string, bytes | `00` as `00 FF`, ended by `00 00` |
//! | `Option` | `00`, or `01` and the value |
//! | tuple, struct, array | field after field |
//! | enum | variant index, 4 bytes big-endian, then its fields |
//! | sequence | `01` and the element for each, ended by `00` |
//! | unit | nothing |
//!
//! Maps are refused: two equal maps may be written in two orders. Sets look like sequences to serde and can't be
//! told from them: a `BTreeSet` is fine as a key, a set without an order is not. So are types whose `Serialize`
//! leaves out fields by value (`skip_serializing_if`), or flattens (a map to serde), refused; an *untagged* enum
//! loses its variant and is not self-delimiting, so it must not be a key. What counts is what `Serialize` writes: two
//! values that are equal must write the same.

use serde::{Serialize, ser};
use std::fmt::Display;

/// Why a value can't be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The type has a map (or a flattened struct) in it.
    #[error(
        "a map can't be part of a key, as its entries have no fixed order: use a sorted list of pairs"
    )]
    Map,
    /// The type leaves out a field for some values.
    #[error(
        "field `{0}` of a key is left out for some values (`skip_serializing_if`), so keys could not be told apart: write it always"
    )]
    SkippedField(&'static str),
    /// The type's own `Serialize` reported an error.
    #[error("a key could not be written: {0}")]
    Custom(String),
}

impl ser::Error for Error {
    fn custom<T: Display>(message: T) -> Error {
        Error::Custom(message.to_string())
    }
}

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
const END: u8 = 0;
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const TERMINATOR: [u8; 2] = [0x00, 0x00];

/// Appends the canonical bytes of `key` to `out`. On an error `out` is as it was before.
pub fn encode_key<K: Serialize + ?Sized>(key: &K, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let result = key.serialize(&mut Writer { out: &mut *out });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn escaped(&mut self, mut bytes: &[u8]) {
        self.out.reserve(bytes.len() + TERMINATOR.len());
        while let Some(zero) = memchr::memchr(0, bytes) {
            self.out.extend_from_slice(&bytes[..zero]);
            self.out.extend_from_slice(&ESCAPED_ZERO);
            bytes = &bytes[zero + 1..];
        }
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(&TERMINATOR);
    }
}

macro_rules! unsigned {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, v: $type) -> Result<(), Error> {
            self.out.extend_from_slice(&v.to_be_bytes());
            Ok(())
        }
    )*};
}

macro_rules! signed {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, v: $type) -> Result<(), Error> {
            self.out.extend_from_slice(&(v ^ <$type>::MIN).to_be_bytes());
            Ok(())
        }
    )*};
}

macro_rules! float {
    ($($method:ident: $type:ty, $bits:ty, $quiet_nan:expr);*) => {$(
        fn $method(self, v: $type) -> Result<(), Error> {
            let bits: $bits = if v.is_nan() { $quiet_nan } else if v == 0.0 { 0 } else { v.to_bits() };
            let sign: $bits = 1 << (<$bits>::BITS - 1);
            let ordered = if bits & sign == 0 { bits | sign } else { !bits };
            self.out.extend_from_slice(&ordered.to_be_bytes());
            Ok(())
        }
    )*};
}

impl ser::Serializer for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = ser::Impossible<(), Error>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    unsigned!(serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128);
    signed!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128);
    float!(serialize_f32: f32, u32, 0x7fc0_0000; serialize_f64: f64, u64, 0x7ff8_0000_0000_0000);

    fn serialize_bool(self, v: bool) -> Result<(), Error> {
        self.out.push(u8::from(v));
        Ok(())
    }

    fn serialize_char(self, v: char) -> Result<(), Error> {
        self.serialize_u32(u32::from(v))
    }

    fn serialize_str(self, v: &str) -> Result<(), Error> {
        self.escaped(v.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<(), Error> {
        self.escaped(v);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.out.push(ABSENT);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.out.push(PRESENT);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.out.extend_from_slice(&index.to_be_bytes());
        value.serialize(self)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, Error> {
        self.out.extend_from_slice(&index.to_be_bytes());
        Ok(self)
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Self::SerializeMap, Error> {
        Err(Error::Map)
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, Error> {
        self.out.extend_from_slice(&index.to_be_bytes());
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.push(PRESENT);
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        self.out.push(END);
        Ok(())
    }
}

macro_rules! fields {
    ($($trait:ident $method:ident),*) => {$(
        impl ser::$trait for &mut Writer<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        }
    )*};
}

macro_rules! named_fields {
    ($($trait:ident),*) => {$(
        impl ser::$trait for &mut Writer<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _name: &'static str, value: &T) -> Result<(), Error> {
                value.serialize(&mut **self)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), Error> {
                Err(Error::SkippedField(name))
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        }
    )*};
}

fields!(SerializeTuple serialize_element, SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field);
named_fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn bytes<K: Serialize>(key: K) -> Vec<u8> {
        let mut out = Vec::new();
        encode_key(&key, &mut out).unwrap();
        out
    }

    #[derive(Serialize, Clone, Debug, PartialEq, PartialOrd)]
    enum Shape {
        Empty,
        Named(String),
        Pair(i16, u8),
        Fields { a: Option<u16>, b: f64 },
    }

    #[derive(Serialize)]
    struct Point {
        x: i32,
        unit: (),
        y: bool,
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(bytes(true), [1]);
        assert_eq!(bytes(0x1234u16), [0x12, 0x34]);
        assert_eq!(bytes(-1i32), [0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(bytes(1i64), [0x80, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes(i8::MIN), [0]);
        assert_eq!(
            bytes(1u128 << 64),
            [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes(7usize), [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(bytes(1.0f32), [0xbf, 0x80, 0, 0]);
        assert_eq!(
            bytes(-1.0f64),
            [0x40, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
        );
        assert_eq!(bytes(f64::NAN), [0xff, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(-f64::NAN), bytes(f64::NAN));
        assert_eq!(bytes(-0.0f64), bytes(0.0f64));
        assert_eq!(bytes(-0.0f32), [0x80, 0, 0, 0]);
        assert_eq!(bytes('€'), [0, 0, 0x20, 0xac]);
        assert_eq!(bytes("Hello"), b"Hello\0\0");
        assert_eq!(bytes(""), [0, 0]);
        assert_eq!(bytes("a\0b"), [b'a', 0, 0xff, b'b', 0, 0]);
        assert_eq!(bytes(None::<u8>), [0]);
        assert_eq!(bytes(Some(9u8)), [1, 9]);
        assert_eq!(bytes(Some(None::<u8>)), [1, 0]);
        assert_eq!(bytes((1u8, "x", ())), [1, b'x', 0, 0]);
        assert_eq!(bytes([1u8, 2]), [1, 2]);
        assert_eq!(bytes(vec![1u8, 2]), [1, 1, 1, 2, 0]);
        assert_eq!(bytes(vec![(); 2]), [1, 1, 0]);
        assert_eq!(
            bytes(Point {
                x: 1,
                unit: (),
                y: false
            }),
            [0x80, 0, 0, 1, 0]
        );
        assert_eq!(bytes(Shape::Empty), [0, 0, 0, 0]);
        assert_eq!(bytes(Shape::Named("n".into())), [0, 0, 0, 1, b'n', 0, 0]);
        assert_eq!(bytes(Shape::Pair(-1, 3)), [0, 0, 0, 2, 0x7f, 0xff, 3]);
        assert_eq!(
            bytes(Shape::Fields { a: None, b: 0.0 }),
            [0, 0, 0, 3, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn what_has_no_fixed_form_is_refused() {
        #[derive(Serialize)]
        struct Skips {
            #[serde(skip_serializing_if = "Option::is_none")]
            maybe: Option<u8>,
        }
        let mut out = vec![7];
        assert_eq!(
            encode_key(&(1u8, BTreeMap::from([(1, 2)])), &mut out),
            Err(Error::Map)
        );
        assert_eq!(
            encode_key(&Skips { maybe: None }, &mut out),
            Err(Error::SkippedField("maybe"))
        );
        assert_eq!(out, [7], "nothing of a refused key stays behind");
    }

    fn float() -> impl Strategy<Value = f64> {
        prop_oneof![
            proptest::num::f64::ANY,
            Just(0.0),
            Just(-0.0),
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            (-3i32..3).prop_map(f64::from),
        ]
    }

    /// Few distinct characters, so that prefixes and zeros are common.
    fn string() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::collection::vec(prop_oneof!["\0", "a", "\u{1}", "ÿ"], 0..4)
                .prop_map(|v| v.concat()),
            ".*"
        ]
    }

    /// So few that two lists often hold the same characters, cut differently.
    fn few_strings() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[\0a]{0,2}", 0..4)
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            Just(Shape::Empty),
            string().prop_map(Shape::Named),
            any::<(i16, u8)>().prop_map(|(a, b)| Shape::Pair(a, b)),
            (any::<Option<u16>>(), -3i32..3)
                .prop_map(|(a, b)| Shape::Fields { a, b: f64::from(b) }),
        ]
    }

    type Row = (i32, String, Option<String>, Vec<u8>, Option<i64>, Shape);

    fn row() -> impl Strategy<Value = Row> {
        let small = prop_oneof![-2i32..2, any::<i32>()];
        (
            small,
            string(),
            proptest::option::of(string()),
            proptest::collection::vec(0u8..3, 0..4),
            any::<Option<i64>>(),
            shape(),
        )
    }

    fn total_order(a: f64, b: f64) -> std::cmp::Ordering {
        if a == b || (a.is_nan() && b.is_nan()) {
            std::cmp::Ordering::Equal
        } else {
            a.partial_cmp(&b)
                .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
    }

    proptest! {
        #[test]
        fn order_of_bytes_is_order_of_values(a in row(), b in row()) {
            prop_assert_eq!(Some(bytes(&a).cmp(&bytes(&b))), a.partial_cmp(&b));
        }

        #[test]
        fn strings_and_nested_lists_keep_their_order(a in string(), b in string(), c in proptest::collection::vec(string(), 0..3), d in proptest::collection::vec(string(), 0..3)) {
            prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), a.cmp(&b));
            prop_assert_eq!(bytes(&c).cmp(&bytes(&d)), c.cmp(&d));
        }

        #[test]
        fn integers_keep_their_order(a in any::<(i8, i128, u64, i16)>(), b in any::<(i8, i128, u64, i16)>()) {
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(&b));
            prop_assert_eq!(bytes(a.1).cmp(&bytes(b.1)), a.1.cmp(&b.1));
            prop_assert_eq!(bytes(a.2).cmp(&bytes(b.2)), a.2.cmp(&b.2));
        }

        #[test]
        fn floats_have_one_total_order(a in float(), b in float()) {
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), total_order(a, b));
            let (c, d) = (a as f32, b as f32);
            prop_assert_eq!(bytes(c).cmp(&bytes(d)), total_order(f64::from(c), f64::from(d)));
        }

        /// No key's bytes begin another's, so a run of keys can be read in one way only.
        #[test]
        fn keys_are_self_delimiting(a in row(), b in row()) {
            let (x, y) = (bytes(&a), bytes(&b));
            if a != b {
                prop_assert!(!x.starts_with(&y) && !y.starts_with(&x));
            }
        }

        #[test]
        fn concatenation_is_unique(a in few_strings(), b in few_strings()) {
            let x: Vec<u8> = a.iter().flat_map(bytes).collect();
            let y: Vec<u8> = b.iter().flat_map(bytes).collect();
            prop_assert_eq!(x == y, a == b);
        }
    }
}
