//! What graphs are compiled to, and what is refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use millstream_common::ids::{SourceId, StageId};
use millstream_dataflow::plan::{Branch, Exchange, ExchangeRef};

use super::{lines, word_count};
use crate::{
    CompileOptions, Error, Side, StreamingContext,
    testing::{Runner, collected, context, given},
};

fn refused(ssc: &StreamingContext) -> Error {
    match ssc.compile(&CompileOptions::default()) {
        Ok(_) => panic!("should be refused"),
        Err(error) => error,
    }
}

fn reads(stage: u32) -> Branch {
    Branch::Exchanges(vec![ExchangeRef {
        stage: StageId(stage),
        exchange: 0,
    }])
}

#[test]
fn two_outputs_of_one_place_are_refused() {
    let saved = |first: &str, second: &str, suffix: &str| {
        let ssc = context(1);
        let numbers = given(&ssc, vec![vec![vec![1i64]]]);
        numbers.save_as_text_files(first).unwrap().named("first");
        let second = numbers.save_as_text_files_with(second, suffix).unwrap();
        second.named("second");
        ssc
    };
    let here = std::env::current_dir().unwrap();
    let whole = here.join("out/x").display().to_string();
    for second in ["out/x", "./out/x", "out//x", whole.as_str()] {
        let error = refused(&saved("out/x", second, ""));
        assert_eq!(
            error,
            Error::DuplicatePlace {
                first: "first".into(),
                second: "second".into(),
                place: whole.clone(),
            }
        );
        assert_eq!(error.code(), "files.duplicate_place");
    }
    for (second, suffix) in [("out/y", ""), ("out/x", "txt"), ("x", "")] {
        let compiled = saved("out/x", second, suffix).compile(&CompileOptions::default());
        assert!(compiled.is_ok(), "{second} {suffix}");
    }
}

#[test]
fn a_word_count_has_two_stages() {
    let ssc = context(4);
    word_count(&ssc, vec![]);
    let plan = ssc.compile(&CompileOptions::default()).unwrap().plan;
    assert_eq!(plan.sources[0].id, "given-0");
    assert_eq!(plan.outputs[0].id, "pprint-0");
    assert_eq!(plan.outputs[0].stage, StageId(1));
    let [map, reduce] = plan.stages.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        map.name,
        "given-0 → map-0 → flat_map-0 → map-1 → reduce_by_key-0"
    );
    assert_eq!(map.branches, [Branch::Source(SourceId(0))]);
    assert_eq!(map.exchanges, [Exchange::Hash(4)]);
    assert_eq!(reduce.branches, [reads(0)]);
    assert_eq!(reduce.operators, ["reduce_by_key-0", "pprint-0"]);
    assert!(reduce.exchanges.is_empty() && reduce.empty_to_empty && reduce.speculative);
}

#[test]
fn both_sides_make_the_same_graph() {
    let fingerprint = |side| {
        let application = millstream_common::protocol::Application {
            name: "a".into(),
            arguments: serde_json::Value::Null,
            configuration: Default::default(),
            parallelism: 3,
            batch_interval_millis: 1,
            build_id: String::new(),
            recorded: Default::default(),
        };
        let ssc = StreamingContext::new(application, side);
        word_count(&ssc, vec![]);
        ssc.compile(&CompileOptions::default())
            .unwrap()
            .programs
            .plan()
            .session_fingerprint("b")
    };
    assert_eq!(fingerprint(Side::Driver), fingerprint(Side::Executor));
}

#[test]
fn a_stream_with_two_users_is_computed_once() {
    let calls = Arc::new(AtomicU64::new(0));
    let counting = calls.clone();
    let ssc = context(2);
    let shared = given(&ssc, vec![vec![vec![1i64, 2, 3], vec![4]]]).map(move |n| {
        counting.fetch_add(1, Ordering::Relaxed);
        n
    });
    let sum = collected(&shared.reduce(|a, b| a + b));
    let doubled = collected(&shared.union(&shared));
    let count = collected(&shared.count());
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[2]).unwrap();
    assert_eq!(*sum.lock(), [[10]]);
    assert_eq!(*doubled.lock(), [[1, 2, 3, 4, 1, 2, 3, 4]]);
    assert_eq!(*count.lock(), [[4]]);
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    assert_eq!(runner.job.plan.stages[0].exchanges, [Exchange::Keep]);
    assert_eq!(runner.counts.input_rows, 4);
}

#[test]
fn ids_are_kinds_and_ordinals_or_the_users_names() {
    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![vec![1i64]]]).named("numbers");
    let named = numbers.map(|n| n + 1).named("plus one");
    let last = named.map(|n| n * 2);
    last.print().named("shown");
    last.print();
    let plan = ssc.compile(&CompileOptions::default()).unwrap().plan;
    assert_eq!(plan.sources[0].id, "numbers");
    assert_eq!(plan.stages[0].operators, ["plus one", "map-0"]);
    let outputs: Vec<&str> = plan
        .outputs
        .iter()
        .map(|output| output.id.as_str())
        .collect();
    assert_eq!(outputs, ["shown", "print-0"]);
}

