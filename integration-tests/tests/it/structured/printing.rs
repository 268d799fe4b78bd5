//! What queries print, on every master.

use millstream_integration_tests::process::Stream;

use super::job::{Job, counts, wait_printed, wait_table};

const FIRST: &str = "\
emp_id,emp_name,job_name,manager_id,salary,dept_name
68319,KAYLING,PRESIDENT,,6000.0,FINANCE
66928,BLAZE,MANAGER,68319,2750.0,MARKETING
67832,CLARE,MANAGER,68319,2550.0,FINANCE
65646,\"JONAS, \\\"JJ\\\"\",MANAGER,68319,2957.0,AUDIT
64989,ADELYN,,66928,1700.0,MARKETING
";

const SECOND: &str = "\
emp_id,emp_name,job_name,manager_id,salary,dept_name
65271,WADE,SALESMAN,66928,1350.0,MARKETING
66564,MADDEN,A JOB WITH A LONG NAME,66928,broken,MARKETING
68454,TUCKER,SALESMAN,66928,1600.0,MARKETING
";

const TABLE: &str = "\
-------------------------------------------
Batch: 1
-------------------------------------------
+--------------------+-----+
|            job_name|count|
+--------------------+-----+
";

fn complete(master: &str) {
    let job = Job::new();
    job.put("1.csv", FIRST);
    let application = job.application(&[]).master(master);
    let cluster = application.start(0).unwrap();
    let first = wait_printed(&cluster, 1);
    assert_eq!(first[0].batch, 0);
    let rows = [("MANAGER", 3), ("NULL", 1), ("PRESIDENT", 1)];
    let rows = rows.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counts(&first[0]), rows.into());
    // New groups, and one more row of one that is there.
    let another = "69000,MARKER,MANAGER,68319,2000.0,FINANCE\n";
    job.put("2.csv", &format!("{SECOND}{another}"));
    let both = wait_printed(&cluster, 2);
    assert_eq!(both[1].batch, 1);
    let text = cluster.driver.process.output().text(Stream::Out);
    assert!(text.contains(TABLE), "{text}");
    assert!(text.contains("|A JOB WITH A LONG...|    1|"), "{text}");
    assert!(text.contains("|            SALESMAN|    2|"), "{text}");
    assert!(text.contains("|             MANAGER|    4|"), "{text}");
    assert!(text.contains("|                NULL|    1|"), "{text}");
    assert_eq!(cluster.stop().unwrap(), Some(0));
}

#[test]
fn a_growing_table_in_one_process() {
    complete("local[2]");
}

#[test]
fn a_growing_table_over_processes() {
    complete("local-cluster[2,1]");
}

#[test]
fn updates_are_the_groups_that_changed() {
    let job = Job::new();
    job.put("1.csv", FIRST);
    // In one partition: what doesn't change is beside what does.
    let application = job
        .application(&["--output-mode", "update"])
        .conf("parallelism", 1)
        .master("local[2]");
    let cluster = application.start(0).unwrap();
    wait_printed(&cluster, 1);
    job.put(
        "2.csv",
        &FIRST
            .replace("MANAGER", "CLERK")
            .replace("PRESIDENT", "CLERK"),
    );
    let second = wait_printed(&cluster, 2).remove(1);
    let rows = [("CLERK", 4), ("NULL", 2)];
    assert_eq!(
        counts(&second),
        rows.map(|(name, count)| (name.to_owned(), count)).into()
    );
    assert_eq!(cluster.stop().unwrap(), Some(0));
}

#[test]
fn one_group_of_all_has_every_aggregate() {
    let job = Job::new();
    job.put("1.csv", FIRST);
    job.put("2.csv", SECOND);
    let application = job
        .application(&["--query", "whole", "--max-files", "1"])
        .master("local[2]");
    let cluster = application.start(0).unwrap();
    let printed = wait_printed(&cluster, 2).remove(1);
    assert_eq!(
        printed.rows,
        [
            ["rows", "salaries", "sum", "avg", "first", "last"],
            ["8", "7", "18907.0", "2701.0", "ADELYN", "68454"],
        ]
    );
    assert_eq!(cluster.stop().unwrap(), Some(0));
}

#[test]
fn rows_without_an_aggregate_are_appended() {
    let job = Job::new();
    job.put("1.csv", FIRST);
    let application = job
        .application(&["--query", "rows", "--output-mode", "append"])
        .master("local[2]");
    let cluster = application.start(0).unwrap();
    wait_printed(&cluster, 1);
    job.put("2.csv", SECOND);
    let second = wait_printed(&cluster, 2).remove(1);
    assert_eq!(
        second.rows,
        [
            ["emp_name", "salary"],
            ["WADE", "1350.0"],
            ["TUCKER", "1600.0"]
        ]
    );
    assert_eq!(cluster.stop().unwrap(), Some(0));
}

#[test]
fn what_streams_cannot_do_is_refused_with_the_rule() {
    let job = Job::new();
    let refused = |arguments: &[&str], rule: &str| {
        let application = job.application(arguments).master("local[1]");
        let driver = application.start_driver().unwrap();
        let status = driver.process.wait_exit(std::time::Duration::from_secs(60));
        assert_eq!(status.unwrap().code(), Some(2));
        let said = driver.process.output().text(Stream::Err);
        assert!(said.contains(rule), "{said}");
    };
    refused(
        &["--output-mode", "append"],
        "Append output mode not supported when there are streaming aggregations",
    );
    refused(
        &["--query", "rows"],
        "Complete output mode not supported when there are no streaming aggregations",
    );
}

#[test]
fn another_grouping_is_refused_with_the_difference_and_another_mode_of_executors_goes_on() {
    let job = Job::new();
    job.send(100);
    let application = job.application(&[]).master("local[2]");
    let cluster = application.start(0).unwrap();
    wait_table(&cluster, &job.expected());
    assert_eq!(cluster.stop().unwrap(), Some(0));

    let other = job
        .application(&["--query", "by-department"])
        .master("local[2]");
    let driver = other.start_driver().unwrap();
    let status = driver.process.wait_exit(std::time::Duration::from_secs(60));
    assert_eq!(status.unwrap().code(), Some(1));
    let said = driver.process.output().text(Stream::Err);
    assert!(said.contains("stateful operator aggregate-0"), "{said}");
    assert!(
        said.contains("job_name") && said.contains("dept_name"),
        "{said}"
    );

    job.send(100);
    let cluster = job
        .application(&[])
        .master("local-cluster[2,2]")
        .start(0)
        .unwrap();
    wait_table(&cluster, &job.expected());
    assert_eq!(cluster.stop().unwrap(), Some(0));
}
