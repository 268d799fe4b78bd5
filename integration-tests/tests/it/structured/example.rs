//! The example `employees`, as its page runs it.

use millstream_integration_tests::cluster::Application;

use super::job::{Job, printed, wait_table};
use crate::own_job::example;

#[test]
fn the_example_updates_its_table_with_each_file_and_goes_on_from_its_checkpoint() {
    let job = Job::new();
    let checkpoint = job.checkpoint();
    let application = Application::new(example("employees"), checkpoint.parent().unwrap())
        .unwrap()
        .args([job.input().to_str().unwrap()])
        .args(["--checkpoint", checkpoint.to_str().unwrap()])
        .master("local[2]");
    let mut batches = 0;
    for _ in 0..2 {
        let cluster = application.start(0).unwrap();
        for _ in 0..2 {
            job.send(20);
            wait_table(&cluster, &job.expected());
        }
        let printed = printed(&cluster);
        assert_eq!(printed[0].batch, batches);
        batches += u64::try_from(printed.len()).unwrap();
        assert_eq!(cluster.stop().unwrap(), Some(0));
    }
}
