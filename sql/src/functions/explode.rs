//! `explode(list)`: a row for each element. The function stands for that until the query is rewritten (`plan/rewrite.rs`); it is never called.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::{
    error::Result,
    logical_expr::{
        ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
    },
};

use super::wrong;

pub(crate) const NAME: &str = "explode";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExplodeFunction {
    signature: Signature,
}

impl Default for ExplodeFunction {
    fn default() -> Self {
        // Volatile, so that it isn't evaluated beforehand.
        Self {
            signature: Signature::any(1, Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for ExplodeFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn schema_name(&self, _arguments: &[datafusion::logical_expr::Expr]) -> Result<String> {
        Ok("col".to_owned())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::List(element) | DataType::LargeList(element)] => {
                Ok(element.data_type().clone())
            }
            other => Err(wrong(format!(
                "explode needs a list, but was given {other:?}"
            ))),
        }
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        Ok(Arc::new(Field::new("col", self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(wrong(
            "explode can stand in a select only; select it under a name, then go on with that column",
        ))
    }
}
