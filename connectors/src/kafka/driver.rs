//! The driver half of the Kafka source: which partitions there are, how far they go, which ranges a batch takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::BatchId,
    time::{Clock, Tick},
};
use parking_lot::Mutex;
use rdkafka::{Offset, consumer::Consumer as _};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    OnDataLoss, Settings, StartingOffsets, Subscription,
    asking::{
        NO_LEADER, check_names, commit, connected, no_broker, offsets_at, partitions_of,
        unknown_topic, user,
    },
    client::Consumer,
    compile_pattern,
    group::GroupCommits,
    loss::{self, Bounds},
    ranges,
    source::OffsetRange,
};
use crate::source::{PlanRequest, PlannedInput, SourceDriver, SourceHistory, Split};

/// A topic partition.
pub(super) type Place = (String, i32);
/// An offset a partition.
pub(super) type Offsets = BTreeMap<Place, i64>;

/// How long the end of a query waits for its last group commit: less than a source may take to stop.
const COMMIT_WITHIN: Duration = Duration::from_secs(4);

/// Between two questions at the start, while a partition has no leader.
const ELECTION: Duration = Duration::from_millis(100);

/// What stands in the log: topic → partition → offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct LoggedOffsets(BTreeMap<String, BTreeMap<i32, i64>>);

impl From<&Offsets> for LoggedOffsets {
    fn from(offsets: &Offsets) -> Self {
        let mut logged = Self::default();
        for ((topic, partition), offset) in offsets {
            logged
                .0
                .entry(topic.clone())
                .or_default()
                .insert(*partition, *offset);
        }
        logged
    }
}

impl LoggedOffsets {
    fn read(value: &Value) -> Result<Offsets, Failure> {
        let logged = Self::deserialize(value).map_err(|error| {
            let message = format!("the offset log holds no Kafka position but {value}; it was written by another source");
            Failure::caused_by(FailureKind::Internal, message, &error).with_retry(Retry::Never)
        })?;
        let flat = |(topic, partitions): (String, BTreeMap<i32, i64>)| {
            partitions
                .into_iter()
                .map(move |(partition, offset)| ((topic.clone(), partition), offset))
        };
        Ok(logged.0.into_iter().flat_map(flat).collect())
    }
}

/// The driver half of the Kafka source.
pub struct KafkaDriver {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    client: Arc<Mutex<Option<Arc<Consumer>>>>,
    pattern: Option<Regex>,
    /// Where the next batch begins.
    positions: Offsets,
    /// The newest end offsets, for the lag.
    ends: Offsets,
    committed: Offsets,
    group_commits: GroupCommits,
    partitions_seen_at: Option<Tick>,
    /// Partitions that the last look didn't find; the next one that doesn't either means it.
    missing: BTreeSet<Place>,
}

