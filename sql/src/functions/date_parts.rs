//! `year(time)` and its sisters: parts of a date, or of a time in its zone.

use arrow::datatypes::DataType;
use datafusion::{
    error::Result,
    functions::datetime,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility, lit,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::wrong;

/// Name, the engine's part, and what is added to it.
type Part = (&'static str, &'static str, i32);

const PARTS: [Part; 8] = [
    ("year", "year", 0),
    ("quarter", "quarter", 0),
    ("month", "month", 0),
    ("day", "day", 0),
    ("dayofmonth", "day", 0),
    // Sundays are 1.
    ("dayofweek", "dow", 1),
    ("dayofyear", "doy", 0),
    ("weekofyear", "week", 0),
];

/// One of them.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct DatePartFunction {
    signature: Signature,
    number: usize,
}

impl DatePartFunction {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..PARTS.len()).map(|number| Self {
            signature: Signature::user_defined(Volatility::Immutable),
            number,
        })
    }
}

impl ScalarUDFImpl for DatePartFunction {
    fn name(&self) -> &str {
        PARTS[self.number].0
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Dates and times; text as a date.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [time @ (DataType::Date32 | DataType::Timestamp(..))] => Ok(vec![time.clone()]),
            [text] if text.is_string() || text.is_null() => Ok(vec![DataType::Date32]),
            _ => Err(wrong(format!("{} takes a date or a time", self.name()))),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(wrong(format!("{} is planned as date_part", self.name())))
    }

    fn simplify(&self, arguments: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let (_, part, more) = PARTS[self.number];
        let mut arguments = arguments;
        arguments.insert(0, lit(part));
        let part = datetime::date_part().call(arguments);
        Ok(ExprSimplifyResult::Simplified(match more {
            0 => part,
            more => part + lit(more),
        }))
    }
}
