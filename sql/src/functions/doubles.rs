//! Functions of one floating point number where Spark's have another value than the engine's, or one where the engine has none: logarithms are null for what
//! isn't positive, and roots of negative numbers NaN.

use std::{f64::consts, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs},
};

use super::{
    simple::{Rule, Takes, unchecked},
    wrong,
};

/// Functions of one number.
pub(crate) static DOUBLES: [Rule; 5] = [
    of_one("ln", |arguments| {
        computed(arguments, |number| above(0.0, number).map(f64::ln))
    }),
    of_one("log10", |arguments| {
        computed(arguments, |number| above(0.0, number).map(f64::log10))
    }),
    // As Spark computes it.
    of_one("log2", |arguments| {
        computed(arguments, |number| {
            above(0.0, number).map(|number| number.ln() / consts::LN_2)
        })
    }),
    of_one("log1p", |arguments| {
        computed(arguments, |number| above(-1.0, number).map(f64::ln_1p))
    }),
    of_one("sqrt", |arguments| {
        computed(arguments, |number| Some(number.sqrt()))
    }),
];

/// `log(number)` is the natural logarithm, `log(base, number)` that to a base.
pub(crate) static LOG: Rule = Rule {
    name: "log",
    takes: Takes::Coerced(|name, types| match types.len() {
        1 | 2 => coerced(name, types),
        _ => Err(wrong("log takes a number, or a base and a number")),
    }),
    gives: |_| Ok(DataType::Float64),
    check: unchecked,
    is_cast: false,
    compute: logarithms,
};

const fn of_one(name: &'static str, compute: fn(&ScalarFunctionArgs) -> Result<ArrayRef>) -> Rule {
    Rule {
        name,
        takes: Takes::Coerced(|name, types| match types.len() {
            1 => coerced(name, types),
            _ => Err(wrong(format!("{name} takes one number"))),
        }),
        gives: |_| Ok(DataType::Float64),
        check: unchecked,
        is_cast: false,
        compute,
    }
}

/// None where there is no logarithm. NaN isn't below, and stays.
fn above(least: f64, number: f64) -> Option<f64> {
    match number <= least {
        true => None,
        false => Some(number),
    }
}

fn computed(
    arguments: &ScalarFunctionArgs,
    compute: impl Fn(f64) -> Option<f64>,
) -> Result<ArrayRef> {
    let numbers = doubles(&arguments.args[0], arguments.number_rows)?;
    let made: Float64Array = numbers.unary_opt(compute);
    Ok(Arc::new(made))
}

fn doubles(value: &ColumnarValue, rows: usize) -> Result<Float64Array> {
    let numbers = cast(&value.to_array(rows)?, &DataType::Float64)?;
    Ok(numbers.as_primitive::<Float64Type>().clone())
}

/// Numbers of any type as doubles, and text, as Spark takes it.
fn coerced(name: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let are_numbers = types
        .iter()
        .all(|data_type| data_type.is_numeric() || data_type.is_null() || data_type.is_string());
    if !are_numbers {
        return Err(wrong(format!("{name} takes numbers")));
    }
    Ok(vec![DataType::Float64; types.len()])
}

fn logarithms(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let natural = |number: f64| above(0.0, number).map(f64::ln);
    let rows = arguments.number_rows;
    let made: Float64Array = match arguments.args.as_slice() {
        [number] => doubles(number, rows)?.unary_opt(natural),
        [base, number] => {
            let bases = doubles(base, rows)?;
            let numbers = doubles(number, rows)?;
            let pairs = bases.iter().zip(&numbers);
            let logarithms = pairs.map(|(base, number)| {
                let base = natural(base?)?;
                let number = natural(number?)?;
                Some(number / base)
            });
            logarithms.collect()
        }
        _ => return Err(wrong("log takes a number, or a base and a number")),
    };
    Ok(Arc::new(made))
}