impl KafkaDriver {
    /// A driver half that has asked nothing yet.
    ///
    /// # Errors
    /// When a topic can't be called so, or the topic pattern is no regular expression.
    pub fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        check_names(&settings.subscription)?;
        let pattern = match &settings.subscription {
            Subscription::Pattern(pattern) => Some(compile_pattern(pattern).map_err(|error| {
                let message = format!("the topic pattern `{pattern}` is not a regular expression");
                user(
                    Failure::caused_by(FailureKind::Io, message, &error).with_code("kafka.pattern"),
                )
            })?),
            Subscription::Topics(_) | Subscription::Assign(_) => None,
        };
        Ok(Self {
            settings,
            clock,
            client: Arc::new(Mutex::new(None)),
            pattern,
            positions: Offsets::new(),
            ends: Offsets::new(),
            committed: Offsets::new(),
            group_commits: GroupCommits::default(),
            partitions_seen_at: None,
            missing: BTreeSet::new(),
        })
    }

    /// Runs a blocking question to the brokers off the runtime's threads.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer, Duration) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let settings = Arc::clone(&self.settings);
        let client = Arc::clone(&self.client);
        let asking = tokio::task::spawn_blocking(move || {
            let consumer = connected(&client, &settings)?;
            // Nothing is fetched; this empties the queue of the client's own reports.
            while let Some(Err(error)) = consumer.poll(Duration::ZERO) {
                tracing::debug!(%error, "Kafka client reports");
            }
            let answer = question(&consumer, settings.plan_timeout)?;
            consumer.context().answered();
            Ok(answer)
        });
        asking.await.map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                "a question to Kafka broke off",
                &error,
            )
        })?
    }

    /// The partitions to read that are there. With `all`, a topic or a named partition that isn't there is an error.
    async fn find_partitions(&self, all: bool) -> Result<BTreeSet<Place>, Failure> {
        let settings = Arc::clone(&self.settings);
        let pattern = self.pattern.clone();
        self.ask(move |consumer, timeout| match &settings.subscription {
            Subscription::Topics(topics) => {
                let mut places = BTreeSet::new();
                for topic in topics {
                    let found = partitions_of(consumer, topic, &settings.brokers, timeout)?;
                    if found.is_empty() && all {
                        return Err(unknown_topic(topic, &settings.brokers));
                    }
                    places.extend(found);
                }
                Ok(places)
            }
            Subscription::Assign(places) => {
                let topics: BTreeSet<&String> = places.iter().map(|(topic, _)| topic).collect();
                let mut there = BTreeSet::new();
                for topic in topics {
                    let found = partitions_of(consumer, topic, &settings.brokers, timeout)?;
                    if found.is_empty() && all {
                        return Err(unknown_topic(topic, &settings.brokers));
                    }
                    there.extend(found);
                }
                let missing = places.iter().find(|place| !there.contains(*place));
                if let Some((topic, partition)) = missing.filter(|_| all) {
                    let message = format!(
                        "topic {topic} has no partition {partition}; it was named in `assign`"
                    );
                    return Err(user(
                        Failure::new(FailureKind::Io, message).with_code("kafka.unknown_partition"),
                    ));
                }
                let named = places.iter().filter(|place| there.contains(*place));
                Ok(named.cloned().collect())
            }
            Subscription::Pattern(_) => {
                let metadata = consumer
                    .fetch_metadata(None, timeout)
                    .map_err(|error| no_broker(&settings.brokers, timeout, &error))?;
                let mut places = BTreeSet::new();
                for topic in metadata.topics() {
                    let wanted = pattern
                        .as_ref()
                        .is_some_and(|pattern| pattern.is_match(topic.name()));
                    if wanted && !topic.name().starts_with("__") {
                        places.extend(
                            topic
                                .partitions()
                                .iter()
                                .map(|partition| (topic.name().to_owned(), partition.id())),
                        );
                    }
                }
                Ok(places)
            }
        })
        .await
    }

    #[cfg(test)]
    pub(super) fn group_commits(&mut self) -> &mut GroupCommits {
        &mut self.group_commits
    }

    async fn offsets_at(&self, places: Vec<Place>, at: Offset) -> Result<Offsets, Failure> {
        let brokers = self.settings.brokers.clone();
        self.ask(move |consumer, timeout| offsets_at(consumer, &places, at, &brokers, timeout))
            .await
    }

    /// The same at the start, which waits for an election under way. Later on batches are planned again by themselves.
    async fn first_offsets_at(&self, places: &[Place], at: Offset) -> Result<Offsets, Failure> {
        let pauses = self.settings.plan_timeout.as_millis() / ELECTION.as_millis();
        for _ in 0..pauses {
            match self.offsets_at(places.to_vec(), at).await {
                Err(failure) if failure.code == NO_LEADER => {
                    tracing::debug!(%failure, "asking again");
                    self.clock.until(self.clock.now().after(ELECTION)).await;
                }
                answer => return answer,
            }
        }
        self.offsets_at(places.to_vec(), at).await
    }

    /// Adds partitions that were found since; they begin at their oldest record. Notices those that are gone.
    async fn look_for_new_partitions(&mut self) -> Result<(), Failure> {
        let now = self.clock.now();
        let fresh = self
            .partitions_seen_at
            .is_some_and(|at| now.since(at) < self.settings.metadata_interval);
        if fresh {
            return Ok(());
        }
        let found = self.find_partitions(false).await?;
        self.partitions_seen_at = Some(now);
        self.check_missing(&found)?;
        let new: Vec<Place> = found
            .into_iter()
            .filter(|place| !self.positions.contains_key(place))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        tracing::info!(partitions = ?new, "new Kafka partitions");
        let oldest = self.offsets_at(new, Offset::Beginning).await?;
        self.positions.extend(oldest);
        Ok(())
    }

    /// Partitions that were read and are there no more. Metadata may lag behind, so two looks must agree.
    fn check_missing(&mut self, found: &BTreeSet<Place>) -> Result<(), Failure> {
        let missing: BTreeSet<Place> = self
            .positions
            .keys()
            .filter(|place| !found.contains(*place))
            .cloned()
            .collect();
        let gone: Vec<Place> = missing.intersection(&self.missing).cloned().collect();
        self.missing = missing;
        for place in gone {
            let (topic, partition) = &place;
            let failure = Failure::new(
                FailureKind::DataLoss,
                format!(
                    "{topic}/{partition} was read up to offset {} and is not there any more; the topic was deleted; set kafka.on_data_loss=warn to go on without it",
                    self.positions.get(&place).copied().unwrap_or_default()
                ),
            );
            if self.settings.on_data_loss == OnDataLoss::Fail {
                return Err(failure);
            }
            tracing::warn!(%failure, "input is lost; going on with what is there");
            self.positions.remove(&place);
            self.missing.remove(&place);
        }
        Ok(())
    }

    /// A partition that ends before where reading stands was cut or made anew.
    async fn check_ends(&mut self, ends: &Offsets) -> Result<(), Failure> {
        let behind: Vec<Place> = ends
            .iter()
            .filter(|(place, end)| {
                self.positions
                    .get(*place)
                    .is_some_and(|position| *end < position)
            })
            .map(|(place, _)| place.clone())
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        let oldest = self.offsets_at(behind.clone(), Offset::Beginning).await?;
        for place in behind {
            let (Some(position), Some(end), Some(oldest)) = (
                self.positions.get(&place).copied(),
                ends.get(&place),
                oldest.get(&place),
            ) else {
                continue;
            };
            let range = OffsetRange {
                topic: place.0.clone(),
                partition: place.1,
                from: position,
                until: *end,
            };
            let log = Bounds {
                oldest: *oldest,
                end: *end,
            };
            let failure = loss::out_of_range(&range, position, log);
            if self.settings.on_data_loss == OnDataLoss::Fail {
                return Err(failure);
            }
            tracing::warn!(%failure, "input is lost; going on with what is there");
            self.positions.insert(place, *oldest);
        }
        Ok(())
    }
}

