//! A row for each element of a list that is its rows' one column. The elements lie one after the other already, so they are given as they lie; the engine's own
//! operator copies each to its place, as it must where other columns are repeated beside it.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, AsArray},
    compute::{filter, is_not_null},
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{
        NullHandling, Result,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
        stream::RecordBatchStreamAdapter,
        unnest::{ListUnnest, UnnestExec},
    },
};
use futures::{StreamExt, stream};

/// Puts the operator where a plan has the engine's for such rows.
pub(super) fn in_place(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        Ok(match node.downcast_ref::<UnnestExec>() {
            Some(unnest) if is_one_list(unnest) => Transformed::yes(Arc::new(ExplodeExec {
                input: Arc::clone(unnest.input()),
                schema: unnest.schema(),
                properties: Arc::clone(unnest.properties()),
            })),
            _ => Transformed::no(node),
        })
    })
    .data()
}

fn is_one_list(unnest: &UnnestExec) -> bool {
    let schema = unnest.input().schema();
    let [list] = schema.fields().as_ref() else {
        return false;
    };
    let only = ListUnnest {
        index_in_input_schema: 0,
        depth: 1,
    };
    matches!(list.data_type(), DataType::List(_))
        && unnest.list_column_indices() == [only]
        && unnest.options().null_handling == NullHandling::Drop
}

struct ExplodeExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for ExplodeExec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ExplodeExec")
    }
}

impl DisplayAs for ExplodeExec {
    fn fmt_as(
        &self,
        _format: DisplayFormatType,
        formatter: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        formatter.write_str("ExplodeExec")
    }
}

impl ExecutionPlan for ExplodeExec {
    fn name(&self) -> &str {
        "ExplodeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match children.into_iter().next() {
            Some(input) => Arc::new(Self {
                input,
                schema: Arc::clone(&self.schema),
                properties: Arc::clone(&self.properties),
            }),
            None => self,
        })
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let most = context.session_config().batch_size().max(1);
        let schema = Arc::clone(&self.schema);
        let lists = self.input.execute(partition, context)?;
        let elements = lists.flat_map(move |batch| {
            let pieces = batch.and_then(|batch| elements(&batch, &schema, most));
            stream::iter(match pieces {
                Ok(pieces) => pieces.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&self.schema), elements);
        Ok(Box::pin(stream))
    }
}

/// The elements of all lists, in batches of `most` rows, which is at least one.
fn elements(batch: &RecordBatch, schema: &SchemaRef, most: usize) -> Result<Vec<RecordBatch>> {
    let mut column = Arc::clone(batch.column(0));
    if column.null_count() > 0 {
        // What lies below a null is no element.
        column = filter(&column, &is_not_null(&column)?)?;
    }
    let lists = column.as_list::<i32>();
    let offsets = lists.value_offsets();
    let begin = offsets[0] as usize;
    let end = offsets[lists.len()] as usize;
    let all = lists.values().slice(begin, end - begin);
    let all = RecordBatch::try_new(Arc::clone(schema), vec![all])?;
    Ok((0..all.num_rows())
        .step_by(most)
        .map(|from| all.slice(from, most.min(all.num_rows() - from)))
        .collect())
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int32Array, ListArray},
        buffer::{NullBuffer, OffsetBuffer},
        datatypes::{Field, Int32Type, Schema},
    };

    use super::*;

    fn given(lists: ListArray, most: usize) -> Vec<Vec<Option<i32>>> {
        let list = Field::new("list", lists.data_type().clone(), true);
        let element = Schema::new(vec![Field::new("element", DataType::Int32, true)]);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![list])), vec![Arc::new(lists)]);
        let batches = elements(&batch.unwrap(), &Arc::new(element), most).unwrap();
        batches
            .iter()
            .map(|batch| batch.column(0).as_primitive::<Int32Type>().iter().collect())
            .collect()
    }

    fn lists(ends: Vec<i32>, is_valid: Vec<bool>) -> ListArray {
        let values = Int32Array::from(vec![Some(0), Some(1), None, Some(3), Some(4), Some(5)]);
        let field = Arc::new(Field::new_list_field(DataType::Int32, true));
        let nulls = NullBuffer::from(is_valid);
        ListArray::new(
            field,
            OffsetBuffer::new(ends.into()),
            Arc::new(values),
            Some(nulls),
        )
    }

    #[test]
    fn elements_are_given_as_they_lie() {
        let all = lists(vec![0, 2, 2, 6], vec![true; 3]);
        assert_eq!(
            given(all, 4),
            [
                vec![Some(0), Some(1), None, Some(3)],
                vec![Some(4), Some(5)]
            ]
        );
    }

    #[test]
    fn a_part_of_lists_gives_its_elements_alone() {
        let all = lists(vec![0, 2, 3, 6], vec![true; 3]);
        assert_eq!(given(all.slice(1, 1), 4), [vec![None]]);
    }

    #[test]
    fn what_lies_below_a_null_is_no_element() {
        let all = lists(vec![0, 2, 4, 6], vec![true, false, true]);
        assert_eq!(given(all, 8), [vec![Some(0), Some(1), Some(4), Some(5)]]);
    }

    #[test]
    fn empty_lists_give_nothing() {
        let none = lists(vec![2, 2, 2], vec![true; 2]);
        assert!(given(none, 8).is_empty());
    }
}
