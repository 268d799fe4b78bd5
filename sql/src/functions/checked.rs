//! Arithmetic that ends a query where there is no result, as Spark's ANSI mode: whole numbers that overflow, and division by zero.
//!
//! `+`, `-`, `*`, `/`, `%` and the sign of the engine become these functions once types are known, under the operators' names: `plan::ansi` does it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrowPrimitiveType, AsArray, Datum, new_empty_array},
    compute::kernels::numeric::{add, div, mul, neg, rem, sub},
    datatypes::{DataType, Decimal128Type, DecimalType, Field, FieldRef, Float32Type, Float64Type},
    error::ArrowError,
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl,
        Signature, Volatility, binary::BinaryTypeCoercer,
    },
    physical_expr_common::datum::apply,
};

use super::wrong;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Negate,
}

impl Operation {
    pub(crate) const ALL: [Self; 6] = [
        Self::Add,
        Self::Subtract,
        Self::Multiply,
        Self::Divide,
        Self::Remainder,
        Self::Negate,
    ];

    /// That of an operator.
    pub(crate) fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            Operator::Divide => Some(Self::Divide),
            Operator::Modulo => Some(Self::Remainder),
            _ => None,
        }
    }

    pub(crate) fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract | Self::Negate => Operator::Minus,
            Self::Multiply => Operator::Multiply,
            Self::Divide => Operator::Divide,
            Self::Remainder => Operator::Modulo,
        }
    }

    /// As the function is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "checked_add",
            Self::Subtract => "checked_subtract",
            Self::Multiply => "checked_multiply",
            Self::Divide => "checked_divide",
            Self::Remainder => "checked_remainder",
            Self::Negate => "checked_negate",
        }
    }

    /// Whether there may be no result for values of this type.
    pub(crate) fn is_for(self, data_type: &DataType) -> bool {
        let is_whole = data_type.is_signed_integer();
        let is_decimal = matches!(data_type, DataType::Decimal128(..));
        match self {
            Self::Add | Self::Subtract | Self::Multiply => is_whole || is_decimal,
            Self::Negate => is_whole,
            Self::Divide | Self::Remainder => {
                let is_float = matches!(data_type, DataType::Float32 | DataType::Float64);
                is_whole || is_decimal || is_float
            }
        }
    }
}

/// The function of an operation, from left to right: of `a + b + c` one call, as a call within a call for each operator would nest deeper than plans can.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct CheckedFunction {
    signature: Signature,
    operation: Operation,
}

impl CheckedFunction {
    pub(crate) fn new(operation: Operation) -> Self {
        let signature = match operation {
            Operation::Negate => Signature::any(1, Volatility::Immutable),
            _ => Signature::variadic_any(Volatility::Immutable),
        };
        Self {
            signature,
            operation,
        }
    }

    fn wrong_arguments(&self) -> DataFusionError {
        wrong(format!("{} has other arguments", self.name()))
    }

    /// The type of two arguments' result.
    fn type_of(&self, left: &DataType, right: &DataType) -> Result<DataType> {
        BinaryTypeCoercer::new(left, &self.operation.operator(), right).get_result_type()
    }

    fn computed(&self, left: &ColumnarValue, right: &ColumnarValue) -> Result<ColumnarValue> {
        match self.operation {
            Operation::Add => apply(left, right, add),
            Operation::Subtract => apply(left, right, sub),
            Operation::Multiply => apply(left, right, mul),
            Operation::Divide => apply(left, right, |left, right| {
                not_by_zero(left, right)?;
                div(left, right)
            }),
            Operation::Remainder => apply(left, right, |left, right| {
                not_by_zero(left, right)?;
                rem(left, right)
            }),
            Operation::Negate => Err(self.wrong_arguments()),
        }
    }
}

impl ScalarUDFImpl for CheckedFunction {
    fn name(&self) -> &str {
        self.operation.name()
    }

