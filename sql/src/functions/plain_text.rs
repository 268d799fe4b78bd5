//! `plain_text(double)`: the shortest digits that mean the number, without an exponent. A decimal is made of them, so that 1.005 is rounded to 1.01 as in Spark.

use std::{fmt::Write, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, StringBuilder},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::ScalarFunctionArgs,
};

use super::simple::{Rule, Takes, unchecked};

pub(crate) static PLAIN_TEXT: Rule = Rule {
    name: "plain_text",
    takes: Takes::Any(1),
    gives: |_| Ok(DataType::Utf8),
    check: unchecked,
    is_cast: true,
    compute: texts,
};

fn texts(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let numbers = arguments.args[0].to_array(arguments.number_rows)?;
    let numbers = cast(&numbers, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<Float64Type>();
    let mut texts = StringBuilder::with_capacity(numbers.len(), numbers.len() * 8);
    for number in numbers {
        let Some(number) = number else {
            texts.append_null();
            continue;
        };
        write!(texts, "{number}").map_err(|error| DataFusionError::External(Box::new(error)))?;
        texts.append_value("");
    }
    Ok(Arc::new(texts.finish()))
}
