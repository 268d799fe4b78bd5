//! Columns left out, renamed, or given as SQL text.

use datafusion::{common::Column, logical_expr::Expr};

use super::DataFrame;
use crate::{error::Error, session};

impl DataFrame {
    /// Without these columns. Names that no column has are passed over, as by Spark.
    ///
    /// # Errors
    /// When no column would be left.
    pub fn drop<N: AsRef<str>>(&self, columns: impl IntoIterator<Item = N>) -> Result<Self, Error> {
        let columns = columns.into_iter();
        let dropped: Vec<String> = columns.map(|name| name.as_ref().to_lowercase()).collect();
        let kept = |column: &Column| !dropped.contains(&column.name.to_lowercase());
        let columns = self.inner.schema().columns().into_iter().filter(kept);
        let columns: Vec<Expr> = columns.map(Expr::Column).collect();
        if columns.is_empty() {
            return Err(Error::refused(
                "a query gives one column at least",
                "drop fewer columns",
            ));
        }
        Ok(self.with(self.inner.clone().select(columns)?))
    }

    /// With another name for a column. Nothing changes where there is none of that name, as in Spark.
    ///
    /// # Errors
    /// When the planner refuses the columns.
    pub fn with_column_renamed(&self, existing: &str, new: &str) -> Result<Self, Error> {
        let existing = existing.to_lowercase();
        let columns = self.inner.schema().columns().into_iter().map(|column| {
            let is_meant = column.name.to_lowercase() == existing;
            let column = Expr::Column(column);
            if is_meant { column.alias(new) } else { column }
        });
        let columns: Vec<Expr> = columns.collect();
        Ok(self.with(self.inner.clone().select(columns)?))
    }

    /// Expressions in SQL text, such as `upper(name) AS name`; `*` stands for all columns.
    ///
    /// # Errors
    /// When a text can't be read, or names what isn't there.
    pub fn select_expr<T: AsRef<str>>(
        &self,
        expressions: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        let schema = self.inner.schema();
        let mut selected = Vec::new();
        for text in expressions {
            let text = text.as_ref();
            if text.trim() == "*" {
                selected.extend(schema.columns().into_iter().map(Expr::Column));
                continue;
            }
            let context = self.session.context();
            selected.push(session::selected(context, text, schema)?);
        }
        Ok(self.with(self.inner.clone().select(selected)?))
    }
}
