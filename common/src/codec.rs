//! Rows as bytes, wherever a row crosses a process border or goes to disk. Alone in knowing the crate behind it
//! (`bincode` 2 in serde mode), so that another codec is another [`CODEC_ID`] and a change of this file.
//!
//! The configuration is fixed: little endian, integers of 16 bits and more at variable length (a length or a count
//! below 251 is one byte), enums by variant index, no field names. A row may take [`MAX_ROW_BYTES`]; decoding never
//! reserves memory for more than [`DECODE_LIMIT`] on the word of its input.
//!
//! Not every serde type can be read back from such bytes: `#[serde(untagged)]`, `#[serde(flatten)]`,
//! `skip_serializing_if` and `serde_json::Value` need a format that describes itself, and fail here with an error.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::{DecodeError, EncodeError};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::marker::PhantomData;

use crate::text::Block;

/// What frames name this codec by.
pub const CODEC_ID: u8 = 1;

/// The most bytes one encoded row may have: 256 MiB.
pub const MAX_ROW_BYTES: usize = 256 << 20;

/// The most bytes that decoding one row may claim. Integers claim their full width, up to 16 times what they
/// take when encoded, so every row that could be encoded can be decoded.
pub const DECODE_LIMIT: usize = 16 * MAX_ROW_BYTES;

type Config = Configuration<LittleEndian, Varint, Limit<DECODE_LIMIT>>;

const CONFIG: Config = bincode::config::standard()
    .with_little_endian()
    .with_variable_int_encoding()
    .with_limit::<DECODE_LIMIT>();

/// Why a row could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The row's `Serialize` failed, or asks for something that the codec doesn't have.
    #[error("a row of type {row_type} could not be encoded: {reason}")]
    Encode {
        /// Rust's name of the row type.
        row_type: &'static str,
        /// What the codec said.
        reason: String,
    },
    /// The encoded row is larger than [`MAX_ROW_BYTES`].
    #[error(
        "a row of type {row_type} takes more than {MAX_ROW_BYTES} bytes when encoded: split it into smaller rows"
    )]
    TooLarge {
        /// Rust's name of the row type.
        row_type: &'static str,
    },
    /// The bytes are no row of this type.
    #[error("byte {offset} begins no row of type {row_type}: {reason}")]
    Decode {
        /// Rust's name of the row type.
        row_type: &'static str,
        /// Where the row begins in the bytes given.
        offset: usize,
        /// What the codec said.
        reason: String,
    },
    /// A run of rows holds more bytes than its rows take.
    #[error("{rows} rows of type {row_type} take {used} bytes of a block that has {len}")]
    Leftover {
        /// Rust's name of the row type.
        row_type: &'static str,
        /// Number of rows that the block should hold.
        rows: u32,
        /// Bytes that these rows take.
        used: usize,
        /// Bytes of the block.
        len: usize,
    },
    /// A block can't count more rows.
    #[error("a block holds at most {} rows: close it earlier", u32::MAX)]
    TooManyRows,
}

struct Appender<'a> {
    out: &'a mut Vec<u8>,
    end: usize,
    too_large: bool,
}

impl bincode::enc::write::Writer for &mut Appender<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.out.len() + bytes.len() > self.end {
            self.too_large = true;
            return Err(EncodeError::UnexpectedEnd);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends the bytes of `row` to `out` and returns how many they are. On an error `out` is as it was before.
pub fn encode_into<T: Serialize + ?Sized>(row: &T, out: &mut Vec<u8>) -> Result<usize, Error> {
    encode_up_to(row, out, MAX_ROW_BYTES)
}

fn encode_up_to<T: Serialize + ?Sized>(
    row: &T,
    out: &mut Vec<u8>,
    max: usize,
) -> Result<usize, Error> {
    let start = out.len();
    let mut appender = Appender {
        end: start.saturating_add(max),
        out,
        too_large: false,
    };
    let result = bincode::serde::encode_into_writer(row, &mut appender, CONFIG);
    let Appender { out, too_large, .. } = appender;
    match result {
        Ok(()) => Ok(out.len() - start),
        Err(error) => {
            out.truncate(start);
            let row_type = type_name::<T>();
            if too_large {
                return Err(Error::TooLarge { row_type });
            }
            Err(Error::Encode {
                row_type,
                reason: error.to_string(),
            })
        }
    }
}

/// Decodes one row from the start of `bytes`; returns it and how many bytes it took.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), Error> {
    decode_at(bytes, 0)
}

/// The same row with texts and blobs of its own, so that it keeps no block or line buffer alive: for what outlives its
/// chunk where the row's type is not known. Costs an encoding and a decoding; `scratch` is used on the way.
pub fn detached<T: Serialize + DeserializeOwned>(
    row: &T,
    scratch: &mut Vec<u8>,
) -> Result<T, Error> {
    scratch.clear();
    encode_into(row, scratch)?;
    decode(scratch).map(|(row, _)| row)
}