#[test]
fn only_what_outputs_need_is_computed() {
    let ssc = context(1);
    let used = given(&ssc, vec![vec![vec![1i64]]]);
    let unused = given(&ssc, vec![vec![vec![1i64]]]).map(|n| n);
    used.union(&unused).count();
    // One user: the unused union is none.
    used.print();
    let plan = ssc.compile(&CompileOptions::default()).unwrap().plan;
    assert_eq!(plan.sources.len(), 1);
    assert_eq!(plan.stages.len(), 1);
}

#[test]
fn what_runs_without_rows_says_so() {
    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![]]);
    collected::<u64>(&numbers.count());
    numbers.repartition(1).glom().print();
    numbers.map(|n: i64| n).for_each_partition(|_| ());
    let plan = ssc.compile(&CompileOptions::default()).unwrap().plan;
    let of = |output: usize| plan.stage(plan.outputs[output].stage).unwrap();
    assert!((0..3).all(|output| !of(output).empty_to_empty));
    assert!(of(0).speculative && !of(2).speculative);
    let empty = context(1);
    let counts = collected(&given::<i64>(&empty, vec![vec![]]).count());
    let reduced = collected(&given::<i64>(&empty, vec![vec![]]).reduce(|a, b| a + b));
    let mut runner = Runner::new(&empty).unwrap();
    runner.run(0, &[0, 0]).unwrap();
    assert_eq!(*counts.lock(), [[0]]);
    assert_eq!(*reduced.lock(), [Vec::<i64>::new()]);
}

#[test]
fn graphs_that_cannot_run_are_refused() {
    let ssc = context(1);
    given(&ssc, vec![vec![vec![1i64]]]).count();
    assert_eq!(refused(&ssc), Error::NoOutputs);
    assert!(
        Error::NoOutputs
            .to_string()
            .starts_with("no output operations registered, so nothing to execute")
    );

    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![vec![1i64]]]);
    numbers.map(|n| n).named("x").print().named("x");
    assert_eq!(refused(&ssc), Error::DuplicateName { id: "x".into() });

    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![vec![1i64]]]);
    numbers
        .union(&given(&context(1), vec![vec![vec![1i64]]]))
        .print();
    assert!(matches!(refused(&ssc), Error::OtherContext { .. }));

    for partitions in [0, 4097] {
        let ssc = context(1);
        given(&ssc, vec![vec![vec![1i64]]])
            .repartition(partitions)
            .print();
        assert_eq!(
            refused(&ssc),
            Error::Partitions {
                operator: "repartition".into(),
                count: partitions
            }
        );
    }

    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![vec![1i64]]]);
    numbers.print();
    ssc.compile(&CompileOptions::default()).unwrap();
    numbers.print();
    assert_eq!(
        refused(&ssc),
        Error::Started {
            operator: "print".into()
        }
    );
}

#[test]
fn reads_through_the_context_are_the_drivers() {
    let driver = context(1);
    let read =
        |ssc: &StreamingContext, value: u32| ssc.record("threshold", || Ok::<u32, Error>(value));
    assert_eq!(read(&driver, 7), Ok(7));
    assert_eq!(read(&driver, 8), Ok(7));
    let mut application = millstream_common::protocol::Application {
        name: "a".into(),
        arguments: serde_json::json!({"topic": "lines"}),
        configuration: Default::default(),
        parallelism: 1,
        batch_interval_millis: 1000,
        build_id: String::new(),
        recorded: driver.recorded(),
    };
    let executor = StreamingContext::new(application.clone(), Side::Executor);
    assert_eq!(read(&executor, 9), Ok(7));
    let arguments: std::collections::BTreeMap<String, String> = executor.arguments().unwrap();
    assert_eq!(arguments["topic"], "lines");
    assert!(matches!(
        executor.arguments::<u32>(),
        Err(Error::Arguments { .. })
    ));
    application.recorded.clear();
    let executor = StreamingContext::new(application, Side::Executor);
    assert_eq!(
        read(&executor, 9),
        Err(Error::NotRecorded {
            name: "threshold".into()
        })
    );
}

#[test]
fn a_transform_sees_the_plan_once() {
    let ssc = context(2);
    let mut calls = 0;
    let words = given(
        &ssc,
        vec![vec![lines(&["b", "a", "b"])], vec![lines(&["c"])]],
    );
    let counts = words.transform(|batch| {
        calls += 1;
        batch.count_by_value().filter(|(_, count)| *count > 1)
    });
    let made = collected(&counts);
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[1]).unwrap();
    runner.run(1, &[1]).unwrap();
    assert_eq!(calls, 1);
    assert_eq!(*made.lock(), [vec![("b".into(), 2)], vec![]]);
}
