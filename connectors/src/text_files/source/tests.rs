//! Both halves together, on files.

use std::{fs, path::Path, sync::Arc};

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, QueryId},
    text::Text,
    time::{BatchTime, ManualClock},
};
use proptest::prelude::*;

use super::*;
use crate::{
    conformance::{Attempt, NoServices, SourceUnderTest, check_source, read_split},
    source::{More, PlanRequest, SourceDriver, SplitSource},
};

struct Folder {
    folder: tempfile::TempDir,
    settings: Settings,
    files: u64,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(folder.path().to_str().unwrap());
        settings.split_size = 16;
        Self {
            folder,
            settings,
            files: 0,
        }
    }

    fn put(&mut self, content: &[u8]) {
        let staged = self.folder.path().join(".staged");
        fs::write(&staged, content).unwrap();
        let name = format!("file-{:05}", self.files);
        self.files += 1;
        fs::rename(staged, self.folder.path().join(name)).unwrap();
    }

    fn driver(&self) -> TextFileDriver {
        let clock = Arc::new(ManualClock::new(0));
        TextFileDriver::new(Arc::new(self.settings.clone()), clock).unwrap()
    }

    fn splits(&self) -> TextFileSplits {
        TextFileSplits::new(Arc::new(self.settings.clone()))
    }
}

#[async_trait]
impl SourceUnderTest for Folder {
    type Row = Text;

    async fn driver(&mut self) -> Box<dyn SourceDriver> {
        Box::new(Folder::driver(self))
    }

    fn executor(&self) -> Box<dyn SplitSource<Vec<Text>>> {
        Box::new(self.splits())
    }

    async fn produce(&mut self, round: u64) -> Vec<Text> {
        let mut rows = Vec::new();
        for file in 0..3 {
            let mut content = String::new();
            for line in 0..5 {
                let row = format!("round {round} file {file} line {line}");
                content.push_str(&row);
                content.push('\n');
                rows.push(Text::from(row));
            }
            self.put(content.as_bytes());
        }
        rows
    }
}

#[tokio::test]
async fn conforms() {
    check_source(&mut Folder::new()).await.unwrap();
    let mut limited = Folder::new();
    limited.settings.max_files_per_batch = Some(2);
    check_source(&mut limited).await.unwrap();
}

