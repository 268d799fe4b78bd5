//! The driver half: finds new files and cuts them into splits.

use std::{collections::VecDeque, io, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::BatchId,
    time::{Clock, Tick},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};

use super::{
    FileSplit, Settings,
    folders::{Folders, PatternError},
    listing::{self, ListError, Listing, MAX_NEW_FILES, NewFile, Search},
    seen::{SeenFiles, Snapshot, Version},
};
use crate::source::{PlanRequest, PlannedInput, SourceDriver, SourceHistory, Split};

type Running = JoinHandle<Result<Listing, ListError>>;

/// Finds the new files of a text file source.
pub struct TextFileDriver {
    settings: Arc<Settings>,
    folders: Folders,
    clock: Arc<dyn Clock>,
    seen: Arc<SeenFiles>,
    /// New files that no batch took yet, oldest first.
    waiting: VecDeque<NewFile>,
    /// A listing that took longer than a plan may wait.
    running: Option<Running>,
    /// The folders were listed for a plan.
    was_listed: bool,
    /// When files that were taken were last looked at.
    changes_checked: Option<Tick>,
    committed: Option<BatchId>,
    changed_files: u64,
    unnamable_reported: bool,
}

impl TextFileDriver {
    /// A driver half that looks into the folders which `settings` name.
    ///
    /// # Errors
    /// When the folder can't be read as a pattern.
    pub fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>) -> Result<Self, PatternError> {
        let folders = Folders::parse(&settings.directory, settings.relative_to.as_deref())?;
        Ok(Self {
            settings,
            folders,
            clock,
            seen: Arc::default(),
            waiting: VecDeque::new(),
            running: None,
            was_listed: false,
            changes_checked: None,
            committed: None,
            changed_files: 0,
            unnamable_reported: false,
        })
    }

    /// Files that changed after they were taken; what was added to them is not read.
    pub fn changed_files(&self) -> u64 {
        self.changed_files
    }

    /// Lists the folders, and waits no longer than the settings say: a listing that takes longer is taken up by the next call.
    async fn list(&mut self, min_age: Duration) -> Result<Listing, Failure> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.begin_listing(min_age),
        };
        let deadline = self.clock.now().after(self.settings.listing_timeout);
        let listed = tokio::select! {
            biased;
            listed = &mut running => listed,
            () = self.clock.until(deadline) => {
                self.running = Some(running);
                return Err(self.slow());
            }
        };
        self.listed(listed)
    }

    /// Lists the folders, however long that takes: without it there is no start.
    async fn list_whole(&mut self) -> Result<Listing, Failure> {
        let mut running = self.begin_listing(Duration::ZERO);
        let deadline = self.clock.now().after(self.settings.listing_timeout);
        let listed = tokio::select! {
            biased;
            listed = &mut running => listed,
            () = self.clock.until(deadline) => {
                tracing::warn!(folder = %self.settings.directory, "looking into a folder for the first time takes long; the first batch waits for it");
                running.await
            }
        };
        self.listed(listed)
    }

    fn listed(
        &mut self,
        listed: Result<Result<Listing, ListError>, JoinError>,
    ) -> Result<Listing, Failure> {
        let listing = match listed {
            Ok(Ok(listing)) => listing,
            Ok(Err(error)) => {
                let message = format!("new files of {} can't be found", self.settings.directory);
                return Err(
                    Failure::caused_by(FailureKind::Io, message, &error).with_code("files.listing")
                );
            }
            Err(error) => return Err(broken(&self.settings.directory, &error)),
        };
        self.note(&listing);
        Ok(listing)
    }

    fn begin_listing(&mut self, min_age: Duration) -> Running {
        let now = self.clock.now();
        let interval = self.settings.change_check_interval;
        let known_too = self
            .changes_checked
            .is_none_or(|checked| now.since(checked) >= interval);
        if known_too {
            self.changes_checked = Some(now);
        }
        let modified_until = (min_age > Duration::ZERO).then(|| {
            let now_nanos = self.clock.wall_millis().saturating_mul(1_000_000);
            now_nanos.saturating_sub(i64::try_from(min_age.as_nanos()).unwrap_or(i64::MAX))
        });
        let search = Search {
            modified_until,
            known_too,
            // Of what is present only once is asked.
            most: match self.settings.only_present {
                true => usize::MAX,
                false => MAX_NEW_FILES,
            },
        };
        let folders = self.folders.clone();
        let pattern = self.settings.directory.clone();
        let seen = Arc::clone(&self.seen);
        tokio::task::spawn_blocking(move || listing::list(&folders, &pattern, &seen, search))
    }

    /// Reports what a listing says of files that were taken, and of names that can't be taken.
    fn note(&mut self, listing: &Listing) {
        if listing.unnamable > 0 && !self.unnamable_reported {
            self.unnamable_reported = true;
            tracing::warn!(
                folder = %self.settings.directory,
                files = listing.unnamable,
                "passing over files whose names are not UTF-8"
            );
        }
        if listing.changed.is_empty() && listing.gone.is_none() {
            return;
        }
        let seen = Arc::make_mut(&mut self.seen);
        for (folder, name) in &listing.changed {
            if seen.report_change(folder, name) {
                self.changed_files += 1;
                tracing::warn!(
                    folder,
                    name,
                    changed_files = self.changed_files,
                    "a file changed after it was read; what is new in it is not read"
                );
            }
        }
        if let Some(gone) = &listing.gone {
            let forget_after = self.settings.forget_after.as_millis();
            seen.note_gone(
                gone,
                self.clock.wall_millis(),
                i64::try_from(forget_after).unwrap_or(i64::MAX),
            );
        }
    }

    /// Up to `limit` new files, as they are now.
    async fn next_files(&mut self, limit: usize) -> Result<Vec<NewFile>, Failure> {
        let is_closed = self.settings.only_present && self.was_listed;
        let left_over = is_closed || self.waiting.len() >= limit;
        if !left_over {
            let min_age = self.settings.min_age;
            let found = self.list(min_age).await?.new_files;
            let seen = &self.seen;
            let unseen = found
                .into_iter()
                .filter(|file| seen.get(&file.folder, &file.name).is_none());
            self.waiting = unseen.collect();
            self.was_listed = true;
        }
        let count = limit.min(self.waiting.len());
        let files: Vec<NewFile> = self.waiting.drain(..count).collect();
        if !left_over {
            return Ok(files);
        }
        // They were found a while ago.
        let refreshing = tokio::task::spawn_blocking(move || refresh(files));
        let deadline = self.clock.now().after(self.settings.listing_timeout);
        let refreshed = tokio::select! {
            biased;
            refreshed = refreshing => refreshed,
            () = self.clock.until(deadline) => {
                // They are found again.
                self.waiting.clear();
                return Err(self.slow());
            }
        };
        match refreshed {
            Ok(Ok(files)) => Ok(files),
            Ok(Err(error)) => {
                let message = format!("new files of {} can't be read", self.settings.directory);
                Err(Failure::caused_by(FailureKind::Io, message, &error).with_code("files.listing"))
            }
            Err(error) => Err(broken(&self.settings.directory, &error)),
        }
    }

    fn slow(&self) -> Failure {
        let message = format!(
            "looking into {} took longer than {:?}; the next batch asks again",
            self.settings.directory, self.settings.listing_timeout
        );
        Failure::new(FailureKind::Io, message).with_code("files.listing")
    }
}

