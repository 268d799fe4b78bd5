use std::collections::BTreeSet;

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, Epoch},
};

use super::{
    super::{
        checkpoint::CheckpointError,
        entries::{self, Name},
        error::{QueryError, Stopped, StoreFailure},
        event::{Action, Event, Note, QueryNews},
    },
    sim::{Driver, INTERVAL, World, options},
};

fn start(world: &mut World, retained: u64) -> Driver {
    let mut driver = Driver::start(world, options(retained));
    driver.settle(world);
    assert!(driver.ended.is_none(), "{:?}", driver.ended);
    driver
}

/// Runs batches up to and including `last`, a number and a file each.
fn run_through(world: &mut World, driver: &mut Driver, last: u64) {
    while world.committed.len() as u64 <= last {
        world.numbers += 1;
        world.files += 1;
        world.advance(INTERVAL);
        driver.settle(world);
        assert!(driver.ended.is_none(), "{:?}", driver.ended);
    }
}

fn puts(name: Name) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::Put { name: put, .. } if *put == name.to_string())
}

fn no_landing() -> bool {
    false
}

fn is_superseded(driver: &Driver) -> bool {
    matches!(driver.ended, Some(Err(QueryError::Superseded { .. })))
}

#[test]
fn d1_pauses_after_offsets_30_d2_starts_reruns_and_commits_30_d1_wakes() {
    let mut world = World::new();
    let mut first = start(&mut world, 100);
    run_through(&mut world, &mut first, 29);
    world.numbers += 1;
    world.advance(INTERVAL);
    // The batch is logged and runs; D1 pauses before it hears of the end.
    assert!(first.settle_until(&mut world, |action| matches!(
        action,
        Action::OutputDone { .. }
    )));
    assert_eq!(world.logged.len(), 31);

    let mut second = start(&mut world, 100);
    assert_eq!(second.reruns, [BatchId(30)]);
    assert_eq!(world.committed[&BatchId(30)].author.epoch, Epoch(2));
    let published = world.published[&BatchId(30)].clone();

    first.settle(&mut world);
    assert!(is_superseded(&first), "{:?}", first.ended);
    assert_eq!(world.published[&BatchId(30)], published);
    assert!(!first.told.contains(&BatchId(30)));
    run_through(&mut world, &mut second, 32);
    world.everything_is_committed();
}

#[test]
fn d1_stops_before_commits_30_d2_purges_past_it_d1_wins_30_both_die_restart() {
    let mut world = World::new();
    let mut first = start(&mut world, 2);
    run_through(&mut world, &mut first, 29);
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(first.settle_until(&mut world, puts(Name::Commit(BatchId(30)))));

    let mut second = start(&mut world, 2);
    run_through(&mut world, &mut second, 40);
    let stray = Name::Commit(BatchId(30)).to_string();
    assert!(!world.entries.contains_key(&stray));

    // D1 wins the name, looks for a higher epoch, and stops before it publishes.
    let published = world.published[&BatchId(30)].clone();
    first.do_first(&mut world, puts(Name::Commit(BatchId(30))));
    assert!(world.entries.contains_key(&stray));
    first.settle(&mut world);
    assert!(is_superseded(&first));
    assert_eq!(world.published[&BatchId(30)], published);
    second.crash(&mut world, no_landing);

    let mut third = start(&mut world, 2);
    assert!(!world.entries.contains_key(&stray), "the stray is removed");
    assert!(third.reruns.is_empty());
    run_through(&mut world, &mut third, 42);
    world.everything_is_committed();
}

#[test]
fn d1_wins_commits_30_while_d2_reruns_it() {
    let mut world = World::new();
    let mut first = start(&mut world, 100);
    run_through(&mut world, &mut first, 29);
    world.numbers += 1;
    world.advance(INTERVAL);
    let commit = puts(Name::Commit(BatchId(30)));
    assert!(first.settle_until(&mut world, &commit));
    let mut second = Driver::start(&world, options(100));
    assert!(second.settle_until(&mut world, &commit));

    first.settle(&mut world);
    assert!(is_superseded(&first));
    assert!(!world.published.contains_key(&BatchId(30)));

    second.settle(&mut world);
    assert!(second.ended.is_none(), "{:?}", second.ended);
    assert_eq!(world.committed[&BatchId(30)].author.epoch, Epoch(1));
    assert!(
        world.published.contains_key(&BatchId(30)),
        "D2 publishes what D1 committed"
    );
    run_through(&mut world, &mut second, 31);
    world.everything_is_committed();
}

