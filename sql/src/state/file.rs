//! A segment as a file.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | `MSST` |
//! | 4 | version of this layout, 1 |
//! | 5..8 | 0 |
//! | 8..16 | length of the rows, little endian |
//! | 16.. | the rows as an Arrow IPC stream, grouped by routing slot |
//! | then | keys that are gone, as an Arrow IPC stream of one binary column `key`; nothing where there are none |

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, BinaryArray},
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};
use millstream_common::failure::{Failure, FailureKind, Retry};

use crate::{error::Error, ipc};

/// Keys that are gone.
type Removed = Vec<Box<[u8]>>;

const MAGIC: &[u8; 4] = b"MSST";
const VERSION: u8 = 1;
const HEADER: usize = 16;

/// The bytes of a segment.
pub(super) fn encode(rows: &RecordBatch, removed: &[Box<[u8]>]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(HEADER + rows.get_array_memory_size());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 8]);
    ipc::append(&rows.schema(), [rows], &mut bytes)?;
    let length = (bytes.len() - HEADER) as u64;
    bytes[8..HEADER].copy_from_slice(&length.to_le_bytes());
    if !removed.is_empty() {
        let schema = Schema::new(vec![Field::new("key", DataType::Binary, false)]);
        let keys = BinaryArray::from_iter_values(removed);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys)])?;
        ipc::append(&batch.schema(), [&batch], &mut bytes)?;
    }
    Ok(bytes)
}

/// The rows and the keys that are gone.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<(RecordBatch, Removed), Error> {
    let refused = |what: &str| {
        let message = format!("state file {name} {what}");
        Error::Setup(
            Failure::new(FailureKind::DataLoss, message)
                .with_code("state.format")
                .with_retry(Retry::Never),
        )
    };
    let header = bytes
        .first_chunk::<HEADER>()
        .ok_or_else(|| refused("is too short"))?;
    if header[..4] != *MAGIC {
        return Err(refused("is no state of an aggregate"));
    }
    if header[4] != VERSION {
        return Err(refused(
            "was written by another release of Millstream; go on with that one",
        ));
    }
    let mut length = [0; 8];
    length.copy_from_slice(&header[8..]);
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    let content = &bytes[HEADER..];
    let (rows, removed) = content
        .split_at_checked(length)
        .ok_or_else(|| refused("is too short"))?;
    let (schema, batches) = ipc::read(rows)?;
    let rows = arrow::compute::concat_batches(&schema, &batches)?;
    let mut keys = Vec::new();
    if !removed.is_empty() {
        for batch in ipc::read(removed)?.1 {
            let column = batch.column(0).as_binary::<i32>();
            keys.extend((0..column.len()).map(|row| Box::from(column.value(row))));
        }
    }
    Ok((rows, keys))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn another_layout_is_refused_with_the_way_out() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let rows = RecordBatch::try_from_iter([("key", column)]).unwrap();
        let bytes = encode(&rows, &[]).unwrap();
        assert_eq!(decode("a/0/1", &bytes).unwrap().0, rows);
        let refused = |at: usize, byte: u8| {
            let mut other = bytes.clone();
            other[at] = byte;
            let error = decode("a/0/1", &other).unwrap_err();
            assert_eq!(error.code(), "state.format");
            error.to_string()
        };
        let newer = refused(4, VERSION + 1);
        assert!(
            newer.contains("a/0/1 was written by another release"),
            "{newer}"
        );
        assert!(refused(0, b'X').contains("is no state of an aggregate"));
    }
}
