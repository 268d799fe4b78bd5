use std::fs;

use millstream_common::time::{BatchTime, ManualClock};
use proptest::prelude::*;

use super::*;

fn request(batch: u64) -> PlanRequest {
    PlanRequest {
        batch: BatchId(batch),
        batch_time: BatchTime(batch as i64 * 1_000),
        max_rows: None,
        interval_millis: 1_000,
    }
}

fn names(input: &PlannedInput) -> Vec<String> {
    let name = |split: &Split| {
        let split: FileSplit = serde_json::from_value(split.split.clone()).unwrap();
        let path = Path::new(&split.path);
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    input.splits.iter().map(name).collect()
}

struct Fixture {
    folder: tempfile::TempDir,
    clock: ManualClock,
    settings: Settings,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::new(folder.path().to_str().unwrap());
        Self {
            folder,
            clock: ManualClock::new(1_700_000_000_000),
            settings,
        }
    }

    fn driver(&self) -> TextFileDriver {
        let clock = Arc::new(self.clock.clone());
        TextFileDriver::new(Arc::new(self.settings.clone()), clock).unwrap()
    }

    fn put(&self, name: &str, content: &str) {
        let staged = self.folder.path().join(".staged");
        fs::write(&staged, content).unwrap();
        fs::rename(staged, self.folder.path().join(name)).unwrap();
    }

    /// Sets when a file was last changed, seconds after the epoch.
    fn touch(&self, name: &str, seconds: u64) {
        let path = self.folder.path().join(name);
        let file = fs::File::options().append(true).open(path).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    }
}

#[tokio::test]
async fn only_what_appears_after_the_start_is_read_whatever_its_age() {
    let fixture = Fixture::new();
    fixture.put("old", "x\n");
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    for hidden in [".hidden", "_SUCCESS", "a._COPYING_"] {
        fixture.put(hidden, "x\n");
    }
    fixture.put("empty", "");
    fs::create_dir(fixture.folder.path().join("nested")).unwrap();
    fs::write(fixture.folder.path().join("nested/inner"), "x\n").unwrap();
    fixture.put("b", "x\n");
    fixture.put("a", "x\n");
    fixture.put("c", "x\n");
    fixture.touch("b", 10);
    fixture.touch("a", 20);
    fixture.touch("c", 10);
    let planned = driver.plan(request(0)).await.unwrap();
    assert_eq!(names(&planned), ["b", "c", "a"]);
    assert!(driver.plan(request(1)).await.unwrap().splits.is_empty());
    fixture.put("empty", "no longer\n");
    let planned = driver.plan(request(2)).await.unwrap();
    assert_eq!(names(&planned), ["empty"]);
}

#[tokio::test]
async fn existing_files_are_read_when_asked_for_and_limits_hold() {
    let mut fixture = Fixture::new();
    fixture.settings.existing_files = true;
    fixture.settings.max_files_per_batch = Some(2);
    for (age, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        fixture.put(name, "x\n");
        fixture.touch(name, age as u64 + 1);
    }
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    let mut taken = Vec::new();
    taken.push(names(&driver.plan(request(0)).await.unwrap()));
    // Found already, and gone before it is taken.
    fs::remove_file(fixture.folder.path().join("c")).unwrap();
    for batch in 1..4 {
        taken.push(names(&driver.plan(request(batch)).await.unwrap()));
    }
    assert_eq!(taken, [vec!["a", "b"], vec!["d"], vec!["e"], vec![]]);
}

#[tokio::test]
async fn nothing_is_planned_only_when_nothing_is_left() {
    let mut fixture = Fixture::new();
    fixture.settings.existing_files = true;
    fixture.settings.only_present = true;
    fixture.settings.max_files_per_batch = Some(1);
    for (age, name) in ["a", "b", "c", "d"].iter().enumerate() {
        fixture.put(name, "x\n");
        fixture.touch(name, age as u64 + 1);
    }
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    assert_eq!(names(&driver.plan(request(0)).await.unwrap()), ["a"]);
    // Found already, and gone before they are taken.
    for name in ["b", "c"] {
        fs::remove_file(fixture.folder.path().join(name)).unwrap();
    }
    assert_eq!(names(&driver.plan(request(1)).await.unwrap()), ["d"]);
    assert!(driver.plan(request(2)).await.unwrap().splits.is_empty());
}

