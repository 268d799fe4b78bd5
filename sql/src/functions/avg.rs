//! `avg` as Spark has it: of decimals a decimal of four digits more, of other numbers a double.

use std::{fmt::Debug, mem::size_of_val, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray,
        Decimal128Array, Float64Array, Int64Array,
    },
    compute::sum,
    datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type, i256},
};
use datafusion::{
    common::ScalarValue,
    error::{DataFusionError, Result},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, ReversedUDAF,
        Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::format_state_name,
    },
};

use super::{
    checked,
    checked_sum::{Total, Totals, counts},
    wrong,
};

/// Digits of every decimal, at most.
const MOST_DIGITS: u8 = 38;
/// By how many digits a mean is longer than what it is of, before and after the point.
const MORE_DIGITS: u8 = 4;
/// By how many digits a sum is longer.
const DIGITS_OF_SUMS: u8 = 10;

/// The mean of a column.
pub fn avg(column: Expr) -> Expr {
    AggregateUDF::from(Avg::default()).call(vec![column])
}

/// The function. Its state is a sum and a count.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Avg {
    signature: Signature,
    aliases: [String; 1],
}

impl Default for Avg {
    fn default() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
            aliases: ["mean".to_owned()],
        }
    }
}

fn sum_type(of: &DataType) -> DataType {
    match of {
        DataType::Decimal128(precision, scale) => {
            DataType::Decimal128(MOST_DIGITS.min(precision + DIGITS_OF_SUMS), *scale)
        }
        _ => DataType::Float64,
    }
}

fn mean_type(of: &DataType) -> DataType {
    match of {
        DataType::Decimal128(precision, scale) => DataType::Decimal128(
            MOST_DIGITS.min(precision + MORE_DIGITS),
            (MOST_DIGITS as i8).min(scale + MORE_DIGITS as i8),
        ),
        _ => DataType::Float64,
    }
}

/// What a call is of.
fn argument_type(arguments: &AccumulatorArgs<'_>) -> Result<DataType> {
    if arguments.is_distinct {
        return Err(wrong("avg of distinct values is not there"));
    }
    let argument = arguments.exprs.first();
    let argument = argument.ok_or_else(|| wrong("avg needs a column"))?;
    argument.data_type(arguments.schema)
}

