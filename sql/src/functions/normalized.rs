//! `normalized(value)`: floating point numbers with one zero and one NaN, also those within structs. Values that are equal are then the same bits, and one group.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, StructArray},
    datatypes::{DataType, Float32Type, Float64Type},
};
use datafusion::{error::Result, logical_expr::ScalarFunctionArgs};

use super::simple::{Rule, Takes, unchecked};

pub(crate) static NORMALIZED: Rule = Rule {
    name: "normalized",
    takes: Takes::Any(1),
    gives: |types| Ok(types[0].clone()),
    check: unchecked,
    is_cast: true,
    compute: |arguments: &ScalarFunctionArgs| {
        let values = arguments.args[0].to_array(arguments.number_rows)?;
        normalized(&values)
    },
};

/// Whether equal values of this type may be different bits.
pub(crate) fn is_for(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::Struct(fields) => fields.iter().any(|field| is_for(field.data_type())),
        _ => false,
    }
}

fn normalized(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Float32 => {
            let numbers: Float32Array = values.as_primitive::<Float32Type>().unary(|number| {
                // A sum of two zeros of different signs is the one without.
                if number.is_nan() {
                    f32::NAN
                } else {
                    number + 0.0
                }
            });
            Arc::new(numbers)
        }
        DataType::Float64 => {
            let numbers: Float64Array = values.as_primitive::<Float64Type>().unary(|number| {
                if number.is_nan() {
                    f64::NAN
                } else {
                    number + 0.0
                }
            });
            Arc::new(numbers)
        }
        DataType::Struct(fields) if is_for(values.data_type()) => {
            let pairs = values.as_struct();
            let columns: Result<Vec<ArrayRef>> = pairs.columns().iter().map(normalized).collect();
            let nulls = pairs.nulls().cloned();
            let made =
                StructArray::try_new_with_length(fields.clone(), columns?, nulls, pairs.len());
            Arc::new(made?)
        }
        _ => Arc::clone(values),
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn equal_numbers_are_the_same_bits() {
        let other_nan = f64::from_bits(0xfff8_0000_0000_0001);
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![
            Some(-0.0),
            Some(0.0),
            Some(other_nan),
            Some(f64::NAN),
            Some(-1.5),
            None,
        ]));
        let small: ArrayRef = Arc::new(Float32Array::from(vec![-0.0, -f32::NAN, 7.0]));
        let bits = |numbers: &ArrayRef| -> Vec<Option<u64>> {
            let numbers = numbers.as_primitive::<Float64Type>().iter();
            numbers.map(|number| number.map(f64::to_bits)).collect()
        };
        let field = Field::new("x", DataType::Float64, true);
        let pair = StructArray::from(vec![(Arc::new(field), Arc::clone(&numbers))]);
        let pair = normalized(&(Arc::new(pair) as ArrayRef)).unwrap();
        for made in [&normalized(&numbers).unwrap(), pair.as_struct().column(0)] {
            let bits = bits(made);
            assert_eq!((bits[0], bits[2]), (bits[1], bits[3]));
            assert_eq!((bits[0], bits[4]), (Some(0), Some((-1.5f64).to_bits())));
            assert_eq!(made.null_count(), 1);
        }
        let small = normalized(&small).unwrap();
        let small = small.as_primitive::<Float32Type>().values();
        assert_eq!(small[0].to_bits(), 0);
        assert_eq!(small[1].to_bits(), f32::NAN.to_bits());
    }
}
