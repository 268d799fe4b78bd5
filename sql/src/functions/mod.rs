//! Functions that the engine doesn't have, or has otherwise than Spark.
//!
//! Layout:
//! - `event_time`: watches a column of event times
//! - `explode`: a row for each element of a list
//! - `from_json`: JSON in a text as a struct
//! - `interval`: lengths of time as text
//! - `planner`: what SQL text means where Spark and the engine differ
//! - `spark_text`: numbers and times as Spark casts them to text
//! - `split`: strings cut at a pattern
//! - `total_order`: floating point numbers as whole ones of the same order
//! - `window`: windows of event time

pub(crate) mod event_time;
pub(crate) mod explode;
pub(crate) mod from_json;
pub(crate) mod interval;
pub(crate) mod planner;
pub(crate) mod spark_text;
pub(crate) mod split;
pub(crate) mod total_order;
pub(crate) mod window;

use datafusion::{error::Result, logical_expr::ScalarUDF, prelude::SessionContext};

/// Makes them known to a context.
pub(crate) fn register(context: &SessionContext, zone: &str) -> Result<()> {
    for function in [
        ScalarUDF::from(event_time::EventTimeFunction::default()),
        ScalarUDF::from(event_time::MarkFunction::default()),
        ScalarUDF::from(event_time::SeenFunction::default()),
        ScalarUDF::from(explode::ExplodeFunction::default()),
        ScalarUDF::from(from_json::FromJsonFunction::new(zone)),
        ScalarUDF::from(spark_text::SparkTextFunction::new(zone)),
        ScalarUDF::from(split::SplitFunction::default()),
        ScalarUDF::from(total_order::TotalOrderFunction::default()),
        ScalarUDF::from(total_order::OfTotalOrderFunction::default()),
        ScalarUDF::from(window::WindowFunction::default()),
        ScalarUDF::from(window::SlidesFunction::default()),
        ScalarUDF::from(window::InWindowFunction::default()),
    ] {
        context.register_udf(function);
    }
    Ok(())
}

/// What is wrong with how a function was called.
pub(crate) fn wrong(message: impl Into<String>) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::Plan(message.into())
}
