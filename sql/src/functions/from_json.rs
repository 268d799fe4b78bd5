//! `from_json(text, schema)`: JSON in a text as a struct, by the rules of JSON files in mode PERMISSIVE.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, StructArray},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Fields},
};
use datafusion::{
    common::{
        ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility,
    },
};
use jiff::tz::TimeZone;

use super::wrong;
use crate::{
    ddl::IntoSchema,
    sources::{json, pattern::Patterns},
};

pub(crate) const NAME: &str = "from_json";

/// The function, in a session's zone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FromJsonFunction {
    signature: Signature,
    zone: String,
}

impl FromJsonFunction {
    pub(crate) fn new(zone: &str) -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
            zone: zone.to_owned(),
        }
    }

    /// An expression whose calls of the function are those of this session: one that was written without a session knows no zone.
    pub(crate) fn in_zone(expression: Expr, zone: &str) -> Result<Expr> {
        let changed = expression.transform_up(|inside| match inside {
            Expr::ScalarFunction(call) if call.name() == NAME => {
                let function = ScalarUDF::from(Self::new(zone));
                Ok(Transformed::yes(function.call(call.args)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(changed.data)
    }

    fn fields(&self, schema: Option<&ScalarValue>) -> Result<Fields> {
        let Some(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)),
        ) = schema
        else {
            return Err(wrong(
                "the schema of from_json is a literal text such as 'a INT, b STRING'",
            ));
        };
        let schema = text.as_str().into_schema(&self.zone);
        let schema = schema.map_err(|error| wrong(error.to_string()))?;
        for field in schema.fields() {
            let checked = json::check_type(field.name(), field.data_type());
            checked.map_err(|error| wrong(error.to_string()))?;
        }
        Ok(schema.fields().clone())
    }
}

impl ScalarUDFImpl for FromJsonFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Err(DataFusionError::Internal(
            "the type of from_json depends on its schema".to_owned(),
        ))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let schema = arguments.scalar_arguments.get(1).copied().flatten();
        let fields = self.fields(schema)?;
        Ok(Arc::new(Field::new(NAME, DataType::Struct(fields), true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let DataType::Struct(fields) = arguments.return_field.data_type() else {
            return Err(wrong("from_json gives a struct"));
        };
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let texts = cast(&texts, &DataType::Utf8)?;
        let zone = TimeZone::get(&self.zone)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let parsed = json::parse(
            texts.as_string::<i32>().iter(),
            fields,
            &zone,
            &Patterns::default(),
        );
        let parsed = parsed.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let made = StructArray::try_new_with_length(
            fields.clone(),
            parsed,
            texts.nulls().cloned(),
            texts.len(),
        )?;
        Ok(ColumnarValue::Array(Arc::new(made)))
    }
}
