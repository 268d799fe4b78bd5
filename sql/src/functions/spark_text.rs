//! `spark_text(value)`: a floating point number, a date or a time as Spark casts it to text, `1.0E10` and `2026-01-01 10:00:00`.

use std::sync::Arc;

use arrow::{
    array::{Array, StringBuilder},
    datatypes::DataType,
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};
use jiff::tz::TimeZone;

use super::simple::name_of_value;
use crate::show::cell_text;

/// The function, in a session's zone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SparkTextFunction {
    signature: Signature,
    zone: String,
}

impl SparkTextFunction {
    pub(crate) fn new(zone: &str) -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
            zone: zone.to_owned(),
        }
    }

    /// Whether the engine writes values of this type otherwise.
    pub(crate) fn is_for(data_type: &DataType) -> bool {
        matches!(
            data_type,
            DataType::Float32 | DataType::Float64 | DataType::Date32 | DataType::Timestamp(..)
        )
    }
}

impl ScalarUDFImpl for SparkTextFunction {
    fn name(&self) -> &str {
        "spark_text"
    }

    /// That of the value, as a cast has it.
    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        name_of_value(arguments)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zone = TimeZone::get(&self.zone)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let values = arguments.args[0].to_array(arguments.number_rows)?;
        let mut texts = StringBuilder::new();
        for row in 0..values.len() {
            if values.is_null(row) {
                texts.append_null();
                continue;
            }
            let text = cell_text(values.as_ref(), row, &zone);
            let text = text.map_err(|error| DataFusionError::External(Box::new(error)))?;
            texts.append_value(text);
        }
        Ok(ColumnarValue::Array(Arc::new(texts.finish())))
    }
}
