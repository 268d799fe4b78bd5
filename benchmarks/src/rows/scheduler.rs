//! The scheduler's core alone, with 1 to 1,000 simulated executors.

use serde::Deserialize;

use crate::{
    Error, Setting,
    table::{Figure, Row, Unit},
};

#[derive(Deserialize)]
struct Completed {
    executors: u32,
    tasks_per_second: f64,
    micros_per_task: f64,
}

/// Completions a second at each size, the slowest of them, and how much dearer a task is than at the cheapest.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let batches = setting.sizes.scheduler_batches.to_string();
    let said = setting.ours.ask(&["scheduler", "--batches", &batches])?;
    let sizes: Vec<Completed> = serde_json::from_value(said)?;
    let rate = |completed: &Completed| completed.tasks_per_second;
    let mut rows: Vec<Row> = sizes
        .iter()
        .map(|completed| {
            Row::of(
                format!("scheduler core, {} executors", completed.executors),
                Figure::median(Unit::TasksPerSecond, vec![rate(completed)]),
            )
            .floor(100_000.0)
            .goal(300_000.0)
        })
        .collect();
    let costs: Vec<f64> = sizes.iter().map(|size| size.micros_per_task).collect();
    let dearest = costs.iter().copied().fold(0.0, f64::max);
    let cheapest = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let spread = Figure::median(Unit::Times, vec![dearest / cheapest]);
    rows.push(
        Row::of(
            "scheduler core, cost of a task, dearest to cheapest of these",
            spread,
        )
        .floor(2.0)
        .goal(1.3),
    );
    Ok(rows)
}