#[test]
fn a_hundred_and_fifty_one_file_batches_restart_no_file_is_read_twice() {
    let mut world = World::new();
    let mut first = start(&mut world, 100);
    run_through(&mut world, &mut first, 149);
    let kept = |world: &World, prefix: &str| {
        world
            .entries
            .keys()
            .filter(|name| name.starts_with(prefix))
            .count()
    };
    assert_eq!(
        kept(&world, "offsets/"),
        109,
        "150 less those up to 140 - 100"
    );
    assert_eq!(kept(&world, "sources/1/seen/"), 1);
    first.crash(&mut world, no_landing);

    let mut second = start(&mut world, 100);
    run_through(&mut world, &mut second, 150);
    assert_eq!(world.logged[&BatchId(150)].sources[1].splits.len(), 1);
    world.everything_is_committed();
}

#[test]
fn a_missing_seen_span_is_refused() {
    let mut world = World::new();
    let mut first = start(&mut world, 2);
    run_through(&mut world, &mut first, 20);
    first.crash(&mut world, no_landing);
    // The newest `seen` replaced by an older one: the files between are unknown.
    let newest = world
        .entries
        .keys()
        .rfind(|name| name.starts_with("sources/1/seen/"))
        .cloned()
        .expect("seen");
    world.entries.remove(&newest);
    let old = super::super::entries::SourceSeen {
        author: super::super::entries::Author {
            epoch: Epoch(1),
            nonce: "x".into(),
        },
        batch: BatchId(3),
        seen: serde_json::json!([0, 1, 2, 3]),
    };
    let name = Name::Seen(millstream_common::ids::SourceId(1), BatchId(3)).to_string();
    let bytes = super::super::entries::encode(&name, &old).expect("entry");
    world.entries.insert(name, bytes);
    let before = world.entries.clone();
    let mut second = Driver::start(&world, options(2));
    second.settle(&mut world);
    assert!(
        matches!(
            &second.ended,
            Some(Err(QueryError::Checkpoint(CheckpointError::Incomplete { missing, .. }))) if *missing == Name::Offsets(BatchId(4)).to_string()
        ),
        "{:?}",
        second.ended
    );
    assert_eq!(world.entries, before);
}

#[test]
fn first_start_at_latest_with_no_data_kill_records_arrive_restart_they_are_counted() {
    let mut world = World::new();
    world.numbers = 100;
    let first = start(&mut world, 100);
    first.crash(&mut world, no_landing);
    world.numbers = 150;
    let mut second = start(&mut world, 100);
    world.advance(INTERVAL);
    second.settle(&mut world);
    let splits = &world.logged[&BatchId(0)].sources[0].splits;
    assert_eq!(splits[0].split, serde_json::json!([100, 150]));
    world.everything_is_committed();
}

#[test]
fn a_kill_between_commit_and_publish_is_made_up_for() {
    let mut world = World::new();
    let mut first = start(&mut world, 100);
    run_through(&mut world, &mut first, 3);
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(first.settle_until(&mut world, |action| matches!(
        action,
        Action::Publish { .. }
    )));
    first.crash(&mut world, no_landing);
    assert!(!world.published.contains_key(&BatchId(4)));
    let second = start(&mut world, 100);
    assert!(world.published.contains_key(&BatchId(4)));
    assert!(second.reruns.is_empty());
    assert_eq!(second.told, [BatchId(4)]);
}

