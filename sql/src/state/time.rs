//! Event times of keys.

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, TimestampMicrosecondType},
};

use crate::error::Error;

/// When each row's key is over: its time, or its window's end, microseconds.
pub(crate) fn micros(column: &dyn Array) -> Result<Vec<Option<i64>>, Error> {
    let times: &dyn Array = match column.data_type() {
        DataType::Struct(_) => match column.as_struct().column_by_name("end") {
            Some(ends) => ends.as_ref(),
            None => return Err(Error::internal("a window of event time has no end")),
        },
        _ => column,
    };
    match times.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => Ok(times.iter().collect()),
        None => Err(Error::internal(format!(
            "an event time of type {}",
            times.data_type()
        ))),
    }
}
