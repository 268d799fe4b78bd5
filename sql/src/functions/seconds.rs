//! Times as seconds since 1970, whole ones or with a fraction, and back, as Spark's casts have it.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array,
        TimestampMicrosecondBuilder,
    },
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit},
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::{simple::name_of_value, wrong};

const MICROS: i64 = 1_000_000;
/// Decimals of microseconds.
const PRECISION: u8 = 20;
const SCALE: i8 = 6;

/// Microseconds since 1970, whatever the time's unit.
fn micros(times: &ArrayRef) -> Result<Int64Array> {
    let numbers = cast(times, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    Ok(match times.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            numbers.unary(|time| time.saturating_mul(MICROS))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            numbers.unary(|time| time.saturating_mul(1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => numbers.clone(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            numbers.unary(|time| time.div_euclid(1_000))
        }
        other => return Err(wrong(format!("{other} is no time"))),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Whole,
    Double,
    Decimal,
}

/// `whole_seconds(time)`, `seconds(time)`, `decimal_seconds(time)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecondsFunction {
    signature: Signature,
    kind: Kind,
}

impl SecondsFunction {
    pub(crate) fn all() -> [Self; 3] {
        [Kind::Whole, Kind::Double, Kind::Decimal].map(Self::new)
    }

    fn new(kind: Kind) -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
            kind,
        }
    }

    /// What a cast to a type of numbers goes by.
    pub(crate) fn of(data_type: &DataType) -> Option<Self> {
        let kind = match data_type {
            whole if whole.is_integer() => Kind::Whole,
            DataType::Float32 | DataType::Float64 => Kind::Double,
            DataType::Decimal128(..) => Kind::Decimal,
            _ => return None,
        };
        Some(Self::new(kind))
    }

    pub(crate) fn gives(&self) -> DataType {
        match self.kind {
            Kind::Whole => DataType::Int64,
            Kind::Double => DataType::Float64,
            Kind::Decimal => DataType::Decimal128(PRECISION, SCALE),
        }
    }
}

impl ScalarUDFImpl for SecondsFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Whole => "whole_seconds",
            Kind::Double => "seconds",
            Kind::Decimal => "decimal_seconds",
        }
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        name_of_value(arguments)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(self.gives())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = arguments.args[0].to_array(arguments.number_rows)?;
        let micros = micros(&times)?;
        let made: ArrayRef = match self.kind {
            Kind::Whole => {
                let seconds: Int64Array = micros.unary(|micros| micros.div_euclid(MICROS));
                Arc::new(seconds)
            }
            Kind::Double => {
                let seconds: Float64Array = micros.unary(|micros| micros as f64 / MICROS as f64);
                Arc::new(seconds)
            }
            Kind::Decimal => {
                let seconds: Decimal128Array = micros.unary(i128::from);
                Arc::new(seconds.with_precision_and_scale(PRECISION, SCALE)?)
            }
        };
        Ok(ColumnarValue::Array(made))
    }
}

/// `from_seconds(number)`: a time in microseconds, in UTC. What is no number of seconds is an error, or null with `try_from_seconds`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FromSecondsFunction {
    signature: Signature,
    is_try: bool,
}

impl FromSecondsFunction {
    pub(crate) fn new(is_try: bool) -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
            is_try,
        }
    }

    fn of_double(&self, seconds: f64) -> Result<Option<i64>> {
        if !seconds.is_finite() && !self.is_try {
            return Err(DataFusionError::Execution(format!(
                "{seconds} is no TIMESTAMP; TRY_CAST gives null for it"
            )));
        }
        // Of too large a number the last time, as Spark.
        let micros = (seconds * MICROS as f64) as i64;
        Ok(seconds.is_finite().then_some(micros))
    }
}

impl ScalarUDFImpl for FromSecondsFunction {
    fn name(&self) -> &str {
        if self.is_try {
            "try_from_seconds"
        } else {
            "from_seconds"
        }
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        name_of_value(arguments)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(
            TimeUnit::Microsecond,
            Some("UTC".into()),
        ))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let numbers = arguments.args[0].to_array(arguments.number_rows)?;
        let mut times = TimestampMicrosecondBuilder::with_capacity(numbers.len());
        if let Some(whole) = numbers.as_primitive_opt::<Int64Type>() {
            for seconds in whole {
                times.append_option(seconds.map(|seconds| seconds.saturating_mul(MICROS)));
            }
        } else {
            let numbers = cast(&numbers, &DataType::Float64)?;
            for seconds in numbers.as_primitive::<Float64Type>() {
                let time = match seconds {
                    Some(seconds) => self.of_double(seconds)?,
                    None => None,
                };
                times.append_option(time);
            }
        }
        let times = times.finish().with_timezone("UTC");
        Ok(ColumnarValue::Array(Arc::new(times)))
    }
}
