//! What SQL text means where Spark and the engine differ: lists are counted from 0, and `/` of whole numbers gives a fraction.

use arrow::datatypes::DataType;
use datafusion::{
    common::DFSchema,
    error::Result,
    functions_nested::expr_fn::array_element,
    logical_expr::{
        Expr, ExprSchemable, GetFieldAccess, cast, lit,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr},
    },
    sql::sqlparser::ast::BinaryOperator,
};

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
        let is_list = matches!(data_type, DataType::List(_) | DataType::LargeList(_));
        match access.field_access {
            GetFieldAccess::ListIndex { key } if is_list => {
                let element = array_element(access.expr, *key + lit(1i64));
                Ok(PlannerResult::Planned(element))
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
        let left = cast(operation.left, DataType::Float64);
        Ok(PlannerResult::Planned(
            left / cast(operation.right, DataType::Float64),
        ))
    }
}
