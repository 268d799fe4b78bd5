//! DataFusion, set up alike on both sides.

use std::sync::Arc;

use datafusion::{
    execution::{SessionStateBuilder, SessionStateDefaults, runtime_env::RuntimeEnvBuilder},
    functions::datetime,
    logical_expr::planner::ExprPlanner,
    prelude::{SessionConfig, SessionContext},
};

use datafusion_spark::planner::SparkFunctionPlanner;

use crate::{
    error::Error,
    functions::{
        self,
        planner::{SparkPlanner, SparkTypes},
    },
    plan::{ansi::Ansi, comparisons::Comparisons, fallible::FallibleLast},
    udf::Registry,
};

/// Partitions that plans are made for. They stand for any number: where rows change partitions a plan is cut, and the pieces run on one partition each.
pub(crate) const PLANNED_PARTITIONS: usize = 2;

/// Rows of a batch within plans.
const BATCH_ROWS: usize = 8_192;

/// The engine with Spark's functions.
pub(crate) fn context(zone: &str, own: &Registry) -> Result<SessionContext, Error> {
    let mut config = SessionConfig::new()
        .with_target_partitions(PLANNED_PARTITIONS)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false)
        .with_round_robin_repartition(false);
    let options = config.options_mut();
    options.execution.time_zone = Some(zone.to_owned());
    // Functions of Spark that know it: what has no result is an error.
    options.execution.enable_ansi_mode = true;
    // Every partial aggregate gives each key once.
    options
        .execution
        .skip_partial_aggregation_probe_rows_threshold = usize::MAX;
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // As Spark: going up, nulls come first.
    options.sql_parser.default_null_ordering = "nulls_min".to_owned();
    // What one batch leaves in a plan must not reach the next, and limits must not reach into aggregates, whose state outlives the batch.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_aggregation = false;
    options.optimizer.enable_distinct_aggregation_soft_limit = false;
    options.optimizer.enable_window_topn = false;
    let runtime = RuntimeEnvBuilder::new().build_arc()?;
    let mut planners: Vec<Arc<dyn ExprPlanner>> =
        vec![Arc::new(SparkPlanner), Arc::new(SparkFunctionPlanner)];
    planners.extend(SessionStateDefaults::default_expr_planners());
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_expr_planners(planners)
        .with_type_planner(Arc::new(SparkTypes {
            zone: zone.to_owned(),
        }))
        .with_analyzer_rule(Arc::new(Ansi::default()))
        .with_analyzer_rule(Arc::new(Comparisons))
        .with_physical_optimizer_rule(Arc::new(FallibleLast))
        .build();
    let mut context = SessionContext::new_with_state(state);
    datafusion_spark::register_all(&mut context)?;
    functions::register(&context, zone)?;
    for function in own.functions() {
        context.register_udf(function.clone());
    }
    Ok(context)
}

/// The engine as executors have it: plans that come to them are done with Spark's functions that stand for the engine's of the same name.
pub(crate) fn executor_context(zone: &str, own: &Registry) -> Result<SessionContext, Error> {
    let context = context(zone, own)?;
    for function in [datetime::date_trunc(), datetime::date_part()] {
        context.register_udf(function.as_ref().clone());
    }
    Ok(context)
}

/// What stands for the engine in a session's fingerprint.
pub(crate) fn version() -> String {
    format!("datafusion {}", datafusion::DATAFUSION_VERSION)
}

/// A context that is shared.
pub(crate) type SharedContext = Arc<SessionContext>;