#[tokio::test]
async fn the_first_listing_is_waited_for_however_long_it_takes() {
    let mut folder = Folder::new();
    folder.put(b"before\n");
    folder.settings.listing_timeout = std::time::Duration::ZERO;
    let mut driver = folder.driver();
    driver.start().await.unwrap();
    folder.put(b"after\n");
    // A plan gives up, and goes on with the same listing when it is asked again.
    let rows = loop {
        match read_all(&folder, &mut driver).await {
            Ok(rows) => break rows,
            Err(failure) => assert_eq!(failure.retry, Retry::Backoff),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(rows, ["after"]);
}

/// All rows of everything that is new, in the order of the splits, with the count of malformed lines.
async fn read_all(folder: &Folder, driver: &mut TextFileDriver) -> Result<Vec<Text>, Failure> {
    let request = PlanRequest {
        batch: BatchId(0),
        batch_time: BatchTime(0),
        max_rows: None,
        interval_millis: 1_000,
    };
    let planned = driver.plan(request).await?;
    let splits = folder.splits();
    let attempt = Attempt::first(QueryId::random(), 0, 0);
    let mut rows = Vec::new();
    for split in &planned.splits {
        rows.append(&mut read_split(&splits, &split.split, &attempt)?);
    }
    Ok(rows)
}

/// Rows of one file that is there, and counts.
fn read_file(
    settings: &Settings,
    path: &Path,
    start: u64,
    end: u64,
    size: u64,
) -> Result<(Vec<Text>, millstream_common::protocol::TaskCounts), Failure> {
    let metadata = fs::metadata(path);
    let split = FileSplit {
        path: path.to_str().unwrap().to_owned(),
        start,
        end,
        size,
        modified: metadata.map_or(0, |metadata| listing::version(&metadata).modified),
    };
    let services = NoServices;
    let mut task = Attempt::first(QueryId::random(), 0, 0).task(&services);
    let source = TextFileSplits::new(Arc::new(settings.clone()));
    let split = serde_json::to_value(split).unwrap();
    let mut reader = source.open(&split, &task)?;
    let mut rows = Vec::new();
    loop {
        let mut chunk = Vec::new();
        let more = reader.next(&mut chunk, &mut task)?;
        assert!(chunk.len() <= 1024);
        rows.append(&mut chunk);
        if more == More::No {
            return Ok((rows, task.counts));
        }
    }
}

fn lines_of(content: &str) -> Vec<Text> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let content = content.replace("\r\n", "\n").replace('\r', "\n");
    content.lines().map(Text::from).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_of_all_splits_are_the_lines(
        contents in proptest::collection::vec("(\u{feff})?([a-zé]{0,30}(\n|\r\n|\r)){0,12}[a-z]{0,10}", 1..6),
        split_size in 1u64..200,
    ) {
        let mut folder = Folder::new();
        folder.settings.split_size = split_size;
        folder.settings.existing_files = true;
        let mut expected = Vec::new();
        for content in &contents {
            folder.put(content.as_bytes());
            expected.append(&mut lines_of(content));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rows = runtime.block_on(async {
            let mut driver = Folder::driver(&folder);
            driver.start().await.unwrap();
            read_all(&folder, &mut driver).await.unwrap()
        });
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn large_files_come_whole_and_long_lines_share_their_buffer() {
    let folder = Folder::new();
    let path = folder.folder.path().join("large");
    let mut content = String::new();
    let mut expected = Vec::new();
    for line in 0..120_000 {
        let row = format!("line {line} of a file that is larger than what one read gives");
        content.push_str(&row);
        content.push('\n');
        expected.push(Text::from(row));
    }
    fs::write(&path, &content).unwrap();
    let size = content.len() as u64;
    let middle = size / 2 + 7;
    let (mut rows, counts) = read_file(&folder.settings, &path, 0, middle, size).unwrap();
    assert_eq!(counts.input_rows, rows.len() as u64);
    let distance = rows[1].as_ptr() as usize - rows[0].as_ptr() as usize;
    assert_eq!(distance, expected[0].len() + 1);
    let (mut rest, more) = read_file(&folder.settings, &path, middle, size, size).unwrap();
    assert_eq!(counts.input_bytes + more.input_bytes, size);
    rows.append(&mut rest);
    assert_eq!(rows, expected);
}

#[test]
fn files_of_carriage_returns_have_lines() {
    let folder = Folder::new();
    let path = folder.folder.path().join("old");
    let mut lines = Vec::new();
    for line in 0..100_000 {
        lines.push(format!(
            "line {line} of a file larger than what one read gives"
        ));
    }
    let content = lines.join("\r");
    fs::write(&path, &content).unwrap();
    let size = content.len() as u64;
    let (mut rows, counts) = read_file(&folder.settings, &path, 0, size / 2, size).unwrap();
    let (mut rest, more) = read_file(&folder.settings, &path, size / 2, size, size).unwrap();
    assert_eq!(counts.input_bytes + more.input_bytes, size);
    assert_eq!(counts.input_rows + more.input_rows, 100_000);
    rows.append(&mut rest);
    let expected: Vec<Text> = content.split('\r').map(Text::from).collect();
    assert_eq!(rows, expected);
}

#[test]
fn lines_that_are_not_text_follow_the_policy() {
    let mut folder = Folder::new();
    let path = folder.folder.path().join("bad");
    fs::write(&path, b"good\nb\xffd\nfine\nw\xc3\n").unwrap();
    let failure = read_file(&folder.settings, &path, 0, 17, 17).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadInput);
    assert!(failure.message.contains("byte 5 of "), "{failure}");
    folder.settings.on_malformed = OnMalformed::Drop;
    let (rows, counts) = read_file(&folder.settings, &path, 0, 17, 17).unwrap();
    assert_eq!(rows, ["good", "fine"]);
    assert_eq!((counts.malformed, counts.input_rows), (2, 4));
    folder.settings.on_malformed = OnMalformed::Replace;
    let (rows, counts) = read_file(&folder.settings, &path, 0, 17, 17).unwrap();
    assert_eq!(rows, ["good", "b\u{fffd}d", "fine", "w\u{fffd}"]);
    assert_eq!(counts.malformed, 2);
}

#[test]
fn lines_that_are_too_long_follow_the_policy_exactly() {
    let mut folder = Folder::new();
    folder.settings.max_record_bytes = 10;
    let path = folder.folder.path().join("long");
    let huge = "h".repeat(3 << 20);
    let content = format!("{}\r\n{}\n{huge}\nend\n", "x".repeat(10), "y".repeat(11));
    fs::write(&path, &content).unwrap();
    let size = content.len() as u64;
    let failure = read_file(&folder.settings, &path, 0, size, size).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadInput);
    assert!(failure.message.contains("byte 12 of "), "{failure}");
    folder.settings.on_malformed = OnMalformed::Drop;
    let (rows, counts) = read_file(&folder.settings, &path, 0, size, size).unwrap();
    assert_eq!(rows, ["xxxxxxxxxx", "end"]);
    assert_eq!((counts.malformed, counts.input_rows), (2, 4));
}

#[test]
fn a_file_that_is_not_as_planned_stops_the_query_or_is_read_as_far_as_it_goes() {
    let mut folder = Folder::new();
    let path = folder.folder.path().join("moved");
    let read = |settings: &Settings| read_file(settings, &path, 0, 8, 8).map(|(rows, _)| rows);
    for (content, found, rows) in [
        (None, "it is gone", vec![]),
        (Some("one\n"), "it has 4 bytes now", vec!["one"]),
        (
            Some("one\ntwo\nthree\n"),
            "it has 14 bytes now",
            vec!["one", "two"],
        ),
    ] {
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        folder.settings.on_changed = OnChanged::Fail;
        folder.settings.on_missing = OnChanged::Fail;
        let failure = read(&folder.settings).unwrap_err();
        assert_eq!(
            (&failure.kind, failure.retry),
            (&FailureKind::DataLoss, Retry::Never)
        );
        assert!(failure.message.contains(found), "{failure}");
        folder.settings.on_changed = OnChanged::Warn;
        folder.settings.on_missing = OnChanged::Warn;
        assert_eq!(read(&folder.settings).unwrap(), rows);
    }
}
