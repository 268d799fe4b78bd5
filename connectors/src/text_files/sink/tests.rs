//! Both halves together.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use millstream_common::{
    ids::{BatchId, Epoch, QueryId},
    protocol::SinkCommit,
    time::BatchTime,
};

use super::*;
use crate::{
    conformance::{Attempt, NoServices, SinkUnderTest, check_sink},
    sink::{Sink, SinkBatch, SinkDriver, SinkStart, WriteId},
};

pub(super) const OUTPUT_ID: &str = "save as text/0";

struct Output {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Output {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let prefix = format!("{}/out/counts", folder.path().display());
        Self {
            folder,
            settings: Settings::new(OUTPUT_ID, prefix),
        }
    }

    fn publisher(&self) -> TextFilePublisher {
        TextFilePublisher::new(&self.settings).unwrap()
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn batch_folder(&self) -> PathBuf {
        self.out().join("counts-1000")
    }

    fn write(&self, attempt: Attempt, text: &str) -> Result<SinkCommit, Failure> {
        let sink = TextFileSink::new(&self.settings).unwrap();
        write(&sink, attempt, text)
    }

    /// Visible files by their path below the output's parent, with their content.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for folder in fs::read_dir(self.out()).unwrap() {
            let folder = folder.unwrap().path();
            if folder.file_name().unwrap() == ".staging" {
                continue;
            }
            for file in fs::read_dir(&folder).unwrap() {
                let path = file.unwrap().path();
                let name = path.strip_prefix(self.out()).unwrap();
                let content = fs::read_to_string(&path).unwrap();
                files.insert(name.to_str().unwrap().to_owned(), content);
            }
        }
        files
    }

    fn staged(&self) -> Vec<String> {
        let mut names = Vec::new();
        for entry in walkdir::WalkDir::new(self.out().join(".staging")) {
            let entry = entry.unwrap();
            if entry.file_type().is_file() {
                names.push(entry.file_name().to_str().unwrap().to_owned());
            }
        }
        names.sort();
        names
    }
}

/// Writes `text` as this attempt.
pub(super) fn write(
    sink: &impl Sink<TextRows>,
    attempt: Attempt,
    text: &str,
) -> Result<SinkCommit, Failure> {
    let services = NoServices;
    let mut task = attempt.task(&services);
    let id = WriteId::of(&task, OUTPUT_ID);
    let mut writer = sink.writer(id, &task)?;
    let rows = TextRows {
        text: text.to_owned(),
        rows: text.lines().count() as u64,
    };
    writer.write(rows, &mut task)?;
    writer.finish(&mut task)
}

/// The first batch.
pub(super) fn batch(query: QueryId, epoch: u64) -> SinkBatch {
    SinkBatch {
        query,
        epoch: Epoch(epoch),
        batch: BatchId(0),
        batch_time: BatchTime(1_000),
    }
}

/// Nothing ran yet.
pub(super) fn start(query: QueryId) -> SinkStart {
    SinkStart {
        query,
        output: "save#0".to_owned(),
        next: BatchId(0),
        interrupted: None,
    }
}

/// A line each.
pub(super) fn chunk(rows: &[String]) -> TextRows {
    let mut chunk = TextRows::default();
    for row in rows {
        chunk.text.push_str(row);
        chunk.end_row();
    }
    chunk
}

#[async_trait]
impl SinkUnderTest for Output {
    type Chunk = TextRows;
    const OUTPUT: &'static str = OUTPUT_ID;

    fn driver(&self) -> Box<dyn SinkDriver> {
        Box::new(self.publisher())
    }

    fn executor(&self) -> Box<dyn Sink<TextRows>> {
        Box::new(TextFileSink::new(&self.settings).unwrap())
    }

    fn chunk(&self, rows: &[String]) -> TextRows {
        chunk(rows)
    }

    async fn visible(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for content in self.files().values() {
            rows.extend(content.lines().map(str::to_owned));
        }
        rows
    }

