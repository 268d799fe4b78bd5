//! `plain_text(double)`: the shortest digits that mean the number, without an exponent. A decimal is made of them, so that 1.005 is rounded to 1.01 as in Spark.

use std::{fmt::Write, sync::Arc};

use arrow::{
    array::{AsArray, StringBuilder},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::seconds::name_of_value;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PlainTextFunction {
    signature: Signature,
}

impl Default for PlainTextFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for PlainTextFunction {
    fn name(&self) -> &str {
        "plain_text"
    }

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
        let numbers = arguments.args[0].to_array(arguments.number_rows)?;
        let numbers = cast(&numbers, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        let mut texts = StringBuilder::with_capacity(numbers.len(), numbers.len() * 8);
        for number in numbers {
            let Some(number) = number else {
                texts.append_null();
                continue;
            };
            write!(texts, "{number}")
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            texts.append_value("");
        }
        Ok(ColumnarValue::Array(Arc::new(texts.finish())))
    }
}