impl AggregateUDFImpl for Avg {
    fn name(&self) -> &str {
        "avg"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [decimal @ DataType::Decimal128(..)] => Ok(vec![decimal.clone()]),
            [number] if number.is_numeric() || number.is_null() => Ok(vec![DataType::Float64]),
            [other] => Err(wrong(format!(
                "avg is of numbers, not of {other}; cast it, CAST(.. AS DOUBLE)"
            ))),
            _ => Err(wrong("avg is of one column")),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let of = types.first().ok_or_else(|| wrong("avg is of one column"))?;
        Ok(mean_type(of))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let of = arguments.input_fields.first();
        let of = of.ok_or_else(|| wrong("avg is of one column"))?;
        let sum = sum_type(of.data_type());
        let field = |part: &str, data_type: DataType| {
            let name = format_state_name(arguments.name, part);
            Arc::new(Field::new(name, data_type, true))
        };
        Ok(vec![field("sum", sum), field("count", DataType::Int64)])
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let of = argument_type(&arguments)?;
        Ok(match of {
            DataType::Decimal128(..) => Box::new(Mean::<Decimal128Type>::new(&of)),
            _ => Box::new(Mean::<Float64Type>::new(&of)),
        })
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        !arguments.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let of = argument_type(&arguments)?;
        Ok(match of {
            DataType::Decimal128(..) => Box::new(Means::<Decimal128Type>::new(&of)),
            _ => Box::new(Means::<Float64Type>::new(&of)),
        })
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// Means by sums and counts; null where nothing was counted.
fn means(sums: &ArrayRef, counts: &[i64], of: &DataType) -> Result<ArrayRef> {
    let means = mean_type(of);
    let (DataType::Decimal128(_, scale), DataType::Decimal128(precision, more)) = (of, &means)
    else {
        let sums = sums.as_primitive::<Float64Type>();
        let means = sums.iter().zip(counts);
        let means: Float64Array = means
            .map(|(sum, count)| sum.filter(|_| *count > 0).map(|sum| sum / *count as f64))
            .collect();
        return Ok(Arc::new(means));
    };
    let shift = 10i128.pow(u32::try_from(more - scale).unwrap_or(0));
    let overflow = || {
        checked::ended(format!(
            "arithmetic overflow: a mean is no DECIMAL({precision},{more}); take the mean of a DOUBLE"
        ))
    };
    let mut values = Vec::with_capacity(counts.len());
    for (sum, count) in sums.as_primitive::<Decimal128Type>().iter().zip(counts) {
        values.push(match sum {
            Some(sum) if *count > 0 => Some(divided(sum, shift, *count).ok_or_else(overflow)?),
            _ => None,
        });
    }
    let values = Decimal128Array::from(values).with_precision_and_scale(*precision, *more)?;
    values
        .validate_decimal_precision(*precision)
        .map_err(|_| overflow())?;
    Ok(Arc::new(values))
}

/// `sum * shift / count`, rounded half up; none where that isn't within 128 bits.
fn divided(sum: i128, shift: i128, count: i64) -> Option<i128> {
    let count = i128::from(count);
    let rounded = |quotient: i128, rest: i128| {
        let is_half = rest.unsigned_abs() >= count.unsigned_abs().div_ceil(2);
        quotient.checked_add(if is_half { sum.signum() } else { 0 })
    };
    if let Some(shifted) = sum.checked_mul(shift) {
        return rounded(shifted / count, shifted % count);
    }
    let shifted = i256::from_i128(sum).checked_mul(i256::from_i128(shift))?;
    let wide = i256::from_i128(count);
    let quotient = shifted.checked_div(wide)?.to_i128()?;
    rounded(quotient, shifted.checked_rem(wide)?.to_i128()?)
}

/// The mean of all rows.
#[derive(Debug)]
struct Mean<T: ArrowPrimitiveType> {
    of: DataType,
    sum: Total<T>,
    count: i64,
}

impl<T: ArrowPrimitiveType> Mean<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn new(of: &DataType) -> Self {
        Self {
            of: of.clone(),
            sum: Total::new(&sum_type(of)),
            count: 0,
        }
    }
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for Mean<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.count += (values[0].len() - values[0].null_count()) as i64;
        self.sum.add(&values[0])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.count += sum(states[1].as_primitive::<Int64Type>()).unwrap_or_default();
        self.sum.add(&states[0])
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.sum.evaluate()?, ScalarValue::from(self.count)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mean = means(&self.sum.taken()?, &[self.count], &self.of)?;
        ScalarValue::try_from_array(&mean, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The means of groups.
#[derive(Debug)]
struct Means<T: ArrowPrimitiveType> {
    of: DataType,
    sums: Totals<T>,
    counts: Vec<i64>,
}

impl<T: ArrowPrimitiveType> Means<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn new(of: &DataType) -> Self {
        Self {
            of: of.clone(),
            sums: Totals::new(&sum_type(of)),
            counts: Vec::new(),
        }
    }
}

fn overflow() -> DataFusionError {
    checked::ended("arithmetic overflow: a group has more rows than a BIGINT counts".to_owned())
}

impl<T: ArrowPrimitiveType> GroupsAccumulator for Means<T>
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
        self.counts.resize(count, 0);
        for (row, group) in groups.iter().enumerate() {
            let is_counted = counts(filter, row) && values[0].is_valid(row);
            self.counts[*group] += i64::from(is_counted);
        }
        self.sums.update_batch(values, groups, filter, count)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.counts.resize(count, 0);
        let more = states[1].as_primitive::<Int64Type>();
        for (group, more) in groups.iter().zip(more) {
            let counted = self.counts[*group].checked_add(more.unwrap_or_default());
            self.counts[*group] = counted.ok_or_else(overflow)?;
        }
        self.sums.merge_batch(&states[..1], groups, count)
    }

    fn evaluate(&mut self, emitted: EmitTo) -> Result<ArrayRef> {
        let counts = emitted.take_needed(&mut self.counts);
        let sums = self.sums.evaluate(emitted)?;
        means(&sums, &counts, &self.of)
    }