/// The files that are still there, with their versions now.
fn refresh(files: Vec<NewFile>) -> io::Result<Vec<NewFile>> {
    let mut refreshed = Vec::with_capacity(files.len());
    for mut file in files {
        match listing::version_of(&file.path())? {
            Some(version) if version.size > 0 => {
                file.version = version;
                refreshed.push(file);
            }
            _ => {
                tracing::debug!(
                    folder = file.folder,
                    name = file.name,
                    "a new file is gone before it was read"
                );
            }
        }
    }
    Ok(refreshed)
}

fn broken(directory: &str, error: &dyn std::error::Error) -> Failure {
    let message = format!("listing {directory} broke off");
    Failure::caused_by(FailureKind::Internal, message, error)
}

/// Cuts a file into splits of about `split_size` bytes.
fn splits_of(file: &NewFile, split_size: u64) -> Vec<FileSplit> {
    let path = file.path().to_string_lossy().into_owned();
    let Version { size, modified } = file.version;
    let split_size = split_size.max(1);
    // A last split of at most a tenth goes with the one before it.
    let slack = split_size / 10;
    let mut splits = Vec::new();
    let mut start = 0;
    while start < size {
        let rest = size - start;
        let length = if rest <= split_size.saturating_add(slack) {
            rest
        } else {
            split_size
        };
        splits.push(FileSplit {
            path: path.clone(),
            start,
            end: start + length,
            size,
            modified,
        });
        start += length;
    }
    splits
}

