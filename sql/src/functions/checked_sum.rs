//! `sum`, with an error where a sum of whole numbers overflows, as Spark's ANSI mode has it. Everything else is the engine's.

use std::{fmt::Debug, mem::size_of_val, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Int64Array},
    buffer::NullBuffer,
    compute::{not, nullif, prep_null_mask_filter, sum_checked},
    datatypes::{DataType, FieldRef, Int64Type},
};
use datafusion::{
    common::ScalarValue,
    error::{DataFusionError, Result},
    functions_aggregate::sum::Sum,
    logical_expr::{
        Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
        Signature,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};

use super::checked;

/// The function. Its state is that of the engine's.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CheckedSum {
    engine: Sum,
}

/// Whether the engine would let this sum overflow.
fn is_checked(arguments: &AccumulatorArgs<'_>) -> bool {
    !arguments.is_distinct && *arguments.return_field.data_type() == DataType::Int64
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.engine.return_type(types)
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if is_checked(&arguments) {
            return Ok(Box::new(Total::default()));
        }
        self.engine.accumulator(arguments)
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.engine.state_fields(arguments)
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        self.engine.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        if is_checked(&arguments) {
            return Ok(Box::new(Totals::default()));
        }
        self.engine.create_groups_accumulator(arguments)
    }

    fn create_sliding_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        self.engine.create_sliding_accumulator(arguments)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.engine.order_sensitivity()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.engine.set_monotonicity(data_type)
    }
}

fn overflow() -> DataFusionError {
    checked::ended(
        "arithmetic overflow: a sum is no BIGINT; sum a wider type, such as DECIMAL(38,0) or DOUBLE"
            .to_owned(),
    )
}

/// The sum of all rows.
#[derive(Debug, Default)]
struct Total {
    sum: Option<i64>,
}

impl Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let sum = sum_checked(values[0].as_primitive::<Int64Type>());
        let Some(more) = sum.map_err(|_| overflow())? else {
            return Ok(());
        };
        let sum = self.sum.unwrap_or(0).checked_add(more);
        self.sum = Some(sum.ok_or_else(overflow)?);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(self.sum))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// The sums of groups.
#[derive(Debug, Default)]
struct Totals {
    sums: Vec<i64>,
    /// Groups that had a value; without one a sum is null.
    has_value: Vec<bool>,
}

impl Totals {
    fn add(&mut self, group: usize, value: i64) -> Result<()> {
        let sum = self.sums[group].checked_add(value);
        self.sums[group] = sum.ok_or_else(overflow)?;
        self.has_value[group] = true;
        Ok(())
    }
}

impl GroupsAccumulator for Totals {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.sums.resize(count, 0);
        self.has_value.resize(count, false);
        let values = values[0].as_primitive::<Int64Type>();
        if values.null_count() == 0 && filter.is_none() {
            for (group, value) in groups.iter().zip(values.values()) {
                self.add(*group, *value)?;
            }
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            let counts = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if counts && values.is_valid(row) {
                self.add(*group, values.value(row))?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emitted: EmitTo) -> Result<ArrayRef> {
        let sums = emitted.take_needed(&mut self.sums);
        let has_value = emitted.take_needed(&mut self.has_value);
        let mut valid = BooleanBufferBuilder::new(has_value.len());
        valid.append_slice(&has_value);
        let nulls = NullBuffer::new(valid.finish());
        Ok(Arc::new(Int64Array::new(sums.into(), Some(nulls))))
    }

    fn state(&mut self, emitted: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emitted)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.update_batch(states, groups, None, count)
    }

    /// Each row a group of its own, which nothing asks for today: every partial aggregate gives each key once.
    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let Some(filter) = filter else {
            return Ok(vec![Arc::clone(&values[0])]);
        };
        let left_out = not(&prep_null_mask_filter(filter))?;
        Ok(vec![nullif(&values[0], &left_out)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i64>() + self.has_value.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: impl IntoIterator<Item = Option<i64>>) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from_iter(values))]
    }

    #[test]
    fn sums_of_groups_leave_out_nulls_and_what_a_condition_leaves_out() {
        let mut totals = Totals::default();
        let rows = column([Some(1), None, Some(3), Some(4)]);
        totals.update_batch(&rows, &[0, 1, 0, 2], None, 3).unwrap();
        let wanted = BooleanArray::from(vec![Some(true), Some(true), None, Some(false)]);
        let rows = column([Some(10), None, Some(7), Some(7)]);
        totals
            .update_batch(&rows, &[0, 1, 3, 3], Some(&wanted), 4)
            .unwrap();
        let first = totals.evaluate(EmitTo::First(2)).unwrap();
        assert_eq!(&first, &column([Some(14), None])[0]);
        let state = totals.state(EmitTo::All).unwrap();
        assert_eq!(state, column([Some(4), None]));
        let rows = column([Some(10), None, Some(7), Some(7)]);
        let as_state = totals.convert_to_state(&rows, Some(&wanted)).unwrap();
        assert_eq!(as_state, column([Some(10), None, None, None]));
        assert_eq!(totals.convert_to_state(&rows, None).unwrap(), rows);
        let mut merged = Totals::default();
        merged.merge_batch(&state, &[1, 0], 2).unwrap();
        let sums = merged.evaluate(EmitTo::All).unwrap();
        assert_eq!(&sums, &column([None, Some(4)])[0]);
    }

    #[test]
    fn a_sum_that_overflows_is_an_error_in_every_phase() {
        let rows = column([Some(i64::MAX), Some(1)]);
        assert!(Total::default().update_batch(&rows).is_err());
        assert!(Total::default().merge_batch(&rows).is_err());
        let mut total = Total::default();
        total.update_batch(&column([Some(i64::MAX), None])).unwrap();
        assert!(total.update_batch(&column([Some(1)])).is_err());
        let mut totals = Totals::default();
        totals.update_batch(&rows, &[0, 1], None, 2).unwrap();
        assert!(totals.update_batch(&rows, &[1, 0], None, 2).is_err());
        let mut merged = Totals::default();
        let error = merged.merge_batch(&rows, &[0, 0], 1).unwrap_err();
        assert!(error.to_string().contains("overflow"), "{error}");
    }
}