#[tokio::test]
async fn files_that_could_not_be_looked_at_are_found_again() {
    let mut fixture = Fixture::new();
    fixture.settings.existing_files = true;
    fixture.settings.only_present = true;
    fixture.settings.max_files_per_batch = Some(1);
    for (age, name) in ["a", "b"].iter().enumerate() {
        fixture.put(name, "x\n");
        fixture.touch(name, age as u64 + 1);
    }
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    assert_eq!(names(&driver.plan(request(0)).await.unwrap()), ["a"]);
    let folder = fixture.folder.path().to_owned();
    let away = folder.with_extension("away");
    fs::rename(&folder, &away).unwrap();
    fs::write(&folder, "no folder").unwrap();
    let failure = driver.plan(request(1)).await.unwrap_err();
    assert_eq!(failure.code, "files.listing");
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    assert_eq!(names(&driver.plan(request(1)).await.unwrap()), ["b"]);
    assert!(driver.plan(request(2)).await.unwrap().splits.is_empty());
}

#[tokio::test]
async fn a_file_that_changes_after_it_was_taken_is_reported_once_and_not_read() {
    let fixture = Fixture::new();
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    fixture.put("a", "x\n");
    driver.plan(request(0)).await.unwrap();
    fixture.put("a", "x\ny\n");
    for batch in 1..4 {
        fixture.clock.advance(Duration::from_secs(10));
        assert!(driver.plan(request(batch)).await.unwrap().splits.is_empty());
    }
    assert_eq!(driver.changed_files(), 1);
}

#[tokio::test]
async fn young_files_wait() {
    let mut fixture = Fixture::new();
    fixture.settings.min_age = Duration::from_secs(5);
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    fixture.put("a", "x\n");
    fixture.touch("a", 1_700_000_000);
    assert!(driver.plan(request(0)).await.unwrap().splits.is_empty());
    fixture.clock.advance(Duration::from_secs(5));
    assert_eq!(names(&driver.plan(request(1)).await.unwrap()), ["a"]);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let mut fixture = Fixture::new();
    fixture.settings.directory = format!("{}/none", fixture.folder.path().display());
    let failure = fixture.driver().start().await.unwrap_err();
    assert!(
        failure.to_string().contains("there is no folder"),
        "{failure}"
    );
    fixture.put("none", "a file");
    let failure = fixture.driver().start().await.unwrap_err();
    assert!(failure.to_string().contains("is not a folder"), "{failure}");
    fixture.settings.directory = format!("{}/none*", fixture.folder.path().display());
    fixture.driver().start().await.unwrap();
}

