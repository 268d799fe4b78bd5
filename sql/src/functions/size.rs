//! `size(list)`, also of a map: how many elements it has; null for none, as in Spark's ANSI mode.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, Int32Array},
    compute::kernels::length::length,
    datatypes::DataType,
};
use datafusion::{
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::wrong;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SizeFunction {
    signature: Signature,
}

impl Default for SizeFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for SizeFunction {
    fn name(&self) -> &str {
        "size"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::List(_) | DataType::Map(..)] => Ok(DataType::Int32),
            _ => Err(wrong("size takes a list or a map")),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = arguments.args[0].to_array(arguments.number_rows)?;
        let Some(maps) = values.as_map_opt() else {
            return Ok(ColumnarValue::Array(length(&values)?));
        };
        let lengths = maps.offsets().windows(2).map(|ends| ends[1] - ends[0]);
        let sizes = Int32Array::new(lengths.collect(), maps.nulls().cloned());
        Ok(ColumnarValue::Array(Arc::new(sizes)))
    }
}
