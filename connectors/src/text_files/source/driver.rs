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
        if !left_over {
            let count = limit.min(self.waiting.len());
            return Ok(self.waiting.drain(..count).collect());
        }
        let deadline = self.clock.now().after(self.settings.listing_timeout);
        loop {
            let count = limit.min(self.waiting.len());
            let files: Vec<NewFile> = self.waiting.drain(..count).collect();
            let files = self.refreshed(files, deadline).await?;
            // That nothing is planned says that nothing is left, by which a query may end.
            if !files.is_empty() || self.waiting.is_empty() {
                return Ok(files);
            }
        }
    }

    /// Those of these files that are still there, as they are now: they were found a while ago.
    async fn refreshed(
        &mut self,
        files: Vec<NewFile>,
        deadline: Tick,
    ) -> Result<Vec<NewFile>, Failure> {
        let refreshing = tokio::task::spawn_blocking(move || refresh(files));
        let refreshed = tokio::select! {
            biased;
            refreshed = refreshing => refreshed,
            () = self.clock.until(deadline) => {
                self.find_again();
                return Err(self.slow());
            }
        };
        match refreshed {
            Ok(Ok(files)) => Ok(files),
            Ok(Err(error)) => {
                self.find_again();
                let message = format!("new files of {} can't be read", self.settings.directory);
                Err(Failure::caused_by(FailureKind::Io, message, &error).with_code("files.listing"))
            }
            Err(error) => {
                self.find_again();
                Err(broken(&self.settings.directory, &error))
            }
        }
    }

    /// Gives up what was found, so that the next call lists anew, also where one listing was to be all.
    fn find_again(&mut self) {
        self.waiting.clear();
        self.was_listed = false;
    }

    /// Without what came before, files would be read again.
    fn incomplete(&self, first: BatchId) -> Failure {
        let message = format!(
            "the checkpoint is incomplete: offsets/{first} is there, but neither the entries before it, which say what was read of {}, nor a list of that in sources; bring them back from a backup, or begin anew with another checkpoint",
            self.settings.directory
        );
        Failure::new(FailureKind::DataLoss, message)
            .with_code("checkpoint.incomplete")
            .with_retry(Retry::Never)
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
        if let (None, Some((first, _))) = (&history.seen, history.logged.first())
            && first.0 > 0
        {
            return Err(self.incomplete(*first));
        }
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
mod tests;
