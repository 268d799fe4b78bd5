//! `size(list)`, also of a map: how many elements it has; null for none, as in Spark's ANSI mode.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array},
    compute::kernels::length::length,
    datatypes::DataType,
};
use datafusion::{error::Result, logical_expr::ScalarFunctionArgs};

use super::{
    simple::{Rule, Takes, unchecked},
    wrong,
};

pub(crate) static SIZE: Rule = Rule {
    name: "size",
    takes: Takes::Any(1),
    gives: |types| match types {
        [DataType::List(_) | DataType::Map(..)] => Ok(DataType::Int32),
        _ => Err(wrong("size takes a list or a map")),
    },
    check: unchecked,
    is_cast: false,
    compute: sizes,
};

fn sizes(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let values = arguments.args[0].to_array(arguments.number_rows)?;
    let Some(maps) = values.as_map_opt() else {
        return Ok(length(&values)?);
    };
    let lengths = maps.offsets().windows(2).map(|ends| ends[1] - ends[0]);
    Ok(Arc::new(Int32Array::new(
        lengths.collect(),
        maps.nulls().cloned(),
    )))
}
