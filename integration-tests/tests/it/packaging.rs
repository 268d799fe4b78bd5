//! What is published can be packaged.

use std::process::Command;

use cargo_metadata::MetadataCommand;
use millstream_integration_tests::process::ChildProcess;

use crate::own_job::{BUILD, checkout};

#[test]
fn every_crate_can_be_packaged() {
    let folder = tempfile::tempdir().unwrap();
    let mut package = Command::new(env!("CARGO"));
    package
        .current_dir(checkout())
        .env("CARGO_TARGET_DIR", folder.path())
        .args(["package", "--quiet", "--offline", "--workspace"])
        .args(["--no-verify", "--allow-dirty"]);
    let process = ChildProcess::spawn("package", &package).unwrap();
    process.wait_success(BUILD).unwrap();

    let metadata = MetadataCommand::new()
        .manifest_path(checkout().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let mut published = 0;
    for package in &metadata.packages {
        // `publish = false` is an empty list.
        if package.publish.is_some() {
            continue;
        }
        published += 1;
        let name = &package.name;
        let file = format!("{name}-{}.crate", package.version);
        let packaged = folder.path().join("package").join(&file);
        assert!(packaged.exists(), "{file} was not made");
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{name}");
        assert!(package.description.is_some(), "{name} has no description");
        assert!(package.repository.is_some(), "{name} has no repository");
    }
    assert!(published >= 8, "only {published} crates are published");
}