    fn state(&mut self, emitted: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = emitted.take_needed(&mut self.counts);
        let sums = self.sums.evaluate(emitted)?;
        Ok(vec![sums, Arc::new(Int64Array::from(counts))])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let mut sums = self.sums.convert_to_state(values, filter)?;
        let counted = (0..sums[0].len()).map(|row| i64::from(sums[0].is_valid(row)));
        let counted = Int64Array::from_iter_values(counted);
        sums.push(Arc::new(counted));
        Ok(sums)
    }

    fn size(&self) -> usize {
        self.sums.size() + self.counts.capacity() * size_of::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: DataType = DataType::Decimal128(10, 2);

    fn prices(values: &[Option<i128>]) -> Vec<ArrayRef> {
        let array = Decimal128Array::from(values.to_vec());
        vec![Arc::new(array.with_precision_and_scale(10, 2).unwrap())]
    }

    fn numbers(means: &ArrayRef) -> Vec<Option<i128>> {
        means.as_primitive::<Decimal128Type>().iter().collect()
    }

    #[test]
    fn means_of_decimals_have_four_digits_more() {
        assert_eq!(mean_type(&PRICE), DataType::Decimal128(14, 6));
        assert_eq!(
            mean_type(&DataType::Decimal128(38, 18)),
            DataType::Decimal128(38, 22)
        );
        assert_eq!(sum_type(&PRICE), DataType::Decimal128(20, 2));
        let mut groups = Means::<Decimal128Type>::new(&PRICE);
        let rows = prices(&[Some(1), Some(1), Some(0), Some(-1), Some(-1), None]);
        let wanted = BooleanArray::from(vec![true, true, true, true, true, true]);
        groups
            .update_batch(&rows, &[0, 0, 0, 1, 1, 2], Some(&wanted), 4)
            .unwrap();
        let rows = prices(&[Some(0), Some(700)]);
        let wanted = BooleanArray::from(vec![Some(true), None]);
        groups
            .update_batch(&rows, &[1, 1], Some(&wanted), 4)
            .unwrap();
        let state = groups.state(EmitTo::All).unwrap();
        let mut merged = Means::<Decimal128Type>::new(&PRICE);
        merged.merge_batch(&state, &[0, 1, 2, 3], 4).unwrap();
        let means = merged.evaluate(EmitTo::All).unwrap();
        assert_eq!(means.data_type(), &DataType::Decimal128(14, 6));
        assert_eq!(numbers(&means), [Some(6_667), Some(-6_667), None, None]);
    }

    #[test]
    fn a_mean_is_rounded_half_up_and_one_of_too_many_digits_is_an_error() {
        assert_eq!(divided(5, 1, 2), Some(3));
        assert_eq!(divided(-5, 1, 2), Some(-3));
        assert_eq!(divided(4, 1, 3), Some(1));
        assert_eq!(divided(5, 1, 3), Some(2));
        let most = 10i128.pow(38) - 1;
        assert_eq!(divided(most, 10_000, 10_000), Some(most));
        assert_eq!(divided(most, 10_000, 1), None);
        let wide = DataType::Decimal128(38, 0);
        let value: ArrayRef = Arc::new(
            Decimal128Array::from(vec![most])
                .with_precision_and_scale(38, 0)
                .unwrap(),
        );
        let mut mean = Mean::<Decimal128Type>::new(&wide);
        mean.update_batch(&[value]).unwrap();
        let error = mean.evaluate().unwrap_err();
        assert!(error.to_string().contains("DECIMAL(38,4)"), "{error}");
    }

    #[test]
    fn a_condition_leaves_doubles_out() {
        let rows: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(vec![1.0, 2.0, 9.0]))];
        let wanted = BooleanArray::from(vec![Some(true), Some(true), Some(false)]);
        let mut groups = Means::<Float64Type>::new(&DataType::Float64);
        groups
            .update_batch(&rows, &[0, 0, 0], Some(&wanted), 2)
            .unwrap();
        let means = groups.evaluate(EmitTo::All).unwrap();
        let expected: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None]));
        assert_eq!(&means, &expected);
        let mut mean = Mean::<Float64Type>::new(&DataType::Float64);
        assert_eq!(mean.evaluate().unwrap(), ScalarValue::Float64(None));
        mean.update_batch(&rows).unwrap();
        assert_eq!(mean.evaluate().unwrap(), ScalarValue::Float64(Some(4.0)));
    }
}
