//! The driver half: partitions, starting points, ranges, group offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use millstream_common::failure::{Fault, Retry};
use millstream_connectors::kafka::{Settings, StartingOffsets, Subscription};
use millstream_integration_tests::kafka::KafkaBroker;
use millstream_integration_tests::process::unique_marker;
use millstream_integration_tests::wait::wait_until;
use serde_json::json;

use super::fixture::{SOON, Source, of_topic, range, ranges, settings, texts};

#[test]
fn a_query_starts_where_it_was_told_to() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("start", 2).unwrap();
    kafka.produce_lines(&topic, 0, ["a", "b", "c"]).unwrap();
    kafka.produce_lines(&topic, 1, ["d", "e"]).unwrap();

    let start = |starting_offsets: StartingOffsets| {
        let mut settings = of_topic(kafka, &topic);
        settings.starting_offsets = starting_offsets;
        let mut source = Source::with(settings);
        let position = source.start()?;
        Ok::<_, millstream_common::failure::Failure>((source, position))
    };
    let (mut earliest, position) = start(StartingOffsets::Earliest).unwrap();
    assert_eq!(position, json!({ &topic: { "0": 0, "1": 0 } }));
    assert_eq!(texts(&earliest.read_rows(5)), ["a", "b", "c", "d", "e"]);

    let (mut latest, position) = start(StartingOffsets::Latest).unwrap();
    assert_eq!(position, json!({ &topic: { "0": 3, "1": 2 } }));
    assert!(latest.plan().unwrap().splits.is_empty());

    let explicit = |partition, offset| {
        let partitions = BTreeMap::from([(partition, offset)]);
        StartingOffsets::Explicit(BTreeMap::from([(topic.clone(), partitions)]))
    };
    let (_, position) = start(explicit(0, 1)).unwrap();
    assert_eq!(position, json!({ &topic: { "0": 1, "1": 2 } }));
    let (_, position) = start(explicit(1, -2)).unwrap();
    assert_eq!(position, json!({ &topic: { "0": 3, "1": 0 } }));
    let refused = start(explicit(0, 4)).map(|_| ()).unwrap_err();
    assert!(
        refused.message.contains("the broker has 0 to 3"),
        "{refused}"
    );
    assert_eq!((refused.fault, refused.retry), (Fault::User, Retry::Never));
    let refused = start(explicit(7, 0)).map(|_| ()).unwrap_err();
    assert!(
        refused.message.contains("not among the partitions"),
        "{refused}"
    );

    kafka.produce_lines(&topic, 1, ["f"]).unwrap();
    assert_eq!(texts(&latest.read_rows(1)), ["f"]);
}

#[test]
fn a_restart_goes_on_from_the_log() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("restart", 1).unwrap();
    let mut first = Source::with(of_topic(kafka, &topic));
    let start = first.start().unwrap();
    kafka
        .produce_lines(&topic, 0, ["a", "b", "c", "d", "e"])
        .unwrap();
    let planned = first.plan_at_most(Some(2)).unwrap();
    assert_eq!(ranges(&planned), [range(&topic, 0, 0, 2)]);
    drop(first);

    let mut from_start = Source::with(of_topic(kafka, &topic));
    from_start.restore(start.clone(), &[]);
    assert_eq!(texts(&from_start.read_rows(5)), ["a", "b", "c", "d", "e"]);
    let mut from_log = Source::with(of_topic(kafka, &topic));
    from_log.restore(start, &[planned]);
    assert_eq!(texts(&from_log.read_rows(3)), ["c", "d", "e"]);
}

#[test]
fn topics_and_partitions_that_come_later_are_read_from_their_beginning() {
    let kafka = KafkaBroker::shared().client();
    let prefix = format!("later-{}", unique_marker());
    let name = |suffix: &str| format!("{prefix}-{suffix}");
    kafka.create_topic(&name("a"), 1).unwrap();
    kafka.create_topic(&format!("not-{prefix}-a"), 1).unwrap();
    kafka
        .produce_lines(&name("a"), 0, ["before the start"])
        .unwrap();
    let pattern = Subscription::Pattern(format!("{prefix}-.*"));
    let mut given = settings(kafka, pattern);
    given.starting_offsets = StartingOffsets::Latest;
    let mut source = Source::with(given);
    let position = source.start().unwrap();
    assert_eq!(position, json!({ name("a"): { "0": 1 } }));

    kafka.create_topic(&name("b"), 1).unwrap();
    kafka.produce_lines(&name("b"), 0, ["new topic"]).unwrap();
    assert_eq!(texts(&source.read_rows(1)), ["new topic"]);
    kafka.add_partitions(&name("a"), 3).unwrap();
    kafka
        .produce_lines(&name("a"), 2, ["new partition"])
        .unwrap();
    kafka
        .produce_lines(&name("a"), 0, ["old partition"])
        .unwrap();
    let rows: BTreeSet<String> = texts(&source.read_rows(2)).into_iter().collect();
    let expected = ["new partition", "old partition"].map(str::to_owned);
    assert_eq!(rows, BTreeSet::from(expected));
}

