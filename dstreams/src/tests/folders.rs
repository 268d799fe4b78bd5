//! Where relative paths are.

use std::{
    env,
    process::{Command, Stdio},
};

use millstream_common::log_store;

use crate::{StreamingContext, recorded::Recorded};

const GONE: &str = "MILLSTREAM_TEST_IN_A_FOLDER_THAT_IS_GONE";

/// The working folder is the whole process's: the test runs again in one of its own.
#[test]
fn a_working_folder_that_is_gone_is_named() {
    if env::var_os(GONE).is_some() {
        return say_what_fails();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let gone = folder.path().join("gone-since");
    std::fs::create_dir(&gone).expect("a folder");
    let this = "tests::folders::a_working_folder_that_is_gone_is_named";
    let child = Command::new("sh")
        .args(["-c", r#"cd "$0" && rmdir "$0" && exec "$@""#])
        .arg(&gone)
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", this, "--nocapture"])
        .env(GONE, "yes")
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    let failed: Vec<&str> = said
        .lines()
        .filter(|it| it.starts_with("FAILED "))
        .collect();
    assert_eq!(failed.len(), 3, "{said}");
    let gone = gone.to_str().expect("text");
    assert!(failed.iter().all(|it| it.contains(gone)), "{said}");
}

fn say_what_fails() {
    // Behind what the test harness says of the test.
    println!();
    let folder = Recorded::default().working_folder();
    println!("FAILED {}", folder.expect_err("it is gone"));
    let location = log_store::parse_location("checkpoint");
    println!("FAILED {}", location.expect_err("it is below it"));
    let building = StreamingContext::builder().checkpoint("checkpoint").build();
    println!("FAILED {}", building.err().expect("it is below it"));
}
