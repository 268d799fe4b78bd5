//! Canonical key bytes of Arrow columns: the same bytes that a tuple of `Option`s of the columns' values has as a key of a DStream, so that routing and
//! state are one format for both APIs.

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray},
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type, Float32Type,
        Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};
use millstream_common::key::encode_key;
use serde::Serialize;

use crate::error::Error;

/// Keys of the rows of a batch, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn get(&self, row: usize) -> &[u8] {
        let start = match row {
            0 => 0,
            row => self.ends[row - 1],
        };
        &self.bytes[start..self.ends[row]]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// Bytes in memory.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

/// Whether a column of this type may be in a key; the message names what may not.
pub(crate) fn check_type(name: &str, data_type: &DataType) -> Result<(), Error> {
    let fits = match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Decimal128(..) => true,
        DataType::Struct(fields) => {
            for field in fields {
                check_type(&format!("{name}.{}", field.name()), field.data_type())?;
            }
            true
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::refused(
        format!("column {name} of type {data_type} can't be a grouping key"),
        "group by its parts, or cast it to a string",
    ))
}

/// The keys of `rows` rows.
pub(crate) fn encode(columns: &[ArrayRef], rows: usize) -> Result<Keys, Error> {
    let encoders: Vec<Encoder<'_>> = columns.iter().map(Encoder::of).collect::<Result<_, _>>()?;
    let mut keys = Keys {
        bytes: Vec::with_capacity(rows * columns.len() * 8),
        ends: Vec::with_capacity(rows),
    };
    for row in 0..rows {
        for encoder in &encoders {
            encoder.append(row, &mut keys.bytes)?;
        }
        keys.ends.push(keys.bytes.len());
    }
    Ok(keys)
}

type Append<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), Error> + 'a>;

/// Appends one column's value.
struct Encoder<'a> {
    array: &'a dyn Array,
    append: Append<'a>,
}

fn put<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    encode_key(value, out).map_err(|error| Error::internal(error.to_string()))
}

struct RawBytes<'a>(&'a [u8]);

impl Serialize for RawBytes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn primitive<T>(array: &dyn Array) -> Append<'_>
where
    T: ArrowPrimitiveType,
    T::Native: Serialize,
{
    let values = array.as_primitive::<T>().values();
    Box::new(move |row, out| put(&values[row], out))
}

impl<'a> Encoder<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self, Error> {
        let array: &'a dyn Array = array.as_ref();
        let append: Append<'a> = match array.data_type() {
            DataType::Null => Box::new(|_, _| Ok(())),
            DataType::Boolean => {
                let values: &BooleanArray = array.as_boolean();
                Box::new(move |row, out| put(&values.value(row), out))
            }
            DataType::Int8 => primitive::<Int8Type>(array),
            DataType::Int16 => primitive::<Int16Type>(array),
            DataType::Int32 => primitive::<Int32Type>(array),
            DataType::Int64 => primitive::<Int64Type>(array),
            DataType::UInt8 => primitive::<UInt8Type>(array),
            DataType::UInt16 => primitive::<UInt16Type>(array),
            DataType::UInt32 => primitive::<UInt32Type>(array),
            DataType::UInt64 => primitive::<UInt64Type>(array),
            DataType::Float32 => primitive::<Float32Type>(array),
            DataType::Float64 => primitive::<Float64Type>(array),
            DataType::Date32 => primitive::<Date32Type>(array),
            DataType::Date64 => primitive::<Date64Type>(array),
            DataType::Decimal128(..) => primitive::<Decimal128Type>(array),
            DataType::Timestamp(TimeUnit::Second, _) => primitive::<TimestampSecondType>(array),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                primitive::<TimestampMillisecondType>(array)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                primitive::<TimestampMicrosecondType>(array)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                primitive::<TimestampNanosecondType>(array)
            }
            DataType::Utf8 => {
                let values = array.as_string::<i32>();
                Box::new(move |row, out| put(values.value(row), out))
            }
            DataType::LargeUtf8 => {
                let values = array.as_string::<i64>();
                Box::new(move |row, out| put(values.value(row), out))
            }
            DataType::Utf8View => {
                let values = array.as_string_view();
                Box::new(move |row, out| put(values.value(row), out))
            }
            DataType::Binary => {
                let values = array.as_binary::<i32>();
                Box::new(move |row, out| put(&RawBytes(values.value(row)), out))
            }
            DataType::LargeBinary => {
                let values = array.as_binary::<i64>();
                Box::new(move |row, out| put(&RawBytes(values.value(row)), out))
            }
            DataType::BinaryView => {
                let values = array.as_binary_view();
                Box::new(move |row, out| put(&RawBytes(values.value(row)), out))
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns();
                let inside: Vec<Encoder<'a>> =
                    columns.iter().map(Encoder::of).collect::<Result<_, _>>()?;
                Box::new(move |row, out| {
                    inside
                        .iter()
                        .try_for_each(|encoder| encoder.append(row, out))
                })
            }
            other => {
                return Err(Error::internal(format!(
                    "a column of type {other} was to be a key"
                )));
            }
        };
        Ok(Self { array, append })
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        if matches!(self.array.data_type(), DataType::Null) || self.array.is_null(row) {
            return put(&None::<()>, out);
        }
        put(&true, out)?;
        (self.append)(row, out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Float64Array, Int32Array, Int64Array, StringArray, StructArray},
        datatypes::Field,
    };
    use millstream_common::routing::Slot;

    use super::*;

    #[test]
    fn columns_have_the_bytes_of_a_tuple_of_options() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![
                Some("engineer"),
                None,
                Some("a\0b"),
            ])),
            Arc::new(Int32Array::from(vec![Some(-1), Some(7), None])),
            Arc::new(Float64Array::from(vec![
                Some(-0.0),
                Some(f64::NAN),
                Some(2.5),
            ])),
        ];
        let keys = encode(&columns, 3).unwrap();
        let tuples = [
            (Some("engineer"), Some(-1i32), Some(0.0f64)),
            (None, Some(7), Some(f64::NAN)),
            (Some("a\0b"), None, Some(2.5)),
        ];
        for (row, tuple) in tuples.iter().enumerate() {
            let mut expected = Vec::new();
            encode_key(tuple, &mut expected).unwrap();
            assert_eq!(keys.get(row), expected, "row {row}");
        }
    }

    #[test]
    fn routing_is_pinned() {
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![
            Some("MANAGER"),
            Some("CLERK"),
            None,
        ]))];
        let keys = encode(&columns, 3).unwrap();
        let slots: Vec<u16> = keys.iter().map(|key| Slot::of(key).get()).collect();
        assert_eq!(keys.get(1), b"\x01CLERK\0\0");
        assert_eq!(slots, GOLDEN_SLOTS);
    }

    const GOLDEN_SLOTS: [u16; 3] = [1172, 18, 3140];

    #[test]
    fn structs_are_their_fields_and_no_columns_are_one_key() {
        let times: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let window: ArrayRef = Arc::new(StructArray::from(vec![(
            Arc::new(Field::new("start", DataType::Int64, true)),
            times,
        )]));
        let keys = encode(&[window], 2).unwrap();
        let mut expected = Vec::new();
        encode_key(&Some((Some(1i64),)), &mut expected).unwrap();
        assert_eq!(keys.get(0), expected);
        let keys = encode(&[], 2).unwrap();
        assert_eq!(
            (keys.len(), keys.get(0), keys.get(1)),
            (2, &b""[..], &b""[..])
        );
        assert!(check_type("tags", &DataType::new_list(DataType::Utf8, true)).is_err());
    }
}
