//! Functions that the engine doesn't have, or has otherwise than Spark.
//!
//! Layout:
//! - `avg`: the mean, of decimals a decimal
//! - `checked`: arithmetic that ends a query where there is no result
//! - `checked_sum`: `sum`, which does so too
//! - `date_parts`: the year of a date, and so on
//! - `doubles`: logarithms and roots
//! - `event_time`: watches a column of event times
//! - `explode`: a row for each element of a list
//! - `from_json`: JSON in a text as a struct
//! - `from_text`: texts as Spark casts them
//! - `interval`: lengths of time as text
//! - `list_item`: elements of lists
//! - `normalized`: floating point numbers with one zero and one NaN
//! - `plain_text`: numbers as digits
//! - `planner`: what SQL text means where Spark and the engine differ
//! - `regexp_replace`: text with matches replaced
//! - `seconds`: times as seconds, and back
//! - `simple`: functions of their arguments alone, each said by one rule
//! - `size`: how long a list is
//! - `spark_text`: numbers and times as Spark casts them to text
//! - `split`: strings cut at a pattern
//! - `total_order`: floating point numbers as whole ones of the same order
//! - `window`: windows of event time

pub(crate) mod avg;
pub(crate) mod checked;
pub(crate) mod checked_sum;
pub(crate) mod date_parts;
pub(crate) mod doubles;
pub(crate) mod event_time;
pub(crate) mod explode;
pub(crate) mod from_json;
pub(crate) mod from_text;
pub(crate) mod interval;
pub(crate) mod list_item;
pub(crate) mod normalized;
pub(crate) mod plain_text;
pub(crate) mod planner;
pub(crate) mod regexp_replace;
pub(crate) mod seconds;
pub(crate) mod simple;
pub(crate) mod size;
pub(crate) mod spark_text;
pub(crate) mod split;
pub(crate) mod total_order;
pub(crate) mod window;

use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{AggregateUDF, ReturnFieldArgs, ScalarUDF},
    prelude::SessionContext,
};
use regex::Regex;

use checked::{CheckedFunction, Operation};
use simple::Rule;

const RULES: [&Rule; 8] = [
    &doubles::LOG,
    &normalized::NORMALIZED,
    &plain_text::PLAIN_TEXT,
    &regexp_replace::REGEXP_REPLACE,
    &size::SIZE,
    &split::SPLIT,
    &total_order::OF_TOTAL_ORDER,
    &total_order::TOTAL_ORDER,
];

/// Makes them known to a context.
pub(crate) fn register(context: &SessionContext, zone: &str) -> Result<()> {
    for function in [
        ScalarUDF::from(event_time::EventTimeFunction::default()),
        ScalarUDF::from(event_time::MarkFunction::default()),
        ScalarUDF::from(event_time::SeenFunction::default()),
        ScalarUDF::from(explode::ExplodeFunction::default()),
        ScalarUDF::from(from_json::FromJsonFunction::new(zone)),
        ScalarUDF::from(from_text::FromTextFunction::new(false, zone)),
        ScalarUDF::from(from_text::FromTextFunction::new(true, zone)),
        ScalarUDF::from(list_item::ListItemFunction::default()),
        ScalarUDF::from(seconds::FromSecondsFunction::new(false)),
        ScalarUDF::from(seconds::FromSecondsFunction::new(true)),
        ScalarUDF::from(spark_text::SparkTextFunction::new(zone)),
        ScalarUDF::from(window::WindowFunction::default()),
        ScalarUDF::from(window::SlidesFunction::default()),
        ScalarUDF::from(window::InWindowFunction::default()),
    ] {
        context.register_udf(function);
    }
    for operation in Operation::ALL {
        context.register_udf(ScalarUDF::from(CheckedFunction::new(operation)));
    }
    for function in seconds::SecondsFunction::all() {
        context.register_udf(ScalarUDF::from(function));
    }
    for rule in RULES.into_iter().chain(&doubles::DOUBLES) {
        context.register_udf(rule.function());
    }
    for function in date_parts::DatePartFunction::all() {
        context.register_udf(ScalarUDF::from(function));
    }
    context.register_udaf(AggregateUDF::from(avg::Avg::default()));
    context.register_udaf(AggregateUDF::from(checked_sum::CheckedSum::default()));
    Ok(())
}

/// Whether the function of this name has no result for some values, and ends the query there.
pub(crate) fn is_fallible(name: &str) -> bool {
    let mut operations = Operation::ALL.iter();
    name == list_item::NAME || operations.any(|operation| operation.name() == name)
}

/// The same, of casts of texts too.
pub(crate) fn may_end_queries(name: &str) -> bool {
    name == from_text::NAME || is_fallible(name)
}

/// A pattern of the query.
pub(crate) fn regex_of(pattern: &str) -> Result<Regex> {
    Regex::new(pattern)
        .map_err(|error| wrong(format!("`{pattern}` is no regular expression: {error}")))
}

/// Whether a pattern among a call's arguments is one, where it is a literal. What comes from a column is seen when it is there.
fn check_literal(arguments: &ReturnFieldArgs<'_>, number: usize) -> Result<()> {
    let pattern = arguments.scalar_arguments.get(number).copied().flatten();
    match pattern.and_then(ScalarValue::try_as_str) {
        Some(Some(pattern)) => regex_of(pattern).map(drop),
        _ => Ok(()),
    }
}

/// What is wrong with how a function was called.
pub(crate) fn wrong(message: impl Into<String>) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::Plan(message.into())
}