    async fn publish_partly(&self, batch: SinkBatch, winners: &[SinkCommit], count: usize) -> bool {
        let folder = self.out().join(format!("counts-{}", batch.batch_time.0));
        fs::create_dir(&folder).unwrap();
        for winner in &winners[..count] {
            let file: StagedFile = serde_json::from_value(winner.payload.clone()).unwrap();
            fs::rename(self.out().join(file.staged), folder.join(file.name)).unwrap();
        }
        true
    }
}

#[tokio::test]
async fn conforms() {
    check_sink(&Output::new()).await.unwrap();
    let mut output = Output::new();
    output.settings.fsync = false;
    output.settings.success_file = false;
    check_sink(&output).await.unwrap();
}

#[tokio::test]
async fn folders_and_files_have_their_documented_names() {
    let mut output = Output::new();
    output.settings.suffix = "txt".to_owned();
    let query = QueryId::random();
    let publisher = output.publisher();
    let shared = publisher.check(&start(query)).await.unwrap();
    assert_eq!(shared, [output.out()]);
    let winners = [
        output.write(Attempt::first(query, 0, 0), "a\n").unwrap(),
        output.write(Attempt::first(query, 0, 1), "").unwrap(),
    ];
    assert!(output.files().is_empty());
    publisher.publish(batch(query, 1), &winners).await.unwrap();
    let expected = [
        ("counts-1000.txt/_SUCCESS", ""),
        ("counts-1000.txt/part-00000", "a\n"),
        ("counts-1000.txt/part-00001", ""),
    ];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
    assert_eq!(output.files(), BTreeMap::from(expected));
    publisher.sweep(batch(query, 1)).await;
    assert_eq!(output.staged(), ["0.published"]);
}

#[tokio::test]
async fn an_empty_batch_has_a_complete_folder() {
    let output = Output::new();
    let query = QueryId::random();
    let publisher = output.publisher();
    publisher.publish(batch(query, 1), &[]).await.unwrap();
    let files: Vec<String> = output.files().into_keys().collect();
    assert_eq!(files, ["counts-1000/_SUCCESS"]);
}

#[tokio::test]
async fn a_folder_that_someone_else_wrote_is_refused_by_name() {
    let output = Output::new();
    let query = QueryId::random();
    let publisher = output.publisher();
    let winner = output.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    let winners = [winner];
    fs::create_dir(output.batch_folder()).unwrap();
    for name in ["_SUCCESS", "part-00000", "part-00009", "notes"] {
        let path = output.batch_folder().join(name);
        fs::write(&path, "other\n").unwrap();
        let failure = output
            .write(Attempt::first(query, 0, 1), "b\n")
            .unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.retry),
            ("sink.output_exists", Retry::Never)
        );
        let failure = publisher
            .publish(batch(query, 1), &winners)
            .await
            .unwrap_err();
        assert_eq!(failure.code, "sink.output_exists");
        assert!(failure.message.contains("counts-1000"), "{failure}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "other\n");
        fs::remove_file(&path).unwrap();
    }
    // Nothing was lost by that.
    publisher.publish(batch(query, 1), &winners).await.unwrap();
    assert_eq!(output.files()["counts-1000/part-00000"], "a\n");
}

#[tokio::test]
async fn two_outputs_to_one_prefix_are_refused() {
    let output = Output::new();
    let mut other = output.settings.clone();
    other.output = "another".to_owned();
    let query = QueryId::random();
    let winner = output.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    let sink = TextFileSink::new(&other).unwrap();
    let services = NoServices;
    let mut task = Attempt::first(query, 0, 0).task(&services);
    let id = WriteId::of(&task, "another");
    let writer = sink.writer(id, &task).unwrap();
    let late = writer.finish(&mut task).unwrap();
    output
        .publisher()
        .publish(batch(query, 1), &[winner])
        .await
        .unwrap();
    let publisher = TextFilePublisher::new(&other).unwrap();
    let failure = publisher
        .publish(batch(query, 1), &[late])
        .await
        .unwrap_err();
    assert_eq!(failure.code, "sink.output_exists");
    assert_eq!(output.files()["counts-1000/part-00000"], "a\n");
}

