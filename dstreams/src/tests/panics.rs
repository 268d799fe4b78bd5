//! A panic of a user function is a failure that names its operator.

use millstream_common::failure::{Failure, FailureKind};

use crate::{
    DStream,
    testing::{Runner, collected, context, given},
};

/// The failure of a job over the numbers 0 to 9, in two splits.
fn failure(job: impl FnOnce(&DStream<i64>) -> DStream<i64>) -> Failure {
    let ssc = context(2);
    let numbers = given(&ssc, vec![vec![(0..5).collect(), (5..10).collect()]]);
    collected(
        &job(&numbers.map(|n| n).named("first"))
            .map(|n| n)
            .named("last"),
    );
    let mut runner = Runner::new(&ssc).unwrap();
    let failure = runner.run(0, &[2]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::UserCode, "{failure}");
    assert!(failure.task.is_some());
    failure
}

fn named(job: impl FnOnce(&DStream<i64>) -> DStream<i64>) -> String {
    failure(job).operator.unwrap()
}

fn bad(n: i64) -> i64 {
    assert!(n != 7, "seven is bad");
    n
}

#[test]
fn panics_name_their_operator() {
    assert_eq!(named(|numbers| numbers.map(bad)), "map-0");
    assert_eq!(named(|numbers| numbers.filter(|n| bad(*n) > 0)), "filter-0");
    assert_eq!(
        named(|numbers| numbers.flat_map(|n| [bad(n)])),
        "flat_map-0"
    );
    assert_eq!(
        named(|numbers| numbers.flat_map(|n| (n..n + 2).map(bad))),
        "flat_map-0"
    );
    assert_eq!(
        named(|numbers| numbers.map_partitions(|rows| Box::new(rows.map(bad)))),
        "map_partitions-0"
    );
    assert_eq!(
        named(|numbers| numbers.map_partitions(|_| panic!("at once"))),
        "map_partitions-0"
    );
    assert_eq!(
        named(|numbers| numbers.reduce(|a, b| bad(a.max(b)))),
        "reduce-0"
    );
    let at_map = |numbers: &DStream<i64>| {
        numbers
            .map(|n| (n % 3, n))
            .reduce_by_key(|a, b| bad(a.max(b)))
            .values()
    };
    assert_eq!(named(at_map), "reduce_by_key-0");
    let at_reduce = |numbers: &DStream<i64>| {
        let pairs = numbers.filter(|n| n % 5 == 2).map(|n| (0u8, n));
        pairs.reduce_by_key(|a, b| bad(a.max(b))).values()
    };
    assert_eq!(named(at_reduce), "reduce_by_key-0");
    assert_eq!(
        named(|numbers| numbers.count().map(|_| panic!("counted"))),
        "map-0"
    );
}

#[test]
fn the_message_is_told() {
    let failure = failure(|numbers| numbers.map(bad));
    assert_eq!(failure.message, "a user function panicked: seven is bad");
}

#[test]
fn rows_that_cannot_be_keys_name_their_operator() {
    use std::collections::BTreeMap;
    let failure = failure(|numbers| {
        numbers
            .map(|n| (BTreeMap::from([(n, n)]), n))
            .group_by_key()
            .map(|(_, all)| all[0])
    });
    assert_eq!(failure.code, "task.codec");
    assert!(
        failure.message.contains("a map can't be part of a key"),
        "{failure}"
    );
    assert_eq!(failure.operator.as_deref(), Some("group_by_key-0"));
}