#[test]
fn batches_that_wait_keep_their_own_splits_and_the_bound_makes_planning_wait() {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    world.numbers += 1;
    world.advance(INTERVAL);
    let completes = |action: &Action| matches!(action, Action::Complete { .. });
    assert!(driver.settle_until(&mut world, completes));
    // The batch runs on and on, while others are planned.
    for _ in 0..5 {
        world.numbers += 1;
        world.advance(INTERVAL);
        // Not only when it wished to be woken: whatever else happens, nothing is planned while there is no room.
        let wall_millis = world.wall_millis;
        driver.tell(&world, Event::Timer { wall_millis });
        for source in 0..2 {
            driver.do_source(&world, source);
        }
        while !driver.replies.is_empty() {
            driver.hear(&world, 0);
        }
    }
    assert_eq!(world.logged.len(), 1);
    driver.settle(&mut world);
    let times: Vec<i64> = world
        .logged
        .values()
        .map(|entry| entry.batch_time.0)
        .collect();
    assert_eq!(times, [1_000, 2_000, 3_000, 4_000, 5_000, 6_000]);
    let ranges: Vec<String> = world
        .logged
        .values()
        .flat_map(|entry| &entry.sources[0].splits)
        .map(|split| split.split.to_string())
        .collect();
    // One runs and three wait with what their time brought; the fifth was planned when there was room, and took the rest.
    assert_eq!(ranges, ["[0,1]", "[1,2]", "[2,3]", "[3,4]", "[4,6]"]);
}

#[test]
fn batch_times_missed_while_down_are_not_run_one_by_one() {
    let mut world = World::new();
    let mut first = start(&mut world, 100);
    run_through(&mut world, &mut first, 1);
    first.crash(&mut world, no_landing);
    world.numbers += 5;
    world.advance(100 * INTERVAL);
    let mut second = start(&mut world, 100);
    run_through(&mut world, &mut second, 2);
    assert_eq!(world.logged.len(), 3);
    assert_eq!(world.logged[&BatchId(2)].batch_time.0, 103_000);
    assert_eq!(
        world.logged[&BatchId(2)].sources[0].splits[0].split,
        serde_json::json!([2, 8])
    );
}

#[test]
fn a_graceful_stop_finishes_what_is_planned_and_an_immediate_one_says_what_is_left() {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    let complete = |action: &Action| matches!(action, Action::Complete { .. });
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(driver.settle_until(&mut world, complete));
    driver.tell(&world, Event::Stop { graceful: true });
    driver.settle(&mut world);
    assert_eq!(driver.ended, Some(Ok(Default::default())));
    world.everything_is_committed();

    let mut driver = start(&mut world, 100);
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(driver.settle_until(&mut world, complete));
    driver.tell(&world, Event::Stop { graceful: false });
    let Some(Ok(stopped)) = &driver.ended else {
        panic!("{:?}", driver.ended);
    };
    assert_eq!(stopped.unfinished, Some(BatchId(1)));
}