#[tokio::test]
async fn a_file_that_vanished_before_it_was_published_is_named() {
    let output = Output::new();
    let query = QueryId::random();
    let winner = output.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    let staged: StagedFile = serde_json::from_value(winner.payload.clone()).unwrap();
    fs::remove_file(output.out().join(staged.staged)).unwrap();
    let publisher = output.publisher();
    let failure = publisher
        .publish(batch(query, 1), std::slice::from_ref(&winner))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::DataLoss);
    assert!(
        failure.message.contains("counts-1000/part-00000"),
        "{failure}"
    );
    assert!(!output.batch_folder().join("_SUCCESS").exists());
    fs::write(output.batch_folder().join("part-00000"), "cut").unwrap();
    let failure = publisher
        .publish(batch(query, 1), &[winner])
        .await
        .unwrap_err();
    assert!(failure.message.contains("has 3 bytes"), "{failure}");
}

#[tokio::test]
async fn a_file_that_can_not_come_back_has_a_way_out_in_its_message() {
    let output = Output::new();
    let query = QueryId::random();
    let winner = output.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    let staged: StagedFile = serde_json::from_value(winner.payload.clone()).unwrap();
    fs::remove_file(output.out().join(staged.staged)).unwrap();
    let winners = [winner];
    let publish = async || output.publisher().publish(batch(query, 1), &winners).await;
    let failure = publish().await.unwrap_err();
    assert_eq!(failure.code, "sink.lost_file");
    let (_, mark) = failure.message.split_once("make the empty file ").unwrap();
    fs::write(mark, "").unwrap();
    publish().await.unwrap();
}

#[tokio::test]
async fn files_that_a_consumer_took_away_are_not_missed_after_a_restart() {
    let output = Output::new();
    let query = QueryId::random();
    let winners = [output.write(Attempt::first(query, 0, 0), "a\n").unwrap()];
    let publisher = output.publisher();
    publisher.publish(batch(query, 1), &winners).await.unwrap();
    publisher.sweep(batch(query, 1)).await;
    fs::remove_dir_all(output.batch_folder()).unwrap();
    output
        .publisher()
        .publish(batch(query, 2), &winners)
        .await
        .unwrap();
    assert!(output.files().is_empty());
}

#[tokio::test]
async fn a_payload_can_not_name_other_files() {
    let output = Output::new();
    let query = QueryId::random();
    let mut winner = output.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    winner.payload["staged"] = "../../etc/passwd".into();
    let failure = output
        .publisher()
        .publish(batch(query, 1), &[winner])
        .await
        .unwrap_err();
    assert_eq!(failure.retry, Retry::Never);
}

#[test]
fn a_full_disk_is_said_so() {
    let error = io::Error::from_raw_os_error(28);
    let failure = refused("write", Path::new("/out/x"), &error);
    assert_eq!(
        (failure.code.as_str(), failure.kind),
        ("sink.disk_full", FailureKind::Io)
    );
    assert!(
        failure.message.contains("/out/x: the disk is full"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn a_folder_that_can_not_be_written_is_named() {
    let mut output = Output::new();
    let file = output.folder.path().join("file");
    fs::write(&file, "").unwrap();
    output.settings.prefix = format!("{}/counts", file.display());
    let failure = output
        .publisher()
        .check(&start(QueryId::random()))
        .await
        .unwrap_err();
    assert!(failure.message.contains("file/.staging"), "{failure}");
}

#[test]
fn a_place_is_known_however_it_is_written() {
    let place = |prefix: &str, suffix: &str| {
        let mut settings = Settings::new(OUTPUT_ID, prefix);
        suffix.clone_into(&mut settings.suffix);
        settings.place()
    };
    assert_eq!(place("/out/./counts", ""), "/out/counts");
    assert_eq!(place("/out//counts", "txt"), "/out/counts-*.txt");
    assert_eq!(
        place("S3://bucket/out/counts", ""),
        "s3://bucket/out/counts"
    );
    assert_ne!(place("/out/counts", ""), place("/out/counts", "txt"));
}
