//! Queries over Kafka that lose processes where it matters most, in every run; [`matrix`](super::matrix) tries the rest.

use super::{
    matrix::{Case, Stroke},
    scene::Query,
};

fn survives(query: Query, point: &'static str, stroke: Stroke) {
    Case {
        query,
        point,
        stroke,
    }
    .run();
}

#[test]
fn minutes_come_out_once_when_an_executor_dies_with_its_state_written() {
    let point = "executor.state.durable@batch=3";
    survives(Query::Windows, point, Stroke::ExecutorKilled);
}

#[test]
fn minutes_come_out_once_when_the_driver_dies_between_commit_and_files() {
    let point = "sink.files.publish@batch=3,done=2";
    survives(Query::Windows, point, Stroke::DriverKilled);
}

#[test]
fn counts_go_on_when_an_executor_dies_before_it_reports_what_it_wrote() {
    let point = "executor.task.before_report@batch=1,stage=1";
    survives(Query::Running, point, Stroke::ExecutorKilled);
}

#[test]
fn counts_go_on_when_the_driver_dies_before_a_commit() {
    let point = "driver.put.before@kind=commits,number=1";
    survives(Query::Running, point, Stroke::DriverKilled);
}
