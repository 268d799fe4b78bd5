//! Casts that the engine does otherwise than Spark: of texts, of numbers and times to text, of doubles to decimals, and between times and numbers, which are seconds
//! since 1970.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::{
    common::tree_node::{Transformed, TreeNode},
    error::Result,
    logical_expr::{
        Expr, ExprSchemable, LogicalPlan, ScalarUDF, cast, try_cast, utils::merge_schema,
    },
};

use crate::functions::{
    from_text::FromTextFunction,
    plain_text::PLAIN_TEXT,
    seconds::{FromSecondsFunction, SecondsFunction},
    spark_text::SparkTextFunction,
};

/// The same plan, with such casts replaced.
pub(super) fn written(plan: LogicalPlan, zone: &str) -> Result<LogicalPlan> {
    let written = plan.transform_up(|node| {
        let schema = merge_schema(&node.inputs());
        node.map_expressions(|expression| {
            expression.transform_up(|inside| {
                let (value, to, is_try) = match &inside {
                    Expr::Cast(cast) => (&cast.expr, cast.field.data_type(), false),
                    Expr::TryCast(cast) => (&cast.expr, cast.field.data_type(), true),
                    _ => return Ok(Transformed::no(inside)),
                };
                let Ok(from) = value.get_type(&schema) else {
                    return Ok(Transformed::no(inside));
                };
                let replaced = Casted {
                    value,
                    from: &from,
                    to,
                    is_try,
                }
                .replaced(zone)?;
                Ok(match replaced {
                    Some(replaced) => Transformed::yes(replaced),
                    None => Transformed::no(inside),
                })
            })
        })
    })?;
    Ok(written.data)
}

struct Casted<'e> {
    value: &'e Expr,
    from: &'e DataType,
    to: &'e DataType,
    is_try: bool,
}

impl Casted<'_> {
    fn replaced(&self, zone: &str) -> Result<Option<Expr>> {
        if self.from.is_string() && FromTextFunction::is_for(self.to) {
            let function = FromTextFunction::new(self.is_try, zone);
            return function.cast(self.value.clone(), self.to).map(Some);
        }
        Ok(self.of_value(zone))
    }

    /// Of what is no text.
    fn of_value(&self, zone: &str) -> Option<Expr> {
        if self.to.is_string() {
            let function = ScalarUDF::from(SparkTextFunction::new(zone));
            let is_other = SparkTextFunction::is_for(self.from);
            return is_other.then(|| function.call(vec![self.value.clone()]));
        }
        match (self.from, self.to) {
            (DataType::Timestamp(unit, of), to) if to.is_numeric() => {
                let seconds = SecondsFunction::of(to)?;
                let time = match of {
                    Some(_) => self.value.clone(),
                    // Without a zone it is a time in the session's.
                    None => {
                        let zoned = DataType::Timestamp(*unit, Some(zone.into()));
                        cast(self.value.clone(), zoned)
                    }
                };
                let given = seconds.gives();
                let seconds = ScalarUDF::from(seconds).call(vec![time]);
                Some(self.then(seconds, &given))
            }
            (from, DataType::Timestamp(..)) if from.is_numeric() => {
                let whole = from.is_integer();
                let number = if whole {
                    DataType::Int64
                } else {
                    DataType::Float64
                };
                let function = ScalarUDF::from(FromSecondsFunction::new(self.is_try));
                let time = function.call(vec![cast(self.value.clone(), number)]);
                let given = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                Some(self.then(time, &given))
            }
            (DataType::Float32 | DataType::Float64, DataType::Decimal128(..)) => {
                let digits = PLAIN_TEXT.function();
                let digits = digits.call(vec![self.value.clone()]);
                Some(self.then(digits, &DataType::Utf8))
            }
            _ => None,
        }
    }

    /// The rest of the way to what was asked for.
    fn then(&self, value: Expr, given: &DataType) -> Expr {
        if given == self.to {
            value
        } else if self.is_try {
            try_cast(value, self.to.clone())
        } else {
            cast(value, self.to.clone())
        }
    }
}
