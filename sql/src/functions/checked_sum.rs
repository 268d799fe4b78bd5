//! `sum`, with an error where a sum of whole numbers or of decimals overflows, as Spark's ANSI mode has it. Everything else is the engine's.

use std::{fmt::Debug, mem::size_of_val, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray,
        BooleanBufferBuilder, PrimitiveArray,
    },
    buffer::NullBuffer,
    compute::{not, nullif, prep_null_mask_filter, sum_checked},
    datatypes::{DataType, Decimal128Type, FieldRef, Int64Type},
};
use datafusion::{
    common::ScalarValue,
    error::{DataFusionError, Result},
    functions_aggregate::sum::Sum,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, ReversedUDAF,
        SetMonotonicity, Signature,
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

/// The sum of a column.
pub fn sum(column: Expr) -> Expr {
    AggregateUDF::from(CheckedSum::default()).call(vec![column])
}

/// The type of a sum that the engine would let overflow.
fn checked_type<'a>(arguments: &'a AccumulatorArgs<'_>) -> Option<&'a DataType> {
    let data_type = arguments.return_field.data_type();
    let overflows = matches!(data_type, DataType::Int64 | DataType::Decimal128(..));
    (overflows && !arguments.is_distinct).then_some(data_type)
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
        match checked_type(&arguments) {
            Some(whole @ DataType::Int64) => Ok(Box::new(Total::<Int64Type>::new(whole))),
            Some(decimal) => Ok(Box::new(Total::<Decimal128Type>::new(decimal))),
            None => self.engine.accumulator(arguments),
        }
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
        match checked_type(&arguments) {
            Some(whole @ DataType::Int64) => Ok(Box::new(Totals::<Int64Type>::new(whole))),
            Some(decimal) => Ok(Box::new(Totals::<Decimal128Type>::new(decimal))),
            None => self.engine.create_groups_accumulator(arguments),
        }
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

fn overflow(data_type: &DataType) -> DataFusionError {
    let (sum, wider) = match data_type {
        DataType::Decimal128(precision, scale) => {
            (format!("DECIMAL({precision},{scale})"), "a DOUBLE")
        }
        _ => (
            "BIGINT".to_owned(),
            "a wider type, such as DECIMAL(38,0) or DOUBLE",
        ),
    };
    checked::ended(format!(
        "arithmetic overflow: a sum is no {sum}; sum {wider}"
    ))
}

/// The sum of all rows.
#[derive(Debug)]
pub(super) struct Total<T: ArrowPrimitiveType> {
    data_type: DataType,
    sum: Option<T::Native>,
}

impl<T: ArrowPrimitiveType> Total<T>
where
    T::Native: ArrowNativeTypeOp,
{
    pub(super) fn new(data_type: &DataType) -> Self {
        Self {
            data_type: data_type.clone(),
            sum: None,
        }
    }

    pub(super) fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let sum = sum_checked(values.as_primitive::<T>());
        let Some(more) = sum.map_err(|_| overflow(&self.data_type))? else {
            return Ok(());
        };
        let sum = match self.sum {
            Some(sum) => sum.add_checked(more),
            None => Ok(more),
        };
        self.sum = Some(sum.map_err(|_| overflow(&self.data_type))?);
        Ok(())
    }

    /// The sum as an array of one.
    pub(super) fn taken(&self) -> Result<ArrayRef> {
        let sum = PrimitiveArray::<T>::from_iter([self.sum]);
        fitting(sum.with_data_type(self.data_type.clone()))
    }
}

/// Sums, each of which must be within the digits of its type.
fn fitting<T: ArrowPrimitiveType>(sums: PrimitiveArray<T>) -> Result<ArrayRef> {
    let data_type = sums.data_type().clone();
    let sums: ArrayRef = Arc::new(sums);
    if let DataType::Decimal128(precision, _) = data_type {
        let decimals = sums.as_primitive::<Decimal128Type>();
        decimals
            .validate_decimal_precision(precision)
            .map_err(|_| overflow(&data_type))?;
    }
    Ok(sums)
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for Total<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.taken()?, 0)
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
#[derive(Debug)]
pub(super) struct Totals<T: ArrowPrimitiveType> {
    data_type: DataType,
    sums: Vec<T::Native>,
    /// Groups that had a value; without one a sum is null.
    has_value: Vec<bool>,
}

impl<T: ArrowPrimitiveType> Totals<T>
where
    T::Native: ArrowNativeTypeOp,
{
    pub(super) fn new(data_type: &DataType) -> Self {
        Self {
            data_type: data_type.clone(),
            sums: Vec::new(),
            has_value: Vec::new(),
        }
    }

    fn add(&mut self, group: usize, value: T::Native) -> Result<()> {
        let sum = self.sums[group].add_checked(value);
        self.sums[group] = sum.map_err(|_| overflow(&self.data_type))?;
        self.has_value[group] = true;
        Ok(())
    }
}

impl<T: ArrowPrimitiveType> GroupsAccumulator for Totals<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.sums.resize(count, T::Native::ZERO);
        self.has_value.resize(count, false);
        let values = values[0].as_primitive::<T>();
        if values.null_count() == 0 && filter.is_none() {
            for (group, value) in groups.iter().zip(values.values()) {
                self.add(*group, *value)?;
            }
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            if counts(filter, row) && values.is_valid(row) {
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
        let sums = PrimitiveArray::<T>::new(sums.into(), Some(nulls));
        fitting(sums.with_data_type(self.data_type.clone()))
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
        let values = values[0].as_primitive::<T>().clone();
        let values: ArrayRef = Arc::new(values.with_data_type(self.data_type.clone()));
        let Some(filter) = filter else {
            return Ok(vec![values]);
        };
        let left_out = not(&prep_null_mask_filter(filter))?;
        Ok(vec![nullif(&values, &left_out)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<T::Native>() + self.has_value.capacity()
    }
}

/// Whether a row is one that a condition lets through.
pub(super) fn counts(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Int64Array};

    use super::*;

    fn totals() -> Totals<Int64Type> {
        Totals::new(&DataType::Int64)
    }

    fn total() -> Total<Int64Type> {
        Total::new(&DataType::Int64)
    }

    fn column(values: impl IntoIterator<Item = Option<i64>>) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from_iter(values))]
    }

    #[test]
    fn sums_of_groups_leave_out_nulls_and_what_a_condition_leaves_out() {
        let mut sums = totals();
        let rows = column([Some(1), None, Some(3), Some(4)]);
        sums.update_batch(&rows, &[0, 1, 0, 2], None, 3).unwrap();
        let wanted = BooleanArray::from(vec![Some(true), Some(true), None, Some(false)]);
        let rows = column([Some(10), None, Some(7), Some(7)]);
        sums.update_batch(&rows, &[0, 1, 3, 3], Some(&wanted), 4)
            .unwrap();
        let first = sums.evaluate(EmitTo::First(2)).unwrap();
        assert_eq!(&first, &column([Some(14), None])[0]);
        let state = sums.state(EmitTo::All).unwrap();
        assert_eq!(state, column([Some(4), None]));
        let rows = column([Some(10), None, Some(7), Some(7)]);
        let as_state = sums.convert_to_state(&rows, Some(&wanted)).unwrap();
        assert_eq!(as_state, column([Some(10), None, None, None]));
        assert_eq!(sums.convert_to_state(&rows, None).unwrap(), rows);
        let mut merged = totals();
        merged.merge_batch(&state, &[1, 0], 2).unwrap();
        let all = merged.evaluate(EmitTo::All).unwrap();
        assert_eq!(&all, &column([None, Some(4)])[0]);
    }

    #[test]
    fn a_sum_that_overflows_is_an_error_in_every_phase() {
        let rows = column([Some(i64::MAX), Some(1)]);
        assert!(total().update_batch(&rows).is_err());
        assert!(total().merge_batch(&rows).is_err());
        let mut sum = total();
        sum.update_batch(&column([Some(i64::MAX), None])).unwrap();
        assert!(sum.update_batch(&column([Some(1)])).is_err());
        let mut sums = totals();
        sums.update_batch(&rows, &[0, 1], None, 2).unwrap();
        assert!(sums.update_batch(&rows, &[1, 0], None, 2).is_err());
        let mut merged = totals();
        let error = merged.merge_batch(&rows, &[0, 0], 1).unwrap_err();
        assert!(error.to_string().contains("overflow"), "{error}");
    }

    fn decimals(values: &[i128], precision: u8) -> Vec<ArrayRef> {
        let array = Decimal128Array::from(values.to_vec());
        let array = array.with_precision_and_scale(precision, 2);
        vec![Arc::new(array.unwrap())]
    }

    #[test]
    fn a_sum_of_decimals_that_has_too_many_digits_is_an_error_in_every_phase() {
        let most = 10i128.pow(38) - 1;
        let wide = DataType::Decimal128(38, 2);
        let groups = || Totals::<Decimal128Type>::new(&wide);
        // Within what 128 bits hold, and beyond.
        for rows in [[most, 1], [most, most]] {
            let rows = decimals(&rows, 38);
            let mut sum = Total::<Decimal128Type>::new(&wide);
            let failed = sum.update_batch(&rows).and_then(|()| sum.state());
            assert!(failed.is_err_and(|error| error.to_string().contains("DECIMAL(38,2)")));
            for is_merge in [false, true] {
                let mut sums = groups();
                let added = match is_merge {
                    true => sums.merge_batch(&rows, &[0, 0], 1),
                    false => sums.update_batch(&rows, &[0, 0], None, 1),
                };
                assert!(added.and_then(|()| sums.evaluate(EmitTo::All)).is_err());
            }
        }
        let mut sums = groups();
        let rows = decimals(&[most, 1, -1], 38);
        sums.update_batch(&rows, &[0, 0, 0], None, 1).unwrap();
        assert_eq!(sums.state(EmitTo::All).unwrap(), decimals(&[most], 38));
        // A column of fewer digits, whose sum has ten more.
        let mut sums = Totals::<Decimal128Type>::new(&DataType::Decimal128(20, 2));
        let rows = decimals(&[9_999_999_999, 1], 10);
        assert_eq!(
            sums.convert_to_state(&rows, None).unwrap(),
            decimals(&[9_999_999_999, 1], 20)
        );
        sums.update_batch(&rows, &[0, 0], None, 1).unwrap();
        let state = sums.evaluate(EmitTo::All).unwrap();
        assert_eq!(&state, &decimals(&[10_000_000_000], 20)[0]);
    }
}
