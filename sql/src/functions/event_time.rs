//! Watches a column of event times: gives it as it is, marks it as one, and notes the latest that a task saw.
//!
//! The mark is metadata of the field, which the planner carries on through projections, filters and unions; aggregates find by it which of their keys a
//! watermark lets go. The mark names the type that it was given to: a cast keeps metadata, and what it makes of a time is none. A task's plan runs on its
//! slot's thread, so what was seen is noted there.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, PrimitiveArray},
    compute::{max, min},
    datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature,
        Volatility,
    },
};

use millstream_common::protocol::EventTimesSeen;

use super::wrong;

pub(crate) const NAME: &str = "event_time";
/// Marks fields whose values are event times, or windows of them.
const MARK: &str = "millstream.event_time";

thread_local! {
    /// The event times that the task on this thread saw, by column.
    static SEEN: RefCell<BTreeMap<String, EventTimesSeen>> = const { RefCell::new(BTreeMap::new()) };
}

/// Forgets what an earlier task saw.
pub(crate) fn forget() {
    SEEN.with_borrow_mut(BTreeMap::clear);
}

/// The event times that this task saw, by column.
pub(crate) fn take_seen() -> BTreeMap<String, EventTimesSeen> {
    SEEN.with_borrow_mut(std::mem::take)
}

/// Notes the event times of some rows.
fn note(column: &str, times: &PrimitiveArray<TimestampMicrosecondType>) {
    let (Some(earliest), Some(latest)) = (min(times), max(times)) else {
        return;
    };
    let count = (times.len() - times.null_count()) as u64;
    // In whole numbers of a width that a batch of rows can't overflow.
    let sum: i128 = times.iter().flatten().map(i128::from).sum();
    let new = EventTimesSeen {
        min: earliest.div_euclid(1_000),
        max: latest.div_euclid(1_000),
        mean: sum as f64 / count as f64 / 1e3,
        count,
    };
    SEEN.with_borrow_mut(|seen| {
        let known = seen.get(column);
        let both = known.map_or(new, |known| known.and(&new));
        seen.insert(column.to_owned(), both);
    });
}

/// Whether a field holds event times, or windows of them.
pub(crate) fn is_marked(field: &Field) -> bool {
    let of = field.metadata().get(MARK);
    of.is_some_and(|of| *of == field.data_type().to_string())
}

/// Whether a field has a mark, be it one of its type or not.
pub(crate) fn has_mark(field: &Field) -> bool {
    field.metadata().contains_key(MARK)
}

/// A field with the mark of another, where that has it.
pub(crate) fn marked_as(field: Field, other: &Field) -> Field {
    if !is_marked(other) {
        return field;
    }
    with_mark(field)
}

fn with_mark(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(MARK.to_owned(), field.data_type().to_string());
    field.with_metadata(metadata)
}

fn without_mark(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(MARK);
    field.with_metadata(metadata)
}

fn first_type(types: &[DataType], name: &str) -> Result<DataType> {
    let first = types.first().cloned();
    first.ok_or_else(|| wrong(format!("{name} needs a column")))
}

/// `event_time(column, id, delay in milliseconds)`. Volatile, so that it is evaluated where it stands and conditions on it aren't moved below.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct EventTimeFunction {
    signature: Signature,
}

impl Default for EventTimeFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(3, Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for EventTimeFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        first_type(types, NAME)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let column = arguments.arg_fields.first();
        let column = column.ok_or_else(|| wrong("event_time needs a column"))?;
        let DataType::Timestamp(TimeUnit::Microsecond, _) = column.data_type() else {
            return Err(wrong(format!(
                "Event time must be defined on a window or a timestamp, but {} is of type {}; cast it to TIMESTAMP first",
                column.name(),
                column.data_type()
            )));
        };
        Ok(Arc::new(with_mark(column.as_ref().clone())))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [column, id, ..] = arguments.args.as_slice() else {
            return Err(wrong("event_time needs a column and its id"));
        };
        let ColumnarValue::Scalar(ScalarValue::Utf8(Some(id))) = id else {
            return Err(wrong("the id of an event_time is text"));
        };
        let times: ArrayRef = column.to_array(arguments.number_rows)?;
        note(id, times.as_primitive());
        debug_assert_eq!(times.len(), arguments.number_rows);
        Ok(ColumnarValue::Array(times))
    }
}

/// `event_time_seen(column)`: true. Volatile, so that it stays above the `event_time` that it reads, which is then evaluated even where nothing else needs
/// the column.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SeenFunction {
    signature: Signature,
}

pub(crate) const SEEN_NAME: &str = "event_time_seen";

impl Default for SeenFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for SeenFunction {
    fn name(&self) -> &str {
        SEEN_NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
    }
}

/// `event_time_mark(column, whether)`: the column as it is, with the mark or without it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct MarkFunction {
    signature: Signature,
}

impl Default for MarkFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for MarkFunction {
    fn name(&self) -> &str {
        "event_time_mark"
    }

    /// That of the column.
    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        let column = arguments.first();
        let column = column.ok_or_else(|| wrong("event_time_mark needs a column"))?;
        Ok(column.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        first_type(types, self.name())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let column = arguments.arg_fields.first();
        let column = column.ok_or_else(|| wrong("event_time_mark needs a column"))?;
        let column = column.as_ref().clone();
        let is_marked = arguments.scalar_arguments.get(1).copied().flatten();
        Ok(Arc::new(match is_marked {
            Some(ScalarValue::Boolean(Some(true))) => with_mark(column),
            _ => without_mark(column),
        }))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let column = arguments.args.into_iter().next();
        column.ok_or_else(|| wrong("event_time_mark needs a column"))
    }
}
