//! What is read: nothing at all, what is gone, and values past what calendars know.

use std::{collections::BTreeSet, fs, sync::Arc};

use arrow::{
    array::{ArrayRef, Int32Array},
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};
use parquet::arrow::ArrowWriter;

use super::{Fixture, rows};
use crate::{DataFrame, Error, OutputMode, Trigger, arrow::array::Int64Array};

fn fixed(fixture: &Fixture) -> DataFrame {
    let reader = fixture.session.read().schema("id INT, name STRING");
    let frame = reader.csv(fixture.input().to_str().unwrap()).unwrap();
    frame.create_or_replace_temp_view("fixed").unwrap();
    frame
}

#[test]
fn an_aggregate_of_nothing_has_a_row_where_it_has_no_key() {
    let fixture = Fixture::new();
    fixed(&fixture);
    let sql = |text: &str| fixture.session.sql(text).unwrap();
    sql("SELECT count(*) AS n, max(id) AS most FROM fixed")
        .show(None)
        .unwrap();
    assert_eq!(fixture.printed(), rows(&[&["0", "NULL"]]));
    assert_eq!(
        sql("SELECT name, count(*) AS n FROM fixed GROUP BY name")
            .count()
            .unwrap(),
        0
    );
    assert_eq!(sql("SELECT * FROM fixed").count().unwrap(), 0);
    fixture.session.stop().unwrap();
}

#[test]
fn what_executors_read_is_refused_in_a_subquery() {
    let fixture = Fixture::new();
    fixture.put("1", "1,ann\n");
    fixed(&fixture);
    fixture
        .rows()
        .create_or_replace_temp_view("growing")
        .unwrap();
    let numbers = fixture
        .session
        .sql("SELECT (SELECT count(*) FROM growing) AS n")
        .unwrap();
    assert!(numbers.is_streaming());
    let refused = numbers.collect().unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let numbers = fixture
        .session
        .sql("SELECT (SELECT count(*) FROM fixed) AS n")
        .unwrap();
    assert!(numbers.collect().is_err());
    fixture.session.stop().unwrap();
}

#[test]
fn times_past_every_calendar_are_shown_and_written() {
    let fixture = Fixture::new();
    // Milliseconds where seconds are meant, as is often seen; and the ends of what a column holds.
    fixture.put(
        "1",
        "{\"at\": 1700000000000}\n{\"at\": 9223372036854}\n{\"at\": -9223372036854}\n",
    );
    let times = || {
        let reader = fixture.session.read_stream().schema("at TIMESTAMP");
        reader.json(fixture.input().to_str().unwrap()).unwrap()
    };
    let query = fixture.start(Ok(times()), OutputMode::Append);
    query.process_all_available().unwrap();
    let shown: BTreeSet<String> = fixture.newest().into_iter().flatten().collect();
    let expected = [
        "+55840-11-08 22:13:20",
        "+294247-01-10 04:00:54",
        "-290308-12-21 19:59:06",
    ];
    assert_eq!(shown, expected.map(str::to_owned).into());
    query.stop().unwrap();
    let out = fixture.folder.path().join("out");
    let writer = times()
        .write_stream()
        .format("csv")
        .trigger(Trigger::AvailableNow);
    let writer = writer.option(
        "checkpointLocation",
        fixture.folder.path().join("own").display(),
    );
    let query = writer.start_at(out.to_str().unwrap()).unwrap();
    query.await_termination().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn a_memory_stream_that_is_another_is_no_restart() {
    let fixture = Fixture::new();
    let start = |numbers: &[i64]| {
        let stream = fixture.session.memory_stream("n BIGINT").unwrap();
        for number in numbers {
            let column = std::sync::Arc::new(Int64Array::from(vec![*number]));
            let rows = crate::arrow::record_batch::RecordBatch::try_new(
                stream.to_df().schema(),
                vec![column],
            );
            stream.add_data(&rows.unwrap()).unwrap();
        }
        let writer = stream.to_df().write_stream().format("noop");
        writer
            .trigger(Trigger::AvailableNow)
            .start()?
            .await_termination()
    };
    start(&[1, 2]).unwrap();
    let error = start(&[3]).unwrap_err();
    assert_eq!(error.code(), "memory.gone", "{error}");
    start(&[1, 2, 3]).unwrap();
    fixture.session.stop().unwrap();
}

/// Puts a Parquet file of one row, column by column 1, 2, ..
fn put_parquet(fixture: &Fixture, name: &str, columns: &[&str]) {
    let fields = columns
        .iter()
        .map(|name| Field::new(*name, DataType::Int32, true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let values = (1..)
        .take(columns.len())
        .map(|value| -> ArrayRef { Arc::new(Int32Array::from(vec![value])) });
    let rows = RecordBatch::try_new(Arc::clone(&schema), values.collect()).unwrap();
    let file = fs::File::create(fixture.input().join(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema, None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

#[test]
fn columns_of_parquet_are_found_in_any_case_and_never_guessed() {
    let fixture = Fixture::new();
    put_parquet(&fixture, "1", &["other", "Emp_Id"]);
    let read = || {
        let reader = fixture.session.read().schema("emp_id INT, NAME INT");
        reader.parquet(fixture.input().to_str().unwrap()).unwrap()
    };
    read().show(None).unwrap();
    assert_eq!(fixture.printed(), rows(&[&["2", "NULL"]]));
    put_parquet(&fixture, "2", &["name", "emp_id", "Name"]);
    let error = read().collect().unwrap_err();
    assert_eq!(error.code(), "files.columns", "{error}");
    let text = error.to_string();
    assert!(text.contains("input/2 can't be read"), "{text}");
    assert!(text.contains("the columns name and Name"), "{text}");
    fixture.session.stop().unwrap();
}