impl KafkaDriver {
    /// The ends, none past where the query is to end.
    fn bounded(&self, mut ends: Offsets) -> Result<Offsets, Failure> {
        for (topic, partitions) in &self.settings.ending_offsets {
            for (partition, until) in partitions {
                let place = (topic.clone(), *partition);
                let Some(end) = ends.get_mut(&place) else {
                    let message = format!(
                        "{topic}/{partition} has an ending offset, but is no partition that is read"
                    );
                    return Err(user(
                        Failure::new(FailureKind::Io, message).with_code("kafka.unknown_partition"),
                    ));
                };
                if *until < 0 {
                    continue;
                }
                if *until > *end {
                    let failure = Failure::new(
                        FailureKind::DataLoss,
                        format!(
                            "{topic}/{partition} ends at offset {end}, before the ending offset {until}; set kafka.on_data_loss=warn to read what is there"
                        ),
                    );
                    if self.settings.on_data_loss == OnDataLoss::Fail {
                        return Err(failure);
                    }
                    tracing::warn!(%failure, "input is lost; going on with what is there");
                    continue;
                }
                *end = *until;
            }
        }
        Ok(ends)
    }
}

#[async_trait]
impl SourceDriver for KafkaDriver {
    async fn start(&mut self) -> Result<Value, Failure> {
        let places: Vec<Place> = self.find_partitions(true).await?.into_iter().collect();
        self.partitions_seen_at = Some(self.clock.now());
        let oldest = self.first_offsets_at(&places, Offset::Beginning).await?;
        let next = self.first_offsets_at(&places, Offset::End).await?;
        self.positions = match &self.settings.starting_offsets {
            StartingOffsets::Earliest => oldest,
            StartingOffsets::Latest => next,
            StartingOffsets::Explicit(given) => explicit(given, &oldest, &next)?,
        };
        self.committed = self.positions.clone();
        to_value(&self.positions)
    }

    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure> {
        let newest = history
            .logged
            .last()
            .map_or(&history.start, |(_, input)| &input.position);
        self.positions = LoggedOffsets::read(newest)?;
        self.committed = self.positions.clone();
        Ok(())
    }