/// The log keeps 10 entries; the driver dies after every seventh plan, every third time before the entry was logged.
#[tokio::test]
async fn nothing_is_read_twice_over_many_batches_with_purges_and_restarts() {
    let fixture = Fixture::new();
    let mut driver = fixture.driver();
    let start = driver.start().await.unwrap();
    let mut seen: Option<(BatchId, Value)> = None;
    let mut logged: Vec<(BatchId, PlannedInput)> = Vec::new();
    let mut read = Vec::new();
    let mut batch = 0;
    for file in 0..150u64 {
        let name = format!("file-{file:03}");
        fixture.put(&name, "x\n");
        fixture.touch(&name, file);
        let planned = driver.plan(request(batch)).await.unwrap();
        if file % 21 != 20 {
            read.extend(names(&planned));
            logged.push((BatchId(batch), planned));
            batch += 1;
        }
        if file % 14 != 6 {
            let (newest, input) = logged.last().unwrap().clone();
            driver.committed(newest, &input).await.unwrap();
        }
        if logged.len() > 20 {
            let committed = logged[logged.len() - 2].0;
            seen = Some((committed, driver.seen().unwrap()));
            logged.drain(..10);
        }
        if file % 7 == 6 {
            driver = fixture.driver();
            let after = seen.as_ref().map(|(batch, _)| *batch);
            let newest = logged.last().unwrap().0;
            let history = SourceHistory {
                start: start.clone(),
                seen: seen.clone(),
                logged: logged
                    .iter()
                    .filter(|(batch, _)| Some(*batch) > after || *batch == newest)
                    .cloned()
                    .collect(),
            };
            driver.restore(history).await.unwrap();
        }
    }
    let planned = driver.plan(request(batch)).await.unwrap();
    read.extend(names(&planned));
    read.sort();
    let expected: Vec<String> = (0..150).map(|file| format!("file-{file:03}")).collect();
    assert_eq!(read, expected);
    assert!(seen.is_some());
}

proptest! {
    #[test]
    fn splits_cover_a_file_without_gaps(size in 1u64..10_000, split_size in 0u64..500) {
        let file = NewFile {
            folder: "/in".to_owned(),
            name: "a".to_owned(),
            version: Version { size, modified: 0 },
        };
        let mut at = 0;
        for split in splits_of(&file, split_size) {
            prop_assert_eq!(split.start, at);
            prop_assert!(split.end > split.start);
            prop_assert!(split.end - split.start <= split_size.max(1) + split_size / 10);
            at = split.end;
        }
        prop_assert_eq!(at, size);
    }
}
#[tokio::test]
async fn what_is_present_is_taken_however_much_it_is() {
    let mut fixture = Fixture::new();
    fixture.settings.existing_files = true;
    fixture.settings.only_present = true;
    for number in 0..MAX_NEW_FILES + 10 {
        fixture.put(&number.to_string(), "x\n");
    }
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    let first = driver.plan(request(0)).await.unwrap();
    let second = driver.plan(request(1)).await.unwrap();
    assert_eq!(
        (first.splits.len(), second.splits.len()),
        (MAX_NEW_FILES, 10)
    );
    fixture.settings.at_once = true;
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    let all = driver.plan(request(0)).await.unwrap();
    assert_eq!(all.splits.len(), MAX_NEW_FILES + 10);
}

#[tokio::test]
async fn links_that_lead_nowhere_are_passed_over() {
    let fixture = Fixture::new();
    let mut driver = fixture.driver();
    driver.start().await.unwrap();
    let link = |name: &str, to: &str| {
        std::os::unix::fs::symlink(to, fixture.folder.path().join(name)).unwrap();
    };
    link("gone", "nowhere");
    link("loop", "loop");
    fixture.put("file", "x\n");
    link("linked", "file");
    let planned = driver.plan(request(0)).await.unwrap();
    let found: std::collections::BTreeSet<String> = names(&planned).into_iter().collect();
    assert_eq!(found, ["file", "linked"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_log_that_does_not_go_back_to_the_start_is_refused_without_a_list_of_what_was_read() {
    let fixture = Fixture::new();
    let mut driver = fixture.driver();
    let start = driver.start().await.unwrap();
    fixture.put("a", "x\n");
    let planned = driver.plan(request(0)).await.unwrap();
    assert_eq!(names(&planned), ["a"]);
    let nothing = driver.plan(request(3)).await.unwrap();
    let history = |logged| SourceHistory {
        start: start.clone(),
        seen: None,
        logged,
    };
    let whole = vec![(BatchId(0), planned), (BatchId(1), nothing.clone())];
    fixture.driver().restore(history(whole)).await.unwrap();
    let rest = vec![(BatchId(3), nothing)];
    let refused = fixture.driver().restore(history(rest)).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.retry),
        ("checkpoint.incomplete", Retry::Never)
    );
    assert!(refused.message.contains("offsets/3"), "{refused}");
}
