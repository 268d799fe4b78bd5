//! `from_text(text, null)`: a text as a value of the second argument's type, as Spark casts it. What is no value ends the query, or is null with `try_from_text`.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, PrimitiveArray, StringArray,
        TimestampMicrosecondArray,
    },
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type,
        Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    },
};
use datafusion::{
    common::ScalarValue,
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};
use jiff::tz::TimeZone;

use super::{checked, simple::name_of_value, wrong};
use crate::texts::{
    numbers,
    times::{self, OwnZone},
};

pub(crate) const NAME: &str = "from_text";

/// The function, in a session's zone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FromTextFunction {
    signature: Signature,
    is_try: bool,
    zone: String,
}

impl FromTextFunction {
    pub(crate) fn new(is_try: bool, zone: &str) -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
            is_try,
            zone: zone.to_owned(),
        }
    }

    /// Whether texts are cast to this type otherwise than the engine does.
    pub(crate) fn is_for(data_type: &DataType) -> bool {
        matches!(
            data_type,
            DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Float32
                | DataType::Float64
                | DataType::Decimal128(..)
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Microsecond, _)
        )
    }

    /// A cast of a text.
    pub(crate) fn cast(self, text: Expr, to: &DataType) -> Result<Expr> {
        let typed = Expr::Literal(ScalarValue::try_from(to)?, None);
        Ok(ScalarUDF::from(self).call(vec![text, typed]))
    }
}

/// Texts that are to be values of a type.
struct Texts<'a> {
    texts: &'a StringArray,
    to: &'a DataType,
    is_try: bool,
}

impl Texts<'_> {
    /// Each as what a function makes of it.
    fn each<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Vec<Option<T>>> {
        let mut values = Vec::with_capacity(self.texts.len());
        for text in self.texts {
            let value = text.and_then(&read);
            match text {
                Some(text) if value.is_none() && !self.is_try => {
                    return Err(checked::ended(format!(
                        "`{text}` is no {}; correct it, or use TRY_CAST, which gives null for it",
                        name(self.to)
                    )));
                }
                _ => values.push(value),
            }
        }
        Ok(values)
    }

    fn primitive<T: ArrowPrimitiveType>(
        &self,
        read: impl Fn(&str) -> Option<T::Native>,
    ) -> Result<PrimitiveArray<T>> {
        Ok(self.each(read)?.into_iter().collect())
    }

    fn values(&self, zone: &TimeZone) -> Result<ArrayRef> {
        Ok(match self.to {
            DataType::Boolean => Arc::new(BooleanArray::from(self.each(numbers::truth)?)),
            DataType::Int8 => Arc::new(self.primitive::<Int8Type>(numbers::whole)?),
            DataType::Int16 => Arc::new(self.primitive::<Int16Type>(numbers::whole)?),
            DataType::Int32 => Arc::new(self.primitive::<Int32Type>(numbers::whole)?),
            DataType::Int64 => Arc::new(self.primitive::<Int64Type>(numbers::whole)?),
            DataType::Float32 => Arc::new(self.primitive::<Float32Type>(numbers::float)?),
            DataType::Float64 => Arc::new(self.primitive::<Float64Type>(numbers::float)?),
            DataType::Date32 => Arc::new(self.primitive::<Date32Type>(times::date)?),
            DataType::Decimal128(precision, scale) => {
                let decimals: Decimal128Array = self.primitive::<Decimal128Type>(|text| {
                    numbers::decimal(crate::texts::trimmed(text), *precision, *scale)
                })?;
                Arc::new(decimals.with_precision_and_scale(*precision, *scale)?)
            }
            DataType::Timestamp(TimeUnit::Microsecond, in_zone) => {
                let times: TimestampMicrosecondArray =
                    self.primitive::<TimestampMicrosecondType>(|text| match in_zone {
                        Some(_) => times::timestamp(text, zone),
                        None => times::local_timestamp(text, OwnZone::Ignored),
                    })?;
                Arc::new(times.with_timezone_opt(in_zone.clone()))
            }
            other => return Err(wrong(format!("a text can't be cast to {other}"))),
        })
    }
}

/// The type as SQL text has it.
fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP_NTZ".to_owned(),
        other => other.to_string(),
    }
}

impl ScalarUDFImpl for FromTextFunction {
    fn name(&self) -> &str {
        if self.is_try { "try_from_text" } else { NAME }
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        name_of_value(arguments)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let to = types.get(1).cloned();
        to.ok_or_else(|| wrong("from_text needs a type"))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zone = TimeZone::get(&self.zone)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let texts = cast(&texts, &DataType::Utf8)?;
        let texts = Texts {
            texts: texts.as_string::<i32>(),
            to: arguments.return_field.data_type(),
            is_try: self.is_try,
        };
        Ok(ColumnarValue::Array(texts.values(&zone)?))
    }
}