    async fn plan(&mut self, request: PlanRequest) -> Result<PlannedInput, Failure> {
        let ends = if self.settings.only_present && !self.ends.is_empty() {
            self.ends.clone()
        } else {
            self.look_for_new_partitions().await?;
            let places: Vec<Place> = self.positions.keys().cloned().collect();
            let ends = self.offsets_at(places, Offset::End).await?;
            self.check_ends(&ends).await?;
            self.bounded(ends)?
        };
        let most = self.settings.max_per_batch;
        let limits = ranges::Limits {
            per_partition: self
                .settings
                .max_rate_per_partition
                .map(|rate| ranges::rows_in(rate, request.interval_millis)),
            total: match (request.max_rows, most) {
                (Some(rows), Some(most)) => Some(rows.min(most)),
                (rows, most) => rows.or(most),
            },
        };
        let planned = ranges::plan(&self.positions, &ends, limits);
        self.ends = ends;
        let mut splits = Vec::with_capacity(planned.len());
        for range in planned {
            self.positions
                .insert((range.topic.clone(), range.partition), range.until);
            let rows = u64::try_from(range.until - range.from).unwrap_or(0);
            let locality = Some(format!("{}/{}", range.topic, range.partition));
            splits.push(Split {
                split: to_json(&range)?,
                locality,
                rows: Some(rows),
            });
        }
        Ok(PlannedInput {
            splits,
            position: to_value(&self.positions)?,
        })
    }

    async fn committed(&mut self, _batch: BatchId, input: &PlannedInput) -> Result<(), Failure> {
        let positions = LoggedOffsets::read(&input.position)?;
        if self.settings.commit_offsets && !positions.is_empty() {
            let settings = Arc::clone(&self.settings);
            let client = Arc::clone(&self.client);
            let commit = move |positions: &Offsets| commit(&client, &settings, positions);
            self.group_commits.note(positions.clone(), commit);
        }
        self.committed = positions;
        Ok(())
    }

    fn latest(&self) -> Option<Value> {
        to_value(&self.ends).ok()
    }

    fn lag(&self) -> Vec<(String, u64)> {
        let behind = |(place, end): (&Place, &i64)| {
            let committed = self.committed.get(place).copied().unwrap_or(*end);
            (
                format!("{}/{}", place.0, place.1),
                u64::try_from(end - committed).unwrap_or(0),
            )
        };
        self.ends.iter().map(behind).collect()
    }

    async fn stop(&mut self) {
        if !self.group_commits.finish(COMMIT_WITHIN).await {
            tracing::warn!(group = %self.settings.group, "the last group offsets were not committed: the coordinator did not answer");
        }
        let client = self.client.lock().take();
        // Closing a client waits for its threads.
        if tokio::task::spawn_blocking(move || drop(client))
            .await
            .is_err()
        {
            tracing::debug!("closing the Kafka client broke off");
        }
    }
}

/// As in Spark's starting offsets.
const NEXT: i64 = -1;
/// As in Spark's starting offsets.
const OLDEST: i64 = -2;

fn explicit(
    given: &BTreeMap<String, BTreeMap<i32, i64>>,
    oldest: &Offsets,
    next: &Offsets,
) -> Result<Offsets, Failure> {
    let mut positions = next.clone();
    for (topic, partitions) in given {
        for (partition, offset) in partitions {
            let place = (topic.clone(), *partition);
            let (Some(oldest), Some(next)) = (oldest.get(&place), next.get(&place)) else {
                let message = format!(
                    "a starting offset is given for {topic}/{partition}, which is not among the partitions read"
                );
                return Err(user(
                    Failure::new(FailureKind::Io, message).with_code("kafka.starting_offsets"),
                ));
            };
            let offset = match *offset {
                OLDEST => oldest,
                NEXT => next,
                _ => offset,
            };
            if offset < oldest || offset > next {
                let message = format!(
                    "starting offset {offset} of {topic}/{partition} is not there; the broker has {oldest} to {next}"
                );
                return Err(user(
                    Failure::new(FailureKind::Io, message).with_code("kafka.starting_offsets"),
                ));
            }
            positions.insert(place, *offset);
        }
    }
    Ok(positions)
}

fn to_json<T: Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| {
        Failure::caused_by(
            FailureKind::Internal,
            "a Kafka position could not be written as JSON",
            &error,
        )
    })
}

fn to_value(offsets: &Offsets) -> Result<Value, Failure> {
    to_json(&LoggedOffsets::from(offsets))
}
