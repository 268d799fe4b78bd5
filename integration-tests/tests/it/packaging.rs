//! What is published can be packaged.

use std::process::Command;

use cargo_metadata::MetadataCommand;
use millstream_integration_tests::process::ChildProcess;

use crate::own_job::{BUILD, checkout};

#[test]
fn every_crate_can_be_packaged() {
    let metadata = MetadataCommand::new()
        .manifest_path(checkout().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    // `publish = false` is an empty list.
    let published = metadata.packages.iter();
    let published: Vec<_> = published
        .filter(|package| package.publish.is_none())
        .collect();
    assert!(published.len() >= 8, "only {} crates", published.len());

    let folder = tempfile::tempdir().unwrap();
    let mut package = Command::new(env!("CARGO"));
    package
        .current_dir(checkout())
        .env("CARGO_TARGET_DIR", folder.path())
        .args(["package", "--quiet", "--offline"])
        .args(["--no-verify", "--allow-dirty"]);
    for one in &published {
        package.args(["--package", one.name.as_str()]);
    }
    let process = ChildProcess::spawn("package", &package).unwrap();
    process.wait_success(BUILD).unwrap();

    for package in published {
        let name = &package.name;
        let file = format!("{name}-{}.crate", package.version);
        let packaged = folder.path().join("package").join(&file);
        assert!(packaged.exists(), "{file} was not made");
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{name}");
        assert!(package.description.is_some(), "{name} has no description");
        assert!(package.repository.is_some(), "{name} has no repository");
    }
}