fn parse<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| {
        Failure::caused_by(
            FailureKind::Internal,
            format!("{what} of a text file source can't be read from the checkpoint"),
            &error,
        )
        .with_retry(Retry::Never)
    })
}

#[async_trait]
impl SourceDriver for TextFileDriver {
    async fn start(&mut self) -> Result<Value, Failure> {
        self.seen = Arc::default();
        self.waiting.clear();
        self.running = None;
        let existing = self.list_whole().await?.new_files;
        if self.settings.existing_files {
            return to_value(&Snapshot::default());
        }
        if existing.len() >= MAX_NEW_FILES {
            let message = format!(
                "{} holds more than {MAX_NEW_FILES} files already; move them elsewhere, or read existing files too",
                self.settings.directory
            );
            return Err(Failure::new(FailureKind::Io, message)
                .with_code("files.too_many")
                .with_retry(Retry::Never));
        }
        let seen = Arc::make_mut(&mut self.seen);
        for file in existing {
            seen.insert(&file.folder, &file.name, file.version, None);
        }
        to_value(&self.seen.snapshot(None))
    }

    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure> {
        let through = history.seen.as_ref().map(|(batch, _)| *batch);
        let snapshot: Snapshot = match &history.seen {
            Some((_, seen)) => parse(seen, "the list of files read")?,
            None => parse(&history.start, "the start")?,
        };
        let mut seen = SeenFiles::restored(snapshot, through);
        for (batch, input) in &history.logged {
            for split in &input.splits {
                let split: FileSplit = parse(&split.split, "a split")?;
                let path = Path::new(&split.path);
                let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                    continue;
                };
                let version = Version {
                    size: split.size,
                    modified: split.modified,
                };
                let folder = folder.to_string_lossy();
                seen.insert(&folder, &name.to_string_lossy(), version, Some(*batch));
            }
        }
        tracing::info!(folder = %self.settings.directory, files = seen.len(), "files that were read before are known");
        self.seen = Arc::new(seen);
        self.waiting.clear();
        self.running = None;
        self.was_listed = false;
        self.changes_checked = None;
        self.committed = through;
        Ok(())
    }

    async fn plan(&mut self, request: PlanRequest) -> Result<PlannedInput, Failure> {
        let limit = match self.settings.max_files_per_batch {
            Some(files) => usize::try_from(files).unwrap_or(MAX_NEW_FILES),
            None if self.settings.at_once => usize::MAX,
            None => MAX_NEW_FILES,
        };
        let files = self.next_files(limit).await?;
        let mut splits = Vec::with_capacity(files.len());
        let seen = Arc::make_mut(&mut self.seen);
        for file in &files {
            for split in splits_of(file, self.settings.split_size) {
                splits.push(Split {
                    split: to_value(&split)?,
                    locality: None,
                    rows: None,
                });
            }
            seen.insert(&file.folder, &file.name, file.version, Some(request.batch));
        }
        Ok(PlannedInput {
            splits,
            position: Value::Null,
        })
    }

    async fn committed(&mut self, batch: BatchId, _input: &PlannedInput) -> Result<(), Failure> {
        self.committed = self.committed.max(Some(batch));
        Ok(())
    }

    fn seen(&self) -> Option<Value> {
        serde_json::to_value(self.seen.snapshot(self.committed)).ok()
    }

    fn lag(&self) -> Vec<(String, u64)> {
        vec![("files".to_owned(), self.waiting.len() as u64)]
    }

    async fn stop(&mut self) {
        self.running = None;
    }
}

fn to_value<T: serde::Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| {
        let message = "what a text file source planned can't be written down";
        Failure::caused_by(FailureKind::Internal, message, &error)
    })
}

#[cfg(test)]
mod tests {
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
}
