//! Functions of the program's own, and functions that depend on the session.

use std::sync::Arc;

use super::{FIRST, Fixture, SECOND, rows};
use crate::{
    Error, OutputMode, Registry,
    arrow::{
        array::{AsArray, Int64Array, StringArray},
        datatypes::{DataType, Int64Type},
    },
    col, from_json,
};

fn own() -> Registry {
    let mut registry = Registry::default();
    registry.register("Initial", &[DataType::Utf8], DataType::Utf8, |columns| {
        let texts = columns[0].as_string::<i32>().iter();
        let initials = texts.map(|text| text.map(|text| text.chars().take(1).collect::<String>()));
        Ok(Arc::new(StringArray::from_iter(initials)))
    });
    registry.register("halved", &[DataType::Int64], DataType::Int64, |columns| {
        let numbers = columns[0].as_primitive::<Int64Type>();
        if numbers.iter().flatten().any(|number| number % 2 == 1) {
            return Err(Error::Plan("an odd number can't be halved".to_owned()));
        }
        let halves = numbers.iter().map(|number| number.map(|number| number / 2));
        Ok(Arc::new(Int64Array::from_iter(halves)))
    });
    registry
}

#[test]
fn functions_of_the_program_are_known_to_sql_and_to_frames() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::of(folder, "UTC", own());
    fixture.rows().create_or_replace_temp_view("t").unwrap();
    let by_initial = "SELECT initial(job) AS i, count(*) AS n FROM t GROUP BY initial(job)";
    let query = fixture.start(fixture.session.sql(by_initial), OutputMode::Complete);
    fixture.put("1", FIRST);
    fixture.put("2", SECOND);
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[&["NULL", "2"], &["b", "1"], &["c", "3"]])
    );
    query.stop().unwrap();
    let frame = fixture.rows();
    let initial = frame.call("INITIAL", vec![col("name")]).unwrap();
    let fixed = fixture.session.read().schema(super::SCHEMA);
    let fixed = fixed.csv(fixture.input().to_str().unwrap()).unwrap();
    let names = fixed.select([initial]).unwrap().collect().unwrap();
    let names: Vec<String> = names
        .iter()
        .flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten())
        .map(str::to_owned)
        .collect();
    assert_eq!(names.concat(), "abcdef");
    assert!(frame.call("nothing", vec![]).is_err());
    fixture.session.stop().unwrap();
}

#[test]
fn what_a_function_of_the_program_says_ends_the_query() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::of(folder, "UTC", own());
    fixture.rows().create_or_replace_temp_view("t").unwrap();
    let halves = "SELECT halved(CAST(id AS BIGINT)) AS h FROM t";
    let query = fixture.start(fixture.session.sql(halves), OutputMode::Append);
    fixture.put("1", FIRST);
    let error = query.await_termination().unwrap_err().to_string();
    assert!(error.contains("an odd number can't be halved"), "{error}");
    fixture.session.stop().unwrap();
}

#[test]
fn what_driver_and_executors_must_have_in_common_names_the_functions() {
    let ours = own().fingerprint();
    assert!(
        ours.contains("initial") && ours.contains("halved"),
        "{ours}"
    );
    let mut other = Registry::default();
    other.register("initial", &[DataType::Utf8], DataType::Utf8, |columns| {
        Ok(Arc::clone(&columns[0]))
    });
    assert_ne!(other.fingerprint(), ours);
}

#[test]
fn times_in_json_are_in_the_sessions_zone() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::of(folder, "Europe/Berlin", Registry::default());
    let lines = || {
        let reader = fixture.session.read();
        reader.text(fixture.input().to_str().unwrap()).unwrap()
    };
    fixture.put("1", "{\"at\": \"2026-07-01 12:00:00\"}\n");
    let schema = "at TIMESTAMP";
    let parsed = lines()
        .select([from_json(col("value"), schema).alias("j")])
        .unwrap();
    parsed.create_or_replace_temp_view("parsed").unwrap();
    lines().create_or_replace_temp_view("lines").unwrap();
    for text in [
        "SELECT unix_micros(j.at) AS at FROM parsed".to_owned(),
        format!("SELECT unix_micros(from_json(value, '{schema}').at) AS at FROM lines"),
    ] {
        let micros = fixture.session.sql(&text).unwrap().collect().unwrap();
        let micros = micros[0].column(0).as_primitive::<Int64Type>().value(0);
        assert_eq!(micros, 1_782_900_000_000_000, "{text}");
    }
    let zone = DataType::Timestamp(
        crate::arrow::datatypes::TimeUnit::Microsecond,
        Some("Europe/Berlin".into()),
    );
    let at = lines()
        .with_column("j", from_json(col("value"), schema))
        .unwrap();
    let DataType::Struct(fields) = at.schema().field(1).data_type().clone() else {
        panic!("{:?}", at.schema());
    };
    assert_eq!(fields[0].data_type(), &zone);
    fixture.session.stop().unwrap();
}
