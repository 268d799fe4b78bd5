//! Functions of their arguments alone, each said by one rule.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::ArrayRef,
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility,
    },
};

use super::wrong;

/// What a function is.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(super) takes: Takes,
    /// The result's type, by those of the arguments.
    pub(super) gives: fn(&[DataType]) -> Result<DataType>,
    /// What is wrong with a call beside types, told when the query is built.
    pub(super) check: fn(&ReturnFieldArgs<'_>) -> Result<()>,
    /// Whether a column of it is called as its first argument is, as those of casts are.
    pub(super) is_cast: bool,
    pub(super) compute: fn(&ScalarFunctionArgs) -> Result<ArrayRef>,
}

/// Which arguments a function takes.
pub(super) enum Takes {
    /// So many of any type.
    Any(usize),
    /// Any.
    Several,
    /// As what this makes of their types; it is given the function's name for its message.
    Coerced(fn(&str, &[DataType]) -> Result<Vec<DataType>>),
}

/// For calls that are right if their types are.
pub(super) fn unchecked(_: &ReturnFieldArgs<'_>) -> Result<()> {
    Ok(())
}

impl Rule {
    /// The function.
    pub(crate) fn function(&'static self) -> ScalarUDF {
        let volatility = Volatility::Immutable;
        ScalarUDF::from(Simple {
            signature: match self.takes {
                Takes::Any(count) => Signature::any(count, volatility),
                Takes::Several => Signature::variadic_any(volatility),
                Takes::Coerced(_) => Signature::user_defined(volatility),
            },
            rule: self,
        })
    }
}

struct Simple {
    signature: Signature,
    rule: &'static Rule,
}

impl fmt::Debug for Simple {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.rule.name)
    }
}

impl PartialEq for Simple {
    fn eq(&self, other: &Self) -> bool {
        self.rule.name == other.rule.name
    }
}

impl Eq for Simple {}

impl Hash for Simple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rule.name.hash(state);
    }
}

impl ScalarUDFImpl for Simple {
    fn name(&self) -> &str {
        self.rule.name
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        if self.rule.is_cast {
            return name_of_value(arguments);
        }
        let names: Vec<String> = arguments
            .iter()
            .map(|argument| argument.schema_name().to_string())
            .collect();
        Ok(format!("{}({})", self.rule.name, names.join(",")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match self.rule.takes {
            Takes::Coerced(coerce) => coerce(self.rule.name, types),
            Takes::Any(_) | Takes::Several => Ok(types.to_vec()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        (self.rule.gives)(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let fields = arguments.arg_fields.iter();
        let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
        let made = self.return_type(&types)?;
        (self.rule.check)(&arguments)?;
        Ok(Arc::new(Field::new(self.rule.name, made, true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        (self.rule.compute)(&arguments).map(ColumnarValue::Array)
    }
}

/// That of the value, as a cast has it.
pub(super) fn name_of_value(arguments: &[Expr]) -> Result<String> {
    let value = arguments.first();
    let value = value.ok_or_else(|| wrong("a cast needs a value"))?;
    Ok(value.schema_name().to_string())
}
