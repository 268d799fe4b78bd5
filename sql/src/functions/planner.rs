//! What SQL text means where Spark and the engine differ: lists are counted from 0, `/` of whole numbers gives a fraction, and a `TIMESTAMP` is in the session's zone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::{
    common::{DFSchema, tree_node::Transformed},
    error::Result,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, GetFieldAccess, Operator, ScalarUDF, cast,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr, TypePlanner},
    },
    sql::sqlparser::ast::{self, BinaryOperator, TimezoneInfo},
};

use super::list_item::ListItemFunction;

#[derive(Debug)]
pub(crate) struct SparkPlanner;

fn is_whole(expression: &Expr, schema: &DFSchema) -> bool {
    let data_type = expression.get_type(schema);
    data_type.is_ok_and(|data_type| data_type.is_integer())
}

impl ExprPlanner for SparkPlanner {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let data_type = access.expr.get_type(schema)?;
        let is_list = matches!(data_type, DataType::List(_));
        match access.field_access {
            GetFieldAccess::ListIndex { key } if is_list => {
                let item = ScalarUDF::from(ListItemFunction::default());
                Ok(PlannerResult::Planned(item.call(vec![access.expr, *key])))
            }
            field_access => Ok(PlannerResult::Original(RawFieldAccessExpr {
                field_access,
                expr: access.expr,
            })),
        }
    }

    fn plan_binary_op(
        &self,
        operation: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_division = operation.op == BinaryOperator::Divide;
        if !is_division || !is_whole(&operation.left, schema) || !is_whole(&operation.right, schema)
        {
            return Ok(PlannerResult::Original(operation));
        }
        let divided = divided(operation.left / operation.right, schema)?;
        Ok(PlannerResult::Planned(divided.data))
    }
}

/// A division of whole numbers as one of doubles.
pub(crate) fn divided(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Divide,
            right,
        }) if is_whole(&left, schema) && is_whole(&right, schema) => {
            let left = cast(*left, DataType::Float64);
            let right = cast(*right, DataType::Float64);
            Ok(Transformed::yes(left / right))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Types as SQL text names them, in a session's zone.
#[derive(Debug)]
pub(crate) struct SparkTypes {
    pub(crate) zone: String,
}

impl TypePlanner for SparkTypes {
    fn plan_type_field(&self, named: &ast::DataType) -> Result<Option<FieldRef>> {
        let zone = || Some(Arc::from(self.zone.as_str()));
        let data_type = match named {
            ast::DataType::Timestamp(None, TimezoneInfo::WithoutTimeZone) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            ast::DataType::Timestamp(None, _) => DataType::Timestamp(TimeUnit::Microsecond, zone()),
            ast::DataType::TimestampNtz(None) => DataType::Timestamp(TimeUnit::Microsecond, None),
            ast::DataType::Binary(None) => DataType::Binary,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