#[test]
fn two_topics_and_chosen_partitions() {
    let kafka = KafkaBroker::shared().client();
    let one = kafka.unique_topic("one", 2).unwrap();
    let two = kafka.unique_topic("two", 1).unwrap();
    kafka.produce_lines(&one, 0, ["one/0"]).unwrap();
    kafka.produce_lines(&one, 1, ["one/1"]).unwrap();
    kafka.produce_lines(&two, 0, ["two/0"]).unwrap();
    let topics = Subscription::Topics(vec![one.clone(), two.clone()]);
    let mut both = Source::with(settings(kafka, topics));
    both.start().unwrap();
    let planned = both.plan().unwrap();
    let localities: Vec<String> = planned
        .splits
        .iter()
        .filter_map(|s| s.locality.clone())
        .collect();
    assert_eq!(
        localities,
        [format!("{one}/0"), format!("{one}/1"), format!("{two}/0")]
    );
    let rows: Vec<_> = ranges(&planned)
        .iter()
        .flat_map(|range| both.read(range).unwrap())
        .collect();
    assert_eq!(texts(&rows), ["one/0", "one/1", "two/0"]);
    assert_eq!(rows[2].topic, two.as_str());

    let chosen = Subscription::Assign(vec![(one.clone(), 1)]);
    let mut assigned = Source::with(settings(kafka, chosen));
    assigned.start().unwrap();
    assert_eq!(texts(&assigned.read_rows(1)), ["one/1"]);
}

#[test]
fn what_is_not_there_is_named_with_the_way_out() {
    let kafka = KafkaBroker::shared().client();
    let unknown = format!("unknown-{}", unique_marker());
    let failure = Source::with(of_topic(kafka, &unknown)).start().unwrap_err();
    assert_eq!(failure.code, "kafka.unknown_topic");
    assert!(failure.message.contains(&unknown) && failure.message.contains("--create"));
    let topic = kafka.unique_topic("few-partitions", 1).unwrap();
    let chosen = Subscription::Assign(vec![(topic.clone(), 4)]);
    let failure = Source::with(settings(kafka, chosen)).start().unwrap_err();
    assert!(
        failure
            .message
            .contains(&format!("topic {topic} has no partition 4")),
        "{failure}"
    );

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = held.local_addr().unwrap().to_string();
    drop(held);
    let mut settings = Settings::new(&nobody, Subscription::Topics(vec![topic]));
    settings.plan_timeout = Duration::from_millis(500);
    let failure = Source::with(settings).start().unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.retry),
        ("kafka.no_broker", Retry::Backoff)
    );
    assert!(
        failure.message.contains(&format!("kcat -L -b {nobody}")),
        "{failure}"
    );
}

#[test]
fn progress_is_committed_for_lag_tools() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("group", 2).unwrap();
    kafka
        .produce_lines(&topic, 1, ["a", "b", "c", "d", "e"])
        .unwrap();
    let mut settings = of_topic(kafka, &topic);
    settings.group = format!("group-{}", unique_marker());
    settings.max_rate_per_partition = Some(3);
    let group = settings.group.clone();
    let mut source = Source::with(settings);
    source.start().unwrap();
    let planned = source.plan().unwrap();
    assert_eq!(ranges(&planned), [range(&topic, 1, 0, 3)]);
    use millstream_connectors::source::SourceDriver;
    let lag = |source: &Source| BTreeMap::from_iter(source.driver.lag());
    assert_eq!(lag(&source)[&format!("{topic}/1")], 5);
    source.committed(&planned).unwrap();
    source.committed(&planned).unwrap();
    assert_eq!(lag(&source)[&format!("{topic}/1")], 2);
    let expected = BTreeMap::from([(0, 0), (1, 3)]);
    wait_until(SOON, "the group's offsets", || {
        kafka.committed_offsets(&group, &topic).unwrap() == expected
    })
    .unwrap();
}