    /// That of the operator.
    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        let operator = self.operation.operator();
        if let [value] = arguments {
            return Ok(format!("(- {})", value.schema_name()));
        }
        let sides = arguments.iter().map(|side| side.schema_name().to_string());
        Ok(sides.collect::<Vec<_>>().join(&format!(" {operator} ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let (first, others) = types.split_first().ok_or_else(|| self.wrong_arguments())?;
        let mut others = others.iter();
        others.try_fold(first.clone(), |left, right| self.type_of(&left, right))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let fields = arguments.arg_fields.iter();
        let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        let data_type = self.return_type(&types)?;
        Ok(Arc::new(Field::new(self.name(), data_type, nullable)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // What is in a branch that no row takes has no value, and no error.
        if arguments.number_rows == 0 {
            let none = new_empty_array(arguments.return_field.data_type());
            return Ok(ColumnarValue::Array(none));
        }
        let (first, others) = match arguments.args.as_slice() {
            [value] if self.operation == Operation::Negate => {
                return negated(value).map_err(explained);
            }
            [first, others @ ..] if !others.is_empty() => (first, others),
            _ => return Err(self.wrong_arguments()),
        };
        let mut computed = first.clone();
        for right in others {
            computed = self.computed(&computed, right).map_err(explained)?;
            if let DataType::Decimal128(precision, _) = computed.data_type() {
                within(&computed, precision, arguments.number_rows)?;
            }
        }
        Ok(computed)
    }
}

fn negated(value: &ColumnarValue) -> Result<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(neg(array.as_ref())?)),
        ColumnarValue::Scalar(scalar) => Ok(ColumnarValue::Scalar(scalar.arithmetic_negate()?)),
    }
}

/// Floating point numbers have results by zero, which Spark's ANSI mode doesn't take. Where a side is null so is the result.
fn not_by_zero(left: &dyn Datum, right: &dyn Datum) -> Result<(), ArrowError> {
    let (divisors, is_one) = right.get();
    let (dividends, dividends_are_one) = left.get();
    let zeros = zeros(divisors);
    let is_by_zero = match (is_one, dividends_are_one) {
        (true, _) => zeros.contains(&0) && dividends.null_count() < dividends.len(),
        (false, true) => !zeros.is_empty() && dividends.is_valid(0),
        (false, false) => zeros.iter().any(|row| dividends.is_valid(*row)),
    };
    if is_by_zero {
        return Err(ArrowError::DivideByZero);
    }
    Ok(())
}

/// Rows of floating point numbers that are zero; other numbers have an error of their own.
fn zeros(numbers: &dyn Array) -> Vec<usize> {
    fn of<T: ArrowPrimitiveType>(numbers: &dyn Array, zero: T::Native) -> Vec<usize> {
        let values = numbers.as_primitive::<T>().values();
        // Almost always there is none, which is told fast.
        if !values.contains(&zero) {
            return Vec::new();
        }
        let rows = (0..values.len()).filter(|row| values[*row] == zero);
        rows.filter(|row| numbers.is_valid(*row)).collect()
    }
    match numbers.data_type() {
        DataType::Float32 => of::<Float32Type>(numbers, 0.0),
        DataType::Float64 => of::<Float64Type>(numbers, 0.0),
        _ => Vec::new(),
    }
}

/// Decimals have room for more digits than their type says.
fn within(computed: &ColumnarValue, precision: u8, rows: usize) -> Result<()> {
    if precision < Decimal128Type::MAX_PRECISION {
        return Ok(());
    }
    let array = computed.to_array(rows)?;
    let checked = array
        .as_primitive::<Decimal128Type>()
        .validate_decimal_precision(precision);
    checked.map_err(|error| {
        ended(format!(
            "a decimal overflowed: {error}; cast to fewer digits after the point, or to DOUBLE"
        ))
    })
}

/// What Spark calls it, and what to do.
fn explained(error: DataFusionError) -> DataFusionError {
    let DataFusionError::ArrowError(arrow, _) = &error else {
        return error;
    };
    match arrow.as_ref() {
        ArrowError::ArithmeticOverflow(what) => ended(format!(
            "arithmetic overflow: {what}; cast a side to a wider type, such as DECIMAL(38,0) or DOUBLE"
        )),
        ArrowError::DivideByZero => ended(
            "division by zero; where zeros are to give null, divide by nullif(divisor, 0)"
                .to_owned(),
        ),
        _ => error,
    }
}

pub(crate) fn ended(message: String) -> DataFusionError {
    DataFusionError::Execution(message)
}