fn decode_at<T: DeserializeOwned>(bytes: &[u8], offset: usize) -> Result<(T, usize), Error> {
    let rest = &bytes[offset..];
    bincode::serde::borrow_decode_from_slice(rest, CONFIG).map_err(|error| Error::Decode {
        row_type: type_name::<T>(),
        offset,
        reason: decode_reason(&error),
    })
}

fn decode_reason(error: &DecodeError) -> String {
    match error {
        DecodeError::UnexpectedEnd { .. } => "the bytes end within it".to_owned(),
        DecodeError::LimitExceeded => format!("it claims more than {DECODE_LIMIT} bytes"),
        DecodeError::OtherString(reason) => reason.clone(),
        DecodeError::Other(reason) => (*reason).to_owned(),
        other => other.to_string(),
    }
}

/// Gathers the bytes of rows, one after the other, and counts them.
#[derive(Debug, Default)]
pub struct RowWriter {
    bytes: Vec<u8>,
    rows: u32,
}

impl RowWriter {
    /// A writer without rows.
    pub fn new() -> RowWriter {
        RowWriter::default()
    }

    /// A writer whose buffer has room for so many bytes.
    pub fn with_capacity(bytes: usize) -> RowWriter {
        RowWriter {
            bytes: Vec::with_capacity(bytes),
            rows: 0,
        }
    }

    /// Appends a row and returns how many bytes it took. On an error the writer is as it was before.
    #[inline]
    pub fn push<T: Serialize + ?Sized>(&mut self, row: &T) -> Result<usize, Error> {
        let rows = self.rows.checked_add(1).ok_or(Error::TooManyRows)?;
        let taken = encode_into(row, &mut self.bytes)?;
        self.rows = rows;
        Ok(taken)
    }

    /// Number of rows written.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Whether no row was written.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes that the buffer holds in memory.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Forgets the rows, keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows = 0;
    }

    /// Takes the bytes and the number of rows out, and leaves a writer without rows and without a buffer.
    pub fn take(&mut self) -> (Vec<u8>, u32) {
        let rows = std::mem::take(&mut self.rows);
        (std::mem::take(&mut self.bytes), rows)
    }
}

/// Reads the rows that a [`RowWriter`] wrote. Checks that the block holds exactly its number of rows; after an
/// error nothing more comes.
#[derive(Debug)]
pub struct RowReader<T> {
    block: Block,
    rows: u32,
    read: u32,
    offset: usize,
    failed: bool,
    row: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> RowReader<T> {
    /// A reader of `rows` rows in `bytes`.
    pub fn new(bytes: Bytes, rows: u32) -> RowReader<T> {
        RowReader {
            block: Block::new(bytes),
            rows,
            read: 0,
            offset: 0,
            failed: false,
            row: PhantomData,
        }
    }

    /// Rows not yet read. 0 after an error.
    pub fn remaining(&self) -> u32 {
        if self.failed {
            0
        } else {
            self.rows - self.read
        }
    }

    /// Appends up to `max` rows to `out` and returns how many came: 0 at the end.
    pub fn read_chunk(&mut self, out: &mut Vec<T>, max: usize) -> Result<usize, Error> {
        if self.failed {
            return Ok(0);
        }
        let count = max.min((self.rows - self.read) as usize);
        // A row may take no bytes, but a wrong row count must not reserve without bound.
        out.reserve(count.min(4096));
        let block = self.block.clone();
        let result = block.scope(|| {
            for _ in 0..count {
                out.push(self.next_row()?);
            }
            self.check_end()
        });
        self.failed = result.is_err();
        result.map(|()| count)
    }

    fn next_row(&mut self) -> Result<T, Error> {
        let (row, used) = decode_at(self.block.as_slice(), self.offset)?;
        self.offset += used;
        self.read += 1;
        Ok(row)
    }

    fn check_end(&self) -> Result<(), Error> {
        let len = self.block.as_slice().len();
        if self.read < self.rows || self.offset == len {
            return Ok(());
        }
        Err(Error::Leftover {
            row_type: type_name::<T>(),
            rows: self.rows,
            used: self.offset,
            len,
        })
    }
}

impl<T: DeserializeOwned> Iterator for RowReader<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Result<T, Error>> {
        if self.failed {
            return None;
        }
        if self.read == self.rows {
            // Only a block without rows comes here unchecked.
            let checked = self.check_end();
            self.failed = checked.is_err();
            return checked.err().map(Err);
        }
        let block = self.block.clone();
        let result = block.scope(|| {
            let row = self.next_row()?;
            self.check_end()?;
            Ok(row)
        });
        self.failed = result.is_err();
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Event {
        Nothing,
        Word(Text, u64),
        Tags {
            of: Vec<Text>,
            by: BTreeMap<i32, Option<String>>,
        },
    }

    type Row = (Text, i64, Event, f64);

