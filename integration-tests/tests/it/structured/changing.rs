//! A query that is started again as another one: what may differ goes on where it was, what may not is refused with both printed.

use std::{fs, time::Duration};

use millstream::sql::{
    DataFrame, Error, OutputMode, Result, Session, StreamingQuery, Trigger, col, count, lit, sum,
};

use super::local::{Folder, assert_refused, finish};

const SCHEMA: &str = "id BIGINT, name STRING, salary DOUBLE";

fn rows(folder: &Folder, session: &Session, most: u32) -> DataFrame {
    let reader = session.read_stream().schema(SCHEMA);
    let reader = reader.option("maxFilesPerTrigger", most);
    reader.csv(&folder.text("input")).unwrap()
}

#[test]
fn another_trigger_rate_limit_projection_or_filter_goes_on() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    let put = |number: i64| {
        let name = format!("{number:03}");
        folder.put(&name, format!("{number},n{number},{number}.5\n"));
    };
    let copy = |most: u32, trigger: Trigger, what: &str| -> StreamingQuery {
        rows(&folder, &session, most)
            .create_or_replace_temp_view("rows")
            .unwrap();
        let frame = session.sql(&format!("SELECT {what}")).unwrap();
        let writer = frame.write_stream().format("json").trigger(trigger);
        writer.start_at(&folder.text("out")).unwrap()
    };
    let newest = |query: &StreamingQuery| query.last_progress().map(|batch| batch.batch_id);

    (0..4).for_each(put);
    let query = copy(2, Trigger::Default, "id FROM rows");
    let id = query.id();
    finish(&session, &query);
    assert_eq!(newest(&query), Some(1), "two files a batch");
    // The rate limit.
    (4..8).for_each(put);
    let query = copy(100, Trigger::Default, "id FROM rows");
    assert_eq!(query.id(), id);
    finish(&session, &query);
    assert_eq!(newest(&query), Some(2), "all files in one batch");
    // The trigger, three times.
    (8..10).for_each(put);
    let every = Trigger::ProcessingTime(Duration::from_millis(50));
    finish(&session, &copy(100, every, "id FROM rows"));
    (10..12).for_each(put);
    let query = copy(1, Trigger::AvailableNow, "id FROM rows");
    query.await_termination().unwrap();
    assert_eq!(newest(&query), Some(5), "a file a batch, then the end");
    (12..14).for_each(put);
    let query = copy(1, Trigger::Once, "id FROM rows");
    query.await_termination().unwrap();
    assert_eq!(newest(&query), Some(6), "all of it at once");
    // The projection.
    (14..16).for_each(put);
    finish(
        &session,
        &copy(100, Trigger::Default, "id, upper(name) AS big FROM rows"),
    );
    // The filter.
    (16..20).for_each(put);
    finish(
        &session,
        &copy(100, Trigger::Default, "id FROM rows WHERE id % 2 = 0"),
    );
    session.stop().unwrap();

    let mut expected: Vec<String> = (0..14).map(|id| format!("{{\"id\":{id}}}")).collect();
    expected.extend((14..16).map(|id| format!("{{\"id\":{id},\"big\":\"N{id}\"}}")));
    expected.extend([16, 18].map(|id| format!("{{\"id\":{id}}}")));
    expected.sort();
    assert_eq!(folder.rows(), expected);
}

/// Starts a query over groups, in update mode.
fn start(frame: Result<DataFrame>) -> Result<StreamingQuery> {
    let writer = frame?.write_stream().format("noop");
    writer.output_mode(OutputMode::Update).start()
}

#[test]
fn what_stands_around_an_aggregate_may_change() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", "1,ann,1\n2,bob,2\n");
    let counts = |frame: DataFrame| frame.group_by(["name"])?.count();
    finish(
        &session,
        &start(counts(rows(&folder, &session, 9))).unwrap(),
    );
    folder.put("2", "3,ann,3\n4,cid,4\n");
    // A filter below, a projection above.
    let filtered = rows(&folder, &session, 9).filter("id <> 4").unwrap();
    let above = counts(filtered).unwrap();
    let above = above.with_column("twice", col("count") * lit(2i64));
    let query = start(above).unwrap();
    query.process_all_available().unwrap();
    let progress = query.last_progress().unwrap();
    assert_eq!(progress.state_operators[0].num_rows_total, 2);
    assert_eq!(progress.sink.num_output_rows, 1);
    query.stop().unwrap();
    session.stop().unwrap();
}

#[test]
fn other_keys_aggregates_and_sources_are_refused_with_the_difference() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    fs::create_dir(folder.path("elsewhere")).unwrap();
    folder.put("1", "1,ann,1\n2,bob,2\n");
    let all = || rows(&folder, &session, 9);
    let aggregated = |frame: DataFrame| {
        frame
            .group_by(["name"])?
            .agg([sum(col("salary")).alias("total")])
    };
    finish(&session, &start(aggregated(all())).unwrap());
    let refused = |frame: Result<DataFrame>, texts: &[&str]| {
        assert_refused(start(frame), "checkpoint.other_application", texts);
    };
    // Another key, one more, none.
    let keys = |keys: &[&str]| {
        all()
            .group_by(keys.iter().copied())?
            .agg([sum(col("salary")).alias("total")])
    };
    refused(keys(&["id"]), &["aggregate-0", "name", "id"]);
    refused(keys(&["name", "id"]), &["aggregate-0", "name", "id"]);
    refused(keys(&[]), &["aggregate-0", "name"]);
    // Another function, one more, another column.
    let functions = |functions: Vec<millstream::sql::Expr>| -> Result<DataFrame, Error> {
        all().group_by(["name"])?.agg(functions)
    };
    refused(
        functions(vec![count(col("salary")).alias("total")]),
        &["aggregate-0", "sum", "count"],
    );
    let two = vec![
        sum(col("salary")).alias("total"),
        count(lit(1i64)).alias("n"),
    ];
    refused(functions(two), &["aggregate-0", "sum", "count"]);
    refused(
        functions(vec![sum(col("id")).alias("total")]),
        &["aggregate-0", "salary", "id"],
    );
    // Another folder, another format, one more source, no aggregate.
    let elsewhere = session.read_stream().schema(SCHEMA);
    let elsewhere = elsewhere.csv(&folder.text("elsewhere")).unwrap();
    refused(aggregated(elsewhere.clone()), &["input", "elsewhere"]);
    let json = session.read_stream().schema(SCHEMA);
    let json = json.json(&folder.text("input")).unwrap();
    refused(aggregated(json), &["csv", "json"]);
    refused(aggregated(all().union(&elsewhere).unwrap()), &["elsewhere"]);
    refused(all().select(["name"]), &["aggregate-0"]);
    // Nothing of that changed it.
    finish(&session, &start(aggregated(all())).unwrap());
    session.stop().unwrap();
}
