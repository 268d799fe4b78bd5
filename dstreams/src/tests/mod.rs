//! Whole jobs, run batch by batch.

mod ending;
mod folders;
mod graph;
mod operators;
mod outputs;
mod panics;

use millstream_common::text::Text;

use crate::{
    StreamingContext,
    testing::{Runner, context, given},
};

pub(crate) fn lines(lines: &[&str]) -> Vec<Text> {
    lines.iter().map(|line| Text::from(*line)).collect()
}

/// The word count of the guide.
fn word_count(ssc: &StreamingContext, batches: Vec<Vec<Vec<Text>>>) {
    let lines = given(ssc, batches).map(|line| line.trim());
    let counts = lines
        .flat_map(|line| line.split(' '))
        .map(|word| (word, 1u64))
        .reduce_by_key(|a, b| a + b);
    counts.pprint();
}

#[test]
fn counts_words_and_prints_them() {
    let ssc = context(1);
    let first = vec![lines(&["to be or not", "to be"]), lines(&["that is"])];
    word_count(&ssc, vec![first, vec![]]);
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[2]).unwrap();
    let rule = "-------------------------------------------";
    let rows = "('to', 2)\n('be', 2)\n('or', 1)\n('not', 1)\n('that', 1)\n('is', 1)";
    assert_eq!(
        runner.printed.take(),
        format!("{rule}\nTime: 1970-01-01 00:00:00\n{rule}\n{rows}\n\n")
    );
    assert_eq!(runner.counts.input_rows, 3);
    assert_eq!(runner.counts.shuffle_rows_written, 6);
    runner.run(1, &[0]).unwrap();
    assert_eq!(
        runner.printed.take(),
        format!("{rule}\nTime: 1970-01-01 00:00:01\n{rule}\n\n")
    );
}