    fn text() -> impl Strategy<Value = Text> {
        prop_oneof![".{0,10}", ".{20,60}"].prop_map(Text::from)
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Nothing),
            (text(), any::<u64>()).prop_map(|(w, n)| Event::Word(w, n)),
            (
                proptest::collection::vec(text(), 0..4),
                proptest::collection::btree_map(any::<i32>(), any::<Option<String>>(), 0..3)
            )
                .prop_map(|(of, by)| Event::Tags { of, by }),
        ]
    }

    fn row() -> impl Strategy<Value = Row> {
        (text(), any::<i64>(), event(), -1e9..1e9)
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        let row = (
            "Hi",
            3u64,
            -2i32,
            300u16,
            Some(true),
            7u8,
            vec![1u32],
            'a',
            0.5f32,
        );
        assert_eq!(encode_into(&row, &mut out).unwrap(), out.len());
        assert_eq!(
            out,
            [
                2, b'H', b'i', 3, 3, 251, 0x2c, 1, 1, 1, 7, 1, 1, b'a', 0, 0, 0, 0x3f
            ]
        );
    }

    proptest! {
        #[test]
        fn rows_come_back(rows in proptest::collection::vec(row(), 0..20), max in 1usize..8) {
            let mut writer = RowWriter::new();
            for row in &rows {
                writer.push(row).unwrap();
            }
            let (bytes, count) = writer.take();
            prop_assert_eq!(count as usize, rows.len());
            let bytes = Bytes::from(bytes);
            let one_by_one: Result<Vec<Row>, Error> = RowReader::new(bytes.clone(), count).collect();
            prop_assert_eq!(&one_by_one.unwrap(), &rows);
            let mut reader = RowReader::<Row>::new(bytes, count);
            let mut chunked = Vec::new();
            while reader.read_chunk(&mut chunked, max).unwrap() > 0 {}
            prop_assert_eq!(reader.remaining(), 0);
            prop_assert_eq!(&chunked, &rows);
        }

        #[test]
        fn any_bytes_are_rows_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), rows in 0u32..20) {
            let mut reader = RowReader::<Row>::new(Bytes::from(bytes), rows);
            let read = reader.by_ref().filter(Result::is_ok).count();
            prop_assert!(read <= rows as usize);
            prop_assert!(reader.next().is_none());
        }

        #[test]
        fn a_cut_run_is_an_error(rows in proptest::collection::vec(row(), 1..5), cut in 0.0..1.0) {
            let mut writer = RowWriter::new();
            for row in &rows {
                writer.push(row).unwrap();
            }
            let (mut bytes, count) = writer.take();
            bytes.truncate((bytes.len() as f64 * cut) as usize);
            let result: Result<Vec<Row>, Error> = RowReader::new(Bytes::from(bytes), count).collect();
            let refused = matches!(result, Err(Error::Decode { .. }));
            prop_assert!(refused);
        }
    }

    #[test]
    fn a_detached_row_holds_no_larger_buffer() {
        let line = Text::from("word ".repeat(1000));
        let row = (1u8, Some(line.slice(0..50)));
        assert!(row.1.as_ref().unwrap().heap_size() > 5000);
        let own = detached(&row, &mut Vec::new()).unwrap();
        assert_eq!(own, row);
        assert!(own.1.unwrap().heap_size() < 150);
    }

    #[test]
    fn leftover_bytes_are_an_error() {
        let mut reader = RowReader::<u8>::new(Bytes::from_static(&[1, 2, 3]), 2);
        assert_eq!(reader.next(), Some(Ok(1)));
        assert!(matches!(
            reader.next(),
            Some(Err(Error::Leftover {
                used: 2,
                len: 3,
                ..
            }))
        ));
        assert_eq!(reader.next(), None);
        assert!(matches!(
            RowReader::<u8>::new(Bytes::from_static(&[1]), 0).next(),
            Some(Err(Error::Leftover { .. }))
        ));
        let mut out = Vec::new();
        assert!(
            RowReader::<u8>::new(Bytes::from_static(&[1]), 0)
                .read_chunk(&mut out, 5)
                .is_err()
        );
    }

    #[test]
    fn rows_without_bytes_are_counted() {
        assert_eq!(RowReader::<()>::new(Bytes::new(), 5).count(), 5);
        assert_eq!(RowReader::<()>::new(Bytes::new(), 0).count(), 0);
    }

    #[test]
    fn a_length_beyond_the_limit_reserves_nothing() {
        // Length as a 64-bit integer: 2^60 bytes.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 16];
        for result in [
            decode::<String>(&bytes).err(),
            decode::<Vec<u64>>(&bytes).err(),
        ] {
            assert!(
                matches!(result, Some(Error::Decode { offset: 0, .. })),
                "{result:?}"
            );
        }
    }

    #[test]
    fn a_row_that_is_too_large_leaves_nothing_behind() {
        let mut out = vec![1, 2];
        let error = encode_up_to("0123456789", &mut out, 10).unwrap_err();
        assert_eq!(error, Error::TooLarge { row_type: "str" });
        assert_eq!(out, [1, 2]);
        assert_eq!(encode_up_to("0123456789", &mut out, 11).unwrap(), 11);
    }

    #[test]
    fn what_describes_itself_is_refused_with_the_type() {
        let error = decode::<serde_json::Value>(&[1, 2, 3])
            .unwrap_err()
            .to_string();
        assert!(error.contains("serde_json::value::Value"), "{error}");
    }
}
