//! Batches and schemas as Arrow IPC.

use std::io::Cursor;

use arrow::{
    datatypes::{Schema, SchemaRef},
    ipc::{
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
    record_batch::RecordBatch,
};

use crate::error::Error;

/// Appends batches of one schema to `out` as an IPC stream.
pub(crate) fn append<'a>(
    schema: &Schema,
    batches: impl IntoIterator<Item = &'a RecordBatch>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut writer = StreamWriter::try_new_with_options(out, schema, IpcWriteOptions::default())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    Ok(())
}

/// Reads an IPC stream.
pub(crate) fn read(bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

/// A schema as bytes.
pub(crate) fn schema_bytes(schema: &Schema) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    append(schema, [], &mut bytes)?;
    Ok(bytes)
}

/// A schema out of its bytes.
pub(crate) fn schema_of(bytes: &[u8]) -> Result<SchemaRef, Error> {
    Ok(read(bytes)?.0)
}
