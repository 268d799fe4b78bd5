//! Functions of one floating point number where Spark's have another value than the engine's, or one where the engine has none: logarithms are null for what
//! isn't positive, and roots of negative numbers NaN.

use std::{f64::consts, sync::Arc};

use arrow::{
    array::{AsArray, Float64Array},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::wrong;

/// Name, what is computed, and above which number there is a value.
type Function = (&'static str, fn(f64) -> f64, Option<f64>);

const FUNCTIONS: [Function; 5] = [
    ("ln", f64::ln, Some(0.0)),
    ("log10", f64::log10, Some(0.0)),
    ("log2", binary_logarithm, Some(0.0)),
    ("log1p", f64::ln_1p, Some(-1.0)),
    ("sqrt", f64::sqrt, None),
];

/// As Spark computes it.
fn binary_logarithm(number: f64) -> f64 {
    number.ln() / consts::LN_2
}

fn applied(function: Function, number: f64) -> Option<f64> {
    let (_, compute, above) = function;
    // NaN isn't below, and stays.
    if above.is_some_and(|above| number <= above) {
        return None;
    }
    Some(compute(number))
}

fn doubles(value: &ColumnarValue, rows: usize) -> Result<Float64Array> {
    let numbers = cast(&value.to_array(rows)?, &DataType::Float64)?;
    Ok(numbers.as_primitive::<Float64Type>().clone())
}

/// Numbers of any type as doubles, and text, as Spark takes it.
fn coerced(name: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let are_numbers = types
        .iter()
        .all(|data_type| data_type.is_numeric() || data_type.is_null() || data_type.is_string());
    if !are_numbers {
        return Err(wrong(format!("{name} takes numbers")));
    }
    Ok(vec![DataType::Float64; types.len()])
}

/// One of them.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct DoubleFunction {
    signature: Signature,
    number: usize,
}

impl DoubleFunction {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..FUNCTIONS.len()).map(|number| Self {
            signature: Signature::user_defined(Volatility::Immutable),
            number,
        })
    }
}

impl ScalarUDFImpl for DoubleFunction {
    fn name(&self) -> &str {
        FUNCTIONS[self.number].0
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != 1 {
            return Err(wrong(format!("{} takes one number", self.name())));
        }
        coerced(self.name(), types)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let function = FUNCTIONS[self.number];
        let numbers = doubles(&arguments.args[0], arguments.number_rows)?;
        let made: Float64Array = numbers.unary_opt(|number| applied(function, number));
        Ok(ColumnarValue::Array(Arc::new(made)))
    }
}

/// `log(number)` is the natural logarithm, `log(base, number)` that to a base.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct LogFunction {
    signature: Signature,
}

impl Default for LogFunction {
    fn default() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for LogFunction {
    fn name(&self) -> &str {
        "log"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if !matches!(types.len(), 1 | 2) {
            return Err(wrong("log takes a number, or a base and a number"));
        }
        coerced(self.name(), types)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let natural = |number: f64| applied(FUNCTIONS[0], number);
        let rows = arguments.number_rows;
        let made: Float64Array = match arguments.args.as_slice() {
            [number] => doubles(number, rows)?.unary_opt(natural),
            [base, number] => {
                let bases = doubles(base, rows)?;
                let numbers = doubles(number, rows)?;
                let pairs = bases.iter().zip(&numbers);
                let logarithms = pairs.map(|(base, number)| {
                    let base = natural(base?)?;
                    let number = natural(number?)?;
                    Some(number / base)
                });
                logarithms.collect()
            }
            _ => return Err(wrong("log takes a number, or a base and a number")),
        };
        Ok(ColumnarValue::Array(Arc::new(made)))
    }
}
