//! Floating point numbers as whole ones of the same order, NaN being the greatest, and back: the least and the greatest of them are those of the whole numbers.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use datafusion::{error::Result, logical_expr::ScalarFunctionArgs};

use super::simple::{Rule, Takes, unchecked};

fn ordered(number: f64) -> i64 {
    let number = if number.is_nan() {
        f64::NAN.abs()
    } else {
        number
    };
    let bits = number.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

fn number(ordered: i64) -> f64 {
    let bits = ordered ^ ((ordered >> 63) as u64 >> 1) as i64;
    f64::from_bits(bits as u64)
}

/// `total_order(number)`.
pub(crate) static TOTAL_ORDER: Rule = Rule {
    name: "total_order",
    takes: Takes::Any(1),
    gives: |_| Ok(DataType::Int64),
    check: unchecked,
    is_cast: false,
    compute: all_ordered,
};

/// `of_total_order(whole)`.
pub(crate) static OF_TOTAL_ORDER: Rule = Rule {
    name: "of_total_order",
    takes: Takes::Any(1),
    gives: |_| Ok(DataType::Float64),
    check: unchecked,
    is_cast: false,
    compute: all_numbers,
};

fn all_ordered(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let numbers = arguments.args[0].to_array(arguments.number_rows)?;
    let numbers = cast(&numbers, &DataType::Float64)?;
    let made: Int64Array = numbers.as_primitive::<Float64Type>().unary(ordered);
    Ok(Arc::new(made))
}

fn all_numbers(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let whole = arguments.args[0].to_array(arguments.number_rows)?;
    let made: Float64Array = whole.as_primitive::<Int64Type>().unary(number);
    Ok(Arc::new(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_and_nothing_is_lost() {
        let numbers = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -0.0,
            0.0,
            f64::MIN_POSITIVE,
            7.0,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        let whole = numbers.map(ordered);
        assert!(whole.is_sorted_by(|a, b| a < b), "{whole:?}");
        for (before, whole) in numbers.iter().zip(whole) {
            let after = number(whole);
            assert_eq!(after.to_bits(), before.to_bits());
        }
        assert_eq!(ordered(-f64::NAN), ordered(f64::NAN));
    }
}
