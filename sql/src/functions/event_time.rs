//! Watches a column of event times: gives it as it is, marks it as one, and notes the latest that a task saw.
//!
//! The mark is metadata of the field, which the planner carries on through projections, filters and unions; aggregates find by it which of their keys a
//! watermark lets go. The mark names the type that it was given to: a cast keeps metadata, and what it makes of a time is none. A task's plan runs on its
//! slot's thread, so what was seen is noted there.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
};

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

use millstream_common::{protocol::EventTimesSeen, time::BatchTime};

use super::wrong;

pub(crate) const NAME: &str = "event_time";
/// Marks fields whose values are event times, or windows of them.
const MARK: &str = "millstream.event_time";

thread_local! {
    /// The event times that the task on this thread saw, by column.
    static SEEN: RefCell<BTreeMap<String, EventTimesSeen>> = const { RefCell::new(BTreeMap::new()) };
    /// The time of its batch.
    static BATCH: Cell<BatchTime> = const { Cell::new(BatchTime(0)) };
}

/// Forgets what an earlier task saw; the next one is of a batch of this time.
pub(crate) fn begin(batch: BatchTime) {
    SEEN.with_borrow_mut(BTreeMap::clear);
    BATCH.set(batch);
}

/// The event times that this task saw, by column.
pub(crate) fn take_seen() -> BTreeMap<String, EventTimesSeen> {
    SEEN.with_borrow_mut(std::mem::take)
}

/// Notes the event times of some rows. Those that are more milliseconds ahead of the batch don't count for the watermark: one row would make all that comes
/// later late.
fn note(column: &str, most_ahead: i64, times: &PrimitiveArray<TimestampMicrosecondType>) {
    let (Some(earliest), Some(latest)) = (min(times), max(times)) else {
        return;
    };
    let count = (times.len() - times.null_count()) as u64;
    // In whole numbers of a width that a batch of rows can't overflow.
    let sum: i128 = times.iter().flatten().map(i128::from).sum();
    let until = BATCH.get().0.saturating_add(most_ahead);
    let until = until.saturating_mul(1_000);
    let counted = match latest <= until {
        true => Some(latest),
        false => times.iter().flatten().filter(|time| *time <= until).max(),
    };
    let new = EventTimesSeen {
        min: earliest.div_euclid(1_000),
        max: latest.div_euclid(1_000),
        counted: counted.map(|time| time.div_euclid(1_000)),
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

/// `event_time(column, id, delay, most ahead)`, both in milliseconds. Volatile, so that it is evaluated where it stands and conditions on it aren't moved below.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct EventTimeFunction {
    signature: Signature,
}

impl Default for EventTimeFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(4, Volatility::Volatile),
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
        let [
            column,
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(id))),
            _,
            ColumnarValue::Scalar(ScalarValue::Int64(Some(most_ahead))),
        ] = arguments.args.as_slice()
        else {
            return Err(wrong(
                "event_time needs a column, its id, how late and how far ahead times may be",
            ));
        };
        let times: ArrayRef = column.to_array(arguments.number_rows)?;
        note(id, *most_ahead, times.as_primitive());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_far_ahead_of_their_batch_do_not_count() {
        begin(BatchTime(100));
        let micros = |millis: Vec<Option<i64>>| -> PrimitiveArray<TimestampMicrosecondType> {
            let times = millis.into_iter().map(|time| time.map(|time| time * 1_000));
            times.collect()
        };
        note("a", 20, &micros(vec![Some(90), None, Some(120)]));
        note("b", 20, &micros(vec![Some(121), Some(-5), Some(80)]));
        note("c", 20, &micros(vec![Some(121)]));
        note("c", i64::MAX, &micros(vec![Some(50)]));
        note("d", i64::MAX, &micros(vec![Some(i64::MAX / 1_000)]));
        let seen = take_seen();
        let of = |column: &str| (seen[column].counted, seen[column].max);
        assert_eq!(of("a"), (Some(120), 120));
        assert_eq!(of("b"), (Some(80), 121));
        assert_eq!(of("c"), (Some(50), 121));
        assert_eq!(of("d"), (Some(i64::MAX / 1_000), i64::MAX / 1_000));
        begin(BatchTime(100));
        note("a", 20, &micros(vec![Some(121)]));
        assert_eq!(take_seen()["a"].counted, None);
    }
}
