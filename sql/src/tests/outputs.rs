//! Outputs that outlive their batches: what readers do to files, and names that can't be given.

use std::fs;

use super::{FIRST, Fixture, SECOND};
use crate::{DataFrame, Error, Result, Session, StreamingQuery, Trigger};

fn out(fixture: &Fixture) -> String {
    let out = fixture.folder.path().join("out");
    out.to_str().unwrap().to_owned()
}

fn write_files(fixture: &Fixture, frame: &DataFrame, by: &[&str]) -> Result<StreamingQuery> {
    let writer = frame
        .write_stream()
        .format("json")
        .trigger(Trigger::AvailableNow);
    writer
        .partition_by(by.iter().copied())
        .start_at(&out(fixture))
}

fn files(fixture: &Fixture) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(out(fixture)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
    paths
}

#[test]
fn files_that_readers_took_away_are_not_missed() {
    let fixture = Fixture::new();
    fixture.put("1", FIRST);
    let query = write_files(&fixture, &fixture.rows(), &[]).unwrap();
    query.await_termination().unwrap();
    let taken = files(&fixture);
    assert_eq!(taken.len(), 1);
    fs::remove_file(&taken[0]).unwrap();
    // The newest batch is published again, in vain, and what is new follows.
    fixture.put("2", SECOND);
    let query = write_files(&fixture, &fixture.rows(), &[]).unwrap();
    query.await_termination().unwrap();
    let left = files(&fixture);
    assert_eq!(left.len(), 1);
    assert!(fs::read_to_string(&left[0]).unwrap().contains("dan"));
    fixture.session.stop().unwrap();
}

#[test]
fn folders_are_named_by_columns_in_any_case() {
    let fixture = Fixture::new();
    fixture.put("1", "1,bob,clerk,2\n");
    let query = write_files(&fixture, &fixture.rows(), &["NAME"]).unwrap();
    query.await_termination().unwrap();
    let folders = files(&fixture);
    assert_eq!(folders, [fixture.folder.path().join("out/name=bob")]);
    fixture.session.stop().unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_told_before_its_batch_commits() {
    let fixture = Fixture::new();
    let long = "\u{e9}".repeat(130);
    fixture.put("1", &format!("1,{long},clerk,1\n2,bob,clerk,2\n"));
    let query = write_files(&fixture, &fixture.rows(), &["name"]).unwrap();
    let error = query.await_termination().unwrap_err();
    assert_eq!(error.code(), "sink.long_name", "{error}");
    // So the batch can run again without such rows.
    let short = fixture.rows().filter("length(name) < 100").unwrap();
    let query = write_files(&fixture, &short, &["name"]).unwrap();
    query.await_termination().unwrap();
    assert_eq!(
        files(&fixture),
        [fixture.folder.path().join("out/name=bob")]
    );
    fixture.session.stop().unwrap();
}

#[test]
fn a_table_in_memory_has_a_name_that_can_be_one() {
    let fixture = Fixture::new();
    let start = |session: &Session, name: &str| {
        let numbers = session.memory_stream("n BIGINT").unwrap();
        let writer = numbers.to_df().write_stream().format("memory");
        writer
            .query_name(name)
            .option(
                "checkpointLocation",
                fixture.folder.path().join("own").display(),
            )
            .start()
    };
    let refused = start(&fixture.session, "a.b").unwrap_err();
    assert!(
        matches!(&refused, Error::Option { name, .. } if name == "queryName"),
        "{refused}"
    );
    assert!(fixture.session.active_queries().is_empty());
    fixture.session.stop().unwrap();
}

#[test]
fn a_query_does_not_read_what_it_writes() {
    let fixture = Fixture::new();
    fixture.put("1", FIRST);
    let refused = |option: &str| {
        let writer = fixture.rows().write_stream().format("json");
        let writer = writer.option("path", out(&fixture));
        let error = writer
            .option(option, fixture.input().display())
            .start()
            .unwrap_err();
        assert!(
            matches!(&error, Error::Option { name, .. } if name == option),
            "{error}"
        );
        assert!(
            error.to_string().contains("the query reads this folder"),
            "{error}"
        );
    };
    refused("path");
    refused("checkpointLocation");
    fixture.session.stop().unwrap();
}
