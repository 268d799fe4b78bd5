//! Functions of the program's own, in Rust. Driver and executors register the same ones, so such a program's executors run its own binary.

use std::sync::Arc;

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion::{
    error::DataFusionError,
    logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf},
};

use crate::error::Error;

/// The functions of a program.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    functions: Vec<ScalarUDF>,
}

impl Registry {
    /// A function of columns under a name that SQL and [`DataFrame::call`](crate::DataFrame::call) know: as many rows come out as go in. The same columns must always give the same.
    pub fn register<F>(&mut self, name: &str, inputs: &[DataType], output: DataType, function: F)
    where
        F: Fn(&[ArrayRef]) -> Result<ArrayRef, Error> + Send + Sync + 'static,
    {
        let function = move |arguments: &[ColumnarValue]| {
            let columns = ColumnarValue::values_to_arrays(arguments)?;
            let made =
                function(&columns).map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(ColumnarValue::Array(made))
        };
        self.functions.push(create_udf(
            &name.to_ascii_lowercase(),
            inputs.to_vec(),
            output,
            Volatility::Immutable,
            Arc::new(function),
        ));
    }

    pub(crate) fn functions(&self) -> &[ScalarUDF] {
        &self.functions
    }

    pub(crate) fn find(&self, name: &str) -> Option<&ScalarUDF> {
        let functions = self.functions.iter();
        let mut named = functions.filter(|function| function.name().eq_ignore_ascii_case(name));
        named.next()
    }

    /// What driver and executors must have in common.
    pub(crate) fn fingerprint(&self) -> String {
        let functions = self.functions.iter();
        let shown: Vec<String> = functions
            .map(|function| format!("{} {:?}", function.name(), function.signature()))
            .collect();
        shown.join("; ")
    }
}