/// What a stop at once leaves when the first batch has come so far.
fn left_at(step: impl Fn(&Action) -> bool) -> Stopped {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(driver.settle_until(&mut world, step));
    driver.tell(&world, Event::Stop { graceful: false });
    match driver.ended {
        Some(Ok(stopped)) => stopped,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stop_at_once_tells_batches_that_were_dropped_begun_and_not_published_apart() {
    let clean = Stopped::default();
    assert!(clean.is_clean());
    let dropped = Stopped {
        dropped: 1,
        ..clean.clone()
    };
    let unfinished = Stopped {
        unfinished: Some(BatchId(0)),
        ..clean.clone()
    };
    let unpublished = Stopped {
        unpublished: Some(BatchId(0)),
        ..clean
    };
    assert_eq!(left_at(puts(Name::Offsets(BatchId(0)))), dropped);
    assert_eq!(left_at(puts(Name::Commit(BatchId(0)))), unfinished);
    let publishes = |action: &Action| matches!(action, Action::Publish { .. });
    assert_eq!(left_at(publishes), unpublished);
    for left in [dropped, unfinished, unpublished] {
        assert!(!left.is_clean());
    }
}

#[test]
fn a_batch_that_runs_again_spills_where_it_did_when_it_was_logged() {
    let with_threshold = |text: &str| {
        let mut options = options(100);
        let logged = ("memory.spill_threshold".to_owned(), text.to_owned());
        // Of another release.
        let other = ("input.on_malformed".to_owned(), "drop".to_owned());
        options.affecting = [logged, other].into();
        options
    };
    let mut world = World::new();
    let mut first = Driver::start(&world, with_threshold("1MiB"));
    first.settle(&mut world);
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(first.settle_until(&mut world, puts(Name::Commit(BatchId(0)))));
    assert_eq!(first.spill_thresholds, [(BatchId(0), None)]);
    first.crash(&mut world, no_landing);

    let mut second = Driver::start(&world, with_threshold("2MiB"));
    second.settle(&mut world);
    run_through(&mut world, &mut second, 1);
    let wanted = [(BatchId(0), Some(1 << 20)), (BatchId(1), None)];
    assert_eq!(second.spill_thresholds, wanted);
}

#[test]
fn a_failed_batch_stays_uncommitted_and_runs_again_with_its_splits() {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    world.numbers += 1;
    world.advance(INTERVAL);
    assert!(driver.settle_until(&mut world, |action| matches!(
        action,
        Action::Complete { .. }
    )));
    let failure = Failure::new(FailureKind::UserCode, "no");
    let batch = BatchId(0);
    driver.tell(
        &world,
        Event::News(QueryNews::BatchFailed { batch, failure }),
    );
    assert!(matches!(driver.ended, Some(Err(QueryError::Batch { .. }))));
    world.numbers += 7;
    let second = start(&mut world, 100);
    assert_eq!(second.reruns, [batch]);
    assert_eq!(
        world.logged[&batch].sources[0].splits[0].split,
        serde_json::json!([0, 1])
    );
    assert!(world.committed.contains_key(&batch));
}

#[test]
fn a_look_that_does_not_work_holds_publishing_back_and_is_tried_again() {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    world.numbers += 1;
    world.advance(INTERVAL);
    let list = |action: &Action| matches!(action, Action::ListEpochs { .. });
    // The look of the passing second, then that of the batch.
    while world.committed.is_empty() {
        assert!(
            driver.settle_until(&mut world, puts(Name::Commit(BatchId(0))))
                || driver.todo.is_empty()
        );
        driver.settle_until(&mut world, |action| {
            list(action) || puts(Name::Commit(BatchId(1)))(action)
        });
        if world.committed.is_empty() {
            driver.do_one(&mut world, 0);
        }
    }
    assert!(driver.settle_until(&mut world, list));
    driver.todo.clear();
    let life = super::super::event::Life(0);
    let failure = StoreFailure {
        what: "list epochs".into(),
        reason: "timed out".into(),
    };
    driver.tell(
        &world,
        Event::Epochs {
            life,
            highest: Err(failure),
        },
    );
    driver.settle(&mut world);
    assert!(world.published.is_empty() && driver.ended.is_none());
    world.advance(INTERVAL);
    driver.settle(&mut world);
    assert!(world.published.contains_key(&BatchId(0)));
}

#[test]
fn damaged_checkpoints_are_refused_naming_the_file_and_left_alone() {
    let mut world = World::new();
    let mut first = start(&mut world, 100);
    run_through(&mut world, &mut first, 5);
    first.crash(&mut world, no_landing);
    let sound = world.entries.clone();
    let names: BTreeSet<String> = sound
        .keys()
        .filter(|name| !name.starts_with("epochs/"))
        .cloned()
        .collect();
    for name in names {
        let whole = sound[&name].clone();
        let mut flipped = whole.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for damaged in [
            whole.slice(..whole.len() - 5),
            Bytes::from(flipped),
            Bytes::new(),
        ] {
            world.entries.insert(name.clone(), damaged);
            refused(&mut world, &name);
        }
        world.entries.insert(name, whole);
    }
    for name in [
        Name::Metadata,
        Name::Offsets(BatchId(5)),
        Name::Commit(BatchId(4)),
        Name::Start(millstream_common::ids::SourceId(0)),
    ] {
        let name = name.to_string();
        let whole = world.entries.remove(&name).expect("there");
        if name == Name::Commit(BatchId(4)).to_string() {
            let newest = Name::Commit(BatchId(5)).to_string();
            let newest_bytes = world.entries.remove(&newest).expect("there");
            refused(&mut world, &name);
            world.entries.insert(newest, newest_bytes);
        } else {
            refused(&mut world, &name);
        }
        world.entries.insert(name, whole);
    }
    let mut changed = options(100);
    changed.fingerprint.batch_interval_millis = 5_000;
    let mut other = Driver::start(&world, changed);
    other.settle(&mut world);
    assert!(
        matches!(&other.ended, Some(Err(QueryError::Checkpoint(CheckpointError::OtherApplication { differences }))) if differences == &["batch interval: was 1000 ms, is 5000 ms"])
    );
    assert_eq!(world.entries, sound);
    start(&mut world, 100);
}

#[test]
fn a_claim_that_no_driver_made_is_told_as_an_altered_checkpoint() {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    run_through(&mut world, &mut driver, 2);
    let claim = Name::Epoch(Epoch(u64::MAX));
    let listed = Event::Epochs {
        life: super::super::event::Life(0),
        highest: Ok(Epoch(u64::MAX)),
    };
    driver.tell(&world, listed);
    let Some(Err(QueryError::Checkpoint(error))) = &driver.ended else {
        panic!("{:?}", driver.ended);
    };
    assert!(error.to_string().contains(&claim.to_string()), "{error}");
    assert!(error.to_string().contains("altered"), "{error}");
    for highest in [Epoch(u64::MAX), Epoch(entries::HIGHEST_EPOCH.0 + 1)] {
        let stray = Name::Epoch(highest).to_string();
        world.entries.insert(stray.clone(), Bytes::new());
        refused(&mut world, &stray);
        world.entries.remove(&stray);
    }
    let mut next = start(&mut world, 100);
    run_through(&mut world, &mut next, 4);
    world.everything_is_committed();
}

fn refused(world: &mut World, name: &str) {
    let before = world.entries.clone();
    let mut driver = Driver::start(world, options(100));
    driver.settle(world);
    let Some(Err(QueryError::Checkpoint(error))) = &driver.ended else {
        panic!("{name}: {:?}", driver.ended);
    };
    assert!(error.to_string().contains(name), "{name}: {error}");
    assert_eq!(world.entries, before);
}

#[test]
fn a_source_is_noted_once_an_episode_and_asked_at_growing_pauses() {
    let mut world = World::new();
    let mut driver = start(&mut world, 100);
    let life = super::super::event::Life(0);
    let away = |source| Event::Planned {
        life,
        batch: BatchId(0),
        source: millstream_common::ids::SourceId(source),
        result: Err(Failure::new(FailureKind::Io, "away")),
    };
    world.advance(INTERVAL);
    driver.fire_timer(&world);
    let mut notes = 0;
    let mut asked = 0;
    for _ in 0..100 {
        let actions = driver.core.handle(world.tick, away(0));
        notes += actions
            .iter()
            .filter(|action| matches!(action, Action::Noted(Note::SourceWaits { .. })))
            .count();
        // A second passes at a time; the pause grows to ten.
        for _ in 0..10 {
            world.advance(INTERVAL);
            let wall_millis = world.wall_millis;
            let actions = driver.core.handle(world.tick, Event::Timer { wall_millis });
            asked += actions
                .iter()
                .filter(|action| matches!(action, Action::Plan { .. }))
                .count();
        }
    }
    assert_eq!(notes, 1);
    assert_eq!(asked, 100);
    let failure = Failure::new(FailureKind::DataLoss, "offsets are gone");
    let never = Event::Planned {
        life,
        batch: BatchId(0),
        source: millstream_common::ids::SourceId(0),
        result: Err(failure),
    };
    driver.tell(&world, never);
    assert!(matches!(driver.ended, Some(Err(QueryError::Source { .. }))));
}
